//! `--disk-size` and `--disk-inodes`: what a context changes stays below them, and they change while it runs.

use super::disk::{Disk, QUOTAS};
use super::{idle_in, image};
use crate::harness::{Case, Need, case, command, rounds};
use crate::host_run::User;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

pub fn cases() -> Vec<Case> {
    let tools =
        |case: Case| case.needs(Need::Root).needs(Need::Path("/dev/loop-control")).needs(Need::Linux(5, 14));
    let disks = |case: Case| tools(case).needs(Need::Program("mkfs.ext4"));
    // A kernel without quotas of xfs is mostly one without those of ext4 as well.
    let projects = |case: Case| tools(case).needs(Need::Path(QUOTAS));
    vec![
        projects(case!(what_a_context_writes_stays_below_its_limit_on_ext4))
            .needs(Need::Program("mkfs.ext4")),
        projects(case!(what_a_context_writes_stays_below_its_limit_on_xfs)).needs(Need::Program("mkfs.xfs")),
        projects(case!(a_limit_is_changed_while_the_context_runs)).needs(Need::Program("mkfs.ext4")),
        projects(case!(the_guests_root_cannot_leave_its_limit)).needs(Need::Program("mkfs.ext4")),
        tools(case!(what_a_context_writes_stays_below_its_limit_on_btrfs)).needs(Need::Program("mkfs.btrfs")),
        tools(case!(the_group_of_a_limit_goes_with_its_context)).needs(Need::Program("mkfs.btrfs")),
        tools(case!(kills_leave_no_group_of_a_limit)).needs(Need::Program("mkfs.btrfs")),
        disks(case!(a_disk_of_its_own_limits_a_context_where_the_store_cannot)),
        disks(case!(the_disk_of_a_context_changes_while_it_runs)),
        disks(case!(kills_leave_no_disk_of_a_context)),
        disks(case!(limits_that_no_disk_can_have_are_refused)),
        case!(a_store_that_cannot_limit_is_told).needs(Need::Root).needs(Need::Program("unshare")),
        case!(an_ordinary_user_is_told_that_limits_need_root),
    ]
}

const FILL: &str = "head -c 20000000 /dev/zero > /large; echo $?; stat -c %s /large";

fn stays_below(user: &User, disk: &Disk) {
    let name = idle_in(user, &disk.path, &["--disk-size", "8m", "--disk-inodes", "200", "-v", "/own"]);
    let root = disk.path.join("store");
    let sh = |script: &str| user.call_in(&root, &["exec", &name, "sh", "-c", script]).ok().stdout;
    let printed = sh(FILL);
    let size: u64 = printed.lines().last().unwrap().parse().unwrap();
    assert!(printed.starts_with('1') && size <= 8 << 20 && size > 4 << 20, "{printed}");
    // Its own volumes count as well, and room that is given back is there again.
    assert!(
        sh("rm /large; head -c 20000000 /dev/zero > /own/large; echo $?; rm /own/large").starts_with('1')
    );
    assert_eq!(sh("head -c 4000000 /dev/zero > /again; echo $?; rm /again"), "0\n");
    let many =
        "mkdir /d; n=0; while touch /d/$n 2>/dev/null; do n=$((n+1)); test $n = 400 && break; done; echo $n";
    let made: u32 = sh(many).trim().parse().unwrap();
    assert!((150..200).contains(&made), "{made} files");
    // Another context of the same store has room.
    let other = user.call_in(&root, &["run", "--rm", &user.path("image"), "--", "sh", "-c", FILL]).ok();
    assert!(other.stdout.starts_with('0'), "{}", other.stdout);
    let df: Value = serde_json::from_str(&user.call_in(&root, &["df", "--json"]).ok().stdout).unwrap();
    assert_eq!(df["contexts"]["each"][0]["limit"], 8 << 20, "{df}");
    user.call_in(&root, &["delete", "--force", &name]).ok();
}

fn what_a_context_writes_stays_below_its_limit_on_ext4() {
    let user = User::me();
    stays_below(&user, &Disk::ext4(&user.folder, 64));
}

fn what_a_context_writes_stays_below_its_limit_on_xfs() {
    let user = User::me();
    stays_below(&user, &Disk::xfs(&user.folder, 320));
}

