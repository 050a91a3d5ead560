//! Wrong ids, wrong states, broken bundles: one clear line, a non-zero exit code, and nothing left.

use crate::harness::{Case, Context, Need, Output, case, command, json};
use serde_json::Value;
use std::fs;

pub fn cases() -> Vec<Case> {
    vec![
        case!(an_id_that_is_no_name_is_refused).differs("crun", "1.8 takes a slash in an id"),
        case!(a_bundle_without_a_configuration_is_refused),
        case!(an_absent_bundle_is_refused),
        case!(a_malformed_configuration_is_refused_and_leaves_nothing)
            .differs("runc", "starts without some fields, and takes a negative value for an empty one")
            .differs("crun", "starts without some fields that it does not need"),
        case!(a_configuration_of_a_later_version_is_refused).needs(Need::Vctx),
        case!(an_absent_root_filesystem_is_refused),
        case!(the_same_id_is_refused_twice),
        case!(start_twice_is_refused),
        case!(start_of_a_stopped_context_is_refused),
        case!(delete_of_a_running_context_is_refused_without_force),
        case!(exec_on_a_stopped_context_is_refused),
        case!(exec_on_a_created_context_is_refused)
            .differs("runc", "allows exec before start")
            .differs("crun", "allows exec before start"),
        case!(kill_of_a_stopped_context_is_refused),
        case!(kill_with_an_unknown_signal_is_refused).differs("crun", "1.8 takes any number"),
        case!(every_command_refuses_an_unknown_id),
        case!(unknown_flags_and_commands_are_refused),
        case!(a_refusal_is_one_line).needs(Need::Vctx),
        case!(a_namespace_path_that_is_no_namespace_is_refused),
        case!(an_unknown_namespace_mount_option_or_capability_is_handled_before_the_start).needs(Need::Vctx),
        case!(a_terminal_without_a_console_socket_is_refused_by_create),
        case!(a_console_socket_without_a_terminal_is_refused).differs("crun", "ignores the socket"),
        case!(a_mount_that_fails_undoes_the_create),
    ]
}

fn an_id_that_is_no_name_is_refused() {
    let context = Context::new();
    context.write_config();
    let long = "a".repeat(1024);
    for id in ["..", ".", "a/b", "/abs", "", "a b", "a\nb", "../x", long.as_str()] {
        for verb in ["create", "run"] {
            let mut command = context.command();
            command.args([verb, "--bundle"]).arg(&context.dir).arg(id);
            let output = command::run(&mut command);
            assert!(output.code != 0 && !output.stderr.is_empty(), "{verb} took the id {id:?}");
        }
        context.call(&["state", id]).refused();
    }
    assert_state_root_is_empty(&context);
    context.assert_nothing_left();
}

fn a_bundle_without_a_configuration_is_refused() {
    let context = Context::new();
    command::run(context.command().args(["create", "--bundle"]).arg(&context.dir).arg(&context.id))
        .refused_with(&["config.json"]);
    context.assert_nothing_left();
}

fn an_absent_bundle_is_refused() {
    let context = Context::new();
    let absent = context.dir.join("absent");
    command::run(context.command().args(["run", "--bundle"]).arg(absent).arg(&context.id)).refused_with(&[
        "no such file",
        "not found",
        "does not exist",
    ]);
    context.assert_nothing_left();
}

fn a_malformed_configuration_is_refused_and_leaves_nothing() {
    let whole = Context::new().spec.to_string();
    for text in ["", "{", "[]", "null", "{}", "\0\0\0", &whole[..whole.len() / 2]] {
        broken(|context| {
            fs::write(context.dir.join("config.json"), text).unwrap();
        });
    }
    let table: [(&str, Value); 12] = [
        ("/process/args", json!("not a list")),
        ("/process/args", json!([])),
        ("/process/args/0", json!(7)),
        ("/process/cwd", json!("relative")),
        ("/process/cwd", json!("")),
        ("/process/user/uid", json!("root")),
        ("/process/user/uid", json!(-1)),
        ("/root", Value::Null),
        ("/linux/namespaces", json!([{ "type": "galaxy" }])),
        ("/linux/namespaces", json!([{ "type": "pid" }, { "type": "pid" }, { "type": "mount" }])),
        ("/mounts/0/destination", json!(5)),
        ("/process/rlimits", json!([{ "type": "RLIMIT_NONSENSE", "soft": 1, "hard": 1 }])),
    ];
    for (pointer, value) in table {
        broken(|context| {
            context.set(pointer, value.clone());
            context.write_config();
        });
    }
}

/// Creates from a bundle that `spoil` has made unusable: it must be refused and leave nothing.
#[track_caller]
fn broken(spoil: impl FnOnce(&mut Context)) {
    let mut context = Context::new();
    spoil(&mut context);
    let text = fs::read_to_string(context.dir.join("config.json")).unwrap();
    let output =
        command::run(context.command().args(["create", "--bundle"]).arg(&context.dir).arg(&context.id));
    assert!(output.code != 0, "accepted: {text}");
    assert!(!output.stderr.is_empty(), "refused without a word: {text}");
    context.assert_nothing_left();
}

fn a_configuration_of_a_later_version_is_refused() {
    let mut context = Context::new();
    context.set("/ociVersion", json!("2.0.0"));
    context.create().refused_with(&["2.0.0"]);
    context.assert_nothing_left();
}

