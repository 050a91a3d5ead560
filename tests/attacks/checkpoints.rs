//! A checkpoint from somebody else: its images give no more than the bundle of whoever restores it, and the folders that
//! hold them lead nowhere.

use super::paths::Canary;
use crate::checkpoint::{checkpoint, restore};
use crate::checkpoint_again::filter;
use crate::harness::{Case, Context, Need, case, json, leaks};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(a_checkpoint_smuggles_no_capability),
        case!(a_checkpoint_smuggles_no_way_around_the_filter),
        case!(a_checkpoint_smuggles_no_namespace_of_the_hosts),
        case!(a_checkpoint_smuggles_no_mount),
        case!(a_checkpoint_smuggles_no_device),
        case!(a_checkpoint_smuggles_no_privileges_to_be_gained),
        case!(a_checkpoint_is_not_written_through_links),
        case!(a_checkpoint_that_another_user_can_change_is_not_believed),
    ];
    cases.into_iter().map(|case| case.needs(Need::Criu).needs(Need::Vctx)).collect()
}

const IDLE: &str = "exec </dev/null >/dev/null 2>&1; touch /ready; while :; do sleep 1; done";

/// Makes a checkpoint in which `more` is so, and restores it into a bundle in which it is not.
fn smuggle(script: &str, more: impl FnOnce(&mut Context), says: &str) {
    let mut context = Context::sh(script);
    let bundle = context.spec.clone();
    more(&mut context);
    context.launch();
    crate::harness::eventually("the guest", 20, || context.root("/ready").exists().then_some(()));
    checkpoint(&context, &[]).ok();
    context.spec = bundle;
    refused(&context, says);
}

fn refused(context: &Context, says: &str) {
    let output = restore(context, &[]);
    assert!(output.code != 0, "smuggled: {says}");
    assert!(output.stderr.contains(says), "{}", output.stderr);
    let left = leaks::settle(&context.id, &context.dir, &context.state_root);
    assert!(left.is_empty(), "{left:?}");
}

fn a_checkpoint_smuggles_no_capability() {
    let more = |context: &mut Context| {
        for set in ["bounding", "effective", "permitted"] {
            context.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_ADMIN"));
        }
    };
    smuggle(IDLE, more, "beyond process.capabilities: CAP_SYS_ADMIN");
}

fn a_checkpoint_smuggles_no_way_around_the_filter() {
    let mut context = Context::sh(IDLE);
    context.launch();
    crate::harness::eventually("the guest", 20, || context.root("/ready").exists().then_some(()));
    checkpoint(&context, &[]).ok();
    context.set("/linux/seccomp", filter());
    refused(&context, "seccomp filter");
    // A filter is there, and allows all.
    context.set(
        "/linux/seccomp",
        json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["rmdir"], "action": "SCMP_ACT_ERRNO" },
    ] }),
    );
    context.launch();
    checkpoint(&context, &[]).ok();
    context.set("/linux/seccomp", filter());
    refused(&context, "seccomp filter");
}

fn a_checkpoint_smuggles_no_namespace_of_the_hosts() {
    let more = |context: &mut Context| context.without_namespace("network");
    smuggle(IDLE, more, "net namespace");
    let more = |context: &mut Context| context.without_namespace("ipc");
    smuggle(IDLE, more, "ipc namespace");
}

fn a_checkpoint_smuggles_no_mount() {
    // A file system of the host's kernel that the bundle does not have.
    let more = |context: &mut Context| context.mount("/mnt/more", "sysfs", "sysfs", &[]);
    smuggle(IDLE, more, "/mnt/more");
    // What the bundle has read-only can be written.
    let more = |context: &mut Context| {
        let mounts = context.spec.pointer_mut("/mounts").unwrap().as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/sys");
        context.mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev"]);
    };
    smuggle(IDLE, more, "/sys is not mounted as the configuration says");
    let more = |context: &mut Context| context.set("/linux/maskedPaths", json!([]));
    smuggle(IDLE, more, "is not masked");
    let more = |context: &mut Context| context.set("/linux/readonlyPaths", json!([]));
    smuggle(IDLE, more, "can be written");
}

/// The kernel's log can be written to by the guest of the checkpoint.
fn a_checkpoint_smuggles_no_device() {
    let script = "exec </dev/null >/dev/null 2>&1; mknod /dev/log c 1 11; exec 5>/dev/log; touch /ready; while :; do sleep 1; done";
    let more = |context: &mut Context| {
        let rule = json!({ "allow": true, "type": "c", "major": 1, "minor": 11, "access": "w" });
        context.push("/linux/resources/devices", rule);
    };
    smuggle(script, more, "criu failed");
}

fn a_checkpoint_smuggles_no_privileges_to_be_gained() {
    let more = |context: &mut Context| context.set("/process/noNewPrivileges", json!(false));
    smuggle(IDLE, more, "may gain privileges");
}

fn a_checkpoint_is_not_written_through_links() {
    let mut context = Context::sh(IDLE);
    let canary = Canary::new(&context);
    context.launch();
    let images = context.dir.join("images");
    for name in ["dump.log", "descriptors.json", "inventory.img", "core-1.img", "parent"] {
        fs::create_dir(&images).unwrap();
        symlink(canary.path.join("file"), images.join(name)).unwrap();
        let output = checkpoint(&context, &["--leave-running"]);
        canary.check();
        assert!(output.code != 0, "{name} is a link, and was taken");
        fs::remove_dir_all(&images).unwrap();
    }
    // The folder itself is a link into somebody's folder.
    symlink(&canary.path, &images).unwrap();
    checkpoint(&context, &["--leave-running"]).refused_with(&["is a link"]);
    canary.check();
    fs::remove_file(&images).unwrap();
    checkpoint(&context, &["--leave-running"]).ok();
}

fn a_checkpoint_that_another_user_can_change_is_not_believed() {
    let mut context = Context::sh(IDLE);
    context.launch();
    let images = context.dir.join("images");
    fs::create_dir(&images).unwrap();
    fs::set_permissions(&images, fs::Permissions::from_mode(0o777)).unwrap();
    checkpoint(&context, &["--leave-running"]).refused_with(&["written by others"]);
    fs::set_permissions(&images, fs::Permissions::from_mode(0o700)).unwrap();
    checkpoint(&context, &[]).ok();
    chown(&images, Some(1000), None).unwrap();
    restore(&context, &[]).refused_with(&["belongs to another user"]);
    chown(&images, Some(0), None).unwrap();
    chown(images.join("core-1.img"), Some(1000), None).unwrap();
    restore(&context, &[]).refused_with(&["belongs to another user"]);
    chown(images.join("core-1.img"), Some(0), None).unwrap();
    restore(&context, &[]).ok();
}
