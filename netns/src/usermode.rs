//! Networks of ordinary users. They may make no device of the machine, and so a program carries what a context sends over
//! sockets of its own: pasta(1), or slirp4netns(1). It is a process beside the context, with a confinement of its own.
//!
//! It knows the context's namespace by a link in the context's folder. The link's name is on its command line, and so it is
//! found again whatever was killed in between; and pasta goes by itself when the link does.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::ports::{Protocol, Publish};
use crate::resolver::{Reach, usual};
use crate::{Error, Result, file};

/// How long a program may take until the network is there, and to end.
const BOUND: Duration = Duration::from_secs(10);

/// The address at which pasta takes questions for the machine's own name server.
const PASTA_NAMES: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The same of slirp4netns(1), `--cidr`.
const SLIRP_NAMES: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// The context's device.
const DEVICE: &str = "eth0";

/// A program that carries a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "named as the programs are")]
pub enum Program {
    Pasta,
    Slirp4netns,
}

/// A program that is there, and what it is to do.
#[derive(Debug, Clone)]
pub struct Helper {
    /// Which one.
    pub program: Program,
    path: PathBuf,
    ports: Vec<Publish>,
}

impl Program {
    /// As one types it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Program::Pasta => "pasta",
            Program::Slirp4netns => "slirp4netns",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Program::Pasta => "passt",
            Program::Slirp4netns => "slirp4netns",
        }
    }

    fn path(self) -> Option<PathBuf> {
        let folders = ["/usr/bin", "/usr/local/bin", "/bin"].map(Path::new);
        folders.into_iter().map(|folder| folder.join(self.name())).find(|path| path.is_file())
    }
}

impl Helper {
    /// Finds the program that is asked for, or else the better one of those that are there.
    ///
    /// # Errors
    ///
    /// There is none, or it cannot lead these ports to a context.
    pub fn find(wanted: Option<Program>, ports: &[Publish]) -> Result<Helper> {
        let candidates = wanted.map_or(vec![Program::Pasta, Program::Slirp4netns], |one| vec![one]);
        let found = candidates.iter().find_map(|program| Some((*program, program.path()?)));
        let (program, path) = match (found, wanted) {
            (Some(found), _) => found,
            (None, Some(program)) => {
                return Err(Error::NoHelper { program: program.name(), package: program.package() });
            }
            (None, None) => return Err(Error::NoHelpers),
        };
        let is_v6 = |publish: &&Publish| publish.address.is_some_and(|address| address.is_ipv6());
        if let (Program::Slirp4netns, Some(publish)) = (program, ports.iter().find(is_v6)) {
            return Err(Error::HelperFamily { publish: publish.to_string() });
        }
        ports.iter().try_for_each(check_port)?;
        Ok(Helper { program, path, ports: ports.to_vec() })
    }

    /// What a context finds the outside by. The machine's name servers do where they are not its own alone.
    #[must_use]
    pub fn resolv_conf(&self) -> String {
        let usual = usual(Reach::NoLoopback);
        let own = match self.program {
            Program::Pasta if usual.contains("nameserver") => return usual,
            Program::Pasta => PASTA_NAMES,
            Program::Slirp4netns => SLIRP_NAMES,
        };
        let others = usual.lines().filter(|line| !line.starts_with("nameserver"));
        others.map(|line| format!("{line}\n")).chain([format!("nameserver {own}\n")]).collect()
    }

