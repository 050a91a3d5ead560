//! The driver against the machine's own control groups. On a hybrid machine the version 2 code runs in the unified tree.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

mod devices;
mod figures;
mod limits;

/// Groups are made at the root of the hierarchies, whose switches the tests of version 2 change and put back.
static MACHINE: Mutex<()> = Mutex::new(());

/// A group that is gone at the end of the test, whatever happens.
struct Fixture {
    group: Cgroup,
    children: Vec<Child>,
    enabled_before: Option<String>,
    _alone: MutexGuard<'static, ()>,
}

/// Says that the running test, or a part of it, was left out.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
fn skipped(why: &str) {
    let thread = std::thread::current();
    eprintln!("SKIPPED {}: {why}", thread.name().unwrap_or("a test"));
}

impl Fixture {
    fn new(id: &str) -> Option<Fixture> {
        Fixture::build(id, |layout| layout)
    }

    /// A group on the unified hierarchy as if there were no other.
    fn unified(id: &str) -> Option<Fixture> {
        Fixture::build(id, |layout| Layout { mode: Mode::V2, v1: Vec::new(), v2: layout.v2 })
    }

    fn build(id: &str, choose: impl Fn(Layout) -> Layout) -> Option<Fixture> {
        let alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let layout = Layout::detect().map(choose);
        let Some(layout) = layout.ok().filter(|layout| layout.v2.is_some() || !layout.v1.is_empty()) else {
            skipped("no control groups of this kind here");
            return None;
        };
        if !rustix::process::geteuid().is_root() {
            skipped("needs root");
            return None;
        }
        let enabled_before = layout.v2.as_ref().map(|mount| switches(&mount.point));
        let id = format!("test-{id}-{}", std::process::id());
        let group = Cgroup::plan(&layout, None, &id).unwrap();
        assert!(!group.create().unwrap().existed);
        Some(Fixture { group, children: Vec::new(), enabled_before, _alone: alone })
    }

    fn has(&self, controller: &str) -> bool {
        self.group.v1_dir(controller).is_some()
    }

    fn apply(&self, json: &str) -> Result<(), Error> {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        self.group.apply(&resources)
    }

    fn value(&self, controller: &str, name: &str) -> String {
        let dir = self.group.v1_dir(controller).or(self.group.v2_dir()).unwrap();
        file::read(&dir.join(name)).unwrap().trim().to_owned()
    }

