//! From the configuration and the facts of the host to the [`Plan`] that the child carries out. Pure: no system call is
//! made here. Everything is laid down in an arena that lives until the child is made.

use std::cell::Cell;
use std::ffi::{CStr, c_char};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use bumpalo::Bump;
use oci_spec::runtime::{
    LinuxCapabilities, LinuxDeviceType, LinuxNamespaceType, Mount as SpecMount, PosixRlimitType,
    Process as SpecProcess, Spec,
};
use vctx_context::capability;
use vctx_context::child::plan::{
    Capabilities, Console, Device, Filter, Mount, Plan, Process, Root, Scene, Setting, Source,
};
use vctx_context::child::sys::SchedulerAttributes;
use vctx_context::namespace::Kind;
use vctx_netns::device::Device as NetDevice;

use crate::mount::{self, Options};
use crate::validate::{clean, may_cover};
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
    /// Name of the session keyring.
    pub keyring: Option<String>,
    /// See [`Setting::start`].
    pub start: Option<BorrowedFd<'a>>,
    /// See [`Root::no_pivot`].
    pub no_pivot: bool,
    /// See [`Plan::proc`].
    pub proc: BorrowedFd<'a>,
    /// See [`Plan::tasks`].
    pub tasks: Vec<BorrowedFd<'a>>,
    /// See [`Plan::close`].
    pub close: Vec<BorrowedFd<'a>>,
    /// See [`Process::path`].
    pub path: Option<PathBuf>,
    /// See [`Process::standard`].
    pub standard: Vec<(BorrowedFd<'a>, i32)>,
    /// Where a terminal goes.
    pub console: Option<BorrowedFd<'a>>,
    /// Compiled seccomp filter.
    pub filter: Option<Filter<'a>>,
    /// Descriptors from 3 on that the guest gets, their number.
    pub preserve: u32,
}

/// The root file system of a context.
#[derive(Debug, Clone)]
pub enum RootFs {
    /// A folder, bound.
    Folder(PathBuf),
    /// A file system made for this context, and the folder on which it is attached in the context's mount namespace.
    Mount {
        /// Type.
        kind: String,
        /// Options.
        options: Vec<(String, Option<String>)>,
        /// Host folder.
        at: PathBuf,
        /// Symbolic links to be made in it: (target, path).
        links: Vec<(String, String)>,
    },
}

/// Lays texts and lists down in the arena.
struct Press<'a>(&'a Bump);

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
    let process = spec.process().as_ref().ok_or_else(|| Error::invalid("process", "is missing"))?;
    let mut sysctl = Vec::new();
    for (key, value) in linux.and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten() {
        let file = if key.contains('/') { key.clone() } else { key.replace('.', "/") };
        sysctl.push((press.text(format!("sys/{file}"))?, &*press.0.alloc_slice_copy(value.as_bytes())));
    }
    let root = &*arena.alloc(root(&press, spec, facts)?);
    let bytes = |text: &Option<String>| -> Option<&'a [u8]> {
        text.as_ref().filter(|text| !text.is_empty()).map(|text| &*arena.alloc_slice_copy(text.as_bytes()))
    };
    let setting = Setting {
        join: press.list(facts.join.clone()),
        new_user_namespace: makes(LinuxNamespaceType::User),
        user_namespace: facts.user_namespace,
        time_offsets: makes(LinuxNamespaceType::Time)
            .then(|| &*arena.alloc_slice_copy(time_offsets(spec).as_bytes())),
        new_cgroup_namespace: makes(LinuxNamespaceType::Cgroup),
        loopback: makes(LinuxNamespaceType::Network),
        hostname: bytes(spec.hostname()),
        domainname: bytes(spec.domainname()),
        root,
        sysctl: press.list(sysctl),
        gate: facts.gate,
        keyring: facts.keyring.as_ref().map(|name| press.text(name)).transpose()?,
        start: facts.start,
    };
    Ok(Plan {
        proc: facts.proc,
        tasks: press.list(facts.tasks.clone()),
        close: press.list(facts.close.clone()),
        scene: Scene::New(arena.alloc(setting)),
        process: self::process(arena, process, spec, facts, true)?,
    })
}

fn time_offsets(spec: &Spec) -> String {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let mut lines = String::new();
    for (clock, offset) in offsets.into_iter().flatten() {
        lines.push_str(&format!(
            "{clock} {} {}\n",
            offset.secs().unwrap_or(0),
            offset.nanosecs().unwrap_or(0)
        ));
    }
    lines
}

