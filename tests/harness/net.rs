//! A host of the test's own: a network namespace in which vctx runs, and another behind it that is the outside. So the
//! machine's bridges, rules and settings stay as they are.
//!
//! Dropping it deletes its contexts and removes its networks; what is then left of devices, rules and leases fails the
//! case.

use super::command::{self, Output};
use super::{leaks, rootfs, run, runtime};
use serde_json::Value;
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The host's own addresses towards the outside, and those of a machine there, which knows no way to any context.
pub const HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub const OUTSIDE: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// Answers each connection with the address that it comes from.
pub const SERVER: &str = "mkdir -p /tmp/w/cgi-bin; printf '#!/bin/sh\necho; echo \"$(hostname) sees $REMOTE_ADDR\"' \
                          >/tmp/w/cgi-bin/who; chmod 755 /tmp/w/cgi-bin/who; exec httpd -f -p 80 -h /tmp/w";

pub struct Host {
    pub name: String,
    pub folder: PathBuf,
    /// Variables that vctx is called with.
    pub variables: RefCell<Vec<(&'static str, String)>>,
    contexts: RefCell<Vec<String>>,
    servers: RefCell<Vec<Child>>,
}

impl Host {
    pub fn new() -> Host {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vn{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = rootfs::workspace().join(&name);
        fs::create_dir(&folder).unwrap();
        rootfs::populate(&folder.join("rootfs"));
        let host = Host {
            name,
            folder,
            variables: RefCell::default(),
            contexts: RefCell::default(),
            servers: RefCell::default(),
        };
        let (inner, outer) = (host.name.clone(), host.outside());
        for namespace in [&inner, &outer] {
            ip(&["netns", "add", namespace]);
            ip(&["-n", namespace, "link", "set", "lo", "up"]);
        }
        let pair =
            ["link", "add", "up0", "netns", &inner, "type", "veth", "peer", "name", "up0", "netns", &outer];
        ip(&pair);
        for (namespace, [four, six]) in [(&inner, HOST), (&outer, OUTSIDE)] {
            ip(&["-n", namespace, "address", "add", &format!("{four}/24"), "dev", "up0"]);
            ip(&["-n", namespace, "address", "add", &format!("{six}/64"), "dev", "up0", "nodad"]);
            ip(&["-n", namespace, "link", "set", "up0", "up"]);
        }
        host
    }

    pub fn outside(&self) -> String {
        format!("{}o", self.name)
    }

    /// A command in the network namespace of the host.
    pub fn inside(&self, program: impl AsRef<Path>) -> Command {
        within(&self.name, program.as_ref())
    }

    /// vctx with the state of this host.
    pub fn vctx(&self) -> Command {
        let mut command = self.inside(runtime());
        command.arg("--root").arg(self.folder.join("state")).env("VCTX_TEST_ID", &self.name);
        command.envs(self.variables.borrow().iter().map(|(name, value)| (name, value)));
        command
    }

    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Output {
        run(self.vctx().args(args))
    }

    /// A name for a context that nothing else on the machine has: control groups are named after it.
    pub fn id(&self, name: &str) -> String {
        let id = format!("{}-{name}", self.name);
        if !self.contexts.borrow().contains(&id) {
            self.contexts.borrow_mut().push(id.clone());
        }
        id
    }

    /// `run -d` of a shell script under a name of this host's.
    #[track_caller]
    pub fn detached(&self, name: &str, options: &[&str], script: &str) -> Output {
        self.command(name, &[&["-d"], options].concat(), script)
    }

    /// `run` of a shell script to its end.
    #[track_caller]
    pub fn run(&self, name: &str, options: &[&str], script: &str) -> Output {
        self.command(name, &[&["--rm"], options].concat(), script)
    }

    #[track_caller]
    fn command(&self, name: &str, options: &[&str], script: &str) -> Output {
        let (id, root) = (self.id(name), self.folder.join("rootfs"));
        run(self
            .vctx()
            .args(["run", "--name", &id, "--hostname", name])
            .args(options)
            .arg(root)
            .args(["--", "sh", "-c", script]))
    }

    #[track_caller]
    pub fn exec(&self, name: &str, script: &str) -> Output {
        let id = self.id(name);
        run(self.vctx().args(["exec", &id, "sh", "-c", script]))
    }

    #[track_caller]
    pub fn delete(&self, name: &str) {
        let id = self.id(name);
        self.call(&["delete", "--force", &id]).ok();
    }

    /// What the server of `name`, or at an address, answers to a context.
    #[track_caller]
    pub fn asks(&self, name: &str, server: &str) -> String {
        let script = format!("for i in 1 2 3 4 5; do {} && break; sleep 0.1; done", wget(server, 2));
        self.exec(name, &script).ok().stdout.trim().to_owned()
    }

    /// The context gets no answer from there.
    #[track_caller]
    pub fn is_refused(&self, name: &str, server: &str) {
        let answer = self.exec(name, &wget(server, 1)).stdout;
        assert!(answer.trim().is_empty(), "{name} reaches {server}: {answer}");
    }

    /// The addresses of a context: version 4, version 6.
    #[track_caller]
    pub fn addresses(&self, network: &str, name: &str) -> [String; 2] {
        let about = self.inspect(network);
        let list = &about["contexts"][self.id(name)]["addresses"];
        [0, 1].map(|at| list[at].as_str().unwrap_or_else(|| panic!("{name} in {about}")).to_owned())
    }

    #[track_caller]
    pub fn inspect(&self, network: &str) -> Value {
        let output = self.call(&["network", "inspect", network]).ok();
        serde_json::from_str::<Value>(&output.stdout).unwrap()[0].clone()
    }

    /// Starts a server in the namespace of the outside or the host, which lives as long as this.
    pub fn serve(&self, namespace: &str) {
        let folder = self.folder.join("served/cgi-bin");
        fs::create_dir_all(&folder).unwrap();
        let script = folder.join("who");
        fs::write(&script, "#!/bin/sh\necho; echo \"sees $REMOTE_ADDR\"\n").unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = within(namespace, Path::new("busybox"));
        command
            .args(["httpd", "-f", "-p", "80", "-h"])
            .arg(self.folder.join("served"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.servers.borrow_mut().push(command.spawn().unwrap());
    }

    /// The network devices of the host.
    pub fn devices(&self) -> Vec<String> {
        let list = command::quietly(Command::new("ip").args(["-n", &self.name, "-br", "link"])).stdout;
        let name = |line: &str| Some(line.split([' ', '@']).next()?.to_owned());
        list.lines().filter_map(name).collect()
    }

    /// The tables of nftables of the host.
    pub fn tables(&self) -> Vec<String> {
        let list = command::quietly(self.inside("nft").args(["list", "tables"])).stdout;
        list.lines().map(str::to_owned).collect()
    }

    /// Devices, tables and groups of ours.
    pub fn left(&self) -> Vec<String> {
        let devices = self
            .devices()
            .into_iter()
            .filter(|name| ["vx", "vq"].iter().any(|own| name.starts_with(own)) || name.starts_with("vctx"));
        let tables = self.tables().into_iter().filter(|table| table.contains("vctx"));
        let groups = leaks::control_groups(&self.name).into_iter().map(|path| path.display().to_string());
        devices.chain(tables).chain(groups).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let mut said = String::new();
        for id in self.contexts.borrow().iter() {
            said.push_str(&command::quietly(self.vctx().args(["delete", "--force", id])).stderr);
        }
        let names = command::quietly(self.vctx().args(["network", "ls", "-q"])).stdout;
        for name in names.lines() {
            said.push_str(&command::quietly(self.vctx().args(["network", "rm", name])).stderr);
        }
        for server in self.servers.borrow_mut().iter_mut() {
            let _ = server.kill();
            let _ = server.wait();
        }
        // The kernel removes the devices of a namespace that has ended a little later.
        let deadline = std::time::Instant::now() + command::BOUND / 6;
        while !self.left().is_empty() && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let left = self.left();
        for namespace in [self.name.clone(), self.outside()] {
            command::quietly(Command::new("ip").args(["netns", "del", &namespace]));
        }
        leaks::clean(&self.name, &self.folder);
        let _ = fs::remove_dir_all(&self.folder);
        assert!(failed || left.is_empty(), "left behind ({said}): {left:#?}");
    }
}

/// The shell command that asks the server at an address or name, with a bound in seconds.
pub fn wget(server: &str, seconds: u32) -> String {
    // An address of version 6 without a port.
    let server = if server.matches(':').count() > 1 && !server.starts_with('[') {
        format!("[{server}]")
    } else {
        server.into()
    };
    format!("timeout {seconds} wget -qO- http://{server}/cgi-bin/who")
}

/// A command in a network namespace.
pub fn within(namespace: &str, program: &Path) -> Command {
    // Not `ip netns exec`, which hides the control groups.
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
    command
}

#[track_caller]
fn ip(args: &[&str]) {
    run(Command::new("ip").args(args)).ok();
}
