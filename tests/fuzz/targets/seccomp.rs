//! Seccomp profiles: the program decides what the profile says, read naively, and its small form decides as the one that
//! libseccomp made. The input is a profile as JSON, or else choices from which one is made.
#![no_main]

use libc::sock_filter;
use libfuzzer_sys::fuzz_target;
use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator as Op, LinuxSyscall};
use serde_json::{Value, json};
use vctx_context::seccomp::fuzzing::programs;
use vctx_fuzz::{Choices, machine};

/// Calls with a number of their own on both architectures: no part of `socketcall` or `ipc`.
const NAMES: [&str; 16] = [
    "read",
    "write",
    "openat",
    "close",
    "ioctl",
    "clone",
    "unshare",
    "personality",
    "kill",
    "mount",
    "ptrace",
    "bpf",
    "clone3",
    "prctl",
    "no_such_call",
    "io_uring_setup",
];
const ACTIONS: [&str; 7] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_LOG",
    "SCMP_ACT_TRACE",
];
const OPERATORS: [&str; 7] = [
    "SCMP_CMP_EQ",
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_GT",
    "SCMP_CMP_GE",
    "SCMP_CMP_MASKED_EQ",
];
/// More are not tried: the time that libseccomp (2.5) takes to add a rule grows exponentially with those on one call.
const CONDITIONS: usize = 4;
const X86_64: u32 = Arch::ScmpArchX86_64 as u32;
const I386: u32 = Arch::ScmpArchX86 as u32;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let (profile, naive) = match serde_json::from_slice::<LinuxSeccomp>(data) {
        Ok(profile) => (profile, false),
        Err(_) => (serde_json::from_value(made(&mut choices)).unwrap(), true),
    };
    let rules = profile.syscalls().iter().flatten();
    if rules.map(|rule| rule.names().len() * conditions(rule).len()).sum::<usize>() > CONDITIONS {
        return;
    }
    let Some((whole, small)) = programs(&profile) else { return };
    assert!(small.len() <= whole.len() && small.len() <= 4096);
    for _ in 0..64 {
        let (arch, number, args) = call(&profile, &mut choices);
        let decided = machine::filter(&whole, arch, number, args);
        assert_eq!(machine::filter(&small, arch, number, args), decided, "{arch:x} {number} {args:x?}");
        // Numbers of x32 are another architecture's, though the kernel reports them under this one.
        if naive && arch == X86_64 && number < 0x4000_0000 {
            check(&profile, number, args, decided, &small);
        }
    }
});

/// One of the rules that speak of the call decides, or none and the default.
fn check(profile: &LinuxSeccomp, number: u32, args: [u64; 6], decided: u32, program: &[sock_filter]) {
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    let rules = || profile.syscalls().iter().flatten();
    let of_call = |rule: &&LinuxSyscall| rule.names().iter().any(|name| self::number(name) == Some(number));
    let action = |rule: &LinuxSyscall| rule.action().as_u32(rule.errno_ret());
    let matching: Vec<u32> = rules()
        .filter(of_call)
        .filter(|rule| holds(rule, args))
        .map(action)
        .filter(|one| *one != default)
        .collect();
    let known = rules().flat_map(LinuxSyscall::names).filter_map(|name| self::number(name)).max();
    let lenient = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"];
    let newer = known.is_some_and(|known| number > known)
        && !lenient.contains(&&*profile.default_action().to_string());
    let expected = match (newer, matching.is_empty()) {
        (true, _) => vec![ENOSYS],
        (false, true) => vec![default],
        (false, false) => matching,
    };
    // libseccomp (2.5) has one tree for all conditions on a call: where comparisons of several meet, it can end at the
    // default though one of them holds. Which actions it may choose from is all that can be said then.
    let rules: Vec<&LinuxSyscall> = rules().filter(of_call).collect();
    let possible: Vec<u32> = match is_plain(&rules) {
        true => Vec::new(),
        false => rules.iter().map(|rule| action(rule)).chain([default]).collect(),
    };
    assert!(
        expected.contains(&decided) || possible.contains(&decided),
        "call {number} {args:x?} is {decided:x}, and should be {expected:x?}: {}\n{program:?}",
        serde_json::to_string(profile).unwrap()
    );
}

