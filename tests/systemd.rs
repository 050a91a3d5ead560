//! The systemd driver of control groups: every group is a scope of systemd's. With version 1 it is a directory in each
//! hierarchy, of which systemd makes some.

use crate::harness::{Case, Context, Need, case, cgroup, command, eventually, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const UNIFIED: &str = "/sys/fs/cgroup/cgroup.controllers";

pub fn cases() -> Vec<Case> {
    let systemd = Need::Path("/run/systemd/private");
    let with = vec![
        case!(a_scope_is_made_and_removed),
        case!(a_slice_of_slices_is_made),
        case!(a_configuration_without_a_path_gets_a_scope),
        case!(limits_are_told_systemd_and_survive_its_reload).needs(Need::Path(UNIFIED)),
        case!(limits_of_version_1_are_told_systemd_and_survive_its_reload).needs(Need::NoPath(UNIFIED)),
        case!(update_tells_systemd),
        case!(a_limit_that_systemctl_sets_is_kept_by_the_next_update),
        case!(device_rules_survive_a_reload),
        case!(on_version_1_systemd_holds_the_device_rules_too).needs(Need::NoPath(UNIFIED)),
        case!(pause_exec_and_kill_work_in_a_scope),
        case!(a_process_limit_of_one_is_enough_to_start),
        case!(the_guest_may_make_groups_of_its_own).needs(Need::Path(UNIFIED)),
        case!(the_guest_may_make_groups_of_its_own_in_version_1).needs(Need::NoPath(UNIFIED)),
        case!(a_name_that_is_taken_is_refused_and_left_alone),
        case!(a_failed_create_leaves_no_scope),
        case!(a_context_can_be_made_again_under_its_name_at_once),
        case!(stopping_the_scope_ends_the_context),
        case!(paths_of_another_form_are_refused),
    ];
    let users = [
        case!(an_ordinary_user_has_scopes_of_its_own_systemd).needs(Need::Path(UNIFIED)),
        case!(outside_of_the_users_systemd_it_says_how_to_start).needs(Need::Path(UNIFIED)),
        case!(with_version_1_an_ordinary_user_is_refused).needs(Need::NoPath(UNIFIED)),
    ];
    let users = users.into_iter().map(|case| case.needs(Need::Vctx).needs(Need::Path(USERS_SYSTEMD)));
    let without =
        case!(without_systemd_it_is_refused).needs(Need::Vctx).needs(Need::NoPath("/run/systemd/system"));
    with.into_iter().map(|case| case.needs(systemd)).chain(users).chain([without]).collect()
}

/// A context whose group is the scope `vt-ID.scope`.
fn scoped() -> Context {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    context.options.push("--systemd-cgroup".into());
    context.set("/linux/cgroupsPath", json!(format!("system.slice:vt:{}", context.id)));
    context
}

fn unit(context: &Context) -> String {
    format!("vt-{}.scope", context.id)
}

/// The scope's folder in the hierarchy that carries `controller`.
fn folder(context: &Context, controller: &str) -> PathBuf {
    let root = Path::new("/sys/fs/cgroup");
    let root = if cgroup::pure_v2() { root.into() } else { root.join(controller) };
    root.join("system.slice").join(unit(context))
}

/// The trimmed content of the file `v1` or `v2` of a controller.
#[track_caller]
fn either(context: &Context, controller: &str, v1: &str, v2: &str) -> String {
    let file = folder(context, controller).join(if cgroup::pure_v2() { v2 } else { v1 });
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.trim().to_string()
}

/// Of a file whose name both versions share, or that only one has.
#[track_caller]
fn value(context: &Context, file: &str) -> String {
    either(context, file.split('.').next().unwrap(), file, file)
}

fn memory_limit(context: &Context) -> String {
    either(context, "memory", "memory.limit_in_bytes", "memory.max")
}

fn systemctl(args: &[&str]) -> String {
    command::run(Command::new("systemctl").args(args)).ok().line().to_string()
}

fn property(context: &Context, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, &unit(context)])
}

