//! The image or a volume fakes /proc or /sys (CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2025-52881).

use super::paths::Swapper;
use crate::harness::{Case, Context, case, json, rounds};
use std::fs;
use std::os::unix::fs::symlink;

pub fn cases() -> Vec<Case> {
    vec![
        case!(a_volume_over_proc_is_refused).differs("crun", "1.8 mounts it"),
        case!(a_volume_inside_proc_is_refused).differs("crun", "1.8 mounts it"),
        case!(a_proc_that_is_a_link_is_refused),
        case!(a_sys_that_is_a_link_is_refused),
        case!(a_link_into_proc_is_no_place_for_a_mount).differs("crun", "1.8 mounts it there"),
        case!(a_sysctl_goes_to_the_kernel_and_not_to_a_file_of_the_image),
        case!(a_sysctl_whose_name_climbs_is_refused),
        case!(a_proc_that_is_swapped_is_masked_all_the_same)
            .differs("runc", "skips the mask of what is not there")
            .differs("crun", "skips the mask of what is not there"),
    ]
}

fn a_volume_over_proc_is_refused() {
    let mut context = Context::new();
    let fake = context.dir.join("fake");
    fs::create_dir_all(fake.join("self/attr")).unwrap();
    context.bind("/proc", &fake, &["bind"]);
    context.create().refused();
    context.assert_nothing_left();
}

fn a_volume_inside_proc_is_refused() {
    for inside in ["/proc/self/attr", "/proc/sys", "/proc/1", "/proc/../proc/sys/kernel"] {
        let mut context = Context::new();
        let fake = context.dir.join("fake");
        fs::create_dir(&fake).unwrap();
        context.bind(inside, &fake, &["bind"]);
        context.create().refused();
        context.assert_nothing_left();
    }
}

fn replace_by_link(context: &Context, name: &str, target: &str) {
    let path = context.root(name);
    let _ = fs::remove_dir(&path);
    symlink(target, path).unwrap();
}

fn a_proc_that_is_a_link_is_refused() {
    let mut context = Context::new();
    fs::create_dir_all(context.root("elsewhere")).unwrap();
    replace_by_link(&context, "proc", "/elsewhere");
    context.create().refused();
    context.assert_nothing_left();
}

fn a_sys_that_is_a_link_is_refused() {
    let mut context = Context::new();
    fs::create_dir_all(context.root("elsewhere")).unwrap();
    replace_by_link(&context, "sys", "/elsewhere");
    context.create().refused();
    context.assert_nothing_left();
}

fn a_link_into_proc_is_no_place_for_a_mount() {
    let mut context = Context::new();
    let fake = context.dir.join("fake");
    fs::create_dir(&fake).unwrap();
    symlink("/proc/sys", context.root("innocent")).unwrap();
    context.bind("/innocent", &fake, &["bind"]);
    context.create().refused();
    context.assert_nothing_left();
}

/// The context has its procfs elsewhere, and in the usual place what the image has put there.
fn a_sysctl_goes_to_the_kernel_and_not_to_a_file_of_the_image() {
    let mut context = Context::sh("cat /kernel/sys/kernel/msgmax; cat /proc/sys/kernel/msgmax");
    fs::create_dir_all(context.root("proc/sys/kernel")).unwrap();
    fs::write(context.root("proc/sys/kernel/msgmax"), "untouched\n").unwrap();
    context.set("/mounts/0/destination", json!("/kernel"));
    context.set("/linux/sysctl", json!({ "kernel.msgmax": "12345" }));
    assert_eq!(context.prints(), "12345\nuntouched");
}

/// The value is the one that the host has, so that a success changes nothing.
fn a_sysctl_whose_name_climbs_is_refused() {
    let value = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for name in
        ["net/../kernel/core_pattern", "net...kernel.core_pattern", "net.ipv4/../../kernel/core_pattern"]
    {
        let mut context = Context::new();
        context.set("/linux/sysctl", json!({ name: value.trim() }));
        context.create().refused();
        context.assert_nothing_left();
    }
}

/// Whoever shares the root puts an empty folder in the place of `/proc` while paths in it are hidden, and takes it away
/// again.
fn a_proc_that_is_swapped_is_masked_all_the_same() {
    let probe = Context::new();
    let root = probe.dir.join("rootfs");
    fs::create_dir(root.join("empty")).unwrap();
    let shown = Swapper::swap(&root.join("proc"), &root.join("empty"), || {
        let attempt = || {
            let mut context = Context::sh("cat /proc/version /empty/version 2>/dev/null; echo end");
            context.set("/root/path", json!(root));
            context.set("/linux/maskedPaths", json!(["/proc/version"]));
            context.run().stdout
        };
        (0..rounds(40)).map(|_| attempt()).filter(|text| text.contains("Linux version")).collect::<Vec<_>>()
    });
    assert!(shown.is_empty(), "exposed {} times: {:?}", shown.len(), shown[0]);
}
