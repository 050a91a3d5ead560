//! How much a context receives and sends: `--net-rate`, its change, what a guest can do about it; and counters.

use crate::harness::net::{Host, OUTSIDE, within};
use crate::harness::{Case, Need, case, eventually, run, slowness};
use std::process::{Child, Command, Stdio};

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(a_context_is_held_to_its_rates_in_both_directions),
        case!(a_guest_with_every_right_over_its_network_cannot_lift_its_rates).needs(Need::Program("tc")),
        case!(rates_are_changed_while_the_context_runs),
        case!(what_holds_a_context_goes_with_it),
        case!(rates_that_cannot_be_are_refused),
        case!(what_has_passed_is_counted_from_the_contexts_side),
    ];
    let needs = [Need::Vctx, Need::Program("ip"), Need::Program("nft"), Need::Path("/usr/bin/python3")];
    let with = |case: Case| needs.into_iter().fold(case, Case::needs);
    cases.into_iter().map(with).collect()
}

/// Sends or takes a number of bytes, as it is asked, and then one more that says that all has come.
const PEER: &str = "import socket, threading\n\
    def serve(one):\n word = one.makefile('rb', 0).readline().split(); count = int(word[1])\n \
    if word[0] == b'give': one.sendall(bytes(count))\n \
    else:\n  while count: count -= len(one.recv(65536))\n  one.sendall(b'.')\n \
    one.close()\n\
    s = socket.create_server(('', 5001))\n\
    while True: threading.Thread(target=serve, args=(s.accept()[0],)).start()\n";

/// Prints how many megabits a second came through: in the direction and for the bytes that are given.
const ASKS: &str = "import socket, sys, time\n\
    count = int(sys.argv[3])\n\
    s = socket.create_connection((sys.argv[1], 5001)); begin = time.monotonic()\n\
    s.sendall(b'%s %d\\n' % (sys.argv[2].encode(), count))\n\
    if sys.argv[2] == 'take': s.sendall(bytes(count)); s.recv(1)\n\
    else:\n while count: count -= len(s.recv(65536))\n\
    print(int(sys.argv[3]) * 8 / 1e6 / (time.monotonic() - begin))\n";

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A host with a peer outside.
fn with_peer() -> (Host, Peer) {
    let host = Host::new();
    let mut command = within(&host.outside(), "/usr/bin/python3".as_ref());
    let child = command.args(["-c", PEER]).stdin(Stdio::null()).spawn().unwrap();
    let peer = Peer(child);
    let port = || {
        let list = run(within(&host.outside(), "ss".as_ref()).args(["-tln"])).stdout;
        list.contains(":5001").then_some(())
    };
    eventually("the peer", 10, port);
    (host, peer)
}

/// Starts a context on the machine's own files that waits.
#[track_caller]
fn waits(host: &Host, name: &str, options: &[&str]) {
    let id = host.id(name);
    let mut command = host.vctx();
    command.args(["run", "-d", "--name", &id, "--net", "bridge"]).args(options);
    run(command.args(["host", "--", "sleep", "1000"])).ok();
}

/// Megabits a second from or to the peer: the best of three, for the machine may be busy with other things.
#[track_caller]
fn speed(host: &Host, name: &str, direction: &str, bytes: u32) -> f64 {
    let id = host.id(name);
    let once = || -> f64 {
        let mut command = host.vctx();
        command.args(["exec", &id, "/usr/bin/python3", "-c", ASKS, OUTSIDE[0], direction]);
        run(command.arg(bytes.to_string())).ok().stdout.trim().parse().unwrap()
    };
    (0..3).map(|_| once()).fold(0.0, f64::max)
}

/// The speed is the rate, but for a tenth; and its headers are part of what is held. Above, the bucket's content counts.
#[track_caller]
fn is_about(rate: f64, speed: f64) {
    let least = rate * 0.9 / f64::from(slowness());
    assert!((least..rate * 1.05).contains(&speed), "{speed} mbit/s, and the rate is {rate}");
}

fn a_context_is_held_to_its_rates_in_both_directions() {
    let (host, _peer) = with_peer();
    waits(&host, "one", &["--net-rate", "in=80mbit,out=20mbit"]);
    is_about(80.0, speed(&host, "one", "give", 10_000_000));
    is_about(20.0, speed(&host, "one", "take", 2_500_000));
    // The direction that is not named is free.
    waits(&host, "two", &["--net-rate", "out=2500kbps"]);
    is_about(20.0, speed(&host, "two", "take", 2_500_000));
    assert!(speed(&host, "two", "give", 10_000_000) > 100.0);
}

fn a_guest_with_every_right_over_its_network_cannot_lift_its_rates() {
    let (host, _peer) = with_peer();
    waits(&host, "evil", &["--net-rate", "in=40mbit,out=20mbit", "--cap-add", "NET_ADMIN,NET_RAW"]);
    let id = host.id("evil");
    let gateway = host.inspect("vctx0")["gateways"][0].as_str().unwrap().to_owned();
    let script = format!(
        "tc qdisc del dev eth0 root; tc qdisc replace dev eth0 root pfifo limit 10000; tc qdisc add dev eth0 clsact; \
         ip link set eth0 txqueuelen 100000; ip link set eth0 down; ip link set eth0 up; \
         ip route add default via {gateway}"
    );
    run(host.vctx().args(["exec", &id, "sh", "-c", &script])).ok();
    is_about(40.0, speed(&host, "evil", "give", 5_000_000));
    is_about(20.0, speed(&host, "evil", "take", 2_500_000));
    // Datagrams know of no rate.
    let script = format!(
        "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); end = time.monotonic() + 1\n\
         while time.monotonic() < end:\n try: s.sendto(bytes(1400), ('{}', 9))\n except OSError: pass\n",
        OUTSIDE[0]
    );
    let received = || {
        let shown =
            run(Command::new("ip").args(["-n", &host.outside(), "-j", "-s", "link", "show", "up0"])).ok();
        let value: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
        value[0]["stats64"]["rx"]["bytes"].as_u64().unwrap()
    };
    let (before, begin) = (received(), std::time::Instant::now());
    run(host.vctx().args(["exec", &id, "/usr/bin/python3", "-c", &script])).ok();
    let bits = (received() - before) as f64 * 8.0 / begin.elapsed().as_secs_f64();
    assert!(bits < 23e6, "{bits} bits a second");
}

