//! A context's control group, driven through cgroupfs on v1, hybrid and v2 machines.
//!
//! Its life in the order of a start: [`Layout::detect`], [`Cgroup::plan`] (stored in the context's state before the
//! first directory exists), [`Cgroup::create`], [`Cgroup::apply`], [`Cgroup::join`] handed to the clone; later
//! [`Cgroup::stats`], [`Cgroup::freeze`], [`Cgroup::kill_all`]; at the end [`Cgroup::remove`].
//!
//! Only `plan` decides where a group lives; all else works from the directories it chose. The second driver, `systemd`,
//! has its own way to plan ([`Cgroup::plan_scope`]), create and remove, and shares the rest.

mod addresses;
mod devices;
mod error;
mod figures;
mod file;
mod freeze;
#[cfg(fuzzing)]
pub mod fuzzing;
mod layout;
mod limits;
mod oom;
mod procs;
mod program;
mod stats;
mod systemd;
mod tree;
mod v1;
mod v2;
mod validate;

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode as FileMode, OFlags, open};
use serde::{Deserialize, Serialize};
use vctx_child::handshake::MOST_GROUPS;

pub use addresses::Addresses;
pub use devices::default_devices;
pub use error::Error;
pub use layout::{Layout, Mode};
pub use oom::{OomEvents, OomReading};
pub use stats::{
    Blkio, BlkioEntry, Cpu, CpuUsage, Cpuset, Hugetlb, Memory, MemoryEntry, Pids, Pressure, PressureLine,
    Stats, Throttling,
};
pub use tree::Created;
pub use validate::validate;

/// What the names of groups begin with whose path nobody chose. They have no parent of their own: it would have to be made
/// and removed, in every hierarchy, with the first and the last context.
const PREFIX: &str = "vctx-";

/// A context's group: one directory in each mounted hierarchy.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    mode: Mode,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    v1: Vec<Hierarchy>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    v2: Option<Hierarchy>,
    /// The group is a scope of systemd's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<systemd::Scope>,
}

/// The group's directory in one hierarchy.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    /// `cpu`, `cpuacct`, `name=systemd`; empty for the version 2 tree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    controllers: Vec<String>,
    /// Where the hierarchy is mounted.
    point: PathBuf,
    dir: PathBuf,
}

/// A place below a context's group, in the hierarchies of some controllers or in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subgroup {
    /// Names such as `cpu` and `name=systemd`; none stands for all hierarchies.
    pub controllers: Vec<String>,
    /// Path below the context's group; `/` is that group.
    pub path: String,
}

/// Where a controller's files are, for this group.
#[derive(Clone, Copy)]
enum Home<'a> {
    V1(&'a Path),
    V2(&'a Path),
}

/// What a process needs to enter the group at its birth. Without a group it is empty.
#[derive(Debug, Default)]
pub struct Join {
    /// The `tasks` file of each version 1 hierarchy, into which the child writes `0`. A task that moves itself through
    /// `tasks` spares the kernel the global thread-group lock, and so the RCU grace period that a write of a pid to
    /// `cgroup.procs` waits for; the child must still be single-threaded.
    pub tasks: Vec<OwnedFd>,
    /// The directory in the version 2 tree, for `CLONE_INTO_CGROUP`.
    pub unified: Option<OwnedFd>,
}

/// What a mount of type `cgroup` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindSources {
    /// The name of each directory below `/sys/fs/cgroup` and the host path of the context's own group there. On
    /// version 2 there is one, and its name is empty: it is the mount itself.
    pub directories: Vec<(String, PathBuf)>,
    /// Links for controllers that share a hierarchy: name and target, such as `cpu` and `cpu,cpuacct`.
    pub links: Vec<(String, String)>,
}

impl Cgroup {
    /// Decides where the group will be, without touching the machine. An absolute `cgroups_path` begins at the root of
    /// each hierarchy, a relative one at our own group; without one it is `/vctx-ID`.
    pub fn plan(layout: &Layout, cgroups_path: Option<&str>, id: &str) -> Result<Cgroup, Error> {
        let path = match cgroups_path.filter(|path| !path.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => single(id)?,
        };
        check(&path)?;
        let place = |mount: &layout::Mount| {
            let start = if path.is_absolute() { "" } else { mount.own.trim_matches('/') };
            // Collecting the components drops `.` and doubled slashes, which would upset later comparisons.
            let inner =
                Path::new(start).components().chain(path.components().filter(normal)).collect::<PathBuf>();
            Hierarchy {
                controllers: mount.controllers.clone(),
                point: mount.point.clone(),
                dir: mount.point.join(inner),
            }
        };
        Ok(Cgroup {
            mode: layout.mode,
            v1: layout.v1.iter().map(place).collect(),
            v2: layout.v2.as_ref().map(place),
            scope: None,
        })
    }

