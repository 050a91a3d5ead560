//! What a context reads in /etc/resolv.conf and /etc/hosts: `--dns`, `--dns-search`, `--dns-option`, `--add-host`,
//! `--hostname`, and the host's own name servers where nothing is asked for.

use crate::harness::command::Output;
use crate::harness::net::{HOST, Host, SERVER};
use crate::harness::{Case, Need, case, run, runtime};
use std::fs;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(name_servers_that_are_asked_for_are_the_contexts_own),
        case!(a_name_that_is_added_is_known_to_one_context_only),
        case!(files_are_written_without_a_network_of_ours_as_well),
        case!(name_servers_on_the_hosts_loopback_are_replaced_by_what_they_ask),
        case!(a_host_without_a_name_server_in_reach_is_told),
        case!(what_is_no_name_is_refused),
    ];
    let needs = [Need::Vctx, Need::Program("ip"), Need::Program("nft"), Need::Program("nsenter")];
    let with = |case: Case| needs.into_iter().fold(case, Case::needs);
    cases.into_iter().map(with).collect()
}

const ASKED: [&str; 10] = [
    "--dns",
    "192.0.2.53",
    "--dns",
    "2001:db8::53",
    "--dns-search",
    "a.example",
    "--dns-search",
    "b.example",
    "--dns-option",
    "ndots:2",
];
const WRITTEN: &str =
    "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch a.example b.example\noptions ndots:2\n";

fn name_servers_that_are_asked_for_are_the_contexts_own() {
    let host = Host::new();
    let own = [&["--net", "bridge"][..], &ASKED].concat();
    assert_eq!(host.run("one", &own, "cat /etc/resolv.conf").ok().stdout, WRITTEN);
    // Others of the network have what they had.
    let others = host.run("two", &["--net", "bridge"], "cat /etc/resolv.conf").ok().stdout;
    assert!(!others.contains("192.0.2.53"), "{others}");
    // What is not named is the host's.
    let some = host.run("three", &["--net", "bridge", "--dns-search", "c.example"], "cat /etc/resolv.conf");
    let servers = |text: &str| text.lines().filter(|line| line.starts_with("nameserver")).count();
    let some = some.ok().stdout;
    assert!(some.contains("search c.example\n") && servers(&some) == servers(&others), "{some}");
}

fn a_name_that_is_added_is_known_to_one_context_only() {
    let host = Host::new();
    host.detached("one", &["--net", "bridge"], SERVER).ok();
    let options = ["--net", "bridge", "--add-host", "gate:192.0.2.1", "--add-host", "gate6:[2001:db8::1]"];
    host.detached("two", &options, "sleep 1000").ok();
    let hosts = |name: &str| host.exec(name, "cat /etc/hosts").ok().stdout;
    let [four, six] = HOST;
    let own = hosts("two");
    assert!(own.contains(&format!("{four} gate\n{six} gate6\n")), "{own}");
    assert!(!hosts("one").contains("gate6"));
    // It finds those that were there, and those that come; and loses those that go.
    assert!(host.asks("two", "one").contains("one sees"));
    host.detached("three", &["--net", "bridge"], SERVER).ok();
    assert!(host.asks("two", "three").contains("three sees"));
    host.delete("three");
    host.is_refused("two", "three");
    host.exec("one", "nslookup two 2>/dev/null; grep -q two /etc/hosts").ok();
    host.delete("two");
    let left = fs::read_dir(host.folder.join("state/.networks/vctx0/own")).unwrap().count();
    assert_eq!(left, 0);
}

fn files_are_written_without_a_network_of_ours_as_well() {
    let host = Host::new();
    for net in ["none", "host"] {
        let options = [&["--net", net, "--add-host", "gate:192.0.2.1"][..], &ASKED].concat();
        let both = host.run(
            "one",
            &options,
            "cat /etc/resolv.conf; grep gate /etc/hosts; grep -c localhost /etc/hosts",
        );
        let expected = format!("{WRITTEN}192.0.2.1 gate\n");
        assert!(both.ok().stdout.starts_with(&expected), "{net}");
    }
    // The guest cannot write them, and any user can read them.
    let options = [&["--net", "none", "--user", "1000"][..], &ASKED].concat();
    assert_eq!(
        host.run("one", &options, "echo x 2>/dev/null >/etc/resolv.conf; cat /etc/resolv.conf").ok().stdout,
        WRITTEN
    );
    assert!(!host.folder.join("state").join(host.id("one")).exists());
}

