//! `exec`: one more process in a context that runs.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use bumpalo::Bump;
use oci_spec::runtime::{Process, Spec};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::geteuid;
use vctx_context::cgroup::Subgroup;
use vctx_context::child::handshake::{Order, Report};
use vctx_context::child::plan::{Filter, Join, Plan, Scene};
use vctx_context::child::sys::sched_setaffinity;
use vctx_context::namespace::Kind;
use vctx_context::spawn::{self, Birth, Child};
use vctx_context::{cgroup, exe, procfs, seccomp};

use crate::config::Config;
use crate::create::{hand_over, match_terminal};
use crate::failure::explain;
use crate::plan::{Facts, RootFs, makes_mounts};
use crate::request::Console;
use crate::state::{Alive, Context, Status, Store};
use crate::undo::{Step, Undo};
use crate::{Error, Result};

/// What is to be executed.
#[derive(Debug)]
pub struct Request {
    /// The process, whole.
    pub process: Process,
    /// Capabilities that were asked for and that nobody knows.
    pub unknown_capabilities: Vec<String>,
    /// Where the master of a terminal goes, when the process asks for one.
    pub console: Option<Console>,
    /// File that gets the process id.
    pub pid_file: Option<PathBuf>,
    /// Descriptors from 3 on that the process gets, their number.
    pub preserve: u32,
    /// Control groups below the context's; without any, it is where the context's first process is.
    pub cgroup: Vec<Subgroup>,
    /// Also in a paused context.
    pub ignore_paused: bool,
}

/// A process that was executed.
#[derive(Debug)]
pub struct Executed {
    /// A child of this one.
    pub child: Child,
    /// What it does without.
    pub warnings: Vec<Error>,
}

/// A context in which something can be executed, and its configuration.
#[derive(Debug)]
pub struct Target {
    /// On disk.
    pub context: Context,
    /// What it was made from.
    pub spec: Spec,
}

/// Opens a context for `exec`. A caller that was given no whole process takes the configuration's as its base.
///
/// # Errors
///
/// There is no such context.
pub fn target(store: &Store, id: &str) -> Result<Target> {
    let context = store.open(id)?;
    let spec = Config::read(&context.config_path())?.spec;
    Ok(Target { context, spec })
}

/// Executes a process. Returns when its program runs.
///
/// # Errors
///
/// The context is not running, or a step fails; what was made is undone.
pub fn exec(store: &Store, target: &Target, request: Request) -> Result<Executed> {
    let (context, spec) = (&target.context, &target.spec);
    crate::validate::process("process", &request.process)?;
    crate::kernel::labels(&request.process)?;
    let alive = running(context, request.ignore_paused)?;
    let user_namespace = context.state.namespaces.contains(&Kind::User);
    let warnings =
        crate::host::capability_warnings(&request.unknown_capabilities, &request.process, user_namespace);
    let child = enter(store, context, spec, &alive, request, Program::default())?;
    Ok(Executed { child, warnings })
}

/// A program that is no `exec` of the caller's: a hook that runs in the context.
#[derive(Debug, Default)]
pub(crate) struct Program {
    /// Its path, where that is not the first argument.
    pub(crate) path: Option<PathBuf>,
    /// What becomes its standard input, output and error.
    pub(crate) standard: Vec<(OwnedFd, i32)>,
}

