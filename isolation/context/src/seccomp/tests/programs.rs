//! The compiled programs in a small BPF machine: every number of every architecture, without a child for each.

use oci_spec::runtime::{Arch, LinuxSeccomp};

use super::machine::run;
use super::profile;
use crate::seccomp::{DEFAULT_CAPABILITIES, compile, default_profile};

const X86_64: u32 = Arch::ScmpArchX86_64 as u32;
const I386: u32 = Arch::ScmpArchX86 as u32;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const X32_BIT: u32 = 0x4000_0000;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

fn program(profile: &LinuxSeccomp) -> Vec<libc::sock_filter> {
    compile(profile, None).unwrap().unwrap().program
}

fn default_program() -> Vec<libc::sock_filter> {
    program(&default_profile(DEFAULT_CAPABILITIES))
}

#[test]
fn the_default_profile_refuses_what_reaches_the_machine() {
    let program = default_program();
    for name in "mount umount2 pivot_root setns bpf perf_event_open userfaultfd io_uring_setup io_uring_enter keyctl
        add_key request_key kexec_load init_module finit_module delete_module open_by_handle_at process_vm_readv
        process_vm_writev quotactl swapon swapoff reboot acct iopl ioperm settimeofday clock_settime vmsplice syslog
        move_mount fsopen open_tree kcmp sethostname modify_ldt"
        .split_whitespace()
    {
        let number = libseccomp::ScmpSyscall::from_name(name).unwrap().as_raw_syscall();
        assert_eq!(run(&program, X86_64, number as u32, [0; 6]), EPERM, "{name}");
    }
}

#[test]
fn high_bits_that_the_kernel_drops_do_not_evade_the_default_profile() {
    let program = default_program();
    let decide = |number: libc::c_long, args: [u64; 6]| run(&program, X86_64, number as u32, args);
    for high in [0, 1 << 32, 0xffff_ffff << 32, 1 << 63] {
        for request in [0x5412, 0x541c] {
            assert_eq!(decide(libc::SYS_ioctl, [0, high | request, 0, 0, 0, 0]), EPERM);
        }
        for family in 0..50 {
            let expected = if [1, 2, 10, 16, 17].contains(&family) { ALLOW } else { EPERM };
            assert_eq!(decide(libc::SYS_socket, [high | family, 1, 0, 0, 0, 0]), expected, "family {family}");
        }
        assert_eq!(decide(libc::SYS_personality, [high | 0x40_0000, 0, 0, 0, 0, 0]), EPERM);
        for place in [7, 17, 25, 26, 27, 28, 29, 30] {
            assert_eq!(
                decide(libc::SYS_unshare, [high | 1 << place, 0, 0, 0, 0, 0]),
                EPERM,
                "unshare bit {place}"
            );
        }
        assert_eq!(decide(libc::SYS_clone, [high | 0x1000_0011, 0, 0, 0, 0, 0]), EPERM);
    }
    assert_eq!(decide(libc::SYS_clone, [0x3d_0f00, 0, 0, 0, 0, 0]), ALLOW, "a thread");
    assert_eq!(decide(libc::SYS_clone, [17, 0, 0, 0, 0, 0]), ALLOW, "a fork");
    assert_eq!(decide(libc::SYS_unshare, [0x600, 0, 0, 0, 0, 0]), ALLOW, "CLONE_FS | CLONE_FILES");
    assert_eq!(decide(libc::SYS_clone3, [0; 6]), ENOSYS);
}

#[test]
fn every_other_ioctl_is_allowed_by_default() {
    let program = default_program();
    let nearby = (0x5000..0x6000).chain((0..32).flat_map(|bit| [0x5412 ^ (1 << bit), 0x541c ^ (1 << bit)]));
    for request in
        nearby.chain([0, u64::from(u32::MAX), u64::MAX]).filter(|one| ![0x5412, 0x541c].contains(one))
    {
        let decision = run(&program, X86_64, libc::SYS_ioctl as u32, [0, request, 0, 0, 0, 0]);
        assert_eq!(decision, ALLOW, "{request:#x}");
    }
}

