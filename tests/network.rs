//! Networks of `--net`: bridges, addresses, names, isolation, repair. Real servers, over IPv4 and IPv6.

use crate::harness::net::{HOST, Host, OUTSIDE, SERVER, wget, within};
use crate::harness::{Case, Need, case, eventually, run, runtime};
use std::process::{Command, Stdio};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(contexts_of_a_network_reach_each_other_by_name_and_by_address),
        case!(contexts_of_two_networks_do_not_reach_each_other),
        case!(the_outside_is_reached_with_the_address_of_the_host),
        case!(an_internal_network_stays_on_the_machine),
        case!(an_address_that_is_asked_for_is_had_and_given_once),
        case!(a_full_network_is_told_and_emptied),
        case!(subnets_that_overlap_are_refused),
        case!(the_default_network_keeps_clear_of_the_hosts_routes),
        case!(a_network_in_use_is_not_removed),
        case!(a_removed_bridge_and_flushed_rules_are_made_anew),
        case!(a_start_that_fails_gives_its_address_back),
        case!(killed_commands_leave_nothing_that_prune_does_not_repair),
        case!(many_contexts_come_and_go_without_a_trace),
        case!(the_rules_of_others_are_untouched),
        case!(what_nobody_has_spoken_of_passes_where_the_policy_is_to_drop).needs(Need::Program("iptables")),
        case!(a_machine_without_nft_is_told_which_package_brings_it),
        case!(wrong_names_and_options_are_refused),
    ];
    let needs = [Need::Vctx, Need::Program("ip"), Need::Program("nft"), Need::Program("nsenter")];
    let with = |case: Case| needs.into_iter().fold(case, Case::needs);
    cases.into_iter().map(with).collect()
}

/// A host on which these contexts serve: (name, network).
fn serving(contexts: &[(&str, &str)]) -> Host {
    let host = Host::new();
    for (name, network) in contexts {
        if *network != "bridge" && !host.call(&["network", "ls", "-q"]).ok().stdout.contains(network) {
            host.call(&["network", "create", network]).ok();
        }
        host.detached(name, &["--net", network], SERVER).ok();
    }
    host
}

fn contexts_of_a_network_reach_each_other_by_name_and_by_address() {
    let host = serving(&[("one", "bridge"), ("two", "bridge")]);
    let (one, two) = (host.addresses("vctx0", "one"), host.addresses("vctx0", "two"));
    for (own, other) in one.iter().zip(&two) {
        let answer = host.asks("one", other);
        assert!(answer.contains("two sees") && answer.contains(own.as_str()), "{answer}");
        assert!(host.asks("two", own).contains("one sees"));
    }
    // By the host name and by the context's own name; a third one, that came later, knows both and is known.
    assert!(host.asks("one", "two").contains("two sees"));
    assert!(host.asks("one", &host.id("two")).contains("two sees"));
    host.detached("three", &["--net", "vctx0"], SERVER).ok();
    assert!(host.asks("one", "three").contains("three sees"));
    host.delete("three");
    assert!(!host.exec("one", "cat /etc/hosts").ok().stdout.contains("\n10.200.0.4"));
    host.is_refused("one", "three");
    host.exec("one", "echo x >/etc/hosts").refused();
}

fn contexts_of_two_networks_do_not_reach_each_other() {
    let host = serving(&[("one", "bridge"), ("two", "bridge"), ("far", "blue")]);
    let (one, far) = (host.addresses("vctx0", "one"), host.addresses("blue", "far"));
    for (near, distant) in one.iter().zip(&far) {
        assert!(host.asks("two", near).contains("one sees"));
        host.is_refused("one", distant);
        host.is_refused("far", near);
    }
    assert!(!host.exec("far", "cat /etc/hosts").ok().stdout.contains("one"));
    // The host itself reaches all of them.
    for address in one.iter().chain(&far) {
        let asked = run(host.inside("sh").args(["-c", &format!("busybox {}", wget(address, 2))]));
        assert!(asked.ok().stdout.contains("sees"));
    }
}

