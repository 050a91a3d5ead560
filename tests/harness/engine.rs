//! The real engines, each with its own folders and sockets, started once and stopped at the end.
//!
//! Engine cases take turns: `turn()` hands out the one client, and the client's end removes the case's containers.

use super::command::{self, Output};
use super::rootfs;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

/// The name of the image that every engine has, made of the tests' root filesystem.
pub const IMAGE: &str = "localhost/busybox:latest";

static TURN: Mutex<()> = Mutex::new(());

/// Waits for the other engine cases to end. A case that failed hands on its turn like any other.
pub fn wait_turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(|failed| failed.into_inner())
}

/// A folder for one engine's data, with the control groups and mounts it leaves removed at the end.
pub fn folder(name: &str) -> PathBuf {
    let folder = rootfs::workspace().join(name);
    fs::create_dir(&folder).unwrap();
    folder
}

/// The control group below which an engine puts its containers, in every hierarchy.
pub fn cgroup_parent(engine: &str) -> String {
    format!("vt-{}-{engine}", std::process::id())
}

/// Removes the (by now empty) groups of an engine.
pub fn remove_control_groups(name: &str) {
    super::leaks::control_groups(name).iter().rev().for_each(|group| drop(fs::remove_dir(group)));
}

/// An engine's daemon. It is ended by its process id.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` and waits until `ready` says yes.
    pub fn start(command: &mut Command, folder: &Path, mut ready: impl FnMut() -> bool) -> Daemon {
        let log = folder.join("daemon.log");
        let output = File::create(&log).unwrap();
        command.stdin(std::process::Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let mut daemon = Daemon { child: command.spawn().unwrap(), log };
        super::eventually("the daemon answers", 60, || {
            let early = daemon.child.try_wait().unwrap();
            assert!(
                early.is_none(),
                "the daemon ended with {early:?}: {}",
                fs::read_to_string(&daemon.log).unwrap()
            );
            ready().then_some(())
        });
        daemon
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal(nix::sys::signal::Signal::SIGTERM);
        if !command::wait_for_exit(self.child.id(), Duration::from_secs(20)) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// One engine's client: how it is called, and how it clears away a case's containers.
pub struct Client {
    _turn: MutexGuard<'static, ()>,
    new_command: fn() -> Command,
    clear: fn(),
}

impl Client {
    pub fn turn(new_command: fn() -> Command, clear: fn()) -> Client {
        Client { _turn: wait_turn(), new_command, clear }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = (self.new_command)();
        command.args(args);
        command
    }

    /// Runs the client to its end, whatever it says.
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Output {
        command::run(&mut self.command(args))
    }

    /// Runs the client, insisting on success: its output, trimmed.
    #[track_caller]
    pub fn say(&self, args: &[&str]) -> String {
        self.call(args).ok().line().to_string()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        (self.clear)();
    }
}

/// Podman needs no daemon, only folders and a configuration of its own.
pub fn podman() -> Client {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    fn new_command() -> Command {
        let folder = FOLDER.get().unwrap();
        let mut command = Command::new(super::which("podman").unwrap());
        command.env("CONTAINERS_CONF", folder.join("containers.conf"));
        // As flags, because conmon's clean-up command hands on only what came as flags.
        command.arg("--root").arg(folder.join("storage")).arg("--runroot").arg(folder.join("run"));
        command.arg("--tmpdir").arg(folder.join("tmp")).args(["--storage-driver", "overlay"]);
        command.args(["--cgroup-manager", "cgroupfs", "--runtime"]).arg(super::runtime());
        command
    }
    fn clear() {
        for pods in [&["pod", "rm", "--force", "--all"][..], &["rm", "--force", "--all", "--time", "0"]] {
            command::quietly(new_command().args(pods));
        }
    }
    let client = Client::turn(new_command, clear);
    FOLDER.get_or_init(|| {
        let folder = folder("podman");
        // The default limits ask for more than the hard limit of a confined machine. Locks in files, not in a shared
        // memory segment that all Podmans of the machine have in common.
        let init = super::which("tini-static").unwrap_or_default();
        let config = format!(
            "[containers]\ndefault_ulimits = [\"nofile=512:1024\", \"nproc=512:1024\"]\nnetns = \"none\"\n\
             init_path = \"{}\"\n[engine]\nevents_logger = \"file\"\nlock_type = \"file\"\n\
             [network]\nnetwork_config_dir = \"{}\"\n",
            init.display(),
            folder.join("networks").display(),
        );
        fs::write(folder.join("containers.conf"), config).unwrap();
        super::at_end(|| {
            command::quietly(new_command().args(["system", "reset", "--force"]));
            ["libpod_parent", "conmon"].into_iter().for_each(remove_control_groups);
        });
        folder
    });
    static IMPORTED: OnceLock<()> = OnceLock::new();
    IMPORTED.get_or_init(|| {
        client.say(&["import", rootfs::archive().to_str().unwrap(), IMAGE]);
    });
    client
}

/// containerd with `ctr`, under its shim for runc.
pub fn containerd() -> Client {
    static DAEMON: Mutex<Option<Daemon>> = Mutex::new(None);
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    fn new_command() -> Command {
        let mut command = Command::new(super::which("ctr").unwrap());
        command.arg("--address").arg(FOLDER.get().unwrap().join("sock"));
        command.args(["--namespace", &cgroup_parent("containerd")]);
        command
    }
    fn clear() {
        let list = |kind: &str| {
            let output = command::quietly(new_command().args([kind, "list", "--quiet"])).stdout;
            output.lines().map(String::from).collect::<Vec<_>>()
        };
        for task in list("task") {
            command::quietly(new_command().args(["task", "resume", &task]));
            command::quietly(new_command().args(["task", "delete", "--force", &task]));
        }
        for container in list("container") {
            command::quietly(new_command().args(["container", "delete", &container]));
        }
    }
    let client = Client::turn(new_command, clear);
    FOLDER.get_or_init(|| {
        let folder = folder("containerd");
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{0}/sock\"\n",
            folder.display()
        );
        fs::write(folder.join("config.toml"), config).unwrap();
        folder
    });
    let mut daemon = DAEMON.lock().unwrap_or_else(|failed| failed.into_inner());
    if daemon.is_none() {
        let folder = FOLDER.get().unwrap();
        let mut command = Command::new(super::which("containerd").unwrap());
        command.arg("--config").arg(folder.join("config.toml"));
        *daemon = Some(Daemon::start(&mut command, folder, || {
            command::quietly(new_command().arg("version")).code == 0
        }));
        super::at_end(|| {
            clear();
            DAEMON.lock().unwrap_or_else(|failed| failed.into_inner()).take();
            remove_control_groups(&cgroup_parent("containerd"));
        });
        client.say(&["image", "import", rootfs::oci_archive(IMAGE).to_str().unwrap()]);
    }
    drop(daemon);
    client
}

static DOCKER: OnceLock<PathBuf> = OnceLock::new();
static DOCKERD: Mutex<Option<Daemon>> = Mutex::new(None);

/// Docker, with the runtime under test added as `under-test`.
pub fn docker() -> Client {
    fn new_command() -> Command {
        // Debian's client fits Debian's daemon; another one may come first in PATH.
        let debian = super::which("/usr/bin/docker").or_else(|| super::which("docker"));
        let mut command = Command::new(debian.unwrap());
        command.args(["--host", &format!("unix://{}/sock", DOCKER.get().unwrap().display())]);
        command
    }
    fn clear() {
        let list = command::quietly(new_command().args(["ps", "--all", "--quiet"])).stdout;
        for container in list.lines() {
            command::quietly(new_command().args(["rm", "--force", container]));
        }
    }
    let client = Client::turn(new_command, clear);
    DOCKER.get_or_init(|| {
        let folder = folder("docker");
        write_docker_config(&folder, None);
        folder
    });
    let mut daemon = DOCKERD.lock().unwrap_or_else(|failed| failed.into_inner());
    if daemon.is_none() {
        let folder = DOCKER.get().unwrap();
        let at = |name: &str| folder.join(name).to_str().unwrap().to_string();
        let mut command = Command::new(super::which("dockerd").unwrap());
        command.args([
            "--config-file",
            &at("daemon.json"),
            "--data-root",
            &at("data"),
            "--exec-root",
            &at("exec"),
        ]);
        command.args(["--pidfile", &at("pid"), "--host", &format!("unix://{}", at("sock"))]);
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]);
        command.args(["--cgroup-parent", &format!("/{}", cgroup_parent("docker"))]);
        *daemon = Some(Daemon::start(&mut command, folder, || {
            command::quietly(new_command().arg("version")).code == 0
        }));
        super::at_end(|| {
            clear();
            DOCKERD.lock().unwrap_or_else(|failed| failed.into_inner()).take();
            remove_control_groups(&cgroup_parent("docker"));
        });
        client.say(&["import", rootfs::archive().to_str().unwrap(), IMAGE]);
    }
    drop(daemon);
    client
}

/// Makes `name` Docker's default runtime, by the daemon's own reloading of its configuration.
pub fn set_docker_default(client: &Client, name: &str) {
    write_docker_config(DOCKER.get().unwrap(), Some(name));
    DOCKERD.lock().unwrap().as_ref().unwrap().signal(nix::sys::signal::Signal::SIGHUP);
    super::eventually("the daemon reloads its configuration", 20, || {
        (client.say(&["info", "--format", "{{.DefaultRuntime}}"]) == name).then_some(())
    });
}

fn write_docker_config(folder: &Path, default: Option<&str>) {
    let config = super::json!({
        "runtimes": { "under-test": { "path": super::runtime() } },
        "default-runtime": default.unwrap_or("runc"),
    });
    fs::write(folder.join("daemon.json"), config.to_string()).unwrap();
}
