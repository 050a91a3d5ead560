//! What can go wrong with images; a variant is a failed step.

use std::io;
use std::path::{Path, PathBuf};

use super::digest::Digest;
use super::{archive, pack, unpack};

/// Why something with an image failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of the store or of an import.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// What comes in breaks off.
    #[error("cannot read {what}")]
    Input {
        /// A digest, or what else is read.
        what: String,
        /// Cause.
        source: io::Error,
    },
    /// It is shorter or longer than announced.
    #[error("{what} has {}{found} bytes, and {expected} were announced", if found > expected { "at least " } else { "" })]
    Size {
        /// A digest, or what else came in.
        what: String,
        /// As announced.
        expected: u64,
        /// As it came.
        found: u64,
    },
    /// It is not what was asked for.
    #[error("the digest of what came is {found}, and {expected} was announced")]
    Digest {
        /// As announced.
        expected: Digest,
        /// As it came.
        found: Digest,
    },
    /// Something in the store has changed.
    #[error("{} is damaged; run `vctx image fsck`, and pull or import the image again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
    /// A manifest, a list or a configuration.
    #[error("{what} is no {kind}")]
    Parse {
        /// Its digest or path.
        what: String,
        /// What it should be.
        kind: &'static str,
        /// Cause.
        source: serde_json::Error,
    },
    /// It could be read, and makes no sense.
    #[error("{what}: {reason}")]
    Nonsense {
        /// Its digest or path.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// A layer is broken, or not allowed.
    #[error("layer {digest}")]
    Layer {
        /// Of the blob.
        digest: Digest,
        /// Cause.
        source: unpack::Error,
    },
    /// An archive of images.
    #[error("{}", path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: archive::Error,
    },
    /// A folder that is to become an image.
    #[error("{}", path.display())]
    Pack {
        /// The folder.
        path: PathBuf,
        /// Cause.
        source: pack::Error,
    },
    /// A suite was asked for.
    #[error(
        "neither mmdebstrap nor, for root, debootstrap is installed; install the package mmdebstrap, which works without root too"
    )]
    NoBootstrap,
    /// The tool that makes the root of a suite.
    #[error("{} has made no root: {reason}", program.display())]
    Bootstrap {
        /// The tool.
        program: PathBuf,
        /// What happened.
        reason: String,
    },
    /// Nothing for this machine.
    #[error("{what} has nothing for {wanted}, only for {}", found.join(", "))]
    Platform {
        /// The list.
        what: String,
        /// What was wanted.
        wanted: String,
        /// What there is.
        found: Vec<String>,
    },
    /// No such image.
    #[error("there is no image {0}; `vctx image ls` lists them")]
    Absent(String),
    /// The beginning of more than one id.
    #[error("{0} begins the ids of several images; write more of it")]
    Ambiguous(String),
    /// An import without a name.
    #[error("{} does not say what its image is called; give a name: vctx image import {} NAME", path.display(), path.display())]
    Nameless {
        /// The file.
        path: PathBuf,
    },
    /// Several images, one name.
    #[error("{} holds several images, {}; leave the name out, or import them one by one", path.display(), names.join(", "))]
    Several {
        /// The file or folder.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
    /// A layer of a known image is not unpacked.
    #[error("layer {digest} of {image} is missing; pull or import the image again")]
    LayerGone {
        /// The image.
        image: String,
        /// The layer.
        digest: Digest,
    },
    /// What a registry, or the way to it, says.
    #[error(transparent)]
    Origin(Box<dyn std::error::Error + Send + Sync>),
    /// Name of an image.
    #[error(transparent)]
    Reference(#[from] super::reference::Malformed),
}

impl Error {
    /// A step with this path has failed.
    pub(super) fn file(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = path.to_owned();
        move |source| Error::File { step, path, source }
    }

    pub(super) fn nonsense(what: impl ToString, reason: impl Into<String>) -> Error {
        Error::Nonsense { what: what.to_string(), reason: reason.into() }
    }
}
