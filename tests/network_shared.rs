//! Contexts on the host's own network, each held to one of its addresses.

use crate::harness::net::{HOST, Host, wget, within};
use crate::harness::{Case, Need, case, eventually, run};
use std::process::Command;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(ten_web_servers_have_port_80_of_ten_addresses).needs(Need::Program("nginx")),
        case!(a_context_has_no_address_but_its_own).needs(Need::Path("/usr/bin/python3")),
        case!(each_context_has_a_loopback_of_its_own),
        case!(what_listens_without_an_address_is_not_reached_on_another)
            .needs(Need::Path("/usr/bin/python3")),
        case!(a_shared_address_is_given_once_and_back),
    ];
    let needs = [Need::Vctx, Need::Program("ip"), Need::Program("nsenter")];
    let with = |case: Case| needs.into_iter().fold(case, Case::needs);
    cases.into_iter().map(with).collect()
}

/// A host with these many addresses beside its first.
fn with_addresses(count: u32) -> (Host, Vec<String>) {
    let host = Host::new();
    let list: Vec<String> = (1..=count).map(|number| format!("192.0.2.{}", 100 + number)).collect();
    for address in &list {
        let address = format!("{address}/24");
        run(Command::new("ip").args(["-n", &host.name, "address", "add", &address, "dev", "up0"])).ok();
    }
    (host, list)
}

fn asked(host: &Host, server: &str) -> Option<String> {
    let script = wget(server, 1).replacen("wget", "busybox wget", 1);
    let answer = run(within(&host.outside(), "sh".as_ref()).args(["-c", &script])).stdout;
    Some(answer).filter(|answer| !answer.is_empty())
}

/// Runs a Python script in a context on the machine's own files, held to an address.
#[track_caller]
fn python(host: &Host, name: &str, address: &str, script: &str) -> String {
    let id = host.id(name);
    let options = ["run", "--rm", "--name", &id, "--net", "shared", "--ip", address, "host", "--"];
    run(host.vctx().args(options).args(["/usr/bin/python3", "-c", script])).ok().stdout
}

fn ten_web_servers_have_port_80_of_ten_addresses() {
    let (host, list) = with_addresses(10);
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path /tmp/{kind}; "))
        .concat();
    for address in &list {
        let config = host.folder.join(format!("{address}.conf"));
        let text = format!(
            "user root; daemon off; pid /tmp/pid; error_log stderr; events {{ }} \
             http {{ access_log off; {temporary} server {{ listen 80; return 200 \"I am {address}\"; }} }}"
        );
        std::fs::write(&config, text).unwrap();
        let (id, config) = (host.id(address), config.to_str().unwrap().to_owned());
        let options = ["run", "-d", "--name", &id, "--net", "shared", "--ip", address, "--share", &config];
        run(host.vctx().args(options).args(["host", "--", "nginx", "-c", &config])).ok();
    }
    for address in &list {
        let answer = eventually("the web server", 10, || asked(&host, address));
        assert_eq!(answer, format!("I am {address}"));
    }
    let sockets = run(host.inside("ss").args(["-tln"])).ok().stdout;
    for address in &list {
        assert!(sockets.contains(&format!("{address}:80")), "{sockets}");
    }
    assert!(!sockets.contains("0.0.0.0:80"), "{sockets}");
    assert_eq!(asked(&host, HOST[0]), None);
}

