//! The guest borrows what is the host's: a descriptor (CVE-2024-21626, CVE-2016-9962), a keyring, a socket
//! (CVE-2020-15257).

use super::guest;
use crate::harness::{Case, Context, Need, Output, case, command, json, rounds};
use std::fs;
use std::process::Command;

pub fn cases() -> Vec<Case> {
    vec![
        case!(no_descriptor_is_a_working_folder_for_run),
        case!(no_descriptor_is_a_working_folder_for_exec),
        case!(a_link_to_a_descriptor_is_no_working_folder_either),
        case!(a_descriptor_of_the_callers_is_not_the_guests),
        case!(a_descriptor_that_was_promised_and_not_passed_is_none_of_ours),
        case!(nobody_who_joins_can_be_traced).differs("runc", "1.1 hangs while it is looked at"),
        case!(nobody_who_joins_with_a_user_namespace_can_be_traced).needs(Need::Vctx),
        case!(a_key_of_the_callers_is_not_the_guests),
        case!(a_keyring_that_another_guest_has_laid_out_is_not_joined)
            .differs("runc", "1.1 and 1.5 join it by its name"),
        case!(a_context_that_waits_is_started_by_no_other_guest),
    ]
}

/// What the guest sees of the host when it starts in a leaked folder.
const LOOK: &str = "pwd; ls ../../../etc/debian_version 2>/dev/null && echo escaped";

#[track_caller]
fn inside(output: &Output, number: u32) {
    assert!(!output.stdout.contains("escaped"), "descriptor {number} has escaped: {}", output.stdout);
}

fn no_descriptor_is_a_working_folder_for_run() {
    for number in 0..256 {
        let mut context = Context::sh(LOOK);
        context.set("/process/cwd", json!(format!("/proc/self/fd/{number}")));
        let output = context.run();
        inside(&output, number);
        assert_ne!(output.code, 0, "descriptor {number} was accepted");
    }
}

fn no_descriptor_is_a_working_folder_for_exec() {
    let context = Context::idle();
    for number in 0..256 {
        let folder = format!("/proc/self/fd/{number}");
        let output = context.exec(&["--cwd", &folder], &["sh", "-c", LOOK]);
        inside(&output, number);
        assert_ne!(output.code, 0, "descriptor {number} was accepted");
    }
}

fn a_link_to_a_descriptor_is_no_working_folder_either() {
    let context = Context::idle();
    for number in 0..32 {
        let link = context.root(&format!("link{number}"));
        std::os::unix::fs::symlink(format!("/proc/self/fd/{number}"), link).unwrap();
        let output = context.exec(&["--cwd", &format!("/link{number}")], &["sh", "-c", LOOK]);
        inside(&output, number);
    }
}

/// What the guest reaches through any descriptor that it has.
const REACH: &str = "for n in $(ls /proc/self/fd); do for f in canary 1/comm; do cat /proc/self/fd/$n/$f 2>/dev/null && echo reached $n; done; done; echo end";

/// The command, called with the descriptors 3, 5 and 9 open on a folder of the host, as by a careless caller.
fn carelessly(context: &Context, command: &Command) -> Output {
    context.file("canary", "canary\n");
    let dir = context.dir.display();
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("exec 5<{dir} 9<{dir} 3</dev/null; exec \"$@\"")]).arg("sh");
    command::run(shell.arg(command.get_program()).args(command.get_args()))
}

fn a_descriptor_of_the_callers_is_not_the_guests() {
    let mut context = Context::sh(REACH);
    assert_eq!(
        carelessly(&context, &context.bundle_command("run", &[])).ok().stdout,
        "end\n",
        "run reached it"
    );
    context.args(&["sleep", "1000"]);
    context.launch();
    let mut exec = context.command();
    exec.args(["exec", &context.id, "sh", "-c", REACH]);
    assert_eq!(carelessly(&context, &exec).ok().stdout, "end\n", "exec reached it");
}

/// The caller passes one descriptor, or none, and says that there are more: the next numbers are the runtime's own.
fn a_descriptor_that_was_promised_and_not_passed_is_none_of_ours() {
    for promised in 1..16 {
        let context = Context::sh(REACH);
        let number = promised.to_string();
        let output = command::run(&mut context.bundle_command("run", &["--preserve-fds", &number]));
        assert!(!output.stdout.contains("reached"), "of {promised} promised ones: {}", output.stdout);
        let output = command::run(context.bundle_command("run", &[]).env("LISTEN_FDS", &number));
        assert!(!output.stdout.contains("reached"), "of {promised} of LISTEN_FDS: {}", output.stdout);
    }
    let context = Context::idle();
    for promised in 1..16 {
        let output = context.exec(&["--preserve-fds", &promised.to_string()], &["sh", "-c", REACH]);
        assert!(!output.stdout.contains("reached"), "of {promised} for exec: {}", output.stdout);
    }
}

