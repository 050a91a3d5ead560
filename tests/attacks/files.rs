//! What the runtime reads and writes on the host beside the guest's root: its state, the configuration, pid files, and
//! the words that it prints.

use super::guest;
use super::paths::Canary;
use crate::harness::{Case, Context, Need, case, command, json, runtime};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::Command;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_state_that_another_user_has_written_is_not_believed).needs(Need::Vctx),
        case!(a_state_below_another_users_folder_is_not_believed).needs(Need::Vctx),
        case!(what_lies_beside_the_contexts_is_none).needs(Need::Vctx),
        case!(a_log_is_not_written_through_another_users_link).needs(Need::Vctx),
        case!(folders_beyond_every_limit_go_with_their_context)
            .needs(Need::Vctx)
            .needs(Need::Program("prlimit")),
        case!(a_pid_file_is_not_written_through_a_link),
        case!(a_configuration_without_an_end_is_refused).needs(Need::Program("prlimit")).needs(Need::Vctx),
        case!(a_hook_is_not_looked_for).needs(Need::Vctx),
        case!(the_clocks_of_a_shared_user_namespace_are_not_set_in_sight).needs(Need::Vctx),
        case!(words_of_the_guests_neither_drive_the_terminal_nor_forge_a_line).needs(Need::Vctx),
    ]
}

/// Another user was first to make the folder below which contexts are kept, as in /tmp.
fn a_state_that_another_user_has_written_is_not_believed() {
    let context = Context::new();
    let canary = Canary::new(&context);
    let state = json!({
        "format": 1, "id": context.id, "oci_version": "1.0.2", "bundle": "/", "rootfs": "/", "created": 0,
        "created_nanos": 0, "owner": 0, "process": null, "cgroup": null, "namespaces": ["pid"], "annotations": {},
        "has_start_hooks": false, "has_poststop": false, "own": [canary.path],
    });
    let folder = context.state_root.join(&context.id);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("state.json"), state.to_string()).unwrap();
    let owned_by = |root: u32, own: u32| {
        chown(&context.state_root, Some(root), None).unwrap();
        chown(&folder, Some(own), None).unwrap();
    };
    for (root, own) in [(1000, 0), (0, 1000), (1000, 1000)] {
        owned_by(root, own);
        for verb in [&["delete"][..], &["delete", "--force"], &["start"], &["state"]] {
            context.call(&[verb, &[&context.id]].concat()).refused_with(&["no folder of this user's"]);
            canary.check();
        }
        command::run(&mut context.bundle_command("create", &[])).refused();
        canary.check();
    }
    owned_by(0, 0);
    fs::remove_dir_all(&context.state_root).unwrap();
}

/// The state root is root's own, and so is all in it; but the folder above is another user's, who puts a root of an older
/// time, or of another place, there in the moment between a look and the next.
fn a_state_below_another_users_folder_is_not_believed() {
    let context = Context::new();
    let users = context.dir.join("users");
    let root = users.join("root");
    fs::create_dir_all(&root).unwrap();
    let link = context.dir.join("link");
    symlink(&root, &link).unwrap();
    let call = |root: &std::path::Path, words: &[&str]| {
        command::run(Command::new(runtime()).arg("--root").arg(root).args(words))
    };
    let bundle = context.dir.to_str().unwrap();
    context.write_config();
    for (owner, mode) in [(1000, 0o755), (0, 0o777)] {
        chown(&users, Some(owner), None).unwrap();
        fs::set_permissions(&users, fs::Permissions::from_mode(mode)).unwrap();
        for root in [&root, &link, &root.join("absent"), &link.join("absent")] {
            for words in [
                &["list"][..],
                &["delete", "--force", &context.id],
                &["state", &context.id],
                &["create", "--bundle", bundle, &context.id],
            ] {
                call(root, words).refused_with(&["can put another in its place"]);
            }
        }
    }
    // As in /tmp.
    fs::set_permissions(&users, fs::Permissions::from_mode(0o1777)).unwrap();
    call(&root, &["list"]).ok();
}

