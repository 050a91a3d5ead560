//! `events` and `ps`: what the control groups tell of a context.

use vctx_context::cgroup::{OomEvents, Stats};

use crate::pause::cgroup;
use crate::state::{Context, Status};
use crate::{Error, Result};

/// Statistics, in the form of runc's `events --stats`.
///
/// # Errors
///
/// The context is stopped or has no control group.
pub fn stats(context: &Context) -> Result<Stats> {
    running(context, "read the statistics of")?;
    Ok(cgroup(context, "read the statistics of")?.stats()?)
}

/// A source of out-of-memory events.
///
/// # Errors
///
/// As [`stats`].
pub fn out_of_memory(context: &Context) -> Result<OomEvents> {
    running(context, "watch")?;
    Ok(cgroup(context, "watch")?.oom_events()?)
}

/// The ids of all processes, in the caller's pid namespace.
///
/// # Errors
///
/// The control group cannot be read.
pub fn processes(context: &Context) -> Result<Vec<i32>> {
    match &context.state.cgroup {
        Some(cgroup) => Ok(cgroup.procs(true)?),
        None => Ok(context.alive()?.map(|alive| alive.pid).into_iter().collect()),
    }
}

fn running(context: &Context, verb: &'static str) -> Result<()> {
    match context.status()? {
        status @ (Status::Stopped | Status::Creating) => Err(Error::Status {
            verb,
            id: context.state.id.clone(),
            status,
            hint: Some("container not running"),
        }),
        _ => Ok(()),
    }
}
