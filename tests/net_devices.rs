//! Network devices of the host that move into a context: name, addresses, state, and the way back.

use crate::harness::{Case, Context, Need, case, command, json};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(a_device_moves_with_its_addresses_and_is_up),
        case!(a_device_gets_a_new_name),
        case!(a_template_gets_a_number),
        case!(a_device_comes_back_when_the_create_fails),
        case!(an_absent_device_is_refused),
        case!(a_name_that_is_taken_is_refused),
        case!(a_device_moves_into_a_joined_namespace),
        case!(devices_of_a_context_with_mapped_users_move),
        case!(a_device_needs_a_network_namespace_and_a_name),
    ];
    // The peers here are older than version 1.3 of the specification.
    cases.into_iter().map(|case| case.needs(Need::Vctx).needs(Need::Program("ip"))).collect()
}

/// One end of a veth pair in the host's namespace.
struct Veth {
    name: String,
    peer: String,
}

impl Veth {
    fn new() -> Veth {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("v{}n{number}", std::process::id());
        let veth = Veth { peer: format!("{name}p"), name };
        ip(&["link", "add", &veth.name, "type", "veth", "peer", "name", &veth.peer]);
        ip(&["link", "set", &veth.peer, "up"]);
        ip(&["link", "set", &veth.name, "up"]);
        for address in ["192.0.2.7/24", "2001:db8::7/64"] {
            ip(&["address", "add", address, "dev", &veth.name]);
        }
        veth
    }

    fn is_here(&self) -> bool {
        std::path::Path::new("/sys/class/net").join(&self.name).exists()
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // The other end goes with it, wherever that is.
        command::quietly(Command::new("ip").args(["link", "delete", &self.peer]));
    }
}

#[track_caller]
fn ip(args: &[&str]) -> String {
    command::run(Command::new("ip").args(args)).ok().stdout
}

fn with(script: &str, veth: &Veth, device: serde_json::Value) -> Context {
    let mut context = Context::sh(script);
    context.set("/linux/netDevices", json!({ &veth.name: device }));
    context
}

fn a_device_moves_with_its_addresses_and_is_up() {
    let veth = Veth::new();
    let script = format!("ip -o address show dev {0}; ip -o link show dev {0}", veth.name);
    let printed = with(&script, &veth, json!({})).prints();
    for word in ["192.0.2.7/24", "2001:db8::7/64", ",UP"] {
        assert!(printed.contains(word), "{word} in {printed}");
    }
    // With its namespace a virtual device ends; the specification leaves that to the kernel.
    assert!(!veth.is_here());
}

fn a_device_gets_a_new_name() {
    let veth = Veth::new();
    let printed = with("ip -o address show dev inside0", &veth, json!({ "name": "inside0" })).prints();
    assert!(printed.contains("192.0.2.7/24"), "{printed}");
}

fn a_template_gets_a_number() {
    let veth = Veth::new();
    let printed = with("ip -o link show dev net0", &veth, json!({ "name": "net%d" })).prints();
    assert!(printed.contains("net0"), "{printed}");
}

fn a_device_comes_back_when_the_create_fails() {
    let veth = Veth::new();
    let mut context = with("true", &veth, json!({ "name": "inside0" }));
    let hook = json!({ "path": "/bin/sh", "args": ["sh", "-c", "exit 1"] });
    context.set("/hooks/createRuntime", json!([hook]));
    context.create().refused_with(&["hook"]);
    context.assert_nothing_left();
    let here = ip(&["-o", "address", "show", "dev", &veth.name]) + &ip(&["-o", "link", "show", &veth.name]);
    for word in ["192.0.2.7/24", "2001:db8::7/64", ",UP"] {
        assert!(here.contains(word), "{word} in {here}");
    }
}

fn an_absent_device_is_refused() {
    let veth = Veth::new();
    let mut context = with("true", &veth, json!({}));
    context.set("/linux/netDevices/absent0", json!({}));
    context.create().refused_with(&["absent0"]);
    context.assert_nothing_left();
    let mut context = Context::new();
    // Between a device that moves and one that does not, the first one comes back.
    context.set("/linux/netDevices", json!({ &veth.name: {}, "zabsent": {} }));
    context.create().refused_with(&["zabsent"]);
    assert!(veth.is_here());
}

fn a_name_that_is_taken_is_refused() {
    let veth = Veth::new();
    let mut context = with("true", &veth, json!({ "name": "lo" }));
    context.create().refused_with(&["\"lo\" already"]);
    context.assert_nothing_left();
    assert!(veth.is_here());
}

fn a_device_moves_into_a_joined_namespace() {
    let (veth, other) = (Veth::new(), Context::idle());
    let mut context = with("ip -o address show dev inside0", &veth, json!({ "name": "inside0" }));
    context.join_namespace("network", &format!("/proc/{}/ns/net", other.pid()));
    let printed = context.prints();
    assert!(printed.contains("192.0.2.7/24"), "{printed}");
    // Not the whole text: a new address of version 6 is at first tentative.
    let seen = other.exec_sh("ip -o address show dev inside0").ok();
    assert!(seen.line().contains("192.0.2.7/24"), "{}", seen.line());
}

fn devices_of_a_context_with_mapped_users_move() {
    let veth = Veth::new();
    let mut context = with("ip -o address show dev inside0", &veth, json!({ "name": "inside0" }));
    context.push("/linux/namespaces", json!({ "type": "user" }));
    let map = json!([{ "containerID": 0, "hostID": 200_000, "size": 5000 }]);
    context.set("/linux/uidMappings", map.clone());
    context.set("/linux/gidMappings", map);
    let printed = context.prints();
    assert!(printed.contains("192.0.2.7/24"), "{printed}");
}

fn a_device_needs_a_network_namespace_and_a_name() {
    let mut context = Context::new();
    context.without_namespace("network");
    context.set("/linux/netDevices", json!({ "veth0": {} }));
    context.create().refused_with(&["linux.netdevices: needs a network namespace"]);
    for devices in [
        json!({ "a/b": {} }),
        json!({ "veth0": { "name": "much-too-long-for-the-kernel" } }),
        json!({ "veth0": { "name": "one" }, "veth1": { "name": "one" } }),
    ] {
        let mut context = Context::new();
        context.set("/linux/netDevices", devices);
        context.create().refused_with(&["linux.netdevices["]);
        context.assert_nothing_left();
    }
}
