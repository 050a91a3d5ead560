//! Bad input, systematically: each place of a configuration that has every field is made wrong in every way, and each time
//! the answer is an error that names the place, or an acceptance that this file says to be right.

use serde_json::{Value, json};

use crate::config::Config;
use crate::plan::{Facts, RootFs};

/// A valid configuration with every field of the specification.
const FULL: &str = include_str!("../../../tests/full.json");

/// What came of a configuration.
#[derive(Debug)]
enum Verdict {
    Accepted,
    /// The whole text of the error, with its cause.
    Refused(String),
}

fn judge(text: &str) -> Verdict {
    let refused = |error: crate::Error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        Verdict::Refused(format!("{error}: {cause}"))
    };
    let config = match Config::parse(text.as_bytes().to_vec(), "config.json".as_ref()) {
        Ok(config) => config,
        Err(error) => return refused(error),
    };
    if let Err(error) = super::validate(&config.spec) {
        return refused(error);
    }
    let null = std::io::stdin();
    let arena = bumpalo::Bump::new();
    if let Err(error) = crate::plan::new_context(&arena, &config.spec, &facts(&null)) {
        panic!("only planning has found: {error}");
    }
    Verdict::Accepted
}

fn facts(null: &std::io::Stdin) -> Facts<'_> {
    use std::os::fd::AsFd;
    Facts {
        root: RootFs::Folder("/root".into()),
        join: Vec::new(),
        user_namespace: true,
        landlock: 0xffff,
        scoped: false,
        grantable: u64::MAX,
        no_setgroups: false,
        cgroups: Vec::new(),
        cgroup_links: Vec::new(),
        idmaps: Vec::new(),
        gate: true,
        keyring: true,
        start: None,
        no_pivot: false,
        proc: null.as_fd(),
        tasks: Vec::new(),
        groups_later: true,
        close: Vec::new(),
        path: None,
        standard: Vec::new(),
        console: None,
        filter: None,
        preserve: 0,
    }
}

/// Every place of a value, as JSON pointers.
fn places(value: &Value, at: String, all: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| places(value, format!("{at}/{key}"), all)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, value)| places(value, format!("{at}/{index}"), all));
        }
        _ => {}
    }
    all.push(at);
}

fn full() -> Value {
    serde_json::from_str(FULL).unwrap()
}

fn with(place: &str, value: Value) -> String {
    let mut spec = full();
    *spec.pointer_mut(place).unwrap() = value;
    spec.to_string()
}

fn all_places() -> Vec<String> {
    let mut all = Vec::new();
    places(&full(), String::new(), &mut all);
    all
}

/// The place as errors write it: `process.rlimits[0].soft`.
fn dotted(place: &str) -> String {
    let mut text = String::new();
    for part in place.split('/').skip(1) {
        match part.parse::<usize>() {
            Ok(index) => text.push_str(&format!("[{index}]")),
            Err(_) if text.is_empty() => text.push_str(part),
            Err(_) => text.push_str(&format!(".{part}")),
        }
    }
    text
}

/// The error speaks of the place, of one around it, or of another that contradicts it.
fn names(error: &str, place: &str) -> bool {
    let mut around = place;
    loop {
        let field = dotted(around);
        if !field.is_empty() && error.contains(&field) {
            return true;
        }
        match around.rsplit_once('/') {
            Some((outer, _)) if !outer.is_empty() => around = outer,
            _ => break,
        }
    }
    CONTRADICTIONS.iter().any(|(begin, field)| place.starts_with(begin) && error.contains(field))
}

/// Where a wrong value makes another one wrong, or is named otherwise: (place, what is named).
const CONTRADICTIONS: [(&str, &str); 8] = [
    ("/linux/namespaces", "linux."),
    ("/linux/namespaces", "hostname"),
    ("/linux/namespaces", "hooks.startContainer"),
    ("/linux/namespaces", "mounts[3]"),
    ("/linux", "hostname"),
    ("/linux/seccomp", "seccomp: "),
    ("/hostname", "hostname"),
    ("/mounts", "mounts["),
];

#[track_caller]
fn refused(place: &str, text: &str, what: &str) {
    match judge(text) {
        Verdict::Refused(error) => assert!(names(&error, place), "{place} {what}: not named by: {error}"),
        Verdict::Accepted => panic!("{place} {what}: accepted"),
    }
}

