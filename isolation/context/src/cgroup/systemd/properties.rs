//! The limits of a group in the words of systemd.resource-control(5).

use std::path::Path;

use zvariant::Value;

use crate::cgroup::file;

/// Files with one number, of which `max` is systemd's infinity as well.
const NUMBERS: [(&str, &str); 7] = [
    ("memory.min", "MemoryMin"),
    ("memory.low", "MemoryLow"),
    ("memory.high", "MemoryHigh"),
    ("memory.max", "MemoryMax"),
    ("memory.swap.max", "MemorySwapMax"),
    ("pids.max", "TasksMax"),
    ("cpu.weight", "CPUWeight"),
];

/// The properties for what the files in `dir` say: these are the values that the kernel has taken, in its rounding, and
/// those that systemd set itself stay as they are.
pub(super) fn of(dir: &Path) -> Vec<(&'static str, Value<'static>)> {
    let text = |name: &str| file::read(&dir.join(name)).ok();
    let mut properties = Vec::new();
    for (name, property) in NUMBERS {
        let number = text(name).as_deref().and_then(file::number);
        properties.extend(number.map(|number| (property, Value::from(number))));
    }
    if let Some((per_second, period)) = text("cpu.max").as_deref().and_then(quota) {
        properties.push(("CPUQuotaPerSecUSec", Value::from(per_second)));
        properties.push(("CPUQuotaPeriodUSec", Value::from(period)));
    }
    for (name, property) in [("cpuset.cpus", "AllowedCPUs"), ("cpuset.mems", "AllowedMemoryNodes")] {
        let mask = text(name).as_deref().and_then(mask);
        properties.extend(mask.map(|mask| (property, Value::from(mask))));
    }
    let weight = text("io.weight").as_deref().and_then(|text| file::keyed(text, "default"));
    properties.extend(weight.map(|weight| ("IOWeight", Value::from(weight))));
    properties
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
