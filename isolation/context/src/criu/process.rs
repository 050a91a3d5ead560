//! The process of criu: where it is found, what it inherits, and in which groups and namespaces it begins.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{FdFlags, fcntl_setfd, write};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use vctx_child::sys::{self, MountAttributes};

use super::Error;
use crate::cgroup::Join;

/// Where criu begins. What is restored inherits it.
#[derive(Debug, Default)]
pub struct Birth<'a> {
    /// Descriptors that it inherits, by their own numbers. There are no others but the standard ones, which lead nowhere.
    pub inherits: Vec<BorrowedFd<'a>>,
    /// Control groups.
    pub groups: Option<&'a Join>,
    /// A cgroup namespace of its own, the root of which these groups are.
    pub cgroup_namespace: bool,
    /// A mount namespace of its own, in which a root file system lies ready.
    pub place: Option<Place>,
}

/// A folder that is bound on another one, in criu's own mount namespace: nothing of it is seen on the host, and nothing
/// stays of it.
#[derive(Debug, Clone)]
pub struct Place {
    /// The root file system.
    pub source: CString,
    /// The folder on which it is bound.
    pub at: CString,
    /// It is read-only.
    pub readonly: bool,
}

/// Starts criu, and gives our end of its socket.
#[allow(unsafe_code, reason = "between fork(2) and execve(2) of criu")]
pub(super) fn start(birth: &Birth<'_>) -> Result<(Child, OwnedFd), Error> {
    let (path, program) = find()?;
    let talk = |error: rustix::io::Errno| Error::Talk(error.into());
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(talk)?;
    let keep: Vec<i32> = birth.inherits.iter().map(AsRawFd::as_raw_fd).chain([theirs.as_raw_fd()]).collect();
    let groups = birth.groups.map(Groups::of).transpose().map_err(Error::Prepare)?.unwrap_or_default();
    let namespace = birth.cgroup_namespace;
    let place = birth.place.clone();
    let mut command = Command::new(&program);
    command.args(["swrk", &theirs.as_raw_fd().to_string()]);
    // Variables, such as HOME, name files of options for criu.
    command.env_clear().env("PATH", path);
    // Not in our process group: a key that interrupts us must not end it in the middle of a dump.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    // SAFETY: between fork and execve the closure makes system calls on descriptors and texts that were made before and
    // outlive it; it allocates nothing.
    unsafe {
        command.pre_exec(move || {
            groups.enter()?;
            if namespace {
                sys::unshare(libc::CLONE_NEWCGROUP as u32)?;
            }
            if let Some(place) = &place {
                lay_ready(place)?;
            }
            sys::close_on_exec_from(3)?;
            for descriptor in &keep {
                fcntl_setfd(BorrowedFd::borrow_raw(*descriptor), FdFlags::empty())?;
            }
            Ok(())
        });
    }
    let process = command.spawn().map_err(|source| Error::Start { path: program, source })?;
    Ok((process, ours))
}

/// As a shell would find it, and in the folders where Debian keeps it.
fn find() -> Result<(OsString, PathBuf), Error> {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/usr/bin:/sbin:/bin");
    let is_program =
        |file: &PathBuf| file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok();
    let found = std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join("criu"))
        .find(is_program);
    found.map(|program| (path, program)).ok_or(Error::Missing)
}

/// The files of the groups that a process writes itself into.
#[derive(Default)]
struct Groups {
    files: Vec<OwnedFd>,
}

impl Groups {
    fn of(join: &Join) -> io::Result<Groups> {
        let mut files = join.tasks.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>()?;
        if let Some(folder) = &join.unified {
            files.push(openat(folder, c"cgroup.procs", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?);
        }
        Ok(Groups { files })
    }

    fn enter(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| write(file, b"0").map(drop).map_err(io::Error::from))
    }
}

/// Makes the mount namespace. What the host mounts later arrives in it, and nothing leaves it.
fn lay_ready(place: &Place) -> io::Result<()> {
    const MOUNT_ATTR_RDONLY: u64 = 1;
    const MS_SLAVE: u64 = 1 << 19;
    sys::unshare(libc::CLONE_NEWNS as u32)?;
    let slave = MountAttributes { propagation: MS_SLAVE, ..Default::default() };
    sys::mount_setattr(CWD, c"/", true, &slave)?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, place.source.as_c_str(), flags)?;
    if place.readonly {
        // criu restores no flag of the root.
        let readonly = MountAttributes { set: MOUNT_ATTR_RDONLY, ..Default::default() };
        sys::mount_setattr(&tree, c"", false, &readonly)?;
    }
    Ok(move_mount(&tree, c"", CWD, place.at.as_c_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
