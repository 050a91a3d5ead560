//! What btrfs has of its own: subvolumes, and groups of them that have a limit (ioctl(2), linux/btrfs.h).
//!
//! A group does not go with its subvolumes, so that who makes and who removes them share this module.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, fstat, fstatfs, openat, syncfs};

const MAGIC: i64 = 0x9123_683e;
/// Inode number of the root of every subvolume.
const ROOT_INODE: u64 = 256;
/// Groups of groups have their level in the upper bits.
const LEVEL_ONE: u64 = 1 << 48;

const SUBVOL_CREATE: u32 = 0x5000_940e;
const INO_LOOKUP: u32 = 0xd000_9412;
const QUOTA_CTL: u32 = 0xc010_9428;
const QGROUP_ASSIGN: u32 = 0x4018_9429;
const QGROUP_CREATE: u32 = 0x4010_942a;
const QGROUP_LIMIT: u32 = 0x8030_942b;

/// The folder lies on btrfs.
#[must_use]
pub fn is_here(folder: impl AsFd) -> bool {
    fstatfs(folder).is_ok_and(|about| about.f_type == MAGIC)
}

/// The folder is the root of a subvolume, if it lies on btrfs at all.
#[must_use]
pub fn is_subvolume(folder: impl AsFd) -> bool {
    fstat(folder).is_ok_and(|about| about.st_ino == ROOT_INODE)
}

/// Makes an empty subvolume.
///
/// # Errors
///
/// As ioctl(2).
pub fn create(above: impl AsFd, name: &str) -> io::Result<()> {
    // `struct btrfs_ioctl_vol_args`: a descriptor that is not used here, and a name with its nul.
    let mut call = [0u8; 4096];
    let Some(place) = call.get_mut(8..8 + name.len()).filter(|_| name.len() < 4088) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    place.copy_from_slice(name.as_bytes());
    // SAFETY: the kernel reads 4096 bytes of a live buffer, in which a nul follows the name.
    check(unsafe { libc::ioctl(above.as_fd().as_raw_fd(), SUBVOL_CREATE as _, call.as_ptr()) })
}

/// The number of the subvolume in which a folder lies.
///
/// # Errors
///
/// As ioctl(2).
pub fn number(folder: impl AsFd) -> io::Result<u64> {
    // `struct btrfs_ioctl_ino_lookup_args`: tree, object, name.
    let mut call = [0u64; 512];
    call[1] = ROOT_INODE;
    // SAFETY: the kernel reads and writes 4096 bytes of a live buffer.
    check(unsafe { libc::ioctl(folder.as_fd().as_raw_fd(), INO_LOOKUP as _, call.as_mut_ptr()) })?;
    Ok(call[0])
}

/// Lets the file system count what subvolumes take; asked again, the kernel says that it does.
///
/// # Errors
///
/// As ioctl(2).
pub fn count(folder: impl AsFd) -> io::Result<()> {
    let mut call = [1u64, 0];
    // SAFETY: the kernel reads and writes two numbers of a live array.
    check(unsafe { libc::ioctl(folder.as_fd().as_raw_fd(), QUOTA_CTL as _, call.as_mut_ptr()) })
}

/// Makes the group of the first of these subvolumes, puts all of them into it, and limits it.
///
/// # Errors
///
/// As ioctl(2).
pub fn group(folder: impl AsFd, subvolumes: &[u64], bytes: Option<u64>) -> io::Result<()> {
    let group = LEVEL_ONE | subvolumes.first().copied().unwrap_or_default();
    let descriptor = folder.as_fd().as_raw_fd();
    let create = [1u64, group];
    // SAFETY: the kernel reads two numbers of a live array.
    check(unsafe { libc::ioctl(descriptor, QGROUP_CREATE as _, create.as_ptr()) })?;
    for subvolume in subvolumes {
        assign(descriptor, [1, *subvolume, group])?;
    }
    limit(folder, subvolumes.first().copied().unwrap_or_default(), bytes)
}

/// Puts a subvolume into a group (1), or takes it out (0).
fn assign(descriptor: RawFd, call: [u64; 3]) -> io::Result<()> {
    // SAFETY: the kernel reads three numbers of a live array. A positive answer only asks for a rescan, which empty
    // subvolumes do not need.
    let result = unsafe { libc::ioctl(descriptor, QGROUP_ASSIGN as _, call.as_ptr()) };
    check(result.min(0))
}

/// Empties the subvolumes of a folder, which is open, and takes the group away that holds them; does nothing where there is
/// none. What is begun again after a kill ends as well: `0`, which the group is named after, still lies there as long as the
/// group does.
///
/// # Errors
///
/// As ioctl(2) and [`content`](crate::content).
pub fn ungroup(above: &OwnedFd, folder: &Path) -> io::Result<()> {
    let first = folder.join("0");
    if !is_here(above) || !open(&first).is_ok_and(is_subvolume) {
        return Ok(());
    }
    let group = LEVEL_ONE | number(open(&first)?)?;
    let subvolumes = subvolumes(folder)?;
    subvolumes.iter().try_for_each(|path| crate::content(path))?;
    // Taken out while they share extents with others, as with a copy of the context, they would make all counts of the
    // file system void. That they are empty is counted with the next transaction.
    syncfs(above)?;
    let descriptor = above.as_raw_fd();
    for path in subvolumes {
        absent_is_fine(assign(descriptor, [0, number(open(&path)?)?, group]))?;
    }
    let remove = [0u64, group];
    // SAFETY: the kernel reads two numbers of a live array.
    absent_is_fine(check(unsafe { libc::ioctl(descriptor, QGROUP_CREATE as _, remove.as_ptr()) }))
}

fn subvolumes(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && open(&entry.path()).is_ok_and(is_subvolume) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// There is no such group or member, or nothing is counted any more.
fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTCONN)) => Ok(()),
        result => result,
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, crate::FOLDER, Mode::empty())?)
}

/// Limits the group of a subvolume; nothing is no limit.
///
/// # Errors
///
/// As ioctl(2).
pub fn limit(folder: impl AsFd, first: u64, bytes: Option<u64>) -> io::Result<()> {
    // `struct btrfs_ioctl_qgroup_limit_args`: the group, which limits are meant, and those; all ones take one away.
    let call = [LEVEL_ONE | first, 1, bytes.unwrap_or(u64::MAX), 0, 0, 0];
    // SAFETY: the kernel reads six numbers of a live array.
    check(unsafe { libc::ioctl(folder.as_fd().as_raw_fd(), QGROUP_LIMIT as _, call.as_ptr()) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const _: () = assert!(size_of::<[u64; 512]>() == 4096);
