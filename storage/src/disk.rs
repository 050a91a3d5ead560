//! A disk of a context's own, where the store's file system limits no folders: an ext4 in a file behind a loop device.
//!
//! ```text
//! contexts/ID        the root of the mounted file system, with all that the folder held before
//! contexts/ID/disk   the file, which the mount covers
//! ```
//!
//! So every path stays what it is. The file goes with the folder, the loop device with the last mount of it. The disk is a
//! little larger than the limit, and what is more is reserved for a user that nobody is: a limit is changed by reserving
//! more or less of it, and the disk grows where that is not enough (ext4(5), tune2fs(8)).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{CWD, StatFs, fstatfs};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::kernel;
use crate::program::which;
use crate::quota::{Error, Limits, Quota};

const FILE: &str = "disk";
const MAKE: &str = "mkfs.ext4";
const TUNE: &str = "tune2fs";
const CONTROL: &str = "/dev/loop-control";
const BLOCK: u64 = 4096;
/// Of a file for each block there is room.
const INODE: u64 = 256;
/// The smallest disk, in bytes.
const LEAST: u64 = 1 << 20;
/// Those that ext4 keeps for itself (ext4.h, EXT4_GOOD_OLD_FIRST_INO), and lost+found, which goes.
const OWN_INODES: u64 = 10;
/// Has what is beyond the limit. The highest number that a user can have; in the namespaces of guests it is not mapped.
const NOBODY: u32 = u32::MAX - 1;
/// Device numbers are given out by others too.
const ATTEMPTS: usize = 64;

/// What is missing for such disks, if something is.
pub(crate) fn missing() -> Option<String> {
    let program = |name: &str| format!("{name} is missing (package e2fsprogs)");
    if !Path::new(CONTROL).exists() {
        return Some(format!("{CONTROL} is missing (a kernel with loop devices)"));
    }
    [MAKE, TUNE].into_iter().find(|name| which(name).is_none()).map(program)
}

/// Such a disk can be made.
pub(crate) fn check(limits: Limits) -> Result<(), Error> {
    match limits.bytes {
        Some(1..LEAST) => Err(Error::TooSmall { least: LEAST }),
        _ => Ok(()),
    }
}

/// Gives the folder of a new context, in which nothing is but what it begins with, a disk of its own.
///
/// # Errors
///
/// There is no room or no loop device, or a tool says no. What has been made lies in the folder.
pub(crate) fn give(context: &Path, folder: &OwnedFd, limits: Limits) -> Result<(), Error> {
    let bytes = limits.bytes.unwrap_or_default();
    let path = context.join(FILE);
    let fail = |action| {
        let path = path.clone();
        move |source| Error::File { action, path, source }
    };
    let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
    let file = options.map_err(fail("make"))?;
    file.set_len(size(bytes, limits.inodes)).map_err(fail("make"))?;
    make(&path, bytes, limits.inodes)?;
    let (device, name) = attach(&file).map_err(fail("make a loop device of"))?;
    let tree = mount(&name).map_err(fail("mount"))?;
    // From here on the mount holds the device.
    drop(device);
    let root = PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd()));
    fs::remove_dir(root.join("lost+found")).map_err(fail("prepare"))?;
    transfer(context, &root).map_err(fail("prepare"))?;
    limit(&tree, &name, &path, bytes)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", folder, "", flags).map_err(|error| fail("mount")(error.into()))
}

/// The folder is the root of a mounted disk of ours.
pub(crate) fn is_here(folder: impl AsFd) -> bool {
    vctx_remove::is_mounted(folder)
}

/// What the disk offers and holds.
pub(crate) fn look(folder: impl AsFd) -> io::Result<Quota> {
    let about = fstatfs(folder)?;
    let used = (about.f_blocks - about.f_bfree) * block(&about);
    Ok(Quota {
        bytes: used + about.f_bavail * block(&about),
        bytes_used: used,
        inodes: about.f_files,
        inodes_used: about.f_files - about.f_ffree,
    })
}

