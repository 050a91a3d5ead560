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

/// Groups are made at the root of the hierarchies, whose switches the tests of version 2 change and put back.
static MACHINE: Mutex<()> = Mutex::new(());

/// A group that is gone at the end of the test, whatever happens.
struct Fixture {
    group: Cgroup,
    children: Vec<Child>,
    enabled_before: Option<String>,
    _alone: MutexGuard<'static, ()>,
}

impl Fixture {
    fn new(id: &str) -> Option<Fixture> {
        Fixture::build(id, |layout| layout)
    }

    /// A group on the unified hierarchy as if there were no other.
    fn unified(id: &str) -> Option<Fixture> {
        Fixture::build(id, |layout| Layout { mode: Mode::V2, v1: Vec::new(), v2: layout.v2 })
    }

    #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
    fn build(id: &str, choose: impl Fn(Layout) -> Layout) -> Option<Fixture> {
        let alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let layout = Layout::detect().map(choose);
        let Some(layout) = layout.ok().filter(|layout| layout.v2.is_some() || !layout.v1.is_empty()) else {
            eprintln!("SKIPPED {id}: no control groups of this kind here");
            return None;
        };
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED {id}: needs root");
            return None;
        }
        let enabled_before = layout.v2.as_ref().map(|mount| switches(&mount.point));
        let id = format!("test-{id}-{}", std::process::id());
        let group = Cgroup::plan(&layout, None, &id).unwrap();
        assert_eq!(group.create().unwrap(), Created { existed: false });
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
    assert_eq!(fixture.group.create().unwrap(), Created { existed: true });
    fixture.group.remove().unwrap();
    assert!(!fixture.group.exists());
    fixture.group.remove().unwrap();
}

#[test]
fn a_failed_create_leaves_no_directory() {
    let Some(fixture) = Fixture::new("undo") else { return };
    let mut broken = fixture.group.child("a/b").unwrap();
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
    let pid = fixture.spawn("sleep 100");
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
    fixture.group.child("a/b").unwrap().create().unwrap();
    fixture.spawn(FORKING);
    until(|| fixture.group.procs(true).unwrap().len() > 5);
    fixture.group.kill_all().unwrap();
    fixture.group.remove().unwrap();
    assert!(!fixture.group.exists());
}

#[test]
fn removal_leaves_a_group_with_living_processes_alone() {
    let Some(mut fixture) = Fixture::new("busy") else { return };
    let pid = fixture.spawn("sleep 1000");
    assert!(matches!(fixture.group.remove(), Err(Error::Remove { .. })));
    let membership = file::read(Path::new(&format!("/proc/{pid}/cgroup"))).unwrap();
    assert!(membership.lines().all(|line| line.contains("/vctx/test-busy")), "{membership}");
}

