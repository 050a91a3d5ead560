//! Rules on arguments: which of several decides, and that each decides alone.

use std::time::{Duration, Instant};

use libseccomp::{ScmpAction, ScmpArch, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSyscall};

use super::machine::run;
use super::{engine_profile, profile};
use crate::seccomp::{DEFAULT_CAPABILITIES, compile, default_profile, lower};

const X86_64: u32 = Arch::ScmpArchX86_64 as u32;
const I386: u32 = Arch::ScmpArchX86 as u32;
const PPC64LE: u32 = Arch::ScmpArchPpc64le as u32;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const TRAP: u32 = libc::SECCOMP_RET_TRAP;
const KILL_NUMBER: u32 = 62;

fn errno(number: u32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number
}

/// `ACTION if INDEX OP VALUE, INDEX OP VALUE`, of kill(2).
fn rule(text: &str) -> String {
    let (action, conditions) = text.split_once(" if ").unwrap_or((text, ""));
    let (action, number) =
        action.split_once(' ').map_or((action, None), |(action, number)| (action, Some(number)));
    let number = number.map_or(String::new(), |number| format!(r#", "errnoRet": {number}"#));
    let arg = |one: &str| {
        let words: Vec<&str> = one.split(' ').collect();
        let two = words.get(3).unwrap_or(&"0");
        let (index, op, value) = (words[0], words[1], words[2]);
        format!(r#"{{"index": {index}, "op": "SCMP_CMP_{op}", "value": {value}, "valueTwo": {two}}}"#)
    };
    let args: Vec<String> = conditions.split(", ").filter(|one| !one.is_empty()).map(arg).collect();
    format!(r#"{{"names": ["kill"], "action": "SCMP_ACT_{action}"{number}, "args": [{}]}}"#, args.join(", "))
}

fn with(default: &str, rules: &[&str]) -> LinuxSeccomp {
    let rules: Vec<String> = rules.iter().map(|text| rule(text)).collect();
    let (default, number) = default.split_once(' ').unwrap_or((default, ""));
    let number = if number.is_empty() { String::new() } else { format!(r#""defaultErrnoRet": {number},"#) };
    profile(&format!(
        r#"{{"defaultAction": "SCMP_ACT_{default}", {number} "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_PPC64LE"],
            "syscalls": [{}]}}"#,
        rules.join(", ")
    ))
}

/// What kill(2) with these first arguments is answered.
fn decide(profile: &LinuxSeccomp, args: [u64; 3]) -> u32 {
    let program = compile(profile, None).unwrap().unwrap().program;
    run(&program, X86_64, KILL_NUMBER, [args[0], args[1], args[2], 0, 0, 0])
}

#[test]
fn a_rule_without_conditions_decides_alone_and_the_first_of_several() {
    for rules in [
        ["ALLOW", "KILL_PROCESS if 0 EQ 1", "ERRNO 5"],
        ["KILL_PROCESS if 0 EQ 1", "ALLOW", "ERRNO 5"],
        ["ALLOW", "ERRNO 5", "KILL_PROCESS if 0 EQ 1"],
    ] {
        assert_eq!(decide(&with("ERRNO", &rules), [1, 0, 0]), ALLOW, "{rules:?}");
    }
}

#[test]
fn of_rules_that_hold_the_strictest_decides_in_whatever_order_they_stand() {
    let order = ["KILL_PROCESS", "KILL_THREAD", "TRAP", "ERRNO 7", "TRACE 7", "LOG", "ALLOW"];
    for (place, strict) in order.iter().enumerate() {
        for lenient in &order[place + 1..] {
            let (one, other) = (format!("{strict} if 0 EQ 1"), format!("{lenient} if 1 GT 2"));
            let alone = decide(&with("ERRNO 99", &[&one]), [1, 3, 0]);
            for rules in [[&one[..], &other], [&other, &one]] {
                assert_eq!(decide(&with("ERRNO 99", &rules), [1, 3, 0]), alone, "{rules:?}");
            }
        }
    }
}

#[test]
fn of_two_error_numbers_the_first_is_the_answer() {
    let profile = with("ALLOW", &["ERRNO 7 if 0 GE 1", "ERRNO 8 if 1 GE 1", "ERRNO 9 if 0 EQ 0"]);
    assert_eq!(decide(&profile, [1, 1, 0]), errno(7));
    assert_eq!(decide(&profile, [0, 1, 0]), errno(8));
    assert_eq!(decide(&profile, [0, 0, 0]), errno(9));
    assert_eq!(decide(&with("ALLOW", &["ERRNO if 0 EQ 1"]), [1, 0, 0]), errno(1), "EPERM when none is given");
}

/// What libseccomp 2.5 gets wrong, found by the fuzzer: it ends at the default where one of several comparisons holds.
#[test]
fn comparisons_of_several_rules_do_not_hide_one_another() {
    const VALUES: [u64; 7] = [0, 1, 5, 1 << 32, (5 << 32) + 1, 1 << 63, u64::MAX];
    const OPERATORS: [&str; 7] = ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"];
    let holds = |op: &str, arg: u64, value: u64| match op {
        "EQ" => arg == value,
        "NE" => arg != value,
        "LT" => arg < value,
        "LE" => arg <= value,
        "GT" => arg > value,
        "GE" => arg >= value,
        _ => arg & value == 5 & value,
    };
    for (a, b) in OPERATORS.iter().flat_map(|a| OPERATORS.map(|b| (*a, b))) {
        for (x, y) in VALUES.iter().flat_map(|x| VALUES.map(|y| (*x, y))) {
            let (one, other) =
                (format!("TRAP if 0 {a} {x} 5"), format!("ALLOW if 0 {b} {y} 5, 1 GT 4294967296"));
            let program = compile(&with("ERRNO 3", &[&one, &other]), None).unwrap().unwrap().program;
            for (arg, second) in VALUES.iter().flat_map(|arg| [0, 1 << 33].map(|second| (*arg, second))) {
                let expected = match (holds(a, arg, x), holds(b, arg, y) && second > 1 << 32) {
                    (true, _) => TRAP,
                    (false, true) => ALLOW,
                    (false, false) => errno(3),
                };
                let decided = run(&program, X86_64, KILL_NUMBER, [arg, second, 0, 0, 0, 0]);
                assert_eq!(decided, expected, "{one}; {other}: {arg:#x} {second:#x}");
            }
        }
    }
}

/// libseccomp 2.5 does not end with this.
#[test]
fn a_hundred_comparisons_on_one_call_take_no_time_to_speak_of() {
    let operators = ["NE", "LT", "LE", "GT", "GE", "MASKED_EQ"];
    let text = |one: usize| {
        let condition = |index: usize| {
            format!("{index} {} {}", operators[(one + index) % 6], (one as u64 + 1) << (7 * index))
        };
        format!("ERRNO {one} if {}", (0..6).map(condition).collect::<Vec<_>>().join(", "))
    };
    let rules: Vec<String> = (1..35).map(text).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let begun = Instant::now();
    assert!(compile(&with("ALLOW", &rules), None).unwrap().is_some());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn long_lists_of_values_are_short_programs() {
    let rules: Vec<String> = (0..1000).map(|value| format!("ALLOW if 1 EQ {}", 3 * value)).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let profile = with("ERRNO", &rules);
    let program = compile(&profile, None).unwrap().unwrap().program;
    assert!(program.len() < 3200, "{} instructions for three architectures", program.len());
    for value in 0..3010 {
        let expected = if value % 3 == 0 && value < 3000 { ALLOW } else { errno(1) };
        for (audit, number) in [(X86_64, 62), (I386, 37), (PPC64LE, 37)] {
            assert_eq!(run(&program, audit, number, [9, value, 9, 9, 9, 9]), expected, "{value}");
        }
        assert_eq!(
            run(&program, X86_64, 62, [0, value | 1 << 32, 0, 0, 0, 0]),
            errno(1),
            "{value}, high bit"
        );
    }
}

#[test]
fn masked_values_in_a_list_are_each_compared_by_themselves() {
    let masks = [0, 1, 0x10, 0xf0, 0xff00, 0xffff_ffff, 0x8000_0000];
    let values = [0, 1, 0x10, 0x50, 0xff00, 0x8000_0000];
    for (a, x) in masks.iter().flat_map(|mask| values.map(|value| (*mask, value))) {
        for (b, y) in masks.iter().flat_map(|mask| values.map(|value| (*mask, value))) {
            let (one, other) =
                (format!("ALLOW if 0 MASKED_EQ {a} {x}"), format!("ALLOW if 0 MASKED_EQ {b} {y}"));
            let program = compile(&with("ERRNO 3", &[&one, &other]), None).unwrap().unwrap().program;
            for arg in values.into_iter().chain([0xf0, 0x1_0000_0000, u64::MAX]) {
                let holds = arg & a == x & a || arg & b == y & b;
                for (audit, number) in [(X86_64, 62), (I386, 37)] {
                    let decided = run(&program, audit, number, [arg, 0, 0, 0, 0, 0]);
                    assert_eq!(decided, if holds { ALLOW } else { errno(3) }, "{one}; {other}: {arg:#x}");
                }
            }
        }
    }
}

#[test]
fn an_architecture_of_32_bits_compares_32_bits() {
    let minus_one = u64::MAX.to_string();
    let profile = with("ALLOW", &[&format!("KILL_PROCESS if 0 EQ {minus_one}, 1 LT 4294967298")]);
    let program = compile(&profile, None).unwrap().unwrap().program;
    let decide = |audit, number, a, b| run(&program, audit, number, [a, b, 0, 0, 0, 0]);
    assert_eq!(decide(I386, 37, 0xffff_ffff, 1), KILL, "-1, and 1 < 2");
    assert_eq!(decide(I386, 37, 0xffff_ffff, 2), ALLOW);
    assert_eq!(decide(X86_64, 62, 0xffff_ffff, 1), ALLOW);
    assert_eq!(decide(X86_64, 62, u64::MAX, 0x1_0000_0001), KILL);
    assert_eq!(decide(X86_64, 62, u64::MAX, 0x1_0000_0002), ALLOW);
}

#[test]
fn a_family_of_calls_evades_no_rule_of_a_member() {
    let rules = r#"{"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 7,
            "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_EQ"}]},
        {"names": ["semop"], "action": "SCMP_ACT_ERRNO", "errnoRet": 8},
        {"names": ["semtimedop"], "action": "SCMP_ACT_LOG", "args": [{"index": 1, "value": 1, "op": "SCMP_CMP_GT"}]}"#;
    let text = |default: &str, rules: &str| {
        profile(&format!(
            r#"{{"defaultAction": "{default}", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_PPC64LE"],
                "syscalls": [{rules}]}}"#
        ))
    };
    let program = compile(&text("SCMP_ACT_ALLOW", rules), None).unwrap().unwrap().program;
    for (audit, high) in [(I386, 0), (PPC64LE, 0), (PPC64LE, 7 << 32)] {
        let decide = |number, call: u64| run(&program, audit, number, [call | high, 0, 0, 0, 0, 0]);
        assert_eq!(decide(102, 1), errno(7), "the family is behind a pointer: socketcall(SYS_SOCKET)");
        assert_eq!(decide(102, 2), ALLOW, "bind");
        assert_eq!(decide(117, 1), errno(8), "ipc(SEMOP)");
        assert_eq!(decide(117, 1 | 1 << 16), errno(8), "with a version, which the kernel takes off");
        assert_eq!(decide(117, 4), libc::SECCOMP_RET_LOG, "semtimedop");
        assert_eq!(decide(117, 21), ALLOW, "shmat");
    }
    assert_eq!(run(&program, I386, 359, [40, 0, 0, 0, 0, 0]), errno(7), "socket itself");
    assert_eq!(run(&program, I386, 359, [2, 0, 0, 0, 0, 0]), ALLOW);
    let open = r#", {"names": ["socketcall"], "action": "SCMP_ACT_ALLOW"}"#;
    let program = compile(&text("SCMP_ACT_TRAP", &format!("{rules}{open}")), None).unwrap().unwrap().program;
    assert_eq!(run(&program, I386, 102, [1, 0, 0, 0, 0, 0]), ALLOW, "whoever names it wants it");
}

