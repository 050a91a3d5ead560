//! `create` and `run`: the step list from a configuration to a process that waits, or runs.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bumpalo::Bump;
use oci_spec::runtime::{LinuxResources, Spec};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::geteuid;
use vctx_context::cgroup::Cgroup;
use vctx_context::child::handshake::{Order, Report};
use vctx_context::child::plan::{Filter, Plan};
use vctx_context::idmap::Mappings;
use vctx_context::namespace::Kind;
use vctx_context::spawn::{self, Child, Handshake};
use vctx_context::{brief, exe, procfs, seccomp, terminal};

use crate::failure::{blame_memory, explain};
use crate::groups::{Entry, apply_devices, first_groups, later_groups, without_devices};
use crate::hooks::{self, Point};
use crate::host::{Host, capability_warnings, grantable};
use crate::lock::Lock;
use crate::network::outer;
use crate::plan::{Facts, RootFs};
use crate::prepare::Prepare;
use crate::request::{Console, Request, Start};
use crate::state::{Context, FORMAT, State, Status, Store, check_id};
use crate::undo::{Step, Undo};
use crate::{Error, Result, content, idmapped, network};

/// A context that was created.
#[derive(Debug)]
pub struct Created {
    /// On disk.
    pub context: Context,
    /// Its first process, a child of this one.
    pub child: Child,
    /// The lock of the context, for what the caller still does with it.
    pub lock: Lock,
    /// What the context does without.
    pub warnings: Vec<Error>,
}

/// Creates a context. What fails is undone.
///
/// # Errors
///
/// The configuration is refused, the id is taken, or a step fails.
pub fn create(store: &Store, mut request: Request) -> Result<Created> {
    check_id(&request.id)?;
    crate::validate::validate(&request.config.spec)?;
    if request.start == Start::Now && request.config.spec.process().is_none() {
        return Err(Error::invalid("process", "is missing; it says what to run"));
    }
    crate::kernel::supports(&request.config.spec)?;
    let passed_over = crate::kernel::set_aside(&mut request.config.spec);
    let root = root(&request)?;
    let host = Host::look(&mut request)?;
    protect(&host)?;
    let filter = filter(store, &request.config.spec)?;
    let console = request.console.take().map(Console::connect).transpose()?;

    let (folder, lock) = store.reserve(&request.id)?;
    // Declared after the lock, and so dropped before it: what is undone is undone while the id is still ours.
    let mut undo = Undo::default();
    let mut context = record(folder, &request, &root, &host, &mut undo)?;
    let prepare = request.prepare.take();
    let spec = &request.config.spec;
    prepare.map_or(Ok(()), Prepare::run)?;
    let wanted = request.network.as_ref();
    let base = wanted.map(|wanted| network::lease(store, wanted, &mut context, &mut undo)).transpose()?;
    let mut entry = first_groups(&mut context, spec, &mut undo)?;
    let holder = entry.holder.take();
    network::hold(store, &request, &context, &mut undo)?;
    outer::prepare(&request, &context, &mut undo)?;
    let listener = if request.start == Start::Wait { Some(listen_for_start(&context)?) } else { None };

    let idmapped = idmapped::trees(spec, &host)?;
    let arena = Bump::new();
    let cgroup = context.state.cgroup.as_ref();
    let mut facts = facts(&request, root, &host, cgroup, &filter, &entry, listener.as_ref())?;
    facts.console = take_terminal(spec, console.as_ref())?;
    facts.idmaps = idmapped.iter().map(|(index, tree)| (*index, tree.as_fd())).collect();
    facts.close.push(lock.folder());
    let plan = crate::plan::new_context(&arena, spec, &facts)?;
    let (child, handshake) = spawn::spawn(&plan, &host.birth(entry.join.unified.as_ref()))
        .map_err(|error| explain(error, &plan))?;
    let pid = child.pid;
    undo.push(Step::Kill(child));
    // Version 2 has the child from its birth, version 1 when it has entered by itself: an empty scope is removed.
    let holder = holder.filter(|_| entry.join.unified.is_none());

    let live =
        Live { request: &request, host: &host, entry: &entry, handshake: &handshake, plan: &plan, pid };
    let attach = |context: &Context| {
        wanted.zip(base).map_or(Ok(()), |(wanted, base)| network::attach(wanted, base, context, pid))?;
        outer::attach(&request, context, pid)
    };
    let accompanied = receive(&live, &context, &mut undo).and_then(|held| {
        attach(&context)?;
        accompany(&live, &mut context, &mut undo)?;
        Ok(held)
    });
    drop(holder);
    let held = match accompanied {
        Ok(held) => held,
        Err(error) => return Err(abandon(spec, &context, undo, error)),
    };
    write_pid_file(&request, pid, &mut undo)?;
    let runs = let_go(store, &request, &context, &handshake, &plan, pid);
    if let Err(error) = runs.and_then(|()| held.follow(&context, pid)) {
        return Err(abandon(spec, &context, undo, error));
    }
    let child = undo.keep().ok_or(Error::Spawn(spawn::Error::Died))?;
    let process = spec.process().as_ref();
    let unknown = &request.config.unknown_capabilities;
    let mut warnings = process
        .map(|process| capability_warnings(unknown, process, facts.user_namespace))
        .unwrap_or_default();
    warnings.extend(network::warning(&request));
    warnings.extend(passed_over);
    Ok(Created { context, child, lock, warnings })
}

