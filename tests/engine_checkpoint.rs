//! Checkpoint and restore as engines do it.

use crate::harness::engine::{Client, IMAGE, containerd, podman};
use crate::harness::{Case, Need, case, eventually, rootfs, runtime};

pub fn cases() -> Vec<Case> {
    let podman = |case: Case| case.needs(Need::Program("podman")).needs(Need::Program("conmon"));
    vec![
        podman(case!(podman_checkpoints_and_restores)),
        podman(case!(podman_leaves_running_what_it_checkpoints)),
        podman(case!(podman_exports_and_imports_under_another_name)),
        case!(containerd_checkpoints_and_restores)
            .needs(Need::Program("containerd"))
            .needs(Need::Program("ctr")),
    ]
}

const COUNT: &str = "n=0; while :; do n=$((n+1)); echo $n; usleep 50000; done";

/// The last number that a container has printed.
fn last(podman: &Client, name: &str) -> u32 {
    let logs = podman.say(&["logs", name]);
    logs.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or(0)
}

#[track_caller]
fn counts_beyond(podman: &Client, name: &str, least: u32) {
    eventually("the count", 20, || (last(podman, name) > least).then_some(()));
    // It was not started anew: every number is there once.
    let logs = podman.say(&["logs", name]);
    assert!(logs.lines().filter(|line| *line == "1").count() <= 1, "{logs}");
}

fn podman_checkpoints_and_restores() {
    let podman = podman();
    podman.say(&["run", "-d", "--name", "c", IMAGE, "sh", "-c", COUNT]);
    counts_beyond(&podman, "c", 3);
    podman.say(&["container", "checkpoint", "c"]);
    assert_eq!(podman.say(&["inspect", "--format", "{{.State.Status}}", "c"]), "exited");
    let before = last(&podman, "c");
    podman.say(&["container", "restore", "c"]);
    counts_beyond(&podman, "c", before);
    assert_eq!(podman.say(&["exec", "c", "echo", "inside"]), "inside");
    podman.say(&["stop", "--time", "0", "c"]);
}

fn podman_leaves_running_what_it_checkpoints() {
    let podman = podman();
    podman.say(&["run", "-d", "--name", "c", IMAGE, "sh", "-c", COUNT]);
    counts_beyond(&podman, "c", 3);
    podman.say(&["container", "checkpoint", "--leave-running", "c"]);
    assert_eq!(podman.say(&["inspect", "--format", "{{.State.Status}}", "c"]), "running");
    let before = last(&podman, "c");
    counts_beyond(&podman, "c", before);
}

fn podman_exports_and_imports_under_another_name() {
    let podman = podman();
    let archive = rootfs::workspace().join("checkpoint.tar.gz");
    let archive = archive.to_str().unwrap();
    podman.say(&["run", "-d", "--name", "c", IMAGE, "sh", "-c", &format!("echo kept >/file; {COUNT}")]);
    counts_beyond(&podman, "c", 3);
    podman.say(&["container", "checkpoint", "--export", archive, "c"]);
    let before = last(&podman, "c");
    podman.say(&["rm", "c"]);
    podman.say(&["container", "restore", "--import", archive, "--name", "other"]);
    counts_beyond(&podman, "other", before);
    assert_eq!(podman.say(&["exec", "other", "cat", "/file"]), "kept");
    let _ = std::fs::remove_file(archive);
}

fn containerd_checkpoints_and_restores() {
    let ctr = containerd();
    let script = "n=0; while :; do n=$((n+1)); echo $n >/count; usleep 50000; done";
    let runc = runtime().to_str().unwrap();
    let fixed = ["run", "--runtime", "io.containerd.runc.v2", "--runc-binary", runc];
    ctr.say(&[&fixed[..], &["-d", "--null-io", IMAGE, "c", "sh", "-c", script]].concat());
    let count = |id: &str| {
        let output = ctr.call(&["task", "exec", "--exec-id", "look", id, "cat", "/count"]);
        output.stdout.trim().parse::<u32>().unwrap_or(0)
    };
    eventually("the count", 20, || (count("c") > 3).then_some(()));
    let images = rootfs::workspace().join("ctr-images");
    std::fs::create_dir(&images).unwrap();
    ctr.call(&["task", "checkpoint", "--image-path", images.to_str().unwrap(), "c"]).ok();
    assert!(images.join("inventory.img").exists());
    let before = count("c");
    eventually("the count", 20, || (count("c") > before).then_some(()));
}
