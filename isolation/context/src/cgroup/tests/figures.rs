//! Statistics against the kernel's files.

use super::*;

#[test]
fn figures_are_the_kernels() {
    let Some(mut fixture) = Fixture::new("stats") else { return };
    if !["memory", "cpu", "cpuacct", "pids", "cpuset"].iter().all(|name| fixture.has(name)) {
        return skipped("the controllers are not here in this version");
    }
    fixture
        .apply(r#"{"memory":{"limit":268435456},"pids":{"limit":20},"cpu":{"quota":10000,"period":50000}}"#)
        .unwrap();
    let pid = fixture.spawn("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; kill -STOP $$");
    until(|| file::read(Path::new(&format!("/proc/{pid}/stat"))).unwrap().contains(") T "));
    let stats = fixture.group.stats().unwrap();
    let kernel = |controller, name| fixture.value(controller, name).parse::<u64>().unwrap();
    assert_eq!(stats.cpu.usage.total, kernel("cpuacct", "cpuacct.usage"));
    assert!(stats.cpu.usage.total > 0);
    assert_eq!(stats.cpu.usage.percpu.iter().sum::<u64>(), stats.cpu.usage.total);
    assert_eq!(stats.cpu.usage.percpu_user.iter().sum::<u64>(), kernel("cpuacct", "cpuacct.usage_user"));
    let ticks = file::keyed(&fixture.value("cpuacct", "cpuacct.stat"), "user").unwrap();
    assert_eq!(stats.cpu.usage.user, ticks * 10_000_000);
    let throttled = file::keyed(&fixture.value("cpu", "cpu.stat"), "throttled_time").unwrap();
    assert_eq!(stats.cpu.throttling.throttled_time, throttled);
    assert!(throttled > 0);
    assert_eq!(stats.pids, Pids { current: 1, limit: 20 });
    assert_eq!(stats.memory.usage.limit, 268435456);
    assert!(stats.memory.usage.usage > 0 && stats.memory.usage.max >= stats.memory.usage.usage);
    assert_eq!(stats.memory.raw["hierarchical_memory_limit"], 268435456);
    assert!(stats.cpuset.cpus.len() == kernel_cpus(&fixture));
    let json = serde_json::to_value(&stats).unwrap();
    for pointer in
        ["/cpu/usage/total", "/cpu/throttling/throttledTime", "/memory/kernelTCP/limit", "/pids/current"]
    {
        assert!(json.pointer(pointer).is_some_and(|value| value.is_u64()), "{pointer}");
    }
}

fn kernel_cpus(fixture: &Fixture) -> usize {
    let root = &fixture.group.v1.iter().find(|h| h.controllers.contains(&"cpuset".to_owned())).unwrap().point;
    let text = file::read(&root.join("cpuset.cpus")).unwrap();
    let range = text.trim().split_once('-').unwrap_or(("0", "0"));
    range.1.parse::<usize>().unwrap() + 1
}

#[test]
fn figures_of_version_2_without_controllers_are_those_of_the_core() {
    let Some(mut fixture) = Fixture::unified("stats-v2") else { return };
    fixture.succeeds("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done");
    let stats = fixture.group.stats().unwrap();
    let usage = file::keyed(&fixture.value("cpu-of-v2", "cpu.stat"), "usage_usec").unwrap();
    assert!(usage > 0);
    assert_eq!(stats.cpu.usage.total, usage * 1000);
}
