//! The limits in the words of version 2 (Documentation/admin-guide/cgroup-v2.rst).

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory};

use super::Error;
use super::limits::{Files, Setting};
use super::v1::{THROTTLES, idle, page_size, swap_covers};

/// Memory. The configuration gives memory plus swap, the kernel wants swap alone.
pub(super) fn memory(memory: &LinuxMemory, files: &Files) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    let limit = memory.limit().filter(|limit| *limit != 0);
    let swap = memory.swap().filter(|swap| *swap != 0).or(limit.filter(|limit| *limit < 0));
    if let Some(limit) = limit {
        settings.push(bytes("memory.limit", "memory.max", limit));
    }
    if let Some(swap) = swap {
        let value = if swap < 0 { -1 } else { swap - memory_below(limit, swap, files)? };
        settings.push(bytes("memory.swap", "memory.swap.max", value));
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        settings.push(bytes("memory.reservation", "memory.low", reservation));
    }
    if memory.swappiness().is_some() {
        return Err(unknown("memory.swappiness"));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(unknown("memory.disableOOMKiller"));
    }
    Ok(settings)
}

/// The memory part of `swap`: the limit asked for together with it, else (in an update) the one in force.
fn memory_below(limit: Option<i64>, swap: i64, files: &Files) -> Result<i64, Error> {
    let in_force = || files.text("memory.max").and_then(|text| text.trim().parse().ok());
    let limit = limit.or_else(in_force).unwrap_or(-1);
    swap_covers(limit, swap)?;
    Ok(limit)
}

/// Processor time.
pub(super) fn cpu(cpu: &LinuxCpu, files: &Files) -> Result<Vec<Setting>, Error> {
    let mut settings = idle(cpu, 0);
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && cpu.idle() != Some(1)) {
        settings.push(Setting::new("cpu.shares", "cpu.weight", weight_of_shares(shares)));
    }
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    // One file holds both; a period left out stays as it is.
    match (quota, period) {
        (Some(..0), None) => settings.push(Setting::new("cpu.quota", "cpu.max", "max").where_present(true)),
        (Some(..0), Some(period)) => {
            settings.push(Setting::new("cpu.quota", "cpu.max", format!("max {period}")).where_present(true));
        }
        (Some(quota), None) => settings.push(Setting::new("cpu.quota", "cpu.max", quota)),
        (Some(quota), Some(period)) => {
            settings.push(Setting::new("cpu.quota", "cpu.max", format!("{quota} {period}")));
        }
        (None, Some(period)) => {
            let now = files.text("cpu.max").unwrap_or_default();
            let quota = now.split_whitespace().next().unwrap_or("max");
            settings.push(Setting::new("cpu.period", "cpu.max", format!("{quota} {period}")));
        }
        (None, None) => {}
    }
    if let Some(burst) = cpu.burst() {
        settings.push(Setting::new("cpu.burst", "cpu.max.burst", burst).where_present(burst == 0));
    }
    if cpu.realtime_period().is_some_and(|period| period != 0) {
        return Err(unknown("cpu.realtimePeriod"));
    }
    if cpu.realtime_runtime().is_some_and(|runtime| runtime != 0) {
        return Err(unknown("cpu.realtimeRuntime"));
    }
    settings.extend(idle(cpu, 1));
    Ok(settings)
}

/// `cpu.weight` (1 to 10000) for `cpu.shares` (2 to 262144). On logarithmic scales it is the parabola through three
/// points: the two ends, and the defaults 1024 and 100. The straight line through the ends would turn the default
/// shares into a weight of 39, so that contexts would lose against everything that kept the default weight.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        ..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            // Rounded up, but not for the rounding error at 1024.
            (10_f64.powf(exponent) - 1e-9).ceil() as u64
        }
    }
}

/// Block devices.
pub(super) fn block_io(io: &LinuxBlockIo, files: &Files) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    let bfq = files.has("io.bfq.weight");
    let (weight_file, scale): (_, fn(u16) -> u64) = match bfq {
        true => ("io.bfq.weight", u64::from),
        false => ("io.weight", io_weight),
    };
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        settings.push(Setting::new("blockIO.weight", weight_file, scale(weight)));
    }
    if io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(unknown("blockIO.leafWeight"));
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let line = format!("{}:{} {}", device.major(), device.minor(), scale(weight));
            settings.push(Setting::new("blockIO.weightDevice", weight_file, line));
        }
        if device.leaf_weight().is_some_and(|weight| weight != 0) {
            return Err(unknown("blockIO.weightDevice.leafWeight"));
        }
    }
    // All rates of a device in one line, so that they take effect together.
    let mut lines: BTreeMap<(i64, i64), Setting> = BTreeMap::new();
    for throttle in THROTTLES {
        for device in (throttle.devices)(io).iter().flatten() {
            let (major, minor, rate) = (device.major(), device.minor(), device.rate());
            let line = lines.entry((major, minor)).or_insert_with(|| {
                Setting::new(throttle.field, "io.max", format!("{major}:{minor}")).where_present(true)
            });
            let value = if rate == 0 { "max".to_owned() } else { rate.to_string() };
            line.value.push_str(&format!(" {}={value}", throttle.v2_key));
            if rate != 0 && line.optional {
                line.optional = false;
                line.field = throttle.field.into();
            }
        }
    }
    settings.extend(lines.into_values());
    Ok(settings)
}

/// `io.weight` (1 to 10000) for a version 1 weight (10 to 1000), on a straight line through the ends.
fn io_weight(weight: u16) -> u64 {
    let above = u64::from(weight.clamp(10, 1000)) - 10;
    1 + above * 9999 / 990
}

/// Huge pages.
pub(super) fn hugepages(limits: &[LinuxHugepageLimit]) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    for limit in limits {
        let size = page_size(limit)?;
        settings.push(bytes("hugepageLimits", format!("hugetlb.{size}.max"), limit.limit()));
        let reserved = format!("hugetlb.{size}.rsvd.max");
        settings.push(bytes("hugepageLimits", reserved, limit.limit()).where_present(true));
    }
    Ok(settings)
}

/// A number of bytes of which a negative one means no limit.
fn bytes(field: &str, file: impl Into<String>, value: i64) -> Setting {
    match value {
        ..0 => Setting::new(field, file, "max").where_present(true),
        value => Setting::new(field, file, value),
    }
}

fn unknown(field: &str) -> Error {
    Error::Value { field: field.into(), why: "does not exist on cgroup v2: leave it out".into() }
}
