//! Everything between clone3(2) and execve(2), in execution order: [`enter`] is the whole life of the child.
//!
//! The crate has no allocator and no `std`, so that the compiler keeps the rule: after clone the child makes system calls
//! on what the parent has prepared in its [`plan::Plan`], and nothing else. A failed step goes to the parent as a number
//! and an errno (see [`handshake`]); the parent makes the sentence.
#![no_std]
#![deny(unsafe_code)]

#[cfg(fuzzing)]
pub mod fuzzing;
pub mod handshake;
pub mod home;
pub mod plan;
pub mod resolve;
pub mod root;
pub mod sys;

mod devices;
mod failure;
mod interpreter;
mod landlock;
mod mounts;
mod process;
mod terminal;

use core::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, write};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, accept_with, recv, socket_with};

use failure::{At, at};
use handshake::{Failure, Order, Report, Step, report, wait};
use plan::{Join, Plan, Process, Scene, Setting};

type Result<T> = core::result::Result<T, Failure>;

/// The child: from the new process to the guest's program. Every failure is reported to the parent, on the
/// SOCK_SEQPACKET socket `channel`, and ends it.
pub fn enter(plan: &Plan<'_>, channel: BorrowedFd<'_>) -> ! {
    sys::unblock_signals();
    plan.close.iter().for_each(|descriptor| sys::close_copy(*descriptor));
    let ready = match &plan.scene {
        Scene::New(setting) => new_context(plan, setting, channel),
        Scene::Join(join) => join_context(plan, join, channel),
    };
    let ready = match ready {
        Ok(ready) => ready,
        Err(failure) => process::fail(channel, failure),
    };
    let channel = ready.start.as_ref().map_or(channel, AsFd::as_fd);
    process::execute(plan, channel, &ready)
}

/// A process with its identity: what is left is to hold it and to execute.
struct Program<'a> {
    path: &'a CStr,
    landlock: Option<OwnedFd>,
}

/// A process that has its order to execute.
struct Ready<'a> {
    /// The connection of `start`, if that was waited for.
    start: Option<OwnedFd>,
    /// The program, and what it is to be held by.
    program: Program<'a>,
    /// It is held as the guest is already: capabilities, filter and all.
    held: bool,
}

/// The step list of a new context.
fn new_context<'a>(plan: &Plan<'a>, setting: &Setting<'_>, channel: BorrowedFd<'_>) -> Result<Ready<'a>> {
    join_cgroups(plan)?;
    join_namespaces(plan, setting, channel)?;
    time_offsets(plan, setting)?;
    sys::shield().or_at(Step::Shield)?;
    name_and_network(setting)?;
    let slave = root_file_system(plan, setting, channel)?;
    keyring(&plan.process)?;
    scope(&plan.process)?;
    let program = take_identity(&plan.process, slave)?;
    let held = setting.start.is_some() && plan.process.seccomp.is_some_and(|filter| filter.early);
    if held {
        process::hold(plan, channel, &program)?;
    }
    report(channel, Report::Ready).or_at(Step::Report)?;
    wait(channel, Order::Proceed).or_at(Step::Orders)?;
    let start = setting.start.map(await_start).transpose()?;
    Ok(Ready { start, program, held })
}

/// The step list of a process that joins a running context.
fn join_context<'a>(plan: &Plan<'a>, join: &Join<'_>, channel: BorrowedFd<'_>) -> Result<Ready<'a>> {
    sys::shield().or_at(Step::Shield)?;
    join_cgroups(plan)?;
    sys::setns(join.target, join.namespaces).or_at(Step::JoinNamespace)?;
    if let Some(root) = join.root {
        root::enter(root).or_at(Step::Pivot)?;
    }
    if join.user_namespace {
        become_root(&plan.process)?;
    }
    let slave = own_terminal(&plan.process)?;
    keyring(&plan.process)?;
    scope(&plan.process)?;
    let program = take_identity(&plan.process, slave)?;
    report(channel, Report::Ready).or_at(Step::Report)?;
    wait(channel, Order::Proceed).or_at(Step::Orders)?;
    Ok(Ready { start: None, program, held: false })
}

