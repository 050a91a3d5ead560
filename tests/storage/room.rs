//! `vctx df`, `vctx gc` and `vctx dedup`: what is taken, what nobody needs, and what equal files take once.

use super::disk::Disk;
use super::{idle, idle_in, stop};
use crate::harness::{Case, Need, case, command, rounds};
use crate::host_run::User;
use crate::images::made::{Layer, Layout};
use serde_json::{Value, json};
use std::fs;
use std::process::Stdio;
use std::time::Instant;

pub fn cases() -> Vec<Case> {
    let disk = |case: Case| case.needs(Need::Root).needs(Need::Path("/dev/loop-control"));
    vec![
        case!(df_counts_what_is_there_and_what_nobody_needs),
        case!(gc_leaves_what_is_used_and_nothing_else),
        case!(gc_takes_what_killed_commands_have_left).needs(Need::Root),
        disk(case!(equal_files_come_to_share_on_xfs)).needs(Need::Program("mkfs.xfs")),
        disk(case!(equal_files_come_to_share_on_btrfs)).needs(Need::Program("mkfs.btrfs")),
        disk(case!(a_store_that_cannot_share_is_told)).needs(Need::Program("mkfs.ext4")),
        disk(case!(files_that_change_meanwhile_stay_as_they_are)).needs(Need::Program("mkfs.xfs")),
    ]
}

fn gc(user: &User, options: &[&str]) -> Value {
    let told = user.call(&[&["gc", "--json"], options].concat()).ok();
    serde_json::from_str(&told.stdout).unwrap()
}

fn gc_leaves_what_is_used_and_nothing_else() {
    for user in [User::me(), User::ordinary()] {
        assert_eq!(gc(&user, &[])["contexts"], json!([]));
        let layer = Layer::new().busybox(&["sh", "sleep", "cat"]).file("of", "the image\n");
        let layout = Layout::new(user.folder.join("layout"), vec![layer]);
        user.call(&["image", "import", layout.done().to_str().unwrap(), "test:1"]).ok();
        let name = user.marker.clone();
        user.call(&["run", "-d", "--name", &name, "-v", "used:/v", "test:1", "sleep", "1000"]).ok();
        user.call(&["volume", "create", "idle"]).ok();
        user.call(&["image", "rm", "test:1"]).ok();
        let would = gc(&user, &["--dry-run", "--volumes"]);
        assert_eq!((&would["volumes"], &would["images"]["layers"]), (&json!(["idle"]), &json!(0)));
        assert_eq!(gc(&user, &[])["volumes"], json!([]));
        assert_eq!(gc(&user, &["--volumes"])["volumes"], json!(["idle"]));
        assert_eq!(user.call(&["exec", &name, "cat", "/of"]).ok().stdout, "the image\n");
        assert_eq!(user.call(&["volume", "ls", "-q"]).ok().line(), "used");
        user.call(&["delete", "--force", &name]).ok();
        let gone = gc(&user, &["--volumes"]);
        assert_eq!((&gone["volumes"], &gone["images"]["layers"]), (&json!(["used"]), &json!(1)));
        assert!(user.call(&["gc"]).ok().stdout.starts_with("0 unfinished contexts, 0 volumes, 0 blobs"));
    }
}