fn what_a_context_writes_stays_below_its_limit_on_btrfs() {
    let user = User::me();
    let disk = Disk::btrfs(&user.folder, 400);
    let root = disk.path.join("store");
    let image = image(&user);
    let call = |args: &[&str]| user.call_in(&root, args);
    call(&["run", "--rm", "--disk-inodes", "9", &image, "--", "true"])
        .exits(125)
        .refused_with(&["--disk-inodes"]);
    let name = idle_in(&user, &disk.path, &["--disk-size", "8m", "-v", "/own"]);
    let sh = |script: &str| call(&["exec", &name, "sh", "-c", script]).ok().stdout;
    let printed = sh(FILL);
    let size: u64 = printed.lines().last().unwrap().parse().unwrap();
    assert!(printed.starts_with('1') && size <= 8 << 20 && size > 4 << 20, "{printed}");
    // Its own volumes count as well, and room that is given back is there again.
    assert!(sh("head -c 20000000 /dev/zero > /own/large; echo $?").starts_with('1'));
    assert_eq!(
        sh("rm /large /own/large; sync; head -c 3000000 /dev/zero > /again; echo $?; rm /again"),
        "0\n"
    );
    let other = call(&["run", "--rm", &image, "--", "sh", "-c", FILL]).ok();
    assert!(other.stdout.starts_with('0'), "{}", other.stdout);
    call(&["update", "--disk-size", "32m", &name]).ok();
    assert!(sh(FILL).starts_with('0'));
    call(&["update", "--disk-inodes", "9", &name]).refused_with(&["--disk-inodes"]);
    call(&["delete", "--force", &name]).ok();
    let left = std::fs::read_dir(root.join(".store/contexts")).unwrap().count();
    assert_eq!(left, 0);
    assert_eq!(disk.groups(), 0);
}

/// Also of one that shares extents with its copy, and so that others go on to be counted.
fn the_group_of_a_limit_goes_with_its_context() {
    let user = User::me();
    let disk = Disk::btrfs(&user.folder, 400);
    let root = disk.path.join("store");
    let call = |args: &[&str]| user.call_in(&root, args);
    let name = idle_in(&user, &disk.path, &["--disk-size", "32m", "-v", "/own"]);
    let image = user.path("image");
    let other = format!("{}-other", user.marker);
    call(&["run", "-d", "--name", &other, "--disk-size", "8m", &image, "--", "sleep", "1000"]).ok();
    call(&["exec", &name, "sh", "-c", "head -c 20000000 /dev/urandom > /large; sync"]).ok();
    call(&["copy", &name, "new"]).ok();
    assert_eq!(disk.groups(), 2);
    call(&["delete", "--force", &name]).ok();
    assert_eq!(disk.groups(), 1);
    assert!(call(&["exec", &other, "sh", "-c", FILL]).ok().stdout.starts_with('1'));
    for one in [&other, "new"] {
        call(&["delete", "--force", one]).ok();
    }
    assert_eq!(disk.groups(), 0);
}

fn kills_leave_no_group_of_a_limit() {
    let user = User::me();
    let disk = Disk::btrfs(&user.folder, 400);
    let root = disk.path.join("store");
    after_kills(&user, &root, || {
        assert_eq!(disk.groups(), 0);
        assert_eq!(std::fs::read_dir(root.join(".store/contexts")).unwrap().count(), 0);
    });
}

/// Kills a `run` with a limit, and its `delete`, at later and later moments, deletes it, and looks at what is left.
#[track_caller]
fn after_kills(user: &User, root: &Path, look: impl Fn()) {
    let image = image(user);
    // Its control group has this name, whatever the store.
    let name = format!("{}-one", user.marker);
    let run = ["run", "--name", &name, "--disk-size", "8m", "-v", "/own", &image, "--", "true"];
    let delete = ["delete", "--force", &name];
    let begun = Instant::now();
    user.call_in(root, &run).ok();
    let whole = begun.elapsed();
    for round in 0..rounds(24) {
        let killed: &[&str] = if round % 2 == 0 { &run } else { &delete };
        if round % 2 == 1 {
            user.call_in(root, &run);
        }
        let mut call =
            user.command_in(root, killed).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        command::wait_for_exit(call.id(), whole.mul_f64(f64::from(round) / 24.0));
        let _ = call.kill();
        call.wait().unwrap();
        user.call_in(root, &delete).ok();
        look();
    }
}

