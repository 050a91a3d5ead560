//! Reading the figures of `stats`.
//!
//! Processor time and the number of processes are read through cgroups-rs, whose figures the tests compare with the
//! kernel's. The rest is read directly: its memory figures are a fixed choice of those in `memory.stat` and its parser
//! panics on values it does not expect; its block-device figures hold device numbers in 16 bits.

use std::collections::BTreeMap;
use std::path::Path;

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::pid::PidController;

use super::stats::{
    Blkio, BlkioEntry, Cpu, CpuUsage, Cpuset, Hugetlb, Memory, MemoryEntry, Pids, Pressure, Stats, Throttling,
};
use super::{Cgroup, Error, Home, file};

impl Cgroup {
    /// Reads the figures of every controller that is there.
    pub fn stats(&self) -> Result<Stats, Error> {
        let mut stats = Stats::default();
        self.cpu_stats(&mut stats.cpu)?;
        if let Some(dir) = self.v1_dir("cpuset") {
            stats.cpuset = cpuset(dir)?;
        }
        match self.home("memory") {
            Some(Home::V1(dir)) => stats.memory = memory_v1(dir)?,
            Some(Home::V2(dir)) => stats.memory = memory_v2(dir)?,
            None => {}
        }
        if let Some(Home::V1(dir) | Home::V2(dir)) = self.home("pids") {
            stats.pids = pids(dir);
        }
        match self.home("blkio") {
            Some(Home::V1(dir)) => stats.blkio = blkio_v1(dir)?,
            Some(Home::V2(dir)) => stats.blkio = blkio_v2(dir)?,
            None => {}
        }
        match self.home("hugetlb") {
            Some(Home::V1(dir)) => stats.hugetlb = hugetlb(dir, "usage_in_bytes")?,
            Some(Home::V2(dir)) => stats.hugetlb = hugetlb(dir, "current")?,
            None => {}
        }
        if let Some(dir) = self.v2_dir() {
            stats.cpu.psi = pressure(dir, "cpu.pressure");
            stats.memory.psi = pressure(dir, "memory.pressure");
            stats.blkio.psi = pressure(dir, "io.pressure");
        }
        Ok(stats)
    }

    fn cpu_stats(&self, cpu: &mut Cpu) -> Result<(), Error> {
        let throttling = |stat: &str, time: &str, unit: u64| Throttling {
            periods: file::keyed(stat, "nr_periods").unwrap_or(0),
            throttled_periods: file::keyed(stat, "nr_throttled").unwrap_or(0),
            throttled_time: file::keyed(stat, time).unwrap_or(0) * unit,
        };
        let controller = |dir: &Path, v2| CpuController::new(dir.into(), dir.into(), v2).cpu().stat;
        if let Some(dir) = self.v1_dir("cpu") {
            cpu.throttling = throttling(&controller(dir, false), "throttled_time", 1);
        }
        if let Some(dir) = self.v1_dir("cpuacct") {
            cpu.usage = cpuacct(dir);
        } else if let Some(dir) = self.v2_dir() {
            // Every version 2 group has this file, with the controller on or not.
            let stat = controller(dir, true);
            let nanoseconds = |key| file::keyed(&stat, key).unwrap_or(0) * 1000;
            cpu.usage.total = nanoseconds("usage_usec");
            cpu.usage.kernel = nanoseconds("system_usec");
            cpu.usage.user = nanoseconds("user_usec");
            if self.v1_dir("cpu").is_none() {
                cpu.throttling = throttling(&stat, "throttled_usec", 1000);
            }
        }
        Ok(())
    }
}

