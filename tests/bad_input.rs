//! Configurations that are wrong: each is refused before the first side effect, in words that name the field.

use crate::harness::{Case, Context, Need, case, command, json};
use serde_json::Value;
use std::fs;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(a_wrong_type_is_refused_by_name),
        case!(a_wrong_value_is_refused_by_name),
        case!(the_refusals_of_the_unit_tests_are_those_of_the_command),
        case!(a_hook_that_cannot_run_is_refused_before_the_start),
        case!(a_version_that_is_none_is_refused),
        case!(namespaces_in_conflict_are_refused),
        case!(a_text_of_a_mebibyte_is_refused),
        case!(deep_nesting_is_refused_or_passed_over),
        case!(a_huge_configuration_is_refused),
        case!(a_key_that_is_given_twice_is_refused),
        case!(an_update_with_one_wrong_limit_changes_none),
        case!(what_the_kernel_cannot_enforce_is_refused),
        case!(a_memory_limit_below_what_a_start_needs_is_named),
        case!(a_truncated_configuration_is_refused_at_every_length),
    ];
    // The peers do without many of these, or find out half way through.
    cases.into_iter().map(|case| case.needs(Need::Vctx)).collect()
}

/// Each configuration with one place changed is refused with a word, and nothing was begun.
#[track_caller]
fn refused(table: &[(&str, Value, &str)]) {
    for (pointer, value, word) in table {
        let mut context = Context::new();
        context.set(pointer, value.clone());
        context.create().refused_with(&[&word.to_lowercase()]);
        assert!(!context.state_root.exists(), "{pointer}: something was begun");
        context.assert_nothing_left();
    }
}

fn a_wrong_type_is_refused_by_name() {
    refused(&[
        ("/ociVersion", json!(1), "ociVersion"),
        ("/root", json!("rootfs"), "root"),
        ("/root/path", json!(7), "root.path"),
        ("/root/readonly", json!("yes"), "root.readonly"),
        ("/hostname", json!(["a"]), "hostname"),
        ("/process", json!([]), "process"),
        ("/process/args", json!("true"), "process.args"),
        ("/process/args/0", json!(7), "process.args[0]"),
        ("/process/env", json!({}), "process.env"),
        ("/process/cwd", json!(false), "process.cwd"),
        ("/process/user", json!([0, 0]), "process.user"),
        ("/process/user", json!({ "gid": 0 }), "process.user"),
        ("/process/user/uid", json!("root"), "process.user.uid"),
        ("/process/user/uid", json!(4_294_967_296_u64), "process.user.uid"),
        ("/process/user/additionalGids", json!([-1]), "process.user.additionalGids[0]"),
        (
            "/process/rlimits",
            json!([{ "type": "RLIMIT_TEA", "soft": 1, "hard": 1 }]),
            "process.rlimits[0].type",
        ),
        ("/process/oomScoreAdj", json!("low"), "process.oomScoreAdj"),
        ("/mounts", json!({}), "mounts"),
        ("/mounts/0/destination", json!(5), "mounts[0].destination"),
        ("/mounts/0/options", json!("ro"), "mounts[0].options"),
        ("/annotations", json!({ "a": 1 }), "annotations.a"),
        ("/hooks", json!({ "prestart": [{}] }), "hooks.prestart[0]"),
        ("/linux/namespaces", json!([{ "type": "galaxy" }]), "linux.namespaces[0].type"),
        ("/linux/uidMappings", json!([{ "containerID": "a" }]), "linux.uidMappings[0]"),
        ("/linux/sysctl", json!({ "net.a": 1 }), "linux.sysctl"),
        ("/linux/devices", json!([{ "path": "/dev/x", "type": "tea" }]), "linux.devices[0].type"),
        ("/linux/resources/memory", json!({ "limit": "1G" }), "linux.resources.memory.limit"),
        ("/linux/resources/pids", json!({ "limit": 1.5 }), "linux.resources.pids.limit"),
        ("/linux/resources/unified", json!({ "a": 1 }), "linux.resources.unified"),
        ("/linux/seccomp", json!({ "defaultAction": "SCMP_ACT_TEA" }), "linux.seccomp.defaultAction"),
        ("/linux/timeOffsets", json!({ "boottime": 7 }), "linux.timeOffsets"),
        ("/linux/memoryPolicy", json!({ "mode": "MPOL_TEA" }), "linux.memoryPolicy.mode"),
        ("/linux/personality", json!({ "domain": "PLAN9" }), "linux.personality.domain"),
    ]);
}

