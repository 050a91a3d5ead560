//! What trees take on disk: each file once, however many names it has.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, openat, statat};

use crate::inside::FOLDER;
use crate::transfer::DEPTH;

/// What trees take, in bytes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All of it, a file with several names once.
    pub own: u64,
    /// Files and folders.
    pub entries: u64,
}

/// Looks through folders of the store. What vanishes or may not be read meanwhile counts for nothing.
#[must_use]
pub fn of(folders: &[PathBuf]) -> Usage {
    let mut look = Look::default();
    for folder in folders {
        look.add(CWD, folder.as_os_str(), 0);
    }
    look.usage
}

#[derive(Default)]
struct Look {
    usage: Usage,
    seen: HashSet<(u64, u64)>,
}

impl Look {
    /// By single names below descriptors: a guest may exchange folders meanwhile.
    fn add(&mut self, above: impl AsFd, name: &OsStr, depth: usize) {
        let Ok(about) = statat(&above, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
        let is_folder = FileType::from_raw_mode(about.st_mode) == FileType::Directory;
        if about.st_nlink > 1 && !is_folder && !self.seen.insert((about.st_dev, about.st_ino)) {
            return;
        }
        self.usage.own += u64::try_from(about.st_blocks).unwrap_or(0) * 512;
        self.usage.entries += 1;
        if is_folder && depth < DEPTH {
            let Some(mut entries) = open(above, name) else { return };
            while let Some(Ok(entry)) = entries.read() {
                let inner = entry.file_name().to_bytes();
                if let (false, Ok(folder)) = (matches!(inner, b"." | b".."), entries.fd()) {
                    self.add(folder, OsStr::from_bytes(inner), depth + 1);
                }
            }
        }
    }
}

fn open(above: impl AsFd, name: &OsStr) -> Option<Dir> {
    let folder: OwnedFd = openat(above, name, FOLDER, Mode::empty()).ok()?;
    Dir::new(folder).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_file_with_two_names_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("one"), vec![1; 1 << 20]).unwrap();
        let before = of(&[folder.path().into()]);
        assert_eq!(before.entries, 2);
        fs::hard_link(folder.path().join("one"), folder.path().join("two")).unwrap();
        let after = of(&[folder.path().into()]);
        assert_eq!((after.entries, after.own), (before.entries, before.own));
    }
}
