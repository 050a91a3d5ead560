//! Networks of ours beside those of a real Docker, a real Podman and a real firewalld, on a host of the test's own. Who is
//! there serves on a port of the host and reaches the others' ports and the outside, whoever came first and whoever has
//! gone.

use crate::harness::engine::{self, Daemon, IMAGE};
use crate::harness::net::{HOST, Host, OUTSIDE, SERVER, wget, within};
use crate::harness::{Case, Need, at_end, case, command, eventually, rootfs, run, runtime, which};
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub fn cases() -> Vec<Case> {
    let engines = [
        Need::Program("dockerd"),
        Need::Program("docker"),
        Need::Program("podman"),
        Need::Program("conmon"),
        Need::Program("iptables"),
        Need::Path("/usr/lib/cni/portmap"),
        Need::Recipe("VCTX_BESIDE", "test-beside"),
    ];
    let with = |needs: &[Need], case: Case| needs.iter().cloned().fold(case, Case::needs);
    let cases = vec![
        with(&engines, case!(docker_podman_and_vctx_come_and_go_in_any_order)),
        with(
            &[Need::Program("firewalld"), Need::Program("dbus-daemon")],
            case!(a_network_passes_firewalld_which_keeps_the_host_shut),
        ),
    ];
    let needs = [Need::Vctx, Need::Program("ip"), Need::Program("nft"), Need::Program("nsenter")];
    cases.into_iter().map(|case| with(&needs, case)).collect()
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Who {
    Docker,
    Podman,
    Vctx,
}
use Who::{Docker, Podman, Vctx};

impl Who {
    /// The port of the host on which it serves.
    fn port(self) -> u16 {
        [8081, 8082, 8083][self as usize]
    }

    /// The host name of its context, with which the server answers.
    fn name(self) -> &'static str {
        ["docker", "podman", "vctx"][self as usize]
    }
}

const ORDERS: [[Who; 3]; 6] = [
    [Docker, Podman, Vctx],
    [Docker, Vctx, Podman],
    [Podman, Docker, Vctx],
    [Podman, Vctx, Docker],
    [Vctx, Docker, Podman],
    [Vctx, Podman, Docker],
];

fn docker_podman_and_vctx_come_and_go_in_any_order() {
    let _turn = engine::wait_turn();
    let folder = engine::folder("beside");
    at_end(|| {
        engine::remove_control_groups(&engine::cgroup_parent("beside"));
        ["libpod_parent", "conmon"].into_iter().for_each(engine::remove_control_groups);
    });
    for (number, order) in ORDERS.into_iter().enumerate() {
        // With each order of coming another one of going.
        let away = ORDERS[(number + 2) % ORDERS.len()];
        println!("come {order:?}, go {away:?}");
        let beside = Beside::new(&folder);
        for who in order {
            beside.comes(who);
            beside.all_is_well();
        }
        beside.strangers_are_kept_out();
        beside.docker_starts_anew();
        beside.all_is_well();
        for who in away {
            beside.goes(who);
            beside.all_is_well();
        }
        beside.nothing_of_ours_is_left();
    }
}

/// A host with those who have come. The engines' folders are older than it, and have the image already.
struct Beside {
    host: Host,
    folder: PathBuf,
    docker: RefCell<Option<Daemon>>,
    here: RefCell<Vec<Who>>,
}