fn root<'a>(press: &Press<'a>, spec: &Spec, facts: &Facts<'a>) -> Result<Root<'a>> {
    let linux = spec.linux().as_ref();
    let propagation = propagation(spec);
    let (source, at, mut links) = match &facts.root {
        RootFs::Folder(path) => {
            let path = press.path(path)?;
            (Source::Bind { path, recursive: true, procfs: false }, path, Vec::new())
        }
        RootFs::Mount { kind, options, at, links } => {
            let options = options.iter().map(|(key, value)| {
                Ok((press.text(key)?, value.as_ref().map(|value| press.text(value)).transpose()?))
            });
            let options = press.list(options.collect::<Result<Vec<_>>>()?);
            let source = Source::FileSystem { kind: press.text(kind)?, source: press.text("vctx")?, options };
            let pair = |(target, path): &(String, String)| Ok((press.text(target)?, press.text(path)?));
            (source, press.path(at)?, links.iter().map(pair).collect::<Result<Vec<_>>>()?)
        }
    };
    // The files of a new file system have the context's label (runtime-spec, "Mount Label").
    let label = linux.and_then(|linux| linux.mount_label().as_deref()).filter(|label| !label.is_empty());
    let mut mounts = Vec::new();
    let mut seal = Vec::new();
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        if matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2")) {
            cgroup_mount(press, mount, facts, &mut mounts, &mut links, &mut seal)?;
        } else {
            mounts.push(self::mount(press, mount, index, facts, label)?);
        }
    }
    let terminal = spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
    let own_dev = !spec
        .mounts()
        .iter()
        .flatten()
        .any(|mount| clean(mount.destination()) == "/dev" && options_of(mount).bind);
    if own_dev {
        links.extend(dev_links(press)?);
    }
    let texts = |list: Option<&Vec<String>>| press.texts(list.into_iter().flatten());
    Ok(Root {
        source,
        at,
        detached: !makes_mounts(spec),
        propagation: flow(spec),
        final_propagation: propagation.filter(|flag| matches!(*flag, mount::SHARED | mount::UNBINDABLE)),
        readonly: spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false),
        no_pivot: facts.no_pivot,
        mounts: press.list(mounts),
        devices: if own_dev { press.list(devices(press, spec)?) } else { &[] },
        links: press.list(links),
        seal: press.list(seal),
        console: terminal && own_dev,
        masked: texts(linux.and_then(|linux| linux.masked_paths().as_ref()))?,
        readonly_paths: texts(linux.and_then(|linux| linux.readonly_paths().as_ref()))?,
    })
}

fn propagation(spec: &Spec) -> Option<u64> {
    let linux = spec.linux().as_ref()?;
    linux.rootfs_propagation().as_deref().and_then(mount::root_propagation)
}

/// Propagation of every mount that comes from the host. One that the host makes later must be able to arrive, and what
/// the context does must not leave.
pub(crate) fn flow(spec: &Spec) -> u64 {
    propagation(spec).filter(|flag| *flag != mount::UNBINDABLE).unwrap_or(mount::SLAVE)
}

pub(crate) fn options_of(mount: &SpecMount) -> Options<'_> {
    mount::options(mount.options().iter().flatten().map(String::as_str))
}

fn mount<'a>(
    press: &Press<'a>,
    mount: &SpecMount,
    index: usize,
    facts: &Facts<'a>,
    files_label: Option<&str>,
) -> Result<Mount<'a>> {
    let mut options = options_of(mount);
    let destination = clean(mount.destination());
    let kind = mount.typ().as_deref().unwrap_or("");
    let bind = options.bind || kind == "bind";
    let source = if bind {
        let path = mount.source().as_ref().ok_or_else(|| {
            Error::invalid(format!("mounts[{index}].source"), "is missing, and a bind mount needs one")
        })?;
        let path = press.path(path)?;
        match facts.idmaps.iter().find(|(of, _)| *of == index) {
            Some(&(_, tree)) => Source::Tree { tree, path },
            None => Source::Bind { path, recursive: options.recursive, procfs: destination == "/proc" },
        }
    } else {
        if kind.is_empty() || kind == "none" {
            return Err(Error::invalid(
                format!("mounts[{index}].type"),
                "is missing; name a file system, or the option bind",
            ));
        }
        // A new mount has no flag to clear; but a kind of atime is only set together with the whole field.
        options.clear = if options.set & mount::ATIME != 0 { mount::ATIME } else { 0 };
        options.clear_recursive = 0;
        let source =
            mount.source().as_ref().map_or(kind.as_bytes(), |path| path.as_os_str().as_encoded_bytes());
        let label = files_label.filter(|_| !matches!(kind, "proc" | "sysfs" | "mqueue"));
        let label = label.map(|label| ("context", Some(label))).into_iter();
        let data =
            options.data.iter().copied().chain(label).map(|(key, value)| {
                Ok((press.text(key)?, value.map(|value| press.text(value)).transpose()?))
            });
        let data = data.collect::<Result<Vec<_>>>()?;
        Source::FileSystem { kind: press.text(kind)?, source: press.text(source)?, options: press.list(data) }
    };
    let mut made = plain(source, press.text(&destination)?);
    options.apply(&mut made);
    made.propagation = press.list(options.propagation.clone());
    made.over_proc = may_cover(&destination);
    made.inherit_mode = kind == "tmpfs" && !bind && !options.data.iter().any(|(key, _)| *key == "mode");
    Ok(made)
}

