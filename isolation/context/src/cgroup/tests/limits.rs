//! Limits: translated, written, refused.

use super::super::limits;
use super::*;

#[test]
fn limits_of_version_1_reach_the_kernel() {
    let Some(fixture) = Fixture::new("limits") else { return };
    if !["memory", "cpu", "pids", "cpuset"].iter().all(|name| fixture.has(name)) {
        return skipped("the controllers are not here in this version");
    }
    let json = r#"{"memory":{"limit":67108864,"swap":134217728,"reservation":33554432,"swappiness":10},
        "cpu":{"shares":512,"quota":50000,"period":100000,"burst":10000,"cpus":"0","mems":"0"},
        "pids":{"limit":33}}"#;
    fixture.apply(json).unwrap();
    for (controller, file, value) in [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.memsw.limit_in_bytes", "134217728"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("memory", "memory.swappiness", "10"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_burst_us", "10000"),
        ("cpuset", "cpuset.cpus", "0"),
        ("pids", "pids.max", "33"),
    ] {
        assert_eq!(fixture.value(controller, file), value, "{file}");
    }
    // Up past the old swap limit, down below the old memory limit, a quota below the old burst, and off.
    fixture
        .apply(r#"{"memory":{"limit":268435456,"swap":268435456},"cpu":{"quota":200000,"burst":60000}}"#)
        .unwrap();
    assert_eq!(fixture.value("memory", "memory.memsw.limit_in_bytes"), "268435456");
    fixture
        .apply(r#"{"memory":{"limit":33554432,"swap":33554432},"cpu":{"quota":20000,"burst":5000}}"#)
        .unwrap();
    assert_eq!(fixture.value("memory", "memory.memsw.limit_in_bytes"), "33554432");
    assert_eq!(fixture.value("cpu", "cpu.cfs_burst_us"), "5000");
    fixture
        .apply(r#"{"memory":{"limit":-1},"cpu":{"quota":-1,"burst":0,"idle":1},"pids":{"limit":-1}}"#)
        .unwrap();
    assert_eq!(fixture.value("memory", "memory.memsw.limit_in_bytes").len(), 19);
    assert_eq!(fixture.value("cpu", "cpu.cfs_quota_us"), "-1");
    assert_eq!(fixture.value("pids", "pids.max"), "max");
    fixture.apply(r#"{"cpu":{"idle":0,"shares":1024}}"#).unwrap();
    assert_eq!(fixture.value("cpu", "cpu.shares"), "1024");
}

#[test]
fn limits_of_version_2_reach_the_kernel() {
    let Some(fixture) = Fixture::unified("limits-v2") else { return };
    if !["memory", "cpu", "pids"].iter().all(|name| fixture.group.home(name).is_some()) {
        return skipped("the controllers are not here in this version");
    }
    let json = r#"{"memory":{"limit":67108864,"reservation":33554432},
        "cpu":{"shares":1024,"quota":50000,"period":100000},"pids":{"limit":33},"unified":{"memory.high":"60000000"}}"#;
    fixture.apply(json).unwrap();
    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("memory.high", "59998208"),
        ("cpu.weight", "100"),
        ("cpu.max", "50000 100000"),
        ("pids.max", "33"),
    ] {
        assert_eq!(fixture.value("of v2", file), value, "{file}");
    }
    fixture.apply(r#"{"cpu":{"quota":20000,"idle":1}}"#).unwrap();
    assert_eq!(fixture.value("of v2", "cpu.max"), "20000 100000");
    fixture.apply(r#"{"cpu":{"idle":0,"shares":2,"period":50000}}"#).unwrap();
    assert_eq!(fixture.value("of v2", "cpu.max"), "20000 50000");
    assert_eq!(fixture.value("of v2", "cpu.weight"), "1");
    fixture.apply(r#"{"memory":{"limit":-1},"cpu":{"quota":-1},"pids":{"limit":-1}}"#).unwrap();
    assert_eq!(fixture.value("of v2", "memory.max"), "max");
    assert_eq!(fixture.value("of v2", "cpu.max"), "max 50000");
    let stats = fixture.group.stats().unwrap();
    assert_eq!((stats.memory.usage.limit, stats.pids.limit), (u64::MAX, 0));
}

#[test]
fn rates_of_block_devices_reach_the_kernel() {
    let Some(fixture) = Fixture::new("rates") else { return };
    let disks = std::fs::read_dir("/sys/block").unwrap().flatten();
    let numbers = disks.filter_map(|disk| file::read(&disk.path().join("dev")).ok()).next();
    let Some(device) = numbers.filter(|_| fixture.has("blkio")) else {
        return skipped("the controllers are not here in this version");
    };
    let (major, minor) = device.trim().split_once(':').unwrap();
    let rates = |rate| {
        let entry = format!(r#"[{{"major":{major},"minor":{minor},"rate":{rate}}}]"#);
        format!(r#"{{"blockIO":{{"throttleReadBpsDevice":{entry},"throttleWriteIOPSDevice":{entry}}}}}"#)
    };
    fixture.apply(&rates(1048576)).unwrap();
    let line = format!("{major}:{minor} 1048576");
    assert_eq!(fixture.value("blkio", "blkio.throttle.read_bps_device"), line);
    assert_eq!(fixture.value("blkio", "blkio.throttle.write_iops_device"), line);
    fixture.apply(&rates(0)).unwrap();
    assert_eq!(fixture.value("blkio", "blkio.throttle.read_bps_device"), "");
}

#[test]
fn a_limit_without_its_controller_is_an_error_with_its_name_and_no_limit_is_none() {
    let Some(fixture) = Fixture::unified("missing") else { return };
    if file::read(&fixture.group.v2.as_ref().unwrap().point.join("cgroup.controllers"))
        .unwrap()
        .contains("memory")
    {
        return skipped("the controllers are not here in this version");
    }
    for (json, field) in [
        (r#"{"memory":{"limit":1048576}}"#, "memory.limit"),
        (r#"{"pids":{"limit":5}}"#, "pids.limit"),
        (r#"{"network":{"classID":7}}"#, "network.classID"),
        (r#"{"unified":{"memory.high":"1048576"}}"#, "unified.memory.high"),
        (r#"{"unified":{"../x.y":"1"}}"#, "unified.../x.y"),
        (
            r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":9}]}}"#,
            "blockIO.throttleReadBpsDevice",
        ),
    ] {
        let error = fixture.apply(json).unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
    fixture
        .apply(r#"{"memory":{"limit":-1,"swap":-1},"pids":{"limit":-1},"cpu":{"quota":-1,"burst":0}}"#)
        .unwrap();
}

#[test]
fn a_version_2_controller_is_turned_on_when_a_limit_needs_it() {
    let Some(fixture) = Fixture::new("hugetlb") else { return };
    let Some(v2) = fixture.group.v2.as_ref() else { return skipped("no unified hierarchy") };
    let available = file::read(&v2.point.join("cgroup.controllers")).unwrap();
    if !available.split_whitespace().any(|name| name == "hugetlb") {
        return skipped("the controllers are not here in this version");
    }
    fixture.apply(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#).unwrap();
    assert_eq!(file::read_number(&v2.dir.join("hugetlb.2MB.max")).unwrap(), 4194304);
    assert_eq!(file::read_number(&v2.dir.join("hugetlb.2MB.rsvd.max")).unwrap(), 4194304);
    assert!(fixture.group.stats().unwrap().hugetlb.contains_key("2MB"));
    fixture.apply(r#"{"unified":{"hugetlb.2MB.max":"2097152"}}"#).unwrap();
    assert_eq!(file::read_number(&v2.dir.join("hugetlb.2MB.max")).unwrap(), 2097152);
    let error = fixture.apply(r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#).unwrap_err();
    assert!(error.to_string().starts_with("hugepageLimits.pageSize"));
}

#[test]
fn check_before_update_refuses_a_limit_below_what_is_used() {
    let Some(mut fixture) = Fixture::new("in-use") else { return };
    if fixture.group.home("memory").is_none() {
        return skipped("the controllers are not here in this version");
    }
    fixture.spawn("x=$(head -c 10000000 /dev/zero | tr '\\0' x); sleep 1000; echo $x");
    until(|| fixture.group.memory_usage().unwrap() > 9_000_000);
    let error = fixture.apply(r#"{"memory":{"limit":4194304,"checkBeforeUpdate":true}}"#).unwrap_err();
    assert!(matches!(error, Error::MemoryInUse { limit: 4194304, .. }), "{error}");
    fixture.apply(r#"{"memory":{"limit":268435456,"checkBeforeUpdate":true}}"#).unwrap();
}

#[test]
fn shares_become_the_weight_of_the_same_standing() {
    for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (1_000_000, 10_000)] {
        assert_eq!(v2::weight_of_shares(shares), weight, "{shares}");
    }
    let rising = (2..262_144).step_by(97).map(v2::weight_of_shares).collect::<Vec<_>>();
    assert!(rising.is_sorted());
}

/// The settings that version 2 would get, as `file=value`.
fn settings(result: Result<Vec<limits::Setting>, Error>) -> Vec<String> {
    result.unwrap().into_iter().map(|setting| format!("{}={}", setting.file, setting.value)).collect()
}

#[test]
fn limits_in_the_words_of_version_2() {
    let parse = |json| serde_json::from_str::<LinuxResources>(json).unwrap();
    let none = limits::Files(None);
    let memory = |json| settings(v2::memory(parse(json).memory().as_ref().unwrap(), &none));
    assert_eq!(
        memory(r#"{"memory":{"limit":100,"swap":150,"reservation":50}}"#),
        ["memory.max=100", "memory.swap.max=50", "memory.low=50"]
    );
    assert_eq!(memory(r#"{"memory":{"limit":-1}}"#), ["memory.max=max", "memory.swap.max=max"]);
    assert_eq!(memory(r#"{"memory":{"limit":100,"swap":-1}}"#), ["memory.max=100", "memory.swap.max=max"]);
    let cpu = |json| settings(v2::cpu(parse(json).cpu().as_ref().unwrap(), &none));
    assert_eq!(
        cpu(r#"{"cpu":{"shares":1024,"quota":50000,"period":100000,"burst":10}}"#),
        ["cpu.weight=100", "cpu.max=50000 100000", "cpu.max.burst=10"]
    );
    assert_eq!(cpu(r#"{"cpu":{"quota":-1}}"#), ["cpu.max=max"]);
    assert_eq!(cpu(r#"{"cpu":{"period":1000}}"#), ["cpu.max=max 1000"]);
    assert_eq!(cpu(r#"{"cpu":{"idle":1,"shares":5}}"#), ["cpu.idle=1"]);
    let io = |json| settings(v2::block_io(parse(json).block_io().as_ref().unwrap(), &none));
    assert_eq!(
        io(r#"{"blockIO":{"weight":10,"weightDevice":[{"major":8,"minor":0,"weight":1000}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":7}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}"#),
        ["io.weight=1", "io.weight=8:0 10000", "io.max=8:0 rbps=7 wiops=max"]
    );
}

#[test]
fn contradictions_are_refused_with_the_field_that_is_wrong() {
    for (json, field) in [
        (r#"{"memory":{"limit":100,"swap":50}}"#, "memory.swap"),
        (r#"{"memory":{"swap":50}}"#, "memory.swap"),
        (r#"{"memory":{"swappiness":5}}"#, "memory.swappiness"),
        (r#"{"memory":{"limit":5,"disableOOMKiller":true}}"#, "memory.disableOOMKiller"),
    ] {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let error =
            v2::memory(resources.memory().as_ref().unwrap(), &limits::Files(None)).unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
}