fn gc_takes_what_killed_commands_have_left() {
    let user = User::me();
    let kept = idle(&user, &[]);
    let image = user.path("image");
    let script = "n=0; while test $n -lt 200; do echo $n > /$n; n=$((n+1)); done";
    user.call(&["exec", &kept, "sh", "-c", script]).ok();
    let begun = Instant::now();
    user.call(&["copy", &kept, "whole"]).ok();
    let whole = begun.elapsed();
    let mut left = 0;
    let all = rounds(40);
    for round in 0..all {
        let new = format!("new-{round}");
        let verbs: [&[&str]; 3] = [
            &["copy", &kept, &new],
            &["create", "--from", &image, &new, "--", "true"],
            &["snapshot", "create", &kept, &new],
        ];
        let mut command = user.command(verbs[round as usize % 3]);
        let mut call = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        command::wait_for_exit(call.id(), whole.mul_f64(f64::from(round * 37 % 40) / 40.0));
        let _ = call.kill();
        call.wait().unwrap();
        if round % 8 == 7 {
            // Also while others work.
            let mut other = user.command(&["copy", &kept, &format!("{new}-other")]);
            let mut other = other.stdout(Stdio::null()).spawn().unwrap();
            left += gc(&user, &[])["contexts"].as_array().unwrap().len();
            assert!(other.wait().unwrap().success());
        }
    }
    left += gc(&user, &[])["contexts"].as_array().unwrap().len();
    assert!(left > 0 || all < 40, "no kill has left anything");
    assert_eq!(gc(&user, &[])["contexts"], json!([]));
    let listed = user.call(&["list", "-q"]).ok().stdout;
    let names = |folder: std::path::PathBuf| -> Vec<String> {
        let names =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    };
    assert_eq!(names(user.store()), listed.lines().collect::<Vec<_>>());
    assert_eq!(names(user.store().join(".store/contexts")), listed.lines().collect::<Vec<_>>());
    let snapshots = fs::read_dir(user.store().join(format!(".store/contexts/{kept}/snapshots")));
    for name in snapshots.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap())
    {
        assert!(!name.starts_with('.'), "{name}");
    }
    assert!(user.call(&["state", &kept]).ok().stdout.contains("\"running\""));
    for name in listed.lines() {
        user.call(&["delete", "--force", name]).ok();
    }
}

fn df_counts_what_is_there_and_what_nobody_needs() {
    for user in [User::me(), User::ordinary()] {
        let df = || -> Value { serde_json::from_str(&user.call(&["df", "--json"]).ok().stdout).unwrap() };
        assert_eq!(df()["contexts"]["count"], 0);
        let layer = Layer::new().busybox(&["sh", "sleep", "head"]).file("large", &"x".repeat(3_000_000));
        let layout = Layout::new(user.folder.join("layout"), vec![layer]);
        user.call(&["image", "import", layout.done().to_str().unwrap(), "test:1"]).ok();
        let images = df()["images"].clone();
        let size = images["size"].as_u64().unwrap();
        assert!(size > 6_000_000 && images["reclaimable"] == images["size"], "{images}");
        let name = user.marker.clone();
        user.call(&["run", "-d", "--name", &name, "-v", "data:/v", "test:1", "sleep", "1000"]).ok();
        user.call(&[
            "exec",
            &name,
            "sh",
            "-c",
            "head -c 2000000 /dev/zero > /mine; head -c 1000000 /dev/zero > /v/x",
        ])
        .ok();
        let now = df();
        let number = |place: &str| now.pointer(place).and_then(Value::as_u64).unwrap();
        assert_eq!((number("/contexts/count"), number("/contexts/used")), (1, 1));
        assert!((2_000_000..2_200_000).contains(&number("/contexts/size")), "{now}");
        assert!((1_000_000..1_200_000).contains(&number("/volumes/size")), "{now}");
        assert_eq!(
            (number("/contexts/reclaimable"), number("/volumes/reclaimable"), number("/images/used")),
            (0, 0, 1)
        );
        // A name more of the same image takes nothing more.
        assert!(number("/images/reclaimable") < 100_000, "{now}");
        stop(&user, &name);
        user.call(&["snapshot", "create", &name, "one"]).ok();
        let now = df();
        assert_eq!(now["snapshots"]["count"], 1);
        assert_eq!(now["contexts"]["reclaimable"], now["contexts"]["size"]);
        user.call(&["delete", &name]).ok();
        assert_eq!(df()["volumes"]["reclaimable"], df()["volumes"]["size"]);
        assert!(user.call(&["df"]).ok().stdout.contains("RECLAIMABLE"));
    }
}