fn a_wrong_value_is_refused_by_name() {
    let limit = |soft, hard| json!({ "type": "RLIMIT_NOFILE", "soft": soft, "hard": hard });
    let device =
        |major: i64, minor: i64| json!([{ "path": "/dev/x", "type": "c", "major": major, "minor": minor }]);
    let huge = |size: &str| json!([{ "pageSize": size, "limit": 1 }]);
    let map = |size: u32| json!([{ "containerID": 1, "hostID": 1, "size": size }]);
    refused(&[
        ("/root", Value::Null, "root"),
        ("/root/path", json!(""), "root.path"),
        ("/process/args", json!([]), "process.args"),
        ("/process/args/0", json!(""), "process.args"),
        ("/process/cwd", json!("relative"), "process.cwd"),
        ("/process/env", json!(["NAME"]), "process.env[0]"),
        ("/process/env", json!(["=value"]), "process.env[0]"),
        ("/process/env", json!(["A=\0"]), "process.env"),
        ("/process/user/umask", json!(0o1777), "process.user.umask"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj"),
        ("/process/rlimits", json!([limit(2, 1)]), "process.rlimits[0]"),
        ("/process/rlimits", json!([limit(1, 1), limit(1, 1)]), "process.rlimits[1]"),
        ("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_RT", "priority": 9 }), "process.ioPriority"),
        ("/process/scheduler", json!({ "policy": "SCHED_ISO" }), "process.scheduler.policy"),
        ("/hostname", json!("a".repeat(65)), "hostname"),
        ("/mounts/0/destination", json!("/a/../../b"), "mounts[0].destination"),
        ("/mounts/0/destination", json!("/proc/self"), "mounts[0].destination"),
        ("/mounts/1/type", Value::Null, "mounts[1].type"),
        ("/mounts/1", json!({ "destination": "/x", "options": ["bind"] }), "mounts[1].source"),
        ("/linux/uidMappings", map(1), "linux.uidMappings"),
        ("/linux/maskedPaths", json!(["relative"]), "linux.maskedPaths"),
        ("/linux/readonlyPaths", json!(["relative"]), "linux.readonlyPaths"),
        ("/linux/rootfsPropagation", json!("sideways"), "linux.rootfsPropagation"),
        ("/linux/sysctl", json!({ "vm.swappiness": "1" }), "linux.sysctl[\"vm.swappiness\"]"),
        ("/linux/cgroupsPath", json!("/../../up"), "/../../up"),
        (
            "/linux/devices",
            json!([{ "path": "x", "type": "c", "major": 1, "minor": 3 }]),
            "linux.devices[0].path",
        ),
        ("/linux/devices", device(4096, 3), "linux.devices[0].major"),
        ("/linux/devices", device(1, -1), "linux.devices[0].minor"),
        ("/linux/resources/devices/0/access", json!("rx"), "linux.resources.devices"),
        ("/linux/resources/hugepageLimits", huge("../x"), "linux.resources.hugepageLimits"),
        ("/linux/resources/memory", json!({ "limit": 9000, "swap": 8000 }), "linux.resources.memory.swap"),
        ("/linux/resources/unified", json!({ "../x": "1" }), "linux.resources.unified"),
        ("/linux/memoryPolicy", json!({ "mode": "MPOL_BIND", "nodes": "9999" }), "linux.memoryPolicy.nodes"),
        ("/linux/timeOffsets", json!({ "boottime": { "secs": 1 } }), "linux.timeOffsets"),
    ]);
}

/// A sample: every place of a configuration with every field is made wrong in the unit tests of `validate`.
fn the_refusals_of_the_unit_tests_are_those_of_the_command() {
    let full: Value = serde_json::from_str(include_str!("full.json")).unwrap();
    let mut places = Vec::new();
    collect(&full, String::new(), &mut places);
    for (place, is_object) in places.iter().skip(5).step_by(31) {
        let mut context = Context::new();
        context.spec = full.clone();
        context.set(place, if *is_object { json!(7) } else { json!({}) });
        let name = place.split('/').nth(1).unwrap().to_lowercase();
        context.create().refused_with(&[&name]);
        assert!(!context.state_root.exists(), "{place}: something was begun");
    }
}

fn collect(value: &Value, at: String, places: &mut Vec<(String, bool)>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, one)| collect(one, format!("{at}/{key}"), places)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, one)| collect(one, format!("{at}/{index}"), places));
        }
        _ => {}
    }
    if !at.is_empty() && !at.ends_with("/commandLine") && !at.ends_with("/username") {
        places.push((at, value.is_object()));
    }
}

