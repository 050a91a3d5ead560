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
        case!(addresses_of_ipv6_are_held_as_those_of_ipv4).needs(Need::Path("/usr/bin/python3")),
        case!(an_address_of_ipv4_in_the_clothes_of_ipv6_is_no_way_round)
            .needs(Need::Path("/usr/bin/python3")),
        case!(no_option_of_a_socket_gives_another_address).needs(Need::Path("/usr/bin/python3")),
        case!(a_context_with_several_addresses_has_all_of_them).needs(Need::Path("/usr/bin/python3")),
        case!(the_loopback_of_ipv6_is_private_as_well).needs(Need::Path("/usr/bin/python3")),
        case!(abstract_sockets_of_the_host_are_out_of_reach).needs(Need::Path("/usr/bin/python3")),
    ];
    let needs = [Need::Vctx, Need::Program("ip"), Need::Program("nsenter")];
    let with = |case: Case| needs.into_iter().fold(case, Case::needs);
    cases.into_iter().map(with).collect()
}

/// A host with these many addresses beside its first.
fn with_addresses(count: u32) -> (Host, Vec<String>) {
    let host = Host::new();
    let list: Vec<String> = (1..=count).map(|number| format!("192.0.2.{}", 100 + number)).collect();
    list.iter().for_each(|address| add(&host, &format!("{address}/24")));
    (host, list)
}

/// The same with those of IPv6 beside.
fn with_both(count: u32) -> (Host, Vec<String>, Vec<String>) {
    let (host, four) = with_addresses(count);
    let six: Vec<String> = (1..=count).map(|number| format!("2001:db8::{}", 100 + number)).collect();
    six.iter().for_each(|address| add(&host, &format!("{address}/64")));
    (host, four, six)
}

fn add(host: &Host, address: &str) {
    let words = ["-n", &host.name, "address", "add", address, "dev", "up0"];
    run(Command::new("ip").args(words).args(address.contains(':').then_some("nodad"))).ok();
}

fn asked(host: &Host, server: &str) -> Option<String> {
    answered(within(&host.outside(), "sh".as_ref()), server)
}

fn asked_by_host(host: &Host, server: &str) -> Option<String> {
    answered(host.inside("sh"), server)
}

fn answered(mut shell: Command, server: &str) -> Option<String> {
    let script = wget(server, 1).replacen("wget", "busybox wget", 1);
    let answer = run(shell.args(["-c", &script])).stdout;
    Some(answer).filter(|answer| !answer.is_empty())
}

/// Runs a Python script in a context on the machine's own files, held to an address.
#[track_caller]
fn python(host: &Host, name: &str, address: &str, script: &str) -> String {
    python_with(host, name, &["--ip", address], script)
}

/// The same with options of `run`.
#[track_caller]
fn python_with(host: &Host, name: &str, options: &[&str], script: &str) -> String {
    let id = host.id(name);
    let mut command = host.vctx();
    command.args(["run", "--rm", "--name", &id, "--net", "shared"]).args(options);
    run(command.args(["host", "--", "/usr/bin/python3", "-c", script])).ok().stdout
}

/// What the scripts share: `bound` binds and tells the address or the refusal, `reached` connects and tells its own.
const TOOLS: &str = "import socket, struct, time\n\
    STREAM, DATAGRAM, FOUR, SIX = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.AF_INET, socket.AF_INET6\n\
    def bound(family, kind, address, *options):\n \
      s = socket.socket(family, kind)\n \
      for option in options: s.setsockopt(*option, 1)\n \
      try: s.bind((address, 0)); return s.getsockname()[0]\n \
      except OSError as error: return type(error).__name__\n\
    def reached(family, kind, address, port=9):\n \
      s = socket.socket(family, kind); s.settimeout(3)\n \
      try: s.connect((address, port)); return s.getsockname()[0]\n \
      except OSError as error: return type(error).__name__\n";

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
    let six = format!("::ffff:{}", list[0]);
    let expected = [&one[..], &one[..], &[&six, refused, refused]].concat();
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
    host.run("two", &["--net", "shared"], "true").refused_with(&["needs --ip"]);
    let refused = |address: &str, word: &str| {
        host.run("two", &["--net", "shared", "--ip", address], "true").refused_with(&[word]);
    };
    ["127.0.0.1", "::1"].iter().for_each(|address| refused(address, "beside its loopback"));
    for address in ["192.0.2.250", "fd00::1", "224.0.0.1", "ff02::1"] {
        refused(address, "is no address of this machine");
    }
}