impl Beside {
    fn new(folder: &Path) -> Beside {
        let host = Host::new();
        host.serve(&host.outside());
        // As on a machine that has just been started: who switches it on is part of the order.
        run(host.inside("sh").args(["-c", "echo 0 >/proc/sys/net/ipv4/ip_forward"])).ok();
        let networks = folder.join("networks");
        fs::create_dir_all(&networks).unwrap();
        let network = format!(
            r#"{{ "cniVersion": "0.4.0", "name": "podman", "plugins": [
                {{ "type": "bridge", "bridge": "cni-podman0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                   "ipam": {{ "type": "host-local", "dataDir": {:?}, "routes": [{{ "dst": "0.0.0.0/0" }}],
                              "ranges": [[{{ "subnet": "10.88.0.0/16" }}]] }} }},
                {{ "type": "portmap", "capabilities": {{ "portMappings": true }} }}, {{ "type": "firewall" }} ] }}"#,
            folder.join("leases")
        );
        fs::write(networks.join("87-podman.conflist"), network).unwrap();
        let config = format!(
            "[containers]\ndefault_ulimits = [\"nofile=512:1024\", \"nproc=512:1024\"]\n[engine]\n\
             events_logger = \"file\"\nlock_type = \"file\"\n[network]\nnetwork_backend = \"cni\"\n\
             network_config_dir = {networks:?}\n"
        );
        fs::write(folder.join("containers.conf"), config).unwrap();
        // The server, which is process 1 of its container, minds no SIGTERM.
        fs::write(folder.join("daemon.json"), r#"{ "shutdown-timeout": 1 }"#).unwrap();
        Beside { host, folder: folder.to_owned(), docker: RefCell::default(), here: RefCell::default() }
    }

    fn docker(&self) -> Command {
        let mut command = Command::new(which("/usr/bin/docker").or_else(|| which("docker")).unwrap());
        command.args(["--host", &format!("unix://{}/sock", self.folder.display())]);
        command
    }

    fn podman(&self) -> Command {
        let mut command = self.host.inside(which("podman").unwrap());
        command.env("CONTAINERS_CONF", self.folder.join("containers.conf"));
        for (option, place) in [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(option).arg(self.folder.join(place));
        }
        command
            .args(["--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--runtime"])
            .arg(runtime());
        command
    }

    fn start_docker(&self) {
        let at = |name: &str| self.folder.join(name).to_str().unwrap().to_owned();
        let mut command = self.host.inside(which("dockerd").unwrap());
        command.args(["--config-file", &at("daemon.json"), "--data-root", &at("data")]);
        command.args(["--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        command.args(["--host", &format!("unix://{}", at("sock"))]);
        command.args(["--cgroup-parent", &format!("/{}", engine::cgroup_parent("beside"))]);
        let ready = || command::quietly(self.docker().arg("version")).code == 0;
        *self.docker.borrow_mut() = Some(Daemon::start(&mut command, &self.folder, ready));
    }

    fn comes(&self, who: Who) {
        let archive = rootfs::archive();
        let publish = format!("{}:80", who.port());
        let serve = |mut engine: Command| {
            engine.args([
                "run",
                "--detach",
                "--name",
                who.name(),
                "--hostname",
                who.name(),
                "--publish",
                &publish,
            ]);
            run(engine.args([IMAGE, "sh", "-c", SERVER])).ok();
        };
        match who {
            Docker => {
                self.start_docker();
                if run(self.docker().args(["images", "--quiet"])).ok().stdout.is_empty() {
                    run(self.docker().arg("import").arg(archive).arg(IMAGE)).ok();
                }
                serve(self.docker());
            }
            Podman => {
                if run(self.podman().args(["images", "--quiet"])).ok().stdout.is_empty() {
                    run(self.podman().arg("import").arg(archive).arg(IMAGE)).ok();
                }
                serve(self.podman());
            }
            Vctx => {
                self.host.detached(who.name(), &["--net", "bridge", "-p", &publish], SERVER).ok();
                self.host.call(&["network", "create", "--internal", "inner"]).ok();
                for name in ["near", "far"] {
                    self.host.detached(name, &["--net", "inner"], SERVER).ok();
                }
            }
        }
        self.here.borrow_mut().push(who);
    }

    fn goes(&self, who: Who) {
        match who {
            Docker => {
                run(self.docker().args(["rm", "--force", who.name()])).ok();
                self.docker.borrow_mut().take();
            }
            Podman => drop(run(self.podman().args(["rm", "--force", "--time", "0", who.name()])).ok()),
            Vctx => {
                [who.name(), "near", "far"].iter().for_each(|name| self.host.delete(name));
                self.host.call(&["network", "rm", "vctx0"]).ok();
                self.host.call(&["network", "rm", "inner"]).ok();
                self.nothing_of_ours_is_left();
            }
        }
        self.here.borrow_mut().retain(|one| *one != who);
    }

    fn docker_starts_anew(&self) {
        self.docker.borrow_mut().take();
        self.start_docker();
        run(self.docker().args(["start", Docker.name()])).ok();
    }

    /// A script inside the context of `who`.
    fn inside(&self, who: Who, script: &str) -> String {
        let arguments = ["exec", who.name(), "sh", "-c", script];
        match who {
            Docker => command::quietly(self.docker().args(arguments)).stdout,
            Podman => command::quietly(self.podman().args(arguments)).stdout,
            Vctx => self.host.exec(who.name(), script).stdout,
        }
    }

    fn all_is_well(&self) {
        let here = self.here.borrow();
        let state = || {
            let rules = run(self.host.inside("sh").args(["-c", "iptables-save; nft list ruleset"])).stdout;
            format!("with {here:?}: {rules}")
        };
        // Docker has been first to switch forwarding on: what nobody has spoken of is dropped. Podman's plugins speak of
        // what its containers send, and not of who comes from beyond the machine; so it is with the two alone as well.
        let dropped =
            run(self.host.inside("iptables").args(["-S", "FORWARD"])).stdout.contains("-P FORWARD DROP");
        let reached = |who: Who| who != Podman || !dropped;
        for who in here.iter().filter(|who| reached(**who)) {
            let address = format!("{}:{}", HOST[0], who.port());
            let answer = answered(&self.host.outside(), &address, |answer| answer.contains("sees"));
            let wanted = [format!("{} sees", who.name()), OUTSIDE[0].to_owned()];
            assert!(
                wanted.iter().all(|part| answer.contains(part)),
                "{who:?} answers {answer:?} {}",
                state()
            );
        }
        let mut servers: Vec<(String, String)> = Vec::new();
        for who in here.iter() {
            servers.push((format!("{}:{}", HOST[0], who.port()), format!("{} sees", who.name())));
        }
        servers.push((OUTSIDE[0].into(), format!("sees [::ffff:{}]", HOST[0])));
        let script: String =
            servers.iter().map(|(server, _)| format!("{}; echo;", wget(server, 2))).collect();
        for who in here.iter() {
            let answers = self.inside(*who, &script);
            for (server, wanted) in &servers {
                assert!(answers.contains(wanted), "{who:?} hears {answers:?} of {server} {}", state());
            }
        }
        if here.contains(&Vctx) {
            let answer = self.host.asks(Vctx.name(), OUTSIDE[1]);
            assert!(answer.contains(HOST[1]), "{answer} {}", state());
            let six = format!("[{}]:{}", HOST[1], Vctx.port());
            let answer = answered(&self.host.outside(), &six, |answer| answer.contains("sees"));
            assert!(answer.contains(OUTSIDE[1]), "{answer} {}", state());
            assert!(self.host.asks("near", "far").contains("far sees"), "{}", state());
        }
    }

    /// Contexts of the engines get no other way to one of ours than its port.
    fn strangers_are_kept_out(&self) {
        let own = self.host.addresses("vctx0", Vctx.name());
        for who in [Docker, Podman] {
            let answer = self.inside(who, &format!("{}; true", wget(&own[0], 1)));
            assert!(!answer.contains("sees"), "{who:?} reaches {own:?}: {answer}");
        }
        self.host.is_refused("near", OUTSIDE[0]);
    }

    fn nothing_of_ours_is_left(&self) {
        let rules =
            run(self.host.inside("sh").args(["-c", "iptables-save; ip6tables-save; nft list ruleset"]));
        assert!(!rules.stdout.contains("vctx"), "{}", rules.stdout);
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if self.docker.borrow().is_some() {
            command::quietly(self.docker().args(["rm", "--force", Docker.name()]));
        }
        self.docker.borrow_mut().take();
        command::quietly(self.podman().args(["rm", "--force", "--all", "--time", "0"]));
    }
}

/// What somebody in a namespace is answered; asked until it is as wanted, for a server may have only begun.
fn answered(namespace: &str, server: &str, wanted: impl Fn(&str) -> bool) -> String {
    let ask =
        || run(within(namespace, "sh".as_ref()).args(["-c", &format!("busybox {}", wget(server, 1))])).stdout;
    let mut answer = ask();
    for _ in 0..5 {
        if wanted(&answer) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        answer = ask();
    }
    answer
}

/// D-Bus and firewalld of a host alone, with what it has stored in the host's folder.
struct Firewall<'a> {
    host: &'a Host,
    daemon: Option<Daemon>,
    _bus: Daemon,
}