/// From here the child lives without us; when it is to run at once, we see it do so.
fn let_go(
    store: &Store,
    request: &Request,
    context: &Context,
    handshake: &Handshake,
    plan: &Plan<'_>,
    pid: i32,
) -> Result<()> {
    let spec = &request.config.spec;
    if request.start == Start::Now {
        hooks::start_container(store, spec, context)?;
    }
    handshake.order(Order::Proceed).map_err(|error| explain(error, plan))?;
    if request.start == Start::Wait {
        return Ok(());
    }
    while let Some(listener) = handshake.executed().map_err(|error| explain(error, plan))? {
        hand_over(spec, &listener, context, Status::Creating, pid)?;
    }
    hooks::run(spec, Point::Poststart, context, pid, None)
}

/// Undoes a `create` that has begun to run hooks: the specification wants those of the stop then ("Lifecycle", 12 and 13).
pub(crate) fn abandon(spec: &Spec, context: &Context, undo: Undo, error: Error) -> Error {
    let error = blame_memory(error, spec, context);
    drop(undo);
    if matches!(error, Error::Hook { .. } | Error::RunHook { .. }) {
        // One error is told: the one that has led here.
        let _ = hooks::poststop(spec, context);
    }
    error
}

/// A child that sets itself up, and what it was made from.
struct Live<'a> {
    request: &'a Request,
    host: &'a Host,
    entry: &'a Entry,
    handshake: &'a Handshake,
    plan: &'a Plan<'a>,
    pid: i32,
}

impl Live<'_> {
    fn resources(&self) -> Option<&LinuxResources> {
        self.request.config.spec.linux().as_ref()?.resources().as_ref()
    }
}

/// What the child waits for: its ids, and the groups that were not there when it was born.
fn receive(live: &Live<'_>, context: &Context, undo: &mut Undo) -> Result<outer::Held> {
    let Live { request, host, handshake, plan, pid, .. } = *live;
    let mut held = outer::Held::default();
    if let Some(mappings) = &host.mappings {
        mappings.write(pid, host.privileged)?;
        held = outer::carry(request, context, pid)?;
        handshake.order(Order::Mapped).map_err(|error| explain(error, plan))?;
    }
    if let Some(later) = &live.entry.later {
        let join = later_groups(context, later, live.resources(), undo)?;
        handshake.groups(join.tasks).map_err(|error| explain(error, plan))?;
    }
    Ok(held)
}

/// What the parent does while the child sets itself up, up to the point where it can live alone.
fn accompany(live: &Live<'_>, context: &mut Context, undo: &mut Undo) -> Result<()> {
    let Live { host, handshake, plan, pid, .. } = *live;
    let spec = &live.request.config.spec;
    // While the child mounts, its limits are written: they hold before the first instruction of the guest.
    let cgroup = context.state.cgroup.clone();
    if let (Some(cgroup), Some(resources)) = (&cgroup, live.resources()) {
        cgroup.apply(&without_devices(resources))?;
    }
    set_oom_score(spec, pid)?;
    network::move_devices(spec, host, pid, undo)?;
    let identity = procfs::identity(pid).map_err(Error::Proc)?.ok_or(Error::Spawn(spawn::Error::Died))?;
    if hooks::gate(spec) {
        handshake.expect(&[Report::Gate]).map_err(|error| explain(error, plan))?;
        let child = undo.child().ok_or(Error::Spawn(spawn::Error::Died))?;
        hooks::run(spec, Point::Prestart, context, pid, None)?;
        hooks::run(spec, Point::CreateRuntime, context, pid, None)?;
        hooks::run(
            spec,
            Point::CreateContainer,
            context,
            pid,
            Some((child.pidfd.as_fd(), &context.state.namespaces)),
        )?;
        handshake.order(Order::Continue).map_err(|error| explain(error, plan))?;
    }
    while let Some(listener) = handshake.ready().map_err(|error| explain(error, plan))? {
        hand_over(spec, &listener, context, Status::Creating, pid)?;
    }
    // The rules for devices come after the child has made its own, where it was in the group before they could be written.
    if let (Some(cgroup), None) = (&cgroup, &live.entry.later) {
        apply_devices(cgroup, live.resources())?;
    }
    // With this others see it run, and may kill it: not before it has said that it is ready.
    context.write_process(pid, identity.start_time)
}

