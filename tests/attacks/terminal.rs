//! The guest reaches the caller's terminal (CVE-2017-5226), or another through its own (CVE-2025-52565).

use super::guest;
use super::paths::Canary;
use crate::harness::pty::Terminal;
use crate::harness::{Case, Context, case, command, json};
use std::fs;
use std::os::unix::fs::symlink;

pub fn cases() -> Vec<Case> {
    vec![
        case!(nothing_is_typed_into_the_callers_terminal),
        case!(a_console_that_is_a_link_covers_nothing_outside),
    ]
}

/// The guest has the caller's terminal as its standard input, and none of its own.
fn nothing_is_typed_into_the_callers_terminal() {
    let mut context = Context::new();
    guest::bring(&mut context);
    context.args(&guest::args("type-into-the-terminal"));
    let (mut child, mut terminal) = Terminal::spawn(&mut context.bundle_command("run", &[]));
    terminal.expect("refused: ");
    command::exit_code(&mut child);
    assert!(!terminal.seen.contains("done: typed"), "{}", terminal.seen);
}

fn a_console_that_is_a_link_covers_nothing_outside() {
    let mut context = Context::sh("echo here");
    let canary = Canary::new(&context);
    let mounts = context.spec.pointer_mut("/mounts").unwrap().as_array_mut().unwrap();
    mounts.retain(|mount| mount["destination"] != "/dev");
    fs::create_dir_all(context.root("dev/pts")).unwrap();
    let _ = fs::remove_file(context.root("dev/console"));
    symlink(canary.path.join("made"), context.root("dev/console")).unwrap();
    context.set("/process/terminal", json!(true));
    let (mut child, _terminal) = Terminal::spawn(&mut context.bundle_command("run", &[]));
    command::exit_code(&mut child);
    canary.check();
}
