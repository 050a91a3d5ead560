//! Networks of ours beside those of Docker and Podman on one host, in every order of coming and going.

use crate::harness::engine::{Daemon, IMAGE, cgroup_parent, remove_control_groups, wait_turn};
use crate::harness::net::{Host, OUTSIDE, SERVER, wget, within};
use crate::harness::{Case, Need, case, command, eventually, rootfs, run, which};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

pub fn cases() -> Vec<Case> {
    let cases = vec![case!(docker_podman_and_vctx_work_side_by_side_in_any_order)];
    let needs = [
        Need::Vctx,
        Need::Program("dockerd"),
        Need::Program("podman"),
        Need::Program("runc"),
        Need::Program("iptables"),
        Need::Program("nft"),
        Need::Path("/usr/lib/cni/bridge"),
    ];
    let with = |case: Case| needs.into_iter().fold(case, Case::needs);
    cases.into_iter().map(with).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Docker,
    Podman,
    Vctx,
}

use Engine::{Docker, Podman, Vctx};

const ORDERS: [[Engine; 3]; 6] = [
    [Docker, Podman, Vctx],
    [Docker, Vctx, Podman],
    [Podman, Docker, Vctx],
    [Podman, Vctx, Docker],
    [Vctx, Docker, Podman],
    [Vctx, Podman, Docker],
];

/// A host with a mount namespace of its own, for what engines keep at places that cannot be chosen.
struct Machine {
    host: Host,
    keeper: Child,
    daemon: Option<Daemon>,
    folder: PathBuf,
}

impl Machine {
    fn new() -> Machine {
        let host = Host::new();
        let folder = host.folder.join("e");
        std::fs::create_dir_all(folder.join("docker")).unwrap();
        let ready = folder.join("ready");
        let script = format!(
            "for place in /var/lib/cni /run/netns /run/docker; do mkdir -p $place; mount -t tmpfs tmpfs $place; done; \
             touch {}; exec sleep 100000",
            ready.display()
        );
        let mut keeper = host.inside("unshare");
        let keeper = keeper.args(["--mount", "sh", "-c", &script]).stdin(Stdio::null()).spawn().unwrap();
        eventually("the mount namespace", 10, || ready.exists().then_some(()));
        let config = "[containers]\ndefault_ulimits = [\"nofile=512:1024\", \"nproc=512:1024\"]\n[engine]\n\
                      events_logger = \"file\"\nlock_type = \"file\"\n[network]\nnetwork_backend = \"cni\"\n";
        let own = format!("{config}network_config_dir = \"{}\"\n", folder.join("networks").display());
        std::fs::write(folder.join("containers.conf"), own).unwrap();
        std::fs::write(folder.join("daemon.json"), "{}").unwrap();
        Machine { host, keeper, daemon: None, folder }
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.keeper.id().to_string(), "--mount", "--net"]);
        command.arg(which(program).unwrap());
        command
    }

    fn at(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn podman(&self, args: &[&str]) -> command::Output {
        let mut command = self.inside("podman");
        command.env("CONTAINERS_CONF", self.at("containers.conf"));
        command.args(["--root", &self.at("storage"), "--runroot", &self.at("run")]);
        command.args(["--tmpdir", &self.at("tmp"), "--storage-driver", "overlay"]);
        run(command.args(["--cgroup-manager", "cgroupfs", "--runtime", "runc"]).args(args))
    }

    fn docker(&self, args: &[&str]) -> command::Output {
        let mut command = self.inside("/usr/bin/docker");
        run(command.args(["--host", &format!("unix://{}", self.at("docker/sock"))]).args(args))
    }

    fn start_daemon(&mut self) {
        let mut command = self.inside("dockerd");
        command.args(["--config-file", &self.at("daemon.json"), "--data-root", &self.at("docker/data")]);
        command.args(["--exec-root", &self.at("docker/exec"), "--pidfile", &self.at("docker/pid")]);
        command.args(["--host", &format!("unix://{}", self.at("docker/sock"))]);
        command.args(["--cgroup-parent", &format!("/{}", cgroup_parent("beside"))]);
        let daemon = Daemon::start(&mut command, &self.folder, || self.docker(&["version"]).code == 0);
        self.daemon = Some(daemon);
    }

    fn start(&mut self, engine: Engine) {
        let (publish, server) = (format!("{}:80", port(engine)), ["sh", "-c", SERVER]);
        let options = ["run", "-d", "--name", "web", "-p", &publish, IMAGE];
        match engine {
            Docker => {
                self.start_daemon();
                self.docker(&[&options[..], &server].concat()).ok();
            }
            Podman => drop(self.podman(&[&options[..], &server].concat()).ok()),
            Vctx => drop(self.host.detached("web", &["--net", "bridge", "-p", &publish], SERVER).ok()),
        }
    }

    fn stop(&mut self, engine: Engine) {
        match engine {
            Docker => {
                self.docker(&["rm", "--force", "web"]).ok();
                self.daemon = None;
            }
            Podman => drop(self.podman(&["rm", "--force", "--time", "0", "web"]).ok()),
            Vctx => {
                self.host.delete("web");
                self.host.call(&["network", "rm", "vctx0"]).ok();
            }
        }
    }

    /// The engine's container reaches the outside, and is reached from there by its port.
    fn works(&self, engine: Engine, when: &str) {
        let ask = wget(OUTSIDE[0], 2);
        let answer = match engine {
            Docker => self.docker(&["exec", "web", "sh", "-c", &ask]).stdout,
            Podman => self.podman(&["exec", "web", "sh", "-c", &ask]).stdout,
            Vctx => self.host.exec("web", &ask).stdout,
        };
        assert!(answer.contains("192.0.2.1]"), "{engine:?} does not reach the outside {when}: {answer}");
        let script = wget(&format!("192.0.2.1:{}", port(engine)), 2).replacen("wget", "busybox wget", 1);
        eventually(&format!("{engine:?} is reached {when}"), 10, || {
            let answer = run(within(&self.host.outside(), "sh".as_ref()).args(["-c", &script])).stdout;
            answer.contains("sees").then_some(())
        });
    }

    /// The rules that are not ours: neither our tables, nor our chain in iptables' table and the jump to it.
    fn rules_of_others(&self) -> String {
        let all = run(self.host.inside("nft").args(["--stateless", "list", "ruleset"])).ok().stdout;
        let mut kept = String::new();
        let mut depth_of_ours = None;
        let mut depth = 0;
        for line in all.lines() {
            let opens = line.trim_end().ends_with('{');
            let is_ours = line.contains("table inet vctx")
                || line.contains("table bridge vctx")
                || line.contains("chain vctx")
                || line.contains("jump vctx");
            if opens && is_ours && depth_of_ours.is_none() {
                depth_of_ours = Some(depth);
            }
            if depth_of_ours.is_none() && !is_ours && !line.trim().is_empty() {
                kept.push_str(&format!("{line}\n"));
            }
            depth += line.matches('{').count();
            depth -= line.matches('}').count();
            if depth_of_ours == Some(depth) {
                depth_of_ours = None;
            }
        }
        kept
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.daemon.is_some() {
            self.docker(&["rm", "--force", "web"]);
            self.daemon = None;
        }
        self.podman(&["rm", "--force", "--time", "0", "--all"]);
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        [&cgroup_parent("beside"), "libpod_parent", "conmon"].into_iter().for_each(remove_control_groups);
    }
}