/// Changes how much of the disk is offered. It is not less than what is in use.
///
/// # Errors
///
/// There is no room for a larger disk, or a tool says no.
pub(crate) fn change(context: &Path, folder: &OwnedFd, bytes: u64) -> Result<(), Error> {
    let path = context.join(FILE);
    let fail = |action| {
        let path = path.clone();
        move |source| Error::File { action, path, source }
    };
    let about = fstatfs(folder).map_err(|error| fail("look at")(error.into()))?;
    let name = device(folder).map_err(fail("find the loop device of"))?;
    if bytes > about.f_blocks * block(&about) {
        grow(context, folder, &name, bytes).map_err(fail("enlarge"))?;
    }
    limit(folder, &name, &path, bytes)
}

fn block(about: &StatFs) -> u64 {
    u64::try_from(about.f_bsize).unwrap_or(BLOCK)
}

/// How long a file has to be that offers so many bytes, and some more.
fn size(bytes: u64, inodes: Option<u64>) -> u64 {
    // The tables of files, what each group of blocks has of its own, and the journal.
    let tables = inodes.map_or(bytes.div_ceil(BLOCK), |inodes| inodes + OWN_INODES) * INODE;
    let whole = bytes
        + tables
        + tables / 16
        + bytes / 48
        + (bytes / 48).min(16 << 20)
        + (1 << 19)
        + (journal(bytes).unwrap_or(0) << 20);
    whole.next_multiple_of(BLOCK)
}

/// How large the journal is, in MiB; the smallest disks have none, for it would be most of them.
fn journal(bytes: u64) -> Option<u64> {
    match bytes >> 20 {
        0..8 => None,
        8..256 => Some(4),
        256..4096 => Some(16),
        _ => Some(64),
    }
}

/// How many files the file system is made for: each of its groups of 128 MiB has room for a multiple of 16.
fn files(bytes: u64, inodes: u64) -> u64 {
    let step = size(bytes, Some(inodes)).div_ceil(8 * BLOCK * BLOCK) * (BLOCK / INODE);
    ((inodes + OWN_INODES) / step * step).max(step)
}

fn make(path: &Path, bytes: u64, inodes: Option<u64>) -> Result<(), Error> {
    let count = match inodes {
        Some(inodes) => ["-N".to_owned(), files(bytes, inodes).to_string()],
        None => ["-i".to_owned(), BLOCK.to_string()],
    };
    let journal = match journal(bytes) {
        Some(size) => ["-J".to_owned(), format!("size={size}")],
        None => ["-O".to_owned(), "^has_journal".to_owned()],
    };
    // Nothing is written that the kernel takes for zeroes anyway: the file is new.
    let extended = "nodiscard,lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0";
    let block = BLOCK.to_string();
    let inode = INODE.to_string();
    let mut words = vec!["-q", "-F", "-m", "0", "-b", &block, "-I", &inode, "-E", extended];
    words.extend(journal.iter().chain(&count).map(String::as_str));
    run(MAKE, &words, path)
}

/// Offers so many bytes of the disk, and reserves the rest.
fn limit(tree: &OwnedFd, name: &Path, path: &Path, bytes: u64) -> Result<(), Error> {
    let look =
        |error: rustix::io::Errno| Error::File { action: "look at", path: path.into(), source: error.into() };
    let about = fstatfs(tree).map_err(look)?;
    // The kernel keeps some blocks for itself, which nobody is offered either.
    let kept = Path::new("/sys/fs/ext4").join(name.file_name().unwrap_or_default()).join("reserved_clusters");
    let kept = fs::read_to_string(kept).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let offered = bytes.div_ceil(block(&about)) + kept;
    let Some(reserved) = about.f_blocks.checked_sub(offered) else {
        let source = io::Error::other("the disk came out smaller than the limit");
        return Err(Error::File { action: "limit", path: path.into(), source });
    };
    let most = about.f_blocks / 2;
    if reserved > most {
        return Err(Error::TooSmall { least: (about.f_blocks - most) * block(&about) });
    }
    run(TUNE, &["-r", &reserved.to_string()], name)
}

