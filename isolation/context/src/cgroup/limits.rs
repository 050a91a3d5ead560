//! Applying `linux.resources`: each section becomes a list of settings for the version its controller lives in, and
//! the list is written until the kernel has taken all of it.

use std::collections::HashMap;
use std::path::Path;

use oci_spec::runtime::{LinuxMemory, LinuxResources};
use rustix::io::Errno;

use super::validate::controller;
use super::{Cgroup, Error, Home, Mode, file, v1, v2};

/// One value for one control file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Setting {
    /// The name in the configuration, below `linux.resources`.
    pub(super) field: String,
    pub(super) file: String,
    pub(super) value: String,
    /// Skipped where the file does not exist: values that mean "no limit", and extras of newer kernels.
    pub(super) optional: bool,
}

impl Setting {
    pub(super) fn new(field: impl Into<String>, file: impl Into<String>, value: impl ToString) -> Setting {
        Setting { field: field.into(), file: file.into(), value: value.to_string(), optional: false }
    }

    /// The setting, which is optional when `condition` holds.
    pub(super) fn where_present(mut self, condition: bool) -> Setting {
        self.optional |= condition;
        self
    }
}

/// The files of one controller as a translation sees them: there may be none.
pub(super) struct Files<'a>(pub(super) Option<&'a Path>);

impl Files<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.is_some_and(|dir| dir.join(name).exists())
    }

    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.0.and_then(|dir| file::read(&dir.join(name)).ok())
    }
}

type Settings = Result<Vec<Setting>, Error>;