/// Has systemd set a property, and with it write the values of the unit again.
fn set_property(context: &Context, assignment: &str) {
    systemctl(&["set-property", "--runtime", &unit(context), assignment]);
}

/// The paths in a `/proc/PID/cgroup`, without that of an unused version 2 hierarchy.
fn paths(membership: &str) -> Vec<String> {
    let lines = membership.lines().filter(|line| *line != "0::/");
    lines.map(|line| line.splitn(3, ':').nth(2).unwrap().to_string()).collect()
}

fn group_of(context: &Context) -> Vec<String> {
    paths(&fs::read_to_string(format!("/proc/{}/cgroup", context.pid())).unwrap())
}

fn a_scope_is_made_and_removed() {
    let mut context = scoped();
    context.launch();
    assert_eq!(property(&context, "ActiveState"), "active");
    assert_eq!(property(&context, "Delegate"), "yes");
    // The first is systemd's on version 1, and the second ours.
    for controller in ["pids", "freezer"] {
        let members = fs::read_to_string(folder(&context, controller).join("cgroup.procs")).unwrap();
        assert_eq!(members.trim(), context.pid().to_string(), "{controller}");
    }
    context.call(&["delete", "--force", &context.id]).ok();
    assert_eq!(property(&context, "LoadState"), "not-found");
    context.assert_nothing_left();
}

fn a_slice_of_slices_is_made() {
    let mut context = scoped();
    context.set("/linux/cgroupsPath", json!(format!("vt-inner.slice:vt:{}", context.id)));
    context.launch();
    let wanted = format!("/vt.slice/vt-inner.slice/{}", unit(&context));
    let groups = group_of(&context);
    assert!(!groups.is_empty() && groups.iter().all(|path| *path == wanted), "{groups:?}");
}

fn a_configuration_without_a_path_gets_a_scope() {
    let mut context = scoped();
    context.spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    context.launch();
    for group in group_of(&context) {
        assert!(group.starts_with("/system.slice/") && group.ends_with(".scope"), "{group}");
        assert!(group.contains(&context.id), "{group}");
    }
}

fn limits_are_told_systemd_and_survive_its_reload() {
    let mut context = scoped();
    context.set("/linux/resources/memory", json!({ "limit": 64 << 20, "reservation": 32 << 20 }));
    context.set("/linux/resources/pids", json!({ "limit": 50 }));
    let cpu = json!({ "shares": 512, "quota": 50_000, "period": 200_000, "cpus": "0", "mems": "0" });
    context.set("/linux/resources/cpu", cpu);
    context.set("/linux/resources/unified", json!({ "memory.high": "50331648" }));
    context.launch();
    let files =
        ["memory.max", "memory.low", "memory.high", "pids.max", "cpu.weight", "cpu.max", "cpuset.cpus"];
    let before = files.map(|file| value(&context, file));
    assert_eq!(before[0], (64 << 20).to_string());
    assert_eq!(before[3], "50");
    assert_eq!(before[5..], ["50000 200000", "0"]);
    assert_eq!(property(&context, "MemoryMax"), before[0]);
    assert_eq!(property(&context, "MemoryLow"), before[1]);
    assert_eq!(property(&context, "MemoryHigh"), "50331648");
    assert_eq!(property(&context, "TasksMax"), "50");
    assert_eq!(property(&context, "CPUWeight"), before[4]);
    assert_eq!(property(&context, "CPUQuotaPerSecUSec"), "250ms");
    assert_eq!(property(&context, "AllowedCPUs"), "0");
    systemctl(&["daemon-reload"]);
    set_property(&context, "IPAccounting=no");
    assert_eq!(files.map(|file| value(&context, file)), before);
}