fn nobody_who_joins_can_be_traced() {
    let mut context = Context::new();
    context.set("/root/readonly", json!(false));
    guest::bring(&mut context);
    context.args(&guest::args("trace-newcomers"));
    context.launch();
    for _ in 0..rounds(200) {
        context.exec(&[], &["true"]).ok();
    }
    fs::write(context.root("stop"), "").unwrap();
    context.wait_stopped();
    let output = context.output();
    assert!(output.contains("refused: none was caught"), "{output}");
}

/// As in a pod: the neighbour's root has every capability in the user namespace that newcomers join, and sees them in the
/// process namespace.
fn nobody_who_joins_with_a_user_namespace_can_be_traced() {
    let mut context = Context::new();
    context.set("/root/readonly", json!(false));
    context.push("/linux/namespaces", json!({ "type": "user" }));
    let ids = json!([{ "containerID": 0, "hostID": 0, "size": 65536 }]);
    context.set("/linux/uidMappings", ids.clone());
    context.set("/linux/gidMappings", ids);
    let all = json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN"]);
    context.set("/process/capabilities", json!({ "bounding": all, "effective": all, "permitted": all }));
    guest::bring(&mut context);
    context.args(&guest::args("trace-newcomers"));
    context.launch();
    let namespace = |kind: &str| format!("/proc/{}/ns/{kind}", context.pid());
    for _ in 0..rounds(40) {
        let mut newcomer = Context::new();
        newcomer.args(&["true"]);
        newcomer.join_namespace("user", &namespace("user"));
        newcomer.join_namespace("pid", &namespace("pid"));
        newcomer.run().ok();
        context.exec(&[], &["true"]).ok();
    }
    fs::write(context.root("stop"), "").unwrap();
    context.wait_stopped();
    let output = context.output();
    assert!(output.contains("refused: none was caught"), "{output}");
}

fn a_key_of_the_callers_is_not_the_guests() {
    let mut context = Context::new();
    guest::bring(&mut context);
    context.args(&guest::args("take-the-key"));
    let output = command::run(&mut guest::with_a_key(&context.bundle_command("run", &[])));
    assert!(output.stdout.starts_with("refused: "), "run: {}{}", output.stdout, output.stderr);
    context.args(&["sleep", "1000"]);
    context.launch();
    let mut exec = context.command();
    exec.args(["exec", &context.id]).args(guest::args("take-the-key"));
    let output = command::run(&mut guest::with_a_key(&exec));
    assert!(output.stdout.starts_with("refused: "), "exec: {}{}", output.stdout, output.stderr);
}

fn a_keyring_that_another_guest_has_laid_out_is_not_joined() {
    let (mut thief, mut victim) = (Context::new(), Context::new());
    thief.set("/root/readonly", json!(false));
    guest::bring(&mut thief);
    let name = format!("_ses.{}", victim.id);
    thief.args(&[guest::args("lay-out-a-keyring"), vec![&name]].concat());
    thief.launch();
    crate::harness::eventually("the keyring", 10, || thief.root("ready").exists().then_some(()));
    guest::bring(&mut victim);
    victim.args(&guest::args("keyring"));
    assert_eq!(victim.prints(), "done: a key");
    fs::write(thief.root("stop"), "").unwrap();
    thief.wait_stopped();
    assert!(thief.output().starts_with("refused: "), "{}", thief.output());
}

/// The guest has the host's network, and with it whatever socket has its name there and not in a folder.
fn a_context_that_waits_is_started_by_no_other_guest() {
    let mut waiting = Context::sh("sleep 1000");
    waiting.create().ok();
    let mut context = Context::new();
    context.without_namespace("network");
    let mounts = context.spec.pointer_mut("/mounts").unwrap().as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/sys");
    guest::bring(&mut context);
    context.args(&[guest::args("start-others"), vec![&waiting.id]].concat());
    let output = context.run().ok();
    assert!(output.stdout.starts_with("refused: "), "{}", output.stdout);
    assert_eq!(waiting.status(), "created");
}