fn a_context_has_no_address_but_its_own() {
    let (host, list) = with_addresses(2);
    host.serve(&host.outside());
    let script = format!(
        "import socket\n\
         def bound(address, kind=socket.SOCK_STREAM, family=socket.AF_INET):\n \
           try:\n  s=socket.socket(family, kind); s.bind((address, 0)); return s.getsockname()[0]\n \
           except OSError as e: return type(e).__name__\n\
         for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n \
           for address in ('0.0.0.0', '{own}', '{other}', '{first}'): print(bound(address, kind))\n\
         print(bound('::', family=socket.AF_INET6))\n\
         try: socket.create_connection(('{six}', 80)); print('reached')\n\
         except OSError as e: print(type(e).__name__)\n\
         try: socket.socket(socket.AF_PACKET, socket.SOCK_RAW); print('heard')\n\
         except OSError as e: print(type(e).__name__)\n",
        own = list[0],
        other = list[1],
        first = HOST[0],
        six = crate::harness::net::OUTSIDE[1],
    );
    let printed = python(&host, "one", &list[0], &script);
    let refused = "PermissionError";
    let one = [list[0].as_str(), &list[0], refused, refused];
    let expected = [&one[..], &one[..], &[refused; 3]].concat();
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
    // Whom it asks sees its address, over streams and datagrams, whether the socket was bound or not.
    let outside = crate::harness::net::OUTSIDE[0];
    eventually("the server", 5, || asked(&host, "127.0.0.1"));
    let script = format!(
        "import socket, urllib.request\n\
         print(urllib.request.urlopen('http://{outside}/cgi-bin/who').read().decode())\n\
         s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('{outside}', 9)); print(s.getsockname()[0])\n"
    );
    let printed = python(&host, "one", &list[0], &script);
    assert_eq!(printed.matches(&list[0]).count(), 2, "{printed}");
}

fn each_context_has_a_loopback_of_its_own() {
    let (host, list) = with_addresses(2);
    for (name, address) in ["one", "two"].iter().zip(&list) {
        let script =
            format!("mkdir /tmp/w; echo {name} >/tmp/w/me; exec httpd -f -p 127.0.0.1:8080 -h /tmp/w");
        host.detached(name, &["--net", "shared", "--ip", address], &script).ok();
    }
    for name in ["one", "two"] {
        let ask = "wget -qO- http://127.0.0.1:8080/me";
        let answer =
            eventually("the server", 5, || Some(host.exec(name, ask)).filter(|output| output.code == 0));
        assert_eq!(answer.line(), name);
    }
    // The host's own loopback has neither.
    let script = "busybox wget -qO- http://127.0.0.1:8080/me";
    run(host.inside("sh").args(["-c", script])).refused();
}

fn what_listens_without_an_address_is_not_reached_on_another() {
    let (host, list) = with_addresses(1);
    let id = host.id("one");
    // Without bind(2) there is no call that could be held to an address.
    let script = "import socket\ns=socket.socket(); s.listen(); \
                  open('/shared/port','w').write(str(s.getsockname()[1]))\nwhile True: s.accept()[0].send(b'reached')\n";
    let shared = host.folder.join("shared");
    std::fs::create_dir(&shared).unwrap();
    let volume = format!("{}:/shared", shared.display());
    let options =
        ["run", "-d", "--name", &id, "--net", "shared", "--ip", &list[0], "-v", &volume, "host", "--"];
    run(host.vctx().args(options).args(["/usr/bin/python3", "-c", script])).ok();
    let port = eventually("the port", 10, || {
        std::fs::read_to_string(shared.join("port")).ok().filter(|port| !port.is_empty())
    });
    let ask = |address: &str| {
        let command = format!("timeout 2 busybox nc {address} {port} </dev/null");
        run(within(&host.outside(), "sh".as_ref()).args(["-c", &command])).stdout
    };
    assert_eq!(ask(&list[0]), "reached");
    assert_eq!(ask(HOST[0]), "");
}

fn a_shared_address_is_given_once_and_back() {
    let (host, list) = with_addresses(1);
    let shared = ["--net", "shared", "--ip", list[0].as_str()];
    host.detached("one", &shared, "sleep 1000").ok();
    host.run("two", &shared, "true").refused_with(&["is in use by the context"]);
    host.delete("one");
    host.run("two", &shared, "true").ok();
    let left = std::fs::read_dir(host.folder.join("state/.networks/.shared")).unwrap().count();
    assert_eq!(left, 0);
    for (address, word) in
        [("192.0.2.250", "is no address of this machine"), ("127.0.0.1", "beside its loopback")]
    {
        host.run("two", &["--net", "shared", "--ip", address], "true").refused_with(&[word]);
    }
    host.run("two", &["--net", "shared"], "true").refused_with(&["needs --ip"]);
    host.run("two", &["--net", "shared", "--ip", "fd00::1"], "true").refused_with(&["needs --ip"]);
}
