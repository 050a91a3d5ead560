//! `update`: new limits for a context that runs.

use oci_spec::runtime::LinuxResources;
use vctx_netns::rate::Change;

use crate::network;
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
pub fn update(store: &Store, id: &str, resources: &LinuxResources, rates: Option<Change>) -> Result<()> {
    validate::resources(resources)?;
    let mut context = store.open(id)?;
    let lock = context.lock()?;
    if let status @ (Status::Stopped | Status::Creating) = context.status_locked(&lock)? {
        return Err(Error::Status { verb: "update", id: id.into(), status, hint: None });
    }
    let before = rates.map(|rates| network::change_rates(&mut context, rates)).transpose()?;
    if before.is_some() && *resources == LinuxResources::default() {
        return Ok(());
    }
    let applied = cgroup(&context, "update").and_then(|cgroup| Ok(cgroup.apply(resources)?));
    if let (Err(_), Some(before)) = (&applied, before) {
        network::set_rates(&mut context, before);
    }
    applied
}
