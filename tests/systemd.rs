//! The systemd driver of control groups: every group is a scope of systemd's.

use crate::harness::{Case, Context, Need, case, command, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn cases() -> Vec<Case> {
    let systemd = Need::Path("/run/systemd/private");
    let with = vec![
        case!(a_scope_is_made_and_removed),
        case!(a_slice_of_slices_is_made),
        case!(a_configuration_without_a_path_gets_a_scope),
        case!(limits_are_told_systemd_and_survive_its_reload),
        case!(update_tells_systemd),
        case!(device_rules_survive_a_reload),
        case!(pause_exec_and_kill_work_in_a_scope),
        case!(a_process_limit_of_one_is_enough_to_start),
        case!(the_guest_may_make_groups_of_its_own),
        case!(a_name_that_is_taken_is_refused_and_left_alone),
        case!(a_failed_create_leaves_no_scope),
        case!(a_context_can_be_made_again_under_its_name_at_once),
        case!(stopping_the_scope_ends_the_context),
        case!(paths_of_another_form_are_refused),
    ];
    let users = [
        case!(an_ordinary_user_has_scopes_of_its_own_systemd),
        case!(outside_of_the_users_systemd_it_says_how_to_start),
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

fn folder(context: &Context) -> PathBuf {
    Path::new("/sys/fs/cgroup/system.slice").join(unit(context))
}

fn value(context: &Context, file: &str) -> String {
    fs::read_to_string(folder(context).join(file)).unwrap().trim().to_string()
}

fn systemctl(args: &[&str]) -> String {
    command::run(Command::new("systemctl").args(args)).ok().line().to_string()
}

fn property(context: &Context, name: &str) -> String {
    systemctl(&["show", "--value", "--property", name, &unit(context)])
}

fn a_scope_is_made_and_removed() {
    let mut context = scoped();
    context.launch();
    assert_eq!(property(&context, "ActiveState"), "active");
    assert_eq!(property(&context, "Delegate"), "yes");
    assert_eq!(value(&context, "cgroup.procs"), context.pid().to_string());
    context.call(&["delete", "--force", &context.id]).ok();
    assert_eq!(property(&context, "LoadState"), "not-found");
    assert!(!folder(&context).exists());
}

fn a_slice_of_slices_is_made() {
    let mut context = scoped();
    context.set("/linux/cgroupsPath", json!(format!("vt-inner.slice:vt:{}", context.id)));
    context.launch();
    let group = fs::read_to_string(format!("/proc/{}/cgroup", context.pid())).unwrap();
    assert_eq!(group.trim(), format!("0::/vt.slice/vt-inner.slice/{}", unit(&context)));
}

fn a_configuration_without_a_path_gets_a_scope() {
    let mut context = scoped();
    context.spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    context.launch();
    let group = fs::read_to_string(format!("/proc/{}/cgroup", context.pid())).unwrap();
    assert!(group.starts_with("0::/system.slice/") && group.trim().ends_with(".scope"), "{group}");
    assert!(group.contains(&context.id), "{group}");
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
    // A change elsewhere in the tree makes systemd write the unit's values again.
    systemctl(&["set-property", "--runtime", &unit(&context), "IPAccounting=no"]);
    assert_eq!(files.map(|file| value(&context, file)), before);
}

fn update_tells_systemd() {
    let mut context = scoped();
    context.set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
    context.launch();
    context.call(&["update", "--memory", "83886080", "--pids-limit", "70", &context.id]).ok();
    for _ in 0..2 {
        assert_eq!([value(&context, "memory.max"), value(&context, "pids.max")], ["83886080", "70"]);
        assert_eq!([property(&context, "MemoryMax"), property(&context, "TasksMax")], ["83886080", "70"]);
        systemctl(&["daemon-reload"]);
    }
}

fn device_rules_survive_a_reload() {
    let mut context = scoped();
    let rule = |allow: bool, access: &str| json!({ "allow": allow, "type": "c", "access": access });
    let rules = json!([{ "allow": false, "access": "rwm" }, rule(true, "m"),
        { "allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm" }]);
    context.set("/linux/resources/devices", rules);
    context.launch();
    let script = "[ -e /tmp/port ] || mknod /tmp/port c 1 4; cat /tmp/port 2>&1 | grep -o 'not permitted'; \
                  head -c 1 /dev/zero | wc -c";
    for _ in 0..2 {
        assert_eq!(context.exec_sh(script).ok().line(), "not permitted\n1");
        systemctl(&["daemon-reload"]);
        systemctl(&["set-property", "--runtime", &unit(&context), "CPUWeight=77"]);
        assert_eq!(value(&context, "cpu.weight"), "77");
    }
}

fn pause_exec_and_kill_work_in_a_scope() {
    let mut context = scoped();
    context.launch();
    context.call(&["pause", &context.id]).ok();
    assert_eq!(context.status(), "paused");
    context.call(&["resume", &context.id]).ok();
    let group = context.exec_sh("grep ^0: /proc/self/cgroup").ok();
    assert!(group.line().ends_with(&unit(&context)), "{}", group.line());
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

fn the_guest_may_make_groups_of_its_own() {
    let mut context = scoped();
    let script = "cd /sys/fs/cgroup && mkdir inner && echo 1 > inner/cgroup.procs && \
                  echo '+memory +pids' > cgroup.subtree_control && echo 64M > inner/memory.max && echo done; \
                  exec sleep 1000";
    context.args(&["sh", "-c", script]);
    context.push("/linux/namespaces", json!({ "type": "cgroup" }));
    context.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"]);
    context.launch();
    crate::harness::eventually("the groups", 20, || context.output().contains("done").then_some(()));
    systemctl(&["daemon-reload"]);
    assert_eq!(value(&context, "inner/memory.max"), (64 << 20).to_string());
    context.call(&["delete", "--force", &context.id]).ok();
    assert_eq!(property(&context, "LoadState"), "not-found");
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
    crate::harness::eventually("the trap is set", 20, || context.output().contains("ready").then_some(()));
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
