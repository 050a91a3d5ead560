//! `vctx snapshot` and `vctx copy`: what a context has changed comes back, and goes to a new one.

use super::disk::Disk;
use super::{idle, idle_in, stop, work};
use crate::harness::{Case, Need, case, command, json, rounds};
use crate::host_run::User;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    let disk = |case: Case| case.needs(Need::Root).needs(Need::Path("/dev/loop-control"));
    vec![
        // Of one that runs, which takes a control group; an ordinary user may have none here.
        case!(a_snapshot_brings_back_what_was).needs(Need::Root),
        case!(snapshots_of_a_stopped_context_need_no_freezer),
        case!(a_copy_begins_as_its_source_is),
        case!(a_running_context_is_copied_and_runs_on),
        case!(a_copy_of_the_host_is_one_of_all_its_parts),
        case!(a_copy_keeps_what_it_uses),
        case!(a_copy_needs_nothing_of_its_source),
        case!(snapshots_and_copies_that_make_no_sense_are_refused),
        case!(a_killed_copy_of_a_running_context_leaves_it_running).needs(Need::Root),
        case!(kills_at_random_moments_leave_nothing_half_made).needs(Need::Root),
        disk(case!(a_full_disk_leaves_no_half_snapshot)).needs(Need::Program("mkfs.ext4")),
        disk(case!(copies_share_their_extents_on_xfs)).needs(Need::Program("mkfs.xfs")),
        disk(case!(copies_share_their_extents_on_btrfs)).needs(Need::Program("mkfs.btrfs")),
    ]
}

/// What a stopped context has at a path.
#[track_caller]
fn read(user: &User, name: &str, path: &str) -> Option<String> {
    let out = work(user, "read");
    let _ = fs::remove_file(&out);
    let copied = user.call(&["cp", &format!("{name}:{path}"), "read"]);
    (copied.code == 0).then(|| fs::read_to_string(out).unwrap())
}

fn a_snapshot_brings_back_what_was() {
    let user = User::me();
    let name = idle(&user, &["-v", "/own"]);
    let script = "echo one > /file; rm /etc/group; mkdir /d; ln /file /d/same; chown 0:0 /d; echo v > /own/v";
    user.call(&["exec", &name, "sh", "-c", script]).ok();
    user.call(&["snapshot", "create", &name, "first"]).ok();
    user.call(&["exec", &name, "sh", "-c", "echo two > /file; rm -r /d; touch /later; echo w > /own/v"]).ok();
    user.call(&["snapshot", "create", &name, "second"]).ok();
    user.call(&["snapshot", "restore", &name, "first"]).refused_with(&["stop it"]);
    stop(&user, &name);
    user.call(&["snapshot", "restore", &name, "first"]).ok();
    let at = |path: &str| read(&user, &name, path);
    assert_eq!(at("/file").as_deref(), Some("one\n"));
    assert_eq!(at("/d/same").as_deref(), Some("one\n"));
    assert_eq!(at("/own/v").as_deref(), Some("v\n"));
    assert_eq!((at("/later"), at("/etc/group")), (None, None));
    user.call(&["snapshot", "restore", &name, "second"]).ok();
    assert_eq!(at("/file").as_deref(), Some("two\n"));
    assert_eq!(at("/own/v").as_deref(), Some("w\n"));
    let list: Value =
        serde_json::from_str(&user.call(&["snapshot", "ls", "--json", &name]).ok().stdout).unwrap();
    assert_eq!((&list[0]["name"], &list[1]["name"]), (&json!("first"), &json!("second")));
    user.call(&["snapshot", "rm", &name, "first", "second"]).ok();
    assert_eq!(user.call(&["snapshot", "ls", &name]).ok().stdout.lines().count(), 1);
    user.call(&["delete", &name]).ok();
}