/// A guest whose root is a user of its own cannot write our executable: only one that shares the host's ids could.
fn protect(host: &Host) -> Result<()> {
    match &host.mappings {
        Some(mappings) if host.privileged && !mappings.reaches_root() => Ok(()),
        _ => Ok(exe::protect()?),
    }
}

pub(crate) fn filter(store: &Store, spec: &Spec) -> Result<Option<seccomp::Filter>> {
    match spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) {
        Some(profile) => Ok(seccomp::compile(profile, Some(&store.seccomp_cache()))?),
        None => Ok(None),
    }
}

/// Writes what is about to be made: a killed `create` can be cleaned up from this alone.
pub(crate) fn record(
    folder: PathBuf,
    request: &Request,
    root: &RootFs,
    host: &Host,
    undo: &mut Undo,
) -> Result<Context> {
    undo.push(Step::RemoveFolder(folder.clone()));
    // Their usual places are not all below folders that are root's alone: /dev/shm, /var/tmp. What lies in one of them lies
    // in a new folder of ours.
    let mut tops: Vec<&Path> = Vec::new();
    for (path, _) in &request.folders {
        if !tops.iter().any(|top| path.starts_with(top)) {
            crate::ancestors::check(path)?;
            tops.push(path);
        }
    }
    for own in &request.own {
        undo.push(Step::RemoveOwn(own.clone(), host.mappings.clone().unwrap_or_default()));
    }
    let spec = &request.config.spec;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let state = State {
        format: FORMAT,
        id: request.id.clone(),
        oci_version: spec.version().clone(),
        bundle: request.bundle.clone(),
        rootfs: match root {
            RootFs::Folder(path) | RootFs::Mount { at: path, .. } => path.clone(),
        },
        created: now.as_secs(),
        created_nanos: now.subsec_nanos(),
        owner: geteuid().as_raw(),
        process: None,
        cgroup: host.cgroup.clone(),
        namespaces: host.kinds.iter().map(|(kind, _)| *kind).collect(),
        annotations: spec
            .annotations()
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        has_start_hooks: hooks::has(spec, Point::StartContainer) || hooks::has(spec, Point::Poststart),
        has_poststop: hooks::has(spec, Point::Poststop),
        own: request.own.clone(),
        mounted: request.root.clone(),
        no_keyring: request.no_keyring,
        no_process: spec.process().is_none(),
        network: request.network.as_ref().map(network::Wanted::announced),
        outer: request.outer.as_ref().map(outer::Wanted::maker),
        shared: request.shared.clone(),
    };
    let context = Context { folder, state };
    let path = context.config_path();
    brief::write(&path, &request.config.bytes).map_err(Error::state("write", path))?;
    context.write()?;
    // From here on a killed create is cleaned up by what was written.
    content::make(&context.folder, request)?;
    Ok(context)
}

/// The root, resolved once, before the guest exists: the name of a folder that an engine has just made is not the guest's.
pub(crate) fn root(request: &Request) -> Result<RootFs> {
    if let Some(root) = &request.root {
        return Ok(root.clone());
    }
    let path = request.config.spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    let path = request.bundle.join(path);
    match brief::real_path(&path) {
        Ok(path) => Ok(RootFs::Folder(path)),
        Err(source) => Err(Error::HostPath { what: "the root file system", path, source }),
    }
}

fn listen_for_start(context: &Context) -> Result<OwnedFd> {
    let path = context.start_path();
    // The lock is ours, so a socket that lies here is a killed create's.
    let _ = fs::remove_file(&path);
    let open = || -> std::result::Result<OwnedFd, rustix::io::Errno> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        match SocketAddrUnix::new(&path) {
            Ok(address) => bind(&socket, &address)?,
            Err(_) => {
                let (_folder, short) = terminal::short_path(&path)?;
                bind(&socket, &SocketAddrUnix::new(&short)?)?;
            }
        }
        listen(&socket, 64)?;
        Ok(socket)
    };
    open().map_err(|error| Error::state("make the socket", &path)(error.into()))
}

