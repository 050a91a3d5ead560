//! Kinds of namespace, and descriptors of those that are joined.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A kind of namespace (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "named as in namespaces(7)")]
pub enum Kind {
    User,
    Cgroup,
    Ipc,
    Uts,
    Network,
    Pid,
    Time,
    Mount,
}

impl Kind {
    /// All kinds, in an order in which they can be joined: the user namespace gives the right to the others, and the
    /// mount namespace takes the caller's paths away.
    pub const ALL: [Kind; 8] =
        [Kind::User, Kind::Cgroup, Kind::Ipc, Kind::Uts, Kind::Network, Kind::Pid, Kind::Time, Kind::Mount];

    /// The CLONE_NEW* flag.
    #[must_use]
    pub fn flag(self) -> u32 {
        match self {
            Kind::User => libc::CLONE_NEWUSER as u32,
            Kind::Cgroup => libc::CLONE_NEWCGROUP as u32,
            Kind::Ipc => libc::CLONE_NEWIPC as u32,
            Kind::Uts => libc::CLONE_NEWUTS as u32,
            Kind::Network => libc::CLONE_NEWNET as u32,
            Kind::Pid => libc::CLONE_NEWPID as u32,
            Kind::Time => 0x80,
            Kind::Mount => libc::CLONE_NEWNS as u32,
        }
    }

    /// The file below `/proc/PID/ns`.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Kind::User => "user",
            Kind::Cgroup => "cgroup",
            Kind::Ipc => "ipc",
            Kind::Uts => "uts",
            Kind::Network => "net",
            Kind::Pid => "pid",
            Kind::Time => "time",
            Kind::Mount => "mnt",
        }
    }
}

/// A namespace that is joined.
#[derive(Debug)]
pub struct Joined {
    /// Its kind, verified.
    pub kind: Kind,
    descriptor: OwnedFd,
}

/// A path that is no namespace of the wanted kind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path cannot be opened.
    #[error("cannot open the {} namespace {}; name a file such as /proc/PID/ns/{}", kind.file(), path.display(), kind.file())]
    Open {
        /// Wanted kind.
        kind: Kind,
        /// Path of the configuration.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a {} namespace; name a file such as /proc/PID/ns/{}", path.display(), kind.file(), kind.file())]
    Kind {
        /// Wanted kind.
        kind: Kind,
        /// Path of the configuration.
        path: PathBuf,
    },
}

impl Joined {
    /// Opens a namespace file and verifies its kind (ioctl_nsfs(2), NS_GET_NSTYPE).
    ///
    /// # Errors
    ///
    /// The path cannot be opened, or is not a namespace of this kind.
    pub fn open(kind: Kind, path: &Path) -> Result<Joined, Error> {
        let file = File::open(path).map_err(|source| Error::Open { kind, path: path.into(), source })?;
        if kind_flag(file.as_fd()) != Some(kind.flag()) {
            return Err(Error::Kind { kind, path: path.into() });
        }
        Ok(Joined { kind, descriptor: file.into() })
    }

    /// The descriptor for setns(2).
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn kind_flag(file: BorrowedFd<'_>) -> Option<u32> {
    use std::os::fd::AsRawFd;
    const NS_GET_NSTYPE: u64 = 0xb703;
    // SAFETY: the request takes no argument and writes no memory; a file that is no namespace gives ENOTTY.
    let flag = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) };
    u32::try_from(flag).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_opens_its_own_file_and_no_other() {
        for kind in Kind::ALL {
            let path = PathBuf::from(format!("/proc/self/ns/{}", kind.file()));
            Joined::open(kind, &path).unwrap();
            let other = if kind == Kind::Uts { Kind::Ipc } else { Kind::Uts };
            assert!(matches!(Joined::open(other, &path), Err(Error::Kind { .. })));
        }
        assert!(matches!(Joined::open(Kind::Pid, Path::new("/dev/null")), Err(Error::Kind { .. })));
        assert!(matches!(Joined::open(Kind::Pid, Path::new("/absent")), Err(Error::Open { .. })));
    }
}
