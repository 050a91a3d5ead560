//! What can go wrong in the command line's own part; a variant is a failed step.

use std::io;
use std::path::PathBuf;

/// A failure of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A verb whose command is not wired to the runtime.
    #[error("`{0}` is not built yet")]
    NotBuilt(&'static str),
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

/// The error and its causes, outermost first.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect()
}
