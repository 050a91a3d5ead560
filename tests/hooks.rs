//! Hooks: six points in their order, the state on their standard input, and what a failing one undoes.

use crate::harness::{Case, Context, Need, case, command, json};
use serde_json::Value;
use std::fs;

pub fn cases() -> Vec<Case> {
    vec![
        case!(the_six_points_are_reached_in_order)
            .differs("crun", "does not wait for startContainer before poststart")
            .differs("runc", "1.1 runs poststart at the end of create"),
        case!(a_hook_reads_the_state_on_its_standard_input)
            .differs("runc", "1.1 runs poststart at the end of create"),
        case!(a_hook_has_the_configured_environment_only)
            .differs("crun", "1.8 hands on its own for an absent env")
            .differs("runc", "1.1 hands on its own for an absent env"),
        case!(a_start_container_hook_without_variables_has_those_of_the_process)
            .differs("crun", "1.8 hands on its own for an absent env")
            .differs("runc", "1.1 takes an empty env for an absent one"),
        case!(a_start_container_hook_is_held_as_the_process_is),
        case!(a_hook_has_its_arguments),
        case!(a_hook_need_not_read_its_input).differs("crun", "1.8 dies of SIGPIPE now and then"),
        case!(a_failing_hook_before_the_start_undoes_the_create),
        case!(a_failing_start_container_hook_stops_the_start),
        case!(a_failing_hook_after_the_start_stops_the_context)
            .differs("runc", "1.1 runs poststart at the end of create")
            .differs("crun", "1.8 follows version 1.2 of the specification, which wanted a warning"),
        case!(a_failing_poststop_hook_is_a_warning_and_the_others_run).needs(Need::Vctx),
        case!(poststop_runs_when_an_earlier_hook_has_failed)
            .differs("runc", "1.1 does so for run only")
            .differs("crun", "1.8 does not"),
        case!(a_hook_that_takes_too_long_is_killed),
        case!(what_a_hook_has_started_is_killed_with_it).needs(Need::Vctx),
        case!(a_hook_may_write_much_and_leave_a_process_behind)
            .differs("runc", "1.1 waits for the end of what is left behind"),
        case!(poststop_runs_after_a_crash),
        case!(poststop_runs_on_delete),
        case!(the_output_of_a_failed_hook_is_in_the_message).needs(Need::Vctx),
        case!(create_container_hooks_see_the_contexts_mounts),
    ]
}

const POINTS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn hook(script: &str) -> Value {
    let script = format!("cat > /dev/null; {script}");
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] })
}

fn the_six_points_are_reached_in_order() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    let log = context.file("log", "");
    context.bind("/log", &log, &["bind"]);
    for point in POINTS {
        let file = if point == "startContainer" { "/log" } else { log.to_str().unwrap() };
        context.set(&format!("/hooks/{point}"), json!([hook(&format!("echo {point} >> {file}"))]));
    }
    let seen = || fs::read_to_string(&log).unwrap().split_whitespace().map(String::from).collect::<Vec<_>>();
    context.create().ok();
    assert_eq!(seen(), POINTS[..3]);
    context.start().ok();
    assert_eq!(seen(), POINTS[..5]);
    context.kill("KILL").ok();
    context.wait_stopped();
    context.delete().ok();
    assert_eq!(seen(), POINTS);
}

fn a_hook_reads_the_state_on_its_standard_input() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    let folder = context.dir.clone();
    // runc says creating for the first two, crun created; the specification leaves both open.
    let points = [
        ("prestart", "creat"),
        ("createRuntime", "creat"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ];
    for (point, _) in points {
        context.set(&format!("/hooks/{point}"), json!([hook("")]));
        let script = format!("cat > {}/{point}", folder.display());
        context.set(&format!("/hooks/{point}/0/args/2"), json!(script));
    }
    context.launch();
    let pid = context.pid();
    context.kill("KILL").ok();
    context.wait_stopped();
    context.delete().ok();
    for (point, status) in points {
        let state: Value = serde_json::from_str(&fs::read_to_string(folder.join(point)).unwrap()).unwrap();
        assert_eq!(state["id"], json!(context.id), "{point}");
        assert_eq!(state["bundle"], json!(folder), "{point}");
        assert!(state["status"].as_str().unwrap().starts_with(status), "{point}: {state}");
        if point != "poststop" {
            assert_eq!(state["pid"], pid, "{point}");
        }
    }
}

