//! `create start state kill delete run list ps`: the life of a context, and what each command prints.

use crate::harness::{Case, Context, Need, Output, case, command, eventually, json};
use serde_json::Value;
use std::fs;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_context_goes_from_created_to_running_to_stopped),
        case!(state_prints_the_fields_of_the_specification),
        case!(create_does_not_run_the_program),
        case!(a_context_without_a_process_is_created_and_not_started).needs(Need::Vctx),
        case!(create_writes_the_pid_file),
        case!(a_deleted_context_is_unknown_and_its_id_free_again),
        case!(delete_force_kills_a_running_context),
        case!(delete_force_of_an_absent_id_succeeds),
        case!(delete_of_a_created_context_ends_it),
        case!(run_passes_output_and_exit_code_on),
        case!(run_reports_a_signal_as_128_and_its_number),
        case!(run_deletes_the_context_at_its_end),
        case!(run_keep_leaves_a_stopped_context).differs("crun", "1.8 has no --keep"),
        case!(run_detached_returns_and_leaves_the_context_running),
        case!(run_forwards_a_signal_to_the_first_process),
        case!(kill_takes_numbers_and_names_with_and_without_sig),
        case!(kill_defaults_to_term),
        case!(kill_all_ends_every_process_of_a_shared_pid_namespace),
        case!(a_child_of_the_first_process_ends_with_it),
        case!(list_prints_a_table_and_json),
        case!(list_quiet_prints_ids_only),
        case!(list_is_empty_without_contexts),
        case!(ps_prints_a_table_and_json),
        case!(options_may_follow_the_id).needs(Need::Vctx),
        case!(two_contexts_do_not_see_each_other),
        case!(annotations_are_in_the_state),
        case!(the_log_option_writes_errors_as_json_lines),
        case!(version_is_printed_as_engines_parse_it),
    ]
}

fn a_context_goes_from_created_to_running_to_stopped() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    context.create().ok();
    assert_eq!(context.status(), "created");
    context.start().ok();
    assert_eq!(context.status(), "running");
    context.kill("KILL").ok();
    context.wait_stopped();
    context.delete().ok();
    context.call(&["state", &context.id]).refused();
    context.assert_nothing_left();
}

fn state_prints_the_fields_of_the_specification() {
    let context = Context::idle();
    let state = context.state();
    assert_eq!(state["id"], json!(context.id));
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."));
    assert_eq!(state["bundle"], json!(context.dir));
    let pid = state["pid"].as_u64().unwrap();
    assert!(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap().starts_with("sleep\0"));
    context.kill("KILL").ok();
    context.wait_stopped();
    assert_eq!(context.state()["pid"].as_u64().unwrap_or(0), 0);
}

fn create_does_not_run_the_program() {
    let mut context = Context::sh("touch /ran");
    context.create().ok();
    assert!(!context.root("ran").exists());
    context.start().ok();
    context.wait_stopped();
    assert!(context.root("ran").exists());
}

fn a_context_without_a_process_is_created_and_not_started() {
    let mut context = Context::new();
    context.spec.as_object_mut().unwrap().remove("process");
    command::run(&mut context.bundle_command("run", &[])).refused_with(&["process: is missing"]);
    context.assert_nothing_left();
    context.create().ok();
    let pid = context.pid();
    for _ in 0..2 {
        context.start().refused_with(&["has no process"]);
        assert_eq!((context.status().as_str(), context.pid()), ("created", pid));
    }
    // What waits is inside, and may do nothing there.
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "CapInh:\t0000000000000000"] {
        assert!(status.contains(line), "no {line:?} in {status}");
    }
    context.exec(&[], &["true"]).refused();
    context.kill("KILL").ok();
    context.wait_stopped();
    context.start().refused_with(&["stopped"]);
    context.delete().ok();
    context.assert_nothing_left();
}

fn create_writes_the_pid_file() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    let file = context.dir.join("pid");
    command::run(&mut context.bundle_command("create", &["--pid-file", file.to_str().unwrap()])).ok();
    assert_eq!(fs::read_to_string(file).unwrap(), context.pid().to_string());
}

fn a_deleted_context_is_unknown_and_its_id_free_again() {
    let mut context = Context::new();
    for _ in 0..2 {
        context.launch();
        context.wait_stopped();
        context.delete().ok();
        context.assert_nothing_left();
    }
    context.delete().refused();
}

