//! Profiles that are refused, what the refusal says, and profiles that look odd but are not refused.

use oci_spec::runtime::LinuxSeccomp;

use super::profile;
use crate::seccomp::{compile, validate};

fn with_rule(rule: &str) -> String {
    format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rule}]}}"#)
}

#[test]
fn what_cannot_work_is_refused_by_name() {
    let arg = |index: &str| {
        let args = format!(r#"[{{"index": {index}, "value": 1, "op": "SCMP_CMP_EQ"}}]"#);
        with_rule(&format!(r#"{{"names": ["kill", "tkill"], "action": "SCMP_ACT_ALLOW", "args": {args}}}"#))
    };
    let table = [
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/a"}"#.to_owned(), "default action"),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4095}"#.to_owned(),
            "4095 is larger than 4094",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}"#.to_owned(),
            "SCMP_ACT_ALLOW takes no error",
        ),
        (arg("6"), "`kill`: argument index 6"),
        (arg("4294967296"), "argument index 4294967296"),
        (
            with_rule(r#"{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4294967295}"#),
            "kill: error number",
        ),
        (
            with_rule(r#"{"names": ["kill"], "action": "SCMP_ACT_TRACE", "errnoRet": 65536}"#),
            "larger than 65535",
        ),
        (
            with_rule(r#"{"names": ["kill"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1}"#),
            "kill: SCMP_ACT_ALLOW takes no",
        ),
        (with_rule(r#"{"names": [""], "action": "SCMP_ACT_ALLOW"}"#), r#""" is not a name"#),
        (with_rule(r#"{"names": ["a\u0000b"], "action": "SCMP_ACT_ALLOW"}"#), r#""a\0b" is not a name"#),
        (
            with_rule(r#"{"names": ["kill"], "action": "SCMP_ACT_NOTIFY"}"#),
            "`kill` uses SCMP_ACT_NOTIFY, but listenerPath",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a",
                "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_NOTIFY"}]}"#
                .to_owned(),
            "`write`, which is needed to hand the listener over",
        ),
    ];
    for (text, expected) in table {
        let profile = profile(&text);
        let message = validate(&profile).expect_err(&text).to_string();
        assert!(message.starts_with("seccomp: ") && message.contains(expected), "{text}: {message}");
        assert_eq!(compile(&profile, None).expect_err(&text).to_string(), message, "compile validates first");
    }
}

#[test]
fn unknown_words_do_not_parse_and_are_named() {
    for (text, word) in [
        (r#"{"defaultAction": "SCMP_ACT_PANIC"}"#.to_owned(), "SCMP_ACT_PANIC"),
        (
            r#"{"defaultAction": "SCMP_ACT_KILL", "architectures": ["SCMP_ARCH_Z80"]}"#.to_owned(),
            "SCMP_ARCH_Z80",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_KILL", "flags": ["SECCOMP_FILTER_FLAG_X"]}"#.to_owned(),
            "SECCOMP_FILTER_FLAG_X",
        ),
        (with_rule(r#"{"names": ["kill"], "action": "ALLOW"}"#), "ALLOW"),
        (
            with_rule(
                r#"{"names": ["kill"], "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_ROUGHLY"}]}"#,
            ),
            "SCMP_CMP_ROUGHLY",
        ),
    ] {
        let message = serde_json::from_str::<LinuxSeccomp>(&text).expect_err(&text).to_string();
        assert!(message.contains(word), "{message}");
    }
}

#[test]
fn an_architecture_that_does_not_fit_is_refused_by_name() {
    for arch in ["SCMP_ARCH_S390X", "SCMP_ARCH_MIPS"] {
        let text = format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["{arch}"],
                "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_ALLOW"}}]}}"#
        );
        let message = compile(&profile(&text), None).expect_err(arch).to_string();
        assert!(message.contains(arch), "big-endian beside little-endian: {message}");
    }
}

#[test]
fn every_name_of_an_architecture_parses_to_the_same_one() {
    for name in
        "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390
        S390X PARISC PARISC64 RISCV64 LOONGARCH64 M68K SH SHEB"
            .split_whitespace()
    {
        let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_{name}"]}}"#);
        let arch = profile(&text).architectures().as_ref().unwrap()[0];
        let token: libseccomp::ScmpArch = format!("SCMP_ARCH_{name}").parse().unwrap();
        assert_eq!(crate::seccomp::architecture::token(arch), token, "{name}");
    }
}

#[test]
fn what_runc_takes_is_taken() {
    let none = [
        r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": []}"#,
    ];
    for text in none {
        assert!(compile(&profile(text), None).unwrap().is_none(), "nothing to load: {text}");
    }
    let native =
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_NATIVE", "SCMP_ARCH_X86_64"]}"#;
    let long = "x".repeat(300);
    let some = [
        native.to_owned(),
        with_rule(r#"{"names": [], "action": "SCMP_ACT_ALLOW"}"#),
        with_rule(r#"{"names": ["no_such_call"], "action": "SCMP_ACT_ALLOW"}"#),
        with_rule(&format!(r#"{{"names": ["{long}"], "action": "SCMP_ACT_ALLOW"}}"#)),
        with_rule(r#"{"names": ["kill"], "action": "SCMP_ACT_ERRNO"}"#),
        with_rule(r#"{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}"#),
        with_rule(r#"{"names": ["kill", "kill"], "action": "SCMP_ACT_ALLOW", "args": []}"#),
        with_rule(r#"{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4094}"#),
        with_rule(
            r#"{"names": ["arch_prctl", "socketcall", "riscv_flush_icache"], "action": "SCMP_ACT_ALLOW"}"#,
        ),
    ];
    for text in some {
        assert!(compile(&profile(&text), None).unwrap().is_some(), "{text}");
    }
}

#[test]
fn a_program_that_the_kernel_would_refuse_is_refused_here() {
    let args = |value: u32| format!(r#"[{{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}}]"#);
    let rule =
        |value| format!(r#"{{"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": {}}}"#, args(value));
    let rules: Vec<_> = (0..4200).map(rule).collect();
    let message =
        compile(&profile(&with_rule(&rules.join(","))), None).map(|_| ()).expect_err("too long").to_string();
    assert!(message.contains("the kernel takes 4096"), "{message}");
}