fn the_outside_is_reached_with_the_address_of_the_host() {
    let host = serving(&[("one", "bridge")]);
    host.serve(&host.outside());
    for (own, address) in HOST.iter().zip(OUTSIDE) {
        let answer = host.asks("one", address);
        assert!(answer.contains("sees") && answer.contains(own), "{answer}");
    }
    // And not the other way round, even by somebody who knows the way.
    for (subnet, address) in host.inspect("vctx0")["subnets"].as_array().unwrap().iter().zip(HOST) {
        let subnet = subnet.as_str().unwrap();
        run(Command::new("ip").args(["-n", &host.outside(), "route", "add", subnet, "via", address])).ok();
    }
    for address in host.addresses("vctx0", "one") {
        let mut asks = within(&host.outside(), "sh".as_ref());
        let answer = run(asks.args(["-c", &format!("busybox {}", wget(&address, 1))])).stdout;
        assert!(answer.is_empty(), "{answer}");
    }
}

fn an_internal_network_stays_on_the_machine() {
    let host = Host::new();
    host.serve(&host.outside());
    host.call(&["network", "create", "--internal", "inner"]).ok();
    host.detached("one", &["--net", "inner"], SERVER).ok();
    host.detached("two", &["--net", "inner"], SERVER).ok();
    assert!(host.asks("one", "two").contains("two sees"));
    OUTSIDE.iter().for_each(|address| host.is_refused("one", address));
    // Not even with a route of its own making.
    let gateway = host.inspect("inner")["gateways"][0].as_str().unwrap().to_owned();
    let options = ["--net", "inner", "--cap-add", "NET_ADMIN"];
    let script = format!("ip route add default via {gateway}; {}; true", wget(OUTSIDE[0], 1));
    assert!(host.run("three", &options, &script).stdout.is_empty());
}

