//! What a loss of power leaves of a store. The store lies on a file system in a file; what this file holds at a moment, without
//! what the kernel has yet to write, is what would be on the disk.

use super::made::{Layer, Layout};
use crate::harness::{Case, Need, case, command, json, runtime};
use crate::host_run::User;
use std::fs;
use std::process::Command;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(an_image_on_the_list_is_on_the_disk),
        case!(a_layer_that_was_not_on_the_disk_is_made_again),
        case!(a_store_on_a_file_system_that_is_unfit_says_so),
    ];
    let needs = [Need::Root, Need::Path("/dev/loop-control"), Need::Program("mkfs.ext4")];
    cases.into_iter().map(|case| needs.into_iter().fold(case, Case::needs)).collect()
}

/// Runs a script in a mount namespace of its own: `$vctx`, and a `disk` with an ext4 that is mounted at `store`.
#[track_caller]
fn script(user: &User, script: &str) -> command::Output {
    let begin = "set -e; truncate -s 64M disk; mkfs.ext4 -q disk; mkdir store crashed; mount -o loop disk store; \
        crash() { cp disk copy; umount store; mount -o loop copy crashed; for notes in crashed/.store/unsettled/*; do \
        [ ! -d $notes ] || mv $notes crashed/.store/unsettled/another-boot; done; };";
    let mut shell = Command::new("unshare");
    shell.args(["-m", "sh", "-c", &format!("{begin} {script}")]).current_dir(&user.folder);
    shell.env("vctx", runtime()).env("HOME", user.path("home"));
    command::run(&mut shell)
}

fn many_files(prefix: &str) -> Layer {
    let layer = Layer::new().busybox(&["sh", "cat", "wc"]).folder("d");
    (0..100).fold(layer, |layer, number| layer.file(&format!("d/{prefix}-{number}"), &"x".repeat(3000)))
}

fn an_image_on_the_list_is_on_the_disk() {
    let user = User::me();
    let layout = Layout::new(user.folder.join("layout"), vec![many_files("a"), many_files("b")]);
    layout.done();
    let seen = script(
        &user,
        "$vctx --root store image import layout app:1; crash; $vctx --root crashed image fsck; \
         $vctx --root crashed run --rm app:1 sh -c 'cat /d/* | wc -c'; ls crashed/.store/unsettled",
    );
    assert_eq!(seen.ok().stdout, "app:1\n600000\n");
}

fn a_layer_that_was_not_on_the_disk_is_made_again() {
    let user = User::me();
    let good = Layout::new(user.folder.join("layout"), vec![many_files("a"), many_files("b")]);
    good.done();
    // The first layer comes, and the second is not what it should be.
    let mut bad = Layout::new(user.folder.join("bad"), vec![many_files("a"), Layer::new()]);
    bad.config["rootfs"]["diff_ids"][1] = json!(format!("sha256:{}", "1".repeat(64)));
    bad.done();
    // fsync(2) of another file takes the names into the journal, and not what the files hold.
    let seen = script(
        &user,
        "$vctx --root store image import bad bad:1 2>/dev/null || true; ls store/.store/layers | wc -l; \
         touch store/other; sync store/other; crash; \
         $vctx --root crashed image import layout app:1; $vctx --root crashed image fsck; \
         $vctx --root crashed run --rm app:1 sh -c 'cat /d/* | wc -c'",
    );
    assert_eq!(seen.ok().stdout, "1\napp:1\n600000\n");
}

fn a_store_on_a_file_system_that_is_unfit_says_so() {
    let user = User::me();
    Layout::new(user.folder.join("layout"), vec![many_files("a")]).done();
    fs::create_dir(user.folder.join("lower")).unwrap();
    let seen = script(
        &user,
        "mkdir upper over; mount -t tmpfs tmpfs upper; mkdir upper/u upper/w; \
         mount -t overlay overlay -o lowerdir=lower,upperdir=upper/u,workdir=upper/w over; \
         $vctx --root over image import layout app:1; $vctx --root over run --rm app:1 sh -c 'cat /d/* | wc -c' 2>&1 || true; \
         $vctx --root over run -d app:1 sh 2>&1 || true",
    )
    .ok();
    let lines: Vec<&str> = seen.stdout.lines().collect();
    // What is thrown away lies in memory then; what is to be kept is refused.
    assert_eq!(&lines[..2], ["app:1", "300000"], "{}", seen.stdout);
    assert!(lines[2].contains("is on overlayfs, which cannot keep the changes"), "{}", seen.stdout);
}
