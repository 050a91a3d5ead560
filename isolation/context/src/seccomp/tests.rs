//! Filters on real children, the programs themselves in a small BPF machine, and the cache's files.

// A failed step of a test is a failed test, and a skipped one is to be seen.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod cached;
mod children;
mod machine;
mod programs;
mod refusals;
mod rules;

use oci_spec::runtime::LinuxSeccomp;

fn profile(text: &str) -> LinuxSeccomp {
    serde_json::from_str(text).unwrap()
}

/// As many names, rules and architectures as engines send; ENOSYS by default, and EPERM for what they know and refuse.
fn engine_profile() -> LinuxSeccomp {
    use oci_spec::runtime::{Arch, LinuxSeccompAction};
    let mut profile = super::default_profile(super::DEFAULT_CAPABILITIES);
    profile.set_default_errno_ret(Some(libc::ENOSYS as u32));
    profile.set_architectures(Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]));
    let mut rules = profile.syscalls().clone().unwrap_or_default();
    let mut refused = rules[0].clone();
    refused.set_action(LinuxSeccompAction::ScmpActErrno);
    refused.set_names(["mount", "bpf", "keyctl", "setns", "reboot"].map(str::to_owned).to_vec());
    rules.push(refused);
    profile.set_syscalls(Some(rules));
    profile
}