impl Cgroup {
    /// Writes all limits and the device rules. A limit whose controller or file is missing is an error that names its
    /// field; a value that means "unlimited" is then skipped. Units are those of the runtime specification: bytes,
    /// microseconds.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        if let Some(devices) = resources.devices() {
            self.apply_devices(devices)?;
        }
        if let Some(memory) = resources.memory() {
            self.apply_memory(memory)?;
        }
        if let Some(cpu) = resources.cpu() {
            self.put("cpuset", "cpuset", |_| Ok(v1::cpuset(cpu)), |_| Ok(v1::cpuset(cpu)))?;
            self.put("cpu", "cpu", |_| Ok(v1::cpu(cpu)), |files| v2::cpu(cpu, files))?;
        }
        if let Some(pids) = resources.pids() {
            self.put("pids", "pids", |_| Ok(v1::pids(pids)), |_| Ok(v1::pids(pids)))?;
        }
        if let Some(io) = resources.block_io() {
            self.put("blkio", "io", |files| Ok(v1::block_io(io, files)), |files| v2::block_io(io, files))?;
        }
        if let Some(limits) = resources.hugepage_limits() {
            self.put("hugetlb", "hugetlb", |_| v1::hugepages(limits), |_| v2::hugepages(limits))?;
        }
        if let Some(rdma) = resources.rdma() {
            self.put("rdma", "rdma", |_| v1::rdma(rdma), |_| v1::rdma(rdma))?;
        }
        if let Some(network) = resources.network() {
            self.put("net_cls", "net_cls", |_| Ok(v1::net_class(network)), |_| Ok(v1::net_class(network)))?;
            self.put(
                "net_prio",
                "net_prio",
                |_| v1::net_priorities(network),
                |_| v1::net_priorities(network),
            )?;
        }
        if let Some(unified) = resources.unified() {
            self.apply_unified(unified)?;
        }
        let only_devices = LinuxResources::default().set_devices(resources.devices().clone()) == resources;
        match &self.scope {
            Some(scope) if !only_devices => scope.tell(self).and_then(|()| self.take_back(scope)),
            _ => Ok(()),
        }
    }

    /// Where `controller` (its version 1 name) can be read. On version 2 it must have been enabled.
    pub(super) fn home(&self, controller: &str) -> Option<Home<'_>> {
        if let Some(dir) = self.v1_dir(controller) {
            return Some(Home::V1(dir));
        }
        let name = if controller == "blkio" { "io" } else { controller };
        let dir = self.v2_dir()?;
        let enabled = file::read(&dir.join("cgroup.controllers")).ok()?;
        enabled.split_whitespace().any(|word| word == name).then_some(Home::V2(dir))
    }

    /// Writes one section's settings to the hierarchy that has its controller.
    fn put(
        &self,
        v1_name: &str,
        v2_name: &str,
        v1: impl FnOnce(&Files) -> Settings,
        v2: impl FnOnce(&Files) -> Settings,
    ) -> Result<(), Error> {
        if let Some(dir) = self.v1_dir(v1_name) {
            return self.settle(dir, v1(&Files(Some(dir)))?);
        }
        let settings = match self.v2_dir() {
            Some(dir) => v2(&Files(Some(dir)))?,
            None => v1(&Files(None))?,
        };
        if let Some(limit) = settings.iter().find(|setting| !setting.optional)
            && !self.enable(v2_name)?
        {
            let name = if self.mode == Mode::V2 { v2_name } else { v1_name };
            return Err(self.missing(&limit.field, format!("the {name} controller")));
        }
        self.settle(self.v2_dir().unwrap_or(Path::new("")), settings)
    }

    /// Writes the settings in order. Some depend on each other (memory must not exceed memory plus swap, a burst its
    /// quota) and whether a value must come first depends on the values before: what is refused as invalid is tried
    /// again after the others, as long as that helps.
    fn settle(&self, dir: &Path, mut settings: Vec<Setting>) -> Result<(), Error> {
        while !settings.is_empty() {
            let before = settings.len();
            let mut refused = None;
            let mut later = Vec::new();
            for setting in settings {
                match file::write(&dir.join(&setting.file), &setting.value, &setting.field) {
                    Ok(()) => {}
                    Err(error) if error.is_absent() && setting.optional => {}
                    Err(error) if error.is_absent() && dir.exists() => {
                        return Err(self.missing(setting.field, format!("the file {}", setting.file)));
                    }
                    Err(error) if error.write_errno() == Some(Errno::INVAL) => {
                        refused.get_or_insert(error);
                        later.push(setting);
                    }
                    Err(error) => return Err(error),
                }
            }
            match refused {
                Some(error) if later.len() == before => return Err(error),
                _ => settings = later,
            }
        }
        Ok(())
    }

    fn apply_memory(&self, memory: &LinuxMemory) -> Result<(), Error> {
        let limit = memory.limit().filter(|limit| *limit > 0);
        if let (Some(limit), Some(true)) = (limit, memory.check_before_update()) {
            let usage = self.memory_after_reclaim(limit as u64)?;
            if usage > limit as u64 {
                return Err(Error::MemoryInUse { limit, usage });
            }
        }
        let result = self.put("memory", "memory", |_| v1::memory(memory), |files| v2::memory(memory, files));
        match (result, limit) {
            // Version 1 refuses a limit that it cannot reclaim down to.
            (Err(error), Some(limit)) if error.write_errno() == Some(Errno::BUSY) => {
                let usage = self.memory_usage().unwrap_or(0);
                Err(if usage > limit as u64 { Error::MemoryInUse { limit, usage } } else { error })
            }
            (result, _) => result,
        }
    }

    /// The memory in use, after asking the kernel to bring it down to `limit`.
    fn memory_after_reclaim(&self, limit: u64) -> Result<u64, Error> {
        let usage = self.memory_usage()?;
        if let (Some(Home::V2(dir)), Some(excess)) = (self.home("memory"), usage.checked_sub(limit))
            && excess > 0
        {
            // Since Linux 5.19. It fails when it cannot free all of it, which the usage tells as well.
            let _ = file::write(&dir.join("memory.reclaim"), &excess.to_string(), "memory.reclaim");
            return self.memory_usage();
        }
        Ok(usage)
    }

    pub(super) fn memory_usage(&self) -> Result<u64, Error> {
        match self.home("memory") {
            Some(Home::V1(dir)) => file::read_number(&dir.join("memory.usage_in_bytes")),
            Some(Home::V2(dir)) => file::read_number(&dir.join("memory.current")),
            None => Ok(0),
        }
    }

    /// Writes the files that `linux.resources.unified` names, as they are.
    fn apply_unified(&self, unified: &HashMap<String, String>) -> Result<(), Error> {
        let mut entries: Vec<_> = unified.iter().collect();
        entries.sort_unstable();
        for (name, value) in entries {
            let field = format!("unified.{name}");
            let controller = controller(name)?;
            let Some(dir) = self.v2_dir() else {
                return Err(self.missing(field, "the unified hierarchy"));
            };
            let path = dir.join(name);
            if !path.exists() && controller != "cgroup" && !self.enable(controller)? {
                return Err(self.missing(field, format!("the {controller} controller of version 2")));
            }
            // io.max and its like take one device a write.
            for line in value.lines().filter(|line| !line.is_empty()) {
                match file::write(&path, line, &field) {
                    Err(error) if error.is_absent() && dir.exists() => {
                        return Err(self.missing(field, format!("the file {name}")));
                    }
                    result => result?,
                }
            }
        }
        Ok(())
    }
}
