//! The limits in the words of version 1 (Documentation/admin-guide/cgroup-v1), and those that both versions share.

use std::collections::HashMap;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxPids, LinuxRdma,
    LinuxThrottleDevice,
};

use super::Error;
use super::limits::{Files, Setting};

/// Memory. The kernel no longer keeps separate limits for kernel memory (Linux 5.16), and those for TCP buffers count
/// towards the whole: `kernel` and `kernelTCP` are not applied, as in all runtimes.
pub(super) fn memory(memory: &LinuxMemory) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    let limit = memory.limit().filter(|limit| *limit != 0);
    // No memory limit implies no limit of memory plus swap, which otherwise could not be above it.
    let swap = memory.swap().filter(|swap| *swap != 0).or(limit.filter(|limit| *limit < 0));
    if let (Some(limit), Some(swap)) = (limit, swap) {
        swap_covers(limit, swap)?;
    }
    if let Some(limit) = limit {
        settings.push(number("memory.limit", "memory.limit_in_bytes", limit));
    }
    if let Some(swap) = swap {
        settings.push(number("memory.swap", "memory.memsw.limit_in_bytes", swap));
    }
    if let Some(reservation) = memory.reservation().filter(|reservation| *reservation != 0) {
        settings.push(number("memory.reservation", "memory.soft_limit_in_bytes", reservation));
    }
    if let Some(swappiness) = memory.swappiness() {
        settings.push(Setting::new("memory.swappiness", "memory.swappiness", swappiness));
    }
    if memory.disable_oom_killer() == Some(true) {
        settings.push(Setting::new("memory.disableOOMKiller", "memory.oom_control", 1));
    }
    if memory.use_hierarchy() == Some(true) {
        settings.push(Setting::new("memory.useHierarchy", "memory.use_hierarchy", 1));
    }
    Ok(settings)
}

/// `memory.swap` is the sum of memory and swap, so it cannot be less than the memory.
pub(super) fn swap_covers(limit: i64, swap: i64) -> Result<(), Error> {
    let why = match (limit, swap) {
        (_, ..0) => return Ok(()),
        (..0, _) => "is limited while memory.limit is not: limit both or neither".into(),
        _ if swap < limit => {
            format!("of {swap} bytes is less than memory.limit of {limit}: it is the sum of both")
        }
        _ => return Ok(()),
    };
    Err(Error::Value { field: "memory.swap".into(), why })
}

/// Processor time.
pub(super) fn cpu(cpu: &LinuxCpu) -> Vec<Setting> {
    let mut settings = idle(cpu, 0);
    // An idle group has no shares, and the kernel refuses to set them.
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0 && cpu.idle() != Some(1)) {
        settings.push(Setting::new("cpu.shares", "cpu.shares", shares));
    }
    if let Some(period) = cpu.period().filter(|period| *period != 0) {
        settings.push(Setting::new("cpu.period", "cpu.cfs_period_us", period));
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        settings.push(number("cpu.quota", "cpu.cfs_quota_us", quota));
    }
    if let Some(burst) = cpu.burst() {
        settings.push(Setting::new("cpu.burst", "cpu.cfs_burst_us", burst).where_present(burst == 0));
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        settings.push(Setting::new("cpu.realtimePeriod", "cpu.rt_period_us", period));
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        settings.push(number("cpu.realtimeRuntime", "cpu.rt_runtime_us", runtime));
    }
    settings.extend(idle(cpu, 1));
    settings
}

/// `cpu.idle` when it is `value`: turned off before, and on after, the shares are set. Same file on both versions.
pub(super) fn idle(cpu: &LinuxCpu, value: i64) -> Vec<Setting> {
    let asked = cpu.idle().filter(|idle| *idle == value);
    asked
        .map(|idle| Setting::new("cpu.idle", "cpu.idle", idle).where_present(idle == 0))
        .into_iter()
        .collect()
}

/// Processors and memory nodes; same files on both versions.
pub(super) fn cpuset(cpu: &LinuxCpu) -> Vec<Setting> {
    let given = |list: &Option<String>, field, file| {
        list.as_deref().filter(|list| !list.is_empty()).map(|list| Setting::new(field, file, list))
    };
    // The nodes first: of the two, only they can be all that another group has.
    let mems = given(cpu.mems(), "cpu.mems", "cpuset.mems");
    mems.into_iter().chain(given(cpu.cpus(), "cpu.cpus", "cpuset.cpus")).collect()
}

/// Number of processes; same file on both versions. 0 is the absence of a value in most configurations.
pub(super) fn pids(pids: &LinuxPids) -> Vec<Setting> {
    match pids.limit() {
        0 => Vec::new(),
        ..0 => vec![Setting::new("pids.limit", "pids.max", "max").where_present(true)],
        limit => vec![Setting::new("pids.limit", "pids.max", limit)],
    }
}

