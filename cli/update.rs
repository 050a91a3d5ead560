//! `vctx update`: new limits, from options or as JSON.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use vctx_storage::quota::{self, Limits};

use crate::args::{Global, UpdateArgs};
use crate::create::store;
use crate::error::Error;
use crate::exit::ExitCode;
use crate::values::Size;

/// Runs the verb.
pub(crate) fn run(global: &Global, args: UpdateArgs) -> Result<ExitCode, Error> {
    let resources = match &args.resources {
        Some(path) => read(path)?,
        None => from_options(&args)?,
    };
    let limits = disk_limits(args.disk_size, args.disk_inodes);
    if limits != Limits::default() {
        let context = store(global).open(&args.id)?;
        let folder = context.state.own.first().ok_or_else(|| Error::NoChanges(args.id.clone()))?;
        quota::change(folder, limits)?;
        if resources == LinuxResources::default() && args.net_rate.is_none() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    vctx_runtime::update::update(&store(global), &args.id, &resources, args.net_rate)?;
    Ok(ExitCode::SUCCESS)
}

/// As the quota has them.
pub(crate) fn disk_limits(size: Option<Size>, inodes: Option<u64>) -> Limits {
    let bytes = |size| match size {
        Size::Bytes(bytes) => bytes,
        Size::Max => 0,
    };
    Limits { bytes: size.map(bytes), inodes }
}

fn read(path: &Path) -> Result<LinuxResources, Error> {
    let fail = |source| Error::ReadResources { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().take(1 << 20).read_to_end(&mut bytes).map_err(fail)?;
    } else {
        bytes = fs::read(path).map_err(fail)?;
    }
    vctx_runtime::update::parse(&bytes)
        .map_err(|source| Error::ParseResources { path: path.to_owned(), source })
}

fn from_options(args: &UpdateArgs) -> Result<LinuxResources, Error> {
    if args.l3_cache_schema.is_some() || args.mem_bw_schema.is_some() {
        return Err(Error::NoResctrl);
    }
    let mut resources = LinuxResources::default();
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(args.cpu_share)
        .set_quota(args.cpu_quota)
        .set_period(args.cpu_period)
        .set_burst(args.cpu_burst)
        .set_realtime_runtime(args.cpu_rt_runtime)
        .set_realtime_period(args.cpu_rt_period)
        .set_idle(args.cpu_idle)
        .set_cpus(args.cpuset_cpus.clone())
        .set_mems(args.cpuset_mems.clone());
    if cpu != LinuxCpu::default() {
        resources.set_cpu(Some(cpu));
    }
    let bytes = |size: &Option<crate::values::Size>| size.map(crate::values::Size::as_oci);
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(bytes(&args.memory))
        .set_reservation(bytes(&args.memory_reservation))
        .set_swap(bytes(&args.memory_swap));
    if memory != LinuxMemory::default() {
        resources.set_memory(Some(memory));
    }
    if let Some(limit) = args.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if args.blkio_weight.is_some() {
        let mut block = LinuxBlockIo::default();
        block.set_weight(args.blkio_weight);
        resources.set_block_io(Some(block));
    }
    Ok(resources)
}
