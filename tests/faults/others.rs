//! What no single call can show: races of commands, guests and hooks that are killed or hang, a state folder that is full or
//! read-only, a guest that forks without end.

use super::verbs::{Bench, CREATE, rich_and_idle};
use crate::harness::command::{exit_code, wait_for_exit};
use crate::harness::{Case, Context, Need, case, cgroup, command, json, leaks, rounds};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    vec![
        case!(of_fifty_creates_of_one_id_exactly_one_wins),
        case!(create_and_delete_may_race),
        case!(two_deletes_may_race),
        case!(exec_and_delete_may_race),
        case!(a_fork_bomb_stays_within_its_limits_and_is_deleted),
        case!(a_killed_guest_leaves_nothing_at_any_stage),
        case!(a_killed_or_hanging_hook_leaves_nothing_at_any_point),
        case!(a_full_state_folder_refuses_a_create_that_leaves_nothing),
        case!(a_read_only_state_folder_refuses_a_create_that_leaves_nothing),
        case!(a_context_outlives_the_process_that_has_called_for_it),
        case!(a_caller_with_another_clock_finds_the_context_running)
            .needs(Need::Path("/proc/self/timens_offsets")),
    ]
}

/// Starts a command whose words nobody reads.
fn begin(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Its exit code, which has to come in time.
#[track_caller]
fn end(mut child: Child) -> i32 {
    assert!(wait_for_exit(child.id(), Duration::from_secs(30)), "a command hangs");
    exit_code(&mut child)
}

fn with(context: &Context, words: &[&str]) -> Command {
    let mut command = context.command();
    command.args(words);
    command
}

fn of_fifty_creates_of_one_id_exactly_one_wins() {
    let bench = Bench::new(rich_and_idle());
    let all: Vec<Child> = (0..50).map(|_| begin(bench.context.bundle_command("create", &[]))).collect();
    let codes: Vec<i32> = all.into_iter().map(end).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    bench.context.start().ok();
    assert_eq!(bench.context.status(), "running");
    bench.recover(false).unwrap();
}

fn create_and_delete_may_race() {
    let bench = Bench::new(rich_and_idle());
    let mut created = 0;
    for round in 0..rounds(100) {
        let create = begin((CREATE.command)(&bench.context));
        std::thread::sleep(Duration::from_micros(u64::from(round % 50) * 500));
        let delete = begin(with(&bench.context, &["delete", "--force", &bench.context.id]));
        assert_eq!(end(delete), 0, "round {round}: delete --force");
        created += u32::from(end(create) == 0);
        bench.recover(false).unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
    }
    assert!(created > 0, "no create won in any round");
}

fn two_deletes_may_race() {
    let bench = Bench::new(rich_and_idle());
    for round in 0..rounds(30) {
        end(begin((CREATE.command)(&bench.context)));
        bench.context.start().ok();
        let delete = || begin(with(&bench.context, &["delete", "--force", &bench.context.id]));
        let codes = [delete(), delete()].map(end);
        assert_eq!(codes, [0, 0], "round {round}");
        bench.recover(false).unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
    }
}

fn exec_and_delete_may_race() {
    let bench = Bench::new(rich_and_idle());
    for round in 0..rounds(30) {
        end(begin((CREATE.command)(&bench.context)));
        bench.context.start().ok();
        let id = &bench.context.id;
        let all =
            (0..4).map(|_| begin(with(&bench.context, &["exec", id, "sleep", "1000"]))).collect::<Vec<_>>();
        std::thread::sleep(Duration::from_micros(u64::from(round) * 500));
        let deleted = end(begin(with(&bench.context, &["delete", "--force", id])));
        all.into_iter().map(end).for_each(|code| assert_ne!(code, 0, "a process has outlived its context"));
        assert_eq!(deleted, 0, "round {round}: delete --force");
        bench.recover(false).unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
    }
}

fn a_fork_bomb_stays_within_its_limits_and_is_deleted() {
    let mut context = Context::sh("bomb() { sleep 1000 & bomb | bomb & }; bomb; sleep 1000");
    context.set("/linux/resources/pids", json!({ "limit": 64 }));
    context.set("/linux/resources/memory", json!({ "limit": 64 << 20 }));
    context.launch();
    // It takes its time to begin on a busy machine; once it has, it is watched for a second.
    let (begun, mut until, mut most) = (Instant::now(), None, 0);
    while until.is_none_or(|until| Instant::now() < until) && begun.elapsed() < Duration::from_secs(30) {
        most = most.max(cgroup::members(&context, "pids").len());
        until = until.or_else(|| (most >= 16).then(|| Instant::now() + Duration::from_secs(1)));
    }
    assert!((16..=64).contains(&most), "{most} processes were seen");
    let before = Instant::now();
    context.call(&["delete", "--force", &context.id]).ok();
    assert!(before.elapsed() < Duration::from_secs(10), "delete took {:?}", before.elapsed());
    context.assert_nothing_left();
}

fn a_killed_guest_leaves_nothing_at_any_stage() {
    let bench = Bench::new(rich_and_idle());
    let context = &bench.context;
    for stage in ["created", "running", "paused", "executing"] {
        end(begin((CREATE.command)(context)));
        let first = context.pid() as i32;
        if stage != "created" {
            context.start().ok();
        }
        if stage == "paused" {
            context.call(&["pause", &context.id]).ok();
        }
        let exec = (stage == "executing").then(|| {
            let exec = begin(with(context, &["exec", &context.id, "sleep", "1000"]));
            crate::harness::eventually("the second process", 10, || {
                let name = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                let runs = |pid: &u32| *pid != first as u32 && name(pid) == "sleep\n";
                cgroup::members(context, "pids").iter().any(runs).then_some(())
            });
            exec
        });
        kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
        if let Some(exec) = exec {
            assert_eq!(end(exec), 137, "exec ends with its context");
        }
        if stage == "created" {
            context.wait_stopped();
            context.start().refused_with(&["stopped"]);
        }
        bench.recover(false).unwrap_or_else(|wrong| panic!("{stage}: {wrong}"));
    }
}

fn a_killed_or_hanging_hook_leaves_nothing_at_any_point() {
    for point in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        for script in ["kill -9 $$", "sleep 1000"] {
            let mut context = Context::new();
            let is_last = point == "poststop";
            context.args(if is_last { &["true"] } else { &["sleep", "1000"] });
            let args = json!(["sh", "-c", script]);
            context.set(
                &format!("/hooks/{point}"),
                json!([{ "path": "/bin/sh", "args": args, "env": ["PATH=/usr/bin:/bin"], "timeout": 1 }]),
            );
            let begun = Instant::now();
            let output = context.run();
            // The guest has ended by then: there is nothing to refuse, and the rest is removed all the same.
            if is_last {
                assert!(output.ok().stderr.contains("poststop hook"), "nothing is said of it");
            } else {
                output.refused_with(&["hook"]);
            }
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(10), "{point} hook `{script}` took {took:?}");
            let left = leaks::settle(&context.id, &context.dir, &context.state_root);
            assert!(left.is_empty(), "{point} hook `{script}`: {left:#?}");
        }
    }
}

