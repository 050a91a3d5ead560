//! From the configuration and the facts of the host to the [`Plan`] that the child carries out. Pure: no system call is
//! made here. Everything is laid down in an arena that lives until the child is made.

pub(crate) mod process;
pub(crate) mod root;

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use bumpalo::Bump;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};
use vctx_context::child::plan::{Filter, Mount, Plan, Root, Scene, Setting, Source};
use vctx_context::namespace::Kind;
use vctx_netns::device::Device as NetDevice;

use crate::{Error, Result};

/// What the plan is made from, beside the configuration.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Root file system on the host, absolute; not used with [`RootFs::Mount`].
    pub root: RootFs,
    /// Namespaces that the child joins by itself.
    pub join: Vec<(BorrowedFd<'a>, u32)>,
    /// The child ends up in a user namespace that is not ours.
    pub user_namespace: bool,
    /// Accesses to files that Landlock refuses where no rule allows them.
    pub landlock: u64,
    /// Capabilities that can be granted, as a bit mask.
    pub grantable: u64,
    /// setgroups(2) is denied there.
    pub no_setgroups: bool,
    /// Control group folders for a mount of type `cgroup`: (name below the mount point, host path). One with an empty name
    /// stands for a unified hierarchy.
    pub cgroups: Vec<(String, PathBuf)>,
    /// Links beside them: (target, name).
    pub cgroup_links: Vec<(String, String)>,
    /// The trees of idmapped mounts, by the index of the mount.
    pub idmaps: Vec<(usize, BorrowedFd<'a>)>,
    /// Hooks run before the root changes.
    pub gate: bool,
    /// See [`vctx_context::child::plan::Process::keyring`].
    pub keyring: bool,
    /// See [`vctx_context::child::plan::Process::scoped`].
    pub scoped: bool,
    /// See [`Setting::start`].
    pub start: Option<BorrowedFd<'a>>,
    /// See [`vctx_context::child::plan::Root::no_pivot`].
    pub no_pivot: bool,
    /// See [`Plan::proc`].
    pub proc: BorrowedFd<'a>,
    /// See [`Plan::tasks`].
    pub tasks: Vec<BorrowedFd<'a>>,
    /// The control groups of version 1 are made while the child mounts.
    pub groups_later: bool,
    /// See [`Plan::close`].
    pub close: Vec<BorrowedFd<'a>>,
    /// See [`vctx_context::child::plan::Process::path`].
    pub path: Option<PathBuf>,
    /// See [`vctx_context::child::plan::Process::standard`].
    pub standard: Vec<(BorrowedFd<'a>, i32)>,
    /// Where a terminal goes.
    pub console: Option<BorrowedFd<'a>>,
    /// Compiled seccomp filter.
    pub filter: Option<Filter<'a>>,
    /// Descriptors from 3 on that the guest gets, their number.
    pub preserve: u32,
}

/// The root file system of a context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootFs {
    /// A folder, bound.
    Folder(PathBuf),
    /// A file system made for this context, and the folder on which it is attached in the context's mount namespace.
    Mount {
        /// Type.
        kind: String,
        /// Options.
        options: Vec<(String, Option<String>)>,
        /// The folder from which the options name others by relative paths, where they do.
        within: Option<PathBuf>,
        /// Host folder.
        at: PathBuf,
        /// Symbolic links to be made in it: (target, path).
        links: Vec<(String, String)>,
    },
}

/// Lays texts and lists down in the arena.
pub(crate) struct Press<'a>(&'a Bump);

impl<'a> Press<'a> {
    fn text(&self, text: impl AsRef<[u8]>) -> Result<&'a CStr> {
        let mut bytes = Vec::with_capacity(text.as_ref().len() + 1);
        bytes.extend_from_slice(text.as_ref());
        bytes.push(0);
        let kept = self.0.alloc_slice_copy(&bytes);
        CStr::from_bytes_with_nul(kept).map_err(|_| {
            Error::invalid(
                "configuration",
                format!("holds a nul character: {:?}", String::from_utf8_lossy(text.as_ref())),
            )
        })
    }

    fn path(&self, path: &Path) -> Result<&'a CStr> {
        self.text(path.as_os_str().as_encoded_bytes())
    }

    fn list<T>(&self, list: Vec<T>) -> &'a [T] {
        self.0.alloc_slice_fill_iter(list)
    }

    fn texts<T: AsRef<[u8]>>(&self, list: impl IntoIterator<Item = T>) -> Result<&'a [&'a CStr]> {
        Ok(self.list(list.into_iter().map(|text| self.text(text)).collect::<Result<Vec<_>>>()?))
    }
}