fn cpuacct(dir: &Path) -> CpuUsage {
    let read = CpuAcctController::new(dir.into(), dir.into()).cpuacct();
    let numbers = |text: &str| text.split_whitespace().filter_map(file::number).collect();
    // `cpu user system`, one processor a line, under a heading.
    let column = |at: usize| {
        let cells = read.usage_all.lines().skip(1).filter_map(|line| line.split_whitespace().nth(at));
        cells.filter_map(file::number).collect()
    };
    // In ticks of USER_HZ, which is 100 on every architecture Linux has kept.
    let ticks = |key| file::keyed(&read.stat, key).unwrap_or(0) * (1_000_000_000 / 100);
    CpuUsage {
        total: read.usage,
        percpu: numbers(&read.usage_percpu),
        percpu_user: column(1),
        percpu_kernel: column(2),
        kernel: ticks("system"),
        user: ticks("user"),
    }
}

fn pids(dir: &Path) -> Pids {
    let controller = PidController::new(dir.into(), dir.into(), true);
    Pids {
        current: controller.get_pid_current().unwrap_or(0),
        limit: match controller.get_pid_max() {
            Ok(MaxValue::Value(limit)) => limit.try_into().unwrap_or(0),
            _ => 0,
        },
    }
}

fn cpuset(dir: &Path) -> Result<Cpuset, Error> {
    let text = |name: &str| file::read(&dir.join(format!("cpuset.{name}")));
    let flag = |name: &str| text(name).map(|text| file::number(&text).unwrap_or(0));
    Ok(Cpuset {
        cpus: ranges(&text("cpus")?),
        cpu_exclusive: flag("cpu_exclusive")?,
        mems: ranges(&text("mems")?),
        mem_hardwall: flag("mem_hardwall")?,
        mem_exclusive: flag("mem_exclusive")?,
        memory_migrate: flag("memory_migrate")?,
        memory_spread_page: flag("memory_spread_page")?,
        memory_spread_slab: flag("memory_spread_slab")?,
        memory_pressure: flag("memory_pressure")?,
        sched_load_balance: flag("sched_load_balance")?,
        sched_relax_domain_level: text("sched_relax_domain_level")?.trim().parse().unwrap_or(-1),
    })
}

/// `0-2,5` as single numbers.
pub(super) fn ranges(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

fn raw(dir: &Path) -> Result<BTreeMap<String, u64>, Error> {
    let text = file::read(&dir.join("memory.stat"))?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(k, v)| Some((k.into(), file::number(v)?)))
        .collect())
}

fn memory_v1(dir: &Path) -> Result<Memory, Error> {
    let entry = |name: &str| {
        let count = |file: &str| {
            let text = file::value_if_present(&dir.join(format!("memory.{name}{file}")))?;
            Ok::<_, Error>(text.and_then(|text| file::number(&text)).unwrap_or(0))
        };
        Ok::<_, Error>(MemoryEntry {
            limit: count("limit_in_bytes")?,
            usage: count("usage_in_bytes")?,
            max: count("max_usage_in_bytes")?,
            failcnt: count("failcnt")?,
        })
    };
    let raw = raw(dir)?;
    Ok(Memory {
        cache: raw.get("cache").copied().unwrap_or(0),
        usage: entry("")?,
        swap: entry("memsw.")?,
        kernel: entry("kmem.")?,
        kernel_tcp: entry("kmem.tcp.")?,
        raw,
        psi: None,
    })
}

fn memory_v2(dir: &Path) -> Result<Memory, Error> {
    let count = |name: &str| {
        let text = file::value_if_present(&dir.join(name))?;
        Ok::<_, Error>(text.and_then(|text| file::number(&text)).unwrap_or(0))
    };
    let events = file::value_if_present(&dir.join("memory.events"))?.unwrap_or_default();
    let raw = raw(dir)?;
    let usage = MemoryEntry {
        limit: count("memory.max")?,
        usage: count("memory.current")?,
        max: count("memory.peak")?,
        failcnt: file::keyed(&events, "max").unwrap_or(0),
    };
    let swap = MemoryEntry {
        limit: usage.limit.saturating_add(count("memory.swap.max")?),
        usage: usage.usage + count("memory.swap.current")?,
        ..MemoryEntry::default()
    };
    Ok(Memory { cache: raw.get("file").copied().unwrap_or(0), usage, swap, raw, ..Memory::default() })
}