/// Runs create, and delete, with the state root on a file system of its own; gives their exit codes and words.
fn on_a_state_file_system(context: &Context, mount: &str, fill: &str) -> (i32, String) {
    context.write_config();
    fs::create_dir_all(&context.state_root).unwrap();
    let script = format!(
        "mount {mount} \"$STATE\" && {fill}
        $VCTX --root \"$STATE\" create --bundle \"$BUNDLE\" \"$ID\" >/dev/null; code=$?
        $VCTX --root \"$STATE\" delete --force \"$ID\" || exit 100
        test ! -e \"$STATE/$ID\" || exit 101
        exit $code"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    command.env("STATE", &context.state_root).env("BUNDLE", &context.dir).env("ID", &context.id);
    let output = command::run(command.env("VCTX", crate::harness::runtime()));
    (output.code, output.stderr)
}

fn a_full_state_folder_refuses_a_create_that_leaves_nothing() {
    let bench = Bench::new(rich_and_idle());
    let (mut made, mut refused) = (0, 0);
    for pages in 0..=8 {
        let fill = format!("head -c $((65536 - 4096 * {pages})) /dev/zero >\"$STATE/filler\" 2>/dev/null;");
        let (code, words) = on_a_state_file_system(&bench.context, "-t tmpfs -o size=64k tmpfs", &fill);
        match code {
            0 => made += 1,
            1 => {
                assert!(words.contains("No space left"), "{pages} pages: {words}");
                assert_eq!(words.trim().lines().count(), 1, "{pages} pages: {words}");
                refused += 1;
            }
            _ => panic!("{pages} pages: exit code {code}: {words}"),
        }
        bench.recover(false).unwrap_or_else(|wrong| panic!("{pages} pages: {wrong}"));
    }
    assert!(made > 0 && refused > 0, "{made} made, {refused} refused");
}

fn a_read_only_state_folder_refuses_a_create_that_leaves_nothing() {
    let bench = Bench::new(rich_and_idle());
    let (code, words) = on_a_state_file_system(&bench.context, "-t tmpfs -o ro tmpfs", "");
    assert_eq!(code, 1, "{words}");
    assert!(words.contains("Read-only"), "{words}");
    assert_eq!(words.trim().lines().count(), 1, "{words}");
    bench.recover(false).unwrap();
}

/// As with conmon: whoever called is gone, killed in the middle of the call.
fn a_context_outlives_the_process_that_has_called_for_it() {
    let bench = Bench::new(rich_and_idle());
    let context = &bench.context;
    for round in 0..rounds(20) {
        let create = context.bundle_command("create", &[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", "\"$@\" & wait", "sh"]).arg(create.get_program()).args(create.get_args());
        let mut parent = begin(shell);
        let children = format!("/proc/{0}/task/{0}/children", parent.id());
        crate::harness::eventually("the call of create", 10, || {
            fs::read_to_string(&children).is_ok_and(|list| !list.is_empty()).then_some(())
        });
        std::thread::sleep(Duration::from_micros(u64::from(round) * 700));
        parent.kill().unwrap();
        parent.wait().unwrap();
        crate::harness::eventually("the context", 10, || {
            let state = context.call(&["state", &context.id]);
            (state.code == 0 && context.status() == "created").then_some(())
        });
        context.start().ok();
        bench.recover(false).unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
    }
}

/// Start times tell processes apart, and a time namespace shifts them.
fn a_caller_with_another_clock_finds_the_context_running() {
    let context = Context::idle();
    for clock in ["100000", "-1"] {
        let mut call = Command::new("unshare");
        call.args(["--time", "--boottime", clock, "--fork"]).arg(crate::harness::runtime());
        let output =
            command::run(call.arg("--root").arg(&context.state_root).args(["state", &context.id])).ok();
        let state: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(state["status"], "running", "shifted by {clock} s");
    }
    let mut elsewhere = Context::new();
    elsewhere.args(&["sleep", "1000"]);
    let create = elsewhere.bundle_command("create", &[]);
    let mut call = Command::new("unshare");
    call.args(["--time", "--boottime", "5000", "--fork"]).arg(create.get_program()).args(create.get_args());
    assert_eq!(end(begin(call)), 0);
    elsewhere.start().ok();
    assert_eq!(elsewhere.status(), "running");
}
