//! What a context may leave on the host: control groups, mounts, state files, processes (and through them namespaces).
//!
//! Everything of a context carries its id: the name of the control groups, the paths of the bundle, the environment
//! of the runtime and of the first process. So contexts that run beside each other do not disturb the check.

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Names whatever is left of the context `id` with the bundle `dir`.
pub fn of(id: &str, dir: &Path, state_root: &Path) -> Vec<String> {
    let groups = control_groups(id).into_iter().map(|group| format!("control group {}", group.display()));
    let mounts = mounts_below(dir).into_iter().map(|mount| format!("mount {}", mount.display()));
    let processes = processes(id).into_iter().map(|(pid, line)| format!("process {pid}: {line}"));
    let state = entries(&state_root.join(id)).into_iter().map(|file| format!("state {}", file.display()));
    groups.chain(mounts).chain(processes).chain(state).collect()
}

/// As `of`, but gives a process that was just killed the time to be reaped.
pub fn settle(id: &str, dir: &Path, state_root: &Path) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(5) * super::slowness();
    loop {
        let left = of(id, dir, state_root);
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        std::thread::sleep(Duration::from_millis(8));
    }
}

/// As `settle`, for checks in thousands: the groups are looked for at the root of each hierarchy only, where the base
/// specification has them, and processes are those that are younger than `since`, a process id.
pub fn settle_quickly(id: &str, dir: &Path, state_root: &Path, since: i32) -> Vec<String> {
    let look = || {
        let hierarchies =
            [vec![PathBuf::from("/sys/fs/cgroup")], entries(Path::new("/sys/fs/cgroup"))].concat();
        let groups =
            hierarchies.into_iter().map(|hierarchy| hierarchy.join(id)).filter(|group| group.exists());
        let groups = groups.map(|group| format!("control group {}", group.display()));
        let processes =
            processes_since(id, since).into_iter().map(|(pid, line)| format!("process {pid}: {line}"));
        let mounts = mounts_below(dir).into_iter().map(|mount| format!("mount {}", mount.display()));
        let state = entries(state_root).into_iter().map(|file| format!("state {}", file.display()));
        groups.chain(mounts).chain(processes).chain(state).collect::<Vec<_>>()
    };
    let deadline = Instant::now() + Duration::from_secs(5) * super::slowness();
    loop {
        let left = look();
        if left.is_empty() || Instant::now() > deadline {
            return left;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Removes by hand what a failed case left, so that it does not disturb the next.
pub fn clean(id: &str, dir: &Path) {
    for group in control_groups(id) {
        let _ = fs::write(group.join("freezer.state"), "THAWED");
        let _ = fs::write(group.join("cgroup.freeze"), "0");
    }
    for (pid, _) in processes(id) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    unmount_below(dir);
    let deadline = Instant::now() + Duration::from_secs(2) * super::slowness();
    while !control_groups(id).is_empty() && Instant::now() < deadline {
        control_groups(id).iter().rev().for_each(|group| drop(fs::remove_dir(group)));
    }
}

/// Unmounts everything below a folder of ours.
pub fn unmount_below(dir: &Path) {
    for mount in mounts_below(dir).iter().rev() {
        let _ = umount2(mount, MntFlags::MNT_DETACH);
    }
}

/// The groups named after `id` in every hierarchy, and those below them, parents first. A name that only goes on with
/// further digits is another's.
pub fn control_groups(id: &str) -> Vec<PathBuf> {
    fn walk(group: &Path, depth: usize, id: &str, found: &mut Vec<PathBuf>) {
        // The type comes with the name: a stat(2) of each file of each group would take most of the time.
        let entries = fs::read_dir(group).into_iter().flatten().flatten();
        for child in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let child = child.path();
            let path = child.to_string_lossy();
            let named = |at: usize| !path[at + id.len()..].starts_with(|next: char| next.is_ascii_digit());
            if path.match_indices(id).any(|(at, _)| named(at)) {
                found.push(child.clone());
            }
            if depth > 0 {
                walk(&child, depth - 1, id, found);
            }
        }
    }
    let mut found = vec![];
    walk(Path::new("/sys/fs/cgroup"), 4, id, &mut found);
    found
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}

fn processes(id: &str) -> Vec<(i32, String)> {
    processes_since(id, 0)
}

fn processes_since(id: &str, since: i32) -> Vec<(i32, String)> {
    let own = std::process::id() as i32;
    let pids =
        entries(Path::new("/proc")).into_iter().filter_map(|entry| entry.file_name()?.to_str()?.parse().ok());
    let marked = |pid: i32, file: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
        // The id is followed by a digit in the ids of other contexts.
        let hit = text
            .match_indices(id)
            .any(|(at, _)| !text[at + id.len()..].starts_with(|c: char| c.is_ascii_digit()));
        hit.then_some(text)
    };
    pids.filter(|pid| *pid != own && *pid >= since)
        .filter_map(|pid| {
            let command = marked(pid, "cmdline").or_else(|| marked(pid, "environ"))?;
            Some((pid, command))
        })
        .collect()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|list| list.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}
