//! What a configuration must be, before anything is done. Pure: no system call is made here.

use std::collections::HashSet;
use std::path::{Component, Path};

use oci_spec::runtime::{Linux, LinuxDeviceType, LinuxNamespaceType, Process, Spec};

use crate::{Error, Result};

/// Longest text in a configuration, in bytes: the kernel takes no longer argument or variable (execve(2), "Limits on size
/// of arguments and environment"), and lengths that overflow have been an attack (CVE-2021-43784).
const TEXT: usize = (128 << 10) - 1;
/// Longest path (limits.h, PATH_MAX), in bytes.
const PATH: usize = 4096;
/// Longest host or domain name (uts_namespaces(7)), in bytes.
const NAME: usize = 64;

/// Refuses a configuration that is wrong in itself.
///
/// # Errors
///
/// Names the field, and what would be right.
pub fn validate(spec: &Spec) -> Result<()> {
    version(spec.version())?;
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| Error::invalid("root", "is missing; it names the root file system"))?;
    path("root.path", root.path())?;
    if root.path().as_os_str().is_empty() {
        return Err(Error::invalid("root.path", "is empty"));
    }
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| Error::invalid("process", "is missing; it says what to run"))?;
    self::process("process", process)?;
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let field = format!("mounts[{index}].destination");
        path(&field, mount.destination())?;
        if mount.destination().components().any(|part| part == Component::ParentDir) {
            return Err(Error::invalid(field, "contains `..`; give the path inside the root"));
        }
        fake_proc(&field, mount)?;
        idmapped(spec, mount, index)?;
        kind(mount, index)?;
        for option in mount.options().iter().flatten() {
            text(&format!("mounts[{index}].options"), option)?;
        }
        if let Some(source) = mount.source() {
            path(&format!("mounts[{index}].source"), source)?;
        }
    }
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if let Some(name) = name {
            text(field, name)?;
            if name.len() > NAME {
                return Err(Error::invalid(
                    field,
                    format!("has {} bytes, and the kernel takes {NAME}", name.len()),
                ));
            }
        }
    }
    match spec.linux() {
        Some(linux) => self::linux(spec, linux),
        None => Err(Error::invalid("linux", "is missing; a Linux context needs its namespaces at least")),
    }
}

fn version(version: &str) -> Result<()> {
    let mut numbers = version.split(['.', '-', '+']);
    let major = numbers.next().and_then(|number| number.parse::<u32>().ok());
    let minor = numbers.next().and_then(|number| number.parse::<u32>().ok());
    match (major, minor) {
        (Some(1), Some(_)) => Ok(()),
        (Some(_), Some(_)) => {
            Err(Error::invalid("ociVersion", format!("is {version}; versions 1.0 to 1.3 are understood")))
        }
        _ => Err(Error::invalid("ociVersion", format!("is {version:?}, which is no version such as 1.2.0"))),
    }
}

/// Refuses a process that is wrong in itself; `field` is its path.
///
/// # Errors
///
/// As [`validate`].
pub fn process(field: &str, process: &Process) -> Result<()> {
    let at = |name: &str| format!("{field}.{name}");
    match process.args() {
        Some(args) if args.first().is_some_and(|first| !first.is_empty()) => {
            args.iter().try_for_each(|one| text(&at("args"), one))?;
        }
        _ => return Err(Error::invalid(at("args"), "is empty; its first element names the program")),
    }
    if !process.cwd().is_absolute() {
        return Err(Error::invalid(
            at("cwd"),
            format!("is {:?}, and must be an absolute path", process.cwd()),
        ));
    }
    path(&at("cwd"), process.cwd())?;
    for (index, variable) in process.env().iter().flatten().enumerate() {
        text(&at("env"), variable)?;
        if variable.starts_with('=') || !variable.contains('=') {
            return Err(Error::invalid(
                format!("{field}.env[{index}]"),
                format!("is {variable:?}, and must be NAME=VALUE"),
            ));
        }
    }
    let mut kinds = Vec::new();
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        let field = format!("{field}.rlimits[{index}]");
        if kinds.contains(&limit.typ()) {
            return Err(Error::invalid(field, format!("sets {} twice", limit.typ())));
        }
        kinds.push(limit.typ());
        if limit.soft() > limit.hard() {
            return Err(Error::invalid(
                field,
                format!("has the soft limit {} above the hard limit {}", limit.soft(), limit.hard()),
            ));
        }
    }
    if let Some(score) = process.oom_score_adj()
        && !(-1000..=1000).contains(&score)
    {
        return Err(Error::invalid(
            at("oomScoreAdj"),
            format!("is {score}, and must lie between -1000 and 1000"),
        ));
    }
    crate::plan::scheduler(process)?;
    crate::plan::io_priority(process)?;
    if let Some(mask) = process.user().umask()
        && mask > 0o777
    {
        return Err(Error::invalid(
            at("user.umask"),
            format!("is {mask:o}, and must lie between 0 and 777 (octal)"),
        ));
    }
    if let Some(size) = process.console_size()
        && (size.height() > u64::from(u16::MAX) || size.width() > u64::from(u16::MAX))
    {
        return Err(Error::invalid(at("consoleSize"), "is larger than 65,535 characters"));
    }
    for (name, label) in
        [("apparmorProfile", process.apparmor_profile()), ("selinuxLabel", process.selinux_label())]
    {
        if let Some(label) = label {
            text(&at(name), label)?;
        }
    }
    Ok(())
}