fn plain<'a>(source: Source<'a>, target: &'a CStr) -> Mount<'a> {
    Mount {
        source,
        target,
        set: 0,
        clear: 0,
        set_recursive: 0,
        clear_recursive: 0,
        propagation: &[],
        copy_up: false,
        over_proc: false,
        inherit_mode: false,
    }
}

/// The context's own groups: the unified one directly, those of version 1 side by side in a tmpfs, as on the host.
fn cgroup_mount<'a>(
    press: &Press<'a>,
    mount: &SpecMount,
    facts: &Facts<'a>,
    mounts: &mut Vec<Mount<'a>>,
    links: &mut Vec<(&'a CStr, &'a CStr)>,
    seal: &mut Vec<&'a CStr>,
) -> Result<()> {
    const MOUNT_ATTR_RDONLY: u64 = 1;
    let options = options_of(mount);
    let destination = clean(mount.destination());
    let target = press.text(&destination)?;
    let bind = |path: &Path, target: &'a CStr| -> Result<Mount<'a>> {
        let source = Source::Bind { path: press.path(path)?, recursive: false, procfs: false };
        let mut made = plain(source, target);
        options.apply(&mut made);
        made.clear = 0;
        made.copy_up = false;
        Ok(made)
    };
    if let [(name, path)] = facts.cgroups.as_slice()
        && name.is_empty()
    {
        mounts.push(bind(path, target)?);
        return Ok(());
    }
    let data = [(press.text("mode")?, Some(press.text("755")?))];
    let source = Source::FileSystem {
        kind: press.text("tmpfs")?,
        source: press.text("cgroup")?,
        options: press.list(data.to_vec()),
    };
    let mut top = plain(source, target);
    options.apply(&mut top);
    (top.set, top.clear, top.copy_up) = (top.set & !MOUNT_ATTR_RDONLY, 0, false);
    mounts.push(top);
    for (name, path) in &facts.cgroups {
        mounts.push(bind(path, press.text(format!("{destination}/{name}"))?)?);
    }
    for (to, name) in &facts.cgroup_links {
        links.push((press.text(to)?, press.text(format!("{destination}/{name}"))?));
    }
    if options.set & MOUNT_ATTR_RDONLY != 0 {
        seal.push(target);
    }
    Ok(())
}

/// The devices that every context has (runtime-spec, "Default Devices"), and those of the configuration.
fn devices<'a>(press: &Press<'a>, spec: &Spec) -> Result<Vec<Device<'a>>> {
    const CHARACTER: u32 = libc::S_IFCHR;
    const DEFAULT: [(&CStr, (u32, u32)); 6] = [
        (c"/dev/null", (1, 3)),
        (c"/dev/zero", (1, 5)),
        (c"/dev/full", (1, 7)),
        (c"/dev/random", (1, 8)),
        (c"/dev/urandom", (1, 9)),
        (c"/dev/tty", (5, 0)),
    ];
    let asked = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let mut devices = Vec::new();
    for (path, number) in DEFAULT {
        if !asked.iter().any(|device| device.path().as_os_str().as_encoded_bytes() == path.to_bytes()) {
            devices.push(Device { path, mode: CHARACTER | 0o666, number, owner: (0, 0), host: path });
        }
    }
    for (index, device) in asked.iter().enumerate() {
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => CHARACTER,
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::P => libc::S_IFIFO,
            LinuxDeviceType::A => {
                return Err(Error::invalid(
                    format!("linux.devices[{index}].type"),
                    "is a; c, u, b and p are devices",
                ));
            }
        };
        let number = |field, number: i64| {
            u32::try_from(number.max(0)).map_err(|_| {
                Error::invalid(format!("linux.devices[{index}].{field}"), format!("is {number}"))
            })
        };
        let path = clean(device.path());
        devices.push(Device {
            path: press.text(&path)?,
            mode: kind | (device.file_mode().unwrap_or(0o666) & 0o7777),
            number: (number("major", device.major())?, number("minor", device.minor())?),
            owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
            host: press.text(&path)?,
        });
    }
    Ok(devices)
}

