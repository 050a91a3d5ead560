//! SIGKILL after every system call of what changes more than a context: networks and the store of images.

use super::Sample;
use crate::harness::bpf;
use crate::harness::net::Host;
use crate::harness::tracer::{Fault, Place, follow};
use crate::harness::{Case, Need, case, command};
use crate::host_run::User;
use crate::images::made::{Layer, Layout};
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    let network = |case: Case| case.needs(Need::Program("ip")).needs(Need::Program("nft")).needs(Need::Vctx);
    vec![
        network(case!(network_create_and_rm_killed_at_any_call_leave_what_the_next_removes)),
        network(case!(run_with_a_network_killed_at_any_call_leaves_what_the_next_command_removes)),
        network(case!(rates_killed_at_any_call_leave_what_holds_as_it_is_written_down))
            .needs(Need::Program("tc")),
        network(case!(run_with_a_shared_address_killed_at_any_call_leaves_neither_lease_nor_program)),
        case!(image_import_rm_and_gc_killed_at_any_call_leave_a_sound_store).needs(Need::Vctx),
    ]
}

/// Runs a command once to see its calls, and then once for each of them.
fn at_every_call(
    what: &str,
    usual: usize,
    prepare: impl Fn(),
    command: impl Fn() -> Command,
    recover: impl Fn() -> Result<(), String>,
) {
    prepare();
    let whole = follow(&mut command(), None);
    assert_eq!(whole.output.code, 0, "{what}: {}", whole.output.stderr);
    recover().unwrap();
    let sample = Sample::every(usual);
    let (mut reached, mut passed) = (0, 0);
    for (process, calls) in whole.calls.iter().enumerate() {
        for call in (0..calls.len()).filter(|call| sample.takes(*call)) {
            prepare();
            let at = Place { process, call };
            let traced = follow(&mut command(), Some((at, Fault::Kill)));
            let wrong = match recover() {
                _ if traced.hung => Some("it hung".to_owned()),
                _ if traced.output.stderr.contains("panicked") => Some(traced.output.stderr.clone()),
                recovered => recovered.err(),
            };
            if let Some(wrong) = wrong {
                panic!("{what} killed at {at:?}, call {}: {wrong}", calls[call]);
            }
            if traced.hit { reached += 1 } else { passed += 1 }
        }
    }
    let calls: Vec<usize> = whole.calls.iter().map(Vec::len).collect();
    println!("faults: {what:16} kills   {sample}: calls {calls:?}, killed {reached}, not reached {passed}");
    assert!(reached > 0 && passed <= 8 + reached / 4, "{passed} were not reached");
}

/// The command, which must succeed, or say one of these words: that there was nothing to do.
fn done(output: command::Output, or: &[&str]) -> Result<(), String> {
    match output.code == 0 || or.iter().any(|word| output.stderr.contains(word)) {
        true => Ok(()),
        false => Err(output.stderr),
    }
}

/// Devices, rules and groups of a host that has no network any more. The kernel takes a little time for some.
fn nothing_is_left(host: &Host) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(10);
    while !host.left().is_empty() && Instant::now() < end {
        std::thread::yield_now();
    }
    match host.left() {
        left if left.is_empty() => Ok(()),
        left => Err(format!("left behind: {left:?}")),
    }
}

fn network_create_and_rm_killed_at_any_call_leave_what_the_next_removes() {
    let host = Host::new();
    let call = |words: &[&str]| {
        let mut vctx = host.vctx();
        vctx.args(words);
        vctx
    };
    let recover = || {
        done(host.call(&["network", "create", "blue"]), &["exists"])?;
        done(host.call(&["network", "rm", "blue"]), &["no network"])?;
        let definitions = fs::read_dir(host.folder.join("state/.store/networks")).unwrap();
        let left: Vec<_> = definitions.flatten().map(|entry| entry.file_name()).collect();
        if !left.is_empty() {
            return Err(format!("definitions are left: {left:?}"));
        }
        nothing_is_left(&host)
    };
    at_every_call("network create", 23, || (), || call(&["network", "create", "blue"]), recover);
    // With a bridge and rules, which come with the first context.
    let used = || {
        host.call(&["network", "create", "blue"]).ok();
        host.run("a", &["--net", "blue"], "true").ok();
    };
    at_every_call("network rm", 23, used, || call(&["network", "rm", "blue"]), recover);
}

fn run_with_a_network_killed_at_any_call_leaves_what_the_next_command_removes() {
    let host = Host::new();
    host.call(&["network", "create", "blue"]).ok();
    let id = host.id("a");
    let run = || {
        let mut vctx = host.vctx();
        vctx.args(["run", "--rm", "--name", &id, "--net", "blue"]).arg(host.folder.join("rootfs"));
        vctx.args(["--", "true"]);
        vctx
    };
    let recover = || nothing_of_a_context_is_left(&host, &id, run);
    // The first context of a network makes its bridge and rules; the next ones find them.
    let afresh = || {
        host.call(&["network", "rm", "blue"]).ok();
        host.call(&["network", "create", "blue"]).ok();
    };
    at_every_call("run --net, first", 41, afresh, run, recover);
    at_every_call("run --net, next", 41, || (), run, recover);
}

/// After a killed `run` in the network `blue`.
fn nothing_of_a_context_is_left(host: &Host, id: &str, run: impl Fn() -> Command) -> Result<(), String> {
    done(host.call(&["delete", "--force", id]), &["does not exist"])?;
    // The next one gets an address, and its lease is the only one.
    done(command::run(&mut run()), &[])?;
    let contexts = host.inspect("blue")["contexts"].to_string();
    if contexts != "{}" {
        return Err(format!("leases are left: {contexts}"));
    }
    let end = Instant::now() + Duration::from_secs(10);
    let own = |name: &String| ["vx", "vq"].iter().any(|start| name.starts_with(start));
    let ends = || host.devices().into_iter().filter(own).collect::<Vec<_>>();
    while !ends().is_empty() && Instant::now() < end {
        std::thread::yield_now();
    }
    if ends().is_empty() { Ok(()) } else { Err(format!("devices are left: {:?}", ends())) }
}