fn addresses_of_ipv6_are_held_as_those_of_ipv4() {
    let (host, _, six) = with_both(2);
    let outside = crate::harness::net::OUTSIDE[1];
    host.serve(&host.outside());
    eventually("the server", 5, || asked_by_host(&host, outside));
    let script = format!(
        "{TOOLS}import urllib.request\n\
         for kind in (STREAM, DATAGRAM):\n \
           for address in ('::', '{own}', '{other}', '{first}'): print(bound(SIX, kind, address))\n\
         print(reached(SIX, DATAGRAM, '{outside}'), reached(SIX, STREAM, '{outside}', 80))\n\
         print(urllib.request.urlopen('http://[{outside}]/cgi-bin/who').read().decode().strip())\n\
         print(reached(FOUR, STREAM, '{four}', 80), bound(FOUR, STREAM, '0.0.0.0'))\n",
        own = six[0],
        other = six[1],
        first = HOST[1],
        four = crate::harness::net::OUTSIDE[0],
    );
    let printed = python(&host, "one", &six[0], &script);
    let refused = "PermissionError";
    let one = [six[0].as_str(), &six[0], refused, refused].join("\n");
    let (own, sees) = (&six[0], format!("sees [{}]", six[0]));
    let expected = format!("{one}\n{one}\n{own} {own}\n{sees}\n{refused} {refused}\n");
    assert_eq!(printed, expected);
    // Nobody from outside gets in by another address, and `ss` shows whose it is.
    let script = "mkdir /tmp/w; echo it >/tmp/w/me; exec httpd -f -p '[::]:8080' -h /tmp/w";
    host.detached("web", &["--net", "shared", "--ip", &six[1]], script).ok();
    let get = |address: &str| {
        let command = format!("busybox timeout 2 busybox wget -qO- 'http://[{address}]:8080/me'");
        run(within(&host.outside(), "sh".as_ref()).args(["-c", &command])).stdout
    };
    eventually("the web server", 5, || (get(&six[1]) == "it\n").then_some(()));
    assert_eq!(get(HOST[1]), "");
    let sockets = run(host.inside("ss").args(["-tln"])).ok().stdout;
    assert!(sockets.contains(&format!("[{}]:8080", six[1])), "{sockets}");
}

fn an_address_of_ipv4_in_the_clothes_of_ipv6_is_no_way_round() {
    let (host, four, _) = with_both(2);
    let outside = crate::harness::net::OUTSIDE[0];
    host.serve(&host.outside());
    eventually("the server", 5, || asked_by_host(&host, outside));
    let script = format!(
        "{TOOLS}for address in ('{own}', '{other}', '{first}', '0.0.0.0', '127.0.0.1'):\n \
           print(bound(SIX, STREAM, '::ffff:' + address), bound(SIX, DATAGRAM, '::ffff:' + address))\n\
         print(bound(SIX, STREAM, '::'))\n\
         print(reached(SIX, STREAM, '::ffff:{outside}', 80), reached(SIX, DATAGRAM, '::ffff:{outside}'))\n\
         s = socket.socket(SIX, DATAGRAM); s.sendto(b'x', ('::ffff:{outside}', 9)); print(s.getsockname()[0])\n",
        own = four[0],
        other = four[1],
        first = HOST[0],
    );
    let printed = python(&host, "one", &four[0], &script);
    let own = format!("::ffff:{}", four[0]);
    let refused = "PermissionError";
    let expected = format!(
        "{own} {own}\n{refused} {refused}\n{refused} {refused}\n{own} {own}\n::1 ::1\n{own}\n{own} {own}\n::\n"
    );
    assert_eq!(printed, expected);
}