fn an_address_that_is_asked_for_is_had_and_given_once() {
    let host = Host::new();
    host.call(&["network", "create", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64", "blue"]).ok();
    host.detached("one", &["--net", "blue", "--ip", "10.77.0.9"], "sleep 1000").ok();
    assert_eq!(host.addresses("blue", "one"), ["10.77.0.9", "fd77::9"]);
    let seen = host.exec("one", "ip -o addr show dev eth0").ok().stdout;
    assert!(seen.contains("10.77.0.9/24") && seen.contains("fd77::9/64"), "{seen}");
    for address in ["10.77.0.9", "fd77::9"] {
        let refused = host.run("two", &["--net", "blue", "--ip", address], "true");
        refused.refused_with(&["is in use by the context"]);
    }
    for address in ["10.77.0.1", "10.77.0.255", "10.78.0.2", "fd77::1:0:0"] {
        let refused = host.run("two", &["--net", "blue", "--ip", address], "true");
        refused.refused_with(&["10.77.0.0/24 and fd77::/64"]);
    }
    // As soon as the one is gone, the other can have it.
    host.delete("one");
    host.run("two", &["--net", "blue", "--ip", "fd77::9"], "ip -o addr show dev eth0 | grep 10.77.0.9").ok();
}

fn a_full_network_is_told_and_emptied() {
    let host = Host::new();
    host.call(&["network", "create", "--subnet", "10.77.0.0/29", "tiny"]).ok();
    for name in ["a", "b", "c", "d"] {
        host.detached(name, &["--net", "tiny"], "sleep 1000").ok();
    }
    host.detached("short", &["--net", "tiny"], "true").ok();
    // The fifth has ended, and so its address is free again.
    eventually("the end of the fifth", 5, || {
        let list = host.call(&["list"]).ok().stdout;
        list.lines().any(|line| line.contains("short") && line.contains("stopped")).then_some(())
    });
    host.detached("e", &["--net", "tiny"], "sleep 1000").ok();
    host.detached("f", &["--net", "tiny"], "true").refused_with(&["no free address"]);
    host.delete("b");
    host.detached("f", &["--net", "tiny"], "sleep 1000").ok();
}

fn subnets_that_overlap_are_refused() {
    let host = Host::new();
    host.call(&["network", "create", "--subnet", "10.77.0.0/24", "blue"]).ok();
    let create = |subnet: &str| host.call(&["network", "create", "--subnet", subnet, "green"]);
    create("10.77.0.128/25").refused_with(&["overlaps with the network \"blue\""]);
    create("10.0.0.0/8").refused_with(&["overlaps with the network \"blue\""]);
    create("192.0.2.0/25").refused_with(&["overlaps with the route to 192.0.2.0/24"]);
    create("2001:db8::/48").refused_with(&["overlaps with the route to 2001:db8::"]);
    create("10.1.0.0/31").refused_with(&["too small"]);
    create("10.1.0.1/24").refused_with(&["expected a subnet"]);
    let both = ["network", "create", "--subnet", "10.1.0.0/24", "--subnet", "10.2.0.0/24", "green"];
    host.call(&both).refused_with(&["one family"]);
    host.call(&["network", "create", "blue"]).refused_with(&["exists already"]);
    assert_eq!(host.call(&["network", "ls", "-q"]).ok().stdout, "blue\n");
}

fn the_default_network_keeps_clear_of_the_hosts_routes() {
    let host = Host::new();
    run(Command::new("ip").args(["-n", &host.name, "route", "add", "10.200.0.0/16", "via", OUTSIDE[0]])).ok();
    host.run("one", &["--net", "bridge"], "true").ok();
    assert_eq!(host.inspect("vctx0")["subnets"][0], "10.201.0.0/22");
}

fn a_network_in_use_is_not_removed() {
    let host = serving(&[("one", "blue")]);
    host.call(&["network", "rm", "blue"]).refused_with(&["in use by"]);
    assert!(host.asks("one", "one").contains("one sees"));
    host.delete("one");
    host.call(&["network", "rm", "blue"]).ok();
    assert_eq!(host.devices(), ["lo", "up0"]);
    host.call(&["network", "rm", "blue"]).refused_with(&["there is no network \"blue\""]);
    host.run("one", &["--net", "blue"], "true").refused_with(&["there is no network \"blue\""]);
}

fn a_removed_bridge_and_flushed_rules_are_made_anew() {
    let host = serving(&[("one", "bridge")]);
    host.serve(&host.outside());
    run(Command::new("ip").args(["-n", &host.name, "link", "del", "vctx0"])).ok();
    host.is_refused("one", OUTSIDE[0]);
    host.detached("two", &["--net", "bridge"], SERVER).ok();
    assert!(host.asks("one", "two").contains("two sees"));
    run(host.inside("nft").args(["flush", "ruleset"])).ok();
    host.is_refused("one", OUTSIDE[0]);
    host.run("three", &["--net", "bridge"], "true").ok();
    OUTSIDE.iter().for_each(|address| assert!(host.asks("one", address).contains("sees")));
    // The same by hand, without a start.
    run(Command::new("ip").args(["-n", &host.name, "link", "del", "vctx0"])).ok();
    run(host.inside("nft").args(["flush", "ruleset"])).ok();
    assert!(host.call(&["network", "prune"]).ok().stdout.contains("made the bridge vctx0"));
    OUTSIDE.iter().for_each(|address| assert!(host.asks("two", address).contains("sees")));
    assert_eq!(host.call(&["network", "prune"]).ok().stdout, "");
}

fn a_start_that_fails_gives_its_address_back() {
    let host = Host::new();
    let (id, root) = (host.id("one"), host.folder.join("rootfs"));
    let failed =
        run(host.vctx().args(["run", "--name", &id, "--net", "bridge"]).arg(root).args(["--", "/no/such"]));
    assert_eq!(failed.code, 127);
    assert_eq!(host.inspect("vctx0")["contexts"].as_object().unwrap().len(), 0);
    let hosts = std::fs::read_to_string(host.folder.join("state/.networks/vctx0/hosts")).unwrap();
    assert!(!hosts.contains("\n10.200.0.2"), "{hosts}");
    let gone = || (host.devices() == ["lo", "up0", "vctx0"]).then_some(());
    eventually("the end of the device", 5, gone);
}

fn killed_commands_leave_nothing_that_prune_does_not_repair() {
    let host = Host::new();
    host.run("first", &["--net", "bridge"], "true").ok();
    // So many moments, from before the first step to after the last, that some lie between any two.
    for moment in 0..crate::harness::rounds(60) {
        let id = host.id(&format!("k{moment}"));
        let mut command = host.vctx();
        command.args(["run", "-d", "--name", &id, "--net", "bridge"]).arg(host.folder.join("rootfs"));
        command.args(["--", "sleep", "1000"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_micros(u64::from(moment) * 700));
        let _ = child.kill();
        let _ = child.wait();
        if moment % 2 == 0 {
            host.call(&["delete", "--force", &id]).ok();
        }
    }
    host.call(&["network", "prune"]).ok();
    let about = host.inspect("vctx0");
    let contexts = about["contexts"].as_object().unwrap();
    assert!(contexts.values().all(|one| one["running"] == true), "{about}");
    for id in contexts.keys() {
        host.call(&["delete", "--force", id]).ok();
    }
    assert_eq!(host.inspect("vctx0")["contexts"].as_object().unwrap().len(), 0);
    let hosts = std::fs::read_to_string(host.folder.join("state/.networks/vctx0/hosts")).unwrap();
    assert!(!hosts.lines().any(|line| line.contains('\t') && !line.starts_with('#')), "{hosts}");
}

fn many_contexts_come_and_go_without_a_trace() {
    let host = Host::new();
    let root = host.folder.join("rootfs");
    // `make test-crowd` asks for more, and for figures.
    let crowd = std::env::var("VCTX_CROWD").ok().and_then(|text| text.parse().ok());
    let count = crowd.unwrap_or_else(|| crate::harness::rounds(100));
    let mut times: Vec<Duration> = Vec::new();
    let batch: Vec<String> = (0..count).map(|number| host.id(&format!("m{number}"))).collect();
    for ids in batch.chunks(4) {
        let start = |id: &String| {
            let mut command = host.vctx();
            command.args(["run", "-d", "--name", id, "--net", "bridge"]).arg(&root);
            command.args(["--", "sleep", "1000"]).stdout(Stdio::null());
            command.spawn().unwrap()
        };
        let begin = std::time::Instant::now();
        let children: Vec<_> = ids.iter().map(start).collect();
        children.into_iter().for_each(|mut child| assert!(child.wait().unwrap().success()));
        times.push(begin.elapsed() / ids.len() as u32);
    }
    let about = host.inspect("vctx0");
    let contexts = about["contexts"].as_object().unwrap();
    let mut addresses: Vec<String> = contexts.values().map(|one| one["addresses"].to_string()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), count as usize, "every context has addresses of its own");
    for id in &batch {
        host.call(&["delete", "--force", id]).ok();
    }
    assert_eq!(host.inspect("vctx0")["contexts"].as_object().unwrap().len(), 0);
    eventually("the end of the devices", 60, || (host.devices() == ["lo", "up0", "vctx0"]).then_some(()));
    if crowd.is_some() {
        let median = |part: &[Duration]| {
            let mut part = part.to_vec();
            part.sort();
            part[part.len() / 2]
        };
        let tenth = (times.len() / 10).max(1);
        let (first, last) = (median(&times[..tenth]), median(&times[times.len() - tenth..]));
        println!(
            "{count} contexts, four at once; a start, median of the first tenth {first:?}, of the last {last:?}"
        );
    }
}

fn the_rules_of_others_are_untouched() {
    let host = Host::new();
    let foreign = "table inet other { chain forward { type filter hook forward priority 0; accept; }; }; \
                   table ip nat { chain POSTROUTING { type nat hook postrouting priority 100; }; };";
    run(host.inside("nft").arg(foreign)).ok();
    run(Command::new("ip").args(["-n", &host.name, "link", "add", "br7", "type", "bridge"])).ok();
    let rules = || run(host.inside("nft").args(["--stateless", "list", "ruleset"])).ok().stdout;
    let before = rules();
    host.run("one", &["--net", "bridge"], "true").ok();
    assert!(rules().contains("vctx0"));
    host.call(&["network", "rm", "vctx0"]).ok();
    assert_eq!(rules(), before);
    assert_eq!(host.devices(), ["lo", "up0", "br7"]);
}

fn what_nobody_has_spoken_of_passes_where_the_policy_is_to_drop() {
    let host = Host::new();
    host.serve(&host.outside());
    let both = |args: &[&str]| {
        ["iptables", "ip6tables"].map(|program| run(host.inside(program).args(args)).ok().stdout)
    };
    // As Docker leaves it.
    both(&["-P", "FORWARD", "DROP"]);
    both(&["-N", "DOCKER-USER"]);
    both(&["-A", "FORWARD", "-j", "DOCKER-USER"]);
    let before = both(&["-S"]);
    host.detached("one", &["--net", "bridge"], SERVER).ok();
    host.detached("two", &["--net", "bridge"], SERVER).ok();
    OUTSIDE.iter().for_each(|address| assert!(host.asks("one", address).contains("sees")));
    assert!(host.asks("one", "two").contains("two sees"));
    // What somebody has said holds.
    both(&["-A", "DOCKER-USER", "-p", "tcp", "--dport", "80", "-j", "DROP"]);
    OUTSIDE.iter().for_each(|address| host.is_refused("one", address));
    both(&["-F", "DOCKER-USER"]);
    OUTSIDE.iter().for_each(|address| assert!(host.asks("one", address).contains("sees")));
    ["one", "two"].iter().for_each(|name| host.delete(name));
    host.call(&["network", "rm", "vctx0"]).ok();
    assert_eq!(both(&["-S"]), before);
    // A policy that has changed since is met by `prune`.
    both(&["-P", "FORWARD", "ACCEPT"]);
    host.detached("one", &["--net", "bridge"], SERVER).ok();
    both(&["-P", "FORWARD", "DROP"]);
    host.is_refused("one", OUTSIDE[0]);
    host.call(&["network", "prune"]).ok();
    OUTSIDE.iter().for_each(|address| assert!(host.asks("one", address).contains("sees")));
}

fn a_machine_without_nft_is_told_which_package_brings_it() {
    let host = Host::new();
    let nft = crate::harness::which("nft").unwrap().canonicalize().unwrap();
    let script = "mount --bind /dev/null \"$1\"; shift; exec \"$@\"";
    let mut command = host.inside("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(nft).arg(runtime());
    command.arg("--root").arg(host.folder.join("state"));
    let id = host.id("one");
    command
        .args(["run", "--name", &id, "--net", "bridge"])
        .arg(host.folder.join("rootfs"))
        .args(["--", "true"]);
    run(&mut command).refused_with(&["install the package nftables"]);
    assert_eq!(host.inspect("vctx0")["contexts"].as_object().unwrap().len(), 0);
}

fn wrong_names_and_options_are_refused() {
    let host = Host::new();
    for name in ["none", "host", "bridge", "Blue", "-x", "a/b", "1st", "", "a b"] {
        host.call(&["network", "create", "--", name]).refused();
    }
    host.run("one", &["--ip", "10.0.0.1"], "true").refused_with(&["needs --net bridge"]);
    host.run("one", &["--net", "host", "--ip", "10.0.0.1"], "true").refused_with(&["needs --net bridge"]);
    host.call(&["network", "inspect", "absent"]).refused_with(&["there is no network"]);
    assert_eq!(host.call(&["network", "ls", "-q"]).ok().stdout, "");
}
