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