#[test]
fn socketcall_cannot_make_the_sockets_that_socket_may_not() {
    let program = default_program();
    for (call, expected) in [(1, EPERM), (2, ALLOW), (3, ALLOW), (8, EPERM), (18, ALLOW)] {
        assert_eq!(run(&program, I386, 102, [call, 0, 0, 0, 0, 0]), expected, "sub-call {call}");
        assert_eq!(
            run(&program, I386, 102, [call | 7 << 32, 0, 0, 0, 0, 0]),
            expected,
            "sub-call {call}, high bits"
        );
    }
    assert_eq!(run(&program, I386, 359, [38, 0, 0, 0, 0, 0]), EPERM);
    assert_eq!(run(&program, I386, 359, [2, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn a_profile_that_names_socketcall_gets_it() {
    let program = program(&profile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
            {"names": ["socketcall"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]}]}"#,
    ));
    assert_eq!(run(&program, I386, 102, [1, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn each_capability_unlocks_its_calls_and_no_others() {
    let decide = |capabilities: u64, name: &str| {
        let number = libseccomp::ScmpSyscall::from_name(name).unwrap().as_raw_syscall();
        run(&program(&default_profile(capabilities)), X86_64, number as u32, [0x1000_0011, 0, 0, 0, 0, 0])
    };
    for (capability, unlocked, still_refused) in [
        (2, "open_by_handle_at", "mount"),
        (16, "init_module", "bpf"),
        (17, "iopl", "reboot"),
        (18, "chroot", "unshare"),
        (19, "process_vm_readv", "perf_event_open"),
        (21, "clone", "open_by_handle_at"),
        (21, "clone3", "userfaultfd"),
        (21, "unshare", "io_uring_setup"),
        (22, "reboot", "settimeofday"),
        (25, "settimeofday", "acct"),
        (38, "perf_event_open", "bpf"),
        (39, "bpf", "perf_event_open"),
    ] {
        assert_eq!(decide(1 << capability, unlocked), ALLOW, "{capability} {unlocked}");
        assert_eq!(decide(0, unlocked) & 0xffff_0000, EPERM & 0xffff_0000, "{unlocked}");
        assert_eq!(decide(1 << capability, still_refused), EPERM, "{capability} {still_refused}");
    }
}

#[test]
fn unknown_calls_are_enosys_on_each_architecture_of_the_filter() {
    let mut with_x32 = default_profile(0);
    with_x32.set_architectures(Some(vec![Arch::ScmpArchX86, Arch::ScmpArchX32]));
    let (without, with) = (default_program(), program(&with_x32));
    for program in [&without, &with] {
        assert_eq!(run(program, X86_64, 9999, [0; 6]), ENOSYS);
        assert_eq!(run(program, X86_64, u32::MAX, [0; 6]), ENOSYS);
        assert_eq!(run(program, X86_64, 165, [0; 6]), EPERM, "mount");
        assert_eq!(run(program, X86_64, 0, [0; 6]), ALLOW, "read");
        assert_eq!(run(program, I386, 9999, [0; 6]), ENOSYS);
        assert_eq!(run(program, I386, 21, [0; 6]), EPERM, "mount");
        assert_eq!(run(program, I386, 3, [0; 6]), ALLOW, "read");
        assert_eq!(
            run(program, Arch::ScmpArchAarch64 as u32, 63, [0; 6]),
            0,
            "a foreign architecture is killed"
        );
    }
    assert_eq!(run(&without, X86_64, X32_BIT, [0; 6]), ENOSYS, "no x32 here, like a kernel without it");
    assert_eq!(run(&with, X86_64, X32_BIT, [0; 6]), ALLOW, "read of x32");
    assert_eq!(run(&with, X86_64, X32_BIT | 165, [0; 6]), EPERM, "mount of x32");
    assert_eq!(run(&with, X86_64, X32_BIT | 9999, [0; 6]), ENOSYS);
}

#[test]
fn a_permissive_default_holds_for_new_calls_too() {
    for default in [r#""SCMP_ACT_ALLOW""#, r#""SCMP_ACT_LOG""#, r#""SCMP_ACT_TRACE""#] {
        let text = format!(
            r#"{{"defaultAction": {default}, "syscalls": [{{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}}]}}"#
        );
        let program = program(&profile(&text));
        assert_ne!(run(&program, X86_64, 9999, [0; 6]), ENOSYS, "{default}");
        assert_eq!(run(&program, X86_64, X32_BIT | 165, [0; 6]), 0, "{default}: x32 does not evade it");
    }
}

/// Every rule of the profile by itself, as the OCI specification reads, for all numbers.
#[test]
fn an_engine_size_profile_decides_as_its_rules_read() {
    let profile = super::engine_profile();
    let program = program(&profile);
    for number in 0..400 {
        let Ok(name) = libseccomp::ScmpSyscall::from_raw_syscall(number).get_name() else { continue };
        let rules = || profile.syscalls().iter().flatten().filter(|rule| rule.names().contains(&name));
        if rules().any(|rule| rule.args().as_ref().is_some_and(|args| !args.is_empty())) {
            continue;
        }
        let rule = rules().next();
        let expected = rule.map_or(ENOSYS, |rule| rule.action().as_u32(rule.errno_ret()));
        assert_eq!(run(&program, X86_64, number as u32, [0; 6]), expected, "{name}");
    }
}
