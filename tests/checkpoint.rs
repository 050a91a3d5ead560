//! `checkpoint` and `restore`: what runs goes on where it was, under criu.

use crate::harness::{Case, Context, Need, Output, case, command, eventually, json, leaks, run};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_count_goes_on_where_it_was),
        case!(a_restored_context_is_like_any_other),
        case!(a_context_that_is_left_running_goes_on_and_can_be_restored_under_another_name)
            .needs(Need::Vctx),
        case!(a_pre_dump_comes_before_a_checkpoint_or_is_refused_by_name).needs(Need::Vctx),
        case!(an_established_connection_survives),
        case!(a_refused_dump_leaves_the_context_running_and_names_the_log).needs(Need::Vctx),
        case!(a_restore_in_the_foreground_ends_as_the_guest_does),
        case!(a_paused_context_is_written_too).needs(Need::Vctx),
        case!(a_process_that_nobody_has_waited_for_is_there_again),
        case!(hooks_run_on_restore_and_after_a_checkpoint),
        case!(a_damaged_image_leaves_nothing),
        case!(a_killed_verb_leaves_nothing_that_delete_does_not_remove).needs(Need::Vctx),
        case!(the_criu_of_a_killed_verb_is_ended_when_it_waits_for_ever).needs(Need::Vctx),
        case!(without_criu_the_package_is_named).needs(Need::Vctx),
        case!(what_cannot_be_restored_is_not_checkpointed).needs(Need::Vctx),
    ]
}

/// Counts in memory, and shows how far it is by where a link leads: no file is open while it is dumped, but the standard ones,
/// which lie inside.
pub const COUNT: &str = "exec </dev/null >/dev/null 2>&1; n=0; echo x >>/starts; \
    while :; do n=$((n+1)); ln -sf $n /count.new; mv /count.new /count; usleep 10000; done";

fn counting() -> Context {
    let mut context = Context::sh(COUNT);
    context.launch();
    reached(&context, 3);
    context
}

pub fn count(context: &Context) -> u32 {
    count_at(&context.root("/count"))
}

/// The count that a link says; 0 before there is one.
pub fn count_at(link: &Path) -> u32 {
    fs::read_link(link).ok().and_then(|text| text.to_str()?.parse().ok()).unwrap_or(0)
}

#[track_caller]
pub fn reached(context: &Context, least: u32) {
    eventually("the count", 20, || (count(context) >= least).then_some(()));
}

pub fn images(context: &Context) -> PathBuf {
    context.dir.join("images")
}

/// A checkpoint into the bundle's folder `images`.
#[track_caller]
pub fn checkpoint(context: &Context, options: &[&str]) -> Output {
    let images = images(context);
    context
        .call(&[&["checkpoint", "--image-path", images.to_str().unwrap()], options, &[&context.id]].concat())
}

/// A restore from there, detached.
#[track_caller]
pub fn restore(context: &Context, options: &[&str]) -> Output {
    let images = images(context);
    let own = ["--detach", "--image-path", images.to_str().unwrap()];
    run(&mut context.bundle_command("restore", &[&own, options].concat()))
}

fn a_count_goes_on_where_it_was() {
    let context = counting();
    checkpoint(&context, &[]).ok();
    // The context is gone, and its groups with it.
    context.call(&["state", &context.id]).refused();
    let left = leaks::settle(&context.id, &context.dir, &context.state_root);
    assert!(left.is_empty(), "{left:?}");
    let before = count(&context);
    restore(&context, &[]).ok();
    reached(&context, before + 3);
    assert_eq!(fs::read_to_string(context.root("/starts")).unwrap(), "x\n");
}

