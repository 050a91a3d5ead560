//! The one place where a path inside a layer is resolved: from the descriptor of its root, by the kernel, with openat2(2).
//!
//! `RESOLVE_BENEATH` refuses `..`, absolute links and links that lead out, instead of bending them: a layer that has such
//! a thing on the way to what it writes is broken or hostile. Nobody else writes to the tree meanwhile.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// How often a resolution that raced with a rename elsewhere is tried again (openat2(2), EAGAIN).
const RACES: usize = 128;

/// Opens a relative path below `root`.
///
/// # Errors
///
/// As openat2(2): EXDEV where the path leads out.
pub(super) fn open(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let path = if path.is_empty() { b"." } else { path };
    for _ in 0..RACES {
        match openat2(root.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}
