//! Control groups: limits in the right files, `pause resume update events ps`, device rules.

use crate::harness::cgroup::{folder, is_v2, members, pure_v2, read};
use crate::harness::{Case, Context, Need, case, command, json};
use serde_json::Value;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        case!(memory_limits_are_set),
        case!(cpu_limits_are_set),
        case!(the_processor_set_is_set),
        case!(the_process_limit_is_set_and_holds),
        case!(the_first_process_is_in_every_group),
        case!(groups_are_gone_after_delete),
        case!(nested_groups_are_gone_after_delete),
        case!(a_configuration_without_a_path_gets_a_group),
        case!(pause_freezes_and_resume_thaws),
        case!(a_paused_context_can_be_killed_and_deleted),
        case!(update_by_flags_changes_the_limits),
        case!(update_reads_resources_from_a_file_and_from_standard_input),
        case!(events_stats_counts_what_is_used).differs("crun", "has no events"),
        case!(a_forbidden_device_is_not_permitted),
        case!(an_allowed_device_works),
        case!(the_terminal_devices_are_allowed),
        case!(ps_lists_every_process),
        case!(going_over_the_memory_limit_kills),
        case!(a_group_that_is_read_only_inside),
        case!(exec_enters_the_group_that_the_first_process_moved_to)
            .needs(Need::Path("/sys/fs/cgroup/cgroup.controllers")),
    ]
}

fn idle_with(resources: &[(&str, Value)]) -> Context {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    for (pointer, value) in resources {
        context.set(&format!("/linux/resources/{pointer}"), value.clone());
    }
    context.launch();
    context
}

