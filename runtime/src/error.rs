//! What can fail: one variant a step, with the name or path that it failed on.

use std::io;
use std::path::PathBuf;

use vctx_context::{cgroup, criu, exe, idmap, namespace, seccomp, spawn, terminal};

use crate::state::Status;

/// A failed step of a verb.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The id is not one.
    #[error("{id:?} is no context id: {reason}")]
    Id {
        /// As given, shortened.
        id: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no such context.
    #[error("there is no context {id:?} in {}: context does not exist", root.display())]
    Absent {
        /// Id.
        id: String,
        /// The state root.
        root: PathBuf,
    },
    /// The id is taken.
    #[error("context {id:?} exists already; delete it, or choose another id")]
    Exists {
        /// Id.
        id: String,
    },
    /// The context is in a state in which this cannot be done.
    #[error("cannot {verb} context {id:?}, which is {status}{}", hint.map(|hint| format!("; {hint}")).unwrap_or_default())]
    Status {
        /// What was wanted.
        verb: &'static str,
        /// Id.
        id: String,
        /// Its status.
        status: Status,
        /// What to do.
        hint: Option<&'static str>,
    },
    /// The kernel has no Landlock, or an old one.
    #[error(
        "the context reaches the abstract unix sockets of this machine: to keep it from them, the kernel needs Landlock with \
         scopes (Linux 6.12)"
    )]
    NoScope,
    /// There is no device that could be held to a rate.
    #[error(
        "--net-rate: the context {id:?} has no network of ours, and so no device that could be held; --net bridge gives one"
    )]
    NoRate {
        /// Id.
        id: String,
    },
    /// The context was created without a process.
    #[error(
        "cannot start context {id:?}: its configuration has no process; create it anew from one that has"
    )]
    NothingToStart {
        /// Id.
        id: String,
    },
    /// A configuration cannot be read.
    #[error("cannot read {}; a bundle is a folder with config.json", path.display())]
    ReadConfig {
        /// File.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A configuration is no JSON, or a field has the wrong type.
    #[error("{} is not a valid configuration{field}", path.display())]
    ParseConfig {
        /// File.
        path: PathBuf,
        /// Where, with a word before it; empty when the text is no JSON.
        field: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A field of the configuration is refused.
    #[error("{field}: {reason}")]
    Invalid {
        /// Path of the field in the configuration.
        field: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A warning (runtime-spec, "Linux Process"). The words are those that people look for in runc's log.
    #[error("process.capabilities: ignoring unknown or unavailable capabilities: [{}]", names.join(" "))]
    UnknownCapabilities {
        /// As given.
        names: Vec<String>,
    },
    /// A warning (runtime-spec, "Linux Process").
    #[error("process.capabilities: ignoring capabilities that cannot be granted: [{}]", names.join(" "))]
    WithheldCapabilities {
        /// With `CAP_`.
        names: Vec<String>,
    },
    /// A warning: files get no label on a kernel without SELinux.
    #[error("linux.mountLabel: passing over {label:?}, for SELinux is not enabled on this kernel")]
    MountLabel {
        /// As given.
        label: String,
    },
    /// A file of the state cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    State {
        /// The verb of the sentence.
        action: &'static str,
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// What another user writes would tell us what to remove.
    #[error("{} is no folder of this user's: nothing is read there; give another state root with --root", path.display())]
    Foreign {
        /// The state root, or the folder of a context in it.
        path: PathBuf,
    },
    /// The same, by way of a folder above.
    #[error(
        "{} lies below {}, where another user can put another in its place; choose another place (--root)",
        path.display(), folder.display()
    )]
    Replaceable {
        /// The state root, or a folder for a context's changes.
        path: PathBuf,
        /// A folder that is another user's, or that everybody may write.
        folder: PathBuf,
    },
    /// The state is not as we write it.
    #[error("the state in {} is damaged; `delete --force` removes it", path.display())]
    Damaged {
        /// File.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// procfs is missing.
    #[error("cannot use /proc; it must be a procfs")]
    Proc(#[source] io::Error),
    /// A host path of the configuration cannot be used.
    #[error("cannot use {what} {}", path.display())]
    HostPath {
        /// What it is.
        what: &'static str,
        /// Path.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A namespace to join.
    #[error(transparent)]
    Namespace(#[from] namespace::Error),
    /// The network that is to be joined is the caller's.
    #[error("--net {asked}: that is the host's own network; use --net host if it is meant")]
    HostNetwork {
        /// The words of `--net`.
        asked: String,
    },
    /// The context whose network is to be joined has none.
    #[error("--net container:{id}: it does not run")]
    NotRunning {
        /// Id.
        id: String,
    },
    /// The kernel gives no descriptor that watches.
    #[error("cannot watch for the end of the context; the user may have too many inotify descriptors")]
    Watch(#[source] io::Error),
    /// A step of the context's first process.
    #[error("cannot {step}")]
    Step {
        /// What it tried, and on what.
        step: String,
        /// Cause.
        source: io::Error,
    },
    /// The program cannot be executed. The words are those that engines look for.
    #[error("exec: {program:?}: {reason}")]
    Program {
        /// First argument.
        program: String,
        /// Why not.
        reason: String,
        /// Whether it is missing (127) or may not be executed (126).
        missing: bool,
    },
    /// The process could not be made.
    #[error(transparent)]
    Spawn(spawn::Error),
    /// Ids could not be mapped.
    #[error(transparent)]
    Idmap(#[from] idmap::Error),
    /// A network device.
    #[error(transparent)]
    Device(#[from] vctx_netns::device::Error),
    /// A network.
    #[error(transparent)]
    Network(Box<vctx_netns::Error>),
    /// Control groups.
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    /// Limits were asked for by a user who may not make control groups.
    #[error(
        "limits need a control group that the caller may write; run vctx as root, or leave the limits out"
    )]
    Limits(#[source] cgroup::Error),
    /// The seccomp profile.
    #[error(transparent)]
    Seccomp(#[from] seccomp::Error),
    /// The terminal.
    #[error(transparent)]
    Terminal(#[from] terminal::Error),
    /// A killed command has left it.
    #[error("context {id:?} was never finished; `delete --force` removes it")]
    Unfinished {
        /// Id.
        id: String,
    },
    /// It was made from a bundle.
    #[error("context {id:?} was made from a bundle: its root is the bundle's, and no copy of ours")]
    NoChanges {
        /// Id.
        id: String,
    },
    /// What the caller does before the first process exists, or while a context rests.
    #[error(transparent)]
    Prepare(Box<dyn std::error::Error + Send + Sync>),
    /// Our own executable.
    #[error(transparent)]
    Protect(#[from] exe::Error),
    /// A hook could not be run.
    #[error("cannot run the {point} hook {}", path.display())]
    RunHook {
        /// Name of the point.
        point: &'static str,
        /// Its program.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A hook failed.
    #[error("the {point} hook {} {how}", path.display())]
    Hook {
        /// Name of the point.
        point: &'static str,
        /// Its program.
        path: PathBuf,
        /// Exit code, signal or timeout, and what it wrote.
        how: String,
    },
    /// A signal could not be sent.
    #[error("cannot send signal {signal} to context {id:?}")]
    Signal {
        /// Number.
        signal: i32,
        /// Id.
        id: String,
        /// Cause.
        source: io::Error,
    },
    /// The context has no control group.
    #[error("cannot {verb} context {id:?}: it has no control group; rootless contexts need a delegated one")]
    NoCgroup {
        /// What was wanted.
        verb: &'static str,
        /// Id.
        id: String,
    },
    /// The verb is for root only.
    #[error("only root of the machine can {verb} a context: criu needs more than a user namespace gives")]
    NeedsRoot {
        /// What was wanted.
        verb: &'static str,
    },
    /// A context that criu cannot bring back.
    #[error("cannot checkpoint context {id:?}: {reason}")]
    NoCheckpoint {
        /// Id.
        id: String,
        /// Why not.
        reason: &'static str,
    },
    /// Nothing that criu can bring back.
    #[error("cannot restore a context: {0}")]
    NoRestore(&'static str),
    /// The kernel was built without what an option needs.
    #[error("{option}: this kernel lacks {what}")]
    KernelLacks {
        /// The option of the command line.
        option: &'static str,
        /// What it needs.
        what: &'static str,
    },
    /// The folder of the images, or a file in it.
    #[error("{} {reason}", path.display())]
    Images {
        /// Path.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: &'static str,
    },
    /// The images would give a context more than its configuration does.
    #[error("the images do not fit the configuration: {0}")]
    Smuggled(String),
    /// criu could not be asked.
    #[error(transparent)]
    Criu(criu::Error),
    /// criu failed.
    #[error("{}; see {}", last(error, lines), log.display())]
    CriuLog {
        /// What it answered.
        error: criu::Error,
        /// The last errors of its log.
        lines: Vec<String>,
        /// Its log.
        log: PathBuf,
    },
    /// The processes would not end.
    #[error("the processes of context {id:?} did not end within {seconds} s of SIGKILL")]
    Unkillable {
        /// Id.
        id: String,
        /// How long was waited.
        seconds: u64,
    },
}

/// The last errors of criu's log, in one line; they say more than its answer.
fn last(error: &criu::Error, lines: &[String]) -> String {
    if lines.is_empty() { error.to_string() } else { format!("criu failed: {}", lines.join("; ")) }
}

impl From<criu::Error> for Error {
    fn from(error: criu::Error) -> Error {
        Error::Criu(error)
    }
}

impl Error {
    /// A refused field.
    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Invalid { field: field.into(), reason: reason.into() }
    }

    /// For `map_err`: a file of the state.
    pub(crate) fn state(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::State { action, path, source }
    }

    /// The exit code of a `run` that fails so: 127 not found, 126 not executable, 125 our own failure.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Program { missing: true, .. } => 127,
            Error::Program { missing: false, .. } => 126,
            _ => 125,
        }
    }
}