fn a_hook_that_cannot_run_is_refused_before_the_start() {
    refused(&[
        ("/hooks", json!({ "poststop": [{ "path": "relative" }] }), "hooks.poststop[0].path"),
        ("/hooks", json!({ "poststart": [{ "path": "/bin/a\0b" }] }), "hooks.poststart[0].path"),
        ("/hooks", json!({ "prestart": [{ "path": "/bin/a", "args": ["\0"] }] }), "hooks.prestart[0].args"),
        ("/hooks", json!({ "prestart": [{ "path": "/bin/a", "env": ["A=\0"] }] }), "hooks.prestart[0].env"),
        ("/hooks", json!({ "poststop": [{ "path": "/bin/a", "timeout": -1 }] }), "hooks.poststop[0].timeout"),
    ]);
}

fn a_version_that_is_none_is_refused() {
    for version in ["", "2.0.0", "0.9", "one", "1", "1.2", "v1.0.0", "-1.0.0"] {
        refused(&[("/ociVersion", json!(version), "ociVersion")]);
    }
}

fn namespaces_in_conflict_are_refused() {
    let namespaces = |list: &[(&str, Option<&str>)]| {
        let one = |(kind, path): &(&str, Option<&str>)| match path {
            Some(path) => json!({ "type": kind, "path": path }),
            None => json!({ "type": kind }),
        };
        Value::from(list.iter().map(one).collect::<Vec<_>>())
    };
    let usual = [("mount", None), ("pid", None), ("uts", None)];
    refused(&[
        ("/linux/namespaces", namespaces(&[usual[0], usual[0]]), "linux.namespaces[1]"),
        (
            "/linux/namespaces",
            namespaces(&[("mount", None), ("pid", Some("ns/pid"))]),
            "linux.namespaces[1].path",
        ),
        ("/linux/namespaces", namespaces(&[("mount", None)]), "hostname: needs a uts namespace"),
        (
            "/linux/namespaces",
            namespaces(&[usual[0], usual[1], usual[2], ("user", None)]),
            "linux.uidMappings",
        ),
        ("/linux/namespaces", namespaces(&[usual[1], usual[2], ("user", None)]), "no mount namespace"),
        ("/linux/namespaces", json!([]), "hostname: needs a uts namespace"),
    ]);
}

fn a_text_of_a_mebibyte_is_refused() {
    let long = "a".repeat(1 << 20);
    let path = format!("/{long}");
    refused(&[
        ("/root/path", json!(path), "root.path"),
        ("/hostname", json!(long), "hostname"),
        ("/process/cwd", json!(path), "process.cwd"),
        ("/process/args", json!(["true", long]), "process.args"),
        ("/process/env", json!([format!("A={long}")]), "process.env"),
        ("/process/apparmorProfile", json!(long), "process.apparmorProfile"),
        ("/process/selinuxLabel", json!(long), "process.selinuxLabel"),
        ("/mounts/0/destination", json!(path), "mounts[0].destination"),
        ("/mounts/0/source", json!(path), "mounts[0].source"),
        ("/mounts/0/options", json!([long]), "mounts[0].options"),
        ("/linux/namespaces/0/path", json!(path), "linux.namespaces[0].path"),
        ("/linux/maskedPaths", json!([path]), "linux.maskedPaths"),
        ("/linux/sysctl", json!({ "net.ipv4.ip_forward": long }), "linux.sysctl"),
        (
            "/linux/devices",
            json!([{ "path": path, "type": "c", "major": 1, "minor": 3 }]),
            "linux.devices[0].path",
        ),
    ]);
}

fn deep_nesting_is_refused_or_passed_over() {
    let deep = |open: &str, close: &str| format!("{}0{}", open.repeat(100_000), close.repeat(100_000));
    let whole = Context::new().spec.to_string();
    let with = |key: &str, value: &str| format!("{},\"{key}\":{value}}}", &whole[..whole.len() - 1]);
    for text in [deep("[", "]"), deep("{\"a\":", "}")] {
        spoiled(&text).refused_with(&["invalid type", "ociversion"]);
        spoiled(&with("annotations", &text)).refused_with(&["in annotations"]);
        // An unknown property must be ignored (runtime-spec, "Extensibility"), however deep it is.
        let context = Context::new();
        fs::write(context.dir.join("config.json"), with("com.example", &text)).unwrap();
        let mut command = context.command();
        command::run(command.args(["run", "--bundle"]).arg(&context.dir).arg(&context.id)).ok();
    }
}