fn a_restored_context_is_like_any_other() {
    let context = counting();
    checkpoint(&context, &["--work-path", context.dir.join("work").to_str().unwrap()]).ok();
    let pid_file = context.dir.join("pid");
    restore(&context, &["--pid-file", pid_file.to_str().unwrap()]).ok();
    assert_eq!(context.status(), "running");
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), context.pid().to_string());
    assert_eq!(context.exec_sh("hostname; echo $PPID").ok().line(), "context\n0");
    // Nothing that we or criu have open has come along.
    let open = fs::read_dir(format!("/proc/{}/fd", context.pid())).unwrap().flatten();
    let open: Vec<PathBuf> = open.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    assert_eq!(open, ["/dev/null"; 3].map(PathBuf::from));
    context.call(&["pause", &context.id]).ok();
    assert_eq!(context.status(), "paused");
    context.call(&["resume", &context.id]).ok();
    // And once more, from the restored one.
    checkpoint(&context, &[]).ok();
    let before = count(&context);
    restore(&context, &[]).ok();
    reached(&context, before + 3);
    context.kill("KILL").ok();
    context.wait_stopped();
    context.delete().ok();
    context.assert_nothing_left();
}

fn a_context_that_is_left_running_goes_on_and_can_be_restored_under_another_name() {
    let context = counting();
    checkpoint(&context, &["--leave-running"]).ok();
    assert_eq!(context.status(), "running");
    reached(&context, count(&context) + 3);
    let mut second = Context::sh("true");
    second.spec = context.spec.clone();
    second.set("/linux/cgroupsPath", json!(format!("/{}", second.id)));
    let images = images(&context);
    run(&mut second.bundle_command("restore", &["--detach", "--image-path", images.to_str().unwrap()])).ok();
    reached(&second, 3);
    assert!(!second.root("/starts").exists(), "it was started anew");
    reached(&context, count(&context) + 3);
}

fn a_pre_dump_comes_before_a_checkpoint_or_is_refused_by_name() {
    let context = counting();
    let early = context.dir.join("early");
    let tracks = run(Command::new("criu").args(["check", "--feature", "mem_dirty_track"])).code == 0;
    let dump =
        context.call(&["checkpoint", "--pre-dump", "--image-path", early.to_str().unwrap(), &context.id]);
    if !tracks {
        dump.refused_with(&["config_mem_soft_dirty"]);
        checkpoint(&context, &["--parent-path", "../early"]).refused_with(&["config_mem_soft_dirty"]);
        return reached(&context, count(&context) + 3);
    }
    dump.ok();
    assert_eq!(context.status(), "running");
    reached(&context, count(&context) + 3);
    checkpoint(&context, &["--parent-path", "/absolute"]).refused_with(&["relative"]);
    checkpoint(&context, &["--parent-path", "../absent"]).refused_with(&["--parent-path"]);
    checkpoint(&context, &["--parent-path", "../early"]).ok();
    let before = count(&context);
    restore(&context, &[]).ok();
    reached(&context, before + 3);
}

/// A connection over the loopback of the context, through which each word goes that is written into /in.
const TALK: &str = "exec </dev/null >/dev/null 2>&1; mkfifo /in /hold; exec 3<>/in 4<>/hold; \
    nc -l -p 4000 <&4 >/heard & \
    until nc 127.0.0.1 4000 <&3; do usleep 10000; done; sleep 1000";

fn a_talk() -> Context {
    let mut context = Context::sh(TALK);
    context.launch();
    say(&context, "one", "one\n");
    context
}

/// Sends a word once, and waits until it has arrived behind all before it.
#[track_caller]
fn say(context: &Context, word: &str, all: &str) {
    context.exec_sh(&format!("until test -p /in; do usleep 10000; done; echo {word} >/in")).ok();
    let heard = || fs::read_to_string(context.root("/heard")).unwrap_or_default();
    eventually("the word", 20, || (heard() == all).then_some(()));
}

fn an_established_connection_survives() {
    let context = a_talk();
    checkpoint(&context, &["--tcp-established"]).ok();
    restore(&context, &["--tcp-established"]).ok();
    say(&context, "two", "one\ntwo\n");
}

fn a_refused_dump_leaves_the_context_running_and_names_the_log() {
    let context = a_talk();
    let output = checkpoint(&context, &[]).refused_with(&["tcp"]);
    let log = images(&context).join("dump.log");
    assert!(output.stderr.contains(log.to_str().unwrap()), "{}", output.stderr);
    assert_eq!(output.stderr.trim().lines().count(), 1, "{}", output.stderr);
    assert!(log.exists());
    assert_eq!(context.status(), "running");
    say(&context, "two", "one\ntwo\n");
}

