//! `kill`: a signal to the first process, or to all of them.

use std::io;

use rustix::process::pidfd_send_signal;

use crate::state::{Context, Status, Store};
use crate::{Error, Result};

/// Who gets the signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The first process.
    First,
    /// Every process in the context's control group.
    All,
}

/// Sends a signal.
///
/// # Errors
///
/// The context is stopped, or the kernel refuses.
pub fn kill(store: &Store, id: &str, signal: i32, scope: Scope) -> Result<()> {
    let context = store.open(id)?;
    match scope {
        Scope::First => first(&context, signal),
        Scope::All => all(&context, signal),
    }
}

fn first(context: &Context, signal: i32) -> Result<()> {
    let id = &context.state.id;
    let Some(alive) = context.alive()? else {
        // The words are those by which engines know that it is over.
        let hint = Some("container not running");
        return Err(Error::Status { verb: "kill", id: id.clone(), status: Status::Stopped, hint });
    };
    let fail = |source| Error::Signal { signal, id: id.clone(), source };
    send(&alive, signal).map_err(fail)?;
    // A frozen process of cgroup v1 dies of its signal only when it is thawed.
    if signal == libc::SIGKILL
        && let Some(cgroup) = &context.state.cgroup
        && cgroup.is_frozen()?
    {
        cgroup.thaw()?;
    }
    Ok(())
}

fn send(alive: &crate::state::Alive, signal: i32) -> io::Result<()> {
    use std::os::fd::AsFd;
    match rustix::process::Signal::from_named_raw(signal) {
        Some(named) => Ok(pidfd_send_signal(&alive.pidfd, named)?),
        None => vctx_context::spawn::send_signal(alive.pidfd.as_fd(), signal),
    }
}

fn all(context: &Context, signal: i32) -> Result<()> {
    let id = &context.state.id;
    let Some(cgroup) = &context.state.cgroup else {
        return Err(Error::NoCgroup { verb: "kill all processes of", id: id.clone() });
    };
    if signal == libc::SIGKILL {
        cgroup.kill_all()?
    } else {
        cgroup.signal_all(signal)?
    }
    Ok(())
}
