//! Work on files that belong to the ids of a user namespace: an ordinary user can neither enter nor remove the folders
//! that a guest has made with them, but root of a namespace with the same ids can.

use std::io;

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{read, retry_on_intr, write};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::idmap::Mappings;

/// Does the work in a child that is root of a new user namespace with these ids. The error of the work is kept by its
/// number. The process must have one thread.
///
/// # Errors
///
/// There is no namespace, or what the work says.
pub fn as_root_of(mappings: &Mappings, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let number = |error: io::Error| error.raw_os_error().and_then(|error| u8::try_from(error).ok());
    let code = code_as_root_of(mappings, || work().err().map_or(0, |error| number(error).unwrap_or(EIO)))?;
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.into())) }
}

const EIO: u8 = libc::EIO as u8;

/// Does the work in such a child, and gives the code with which it has ended.
///
/// # Errors
///
/// There is no namespace, or the child was killed.
#[allow(unsafe_code, reason = "fork(2) and unshare(2)")]
pub fn code_as_root_of(mappings: &Mappings, work: impl FnOnce() -> u8) -> io::Result<u8> {
    let (ready, is_ready) = pipe_with(PipeFlags::CLOEXEC)?;
    let (mapped, is_mapped) = pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: this process has one thread, so the child may use everything; it ends in `_exit` and never returns.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => {
            drop((ready, is_mapped));
            let code = match enter(&is_ready, &mapped) {
                Ok(()) => i32::from(work()),
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
        pid => pid,
    };
    drop((is_ready, mapped));
    // Nothing to read means that the child has failed, and its exit code says why.
    let is_in = matches!(retry_on_intr(|| read(&ready, &mut [0u8; 1][..])), Ok(1));
    let result = match is_in {
        true => mappings.write(pid, rustix::process::geteuid().is_root()).map_err(io::Error::other),
        false => Ok(()),
    };
    if result.is_ok() {
        // A child that has died does not listen.
        let _ = write(&is_mapped, b"m");
    }
    drop(is_mapped);
    let code = wait(pid)?;
    result?;
    if is_in { Ok(code) } else { Err(io::Error::from_raw_os_error(code.into())) }
}

/// A process that waits for the end of this one, or of the guard.
#[derive(Debug)]
pub struct Guard {
    /// Nothing is ever written: the end of it is the sign.
    sign: Option<OwnedFd>,
    pid: i32,
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.sign.take());
        // It is ours, and what it does has an end.
        let _ = wait(self.pid);
    }
}

/// Does the work when the guard is dropped, or this process has ended, however it ends. The process must have one thread.
///
/// # Errors
///
/// There is no process for it.
#[allow(unsafe_code, reason = "fork(2)")]
pub fn afterwards(work: impl FnOnce()) -> io::Result<Guard> {
    let (end, sign) = pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: this process has one thread, so the child may use everything; it ends in `_exit` and never returns.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop(sign);
            // A signal of the terminal is for the command, and not for what puts things right after it.
            let _ = rustix::process::setsid();
            let _ = retry_on_intr(|| read(&end, &mut [0u8; 1][..]));
            work();
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(0) }
        }
        pid => Ok(Guard { sign: Some(sign), pid }),
    }
}

/// Gives this process mounts of its own: what it mounts is seen by nobody else and ends with it.
///
/// # Errors
///
/// As unshare(2) and mount(2); the process must have one thread.
pub fn own_mounts() -> io::Result<()> {
    vctx_child::sys::unshare(libc::CLONE_NEWNS as u32)?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(mount_change("/", private)?)
}

/// Makes the namespace, waits for its ids, and becomes its root.
fn enter(is_ready: &OwnedFd, mapped: &OwnedFd) -> io::Result<()> {
    vctx_child::sys::unshare(libc::CLONE_NEWUSER as u32)?;
    write(is_ready, b"r")?;
    if retry_on_intr(|| read(mapped.as_fd(), &mut [0u8; 1][..]))? != 1 {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    let root = (rustix::process::Gid::ROOT, rustix::process::Uid::ROOT);
    rustix::thread::set_thread_res_gid(root.0, root.0, root.0)?;
    Ok(rustix::thread::set_thread_res_uid(root.1, root.1, root.1)?)
}

fn wait(pid: i32) -> io::Result<u8> {
    let pid = rustix::process::Pid::from_raw(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    let options = rustix::process::WaitOptions::empty();
    let ended = retry_on_intr(|| rustix::process::waitpid(Some(pid), options))?;
    let code = ended.and_then(|(_, status)| status.exit_status());
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_of_the_namespaces_root_ends_with_its_own_error() {
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let mappings = Mappings::single((0, 0), (user, group));
        let path = std::env::temp_dir().join(format!("vctx-apart-{}", std::process::id()));
        as_root_of(&mappings, || std::fs::create_dir(&path)).unwrap();
        let again = as_root_of(&mappings, || std::fs::create_dir(&path)).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        std::fs::remove_dir(&path).unwrap();
    }
}