/// Where libseccomp is right, its program decides the same: for all numbers, as far as arguments are given.
#[test]
fn libseccomp_compiles_usual_profiles_to_the_same_decisions() {
    let trivial =
        profile(r#"{"defaultAction": "SCMP_ACT_LOG", "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}"#);
    let mut privileged = default_profile(u64::MAX);
    privileged.set_default_errno_ret(Some(5));
    for profile in [default_profile(DEFAULT_CAPABILITIES), engine_profile(), privileged, trivial] {
        let (theirs, ours) = (libseccomps(&profile), lower::lower(&profile).unwrap());
        assert!(ours.len() < theirs.len().max(60), "{} theirs, {} ours", theirs.len(), ours.len());
        for audit in [X86_64, I386, Arch::ScmpArchAarch64 as u32, 0] {
            let last = newest(&profile, if audit == I386 { ScmpArch::X86 } else { ScmpArch::X8664 });
            // Above is what is newer than the profile; 102 is stricter with us.
            let numbers = (0..=last.min(600)).filter(|&number| (audit, number) != (I386, 102));
            for number in numbers {
                for arg in
                    [0, 1, 2, 8, 16, 17, 38, 40, 0x5412, 0x541c, 0x1000_0011, 0x2_0000, 1 << 32, u64::MAX]
                {
                    let args = [arg, arg, 0, 0, 0, 0];
                    let (old, new) = (run(&theirs, audit, number, args), run(&ours, audit, number, args));
                    assert_eq!(old, new, "architecture {audit:#x}, number {number:#x}, argument {arg:#x}");
                }
            }
        }
    }
}

fn newest(profile: &LinuxSeccomp, arch: ScmpArch) -> u32 {
    let names = profile.syscalls().iter().flatten().flat_map(LinuxSyscall::names);
    let number =
        |name: &String| ScmpSyscall::from_name_by_arch(name, arch).ok()?.as_raw_syscall().try_into().ok();
    names.filter_map(number).max().unwrap_or(u32::MAX)
}

fn libseccomps(profile: &LinuxSeccomp) -> Vec<libc::sock_filter> {
    use libseccomp::{ScmpArgCompare, ScmpCompareOp as Compare};
    use oci_spec::runtime::{LinuxSeccompAction as Action, LinuxSeccompOperator as Op};
    let action = |action: Action, number: Option<u32>| match action {
        Action::ScmpActAllow => ScmpAction::Allow,
        Action::ScmpActLog => ScmpAction::Log,
        Action::ScmpActErrno => ScmpAction::Errno(number.unwrap_or(1) as i32),
        other => panic!("{other} is in none of the usual profiles"),
    };
    let default = action(profile.default_action(), profile.default_errno_ret());
    let mut context = ScmpFilterContext::new(default).unwrap();
    context.add_arch(ScmpArch::Native).unwrap();
    for arch in profile.architectures().iter().flatten() {
        context.add_arch(crate::seccomp::architecture::token(*arch)).unwrap();
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret());
        let compare = |arg: &oci_spec::runtime::LinuxSeccompArg| {
            let (op, value) = match arg.op() {
                Op::ScmpCmpEq => (Compare::Equal, arg.value()),
                Op::ScmpCmpNe => (Compare::NotEqual, arg.value()),
                Op::ScmpCmpMaskedEq => (Compare::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0)),
                other => panic!("{other:?} is in none of the usual profiles"),
            };
            ScmpArgCompare::new(arg.index() as u32, op, value)
        };
        let args: Vec<_> = rule.args().iter().flatten().map(compare).collect();
        for name in rule.names().iter().filter(|_| action != default) {
            let Ok(call) = ScmpSyscall::from_name(name) else { continue };
            context.add_rule_conditional(action, call, &args).unwrap();
        }
    }
    let mut file = tempfile::tempfile().unwrap();
    context.export_bpf(&file).unwrap();
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
    crate::seccomp::bpf::from_bytes(&bytes).unwrap()
}
