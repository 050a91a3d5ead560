//! `checkpoint`: a running context, written to a folder of images by criu. `restore` makes a context of them again.
//!
//! What the images say is never the policy: a context that is restored has what the bundle of the caller gives it, and
//! what the images would add to that is refused (`confine`).

mod confine;
mod images;
mod mounts;
pub(crate) mod orphan;
mod restore;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Spec;
use rustix::process::geteuid;
use vctx_context::criu::{self, Birth, Groups, NetworkLock, Notice, Options, Service, Work};
use vctx_context::mountinfo;
use vctx_context::namespace::Kind;
use vctx_context::procfs;

use crate::config::Config;
use crate::delete;
use crate::state::{Alive, Context, Status, Store};
use crate::{Error, Result};

pub use restore::{Revival, restore};

/// What is said of a dump and of a restore alike.
#[derive(Debug, Default)]
pub struct Common {
    /// Folder of the images.
    pub images: PathBuf,
    /// Folder of criu's log; absent takes that of the images.
    pub work: Option<PathBuf>,
    /// Established TCP connections are taken along.
    pub tcp_established: bool,
    /// Unix sockets may lead out of the context.
    pub ext_unix_sk: bool,
    /// The context has the session or the terminal of whoever asks.
    pub shell_job: bool,
    /// File locks are taken along.
    pub file_locks: bool,
    /// Memory is copied when it is asked for.
    pub lazy_pages: bool,
    /// Pages that are in an earlier dump as well are taken out of that one.
    pub auto_dedup: bool,
    /// The network namespace is restored empty; the caller fills it.
    pub empty_network: bool,
}

/// What a checkpoint is to be.
#[derive(Debug, Default)]
pub struct Dump {
    /// What is common with a restore.
    pub common: Common,
    /// Folder of an earlier dump, relative to the images.
    pub parent: Option<PathBuf>,
    /// Only the memory is written, for a checkpoint to come, and the context goes on.
    pub pre_dump: bool,
    /// The context goes on.
    pub leave_running: bool,
    /// Connections that are only being made are left out.
    pub tcp_skip_in_flight: bool,
    /// Files that have lost their name get one for the time being.
    pub link_remap: bool,
    /// What is written of control groups; soft when not said.
    pub groups: Option<Groups>,
    /// The memory goes to this address and port.
    pub page_server: Option<(String, u16)>,
    /// Gets one byte when lazy pages can be asked for.
    pub status: Option<OwnedFd>,
}

const LOG: &str = "dump.log";

/// Writes a context to images. It has ended and is removed then, unless it is to go on. Gives the poststop hooks that
/// failed.
///
/// # Errors
///
/// The context is none that can be restored, or criu fails: the context goes on then.
pub fn checkpoint(store: &Store, id: &str, mut dump: Dump) -> Result<Vec<Error>> {
    let mut context = store.open(id)?;
    let lock = context.lock()?;
    check_caller("checkpoint")?;
    let status = context.status_locked(&lock)?;
    let alive = match (status, context.alive()?) {
        (Status::Running | Status::Paused, Some(alive)) => alive,
        _ => {
            let hint = (status == Status::Created).then_some("start it first");
            return Err(Error::Status { verb: "checkpoint", id: id.into(), status, hint });
        }
    };
    let spec = Config::read(&context.config_path())?.spec;
    check_kind(&context, &spec)?;
    check_features(&dump)?;
    let folders = images::Folders::make(&dump.common, LOG)?;
    folders.check_parent(dump.parent.as_deref())?;

    let options = options(&dump, &context, &spec, &alive, &folders)?;
    let service = Service::start(&Birth { inherits: vec![lock.folder()], ..Default::default() })?;
    let named = orphan::name(&context.folder, &service)?;
    let mut ready = dump.status.take();
    let reached = |notice: Notice| {
        if notice.point == "status-ready"
            && let Some(status) = ready.take()
        {
            // Whoever has asked for it may have gone.
            let _ = rustix::io::write(&status, &[0]);
        }
        true
    };
    let work = if dump.pre_dump { Work::PreDump } else { Work::Dump };
    let asked = service.ask(&options.request(work), reached);
    drop(named);
    if let Err(error) = asked {
        // criu thaws what it has frozen; where it was killed, it has not.
        if let Some(cgroup) = context.state.cgroup.as_ref().filter(|_| status == Status::Running) {
            let _ = cgroup.thaw();
        }
        return Err(folders.explain(error));
    }
    if dump.pre_dump || dump.leave_running {
        return Ok(Vec::new());
    }
    delete::end(&context)?;
    delete::finish(&context)
}

/// criu itself asks for more than a user namespace gives.
fn check_caller(verb: &'static str) -> Result<()> {
    match geteuid().is_root() && procfs::in_first_user_namespace() {
        true => Ok(()),
        false => Err(Error::NeedsRoot { verb }),
    }
}