    /// The part that a process has to be born into, and the part that it can enter later at no cost: its groups of version 2,
    /// and those of version 1. A scope is one.
    #[must_use]
    pub fn parts(&self) -> (Option<Cgroup>, Option<Cgroup>) {
        if self.scope.is_some() || self.v1.is_empty() || self.v1.len() > MOST_GROUPS {
            return (Some(self.clone()), None);
        }
        let born = self.v2.clone().map(|v2| Cgroup { v1: Vec::new(), v2: Some(v2), ..self.clone() });
        (born, Some(Cgroup { v2: None, ..self.clone() }))
    }

    /// The group whose directories are those that `places` name below this one's, such as `exec --cgroup` does. A
    /// hierarchy that none of them names stays as it is.
    pub fn below(&self, places: &[Subgroup]) -> Result<Cgroup, Error> {
        let mut group = self.clone();
        group.scope = None;
        let mut taken = vec![false; self.hierarchies().count()];
        for place in places {
            let relative = place.path.trim_start_matches('/');
            if !relative.is_empty() {
                check(Path::new(relative))?;
            }
            let mut unknown = place.controllers.clone();
            let hierarchies = self.hierarchies().zip(group.v1.iter_mut().chain(&mut group.v2));
            for ((own, hierarchy), taken) in hierarchies.zip(&mut taken) {
                let here = own.controllers()?;
                if !place.controllers.is_empty() && !place.controllers.iter().any(|name| here.contains(name))
                {
                    continue;
                }
                unknown.retain(|name| !here.contains(name));
                let wanted = own.dir.join(relative);
                if *taken && hierarchy.dir != wanted {
                    return Err(Error::Path {
                        path: place.path.clone(),
                        why: "is the second for its hierarchy",
                    });
                }
                (hierarchy.dir, *taken) = (wanted, true);
            }
            if let Some(name) = unknown.first() {
                return Err(
                    self.missing(format!("the group {}", place.path), format!("the {name} controller"))
                );
            }
        }
        Ok(group)
    }

    /// The group in which `pid` is, where that is below this one in a hierarchy or this one is gone, else this one. A context that manages
    /// groups of its own (systemd) has left version 2's directory to be an inner node, which the kernel lets no
    /// process enter; a process that joins the context later goes where its init is.
    pub fn around(&self, pid: i32) -> Result<Cgroup, Error> {
        let membership = file::read(Path::new(&format!("/proc/{pid}/cgroup")))?;
        let mut group = self.clone();
        group.scope = None;
        for hierarchy in group.v1.iter_mut().chain(&mut group.v2) {
            let path = layout::path_of(&membership, &hierarchy.controllers);
            let inside = path.map(|path| hierarchy.point.join(path.trim_start_matches('/')));
            if let Some(dir) = inside
                .filter(|dir| dir.exists() && (dir.starts_with(&hierarchy.dir) || !hierarchy.dir.exists()))
            {
                hierarchy.dir = dir;
            }
        }
        Ok(group)
    }

    /// The kind of machine the group lives on.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The group's path below each hierarchy's root, with its controllers: what `state` and `info` show.
    pub fn directories(&self) -> impl Iterator<Item = (&[String], &Path)> {
        self.hierarchies().map(|hierarchy| (hierarchy.controllers.as_slice(), hierarchy.dir.as_path()))
    }

    /// True while any of the group's directories exists.
    pub fn exists(&self) -> bool {
        self.hierarchies().any(|hierarchy| hierarchy.dir.exists())
    }

    /// Opens what a new process needs to enter the group.
    pub fn join(&self) -> Result<Join, Error> {
        let fd = |path: PathBuf, flags| {
            open(&path, flags | OFlags::CLOEXEC, FileMode::empty())
                .map_err(|errno| Error::Open { path, source: errno.into() })
        };
        let mut join = Join { tasks: Vec::with_capacity(self.v1.len()), unified: None };
        for hierarchy in &self.v1 {
            join.tasks.push(fd(hierarchy.dir.join("tasks"), OFlags::WRONLY)?);
        }
        if let Some(dir) = self.v2_dir() {
            join.unified = Some(fd(dir.into(), OFlags::RDONLY | OFlags::DIRECTORY)?);
        }
        Ok(join)
    }

    /// Opens what a process needs to join the processes of a context that runs, of which `pid` is the first. That is the
    /// group itself, or where the first process is when the group is gone or has become an inner node of version 2.
    pub fn join_beside(&self, pid: i32) -> Result<Join, Error> {
        match self.join() {
            Ok(join) if !self.is_inner_node()? => Ok(join),
            Err(error) if !error.is_absent() => Err(error),
            _ => self.around(pid)?.join(),
        }
    }