fn port(engine: Engine) -> u32 {
    8080 + engine as u32
}

fn docker_podman_and_vctx_work_side_by_side_in_any_order() {
    let _turn = wait_turn();
    let mut machine = Machine::new();
    machine.host.serve(&machine.host.outside());
    machine.start_daemon();
    let archive = rootfs::archive();
    machine.docker(&["import", archive.to_str().unwrap(), IMAGE]).ok();
    machine.daemon = None;
    machine.podman(&["import", archive.to_str().unwrap(), IMAGE]).ok();
    for (number, order) in ORDERS.into_iter().enumerate() {
        // As on a machine that has just started: who switches forwarding on first is the order.
        run(machine.host.inside("nft").args(["flush", "ruleset"])).ok();
        run(machine.host.inside("sysctl").args(["-qw", "net.ipv4.ip_forward=0"])).ok();
        let mut there: Vec<Engine> = Vec::new();
        for engine in order {
            let before = machine.rules_of_others();
            machine.start(engine);
            if engine == Vctx {
                assert_eq!(machine.rules_of_others(), before, "{order:?}");
            }
            there.push(engine);
            there
                .iter()
                .for_each(|one| machine.works(*one, &format!("when {engine:?} has come in {order:?}")));
        }
        // They go in the order of another round.
        for engine in ORDERS[(number + 1) % ORDERS.len()] {
            let before = machine.rules_of_others();
            machine.stop(engine);
            if engine == Vctx {
                assert_eq!(machine.rules_of_others(), before, "{order:?}");
            }
            there.retain(|one| *one != engine);
            there
                .iter()
                .for_each(|one| machine.works(*one, &format!("when {engine:?} has gone in {order:?}")));
        }
    }
}
