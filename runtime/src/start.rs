//! `start`: tells the waiting process to execute its program.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Signal, pidfd_send_signal};
use vctx_context::child::handshake::Order;
use vctx_context::spawn::{self, Handshake};
use vctx_context::terminal;

use crate::config::Config;
use crate::hooks::{self, Point};
use crate::state::{Alive, Context, Status, Store};
use crate::{Error, Result};

/// Starts a created context. Returns when the program was executed.
///
/// # Errors
///
/// The context is not waiting, or the program cannot be executed.
pub fn start(store: &Store, id: &str) -> Result<()> {
    let mut context = store.open(id)?;
    let lock = context.lock()?;
    let status = context.status_locked(&lock)?;
    if status != Status::Created {
        let hint = match status {
            Status::Stopped => Some("delete it and create it anew"),
            _ => Some("it was started before"),
        };
        return Err(Error::Status { verb: "start", id: id.into(), status, hint });
    }
    let Some(alive) = context.alive()? else {
        return Err(Error::Status { verb: "start", id: id.into(), status: Status::Stopped, hint: None });
    };
    // runtime-spec, "Start". Nothing has been done: the context stays created.
    if context.state.no_process {
        return Err(Error::NothingToStart { id: id.into() });
    }
    // The configuration is parsed only for the hooks that `create` has seen in it.
    let config =
        if context.state.has_start_hooks { Some(Config::read(&context.config_path())?) } else { None };
    if let Some(config) = &config {
        // The specification wants the context stopped when one fails.
        hooks::start_container(store, &config.spec, &context).inspect_err(|_| stop(&context, &alive))?;
    }
    let path = context.start_path();
    let connection =
        dial(&path).map_err(|error| Error::state("reach the waiting process at", &path)(error.into()))?;
    let handshake = Handshake::over(connection);
    handshake.order(Order::Proceed).map_err(Error::Spawn)?;
    let started = started(&handshake, &context, alive.pid);
    // From now on nobody listens there; the file's absence says that the context was started.
    let _ = fs::remove_file(&path);
    started?;
    match &config {
        // Since version 1.3 of the specification such a failure stops the context.
        Some(config) => hooks::run(&config.spec, Point::Poststart, &context, alive.pid, None)
            .inspect_err(|_| stop(&context, &alive)),
        None => Ok(()),
    }
}

fn started(handshake: &Handshake, context: &Context, pid: i32) -> Result<()> {
    while let Some(listener) = handshake.executed().map_err(|error| explain(error, context))? {
        let config = Config::read(&context.config_path())?;
        crate::create::hand_over(&config.spec, &listener, context, Status::Created, pid)?;
    }
    Ok(())
}

fn stop(context: &Context, alive: &Alive) {
    let _ = pidfd_send_signal(&alive.pidfd, Signal::KILL);
    if let Some(cgroup) = &context.state.cgroup {
        let _ = cgroup.kill_all();
    }
}

/// The plan is gone with `create`; what was to be executed is in the configuration.
fn explain(error: spawn::Error, context: &Context) -> Error {
    let spawn::Error::Step { failure, detail } = &error else { return Error::Spawn(error) };
    let config = Config::read(&context.config_path()).ok();
    let process = config.as_ref().and_then(|config| config.spec.process().as_ref());
    let program = process.and_then(|process| process.args().as_ref()?.first().cloned()).unwrap_or_default();
    let held = context.state.annotations.contains_key(crate::landlock::ANNOTATION);
    crate::failure::program(failure, detail, &program, held).unwrap_or_else(|| Error::Step {
        step: failure.step.text().into(),
        source: io::Error::from_raw_os_error(failure.errno),
    })
}

fn dial(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    match SocketAddrUnix::new(path) {
        Ok(address) => connect(&socket, &address)?,
        Err(_) => {
            let (_folder, short) = terminal::short_path(path)?;
            connect(&socket, &SocketAddrUnix::new(&short)?)?;
        }
    }
    Ok(socket)
}

/// Somebody waits for `start` there. A connection that says nothing does no harm: the process goes on waiting.
pub(crate) fn is_waiting(path: &Path) -> Result<bool> {
    let fail = |error: io::Error| Error::state("look at", path)(error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found.map_err(fail)?,
    };
    match dial(path) {
        // The queue is full of those who wait for it.
        Ok(_) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(false),
        Err(error) => Err(fail(error.into())),
    }
}
