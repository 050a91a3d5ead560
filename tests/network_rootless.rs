//! Networks of ordinary users, which pasta or slirp4netns carries: the outside, ports, and the end of the program.

use crate::harness::net::{HOST, Host, OUTSIDE, SERVER, wget, within};
use crate::harness::{Case, Need, Output, case, command, eventually, run};
use crate::host_run::runtime_for_everybody;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    let cases = vec![
        case!(an_ordinary_user_reaches_the_outside_and_is_reached_by_ports),
        case!(the_loopback_of_the_host_is_not_reached),
        case!(names_are_asked_of_the_hosts_server_even_on_its_loopback).needs(Need::Path("/usr/bin/python3")),
        case!(the_program_ends_with_a_context_that_ends_by_itself),
        case!(the_program_goes_whatever_was_killed),
        case!(a_context_outlives_its_program),
        case!(a_program_that_fails_undoes_the_start),
        case!(ports_that_cannot_be_had_are_told),
        case!(without_a_program_the_loopback_is_all_and_that_is_told),
    ];
    let needs = [
        Need::Vctx,
        Need::Program("ip"),
        Need::Program("nsenter"),
        Need::Program("setpriv"),
        Need::Program("pasta"),
        Need::Program("slirp4netns"),
        Need::Path("/dev/net/tun"),
    ];
    let with = |case: Case| needs.into_iter().fold(case, Case::needs);
    cases.into_iter().map(with).collect()
}

const USER: u32 = 65534;

const PROGRAMS: [&str; 2] = ["pasta", "slirp4netns"];

/// An ordinary user on a host of the test's own, who may use the device for tunnels as on most machines.
struct User {
    host: Host,
    folder: PathBuf,
}

impl User {
    fn new() -> User {
        let host = Host::new();
        let folder = host.folder.join("user");
        for name in ["", "run", "data", "home"] {
            fs::create_dir(folder.join(name)).unwrap();
            chown(folder.join(name), Some(USER), Some(USER)).unwrap();
        }
        run(Command::new("mknod").args(["-m", "666"]).arg(folder.join("tun")).args(["c", "10", "200"])).ok();
        for address in OUTSIDE {
            let family = if address.contains(':') { "-6" } else { "-4" };
            run(Command::new("ip")
                .args(["-n", &host.name, family, "route", "add", "default", "via", address]))
            .ok();
        }
        User { host, folder }
    }

    /// vctx of the user, after `mounts`, which are the user's alone.
    fn vctx(&self, mounts: &str) -> Command {
        let mut command = self.host.inside("unshare");
        let script = format!("{mounts}; exec setpriv --reuid {USER} --regid {USER} --clear-groups \"$@\"");
        command.args(["--mount", "sh", "-c", &script, "sh"]).arg(runtime_for_everybody());
        command.arg("--root").arg(self.folder.join("state")).env("VCTX_TEST_ID", &self.host.name);
        command.env("HOME", self.folder.join("home")).env("XDG_RUNTIME_DIR", self.folder.join("run"));
        command.env("XDG_DATA_HOME", self.folder.join("data")).current_dir(&self.folder);
        command
    }

    fn tunnel(&self) -> String {
        format!("mount --bind {}/tun /dev/net/tun", self.folder.display())
    }

    #[track_caller]
    fn call(&self, args: &[&str]) -> Output {
        run(self.vctx(&self.tunnel()).args(args))
    }

    #[track_caller]
    fn start(&self, options: &[&str], script: &str) -> Output {
        self.call(&[&["run"], options, &["host", "--", "sh", "-c", script]].concat())
    }

    #[track_caller]
    fn exec(&self, name: &str, script: &str) -> Output {
        self.call(&["exec", name, "sh", "-c", script])
    }

    /// Processes that carry a network of this user's contexts.
    fn carriers(&self) -> Vec<String> {
        let state = self.folder.join("state");
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let line = |entry: fs::DirEntry| {
            let text = fs::read_to_string(entry.path().join("cmdline")).ok()?.replace('\0', " ");
            let program = text.split(' ').next()?.rsplit('/').next()?.split('.').next()?.to_owned();
            let is_ours = PROGRAMS.contains(&program.as_str()) && text.contains(state.to_str()?);
            is_ours.then(|| format!("{} {text}", entry.file_name().to_string_lossy()))
        };
        entries.filter_map(line).collect()
    }

    #[track_caller]
    fn has_no_carrier(&self) {
        eventually("the end of the program", 10, || self.carriers().is_empty().then_some(()));
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for id in command::quietly(self.vctx(&self.tunnel()).args(["list", "-q"])).stdout.lines() {
            command::quietly(self.vctx(&self.tunnel()).args(["delete", "--force", id]));
        }
        if !std::thread::panicking() {
            assert_eq!(self.carriers(), Vec::<String>::new());
        }
    }
}

