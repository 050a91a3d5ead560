//! What is wrong with `linux.resources` in itself: pure, so that it is refused before a group exists.

use oci_spec::runtime::LinuxResources;

use super::devices::Policy;
use super::{Error, v1};

/// The kernel takes less than a page in one write to a control file, in bytes.
const LONGEST_LINE: usize = 4095;

/// Files by which processes come and go.
const MOVERS: [&str; 4] = ["cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.type"];

/// Refuses limits that no kind of machine could take.
///
/// # Errors
///
/// [`Error::Value`] names the field below `linux.resources`.
pub fn validate(resources: &LinuxResources) -> Result<(), Error> {
    if let Some(devices) = resources.devices() {
        Policy::parse(devices)?;
    }
    if let Some(memory) = resources.memory() {
        v1::memory(memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        for (field, list) in [("cpu.cpus", cpu.cpus()), ("cpu.mems", cpu.mems())] {
            list.as_deref().map_or(Ok(()), |list| line(field, list))?;
        }
    }
    if let Some(limits) = resources.hugepage_limits() {
        v1::hugepages(limits)?;
    }
    if let Some(rdma) = resources.rdma() {
        v1::rdma(rdma)?;
    }
    if let Some(network) = resources.network() {
        v1::net_priorities(network)?;
    }
    for (name, value) in resources.unified().iter().flatten() {
        controller(name)?;
        value.lines().try_for_each(|one| line(&format!("unified.{name}"), one))?;
    }
    Ok(())
}

/// The controller of a control file that `unified` names, which is CONTROLLER.NAME: anything else could leave the
/// directory or move processes.
pub(super) fn controller(name: &str) -> Result<&str, Error> {
    match name.split_once('.') {
        Some((controller, rest))
            if !controller.is_empty()
                && !rest.is_empty()
                && !MOVERS.contains(&name)
                && !name.contains(|c: char| c == '/' || c.is_control()) =>
        {
            Ok(controller)
        }
        _ => Err(Error::Value {
            field: format!("unified.{name}"),
            why: "is not the name of a control file".into(),
        }),
    }
}

fn line(field: &str, text: &str) -> Result<(), Error> {
    let refuse = |why: &str| Err(Error::Value { field: field.into(), why: why.into() });
    if text.len() > LONGEST_LINE {
        return refuse("is longer than what the kernel takes at once (4095 bytes)");
    }
    if text.trim_end().contains(char::is_control) {
        return refuse("contains a control character");
    }
    Ok(())
}
