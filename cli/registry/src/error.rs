//! What can go wrong between here and a registry; a variant is a failed step.

use std::io;
use std::path::{Path, PathBuf};

use vctx_storage::image;

/// Why a pull or a push failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("vctx and vctx-registry are of different versions; install them together")]
    Job(#[source] serde_json::Error),
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error("cannot reach the registry {host}")]
    Reach { host: String, source: Box<ureq::Error> },
    #[error("{what}: the registry answered {status}{}", with(message))]
    Status { what: String, status: u16, message: String },
    #[error(
        "{name} is not in the registry, or not for you{}; `docker login` and `podman login` write credentials that are read here",
        with(message)
    )]
    Denied { name: String, message: String },
    #[error("{0} is not in the registry")]
    Absent(String),
    #[error("{what}: the registry's answer makes no sense: {reason}")]
    Answer { what: String, reason: &'static str },
    #[error("the registry {0} wants a token from {1}, which is not reached by TLS")]
    PlainRealm(String, String),
    #[error("{what} broke off {times} times")]
    Broken { what: String, times: u32, source: Box<Error> },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no credentials as docker and podman write them", path.display())]
    Credentials { path: PathBuf, source: serde_json::Error },
    #[error("the credential helper docker-credential-{helper} failed{}", with(message))]
    Helper { helper: String, message: String },
    #[error("{}: cannot be used as certificate", path.display())]
    Certificate { path: PathBuf, source: Box<ureq::Error> },
    #[error("{} is no signature policy, see containers-policy.json(5)", path.display())]
    Policy { path: PathBuf, source: serde_json::Error },
    #[error("{}: a list of requirements is empty; to let all images in, it says insecureAcceptAnything", path.display())]
    EmptyPolicy { path: PathBuf },
    #[error("{}: sigstoreSigned has no key; give keyPath or keyData", path.display())]
    NoKey { path: PathBuf },
    #[error("{name} is no public key on the curve P-256 in PEM, such as `cosign generate-key-pair` writes")]
    Key { name: String },
    #[error("{name} is not let in{}: {reason}", by(policy))]
    Refused { name: String, policy: PathBuf, reason: String },
    #[error("nothing says whose signature is wanted; give --key, or a policy that asks for one")]
    NothingAsked,
}

/// Whose policy, where it is one of a file.
fn by(policy: &Path) -> String {
    if policy.as_os_str().is_empty() { String::new() } else { format!(" by {}", policy.display()) }
}

impl Error {
    /// It is not there, whatever the registry calls that.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Error::Absent(_))
    }
}

fn with(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

impl From<Error> for image::Error {
    fn from(error: Error) -> image::Error {
        match error {
            Error::Image(error) => error,
            error => image::Error::Origin(Box::new(error)),
        }
    }
}
