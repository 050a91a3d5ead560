//! Networks that are no bridge: namespaces of others, routed and macvlan networks. Real servers, over IPv4 and IPv6.

use crate::harness::net::{HOST, Host, OUTSIDE, SERVER, wget, within};
use crate::harness::{Case, Need, case, eventually, run};
use std::process::{Command, Stdio};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(a_context_joins_the_network_of_another_with_its_names),
        case!(a_context_joins_the_namespace_behind_a_path),
        case!(a_network_that_is_the_hosts_or_gone_is_not_joined),
        case!(routed_contexts_reach_each_other_and_the_outside),
        case!(routed_contexts_stay_apart_from_other_networks),
        case!(a_routed_context_cannot_take_the_address_of_another),
        case!(ports_lead_to_a_routed_context),
        case!(the_rules_of_a_routed_network_are_made_anew),
        case!(a_routed_context_has_an_address_among_the_hosts_neighbours),
        case!(a_macvlan_context_stands_beside_the_host),
        case!(a_macvlan_network_ends_with_its_range_and_its_device),
        case!(killed_commands_leave_no_lease_and_nobody_who_answers_for_it),
        case!(networks_that_cannot_be_are_refused),
    ];
    let needs = [Need::Vctx, Need::Program("ip"), Need::Program("nft"), Need::Program("nsenter")];
    let with = |case: Case| needs.into_iter().fold(case, Case::needs);
    cases.into_iter().map(with).collect()
}

/// What a server answers to somebody at the outside.
fn asked_outside(host: &Host, server: &str) -> Option<String> {
    let script = wget(server, 1).replacen("wget", "busybox wget", 1);
    let answer = run(within(&host.outside(), "sh".as_ref()).args(["-c", &script])).stdout;
    Some(answer).filter(|answer| !answer.trim().is_empty())
}

/// The addresses for which the host answers in place of others.
fn answered(host: &Host) -> String {
    run(Command::new("ip").args(["-n", &host.name, "neigh", "show", "proxy"])).ok().stdout
}

fn a_context_joins_the_network_of_another_with_its_names() {
    let host = Host::new();
    host.detached("web", &["--net", "bridge"], SERVER).ok();
    host.detached("other", &["--net", "bridge"], SERVER).ok();
    let join = format!("container:{}", host.id("web"));
    host.detached("side", &["--net", &join], "sleep 1000").ok();
    let answer = host.asks("side", "127.0.0.1");
    assert!(answer.contains("web sees") && answer.contains("127.0.0.1"), "{answer}");
    assert!(host.asks("side", "other").contains("other sees"));
    assert_eq!(host.exec("side", "cat /etc/hosts").stdout, host.exec("web", "cat /etc/hosts").stdout);
    // A third one may follow the second, and the network outlives the first process that had it.
    let join = format!("container:{}", host.id("side"));
    host.detached("third", &["--net", &join], "sleep 1000").ok();
    host.delete("web");
    let link = |name: &str| host.exec(name, "readlink /proc/self/ns/net").ok().stdout;
    assert_eq!(link("third"), link("side"));
    assert!(host.asks("third", "other").contains("other sees"));
}

fn a_context_joins_the_namespace_behind_a_path() {
    let host = Host::new();
    let join = format!("ns:/run/netns/{}", host.outside());
    let seen = host.run("one", &["--net", &join], "ip -o addr show dev up0").ok().stdout;
    assert!(OUTSIDE.iter().all(|address| seen.contains(address)), "{seen}");
}

fn a_network_that_is_the_hosts_or_gone_is_not_joined() {
    let host = Host::new();
    host.detached("open", &["--net", "host"], "sleep 1000").ok();
    host.detached("short", &["--net", "bridge"], "true").ok();
    let of = |name: &str| format!("container:{}", host.id(name));
    let own = format!("ns:/run/netns/{}", host.name);
    eventually("the end of the short one", 5, || {
        let refused = host.run("two", &["--net", &of("short")], "true");
        refused.stderr.contains("it does not run").then_some(())
    });
    for (net, words) in [
        (of("open"), "is the host's own network"),
        (of("absent"), "there is no context"),
        (own, "is the host's own network"),
        ("ns:/proc/self/ns/net".into(), "is the host's own network"),
        ("ns:/proc/self/ns/uts".into(), "is not a net namespace"),
        ("ns:/run/netns/absent".into(), "cannot open the net namespace"),
        ("ns:/".into(), "is not a net namespace"),
    ] {
        let refused = host.run("two", &["--net", &net], "true");
        refused.refused_with(&[words]);
    }
    host.run("two", &["--net", &of("open"), "-p", "80:80"], "true").refused_with(&["--publish needs"]);
}

