//! The one place of this crate where a path in a tree that a guest can change is resolved: from the descriptor of its
//! root, by the kernel, with openat2(2).
//!
//! `RESOLVE_IN_ROOT` keeps links and `..` inside, also while somebody renames folders. What is found is a place (O_PATH):
//! opening it for reading is another step, taken only when it is known to be a file or a folder, for a guest can lay a
//! pipe or a device where a file was (`reopen`).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, chmod as chmod_path, openat, openat2};
use rustix::io::Errno;

/// How often a resolution that raced with a rename is tried again (openat2(2), EAGAIN).
const RACES: usize = 128;

/// Whether a link at the end of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastLink {
    /// What it leads to is meant.
    Followed,
    /// It is meant itself.
    Taken,
}

/// Finds a path inside `root`.
///
/// # Errors
///
/// As openat2(2); EAGAIN when the tree kept changing during 128 attempts.
pub fn find(root: impl AsFd, path: &Path, last: LastLink) -> Result<OwnedFd, Errno> {
    let flags = if last == LastLink::Taken { OFlags::NOFOLLOW } else { OFlags::empty() };
    open(root, path, flags | OFlags::PATH, ResolveFlags::IN_ROOT)
}

/// Opens a folder below another one, and refuses every link on the way: for trees in which nobody else should write.
///
/// # Errors
///
/// As openat2(2): ELOOP where there is a link.
pub(crate) fn folder_below(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    open(root, path, FOLDER, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn open(root: impl AsFd, path: &Path, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    for _ in 0..RACES {
        let how = how | ResolveFlags::NO_MAGICLINKS;
        match openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// For opening a folder by a single name.
pub(crate) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// Opens a regular file that was found, through the host's procfs: no other file can have taken its place.
///
/// # Errors
///
/// As open(2).
pub(crate) fn reopen(found: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    openat(CWD, path, flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

/// Changes the mode of what was found, whatever has its name now.
///
/// # Errors
///
/// As chmod(2).
pub(crate) fn chmod(found: impl AsFd, mode: Mode) -> Result<(), Errno> {
    chmod_path(format!("/proc/self/fd/{}", found.as_fd().as_raw_fd()), mode)
}