    /// Controllers are enabled for the groups below: the kernel lets no process in beside them (cgroups(7), "No internal
    /// processes").
    fn is_inner_node(&self) -> Result<bool, Error> {
        let Some(dir) = self.v2_dir() else { return Ok(false) };
        let below = file::value_if_present(&dir.join("cgroup.subtree_control"))?;
        Ok(below.is_some_and(|controllers| !controllers.trim().is_empty()))
    }

    /// What a mount of type `cgroup` binds.
    pub fn bind_sources(&self) -> BindSources {
        let mut sources = BindSources { directories: Vec::new(), links: Vec::new() };
        if let (Mode::V2, Some(dir)) = (self.mode, self.v2_dir()) {
            sources.directories.push((String::new(), dir.into()));
            return sources;
        }
        for hierarchy in self.hierarchies() {
            let Some(name) = hierarchy.point.file_name().map(|name| name.to_string_lossy().into_owned())
            else {
                continue;
            };
            for controller in hierarchy.controllers.iter().filter(|_| hierarchy.controllers.len() > 1) {
                if *controller != name {
                    sources.links.push((controller.clone(), name.clone()));
                }
            }
            sources.directories.push((name, hierarchy.dir.clone()));
        }
        sources
    }

    /// As every plan makes it: below the top of each hierarchy. What was stored can be damaged, and groups are emptied by
    /// killing.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let below = |hierarchy: &Hierarchy| {
            let inner = hierarchy.dir.strip_prefix(&hierarchy.point);
            hierarchy.point.is_absolute() && inner.is_ok_and(|inner| check(inner).is_ok())
        };
        self.hierarchies().next().is_some() && self.hierarchies().all(below)
    }

    fn hierarchies(&self) -> impl DoubleEndedIterator<Item = &Hierarchy> {
        self.v1.iter().chain(&self.v2)
    }

    /// The directory in the version 1 hierarchy of `controller`.
    fn v1_dir(&self, controller: &str) -> Option<&Path> {
        let hierarchy =
            self.v1.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller));
        hierarchy.map(|hierarchy| hierarchy.dir.as_path())
    }

    fn v2_dir(&self) -> Option<&Path> {
        self.v2.as_ref().map(|hierarchy| hierarchy.dir.as_path())
    }

    /// The directory that is asked which processes belong to the group. On a hybrid machine that is a version 1
    /// hierarchy, where the limits are; the freezer if there is one, so that listing and freezing agree.
    fn census(&self) -> &Path {
        let v1 = self.v1_dir("freezer").or_else(|| self.v1.first().map(|hierarchy| hierarchy.dir.as_path()));
        v1.or(self.v2_dir()).unwrap_or(Path::new(""))
    }

    fn missing(&self, field: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Missing { field: field.into(), what: what.into(), mode: self.mode }
    }
}

impl Hierarchy {
    /// The directory of the process in this hierarchy.
    fn place_of(&self, pid: i32) -> Result<PathBuf, Error> {
        let membership = file::read(Path::new(&format!("/proc/{pid}/cgroup")))?;
        let path = layout::path_of(&membership, &self.controllers).unwrap_or_default();
        Ok(self.point.join(path.trim_start_matches('/')))
    }

    /// Moves the process here, unless it is here or below.
    fn hold(&self, pid: i32) -> Result<(), Error> {
        if self.place_of(pid)?.starts_with(&self.dir) {
            return Ok(());
        }
        file::write(&self.dir.join("cgroup.procs"), &pid.to_string(), "the control group of a process")
    }

    /// What it controls. Version 2 says so in the group, where a controller is present or not.
    fn controllers(&self) -> Result<Vec<String>, Error> {
        match self.controllers.as_slice() {
            [] => {
                let present = file::value_if_present(&self.dir.join("cgroup.controllers"))?;
                Ok(present.unwrap_or_default().split_whitespace().map(String::from).collect())
            }
            names => Ok(names.to_vec()),
        }
    }
}

fn normal(component: &Component) -> bool {
    matches!(component, Component::Normal(_))
}

/// `/vctx-ID`.
fn single(id: &str) -> Result<PathBuf, Error> {
    let mut components = Path::new(id).components();
    if components.next() != Some(Component::Normal(id.as_ref())) || components.next().is_some() {
        return Err(Error::Path { path: id.into(), why: "must be a single name" });
    }
    Ok(format!("/{PREFIX}{id}").into())
}

fn check(path: &Path) -> Result<(), Error> {
    let refuse = |why| Err(Error::Path { path: path.display().to_string(), why });
    if path.components().any(|component| component == Component::ParentDir) {
        return refuse("must not contain `..`");
    }
    if !path.components().any(|component| normal(&component)) {
        return refuse("names the root group, which no context may have");
    }
    // A newline would end the line of /proc/PID/cgroup, and a NUL the path; the kernel refuses the first itself.
    if path.to_string_lossy().contains(|c: char| c.is_control()) {
        return refuse("contains a control character");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test may panic")]
mod tests;