    /// Starts a shell command in the group, in the way a context's first process gets there.
    fn spawn(&mut self, script: &str) -> u32 {
        let join = self.group.join().unwrap();
        let unified = self.group.v2_dir().map(|dir| dir.join("cgroup.procs"));
        let unified = unified.map(|path| open(path, OFlags::WRONLY, FileMode::empty()).unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let enter = move || -> io::Result<()> {
            for file in join.tasks.iter().chain(&unified) {
                rustix::io::write(file, b"0")?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes write(2) calls on descriptors it owns, and nothing else.
        unsafe { command.pre_exec(enter) };
        self.children.push(command.spawn().unwrap());
        self.children.last().unwrap().id()
    }

    /// The exit status of a command in the group: 0 or not.
    fn succeeds(&mut self, script: &str) -> bool {
        self.spawn(script);
        self.children.pop().unwrap().wait().unwrap().success()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let killed = self.group.kill_all();
        for child in &mut self.children {
            let _ = child.wait();
        }
        let removed = self.group.remove();
        if let (Some(before), Some(v2)) = (&self.enabled_before, &self.group.v2) {
            for name in switches(&v2.point).split_whitespace().filter(|name| !before.contains(name)) {
                let _ = file::write(&v2.point.join("cgroup.subtree_control"), &format!("-{name}"), "test");
            }
        }
        if !std::thread::panicking() {
            killed.unwrap();
            removed.unwrap();
            assert!(!self.group.exists());
        }
    }
}

fn switches(point: &Path) -> String {
    file::read(&point.join("cgroup.subtree_control")).unwrap_or_default()
}

fn until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited for ten seconds");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn layout() -> Layout {
    let mount = |controllers: &[&str], point: &str, own: &str| layout::Mount {
        controllers: controllers.iter().map(|name| name.to_string()).collect(),
        point: point.into(),
        own: own.into(),
    };
    Layout {
        mode: Mode::Hybrid,
        v1: vec![
            mount(&["cpu", "cpuacct"], "/g/cpu,cpuacct", "/"),
            mount(&["name=systemd"], "/g/systemd", "/user"),
        ],
        v2: Some(mount(&[], "/g/unified", "/user")),
    }
}

/// A place in all hierarchies.
fn below(path: &str) -> Subgroup {
    Subgroup { controllers: Vec::new(), path: path.into() }
}

fn planned(path: Option<&str>, id: &str) -> Result<Vec<String>, Error> {
    let group = Cgroup::plan(&layout(), path, id)?;
    Ok(group.directories().map(|(_, dir)| dir.display().to_string()).collect())
}

#[test]
fn an_absolute_path_begins_at_each_root_and_a_relative_one_at_our_own_group() {
    assert_eq!(
        planned(Some("/a//b/"), "x").unwrap(),
        ["/g/cpu,cpuacct/a/b", "/g/systemd/a/b", "/g/unified/a/b"]
    );
    assert_eq!(
        planned(Some("a"), "x").unwrap(),
        ["/g/cpu,cpuacct/a", "/g/systemd/user/a", "/g/unified/user/a"]
    );
    assert_eq!(planned(None, "x").unwrap()[0], "/g/cpu,cpuacct/vctx/x");
}

#[test]
fn paths_that_climb_or_name_the_root_are_refused() {
    for path in ["/a/../b", "..", "/", ".", "/a\nb"] {
        assert!(planned(Some(path), "x").is_err(), "{path:?}");
    }
    for id in ["", "..", "a/b", "/a", "."] {
        assert!(planned(None, id).is_err(), "{id:?}");
    }
}

#[test]
fn controllers_mounted_together_get_links_in_a_mount_of_the_groups() {
    let sources = Cgroup::plan(&layout(), Some("/a"), "x").unwrap().bind_sources();
    let links: Vec<(&str, &str)> =
        sources.links.iter().map(|(name, to)| (name.as_str(), to.as_str())).collect();
    assert_eq!(links, [("cpu", "cpu,cpuacct"), ("cpuacct", "cpu,cpuacct")]);
    assert_eq!(sources.directories[1], ("systemd".to_owned(), PathBuf::from("/g/systemd/a")));
    assert_eq!(sources.directories[2].0, "unified");
}

#[test]
fn a_group_survives_being_stored() {
    let group = Cgroup::plan(&layout(), None, "x").unwrap();
    let text = serde_json::to_string(&group).unwrap();
    assert_eq!(serde_json::from_str::<Cgroup>(&text).unwrap(), group);
}

#[test]
fn a_second_create_finds_the_group_and_a_second_remove_nothing() {
    let Some(fixture) = Fixture::new("twice") else { return };
    assert!(fixture.group.create().unwrap().existed);
    fixture.group.remove().unwrap();
    assert!(!fixture.group.exists());
    fixture.group.remove().unwrap();
}

#[test]
fn a_failed_create_leaves_no_directory() {
    let Some(fixture) = Fixture::new("undo") else { return };
    let mut broken = fixture.group.below(&[below("a/b")]).unwrap();
    let last = broken.v2.as_mut().or(broken.v1.last_mut()).unwrap();
    last.point = "/proc".into();
    last.dir = "/proc/nowhere".into();
    assert!(matches!(broken.create(), Err(Error::Make { .. })));
    let first = fixture.group.hierarchies().next().unwrap();
    assert!(first.dir.exists() && !first.dir.join("a").exists());
}

#[test]
fn a_process_enters_every_hierarchy_and_is_listed() {
    let Some(mut fixture) = Fixture::new("join") else { return };
    let pid = fixture.spawn("exec sleep 1000");
    assert_eq!(fixture.group.procs(true).unwrap(), [pid as i32]);
    let membership = file::read(Path::new(&format!("/proc/{pid}/cgroup"))).unwrap();
    for line in membership.lines() {
        assert!(line.contains(":/vctx/test-join"), "{line}");
    }
}

#[test]
fn a_clone_into_the_unified_directory_starts_in_it() {
    let Some(fixture) = Fixture::unified("clone") else { return };
    let unified = fixture.group.join().unwrap().unified.unwrap();
    let mut arguments = libc::clone_args {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: unified.as_raw_fd() as u64,
        // SAFETY: clone_args is integers only, for which zero is a value.
        ..unsafe { std::mem::zeroed() }
    };
    let pointer = &raw mut arguments;
    // SAFETY: without CLONE_VM the child has its own copy of everything; it only waits to be killed.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, pointer, size_of::<libc::clone_args>()) };
    assert!(pid >= 0);
    if pid == 0 {
        loop {
            // SAFETY: pause(2) touches no memory.
            unsafe { libc::pause() };
        }
    }
    assert_eq!(fixture.group.procs(false).unwrap(), [pid as i32]);
    fixture.group.kill_all().unwrap();
    // SAFETY: the child is ours and nobody else waits for it; a null status is allowed.
    assert_eq!(unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), 0) }, pid as i32);
}