/// Enters the control groups before anything is allocated that they should count.
fn join_cgroups(plan: &Plan<'_>) -> Result<()> {
    plan.tasks.iter().enumerate().try_for_each(|(index, tasks)| join_cgroup(index, *tasks))
}

fn join_cgroup(index: usize, tasks: BorrowedFd<'_>) -> Result<()> {
    write(tasks, b"0").map(drop).map_err(at(Step::JoinCgroup, index))
}

fn join_namespaces(plan: &Plan<'_>, setting: &Setting<'_>, channel: BorrowedFd<'_>) -> Result<()> {
    for (index, (namespace, kind)) in setting.join.iter().enumerate() {
        sys::setns(*namespace, *kind).map_err(at(Step::JoinNamespace, index))?;
    }
    if setting.new_user_namespace {
        wait(channel, Order::Mapped).or_at(Step::Orders)?;
    }
    if setting.user_namespace {
        become_root(&plan.process)?;
    }
    if setting.groups_before.is_none() { cgroup_namespace(setting) } else { Ok(()) }
}

/// The groups that the process is in become the roots of what it sees.
fn cgroup_namespace(setting: &Setting<'_>) -> Result<()> {
    if setting.new_cgroup_namespace {
        sys::unshare(libc::CLONE_NEWCGROUP as u32).or_at(Step::CgroupNamespace)?;
    }
    Ok(())
}

/// Takes the ids of root in the user namespace: until then the process has its capabilities but no mapped id, and what
/// it makes would belong to nobody.
fn become_root(process: &Process<'_>) -> Result<()> {
    let take = || {
        let (user, group) = (rustix::fs::Uid::ROOT, rustix::fs::Gid::ROOT);
        if process.groups.is_some() {
            rustix::thread::set_thread_groups(&[])?;
        }
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)
    };
    take().or_at(Step::BecomeRoot)
}

/// Makes a time namespace, sets its clocks while it is empty, and moves into it (time_namespaces(7)).
fn time_offsets(plan: &Plan<'_>, setting: &Setting<'_>) -> Result<()> {
    const CLONE_NEWTIME: u32 = 0x80;
    let Some(lines) = setting.time_offsets else { return Ok(()) };
    let enter = || {
        if setting.user_namespace {
            // Taking the ids of root has made the process undumpable, and its files in procfs the host root's.
            sys::unshield()?;
        }
        sys::unshare(CLONE_NEWTIME)?;
        let open = |path, flags| openat(plan.proc, path, flags | OFlags::CLOEXEC, Mode::empty());
        if !lines.is_empty() {
            write(open(c"self/timens_offsets", OFlags::WRONLY)?, lines)?;
        }
        let namespace = open(c"self/ns/time_for_children", OFlags::RDONLY)?;
        sys::setns(namespace.as_fd(), CLONE_NEWTIME)
    };
    enter().or_at(Step::TimeOffsets)
}

fn name_and_network(setting: &Setting<'_>) -> Result<()> {
    if setting.loopback {
        let up = || {
            let kind = SocketType::DGRAM;
            let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
            sys::loopback_up(socket.as_fd())
        };
        up().or_at(Step::Loopback)?;
    }
    if let Some(name) = setting.hostname {
        rustix::system::sethostname(name).or_at(Step::Hostname)?;
    }
    if let Some(name) = setting.domainname {
        rustix::system::setdomainname(name).or_at(Step::Domainname)?;
    }
    Ok(())
}