fn a_copy_begins_as_its_source_is() {
    for user in [User::me(), User::ordinary()] {
        let name = idle(&user, &[]);
        user.call(&["exec", &name, "sh", "-c", "echo one > /file; chmod 4711 /file; rm /etc/group"]).ok();
        stop(&user, &name);
        let new = format!("{name}-new");
        user.call(&["copy", &name, &new]).ok();
        assert!(user.call(&["state", &new]).ok().stdout.contains("stopped"));
        assert_eq!(read(&user, &new, "/file").as_deref(), Some("one\n"));
        assert_eq!(read(&user, &new, "/etc/group"), None);
        // Each has its own from here on.
        fs::write(work(&user, "in"), "changed").unwrap();
        user.call(&["cp", "in", &format!("{new}:/file")]).ok();
        assert_eq!(read(&user, &name, "/file").as_deref(), Some("one\n"));
        user.call(&["delete", &name]).ok();
        assert_eq!(read(&user, &new, "/file").as_deref(), Some("changed"));
        user.call(&["delete", &new]).ok();
    }
}

fn a_running_context_is_copied_and_runs_on() {
    for user in [User::me(), User::ordinary()] {
        let name = idle(&user, &[]);
        let script = "while :; do echo x >> /log; done";
        user.call(&["exec", "-d", &name, "sh", "-c", script]).ok();
        let new = format!("{name}-new");
        let copied = user.call(&["copy", &name, &new]);
        if copied.code != 0 {
            // An ordinary user has no control groups here, and so no freezer.
            copied.refused_with(&["control group"]);
            assert!(!user.call(&["list", "-q"]).ok().stdout.contains(&new));
        } else {
            assert!(read(&user, &new, "/log").is_some());
            user.call(&["delete", &new]).ok();
        }
        assert!(user.call(&["state", &name]).ok().stdout.contains("\"running\""));
        user.call(&["delete", "--force", &name]).ok();
    }
}

fn a_copy_of_the_host_is_one_of_all_its_parts() {
    for user in [User::me(), User::ordinary()] {
        let name = user.marker.clone();
        user.call(&[
            "run",
            "--name",
            &name,
            "host",
            "--",
            "sh",
            "-c",
            "echo mine > /etc/mine; rm /etc/hostname",
        ])
        .ok();
        let new = format!("{name}-new");
        user.call(&["copy", &name, &new]).ok();
        user.call(&["delete", &name]).ok();
        assert_eq!(read(&user, &new, "/etc/mine").as_deref(), Some("mine\n"));
        assert_eq!(read(&user, &new, "/etc/hostname"), None);
        assert!(read(&user, &new, "/etc/passwd").unwrap().contains("root"));
        // What is hidden from a guest is hidden in its copy as well.
        assert_eq!(read(&user, &new, "/root/.bashrc"), None);
        assert!(!Path::new("/etc/mine").exists());
        user.call(&["delete", &new]).ok();
    }
}

fn a_copy_keeps_what_it_uses() {
    let user = User::me();
    let name = idle(&user, &["-v", "data:/srv"]);
    stop(&user, &name);
    let new = format!("{name}-new");
    user.call(&["copy", &name, &new]).ok();
    user.call(&["delete", &name]).ok();
    user.call(&["volume", "rm", "data"]).refused_with(&[&new]);
    user.call(&["delete", &new]).ok();
    user.call(&["volume", "rm", "data"]).ok();
}

/// Its names and name servers are files of its own, and not of the folder that goes with its source.
fn a_copy_needs_nothing_of_its_source() {
    for user in [User::me(), User::ordinary()] {
        let options = ["--dns", "192.0.2.53", "--add-host", "far:192.0.2.7", "-v", "/own"];
        let name = idle(&user, &options);
        user.call(&["exec", &name, "sh", "-c", "echo v > /own/v"]).ok();
        stop(&user, &name);
        let new = format!("{name}-new");
        user.call(&["copy", &name, &new]).ok();
        let folder = |id: &str| user.store().join(id);
        let (gone, config) = (folder(&name), fs::read_to_string(folder(&new).join("config.json")).unwrap());
        user.call(&["delete", &name]).ok();
        let config: Value = serde_json::from_str(&config).unwrap();
        for mount in config["mounts"].as_array().unwrap() {
            let source = Path::new(mount["source"].as_str().unwrap_or_default());
            assert!(!source.is_absolute() || source.exists(), "{mount}");
            assert!(!source.starts_with(&gone), "{mount}");
        }
        assert!(read(&user, &new, "/etc/resolv.conf").unwrap().contains("192.0.2.53"));
        assert!(read(&user, &new, "/etc/hosts").unwrap().contains("far"));
        assert_eq!(read(&user, &new, "/own/v").as_deref(), Some("v\n"));
        user.call(&["delete", &new]).ok();
        assert!(!folder(&new).exists());
    }
}

