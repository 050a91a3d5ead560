//! Network namespaces of others that a context joins: `--net ns:PATH` and `--net container:ID`. They are descriptors from
//! the first look on, so that what was looked at is what is joined.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::fstat;
use vctx_context::namespace::{self, Joined, Kind};

use crate::config::Config;
use crate::state::{Context, Store};
use crate::{Error, Result};

/// The files by which a context finds others; who joins its network sees the same.
pub(crate) const FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];

/// Opens the network namespace behind a path.
///
/// # Errors
///
/// It is none, or that of the caller.
pub fn of_path(path: &Path) -> Result<Joined> {
    let joined = Joined::open(Kind::Network, path)?;
    check_other(&joined, || format!("ns:{}", path.display()))?;
    Ok(joined)
}

/// Opens the network namespace of a running context. Gives its path as well, which is good while that one runs.
///
/// # Errors
///
/// There is no such context, it does not run, or it uses the caller's network.
pub fn of_context(store: &Store, id: &str) -> Result<(Joined, PathBuf)> {
    let gone = || Error::NotRunning { id: id.into() };
    let alive = store.open(id)?.alive()?.ok_or_else(gone)?;
    let path = PathBuf::from(format!("/proc/{}/ns/net", alive.pid));
    let joined = match Joined::open(Kind::Network, &path) {
        Err(namespace::Error::Open { .. }) => Err(gone()),
        result => Ok(result?),
    }?;
    check_other(&joined, || format!("container:{id}"))?;
    // The process was there after the file was opened, and so the file was that of the process.
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut [PollFd::new(&alive.pidfd, PollFlags::IN)], Some(&at_once)) {
        Ok(0) => Ok((joined, path)),
        _ => Err(gone()),
    }
}

/// The files of its network that a running context sees: where, and what.
///
/// # Errors
///
/// There is no such context, or its configuration cannot be read.
pub fn files_of(store: &Store, id: &str) -> Result<Vec<(&'static str, PathBuf)>> {
    let context: Context = store.open(id)?;
    let config = Config::read(&context.config_path())?;
    let mounts = config.spec.mounts().as_deref().unwrap_or_default();
    let source = |place: &'static str| {
        // A later mount covers an earlier one.
        let mount = mounts.iter().rev().find(|mount| mount.destination() == Path::new(place))?;
        let source = mount.source().as_ref().filter(|source| source.is_file())?;
        Some((place, source.clone()))
    };
    Ok(FILES.into_iter().filter_map(source).collect())
}

/// What asks for another's network must not get the host's: that is asked for by its own word.
fn check_other(joined: &Joined, asked: impl FnOnce() -> String) -> Result<()> {
    let host = std::fs::metadata("/proc/self/ns/net").map_err(Error::Proc)?;
    match fstat(joined.as_fd()) {
        Ok(other) if (other.st_dev, other.st_ino) == (host.dev(), host.ino()) => {
            Err(Error::HostNetwork { asked: asked() })
        }
        _ => Ok(()),
    }
}
