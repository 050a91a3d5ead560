//! From root of the scene to the guest's own process: limits, user, capabilities, filter, execve.

use core::ffi::CStr;

use rustix::fd::BorrowedFd;
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::process::{fchdir, umask};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::failure::{At, at};
use crate::handshake::{Failure, Report, Step, report_failure, send_descriptor};
use crate::interpreter;
use crate::plan::{Capabilities, Plan, Process};
use crate::resolve;
use crate::sys;
use crate::{Program, Ready, Result, landlock};

const CAP_SYS_ADMIN: u64 = 1 << 21;

/// What can still fail with a clear word for the caller of `create`: done before the context is ready.
pub(crate) fn prepare<'a>(process: &Process<'a>, root: BorrowedFd<'_>) -> Result<Program<'a>> {
    for (index, &(resource, soft, hard)) in process.rlimits.iter().enumerate() {
        sys::setrlimit(resource, soft, hard).map_err(at(Step::Rlimit, index))?;
    }
    if let Some(attributes) = process.scheduler {
        sys::sched_setattr(attributes).or_at(Step::Scheduler)?;
    }
    if let Some(value) = process.io_priority {
        sys::ioprio_set(value).or_at(Step::IoPriority)?;
    }
    if let Some(domain) = process.personality {
        sys::personality(domain).or_at(Step::Personality)?;
    }
    if let Some((mode, nodes)) = process.memory_policy {
        sys::set_mempolicy(mode, nodes).or_at(Step::MemoryPolicy)?;
    }
    if let Some(mask) = process.affinity {
        sys::sched_setaffinity(mask).or_at(Step::Affinity)?;
    }
    if let Some(space) = process.find_home {
        crate::home::find(root, process.user.0, space, process.env);
    }
    let landlock = process.landlock.map(|landlock| landlock::prepare(&landlock, root)).transpose()?;
    let entered = enter_cwd(process, root);
    become_user(process)?;
    match entered {
        // Root without CAP_DAC_OVERRIDE, or on a network file system, may not enter what the user may.
        Err(failure) if failure.errno == Errno::ACCESS.raw_os_error() => enter_cwd(process, root)?,
        result => result?,
    }
    Ok(Program { path: find_program(process)?, landlock })
}

/// Enters the working folder, resolved inside the root: a magic link to a leaked host folder is refused
/// (CVE-2024-21626).
fn enter_cwd(process: &Process<'_>, root: BorrowedFd<'_>) -> Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let folder = match resolve::open(root, process.cwd, flags) {
        Err(Errno::NOENT) if process.make_cwd => {
            resolve::ensure_folder(root, process.cwd, Mode::from_raw_mode(0o755))
        }
        result => result,
    };
    fchdir(folder.or_at(Step::Cwd)?).or_at(Step::Cwd)?;
    let mut buffer = [0; 4096];
    match sys::getcwd(&mut buffer) {
        Ok([b'/', ..]) => Ok(()),
        Ok(_) => Err(at(Step::CwdOutside, 0)(Errno::PERM)),
        Err(error) => Err(at(Step::CwdOutside, 0)(error)),
    }
}

fn become_user(process: &Process<'_>) -> Result<()> {
    if let Some(capabilities) = &process.capabilities {
        // The bounding set can only be dropped from while CAP_SETPCAP is effective. Those that are newer than this code go
        // too: a program of root's gets back whatever stays.
        for capability in (0..u64::BITS).filter(|bit| capabilities.bounding & (1 << bit) == 0) {
            match sys::prctl(libc::PR_CAPBSET_DROP, u64::from(capability), 0) {
                Ok(()) => {}
                // The kernel knows neither this one nor a later one.
                Err(Errno::INVAL) => break,
                Err(error) => return Err(at(Step::Capabilities, 0)(error)),
            }
        }
    }
    let (uid, gid) = process.user;
    if let Some(groups) = process.groups {
        set_thread_groups(sys::group_ids(groups)).or_at(Step::Groups)?;
    }
    let gid = rustix::fs::Gid::from_raw(gid);
    set_thread_res_gid(gid, gid, gid).or_at(Step::User)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).or_at(Step::User)?;
    let user = rustix::fs::Uid::from_raw(uid);
    set_thread_res_uid(user, user, user).or_at(Step::User)?;
    sys::prctl(libc::PR_SET_KEEPCAPS, 0, 0).or_at(Step::User)?;
    // A change of user makes the kernel forget this: it holds until execve(2) decides anew.
    sys::shield().or_at(Step::Shield)?;
    if let Some(mask) = process.umask {
        umask(Mode::from_raw_mode(mask));
    }
    if let Some(capabilities) = &process.capabilities {
        let interim = interim(process, *capabilities);
        sys::capset(&interim).or_at(Step::Capabilities)?;
    }
    Ok(())
}

