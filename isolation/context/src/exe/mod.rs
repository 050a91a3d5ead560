//! Keeps the guest from overwriting our own executable through `/proc/self/exe` (CVE-2019-5736).
//!
//! A guest that executes `/proc/self/exe` of the child, or a script whose interpreter that is, gets a descriptor of our
//! file. What decides is whether a write through it could succeed: not from a read-only mount, not for a user who may
//! neither write the file nor permit itself to, not with fs-verity. Where it could, the process executes itself once more, through a read-only clone
//! of its own mount, before it has done anything: every later descriptor of the file is then read-only, for ever.

#[cfg(target_arch = "x86_64")]
mod entry;

use std::env;
use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::fs::{
    Access, AtFlags, CWD, MemfdFlags, Mode, OFlags, SealFlags, StatxAttributes, StatxFlags, accessat,
    fcntl_add_seals, memfd_create, openat, sendfile, statx,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::geteuid;
use vctx_child::sys::{MountAttributes, mount_setattr};

use crate::capability;

const EXE: &str = "/proc/self/exe";
const MOUNT_ATTR_RDONLY: u64 = 1;

/// The executable could not be protected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a read-only mount nor a sealed copy could be had.
    #[error(
        "cannot protect the vctx executable from the guest; install it on a read-only mount, or not writable for this user"
    )]
    Copy(#[source] io::Error),
    /// The protected copy could not be executed.
    #[error("cannot execute the protected copy of vctx")]
    Execute(#[source] io::Error),
}

/// Returns when no guest of this process could write our executable. Otherwise it does not return: the process starts
/// again from a protected copy. To be called before any side effect.
///
/// # Errors
///
/// No protected copy could be made or executed.
pub fn protect() -> Result<(), Error> {
    // What this process runs from stays what it is.
    static PROTECTED: AtomicBool = AtomicBool::new(false);
    if PROTECTED.load(Relaxed) || is_protected() {
        PROTECTED.store(true, Relaxed);
        return Ok(());
    }
    let copy = readonly_mount().or_else(|_| sealed_copy()).map_err(Error::Copy)?;
    Err(Error::Execute(execute(copy.as_fd())))
}

fn is_protected() -> bool {
    match accessat(CWD, EXE, Access::WRITE_OK, AtFlags::EACCESS) {
        Err(Errno::ROFS) => return true,
        Err(Errno::ACCESS) if !could_permit_it() => return true,
        _ => {}
    }
    match statx(CWD, EXE, AtFlags::empty(), StatxFlags::TYPE) {
        Ok(stat) if stat.stx_attributes.contains(StatxAttributes::VERITY) => true,
        // A sealed copy has no links; nothing else that we run from can lack one and still be writable by name.
        Ok(_) => openat(CWD, EXE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::fs::fcntl_get_seals(&file))
            .is_ok_and(|seals| seals.contains(SealFlags::WRITE)),
        Err(_) => false,
    }
}

/// Who may not write the file, but may change its mode: its owner, and who has CAP_FOWNER. An override that has not helped
/// means that the file's ids are not of this user namespace, where no capability counts for it.
fn could_permit_it() -> bool {
    let has = |name| capability::bit(name).is_some_and(|bit| capability::permitted() & bit != 0);
    let is_ours = || rustix::fs::stat(EXE).map_or(true, |stat| stat.st_uid == geteuid().as_raw());
    !has("DAC_OVERRIDE") && (has("FOWNER") || is_ours())
}

fn readonly_mount() -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, EXE, flags)?;
    let readonly = MountAttributes { set: MOUNT_ATTR_RDONLY, ..Default::default() };
    mount_setattr(&tree, c"", false, &readonly)?;
    Ok(tree)
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let original = openat(CWD, EXE, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let copy = memfd_create("vctx", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    while sendfile(&copy, &original, None, 1 << 30)? > 0 {}
    fcntl_add_seals(&copy, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE)?;
    Ok(copy)
}

/// Executes the copy with our arguments and environment.
fn execute(copy: BorrowedFd<'_>) -> io::Error {
    // Not what Rust keeps of them: not every libc hands them to a program with a `main` of its own.
    let words = match std::fs::read("/proc/self/cmdline") {
        Ok(words) => words,
        Err(error) => return error,
    };
    let words = words.strip_suffix(b"\0").unwrap_or(&words).split(|byte| *byte == 0).map(<[u8]>::to_vec);
    let strings = |list: Vec<Vec<u8>>| -> Vec<CString> {
        list.into_iter().filter_map(|text| CString::new(text).ok()).collect()
    };
    let args = strings(words.collect());
    let variable = |name: &OsStr, value: &OsStr| [name.as_bytes(), b"=", value.as_bytes()].concat();
    let env = strings(env::vars_os().map(|(name, value)| variable(&name, &value)).collect());
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(&args), pointers(&env));
    // SAFETY: both arrays end in null and point to strings that live until the call returns, which it does on failure.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            copy.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}
