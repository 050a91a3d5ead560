//! The part of the plan that makes the process: arguments, identity, limits and attributes.

use std::cell::Cell;
use std::ffi::{CStr, c_char};
use std::path::Path;

use bumpalo::Bump;
use oci_spec::runtime::{LinuxCapabilities, PosixRlimitType, Process as SpecProcess, Spec};
use vctx_context::capability;
use vctx_context::child::plan::{Capabilities, Console, Landlock, LandlockRule, Process};
use vctx_context::child::sys::SchedulerAttributes;

use super::{Facts, Press};
use crate::{Error, Result};

/// Makes the plan of a process, for a new context or for one that runs.
///
/// # Errors
///
/// As [`super::new_context`].
pub(crate) fn process<'a>(
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
    let first_word = || process.args().iter().flatten().next().map(Path::new);
    let program = facts.path.as_deref().or_else(first_word).map(|path| path.as_os_str().as_encoded_bytes());
    let searched = program.is_some_and(|program| !program.contains(&b'/'));
    let folder = |folder: &'_ str| if folder.is_empty() { "." } else { folder }.to_owned() + "/";
    let places: Vec<Vec<u8>> = match program {
        Some(name) if searched => {
            search.split(':').map(|place| [folder(place).as_bytes(), name].concat()).collect()
        }
        program => program.into_iter().map(<[u8]>::to_vec).collect(),
    };
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
        places: press.texts(places)?,
        searched,
        cwd: press.path(process.cwd())?,
        make_cwd: first,
        user: (user.uid(), user.gid()),
        groups: (!facts.no_setgroups)
            .then(|| &*arena.alloc_slice_copy(user.additional_gids().as_deref().unwrap_or_default())),
        umask: user.umask(),
        capabilities: Some(capabilities(process.capabilities().as_ref(), facts.grantable).0),
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
        keyring: facts.keyring,
        scoped: facts.scoped,
        landlock: landlock(&press, spec, facts)?,
        seccomp: facts.filter,
        console: facts.console.map(|socket| Console { socket, size }),
        keep_below: facts.preserve.saturating_add(3),
    })
}

/// What waits in a context that has no process, and is never started: it has no program, and may do nothing.
pub(super) fn idle() -> SpecProcess {
    let mut process = SpecProcess::default();
    process
        .set_args(None)
        .set_env(None)
        .set_rlimits(None)
        .set_capabilities(None)
        .set_no_new_privileges(Some(true));
    process
}

/// The CPUs of a process that joins, once it is in its control group.
fn final_affinity<'a>(arena: &'a Bump, process: &SpecProcess) -> Result<Option<&'a [u64]>> {
    let affinity = process.exec_cpu_affinity().as_ref();
    match affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref()) {
        None | Some("") => Ok(None),
        Some(cpus) => Ok(Some(&*arena.alloc_slice_copy(&mask("process.execCPUAffinity.final", cpus)?))),
    }
}

/// The names of the capabilities that the process asks for and does not get in every set that it names.
pub(crate) fn withheld(process: &SpecProcess, grantable: u64) -> Vec<String> {
    capability::names(capabilities(process.capabilities().as_ref(), grantable).1)
}

/// All capabilities that the process gets in any set.
pub(crate) fn all_capabilities(process: &SpecProcess, grantable: u64) -> u64 {
    let sets = capabilities(process.capabilities().as_ref(), grantable).0;
    sets.bounding | sets.effective | sets.permitted | sets.inheritable | sets.ambient
}

/// The sets, and what was asked for beside them. What cannot be granted is left out: in a restricted environment that is
/// no failure, but a warning (runtime-spec, "Linux Process"). The kernel has an inheritable capability lie in the
/// bounding set, an effective one in the permitted, and an ambient one in both of the latter (capabilities(7)).
fn capabilities(sets: Option<&LinuxCapabilities>, grantable: u64) -> (Capabilities, u64) {
    let asked = |set: fn(&LinuxCapabilities) -> &Option<oci_spec::runtime::Capabilities>| {
        let names = sets.and_then(|sets| set(sets).as_ref()).into_iter().flatten();
        names.filter_map(|name| capability::bit(&name.to_string())).fold(0, |all, bit| all | bit)
    };
    let mut left_out = 0;
    let mut grant = |asked: u64, of: u64| {
        left_out |= asked & !of;
        asked & of
    };
    let bounding = grant(asked(LinuxCapabilities::bounding), grantable);
    let permitted = grant(asked(LinuxCapabilities::permitted), grantable);
    let inheritable = grant(asked(LinuxCapabilities::inheritable), grantable & bounding);
    let effective = grant(asked(LinuxCapabilities::effective), permitted);
    let ambient = grant(asked(LinuxCapabilities::ambient), permitted & inheritable);
    (Capabilities { bounding, effective, permitted, inheritable, ambient }, left_out)
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
        flags: scheduler.flags().iter().flatten().map(bit).fold(0, |all, bit| all | bit),
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(scheduler.priority().unwrap_or(0)).map_err(|_| {
            Error::invalid("process.scheduler.priority", "is negative; priorities begin with 0")
        })?,
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
    let flags: i32 = policy.flags().iter().flatten().map(flag).fold(0, |all, bit| all | bit);
    let nodes = policy.nodes().as_deref().unwrap_or("");
    Ok((mode | flags, &*arena.alloc_slice_copy(&mask("linux.memoryPolicy.nodes", nodes)?)))
}

/// A list such as `0-3,7` as words of a bit mask (cpuset(7), "List format").
///
/// # Errors
///
/// The list is malformed or names more than 4,096 elements.
pub(crate) fn mask(field: &str, list: &str) -> Result<Vec<u64>> {
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

fn landlock<'a>(press: &Press<'a>, spec: &Spec, facts: &Facts<'a>) -> Result<Option<Landlock<'a>>> {
    let Some(rules) = crate::landlock::rules(spec)? else { return Ok(None) };
    let rule = |rule: &crate::landlock::Rule<'_>| {
        let (folder, file) = rule.access.bits(facts.landlock);
        Ok(LandlockRule { path: press.text(rule.path)?, folder, file })
    };
    let rules = rules.iter().map(rule).collect::<Result<Vec<_>>>()?;
    Ok(Some(Landlock { handled: facts.landlock, rules: press.list(rules) }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_is_given_twice_is_the_same_flag() {
        let process: SpecProcess = serde_json::from_str(
            r#"{"cwd":"/","args":["a"],"user":{"uid":0,"gid":0},"scheduler":{"policy":"SCHED_OTHER",
                "flags":["SCHED_RESET_ON_FORK","SCHED_RESET_ON_FORK"]}}"#,
        )
        .unwrap();
        assert_eq!(scheduler(&process).unwrap().unwrap().flags, 1);
        let policy: oci_spec::runtime::LinuxMemoryPolicy = serde_json::from_str(
            r#"{"mode":"MPOL_BIND","nodes":"0","flags":["MPOL_F_STATIC_NODES","MPOL_F_STATIC_NODES"]}"#,
        )
        .unwrap();
        assert_eq!(memory_policy(&Bump::new(), &policy).unwrap().0, 2 | 1 << 15);
    }
}