/// A context can be restored from a bundle only, and criu knows no tree that shares the mounts of the host.
fn check_kind(context: &Context, spec: &Spec) -> Result<()> {
    let state = &context.state;
    let refuse = |reason| Err(Error::NoCheckpoint { id: state.id.clone(), reason });
    let own_network = state.network.is_some() || state.outer.is_some() || !state.shared.is_empty();
    if !state.own.is_empty() || own_network {
        return refuse("only a context that was made from a bundle can be restored");
    }
    if !crate::plan::makes_mounts(spec) {
        return refuse("it has no mount namespace of its own");
    }
    lost(spec)?.map_or(Ok(()), refuse)
}

/// What criu does not write down, and a restored process would be without.
fn lost(spec: &Spec) -> Result<Option<&'static str>> {
    let policy = spec.linux().as_ref().is_some_and(|linux| linux.memory_policy().is_some());
    Ok(if crate::landlock::rules(spec)?.is_some() {
        Some("criu does not bring back the rules of Landlock")
    } else if policy {
        Some("criu does not bring back linux.memoryPolicy")
    } else if !crate::plan::net_devices(spec).is_empty() {
        Some("criu does not bring back linux.netDevices")
    } else {
        None
    })
}

fn check_features(dump: &Dump) -> Result<()> {
    let tracks = dump.pre_dump || dump.parent.is_some();
    if !tracks && !dump.common.lazy_pages {
        return Ok(());
    }
    let features = Service::features()?;
    if tracks && !features.memory_tracking {
        return Err(Error::KernelLacks {
            option: "--pre-dump and --parent-path",
            what: "the tracking of changed memory (CONFIG_MEM_SOFT_DIRTY)",
        });
    }
    if dump.common.lazy_pages && !features.lazy_pages {
        return Err(Error::KernelLacks { option: "--lazy-pages", what: "userfaultfd(2)" });
    }
    Ok(())
}

fn options(
    dump: &Dump,
    context: &Context,
    spec: &Spec,
    alive: &Alive,
    folders: &images::Folders,
) -> Result<Options> {
    let mut options = common_options(&dump.common, folders, LOG);
    options.pid = Some(alive.pid);
    options.root = context.state.rootfs.as_os_str().as_encoded_bytes().to_vec();
    options.leave_running = dump.leave_running;
    options.tcp_skip_in_flight = dump.tcp_skip_in_flight;
    options.link_remap = dump.link_remap;
    options.groups = Some(dump.groups.unwrap_or(Groups::Soft));
    options.page_server = dump.page_server.clone();
    options.parent = dump.parent.as_ref().map(|path| path.as_os_str().as_encoded_bytes().to_vec());
    if let Some(cgroup) = &context.state.cgroup {
        options.freezer = Some(cgroup.freezer_dir()?.as_os_str().as_encoded_bytes().to_vec());
    }
    let namespaces = crate::plan::namespaces(spec);
    for kind in [Kind::Network, Kind::Pid] {
        if namespaces.iter().any(|(one, path)| *one == kind && path.is_some()) {
            let path = format!("/proc/{}/ns/{}", alive.pid, kind.file());
            let inode =
                rustix::fs::stat(&path).map_err(|error| Error::state("look at", path)(error.into()))?;
            options.external.push(format!("{}[{}]:{}", kind.file(), inode.st_ino, external_key(kind)));
        }
    }
    if !dump.pre_dump {
        let table = mountinfo::of(&alive.pid.to_string()).map_err(Error::Proc)?;
        let points = mounts::foreign(alive.pid, spec, &table)?;
        options.mounts = points.into_iter().map(|point| (point.clone(), point)).collect();
        options.external.extend(folders.describe(alive.pid, &table)?);
    }
    Ok(options)
}

/// The options of a dump and of a restore alike.
fn common_options(common: &Common, folders: &images::Folders, log: &'static str) -> Options {
    Options {
        images: folders.images.as_fd().as_raw_fd(),
        work: folders.work().as_raw_fd(),
        log,
        network_lock: Some(network_lock()),
        empty: if common.empty_network { Kind::Network.flag() } else { 0 },
        tcp_established: common.tcp_established,
        ext_unix_sk: common.ext_unix_sk,
        shell_job: common.shell_job,
        file_locks: common.file_locks,
        lazy_pages: common.lazy_pages,
        auto_dedup: common.auto_dedup,
        ..Default::default()
    }
}

/// criu's own choice is iptables, which is missing on machines that have gone over to nftables.
fn network_lock() -> NetworkLock {
    let is_there = |folder: &str| fs::metadata(format!("{folder}/iptables-restore")).is_ok();
    match ["/usr/sbin", "/sbin", "/usr/bin", "/usr/local/sbin"].into_iter().any(is_there) {
        true => NetworkLock::Iptables,
        false => NetworkLock::Nftables,
    }
}

/// The key under which a namespace is found again that is not the context's own. runc and crun use the same.
fn external_key(kind: Kind) -> &'static str {
    if kind == Kind::Network { "extRootNetNS" } else { "extRootPidNS" }
}

/// criu failed, with what it wrote last.
fn failed(error: criu::Error, lines: Vec<String>, log: PathBuf) -> Error {
    match error {
        error @ (criu::Error::Failed { .. } | criu::Error::Died(_)) => Error::CriuLog { error, lines, log },
        error => Error::Criu(error),
    }
}
