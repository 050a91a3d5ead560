//! Seccomp profiles: the program decides what the profile says, read naively. The input is a profile as JSON, or else
//! choices from which one is made.
#![no_main]

use libfuzzer_sys::fuzz_target;
use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompArg, LinuxSeccompOperator as Op, LinuxSyscall};
use serde_json::{Value, json};
use vctx_context::seccomp::fuzzing::program;
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
const X86_64: u32 = Arch::ScmpArchX86_64 as u32;
const I386: u32 = Arch::ScmpArchX86 as u32;
/// Marks the numbers of x32.
const X32_BIT: u32 = 0x4000_0000;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let (profile, known) = match serde_json::from_slice::<LinuxSeccomp>(data) {
        Ok(profile) => (profile, false),
        Err(_) => (serde_json::from_value(made(&mut choices)).unwrap(), true),
    };
    let Some(program) = program(&profile) else { return };
    assert!(program.len() <= 4096);
    for _ in 0..64 {
        let (arch, number, args) = call(&profile, &mut choices);
        let decided = machine::filter(&program, arch, number, args);
        // What is made names only calls that are the same on both architectures.
        if known && let Some(expected) = naive(&profile, arch, number, args) {
            let text = || serde_json::to_string(&profile).unwrap();
            assert_eq!(decided, expected, "{arch:x} {number} {args:x?}: {}\n{program:?}", text());
        }
    }
});

/// What the profile says, read rule by rule; nothing for numbers of which it says too much to be read so.
fn naive(profile: &LinuxSeccomp, arch: u32, number: u32, args: [u64; 6]) -> Option<u32> {
    let listed = |arch| profile.architectures().iter().flatten().any(|one| *one == arch);
    let token = match arch {
        // Numbers of x32 are another architecture's, though the kernel reports them under this one.
        X86_64 if number < X32_BIT => ScmpArch::X8664,
        X86_64 if listed(Arch::ScmpArchX32) && number != u32::MAX => ScmpArch::X32,
        X86_64 => return None,
        I386 if listed(Arch::ScmpArchX86) => ScmpArch::X86,
        _ => return Some(libc::SECCOMP_RET_KILL_THREAD),
    };
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    let rules = || profile.syscalls().iter().flatten();
    let known = rules().flat_map(LinuxSyscall::names).filter_map(|name| self::number(name, token)).max();
    let lenient = ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"];
    if known.is_some_and(|known| number > known) && !lenient.contains(&&*profile.default_action().to_string())
    {
        return Some(ENOSYS);
    }
    let of_call =
        |rule: &&LinuxSyscall| rule.names().iter().any(|name| self::number(name, token) == Some(number));
    let action = |rule: &LinuxSyscall| rule.action().as_u32(rule.errno_ret());
    let rules: Vec<&LinuxSyscall> = rules().filter(of_call).filter(|rule| action(rule) != default).collect();
    if let Some(alone) = rules.iter().find(|rule| conditions(rule).is_empty()) {
        return Some(action(alone));
    }
    let bits = if token == ScmpArch::X8664 { u64::MAX } else { u64::from(u32::MAX) };
    let holding = rules.into_iter().filter(|rule| holds(rule, args, bits)).map(action);
    // The first of the strictest: the kernel's list in seccomp(2), in which these numbers fall and rise.
    Some(holding.min_by_key(|action| (action & 0xffff_0000) as i32).unwrap_or(default))
}

fn conditions(rule: &LinuxSyscall) -> &[LinuxSeccompArg] {
    rule.args().as_deref().unwrap_or_default()
}

/// All conditions hold; with two on one argument one is enough, as in other runtimes.
fn holds(rule: &LinuxSyscall, args: [u64; 6], bits: u64) -> bool {
    let list = conditions(rule);
    let one = |condition: &LinuxSeccompArg| {
        let (arg, value) = (args[condition.index()] & bits, condition.value() & bits);
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
    let repeats =
        |(at, one): (usize, &LinuxSeccompArg)| list[..at].iter().any(|other| other.index() == one.index());
    if list.iter().enumerate().any(repeats) { list.iter().any(one) } else { list.iter().all(one) }
}

fn number(name: &str, arch: ScmpArch) -> Option<u32> {
    let call = ScmpSyscall::from_name_by_arch(name, arch).ok()?;
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
            let arch = match arch {
                I386 => ScmpArch::X86,
                _ => choices.one(&[ScmpArch::X8664, ScmpArch::X8664, ScmpArch::X8664, ScmpArch::X32]),
            };
            number = self::number(name, arch).unwrap_or(number).wrapping_add(near);
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