fn snapshots_of_a_stopped_context_need_no_freezer() {
    let user = User::ordinary();
    let name = idle(&user, &[]);
    user.call(&["exec", &name, "sh", "-c", "echo one > /file; chown 0:0 /file"]).ok();
    stop(&user, &name);
    user.call(&["snapshot", "create", &name, "first"]).ok();
    fs::write(work(&user, "in"), "two").unwrap();
    user.call(&["cp", "in", &format!("{name}:/file")]).ok();
    assert_eq!(read(&user, &name, "/file").as_deref(), Some("two"));
    user.call(&["snapshot", "restore", &name, "first"]).ok();
    assert_eq!(read(&user, &name, "/file").as_deref(), Some("one\n"));
    user.call(&["delete", &name]).ok();
}

fn snapshots_and_copies_that_make_no_sense_are_refused() {
    let user = User::me();
    let name = idle(&user, &[]);
    stop(&user, &name);
    for bad in ["", "..", "a/b", ".x", "-x", &"x".repeat(200)] {
        user.call(&["snapshot", "create", "--", &name, bad]).refused();
    }
    for bad in ["", "..", "a/b", "-x", "a b", &"x".repeat(300)] {
        user.call(&["copy", "--", &name, bad]).refused();
    }
    user.call(&["snapshot", "create", &name, "one"]).ok();
    user.call(&["snapshot", "create", &name, "one"]).refused_with(&["already"]);
    for verb in ["restore", "rm"] {
        user.call(&["snapshot", verb, &name, "absent"]).refused_with(&["no snapshot"]);
    }
    user.call(&["snapshot", "create", "absent", "one"]).refused_with(&["absent"]);
    user.call(&["copy", "absent", "new"]).refused_with(&["absent"]);
    user.call(&["copy", &name, &name]).refused_with(&["exists"]);
    let list = user.call(&["list", "-q"]).ok();
    assert_eq!(list.line(), name);
}

fn many_files(user: &User, name: &str) {
    let script = "n=0; while test $n -lt 400; do echo $n > /d-$n; n=$((n+1)); done; head -c 3000000 /dev/urandom > /large";
    user.call(&["exec", name, "sh", "-c", script]).ok();
}