fn a_hook_has_the_configured_environment_only() {
    let mut context = Context::new();
    let file = context.dir.join("environment");
    let script = format!("/usr/bin/env > {}", file.display());
    let mut entry = hook(&script);
    entry["env"] = json!(["ONLY=this"]);
    context.set("/hooks/createRuntime", json!([entry]));
    command::run(context.bundle_command("run", &[]).env("OF_THE_CALLER", "secret")).ok();
    let seen = fs::read_to_string(&file).unwrap();
    assert!(
        seen.contains("ONLY=this\n") && !seen.contains("OF_THE_CALLER") && !seen.contains("VCTX_TEST_ID"),
        "{seen}"
    );
    // Without an environment there is none: neither the caller's nor the context's.
    context.spec["hooks"]["createRuntime"][0].as_object_mut().unwrap().remove("env");
    command::run(context.bundle_command("run", &[]).env("OF_THE_CALLER", "secret")).ok();
    let seen = fs::read_to_string(&file).unwrap();
    assert!(!seen.contains("OF_THE_CALLER") && !seen.contains("VCTX_TEST_ID"), "{seen}");
}

fn a_hook_has_its_arguments() {
    let mut context = Context::new();
    let file = context.dir.join("arguments");
    let script = format!("cat > /dev/null; printf '[%s]' \"$0\" \"$@\" > {}", file.display());
    let args = json!(["sh", "-c", script, "zero", "a b", ""]);
    context.set("/hooks/createRuntime", json!([{ "path": "/bin/sh", "args": args }]));
    context.run().ok();
    assert_eq!(fs::read_to_string(file).unwrap(), "[zero][a b][]");
}

fn a_hook_need_not_read_its_input() {
    let mut context = Context::new();
    let deaf = json!({ "path": "/bin/sh", "args": ["sh", "-c", "exec <&-; exit 0"] });
    for point in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
        context.set(&format!("/hooks/{point}"), json!([deaf, deaf, deaf]));
    }
    for _ in 0..5 {
        context.run().ok();
    }
}

fn a_failing_hook_before_the_start_undoes_the_create() {
    for point in ["prestart", "createRuntime", "createContainer"] {
        let mut context = Context::new();
        context.set(&format!("/hooks/{point}"), json!([hook("exit 3")]));
        context.create().refused_with(&["hook"]);
        context.assert_nothing_left();
        context.call(&["state", &context.id]).refused();
    }
}

fn a_failing_start_container_hook_stops_the_start() {
    let mut context = Context::sh("touch /ran");
    context.set(
        "/hooks/startContainer",
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", "cat >/dev/null; exit 3"] }]),
    );
    context.create().ok();
    let output = context.start();
    context.wait_stopped();
    assert!(!context.root("ran").exists());
    assert!(output.code != 0 || context.output().is_empty());
}

fn a_failing_hook_after_the_start_stops_the_context() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    context.set("/hooks/poststart", json!([hook("exit 3")]));
    context.create().ok();
    context.start().refused_with(&["poststart"]);
    context.wait_stopped();
    command::run(&mut context.bundle_command("run", &[])).refused();
}

