//! The limits of a group in the words of systemd.resource-control(5).

use std::path::Path;

use zvariant::Value;

use crate::cgroup::{Cgroup, file};

/// Version 2: files with one number, of which `max` is systemd's infinity as well.
const NUMBERS: [(&str, &str); 7] = [
    ("memory.min", "MemoryMin"),
    ("memory.low", "MemoryLow"),
    ("memory.high", "MemoryHigh"),
    ("memory.max", "MemoryMax"),
    ("memory.swap.max", "MemorySwapMax"),
    ("pids.max", "TasksMax"),
    ("cpu.weight", "CPUWeight"),
];

/// Version 1: controller, file with one number, property.
const V1_NUMBERS: [(&str, &str, &str); 3] = [
    ("memory", "memory.limit_in_bytes", "MemoryLimit"),
    ("cpu", "cpu.shares", "CPUShares"),
    ("pids", "pids.max", "TasksMax"),
];

/// The largest limit of memory that version 1 knows; it stands for none.
const UNLIMITED: u64 = i64::MAX as u64 & !4095;

type Properties = Vec<(&'static str, Value<'static>)>;

/// The properties for what the group's files say: these are the values that the kernel has taken, in its rounding, and
/// those that systemd set itself stay as they are. The two versions never have the same controller.
pub(super) fn of(group: &Cgroup) -> Properties {
    let mut properties = of_v1(group);
    properties.extend(group.v2_dir().map(of_v2).into_iter().flatten());
    properties
}

fn of_v1(group: &Cgroup) -> Properties {
    let text = |controller: &str, name: &str| file::read(&group.v1_dir(controller)?.join(name)).ok();
    let mut properties = Vec::new();
    for (controller, name, property) in V1_NUMBERS {
        let number = text(controller, name).as_deref().and_then(file::number);
        let number = number.map(|number| if number >= UNLIMITED { u64::MAX } else { number });
        properties.extend(number.map(|number| (property, Value::from(number))));
    }
    if let (Some(quota), Some(period)) = (text("cpu", "cpu.cfs_quota_us"), text("cpu", "cpu.cfs_period_us")) {
        let quota_text = if quota.trim() == "-1" { "max" } else { quota.trim() };
        properties.extend(of_quota(&format!("{quota_text} {period}")));
    }
    // systemd knows the file of CFQ only, and its range.
    let weight = text("blkio", "blkio.weight").as_deref().and_then(file::number);
    let weight = weight.filter(|weight| (10..=1000).contains(weight));
    properties.extend(weight.map(|weight| ("BlockIOWeight", Value::from(weight))));
    properties
}

fn of_v2(dir: &Path) -> Properties {
    let text = |name: &str| file::read(&dir.join(name)).ok();
    let mut properties = Vec::new();
    for (name, property) in NUMBERS {
        let number = text(name).as_deref().and_then(file::number);
        properties.extend(number.map(|number| (property, Value::from(number))));
    }
    properties.extend(text("cpu.max").map(|text| of_quota(&text)).into_iter().flatten());
    for (name, property) in [("cpuset.cpus", "AllowedCPUs"), ("cpuset.mems", "AllowedMemoryNodes")] {
        let mask = text(name).as_deref().and_then(mask);
        properties.extend(mask.map(|mask| (property, Value::from(mask))));
    }
    let weight = text("io.weight").as_deref().and_then(|text| file::keyed(text, "default"));
    properties.extend(weight.map(|weight| ("IOWeight", Value::from(weight))));
    properties
}

fn of_quota(text: &str) -> Properties {
    let Some((per_second, period)) = quota(text) else { return Vec::new() };
    vec![("CPUQuotaPerSecUSec", Value::from(per_second)), ("CPUQuotaPeriodUSec", Value::from(period))]
}

/// Microseconds in a second, and the period, of `cpu.max`.
fn quota(text: &str) -> Option<(u64, u64)> {
    let (quota, period) = text.trim().split_once(' ')?;
    let period: u64 = period.parse().ok()?;
    match file::number(quota)? {
        u64::MAX => Some((u64::MAX, period)),
        quota => Some(((u128::from(quota) * 1_000_000).checked_div(period.into())? as u64, period)),
    }
}

/// A list such as `0-2,7` as bits, the lowest first; none for the empty list.
fn mask(list: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        for bit in first.parse::<usize>().ok()?..=last.parse().ok()? {
            if mask.len() <= bit / 8 {
                mask.resize(bit / 8 + 1, 0);
            }
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    (!mask.is_empty()).then_some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_processors_becomes_bits() {
        assert_eq!(mask("0-2,9\n"), Some(vec![0b111, 0b10]));
        assert_eq!(mask("\n"), None);
    }

    #[test]
    fn a_quota_is_a_share_of_each_second() {
        assert_eq!(quota("50000 200000\n"), Some((250_000, 200_000)));
        assert_eq!(quota("max 100000\n"), Some((u64::MAX, 100_000)));
    }
}
