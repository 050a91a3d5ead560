//! Doors into the kernel that a guest rarely needs: our default profile keeps them shut (CVE-2022-0185, CVE-2024-1086,
//! 2026-31431, Shocker).

use super::guest;
use crate::harness::{Case, Context, Need, case, command, json, runtime};
use std::process::Command;

pub fn cases() -> Vec<Case> {
    let mut cases = vec![case!(the_default_profile_refuses_what_opens_the_kernel).needs(Need::Vctx)];
    if cfg!(target_arch = "x86_64") {
        cases.push(case!(a_call_by_another_architectures_number_is_refused));
    }
    let reason = "libseccomp 2.5 lets one rule hide another";
    cases.push(case!(a_rule_about_arguments_hides_no_other).differs("runc", reason).differs("crun", reason));
    cases.push(case!(a_profile_of_a_few_conditions_is_compiled_at_once).needs(Need::Vctx));
    cases
}

fn the_default_profile_refuses_what_opens_the_kernel() {
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().unwrap().to_str().unwrap();
    let attacks = [
        "open-by-handle",
        "algorithm-socket",
        "vsock-socket",
        "user-namespace",
        "keyring",
        "bpf",
        "userfaultfd",
        "io-uring",
    ];
    let mut open = Vec::new();
    for attack in attacks {
        let mut vctx = Command::new(runtime());
        vctx.args(["run", "--rm", "--share", &format!("{folder}:ro"), "host", "--"]).arg(&own);
        vctx.args(&guest::args(attack)[1..]);
        let output = command::run(&mut vctx).ok();
        if !output.stdout.starts_with("refused: ") {
            open.push(format!("{attack}: {}", output.stdout));
        }
    }
    assert!(open.is_empty(), "open doors: {open:?}");
}

/// A profile that names one architecture closes the others: their calls have other numbers, and would not be met by it.
fn a_call_by_another_architectures_number_is_refused() {
    for default in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"] {
        let mut context = Context::new();
        guest::bring(&mut context);
        context.args(&[guest::args("old-call"), vec!["/tmp/made"]].concat());
        let rules = json!([{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }]);
        let profile =
            json!({ "defaultAction": default, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules });
        context.set("/linux/seccomp", profile);
        context.run();
        assert!(!context.root("tmp/made").exists(), "made under {default}");
    }
}

/// Two limits for one argument, each of which refuses: what either refuses is refused.
fn a_rule_about_arguments_hides_no_other() {
    let refused = |name: &str, index: u32, value: u64| {
        json!({ "names": [name], "action": "SCMP_ACT_ERRNO",
            "args": [{ "index": index, "value": value, "op": "SCMP_CMP_LT" }] })
    };
    // The mode of a folder is the second argument of one call, and the third of the other.
    let rules: Vec<_> = [0, 1 << 32]
        .into_iter()
        .flat_map(|value| [refused("mkdir", 1, value), refused("mkdirat", 2, value)])
        .collect();
    let mut context = Context::new();
    context.args(&["sh", "-c", "mkdir /tmp/made; ls /tmp"]);
    context.set("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules }));
    context.run();
    assert!(!context.root("tmp/made").exists(), "the folder was made");
}

/// A configuration keeps no `create` busy: two rules of five conditions, with which libseccomp 2.5 does not come to an end.
fn a_profile_of_a_few_conditions_is_compiled_at_once() {
    let arg = |index: u32, op: &str, value: u64| json!({ "index": index, "value": value, "op": op });
    let common = arg(0, "SCMP_CMP_LE", u64::MAX);
    let rules: Vec<_> = [
        vec![common.clone(), arg(1, "SCMP_CMP_EQ", 0), arg(2, "SCMP_CMP_NE", 0)],
        vec![common, arg(4, "SCMP_CMP_GE", 1 << 33)],
    ]
    .into_iter()
    .map(|args| json!({ "names": ["reboot"], "action": "SCMP_ACT_ERRNO", "args": args }))
    .collect();
    let mut context = Context::new();
    context.args(&["echo", "here"]);
    context.set("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules }));
    assert_eq!(context.run().ok().stdout, "here\n");
}