/// The guest's changes are a tree on the host, which nobody but us removes.
fn folders_beyond_every_limit_go_with_their_context() {
    let context = Context::new();
    let own = std::env::current_exe().unwrap();
    let mut vctx = Command::new("prlimit");
    // As many as a login gives.
    vctx.arg("--nofile=1024").arg(runtime());
    vctx.arg("--root").arg(&context.state_root).args(["run", "--rm", "--share"]);
    vctx.arg(format!("{}:ro", own.parent().unwrap().display())).args(["host", "--"]).arg(&own);
    let output = command::run(vctx.args(&guest::args("nest-folders")[1..]).arg("/opt"));
    let left =
        |name: &str| fs::read_dir(context.state_root.join(name)).is_ok_and(|mut all| all.next().is_some());
    // What stays is taken away here, and not left to the machine: find(1) has no such limits.
    let stays = left(".store/contexts");
    let _ = Command::new("find").arg(&context.state_root).arg("-delete").output();
    assert!(output.stdout.starts_with("done: "), "{}{}", output.stdout, output.stderr);
    assert!(output.code == 0 && !stays, "the folders cannot be removed: {}", output.stderr);
}

/// Leases and compiled filters lie in the state root, too.
fn what_lies_beside_the_contexts_is_none() {
    let context = Context::new();
    context.write_config();
    for name in [".networks", ".seccomp", ".x"] {
        let canary = context.state_root.join(name).join("canary");
        fs::create_dir_all(canary.parent().unwrap()).unwrap();
        fs::write(&canary, "untouched").unwrap();
        let bundle = context.dir.to_str().unwrap();
        for words in
            [&["create", "--bundle", bundle, name][..], &["delete", "--force", name], &["kill", name]]
        {
            context.call(words).refused_with(&["begins with a dot"]);
            assert!(canary.exists(), "{words:?} has removed what is no context's");
        }
    }
    fs::remove_dir_all(&context.state_root).unwrap();
}

/// The folder of the log is one that others may write, and the link leads to a file that only the caller may.
fn a_log_is_not_written_through_another_users_link() {
    let context = Context::new();
    let canary = Canary::new(&context);
    let link = context.dir.join("log");
    symlink(canary.path.join("file"), &link).unwrap();
    let log = link.to_str().unwrap();
    let fail = || context.call(&["--log", log, "state", "absent"]).refused();
    std::os::unix::fs::lchown(&link, Some(1000), None).unwrap();
    let output = fail();
    canary.check();
    assert!(output.stderr.contains("another user has made"), "{}", output.stderr);
    // The caller's own is followed.
    std::os::unix::fs::lchown(&link, Some(0), None).unwrap();
    fail();
    assert_ne!(fs::read_to_string(canary.path.join("file")).unwrap(), "untouched");
}

fn a_pid_file_is_not_written_through_a_link() {
    let mut context = Context::sh("true");
    let canary = Canary::new(&context);
    let shared = context.dir.join("shared");
    fs::create_dir(&shared).unwrap();
    for name in ["pid", ".pid.new", ".pid", "pid.tmp"] {
        let _ = symlink(canary.path.join("file"), shared.join(name));
    }
    context.args(&["true"]);
    let pid_file = shared.join("pid");
    let output =
        command::run(&mut context.bundle_command("create", &["--pid-file", pid_file.to_str().unwrap()]));
    canary.check();
    // To refuse is right as well.
    assert!(output.code != 0 || fs::read_to_string(pid_file).unwrap().parse::<u32>().is_ok());
}