fn rates_are_changed_while_the_context_runs() {
    let (host, _peer) = with_peer();
    waits(&host, "one", &[]);
    let id = host.id("one");
    let update = |rates: &str| host.call(&["update", "--net-rate", rates, &id]);
    update("in=40mbit,out=20mbit").ok();
    is_about(40.0, speed(&host, "one", "give", 5_000_000));
    is_about(20.0, speed(&host, "one", "take", 2_500_000));
    // The one that is not named stays.
    update("out=60mbit").ok();
    is_about(40.0, speed(&host, "one", "give", 5_000_000));
    is_about(60.0, speed(&host, "one", "take", 7_500_000));
    // It is written down, and what somebody has taken away comes back.
    let state = std::fs::read_to_string(host.folder.join("state").join(&id).join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["network"]["rates"], serde_json::json!({ "in": 5_000_000, "out": 7_500_000 }));
    let device = host.devices().into_iter().find(|name| name.starts_with("vq")).unwrap();
    run(Command::new("ip").args(["-n", &host.name, "link", "del", &device])).ok();
    host.call(&["network", "prune"]).ok();
    is_about(60.0, speed(&host, "one", "take", 7_500_000));
    update("in=none,out=none").ok();
    assert!(speed(&host, "one", "give", 10_000_000) > 100.0);
    assert!(speed(&host, "one", "take", 10_000_000) > 100.0);
    assert!(!host.devices().iter().any(|name| name.starts_with("vq")));
}

fn what_holds_a_context_goes_with_it() {
    let host = Host::new();
    let held = || host.devices().into_iter().filter(|name| name.starts_with("vq")).count();
    host.detached("one", &["--net", "bridge", "--net-rate", "in=1mbit,out=1mbit"], "sleep 1000").ok();
    assert_eq!(held(), 1);
    host.delete("one");
    assert_eq!(held(), 0);
    host.run("two", &["--net", "bridge", "--net-rate", "out=1mbit"], "true").ok();
    assert_eq!(held(), 0);
    // One that has ended by itself, and whose state is lost.
    host.detached("three", &["--net", "bridge", "--net-rate", "out=1mbit"], "true").ok();
    eventually("the end of the third", 5, || {
        host.call(&["list"]).ok().stdout.contains("stopped").then_some(())
    });
    host.call(&["network", "prune"]).ok();
    assert_eq!(held(), 0);
}

fn rates_that_cannot_be_are_refused() {
    let host = Host::new();
    for wrong in ["1mbit", "in=1mb", "in=", "up=1mbit", "in=1kbit", "in=-1mbit", "in=1mbit,in=2mbit"] {
        host.run("one", &["--net", "bridge", "--net-rate", wrong], "true")
            .refused_with(&["expected in=rate,out=rate"]);
    }
    for net in [&["--net", "none"][..], &["--net", "host"], &["--net", "shared", "--ip", "192.0.2.1"]] {
        let options = [net, &["--net-rate", "in=1mbit"]].concat();
        host.run("one", &options, "true").refused_with(&["needs a device"]);
    }
    host.detached("one", &["--net", "none"], "sleep 1000").ok();
    host.call(&["update", "--net-rate", "in=1mbit", &host.id("one")])
        .refused_with(&["has no network of ours"]);
    assert_eq!(host.devices(), ["lo", "up0"]);
}

fn what_has_passed_is_counted_from_the_contexts_side() {
    let (host, _peer) = with_peer();
    waits(&host, "one", &[]);
    let id = host.id("one");
    let counters = || {
        let printed = host.call(&["events", "--stats", &id]).ok().stdout;
        let value: serde_json::Value = serde_json::from_str(&printed).unwrap();
        value["data"]["network_interfaces"][0].clone()
    };
    let before = counters();
    assert!(before["Name"].as_str().unwrap().starts_with("vx0p"), "{before}");
    let mut command = host.vctx();
    command.args(["exec", &id, "/usr/bin/python3", "-c", ASKS, OUTSIDE[0], "give", "3000000"]);
    run(&mut command).ok();
    let after = counters();
    let grown = |field: &str| after[field].as_u64().unwrap() - before[field].as_u64().unwrap();
    assert!((3_000_000..3_600_000).contains(&grown("RxBytes")), "{after}");
    assert!(grown("TxBytes") < 600_000 && grown("TxPackets") > 3 && grown("RxPackets") > 3, "{after}");
    for field in ["RxErrors", "RxDropped", "TxErrors", "TxDropped"] {
        assert_eq!(after[field], 0, "{field}");
    }
    // One without a network of ours has none.
    host.detached("two", &["--net", "none"], "sleep 1000").ok();
    let printed = host.call(&["events", "--stats", &host.id("two")]).ok().stdout;
    assert!(!printed.contains("network_interfaces"), "{printed}");
}