    /// Starts the program for the context whose process is `pid`, and waits until the network is there. The process has
    /// its ids already, and does not go on before. `folder` is the context's; the program holds `watch` open.
    ///
    /// # Errors
    ///
    /// It cannot be run, or ends, or takes too long. It has ended then.
    pub fn start(&self, folder: &Path, pid: i32, watch: OwnedFd) -> Result<Pid> {
        let link = link(folder);
        file::remove(&link)?;
        symlink(format!("/proc/{pid}/ns/net"), &link).map_err(Error::file("make", &link))?;
        let log = folder.join("network.log");
        let errors = File::create(&log).map_err(Error::file("make", &log))?;
        let run = |source| Error::RunHelper { program: self.program.name(), source };
        let (ready, is_ready) = io::pipe().map_err(run)?;
        let mut command = Command::new(&self.path);
        match self.program {
            Program::Pasta => self.pasta(&mut command, pid, &link),
            Program::Slirp4netns => self.slirp4netns(&mut command, pid, folder, &link),
        }
        // pasta says nothing on its output, and slirp4netns does.
        match self.program {
            Program::Pasta => command.stdin(watch).stdout(is_ready),
            Program::Slirp4netns => command.stdin(is_ready).stdout(watch),
        };
        let child = command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            // Interrupts from the terminal are the guest's.
            .process_group(0)
            .stderr(Stdio::from(errors))
            .spawn()
            .map_err(run)?;
        // The pipe's other end is the program's alone from here on.
        drop(command);
        let pid = Pid::from_child(&child);
        let failed = || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let said = |line: &&str| !line.trim().is_empty() && !line.contains("syslog");
            let message = text.lines().rfind(said).unwrap_or("it said nothing").trim().to_owned();
            Error::HelperFailed { program: self.program.name(), message }
        };
        let result = match first_byte(ready) {
            Ok(true) if self.program == Program::Slirp4netns => self.forward(folder),
            Ok(true) => Ok(()),
            Ok(false) => Err(failed()),
            Err(source) => Err(Error::RunHelper { program: self.program.name(), source }),
        };
        if result.is_err() {
            end(folder)?;
        }
        result.map(|()| pid)
    }

    /// Nothing of the machine's loopback is the context's, and nothing of the context's is the machine's but the ports.
    fn pasta(&self, command: &mut Command, pid: i32, link: &Path) {
        command.args(["--config-net", "--foreground", "--quiet", "--no-map-gw", "--ns-ifname", DEVICE]);
        command.args(["--dns-forward", &PASTA_NAMES.to_string(), "--pid", "/proc/self/fd/1"]);
        command.args(["--tcp-ns", "none", "--udp-ns", "none"]);
        for (protocol, option) in [(Protocol::Tcp, "--tcp-ports"), (Protocol::Udp, "--udp-ports")] {
            let of_it = |publish: &&Publish| publish.protocol == protocol;
            let specs: Vec<String> = self.ports.iter().filter(of_it).map(pasta_ports).collect();
            for spec in if specs.is_empty() { vec!["none".to_owned()] } else { specs } {
                command.args([option, &spec]);
            }
        }
        command.args(["--userns", &format!("/proc/{pid}/ns/user"), "--netns"]).arg(link);
    }

    fn slirp4netns(&self, command: &mut Command, pid: i32, folder: &Path, link: &Path) {
        command.args(["--configure", "--mtu=65520", "--disable-host-loopback"]);
        // Its sandbox wants root of a user namespace, which it would then have to live in.
        command.args(["--enable-seccomp", "--ready-fd=0", "--netns-type=path"]);
        command.arg(format!("--userns-path=/proc/{pid}/ns/user"));
        if !self.ports.is_empty() {
            command.arg("--api-socket").arg(folder.join("slirp4netns"));
        }
        command.arg(link).arg(DEVICE);
    }

    /// Asks slirp4netns for the ports, one after the other: a line of JSON there and back.
    fn forward(&self, folder: &Path) -> Result<()> {
        let ask = |question: &Value| -> io::Result<Value> {
            // The path of a socket may be longer than an address has room for.
            let opened = File::open(folder)?;
            let path = format!("/proc/self/fd/{}/slirp4netns", std::os::fd::AsRawFd::as_raw_fd(&opened));
            let mut socket = UnixStream::connect(path)?;
            socket.set_read_timeout(Some(BOUND))?;
            socket.write_all(question.to_string().as_bytes())?;
            socket.shutdown(std::net::Shutdown::Write)?;
            let mut answer = String::new();
            socket.take(1 << 16).read_to_string(&mut answer)?;
            Ok(serde_json::from_str(&answer)?)
        };
        for publish in &self.ports {
            for (host, guest) in publish.pairs() {
                let question = json!({ "execute": "add_hostfwd", "arguments": {
                    "proto": publish.protocol(),
                    "host_addr": publish.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
                    "host_port": host,
                    "guest_port": guest,
                }});
                let program = self.program.name();
                let answer = ask(&question).map_err(|source| Error::RunHelper { program, source })?;
                if let Some(error) = answer.get("error") {
                    let said = error.get("desc").and_then(Value::as_str).unwrap_or("no reason");
                    let message = format!("--publish {publish}: {said}");
                    return Err(Error::HelperFailed { program, message });
                }
            }
        }
        Ok(())
    }
}