fn limits_of_version_1_are_told_systemd_and_survive_its_reload() {
    let mut context = scoped();
    context.set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
    context.set("/linux/resources/pids", json!({ "limit": 50 }));
    let cpu = json!({ "shares": 512, "quota": 50_000, "period": 200_000, "cpus": "0", "mems": "0" });
    context.set("/linux/resources/cpu", cpu);
    context.launch();
    let files = [
        "memory.limit_in_bytes",
        "cpu.shares",
        "cpu.cfs_quota_us",
        "cpu.cfs_period_us",
        "pids.max",
        "cpuset.cpus",
    ];
    let before = files.map(|file| value(&context, file));
    assert_eq!(before, [&(64 << 20).to_string(), "512", "50000", "200000", "50", "0"]);
    assert_eq!(property(&context, "MemoryLimit"), before[0]);
    assert_eq!(property(&context, "CPUShares"), "512");
    assert_eq!(property(&context, "CPUQuotaPerSecUSec"), "250ms");
    assert_eq!(property(&context, "TasksMax"), "50");
    systemctl(&["daemon-reload"]);
    for again in ["CPUAccounting=yes", "MemoryAccounting=yes", "TasksAccounting=yes"] {
        set_property(&context, again);
    }
    assert_eq!(files.map(|file| value(&context, file)), before);
}

/// What systemd calls the limit of memory.
fn memory_property() -> &'static str {
    if cgroup::pure_v2() { "MemoryMax" } else { "MemoryLimit" }
}

fn update_tells_systemd() {
    let mut context = scoped();
    context.set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
    context.launch();
    context.call(&["update", "--memory", "83886080", "--pids-limit", "70", &context.id]).ok();
    for _ in 0..2 {
        assert_eq!([memory_limit(&context), value(&context, "pids.max")], ["83886080", "70"]);
        assert_eq!(
            [property(&context, memory_property()), property(&context, "TasksMax")],
            ["83886080", "70"]
        );
        systemctl(&["daemon-reload"]);
    }
}

fn a_limit_that_systemctl_sets_is_kept_by_the_next_update() {
    let mut context = scoped();
    context.set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
    context.launch();
    set_property(&context, &format!("{}=83886080", memory_property()));
    assert_eq!(memory_limit(&context), "83886080");
    context.call(&["update", "--pids-limit", "70", &context.id]).ok();
    systemctl(&["daemon-reload"]);
    assert_eq!([memory_limit(&context), value(&context, "pids.max")], ["83886080", "70"]);
    context.exec_sh("true").ok();
}

/// What the guest may open: not the port memory, whose node it can make, but /dev/zero.
const TRY_DEVICES: &str = "[ -e /tmp/port ] || mknod /tmp/port c 1 4; cat /tmp/port 2>&1 | grep -o 'not permitted'; \
                           head -c 1 /dev/zero | wc -c";

fn with_device_rules() -> Context {
    let mut context = scoped();
    let rule = |allow: bool, access: &str| json!({ "allow": allow, "type": "c", "access": access });
    let rules = json!([{ "allow": false, "access": "rwm" }, rule(true, "m"),
        { "allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm" }]);
    context.set("/linux/resources/devices", rules);
    context.launch();
    context
}

fn device_rules_survive_a_reload() {
    let context = with_device_rules();
    for _ in 0..2 {
        assert_eq!(context.exec_sh(TRY_DEVICES).ok().line(), "not permitted\n1");
        systemctl(&["daemon-reload"]);
        set_property(&context, if cgroup::pure_v2() { "CPUWeight=77" } else { "CPUShares=77" });
        assert_eq!(either(&context, "cpu", "cpu.shares", "cpu.weight"), "77");
    }
}

fn on_version_1_systemd_holds_the_device_rules_too() {
    let context = with_device_rules();
    assert_eq!(property(&context, "DevicePolicy"), "strict");
    // It writes the rules anew, and what it writes are ours.
    set_property(&context, "DevicePolicy=strict");
    let list = value(&context, "devices.list");
    for rule in ["c 10:200 rwm", "c 1:5 rwm", "c 136:* rwm", "c *:* m"] {
        assert!(list.lines().any(|line| line == rule), "{rule} is not in {list}");
    }
    assert!(!list.lines().any(|line| line.starts_with('a')), "{list}");
    assert_eq!(context.exec_sh(TRY_DEVICES).ok().line(), "not permitted\n1");
    // A part of everything has no words in systemd's language, and would be lost with the next such write.
    let mut hole = scoped();
    let rules = json!([{ "allow": true, "access": "rwm" }, { "allow": false, "type": "c", "major": 1, "minor": 4, "access": "rwm" }]);
    hole.set("/linux/resources/devices", rules);
    hole.create().refused_with(&["devices", "c 1:4 rwm", "systemd"]);
    hole.assert_nothing_left();
}