/// Joins the context's namespaces and groups with a new process, which is held as the context's first is.
pub(crate) fn enter(
    store: &Store,
    context: &Context,
    spec: &Spec,
    alive: &Alive,
    mut request: Request,
    program: Program,
) -> Result<Child> {
    let kinds = &context.state.namespaces;
    // Root of a user namespace cannot come back from a pid namespace into the host's: a process apart goes there.
    let privileged = geteuid().is_root() && procfs::in_first_user_namespace();
    if !kinds.contains(&Kind::User) || !privileged {
        exe::protect()?;
    }
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter =
        profile.map(|profile| seccomp::compile(profile, Some(&store.seccomp_cache()))).transpose()?.flatten();
    let console = request.console.take().map(Console::connect).transpose()?;
    let groups = groups(context, &request.cgroup, alive.pid)?;

    let arena = Bump::new();
    let proc = procfs::open().map_err(Error::Proc)?;
    let root = if makes_mounts(spec) { None } else { Some(own_root(alive)?) };
    let flags = kinds.iter().fold(0, |flags, kind| flags | kind.flag());
    // The pid namespace is for children only, and has to be entered before the clone.
    let before =
        if privileged { flags & Kind::Pid.flag() } else { flags & (Kind::Pid.flag() | Kind::User.flag()) };
    let facts = Facts {
        root: RootFs::Folder(PathBuf::new()),
        join: Vec::new(),
        user_namespace: kinds.contains(&Kind::User),
        landlock: crate::landlock::handled(spec)?,
        grantable: crate::host::grantable(kinds.contains(&Kind::User)),
        no_setgroups: kinds.contains(&Kind::User) && procfs::denies_setgroups(alive.pid),
        cgroups: Vec::new(),
        cgroup_links: Vec::new(),
        idmaps: Vec::new(),
        gate: false,
        keyring: !context.state.no_keyring,
        scoped: !context.state.shared.is_empty(),
        start: None,
        no_pivot: false,
        proc: proc.as_fd(),
        tasks: groups.tasks.iter().map(AsFd::as_fd).collect(),
        groups_later: false,
        close: Vec::new(),
        path: program.path,
        standard: program
            .standard
            .iter()
            .map(|(descriptor, standard)| (descriptor.as_fd(), *standard))
            .collect(),
        console: match_terminal(request.process.terminal().unwrap_or(false), console.as_ref())?,
        filter: filter.as_ref().map(|filter| Filter {
            program: &filter.program,
            flags: filter.flags,
            early: false,
        }),
        preserve: request.preserve,
    };
    let plan = Plan {
        proc: proc.as_fd(),
        tasks: &facts.tasks,
        close: &[],
        scene: Scene::Join(Join {
            target: alive.pidfd.as_fd(),
            namespaces: flags & !before,
            user_namespace: kinds.contains(&Kind::User),
            root: root.as_ref().map(AsFd::as_fd),
        }),
        process: crate::plan::process::process(&arena, &request.process, spec, &facts, false)?,
    };
    // What was read by its number was the process's own if it lives now.
    if spawn::send_signal(alive.pidfd.as_fd(), 0).is_err() {
        let (id, status) = (context.state.id.clone(), Status::Stopped);
        return Err(Error::Status { verb: "execute in", id, status, hint: Some("container not running") });
    }
    let birth = Birth {
        new: 0,
        join: Vec::new(),
        enter: (before != 0).then_some((alive.pidfd.as_fd(), before)),
        apart: !privileged,
        cgroup: groups.unified.as_ref().map(AsFd::as_fd),
    };
    let (child, handshake) =
        confined(&request.process, || spawn::spawn(&plan, &birth).map_err(|error| explain(error, &plan)))?;
    let pid = child.pid;
    let mut undo = Undo::default();
    undo.push(Step::Kill(child));
    if let Some(score) = request.process.oom_score_adj() {
        crate::create::write_oom_score(pid, score)?;
    }
    handshake.expect(&[Report::Ready]).map_err(|error| explain(error, &plan))?;
    if let Some(path) = &request.pid_file {
        undo.push(Step::RemoveFile(path.clone()));
        crate::create::write_pid(path, pid)?;
    }
    handshake.order(Order::Proceed).map_err(|error| explain(error, &plan))?;
    while let Some(listener) = handshake.executed().map_err(|error| explain(error, &plan))? {
        hand_over(spec, &listener, context, Status::Running, pid)?;
    }
    undo.keep().ok_or(Error::Spawn(spawn::Error::Died))
}

/// The root of a context that has no mount namespace of its own.
fn own_root(alive: &Alive) -> Result<OwnedFd> {
    let path = PathBuf::from(format!("/proc/{}/root", alive.pid));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, &path, flags, Mode::empty()).map_err(|error| Error::state("open", path)(error.into()))
}

const INITIAL_AFFINITY: &str = "process.execCPUAffinity.initial";

/// The CPUs of `execCPUAffinity.initial`, as words of a bit mask.
///
/// # Errors
///
/// It is no list of CPUs.
pub fn initial_affinity(process: &Process) -> Result<Option<Vec<u64>>> {
    let initial = process.exec_cpu_affinity().as_ref().and_then(|affinity| affinity.initial().as_deref());
    let cpus = initial.filter(|cpus| !cpus.is_empty());
    cpus.map(|cpus| crate::plan::process::mask(INITIAL_AFFINITY, cpus)).transpose()
}

/// Calls `make` on the CPUs of `execCPUAffinity.initial`: the child is born there, before it enters its control group.
fn confined<T>(process: &Process, make: impl FnOnce() -> Result<T>) -> Result<T> {
    let Some(mask) = initial_affinity(process)? else { return make() };
    let refused = |errno: rustix::io::Errno| {
        Error::invalid(INITIAL_AFFINITY, format!("names CPUs that cannot be used: {errno}"))
    };
    let own = rustix::thread::sched_getaffinity(None).map_err(refused)?;
    sched_setaffinity(&mask).map_err(refused)?;
    let made = make();
    rustix::thread::sched_setaffinity(None, &own).map_err(refused)?;
    made
}

fn running(context: &Context, ignore_paused: bool) -> Result<Alive> {
    let id = || context.state.id.clone();
    let status = context.status()?;
    match (status, context.alive()?) {
        (Status::Paused, _) if !ignore_paused => {
            Err(Error::Status { verb: "execute in", id: id(), status, hint: Some("resume it first") })
        }
        (Status::Running | Status::Paused, Some(alive)) => Ok(alive),
        (Status::Created, _) => {
            Err(Error::Status { verb: "execute in", id: id(), status, hint: Some("start it first") })
        }
        _ => Err(Error::Status { verb: "execute in", id: id(), status, hint: Some("container not running") }),
    }
}

/// The context's group, those below it that are named, or the one that its first process has moved to.
fn groups(context: &Context, below: &[Subgroup], pid: i32) -> Result<cgroup::Join> {
    match &context.state.cgroup {
        Some(cgroup) if below.is_empty() => Ok(cgroup.join_beside(pid)?),
        Some(cgroup) => Ok(cgroup.below(below)?.join()?),
        None if below.is_empty() => Ok(cgroup::Join::default()),
        None => Err(Error::NoCgroup { verb: "enter a group below that of", id: context.state.id.clone() }),
    }
}