fn a_killed_copy_of_a_running_context_leaves_it_running() {
    let user = User::me();
    let name = idle(&user, &[]);
    many_files(&user, &name);
    for round in 0..15 {
        let new = format!("{name}-{round}");
        let mut copy =
            user.command(&["copy", &name, &new]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        command::wait_for_exit(copy.id(), Duration::from_millis(2 + 3 * round));
        let _ = copy.kill();
        copy.wait().unwrap();
        crate::harness::eventually("the context runs on", 10, || {
            user.call(&["state", &name]).stdout.contains("\"running\"").then_some(())
        });
        user.call(&["delete", "--force", &new]).ok();
    }
    let contexts = user.store().join(".store/contexts");
    assert_eq!(fs::read_dir(contexts).unwrap().count(), 1);
}

fn kills_at_random_moments_leave_nothing_half_made() {
    let user = User::me();
    let name = idle(&user, &[]);
    many_files(&user, &name);
    stop(&user, &name);
    user.call(&["snapshot", "create", &name, "whole"]).ok();
    let upper = user.store().join(format!(".store/contexts/{name}/snapshots/whole/0/upper"));
    let all = fs::read_dir(upper).unwrap().count();
    let begun = Instant::now();
    user.call(&["copy", &name, "timed"]).ok();
    let whole = begun.elapsed().max(Duration::from_millis(10));
    user.call(&["delete", "timed"]).ok();
    for round in 0..rounds(51) {
        let verbs: [&[&str]; 3] = [
            &["snapshot", "create", &name, "new"],
            &["snapshot", "restore", &name, "whole"],
            &["copy", &name, "new"],
        ];
        let verb = verbs[round as usize % 3];
        let mut call = user.command(verb).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let moment = whole.mul_f64(f64::from(round * 37 % 50) / 50.0).max(Duration::from_micros(100));
        command::wait_for_exit(call.id(), moment);
        let _ = call.kill();
        call.wait().unwrap();
        // The context is whole, and so is whatever has a name.
        assert_eq!(read(&user, &name, "/d-399").as_deref(), Some("399\n"), "round {round}, {verb:?}");
        assert_eq!(read(&user, &name, "/d-0").as_deref(), Some("0\n"), "round {round}, {verb:?}");
        let names = user.call(&["snapshot", "ls", "--json", &name]).ok();
        let names: Value = serde_json::from_str(&names.stdout).unwrap();
        for one in names.as_array().unwrap() {
            let one = one["name"].as_str().unwrap();
            let folder = user.store().join(format!(".store/contexts/{name}/snapshots/{one}/0/upper"));
            assert_eq!(fs::read_dir(&folder).unwrap().count(), all, "round {round}, {verb:?}: {one}");
            if one == "new" {
                user.call(&["snapshot", "rm", &name, "new"]).ok();
            }
        }
        if user.call(&["cp", "new:/d-399", "read"]).code == 0 {
            user.call(&["cp", "new:/large", "large"]).ok();
            assert_eq!(fs::metadata(work(&user, "large")).unwrap().len(), 3_000_000, "round {round}");
        }
        user.call(&["delete", "--force", "new"]).ok();
    }
    user.call(&["snapshot", "create", &name, "last"]).ok();
    user.call(&["snapshot", "rm", &name, "last", "whole"]).ok();
    let context = user.store().join(format!(".store/contexts/{name}"));
    let left = command::run(Command::new("find").arg(&context).args(["-maxdepth", "2", "-mindepth", "1"]))
        .ok()
        .stdout;
    let mut left: Vec<_> = left.lines().map(|line| line.rsplit_once(&*name).unwrap().1).collect();
    left.sort_unstable();
    assert_eq!(left, ["/0", "/0/upper", "/0/work", "/snapshots"]);
}

fn a_full_disk_leaves_no_half_snapshot() {
    let user = User::me();
    let disk = Disk::new(&user.folder, "ext4", &["-q"], 24, "");
    let name = idle_in(&user, &disk.path, &[]);
    let root = disk.path.join("store");
    let call = |args: &[&str]| user.call_in(&root, args);
    call(&["exec", &name, "sh", "-c", "head -c 12000000 /dev/urandom > /large"]).ok();
    let before = disk.used();
    call(&["snapshot", "create", &name, "one"]).refused_with(&["no space"]);
    call(&["copy", &name, "new"]).refused_with(&["no space"]);
    assert!(disk.used() < before + (1 << 20), "{} before, {} now", before, disk.used());
    assert_eq!(call(&["snapshot", "ls", &name]).ok().stdout.lines().count(), 1);
    assert_eq!(call(&["list", "-q"]).ok().line(), name);
    assert!(call(&["state", &name]).ok().stdout.contains("\"running\""));
    call(&["delete", "--force", &name]).ok();
}

fn share(user: &User, disk: &Disk) {
    let name = idle_in(user, &disk.path, &[]);
    let root = disk.path.join("store");
    let call = |args: &[&str]| user.call_in(&root, args);
    call(&["exec", &name, "sh", "-c", "head -c 60000000 /dev/urandom > /large; sync"]).ok();
    let before = disk.used();
    call(&["snapshot", "create", &name, "one"]).ok();
    call(&["copy", &name, "new"]).ok();
    let more = disk.used().saturating_sub(before);
    assert!(more < 20_000_000, "{more} bytes more");
    for one in [&name, "new"] {
        call(&["delete", "--force", one]).ok();
    }
}

fn copies_share_their_extents_on_xfs() {
    let user = User::me();
    share(&user, &Disk::xfs(&user.folder, 400));
}

fn copies_share_their_extents_on_btrfs() {
    let user = User::me();
    share(&user, &Disk::btrfs(&user.folder, 400));
}
