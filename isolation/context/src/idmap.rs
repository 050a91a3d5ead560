//! User and group id mappings: those of a new user namespace (user_namespaces(7)), and those of an idmapped mount
//! (mount_setattr(2)), which takes them from a user namespace too.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use vctx_child::sys::{MountAttributes, mount_setattr};

use crate::namespace::Kind;
use crate::spawn::{clone3, reap};

/// One line of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub length: u32,
}

/// Mappings of both kinds of id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mappings {
    /// User ids.
    pub users: Vec<Range>,
    /// Group ids.
    pub groups: Vec<Range>,
}

/// Why a namespace could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("cannot write the id mapping {text:?} to {}", path.display())]
    Write {
        /// File in procfs.
        path: PathBuf,
        /// What was written.
        text: String,
        /// Cause.
        source: io::Error,
    },
    /// The helper is missing or cannot be run.
    #[error("cannot run {helper}, which maps the ids of an ordinary user; install the package uidmap")]
    Helper {
        /// `newuidmap` or `newgidmap`.
        helper: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// The helper refused.
    #[error("{helper} refused the mapping {text:?}: {message}; check /etc/subuid and /etc/subgid")]
    Refused {
        /// `newuidmap` or `newgidmap`.
        helper: &'static str,
        /// The mapping.
        text: String,
        /// Its words.
        message: String,
    },
    /// The process that lends its user namespace to a mount.
    #[error("cannot make the user namespace of an idmapped mount")]
    Lend(#[source] io::Error),
    /// The source of an idmapped mount cannot be opened or copied.
    #[error("cannot open the source {} of an idmapped mount", path.display())]
    Source {
        /// Host path.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The ids of a mount cannot be mapped.
    #[error("cannot map the ids of the mount from {}{}", path.display(), reason(source, file_system))]
    Mount {
        /// Host path.
        path: PathBuf,
        /// Type of its file system.
        file_system: String,
        /// Cause.
        source: io::Error,
    },
}

fn reason(source: &io::Error, file_system: &str) -> String {
    match source.raw_os_error() {
        Some(libc::EINVAL) => format!("; its file system, {file_system}, does not support idmapped mounts"),
        Some(libc::EPERM) => "; that needs root, and a mount whose ids are not mapped already".into(),
        _ => String::new(),
    }
}

impl Mappings {
    /// Maps one user and one group, which needs no privilege and no helper.
    #[must_use]
    pub fn single(inside: (u32, u32), outside: (u32, u32)) -> Mappings {
        let one = |inside, outside| vec![Range { inside, outside, length: 1 }];
        Mappings { users: one(inside.0, outside.0), groups: one(inside.1, outside.1) }
    }

    /// The mapping maps nothing but the caller: such a namespace must deny setgroups(2) when it is made without privilege.
    #[must_use]
    pub fn is_single(&self) -> bool {
        let one = |ranges: &[Range]| matches!(ranges, [Range { length: 1, .. }]);
        one(&self.users) && one(&self.groups)
    }

    /// The outside ids of inside ids, where they are mapped.
    #[must_use]
    pub fn outside(&self, user: u32, group: u32) -> Option<(u32, u32)> {
        Some((outside(&self.users, user)?, outside(&self.groups, group)?))
    }

    /// Root of the host is one of the outside ids.
    #[must_use]
    pub fn reaches_root(&self) -> bool {
        self.users.iter().any(|range| range.outside == 0 && range.length > 0)
    }

    /// Writes the mappings for the process `pid`: directly with the privilege, or for the caller alone; else by the
    /// setuid helpers.
    ///
    /// # Errors
    ///
    /// The kernel or the helper refused.
    pub fn write(&self, pid: i32, privileged: bool) -> Result<(), Error> {
        if !privileged && !self.is_single() {
            help("newuidmap", pid, &self.users)?;
            return help("newgidmap", pid, &self.groups);
        }
        if !privileged {
            write(pid, "setgroups", "deny".into())?;
        }
        write(pid, "gid_map", lines(&self.groups, '\n'))?;
        write(pid, "uid_map", lines(&self.users, '\n'))
    }
}

/// A user namespace that exists for its mapping alone. A process is born in it, and ends when the namespace is open.
///
/// # Errors
///
/// The process cannot be made, or the mapping is refused.
pub fn namespace(mappings: &Mappings, privileged: bool) -> Result<OwnedFd, Error> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| Error::Lend(error.into()))?;
    let Some(lender) = clone3(Kind::User.flag(), None, 0).map_err(Error::Lend)? else {
        // The end of file comes when the parent is done, or dead.
        drop(writer);
        let _ = rustix::io::retry_on_intr(|| rustix::io::read(&reader, &mut [0u8; 1]));
        vctx_child::sys::exit(0);
    };
    let open = || File::open(format!("/proc/{}/ns/user", lender.pid)).map_err(Error::Lend);
    let opened = mappings.write(lender.pid, privileged).and_then(|()| open());
    drop(writer);
    reap(&lender);
    opened.map(OwnedFd::from)
}

