//! What the guest may use of the machine, as `linux.resources` and `process.rlimits`.

use std::os::unix::fs::MetadataExt;

use nix::sys::stat::{major, minor};
use serde_json::{Map, Value, json};
use vctx_context::cgroup::{Layout, Mode};

use super::{NativeError, security};
use crate::error::Error;
use crate::grants::{BlockDevice, IoMax};
use crate::run_args::{Limits, RunArgs};
use crate::values::{Cpus, Size};

/// The whole of `linux.resources`.
pub(super) fn resources(args: &RunArgs) -> Result<Value, Error> {
    let limits = &args.limits;
    let version2 = Version::default();
    let mut all = Map::new();
    let mut unified = Map::new();
    let rules = security::device_rules(args)?;
    put(&mut all, "devices", (!rules.is_empty()).then_some(rules));
    put(&mut all, "memory", memory(limits, &version2, &mut unified)?);
    put(&mut all, "cpu", cpu(limits, &version2, &mut unified)?);
    put(&mut all, "pids", limits.pids.map(|limit| json!({ "limit": limit })));
    put(&mut all, "blockIO", block_io(limits, &version2, &mut unified)?);
    put(&mut all, "unified", (!unified.is_empty()).then_some(unified));
    Ok(Value::Object(all))
}

/// Which version has the controllers; looked at once, and only where it makes a difference.
#[derive(Default)]
struct Version(std::cell::OnceCell<bool>);

impl Version {
    fn is_2(&self) -> Result<bool, Error> {
        match self.0.get() {
            Some(known) => Ok(*known),
            None => {
                let found = Layout::detect().map_err(vctx_runtime::Error::from)?.mode() == Mode::V2;
                Ok(*self.0.get_or_init(|| found))
            }
        }
    }
}

fn put(map: &mut Map<String, Value>, key: &str, value: Option<impl serde::Serialize>) {
    if let Some(value) = value {
        map.insert(key.into(), json!(value));
    }
}

fn section(map: Map<String, Value>) -> Option<Value> {
    (!map.is_empty()).then_some(Value::Object(map))
}

fn memory(
    limits: &Limits,
    version: &Version,
    unified: &mut Map<String, Value>,
) -> Result<Option<Value>, Error> {
    for (option, file, size) in [
        ("--memory-high", "memory.high", limits.memory_high),
        ("--memory-min", "memory.min", limits.memory_min),
    ] {
        let Some(size) = size else { continue };
        if !version.is_2()? {
            return Err(NativeError::NeedsV2(option).into());
        }
        let text = match size {
            Size::Max => "max".to_owned(),
            Size::Bytes(bytes) => bytes.to_string(),
        };
        unified.insert(file.into(), json!(text));
    }
    let mut map = Map::new();
    put(&mut map, "limit", limits.memory.map(Size::as_oci));
    // The specification counts both together, the option only swap.
    let swap = match (limits.swap, limits.memory) {
        (None, _) => None,
        (Some(Size::Max), _) => Some(-1),
        (Some(Size::Bytes(_)), None | Some(Size::Max)) => return Err(NativeError::SwapAlone.into()),
        (Some(swap), Some(memory)) => Some(swap.as_oci().saturating_add(memory.as_oci())),
    };
    put(&mut map, "swap", swap);
    Ok(section(map))
}

fn cpu(limits: &Limits, version: &Version, unified: &mut Map<String, Value>) -> Result<Option<Value>, Error> {
    let mut map = Map::new();
    put(&mut map, "quota", limits.cpus.map(|cpus| cpus.quota));
    put(&mut map, "period", limits.cpus.map(|_| Cpus::PERIOD));
    put(&mut map, "burst", limits.cpu_burst);
    put(&mut map, "cpus", limits.cpuset.as_ref());
    put(&mut map, "mems", limits.cpuset_mems.as_ref());
    if let Some(weight) = limits.cpu_weight {
        if version.is_2()? {
            unified.insert("cpu.weight".into(), json!(weight.to_string()));
        } else {
            map.insert("shares".into(), json!(shares(weight)));
        }
    }
    Ok(section(map))
}

/// The usual weight 100 is the usual 1,024 shares; the kernel takes 2 to 262,144.
fn shares(weight: u64) -> u64 {
    (weight * 1024 / 100).clamp(2, 262_144)
}

fn block_io(
    limits: &Limits,
    version: &Version,
    unified: &mut Map<String, Value>,
) -> Result<Option<Value>, Error> {
    let mut map = Map::new();
    if let Some(weight) = limits.io_weight {
        if version.is_2()? {
            unified.insert("io.weight".into(), json!(format!("default {weight}")));
        } else {
            // Version 1 takes 10 to 1,000, and 500 is usual there.
            map.insert("weight".into(), json!((u32::from(weight) * 5).clamp(10, 1000)));
        }
    }
    type Rate = fn(&IoMax) -> Option<u64>;
    let ceilings: [(&str, Rate); 4] = [
        ("throttleReadBpsDevice", |one| one.read_bytes),
        ("throttleWriteBpsDevice", |one| one.write_bytes),
        ("throttleReadIOPSDevice", |one| one.read_operations),
        ("throttleWriteIOPSDevice", |one| one.write_operations),
    ];
    for (field, rate) in ceilings {
        let mut list = Vec::new();
        for one in &limits.io_max {
            if let Some(rate) = rate(one) {
                let (major, minor) = numbers(&one.device)?;
                list.push(json!({ "major": major, "minor": minor, "rate": rate }));
            }
        }
        put(&mut map, field, (!list.is_empty()).then_some(list));
    }
    Ok(section(map))
}

fn numbers(device: &BlockDevice) -> Result<(u64, u64), NativeError> {
    match device {
        BlockDevice::Numbers { major, minor } => Ok((u64::from(*major), u64::from(*minor))),
        BlockDevice::Node(path) => {
            let about = std::fs::metadata(path).map_err(|source| NativeError::HostPath {
                option: "--io-max",
                path: path.clone(),
                source,
            })?;
            Ok((major(about.rdev()), minor(about.rdev())))
        }
    }
}

/// Limits of each process; of two for the same resource the later one counts.
pub(super) fn rlimits(args: &RunArgs) -> Vec<Value> {
    let mut list: Vec<Value> = Vec::new();
    for limit in &args.limits.rlimit {
        list.retain(|before| before["type"] != limit.name.as_str());
        list.push(json!({ "type": limit.name, "soft": limit.soft, "hard": limit.hard }));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_weight_is_the_usual_number_of_shares() {
        assert_eq!([shares(100), shares(1), shares(10_000)], [1024, 10, 102_400]);
    }
}