fn come_to_share(user: &User, disk: &Disk) {
    let root = disk.path.join("store");
    let call = |args: &[&str]| user.call_in(&root, args);
    let name = idle_in(user, &disk.path, &[]);
    let other = format!("{name}-other");
    call(&["run", "-d", "--name", &other, &user.path("image"), "--", "sleep", "1000"]).ok();
    let file = user.folder.join("work/large");
    let bytes: Vec<u8> =
        (0..30_000_000u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&file, bytes).unwrap();
    for to in [format!("{name}:/one"), format!("{name}:/two"), format!("{other}:/three")] {
        call(&["cp", file.to_str().unwrap(), &to]).ok();
    }
    call(&["exec", &other, "sh", "-c", "cp /three /changed; echo x >> /changed"]).ok();
    let before = disk.used();
    let told: Value = serde_json::from_str(&call(&["dedup", "--dry-run", "--json"]).ok().stdout).unwrap();
    assert_eq!((told["equal"].as_u64(), told["bytes"].as_u64()), (Some(2), Some(60_000_000)), "{told}");
    assert!(disk.used() + 1_000_000 > before, "the dry run has changed something");
    let done: Value = serde_json::from_str(&call(&["dedup", "--json"]).ok().stdout).unwrap();
    assert_eq!(done["bytes"], 60_000_000, "{done}");
    let saved = before.saturating_sub(disk.used());
    assert!(saved > 50_000_000, "{saved} bytes saved");
    let again: Value = serde_json::from_str(&call(&["dedup", "--json"]).ok().stdout).unwrap();
    assert_eq!((again["equal"].as_u64(), again["shared"].as_u64()), (Some(0), Some(2)), "{again}");
    // Each is still a file of its own.
    call(&["exec", &name, "sh", "-c", "echo y > /one"]).ok();
    let sum = |id: &str, path: &str| call(&["exec", id, "md5sum", path]).ok().stdout[..32].to_owned();
    assert_eq!(sum(&name, "/two"), sum(&other, "/three"));
    assert_ne!(sum(&name, "/one"), sum(&name, "/two"));
    for one in [&name, &other] {
        call(&["delete", "--force", one]).ok();
    }
}

fn equal_files_come_to_share_on_xfs() {
    let user = User::me();
    come_to_share(&user, &Disk::xfs(&user.folder, 400));
}

fn equal_files_come_to_share_on_btrfs() {
    let user = User::me();
    come_to_share(&user, &Disk::btrfs(&user.folder, 400));
}

fn a_store_that_cannot_share_is_told() {
    let user = User::me();
    let disk = Disk::new(&user.folder, "ext4", &["-q"], 16, "");
    let name = idle_in(&user, &disk.path, &[]);
    let root = disk.path.join("store");
    user.call_in(&root, &["dedup"]).refused_with(&["btrfs and xfs"]);
    user.call_in(&root, &["delete", "--force", &name]).ok();
    let name = idle(&user, &[]);
    user.call(&["delete", "--force", &name]).ok();
}

fn files_that_change_meanwhile_stay_as_they_are() {
    let user = User::me();
    let disk = Disk::xfs(&user.folder, 400);
    let root = disk.path.join("store");
    let name = idle_in(&user, &disk.path, &[]);
    let script = "while :; do head -c 200000 /dev/zero > /a; cp /a /b; echo mark >> /b; tail -c 5 /b > /seen; cmp -n 200000 /a /b || touch /broken; done";
    user.call_in(&root, &["exec", "-d", &name, "sh", "-c", script]).ok();
    for _ in 0..30 {
        user.call_in(&root, &["dedup"]).ok();
    }
    assert_eq!(user.call_in(&root, &["exec", &name, "ls", "-d", "/broken"]).stdout, "");
    user.call_in(&root, &["delete", "--force", &name]).ok();
}
