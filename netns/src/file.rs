//! Files that several commands share: a folder is a lock, and what is replaced is replaced whole.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};

use crate::{Error, Result};

/// A folder, locked until dropped; the kernel unlocks it for a killed process.
#[derive(Debug)]
pub struct Lock {
    _folder: OwnedFd,
}

/// Locks a folder, which is made when it is absent.
pub(crate) fn lock(folder: &Path) -> Result<Lock> {
    let open = || -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = openat(CWD, folder, flags, Mode::empty())?;
        rustix::io::retry_on_intr(|| flock(&descriptor, FlockOperation::LockExclusive))?;
        Ok(descriptor)
    };
    let folder_lock = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
            made.map_err(Error::file("make", folder))?;
            open()
        }
        result => result,
    };
    Ok(Lock { _folder: folder_lock.map_err(Error::file("lock", folder))? })
}

/// Writes a file, whole or not at all.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, content).map_err(Error::file("write", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::file("write", path))
}

/// Removes a file or folder that may be gone.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}