fn no_option_of_a_socket_gives_another_address() {
    let (host, four, six) = with_both(2);
    // Listens outside for datagrams, and tells who they come from.
    let listener = "import socket, sys\n\
        s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', 4711))\n\
        while True:\n data, peer = s.recvfrom(99); print(peer[0], data.decode(), flush=True)\n \
         if data == b'end': break\n";
    let mut command = within(&host.outside(), "/usr/bin/python3".as_ref());
    let listener = command.args(["-c", listener]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    eventually("the listener", 5, || {
        run(within(&host.outside(), "ss".as_ref()).args(["-uln"])).stdout.contains(":4711").then_some(())
    });
    let script = format!(
        "{TOOLS}free, transparent, six_free = (0, 15), (0, 19), (41, 78)\n\
         for kind in (STREAM, DATAGRAM):\n \
           print(bound(FOUR, kind, '{other4}', free), bound(FOUR, kind, '{other4}', transparent),\n \
                 bound(FOUR, kind, '203.0.113.1', free, transparent), bound(SIX, kind, '{other6}', six_free))\n\
         to4, to6 = ('{out4}', 4711), ('{out6}', 4711)\n\
         def attempt(what):\n \
           try: what()\n \
           except OSError as error: pass\n\
         s = socket.socket(FOUR, DATAGRAM); info = struct.pack('=I4s4s', 0, socket.inet_aton('{other4}'), bytes(4))\n\
         attempt(lambda: s.sendmsg([b'pktinfo4'], [(0, 8, info)], 0, to4)); s.connect(to4)\n\
         attempt(lambda: s.sendmsg([b'connected4'], [(0, 8, info)]))\n\
         s = socket.socket(SIX, DATAGRAM); info = socket.inet_pton(SIX, '{other6}') + bytes(4)\n\
         attempt(lambda: s.sendmsg([b'pktinfo6'], [(41, 50, info)], 0, to6)); s.connect(to6)\n\
         attempt(lambda: s.sendmsg([b'connected6'], [(41, 50, info)]))\n\
         def packet(source, word):\n \
           udp = struct.pack('!HHHH', 9, 4711, 8 + len(word), 0) + word\n \
           return struct.pack('!BBHHHBBH4s4s', 69, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(to4[0])) + udp\n\
         raw = socket.socket(FOUR, socket.SOCK_RAW, 255)\n\
         attempt(lambda: raw.sendto(packet('{other4}', b'raw'), to4)); raw.sendto(packet('{own4}', b'rawown'), to4)\n\
         s = socket.socket(SIX, DATAGRAM); s.settimeout(0.5)\n\
         for _ in range(20):\n \
           s.sendto(b'six', to6)\n \
           try: s.recv(9); break\n \
           except TimeoutError: pass\n\
         socket.socket(FOUR, DATAGRAM).sendto(b'end', to4)\n",
        own4 = four[0],
        other4 = four[1],
        other6 = six[1],
        out4 = crate::harness::net::OUTSIDE[0],
        out6 = crate::harness::net::OUTSIDE[1],
    );
    let options = ["--ip", &four[0], "--ip", &six[0], "--cap-add", "NET_ADMIN,NET_RAW"];
    let printed = python_with(&host, "one", &options, &script);
    let refused = ["PermissionError"; 4].join(" ");
    assert_eq!(printed, format!("{refused}\n{refused}\n"));
    let heard = listener.wait_with_output().unwrap();
    let heard = String::from_utf8(heard.stdout).unwrap();
    let strangers: Vec<&str> = heard
        .lines()
        .filter(|line| ![&four[0], &six[0]].iter().any(|own| line.contains(own.as_str())))
        .collect();
    assert!(strangers.is_empty(), "{heard}");
    assert!(["rawown", "six", "end"].iter().all(|word| heard.contains(word)), "{heard}");
}

fn a_context_with_several_addresses_has_all_of_them() {
    let (host, four, six) = with_both(3);
    let options = ["--ip", &four[0], "--ip", &six[0], "--ip", &four[1], "--ip", &six[1]];
    host.serve(&host.outside());
    let outside = crate::harness::net::OUTSIDE;
    eventually("the server", 5, || asked_by_host(&host, outside[0]));
    let script = format!(
        "{TOOLS}for address in {four:?}: print(bound(FOUR, STREAM, address))\n\
         for address in {six:?}: print(bound(SIX, STREAM, address))\n\
         print(bound(FOUR, STREAM, '0.0.0.0'), bound(SIX, STREAM, '::'))\n\
         s = socket.create_connection(('{four_out}', 80), 3, ('{second}', 0)); print(s.getsockname()[0])\n\
         s = socket.socket(FOUR, STREAM); s.setsockopt(0, 24, 1); s.bind(('{second}', 0)); s.connect(('{four_out}', 80))\n\
         print(s.getsockname()[0])\n\
         s = socket.create_connection(('{six_out}', 80), 3, ('{second6}', 0)); print(s.getsockname()[0])\n",
        four_out = outside[0],
        six_out = outside[1],
        second = four[1],
        second6 = six[1],
    );
    let printed = python_with(&host, "one", &options, &script);
    let refused = "PermissionError";
    let [bound_four, bound_six] = [&four, &six].map(|own| [own[0].as_str(), &own[1], refused]);
    let unnamed = format!("{} {}", four[0], six[0]);
    let expected = [&bound_four[..], &bound_six, &[&unnamed, &four[1], &four[1], &six[1]]].concat();
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
    // None of them is somebody else's at the same time.
    let shared = ["--net", "shared", "--ip", &four[2], "--ip", &four[1]];
    host.detached("one", &["--net", "shared", "--ip", &four[1]], "sleep 1000").ok();
    host.run("two", &shared, "true").refused_with(&["is in use by the context"]);
    assert_eq!(std::fs::read_dir(host.folder.join("state/.networks/.shared")).unwrap().count(), 2);
}

fn the_loopback_of_ipv6_is_private_as_well() {
    let (host, four, six) = with_both(2);
    // Serves on ::1 by its own means, and asks itself by both names of the loopback.
    let script = format!(
        "{TOOLS}import threading\n\
         server = socket.socket(SIX, STREAM); server.bind(('::1', 8080)); server.listen()\n\
         def serve():\n \
           while True: one, peer = server.accept(); one.send(peer[0].encode()); one.close()\n\
         threading.Thread(target=serve, daemon=True).start()\n\
         for address in ('::1', '127.0.0.1'):\n \
           s = socket.create_connection((address, 8080), 3); print(s.getpeername()[0], s.recv(99).decode())\n\
         echo = socket.socket(SIX, DATAGRAM); echo.bind(('::1', 4711))\n\
         s = socket.socket(SIX, DATAGRAM); s.settimeout(3); s.connect(('::1', 4711)); s.send(b'x')\n\
         data, peer = echo.recvfrom(9); echo.sendto(data, peer); print(s.recv(9).decode())\n\
         open('/shared/up', 'w').close(); time.sleep(1000)\n"
    );
    let shared = host.folder.join("shared");
    std::fs::create_dir(&shared).unwrap();
    let log = host.folder.join("log");
    let id = host.id("one");
    let volume = format!("{}:/shared", shared.display());
    let options = ["run", "--name", &id, "--net", "shared", "--ip", &six[0], "-v", &volume, "host", "--"];
    let mut command = host.vctx();
    command.args(options).args(["/usr/bin/python3", "-u", "-c", &script]);
    command.stdout(std::fs::File::create(&log).unwrap());
    let mut child = command.stdin(std::process::Stdio::null()).spawn().unwrap();
    eventually("the server", 10, || shared.join("up").exists().then_some(()));
    // Neither the host nor another context finds it there.
    let probe = format!(
        "{TOOLS}print(reached(SIX, STREAM, '::1', 8080), reached(FOUR, STREAM, '127.0.0.1', 8080))\n"
    );
    let refused = "ConnectionRefusedError ConnectionRefusedError\n";
    assert_eq!(run(host.inside("/usr/bin/python3").args(["-c", &probe])).ok().stdout, refused);
    assert_eq!(python(&host, "two", &four[1], &probe), refused);
    host.delete("one");
    let _ = child.wait();
    let printed = std::fs::read_to_string(&log).unwrap();
    assert_eq!(printed, "::1 ::1\n127.0.0.1 ::1\nx\n");
}

fn abstract_sockets_of_the_host_are_out_of_reach() {
    let (host, four) = with_addresses(1);
    let serve = "import socket\ns = socket.socket(socket.AF_UNIX); s.bind('\\0vctx-test-abstract'); s.listen()\n\
                 print('up', flush=True)\nwhile True: s.accept()[0].send(b'host')\n";
    let mut command = host.inside("/usr/bin/python3");
    let mut server = command.args(["-c", serve]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let output = server.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
    let ask = "import socket\n\
        def ask(name):\n s = socket.socket(socket.AF_UNIX)\n \
         try: s.connect('\\0' + name); return s.recv(9).decode()\n \
         except OSError as error: return type(error).__name__\n\
        print(ask('vctx-test-abstract'))\n\
        own = socket.socket(socket.AF_UNIX); own.bind('\\0vctx-test-own'); own.listen()\n\
        s = socket.socket(socket.AF_UNIX); s.connect('\\0vctx-test-own'); print('own')\n";
    let by_host = run(host.inside("/usr/bin/python3").args(["-c", ask])).ok().stdout;
    let printed = python(&host, "one", &four[0], ask);
    // A process that joins later is held as well.
    let id = host.id("two");
    let options =
        ["run", "-d", "--name", &id, "--net", "shared", "--ip", &four[0], "host", "--", "sleep", "1000"];
    run(host.vctx().args(options)).ok();
    let joined = run(host.vctx().args(["exec", &id, "/usr/bin/python3", "-c", ask])).ok().stdout;
    let _ = server.kill();
    let _ = server.wait();
    assert_eq!(by_host, "host\nown\n");
    assert_eq!(printed, "PermissionError\nown\n");
    assert_eq!(joined, "PermissionError\nown\n");
}