fn a_restore_in_the_foreground_ends_as_the_guest_does() {
    let mut context =
        Context::sh("exec </dev/null >/dev/null 2>&1; until test -e /end; do usleep 10000; done; exit 7");
    context.launch();
    checkpoint(&context, &[]).ok();
    fs::write(context.root("/end"), "").unwrap();
    let images = images(&context);
    run(&mut context.bundle_command("restore", &["--image-path", images.to_str().unwrap()])).exits(7);
    context.call(&["state", &context.id]).refused();
}

fn a_paused_context_is_written_too() {
    let context = counting();
    context.call(&["pause", &context.id]).ok();
    checkpoint(&context, &["--leave-running"]).ok();
    assert_eq!(context.status(), "paused");
    context.call(&["resume", &context.id]).ok();
    let before = count(&context);
    reached(&context, before + 3);
    context.call(&["delete", "--force", &context.id]).ok();
    restore(&context, &[]).ok();
    assert_eq!(context.status(), "running");
}

fn a_process_that_nobody_has_waited_for_is_there_again() {
    let mut context = Context::sh("exec </dev/null >/dev/null 2>&1; true & exec sleep 1000");
    context.launch();
    let dead = |context: &Context| {
        let path = format!("/proc/{0}/task/{0}/children", context.pid());
        let children = fs::read_to_string(path).unwrap_or_default();
        children.split_whitespace().any(|child| {
            fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|line| line.contains(") Z "))
        })
    };
    eventually("the child has ended", 10, || dead(&context).then_some(()));
    checkpoint(&context, &[]).ok();
    restore(&context, &[]).ok();
    assert!(dead(&context), "nobody is there to wait for");
}

fn hooks_run_on_restore_and_after_a_checkpoint() {
    let mut context = Context::sh(COUNT);
    let words = context.dir.join("words");
    let hook = |word: &str| json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("grep -o 'vt-[0-9]*-[0-9]*' | head -n 1 | sed 's/^.*$/{word}/' >>{}", words.display())] }]);
    for name in ["prestart", "createRuntime", "poststop"] {
        context.set(&format!("/hooks/{name}"), hook(name));
    }
    context.launch();
    reached(&context, 3);
    checkpoint(&context, &[]).ok();
    restore(&context, &[]).ok();
    let ran = fs::read_to_string(&words).unwrap();
    assert_eq!(ran, "prestart\ncreateRuntime\npoststop\nprestart\ncreateRuntime\n");
    // One that fails leaves nothing.
    checkpoint(&context, &[]).ok();
    context.set("/hooks/createRuntime", json!([{ "path": "/bin/false" }]));
    restore(&context, &[]).refused();
    context.assert_nothing_left();
}

fn a_damaged_image_leaves_nothing() {
    let context = counting();
    checkpoint(&context, &[]).ok();
    let core = images(&context).join("core-1.img");
    let whole = fs::read(&core).unwrap();
    for damaged in [&whole[..whole.len() / 2], b"", b"nonsense"] {
        fs::write(&core, damaged).unwrap();
        let output = restore(&context, &[]).refused();
        assert_eq!(output.stderr.trim().lines().count(), 1, "{}", output.stderr);
        context.call(&["state", &context.id]).refused();
        let left = leaks::settle(&context.id, &context.dir, &context.state_root);
        assert!(left.is_empty(), "{left:?}");
    }
    fs::write(&core, whole).unwrap();
    restore(&context, &[]).ok();
}