/// A host with contexts that serve on routed networks: (name, network).
fn routed(contexts: &[(&str, &str)]) -> Host {
    let host = Host::new();
    for (name, network) in contexts {
        if !host.call(&["network", "ls", "-q"]).ok().stdout.contains(network) {
            host.call(&["network", "create", "--kind", "routed", network]).ok();
        }
        host.detached(name, &["--net", network], SERVER).ok();
    }
    host
}

fn routed_contexts_reach_each_other_and_the_outside() {
    let host = routed(&[("one", "far"), ("two", "far")]);
    host.serve(&host.outside());
    let (one, two) = (host.addresses("far", "one"), host.addresses("far", "two"));
    for (own, other) in one.iter().zip(&two) {
        let answer = host.asks("one", other);
        assert!(answer.contains("two sees") && answer.contains(own.as_str()), "{answer}");
    }
    assert!(host.asks("one", "two").contains("two sees"));
    for (own, address) in HOST.iter().zip(OUTSIDE) {
        let answer = host.asks("one", address);
        assert!(answer.contains("sees") && answer.contains(own), "{answer}");
    }
    // The machine is the gateway, and there is no bridge.
    assert!(host.exec("one", "ping -c 1 -W 2 host.vctx.internal").ok().stdout.contains("1 packets received"));
    assert_eq!(host.devices(), ["lo", "up0", "vx0p2", "vx0p3"]);
    let rows = host.call(&["network", "ls"]).ok().stdout;
    assert!(rows.lines().any(|row| row.split_whitespace().take(2).eq(["far", "routed"])), "{rows}");
    host.call(&["network", "rm", "far"]).refused_with(&["in use by"]);
    host.delete("one");
    host.delete("two");
    host.call(&["network", "rm", "far"]).ok();
    assert!(host.tables().is_empty(), "{:?}", host.tables());
}

fn routed_contexts_stay_apart_from_other_networks() {
    let host = routed(&[("one", "far"), ("two", "wide")]);
    host.detached("three", &["--net", "bridge"], SERVER).ok();
    let (one, two) = (host.addresses("far", "one"), host.addresses("wide", "two"));
    let three = host.addresses("vctx0", "three");
    for at in [0, 1] {
        host.is_refused("one", &two[at]);
        host.is_refused("one", &three[at]);
        host.is_refused("three", &one[at]);
    }
    // Nor from beyond the machine, by somebody who knows the way.
    for (subnet, address) in host.inspect("far")["subnets"].as_array().unwrap().iter().zip(HOST) {
        let subnet = subnet.as_str().unwrap();
        run(Command::new("ip").args(["-n", &host.outside(), "route", "add", subnet, "via", address])).ok();
    }
    one.iter().for_each(|address| assert_eq!(asked_outside(&host, address), None));
    // What is to stay on the machine does.
    host.serve(&host.outside());
    host.call(&["network", "create", "--kind", "routed", "--internal", "inner"]).ok();
    host.detached("four", &["--net", "inner"], SERVER).ok();
    host.detached("five", &["--net", "inner"], SERVER).ok();
    assert!(host.asks("four", "five").contains("five sees"));
    OUTSIDE.iter().for_each(|address| host.is_refused("four", address));
}

