//! Published ports, and what keeps a context from passing for another on its network.

use crate::harness::net::{HOST, Host, OUTSIDE, SERVER, wget, within};
use crate::harness::{Case, Need, case, eventually, run};
use std::process::Command;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(a_published_port_leads_to_the_context_from_everywhere),
        case!(the_context_sees_who_asks),
        case!(a_port_of_one_address_is_not_open_on_another),
        case!(datagrams_and_ranges_are_published).needs(Need::Path("/usr/bin/python3")),
        case!(a_port_that_is_taken_is_told),
        case!(a_port_ends_with_its_context),
        case!(ports_come_back_when_rules_were_flushed),
        case!(a_context_cannot_take_the_address_of_another),
        case!(a_context_cannot_take_the_mac_address_of_another),
        case!(a_context_cannot_answer_for_its_gateway).needs(Need::Path("/usr/bin/python3")),
        case!(an_address_beyond_the_usual_ones_works_as_well),
    ];
    let needs = [Need::Vctx, Need::Program("ip"), Need::Program("nft"), Need::Program("nsenter")];
    let with = |case: Case| needs.into_iter().fold(case, Case::needs);
    cases.into_iter().map(with).collect()
}

/// What a server answers to somebody in a namespace of the host.
fn asked(namespace: &str, server: &str, seconds: u32) -> String {
    let script = wget(server, seconds).replacen("wget", "busybox wget", 1);
    run(within(namespace, "sh".as_ref()).args(["-c", &script])).stdout
}

/// `wget` of a port of an address.
fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn a_published_port_leads_to_the_context_from_everywhere() {
    let host = Host::new();
    host.call(&["network", "create", "blue"]).ok();
    host.detached("web", &["--net", "bridge", "-p", "8080:80"], SERVER).ok();
    host.detached("near", &["--net", "bridge"], "sleep 1000").ok();
    host.detached("far", &["--net", "blue"], "sleep 1000").ok();
    eventually("the server", 5, || {
        asked(&host.name, &at("127.0.0.1", 8080), 1).contains("web sees").then_some(())
    });
    for address in HOST {
        let server = at(address, 8080);
        assert!(asked(&host.outside(), &server, 2).contains("web sees"), "from the outside: {server}");
        assert!(asked(&host.name, &server, 2).contains("web sees"), "from the host: {server}");
        for name in ["near", "far", "web"] {
            assert!(host.asks(name, &server).contains("web sees"), "from {name}: {server}");
        }
        assert_eq!(asked(&host.outside(), &at(address, 80), 1), "", "a port that is not published");
    }
    // The kernel cannot redirect ::1; a client goes on to 127.0.0.1 at once.
    let begin = std::time::Instant::now();
    assert_eq!(asked(&host.name, &at("::1", 8080), 5), "");
    assert!(begin.elapsed() < crate::harness::slowness() * std::time::Duration::from_secs(4));
}

fn the_context_sees_who_asks() {
    let host = Host::new();
    host.detached("web", &["--net", "bridge", "-p", "8080:80"], SERVER).ok();
    host.exec("web", &format!("for i in 1 2 3 4 5; do {} && break; sleep 0.1; done", wget("localhost", 1)))
        .ok();
    for (own, address) in OUTSIDE.iter().zip(HOST) {
        let ask = || Some(asked(&host.outside(), &at(address, 8080), 2)).filter(|answer| !answer.is_empty());
        let answer = eventually("an answer", 5, ask);
        assert!(answer.contains(own), "{answer}");
    }
}

fn a_port_of_one_address_is_not_open_on_another() {
    let host = Host::new();
    let options = ["--net", "bridge", "-p", "127.0.0.1:8080:80", "-p", "[2001:db8::1]:8081:80"];
    host.detached("web", &options, SERVER).ok();
    eventually("the server", 5, || {
        asked(&host.name, &at("127.0.0.1", 8080), 1).contains("web sees").then_some(())
    });
    eventually("the other port", 5, || {
        asked(&host.outside(), &at(HOST[1], 8081), 2).contains("web sees").then_some(())
    });
    assert_eq!(asked(&host.outside(), &at(HOST[0], 8080), 1), "");
    assert_eq!(asked(&host.outside(), &at(HOST[1], 8080), 1), "");
    assert_eq!(asked(&host.outside(), &at(HOST[0], 8081), 1), "");
    host.call(&["network", "create", "--subnet", "10.77.0.0/24", "four"]).ok();
    let refused = host.run("other", &["--net", "four", "-p", "[2001:db8::1]:8082:80"], "true");
    refused.refused_with(&["no subnet of that family"]);
}

