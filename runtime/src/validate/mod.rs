//! What a configuration must be, before anything is done. Pure: no system call is made here.

mod hooks;
mod linux;
#[cfg(test)]
mod tests;

use std::path::{Component, Path};

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};

use crate::{Error, Result};

pub(crate) use linux::resources;

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
    // Without one, a context can be made, and not be started (runtime-spec, "Process").
    if let Some(process) = spec.process() {
        self::process("process", process)?;
    }
    if spec.annotations().iter().flatten().any(|(key, _)| key.is_empty()) {
        return Err(Error::invalid("annotations", "has an empty key"));
    }
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let field = format!("mounts[{index}].destination");
        path(&field, mount.destination())?;
        if mount.destination().components().any(|part| part == Component::ParentDir) {
            return Err(Error::invalid(field, "contains `..`; give the path inside the root"));
        }
        fake_proc(&field, mount)?;
        idmapped(spec, mount, index)?;
        unbindable(spec, mount, index)?;
        kind(mount, index)?;
        if let Some(kind) = mount.typ() {
            text(&format!("mounts[{index}].type"), kind)?;
        }
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
    hooks::hooks(spec)?;
    crate::landlock::rules(spec)?;
    match spec.linux() {
        Some(linux) => linux::linux(spec, linux),
        None => Err(Error::invalid("linux", "is missing; a Linux context needs its namespaces at least")),
    }
}

/// `MAJOR.MINOR.PATCH`, and what may follow after a hyphen or a plus (semver.org, 2.0.0).
fn version(version: &str) -> Result<()> {
    let (core, rest) = version.split_at(version.find(['-', '+']).unwrap_or(version.len()));
    let number = |text: &str| text.parse::<u32>().ok().filter(|number| number.to_string() == text);
    let numbers: Vec<_> = core.split('.').map(number).collect();
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_word_list = rest.is_empty() || rest[1..].split(['.', '+']).all(word);
    match numbers.as_slice() {
        [Some(1), Some(_), Some(_)] if is_word_list => Ok(()),
        [Some(_), Some(_), Some(_)] if is_word_list => {
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
    affinity(field, process)?;
    scheduler(process)?;
    crate::plan::process::io_priority(process)?;
    if let Some(mask) = process.user().umask()
        && mask > 0o777
    {
        return Err(Error::invalid(
            at("user.umask"),
            format!("is {mask:o}, and must lie between 0 and 777 (octal)"),
        ));
    }
    // Without a terminal the size must be passed over.
    if let Some(size) = process.console_size().filter(|_| process.terminal() == Some(true))
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

/// What sched_setattr(2) would refuse without saying why (sched(7)).
fn scheduler(process: &Process) -> Result<()> {
    const KEEP_POLICY_OR_PARAMETERS: u64 = 0x18;
    let Some(wanted) = crate::plan::process::scheduler(process)? else { return Ok(()) };
    if wanted.flags & KEEP_POLICY_OR_PARAMETERS != 0 {
        return Ok(());
    }
    let refuse = |field: &str, why: String| Err(Error::invalid(format!("process.scheduler.{field}"), why));
    let (real_time, deadline) = (matches!(wanted.policy, 1 | 2), wanted.policy == 6);
    if !(-20..=19).contains(&wanted.nice) {
        return refuse("nice", format!("is {}, and must lie between -20 and 19", wanted.nice));
    }
    if real_time && !(1..=99).contains(&wanted.priority) {
        return refuse("priority", format!("is {}, and must lie between 1 and 99", wanted.priority));
    }
    if !real_time && wanted.priority != 0 {
        return refuse("priority", "is set; SCHED_FIFO and SCHED_RR alone have one".into());
    }
    let period = if wanted.period == 0 { wanted.deadline } else { wanted.period };
    if deadline && !(1..=wanted.deadline).contains(&wanted.runtime) {
        return refuse("runtime", "must lie between 1 and the deadline".into());
    }
    if deadline && period < wanted.deadline {
        return refuse("period", "is shorter than the deadline".into());
    }
    Ok(())
}

fn affinity(field: &str, process: &Process) -> Result<()> {
    let Some(affinity) = process.exec_cpu_affinity() else { return Ok(()) };
    for (name, cpus) in [("initial", affinity.initial()), ("final", affinity.cpu_affinity_final())] {
        if let Some(cpus) = cpus {
            crate::plan::process::mask(&format!("{field}.execCPUAffinity.{name}"), cpus)?;
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
    let bind = crate::plan::root::options_of(mount).bind || mount.typ().as_deref() == Some("bind");
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

/// Without a mount namespace of its own the root is a copy, in which such a mount would be missing.
fn unbindable(spec: &Spec, mount: &oci_spec::runtime::Mount, index: usize) -> Result<()> {
    let changes = crate::plan::root::options_of(mount).propagation;
    if !changes.iter().any(|(flag, _)| *flag == crate::mount::UNBINDABLE) || crate::plan::makes_mounts(spec) {
        return Ok(());
    }
    Err(Error::invalid(
        format!("mounts[{index}].options"),
        "has unbindable, which needs a new mount namespace in linux.namespaces; add one, or leave the option away",
    ))
}

/// An idmapped mount has both mappings, or those of the context's user namespace.
fn idmapped(spec: &Spec, mount: &oci_spec::runtime::Mount, index: usize) -> Result<()> {
    let options = crate::plan::root::options_of(mount);
    let field = |name: &str| format!("mounts[{index}].{name}");
    let (users, groups) = (mount.uid_mappings(), mount.gid_mappings());
    for (name, own, other) in [("uidMappings", users, groups), ("gidMappings", groups, users)] {
        match own.as_deref() {
            Some(own) => linux::id_ranges(&field(name), own)?,
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

pub(crate) fn path(field: &str, path: &Path) -> Result<()> {
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