fn an_absent_root_filesystem_is_refused() {
    let mut context = Context::new();
    context.set("/root/path", json!("absent"));
    context.create().refused_with(&["absent"]);
    context.assert_nothing_left();
}

fn the_same_id_is_refused_twice() {
    let mut context = Context::idle();
    let pid = context.pid();
    context.create().refused_with(&["exist", "in use"]);
    assert_eq!((context.status().as_str(), context.pid()), ("running", pid));
}

fn start_twice_is_refused() {
    let context = Context::idle();
    context.start().refused();
    assert_eq!(context.status(), "running");
}

fn start_of_a_stopped_context_is_refused() {
    stopped().start().refused();
}

fn delete_of_a_running_context_is_refused_without_force() {
    let context = Context::idle();
    context.delete().refused();
    assert_eq!(context.status(), "running");
    context.exec(&[], &["true"]).ok();
}

fn exec_on_a_stopped_context_is_refused() {
    stopped().exec(&[], &["true"]).refused();
}

fn exec_on_a_created_context_is_refused() {
    let mut context = Context::new();
    context.create().ok();
    context.exec(&[], &["true"]).refused();
}

fn kill_of_a_stopped_context_is_refused() {
    stopped().kill("TERM").refused_with(&["not running", "stopped", "no such process", "kill"]);
}

fn kill_with_an_unknown_signal_is_refused() {
    let context = Context::idle();
    for signal in ["NONSENSE", "-1", "4096"] {
        context.kill(signal).refused();
    }
    assert_eq!(context.status(), "running");
}

fn every_command_refuses_an_unknown_id() {
    let context = Context::new();
    let commands: [&[&str]; 9] = [
        &["state", "nobody"],
        &["start", "nobody"],
        &["kill", "nobody", "9"],
        &["delete", "nobody"],
        &["exec", "nobody", "true"],
        &["pause", "nobody"],
        &["resume", "nobody"],
        &["ps", "nobody"],
        &["update", "--pids-limit", "7", "nobody"],
    ];
    for arguments in commands {
        let output = context.call(arguments);
        assert!(output.code != 0 && !output.stderr.is_empty(), "{arguments:?} accepted an unknown id");
    }
    assert_state_root_is_empty(&context);
}

fn unknown_flags_and_commands_are_refused() {
    let context = Context::new();
    for arguments in [&["create", "--nonsense", "x"][..], &["state"], &["state", "one", "two"]] {
        let output: Output = context.call(arguments);
        assert!(output.code != 0, "{arguments:?} was accepted");
    }
}

fn a_refusal_is_one_line() {
    let context = Context::new();
    for arguments in [&["state", "nobody"][..], &["delete", "nobody"], &["start", "nobody"], &["state", ".."]]
    {
        let output = context.call(arguments).refused();
        assert_eq!(output.stderr.trim_end().lines().count(), 1, "{}", output.stderr);
        assert!(output.stderr.contains(arguments[1]), "no name in: {}", output.stderr);
    }
}

fn a_namespace_path_that_is_no_namespace_is_refused() {
    for path in ["/absent", "/proc/self/status", "/proc/self/ns/uts"] {
        let mut context = Context::new();
        context.join_namespace("ipc", path);
        context.create().refused();
        context.assert_nothing_left();
    }
}

fn an_unknown_namespace_mount_option_or_capability_is_handled_before_the_start() {
    let mut context = Context::sh("grep CapEff /proc/self/status");
    context.set(
        "/process/capabilities",
        json!({ "bounding": ["CAP_OF_TOMORROW", "CAP_KILL"],
        "effective": ["CAP_OF_TOMORROW", "CAP_KILL"], "permitted": ["CAP_OF_TOMORROW", "CAP_KILL"] }),
    );
    // The specification asks for a warning and a start without it.
    assert!(context.prints().ends_with("0000000000000020"));
    let mut context = Context::new();
    context.push("/linux/namespaces", json!({ "type": "galaxy" }));
    context.create().refused_with(&["galaxy"]);
    context.assert_nothing_left();
}

fn a_terminal_without_a_console_socket_is_refused_by_create() {
    let mut context = Context::new();
    context.set("/process/terminal", json!(true));
    context.create().refused_with(&["console", "terminal", "tty"]);
    context.assert_nothing_left();
}

fn a_console_socket_without_a_terminal_is_refused() {
    let context = Context::new();
    let mut command = context.bundle_command("create", &["--console-socket", "/tmp/none.sock"]);
    command::run(&mut command).refused();
    context.assert_nothing_left();
}

fn a_mount_that_fails_undoes_the_create() {
    let mut context = Context::new();
    context.bind("/mnt", "/absent/source", &["bind"]);
    context.create().refused_with(&["/absent/source"]);
    context.assert_nothing_left();
    assert!(context.call(&["list", "-q"]).ok().line().is_empty());
}

fn stopped() -> Context {
    let mut context = Context::new();
    context.launch();
    context.wait_stopped();
    context
}

#[track_caller]
fn assert_state_root_is_empty(context: &Context) {
    let entries: Vec<_> = fs::read_dir(&context.state_root).into_iter().flatten().flatten().collect();
    assert!(entries.is_empty(), "{entries:?}");
}