fn pause_exec_and_kill_work_in_a_scope() {
    let mut context = scoped();
    context.launch();
    context.call(&["pause", &context.id]).ok();
    assert_eq!(context.status(), "paused");
    context.call(&["resume", &context.id]).ok();
    let groups = paths(&context.exec_sh("cat /proc/self/cgroup").ok().stdout);
    assert!(!groups.is_empty() && groups.iter().all(|path| path.ends_with(&unit(&context))), "{groups:?}");
    context.kill("KILL").ok();
    context.wait_stopped();
    context.delete().ok();
    context.assert_nothing_left();
}

fn a_process_limit_of_one_is_enough_to_start() {
    let mut context = scoped();
    context.set("/linux/resources/pids", json!({ "limit": 1 }));
    context.launch();
    assert_eq!([value(&context, "pids.max"), value(&context, "pids.current")], ["1", "1"]);
}

/// A context that sees its groups, and whose guest has run `script` in their folder.
fn with_groups(script: &str) -> Context {
    let mut context = scoped();
    context.args(&["sh", "-c", &format!("cd /sys/fs/cgroup && {script} && echo done; exec sleep 1000")]);
    context.push("/linux/namespaces", json!({ "type": "cgroup" }));
    context.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"]);
    context.launch();
    eventually("the groups", 20, || context.output().contains("done").then_some(()));
    systemctl(&["daemon-reload"]);
    context
}

fn the_guest_may_make_groups_of_its_own() {
    let context = with_groups(
        "mkdir inner && echo 1 > inner/cgroup.procs && \
         echo '+memory +pids' > cgroup.subtree_control && echo 64M > inner/memory.max",
    );
    assert_eq!(value(&context, "inner/memory.max"), (64 << 20).to_string());
    context.call(&["delete", "--force", &context.id]).ok();
    assert_eq!(property(&context, "LoadState"), "not-found");
}

fn the_guest_may_make_groups_of_its_own_in_version_1() {
    let context = with_groups(
        "for one in memory freezer; do mkdir $one/inner && echo 1 > $one/inner/tasks || exit; done; \
         echo 64M > memory/inner/memory.limit_in_bytes",
    );
    set_property(&context, "MemoryAccounting=yes");
    let inner = folder(&context, "memory").join("inner");
    let text = |file: &str| fs::read_to_string(inner.join(file)).unwrap();
    assert_eq!(text("memory.limit_in_bytes").trim(), (64 << 20).to_string());
    assert_eq!(text("cgroup.procs").trim(), context.pid().to_string());
    context.call(&["delete", "--force", &context.id]).ok();
    assert_eq!(property(&context, "LoadState"), "not-found");
    context.assert_nothing_left();
}

fn a_name_that_is_taken_is_refused_and_left_alone() {
    let mut first = scoped();
    first.launch();
    let mut second = scoped();
    second.set("/linux/cgroupsPath", first.spec["linux"]["cgroupsPath"].clone());
    second.create().refused_with(&[&unit(&first).to_lowercase()]);
    assert_eq!(property(&first, "ActiveState"), "active");
    assert_eq!(first.status(), "running");
}

fn a_failed_create_leaves_no_scope() {
    let mut context = scoped();
    context.args(&["/nonsense"]);
    context.create().refused();
    assert_eq!(property(&context, "LoadState"), "not-found");
    context.assert_nothing_left();
}

fn a_context_can_be_made_again_under_its_name_at_once() {
    let mut context = scoped();
    for _ in 0..5 {
        context.launch();
        context.call(&["delete", "--force", &context.id]).ok();
    }
}