fn run(program: &'static str, words: &[&str], path: &Path) -> Result<(), Error> {
    let fail = |reason: String| Error::Program { program, reason };
    let found = which(program).ok_or_else(|| fail("it is missing (package e2fsprogs)".into()))?;
    let output = Command::new(found)
        .args(words)
        .arg(path)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| fail(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(fail(format!("{}: {last}", output.status)))
}

/// A loop device of the file, which goes with its last user, and its path.
fn attach(file: &File) -> io::Result<(File, PathBuf)> {
    let control = OpenOptions::new().read(true).write(true).open(CONTROL)?;
    for _ in 0..ATTEMPTS {
        let path = PathBuf::from(format!("/dev/loop{}", kernel::free_loop(&control)?));
        let device = OpenOptions::new().read(true).write(true).open(&path)?;
        match kernel::configure_loop(&device, file, BLOCK as u32) {
            // Somebody else was faster.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            result => return result.map(|()| (device, path)),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

fn mount(device: &Path) -> io::Result<OwnedFd> {
    let context = fsopen("ext4", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", device)?;
    fsconfig_set_string(&context, "resuid", NOBODY.to_string())?;
    // What is removed is given back to the store.
    fsconfig_set_flag(&context, "discard")?;
    // Tables of files that nobody has used yet stay holes.
    fsconfig_set_flag(&context, "noinit_itable")?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// Makes the folders and the empty files of a new context's folder once more.
fn transfer(from: &Path, to: &Path) -> io::Result<()> {
    let about = fs::metadata(from)?;
    std::os::unix::fs::chown(to, Some(about.uid()), Some(about.gid()))?;
    fs::set_permissions(to, Permissions::from_mode(about.mode() & 0o7777))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(&place)?;
            transfer(&entry.path(), &place)?;
        } else if entry.metadata()?.len() == 0 {
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place)?;
        }
    }
    Ok(())
}

/// The loop device whose file system holds a folder.
fn device(folder: &OwnedFd) -> io::Result<PathBuf> {
    let device = rustix::fs::fstat(folder)?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let link = fs::read_link(format!("/sys/dev/block/{major}:{minor}"))?;
    Ok(Path::new("/dev").join(link.file_name().unwrap_or_default()))
}

/// Lets the disk, which is in use, offer at least so many bytes.
fn grow(context: &Path, folder: &OwnedFd, device: &Path, bytes: u64) -> io::Result<()> {
    // A copy of the mount below has nothing mounted in it, and so the file is in reach.
    let above = context.parent().unwrap_or(Path::new("/"));
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let below = open_tree(CWD, above, flags)?;
    let name = Path::new(context.file_name().unwrap_or_default()).join(FILE);
    let path = PathBuf::from(format!("/proc/self/fd/{}", below.as_raw_fd())).join(name);
    let file = OpenOptions::new().write(true).open(path)?;
    let length = size(bytes, None).max(file.metadata()?.len());
    file.set_len(length)?;
    kernel::measure_loop(OpenOptions::new().read(true).write(true).open(device)?)?;
    match kernel::resize_ext4(folder, length / BLOCK) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(io::Error::other(
            "the kernel lets only who has CAP_SYS_RESOURCE enlarge a mounted ext4, and this process does not have it",
        )),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_of_files_is_never_exceeded_where_it_can_be_kept() {
        for (bytes, inodes) in [(8 << 20, 200), (100 << 20, 1_000), (10 << 30, 100_000)] {
            let made = files(bytes, inodes);
            let groups = size(bytes, Some(inodes)).div_ceil(128 << 20);
            assert_eq!(made % (16 * groups), 0);
            assert!(made <= inodes + OWN_INODES && made + 16 * groups > inodes + OWN_INODES, "{made}");
        }
        // Each group has some.
        assert_eq!(files(1 << 30, 1), 16 * size(1 << 30, Some(1)).div_ceil(128 << 20));
    }

    #[test]
    fn the_least_that_can_be_is_asked_for() {
        let check = |bytes| check(Limits { bytes, inodes: None });
        assert!(check(Some(LEAST)).is_ok() && check(Some(0)).is_ok() && check(None).is_ok());
        assert!(matches!(check(Some(LEAST - 1)), Err(Error::TooSmall { least: LEAST })));
    }
}
