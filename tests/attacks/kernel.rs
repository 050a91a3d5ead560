//! Doors into the kernel that a guest rarely needs: our default profile keeps them shut (CVE-2022-0185, CVE-2024-1086,
//! 2026-31431, Shocker).

use super::guest;
use crate::harness::{Case, Need, case, command, runtime};
use std::process::Command;

pub fn cases() -> Vec<Case> {
    vec![case!(the_default_profile_refuses_what_opens_the_kernel).needs(Need::Vctx)]
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
    for attack in attacks {
        let mut vctx = Command::new(runtime());
        vctx.args(["run", "--rm", "--share", &format!("{folder}:ro"), "host", "--"]).arg(&own);
        vctx.args(&guest::args(attack)[1..]);
        let output = command::run(&mut vctx).ok();
        assert!(output.stdout.starts_with("refused: "), "{attack}: {}", output.stdout);
    }
}