fn a_routed_context_cannot_take_the_address_of_another() {
    let host = routed(&[("one", "far")]);
    host.detached("victim", &["--net", "far"], "sleep 1000").ok();
    host.detached("evil", &["--net", "far", "--cap-add", "NET_ADMIN,NET_RAW"], "sleep 1000").ok();
    let (one, victim) = (host.addresses("far", "one"), host.addresses("far", "victim"));
    one.iter().for_each(|address| assert!(host.asks("evil", address).contains("one sees")));
    let [four, six] = [&victim[0], &victim[1].replace("::3", "::99")];
    let change = format!(
        "ip addr flush dev eth0 scope global; ip addr add {four}/22 dev eth0; ip addr add {six}/64 dev eth0 nodad; \
         ip route replace default dev eth0; ip -6 route replace default dev eth0"
    );
    host.exec("evil", &change).ok();
    one.iter().for_each(|address| host.is_refused("evil", address));
    one.iter().for_each(|address| assert!(host.asks("victim", address).contains("one sees")));
    // It is the rules that see it.
    run(host.inside("nft").args(["insert", "rule", "inet", "vctx0", "guard", "iifname", "vx0p4", "counter"]))
        .ok();
    // A busy kernel may take longer to tell the way than the question waits.
    let came = (0..20).any(|_| {
        host.is_refused("evil", &one[0]);
        let rules = run(host.inside("nft").args(["list", "chain", "inet", "vctx0", "guard"])).ok().stdout;
        !rules.contains("packets 0 ")
    });
    assert!(came, "nothing came");
}

fn ports_lead_to_a_routed_context() {
    let host = routed(&[("other", "far")]);
    host.detached("web", &["--net", "far", "-p", "8080:80"], SERVER).ok();
    for address in HOST {
        let server =
            if address.contains(':') { format!("[{address}]:8080") } else { format!("{address}:8080") };
        let answer = eventually("the server", 5, || asked_outside(&host, &server));
        assert!(
            answer.contains("web sees") && answer.contains(OUTSIDE[usize::from(address.contains(':'))]),
            "{answer}"
        );
    }
    let script = wget("127.0.0.1:8080", 2).replacen("wget", "busybox wget", 1);
    assert!(run(host.inside("sh").args(["-c", &script])).ok().stdout.contains("web sees"));
    // From a context of the network, and from itself.
    let server = format!("{}:8080", HOST[0]);
    assert!(host.asks("other", &server).contains("web sees"));
    assert!(host.asks("web", &server).contains("web sees"));
    host.delete("web");
    let rules = run(host.inside("nft").args(["list", "ruleset"])).ok().stdout;
    assert!(!rules.contains("8080"), "{rules}");
}

fn the_rules_of_a_routed_network_are_made_anew() {
    let host = routed(&[("one", "far")]);
    host.serve(&host.outside());
    run(host.inside("nft").args(["flush", "ruleset"])).ok();
    host.is_refused("one", OUTSIDE[0]);
    assert!(host.call(&["network", "prune"]).ok().stdout.contains("far: made its rules anew"));
    OUTSIDE.iter().for_each(|address| assert!(host.asks("one", address).contains("sees")));
    assert_eq!(host.call(&["network", "prune"]).ok().stdout, "");
}

/// A routed network whose addresses are neighbours of the host's.
const NEIGHBOURS: [&str; 10] = [
    "network",
    "create",
    "--kind",
    "routed",
    "--parent",
    "up0",
    "--subnet",
    "192.0.2.64/26",
    "--subnet",
    "2001:db8::1:0/112",
];

fn a_routed_context_has_an_address_among_the_hosts_neighbours() {
    let host = Host::new();
    host.serve(&host.outside());
    host.call(&[&NEIGHBOURS[..], &["lan"]].concat()).ok();
    host.detached("one", &["--net", "lan"], SERVER).ok();
    host.detached("far", &["--net", "bridge"], SERVER).ok();
    let own = host.addresses("lan", "one");
    assert_eq!(own, ["192.0.2.66", "2001:db8::1:2"]);
    for (at, address) in own.iter().enumerate() {
        let answer = eventually("the server", 10, || asked_outside(&host, address));
        assert!(answer.contains("one sees") && answer.contains(OUTSIDE[at]), "{answer}");
        assert!(host.asks("one", OUTSIDE[at]).contains(address.as_str()));
        host.is_refused("far", address);
    }
    assert!(own.iter().all(|address| answered(&host).contains(address.as_str())));
    host.delete("one");
    assert_eq!(answered(&host), "");
    // Without its device there is no such network, and others are repaired nevertheless.
    host.detached("stays", &["--net", "lan"], "sleep 1000").ok();
    run(Command::new("ip").args(["-n", &host.name, "link", "set", "up0", "down"])).ok();
    run(host.inside("nft").args(["flush", "ruleset"])).ok();
    let said =
        host.call(&["network", "prune"]).refused_with(&["\"up0\", on which the network lies, is down"]);
    assert!(said.stdout.contains("vctx0: made"), "{}", said.stdout);
    host.run("two", &["--net", "lan"], "true").refused_with(&["\"up0\", on which the network lies, is down"]);
}

