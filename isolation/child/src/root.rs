//! The new root file system: propagation, attachment, and the change of root.

use core::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use crate::Result;
use crate::failure::At;
use crate::handshake::Step;
use crate::plan::{Root, Source};
use crate::sys::{self, MountAttributes, mount_setattr};

pub(crate) const MS_PRIVATE: u64 = 1 << 18;
const MS_SLAVE: u64 = 1 << 19;
const MS_SHARED: u64 = 1 << 20;

/// Attaches the root in the process's own mount namespace. Gives the descriptor from which all else is resolved.
pub(crate) fn attach(root: &Root<'_>) -> Result<OwnedFd> {
    if let Some(within) = root.within {
        // The working folder is the guest's own from the change of root on.
        chdir(within).or_at(Step::RootSource)?;
    }
    let propagation = MountAttributes { propagation: root.propagation, ..Default::default() };
    mount_setattr(CWD, c"/", true, &propagation).or_at(Step::Propagation)?;
    if root.propagation == MS_SHARED {
        // pivot_root(2) refuses a new root whose parent mount is shared.
        make_parent_private(root.at).or_at(Step::Propagation)?;
    }
    let tree = tree(&root.source, 0).or_at(Step::RootSource)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&tree, c"", CWD, root.at, flags).or_at(Step::RootAttach)?;
    if root.propagation == MS_SHARED {
        let private = MountAttributes { propagation: MS_PRIVATE, ..Default::default() };
        mount_setattr(&tree, c"", false, &private).or_at(Step::Propagation)?;
    }
    Ok(tree)
}

/// The detached tree of a source: a new file system with the MOUNT_ATTR_* `flags`, or a copy of a mounted one.
pub(crate) fn tree(source: &Source<'_>, flags: u64) -> core::result::Result<OwnedFd, Errno> {
    match source {
        Source::Bind { path, recursive, .. } => clone_tree(CWD, path, *recursive),
        Source::Tree { tree, .. } => rustix::io::fcntl_dupfd_cloexec(tree, 3),
        Source::Folders { .. } => {
            let options = [(c"mode", Some(c"755"))];
            tree(&Source::FileSystem { kind: c"tmpfs", source: c"cgroup", options: &options }, flags)
        }
        Source::FileSystem { kind, source, options } => {
            let flags = MountAttrFlags::from_bits_retain(flags as u32);
            file_system(kind, source, options.iter().copied(), flags)
        }
    }
}

/// A new file system, attached nowhere yet. Relative paths in its options begin at the working folder.
///
/// # Errors
///
/// As fsopen(2), fsconfig(2) and fsmount(2).
pub fn file_system<'a>(
    kind: &CStr,
    source: &CStr,
    options: impl Iterator<Item = (&'a CStr, Option<&'a CStr>)>,
    flags: MountAttrFlags,
) -> core::result::Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if !source.is_empty() {
        fsconfig_set_string(&context, c"source", source)?;
    }
    for (key, value) in options {
        match value {
            Some(value) => fsconfig_set_string(&context, key, value)?,
            None => fsconfig_set_flag(&context, key)?,
        }
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// A detached copy of the mount at `path` below `dir`, or of `dir` itself where `path` is empty.
pub(crate) fn clone_tree(
    dir: impl AsFd,
    path: &CStr,
    recursive: bool,
) -> core::result::Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    open_tree(dir, path, flags)
}

/// Attaches a detached tree to the place that a descriptor stands for.
pub(crate) fn attach_at(tree: impl AsFd, place: impl AsFd) -> core::result::Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", place, c"", flags)
}

/// Climbs from `path` to the root of the mount that holds it, and makes that mount private.
fn make_parent_private(path: &CStr) -> core::result::Result<(), Errno> {
    let private = MountAttributes { propagation: MS_PRIVATE, ..Default::default() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = openat(CWD, path, flags, Mode::empty())?;
    loop {
        match mount_setattr(&folder, c"", false, &private) {
            // Not the root of a mount: the mount of this folder begins further up.
            Err(Errno::INVAL) => folder = openat(&folder, c"..", flags, Mode::empty())?,
            result => return result,
        }
    }
}

/// Leaves another's mount namespace for one of its own, where the tree is [staged](Root::staged). Gives the way back.
pub(crate) fn stage(proc: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let home = openat(proc, c"self/ns/mnt", flags, Mode::empty()).or_at(Step::Stage)?;
    sys::unshare(libc::CLONE_NEWNS as u32).or_at(Step::Stage)?;
    Ok(home)
}

/// Makes `/` read-only where asked, and changes the root: from the stage, `home` again.
pub(crate) fn pivot(root: &Root<'_>, tree: BorrowedFd<'_>, home: Option<OwnedFd>) -> Result<()> {
    if root.readonly {
        let readonly = MountAttributes { set: crate::mounts::MOUNT_ATTR_RDONLY, ..Default::default() };
        mount_setattr(tree, c"", false, &readonly).or_at(Step::ReadonlyRoot)?;
    }
    if let Some(home) = home {
        return leave_stage(tree, home.as_fd()).or_at(Step::Pivot);
    }
    change(root, tree).or_at(Step::Pivot)?;
    if let Some(propagation) = root.final_propagation {
        let attributes = MountAttributes { propagation, ..Default::default() };
        mount_setattr(CWD, c"/", false, &attributes).or_at(Step::Propagation)?;
    }
    Ok(())
}

/// The stage goes with its last process. What is copied from it, and entered, holds itself together.
fn leave_stage(tree: BorrowedFd<'_>, home: BorrowedFd<'_>) -> core::result::Result<(), Errno> {
    let copy = clone_tree(tree, c"", true)?;
    sys::setns(home, libc::CLONE_NEWNS as u32)?;
    enter(copy.as_fd())
}

fn change(root: &Root<'_>, tree: BorrowedFd<'_>) -> core::result::Result<(), Errno> {
    fchdir(tree)?;
    if root.no_pivot {
        move_mount(tree, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        chroot(c".")?;
        return chdir(c"/");
    }
    // The old root is stacked on the new one, so that no folder for it is needed in the guest's tree, and then leaves
    // without a trace (pivot_root(2), NOTES). It must not take the host's mounts along.
    pivot_root(c".", c".")?;
    if root.propagation == MS_SHARED {
        let slave = MountAttributes { propagation: MS_SLAVE, ..Default::default() };
        mount_setattr(CWD, c".", true, &slave)?;
    }
    unmount(c".", UnmountFlags::DETACH)?;
    chdir(c"/")
}

/// Makes the folder the root of this process, and of no other.
pub(crate) fn enter(folder: BorrowedFd<'_>) -> core::result::Result<(), Errno> {
    fchdir(folder)?;
    chroot(c".")?;
    chdir(c"/")
}
