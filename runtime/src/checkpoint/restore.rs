//! `restore`: the step list from images and a bundle to a running context.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use oci_spec::runtime::{LinuxResources, Spec};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use vctx_context::criu::{Birth, Groups, Notice, Options, Place, Service, Work};
use vctx_context::namespace::Kind;
use vctx_context::spawn::{self, Child};
use vctx_context::{procfs, terminal};

use super::images::Folders;
use super::{Common, check_caller, common_options, confine, external_key, lost, mounts, orphan};
use crate::create::{self, Created, match_terminal};
use crate::groups::{all_groups, apply_devices, without_devices};
use crate::hooks::{self, Point};
use crate::host::Host;
use crate::plan::RootFs;
use crate::request::{Console, Request};
use crate::state::{Context, Store, check_id};
use crate::undo::{Step, Undo};
use crate::{Error, Result};

/// What a restore is to be.
#[derive(Debug, Default)]
pub struct Revival {
    /// What is common with a dump.
    pub common: Common,
    /// Standard input, output and error, for those of the first process that led out of the context.
    pub standard: Vec<OwnedFd>,
    /// Connections are closed.
    pub tcp_close: bool,
    /// Security label of the processes.
    pub lsm_profile: Option<String>,
    /// Security label of mounts.
    pub lsm_mount_context: Option<String>,
}

const LOG: &str = "restore.log";

/// Makes a context from a bundle, with the processes of the images in it. What fails is undone.
///
/// # Errors
///
/// The bundle or the images are refused, the id is taken, or criu fails.
pub fn restore(store: &Store, mut request: Request, revival: &Revival) -> Result<Created> {
    check_id(&request.id)?;
    crate::validate::validate(&request.config.spec)?;
    if request.config.spec.process().is_none() {
        return Err(Error::invalid("process", "is missing; it says what the restored processes may do"));
    }
    crate::kernel::supports(&request.config.spec)?;
    let passed_over = crate::kernel::set_aside(&mut request.config.spec);
    check_caller("restore")?;
    if let Some(reason) = lost(&request.config.spec)? {
        return Err(Error::NoRestore(reason));
    }
    let root = create::root(&request)?;
    let RootFs::Folder(rootfs) = root.clone() else {
        return Err(Error::NoRestore("only a bundle can be restored"));
    };
    let host = Host::look(&mut request)?;
    check_namespaces(&request.config.spec, &host)?;
    let folders = Folders::open(&revival.common, LOG)?;
    let filter = create::filter(store, &request.config.spec)?;
    confine::check_filters(&folders, filter.as_ref())?;
    let console = request.console.take().map(Console::connect).transpose()?;
    match_terminal(create::wants_terminal(&request.config.spec), console.as_ref())?;
    let spec = &request.config.spec;

    let (folder, lock) = store.reserve(&request.id)?;
    // Declared after the lock, and so dropped before it: what is undone is undone while the id is still ours.
    let mut undo = Undo::default();
    let mut context = create::record(folder, &request, &root, &host, &mut undo)?;
    let (join, holder) = all_groups(&mut context, spec, &mut undo)?;
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    if let Some(cgroup) = &context.state.cgroup {
        // Before criu begins: what the images make it open and fill is then held by the limits of the context.
        cgroup.apply(&without_pids(resources))?;
        apply_devices(cgroup, resources)?;
    }

    mounts::make_targets(spec, &rootfs)?;
    let places = mounts::places(spec, &mounts::open_root(&rootfs)?);
    let mut options = options(revival, &folders, &rootfs, &host);
    options.mounts = mounts::sources(spec, &places, context.state.cgroup.as_ref())?;
    let mapped = host.mappings.as_ref().map(|mappings| folders.mapped(mappings)).transpose()?;
    if let Some(images) = &mapped {
        options.images = images.as_raw_fd();
    }
    let own = standard(revival, &folders, &mut options)?;
    let name = || {
        std::ffi::CString::new(mounts::bytes(&rootfs))
            .map_err(|error| Error::state("use", &rootfs)(error.into()))
    };
    let mut inherits = vec![lock.folder()];
    inherits.extend(own.iter().map(AsFd::as_fd));
    inherits.extend(host.joined.iter().map(|joined| joined.as_fd()));
    let birth = Birth {
        inherits,
        groups: Some(&join),
        cgroup_namespace: host.kinds.iter().any(|(kind, _)| *kind == Kind::Cgroup),
        place: Some(Place { source: name()?, at: name()?, readonly: mounts::is_read_only(spec) }),
    };
    let service = Service::start(&birth)?;
    // As in `create`: until the process has entered by itself, the scope must not be empty.
    let _holder = holder.filter(|_| join.unified.is_none());
    let named = orphan::name(&context.folder, &service)?;
    let mut progress = Progress {
        spec,
        host: &host,
        console,
        places,
        context: &mut context,
        undo: &mut undo,
        failure: None,
    };
    let asked = service.ask(&options.request(Work::Restore), |notice| progress.reached(&notice));
    drop(named);
    let failure = progress.failure.take();
    if let Err(error) = asked {
        return Err(create::abandon(spec, &context, undo, failure.unwrap_or_else(|| folders.explain(error))));
    }
    if context.state.process.is_none() {
        return Err(create::abandon(spec, &context, undo, Error::Spawn(spawn::Error::Died)));
    }
    let pid = context.state.process.map_or(0, |(pid, _)| pid);
    create::write_pid_file(&request, pid, &mut undo)?;
    let child = undo.keep().ok_or(Error::Spawn(spawn::Error::Died))?;
    Ok(Created { context, child, lock, warnings: passed_over.into_iter().collect() })
}

