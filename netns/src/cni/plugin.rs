//! One call of one plugin: its own environment and nothing of ours, a bound in time and in what it may say, and its end.

use std::ffi::OsStr;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use crate::{Error, Result};

/// Where plugins lie, unless CNI_PATH says otherwise: where engines look.
const PLUGINS: &str = "/opt/cni/bin:/usr/libexec/cni:/usr/lib/cni:/usr/local/lib/cni";

/// How long a plugin may take. One that asks a DHCP server takes seconds.
const BOUND: Duration = Duration::from_secs(30);

/// How much it may say, in bytes.
const LIMIT: usize = 1 << 20;

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Check,
    Delete,
}

/// The program of a plugin.
pub(super) struct Plugin {
    path: PathBuf,
    kind: String,
    network: String,
    folders: std::ffi::OsString,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Verb::Add => "ADD",
            Verb::Check => "CHECK",
            Verb::Delete => "DEL",
        }
    }
}

impl Plugin {
    pub(super) fn find(kind: &str, network: &str) -> Result<Plugin> {
        let folders = std::env::var_os("CNI_PATH").unwrap_or_else(|| PLUGINS.into());
        let path =
            std::env::split_paths(&folders).map(|folder| folder.join(kind)).find(|path| path.is_file());
        let absent =
            || Error::NoPlugin { plugin: kind.into(), folders: folders.to_string_lossy().into_owned() };
        let path = path.ok_or_else(absent)?;
        Ok(Plugin { path, kind: kind.into(), network: network.into(), folders })
    }

    /// Gives what it prints, which is JSON or nothing.
    pub(super) fn call(&self, verb: Verb, text: &Value, about: &[(&str, &OsStr)]) -> Result<Option<Value>> {
        let failed = |source| Error::Plugin { plugin: self.kind.clone(), verb: verb.word(), source };
        let mut child = self.spawn(verb, text, about).map_err(failed)?;
        let ended = said(&mut child);
        // Whatever it has started and not waited for goes as well.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let status = child.wait().map_err(failed)?;
        let said = ended.map_err(failed)?;
        let value: Option<Value> = serde_json::from_slice(&said).ok();
        if status.success() {
            let empty = said.iter().all(u8::is_ascii_whitespace);
            let garbage = || Error::Garbage { plugin: self.kind.clone(), name: self.network.clone() };
            return if value.is_some() || empty || verb == Verb::Delete { Ok(value) } else { Err(garbage()) };
        }
        // An error is an object with `msg`, and perhaps `details` (specification, "Error").
        let word = |field: &str| value.as_ref()?.get(field)?.as_str().map(str::to_owned);
        let words: Vec<String> = ["msg", "details"].into_iter().filter_map(word).collect();
        let words = words.join(": ").replace(char::is_control, " ");
        let message = if words.trim().is_empty() { status.to_string() } else { words };
        Err(Error::PluginSays { plugin: self.kind.clone(), verb: verb.word(), message })
    }

    fn spawn(&self, verb: Verb, text: &Value, about: &[(&str, &OsStr)]) -> io::Result<Child> {
        // A file, and not a pipe: one that does not read cannot hold us up.
        let mut input = std::fs::File::from(memfd_create("cni", MemfdFlags::CLOEXEC)?);
        input.write_all(text.to_string().as_bytes())?;
        input.seek(SeekFrom::Start(0))?;
        Command::new(&self.path)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb.word())
            .env("CNI_PATH", &self.folders)
            .envs(about.iter().copied())
            .current_dir(Path::new("/"))
            .process_group(0)
            .stdin(Stdio::from(input))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
    }
}

/// What a plugin says until it ends. What it has left running may hold the pipe open for longer.
fn said(child: &mut Child) -> io::Result<Vec<u8>> {
    let mut pipe = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let (mut said, start) = (Vec::new(), Instant::now());
    let mut buffer = [0; 4096];
    loop {
        let left = BOUND.checked_sub(start.elapsed()).ok_or(io::ErrorKind::TimedOut)?;
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut polled = [PollFd::new(&pipe, PollFlags::IN), PollFd::new(&process, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut polled, Some(&left)))?;
        let (speaks, ended) = (!polled[0].revents().is_empty(), !polled[1].revents().is_empty());
        if speaks {
            let count = pipe.read(&mut buffer)?;
            said.extend_from_slice(&buffer[..count]);
            if said.len() > LIMIT {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it says more than a mebibyte"));
            }
            if count > 0 {
                continue;
            }
            // It has closed its output, and is on its way out.
            let mut polled = [PollFd::new(&process, PollFlags::IN)];
            let in_time = rustix::io::retry_on_intr(|| poll(&mut polled, Some(&left)))? > 0;
            return if in_time { Ok(said) } else { Err(io::ErrorKind::TimedOut.into()) };
        }
        if ended {
            return Ok(said);
        }
    }
}

/// Ends plugins that are at work for a context although the command has died that has called them. They are known by the
/// variables that they were given.
pub(super) fn end_strays(id: &str, netns: &Path) -> Result<()> {
    let own = [format!("CNI_CONTAINERID={id}"), format!("CNI_NETNS={}", netns.display())];
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/pid")).ok();
    let host = namespace("self");
    let is_stray = |pid: Pid| {
        // A guest's environment is the guest's memory: it can be a mapping of a file that the guest itself serves, and reading
        // it would then last for as long as the guest likes.
        if namespace(&pid.as_raw_nonzero().to_string()) != host {
            return false;
        }
        let environment =
            std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
        let has =
            |one: &String| environment.split(|byte| *byte == 0).any(|variable| variable == one.as_bytes());
        own.iter().all(has)
    };
    let entries = std::fs::read_dir("/proc").map_err(Error::file("read", "/proc"))?;
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?));
    for pid in pids.filter(|pid| is_stray(*pid)) {
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // With the descriptor it can no longer become another one.
        if is_stray(pid) && pidfd_send_signal(&process, Signal::KILL).is_ok() {
            let bound = Timespec { tv_sec: BOUND.as_secs() as i64, tv_nsec: 0 };
            let mut polled = [PollFd::new(&process, PollFlags::IN)];
            let _ = rustix::io::retry_on_intr(|| poll(&mut polled, Some(&bound)));
        }
    }
    Ok(())
}