fn a_limit_is_changed_while_the_context_runs() {
    let user = User::me();
    let disk = Disk::ext4(&user.folder, 64);
    let root = disk.path.join("store");
    let name = idle_in(&user, &disk.path, &["--disk-size", "4m"]);
    let fill = || user.call_in(&root, &["exec", &name, "sh", "-c", FILL]).ok().stdout;
    assert!(fill().starts_with('1'));
    user.call_in(&root, &["update", "--disk-size", "32m", &name]).ok();
    assert!(fill().starts_with('0'));
    // Not below what is used already.
    user.call_in(&root, &["update", "--disk-size", "1m", &name]).refused_with(&["uses"]);
    user.call_in(&root, &["exec", &name, "rm", "/large"]).ok();
    user.call_in(&root, &["update", "--disk-size", "6m", "--disk-inodes", "500", &name]).ok();
    assert!(fill().starts_with('1'));
    user.call_in(&root, &["update", "--disk-size", "max", &name]).ok();
    assert!(fill().starts_with('0'));
    user.call_in(&root, &["delete", "--force", &name]).ok();
    // One without a limit gets none later.
    let name = idle_in(&user, &disk.path, &[]);
    user.call_in(&root, &["update", "--disk-size", "1m", &name]).refused_with(&["without a limit"]);
    user.call_in(&root, &["delete", "--force", &name]).ok();
}

/// Files of another project would count elsewhere; only who owns the file system may say so.
fn the_guests_root_cannot_leave_its_limit() {
    let user = User::me();
    let disk = Disk::ext4(&user.folder, 64);
    let root = disk.path.join("store");
    let name = idle_in(&user, &disk.path, &["--disk-size", "4m"]);
    let Some(tool) = crate::harness::which("chattr") else { return };
    user.call_in(&root, &["cp", tool.to_str().unwrap(), &format!("{name}:/bin/chattr")]).ok();
    let script = "mkdir /d; chattr -p 7 /d; chattr -p 0 /d; chattr -P /d; head -c 20000000 /dev/zero > /d/large; echo $?";
    let printed = user.call_in(&root, &["exec", &name, "sh", "-c", script]);
    assert!(printed.stdout.ends_with("1\n"), "{}{}", printed.stdout, printed.stderr);
    user.call_in(&root, &["delete", "--force", &name]).ok();
}

/// A store that limits no folders.
fn plain(user: &User) -> Disk {
    Disk::new(&user.folder, "ext4", &["-q", "-E", "lazy_itable_init=1"], 200, "")
}

/// The mounts and the loop devices of disks of contexts below a folder.
fn disks_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for device in std::fs::read_dir("/sys/block").unwrap().flatten() {
        let file = std::fs::read_to_string(device.path().join("loop/backing_file")).unwrap_or_default();
        found.extend((Path::new(file.trim()).starts_with(folder)).then_some(file));
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let point = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
    found.extend(mounts.lines().map(point).filter(|point| Path::new(point).starts_with(folder)));
    found
}

/// Whoever tests may enlarge a mounted ext4, as the file system asks for.
fn has_sys_resource() -> bool {
    const CAP_SYS_RESOURCE: u64 = 1 << 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    u64::from_str_radix(effective, 16).unwrap() & CAP_SYS_RESOURCE != 0
}

fn no_disk_is_left(root: &Path) {
    let contexts = root.join(".store/contexts");
    // The device goes with the last of its users, which the kernel lets go a moment later.
    crate::harness::eventually("no disk is left", 10, || disks_below(&contexts).is_empty().then_some(()));
    assert_eq!(std::fs::read_dir(contexts).unwrap().count(), 0);
}

fn a_disk_of_its_own_limits_a_context_where_the_store_cannot() {
    let user = User::me();
    let disk = plain(&user);
    stays_below(&user, &disk);
    no_disk_is_left(&disk.path.join("store"));
}