/// Only a few files of procfs are mounted over by honest callers; a mount over the rest fakes what the runtime writes to.
fn fake_proc(field: &str, mount: &oci_spec::runtime::Mount) -> Result<()> {
    let bind = mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
    let destination = clean(mount.destination());
    if destination == "/proc" && !bind && mount.typ().as_deref() != Some("proc") {
        return Err(Error::invalid(field, "is /proc; only a procfs can be mounted there"));
    }
    if destination.starts_with("/proc/") && !may_cover(&destination) {
        return Err(Error::invalid(field, format!("is {destination}; a mount inside /proc is refused")));
    }
    Ok(())
}

/// A mount has a file system, or a source that is bound.
fn kind(mount: &oci_spec::runtime::Mount, index: usize) -> Result<()> {
    let bind = crate::plan::options_of(mount).bind || mount.typ().as_deref() == Some("bind");
    let field = |name: &str| format!("mounts[{index}].{name}");
    match mount.typ().as_deref() {
        _ if bind && mount.source().is_none() => {
            Err(Error::invalid(field("source"), "is missing, and a bind mount needs one"))
        }
        None | Some("" | "none") if !bind => {
            Err(Error::invalid(field("type"), "is missing; name a file system, or the option bind"))
        }
        _ => Ok(()),
    }
}

/// An idmapped mount has both mappings, or those of the context's user namespace.
fn idmapped(spec: &Spec, mount: &oci_spec::runtime::Mount, index: usize) -> Result<()> {
    let options = crate::plan::options_of(mount);
    let field = |name: &str| format!("mounts[{index}].{name}");
    let (users, groups) = (mount.uid_mappings(), mount.gid_mappings());
    for (name, own, other) in [("uidMappings", users, groups), ("gidMappings", groups, users)] {
        match own.as_deref() {
            Some(own) => id_ranges(&field(name), own)?,
            None if other.is_some() => {
                return Err(Error::invalid(field(name), "is missing; the mappings come in pairs"));
            }
            None => {}
        }
        if own.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::invalid(field(name), "is empty; leave it away, or map at least one id"));
        }
    }
    if users.is_none() && options.idmap.is_none() {
        return Ok(());
    }
    if !options.bind && mount.typ().as_deref() != Some("bind") {
        return Err(Error::invalid(field("options"), "asks to map the ids of what is no bind mount"));
    }
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref());
    let user = |one: &oci_spec::runtime::LinuxNamespace| one.typ() == LinuxNamespaceType::User;
    if users.is_none() && !namespaces.unwrap_or_default().iter().any(user) {
        return Err(Error::invalid(
            field("options"),
            "asks for an idmapped mount without uidMappings, and there is no user namespace to take them from",
        ));
    }
    Ok(())
}

/// Files of procfs that lxcfs and its like replace.
pub(crate) fn may_cover(destination: &str) -> bool {
    const FILES: &[&str] = &[
        "cpuinfo",
        "diskstats",
        "loadavg",
        "meminfo",
        "net/dev",
        "slabinfo",
        "stat",
        "swaps",
        "sys/kernel/ns_last_pid",
        "uptime",
    ];
    destination.strip_prefix("/proc/").is_some_and(|file| FILES.contains(&file))
}