/// linux/sched.h; the constant of the libc crate is too narrow.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

#[test]
fn the_group_around_a_process_is_the_child_group_it_moved_to() {
    let Some(mut fixture) = Fixture::new("around") else { return };
    let pid = fixture.spawn("exec sleep 1000");
    assert_eq!(
        fixture.group.around(pid as i32).unwrap().hierarchies().collect::<Vec<_>>(),
        hierarchies(&fixture)
    );
    let inner = fixture.group.below(&[below("init.scope")]).unwrap();
    inner.create().unwrap();
    for hierarchy in inner.hierarchies() {
        file::write(&hierarchy.dir.join("cgroup.procs"), &pid.to_string(), "test").unwrap();
    }
    assert_eq!(fixture.group.around(pid as i32).unwrap(), inner);
    assert_eq!(fixture.group.procs(false).unwrap(), [0_i32; 0]);
    assert_eq!(fixture.group.procs(true).unwrap(), [pid as i32]);
    // A process that is elsewhere does not lead out of the group.
    assert_eq!(inner.around(std::process::id() as i32).unwrap(), inner);
}

fn hierarchies(fixture: &Fixture) -> Vec<&Hierarchy> {
    fixture.group.hierarchies().collect()
}

/// A tree of processes that keeps forking, one of them in a child group.
const FORKING: &str = "while :; do sleep 1000 & sleep 0.01; done";

fn is_killed(mut fixture: Fixture, frozen: bool) {
    fixture.spawn(FORKING);
    until(|| fixture.group.procs(true).unwrap().len() > 5);
    if frozen {
        fixture.group.freeze().unwrap();
        assert!(fixture.group.is_frozen().unwrap());
    }
    fixture.group.kill_all().unwrap();
    for mut child in fixture.children.drain(..) {
        child.wait().unwrap();
    }
    until(|| fixture.group.procs(true).unwrap().is_empty());
}

#[test]
fn a_group_that_keeps_forking_is_killed() {
    let Some(fixture) = Fixture::new("kill") else { return };
    is_killed(fixture, false);
}

#[test]
fn a_frozen_group_is_killed() {
    let Some(fixture) = Fixture::new("kill-frozen") else { return };
    is_killed(fixture, true);
}

#[test]
fn a_group_is_killed_without_the_unified_hierarchy() {
    let kind = |layout: Layout| Layout { mode: Mode::V1, v2: None, ..layout };
    let Some(fixture) = Fixture::build("kill-v1", kind) else { return };
    is_killed(fixture, false);
    let Some(fixture) = Fixture::build("kill-v1-frozen", kind) else { return };
    is_killed(fixture, true);
}

