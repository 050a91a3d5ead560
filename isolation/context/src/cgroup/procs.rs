//! The group's processes: listing, signalling, killing.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Cgroup, Error, file, tree};

/// How often the processes are listed again while they are being killed.
const ROUNDS: u32 = 64;

impl Cgroup {
    /// The processes in the group, and in its children when `recursive`; a group that is gone has none. Processes of
    /// a foreign pid namespace read as 0 and are left out.
    pub fn procs(&self, recursive: bool) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        list(self.census(), recursive, &mut pids)?;
        Ok(pids)
    }

    /// Sends `signal` to every process in the group and its children.
    pub fn signal_all(&self, signal: i32) -> Result<(), Error> {
        if !(1..=libc::SIGRTMAX()).contains(&signal) {
            return Err(Error::Value { field: "the signal".into(), why: format!("{signal} does not exist") });
        }
        // SAFETY: the number was checked to be a signal's just now, and the kernel is the only one to interpret it.
        let signal = unsafe { Signal::from_raw_unchecked(signal) };
        signal_listed(self.census(), signal).map(drop)
    }

    /// Kills every process in the group and its children, frozen ones included, and keeps up with processes that
    /// fork. When it returns they are all dead or dying.
    pub fn kill_all(&self) -> Result<(), Error> {
        let swept = match self.v2_dir() {
            // One write that a fork cannot outrun, since Linux 5.14; it reaches processes frozen by version 2.
            Some(dir) => match file::write(&dir.join("cgroup.kill"), "1", "cgroup.kill") {
                Ok(()) => true,
                Err(error) if error.is_absent() => false,
                Err(error) => return Err(error),
            },
            None => false,
        };
        if swept && self.v1.is_empty() {
            return Ok(());
        }
        // A process that someone moved out of one hierarchy only is found in the others. Freezing first makes the
        // list complete; where it does not succeed in time (a process stuck in the kernel), the rounds make up for it.
        if !swept {
            let _ = self.freeze();
        }
        let killed = self.kill_in_rounds();
        // A version 1 freezer holds back even SIGKILL.
        match self.thaw() {
            Err(Error::Missing { .. }) => killed,
            Err(error) if error.is_absent() => killed,
            thawed => killed.and(thawed),
        }
    }

    fn kill_in_rounds(&self) -> Result<(), Error> {
        let mut known = HashSet::new();
        for _ in 0..ROUNDS {
            let before = known.len();
            known.extend(signal_listed(self.census(), Signal::KILL)?);
            // None at all, or only some that were killed before and are on their way out.
            if known.len() == before {
                return Ok(());
            }
            sleep(Duration::from_micros(200));
        }
        Err(Error::Survivors { path: self.census().into() })
    }
}

/// Signals the processes below `dir` and returns them. Each is held by a pidfd and then looked up in a second list:
/// a number that was reused in between belongs to the group again, or is not signalled.
fn signal_listed(dir: &Path, signal: Signal) -> Result<Vec<i32>, Error> {
    let failed = |pid, errno: Errno| Error::Signal { signal: signal.as_raw(), pid, source: errno.into() };
    let mut first = Vec::new();
    list(dir, true, &mut first)?;
    let mut held = Vec::with_capacity(first.len());
    for pid in first {
        match Pid::from_raw(pid).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(fd)) => held.push((pid, fd)),
            Some(Err(Errno::SRCH | Errno::INVAL)) | None => {}
            Some(Err(errno)) => return Err(failed(pid, errno)),
        }
    }
    let mut second = Vec::new();
    list(dir, true, &mut second)?;
    let still: HashSet<i32> = second.into_iter().collect();
    held.retain(|(pid, _)| still.contains(pid));
    for (pid, fd) in &held {
        match pidfd_send_signal(fd, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(failed(*pid, errno)),
        }
    }
    Ok(held.into_iter().map(|(pid, _)| pid).collect())
}

/// The pids in `dir`, and below it when `recursive`.
fn list(dir: &Path, recursive: bool, pids: &mut Vec<i32>) -> Result<(), Error> {
    let mut add = |text: &str| {
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    };
    if recursive {
        let mut enter = |group: &OwnedFd| match file::read_in(group, c"cgroup.procs") {
            Ok(text) => {
                add(&text);
                Ok(())
            }
            // The processes of a threaded group are listed by the domain above it.
            Err(Errno::OPNOTSUPP | Errno::NOENT | Errno::NODEV) => Ok(()),
            Err(error) => Err(error),
        };
        let walked = tree::walk(dir, &mut enter, &mut |_, _| Ok(()));
        return walked.map_err(|errno| Error::Read { path: dir.into(), source: errno.into() });
    }
    match file::read(&dir.join("cgroup.procs")) {
        Ok(text) => add(&text),
        Err(Error::Read { source, .. }) if Errno::from_io_error(&source) == Some(Errno::OPNOTSUPP) => {}
        Err(error) if error.is_absent() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
