//! The guest, or a path in the configuration, reaches control groups that are not its own (CVE-2023-25809,
//! CVE-2022-0492), or makes what cannot be removed again.

use super::guest;
use super::paths::Canary;
use crate::harness::{Case, Context, Need, case, cgroup, json};
use crate::rootless;
use std::path::PathBuf;
use std::process::Command;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_guest_sees_no_group_but_its_own),
        case!(an_ordinary_users_guest_sees_no_group_of_the_hosts)
            .needs(Need::Vctx)
            .needs(Need::Program("setpriv")),
        case!(groups_that_are_nested_deeper_than_a_path_are_removed)
            .differs("runc", "1.5 cannot remove them"),
        case!(a_group_with_processes_is_not_taken),
        case!(a_group_path_that_climbs_is_refused),
        case!(no_limit_moves_a_process),
    ]
}

const SHOW: &str =
    "ls -d /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/*/*/cgroup.procs; find /sys/fs/cgroup -name";

fn with_groups(context: &mut Context, options: &[&str]) {
    context.mount("/sys/fs/cgroup", "cgroup", "cgroup", options);
}

/// The mount is writable: nothing but what it shows keeps the guest from its neighbour's groups.
fn a_guest_sees_no_group_but_its_own() {
    let neighbour = Context::idle();
    for own_namespace in [false, true] {
        // With version 2 alone, the guest's own group is the mount itself.
        let own = "ls -d /sys/fs/cgroup/cgroup.procs";
        // find(1) fails where a group of somebody else's goes while it looks.
        let script = format!("{own} 2>/dev/null; {SHOW} {} 2>/dev/null; true", neighbour.id);
        let mut context = Context::sh(&script);
        with_groups(&mut context, &["nosuid", "noexec", "nodev"]);
        if own_namespace {
            context.push("/linux/namespaces", json!({ "type": "cgroup" }));
        }
        let seen = context.run().ok().stdout;
        assert!(seen.contains("cgroup.procs"), "{seen}");
        assert!(!seen.contains(&neighbour.id), "the neighbour's group is seen: {seen}");
    }
}

fn an_ordinary_users_guest_sees_no_group_of_the_hosts() {
    let neighbour = Context::idle();
    let mut context =
        rootless::context(&format!("{SHOW} {} 2>/dev/null; echo end", neighbour.id), rootless::single());
    with_groups(&mut context, &["nosuid", "noexec", "nodev"]);
    let output = rootless::bundle(&context, "run").ok();
    assert_eq!(output.stdout, "end\n", "groups of the host are seen");
}

/// A guest that has its groups to itself, as systemd in a context does.
fn groups_that_are_nested_deeper_than_a_path_are_removed() {
    let place = if cgroup::is_v2("freezer") { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/freezer" };
    let mut context = Context::new();
    with_groups(&mut context, &["nosuid", "noexec", "nodev"]);
    guest::bring(&mut context);
    context.args(&[guest::args("nest-groups"), vec![place]].concat());
    context.create().ok();
    // If it stays, it is taken away here, and not left to the machine.
    let _guard = Removed(cgroup::folder(&context, "freezer"));
    context.start().ok();
    context.wait_stopped();
    assert!(context.output().contains("done: "), "{}", context.output());
    let deleted = context.delete();
    assert_eq!(deleted.code, 0, "the groups cannot be removed: {}", deleted.stderr);
    context.assert_nothing_left();
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = Command::new("find").arg(&self.0).args(["-depth", "-type", "d", "-delete"]).output();
    }
}

/// Deleting the context would kill whoever is there.
fn a_group_with_processes_is_not_taken() {
    let neighbour = Context::idle();
    for below in ["", "/below"] {
        let mut context = Context::sh("true");
        context.set("/linux/cgroupsPath", json!(format!("/{}{below}", neighbour.id)));
        if below.is_empty() {
            context.create().refused();
            context.call(&["delete", "--force", &context.id]);
        }
    }
    assert_eq!(neighbour.status(), "running", "the neighbour was killed");
    neighbour.exec(&[], &["true"]).ok();
}

fn a_group_path_that_climbs_is_refused() {
    let mut context = Context::new();
    let canary = Canary::new(&context);
    let made = canary.path.join("made");
    for climb in [format!("/../../../..{}", made.display()), format!("a/../../../../../..{}", made.display())]
    {
        context.set("/linux/cgroupsPath", json!(climb));
        context.create().refused_with(&["`..`", "illegal", "invalid"]);
        canary.check();
    }
    context.set("/linux/cgroupsPath", json!(format!("/{}", context.id)));
    context.args(&["sleep", "1000"]);
    context.launch();
    let climb = format!("/../../../../..{}", made.display());
    context.exec(&["--cgroup", &climb], &["true"]).refused();
    canary.check();
}

/// `unified` writes files by their names: one of them would bring a process of the host's into the group.
fn no_limit_moves_a_process() {
    let mut bystander = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = bystander.id();
    let mut context = Context::sh("true");
    context.set("/linux/resources/unified", json!({ "cgroup.procs": pid.to_string() }));
    context.create().refused();
    let lives = bystander.try_wait().unwrap().is_none();
    let _ = bystander.kill();
    let _ = bystander.wait();
    assert!(lives, "the bystander was taken into the group, and killed with it");
    context.assert_nothing_left();
}