/// criu makes the mount namespace, and joins no cgroup namespace.
fn check_namespaces(spec: &Spec, host: &Host) -> Result<()> {
    if !crate::plan::makes_mounts(spec) {
        return Err(Error::invalid(
            "linux.namespaces",
            "has no new mount namespace, and a restore needs one",
        ));
    }
    if host.joined.iter().any(|one| one.kind == Kind::Cgroup) {
        return Err(Error::invalid(
            "linux.namespaces",
            "joins a cgroup namespace, and a restore can only make one",
        ));
    }
    let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    if seccomp.is_some_and(|profile| profile.listener_path().is_some()) {
        return Err(Error::invalid(
            "linux.seccomp.listenerPath",
            "cannot be restored: the agent is gone from the filter",
        ));
    }
    Ok(())
}

/// All limits but that of processes: while it restores, criu is one more.
fn without_pids(resources: Option<&LinuxResources>) -> LinuxResources {
    let mut rest = resources.map(without_devices).unwrap_or_default();
    rest.set_pids(None);
    rest
}

fn options(revival: &Revival, folders: &Folders, rootfs: &std::path::Path, host: &Host) -> Options {
    let mut options = common_options(&revival.common, folders, LOG);
    options.root = mounts::bytes(rootfs);
    // What is restored stays in the groups in which criu begins: those of the images are not asked for.
    options.groups = Some(Groups::Ignore);
    options.tcp_close = revival.tcp_close;
    options.lsm_profile = revival.lsm_profile.clone();
    options.lsm_mount_context = revival.lsm_mount_context.clone();
    for joined in &host.joined {
        let number = joined.as_fd().as_raw_fd();
        match joined.kind {
            Kind::Network | Kind::Pid => options.inherit.push((external_key(joined.kind).into(), number)),
            kind => {
                let path = format!("/proc/{}/fd/{number}", std::process::id());
                options.join.push((kind.file(), path.into_bytes()));
            }
        }
    }
    options
}

/// Our standard descriptors, for those of the first process that led out of the context.
fn standard(revival: &Revival, folders: &Folders, options: &mut Options) -> Result<Vec<OwnedFd>> {
    let mut own = Vec::new();
    for (number, name) in folders.standard()? {
        let Some(descriptor) = revival.standard.get(number) else { continue };
        let descriptor = descriptor
            .try_clone()
            .map_err(Error::state("pass on", format!("standard descriptor {number}")))?;
        options.inherit.push((name, descriptor.as_raw_fd()));
        own.push(descriptor);
    }
    Ok(own)
}

/// What is done while criu restores.
struct Progress<'a> {
    spec: &'a Spec,
    host: &'a Host,
    console: Option<OwnedFd>,
    places: Vec<mounts::Place>,
    context: &'a mut Context,
    undo: &'a mut Undo,
    failure: Option<Error>,
}

impl Progress<'_> {
    fn reached(&mut self, notice: &Notice) -> bool {
        let done = self.go_on(notice);
        if let Err(error) = done {
            self.failure.get_or_insert(error);
            self.end();
            return false;
        }
        true
    }

    /// criu heeds no refusal any more when the processes are whole: they must not run one instruction.
    fn end(&self) {
        if let Some(child) = self.undo.child() {
            let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
        }
        if let Some(cgroup) = &self.context.state.cgroup {
            let _ = cgroup.kill_all();
        }
    }

    fn go_on(&mut self, notice: &Notice) -> Result<()> {
        match notice.point.as_str() {
            "setup-namespaces" => {
                self.adopt(notice.pid)?;
                hooks::run(self.spec, Point::Prestart, self.context, notice.pid, None)?;
                hooks::run(self.spec, Point::CreateRuntime, self.context, notice.pid, None)
            }
            "orphan-pts-master" => {
                let (Some(console), Some(master)) = (&self.console, &notice.descriptor) else {
                    return Err(Error::Terminal(terminal::Error::Missing));
                };
                terminal::send(console.as_fd(), b"/dev/ptmx", master.as_fd())
                    .map_err(|_| Error::Terminal(terminal::Error::Missing))
            }
            "post-restore" => self.settle(notice.pid),
            "pre-resume" => {
                let pid = self.undo.child().map_or(0, |child| child.pid);
                confine::check(self.spec, self.host, &self.places, pid)
            }
            _ => Ok(()),
        }
    }

    /// The first process is a child of ours from its birth.
    fn adopt(&mut self, pid: i32) -> Result<()> {
        if self.undo.child().is_some() {
            return Ok(());
        }
        let died = || Error::Spawn(spawn::Error::Died);
        let raw = Pid::from_raw(pid).ok_or_else(died)?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|_| died())?;
        self.undo.push(Step::Kill(Child { pid, pidfd }));
        Ok(())
    }

    /// All processes are there, and none of them runs yet.
    fn settle(&mut self, pid: i32) -> Result<()> {
        self.adopt(pid)?;
        create::set_oom_score(self.spec, pid)?;
        let resources = self.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        if let (Some(cgroup), Some(resources)) = (&self.context.state.cgroup, resources) {
            cgroup.apply(&without_devices(resources))?;
        }
        // criu gives the processes the clocks that they had.
        let clock = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/time")).ok();
        let kinds = &mut self.context.state.namespaces;
        if !kinds.contains(&Kind::Time) && clock(&pid.to_string()) != clock("self") {
            kinds.push(Kind::Time);
            self.context.write()?;
        }
        let died = || Error::Spawn(spawn::Error::Died);
        let identity = procfs::identity(pid).map_err(Error::Proc)?.ok_or_else(died)?;
        self.context.write_process(pid, identity.start_time)
    }
}