fn delete_force_kills_a_running_context() {
    let context = Context::idle();
    let pid = context.pid();
    context.call(&["delete", "--force", &context.id]).ok();
    assert!(command::wait_for_exit(pid, command::BOUND));
    context.call(&["state", &context.id]).refused();
}

fn delete_force_of_an_absent_id_succeeds() {
    let context = Context::new();
    context.call(&["delete", "--force", "nobody"]).ok();
}

fn delete_of_a_created_context_ends_it() {
    let mut context = Context::new();
    context.create().ok();
    context.delete().ok();
    context.assert_nothing_left();
}

fn run_passes_output_and_exit_code_on() {
    for code in [0, 1, 3, 125, 255] {
        let output = Context::sh(&format!("echo out; echo err >&2; exit {code}")).run().exits(code);
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    }
}

fn run_reports_a_signal_as_128_and_its_number() {
    // The first process of a pid namespace gets no signal from inside that it has no handler for, so a parent
    // passes on, as shells do, how its child died, and the KILL comes from outside.
    Context::sh("sh -c 'kill -TERM $$'; exit $?").run().exits(143);
    let context = Context::sh("sleep 1000");
    let mut child = context.bundle_command("run", &[]).spawn().unwrap();
    wait_running(&context);
    context.kill("9").ok();
    assert_eq!(command::exit_code(&mut child), 137);
}

fn run_deletes_the_context_at_its_end() {
    let context = Context::new();
    context.run().ok();
    context.call(&["state", &context.id]).refused();
    context.assert_nothing_left();
}

fn run_keep_leaves_a_stopped_context() {
    let context = Context::sh("exit 4");
    command::run(&mut context.bundle_command("run", &["--keep"])).exits(4);
    assert_eq!(context.status(), "stopped");
    context.delete().ok();
}

fn run_detached_returns_and_leaves_the_context_running() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    let file = context.dir.join("pid");
    command::run(&mut context.bundle_command("run", &["--detach", "--pid-file", file.to_str().unwrap()]))
        .ok();
    assert_eq!(context.status(), "running");
    assert_eq!(fs::read_to_string(file).unwrap(), context.pid().to_string());
}

fn run_forwards_a_signal_to_the_first_process() {
    let context = Context::sh("trap 'exit 9' USR1; touch /ready; while :; do sleep 0.01; done");
    let mut child = context.bundle_command("run", &[]).spawn().unwrap();
    eventually("the trap is set", 20, || context.root("ready").exists().then_some(()));
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
    assert_eq!(command::exit_code(&mut child), 9);
}

fn kill_takes_numbers_and_names_with_and_without_sig() {
    for signal in ["10", "USR1", "SIGUSR1"] {
        let mut context = Context::sh("trap 'echo got; exit' USR1; echo ready; while :; do sleep 0.01; done");
        context.launch();
        eventually("the trap is set", 20, || context.output().contains("ready").then_some(()));
        context.kill(signal).ok();
        context.wait_stopped();
        assert_eq!(context.output(), "ready\ngot\n", "{signal}");
    }
}

fn kill_defaults_to_term() {
    let mut context = Context::sh("trap 'echo term; exit' TERM; echo ready; while :; do sleep 0.01; done");
    context.launch();
    eventually("the trap is set", 20, || context.output().contains("ready").then_some(()));
    context.call(&["kill", &context.id]).ok();
    context.wait_stopped();
    assert_eq!(context.output(), "ready\nterm\n");
}

fn kill_all_ends_every_process_of_a_shared_pid_namespace() {
    let mut context = Context::sh("sleep 1000 & echo ready; wait");
    context.without_namespace("pid");
    context.set(
        "/mounts/0",
        json!({ "destination": "/proc", "type": "bind", "source": "/proc", "options": ["rbind"] }),
    );
    context.launch();
    eventually("both run", 20, || context.output().contains("ready").then_some(()));
    context.call(&["kill", "--all", &context.id, "KILL"]).ok();
    context.wait_stopped();
    context.delete().ok();
    eventually("all have ended", 5, || {
        let left = crate::harness::leaks::of(&context.id, &context.dir, &context.state_root);
        left.is_empty().then_some(())
    });
}