fn stopping_the_scope_ends_the_context() {
    let mut context = scoped();
    context.args(&["sh", "-c", "trap 'exit 0' TERM; echo ready; sleep 1000 & wait"]);
    context.launch();
    eventually("the trap is set", 20, || context.output().contains("ready").then_some(()));
    systemctl(&["stop", &unit(&context)]);
    context.wait_stopped();
    context.delete().ok();
    context.assert_nothing_left();
}

/// The user whose systemd tests/vm/guest starts.
const USER: u32 = 1000;
const USERS_SYSTEMD: &str = "/run/user/1000/systemd/private";

/// A context of that user's.
fn of_user() -> Context {
    let mapping = json!([{ "containerID": 0, "hostID": USER, "size": 1 }]);
    let mut context = crate::rootless::context_of(USER, "sleep 1000", mapping);
    context.options.push("--systemd-cgroup".into());
    context.set("/linux/cgroupsPath", json!(format!("user.slice:vt:{}", context.id)));
    context.set("/linux/resources", json!({ "pids": { "limit": 50 }, "memory": { "limit": 64 << 20 } }));
    context
}

/// The command as the user, after these words.
fn as_user(context: &Context, before: &[&str], command: &Command) -> command::Output {
    let id = USER.to_string();
    let mut user = Command::new("setpriv");
    user.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).args(before);
    user.arg(command.get_program()).args(command.get_args());
    user.env("VCTX_TEST_ID", &context.id)
        .env("XDG_RUNTIME_DIR", format!("/run/user/{USER}"))
        .env_remove("HOME");
    command::run(&mut user)
}

fn an_ordinary_user_has_scopes_of_its_own_systemd() {
    let context = of_user();
    let id = context.id.as_str();
    let scope = ["systemd-run", "--user", "--scope", "--quiet", "--property", "Delegate=yes"];
    let call = |command: &Command| as_user(&context, &scope, command);
    call(&context.bundle_command("create", &[])).ok();
    call(context.command().args(["start", id])).ok();
    let group = call(context.command().args(["exec", id, "cat", "/proc/1/cgroup"])).ok();
    let path = format!("user@{USER}.service/user.slice/{}", unit(&context));
    assert!(group.line().ends_with(&path), "{}", group.line());
    let folder = Path::new("/sys/fs/cgroup/user.slice").join(format!("user-{USER}.slice")).join(&path);
    let value = |file: &str| fs::read_to_string(folder.join(file)).unwrap().trim().to_string();
    assert_eq!([value("pids.max"), value("memory.max")], ["50".to_string(), (64 << 20).to_string()]);
    call(context.command().args(["update", "--pids-limit", "70", id])).ok();
    let show = ["show", "--value", "--property", "TasksMax", &unit(&context)];
    let told = as_user(&context, &[], Command::new("systemctl").arg("--user").args(show));
    assert_eq!((value("pids.max").as_str(), told.ok().line()), ("70", "70"));
    call(context.command().args(["delete", "--force", id])).ok();
    assert!(!folder.exists());
    context.assert_nothing_left();
}

fn outside_of_the_users_systemd_it_says_how_to_start() {
    let context = of_user();
    as_user(&context, &[], &context.bundle_command("create", &[]))
        .refused_with(&["systemd-run --user --scope"]);
    context.assert_nothing_left();
}

fn with_version_1_an_ordinary_user_is_refused() {
    let context = of_user();
    as_user(&context, &[], &context.bundle_command("create", &[])).refused_with(&["cgroup v2 alone"]);
    context.assert_nothing_left();
}

fn paths_of_another_form_are_refused() {
    for path in
        ["/absolute", "system.slice:vt", "system:vt:x", "a--b.slice:vt:x", "a/b.slice:vt:x", "system.slice::"]
    {
        let mut context = scoped();
        context.set("/linux/cgroupsPath", json!(path));
        context.create().refused();
        context.assert_nothing_left();
    }
}

fn without_systemd_it_is_refused() {
    let mut context = scoped();
    context.create().refused_with(&["systemd"]);
    context.assert_nothing_left();
}