/// Ends the program of a context, which is found by its command line, and waits for that.
///
/// # Errors
///
/// The processes cannot be looked at, or it does not end.
pub fn end(folder: &Path) -> Result<()> {
    let link = link(folder);
    for pid in carriers(&link)? {
        let gone = |error: &rustix::io::Errno| *error == rustix::io::Errno::SRCH;
        let end = || -> rustix::io::Result<bool> {
            let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
            // With the descriptor it can no longer become another one.
            if !is_carrier(pid, &link) {
                return Ok(true);
            }
            pidfd_send_signal(&pidfd, Signal::KILL)?;
            let bound = Timespec { tv_sec: BOUND.as_secs() as i64, tv_nsec: 0 };
            Ok(rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&bound)))?
                > 0)
        };
        match end() {
            Err(error) if gone(&error) => {}
            Ok(true) => {}
            Ok(false) => return Err(Error::HelperStays(pid.as_raw_nonzero().get())),
            Err(error) => {
                return Err(Error::RunHelper { program: "the network's helper", source: error.into() });
            }
        }
    }
    file::remove(&link)
}

/// The link by which a program knows the namespace of the context of a folder.
fn link(folder: &Path) -> PathBuf {
    folder.join("netns")
}

/// Processes of the folder's owner that have the link on their command line.
fn carriers(link: &Path) -> Result<Vec<Pid>> {
    let entries = fs::read_dir("/proc").map_err(Error::file("read", "/proc"))?;
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?));
    Ok(pids.filter(|pid| is_carrier(*pid, link)).collect())
}

fn is_carrier(pid: Pid, link: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let read = |file: &str| fs::read(format!("/proc/{}/{file}", pid.as_raw_nonzero())).unwrap_or_default();
    let status = String::from_utf8_lossy(&read("status")).into_owned();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    // Not a guest's, which has a number of its own inside: what follows is read from the memory of the process, and a guest
    // could make that last for as long as it likes.
    if field("NSpid:").split_whitespace().count() != 1 {
        return false;
    }
    let words = read("cmdline");
    let mut words = words.split(|byte| *byte == 0);
    let program = Path::new(std::ffi::OsStr::from_bytes(words.next().unwrap_or_default())).file_name();
    let is_program = program.is_some_and(|name| {
        [Program::Pasta, Program::Slirp4netns].iter().any(|one| {
            // pasta executes a build of itself for the processor that it finds: `pasta.avx2`.
            name.to_string_lossy().split('.').next() == Some(one.name())
        })
    });
    let owner = link.parent().and_then(|folder| fs::metadata(folder).ok()).map(|folder| folder.uid());
    let owner = owner.unwrap_or(rustix::process::geteuid().as_raw()).to_string();
    // Real and effective user: others can write on their command line what they like.
    let users = field("Uid:");
    let is_ours = users.split_whitespace().take(2).all(|user| user == owner) && !users.is_empty();
    is_program && is_ours && words.any(|word| word == link.as_os_str().as_bytes())
}

/// Waits for the first byte; false is the end without one.
fn first_byte(mut pipe: io::PipeReader) -> io::Result<bool> {
    let bound = Timespec { tv_sec: BOUND.as_secs() as i64, tv_nsec: 0 };
    let mut polled = [PollFd::new(&pipe, PollFlags::IN)];
    if rustix::io::retry_on_intr(|| poll(&mut polled, Some(&bound)))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(pipe.read(&mut [0])? == 1)
}

/// A range as pasta(1) writes it.
fn pasta_ports(publish: &Publish) -> String {
    let address = publish.address.map_or(String::new(), |address| format!("{address}/"));
    let range = |first: u16| match publish.count {
        1 => first.to_string(),
        count => format!("{first}-{}", first + (count - 1)),
    };
    format!("{address}{}:{}", range(publish.host), range(publish.guest))
}

/// Tries whether the caller can have the ports: a program would say less of what is wrong.
fn check_port(publish: &Publish) -> Result<()> {
    let address = publish.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    for (port, _) in publish.pairs() {
        let bound = match publish.protocol {
            Protocol::Tcp => TcpListener::bind((address, port)).map(drop),
            Protocol::Udp => UdpSocket::bind((address, port)).map(drop),
        };
        match bound {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Error::LowPort(port));
            }
            Err(source) => return Err(Error::CannotBind { publish: publish.to_string(), port, source }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_pasta_reads_them() {
        for (text, expected) in [
            ("8080:80", "8080:80"),
            ("127.0.0.1:8080:80", "127.0.0.1/8080:80"),
            ("[::1]:9000-9002:90-92/udp", "::1/9000-9002:90-92"),
        ] {
            assert_eq!(pasta_ports(&text.parse().unwrap()), expected);
        }
    }

    #[test]
    fn a_port_that_is_taken_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let text = format!("127.0.0.1:{}:80", listener.local_addr().unwrap().port());
        assert!(matches!(check_port(&text.parse().unwrap()), Err(Error::CannotBind { .. })));
    }
}