#[test]
fn a_frozen_group_of_version_2_is_killed() {
    let Some(fixture) = Fixture::unified("kill-v2") else { return };
    is_killed(fixture, true);
}

#[test]
fn a_signal_reaches_every_process() {
    let Some(mut fixture) = Fixture::new("signal") else { return };
    fixture.spawn("sleep 1000 & wait");
    until(|| fixture.group.procs(true).unwrap().len() == 2);
    assert!(fixture.group.signal_all(0).is_err());
    assert!(fixture.group.signal_all(65).is_err());
    fixture.group.signal_all(libc::SIGTERM).unwrap();
    until(|| fixture.group.procs(true).unwrap().is_empty());
}

fn stops_and_goes_on(mut fixture: Fixture) {
    let pid = fixture.spawn("while :; do :; done");
    let ticks = || {
        let stat = file::read(Path::new(&format!("/proc/{pid}/stat"))).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(11).unwrap().parse::<u64>().unwrap()
    };
    until(|| ticks() > 0);
    assert!(!fixture.group.is_frozen().unwrap());
    fixture.group.freeze().unwrap();
    assert!(fixture.group.is_frozen().unwrap());
    let stopped = ticks();
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(ticks(), stopped);
    fixture.group.thaw().unwrap();
    assert!(!fixture.group.is_frozen().unwrap());
    until(|| ticks() > stopped);
}

#[test]
fn a_frozen_group_does_not_run_until_it_is_thawed() {
    let Some(fixture) = Fixture::new("freeze") else { return };
    stops_and_goes_on(fixture);
    let Some(fixture) = Fixture::unified("freeze-v2") else { return };
    stops_and_goes_on(fixture);
}

#[test]
fn removal_takes_the_children_along_and_waits_for_the_dying() {
    let Some(mut fixture) = Fixture::new("remove") else { return };
    fixture.spawn(FORKING);
    fixture.group.below(&[below("a/b")]).unwrap().create().unwrap();
    until(|| fixture.group.procs(true).unwrap().len() > 5);
    fixture.group.kill_all().unwrap();
    fixture.group.remove().unwrap();
    assert!(!fixture.group.exists());
}

#[test]
fn removal_leaves_a_group_with_living_processes_alone() {
    let Some(mut fixture) = Fixture::new("busy") else { return };
    let pid = fixture.spawn("exec sleep 1000");
    assert!(matches!(fixture.group.remove(), Err(Error::Remove { .. })));
    let membership = file::read(Path::new(&format!("/proc/{pid}/cgroup"))).unwrap();
    assert!(membership.lines().all(|line| line.contains("/vctx/test-busy")), "{membership}");
}

#[test]
fn an_out_of_memory_kill_is_announced_and_so_is_the_end() {
    let Some(mut fixture) = Fixture::new("oom") else { return };
    if fixture.group.home("memory").is_none() {
        return skipped("the controllers are not here in this version");
    }
    fixture.apply(r#"{"memory":{"limit":8388608,"swap":8388608}}"#).unwrap();
    let mut events = fixture.group.oom_events().unwrap();
    assert_eq!(events.read().unwrap(), OomReading { kills: 0, over: false });
    fixture.succeeds("head -c 100000000 /dev/zero | tail");
    let mut kills = 0;
    let mut over = false;
    until(|| {
        announced(&events);
        let reading = events.read().unwrap();
        kills += reading.kills;
        over |= reading.over;
        kills > 0
    });
    fixture.group.remove().unwrap();
    // Version 2 announces the last process's end, version 1 the removal.
    until(|| {
        if !over {
            announced(&events);
            over = events.read().unwrap().over;
        }
        over
    });
    assert!(events.read().unwrap().over);
}

fn announced(events: &OomEvents) {
    let fd = events.as_fd();
    let timeout = Timespec { tv_sec: 5, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)), Ok(1));
}