fn blkio_v1(dir: &Path) -> Result<Blkio, Error> {
    // BFQ counts what it schedules, the throttling layer counts everything.
    let entries = |name: &str| -> Result<Vec<BlkioEntry>, Error> {
        let text = file::value_if_present(&dir.join(format!("blkio.throttle.{name}")))?.unwrap_or_default();
        // `8:0 Read 4096`, and a last line `Total 4096`.
        let entry = |line: &str| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let (op, value) = (words.next()?, words.next()?);
            Some(BlkioEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                op: op.into(),
                value: value.parse().ok()?,
            })
        };
        Ok(text.lines().filter_map(entry).collect())
    };
    Ok(Blkio {
        io_service_bytes_recursive: entries("io_service_bytes_recursive")?,
        io_serviced_recursive: entries("io_serviced_recursive")?,
        psi: None,
    })
}

fn blkio_v2(dir: &Path) -> Result<Blkio, Error> {
    Ok(io_stat(&file::value_if_present(&dir.join("io.stat"))?.unwrap_or_default()))
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`, one device a line.
pub(super) fn io_stat(text: &str) -> Blkio {
    let mut blkio = Blkio::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut blkio.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut blkio.io_service_bytes_recursive, "Write"),
                "dbytes" => (&mut blkio.io_service_bytes_recursive, "Discard"),
                "rios" => (&mut blkio.io_serviced_recursive, "Read"),
                "wios" => (&mut blkio.io_serviced_recursive, "Write"),
                "dios" => (&mut blkio.io_serviced_recursive, "Discard"),
                _ => continue,
            };
            list.push(BlkioEntry { major, minor, op: op.into(), value: file::number(value).unwrap_or(0) });
        }
    }
    blkio
}

/// The page sizes are those the kernel made files for.
fn hugetlb(dir: &Path, usage: &str) -> Result<BTreeMap<String, Hugetlb>, Error> {
    let mut sizes = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return Ok(sizes) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((size, rest)) = name.strip_prefix("hugetlb.").and_then(|name| name.split_once('.')) else {
            continue;
        };
        if rest != usage {
            continue;
        }
        let read = |file: &str| file::value_if_present(&dir.join(format!("hugetlb.{size}.{file}")));
        let count =
            |file: &str| Ok::<_, Error>(read(file)?.and_then(|text| file::number(&text)).unwrap_or(0));
        let events = read("events")?.unwrap_or_default();
        let failcnt = file::keyed(&events, "max").map_or_else(|| count("failcnt"), Ok)?;
        sizes.insert(
            size.into(),
            Hugetlb { usage: count(usage)?, max: count("max_usage_in_bytes")?, failcnt },
        );
    }
    Ok(sizes)
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, then `full`; absent or unreadable where the kernel has it off.
fn pressure(dir: &Path, name: &str) -> Option<Pressure> {
    stalls(&file::read(&dir.join(name)).ok()?)
}

pub(super) fn stalls(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let target = match words.next()? {
            "some" => &mut pressure.some,
            "full" => &mut pressure.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => target.avg10 = value.parse().ok()?,
                "avg60" => target.avg60 = value.parse().ok()?,
                "avg300" => target.avg300 = value.parse().ok()?,
                "total" => target.total = value.parse().ok()?,
                _ => {}
            }
        }
    }
    Some(pressure)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test may panic")]
mod tests {
    use super::*;

    #[test]
    fn lists_of_ranges_become_numbers() {
        assert_eq!(ranges("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(ranges("\n"), [0_u16; 0]);
    }

    #[test]
    fn io_stat_has_bytes_and_operations_of_large_device_numbers() {
        let blkio = io_stat("259:70000 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n7:0 \n");
        let entry = |op: &str, value| BlkioEntry { major: 259, minor: 70000, op: op.into(), value };
        assert_eq!(
            blkio.io_service_bytes_recursive,
            [entry("Read", 1), entry("Write", 2), entry("Discard", 5)]
        );
        assert_eq!(blkio.io_serviced_recursive, [entry("Read", 3), entry("Write", 4), entry("Discard", 6)]);
    }
}
