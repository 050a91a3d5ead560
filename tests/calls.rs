//! Calls of engines and of the public suites that no other test makes; docs/engines.md has them all.

use crate::harness::pty::ConsoleSocket;
use crate::harness::{Case, Context, Need, case, command, eventually, json};
use serde_json::Value;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_pidfd_is_sent_of_a_new_context_and_of_an_exec)
            .differs("runc", "1.1 sends none")
            .differs("crun", "1.8 sends none"),
        case!(features_says_what_engines_look_for)
            .differs("runc", "1.1 knows no idmap")
            .differs("crun", "1.8 has none"),
        case!(events_are_printed_at_an_interval_until_the_end).differs("crun", "has no events"),
        case!(an_out_of_memory_event_is_printed)
            .differs("crun", "has no events")
            .differs("runc", "1.1 tells of v1 alone"),
        case!(exec_waits_in_a_paused_context_when_told_to).differs("crun", "1.8 has no --ignore-paused"),
        case!(a_root_without_pivot_is_entered),
        case!(spec_writes_a_configuration_that_runs).differs("crun", "1.8 masks other paths"),
        case!(ps_takes_the_options_of_ps_after_the_id).needs(Need::Program("ps")),
        case!(kill_all_reaches_every_process_of_the_group).differs("crun", "1.8 tells no stopped one"),
        case!(long_options_may_have_one_dash).differs("crun", "1.8 takes two"),
        case!(the_debug_log_has_a_record_of_the_call).needs(Need::Vctx),
    ]
}

fn a_pidfd_is_sent_of_a_new_context_and_of_an_exec() {
    let pid_of = |socket: &ConsoleSocket| {
        let pidfd = socket.descriptor();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("Pid:").map(str::trim).map(str::to_owned));
        line.expect("a pidfd")
    };
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    let socket = ConsoleSocket::new(&context.id);
    let path = socket.path.to_str().unwrap();
    command::run(&mut context.bundle_command("create", &["--pidfd-socket", path])).ok();
    assert_eq!(pid_of(&socket), context.pid().to_string());
    context.start().ok();
    let file = context.dir.join("exec.pid");
    let options = ["--detach", "--pid-file", file.to_str().unwrap(), "--pidfd-socket", path];
    context.exec(&options, &["sleep", "999"]).ok();
    assert_eq!(pid_of(&socket), fs::read_to_string(&file).unwrap().trim());
}

fn features_says_what_engines_look_for() {
    let output = Context::new().call(&["features"]).ok();
    let features: Value = serde_json::from_str(&output.stdout).unwrap();
    let has = |pointer: &str, wanted: &str| {
        let list =
            features.pointer(pointer).and_then(Value::as_array).unwrap_or_else(|| panic!("no {pointer}"));
        assert!(list.iter().any(|one| one == wanted), "{pointer} lacks {wanted}");
    };
    has("/hooks", "createRuntime");
    has("/mountOptions", "rro");
    has("/mountOptions", "idmap");
    has("/mountOptions", "unbindable");
    has("/linux/memoryPolicy/modes", "MPOL_BIND");
    has("/potentiallyUnsafeConfigAnnotations", "io.github.vctx.landlock");
    has("/linux/namespaces", "user");
    has("/linux/capabilities", "CAP_SYS_ADMIN");
    has("/linux/seccomp/actions", "SCMP_ACT_NOTIFY");
    has("/linux/seccomp/knownFlags", "SECCOMP_FILTER_FLAG_LOG");
    for pointer in [
        "/linux/cgroup/v1",
        "/linux/cgroup/v2",
        "/linux/cgroup/systemd",
        "/linux/cgroup/systemdUser",
        "/linux/netDevices/enabled",
        "/linux/seccomp/enabled",
    ] {
        assert_eq!(features.pointer(pointer), Some(&json!(true)), "{pointer}");
    }
    assert!(features["ociVersionMin"].is_string() && features["ociVersionMax"].is_string());
}

