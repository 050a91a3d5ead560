//! `update`: new limits for a context that runs.

use oci_spec::runtime::LinuxResources;

use crate::pause::cgroup;
use crate::state::{Status, Store};
use crate::{Error, Result};

/// Applies limits; what they do not name stays as it is.
///
/// # Errors
///
/// The context is stopped, or the kernel refuses a limit.
pub fn update(store: &Store, id: &str, resources: &LinuxResources) -> Result<()> {
    let context = store.open(id)?;
    let _lock = context.lock()?;
    match context.status()? {
        Status::Stopped | Status::Creating => {
            Err(Error::Status { verb: "update", id: id.into(), status: context.status()?, hint: None })
        }
        _ => Ok(cgroup(&context, "update")?.apply(resources)?),
    }
}
