//! What can fail in the life of a control group: one variant per step, each with its path and cause.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

/// A failed step of the control-group driver.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of procfs or cgroupfs could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused a value.
    #[error("cannot set {field}: writing {value:?} to {} failed", path.display())]
    Write {
        /// The setting, as the configuration names it, or the file's purpose.
        field: String,
        /// The bytes written.
        value: String,
        /// The control file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file or directory could not be opened for later use.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A group's directory could not be made.
    #[error("cannot make the control group {}", path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The group is somebody's.
    #[error("the control group {} has processes already; choose another with linux.cgroupsPath", path.display())]
    Occupied {
        /// The directory that was asked.
        path: PathBuf,
    },
    /// Some of the group's directories are still there.
    #[error("cannot remove the control group {}", path.display())]
    Remove {
        /// The first directory that could not be removed.
        path: PathBuf,
        /// The other directories that could not be removed, with their own causes.
        others: Vec<(PathBuf, io::Error)>,
        /// Why the first one stayed.
        source: io::Error,
    },
    /// No control-group file system is mounted.
    #[error("no control groups are mounted: mount cgroup2 on /sys/fs/cgroup")]
    NoHierarchy,
    /// The path of the group is not acceptable.
    #[error("the control group path {path:?} {why}")]
    Path {
        /// The path, or the id that would become a path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A limit needs a controller (or one of its files) that is not there.
    #[error("{field} is asked for, but {what} is not available to this control group ({mode})")]
    Missing {
        /// The setting, as the configuration names it.
        field: String,
        /// The controller or file.
        what: String,
        /// The kind of machine.
        mode: super::Mode,
    },
    /// A value has no meaning on this kind of machine or contradicts another one.
    #[error("{field} {why}")]
    Value {
        /// The setting, as the configuration names it.
        field: String,
        /// What is wrong with it.
        why: String,
    },
    /// `checkBeforeUpdate` found more memory in use than the new limit allows.
    #[error(
        "linux.resources.memory.limit of {limit} bytes is below the {usage} bytes in use; nothing was changed"
    )]
    MemoryInUse {
        /// The limit asked for, in bytes.
        limit: i64,
        /// What is in use, in bytes.
        usage: u64,
    },
    /// Addresses need the version 2 tree.
    #[error(
        "a context that shares the host's network needs the control group tree of version 2; mount it, or use --net bridge"
    )]
    NoUnified,
    /// A bpf(2) call failed.
    #[error("cannot {step} a BPF program of {}", path.display())]
    Bpf {
        /// The step: load, attach, query, detach.
        step: &'static str,
        /// The group.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The processes did not all stop (or start) in time.
    #[error("the processes in {} did not become {wanted} within {millis} ms", path.display())]
    FreezeTimeout {
        /// The group.
        path: PathBuf,
        /// The state waited for.
        wanted: &'static str,
        /// The bound, in milliseconds.
        millis: u64,
    },
    /// A process could not be signalled.
    #[error("cannot send signal {signal} to process {pid}")]
    Signal {
        /// The signal's number.
        signal: i32,
        /// The process.
        pid: i32,
        /// What the kernel said.
        source: io::Error,
    },
    /// New processes kept appearing while the group was being killed.
    #[error("processes in {} outlived being killed", path.display())]
    Survivors {
        /// The group.
        path: PathBuf,
    },
    /// The machine's init is another one.
    #[error("systemd is not running on this machine; use the cgroupfs manager (leave --systemd-cgroup away)")]
    NoSystemd,
    /// The caller has no power over the machine's systemd, and none of its own.
    #[error(
        "the systemd of user {uid} does not answer at {}: log in, or have `loginctl enable-linger` start it", place.display()
    )]
    NoUserSystemd {
        /// The user, outside of user namespaces.
        uid: u32,
        /// Its socket.
        place: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An ordinary user cannot move a process from there into a group of its own systemd.
    #[error(
        "vctx runs in the control group {}, outside of {}; start it with `systemd-run --user --scope`", own.display(), root.display()
    )]
    OutsideUserSystemd {
        /// Where we are.
        own: PathBuf,
        /// What the user's systemd manages.
        root: PathBuf,
    },
    /// Version 1 is not safe to be handed to an ordinary user.
    #[error(
        "the systemd of an ordinary user has scopes with cgroup v2 alone, and this machine has {mode}; use the cgroupfs manager"
    )]
    UserSystemdNeedsV2 {
        /// The kind of machine.
        mode: super::Mode,
    },
    /// The connection to systemd failed.
    #[error("cannot {step} systemd over D-Bus")]
    Bus {
        /// The step: connect, call, wait.
        step: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// systemd refused something.
    #[error("cannot {step} the unit {unit}: systemd says: {says}")]
    Unit {
        /// The step: start, stop, set.
        step: &'static str,
        /// The unit's name.
        unit: String,
        /// systemd's own words.
        says: String,
    },
    /// systemd put the scope where it was not expected.
    #[error("systemd made the unit {unit} at {} instead of {}", dir.display(), planned.display())]
    Elsewhere {
        /// The unit's name.
        unit: String,
        /// Where it was expected.
        planned: PathBuf,
        /// Where it is.
        dir: PathBuf,
    },
    /// The process that keeps a new scope alive could not be made.
    #[error("cannot make the process that holds the scope")]
    Placeholder(#[source] crate::spawn::Error),
    /// The notification of out-of-memory kills could not be set up or read.
    #[error("cannot watch {} for out-of-memory kills", path.display())]
    Watch {
        /// The file watched.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// True when the group could not be made because we may not make it: an ordinary user without a delegated
    /// group, or a read-only `/sys/fs/cgroup`. A context for which no limit was asked can go on without one.
    pub fn is_not_permitted(&self) -> bool {
        let (Error::Make { source, .. } | Error::Open { source, .. }) = self else { return false };
        let refused = [Errno::ACCESS, Errno::PERM, Errno::ROFS];
        Errno::from_io_error(source).is_some_and(|errno| refused.contains(&errno))
    }

    /// True when we may not load programs into the kernel.
    pub fn is_program_refused(&self) -> bool {
        let Error::Bpf { source, .. } = self else { return false };
        Errno::from_io_error(source) == Some(Errno::PERM)
    }

    /// True when a memory limit was refused for being below what is used already.
    pub fn is_memory_in_use(&self) -> bool {
        match self {
            Error::MemoryInUse { .. } => true,
            Error::Write { path, .. } => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("memory.") && self.write_errno() == Some(Errno::BUSY)
            }
            _ => false,
        }
    }

    /// The path that was not there, when that is what failed.
    pub(super) fn is_absent(&self) -> bool {
        let source = match self {
            Error::Read { source, .. } | Error::Write { source, .. } | Error::Open { source, .. } => source,
            _ => return false,
        };
        // Reading a file of a group that has been removed since it was opened gives ENODEV.
        matches!(Errno::from_io_error(source), Some(Errno::NOENT | Errno::NODEV))
    }

    /// The process that was looked at or moved has ended.
    pub(super) fn is_of_the_dead(&self) -> bool {
        let (Error::Read { source, .. } | Error::Write { source, .. }) = self else { return false };
        matches!(Errno::from_io_error(source), Some(Errno::SRCH | Errno::NOENT))
    }

    /// The kernel's error number of a refused write.
    pub(super) fn write_errno(&self) -> Option<Errno> {
        match self {
            Error::Write { source, .. } => Errno::from_io_error(source),
            _ => None,
        }
    }
}
