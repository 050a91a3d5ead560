//! Namespaces: new ones, joined ones, the host's; names, sysctls, user maps, time offsets.

use crate::harness::{Case, Context, Need, case, json};
use std::fs;
use std::os::unix::fs::MetadataExt;

pub fn cases() -> Vec<Case> {
    vec![
        case!(each_listed_namespace_is_new_and_the_others_are_the_hosts),
        case!(a_namespace_is_joined_by_its_path),
        case!(a_pid_namespace_is_joined_by_its_path),
        case!(a_user_namespace_is_joined_by_its_path)
            .differs("runc", "1.1 wants the mappings beside the path")
            .differs("crun", "1.8 wants the mappings again"),
        case!(the_names_of_the_host_are_set_inside_only),
        case!(the_domain_name_is_set).needs(Need::Vctx),
        case!(users_are_mapped),
        case!(files_made_by_mapped_root_belong_to_the_mapped_user),
        case!(mapped_root_has_no_power_over_the_host),
        case!(a_process_in_a_user_namespace_can_be_entered),
        case!(sysctls_are_set_inside_only),
        case!(a_sysctl_of_the_host_is_refused),
        case!(a_control_group_namespace_shows_its_own_root),
        case!(a_new_network_namespace_has_only_loopback),
        case!(processes_of_the_host_are_not_visible),
        case!(a_time_namespace_has_its_offsets)
            .needs(Need::Path("/proc/self/ns/time"))
            .differs("runc", "1.1 knows no time namespace")
            .differs("crun", "1.8 knows no time namespace"),
    ]
}

const SHOW: &str = "for n in pid net ipc uts mnt cgroup user; do readlink /proc/self/ns/$n; done";

fn host(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_string()
}

fn each_listed_namespace_is_new_and_the_others_are_the_hosts() {
    let printed = Context::sh(SHOW).prints();
    for (kind, inside) in ["pid", "net", "ipc", "uts", "mnt", "cgroup", "user"].iter().zip(printed.lines()) {
        let is_new = !["cgroup", "user"].contains(kind);
        assert_eq!(inside != host(kind), is_new, "{kind}");
    }
    let mut context = Context::sh(SHOW);
    for kind in ["network", "ipc", "uts"] {
        context.without_namespace(kind);
    }
    context.spec.as_object_mut().unwrap().remove("hostname");
    // Without a network namespace of its own the kernel allows no new sysfs.
    context.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| mount["type"] != "sysfs" && mount["type"] != "mqueue");
    let printed = context.prints();
    for line in printed.lines().filter(|line| ["net", "ipc", "uts"].iter().any(|kind| line.starts_with(kind)))
    {
        let kind = line.split(':').next().unwrap();
        assert_eq!(line, host(kind));
    }
}

fn a_namespace_is_joined_by_its_path() {
    let other = Context::idle();
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        let path = format!("/proc/{}/ns/{file}", other.pid());
        let mut context = Context::sh(&format!("readlink /proc/self/ns/{file}; hostname"));
        context.join_namespace(kind, &path);
        if kind == "uts" {
            context.spec.as_object_mut().unwrap().remove("hostname");
        }
        let expected = fs::read_link(&path).unwrap();
        assert_eq!(context.prints(), format!("{}\ncontext", expected.display()), "{kind}");
    }
}

fn a_pid_namespace_is_joined_by_its_path() {
    let other = Context::idle();
    let mut context = Context::sh("ps | grep -c '[s]leep 1000'; test $$ != 1 && echo not the first");
    context.join_namespace("pid", &format!("/proc/{}/ns/pid", other.pid()));
    assert_eq!(context.prints(), "1\nnot the first");
    assert_eq!(other.status(), "running");
}

fn a_user_namespace_is_joined_by_its_path() {
    let mut other = mapped("sleep 1000");
    other.launch();
    let path = format!("/proc/{}/ns/user", other.pid());
    let mut context = mapped("readlink /proc/self/ns/user");
    context.spec["linux"].as_object_mut().unwrap().retain(|key, _| !key.ends_with("Mappings"));
    context.join_namespace("user", &path);
    assert_eq!(context.prints(), fs::read_link(path).unwrap().to_str().unwrap());
}

fn the_names_of_the_host_are_set_inside_only() {
    let before = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let mut context = Context::sh("hostname");
    context.set("/hostname", json!("inside.example"));
    assert_eq!(context.prints(), "inside.example");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
}

fn the_domain_name_is_set() {
    let mut context = Context::sh("cat /proc/sys/kernel/domainname");
    context.set("/domainname", json!("example.org"));
    assert_eq!(context.prints(), "example.org");
}

