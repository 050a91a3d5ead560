//! `delete`: removes what a context holds, and what a killed verb has left.

use std::io;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};

use crate::checkpoint::orphan;
use crate::config::Config;
use crate::hooks;
use crate::lock::Lock;
use crate::state::{Alive, Context, Status, Store};
use crate::{Error, Result};

/// How long a process may take to die of SIGKILL. More means that the kernel holds it, for instance in a write to a disk
/// that is gone.
const DEATH: Duration = Duration::from_secs(10);

/// How soon a lock is tried again. flock(2) would wait for ever for a criu that is left alone only later.
const RETRY: Duration = Duration::from_millis(5);

/// Deletes a stopped context; with `force` a running one as well, and an absent one is no error. Gives the poststop hooks
/// that failed, of which the specification wants a warning.
///
/// # Errors
///
/// The context runs, or something of it cannot be removed.
pub fn delete(store: &Store, id: &str, force: bool) -> Result<Vec<Error>> {
    let mut context = match store.open(id) {
        Err(Error::Absent { .. }) if force => return sweep(store, id),
        Err(Error::Damaged { .. }) if force => return sweep(store, id),
        result => result?,
    };
    let locked = if force { context.lock_by(lock_by_force) } else { context.lock() };
    let lock = match locked {
        Err(Error::Absent { .. }) if force => return sweep(store, id),
        result => result?,
    };
    match context.status_locked(&lock)? {
        Status::Stopped => {}
        // A process that was never started has nothing to lose.
        Status::Created => end(&context)?,
        _ if force => end(&context)?,
        status => {
            let hint = Some("stop it first, or use --force");
            return Err(Error::Status { verb: "delete", id: id.into(), status, hint });
        }
    }
    finish(&context)
}

/// Waits for the verb that has the lock, and not for the criu of one that was killed.
fn lock_by_force(context: &Context) -> Result<Option<Lock>> {
    loop {
        match Lock::try_take(&context.folder) {
            Ok(Some(lock)) => return Ok(Some(lock).filter(|lock| lock.is_of(&context.folder))),
            Ok(None) => orphan::end(context)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::state("lock", &context.folder)(error)),
        }
        std::thread::sleep(RETRY);
    }
}

/// A folder without a readable state is what a `create` leaves that was killed in its first step. One that is at work has
/// the lock, and when we get it, a state or no folder.
fn sweep(store: &Store, id: &str) -> Result<Vec<Error>> {
    crate::state::check_id(id)?;
    let folder = store.root().join(id);
    let Some(lock) = Lock::of(&folder)? else { return Ok(Vec::new()) };
    if store.open(id).is_ok() {
        drop(lock);
        return delete(store, id, true);
    }
    remove_folder(&folder).map(|()| Vec::new())
}

/// The ids that a killed `create`, `run` or `copy` has left.
///
/// # Errors
///
/// The root of the states cannot be read.
pub fn unfinished(store: &Store) -> Result<Vec<String>> {
    let names = match std::fs::read_dir(store.root()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        names => names.map_err(Error::state("read", store.root()))?,
    };
    let mut ids: Vec<String> = names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|id| crate::state::check_id(id).is_ok())
        .filter(|id| match store.open(id) {
            Ok(context) => context.state.process.is_none() && !Lock::is_held(&context.folder),
            Err(Error::Absent { .. }) => {
                let folder = store.root().join(id);
                folder.is_dir() && !Lock::is_held(&folder)
            }
            Err(_) => false,
        })
        .collect();
    ids.sort();
    Ok(ids)
}

/// Removes what a killed `create` has left under an id, unless somebody has taken it since.
///
/// # Errors
///
/// Something of it cannot be removed.
pub fn sweep_unfinished(store: &Store, id: &str) -> Result<()> {
    // Who takes the id clears it.
    match store.reserve(id) {
        Err(Error::Exists { .. }) => Ok(()),
        reserved => reserved.and_then(|(folder, _lock)| remove_folder(&folder)),
    }
}

/// Removes a context that has ended, and runs its poststop hooks. Gives those that failed.
///
/// # Errors
///
/// A control group or a file cannot be removed.
pub fn finish(context: &Context) -> Result<Vec<Error>> {
    // The configuration goes with the folder: what is needed of it is read before.
    let config = if context.state.has_poststop { Config::read(&context.config_path()).ok() } else { None };
    clear(context)?;
    context.remove()?;
    Ok(config.map_or_else(Vec::new, |config| hooks::poststop(&config.spec, context)))
}

/// Removes everything but the folder of the state.
pub(crate) fn clear(context: &Context) -> Result<()> {
    if let Some(cgroup) = &context.state.cgroup {
        // Without a pid namespace of its own, the end of the first process leaves the others alive.
        if !context.state.namespaces.contains(&vctx_context::namespace::Kind::Pid)
            || context.state.process.is_none()
        {
            cgroup.kill_all()?;
        }
        cgroup.remove()?;
    }
    if let Some(attached) = &context.state.network {
        let root = context.folder.parent().unwrap_or(std::path::Path::new("/"));
        crate::network::leave(root, &context.state.id, attached)?;
    }
    if !context.state.shared.is_empty() {
        let root = context.folder.parent().unwrap_or(std::path::Path::new("/"));
        crate::network::let_go(root, &context.state.id)?;
    }
    if let Some(maker) = &context.state.outer {
        crate::network::outer::end(&context.folder, &context.state.id, maker)?;
    }
    let mappings = || Ok(crate::host::mappings(&Config::read(&context.config_path())?.spec));
    context.state.own.iter().try_for_each(|folder| remove_own(folder, mappings))
}

/// Removes a folder in which a guest could make what only the ids of its user namespace may remove.
pub(crate) fn remove_own(
    folder: &std::path::Path,
    mappings: impl FnOnce() -> Result<vctx_context::idmap::Mappings>,
) -> Result<()> {
    match remove_with(vctx_remove::of_context, folder) {
        Err(Error::State { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            let content = || vctx_remove::content(folder);
            vctx_context::apart::as_root_of(&mappings()?, content).map_err(Error::state("remove", folder))?;
            remove_folder(folder)
        }
        result => result,
    }
}

fn remove_folder(folder: &std::path::Path) -> Result<()> {
    remove_with(vctx_remove::tree, folder)
}

fn remove_with(remove: fn(&std::path::Path) -> io::Result<()>, folder: &std::path::Path) -> Result<()> {
    match remove(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::state("remove", folder)(error)),
        _ => Ok(()),
    }
}

/// Ends all processes and waits for the first one.
pub(crate) fn end(context: &Context) -> Result<()> {
    let Some(alive) = context.alive()? else { return Ok(()) };
    let _ = pidfd_send_signal(&alive.pidfd, Signal::KILL);
    if let Some(cgroup) = &context.state.cgroup {
        cgroup.kill_all()?;
    }
    wait(context, &alive)
}

fn wait(context: &Context, alive: &Alive) -> Result<()> {
    let mut descriptors = [PollFd::new(&alive.pidfd, PollFlags::IN)];
    let limit = Timespec { tv_sec: DEATH.as_secs() as i64, tv_nsec: 0 };
    match rustix::io::retry_on_intr(|| poll(&mut descriptors, Some(&limit))) {
        Ok(1..) => Ok(()),
        _ => Err(Error::Unkillable { id: context.state.id.clone(), seconds: DEATH.as_secs() }),
    }
}
