//! `pause` and `resume`: the freezer.

use crate::state::{Context, Status, Store};
use crate::{Error, Result};

/// Freezes all processes of a context.
///
/// # Errors
///
/// The context is not running, or has no control group.
pub fn pause(store: &Store, id: &str) -> Result<()> {
    let mut context = store.open(id)?;
    let lock = context.lock()?;
    match context.status_locked(&lock)? {
        Status::Running | Status::Created => Ok(cgroup(&context, "pause")?.freeze()?),
        status => Err(Error::Status { verb: "pause", id: id.into(), status, hint: None }),
    }
}

/// Thaws all processes of a context.
///
/// # Errors
///
/// The context is not paused.
pub fn resume(store: &Store, id: &str) -> Result<()> {
    let mut context = store.open(id)?;
    let lock = context.lock()?;
    match context.status_locked(&lock)? {
        Status::Paused => Ok(cgroup(&context, "resume")?.thaw()?),
        status => Err(Error::Status { verb: "resume", id: id.into(), status, hint: None }),
    }
}

pub(crate) fn cgroup<'a>(
    context: &'a Context,
    verb: &'static str,
) -> Result<&'a vctx_context::cgroup::Cgroup> {
    context.state.cgroup.as_ref().ok_or_else(|| Error::NoCgroup { verb, id: context.state.id.clone() })
}