/// A path with neither empty parts nor dots at its parts' place.
pub(crate) fn clean(path: &Path) -> String {
    let mut clean = String::new();
    for part in path.components() {
        if let Component::Normal(name) = part {
            clean.push('/');
            clean.push_str(&name.to_string_lossy());
        }
    }
    if clean.is_empty() { "/".into() } else { clean }
}

fn linux(spec: &Spec, linux: &Linux) -> Result<()> {
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let mut kinds = HashSet::new();
    for (index, namespace) in namespaces.iter().enumerate() {
        let field = format!("linux.namespaces[{index}]");
        if !kinds.insert(namespace.typ()) {
            return Err(Error::invalid(
                field,
                format!("lists the {} namespace twice", word(namespace.typ())),
            ));
        }
        if let Some(file) = namespace.path() {
            path(&format!("{field}.path"), file)?;
            if !file.is_absolute() {
                return Err(Error::invalid(
                    format!("{field}.path"),
                    format!("is {file:?}, and must be absolute"),
                ));
            }
        }
    }
    let has = |kind: LinuxNamespaceType| namespaces.iter().find(|one| one.typ() == kind);
    let makes = |kind| has(kind).is_some_and(|one| one.path().is_none());
    let needs = |field: &str, kind: LinuxNamespaceType| {
        Err(Error::invalid(
            field,
            format!("needs a {} namespace in linux.namespaces; it would change the host's", word(kind)),
        ))
    };
    // Such a hook is a program of the root, to which only a mount namespace leads.
    if crate::hooks::has(spec, crate::hooks::Point::StartContainer) && !makes(LinuxNamespaceType::Mount) {
        return needs("hooks.startContainer", LinuxNamespaceType::Mount);
    }
    if spec.hostname().as_ref().is_some_and(|name| !name.is_empty()) && has(LinuxNamespaceType::Uts).is_none()
    {
        return needs("hostname", LinuxNamespaceType::Uts);
    }
    if spec.domainname().as_ref().is_some_and(|name| !name.is_empty())
        && has(LinuxNamespaceType::Uts).is_none()
    {
        return needs("domainname", LinuxNamespaceType::Uts);
    }
    if linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty())
        && !makes(LinuxNamespaceType::Time)
    {
        return needs("linux.timeOffsets", LinuxNamespaceType::Time);
    }
    mappings(linux, has(LinuxNamespaceType::User).is_some_and(|one| one.path().is_none()))?;
    for (key, value) in linux.sysctl().iter().flatten() {
        text("linux.sysctl", value)?;
        sysctl(key, &|kind| has(kind).is_some())?;
    }
    let devices = crate::plan::net_devices(spec);
    if !devices.is_empty() && has(LinuxNamespaceType::Network).is_none() {
        return needs("linux.netDevices", LinuxNamespaceType::Network);
    }
    net_devices(&devices)?;
    if let Some(nodes) = linux.memory_policy().as_ref().and_then(|policy| policy.nodes().as_deref()) {
        crate::plan::mask("linux.memoryPolicy.nodes", nodes)?;
    }
    paths(linux)?;
    if let Some(profile) = linux.seccomp() {
        vctx_context::seccomp::validate(profile)?;
    }
    if let Some(name) = linux.rootfs_propagation()
        && !name.is_empty()
        && crate::mount::root_propagation(name).is_none()
    {
        return Err(Error::invalid(
            "linux.rootfsPropagation",
            format!("is {name:?}; shared, slave, private and unbindable are known"),
        ));
    }
    Ok(())
}

fn net_devices(devices: &[vctx_netns::device::Device]) -> Result<()> {
    let mut names = HashSet::new();
    for device in devices {
        let field = format!("linux.netDevices[{:?}]", device.name);
        let name = device.new_name.as_ref().unwrap_or(&device.name);
        if !vctx_netns::device::is_name(&device.name) || device.name.contains('%') {
            return Err(Error::invalid(field, "is no name of a network device"));
        }
        if !vctx_netns::device::is_name(name) {
            return Err(Error::invalid(
                format!("{field}.name"),
                format!("is {name:?}, which is no name of a network device"),
            ));
        }
        if !name.contains('%') && !names.insert(name) {
            return Err(Error::invalid(
                format!("{field}.name"),
                format!("is {name:?}, which another device has"),
            ));
        }
    }
    Ok(())
}

