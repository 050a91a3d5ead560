//! The lock of a context: its folder, under flock(2). A verb that changes the context holds it to its end.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, fstat, openat};
use rustix::io::Errno;

use crate::{Error, Result};

/// The folder of a context, locked until dropped.
#[derive(Debug)]
pub struct Lock {
    folder: OwnedFd,
}

impl Lock {
    fn open(folder: &Path) -> io::Result<OwnedFd> {
        Ok(openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Waits for the lock of a folder; none when it is not there, or no longer.
    ///
    /// # Errors
    ///
    /// As open(2) and flock(2).
    pub(crate) fn of(path: &Path) -> Result<Option<Lock>> {
        let take = || {
            let folder = Lock::open(path)?;
            rustix::io::retry_on_intr(|| flock(&folder, FlockOperation::LockExclusive))?;
            Ok(Lock { folder })
        };
        match take() {
            Ok(lock) => Ok(Some(lock).filter(|lock| lock.is_of(path))),
            Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::state("lock", path)(error)),
        }
    }

    pub(crate) fn try_take(folder: &Path) -> io::Result<Option<Lock>> {
        let folder = Lock::open(folder)?;
        match rustix::io::retry_on_intr(|| flock(&folder, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(Some(Lock { folder })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Somebody has the lock of this folder.
    pub(crate) fn is_held(folder: &Path) -> bool {
        Lock::try_take(folder).is_ok_and(|lock| lock.is_none())
    }

    /// The path still leads to the locked folder, and not to a new one of the same name.
    pub(crate) fn is_of(&self, path: &Path) -> bool {
        match (fstat(&self.folder), fs::metadata(path)) {
            (Ok(own), Ok(other)) => own.st_ino == other.ino() && own.st_dev == other.dev(),
            _ => false,
        }
    }

    /// The locked folder.
    #[must_use]
    pub fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}
