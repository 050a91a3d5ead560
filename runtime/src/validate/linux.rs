//! The object `linux` of a configuration: namespaces, mappings, sysctls, devices and paths.

use std::collections::HashSet;
use std::path::{Component, Path};

use oci_spec::runtime::{
    Linux, LinuxDeviceType, LinuxMemoryPolicy, LinuxNamespaceType, LinuxResources, Spec,
};
use vctx_context::cgroup;

use super::{path, text};
use crate::{Error, Result};

pub(super) fn linux(spec: &Spec, linux: &Linux) -> Result<()> {
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
    let joins = |kind| has(kind).is_some_and(|one| one.path().is_some());
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
    time_offsets(linux)?;
    if linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty())
        && !makes(LinuxNamespaceType::Time)
    {
        return needs("linux.timeOffsets", LinuxNamespaceType::Time);
    }
    together(&makes, &joins)?;
    mappings(linux, makes(LinuxNamespaceType::User))?;
    for (key, value) in linux.sysctl().iter().flatten() {
        text("linux.sysctl", value)?;
        sysctl(key, &|kind| has(kind).is_some())?;
    }
    let devices = crate::plan::net_devices(spec);
    if !devices.is_empty() && has(LinuxNamespaceType::Network).is_none() {
        return needs("linux.netDevices", LinuxNamespaceType::Network);
    }
    net_devices(&devices)?;
    parts(linux)
}

/// What a namespace takes beside it.
fn together(
    makes: &impl Fn(LinuxNamespaceType) -> bool,
    joins: &impl Fn(LinuxNamespaceType) -> bool,
) -> Result<()> {
    // To set its clocks, the process must for a moment be open to whoever has power over its user namespace, and can see it.
    if makes(LinuxNamespaceType::Time) && joins(LinuxNamespaceType::User) && !makes(LinuxNamespaceType::Pid) {
        return Err(Error::invalid(
            "linux.namespaces",
            "lists a new time namespace beside a user namespace to join; that takes a new pid namespace too",
        ));
    }
    // Root of a new user namespace has no power over the mounts of the host's.
    if makes(LinuxNamespaceType::User)
        && !makes(LinuxNamespaceType::Mount)
        && !joins(LinuxNamespaceType::Mount)
    {
        return Err(Error::invalid(
            "linux.namespaces",
            "lists a new user namespace, and no mount namespace; add a new one, for the root file system is mounted in it",
        ));
    }
    Ok(())
}

/// What is checked by itself, whatever stands beside it.
fn parts(linux: &Linux) -> Result<()> {
    if let Some(policy) = linux.memory_policy() {
        memory_policy(policy)?;
    }
    // The specification has flags, and no value of them yet.
    if let Some(flag) = linux.personality().as_ref().and_then(|one| one.flags().as_ref()?.first()) {
        return Err(Error::invalid(
            "linux.personality.flags",
            format!("holds {flag:?}; no flag is supported, leave them away"),
        ));
    }
    paths(linux)?;
    devices(linux)?;
    if let Some(name) = linux.rootfs_propagation()
        && !name.is_empty()
        && crate::mount::root_propagation(name).is_none()
    {
        return Err(Error::invalid(
            "linux.rootfsPropagation",
            format!("is {name:?}; shared, slave, private and unbindable are known"),
        ));
    }
    if let Some(label) = linux.mount_label() {
        text("linux.mountLabel", label)?;
    }
    if let Some(group) = linux.cgroups_path() {
        path("linux.cgroupsPath", group)?;
    }
    if let Some(resources) = linux.resources() {
        self::resources(resources)?;
    }
    if let Some(profile) = linux.seccomp() {
        vctx_context::seccomp::validate(profile)?;
        if let Some(agent) = profile.listener_path() {
            path("linux.seccomp.listenerPath", agent)?;
        }
    }
    Ok(())
}

/// What set_mempolicy(2) would refuse without saying why.
fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<()> {
    use oci_spec::runtime::{MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode};
    let none =
        crate::plan::process::mask("linux.memoryPolicy.nodes", policy.nodes().as_deref().unwrap_or(""))?
            .is_empty();
    match policy.mode() {
        Mode::MpolDefault | Mode::MpolLocal if !none => {
            Err(Error::invalid("linux.memoryPolicy.nodes", "is set, and this mode takes no nodes"))
        }
        Mode::MpolBind | Mode::MpolInterleave | Mode::MpolWeightedInterleave | Mode::MpolPreferredMany
            if none =>
        {
            Err(Error::invalid("linux.memoryPolicy.nodes", "is empty, and this mode needs at least one node"))
        }
        _ => Ok(()),
    }?;
    let has = |flag: Flag| policy.flags().iter().flatten().any(|one| *one == flag);
    if has(Flag::MpolFStaticNodes) && has(Flag::MpolFRelativeNodes) {
        return Err(Error::invalid("linux.memoryPolicy.flags", "holds both STATIC_NODES and RELATIVE_NODES"));
    }
    Ok(())
}

fn time_offsets(linux: &Linux) -> Result<()> {
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        if clock != "monotonic" && clock != "boottime" {
            return Err(Error::invalid(
                "linux.timeOffsets",
                format!("has the clock {clock:?}; monotonic and boottime can be set off"),
            ));
        }
        if offset.nanosecs().is_some_and(|nanoseconds| nanoseconds >= 1_000_000_000) {
            return Err(Error::invalid(
                format!("linux.timeOffsets.{clock}.nanosecs"),
                "is a second or more, and must be below 1000000000",
            ));
        }
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

pub(super) fn id_ranges(field: &str, mappings: &[oci_spec::runtime::LinuxIdMapping]) -> Result<()> {
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
    Ok(())
}

/// The kernel's device numbers have 12 and 20 bits (linux/kdev_t.h); of more it would take the lower ones.
const NUMBERS: [i64; 2] = [1 << 12, 1 << 20];

fn devices(linux: &Linux) -> Result<()> {
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
        // The package takes a number that is missing for 0. That is no driver's, and in an overlay means an erased file.
        if device.typ() != LinuxDeviceType::P && device.major() == 0 {
            return Err(Error::invalid(
                format!("linux.devices[{index}].major"),
                "is missing or 0, which no device has",
            ));
        }
        let numbers = [("major", device.major()), ("minor", device.minor())];
        for ((name, number), end) in numbers.into_iter().zip(NUMBERS) {
            if device.typ() != LinuxDeviceType::P && !(0..end).contains(&number) {
                return Err(Error::invalid(
                    format!("linux.devices[{index}].{name}"),
                    format!("is {number}, and must lie between 0 and {}", end - 1),
                ));
            }
        }
    }
    Ok(())
}

/// Refuses limits that are wrong in themselves.
///
/// # Errors
///
/// Names the field.
pub(crate) fn resources(resources: &LinuxResources) -> Result<()> {
    cgroup::validate(resources).map_err(|error| match error {
        cgroup::Error::Value { field, why } => Error::invalid(format!("linux.resources.{field}"), why),
        other => Error::Cgroup(other),
    })
}
