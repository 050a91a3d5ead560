//! Ends a process with a context although nobody of ours is left to see the context end: the kernel sends it a signal.
//!
//! The process has an inotify(7) descriptor open, of which it knows nothing, and which watches the context's own procfs.
//! With the last process of the context that file system is unmounted, the descriptor has an event, and whoever the
//! descriptor belongs to gets its signal (fcntl(2), F_SETOWN and F_SETSIG).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};

/// The descriptor, of which the process has a copy.
#[derive(Debug)]
pub struct Watch {
    descriptor: OwnedFd,
}

impl Watch {
    /// A descriptor that watches nothing yet.
    ///
    /// # Errors
    ///
    /// The user has too many of them.
    pub fn new() -> io::Result<Watch> {
        Ok(Watch { descriptor: init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)? })
    }

    /// The process's copy; it may be any of its descriptors.
    ///
    /// # Errors
    ///
    /// There are too many.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.descriptor.try_clone()
    }

    /// From here on, `process` is killed when the context ends whose first process is `guest`.
    ///
    /// # Errors
    ///
    /// The guest has ended, or it hides its files from us.
    #[allow(unsafe_code, reason = "fcntl(2)")]
    pub fn kills(&self, process: i32, guest: i32) -> io::Result<()> {
        let set = |command, value: i32| {
            // SAFETY: these commands take a number and touch no memory; the descriptor is open as long as `self`.
            match unsafe { libc::fcntl(self.descriptor.as_raw_fd(), command, value) } {
                -1 => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        set(libc::F_SETOWN, process)?;
        set(F_SETSIG, libc::SIGKILL)?;
        set(libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK)?;
        // Nothing else of it makes an event: a root is never deleted. What the guest may have put in its place is
        // watched in its stead, and is no more than watched.
        let flags = WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
        add_watch(&self.descriptor, format!("/proc/{guest}/root/proc"), flags)?;
        Ok(())
    }
}

/// linux/asm-generic/fcntl.h; the crate libc lacks it for some targets.
const F_SETSIG: i32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_guest_that_is_gone_is_told() {
        let mut guest = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
        let pid = guest.id() as i32;
        guest.wait().unwrap();
        assert!(Watch::new().unwrap().kills(std::process::id() as i32, pid).is_err());
    }
}
