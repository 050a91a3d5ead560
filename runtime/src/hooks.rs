//! Hooks (runtime-spec, "POSIX-platform Hooks"): programs of the caller at six points of a context's life.
//!
//! A hook gets the environment of its configuration and nothing else (CVE-2025-23266), the bundle as its working folder,
//! and the state on standard input.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use oci_spec::runtime::{Hook, LinuxSeccomp, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde_json::json;
use vctx_context::namespace::Kind;

use crate::exec::{self, Program, Request};
use crate::state::{Context, Status, Store};
use crate::{Error, Result};

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in the specification")]
pub enum Point {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl Point {
    /// All points, in the order of a life.
    pub(crate) const ALL: [Point; 6] = [
        Point::Prestart,
        Point::CreateRuntime,
        Point::CreateContainer,
        Point::StartContainer,
        Point::Poststart,
        Point::Poststop,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Point::Prestart => "prestart",
            Point::CreateRuntime => "createRuntime",
            Point::CreateContainer => "createContainer",
            Point::StartContainer => "startContainer",
            Point::Poststart => "poststart",
            Point::Poststop => "poststop",
        }
    }

    fn status(self) -> &'static str {
        match self {
            // Those that use these deprecated hooks know specification 1.0, in which they came after `create`; what a later
            // one says of the status ("after step 2 in the lifecycle") allows it.
            Point::Prestart => "created",
            Point::CreateRuntime | Point::CreateContainer => "creating",
            Point::StartContainer => "created",
            Point::Poststart => "running",
            Point::Poststop => "stopped",
        }
    }

    pub(crate) fn of(self, spec: &Spec) -> &[Hook] {
        let Some(hooks) = spec.hooks() else { return &[] };
        #[allow(deprecated, reason = "prestart hooks are deprecated, and still used")]
        let list = match self {
            Point::Prestart => hooks.prestart(),
            Point::CreateRuntime => hooks.create_runtime(),
            Point::CreateContainer => hooks.create_container(),
            Point::StartContainer => hooks.start_container(),
            Point::Poststart => hooks.poststart(),
            Point::Poststop => hooks.poststop(),
        };
        list.as_deref().unwrap_or_default()
    }
}

/// There are hooks for this point.
#[must_use]
pub fn has(spec: &Spec, point: Point) -> bool {
    !point.of(spec).is_empty()
}

/// There are hooks that run while the child waits.
pub(crate) fn gate(spec: &Spec) -> bool {
    [Point::Prestart, Point::CreateRuntime, Point::CreateContainer].into_iter().any(|point| has(spec, point))
}

/// Runs the startContainer hooks in the context, which waits for its start. Their programs are the context's own, so they
/// are held as its process is: groups, user, capabilities, filter and all.
pub(crate) fn start_container(store: &Store, spec: &Spec, context: &Context) -> Result<()> {
    let point = Point::StartContainer;
    let (hooks, Some(process)) = (point.of(spec), spec.process()) else { return Ok(()) };
    let Some(alive) = context.alive()?.filter(|_| !hooks.is_empty()) else { return Ok(()) };
    let state = state(context, point.status(), alive.pid);
    hooks.iter().try_for_each(|hook| {
        let fail = |source| Error::RunHook { point: point.name(), path: hook.path().clone(), source };
        let words = words().map_err(fail)?;
        let mut process = process.clone();
        let name = || vec![hook.path().to_string_lossy().into_owned()];
        let args = hook.args().clone().filter(|args| !args.is_empty()).unwrap_or_else(name);
        process.set_args(Some(args)).set_terminal(Some(false)).set_console_size(None);
        if let Some(env) = hook.env() {
            process.set_env(Some(env.clone()));
        }
        let request = Request {
            process,
            unknown_capabilities: Vec::new(),
            console: None,
            pid_file: None,
            preserve: 0,
            cgroup: Vec::new(),
            ignore_paused: false,
        };
        let input = serde_json::to_vec(&state).map_err(io::Error::from).and_then(|bytes| input(&bytes));
        let null = File::options().write(true).open("/dev/null");
        let standard = vec![
            (input.map_err(fail)?.into(), 0),
            (null.map_err(fail)?.into(), 1),
            (words.try_clone().map_err(fail)?.into(), 2),
        ];
        let program = Program { path: Some(hook.path().clone()), standard };
        let child = exec::enter(store, context, spec, &alive, request, program)?;
        let in_time = wait(child.pidfd.as_fd(), timeout(hook)).map_err(fail)?;
        if !in_time {
            rustix::process::pidfd_send_signal(&child.pidfd, Signal::KILL)
                .map_err(|error| fail(error.into()))?;
        }
        judge(hook, point, in_time, vctx_context::spawn::reap(&child), &words)
    })
}