const BUS: &str = "DBUS_SYSTEM_BUS_ADDRESS";

impl Firewall<'_> {
    fn new(host: &Host) -> Firewall<'_> {
        let folder = host.folder.join("bus");
        fs::create_dir(&folder).unwrap();
        let socket = folder.join("socket");
        let config = format!(
            "<busconfig><type>system</type><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context=\"default\">\
             <allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\"/><allow receive_sender=\"*\"/>\
             <allow send_type=\"method_call\"/></policy></busconfig>",
            socket.display()
        );
        let file = folder.join("config");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(which("dbus-daemon").unwrap());
        command.arg("--config-file").arg(&file).args(["--nofork", "--nopidfile"]);
        let bus = Daemon::start(&mut command, &folder, || socket.exists());
        host.variables.borrow_mut().push((BUS, format!("unix:path={}", socket.display())));
        Firewall { host, daemon: None, _bus: bus }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.host.inside(which(program).unwrap());
        command.envs(self.host.variables.borrow().iter().map(|(name, value)| (name, value)));
        command
    }

    fn start(&mut self) {
        let mut command = self.command("firewalld");
        command.args(["--nofork", "--nopid", "--log-target", "file", "--log-file"]);
        command.arg(self.host.folder.join("firewalld.log"));
        command.arg("--system-config").arg(self.host.folder.join("firewalld"));
        let ready = || command::quietly(self.command("firewall-cmd").arg("--state")).code == 0;
        self.daemon = Some(Daemon::start(&mut command, &self.host.folder, ready));
    }

    #[track_caller]
    fn call(&self, args: &[&str]) -> String {
        // On an emulated processor firewalld takes longer for a reload than its client waits.
        let answer = || {
            Some(run(self.command("firewall-cmd").args(args)))
                .filter(|answer| !answer.stderr.contains("Did not receive a reply"))
        };
        eventually("firewalld answers", 30, answer).ok().line().to_owned()
    }
}