/// Kills the verb after ever longer times. Whatever was reached, the next commands tell the truth and clear it away.
fn a_killed_verb_leaves_nothing_that_delete_does_not_remove() {
    let context = counting();
    checkpoint(&context, &["--leave-running"]).ok();
    let kill = |command: &mut Command, after: u64| {
        let mut child = command.spawn().unwrap();
        let ended = command::wait_for_exit(child.id(), Duration::from_millis(after));
        if !ended {
            child.kill().unwrap();
        }
        child.wait().unwrap();
    };
    for after in (0..400).step_by(25) {
        let again = context.dir.join(format!("again-{after}"));
        kill(
            context
                .command()
                .args(["checkpoint", "--leave-running", "--image-path"])
                .arg(&again)
                .arg(&context.id),
            after,
        );
        // Waits for the criu that was left alone, and finds the context as it was.
        eventually("the context goes on", 20, || {
            let before = count(&context);
            (context.status() == "running").then(|| reached(&context, before + 2))
        });
    }
    context.call(&["delete", "--force", &context.id]).ok();
    for after in (0..500).step_by(25) {
        let images = images(&context);
        kill(
            &mut context.bundle_command("restore", &["--detach", "--image-path", images.to_str().unwrap()]),
            after,
        );
        context.call(&["delete", "--force", &context.id]).ok();
        let left = leaks::settle(&context.id, &context.dir, &context.state_root);
        assert!(left.is_empty(), "killed after {after} ms: {left:?}");
    }
}

/// Pages that are asked for later are asked for by nobody.
fn the_criu_of_a_killed_verb_is_ended_when_it_waits_for_ever() {
    let listens = |port: u16| {
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        table.lines().any(|line| line.contains(&format!(":{port:04X} 00000000:0000 0A")))
    };
    let context = counting();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = format!("127.0.0.1:{port}");
    let mut verb = context.command();
    verb.args(["checkpoint", "--lazy-pages", "--page-server", &server, "--image-path"]);
    let mut verb = verb.arg(images(&context)).arg(&context.id).spawn().unwrap();
    eventually("criu waits for who asks for pages", 20, || listens(port).then_some(()));
    let named = context.state_root.join(&context.id).join("criu");
    let criu = fs::read_to_string(&named).unwrap();
    let criu = criu.split(' ').next().unwrap();
    // A verb that lives is waited for, and its criu let be.
    let mut delete = context.command().args(["delete", "--force", &context.id]).spawn().unwrap();
    assert!(!command::wait_for_exit(delete.id(), Duration::from_millis(500)));
    assert!(Path::new("/proc").join(criu).exists() && listens(port));
    verb.kill().unwrap();
    verb.wait().unwrap();
    assert!(command::wait_for_exit(delete.id(), Duration::from_secs(10)));
    assert!(delete.wait().unwrap().success());
    assert!(!listens(port), "criu is still there");
    let left = leaks::settle(&context.id, &context.dir, &context.state_root);
    assert!(left.is_empty(), "{left:?}");
}

fn without_criu_the_package_is_named() {
    let context = counting();
    let empty = context.dir.join("empty");
    fs::create_dir(&empty).unwrap();
    if ["/usr/sbin/criu", "/usr/bin/criu", "/sbin/criu", "/bin/criu"]
        .iter()
        .any(|path| Path::new(path).exists())
    {
        return;
    }
    let images = images(&context);
    let mut command = context.command();
    command.env("PATH", &empty).args(["checkpoint", "--image-path"]).arg(&images).arg(&context.id);
    run(&mut command).refused_with(&["install the package criu"]);
    reached(&context, count(&context) + 3);
}

fn what_cannot_be_restored_is_not_checkpointed() {
    let mut context = Context::sh("true");
    context.create().ok();
    checkpoint(&context, &[]).refused_with(&["created; start it first"]);
    context.call(&["delete", &context.id]).ok();
    checkpoint(&context, &[]).refused_with(&["does not exist"]);
    let mut shared = Context::sh(COUNT);
    shared.without_namespace("mount");
    shared.set("/mounts", json!([]));
    shared.set("/linux/maskedPaths", json!([]));
    shared.set("/linux/readonlyPaths", json!([]));
    shared.launch();
    checkpoint(&shared, &[]).refused_with(&["mount namespace"]);
    restore(&shared, &[]).refused();
    // criu would leave the rules away.
    let mut held = counting();
    held.set("/annotations", json!({ "io.github.vctx.landlock": "rx /" }));
    checkpoint(&held, &[]).ok();
    restore(&held, &[]).refused_with(&["rules of landlock"]);
    let native = Context::new();
    run(native.command().args(["run", "-d", "--name", &native.id, "host", "--", "sleep", "1000"])).ok();
    checkpoint(&native, &[]).refused_with(&["from a bundle"]);
}