/// Runs the hooks of a point in order, and stops at the first that fails. With `inside`, they run in these namespaces of
/// the process, while its root is still the host's.
pub(crate) fn run(
    spec: &Spec,
    point: Point,
    context: &Context,
    pid: i32,
    inside: Option<(BorrowedFd<'_>, &[Kind])>,
) -> Result<()> {
    let hooks = point.of(spec);
    if hooks.is_empty() {
        return Ok(());
    }
    let state = state(context, point.status(), pid);
    hooks.iter().try_for_each(|hook| one(hook, point, context, &state, inside))
}

/// Runs the poststop hooks, whatever becomes of each, and gives those that failed: the specification wants a warning.
pub(crate) fn poststop(spec: &Spec, context: &Context) -> Vec<Error> {
    let point = Point::Poststop;
    let state = state(context, point.status(), 0);
    point.of(spec).iter().filter_map(|hook| one(hook, point, context, &state, None).err()).collect()
}

/// The state as hooks and seccomp agents see it (runtime-spec, "State").
pub(crate) fn state(context: &Context, status: &str, pid: i32) -> serde_json::Value {
    let state = &context.state;
    let mut value = json!({
        "ociVersion": state.oci_version,
        "id": state.id,
        "status": status,
        "bundle": state.bundle,
        "annotations": state.annotations,
    });
    if pid > 0 {
        value["pid"] = pid.into();
    }
    value
}

fn one(
    hook: &Hook,
    point: Point,
    context: &Context,
    state: &serde_json::Value,
    inside: Option<(BorrowedFd<'_>, &[Kind])>,
) -> Result<()> {
    let fail = |source| Error::RunHook { point: point.name(), path: hook.path().clone(), source };
    let words = words().map_err(fail)?;
    let mut child = command(hook, context, state, inside)
        .and_then(|mut command| command.stderr(words.try_clone()?).spawn())
        .map_err(fail)?;
    let group = Pid::from_raw(child.id() as i32).ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
    let pidfd = pidfd_open(group, PidfdFlags::empty()).map_err(|error| fail(error.into()))?;
    let in_time = wait(pidfd.as_fd(), timeout(hook)).map_err(fail)?;
    if !in_time {
        // The hook leads a group of its own, so that what it has started goes with it.
        rustix::process::kill_process_group(group, Signal::KILL).map_err(|error| fail(error.into()))?;
    }
    judge(hook, point, in_time, Some(child.wait().map_err(fail)?), &words)
}

/// What came of a hook.
fn judge(hook: &Hook, point: Point, in_time: bool, status: Option<ExitStatus>, words: &File) -> Result<()> {
    let how = match (in_time, status) {
        (true, Some(status)) if status.success() => return Ok(()),
        (true, status) => {
            let mut text = [0; 4096];
            let length = words.read_at(&mut text, 0).unwrap_or(0);
            let status = status.map_or_else(|| "an unknown status".into(), |status| status.to_string());
            format!("failed with {status}: {}", String::from_utf8_lossy(&text[..length]).trim())
        }
        (false, _) => format!("did not end within {} s", hook.timeout().unwrap_or(0)),
    };
    Err(Error::Hook { point: point.name(), path: hook.path().clone(), how })
}

fn timeout(hook: &Hook) -> Option<Duration> {
    let seconds = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok())?;
    Some(Duration::from_secs(seconds)).filter(|timeout| !timeout.is_zero())
}

/// A file for what a hook says, and not a pipe: no hook waits for a reader, and nothing that it leaves behind makes us
/// wait for the end.
fn words() -> io::Result<File> {
    Ok(File::from(memfd_create("stderr", MemfdFlags::CLOEXEC)?))
}

fn command(
    hook: &Hook,
    context: &Context,
    state: &serde_json::Value,
    inside: Option<(BorrowedFd<'_>, &[Kind])>,
) -> io::Result<Command> {
    let mut command = Command::new(hook.path());
    if let Some((zeroth, rest)) = hook.args().as_deref().and_then(<[String]>::split_first) {
        command.arg0(zeroth).args(rest);
    }
    command.env_clear();
    command.envs(hook.env().iter().flatten().filter_map(|variable| variable.split_once('=')));
    command.current_dir(&context.state.bundle);
    command.stdin(Stdio::from(input(&serde_json::to_vec(state)?)?)).stdout(Stdio::null()).process_group(0);
    if let Some((process, kinds)) = inside {
        let flags =
            kinds.iter().filter(|kind| **kind != Kind::Pid).fold(0, |flags, kind| flags | kind.flag());
        let process = process.as_raw_fd();
        // SAFETY: between fork and execve the closure makes one system call, on a descriptor that the caller keeps open
        // until the hook has ended; it allocates nothing.
        unsafe {
            command.pre_exec(move || {
                let process = BorrowedFd::borrow_raw(process);
                vctx_context::child::sys::setns(process, flags).map_err(io::Error::from)
            });
        }
    }
    Ok(command)
}

/// Standard input that holds the state whole: no hook can make us wait by not reading it.
fn input(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("state", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

/// Waits for the end of a process without reaping it. False when the time was not enough.
fn wait(process: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    let limit = timeout.map(|timeout| Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: 0 });
    let mut descriptors = [PollFd::from_borrowed_fd(process, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut descriptors, limit.as_ref()))? > 0)
}

/// Sends a seccomp listener with the container process state to the agent (runtime-spec, config-linux, "Seccomp").
pub(crate) fn send_seccomp_state(
    profile: Option<&LinuxSeccomp>,
    listener: BorrowedFd<'_>,
    context: &Context,
    status: Status,
    pid: i32,
) -> Result<()> {
    let Some(path) = profile.and_then(|profile| profile.listener_path().as_ref()) else { return Ok(()) };
    let fail = |source| Error::HostPath { what: "the seccomp agent's socket", path: path.clone(), source };
    let metadata = profile.and_then(|profile| profile.listener_metadata().as_deref()).unwrap_or("");
    let message = json!({
        "ociVersion": context.state.oci_version,
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": metadata,
        "state": state(context, &status.to_string(), context.state.process.map_or(pid, |(first, _)| first)),
    });
    let socket = vctx_context::terminal::connect_console(path)?;
    vctx_context::terminal::send(socket.as_fd(), message.to_string().as_bytes(), listener).map_err(fail)
}
