//! The folder of one bench run, and what makes sure that nothing outlives it.
//!
//! Contexts are detached and many: whoever makes one has it named after this process, below a state folder of ours, and
//! dropping the workspace deletes by force whatever a state folder still lists.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

use super::Result;
use super::bundle;
use super::peer::Peer;

pub struct Workspace {
    pub dir: PathBuf,
    folder: Option<TempDir>,
    /// On memory, as /run is, where all keep their states.
    state: TempDir,
    peers: Vec<Peer>,
    /// Ctrl-C and a request to end arrive here, between two measurements, and not in the middle of one.
    signals: SignalFd,
}

impl Workspace {
    pub fn new() -> Result<Workspace> {
        let mut asked_to_end = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
            .into_iter()
            .for_each(|signal| asked_to_end.add(signal));
        asked_to_end.thread_block()?;
        let signals = SignalFd::with_flags(&asked_to_end, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        // Orphans of a detached context become ours, so that their time is counted and they can be waited for.
        nix::sys::prctl::set_child_subreaper(true)?;
        let folder = TempDir::with_prefix("vctx-bench-")?;
        let dir = folder.path().to_path_buf();
        // Mapped users pass through it.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        bundle::populate(&dir.join("rootfs"))?;
        let state = TempDir::with_prefix_in("vctx-bench-", "/dev/shm")?;
        Ok(Workspace { dir, folder: Some(folder), state, peers: vec![], signals })
    }

    /// From now on the peer's contexts are removed at the end.
    pub fn clean_up_after(&mut self, peer: &Peer) {
        self.peers.push(peer.clone());
    }

    /// The folder of a peer's states.
    pub fn state(&self, peer: &str) -> PathBuf {
        self.state.path().join(peer)
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// An error when the user wants the end.
    pub fn go_on(&self) -> Result<()> {
        match self.signals.read_signal()? {
            Some(signal) => Err(format!("ended by signal {}", signal.ssi_signo).into()),
            None => Ok(()),
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        for peer in &self.peers {
            let contexts = fs::read_dir(&peer.state).into_iter().flatten().flatten();
            let names = contexts.map(|entry| entry.file_name().to_string_lossy().into_owned());
            for name in names.filter(|name| name.starts_with("vctx-bench-")) {
                let _ = peer.delete_by_force(&name);
            }
        }
        end_children();
        remove_groups(Path::new("/sys/fs/cgroup"), 3);
        // What a failed run has left mounted below must not be deleted through its mount.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = format!(" {}/", self.dir.display());
        if mounts.contains(&below) {
            eprintln!("bench: {} is kept, because something is mounted below it", self.dir.display());
            self.folder.take().map(TempDir::keep);
        }
    }
}

/// Ends what is still running of us: orphans have become our children, and theirs will.
fn end_children() {
    for _ in 0..100 {
        super::measure::reap();
        let file = format!("/proc/self/task/{}/children", nix::unistd::gettid());
        let children = fs::read_to_string(file).unwrap_or_default();
        if children.is_empty() {
            return;
        }
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Removes empty control groups of this process that a failed context left.
fn remove_groups(folder: &Path, depth: usize) {
    let own = format!("vctx-bench-{}-", std::process::id());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().contains(&own) {
            let _ = fs::remove_dir(&path);
        } else if depth > 0 && path.is_dir() && !path.is_symlink() {
            remove_groups(&path, depth - 1);
        }
    }
}