fn a_huge_configuration_is_refused() {
    spoiled(&" ".repeat(17 << 20)).refused_with(&["config.json"]);
}

fn a_key_that_is_given_twice_is_refused() {
    let whole = Context::new().spec.to_string();
    // What one reader checks must be what the other does: the last of two would win for some.
    let twice = format!("{},\"hostname\":\"other\"}}", &whole[..whole.len() - 1]);
    spoiled(&twice).refused_with(&["duplicate field `hostname`"]);
}

fn an_update_with_one_wrong_limit_changes_none() {
    let mut context = Context::new();
    context.args(&["sleep", "1000"]);
    context.set("/linux/resources/pids", json!({ "limit": 77 }));
    context.launch();
    for (limits, word) in [
        (r#"{"pids":{"limit":5},"unified":{"../x":"1"}}"#, "linux.resources.unified"),
        (r#"{"pids":{"limit":5},"cpu":{"idle":7}}"#, "linux.resources.cpu.idle"),
        (r#"{"pids":[5]}"#, "sequence"),
    ] {
        let mut update = context.command();
        update.args(["update", "--resources", "-", &context.id]);
        command::run_with(&mut update, limits.as_bytes(), command::BOUND).refused_with(&[word]);
    }
    let stats = context.call(&["events", "--stats", &context.id]).ok().stdout;
    let stats: Value = serde_json::from_str(&stats).unwrap();
    assert_eq!(stats["data"]["pids"]["limit"], json!(77), "{stats}");
}

fn a_truncated_configuration_is_refused_at_every_length() {
    let context = Context::new();
    let whole = context.spec.to_string();
    for length in (0..whole.len()).step_by(37) {
        fs::write(context.dir.join("config.json"), &whole[..length]).unwrap();
        let mut command = context.command();
        command.args(["create", "--bundle"]).arg(&context.dir).arg(&context.id);
        command::run(&mut command).refused_with(&["config.json"]);
    }
    context.assert_nothing_left();
}

/// `create` from this text as the configuration.
fn spoiled(text: &str) -> command::Output {
    let context = Context::new();
    fs::write(context.dir.join("config.json"), text).unwrap();
    let mut command = context.command();
    let output = command::run(command.args(["create", "--bundle"]).arg(&context.dir).arg(&context.id));
    assert!(!context.state_root.exists(), "something was begun");
    context.assert_nothing_left();
    output
}

fn what_the_kernel_cannot_enforce_is_refused() {
    let enabled = fs::read_to_string("/sys/module/apparmor/parameters/enabled").unwrap_or_default();
    if !enabled.starts_with('Y') {
        refused(&[("/process/apparmorProfile", json!("unconfined"), "process.apparmorProfile")]);
        let context = Context::idle();
        context.exec(&["--apparmor", "some-profile"], &["true"]).refused_with(&["apparmor is not enabled"]);
    }
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        refused(&[(
            "/process/selinuxLabel",
            json!("system_u:system_r:container_t:s0"),
            "process.selinuxLabel",
        )]);
        // It confines nobody: where nobody is confined, nothing is lost by passing it over.
        let mut context = Context::sh("touch /dev/shm/x && echo fine");
        context.set("/linux/mountLabel", json!("system_u:object_r:container_file_t:s0"));
        let output = context.run().ok();
        assert_eq!(output.line(), "fine");
        assert!(output.stderr.contains("linux.mountLabel: passing over"), "{}", output.stderr);
    }
    refused(&[("/linux/intelRdt", json!({ "closID": "guaranteed" }), "linux.intelRdt")]);
    // Empty is how some engines say that there is none.
    let mut context = Context::sh("echo fine");
    context.set("/process/apparmorProfile", json!(""));
    context.set("/process/selinuxLabel", json!(""));
    context.set("/linux/mountLabel", json!(""));
    assert_eq!(context.prints(), "fine");
}

fn a_memory_limit_below_what_a_start_needs_is_named() {
    for limit in [4096, 16384] {
        let mut context = Context::new();
        context.set("/linux/resources/memory", json!({ "limit": limit, "swap": limit }));
        let word = format!("linux.resources.memory.limit: is {limit} bytes, which is too low");
        context.create().refused_with(&[&word]);
        context.assert_nothing_left();
    }
}