#[test]
fn the_full_configuration_is_accepted() {
    assert!(matches!(judge(FULL), Verdict::Accepted), "{:?}", judge(FULL));
    let count = all_places().len();
    assert!(count > 300, "{count} places");
}

#[test]
fn a_value_of_another_type_is_refused_at_every_place() {
    let kinds =
        [json!(true), json!(7), json!("text"), json!([]), json!({}), json!([[7]]), json!({ "a": [7] })];
    let (mut cases, mut wrong) = (0, Vec::new());
    for place in all_places().iter().filter(|place| !is_ignored(place)) {
        let was = full().pointer(place).unwrap().clone();
        let same = |value: &Value| std::mem::discriminant(value) == std::mem::discriminant(&was);
        for kind in kinds.iter().filter(|kind| !same(kind)) {
            let text = if place.is_empty() { kind.to_string() } else { with(place, kind.clone()) };
            match (place.as_str(), judge(&text)) {
                ("", Verdict::Refused(_)) => {}
                (_, Verdict::Accepted) => wrong.push(format!("{place} is {kind}: accepted")),
                (_, Verdict::Refused(error)) if names(&error, place) => {}
                (_, Verdict::Refused(error)) => {
                    wrong.push(format!("{place} is {kind}: not named by: {error}"));
                }
            }
            cases += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases > 1500, "{cases} cases");
}

/// Fields of other systems, and those that the specification does not have.
fn is_ignored(place: &str) -> bool {
    ["/process/commandLine", "/process/user/username"].contains(&place)
}

#[test]
fn a_number_that_does_not_fit_is_refused_or_harmless() {
    let mut wrong = Vec::new();
    for place in all_places() {
        if !full().pointer(&place).unwrap().is_number() {
            continue;
        }
        for number in [
            "-1",
            "4294967296",
            "9223372036854775808",
            "18446744073709551616",
            "1e400",
            "1.5",
            "-9223372036854775809",
        ] {
            let text = with(&place, json!("@@")).replace("\"@@\"", number);
            match judge(&text) {
                Verdict::Accepted if is_wide(&place, number) => {}
                Verdict::Accepted => wrong.push(format!("{place} is {number}: accepted")),
                // What is no number at all is a matter of JSON.
                Verdict::Refused(error) if names(&error, &place) || error.contains("number out of range") => {
                }
                Verdict::Refused(error) => wrong.push(format!("{place} is {number}: not named by: {error}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// These fields take numbers of 64 bits, some of them signed.
fn is_wide(place: &str, number: &str) -> bool {
    let signed = [
        "/process/oomScoreAdj",
        "/process/scheduler/nice",
        "/linux/timeOffsets/",
        "/linux/resources/memory/",
        "/linux/resources/cpu/quota",
        "/linux/resources/cpu/idle",
        "/linux/resources/cpu/realtimeRuntime",
        "/linux/resources/pids/limit",
        "/linux/resources/blockIO/",
        "/linux/resources/devices/",
        "/linux/resources/hugepageLimits/",
    ];
    let unsigned = [
        // Without a terminal it is passed over.
        "/process/consoleSize/",
        "/process/rlimits/",
        "/process/scheduler/",
        "/linux/resources/cpu/",
        "/linux/resources/memory/swappiness",
        "/linux/resources/blockIO/",
        "/linux/seccomp/syscalls/2/args/",
        "/hooks/",
        "/linux/timeOffsets/",
        "/linux/resources/memory/",
        "/linux/resources/pids/limit",
        "/linux/resources/hugepageLimits/",
    ];
    let within = |list: &[&str]| list.iter().any(|begin| place.starts_with(begin));
    match number {
        "-1" => within(&signed),
        "4294967296" | "9223372036854775808" => within(&unsigned),
        _ => false,
    }
}

#[test]
fn a_hostile_text_is_refused_or_harmless_at_every_place() {
    let long = format!("/{}", "a".repeat(1 << 20));
    let (mut cases, mut wrong) = (0, Vec::new());
    for place in all_places() {
        if !full().pointer(&place).unwrap().is_string() || is_ignored(&place) {
            continue;
        }
        for (what, text) in [("nul", "a\0b"), ("nul path", "/\0"), ("1 MiB", &long)] {
            match judge(&with(&place, json!(text))) {
                Verdict::Accepted if is_free(&place) => {}
                Verdict::Accepted => wrong.push(format!("{place} is {what}: accepted")),
                Verdict::Refused(error) if names(&error, &place) => {}
                Verdict::Refused(error) => {
                    wrong.push(format!("{place} is {what}: not named by: {error:.300}"))
                }
            }
            cases += 1;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases > 300, "{cases} cases");
}

/// What is stored and handed on as it came; and names of calls and capabilities, of which unknown ones are passed over.
fn is_free(place: &str) -> bool {
    [
        "/annotations",
        "/process/capabilities/",
        "/linux/seccomp/listenerMetadata",
        "/linux/seccomp/syscalls/",
        "/linux/intelRdt/",
    ]
    .iter()
    .any(|begin| place.starts_with(begin))
}

#[test]
fn what_is_missing_or_null_is_refused_by_name_or_optional() {
    for place in all_places().iter().filter(|place| !place.is_empty()) {
        let (outer, key) = place.rsplit_once('/').unwrap();
        let mut without = full();
        match without.pointer_mut(outer).unwrap() {
            Value::Object(map) => drop(map.remove(key)),
            Value::Array(list) => drop(list.remove(key.parse().unwrap())),
            _ => unreachable!(),
        }
        for text in [without.to_string(), with(place, Value::Null)] {
            if let Verdict::Refused(error) = judge(&text) {
                assert!(names(&error, place), "{place} is missing or null: not named by: {error}");
            }
        }
    }
}

#[test]
fn an_unknown_field_is_passed_over_in_every_object() {
    for place in all_places() {
        let mut spec = full();
        let Some(Value::Object(map)) = spec.pointer_mut(&place) else { continue };
        map.insert("com.example.unknown".into(), json!({ "deep": [1, null, "x"] }));
        match judge(&spec.to_string()) {
            Verdict::Accepted => {}
            // Objects whose keys are names and no fields.
            Verdict::Refused(error) => {
                let maps = [
                    "/annotations",
                    "/linux/sysctl",
                    "/linux/timeOffsets",
                    "/linux/netDevices",
                    "/linux/resources/rdma",
                    "/linux/resources/unified",
                ];
                assert!(maps.contains(&&*place) && names(&error, &place), "{place}: {error}");
            }
        }
    }
}

#[test]
fn deep_nesting_is_refused_at_every_place() {
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    for place in all_places().iter().filter(|place| !place.is_empty() && !is_ignored(place)) {
        let text = with(place, json!("@@")).replace("\"@@\"", &deep);
        refused(place, &text, "1000 lists deep");
    }
}

/// What the texts of the specification forbid beside types: (place, value, what is named).
#[test]
fn what_the_specification_forbids_is_refused_by_name() {
    let hook = |timeout: i64| json!([{ "path": "/bin/hook", "timeout": timeout }]);
    let device = |major: i64| json!([{ "path": "/dev/x", "type": "c", "major": major, "minor": 3 }]);
    let scheduler = |policy: &str, priority: i64, nice: i64| json!({ "policy": policy, "priority": priority, "nice": nice });
    let deadline = |runtime: u64, deadline: u64, period: u64| json!({ "policy": "SCHED_DEADLINE", "runtime": runtime, "deadline": deadline, "period": period });
    let policy = |mode: &str, nodes: &str| json!({ "mode": mode, "nodes": nodes });
    let cpu = |quota: i64, burst: u64| json!({ "quota": quota, "burst": burst });
    let table = [
        ("/ociVersion", json!("1.2"), "ociVersion"),
        ("/ociVersion", json!("1.2.0-"), "ociVersion"),
        ("/ociVersion", json!("1.02.0"), "ociVersion"),
        ("/annotations", json!({ "": "x" }), "annotations: has an empty key"),
        ("/hooks/poststop", hook(0), "hooks.poststop[0].timeout"),
        ("/process/scheduler", scheduler("SCHED_FIFO", 0, 0), "process.scheduler.priority"),
        ("/process/scheduler", scheduler("SCHED_RR", 100, 0), "process.scheduler.priority"),
        ("/process/scheduler", scheduler("SCHED_OTHER", 1, 0), "process.scheduler.priority"),
        ("/process/scheduler", scheduler("SCHED_OTHER", 0, 20), "process.scheduler.nice"),
        ("/process/scheduler", deadline(0, 10, 10), "process.scheduler.runtime"),
        ("/process/scheduler", deadline(11, 10, 10), "process.scheduler.runtime"),
        ("/process/scheduler", deadline(5, 10, 9), "process.scheduler.period"),
        ("/linux/personality", json!({ "domain": "LINUX", "flags": ["X"] }), "linux.personality.flags"),
        ("/linux/memoryPolicy", policy("MPOL_DEFAULT", "0"), "linux.memoryPolicy.nodes"),
        ("/linux/memoryPolicy", policy("MPOL_BIND", ""), "linux.memoryPolicy.nodes"),
        (
            "/linux/memoryPolicy/flags",
            json!(["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]),
            "linux.memoryPolicy.flags",
        ),
        ("/linux/devices", device(0), "linux.devices[0].major"),
        ("/linux/devices", json!([{ "path": "/dev/x", "type": "c" }]), "linux.devices[0].major"),
        ("/linux/resources/cpu", json!({ "idle": 2 }), "linux.resources.cpu.idle"),
        ("/linux/resources/cpu", cpu(1000, 2000), "linux.resources.cpu.burst"),
        ("/linux/resources/memory", json!({ "swappiness": 101 }), "linux.resources.memory.swappiness"),
        ("/linux/resources/rdma", json!({ "mlx": {} }), "linux.resources.rdma.mlx"),
        (
            "/linux/resources/blockIO",
            json!({ "weightDevice": [{ "major": 8, "minor": 0 }] }),
            "linux.resources.blockIO.weightDevice[0]",
        ),
        (
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x" }),
            "seccomp: listenerMetadata",
        ),
        // What is no rule of Landlock.
        ("/annotations", json!({ crate::landlock::ANNOTATION: "" }), crate::landlock::ANNOTATION),
        ("/annotations", json!({ crate::landlock::ANNOTATION: "x /usr" }), crate::landlock::ANNOTATION),
        ("/annotations", json!({ crate::landlock::ANNOTATION: "rx usr" }), crate::landlock::ANNOTATION),
        ("/annotations", json!({ crate::landlock::ANNOTATION: "rx" }), crate::landlock::ANNOTATION),
    ];
    for (place, value, word) in table {
        match judge(&with(place, value.clone())) {
            Verdict::Refused(error) => assert!(error.contains(word), "{place} is {value}: {error}"),
            Verdict::Accepted => panic!("{place} is {value}: accepted"),
        }
    }
}

#[test]
fn the_size_of_a_terminal_counts_where_there_is_one() {
    let mut spec: Value =
        serde_json::from_str(&with("/process/consoleSize", json!({ "height": 70_000, "width": 1 }))).unwrap();
    assert!(matches!(judge(&spec.to_string()), Verdict::Accepted));
    spec["process"]["terminal"] = json!(true);
    refused("/process/consoleSize", &spec.to_string(), "70000");
}

#[test]
fn what_the_specification_allows_is_accepted() {
    let table = [
        ("/ociVersion", json!("1.0.2-dev")),
        ("/ociVersion", json!("1.2.0+dev")),
        ("/ociVersion", json!("1.0.0-rc5-dev")),
        ("/process", Value::Null),
        ("/process/scheduler", json!({ "policy": "SCHED_RR", "priority": 99 })),
        ("/process/scheduler", json!({ "policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 10 })),
        ("/linux/personality", json!({ "domain": "LINUX32" })),
        ("/linux/memoryPolicy", json!({ "mode": "MPOL_PREFERRED", "nodes": "" })),
        ("/linux/memoryPolicy", json!({ "mode": "MPOL_LOCAL" })),
        ("/linux/devices", json!([{ "path": "/dev/x", "type": "p" }])),
        ("/linux/resources/cpu", json!({ "quota": -1, "burst": 2000, "idle": 1 })),
        ("/annotations", json!({ crate::landlock::ANNOTATION: "rx /usr\n\nrw /a b\n" })),
    ];
    for (place, value) in table {
        let verdict = judge(&with(place, value.clone()));
        assert!(matches!(verdict, Verdict::Accepted), "{place} is {value}: {verdict:?}");
    }
}