fn server() -> String {
    SERVER.replace("exec httpd", "exec busybox httpd")
}

fn ask(server: &str) -> String {
    wget(server, 2).replacen("wget", "busybox wget", 1)
}

fn asked(namespace: &str, server: &str) -> Option<String> {
    let answer = run(within(namespace, Path::new("sh")).args(["-c", &ask(server)])).stdout;
    Some(answer).filter(|answer| !answer.trim().is_empty())
}

fn an_ordinary_user_reaches_the_outside_and_is_reached_by_ports() {
    let user = User::new();
    user.host.serve(&user.host.outside());
    for program in PROGRAMS {
        let options = ["-d", "--name", program, "--hostname", "web", "--net", program, "-p", "18080:80"];
        user.start(&[&options[..], &["-p", "127.0.0.1:18081-18082:81-82/udp"]].concat(), &server()).ok();
        let answer = eventually("the server", 10, || asked(&user.host.outside(), "192.0.2.1:18080"));
        assert!(answer.contains("web sees"), "{program}: {answer}");
        let seen = user.exec(program, &ask(OUTSIDE[0])).ok().stdout;
        assert!(seen.contains(HOST[0]), "{program}: {seen}");
        if program == "pasta" {
            // An address of IPv6 is not used before nobody else has been found to have it.
            let seen = eventually("the outside over IPv6", 10, || {
                let asked = user.exec(program, &ask(OUTSIDE[1]));
                (asked.code == 0).then_some(asked.stdout)
            });
            assert!(seen.contains(HOST[1]), "{program}: {seen}");
        }
        let datagrams = run(user.host.inside("ss").args(["-uln"])).ok().stdout;
        assert!(datagrams.contains("127.0.0.1:18082"), "{program}: {datagrams}");
        assert!(user.exec(program, "cat /etc/resolv.conf").ok().stdout.contains("nameserver"));
        assert_eq!(user.carriers().len(), 1);
        user.call(&["delete", "--force", program]).ok();
        assert_eq!(user.carriers(), Vec::<String>::new());
        assert_eq!(asked(&user.host.outside(), "192.0.2.1:18080"), None);
    }
    // The one word for all of them.
    user.start(&["--rm", "--net", "bridge"], &ask(OUTSIDE[0])).ok();
    assert_eq!(user.carriers(), Vec::<String>::new());
}

fn the_loopback_of_the_host_is_not_reached() {
    let user = User::new();
    let script = "mkdir -p /tmp/w; exec busybox httpd -f -p 127.0.0.1:8099 -h /";
    let mut server = user.host.inside("sh").args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
    eventually("the server", 5, || {
        let sockets = run(user.host.inside("ss").args(["-tln"])).stdout;
        sockets.contains("127.0.0.1:8099").then_some(())
    });
    for program in PROGRAMS {
        for address in ["127.0.0.1", OUTSIDE[0], "10.0.2.2"] {
            let script =
                format!("busybox timeout 2 busybox wget -qO- http://{address}:8099/etc/passwd; true");
            let seen = user.start(&["--rm", "--net", program], &script);
            assert_eq!(seen.stdout, "", "{program} reaches {address}");
        }
    }
    let _ = server.kill();
    let _ = server.wait();
}

fn names_are_asked_of_the_hosts_server_even_on_its_loopback() {
    let user = User::new();
    // Whatever is asked for has the address 192.0.2.99.
    let script = "import socket\n\
        s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(('127.0.0.1',53))\n\
        while True:\n \
          q,a=s.recvfrom(512); e=12\n \
          while q[e]: e+=q[e]+1\n \
          s.sendto(q[:2]+bytes.fromhex('81800001000100000000')+q[12:e+5]+bytes.fromhex('c00c00010001000000010004c0000263'),a)\n";
    let mut server = user.host.inside("python3").args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
    eventually("the server", 10, || {
        run(user.host.inside("ss").args(["-uln"])).stdout.contains("127.0.0.1:53").then_some(())
    });
    let usual = user.folder.join("resolv.conf");
    fs::write(&usual, "nameserver 127.0.0.1\nsearch here.example\n").unwrap();
    let mounts = format!("{}; mount --bind {} /etc/resolv.conf", user.tunnel(), usual.display());
    for program in PROGRAMS {
        let mut command = user.vctx(&mounts);
        command.args(["run", "--rm", "--net", program, "host", "--", "getent", "ahostsv4", "some.name"]);
        assert!(run(&mut command).ok().stdout.contains("192.0.2.99"), "{program}");
    }
    let _ = server.kill();
    let _ = server.wait();
}