#[test]
fn limits_of_version_1_reach_the_kernel() {
    let Some(fixture) = Fixture::new("limits") else { return };
    if !["memory", "cpu", "pids", "cpuset"].iter().all(|name| fixture.has(name)) {
        return;
    }
    let json = r#"{"memory":{"limit":67108864,"swap":134217728,"reservation":33554432,"swappiness":10},
        "cpu":{"shares":512,"quota":50000,"period":100000,"burst":10000,"cpus":"0","mems":"0"},
        "pids":{"limit":33}}"#;
    fixture.apply(json).unwrap();
    for (controller, file, value) in [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "134217728"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.swappiness", "10"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_burst_us", "10000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "33"),
    ] {
        assert_eq!(fixture.value(controller, file), value, "{file}");
    }
    // Up past the old swap limit, down below the old memory limit, a quota below the old burst, and off.
    fixture
        .apply(r#"{"memory":{"limit":268435456,"swap":268435456},"cpu":{"quota":200000,"burst":60000}}"#)
        .unwrap();
    assert_eq!(fixture.value("memory", "memory.memsw.limit_in_bytes"), "268435456");
    fixture
        .apply(r#"{"memory":{"limit":33554432,"swap":33554432},"cpu":{"quota":20000,"burst":5000}}"#)
        .unwrap();
    assert_eq!(fixture.value("memory", "memory.memsw.limit_in_bytes"), "33554432");
    assert_eq!(fixture.value("cpu", "cpu.cfs_burst_us"), "5000");
    fixture
        .apply(r#"{"memory":{"limit":-1},"cpu":{"quota":-1,"burst":0,"idle":1},"pids":{"limit":-1}}"#)
        .unwrap();
    assert_eq!(fixture.value("memory", "memory.memsw.limit_in_bytes").len(), 19);
    assert_eq!(fixture.value("cpu", "cpu.cfs_quota_us"), "-1");
    assert_eq!(fixture.value("pids", "pids.max"), "max");
    fixture.apply(r#"{"cpu":{"idle":0,"shares":1024}}"#).unwrap();
    assert_eq!(fixture.value("cpu", "cpu.shares"), "1024");
}

#[test]
fn a_limit_without_its_controller_is_an_error_with_its_name_and_no_limit_is_none() {
    let Some(fixture) = Fixture::unified("missing") else { return };
    if file::read(&fixture.group.v2.as_ref().unwrap().point.join("cgroup.controllers"))
        .unwrap()
        .contains("memory")
    {
        return;
    }
    for (json, field) in [
        (r#"{"memory":{"limit":1048576}}"#, "memory.limit"),
        (r#"{"pids":{"limit":5}}"#, "pids.limit"),
        (r#"{"network":{"classID":7}}"#, "network.classID"),
        (r#"{"unified":{"memory.high":"1048576"}}"#, "unified.memory.high"),
        (r#"{"unified":{"../x.y":"1"}}"#, "unified.../x.y"),
        (
            r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":9}]}}"#,
            "blockIO.throttleReadBpsDevice",
        ),
    ] {
        let error = fixture.apply(json).unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
    fixture
        .apply(r#"{"memory":{"limit":-1,"swap":-1},"pids":{"limit":-1},"cpu":{"quota":-1,"burst":0}}"#)
        .unwrap();
}

#[test]
fn a_version_2_controller_is_turned_on_when_a_limit_needs_it() {
    let Some(fixture) = Fixture::new("hugetlb") else { return };
    let Some(v2) = fixture.group.v2.as_ref() else { return };
    let available = file::read(&v2.point.join("cgroup.controllers")).unwrap();
    if !available.split_whitespace().any(|name| name == "hugetlb") {
        return;
    }
    fixture.apply(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#).unwrap();
    assert_eq!(file::read_number(&v2.dir.join("hugetlb.2MB.max")).unwrap(), 4194304);
    assert_eq!(file::read_number(&v2.dir.join("hugetlb.2MB.rsvd.max")).unwrap(), 4194304);
    assert!(fixture.group.stats().unwrap().hugetlb.contains_key("2MB"));
    fixture.apply(r#"{"unified":{"hugetlb.2MB.max":"2097152"}}"#).unwrap();
    assert_eq!(file::read_number(&v2.dir.join("hugetlb.2MB.max")).unwrap(), 2097152);
    let error = fixture.apply(r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#).unwrap_err();
    assert!(error.to_string().starts_with("hugepageLimits.pageSize"));
}

#[test]
fn check_before_update_refuses_a_limit_below_what_is_used() {
    let Some(mut fixture) = Fixture::new("in-use") else { return };
    if !fixture.has("memory") {
        return;
    }
    fixture.spawn("x=$(head -c 30000000 /dev/zero | tr '\\0' x); sleep 1000; echo $x");
    until(|| fixture.group.memory_usage().unwrap() > 28_000_000);
    let error = fixture.apply(r#"{"memory":{"limit":8388608,"checkBeforeUpdate":true}}"#).unwrap_err();
    assert!(matches!(error, Error::MemoryInUse { limit: 8388608, .. }), "{error}");
    fixture.apply(r#"{"memory":{"limit":268435456,"checkBeforeUpdate":true}}"#).unwrap();
}

const NULL_ONLY: &str = r#"{"devices":[{"allow":false,"access":"rwm"},
    {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
    {"allow":true,"type":"c","major":1,"minor":8,"access":"r"}]}"#;

fn keeps_device_rules(mut fixture: Fixture) {
    assert!(fixture.succeeds(": < /dev/zero"));
    fixture.apply(NULL_ONLY).unwrap();
    assert!(fixture.succeeds(": < /dev/null"));
    assert!(fixture.succeeds(": < /dev/random"));
    assert!(!fixture.succeeds(": > /dev/random"));
    assert!(!fixture.succeeds(": <> /dev/random"));
    assert!(!fixture.succeeds(": < /dev/zero"));
    let node = std::env::temp_dir().join(format!("vctx-node-{}", std::process::id()));
    let mknod = format!("mknod {0} c 1 5 && rm {0}", node.display());
    assert!(!fixture.succeeds(&mknod));
    // An update, twice: the old rules must be gone and the number of programs stay one.
    for _ in 0..2 {
        let list = serde_json::to_string(&default_devices()).unwrap();
        fixture.apply(&format!(r#"{{"devices":{list}}}"#)).unwrap();
    }
    for (command, allowed) in [
        (": <> /dev/zero", true),
        (": <> /dev/full", true),
        (": < /dev/null", true),
        (": < /dev/kmsg", false),
        (mknod.as_str(), true),
    ] {
        assert_eq!(fixture.succeeds(command), allowed, "{command}");
    }
    fixture.apply(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#).unwrap();
    assert!(fixture.succeeds(": < /dev/kmsg"));
    fixture.apply(NULL_ONLY).unwrap();
    assert!(!fixture.succeeds(": < /dev/zero"));
    assert!(fixture.succeeds(": < /dev/null"));
}

#[test]
fn version_1_keeps_device_rules() {
    let Some(fixture) = Fixture::new("devices") else { return };
    if fixture.has("devices") {
        keeps_device_rules(fixture);
    }
}

#[test]
fn version_2_keeps_device_rules() {
    let Some(fixture) = Fixture::unified("devices-v2") else { return };
    keeps_device_rules(fixture);
}

#[test]
fn version_2_keeps_a_hole_in_a_wider_device_rule() {
    let Some(mut fixture) = Fixture::unified("devices-hole") else { return };
    let json = r#"{"devices":[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":1,"access":"w"},
        {"allow":true,"type":"c","major":1,"minor":5,"access":"w"}]}"#;
    fixture.apply(json).unwrap();
    for (command, allowed) in [
        (": < /dev/full", true),
        (": > /dev/full", false),
        (": <> /dev/full", false),
        (": <> /dev/zero", true),
        (": < /dev/kmsg", true),
    ] {
        assert_eq!(fixture.succeeds(command), allowed, "{command}");
    }
}

#[test]
fn figures_are_the_kernels() {
    let Some(mut fixture) = Fixture::new("stats") else { return };
    if !["memory", "cpu", "cpuacct", "pids", "cpuset"].iter().all(|name| fixture.has(name)) {
        return;
    }
    fixture
        .apply(r#"{"memory":{"limit":268435456},"pids":{"limit":20},"cpu":{"quota":10000,"period":50000}}"#)
        .unwrap();
    let pid = fixture.spawn("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; kill -STOP $$");
    until(|| file::read(Path::new(&format!("/proc/{pid}/stat"))).unwrap().contains(") T "));
    let stats = fixture.group.stats().unwrap();
    let kernel = |controller, name| fixture.value(controller, name).parse::<u64>().unwrap();
    assert_eq!(stats.cpu.usage.total, kernel("cpuacct", "cpuacct.usage"));
    assert!(stats.cpu.usage.total > 0);
    assert_eq!(stats.cpu.usage.percpu.iter().sum::<u64>(), stats.cpu.usage.total);
    assert_eq!(stats.cpu.usage.percpu_user.iter().sum::<u64>(), kernel("cpuacct", "cpuacct.usage_user"));
    let ticks = file::keyed(&fixture.value("cpuacct", "cpuacct.stat"), "user").unwrap();
    assert_eq!(stats.cpu.usage.user, ticks * 10_000_000);
    let throttled = file::keyed(&fixture.value("cpu", "cpu.stat"), "throttled_time").unwrap();
    assert_eq!(stats.cpu.throttling.throttled_time, throttled);
    assert!(throttled > 0);
    assert_eq!(stats.pids, Pids { current: 1, limit: 20 });
    assert_eq!(stats.memory.usage.limit, 268435456);
    assert!(stats.memory.usage.usage > 0 && stats.memory.usage.max >= stats.memory.usage.usage);
    assert_eq!(stats.memory.raw["hierarchical_memory_limit"], 268435456);
    assert!(stats.cpuset.cpus.len() == kernel_cpus(&fixture));
    let json = serde_json::to_value(&stats).unwrap();
    for pointer in
        ["/cpu/usage/total", "/cpu/throttling/throttledTime", "/memory/kernelTCP/limit", "/pids/current"]
    {
        assert!(json.pointer(pointer).is_some_and(|value| value.is_u64()), "{pointer}");
    }
}

fn kernel_cpus(fixture: &Fixture) -> usize {
    let root = &fixture.group.v1.iter().find(|h| h.controllers.contains(&"cpuset".to_owned())).unwrap().point;
    let text = file::read(&root.join("cpuset.cpus")).unwrap();
    let range = text.trim().split_once('-').unwrap_or(("0", "0"));
    range.1.parse::<usize>().unwrap() + 1
}

#[test]
fn figures_of_version_2_without_controllers_are_those_of_the_core() {
    let Some(mut fixture) = Fixture::unified("stats-v2") else { return };
    fixture.succeeds("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done");
    let stats = fixture.group.stats().unwrap();
    let usage = file::keyed(&fixture.value("cpu-of-v2", "cpu.stat"), "usage_usec").unwrap();
    assert!(usage > 0);
    assert_eq!(stats.cpu.usage.total, usage * 1000);
}

#[test]
fn an_out_of_memory_kill_is_announced_and_so_is_the_end() {
    let Some(mut fixture) = Fixture::new("oom") else { return };
    if !fixture.has("memory") {
        return;
    }
    fixture.apply(r#"{"memory":{"limit":8388608,"swap":8388608}}"#).unwrap();
    let mut events = fixture.group.oom_events().unwrap();
    assert_eq!(events.read().unwrap(), OomReading { kills: 0, over: false });
    fixture.succeeds("head -c 100000000 /dev/zero | tail");
    let mut kills = 0;
    until(|| {
        announced(&events);
        kills += events.read().unwrap().kills;
        kills > 0
    });
    fixture.group.remove().unwrap();
    until(|| {
        announced(&events);
        events.read().unwrap().over
    });
}

fn announced(events: &OomEvents) {
    let fd = events.as_fd();
    let timeout = Timespec { tv_sec: 5, tv_nsec: 0 };
    assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)), Ok(1));
}

#[test]
fn shares_become_the_weight_of_the_same_standing() {
    for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (1_000_000, 10_000)] {
        assert_eq!(v2::weight_of_shares(shares), weight, "{shares}");
    }
    let rising = (2..262_144).step_by(97).map(v2::weight_of_shares).collect::<Vec<_>>();
    assert!(rising.is_sorted());
}

/// The settings that version 2 would get, as `file=value`.
fn settings(result: Result<Vec<limits::Setting>, Error>) -> Vec<String> {
    result.unwrap().into_iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
}

#[test]
fn limits_in_the_words_of_version_2() {
    let parse = |json| serde_json::from_str::<LinuxResources>(json).unwrap();
    let none = limits::Files(None);
    let memory = |json| settings(v2::memory(parse(json).memory().as_ref().unwrap(), &none));
    assert_eq!(
        memory(r#"{"memory":{"limit":100,"swap":150,"reservation":50}}"#),
        ["memory.max=100", "memory.swap.max=50", "memory.low=50"]
    );
    assert_eq!(memory(r#"{"memory":{"limit":-1}}"#), ["memory.max=max", "memory.swap.max=max"]);
    assert_eq!(memory(r#"{"memory":{"limit":100,"swap":-1}}"#), ["memory.max=100", "memory.swap.max=max"]);
    let cpu = |json| settings(v2::cpu(parse(json).cpu().as_ref().unwrap(), &none));
    assert_eq!(
        cpu(r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"burst":10}}"#),
        ["cpu.weight=100", "cpu.max=50000 100000", "cpu.max.burst=10"]
    );
    assert_eq!(cpu(r#"{"cpu":{"quota":-1}}"#), ["cpu.max=max"]);
    assert_eq!(cpu(r#"{"cpu":{"period":1000}}"#), ["cpu.max=max 1000"]);
    assert_eq!(cpu(r#"{"cpu":{"idle":1,"shares":5}}"#), ["cpu.idle=1"]);
    let io = |json| settings(v2::block_io(parse(json).block_io().as_ref().unwrap(), &none));
    assert_eq!(
        io(r#"{"blockIO":{"weight":10,"weightDevice":[{"major":8,"minor":0,"weight":1000}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":7}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#),
        ["io.weight=1", "io.weight=8:0 10000", "io.max=8:0 rbps=7 wiops=max"]
    );
}

#[test]
fn contradictions_are_refused_with_the_field_that_is_wrong() {
    for (json, field) in [
        (r#"{"memory":{"limit":100,"swap":50}}"#, "memory.swap"),
        (r#"{"memory":{"swap":50}}"#, "memory.swap"),
        (r#"{"memory":{"swappiness":5}}"#, "memory.swappiness"),
        (r#"{"memory":{"limit":5,"disableOOMKiller":true}}"#, "memory.disableOOMKiller"),
    ] {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let error =
            v2::memory(resources.memory().as_ref().unwrap(), &limits::Files(None)).unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
}