/// A context with a user namespace: its root is user 200000 of the host.
fn mapped(script: &str) -> Context {
    let mut context = Context::sh(script);
    context.push("/linux/namespaces", json!({ "type": "user" }));
    let map = json!([{ "containerID": 0, "hostID": 200_000, "size": 5000 }]);
    context.set("/linux/uidMappings", map.clone());
    context.set("/linux/gidMappings", map);
    for file in ["", "tmp", "etc"] {
        std::os::unix::fs::chown(context.root(file), Some(200_000), Some(200_000)).unwrap();
    }
    context
}

fn users_are_mapped() {
    let script =
        "for m in uid gid; do awk '{print $1, $2, $3}' /proc/self/${m}_map; done; id -u; stat -c %u:%g /bin";
    assert_eq!(mapped(script).prints(), "0 200000 5000\n0 200000 5000\n0\n65534:65534");
    let mut context = mapped("id -u; grep ^Uid /proc/self/status");
    context.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    assert_eq!(context.prints(), "1000\nUid:\t1000\t1000\t1000\t1000");
}

fn files_made_by_mapped_root_belong_to_the_mapped_user() {
    let context = mapped("touch /tmp/mine; chown 7:8 /tmp/mine");
    context.run().ok();
    let file = fs::metadata(context.root("tmp/mine")).unwrap();
    assert_eq!((file.uid(), file.gid()), (200_007, 200_008));
}

fn mapped_root_has_no_power_over_the_host() {
    let mut context = mapped("touch /host/x || echo refused; mknod /tmp/sda b 8 0 || echo refused");
    let folder = context.dir.join("host");
    fs::create_dir(&folder).unwrap();
    context.bind("/host", &folder, &["bind"]);
    assert_eq!(context.prints(), "refused\nrefused");
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
}

fn a_process_in_a_user_namespace_can_be_entered() {
    let mut context = mapped("sleep 1000");
    context.launch();
    let first = format!("/proc/{}/ns/user", context.pid());
    assert_eq!(
        context.exec_sh("id -u; readlink /proc/self/ns/user").ok().line(),
        format!("0\n{}", fs::read_link(first).unwrap().display())
    );
}

fn sysctls_are_set_inside_only() {
    let read = |file: &str| fs::read_to_string(format!("/proc/sys/{file}")).unwrap();
    let before = (read("kernel/msgmax"), read("net/ipv4/ip_forward"), read("net/core/somaxconn"));
    let mut context = Context::sh("cd /proc/sys; cat kernel/msgmax net/ipv4/ip_forward net/core/somaxconn");
    let sysctl = json!({ "kernel.msgmax": "9001", "net.ipv4.ip_forward": "1", "net.core.somaxconn": "77" });
    context.set("/linux/sysctl", sysctl);
    assert_eq!(context.prints(), "9001\n1\n77");
    assert_eq!((read("kernel/msgmax"), read("net/ipv4/ip_forward"), read("net/core/somaxconn")), before);
}

fn a_sysctl_of_the_host_is_refused() {
    let before = fs::read_to_string("/proc/sys/vm/swappiness").unwrap();
    for name in ["vm.swappiness", "kernel.panic", "../../etc/passwd", "net.ipv4/../../kernel/panic"] {
        let mut context = Context::new();
        context.set("/linux/sysctl", json!({ name: "1" }));
        context.create().refused();
        context.assert_nothing_left();
    }
    // A sysctl of a namespace that is the host's is the host's.
    let mut context = Context::new();
    context.without_namespace("ipc");
    context.set("/linux/sysctl", json!({ "kernel.msgmax": "9001" }));
    context.create().refused();
    assert_eq!(fs::read_to_string("/proc/sys/vm/swappiness").unwrap(), before);
}

fn a_control_group_namespace_shows_its_own_root() {
    let mut context = Context::sh("cut -d: -f3 /proc/self/cgroup | sort -u");
    let id = context.id.clone();
    assert!(context.prints().contains(&id));
    context.push("/linux/namespaces", json!({ "type": "cgroup" }));
    assert!(!context.prints().contains(&id));
}

fn a_new_network_namespace_has_only_loopback() {
    assert_eq!(Context::sh("tail -n +3 /proc/net/dev | cut -d: -f1").prints(), "lo");
}

fn processes_of_the_host_are_not_visible() {
    assert_eq!(Context::sh("echo /proc/[0-9]*").prints(), "/proc/1");
    let context = Context::new();
    assert!(context.root("bin/sh").exists());
}

fn a_time_namespace_has_its_offsets() {
    let mut context =
        Context::sh("cut -d. -f1 /proc/uptime; awk '/boottime/ {print $2}' /proc/self/timens_offsets");
    context.push("/linux/namespaces", json!({ "type": "time" }));
    context.set("/linux/timeOffsets", json!({ "boottime": { "secs": 1_000_000, "nanosecs": 0 } }));
    let printed = context.prints();
    let (uptime, offset) = printed.split_once('\n').unwrap();
    assert!(uptime.parse::<u64>().unwrap() > 1_000_000);
    assert_eq!(offset, "1000000");
}