fn events_are_printed_at_an_interval_until_the_end() {
    let context = Context::idle();
    let log = fs::File::create(context.dir.join("events")).unwrap();
    let mut watcher = context
        .command()
        .args(["events", "--interval=1s", &context.id])
        .stdout(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let events = || -> Vec<Value> {
        let text = fs::read_to_string(context.dir.join("events")).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    eventually("two records", 20, || (events().len() >= 2).then_some(()));
    assert_eq!((&events()[0]["type"], &events()[0]["id"]), (&json!("stats"), &json!(context.id)));
    assert!(events()[0]["data"]["pids"]["current"].as_u64().unwrap() >= 1);
    context.kill("KILL").ok();
    assert_eq!(command::exit_code(&mut watcher), 0);
}

fn an_out_of_memory_event_is_printed() {
    let mut context = Context::sh("sleep 2; head -c 64m /dev/zero | tail; exec sleep 1000");
    context.set("/linux/resources/memory", json!({ "limit": 16 << 20, "swap": 16 << 20 }));
    context.create().ok();
    let log = fs::File::create(context.dir.join("events")).unwrap();
    let mut watcher =
        context.command().args(["events", &context.id]).stdout(log).stdin(Stdio::null()).spawn().unwrap();
    context.start().ok();
    eventually("the event", 30, || {
        fs::read_to_string(context.dir.join("events")).unwrap().contains(r#""type":"oom""#).then_some(())
    });
    let _ = context.kill("KILL");
    assert_eq!(command::exit_code(&mut watcher), 0);
}

fn exec_waits_in_a_paused_context_when_told_to() {
    let context = Context::idle();
    context.call(&["pause", &context.id]).ok();
    let mut exec = context.command();
    exec.args(["exec", "--ignore-paused", &context.id, "true"]).stdin(Stdio::null());
    let mut exec = exec.spawn().unwrap();
    assert_eq!(context.status(), "paused");
    context.call(&["resume", &context.id]).ok();
    assert_eq!(command::exit_code(&mut exec), 0);
}

fn a_root_without_pivot_is_entered() {
    let context = Context::sh("echo /proc/1/root/*; ls -d /host 2>&1");
    fs::create_dir(context.root("marker")).unwrap();
    let output = command::run(&mut context.bundle_command("run", &["--no-pivot"]));
    assert!(output.stdout.contains("/proc/1/root/marker"), "{}", output.stdout);
}

fn spec_writes_a_configuration_that_runs() {
    let mut context = Context::new();
    let folder = context.dir.join("new");
    fs::create_dir(&folder).unwrap();
    let write = |options: &[&str]| {
        command::run(context.command().arg("spec").args(options).arg("--bundle").arg(&folder)).ok();
        let text = fs::read_to_string(folder.join("config.json")).unwrap();
        fs::remove_file(folder.join("config.json")).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let mut plain = write(&[]);
    assert_eq!(plain["process"]["terminal"], json!(true));
    let rootless = write(&["--rootless"]);
    assert_eq!(rootless["linux"]["uidMappings"][0]["size"], json!(1));
    // With one on pure v2 alone, as runc: callers add it to what they got elsewhere, and twice is refused.
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    for spec in [&plain, &rootless] {
        let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
        let cgroup = namespaces.iter().filter(|one| one["type"] == "cgroup").count();
        assert_eq!(cgroup, usize::from(unified), "{namespaces:?}");
    }
    plain["process"]["terminal"] = json!(false);
    plain["process"]["args"] = json!(["sh", "-c", "hostname; id -u"]);
    plain["linux"]["cgroupsPath"] = context.spec["linux"]["cgroupsPath"].clone();
    let name = plain["hostname"].as_str().unwrap().to_owned();
    context.spec = plain;
    assert_eq!(context.prints(), format!("{name}\n0"));
}

fn ps_takes_the_options_of_ps_after_the_id() {
    let context = Context::idle();
    let output = context.call(&["ps", "--format", "table", &context.id, "-o", "pid,comm"]).ok();
    let lines: Vec<_> =
        output.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines, [vec!["PID", "COMMAND"], vec![context.pid().to_string().as_str(), "sleep"]]);
}

fn kill_all_reaches_every_process_of_the_group() {
    let context = Context::idle();
    let file = context.dir.join("exec.pid");
    context.exec(&["--detach", "--pid-file", file.to_str().unwrap()], &["sleep", "999"]).ok();
    let other = fs::read_to_string(file).unwrap().trim().parse().unwrap();
    context.call(&["kill", "--all", &context.id, "KILL"]).ok();
    assert!(command::wait_for_exit(other, command::BOUND));
    context.wait_stopped();
}

fn long_options_may_have_one_dash() {
    let context = Context::sh("echo ran");
    context.write_config();
    let mut run: Command = context.command();
    run.args(["run", "-no-subreaper", "-bundle"]).arg(&context.dir).arg(&context.id);
    assert_eq!(command::run(&mut run).ok().line(), "ran");
}

fn the_debug_log_has_a_record_of_the_call() {
    let context = Context::idle();
    let log = context.dir.join("debug");
    let mut state = context.command();
    state.args(["--debug", "--log-format", "json", "--log"]).arg(&log).args(["state", &context.id]);
    command::run(&mut state).ok();
    let record: Value =
        serde_json::from_str(fs::read_to_string(&log).unwrap().lines().next().unwrap()).unwrap();
    assert_eq!(record["level"], "debug");
    assert!(record["msg"].as_str().unwrap().contains("\"state\""), "{record}");
}