fn a_macvlan_context_stands_beside_the_host() {
    let host = Host::new();
    host.serve(&host.outside());
    let lan =
        ["network", "create", "--kind", "macvlan", "--parent", "up0", "--subnet", "192.0.2.0/24", "--subnet"];
    let rest = [
        "2001:db8::/64",
        "--range",
        "192.0.2.64/26",
        "--gateway",
        OUTSIDE[0],
        "--gateway",
        OUTSIDE[1],
        "lan",
    ];
    host.call(&[&lan[..], &rest].concat()).ok();
    host.detached("one", &["--net", "lan"], SERVER).ok();
    host.detached("two", &["--net", "lan", "--ip", "192.0.2.99"], SERVER).ok();
    let (one, two) = (host.addresses("lan", "one"), host.addresses("lan", "two"));
    assert_eq!(one, ["192.0.2.64", "2001:db8::40"]);
    assert_eq!(two[0], "192.0.2.99");
    for (at, address) in one.iter().enumerate() {
        let answer = eventually("the server", 10, || asked_outside(&host, address));
        assert!(answer.contains("one sees") && answer.contains(OUTSIDE[at]), "{answer}");
        assert!(host.asks("one", OUTSIDE[at]).contains(address.as_str()));
        assert!(host.asks("two", address).contains(two[at].as_str()));
        assert!(
            host.exec("one", "ip route; ip -6 route")
                .ok()
                .stdout
                .contains(&format!("default via {}", OUTSIDE[at]))
        );
    }
    assert!(host.asks("one", "two").contains("two sees"));
    assert!(host.tables().is_empty() && host.devices() == ["lo", "up0"], "nothing of it is the host's");
    host.run("three", &["--net", "lan", "-p", "80:80"], "true")
        .refused_with(&["reached under their own addresses"]);
    // The one before may still be going when the next one has its address.
    for _ in 0..4 {
        host.run(
            "three",
            &["--net", "lan", "--ip", "192.0.2.100"],
            &format!("ping -c 1 -W 2 {}", OUTSIDE[0]),
        )
        .ok();
    }
    host.delete("one");
    host.delete("two");
    host.call(&["network", "rm", "lan"]).ok();
}

fn a_macvlan_network_ends_with_its_range_and_its_device() {
    let host = Host::new();
    let lan = ["network", "create", "--kind", "macvlan", "--parent", "up0", "--subnet", "192.0.2.0/24"];
    host.call(&[&lan[..], &["--range", "192.0.2.64/31", "lan"]].concat()).ok();
    host.detached("one", &["--net", "lan"], "sleep 1000").ok();
    host.detached("two", &["--net", "lan"], "sleep 1000").ok();
    host.run("three", &["--net", "lan"], "true").refused_with(&["no free address"]);
    host.run("three", &["--net", "lan", "--ip", "192.0.2.65"], "true")
        .refused_with(&["is in use by the context"]);
    host.delete("two");
    run(Command::new("ip").args(["-n", &host.name, "link", "set", "up0", "down"])).ok();
    host.run("three", &["--net", "lan"], "true")
        .refused_with(&["\"up0\", on which the network lies, is down"]);
    run(Command::new("ip").args(["-n", &host.name, "link", "del", "up0"])).ok();
    host.run("three", &["--net", "lan"], "true")
        .refused_with(&["--parent up0: there is no such network device"]);
    // The device of a context goes with it, and all else can still be done.
    assert!(!host.exec("one", "ls /sys/class/net").ok().stdout.contains("eth0"));
    host.call(&["network", "prune"]).ok();
    assert_eq!(host.inspect("lan")["contexts"].as_object().unwrap().len(), 1);
    host.delete("one");
    host.call(&["network", "rm", "lan"]).ok();
}