/// Builds the root and moves into it. Gives the terminal, if there is one.
fn root_file_system(
    plan: &Plan<'_>,
    setting: &Setting<'_>,
    channel: BorrowedFd<'_>,
) -> Result<Option<OwnedFd>> {
    let root = setting.root;
    // The modes of what is made here are the plan's, whatever the caller's umask.
    let caller = rustix::process::umask(Mode::empty());
    let home = if root.staged { Some(root::stage(plan.proc)?) } else { None };
    let tree = root::attach(root)?;
    let early = setting.groups_before.unwrap_or(0);
    mounts::make(tree.as_fd(), root.mounts, 0..early)?;
    if setting.groups_before.is_some() {
        handshake::wait_groups(channel, at(Step::Orders, 0), join_cgroup)?;
        cgroup_namespace(setting)?;
    }
    mounts::make(tree.as_fd(), root.mounts, early..root.mounts.len())?;
    devices::make(tree.as_fd(), root)?;
    let slave = match &plan.process.console {
        Some(console) => Some(terminal::open(tree.as_fd(), console, plan.process.user.0)?),
        None => None,
    };
    if let (true, Some(slave)) = (root.console, &slave) {
        terminal::mount_console(tree.as_fd(), slave.as_fd())?;
    }
    gate(setting, channel)?;
    sysctls(plan, setting)?;
    mounts::make_readonly(tree.as_fd(), root)?;
    mounts::mask(tree.as_fd(), root)?;
    root::pivot(root, tree.as_fd(), home)?;
    rustix::process::umask(caller);
    Ok(slave)
}

fn gate(setting: &Setting<'_>, channel: BorrowedFd<'_>) -> Result<()> {
    if setting.gate {
        report(channel, Report::Gate).or_at(Step::Report)?;
        wait(channel, Order::Continue).or_at(Step::Orders)?;
    }
    Ok(())
}

fn sysctls(plan: &Plan<'_>, setting: &Setting<'_>) -> Result<()> {
    for (index, (path, value)) in setting.sysctl.iter().enumerate() {
        let set = || {
            let file = resolve::open_without_links(plan.proc, path, OFlags::WRONLY)?;
            write(&file, value)
        };
        set().map_err(at(Step::Sysctl, index))?;
    }
    Ok(())
}

fn keyring(process: &Process<'_>) -> Result<()> {
    if !process.keyring {
        return Ok(());
    }
    match sys::new_session_keyring() {
        // A kernel without keyrings, or a filter around us that denies them, leaves nothing to protect.
        Ok(()) | Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        // The quota of keys is the user's; a context can live with its caller's keyring being absent.
        Err(error) => Err(at(Step::Keyring, 0)(error)),
    }
}

/// Abstract unix sockets belong to the network namespace, and no path keeps anybody from them (CVE-2020-15257).
fn scope(process: &Process<'_>) -> Result<()> {
    if !process.scoped {
        return Ok(());
    }
    match sys::landlock_scope().and_then(|ruleset| sys::landlock_restrict(ruleset.as_fd())) {
        // A kernel that is older or has no Landlock; the parent has said so.
        Ok(()) | Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL | Errno::TOOBIG) => Ok(()),
        Err(error) => Err(at(Step::Scope, 0)(error)),
    }
}

/// The terminal of a process whose root is already the context's.
fn own_terminal(process: &Process<'_>) -> Result<Option<OwnedFd>> {
    let Some(console) = &process.console else { return Ok(None) };
    let root = own_root()?;
    terminal::open(root.as_fd(), console, process.user.0).map(Some)
}

fn own_root() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, c"/", flags, Mode::empty()).or_at(Step::Cwd)
}

fn take_identity<'a>(process: &Process<'a>, slave: Option<OwnedFd>) -> Result<Program<'a>> {
    match slave {
        Some(slave) => terminal::adopt(slave)?,
        // The caller's terminal is not the guest's: without a session of its own it could push input into it.
        None => rustix::process::setsid().map(drop).or_at(Step::Session)?,
    }
    for (descriptor, standard) in process.standard {
        sys::dup_onto(*descriptor, *standard).or_at(Step::Standard)?;
    }
    process::prepare(process, own_root()?.as_fd())
}

/// Waits until `start` connects and says so. The connection then takes the place of the handshake. A `start` that was
/// killed before it spoke has started nothing: the next one is waited for.
fn await_start(listener: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut order = [0u8; 1];
    loop {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(at(Step::Start, 0)(error)),
            Ok(connection) => match recv(&connection, &mut order[..], RecvFlags::empty()) {
                Ok((_, 1)) if order[0] == Order::Proceed as u8 => return Ok(connection),
                _ => {}
            },
        }
    }
}
