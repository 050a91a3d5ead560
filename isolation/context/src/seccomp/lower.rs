//! The slow path: libseccomp compiles a validated profile, with runc's reading of the OCI rules.

use std::fs::File;
use std::io::{Read, Seek};

use libc::sock_filter;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};
use rustix::fs::{MemfdFlags, memfd_create};

use super::bpf::{self, Section, Socketcall};
use super::{Error, architecture, ranges};

/// The sub-calls of `socketcall`, beginning with number 1 (`linux/net.h`).
const SOCKETCALLS: [&str; 20] = [
    "socket",
    "bind",
    "connect",
    "listen",
    "accept",
    "getsockname",
    "getpeername",
    "socketpair",
    "send",
    "recv",
    "sendto",
    "recvfrom",
    "shutdown",
    "setsockopt",
    "getsockopt",
    "sendmsg",
    "recvmsg",
    "accept4",
    "recvmmsg",
    "sendmmsg",
];

/// Compiles the program: our prologue, then libseccomp's, made small where that is understood.
pub(super) fn lower(profile: &LinuxSeccomp) -> Result<Vec<sock_filter>, Error> {
    let (whole, audits) = whole(profile)?;
    let small = ranges::shrink(&whole, &audits).filter(|small| small.len() < whole.len());
    let program = small.unwrap_or(whole);
    match program.len() {
        instructions if instructions > libc::BPF_MAXINSNS as usize => Err(Error::TooLong { instructions }),
        _ => Ok(program),
    }
}

/// The program as it comes, and the audit numbers that it knows.
pub(super) fn whole(profile: &LinuxSeccomp) -> Result<(Vec<sock_filter>, Vec<u32>), Error> {
    let default = action(profile.default_action(), profile.default_errno_ret());
    let mut context = ScmpFilterContext::new(default).map_err(Error::Compile)?;
    let architectures = architecture::of(profile);
    for &arch in &architectures {
        let added = context.add_arch(architecture::token(arch));
        added.map_err(|source| Error::Architecture { arch, source })?;
    }
    // A binary tree over the numbers instead of a list: ten comparisons for each call instead of hundreds. libseccomp
    // before 2.5 does not have it, and its list decides the same.
    let _ = context.set_ctl_optimize(2);
    for rule in profile.syscalls().iter().flatten() {
        add(&mut context, rule, default)?;
    }
    let program = bpf::with_prologue(&sections(profile, &architectures), &export(&context)?);
    let mut audits: Vec<u32> = architectures.into_iter().map(architecture::audit).collect();
    audits.sort_unstable();
    audits.dedup();
    Ok((program, audits))
}

/// One rule of the profile for each of its names. Names that libseccomp does not know are skipped: profiles are
/// written for newer kernels, too. A rule that repeats the default action says nothing, and libseccomp refuses it.
fn add(context: &mut ScmpFilterContext, rule: &LinuxSyscall, default: ScmpAction) -> Result<(), Error> {
    let action = action(rule.action(), rule.errno_ret());
    if action == default {
        return Ok(());
    }
    let conditions: Vec<_> = rule.args().iter().flatten().map(condition).collect();
    // libseccomp takes one condition for each argument. With two on one argument, every condition becomes a rule of
    // its own, so that one of them is enough: that is runc's reading, and profiles are written for it.
    let alternatives = conditions.chunks(if repeats_an_argument(rule) { 1 } else { conditions.len().max(1) });
    for name in rule.names() {
        let Ok(syscall) = ScmpSyscall::from_name(name) else { continue };
        let failed = |source| Error::Rule { syscall: name.clone(), source };
        if conditions.is_empty() {
            context.add_rule(action, syscall).map_err(failed)?;
        }
        for together in alternatives.clone() {
            context.add_rule_conditional(action, syscall, together).map_err(failed)?;
        }
    }
    Ok(())
}

fn repeats_an_argument(rule: &LinuxSyscall) -> bool {
    let args = rule.args().as_deref().unwrap_or_default();
    args.iter().enumerate().any(|(place, arg)| args[..place].iter().any(|other| other.index() == arg.index()))
}

