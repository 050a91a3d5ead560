//! `update`: new limits for a context that runs.

use oci_spec::runtime::LinuxResources;

use crate::pause::cgroup;
use crate::state::{Status, Store};
use crate::{Error, Result, strict, validate};

/// Reads `linux.resources` as callers of `update` write it.
///
/// # Errors
///
/// Says where the text is wrong.
pub fn parse(bytes: &[u8]) -> serde_json::Result<LinuxResources> {
    strict::from_slice(bytes)
}

/// Applies limits; what they do not name stays as it is.
///
/// # Errors
///
/// The context is stopped, or the kernel refuses a limit.
pub fn update(store: &Store, id: &str, resources: &LinuxResources) -> Result<()> {
    validate::resources(resources)?;
    let mut context = store.open(id)?;
    let lock = context.lock()?;
    match context.status_locked(&lock)? {
        status @ (Status::Stopped | Status::Creating) => {
            Err(Error::Status { verb: "update", id: id.into(), status, hint: None })
        }
        _ => Ok(cgroup(&context, "update")?.apply(resources)?),
    }
}
