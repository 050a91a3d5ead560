//! Limits on what the changes of a context take on disk: by project quotas (ext4 and xfs, mounted with `prjquota`), by
//! groups of subvolumes (btrfs), of which only the room is limited, or by a disk of the context's own (`disk`).
//!
//! On btrfs each folder of changes is a subvolume, and the group of the first one has them all and the limit; that they
//! are counted is switched on for the whole file system when the first limit is asked for. Elsewhere the folders of a
//! context's changes are one project, whose number follows from the inode number of the context's folder: no two folders
//! of a file system have the same one, and nothing has to be given back. Overlayfs writes with the rights of who has
//! mounted it, but for CAP_SYS_RESOURCE, so that limits hold for the guest's root too.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};

use vctx_remove::btrfs;

use crate::{disk, kernel};

/// Spreads projects away from the small numbers that administrators take.
const SPREAD: u32 = 0x5643_0000;

/// Limits; nothing is none, and what is left as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on disk; 0 takes a limit away.
    pub bytes: Option<u64>,
    /// Files, folders and links; 0 takes a limit away.
    pub inodes: Option<u64>,
}

/// What a context may use, and uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes that it may use; 0 is no limit.
    pub bytes: u64,
    /// Bytes that it uses.
    pub bytes_used: u64,
    /// Files that it may have; 0 is no limit.
    pub inodes: u64,
    /// Files that it has.
    pub inodes_used: u64,
}

/// Why there is no limit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store cannot.
    #[error(
        "{} is on {kind}, which limits no folders, and a disk of the context's own cannot be had: {missing}; that, or a store (--root) on btrfs, or on ext4 (tune2fs -O quota,project) or xfs mounted with the option prjquota", path.display()
    )]
    Unfit {
        /// The store.
        path: PathBuf,
        /// Its file system.
        kind: &'static str,
        /// What is needed for such a disk.
        missing: String,
    },
    /// A disk has a size.
    #[error(
        "{} is on {kind}, which limits no folders: the context gets a disk of its own there, whose size is needed; give --disk-size with --disk-inodes", path.display()
    )]
    NoSize {
        /// The store.
        path: PathBuf,
        /// Its file system.
        kind: &'static str,
    },
    /// The same, later.
    #[error(
        "the context has a disk of its own, whose number of files was set when it was made, and which always has a size; leave --disk-inodes away, and give --disk-size in bytes"
    )]
    OfDisk,
    /// The rest would be more than may be reserved.
    #[error("a disk of the context's own cannot be so small; the least is {least} bytes")]
    TooSmall {
        /// In bytes.
        least: u64,
    },
    /// A tool of the machine's.
    #[error("cannot make a disk of the context's own: {program}: {reason}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it says.
        reason: String,
    },
    /// btrfs counts no files.
    #[error("{} is on btrfs, which limits room and no numbers of files; leave --disk-inodes away", .0.display())]
    NoInodes(PathBuf),
    /// Something is in the way.
    #[error("cannot {action} {}", path.display())]
    File {
        /// The verb of the sentence.
        action: &'static str,
        /// The folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// There is no room left below the new limit.
    #[error("the context uses {used} {what} already; a limit of {limit} would leave it none")]
    InUse {
        /// `bytes` or `files`.
        what: &'static str,
        /// How many.
        used: u64,
        /// What was asked for.
        limit: u64,
    },
    /// The context has no project.
    #[error(
        "the context was made without a limit on disk, and gets none while it lives; make it with --disk-size or --disk-inodes"
    )]
    Unlimited,
}

fn fail(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { action, path, source }
}

/// The store, or the nearest folder above it that exists, lies where folders can be limited.
///
/// # Errors
///
/// It does not, and the error says what would.
pub fn check(store: &Path, limits: Limits) -> Result<(), Error> {
    let folder = store.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let opened = open(folder)?;
    match (btrfs::is_here(&opened), limits.inodes) {
        (true, Some(_)) => Err(Error::NoInodes(store.into())),
        (true, None) => Ok(()),
        (false, _) if kernel::enforces_projects(opened) => Ok(()),
        (false, _) => match disk::missing() {
            Some(missing) => Err(Error::Unfit { path: store.into(), kind: kind(folder), missing }),
            None if limits.bytes.unwrap_or_default() == 0 && limits.inodes.unwrap_or_default() > 0 => {
                Err(Error::NoSize { path: store.into(), kind: kind(folder) })
            }
            None => disk::check(limits),
        },
    }
}