fn rates_killed_at_any_call_leave_what_holds_as_it_is_written_down() {
    let host = Host::new();
    host.call(&["network", "create", "blue"]).ok();
    let (id, kept) = (host.id("a"), host.id("kept"));
    let run = || {
        let mut vctx = host.vctx();
        vctx.args(["run", "--rm", "--name", &id, "--net", "blue", "--net-rate", "in=80mbit,out=20mbit"]);
        vctx.arg(host.folder.join("rootfs")).args(["--", "true"]);
        vctx
    };
    // The network itself comes with the first of them.
    command::run(&mut run()).ok();
    at_every_call("run --net-rate", 41, || (), run, || nothing_of_a_context_is_left(&host, &id, run));
    host.detached("kept", &["--net", "blue"], "sleep 1000").ok();
    let update = |rates: &'static str| {
        let mut vctx = host.vctx();
        vctx.args(["update", "--net-rate", rates, &kept]);
        vctx
    };
    let recover = || {
        done(host.call(&["network", "prune"]), &[])?;
        let state = fs::read_to_string(host.folder.join("state").join(&kept).join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        let written = ["in", "out"].map(|way| state["network"]["rates"][way].as_u64());
        let held = ["vx", "vq"].map(|start| rate_of(&host, start));
        if written == held { Ok(()) } else { Err(format!("{held:?} hold, and {written:?} are written down")) }
    };
    let (none, both) = ("in=none,out=none", "in=80mbit,out=20mbit");
    for (before, after) in [(none, both), (both, "in=40mbit,out=none"), (both, none)] {
        let prepare = || drop(command::run(&mut update(before)).ok());
        at_every_call("update --net-rate", 5, prepare, || update(after), recover);
    }
    host.delete("kept");
    nothing_of_a_context_is_left(&host, &id, run).unwrap();
}

/// What the token bucket of the device that is named so lets through, in bytes a second.
fn rate_of(host: &Host, start: &str) -> Option<u64> {
    let device = host.devices().into_iter().find(|name| name.starts_with(start))?;
    let list =
        command::run(host.inside("tc").args(["-j", "qdisc", "show", "dev", &device, "root"])).ok().stdout;
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    list[0]["options"]["rate"].as_u64()
}

fn run_with_a_shared_address_killed_at_any_call_leaves_neither_lease_nor_program() {
    // No other test has this address, by which the programs are known.
    let (host, address) = (Host::new(), [192, 0, 2, 231]);
    let text = address.map(|part| part.to_string()).join(".");
    let whole = format!("{text}/24");
    let mut add = Command::new("ip");
    command::run(add.args(["-n", &host.name, "address", "add", &whole, "dev", "up0"])).ok();
    let shared = ["--net", "shared", "--ip", &text];
    host.detached("seen", &shared, "sleep 1000").ok();
    assert!(!bpf::programs_with(&address).is_empty(), "the programs are not found");
    host.delete("seen");

    let id = host.id("a");
    let run = || {
        let mut vctx = host.vctx();
        vctx.args(["run", "--rm", "--name", &id]).args(shared).arg(host.folder.join("rootfs"));
        vctx.args(["--", "true"]);
        vctx
    };
    let recover = || {
        done(host.call(&["delete", "--force", &id]), &["does not exist"])?;
        // The address can be had again, and is given back.
        done(command::run(&mut run()), &[])?;
        let leases = fs::read_dir(host.folder.join("state/.networks/.shared")).unwrap().count();
        if leases != 0 {
            return Err(format!("{leases} leases are left"));
        }
        // The kernel frees the programs of a group some time after the group.
        let end = Instant::now() + Duration::from_secs(10);
        while !bpf::programs_with(&address).is_empty() && Instant::now() < end {
            std::thread::yield_now();
        }
        match bpf::programs_with(&address) {
            left if left.is_empty() => Ok(()),
            left => Err(format!("programs are left: {left:?}")),
        }
    };
    at_every_call("run --net shared", 41, || (), run, recover);
}

fn image_import_rm_and_gc_killed_at_any_call_leave_a_sound_store() {
    let user = User::me();
    let layer = Layer::new().folder("d").file("d/a", "content").file("b", "more");
    let layout = Layout::new(user.folder.join("image"), vec![layer]);
    let source = layout.done().to_str().unwrap().to_owned();
    let import = ["image", "import", &source, "a"];
    let recover = || {
        done(user.call(&import), &[])?;
        done(user.call(&["image", "fsck"]), &[])?;
        done(user.call(&["image", "rm", "a"]), &[])?;
        done(user.call(&["image", "gc"]), &[])?;
        match user.call(&["image", "gc"]).ok().line() {
            "0 blobs (0 B), 0 layers, 0 unfinished" => Ok(()),
            left => Err(format!("left behind: {left}")),
        }
    };
    let imported = || drop(user.call(&import).ok());
    at_every_call("image import", 31, || (), || user.command(&import), recover);
    at_every_call("image rm", 7, imported, || user.command(&["image", "rm", "a"]), recover);
    let removed = || {
        imported();
        user.call(&["image", "rm", "a"]).ok();
    };
    at_every_call("image gc", 11, removed, || user.command(&["image", "gc"]), recover);
}