fn a_network_passes_firewalld_which_keeps_the_host_shut() {
    let host = Host::new();
    [host.outside(), host.name.clone()].iter().for_each(|namespace| host.serve(namespace));
    let mut firewall = Firewall::new(&host);
    firewall.start();
    host.detached("one", &["--net", "bridge", "-p", "8083:80"], SERVER).ok();
    host.detached("two", &["--net", "bridge"], SERVER).ok();
    host.call(&["network", "create", "--kind", "routed", "lane"]).ok();
    host.detached("apart", &["--net", "lane"], SERVER).ok();
    let passes = || {
        for (own, outside) in HOST.iter().zip(OUTSIDE) {
            for name in ["one", "apart"] {
                let answer = host.asks(name, outside);
                assert!(answer.contains(own), "{name} hears {answer:?} of {outside}");
            }
            let server = if own.contains(':') { format!("[{own}]:8083") } else { format!("{own}:8083") };
            let answer = answered(&host.outside(), &server, |answer| answer.contains("one sees"));
            assert!(answer.contains(outside), "{server} answers {answer:?}");
            // The host's own server is behind the firewall, for the contexts as for the outside.
            host.is_refused("one", own);
            host.is_refused("apart", own);
        }
        assert!(host.asks("one", "two").contains("two sees"));
    };
    passes();
    for reload in ["--reload", "--complete-reload"] {
        firewall.call(&[reload]);
        passes();
    }
    // Without the network nothing is left of it, not even in what is stored.
    for (name, network) in [("apart", "lane"), ("one", "vctx0")] {
        host.delete(name);
        if name == "one" {
            host.delete("two");
        }
        host.call(&["network", "rm", network]).ok();
    }
    for stored in [&[][..], &["--permanent"]] {
        assert_eq!(firewall.call(&[stored, &["--zone=trusted", "--list-interfaces"]].concat()), "");
    }
    // One that comes later is met by `prune`.
    firewall.daemon = None;
    host.detached("one", &["--net", "bridge", "-p", "8083:80"], SERVER).ok();
    host.detached("two", &["--net", "bridge"], SERVER).ok();
    host.detached("apart", &["--net", "bridge"], SERVER).ok();
    firewall.start();
    host.is_refused("one", OUTSIDE[0]);
    host.call(&["network", "prune"]).ok();
    passes();
    firewall.daemon = None;
    firewall.start();
    passes();
    // A zone that somebody has chosen holds.
    ["one", "two", "apart"].iter().for_each(|name| host.delete(name));
    host.call(&["network", "rm", "vctx0"]).ok();
    firewall.call(&["--zone=drop", "--add-interface=vctx0"]);
    host.detached("one", &["--net", "bridge"], SERVER).ok();
    host.is_refused("one", OUTSIDE[0]);
    host.call(&["network", "prune"]).ok();
    host.is_refused("one", OUTSIDE[0]);
    host.delete("one");
    host.call(&["network", "rm", "vctx0"]).ok();
    assert_eq!(firewall.call(&["--zone=drop", "--list-interfaces"]), "vctx0");
}