fn the_program_ends_with_a_context_that_ends_by_itself() {
    let user = User::new();
    for program in PROGRAMS {
        let go = user.folder.join("data/go");
        let share = go.parent().unwrap().display().to_string();
        let script = format!("while test ! -e {}; do sleep 0.1; done", go.display());
        user.start(&["-d", "--name", program, "--net", program, "--share", &share], &script).ok();
        assert_eq!(user.carriers().len(), 1);
        fs::write(&go, "").unwrap();
        user.has_no_carrier();
        // It is still known, and deleted as any other.
        assert!(user.call(&["list"]).ok().stdout.contains("stopped"));
        user.call(&["delete", program]).ok();
        fs::remove_file(&go).unwrap();
    }
}

fn the_program_goes_whatever_was_killed() {
    let user = User::new();
    for program in PROGRAMS {
        for moment in 0..crate::harness::rounds(16) {
            let id = format!("{program}{moment}");
            let mut command = user.vctx(&user.tunnel());
            command.args(["run", "-d", "--name", &id, "--net", program, "host", "--", "sleep", "1000"]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_micros(u64::from(moment) * 6000));
            let _ = child.kill();
            let _ = child.wait();
            user.call(&["delete", "--force", &id]).ok();
            assert_eq!(user.carriers(), Vec::<String>::new(), "killed after {} ms", moment * 6);
        }
    }
}

fn a_context_outlives_its_program() {
    let user = User::new();
    user.start(&["-d", "--name", "one", "--net", "pasta"], "sleep 1000").ok();
    let carrier = user.carriers()[0].clone();
    run(Command::new("kill").args(["-9", carrier.split(' ').next().unwrap()])).ok();
    user.has_no_carrier();
    assert_eq!(user.exec("one", "echo lives").ok().stdout, "lives\n");
    user.call(&["delete", "--force", "one"]).ok();
}

fn a_program_that_fails_undoes_the_start() {
    let user = User::new();
    for program in PROGRAMS {
        let mut command = user.vctx("mount --bind /dev/null /dev/net/tun");
        command.args(["run", "-d", "--name", "one", "--net", program, "host", "--", "sleep", "1000"]);
        run(&mut command).refused_with(&[&format!("{program}, which carries the network, fails: ")]);
        assert_eq!(user.carriers(), Vec::<String>::new());
        assert_eq!(user.call(&["list", "-q"]).ok().stdout, "");
    }
}

fn ports_that_cannot_be_had_are_told() {
    let user = User::new();
    user.host.serve(&user.host.name);
    eventually("the server", 5, || asked(&user.host.name, "127.0.0.1"));
    run(user.host.inside("sysctl").args(["-qw", "net.ipv4.ip_unprivileged_port_start=80"])).ok();
    user.start(&["--rm", "--net", "pasta", "-p", "80:80"], "true").refused_with(&["port 80 cannot be had"]);
    run(user.host.inside("sysctl").args(["-qw", "net.ipv4.ip_unprivileged_port_start=1024"])).ok();
    for (options, said) in [
        (&["--net", "pasta", "-p", "81:80"][..], "the port 81 is for root only"),
        (&["--net", "slirp4netns", "-p", "[::1]:8080:80"], "leads no ports of ipv6"),
        (&["--net", "pasta", "-p", "192.0.2.77:8080:80"], "port 8080 cannot be had"),
        (&["--net", "pasta", "--ip", "10.0.0.2"], "--ip needs root"),
        (&["--net", "blue"], "needs root"),
        (&["--net", "cni:podman"], "needs root"),
    ] {
        user.start(&[&["--rm"], options].concat(), "true").refused_with(&[said]);
    }
    user.host.run("one", &["--net", "pasta"], "true").refused_with(&["is for ordinary users"]);
}

fn without_a_program_the_loopback_is_all_and_that_is_told() {
    let user = User::new();
    let without = "mount --bind /dev/null /usr/bin/pasta; mount --bind /dev/null /usr/bin/slirp4netns";
    let start = |options: &[&str]| {
        let script = "ls /sys/class/net";
        run(user.vctx(without).args(["run", "--rm"]).args(options).args(["host", "--", "sh", "-c", script]))
    };
    let alone = start(&["--net", "bridge"]).ok();
    assert_eq!(alone.stdout, "lo\n");
    assert!(alone.stderr.contains("has its loopback only") && alone.stderr.contains("package passt"));
    start(&["--net", "bridge", "-p", "8080:80"]).refused_with(&["install the package passt"]);
    start(&["--net", "slirp4netns"]).refused_with(&["install the package slirp4netns"]);
}