fn memory_limits_are_set() {
    let context = idle_with(&[("memory/limit", json!(64 << 20)), ("memory/reservation", json!(32 << 20))]);
    assert_eq!(read(&context, "memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(read(&context, "memory", "memory.soft_limit_in_bytes", "memory.low"), (32 << 20).to_string());
}

fn cpu_limits_are_set() {
    let context = idle_with(&[
        ("cpu/shares", json!(512)),
        ("cpu/quota", json!(50_000)),
        ("cpu/period", json!(200_000)),
    ]);
    let (quota, period) = if is_v2("cpu") {
        let max = read(&context, "cpu", "", "cpu.max");
        let (quota, period) = max.split_once(' ').unwrap();
        (quota.to_string(), period.to_string())
    } else {
        assert_eq!(read(&context, "cpu", "cpu.shares", ""), "512");
        (read(&context, "cpu", "cpu.cfs_quota_us", ""), read(&context, "cpu", "cpu.cfs_period_us", ""))
    };
    assert_eq!((quota.as_str(), period.as_str()), ("50000", "200000"));
}

fn the_processor_set_is_set() {
    let context = idle_with(&[("cpu/cpus", json!("0")), ("cpu/mems", json!("0"))]);
    assert_eq!(read(&context, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    assert_eq!(context.exec_sh("grep Cpus_allowed_list /proc/1/status").ok().line(), "Cpus_allowed_list:\t0");
}

fn the_process_limit_is_set_and_holds() {
    let context = idle_with(&[("pids/limit", json!(5))]);
    assert_eq!(read(&context, "pids", "pids.max", "pids.max"), "5");
    let output = context.exec_sh("for n in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait");
    assert!(output.stderr.contains("can't fork"), "{}", output.stderr);
}

fn the_first_process_is_in_every_group() {
    let context = Context::idle();
    let hierarchies = ["memory", "cpu", "cpuset", "pids", "devices", "freezer", "blkio"];
    // Without version 1 all of them are the same group.
    let mounted = hierarchies.into_iter().filter(|controller| pure_v2() || !is_v2(controller));
    let groups: Vec<_> = mounted.map(|controller| members(&context, controller)).collect();
    assert!(!groups.is_empty() && groups.iter().all(|group| *group == [context.pid()]), "{groups:?}");
}

fn groups_are_gone_after_delete() {
    let mut context = Context::new();
    context.set("/linux/cgroupsPath", json!(format!("/{}/deep/group", context.id)));
    context.launch();
    assert!(folder(&context, "memory").is_dir());
    context.wait_stopped();
    context.delete().ok();
    assert!(!folder(&context, "memory").exists());
    // The path above the group is the caller's; the harness takes it away.
    crate::harness::leaks::clean(&context.id, &context.dir);
}

fn nested_groups_are_gone_after_delete() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    context.launch();
    let child = folder(&context, "memory").join("child");
    std::fs::create_dir(&child).unwrap();
    context.kill("KILL").ok();
    context.wait_stopped();
    context.delete().ok();
    assert!(!child.exists());
    context.assert_nothing_left();
}

fn a_configuration_without_a_path_gets_a_group() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    context.spec["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    context.launch();
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", context.pid())).unwrap();
    assert!(groups.lines().any(|line| line.contains(&context.id)), "{groups}");
}

fn pause_freezes_and_resume_thaws() {
    let mut context = Context::sh("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done");
    context.launch();
    context.call(&["pause", &context.id]).ok();
    assert_eq!(context.status(), "paused");
    let before = context.output();
    // Nothing is waited for here: that nothing happens takes time to see.
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(context.output(), before);
    context.call(&["resume", &context.id]).ok();
    assert_eq!(context.status(), "running");
    crate::harness::eventually("it goes on", 20, || (context.output() != before).then_some(()));
}

fn a_paused_context_can_be_killed_and_deleted() {
    let context = Context::idle();
    let pid = context.pid();
    context.call(&["pause", &context.id]).ok();
    context.call(&["delete", "--force", &context.id]).ok();
    assert!(command::wait_for_exit(pid, Duration::from_secs(10)));
    context.assert_nothing_left();
}

fn update_by_flags_changes_the_limits() {
    let context = idle_with(&[("memory/limit", json!(64 << 20)), ("pids/limit", json!(50))]);
    let flags = [
        "update",
        "--memory",
        "83886080",
        "--pids-limit",
        "70",
        "--cpu-quota",
        "30000",
        "--cpu-period",
        "100000",
        "--cpu-share",
        "256",
        "--cpuset-cpus",
        "0",
        &context.id,
    ];
    context.call(&flags).ok();
    assert_eq!(read(&context, "memory", "memory.limit_in_bytes", "memory.max"), (80 << 20).to_string());
    assert_eq!(read(&context, "pids", "pids.max", "pids.max"), "70");
    assert_eq!(read(&context, "cpuset", "cpuset.cpus", "cpuset.cpus"), "0");
    let quota = read(&context, "cpu", "cpu.cfs_quota_us", "cpu.max");
    assert!(quota == "30000" || quota == "30000 100000", "{quota}");
}

fn update_reads_resources_from_a_file_and_from_standard_input() {
    let context = idle_with(&[("pids/limit", json!(50))]);
    let file = context.file("resources.json", &json!({ "pids": { "limit": 60 } }).to_string());
    context.call(&["update", "--resources", file.to_str().unwrap(), &context.id]).ok();
    assert_eq!(read(&context, "pids", "pids.max", "pids.max"), "60");
    let resources = json!({ "pids": { "limit": 61 }, "memory": { "limit": 64 << 20 } }).to_string();
    let mut update = context.command();
    update.args(["update", "--resources=-", &context.id]);
    command::run_with(&mut update, resources.as_bytes(), command::BOUND).ok();
    assert_eq!(read(&context, "pids", "pids.max", "pids.max"), "61");
    assert_eq!(read(&context, "memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
}

fn events_stats_counts_what_is_used() {
    let context = idle_with(&[("memory/limit", json!(64 << 20)), ("pids/limit", json!(50))]);
    let stats: Value =
        serde_json::from_str(&context.call(&["events", "--stats", &context.id]).ok().stdout).unwrap();
    assert_eq!(stats["type"], "stats");
    assert_eq!(stats["id"], json!(context.id));
    let data = &stats["data"];
    assert_eq!(data["pids"]["current"], 1);
    assert_eq!(data["pids"]["limit"], 50);
    assert_eq!(data["memory"]["usage"]["limit"], 64 << 20);
    assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0);
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
}

fn a_forbidden_device_is_not_permitted() {
    let mut context =
        Context::sh("mknod /tmp/fuse c 10 229; cat /tmp/fuse 2>&1 | grep -o 'Operation not permitted'");
    let rule = |allow: bool, access: &str| json!({ "allow": allow, "type": "c", "access": access });
    context.set("/linux/resources/devices", json!([{ "allow": false, "access": "rwm" }, rule(true, "m")]));
    assert_eq!(context.prints(), "Operation not permitted");
}

fn an_allowed_device_works() {
    let mut context = Context::sh("mknod /tmp/z c 1 5 && head -c 3 /tmp/z | wc -c");
    assert_eq!(context.prints(), "3");
    let rule = json!({ "allow": true, "type": "c", "major": 10, "minor": 200, "access": "rwm" });
    context.push("/linux/resources/devices", rule);
    context.args(&["mknod", "/tmp/tun", "c", "10", "200"]);
    context.run().ok();
}

fn the_terminal_devices_are_allowed() {
    let printed =
        Context::sh("exec 3<>/dev/ptmx && echo opened; echo x > /dev/full 2>&1 || echo full").prints();
    assert!(printed.starts_with("opened"), "{printed}");
}

fn ps_lists_every_process() {
    let context = Context::idle();
    context.exec(&["--detach"], &["sleep", "998"]).ok();
    let pids: Vec<u32> =
        serde_json::from_str(&context.call(&["ps", "--format", "json", &context.id]).ok().stdout).unwrap();
    let mut members = members(&context, "memory");
    members.sort_unstable();
    let mut sorted = pids.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, members);
    assert_eq!(pids.len(), 2);
}

fn going_over_the_memory_limit_kills() {
    let mut context =
        Context::sh("head -c 67108864 /dev/zero | tail -c 67108864 >/dev/null; echo survived $?");
    context.set("/linux/resources/memory", json!({ "limit": 16 << 20, "swap": 16 << 20 }));
    let output = context.run();
    assert!(!output.stdout.contains("survived 0"), "{}", output.stdout);
}

fn a_group_that_is_read_only_inside() {
    let mut context = Context::sh(
        "ls /sys/fs/cgroup | wc -l; mkdir /sys/fs/cgroup/pids/x /sys/fs/cgroup/x 2>/dev/null || echo refused",
    );
    context.push("/linux/namespaces", json!({ "type": "cgroup" }));
    context.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]);
    let printed = context.prints();
    let (entries, refused) = printed.split_once('\n').unwrap();
    assert!(entries.parse::<u32>().unwrap() > 3, "{printed}");
    assert_eq!(refused, "refused");
}

/// As systemd does it in a context: version 2 lets no process into a group that hands controllers on.
fn exec_enters_the_group_that_the_first_process_moved_to() {
    let mut context = Context::sh(
        "cd /sys/fs/cgroup && mkdir inner && echo 1 > inner/cgroup.procs && \
         echo +pids > cgroup.subtree_control && echo moved; exec sleep 1000",
    );
    context.push("/linux/namespaces", json!({ "type": "cgroup" }));
    context.mount("/sys/fs/cgroup", "cgroup", "cgroup", &["rw"]);
    context.launch();
    crate::harness::eventually("the move", 20, || context.output().contains("moved").then_some(()));
    assert_eq!(context.exec_sh("grep ^0: /proc/self/cgroup").ok().line(), "0::/inner");
}