fn killed_commands_leave_no_lease_and_nobody_who_answers_for_it() {
    let host = Host::new();
    host.call(&[&NEIGHBOURS[..], &["lan"]].concat()).ok();
    let parts = ["network", "create", "--kind", "macvlan", "--parent", "up0", "--subnet", "192.0.2.0/24"];
    host.call(&[&parts[..], &["--range", "192.0.2.128/26", "parts"]].concat()).refused_with(&["overlaps"]);
    let parts = ["network", "create", "--kind", "macvlan", "--parent", "up0", "--subnet", "192.0.2.128/26"];
    host.call(&[&parts[..], &["parts"]].concat()).ok();
    for network in ["lan", "parts"] {
        for moment in 0..crate::harness::rounds(30) {
            let id = host.id(&format!("{network}{moment}"));
            let mut command = host.vctx();
            command.args(["run", "-d", "--name", &id, "--net", network]).arg(host.folder.join("rootfs"));
            command.args(["--", "sleep", "1000"]).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            std::thread::sleep(Duration::from_micros(u64::from(moment) * 1100));
            let _ = child.kill();
            let _ = child.wait();
            if moment % 2 == 0 {
                host.call(&["delete", "--force", &id]).ok();
            }
        }
        host.call(&["network", "prune"]).ok();
        let about = host.inspect(network);
        let contexts = about["contexts"].as_object().unwrap();
        assert!(contexts.values().all(|one| one["running"] == true), "{about}");
        for id in contexts.keys() {
            host.call(&["delete", "--force", id]).ok();
        }
        assert_eq!(host.inspect(network)["contexts"].as_object().unwrap().len(), 0);
        assert_eq!(answered(&host), "");
    }
}

fn networks_that_cannot_be_are_refused() {
    let host = Host::new();
    run(Command::new("ip").args(["-n", &host.name, "route", "add", "default", "via", OUTSIDE[0]])).ok();
    let create = |words: &str| {
        let words: Vec<&str> = words.split_whitespace().collect();
        host.call(&[&["network", "create"], &words[..], &["net"]].concat())
    };
    let macvlan = "--kind macvlan --parent up0 --subnet 192.0.2.0/24";
    for (words, said) in [
        ("--kind ipvlan", "expected bridge, routed or macvlan"),
        ("--parent up0", "--parent: a bridge network has no such thing"),
        ("--range 10.0.0.0/30", "--range: a bridge network"),
        ("--kind routed --gateway 10.0.0.1", "--gateway: a routed network"),
        ("--kind macvlan", "needs --parent"),
        ("--kind macvlan --parent up0", "needs --subnet"),
        (
            "--kind macvlan --parent absent --subnet 10.0.0.0/24",
            "--parent absent: there is no such network device",
        ),
        ("--kind macvlan --parent up0\" --subnet 10.0.0.0/24", "there is no such network device"),
        (
            "--kind macvlan --parent a-name-of-more-than-fifteen --subnet 10.0.0.0/24",
            "there is no such network",
        ),
        ("--kind routed --parent up0", "needs --subnet"),
        ("--kind routed --parent up0 --internal --subnet 10.0.0.0/24", "--internal: a routed network"),
        ("--kind routed --parent up0 --subnet 192.0.2.0/24", "is this machine's or a router's"),
        (macvlan, "is this machine's or a router's"),
        (&format!("{macvlan} --range 10.0.0.0/30"), "--range 10.0.0.0/30: is no part of 192.0.2.0/24"),
        (&format!("{macvlan} --range 192.0.3.0/23"), "expected a subnet"),
        (&format!("{macvlan} --range 192.0.0.0/16"), "is no part of"),
        (
            &format!("{macvlan} --range 192.0.2.64/26 --gateway 10.0.0.1"),
            "--gateway 10.0.0.1: is no address of",
        ),
        (
            &format!("{macvlan} --range 192.0.2.64/26 --gateway 192.0.2.2 --gateway 192.0.2.3"),
            "a network has one router",
        ),
        (&format!("{macvlan} --internal"), "--internal: a macvlan network"),
    ] {
        create(words).refused_with(&[said]);
    }
    assert_eq!(host.call(&["network", "ls", "-q"]).ok().stdout, "");
}
