//! `vctx image pull` and `push`: the work is that of `vctx-registry`, which lies beside this program.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use vctx_storage::image::remote::{Job, Transport, Verb};
use vctx_storage::image::spec::Platform;
use vctx_storage::image::unpack::{Owners, Unpack};
use vctx_storage::image::{Reference, Store};

use crate::error::Error;
use crate::image_args::{PullArgs, PushArgs, RegistryArgs, WantedArgs};
use crate::values::Size;

const PROGRAM: &str = "vctx-registry";

pub(super) fn pull(store: &Store, args: &PullArgs, how: Unpack) -> Result<u8, Error> {
    let mut job = wanted(store, Verb::Pull, &args.wanted, how);
    job.limit = match args.limit {
        Some(Size::Bytes(bytes)) => Some(bytes),
        Some(Size::Max) => Some(u64::MAX),
        None => None,
    };
    run(&job)
}

pub(super) fn verify(store: &Store, args: &WantedArgs, how: Unpack) -> Result<u8, Error> {
    run(&wanted(store, Verb::Verify, args, how))
}

fn wanted(store: &Store, verb: Verb, args: &WantedArgs, how: Unpack) -> Job {
    let mut job = job(store, verb, args.name.to_string(), &args.name, &args.registry, how);
    job.platform = args.platform.clone().unwrap_or(job.platform);
    job.policy.clone_from(&args.trust.signature_policy);
    job.key.clone_from(&args.trust.key);
    job
}

pub(super) fn push(store: &Store, args: &PushArgs, how: Unpack) -> Result<u8, Error> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => store.find(&args.image)?.name.parse().map_err(vctx_storage::image::Error::from)?,
    };
    run(&job(store, Verb::Push, args.image.clone(), &name, &args.registry, how))
}

fn job(
    store: &Store,
    verb: Verb,
    image: String,
    name: &Reference,
    registry: &RegistryArgs,
    how: Unpack,
) -> Job {
    Job {
        verb,
        store: store.folder().into(),
        image,
        name: name.to_string(),
        platform: Platform::here(),
        squash: how.owners == Owners::Caller,
        privileged: how.privileged,
        limit: None,
        authfile: registry.authfile.clone(),
        cert_dir: registry.cert_dir.clone(),
        transport: if registry.tls_verify { Transport::Usual } else { Transport::Insecure },
        policy: None,
        key: None,
        quiet: registry.quiet,
    }
}

/// Becomes that program, which says itself what fails, and how far it is.
fn run(job: &Job) -> Result<u8, Error> {
    let job = serde_json::to_string(job).map_err(Error::Json)?;
    let source = Command::new(program()).arg(job).exec();
    match source.kind() {
        io::ErrorKind::NotFound => Err(Error::NoRegistryProgram),
        _ => Err(Error::RegistryProgram(source)),
    }
}

/// Beside this program, or else in PATH.
fn program() -> PathBuf {
    let beside = std::env::current_exe().map(|own| own.with_file_name(PROGRAM));
    beside.ok().filter(|path| path.is_file()).unwrap_or_else(|| PROGRAM.into())
}
