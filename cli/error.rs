//! What can go wrong in the command line's own part; a variant is a failed step.

use crate::exit::ExitCode;
use std::io;
use std::path::PathBuf;

/// A failure of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// What the runtime says.
    #[error(transparent)]
    Runtime(#[from] vctx_runtime::Error),
    /// The options of the native `run`.
    #[error(transparent)]
    Native(#[from] crate::native::NativeError),
    /// What its root is made of.
    #[error(transparent)]
    Storage(#[from] vctx_storage::Error),
    /// Images.
    #[error(transparent)]
    Image(#[from] vctx_storage::image::Error),
    /// Volumes.
    #[error(transparent)]
    Volume(#[from] vctx_storage::volume::Error),
    /// Limits on disk.
    #[error(transparent)]
    Quota(#[from] vctx_storage::quota::Error),
    #[error("context {0:?} has no changes of its own to limit: it was made from a bundle")]
    NoChanges(String),
    /// Snapshots and copies of contexts.
    #[error(transparent)]
    Snapshot(#[from] vctx_storage::snapshot::Error),
    /// Shared files.
    #[error(transparent)]
    Dedup(#[from] vctx_storage::dedup::Error),
    /// Copies of files.
    #[error(transparent)]
    Copy(#[from] vctx_storage::transfer::Error),
    #[error("neither side names a context; write CONTEXT:PATH, and ./a:b for a path with a colon")]
    NoContextNamed,
    #[error(
        "the two contexts have different ids (--idmap); copy through a tar archive: vctx cp ONE:PATH - | vctx cp - OTHER:PATH"
    )]
    DifferentIds,
    #[error("cannot have a mount namespace, in which the root of a stopped context is mounted")]
    OwnMounts(#[source] io::Error),
    #[error("cannot enter a user namespace, in which an ordinary user's images are kept")]
    Apart(#[source] io::Error),
    #[error(
        "vctx-registry, which talks to registries, is neither beside vctx nor in PATH; `make build` makes it, `make install` installs it"
    )]
    NoRegistryProgram,
    #[error("cannot run vctx-registry, which talks to registries")]
    RegistryProgram(#[source] io::Error),
    #[error("--include and --mirror are for a suite, such as debootstrap:trixie")]
    NoSuite,
    /// A network.
    #[error(transparent)]
    Network(#[from] vctx_netns::Error),
    #[error("the network {name:?} is not ours; remove {}, which defines it", path.display())]
    OthersNetwork { name: String, path: PathBuf },
    #[error("cannot find the bundle {}; give its folder with --bundle", path.display())]
    Bundle { path: PathBuf, source: io::Error },
    #[error("cannot send the pidfd to {}", path.display())]
    PidfdSocket { path: PathBuf, source: io::Error },
    #[error(
        "--preserve-fds {asked}: descriptor {descriptor} was not passed; open it before, or ask for fewer"
    )]
    NotInherited { asked: u32, descriptor: u32 },
    #[error("--status-fd {number}: the descriptor was not passed, or cannot be written to")]
    StatusDescriptor { number: u32, source: io::Error },
    #[error("a detached process cannot have a terminal unless --console-socket takes it")]
    DetachedTerminal,
    #[error("cannot wait for the process")]
    Wait(#[source] io::Error),
    #[error("cannot run ps(1), which makes the table; install the package procps, or use --format json")]
    Ps(#[source] io::Error),
    #[error("ps(1) failed: {0}")]
    PsFailed(String),
    #[error("the options of ps(1) leave out the column PID, by which its lines are chosen")]
    PsColumn,
    #[error("cannot read the resources from {}", path.display())]
    ReadResources { path: PathBuf, source: io::Error },
    #[error("{} holds no resources; they are the object `linux.resources` of config.json", path.display())]
    ParseResources { path: PathBuf, source: serde_json::Error },
    #[error("--l3-cache-schema and --mem-bw-schema need Intel RDT, which is not supported")]
    NoResctrl,
    #[error("--interval must be longer than nothing")]
    Interval,
    #[error("the context's configuration has no process to take the settings from; use --process")]
    NoProcess,
    #[error("{} exists already; move it away, or choose another folder with --bundle", .0.display())]
    SpecExists(PathBuf),
    #[error("cannot write {}", path.display())]
    WriteSpec { path: PathBuf, source: io::Error },
    #[error("cannot turn the output into JSON")]
    Json(#[source] serde_json::Error),
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    #[error("cannot read {}", path.display())]
    ReadFact { path: PathBuf, source: io::Error },
    #[error("cannot start the process that tries out a user namespace")]
    Probe(#[source] io::Error),
}

impl Error {
    /// The exit code of `run`, where the error says more than "our own failure".
    pub(crate) fn exit_code(&self, run: bool) -> Option<ExitCode> {
        match self {
            Error::Runtime(error) if run => Some(ExitCode::from(error.exit_code())),
            _ => None,
        }
    }
}

/// The error and its causes, outermost first.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect()
}