/// A kind of namespace by the word that the configuration has for it.
fn word(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

fn mappings(linux: &Linux, makes_user: bool) -> Result<()> {
    for (field, mappings) in
        [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())]
    {
        let mappings = mappings.as_deref().unwrap_or_default();
        if makes_user && mappings.is_empty() {
            return Err(Error::invalid(
                field,
                "is empty, and a new user namespace needs at least one mapping",
            ));
        }
        if !makes_user && !mappings.is_empty() && !has_joined_user(linux) {
            return Err(Error::invalid(field, "needs a user namespace in linux.namespaces"));
        }
        id_ranges(field, mappings)?;
    }
    Ok(())
}

fn id_ranges(field: &str, mappings: &[oci_spec::runtime::LinuxIdMapping]) -> Result<()> {
    for (index, one) in mappings.iter().enumerate() {
        let fits =
            |first: u32| one.size().checked_sub(1).is_some_and(|rest| first.checked_add(rest).is_some());
        if !fits(one.host_id()) || !fits(one.container_id()) {
            return Err(Error::invalid(
                format!("{field}[{index}].size"),
                format!("is {}; ids lie between 0 and 4294967295", one.size()),
            ));
        }
    }
    Ok(())
}

fn has_joined_user(linux: &Linux) -> bool {
    linux
        .namespaces()
        .iter()
        .flatten()
        .any(|one| one.typ() == LinuxNamespaceType::User && one.path().is_some())
}

/// A sysctl that is not the namespace's own would change the host's.
fn sysctl(key: &str, has: &dyn Fn(LinuxNamespaceType) -> bool) -> Result<()> {
    let field = format!("linux.sysctl[{key:?}]");
    let key = key.replace('/', ".");
    if key.split('.').any(|part| part.is_empty()) || key.contains('\0') {
        return Err(Error::invalid(field, "is no name such as net.ipv4.ip_forward"));
    }
    let ipc = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let (kind, own) = if ipc.contains(&key.as_str()) || key.starts_with("fs.mqueue.") {
        (LinuxNamespaceType::Ipc, true)
    } else if key.starts_with("net.") {
        (LinuxNamespaceType::Network, true)
    } else if key == "kernel.hostname" || key == "kernel.domainname" {
        (LinuxNamespaceType::Uts, true)
    } else if key.starts_with("user.") {
        (LinuxNamespaceType::User, true)
    } else {
        (LinuxNamespaceType::Ipc, false)
    };
    if !own {
        return Err(Error::invalid(field, "belongs to no namespace; it would change the host"));
    }
    if !has(kind) {
        return Err(Error::invalid(
            field,
            format!("needs a {} namespace in linux.namespaces; it would change the host's", word(kind)),
        ));
    }
    Ok(())
}

fn paths(linux: &Linux) -> Result<()> {
    let lists =
        [("linux.maskedPaths", linux.masked_paths()), ("linux.readonlyPaths", linux.readonly_paths())];
    for (field, list) in lists {
        for one in list.iter().flatten() {
            path(field, Path::new(one))?;
            if !one.starts_with('/') {
                return Err(Error::invalid(field, format!("holds {one:?}; paths there must be absolute")));
            }
        }
    }
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        if device.typ() == LinuxDeviceType::A {
            return Err(Error::invalid(
                format!("linux.devices[{index}].type"),
                "is a; c, u, b and p are devices",
            ));
        }
        let field = format!("linux.devices[{index}].path");
        path(&field, device.path())?;
        if !device.path().is_absolute() || device.path().components().any(|part| part == Component::ParentDir)
        {
            return Err(Error::invalid(
                field,
                format!("is {:?}, and must be an absolute path without `..`", device.path()),
            ));
        }
    }
    Ok(())
}

fn text(field: &str, text: &str) -> Result<()> {
    if text.len() > TEXT {
        return Err(Error::invalid(
            field,
            format!("holds a text of {} bytes, and the limit is {TEXT}", text.len()),
        ));
    }
    if text.contains('\0') {
        return Err(Error::invalid(field, "holds a nul character"));
    }
    Ok(())
}

fn path(field: &str, path: &Path) -> Result<()> {
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.len() >= PATH {
        return Err(Error::invalid(
            field,
            format!("has {} bytes, and a path has fewer than {PATH}", bytes.len()),
        ));
    }
    if bytes.contains(&0) {
        return Err(Error::invalid(field, "holds a nul character"));
    }
    Ok(())
}