fn a_child_of_the_first_process_ends_with_it() {
    let mut context = Context::sh("sleep 1000 & echo ready; sleep 1000");
    context.launch();
    eventually("both run", 20, || context.output().contains("ready").then_some(()));
    context.kill("KILL").ok();
    context.wait_stopped();
    context.delete().ok();
    context.assert_nothing_left();
}

fn list_prints_a_table_and_json() {
    let context = Context::idle();
    let table = context.call(&["list"]).ok().stdout;
    let (head, row) = table.split_once('\n').unwrap();
    let columns: Vec<_> = head.split_whitespace().take(4).collect();
    assert!(columns == ["ID", "PID", "STATUS", "BUNDLE"] || columns[0] == "NAME", "{head}");
    let fields: Vec<_> = row.split_whitespace().collect();
    assert_eq!(fields[0], context.id);
    assert_eq!(fields[1], context.pid().to_string());
    assert_eq!(fields[2], "running");

    let list: Value = serde_json::from_str(&context.call(&["list", "--format", "json"]).ok().stdout).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["id"], json!(context.id));
    assert_eq!(list[0]["status"], "running");
    assert_eq!(list[0]["pid"].as_u64().unwrap(), u64::from(context.pid()));
}

fn list_quiet_prints_ids_only() {
    let context = Context::idle();
    assert_eq!(context.call(&["list", "-q"]).ok().line(), context.id);
}

fn list_is_empty_without_contexts() {
    let context = Context::new();
    assert_eq!(context.call(&["list", "-q"]).ok().line(), "");
    let list: Value = serde_json::from_str(&context.call(&["list", "--format", "json"]).ok().stdout).unwrap();
    assert!(list.is_null() || list == json!([]), "{list}");
}

fn ps_prints_a_table_and_json() {
    let context = Context::idle();
    let table = context.call(&["ps", &context.id]).ok().stdout;
    if crate::harness::peer() != "crun" {
        assert!(table.starts_with("UID"), "{table}");
        assert!(table.contains("sleep 1000"), "{table}");
    }
    assert!(table.contains(&context.pid().to_string()), "{table}");
    let pids: Value =
        serde_json::from_str(&context.call(&["ps", "--format", "json", &context.id]).ok().stdout).unwrap();
    assert_eq!(pids, json!([context.pid()]));
}

fn options_may_follow_the_id() {
    let context = Context::new();
    context.write_config();
    command::run(context.command().args(["create", &context.id, "-bundle"]).arg(&context.dir)).ok();
    context.call(&["delete", &context.id, "-force"]).ok();
}

fn two_contexts_do_not_see_each_other() {
    let one = Context::idle();
    let two = Context::idle();
    assert_eq!(one.exec_sh("ps | grep -c '[s]leep 1000'").ok().line(), "1");
    assert_ne!(one.pid(), two.pid());
    one.call(&["delete", "--force", &one.id]).ok();
    assert_eq!(two.status(), "running");
}

fn annotations_are_in_the_state() {
    let mut context = Context::new();
    context.set("/annotations", json!({ "org.example.key": "value" }));
    context.create().ok();
    assert_eq!(context.state()["annotations"]["org.example.key"], "value");
}

fn the_log_option_writes_errors_as_json_lines() {
    let context = Context::new();
    let log = context.dir.join("log.json");
    let mut command = context.command();
    command.arg("--log").arg(&log).args(["--log-format", "json", "state", "nobody"]);
    let _: Output = command::run(&mut command).refused();
    let text = fs::read_to_string(log).unwrap();
    let entry: Value = serde_json::from_str(text.lines().last().expect("a line in the log")).unwrap();
    assert_eq!(entry["level"], "error");
    assert!(!entry["msg"].as_str().unwrap().is_empty());
}

fn version_is_printed_as_engines_parse_it() {
    let context = Context::new();
    let text = context.call(&["--version"]).ok().stdout;
    assert!(text.lines().next().unwrap().contains("version"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("spec: 1.")), "{text}");
}

fn wait_running(context: &Context) {
    eventually("the context runs", 20, || {
        let output = context.call(&["state", &context.id]);
        (output.code == 0 && output.stdout.contains("\"running\"")).then_some(())
    });
}