fn the_disk_of_a_context_changes_while_it_runs() {
    let user = User::me();
    let disk = plain(&user);
    let root = disk.path.join("store");
    let name = idle_in(&user, &disk.path, &["--disk-size", "24m", "-v", "/own"]);
    let call = |args: &[&str]| user.call_in(&root, args);
    let fill = || call(&["exec", &name, "sh", "-c", FILL]).ok().stdout;
    let limit = || {
        let df: Value = serde_json::from_str(&call(&["df", "--json"]).ok().stdout).unwrap();
        df["contexts"]["each"][0]["limit"].as_u64().unwrap()
    };
    assert!(fill().starts_with('0'));
    call(&["update", "--disk-size", "16m", &name]).refused_with(&["uses"]);
    call(&["exec", &name, "rm", "/large"]).ok();
    call(&["update", "--disk-size", "16m", &name]).ok();
    assert!(fill().starts_with('1') && limit() == 16 << 20);
    // To what it has been made for, and then beyond.
    call(&["update", "--disk-size", "24m", &name]).ok();
    assert!(fill().starts_with('0') && limit() == 24 << 20);
    for wrong in [["--disk-size", "max"], ["--disk-inodes", "9"]] {
        call(&["update", wrong[0], wrong[1], &name]).refused_with(&["a disk of its own"]);
    }
    call(&["exec", &name, "rm", "/large"]).ok();
    call(&["update", "--disk-size", "1m", &name]).refused_with(&["so small"]);
    let larger = call(&["update", "--disk-size", "64m", &name]);
    if has_sys_resource() {
        larger.ok();
        assert_eq!(limit(), 64 << 20);
        let script =
            "head -c 60000000 /dev/zero > /larger; echo $?; head -c 9000000 /dev/zero > /own/more; echo $?";
        assert_eq!(call(&["exec", &name, "sh", "-c", script]).ok().stdout, "0\n1\n");
    } else {
        larger.refused_with(&["cap_sys_resource"]);
        assert_eq!(limit(), 24 << 20);
    }
    // What it has is there for whoever asks when it has stopped, and for a copy.
    call(&[
        "exec",
        &name,
        "sh",
        "-c",
        "rm -f /large /larger /own/more; echo kept > /kept; echo own > /own/kept",
    ])
    .ok();
    call(&["kill", &name, "KILL"]).ok();
    crate::harness::eventually("it has stopped", 10, || {
        call(&["state", &name]).stdout.contains("\"stopped\"").then_some(())
    });
    call(&["snapshot", "create", &name, "one"]).ok();
    call(&["copy", &name, "new"]).ok();
    for (context, path, content) in [(&*name, "/kept", "kept\n"), ("new", "/own/kept", "own\n")] {
        let there = user.path("out");
        call(&["cp", &format!("{context}:{path}"), &there]).ok();
        assert_eq!(std::fs::read_to_string(&there).unwrap(), content);
    }
    for one in [&*name, "new"] {
        call(&["delete", "--force", one]).ok();
    }
    no_disk_is_left(&root);
}

fn kills_leave_no_disk_of_a_context() {
    let user = User::me();
    let disk = plain(&user);
    let root = disk.path.join("store");
    after_kills(&user, &root, || no_disk_is_left(&root));
}

fn limits_that_no_disk_can_have_are_refused() {
    let user = User::me();
    let disk = plain(&user);
    let image = image(&user);
    let run = |limits: &[&str]| {
        let args = [&["run", "--rm"], limits, &[&image, "--", "true"]].concat();
        user.call_in(&disk.path.join("store"), &args)
    };
    run(&["--disk-inodes", "100"]).exits(125).refused_with(&["--disk-size"]);
    run(&["--disk-size", "100k"]).exits(125).refused_with(&["1048576"]);
    run(&["--disk-size", "0"]).exits(125).refused_with(&["--disk-size"]);
    run(&["--disk-size", "nonsense"]).exits(125);
    assert!(!disk.path.join("store/.store").exists(), "something was made");
}

/// Neither by the file system nor by a loop device: there is none in this /dev.
fn a_store_that_cannot_limit_is_told() {
    let user = User::me();
    let image = image(&user);
    let run = user.command(&["run", "--rm", "--disk-size", "8m", &image, "--", "true"]);
    let script = "mount -t tmpfs none /dev; store=$1; shift; mkdir \"$store\"; mount -t tmpfs none \"$store\"; \
                  \"$@\"; code=$?; ls -A \"$store\"; exit $code";
    let mut call = Command::new("unshare");
    call.args(["-m", "sh", "-c", script, "sh"]).arg(user.store()).arg(run.get_program()).args(run.get_args());
    let variables = run.get_envs().filter_map(|(name, value)| Some((name, value?)));
    let output = command::run(call.envs(variables).current_dir("/")).exits(125);
    assert_eq!(output.stdout, "", "something was made");
    output.refused_with(&["/dev/loop-control", "prjquota"]);
}

fn an_ordinary_user_is_told_that_limits_need_root() {
    let user = User::ordinary();
    let image = image(&user);
    user.call(&["run", "--rm", "--disk-size", "8m", &image, "--", "true"]).exits(125).refused_with(&["root"]);
}