fn datagrams_and_ranges_are_published() {
    let host = Host::new();
    let id = host.id("echo");
    let server = "import socket,threading,time\n\
        def serve(port):\n s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('',port))\n \
        while True:\n  data,peer=s.recvfrom(99); s.sendto(b'%d %s' % (port, peer[0].encode()), peer)\n\
        for port in (7001,7002): threading.Thread(target=serve,args=(port,)).start()\n";
    let options =
        ["run", "-d", "--name", &id, "--net", "bridge", "-p", "9001-9002:7001-7002/udp", "host", "--"];
    run(host.vctx().args(options).args(["/usr/bin/python3", "-c", server])).ok();
    for (outer, inner) in [(9001, 7001), (9002, 7002)] {
        let client = format!(
            "import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.settimeout(0.5); \
             s.connect(('{}',{outer})); s.send(b'x'); print(s.recv(99).decode())",
            HOST[0]
        );
        let mut ask = || {
            let mut client_command = within(&host.outside(), "/usr/bin/python3".as_ref());
            let answer = run(client_command.args(["-c", &client])).stdout;
            (!answer.is_empty()).then_some(answer)
        };
        let answer = eventually("an answer", 10, &mut ask);
        assert_eq!(answer.trim(), format!("{inner} {}", OUTSIDE[0]));
    }
}

fn a_port_that_is_taken_is_told() {
    let host = Host::new();
    host.serve(&host.name);
    eventually("the host's own server", 5, || {
        asked(&host.name, "127.0.0.1", 1).contains("sees").then_some(())
    });
    let refused = host.run("one", &["--net", "bridge", "-p", "80:80"], "true");
    refused.refused_with(&["tcp/80 is in use by a program"]);
    host.detached("one", &["--net", "bridge", "-p", "8080:80"], "sleep 1000").ok();
    let refused = host.run("two", &["--net", "bridge", "-p", "8079-8081:80-82"], "true");
    refused.refused_with(&["tcp/8080 is in use by the context"]);
    host.run("two", &["--net", "bridge", "-p", "127.0.0.1:8080:80"], "true").refused_with(&["in use by"]);
    // What the refused one had taken before is free again, and udp is another port.
    host.run("three", &["--net", "bridge", "-p", "8079:80", "-p", "8080:80/udp"], "true").ok();
    for wrong in ["80", "x:80", "80:80/sctp", "0:80", "1-2:3-5"] {
        host.run("two", &["--net", "bridge", "-p", wrong], "true").refused_with(&["expected [address:]port"]);
    }
    host.run("two", &["-p", "80:80"], "true").refused_with(&["--publish needs --net"]);
}

fn a_port_ends_with_its_context() {
    let host = Host::new();
    host.detached("web", &["--net", "bridge", "-p", "8080:80"], SERVER).ok();
    eventually("the server", 5, || {
        asked(&host.name, &at("127.0.0.1", 8080), 1).contains("web sees").then_some(())
    });
    host.delete("web");
    let rules = run(host.inside("nft").args(["list", "ruleset"])).ok().stdout;
    assert!(!rules.contains("8080"), "{rules}");
    // One that has ended by itself holds it no longer, neither for another network nor against `prune`.
    host.call(&["network", "create", "blue"]).ok();
    host.detached("short", &["--net", "bridge", "-p", "8080:80"], "true").ok();
    let start = || host.detached("new", &["--net", "blue", "-p", "8080:80"], SERVER);
    eventually("the end of the other", 5, || (start().code == 0).then_some(()));
    eventually("the server", 5, || {
        asked(&host.name, &at("127.0.0.1", 8080), 1).contains("new sees").then_some(())
    });
    host.call(&["delete", "--force", &host.id("short")]).ok();
    assert!(asked(&host.name, &at("127.0.0.1", 8080), 1).contains("new sees"));
}

fn ports_come_back_when_rules_were_flushed() {
    let host = Host::new();
    host.detached("web", &["--net", "bridge", "-p", "8080:80"], SERVER).ok();
    let asks = || asked(&host.outside(), &at(HOST[0], 8080), 1).contains("web sees").then_some(());
    eventually("the server", 5, asks);
    run(host.inside("nft").args(["flush", "ruleset"])).ok();
    assert_eq!(asks(), None);
    host.call(&["network", "prune"]).ok();
    eventually("the server", 5, asks);
}

/// A host with a server and an idle context that has `options`; gives the addresses of the server.
fn beside_a_server(options: &[&str]) -> (Host, [String; 2]) {
    let host = Host::new();
    host.detached("one", &["--net", "bridge"], SERVER).ok();
    host.detached("victim", &["--net", "bridge"], "sleep 1000").ok();
    host.detached(
        "evil",
        &[&["--net", "bridge", "--cap-add", "NET_ADMIN,NET_RAW"], options].concat(),
        "sleep 1000",
    )
    .ok();
    let one = host.addresses("vctx0", "one");
    one.iter().for_each(|address| assert!(host.asks("evil", address).contains("one sees")));
    (host, one)
}

