//! What the host has mounted, from `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// File systems that show the kernel and hold no files of their own.
const PSEUDO: [&str; 20] = [
    "autofs",
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "securityfs",
    "sysfs",
    "tracefs",
];

/// File systems that serve as the lower layer of an overlay. Others are bound read-only.
const LOWER: [&str; 13] = [
    "bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "jfs", "squashfs", "tmpfs", "xfs", "zfs",
    "nilfs2",
];

/// A mount of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Type of its file system.
    pub kind: String,
}

impl Mount {
    /// It shows the kernel, and every context has its own.
    #[must_use]
    pub fn is_pseudo(&self) -> bool {
        PSEUDO.contains(&self.kind.as_str())
    }

    /// It can be the lower layer of an overlay.
    #[must_use]
    pub fn is_lower(&self) -> bool {
        LOWER.contains(&self.kind.as_str())
    }
}

/// All mounts of this process, those above before those below; of several at one place the one on top.
///
/// # Errors
///
/// procfs cannot be read.
pub fn all() -> Result<Vec<Mount>, Error> {
    let path = Path::new("/proc/self/mountinfo");
    let text = std::fs::read(path).map_err(|source| Error::Look { path: path.into(), source })?;
    Ok(parse(&text))
}

/// One of the mounts strictly below a folder.
#[must_use]
pub fn below<'a>(mounts: &'a [Mount], folder: &Path) -> Option<&'a Mount> {
    mounts.iter().find(|mount| mount.point != folder && mount.point.starts_with(folder))
}

/// The same from the text. Lines that are no mounts are passed over.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in text.split(|&byte| byte == b'\n').filter_map(line) {
        mounts.retain(|before| before.point != mount.point);
        mounts.push(mount);
    }
    mounts.sort_by_key(|mount| mount.point.components().count());
    mounts
}

/// `id parent major:minor root POINT options [tags] - KIND source options`
fn line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let point = PathBuf::from(OsString::from_vec(unescape(fields.nth(4)?)));
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(Mount { point, kind: String::from_utf8_lossy(kind).into_owned() })
}

/// Blanks, tabs, newlines and backslashes are written as three octal digits.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match code {
            Some(code) => (plain.push(code), rest = &tail[3..]).1,
            None => (plain.push(first), rest = tail).1,
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_of_two_mounts_counts_and_parents_come_first() {
        let text = b"30 27 0:1 / /a/b\\040c rw shared:1 master:2 - ext4 /dev/x rw\n\
            27 1 0:2 / / rw - ext4 /dev/y rw\n31 30 0:3 / /a/b\\040c rw - tmpfs t rw\n";
        let mounts = parse(text);
        let points: Vec<_> =
            mounts.iter().map(|mount| (mount.point.to_str().unwrap(), &*mount.kind)).collect();
        assert_eq!(points, [("/", "ext4"), ("/a/b c", "tmpfs")]);
        assert_eq!(below(&mounts, Path::new("/a")).unwrap().point, Path::new("/a/b c"));
        assert!(below(&mounts, Path::new("/a/b c")).is_none());
        assert!(below(&mounts, Path::new("/a/b")).is_none());
    }
}