fn facts<'a>(
    request: &'a Request,
    root: RootFs,
    host: &'a Host,
    cgroup: Option<&Cgroup>,
    filter: &'a Option<seccomp::Filter>,
    entry: &'a Entry,
    start: Option<&'a OwnedFd>,
) -> Result<Facts<'a>> {
    let spec = &request.config.spec;
    let sources = cgroup.map(Cgroup::bind_sources);
    let user = host.kinds.iter().any(|(kind, _)| *kind == Kind::User);
    Ok(Facts {
        root,
        join: host.child_joins(),
        user_namespace: user,
        landlock: crate::landlock::handled(spec)?,
        grantable: grantable(user),
        no_setgroups: !host.privileged && host.mappings.as_ref().is_some_and(Mappings::is_single),
        cgroups: sources.as_ref().map(|sources| sources.directories.clone()).unwrap_or_default(),
        cgroup_links: sources
            .map(|sources| sources.links.into_iter().map(|(name, target)| (target, name)).collect())
            .unwrap_or_default(),
        idmaps: Vec::new(),
        gate: hooks::gate(spec),
        keyring: !request.no_keyring,
        scoped: !request.shared.is_empty(),
        start: start.map(AsFd::as_fd),
        no_pivot: request.no_pivot,
        proc: host.proc.as_fd(),
        tasks: entry.join.tasks.iter().map(AsFd::as_fd).collect(),
        groups_later: entry.later.is_some(),
        close: Vec::new(),
        path: None,
        standard: Vec::new(),
        console: None,
        filter: filter.as_ref().map(|filter| Filter {
            program: &filter.program,
            flags: filter.flags,
            early: filter.early,
        }),
        preserve: request.preserve,
    })
}

fn take_terminal<'a>(spec: &Spec, console: Option<&'a OwnedFd>) -> Result<Option<BorrowedFd<'a>>> {
    match_terminal(wants_terminal(spec), console)
}

/// The first process is to have a terminal.
#[must_use]
pub fn wants_terminal(spec: &Spec) -> bool {
    spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false)
}

/// A terminal needs somebody who takes it, and the other way round.
pub(crate) fn match_terminal(wanted: bool, console: Option<&OwnedFd>) -> Result<Option<BorrowedFd<'_>>> {
    match (wanted, console) {
        (true, None) => Err(Error::invalid(
            "process.terminal",
            "is true, and nobody takes the terminal; give --console-socket",
        )),
        (false, Some(_)) => {
            Err(Error::invalid("process.terminal", "is false, and a console socket was given; leave it away"))
        }
        (_, console) => Ok(console.map(AsFd::as_fd)),
    }
}

pub(crate) fn set_oom_score(spec: &Spec, pid: i32) -> Result<()> {
    let Some(score) = spec.process().as_ref().and_then(oci_spec::runtime::Process::oom_score_adj) else {
        return Ok(());
    };
    write_oom_score(pid, score)
}

/// Writes `oom_score_adj` of a child that has not taken its identity yet. To lower it takes a privilege; what an engine in a
/// user namespace has itself, and passes on, is no lowering.
pub(crate) fn write_oom_score(pid: i32, score: i32) -> Result<()> {
    let path = PathBuf::from(format!("/proc/{pid}/oom_score_adj"));
    fs::write(&path, score.to_string()).map_err(Error::state("write process.oomScoreAdj to", path))
}

pub(crate) fn write_pid_file(request: &Request, pid: i32, undo: &mut Undo) -> Result<()> {
    let Some(path) = &request.pid_file else { return Ok(()) };
    undo.push(Step::RemoveFile(path.clone()));
    write_pid(path, pid)
}

/// Writes a pid file, whole or not at all: engines read it as soon as it is there.
pub(crate) fn write_pid(path: &std::path::Path, pid: i32) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.new"));
    // A link that somebody has laid there, in a folder such as /tmp, must not be written through.
    let _ = fs::remove_file(&temporary);
    File::create_new(&temporary)
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .map_err(Error::state("write the pid file", &temporary))?;
    fs::rename(&temporary, path).map_err(Error::state("write the pid file", path))
}

/// Gives a filter's notification descriptor to the agent that the profile names.
pub(crate) fn hand_over(
    spec: &Spec,
    listener: &OwnedFd,
    context: &Context,
    status: Status,
    pid: i32,
) -> Result<()> {
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    hooks::send_seccomp_state(profile, listener.as_fd(), context, status, pid)
}