fn a_context_cannot_take_the_address_of_another() {
    let (host, one) = beside_a_server(&[]);
    let [four, six] = host.addresses("vctx0", "victim");
    // The sixth address is nobody's: one that is somebody's the kernel would not let it have at all.
    let free = six.replace("::3", "::99");
    let change = format!(
        "ip addr flush dev eth0 scope global; ip addr add {four}/22 dev eth0; ip addr add {free}/64 dev eth0"
    );
    host.exec("evil", &change).ok();
    eventually("the end of duplicate address detection", 5, || {
        let shown = host.exec("evil", "ip -6 addr show dev eth0 scope global").ok().stdout;
        (shown.contains(&free) && !shown.contains("tentative")).then_some(())
    });
    one.iter().for_each(|address| host.is_refused("evil", address));
    // Nor has the attempt disturbed the one whose address it is.
    one.iter().for_each(|address| assert!(host.asks("victim", address).contains("one sees")));
    // It is the rules that keep it.
    run(host.inside("nft").args(["delete", "table", "bridge", "vctx0"])).ok();
    let answer = eventually("an answer", 5, || {
        Some(host.exec("evil", &format!("{}; true", wget(&one[1], 1))).stdout).filter(|text| !text.is_empty())
    });
    assert!(answer.contains(&free), "{answer}");
}

fn a_context_cannot_take_the_mac_address_of_another() {
    let (host, one) = beside_a_server(&[]);
    let mac = host.exec("victim", "cat /sys/class/net/eth0/address").ok().stdout;
    let change =
        format!("ip link set eth0 down; ip link set eth0 address {}; ip link set eth0 up", mac.trim());
    host.exec("evil", &change).ok();
    one.iter().for_each(|address| host.is_refused("evil", address));
    one.iter().for_each(|address| assert!(host.asks("victim", address).contains("one sees")));
}

fn a_context_cannot_answer_for_its_gateway() {
    let host = Host::new();
    host.detached("victim", &["--net", "bridge"], "sleep 1000").ok();
    let gateway = host.inspect("vctx0")["gateways"][0].as_str().unwrap().to_owned();
    let [victim, _] = host.addresses("vctx0", "victim");
    // Without this the victim asks for the gateway itself, and an answer is compared with nothing.
    let learns = format!("ping -c 1 -W 2 {gateway} >/dev/null; ip neigh show {gateway}");
    let before = host.exec("victim", &learns).ok().stdout;
    assert!(before.contains("02:00:00:00:00:01"), "{before}");
    let script = "import socket,sys\n\
        mac=open('/sys/class/net/eth0/address').read().strip().replace(':','')\n\
        s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW); s.bind(('eth0',0))\n\
        own=bytes.fromhex(mac); us=socket.inet_aton(sys.argv[1]); them=socket.inet_aton(sys.argv[2])\n\
        arp=b'\\xff'*6+own+b'\\x08\\x06'+bytes.fromhex('0001080006040002')+own+us+b'\\xff'*6+them\n\
        print(s.send(arp))\n";
    let id = host.id("evil");
    let options = ["run", "--rm", "--name", &id, "--net", "bridge", "--cap-add", "NET_RAW", "host", "--"];
    let sent = run(host.vctx().args(options).args(["/usr/bin/python3", "-c", script, &gateway, &victim]));
    assert_eq!(sent.ok().stdout.trim(), "42");
    let after = host.exec("victim", &format!("ip neigh show {gateway}")).ok().stdout;
    assert!(after.contains("02:00:00:00:00:01"), "{after}");
}

fn an_address_beyond_the_usual_ones_works_as_well() {
    let host = Host::new();
    host.call(&["network", "create", "--subnet", "10.77.0.0/16", "--subnet", "fd77::/64", "wide"]).ok();
    host.detached("one", &["--net", "wide", "--ip", "10.77.99.9"], SERVER).ok();
    host.detached("two", &["--net", "wide"], "sleep 1000").ok();
    for address in host.addresses("wide", "one") {
        assert!(host.asks("two", &address).contains("one sees"));
    }
    run(Command::new("ip").args(["-n", &host.name, "link", "del", "vctx0"])).ok();
    run(host.inside("nft").args(["flush", "ruleset"])).ok();
    host.call(&["network", "prune"]).ok();
    assert!(host.asks("two", "10.77.99.9").contains("one sees"));
}
