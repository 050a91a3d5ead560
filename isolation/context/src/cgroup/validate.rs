//! What is wrong with `linux.resources` in itself: pure, so that it is refused before a group exists.

use oci_spec::runtime::{LinuxCpu, LinuxRdma, LinuxResources};

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
        if let Some(value) = memory.swappiness().filter(|value| *value > 100) {
            return Err(refusal("memory.swappiness", format!("is {value}, and must lie between 0 and 100")));
        }
    }
    if let Some(cpu) = resources.cpu() {
        self::cpu(cpu)?;
        for (field, list) in [("cpu.cpus", cpu.cpus()), ("cpu.mems", cpu.mems())] {
            list.as_deref().map_or(Ok(()), |list| line(field, list))?;
        }
    }
    for (index, device) in resources.block_io().iter().flat_map(|io| io.weight_device()).flatten().enumerate()
    {
        if device.weight().or(device.leaf_weight()).is_none() {
            return Err(refusal(
                format!("blockIO.weightDevice[{index}]"),
                "has neither weight nor leafWeight",
            ));
        }
    }
    if let Some(limits) = resources.hugepage_limits() {
        v1::hugepages(limits)?;
    }
    if let Some(rdma) = resources.rdma() {
        v1::rdma(rdma)?;
        let empty = |(_, limit): &(_, &LinuxRdma)| limit.hca_handles().or(limit.hca_objects()).is_none();
        if let Some((device, _)) = rdma.iter().find(empty) {
            return Err(refusal(format!("rdma.{device}"), "has neither hcaHandles nor hcaObjects"));
        }
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

fn cpu(cpu: &LinuxCpu) -> Result<(), Error> {
    if let Some(idle) = cpu.idle().filter(|idle| ![0, 1].contains(idle)) {
        return Err(refusal("cpu.idle", format!("is {idle}, and must be 0 or 1")));
    }
    let quota = cpu.quota().and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota != 0);
    match (cpu.burst(), quota) {
        (Some(burst), Some(quota)) if burst > quota => Err(refusal(
            "cpu.burst",
            format!("is {burst}, and must not be above cpu.quota, which is {quota}"),
        )),
        _ => Ok(()),
    }
}

fn refusal(field: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Value { field: field.into(), why: why.into() }
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
        _ => Err(refusal(format!("unified.{name}"), "is not the name of a control file")),
    }
}

fn line(field: &str, text: &str) -> Result<(), Error> {
    if text.len() > LONGEST_LINE {
        return Err(refusal(field, "is longer than what the kernel takes at once (4095 bytes)"));
    }
    if text.trim_end().contains(char::is_control) {
        return Err(refusal(field, "contains a control character"));
    }
    Ok(())
}
