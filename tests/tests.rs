//! The behaviour tests: real processes and real engines, against vctx or against a peer.
//!
//! `VCTX_UNDER_TEST=vctx|runc|crun|/path` chooses the runtime. A case whose requirement is missing on this machine, and
//! a case in which a peer is known to differ, is shown as ignored with its reason and counted.
// A test says what is wrong by panicking, the harness prints, and nothing here is anybody's library.
#![allow(clippy::unwrap_used, clippy::print_stdout, unreachable_pub, missing_docs)]

mod harness;

mod attacks;
mod bad_input;
mod calls;
mod cgroups;
mod checkpoint;
mod checkpoint_again;
mod conformance;
mod engine_checkpoint;
mod engine_containerd;
mod engine_docker;
mod engine_podman;
mod exec;
// The tracer names the registers of one architecture.
#[cfg(target_arch = "x86_64")]
mod faults;
mod filesystem;
mod hooks;
mod host_run;
mod idmapped;
mod images;
mod invariants;
mod landlock;
mod lifecycle;
mod namespaces;
mod net_devices;
mod network;
mod network_beside;
mod network_cni;
mod network_kinds;
mod network_names;
mod network_ports;
mod network_rates;
mod network_rootless;
mod network_shared;
mod podman_rootless;
mod process;
mod refusals;
mod rootless;
mod seccomp;
mod storage;
mod systemd;
mod threat_model;

use harness::Need;
use harness::Need::{Criu, Program, Root, Vctx};

/// The virtual machines have the tests without their source.
const SOURCE: Need = Need::Path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));

fn main() {
    if attacks::guest::main().is_some() {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if faults::soak::main().is_some() {
        return;
    }
    harness::find_criu();
    let mut suites = harness::Suites::new();
    suites.add("invariants", &[SOURCE], invariants::cases());
    suites.add("lifecycle", &[Root], lifecycle::cases());
    suites.add("refusals", &[Root], refusals::cases());
    suites.add("landlock", &[Root], landlock::cases());
    suites.add("calls", &[Root], calls::cases());
    suites.add("bad_input", &[Root], bad_input::cases());
    suites.add("conformance", &[SOURCE], conformance::cases());
    suites.add("threat_model", &[SOURCE], threat_model::cases());
    suites.add("process", &[Root], process::cases());
    suites.add("filesystem", &[Root], filesystem::cases());
    suites.add("idmapped", &[Root], idmapped::cases());
    suites.add("namespaces", &[Root], namespaces::cases());
    suites.add("net_devices", &[Root], net_devices::cases());
    suites.add("network", &[Root], network::cases());
    suites.add("network_beside", &[Root], network_beside::cases());
    suites.add("network_names", &[Root], network_names::cases());
    suites.add("network_cni", &[Root], network_cni::cases());
    suites.add("network_rootless", &[Root], network_rootless::cases());
    suites.add("network_kinds", &[Root], network_kinds::cases());
    suites.add("network_ports", &[Root], network_ports::cases());
    suites.add("network_rates", &[Root], network_rates::cases());
    suites.add("network_shared", &[Root], network_shared::cases());
    suites.add("cgroups", &[Root], cgroups::cases());
    suites.add("systemd", &[Root], systemd::cases());
    suites.add("exec", &[Root], exec::cases());
    suites.add("hooks", &[Root], hooks::cases());
    suites.add("seccomp", &[Root], seccomp::cases());
    suites.add("checkpoint", &[Root, Criu], checkpoint::cases());
    suites.add("checkpoint", &[Root, Criu], checkpoint_again::cases());
    suites.add("attacks", &[Root], attacks::cases());
    #[cfg(target_arch = "x86_64")]
    suites.add("faults", &[Root, Vctx], faults::cases());
    suites.add("rootless", &[Root], rootless::cases());
    suites.add("host_run", &[Vctx], host_run::cases());
    suites.add("images", &[Vctx], images::cases());
    suites.add("storage", &[Vctx], storage::cases());
    suites.add("podman", &[Root, Program("podman"), Program("conmon")], engine_podman::cases());
    suites.add("podman_rootless", &[Root, Program("podman"), Program("conmon")], podman_rootless::cases());
    suites.add("engine_checkpoint", &[Root, Criu], engine_checkpoint::cases());
    suites.add("containerd", &[Root, Program("containerd"), Program("ctr")], engine_containerd::cases());
    suites.add("docker", &[Root, Program("dockerd"), Program("docker")], engine_docker::cases());
    suites.run()
}