fn a_failing_poststop_hook_is_a_warning_and_the_others_run() {
    let mut context = Context::new();
    let (file, log) = (context.dir.join("last"), context.dir.join("log"));
    let last = format!("touch {}", file.display());
    context.set("/hooks/poststop", json!([hook("echo the reason >&2; exit 3"), hook(&last)]));
    context.launch();
    context.wait_stopped();
    context.call(&["--log", log.to_str().unwrap(), "--log-format", "json", "delete", &context.id]).ok();
    assert!(file.exists());
    let record: Value = serde_json::from_str(fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert_eq!(record["level"], "warning");
    assert!(record["msg"].as_str().unwrap().contains("the reason"), "{record}");
    context.assert_nothing_left();
}

fn poststop_runs_when_an_earlier_hook_has_failed() {
    for point in ["createRuntime", "createContainer", "poststart"] {
        let mut context = Context::new();
        let file = context.dir.join("stopped");
        context.set(&format!("/hooks/{point}"), json!([hook("exit 3")]));
        context.set("/hooks/poststop", json!([hook(&format!("echo once >> {}", file.display()))]));
        context.run().refused();
        assert_eq!(fs::read_to_string(&file).unwrap_or_default(), "once\n", "{point}");
        context.assert_nothing_left();
    }
}

fn poststop_runs_after_a_crash() {
    let mut context = Context::new();
    let file = context.dir.join("stopped");
    let mut entry = hook("");
    entry["args"][2] = json!(format!("cat > {}", file.display()));
    context.set("/hooks/poststop", json!([entry]));
    context.args(&["sleep", "1000"]);
    context.launch();
    // Nobody of ours sees the end.
    command::run(std::process::Command::new("kill").args(["-KILL", &context.pid().to_string()])).ok();
    context.wait_stopped();
    context.delete().ok();
    let state: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!((&state["id"], &state["status"]), (&json!(context.id), &json!("stopped")));
}

fn what_a_hook_has_started_is_killed_with_it() {
    let mut context = Context::new();
    let file = context.dir.join("pid");
    let mut entry = hook(&format!("sleep 1000 & echo $! > {}; wait", file.display()));
    entry["timeout"] = json!(1);
    context.set("/hooks/createRuntime", json!([entry]));
    context.create().refused_with(&["1 s"]);
    let pid: u32 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
    assert!(command::wait_for_exit(pid, std::time::Duration::from_secs(10)));
    context.assert_nothing_left();
}

fn a_hook_may_write_much_and_leave_a_process_behind() {
    let mut context = Context::new();
    let file = context.dir.join("pid");
    let script = format!(
        "head -c 300000 /dev/zero | tr '\\0' x >&2; sleep 1000 & echo $! > {}; exit 3",
        file.display()
    );
    context.set("/hooks/createRuntime", json!([hook(&script)]));
    context.create().refused();
    command::run(std::process::Command::new("kill").arg(fs::read_to_string(file).unwrap().trim())).ok();
}

fn a_start_container_hook_without_variables_has_those_of_the_process() {
    for (variables, seen) in [(None, "of the process"), (Some(json!([])), "")] {
        let mut context = Context::new();
        context.args(&["true"]);
        context.push("/process/env", json!("WORD=of the process"));
        let script = "cat > /dev/null; printf %s \"$WORD\" > /word";
        let mut entry = json!({ "path": "/bin/sh", "args": ["sh", "-c", script] });
        if let Some(variables) = variables {
            entry["env"] = variables;
        }
        context.set("/hooks/startContainer", json!([entry]));
        context.run().ok();
        assert_eq!(fs::read_to_string(context.root("word")).unwrap(), seen);
    }
}

/// Its program is the image's: it must not have more than the guest has.
fn a_start_container_hook_is_held_as_the_process_is() {
    let mut context = Context::sh("cat /held");
    let one = json!(["CAP_KILL"]);
    context.set("/process/capabilities", json!({ "bounding": one, "effective": one, "permitted": one }));
    let script = "cat > /dev/null; (grep -E 'Cap(Eff|Bnd)' /proc/self/status; cat /proc/self/cgroup) > /held";
    context.set("/hooks/startContainer", json!([{ "path": "/bin/sh", "args": ["sh", "-c", script] }]));
    let printed = context.prints();
    assert!(
        printed.contains("CapEff:\t0000000000000020") && printed.contains("CapBnd:\t0000000000000020"),
        "{printed}"
    );
    assert!(printed.contains(&context.id) || printed.contains(":/\n"), "{printed}");
}

fn a_hook_that_takes_too_long_is_killed() {
    let mut context = Context::new();
    let mut entry = hook("exec sleep 1000");
    entry["timeout"] = json!(1);
    context.set("/hooks/createRuntime", json!([entry]));
    let begin = std::time::Instant::now();
    context.create().refused();
    assert!(begin.elapsed().as_secs() < 30);
    context.assert_nothing_left();
}

fn poststop_runs_on_delete() {
    let mut context = Context::new();
    let file = context.dir.join("stopped");
    context.set("/hooks/poststop", json!([hook(&format!("echo once >> {}", file.display()))]));
    context.launch();
    context.wait_stopped();
    assert!(!file.exists());
    context.delete().ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), "once\n");
    context.run().ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), "once\nonce\n");
}

fn the_output_of_a_failed_hook_is_in_the_message() {
    let mut context = Context::new();
    context.set("/hooks/createRuntime", json!([hook("echo the reason >&2; exit 3")]));
    context.create().refused_with(&["the reason"]);
}

fn create_container_hooks_see_the_contexts_mounts() {
    let mut context = Context::new();
    let file = context.file("seen", "");
    let source = context.file("source", "bound");
    context.bind("/bound", &source, &["bind"]);
    let bound = context.root("bound");
    let script = format!("cat {} > {}", bound.display(), file.display());
    context.set("/hooks/createContainer", json!([hook(&script)]));
    context.run().ok();
    assert_eq!(fs::read_to_string(file).unwrap(), "bound");
}