/// Block devices.
pub(super) fn block_io(io: &LinuxBlockIo, files: &Files) -> Vec<Setting> {
    let mut settings = Vec::new();
    // CFQ's files went with Linux 5.0; BFQ has its own.
    let bfq = files.has("blkio.bfq.weight") && !files.has("blkio.weight");
    let (weight, weight_device) = match bfq {
        true => ("blkio.bfq.weight", "blkio.bfq.weight_device"),
        false => ("blkio.weight", "blkio.weight_device"),
    };
    if let Some(value) = io.weight().filter(|weight| *weight != 0) {
        settings.push(Setting::new("blockIO.weight", weight, value));
    }
    if let Some(value) = io.leaf_weight().filter(|weight| *weight != 0) {
        settings.push(Setting::new("blockIO.leafWeight", "blkio.leaf_weight", value));
    }
    for device in io.weight_device().iter().flatten() {
        let line = |value| format!("{}:{} {value}", device.major(), device.minor());
        if let Some(value) = device.weight().filter(|weight| *weight != 0) {
            settings.push(Setting::new("blockIO.weightDevice", weight_device, line(value)));
        }
        if let Some(value) = device.leaf_weight().filter(|weight| *weight != 0) {
            settings.push(Setting::new("blockIO.weightDevice", "blkio.leaf_weight_device", line(value)));
        }
    }
    for throttle in THROTTLES {
        for device in (throttle.devices)(io).iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            settings.push(
                Setting::new(throttle.field, throttle.v1_file, value).where_present(device.rate() == 0),
            );
        }
    }
    settings
}

/// One of the four rates of a block device.
pub(super) struct Throttle {
    pub(super) field: &'static str,
    v1_file: &'static str,
    /// The key in version 2's `io.max`.
    pub(super) v2_key: &'static str,
    pub(super) devices: fn(&LinuxBlockIo) -> &Option<Vec<LinuxThrottleDevice>>,
}

/// Bytes and operations a second, read and written.
pub(super) const THROTTLES: [Throttle; 4] = [
    Throttle {
        field: "blockIO.throttleReadBpsDevice",
        v1_file: "blkio.throttle.read_bps_device",
        v2_key: "rbps",
        devices: LinuxBlockIo::throttle_read_bps_device,
    },
    Throttle {
        field: "blockIO.throttleWriteBpsDevice",
        v1_file: "blkio.throttle.write_bps_device",
        v2_key: "wbps",
        devices: LinuxBlockIo::throttle_write_bps_device,
    },
    Throttle {
        field: "blockIO.throttleReadIOPSDevice",
        v1_file: "blkio.throttle.read_iops_device",
        v2_key: "riops",
        devices: LinuxBlockIo::throttle_read_iops_device,
    },
    Throttle {
        field: "blockIO.throttleWriteIOPSDevice",
        v1_file: "blkio.throttle.write_iops_device",
        v2_key: "wiops",
        devices: LinuxBlockIo::throttle_write_iops_device,
    },
];

/// Huge pages.
pub(super) fn hugepages(limits: &[LinuxHugepageLimit]) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    for limit in limits {
        let size = page_size(limit)?;
        settings.push(number("hugepageLimits", format!("hugetlb.{size}.limit_in_bytes"), limit.limit()));
        // Linux 5.7 also limits reservations: mmap(2) then fails, where else the first touch would end in SIGBUS.
        let reserved = format!("hugetlb.{size}.rsvd.limit_in_bytes");
        settings.push(number("hugepageLimits", reserved, limit.limit()).where_present(true));
    }
    Ok(settings)
}

/// The page size as it appears in file names, `64KB` to `16GB`; nothing else may become part of a path.
pub(super) fn page_size(limit: &LinuxHugepageLimit) -> Result<&str, Error> {
    let size = limit.page_size().as_str();
    let digits = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit));
    match digits {
        Some(digits)
            if (1..=20).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            Ok(size)
        }
        _ => Err(Error::Value {
            field: "hugepageLimits.pageSize".into(),
            why: format!("{size:?} is not a page size such as 2MB"),
        }),
    }
}

/// Remote DMA; same file on both versions.
pub(super) fn rdma(limits: &HashMap<String, LinuxRdma>) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    for (device, limit) in limits {
        one_word("rdma", device)?;
        let amount = |value: Option<u32>| value.map_or("max".to_owned(), |value| value.to_string());
        let value = format!(
            "{device} hca_handle={} hca_object={}",
            amount(limit.hca_handles()),
            amount(limit.hca_objects())
        );
        let free = limit.hca_handles().is_none() && limit.hca_objects().is_none();
        settings.push(Setting::new(format!("rdma.{device}"), "rdma.max", value).where_present(free));
    }
    settings.sort_by(|a, b| a.field.cmp(&b.field));
    Ok(settings)
}

/// The class of network packets; there is no such controller on version 2.
pub(super) fn net_class(network: &LinuxNetwork) -> Vec<Setting> {
    let class = network.class_id();
    class
        .map(|id| Setting::new("network.classID", "net_cls.classid", id).where_present(id == 0))
        .into_iter()
        .collect()
}

/// The priority of network packets by interface; there is no such controller on version 2.
pub(super) fn net_priorities(network: &LinuxNetwork) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    for entry in network.priorities().iter().flatten() {
        one_word("network.priorities", entry.name())?;
        let value = format!("{} {}", entry.name(), entry.priority());
        settings.push(Setting::new("network.priorities", "net_prio.ifpriomap", value));
    }
    Ok(settings)
}

/// A name that goes into a line of a control file must not be able to bring more words or lines.
fn one_word(field: &str, name: &str) -> Result<(), Error> {
    if name.is_empty() || name.len() > 255 || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        let shown: String = name.chars().take(40).collect();
        return Err(Error::Value {
            field: field.into(),
            why: format!("names {shown:?}, which is not one word of up to 255 bytes"),
        });
    }
    Ok(())
}

/// A number of which a negative one means no limit.
fn number(field: &str, file: impl Into<String>, value: i64) -> Setting {
    Setting::new(field, file, value.max(-1)).where_present(value < 0)
}
