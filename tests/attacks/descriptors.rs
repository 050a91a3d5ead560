//! The guest borrows a descriptor of the host's (CVE-2024-21626, CVE-2016-9962).

use super::guest;
use crate::harness::{Case, Context, case, json, rounds};
use std::fs;

pub fn cases() -> Vec<Case> {
    vec![
        case!(no_descriptor_is_a_working_folder_for_run),
        case!(no_descriptor_is_a_working_folder_for_exec),
        case!(a_link_to_a_descriptor_is_no_working_folder_either),
        case!(nobody_who_joins_can_be_traced).differs("runc", "1.1 hangs while it is looked at"),
    ]
}

/// What the guest sees of the host when it starts in a leaked folder.
const LOOK: &str = "pwd; ls ../../../etc/debian_version 2>/dev/null && echo escaped";

fn no_descriptor_is_a_working_folder_for_run() {
    for number in 0..64 {
        let mut context = Context::sh(LOOK);
        context.set("/process/cwd", json!(format!("/proc/self/fd/{number}")));
        let output = context.run();
        assert!(!output.stdout.contains("escaped"), "descriptor {number}: {}", output.stdout);
        assert_ne!(output.code, 0, "descriptor {number} was accepted");
    }
}

fn no_descriptor_is_a_working_folder_for_exec() {
    let context = Context::idle();
    for number in 0..256 {
        let folder = format!("/proc/self/fd/{number}");
        let output = context.exec(&["--cwd", &folder], &["sh", "-c", LOOK]);
        assert!(!output.stdout.contains("escaped"), "descriptor {number}: {}", output.stdout);
        assert_ne!(output.code, 0, "descriptor {number} was accepted");
    }
}

fn a_link_to_a_descriptor_is_no_working_folder_either() {
    let context = Context::idle();
    for number in 0..32 {
        let link = context.root(&format!("link{number}"));
        std::os::unix::fs::symlink(format!("/proc/self/fd/{number}"), link).unwrap();
        let output = context.exec(&["--cwd", &format!("/link{number}")], &["sh", "-c", LOOK]);
        assert!(!output.stdout.contains("escaped"), "descriptor {number}: {}", output.stdout);
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