/// Runs a script in a context of a host that has these files.
fn with_files(
    host: &Host,
    resolv_conf: &str,
    resolved: Option<&str>,
    options: &[&str],
    script: &str,
) -> Output {
    let write = |name: &str, text: &str| {
        let path = host.folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let own = write("resolv.conf", resolv_conf);
    let upstream = host.folder.join("resolve");
    fs::create_dir_all(&upstream).unwrap();
    let _ = fs::remove_file(upstream.join("resolv.conf"));
    if let Some(text) = resolved {
        write("resolve/resolv.conf", text);
    }
    let mounts = "mount -t tmpfs tmpfs /run/systemd 2>/dev/null || { mkdir -p /tmp/none; mount -t tmpfs tmpfs /run; \
                  mkdir -p /run/systemd; }; mkdir -p /run/systemd/resolve; mount --bind \"$2\" /run/systemd/resolve; \
                  mount --bind \"$1\" \"$(realpath /etc/resolv.conf)\"; shift 2; exec \"$@\"";
    let mut command = host.inside("unshare");
    command.args(["--mount", "sh", "-c", mounts, "sh"]).arg(own).arg(upstream).arg(runtime());
    command.arg("--root").arg(host.folder.join("state"));
    let id = host.id("one");
    command.args(["run", "--rm", "--name", &id]).args(options).arg(host.folder.join("rootfs"));
    run(command.args(["--", "sh", "-c", script]))
}

fn name_servers_on_the_hosts_loopback_are_replaced_by_what_they_ask() {
    let host = Host::new();
    let stub = "# a stub\nnameserver 127.0.0.53\noptions edns0\nsearch a.example\n";
    let upstream = "nameserver 192.0.2.53\nsearch a.example\n";
    for net in [&["--net", "bridge"][..], &["--net", "shared", "--ip", HOST[0]]] {
        let read = with_files(&host, stub, Some(upstream), net, "cat /etc/resolv.conf").ok();
        assert_eq!(read.stdout, upstream);
        assert_eq!(read.stderr, "");
    }
    // One that is in reach stays, beside one that is not.
    let both = "nameserver 127.0.0.1\nnameserver 192.0.2.54\n";
    let read = with_files(&host, both, Some(upstream), &["--net", "bridge"], "cat /etc/resolv.conf").ok();
    assert_eq!(read.stdout, "nameserver 192.0.2.54\n");
}

fn a_host_without_a_name_server_in_reach_is_told() {
    let host = Host::new();
    let stub = "nameserver 127.0.0.1\nsearch a.example\n";
    let read = with_files(&host, stub, None, &["--net", "bridge"], "cat /etc/resolv.conf").ok();
    assert_eq!(read.stdout, "search a.example\n");
    assert!(
        read.stderr.contains("can ask no name server") && read.stderr.contains("--dns"),
        "{}",
        read.stderr
    );
    let options = ["--net", "bridge", "--dns", "192.0.2.53"];
    let read = with_files(&host, stub, None, &options, "cat /etc/resolv.conf").ok();
    assert_eq!(
        (read.stdout.as_str(), read.stderr.as_str()),
        ("nameserver 192.0.2.53\nsearch a.example\n", "")
    );
}

fn what_is_no_name_is_refused() {
    let host = Host::new();
    for (option, wrong) in [
        ("--dns", "server"),
        ("--dns", "192.0.2.1\nsearch x"),
        ("--dns-search", "a b"),
        ("--dns-search", "a\nnameserver 192.0.2.1"),
        ("--dns-option", "ndots:1\n"),
        ("--add-host", "gate"),
        ("--add-host", "gate:nowhere"),
        ("--add-host", "ga te:192.0.2.1"),
        ("--add-host", "gate\n192.0.2.9 bank:192.0.2.1"),
    ] {
        host.run("one", &["--net", "bridge", option, wrong], "true").refused_with(&["invalid value"]);
    }
    for wrong in ["a\n192.0.2.9 bank", "a b", "", "-a"] {
        let option = format!("--hostname={wrong}");
        let id = host.id("one");
        let mut command = host.vctx();
        command.args(["run", "--name", &id, "--net", "bridge", &option]).arg(host.folder.join("rootfs"));
        run(command.args(["--", "true"])).refused_with(&["invalid value"]);
    }
    assert_eq!(host.devices(), ["lo", "up0"]);
}