/// The final sets, and CAP_SYS_ADMIN where a filter or rules without no_new_privs still have to be loaded.
fn interim(process: &Process<'_>, mut sets: Capabilities) -> Capabilities {
    let held = process.seccomp.is_some() || process.landlock.is_some();
    if held && !process.no_new_privileges {
        sets.permitted |= CAP_SYS_ADMIN;
        sets.effective |= CAP_SYS_ADMIN;
    }
    sets
}

/// Finds the program as execvp(3) does, now and not at the start, so that `create` can say what is missing.
fn find_program<'a>(process: &Process<'a>) -> Result<&'a CStr> {
    let mut worst = Errno::NOENT;
    for place in process.places {
        match check_program(place) {
            Ok(()) => return Ok(place),
            Err(error) if !process.searched || error == Errno::ACCESS => worst = error,
            Err(_) => {}
        }
    }
    // A context without a process waits, and is not started.
    if process.places.is_empty() {
        return Ok(c"");
    }
    // The index tells the parent that the search path was used, and the message that engines look for.
    Err(at(Step::Find, usize::from(process.searched))(worst))
}

/// A regular file that this user may execute.
fn check_program(path: &CStr) -> core::result::Result<(), Errno> {
    let file = openat(rustix::fs::CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(Errno::ACCESS);
    }
    sys::may_execute(path)
}

/// The last steps, after the start was given. Ends the child if one fails.
pub(crate) fn execute(plan: &Plan<'_>, channel: BorrowedFd<'_>, ready: &Ready<'_>) -> ! {
    if !ready.held
        && let Err(failure) = hold(plan, channel, &ready.program)
    {
        fail(channel, failure);
    }
    let path = ready.program.path;
    let failure = exec(&plan.process, path);
    let mut interpreter = [0; interpreter::SPACE];
    let length = match failure.step {
        Step::Interpreter => interpreter::find(path, &mut interpreter).unwrap_or(0),
        _ => 0,
    };
    report_failure(channel, failure, &interpreter[..length]);
    sys::exit(exit_code(failure))
}

/// Takes on what holds the guest: label, capabilities, Landlock, filter. Descriptors are closed by execve(2).
pub(crate) fn hold(plan: &Plan<'_>, channel: BorrowedFd<'_>, program: &Program<'_>) -> Result<()> {
    let process = &plan.process;
    if let Some((file, text)) = process.label {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let label = openat(plan.proc, file, flags, Mode::empty()).or_at(Step::Label)?;
        rustix::io::write(&label, text).or_at(Step::Label)?;
    }
    // Below that number those of the caller stay open, and ours close: all of ours are close-on-exec from birth. Were the
    // flag cleared by number, a caller who passes fewer than it promised would give the guest ours (CVE-2024-21626).
    sys::close_on_exec_from(process.keep_below).or_at(Step::Descriptors)?;
    if process.no_new_privileges {
        // The filter comes last: it then need not permit any of these calls.
        set_capabilities(process)?;
        sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).or_at(Step::NoNewPrivileges)?;
        landlock::hold(program.landlock.as_ref())?;
        load_filter(process, channel)
    } else {
        // Without no_new_privs both need CAP_SYS_ADMIN. The label, which is a file to write, has come before.
        landlock::hold(program.landlock.as_ref())?;
        load_filter(process, channel)?;
        set_capabilities(process)
    }
}

fn set_capabilities(process: &Process<'_>) -> Result<()> {
    let Some(capabilities) = &process.capabilities else { return Ok(()) };
    sys::capset(capabilities).or_at(Step::Capabilities)?;
    for capability in (0..u64::BITS).filter(|bit| capabilities.ambient & (1 << bit) != 0) {
        let raise = libc::PR_CAP_AMBIENT_RAISE as u64;
        sys::prctl(libc::PR_CAP_AMBIENT, raise, u64::from(capability)).or_at(Step::Capabilities)?;
    }
    Ok(())
}

fn load_filter(process: &Process<'_>, channel: BorrowedFd<'_>) -> Result<()> {
    let Some(filter) = &process.seccomp else { return Ok(()) };
    if let Some(listener) = sys::seccomp(filter.program, filter.flags).or_at(Step::Seccomp)? {
        send_descriptor(channel, &Report::Listener.encode(), &listener).or_at(Step::Listener)?;
    }
    Ok(())
}

fn exec(process: &Process<'_>, path: &CStr) -> Failure {
    let error = sys::execve_plan(path, process.args, process.env);
    // The file was there a moment ago: it is the interpreter of the script or the program that is missing (moby#40859).
    if error == Errno::NOENT && sys::may_execute(path).is_ok() {
        return at(Step::Interpreter, 0)(error);
    }
    at(Step::Exec, 0)(error)
}

/// Sends the failure and ends the child.
pub(crate) fn fail(channel: BorrowedFd<'_>, failure: Failure) -> ! {
    report_failure(channel, failure, &[]);
    sys::exit(exit_code(failure))
}

/// 127 for what was not found and 126 for the rest, as shells have it.
fn exit_code(failure: Failure) -> i32 {
    if failure.errno == Errno::NOENT.raw_os_error() { 127 } else { 126 }
}