/// Makes the plan of a new context.
///
/// # Errors
///
/// A field that cannot be turned into what the kernel takes.
pub fn new_context<'a>(arena: &'a Bump, spec: &Spec, facts: &Facts<'a>) -> Result<Plan<'a>> {
    let press = Press(arena);
    let linux = spec.linux().as_ref();
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let makes =
        |kind: LinuxNamespaceType| namespaces.iter().any(|one| one.typ() == kind && one.path().is_none());
    let idle;
    let process = match spec.process() {
        Some(process) => process,
        None => {
            idle = process::idle();
            &idle
        }
    };
    let mut sysctl = Vec::new();
    // In the order of their names: the same configuration always makes the same plan.
    let wanted = linux.and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten();
    for (key, value) in wanted.collect::<BTreeMap<_, _>>() {
        let file = if key.contains('/') { key.clone() } else { key.replace('.', "/") };
        sysctl.push((press.text(format!("sys/{file}"))?, &*press.0.alloc_slice_copy(value.as_bytes())));
    }
    let root = &*arena.alloc(root::root(&press, spec, facts)?);
    let bytes = |text: &Option<String>| -> Option<&'a [u8]> {
        text.as_ref().filter(|text| !text.is_empty()).map(|text| &*arena.alloc_slice_copy(text.as_bytes()))
    };
    let setting = Setting {
        join: press.list(facts.join.clone()),
        new_user_namespace: makes(LinuxNamespaceType::User),
        user_namespace: facts.user_namespace,
        time_offsets: makes(LinuxNamespaceType::Time)
            .then(|| &*arena.alloc_slice_copy(time_offsets(spec).as_bytes())),
        groups_before: facts.groups_later.then(|| groups_before(root)),
        new_cgroup_namespace: makes(LinuxNamespaceType::Cgroup),
        loopback: makes(LinuxNamespaceType::Network),
        hostname: bytes(spec.hostname()),
        domainname: bytes(spec.domainname()),
        root,
        sysctl: press.list(sysctl),
        gate: facts.gate,
        start: facts.start,
    };
    Ok(Plan {
        proc: facts.proc,
        tasks: press.list(facts.tasks.clone()),
        close: press.list(facts.close.clone()),
        scene: Scene::New(arena.alloc(setting)),
        process: process::process(arena, process, spec, facts, true)?,
    })
}

/// The first mount that shows control groups, or takes so much memory that they have to count it; else the end.
fn groups_before(root: &Root<'_>) -> usize {
    let waits = |mount: &Mount<'_>| match mount.source {
        Source::Folders { .. } => true,
        Source::FileSystem { kind, .. } => mount.copy_up || kind.to_bytes().starts_with(b"cgroup"),
        Source::Bind { path, .. } | Source::Tree { path, .. } => path.to_bytes().starts_with(b"/sys"),
    };
    root.mounts.iter().position(waits).unwrap_or(root.mounts.len())
}

fn time_offsets(spec: &Spec) -> String {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let mut lines = String::new();
    for (clock, offset) in offsets.into_iter().flatten().collect::<BTreeMap<_, _>>() {
        lines.push_str(&format!(
            "{clock} {} {}\n",
            offset.secs().unwrap_or(0),
            offset.nanosecs().unwrap_or(0)
        ));
    }
    lines
}

/// The context has a mount namespace of its own.
pub(crate) fn makes_mounts(spec: &Spec) -> bool {
    namespaces(spec).iter().any(|(kind, path)| *kind == Kind::Mount && path.is_none())
}

/// The network devices that a configuration names, in the order of their names.
pub(crate) fn net_devices(spec: &Spec) -> Vec<NetDevice> {
    let listed = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    let device = |(name, device): (&String, &oci_spec::runtime::LinuxNetDevice)| NetDevice {
        name: name.clone(),
        new_name: device.name().clone().filter(|name| !name.is_empty()),
    };
    let mut devices: Vec<_> = listed.into_iter().flatten().map(device).collect();
    devices.sort_by(|one, other| one.name.cmp(&other.name));
    devices
}

/// The kinds of namespace of a configuration: (kind, path to join).
#[must_use]
pub fn namespaces(spec: &Spec) -> Vec<(Kind, Option<PathBuf>)> {
    let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    let kind = |kind| match kind {
        LinuxNamespaceType::Mount => Kind::Mount,
        LinuxNamespaceType::Cgroup => Kind::Cgroup,
        LinuxNamespaceType::Uts => Kind::Uts,
        LinuxNamespaceType::Ipc => Kind::Ipc,
        LinuxNamespaceType::User => Kind::User,
        LinuxNamespaceType::Pid => Kind::Pid,
        LinuxNamespaceType::Network => Kind::Network,
        LinuxNamespaceType::Time => Kind::Time,
    };
    listed.iter().map(|one| (kind(one.typ()), one.path().clone())).collect()
}