/// Limits the folders of a new context, all together. They are listed parents first, and nothing is in them yet.
///
/// # Errors
///
/// The kernel refuses.
pub fn limit(context: &Path, folders: &[PathBuf], limits: Limits) -> Result<(), Error> {
    let folder = open(context)?;
    if btrfs::is_here(&folder) {
        return group(context, &folder, folders, limits).map_err(fail("limit", context));
    }
    if !kernel::enforces_projects(&folder) {
        let is_limited = limits.bytes.unwrap_or_default() > 0;
        return if is_limited { disk::give(context, &folder, limits) } else { Ok(()) };
    }
    let project = project(&folder).map_err(fail("look at", context))?;
    kernel::set_quota(&folder, project, limits.bytes, limits.inodes).map_err(fail("limit", context))?;
    for path in folders {
        kernel::set_project(open(path)?, project).map_err(fail("limit", path))?;
    }
    Ok(())
}

/// Makes the folders anew as subvolumes, and a group of them.
fn group(context: &Path, folder: &OwnedFd, folders: &[PathBuf], limits: Limits) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    btrfs::count(folder)?;
    let modes: Vec<u32> = folders
        .iter()
        .map(|path| Ok(std::fs::metadata(path)?.permissions().mode() & 0o7777))
        .collect::<io::Result<_>>()?;
    folders.iter().rev().try_for_each(std::fs::remove_dir)?;
    let mut subvolumes = Vec::new();
    for (path, mode) in folders.iter().zip(modes) {
        if path.parent() == Some(context) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            btrfs::create(folder, name)?;
            subvolumes.push(btrfs::number(open(path).map_err(io::Error::other)?)?);
        } else {
            std::fs::DirBuilder::new().mode(0o700).create(path)?;
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    btrfs::group(folder, &subvolumes, limits.bytes.filter(|&bytes| bytes > 0))
}

/// The number of the first subvolume of a context on btrfs that has a limit, or could.
fn first_subvolume(context: &Path, folder: &OwnedFd) -> Option<u64> {
    let first = open(&context.join("0")).ok().filter(|_| btrfs::is_here(folder))?;
    let is_subvolume = btrfs::is_subvolume(&first);
    btrfs::number(first).ok().filter(|_| is_subvolume)
}

/// Changes the limits of a context that has some.
///
/// # Errors
///
/// It has none, or uses more already.
pub fn change(context: &Path, limits: Limits) -> Result<(), Error> {
    let folder = open(context)?;
    if let Some(first) = first_subvolume(context, &folder) {
        if limits.inodes.is_some() {
            return Err(Error::NoInodes(context.into()));
        }
        let bytes = limits.bytes.filter(|&bytes| bytes > 0);
        return btrfs::limit(&folder, first, bytes).map_err(fail("limit", context));
    }
    let has_disk = disk::is_here(&folder);
    if has_disk && (limits.inodes.is_some() || limits.bytes == Some(0)) {
        return Err(Error::OfDisk);
    }
    let now = look(context)?.ok_or(Error::Unlimited)?;
    for (what, used, limit) in
        [("bytes", now.bytes_used, limits.bytes), ("files", now.inodes_used, limits.inodes)]
    {
        if let Some(limit) = limit.filter(|&limit| limit != 0 && limit < used) {
            return Err(Error::InUse { what, used, limit });
        }
    }
    if has_disk {
        return disk::change(context, &folder, limits.bytes.unwrap_or(now.bytes));
    }
    let project = project(&folder).map_err(fail("look at", context))?;
    kernel::set_quota(&folder, project, limits.bytes, limits.inodes).map_err(fail("limit", context))
}

/// The limits of a context and what it uses; none where it has no project.
///
/// # Errors
///
/// It cannot be looked at.
pub fn look(context: &Path) -> Result<Option<Quota>, Error> {
    let folder = open(context)?;
    if disk::is_here(&folder) {
        return disk::look(&folder).map(Some).map_err(fail("look at", context));
    }
    let wanted = project(&folder).map_err(fail("look at", context))?;
    // Its first overlay is there in every context that has changes.
    let Ok(first) = open(&context.join("0")) else { return Ok(None) };
    if kernel::project(first).ok() != Some(wanted) || !kernel::enforces_projects(&folder) {
        return Ok(None);
    }
    let quota = kernel::quota(&folder, wanted).map_err(fail("look at", context))?;
    Ok(Some(Quota {
        bytes: quota.blocks * 1024,
        bytes_used: quota.space_used,
        inodes: quota.inodes,
        inodes_used: quota.inodes_used,
    }))
}

fn project(folder: &OwnedFd) -> io::Result<u32> {
    // Truncated on the largest xfs alone.
    Ok(fstat(folder)?.st_ino as u32 ^ SPREAD)
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|error| fail("open", path)(error.into()))
}

fn kind(folder: &Path) -> &'static str {
    let Ok(FsType(magic)) = statfs(folder).map(|about| about.filesystem_type()) else {
        return "a file system";
    };
    match magic & 0xffff_ffff {
        0xef53 => "ext4 without prjquota",
        0x5846_5342 => "xfs without prjquota",
        0x0102_1994 => "tmpfs",
        _ => "a file system",
    }
}