fn condition(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    use LinuxSeccompOperator as Op;
    let (operator, datum) = match arg.op() {
        Op::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        Op::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        Op::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        Op::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        Op::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        Op::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        Op::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0)),
    };
    ScmpArgCompare::new(arg.index() as u32, operator, datum)
}

/// EPERM where no error number is given, for a tracer too.
fn action(action: LinuxSeccompAction, errno: Option<u32>) -> ScmpAction {
    let errno = errno.unwrap_or(libc::EPERM as u32);
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno as i32),
        LinuxSeccompAction::ScmpActNotify => ScmpAction::Notify,
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(errno as u16),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
    }
}

/// libseccomp 2.5 writes only to a descriptor.
fn export(context: &ScmpFilterContext) -> Result<Vec<sock_filter>, Error> {
    let memory = memfd_create("seccomp", MemfdFlags::CLOEXEC).map_err(|error| Error::Export(error.into()))?;
    context.export_bpf(&memory).map_err(Error::Compile)?;
    let mut memory = File::from(memory);
    let mut bytes = Vec::new();
    memory.rewind().and_then(|()| memory.read_to_end(&mut bytes)).map_err(Error::Export)?;
    bpf::from_bytes(&bytes).ok_or(Error::TooLong { instructions: bytes.len() / 8 })
}

/// What the prologue has to know of each audit architecture. Only a default action that refuses needs one.
fn sections(profile: &LinuxSeccomp, architectures: &[Arch]) -> Vec<Section> {
    use LinuxSeccompAction as Action;
    if matches!(profile.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace) {
        return Vec::new();
    }
    let mut sections: Vec<Section> = Vec::new();
    for &arch in architectures {
        let audit = architecture::audit(arch);
        let place = sections.iter().position(|section| section.audit == audit).unwrap_or_else(|| {
            sections.push(Section { audit, ..Section::default() });
            sections.len() - 1
        });
        let last = last_mentioned(profile, architecture::token(arch));
        match arch {
            Arch::ScmpArchX32 => sections[place].last_x32 = last,
            _ => sections[place].last = last,
        }
        sections[place].socketcall = socketcall(profile, architecture::token(arch));
    }
    sections
}

/// The newest call that the profile's author knew: the largest number among all names, whatever their action.
fn last_mentioned(profile: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names);
    names.filter_map(|name| number(name, arch)).max()
}

/// libseccomp allows `socketcall(SYS_SOCKET, ...)` unconditionally where `socket` is allowed under conditions, which
/// the pointer hides. So those sub-calls are refused, unless the profile names `socketcall` and thereby wants it.
fn socketcall(profile: &LinuxSeccomp, arch: ScmpArch) -> Option<Socketcall> {
    let number = number("socketcall", arch)?;
    let rules = || profile.syscalls().iter().flatten();
    let named = |rule: &LinuxSyscall, name: &str| rule.names().iter().any(|other| other == name);
    if rules().any(|rule| named(rule, "socketcall")) {
        return None;
    }
    let conditional = |rule: &LinuxSyscall| rule.args().as_ref().is_some_and(|args| !args.is_empty());
    let hidden = |name: &str| {
        let mut mentions = rules().filter(|rule| named(rule, name)).peekable();
        mentions.peek().is_some() && mentions.all(conditional)
    };
    let calls = (1..).zip(SOCKETCALLS);
    let refused: Vec<u32> = calls.filter(|(_, name)| hidden(name)).map(|(call, _)| call).collect();
    let action = profile.default_action().as_u32(profile.default_errno_ret());
    (!refused.is_empty()).then_some(Socketcall { number, refused, action })
}

/// A real number on that architecture; libseccomp's negative ones stand for calls that it does not have.
fn number(name: &str, arch: ScmpArch) -> Option<u32> {
    let syscall = ScmpSyscall::from_name_by_arch(name, arch).ok()?;
    u32::try_from(syscall.as_raw_syscall()).ok()
}