/// An idmapped mount that is to be made.
#[derive(Debug)]
pub struct Mapped<'a> {
    /// Host path.
    pub path: &'a Path,
    /// The user namespace whose mapping the mount gets.
    pub namespace: BorrowedFd<'a>,
    /// Take the mounts below along.
    pub recursive: bool,
    /// Map those as well.
    pub map_below: bool,
    /// Propagation of the copy (MS_SLAVE and its like): without it, it would be a peer of the host's mount.
    pub propagation: u64,
}

impl Mapped<'_> {
    /// The mount, detached. It takes the privilege over the file system, which a process in a user namespace lacks.
    ///
    /// # Errors
    ///
    /// The path cannot be opened, or the file system does not support it.
    pub fn tree(&self) -> Result<OwnedFd, Error> {
        const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
        let source = |error: Errno| Error::Source { path: self.path.into(), source: error.into() };
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if self.recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let tree = open_tree(CWD, self.path, flags).map_err(source)?;
        let propagation = MountAttributes { propagation: self.propagation, ..Default::default() };
        mount_setattr(&tree, c"", true, &propagation).map_err(source)?;
        let userns_fd = self.namespace.as_raw_fd() as u64;
        let map = MountAttributes { set: MOUNT_ATTR_IDMAP, userns_fd, ..Default::default() };
        mount_setattr(&tree, c"", self.map_below, &map).map_err(|error| Error::Mount {
            path: self.path.into(),
            file_system: file_system(self.path).unwrap_or_else(|| "unknown".into()),
            source: error.into(),
        })?;
        Ok(tree)
    }
}

/// The type of the file system that holds `path` (proc_pid_mountinfo(5)).
fn file_system(path: &Path) -> Option<String> {
    let id = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?.stx_mnt_id.to_string();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').next() == Some(&id))?;
    line.split(" - ").nth(1)?.split(' ').next().map(String::from)
}

fn outside(ranges: &[Range], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.inside)?;
        (offset < range.length).then(|| range.outside.checked_add(offset))?
    })
}

fn lines(ranges: &[Range], separator: char) -> String {
    let mut text = String::new();
    for Range { inside, outside, length } in ranges {
        text.push_str(&format!("{inside} {outside} {length}{separator}"));
    }
    text
}

fn write(pid: i32, file: &str, text: String) -> Result<(), Error> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    fs::write(&path, &text).map_err(|source| Error::Write { path, text, source })
}

fn help(helper: &'static str, pid: i32, ranges: &[Range]) -> Result<(), Error> {
    let text = lines(ranges, ' ');
    let output = Command::new(helper)
        .arg(pid.to_string())
        .args(text.split_ascii_whitespace())
        .output()
        .map_err(|source| Error::Helper { helper, source })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Refused { helper, text, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_looked_up_in_its_range() {
        let mut mappings = Mappings::single((0, 0), (1000, 1000));
        assert!(mappings.is_single() && !mappings.reaches_root());
        mappings.users.push(Range { inside: 1, outside: 100_000, length: 65_536 });
        assert!(!mappings.is_single());
        assert_eq!(mappings.outside(5, 0), Some((100_004, 1000)));
        assert_eq!(mappings.outside(65_537, 0), None);
        assert_eq!(mappings.outside(0, 1), None);
    }
}