/// One rule about a call, or rules that each want one value of the same argument.
fn is_plain(rules: &[&LinuxSyscall]) -> bool {
    let all: Vec<&LinuxSeccompArg> = rules.iter().flat_map(|rule| conditions(rule)).collect();
    let same = all.iter().all(|one| one.op() == Op::ScmpCmpEq && one.index() == all[0].index());
    match rules {
        [one] => same || !repeats(one),
        _ => same && rules.iter().all(|rule| conditions(rule).len() == 1),
    }
}

fn repeats(rule: &LinuxSyscall) -> bool {
    let list = conditions(rule);
    list.iter().enumerate().any(|(at, one)| list[..at].iter().any(|other| other.index() == one.index()))
}

fn conditions(rule: &LinuxSyscall) -> &[LinuxSeccompArg] {
    rule.args().as_deref().unwrap_or_default()
}

/// All conditions hold; with two on one argument one is enough, as in other runtimes.
fn holds(rule: &LinuxSyscall, args: [u64; 6]) -> bool {
    let list = conditions(rule);
    let one = |condition: &LinuxSeccompArg| {
        let (arg, value) = (args[condition.index()], condition.value());
        match condition.op() {
            Op::ScmpCmpEq => arg == value,
            Op::ScmpCmpNe => arg != value,
            Op::ScmpCmpLt => arg < value,
            Op::ScmpCmpLe => arg <= value,
            Op::ScmpCmpGt => arg > value,
            Op::ScmpCmpGe => arg >= value,
            Op::ScmpCmpMaskedEq => arg & value == condition.value_two().unwrap_or(0) & value,
        }
    };
    if repeats(rule) { list.iter().any(one) } else { list.iter().all(one) }
}

fn number(name: &str) -> Option<u32> {
    let call = ScmpSyscall::from_name_by_arch(name, ScmpArch::X8664).ok()?;
    u32::try_from(call.as_raw_syscall()).ok()
}

/// A call at the edges of what the profile speaks of.
fn call(profile: &LinuxSeccomp, choices: &mut Choices) -> (u32, u32, [u64; 6]) {
    let arch = choices.one(&[X86_64, X86_64, X86_64, X86_64, I386, 0]);
    let rules = profile.syscalls().as_deref().unwrap_or_default();
    let mut number = choices.number() as u32;
    let mut args: [u64; 6] = std::array::from_fn(|_| choices.number());
    if !rules.is_empty() && choices.below(8) != 7 {
        let rule = &rules[choices.below(rules.len())];
        if !rule.names().is_empty() {
            let name = &rule.names()[choices.below(rule.names().len())];
            let near = choices.one(&[0, 0, 0, 0, 1, u32::MAX]);
            number = self::number(name).unwrap_or(number).wrapping_add(near);
        }
        for condition in conditions(rule) {
            let near = choices.one(&[0, 1, u64::MAX, 1 << 32, 1 << 63, 0xffff_ffff_0000_0000]);
            let value = match condition.op() {
                Op::ScmpCmpMaskedEq => {
                    condition.value_two().unwrap_or(0) | !condition.value() & choices.number()
                }
                _ => condition.value(),
            };
            args[condition.index()] = value.wrapping_add(near);
        }
    }
    if arch == I386 {
        args = args.map(|arg| arg & 0xffff_ffff)
    }
    (arch, number, args)
}

fn made(choices: &mut Choices) -> Value {
    let mut profile = json!({ "defaultAction": choices.one(&ACTIONS) });
    if choices.yes() {
        let all = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"];
        profile["architectures"] = json!(all[..1 + choices.below(3)]);
    }
    let mut rules = Vec::new();
    for _ in 0..choices.below(8) {
        let names: Vec<&str> = (0..1 + choices.below(4)).map(|_| choices.one(&NAMES)).collect();
        let mut rule = json!({ "names": names, "action": choices.one(&ACTIONS) });
        if rule["action"] == "SCMP_ACT_ERRNO" && choices.yes() {
            rule["errnoRet"] = json!(choices.byte());
        }
        let conditions: Vec<Value> = (0..choices.below(4))
            .map(|_| {
                let (value, two) = (choices.number(), choices.number());
                json!({ "index": choices.below(6), "op": choices.one(&OPERATORS), "value": value, "valueTwo": two })
            })
            .collect();
        if !conditions.is_empty() {
            rule["args"] = json!(conditions);
        }
        rules.push(rule);
    }
    profile["syscalls"] = json!(rules);
    profile
}