fn dev_links<'a>(press: &Press<'a>) -> Result<Vec<(&'a CStr, &'a CStr)>> {
    let links = [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("/proc/kcore", "/dev/core"),
        ("pts/ptmx", "/dev/ptmx"),
    ];
    links.iter().map(|(target, path)| Ok((press.text(target)?, press.text(path)?))).collect()
}

/// Makes the plan of a process, for a new context or for one that runs.
///
/// # Errors
///
/// As [`new_context`].
pub fn process<'a>(
    arena: &'a Bump,
    process: &SpecProcess,
    spec: &Spec,
    facts: &Facts<'a>,
    first: bool,
) -> Result<Process<'a>> {
    let press = Press(arena);
    let pointers =
        |texts: &[&'a CStr]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<*const c_char>>();
    let mut args = pointers(press.texts(process.args().iter().flatten())?);
    args.push(std::ptr::null());
    let variables = process.env().as_deref().unwrap_or_default();
    let mut env: Vec<_> = pointers(press.texts(variables)?).into_iter().map(Cell::new).collect();
    env.extend([Cell::new(std::ptr::null()), Cell::new(std::ptr::null())]);
    let find = |name: &str| {
        variables.iter().rev().find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='))
    };
    let search = find("PATH").unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let size = process.console_size().as_ref().map(|size| (size.height() as u16, size.width() as u16));
    let user = process.user();
    let linux = spec.linux().as_ref();
    Ok(Process {
        path: facts.path.as_deref().map(|path| press.path(path)).transpose()?,
        standard: press.list(facts.standard.clone()),
        args: press.list(args),
        env: press.list(env),
        find_home: find("HOME")
            .is_none()
            .then(|| &*arena.alloc(Cell::new([0; vctx_context::child::home::SPACE]))),
        search: press.texts(search.split(':'))?,
        cwd: press.path(process.cwd())?,
        make_cwd: first,
        user: (user.uid(), user.gid()),
        groups: (!facts.no_setgroups)
            .then(|| &*arena.alloc_slice_copy(user.additional_gids().as_deref().unwrap_or_default())),
        umask: user.umask(),
        capabilities: Some(capabilities(process.capabilities().as_ref(), facts.grantable)),
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        rlimits: press.list(
            process
                .rlimits()
                .iter()
                .flatten()
                .map(|limit| (resource(limit.typ()), limit.soft(), limit.hard()))
                .collect(),
        ),
        scheduler: scheduler(process)?.map(|attributes| &*arena.alloc(attributes)),
        io_priority: io_priority(process)?,
        personality: personality(spec),
        memory_policy: match linux.and_then(|linux| linux.memory_policy().as_ref()) {
            Some(policy) if first => Some(memory_policy(arena, policy)?),
            _ => None,
        },
        affinity: if first { None } else { final_affinity(arena, process)? },
        label: label(&press, process)?,
        seccomp: facts.filter,
        console: facts.console.map(|socket| Console { socket, size }),
        keep_below: 3 + facts.preserve,
    })
}

/// The CPUs of a process that joins, once it is in its control group.
fn final_affinity<'a>(arena: &'a Bump, process: &SpecProcess) -> Result<Option<&'a [u64]>> {
    let affinity = process.exec_cpu_affinity().as_ref();
    match affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref()) {
        None | Some("") => Ok(None),
        Some(cpus) => Ok(Some(&*arena.alloc_slice_copy(&mask("process.execCPUAffinity.final", cpus)?))),
    }
}

/// What cannot be granted is left out: in a restricted environment that is no failure (runtime-spec, "Linux Process").
fn capabilities(sets: Option<&LinuxCapabilities>, grantable: u64) -> Capabilities {
    let mask = |set: Option<&Option<oci_spec::runtime::Capabilities>>| {
        let names = set.and_then(Option::as_ref).into_iter().flatten();
        grantable & names.filter_map(|name| capability::bit(&name.to_string())).fold(0, |all, bit| all | bit)
    };
    Capabilities {
        bounding: mask(sets.map(LinuxCapabilities::bounding)),
        effective: mask(sets.map(LinuxCapabilities::effective)),
        permitted: mask(sets.map(LinuxCapabilities::permitted)),
        inheritable: mask(sets.map(LinuxCapabilities::inheritable)),
        ambient: mask(sets.map(LinuxCapabilities::ambient)),
    }
}

fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

/// sched_setattr(2); the names and numbers are those of sched(7).
pub(crate) fn scheduler(process: &SpecProcess) -> Result<Option<SchedulerAttributes>> {
    use oci_spec::runtime::{LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy};
    let Some(scheduler) = process.scheduler() else { return Ok(None) };
    let policy = match scheduler.policy() {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => {
            return Err(Error::invalid("process.scheduler.policy", "is SCHED_ISO, which Linux never had"));
        }
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    };
    let bit = |flag: &Flag| match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    };
    Ok(Some(SchedulerAttributes {
        size: size_of::<SchedulerAttributes>() as u32,
        policy,
        flags: scheduler.flags().iter().flatten().map(bit).sum(),
        nice: scheduler.nice().unwrap_or(0),
        priority: scheduler.priority().unwrap_or(0) as u32,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    }))
}

/// ioprio_set(2): the class in the upper bits, the priority in the lower.
pub(crate) fn io_priority(process: &SpecProcess) -> Result<Option<i32>> {
    use oci_spec::runtime::IOPriorityClass as Class;
    let Some(wanted) = process.io_priority() else { return Ok(None) };
    if !(0..=7).contains(&wanted.priority()) {
        return Err(Error::invalid(
            "process.ioPriority.priority",
            format!("is {}, and must lie between 0 and 7", wanted.priority()),
        ));
    }
    let class = match wanted.class() {
        Class::IoprioClassRt => 1,
        Class::IoprioClassBe => 2,
        Class::IoprioClassIdle => 3,
    };
    Ok(Some((class << 13) | wanted.priority() as i32))
}

fn personality(spec: &Spec) -> Option<u64> {
    use oci_spec::runtime::LinuxPersonalityDomain as Domain;
    let personality = spec.linux().as_ref()?.personality().as_ref()?;
    Some(match personality.domain() {
        Domain::PerLinux => 0,
        Domain::PerLinux32 => 8,
    })
}

/// set_mempolicy(2).
fn memory_policy<'a>(
    arena: &'a Bump,
    policy: &oci_spec::runtime::LinuxMemoryPolicy,
) -> Result<(i32, &'a [u64])> {
    use oci_spec::runtime::{MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode};
    let mode = match policy.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flag = |flag: &Flag| match flag {
        Flag::MpolFNumaBalancing => 1 << 13,
        Flag::MpolFRelativeNodes => 1 << 14,
        Flag::MpolFStaticNodes => 1 << 15,
    };
    let flags: i32 = policy.flags().iter().flatten().map(flag).sum();
    let nodes = policy.nodes().as_deref().unwrap_or("");
    Ok((mode | flags, &*arena.alloc_slice_copy(&mask("linux.memoryPolicy.nodes", nodes)?)))
}

/// A list such as `0-3,7` as words of a bit mask (cpuset(7), "List format").
///
/// # Errors
///
/// The list is malformed or names more than 4,096 elements.
pub fn mask(field: &str, list: &str) -> Result<Vec<u64>> {
    let wrong = || Error::invalid(field, format!("is {list:?}, and must be a list such as 0-3,7"));
    let mut words = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| wrong())?;
        let last: usize = last.trim().parse().map_err(|_| wrong())?;
        if first > last || last >= 4096 {
            return Err(wrong());
        }
        words.resize(words.len().max(last / 64 + 1), 0u64);
        (first..=last).for_each(|bit| words[bit / 64] |= 1 << (bit % 64));
    }
    Ok(words)
}

/// Where the label of execve(2) is written: AppArmor has a folder of its own since Linux 5.8.
fn label<'a>(press: &Press<'a>, process: &SpecProcess) -> Result<Option<(&'a CStr, &'a [u8])>> {
    let text = |text: String| &*press.0.alloc_slice_copy(text.as_bytes());
    if let Some(profile) = process.apparmor_profile().as_ref().filter(|name| !name.is_empty()) {
        return Ok(Some((c"self/attr/apparmor/exec", text(format!("exec {profile}")))));
    }
    if let Some(label) = process.selinux_label().as_ref().filter(|label| !label.is_empty()) {
        return Ok(Some((c"self/attr/exec", text(label.clone()))));
    }
    Ok(None)
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
