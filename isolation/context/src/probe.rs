//! Trying out what the kernel lets an ordinary user do, in a child that is thrown away; `vctx info` reports the result.
//!
//! The files that say what is allowed (sysctls, AppArmor, seccomp around a container) differ by distribution, so the
//! thing itself is done: a user namespace, an id map, a tmpfs, an overlay on it.

use std::ffi::CStr;
use std::fs;
use std::io;

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork, getegid, geteuid};
use serde::Serialize;

/// How far an ordinary user comes; each step needs the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unprivileged {
    /// No user namespace.
    Nothing,
    /// A user namespace, but ids cannot be mapped in it.
    Namespace,
    /// Ids can be mapped, but nothing can be mounted.
    Mapping,
    /// A tmpfs can be mounted, but no overlay.
    Tmpfs,
    /// An overlay too: `vctx run host` works without root.
    Overlay,
}

/// The user `nobody`, whom root becomes for the trial.
const NOBODY: u32 = 65534;

/// Tries it in a child; root becomes nobody there first, so that the answer is about ordinary users.
///
/// # Errors
///
/// As fork(2) and waitpid(2).
pub fn unprivileged() -> io::Result<Unprivileged> {
    // SAFETY: the program has one thread, so the child may use everything; it ends in `_exit` and never returns here.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let reached = attempt();
            // SAFETY: ends the child without running the parent's exit handlers a second time.
            unsafe { libc::_exit(reached as libc::c_int) }
        }
        ForkResult::Parent { child } => {
            match waitpid(child, None)? {
                WaitStatus::Exited(_, 1) => Ok(Unprivileged::Namespace),
                WaitStatus::Exited(_, 2) => Ok(Unprivileged::Mapping),
                WaitStatus::Exited(_, 3) => Ok(Unprivileged::Tmpfs),
                WaitStatus::Exited(_, 4) => Ok(Unprivileged::Overlay),
                // A seccomp filter may kill the child at the first step.
                _ => Ok(Unprivileged::Nothing),
            }
        }
    }
}

fn attempt() -> Unprivileged {
    if geteuid().is_root() {
        // Root of a user namespace that has no other ids cannot become nobody; it is an ordinary user to the kernel.
        let _ = become_nobody();
    }
    let (uid, gid) = (geteuid(), getegid());
    // SAFETY: the child that does this has one thread and ends after the trial: no other sees its namespaces change.
    if unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS) } != 0 {
        return Unprivileged::Nothing;
    }
    let mapped = fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/uid_map", format!("0 {uid} 1")))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("0 {gid} 1")));
    if mapped.is_err() {
        return Unprivileged::Namespace;
    }
    if mount(c"tmpfs", c"/tmp", c"").is_err() {
        return Unprivileged::Mapping;
    }
    let folders = ["/tmp/lower", "/tmp/upper", "/tmp/work", "/tmp/root"];
    if folders.iter().any(|folder| fs::create_dir(folder).is_err()) {
        return Unprivileged::Tmpfs;
    }
    let options = c"lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work,userxattr";
    match mount(c"overlay", c"/tmp/root", options) {
        Ok(()) => Unprivileged::Overlay,
        Err(_) => Unprivileged::Tmpfs,
    }
}

/// Give up root, and stay dumpable: otherwise the files in /proc/self belong to root and no map can be written.
fn become_nobody() -> io::Result<()> {
    // SAFETY: these calls take numbers and change only this child, which has one thread.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0
            && libc::setresgid(NOBODY, NOBODY, NOBODY) == 0
            && libc::setresuid(NOBODY, NOBODY, NOBODY) == 0
            && libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Mount a fresh file system in this child's own mount namespace.
fn mount(kind: &CStr, target: &CStr, options: &CStr) -> io::Result<()> {
    // SAFETY: all four pointers are C strings that outlive the call.
    let result =
        unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, options.as_ptr().cast()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the kernel has a system call: called with arguments that it must refuse, it says anything but ENOSYS.
#[must_use]
pub fn has_syscall(number: libc::c_long) -> bool {
    // SAFETY: descriptor -1, null pointers and sizes of 0 are refused by every call that is asked about, without effect.
    let result = unsafe { libc::syscall(number, -1, 0, 0, 0, 0, 0) };
    result != -1 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}
