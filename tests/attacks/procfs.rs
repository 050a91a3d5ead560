//! The image or a volume fakes /proc or /sys (CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2025-52881).

use crate::harness::{Case, Context, case, json};
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

fn a_sysctl_goes_to_the_kernel_and_not_to_a_file_of_the_image() {
    let mut context = Context::sh("cat /proc/sys/kernel/msgmax; cat /decoy/kernel/msgmax");
    fs::create_dir_all(context.root("decoy/kernel")).unwrap();
    fs::write(context.root("decoy/kernel/msgmax"), "untouched\n").unwrap();
    context.set("/linux/sysctl", json!({ "kernel.msgmax": "12345" }));
    assert_eq!(context.prints(), "12345\nuntouched");
}