/// The bundle is somebody else's, and its configuration a link to a device that never ends.
fn a_configuration_without_an_end_is_refused() {
    let context = Context::new();
    symlink("/dev/zero", context.dir.join("config.json")).unwrap();
    let mut bounded = Command::new("prlimit");
    bounded.arg(format!("--as={}", 256 << 20)).arg(runtime()).arg("--root").arg(&context.state_root);
    bounded.args(["create", "--bundle"]).arg(&context.dir).arg(&context.id);
    command::run(&mut bounded).refused_with(&["is longer than"]);
    context.assert_nothing_left();
}

/// A name without a folder would be looked for, and one below the bundle is a program of whoever has made that.
fn a_hook_is_not_looked_for() {
    let mut context = Context::new();
    let canary = Canary::new(&context);
    let script = context.file("hook", &format!("#!/bin/sh\ntouch {}\n", canary.path.join("made").display()));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["hook", "./hook", "sh"] {
        context.set("/hooks/createRuntime", json!([{ "path": name }]));
        context.create().refused_with(&["absolute path"]);
        canary.check();
    }
}

/// To set them, the process has to be dumpable for a moment: root of that user namespace could trace it, and has a
/// process of the host's with all that it still holds.
fn the_clocks_of_a_shared_user_namespace_are_not_set_in_sight() {
    let mut first = Context::new();
    first.args(&["sleep", "1000"]);
    first.push("/linux/namespaces", json!({ "type": "user" }));
    let ids = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
    first.set("/linux/uidMappings", ids.clone());
    first.set("/linux/gidMappings", ids);
    first.launch();
    for (pid, allowed) in [("join", false), ("host", false), ("new", true)] {
        let mut context = Context::sh("true");
        context.join_namespace("user", &format!("/proc/{}/ns/user", first.pid()));
        context.push("/linux/namespaces", json!({ "type": "time" }));
        context.set("/linux/timeOffsets", json!({ "monotonic": { "secs": 5, "nanosecs": 0 } }));
        match pid {
            "join" => context.join_namespace("pid", &format!("/proc/{}/ns/pid", first.pid())),
            "host" => context.without_namespace("pid"),
            _ => {}
        }
        let output = context.run();
        assert_eq!(output.code == 0, allowed, "with the pid namespace {pid}: {}", output.stderr);
    }
}

/// The image's program names an interpreter, and the bundle's folder has a name, of its maker's choice.
fn words_of_the_guests_neither_drive_the_terminal_nor_forge_a_line() {
    let mut context = Context::new();
    let words = "x\u{1b}]0;owned\u{7}\nvctx: error: forged\r";
    let script = context.root("run");
    fs::write(&script, "#!/x\u{1b}]0;owned\u{7}\r\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    for program in ["/run", words] {
        context.args(&[program]);
        for format in ["text", "json"] {
            let log = context.dir.join(format!("log-{format}"));
            let _ = fs::remove_file(&log);
            let log_path = log.to_str().unwrap().to_owned();
            context.options = ["--log", &log_path, "--log-format", format].map(String::from).to_vec();
            let output = context.run().refused();
            let text = fs::read_to_string(&log).unwrap();
            for printed in [&output.stderr, &text] {
                assert_eq!(printed.matches('\n').count(), 1, "not one line: {printed:?}");
                let steers = |c: char| c.is_control() && c != '\n';
                assert!(!printed.contains(steers), "the terminal is driven: {printed:?}");
            }
        }
    }
    context.options.clear();
    context.args(&["sleep", "1000"]);
    let bundle = context.dir.join(words.replace('/', ""));
    fs::create_dir(&bundle).unwrap();
    context.set("/root/path", json!(context.dir.join("rootfs")));
    fs::write(bundle.join("config.json"), context.spec.to_string()).unwrap();
    command::run(context.command().args(["create", "--bundle"]).arg(&bundle).arg(&context.id)).ok();
    let listed = context.call(&["list"]).ok().stdout;
    assert_eq!(listed.lines().count(), 2, "the list has a forged line: {listed:?}");
    assert!(!listed.contains(|c: char| c.is_control() && c != '\n'), "the terminal is driven: {listed:?}");
}
