//! The mounts of the configuration, each made detached, set up, and then attached at a place that was resolved inside
//! the root.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawDir, Uid, chownat, fchmod, fchown, fstat, fstatfs, mkdirat,
    mknodat, openat, readlinkat_raw, sendfile, statat, symlinkat,
};
use rustix::io::Errno;

use crate::Result;
use crate::failure::at;
use crate::handshake::Step;
use crate::plan::{Mount, Root, Source};
use crate::resolve;
use crate::root::{attach_at, clone_tree, tree};
use crate::sys::{MountAttributes, mount_setattr};

pub(crate) const MOUNT_ATTR_RDONLY: u64 = 1;
const PROC_SUPER_MAGIC: i64 = 0x9fa0;
/// How deep a tree is copied up into a tmpfs.
const COPY_DEPTH: usize = 64;

/// Makes all mounts, in order.
pub(crate) fn make(root: BorrowedFd<'_>, mounts: &[Mount<'_>]) -> Result<()> {
    mounts.iter().enumerate().try_for_each(|(index, mount)| one(root, mount, index))
}

fn one(root: BorrowedFd<'_>, mount: &Mount<'_>, index: usize) -> Result<()> {
    let fail = |step| at(step, index);
    // A tmpfs that is filled first gets its flags later; sysfs and procfs in a user namespace must have them from birth.
    let early = if mount.copy_up || mount.inherit_mode { 0 } else { mount.set };
    let source = tree(&mount.source, early).map_err(fail(Step::MountSource))?;
    let place = place(root, mount, source.as_fd(), index)?;
    if let Source::Bind { procfs: true, .. } = mount.source {
        let kind = fstatfs(&source).map_err(fail(Step::MountSource))?.f_type;
        if kind as i64 != PROC_SUPER_MAGIC {
            return Err(fail(Step::MountNotProc)(Errno::PERM));
        }
    }
    if mount.inherit_mode {
        // A tmpfs without a mode option looks like the folder that it covers, as /run and /tmp are expected to.
        let mode = Mode::from_raw_mode(fstat(&place).map_err(fail(Step::MountTarget))?.st_mode & 0o7777);
        let top = openat(&source, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        top.and_then(|top| fchmod(top, mode)).map_err(fail(Step::MountTarget))?;
    }
    if mount.copy_up {
        copy_folder(place.as_fd(), source.as_fd(), COPY_DEPTH).map_err(fail(Step::MountCopyUp))?;
    }
    set_flags(&source, mount, early).map_err(fail(Step::MountFlags))?;
    attach_at(&source, &place).map_err(fail(Step::MountAttach))?;
    // Only an attached mount has peers.
    for &(propagation, recursive) in mount.propagation {
        let attributes = MountAttributes { propagation, ..Default::default() };
        mount_setattr(&source, c"", recursive, &attributes).map_err(fail(Step::MountFlags))?;
    }
    Ok(())
}

/// Opens the target, which is made when it is missing: a folder or a file, as the source is.
fn place(root: BorrowedFd<'_>, mount: &Mount<'_>, source: BorrowedFd<'_>, index: usize) -> Result<OwnedFd> {
    let fail = |step| at(step, index);
    let new_proc_or_sys = match mount.source {
        Source::FileSystem { kind, .. } => kind == c"proc" || kind == c"sysfs",
        Source::Bind { procfs, .. } => procfs,
        Source::Tree { .. } => false,
    };
    let is_folder = match mount.source {
        Source::FileSystem { .. } => true,
        Source::Bind { .. } | Source::Tree { .. } => {
            let mode = fstat(source).map_err(fail(Step::MountSource))?.st_mode;
            FileType::from_raw_mode(mode) == FileType::Directory
        }
    };
    let result = if new_proc_or_sys {
        // An image in which /proc or /sys is a link leads the masks elsewhere (CVE-2023-27561, CVE-2023-28642).
        match resolve::open_without_links(root, mount.target, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => resolve::ensure_folder(root, mount.target, Mode::from_raw_mode(0o755)),
            result => result,
        }
    } else if is_folder {
        resolve::ensure_folder(root, mount.target, Mode::from_raw_mode(0o755))
    } else {
        resolve::ensure_file(root, mount.target)
    };
    let place = result.map_err(fail(Step::MountTarget))?;
    if !mount.over_proc {
        let kind = fstatfs(&place).map_err(fail(Step::MountTarget))?.f_type;
        if kind as i64 == PROC_SUPER_MAGIC {
            return Err(fail(Step::MountFakeProc)(Errno::PERM));
        }
    }
    Ok(place)
}

fn set_flags(source: &OwnedFd, mount: &Mount<'_>, early: u64) -> core::result::Result<(), Errno> {
    if mount.set_recursive | mount.clear_recursive != 0 {
        let attributes =
            MountAttributes { set: mount.set_recursive, clear: mount.clear_recursive, ..Default::default() };
        mount_setattr(source, c"", true, &attributes)?;
    }
    let born_with = matches!(mount.source, Source::FileSystem { .. }) && early == mount.set;
    if !born_with && mount.set | mount.clear != 0 {
        let attributes = MountAttributes { set: mount.set, clear: mount.clear, ..Default::default() };
        match mount_setattr(source, c"", false, &attributes) {
            // In a user namespace the flags that the host's mount has are locked (mount_namespaces(7)): what is set
            // there cannot be cleared, and stays.
            Err(Errno::PERM) if mount.clear != 0 => {
                let attributes = MountAttributes { set: mount.set, ..Default::default() };
                mount_setattr(source, c"", false, &attributes)?;
            }
            result => result?,
        }
    }
    Ok(())
}

/// Opens a path that is to be hidden or made read-only; none where there is nothing to protect. One in `/proc` begins at
/// the procfs itself: whoever shares the root could put an empty folder in its place for this moment, and a skipped mask
/// would be the result.
fn protected(
    root: BorrowedFd<'_>,
    path: &CStr,
    has_proc: bool,
) -> core::result::Result<Option<OwnedFd>, Errno> {
    let opened = match path.to_bytes().strip_prefix(b"/proc/") {
        Some(_) if has_proc => {
            let proc = resolve::open_without_links(root, c"/proc", OFlags::PATH | OFlags::DIRECTORY)?;
            if fstatfs(&proc)?.f_type as i64 != PROC_SUPER_MAGIC {
                return Err(Errno::XDEV);
            }
            let mut below = resolve::Path::new();
            below.append(&path.to_bytes()[b"/proc/".len()..])?;
            resolve::open(proc, below.as_c_str()?, OFlags::PATH)
        }
        _ => resolve::open(root, path, OFlags::PATH),
    };
    match opened {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        opened => opened.map(Some),
    }
}

fn has_proc(root: &Root<'_>) -> bool {
    root.mounts.iter().any(|mount| mount.target == c"/proc")
}

/// Hides paths: a file under the null device, a folder under an empty read-only tmpfs.
pub(crate) fn mask(tree: BorrowedFd<'_>, root: &Root<'_>) -> Result<()> {
    let has_proc = has_proc(root);
    let mut null: Option<OwnedFd> = None;
    let mut empty: Option<OwnedFd> = None;
    for (index, path) in root.masked.iter().enumerate() {
        let Some(place) = protected(tree, path, has_proc).map_err(at(Step::Mask, index))? else { continue };
        let mode = fstat(&place).map_err(at(Step::Mask, index))?.st_mode;
        let cover = if FileType::from_raw_mode(mode) == FileType::Directory { &mut empty } else { &mut null };
        // One file system serves all masks: each further one would cost the kernel a shrinker (runc#5275).
        let tree = match cover {
            Some(first) => clone_tree(&*first, c"", false).map_err(at(Step::Mask, index))?,
            None if FileType::from_raw_mode(mode) == FileType::Directory => {
                empty_folder().map_err(at(Step::Mask, index))?
            }
            None => null_device()?,
        };
        attach_at(&tree, &place).map_err(at(Step::Mask, index))?;
        cover.get_or_insert(tree);
    }
    Ok(())
}

fn empty_folder() -> core::result::Result<OwnedFd, Errno> {
    let options = [(c"nr_inodes", Some(c"1")), (c"mode", Some(c"555"))];
    tree(&Source::FileSystem { kind: c"tmpfs", source: c"masked", options: &options }, MOUNT_ATTR_RDONLY)
}

/// Makes a bound host node read-only: it can be written to as before, but chmod(2) through it would reach the host's.
pub(crate) fn protect_node(tree: &OwnedFd) -> core::result::Result<(), Errno> {
    let readonly = MountAttributes { set: MOUNT_ATTR_RDONLY, ..Default::default() };
    mount_setattr(tree, c"", false, &readonly)
}

/// The host's null device, opened before the root changes and verified: the image's own could be anything
/// (CVE-2025-31133).
fn null_device() -> Result<OwnedFd> {
    let tree = clone_tree(CWD, c"/dev/null", false).map_err(at(Step::NullDevice, 0))?;
    let stat = fstat(&tree).map_err(at(Step::NullDevice, 0))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != 0x103 {
        return Err(at(Step::NullDevice, 0)(Errno::NODEV));
    }
    protect_node(&tree).map_err(at(Step::NullDevice, 0))?;
    Ok(tree)
}

/// Makes mounts read-only in which links and further mounts had to be made first.
pub(crate) fn seal(root: BorrowedFd<'_>, targets: &[&CStr]) -> Result<()> {
    let readonly = MountAttributes { set: MOUNT_ATTR_RDONLY, ..Default::default() };
    for (index, target) in targets.iter().enumerate() {
        resolve::open(root, target, OFlags::PATH)
            .and_then(|place| mount_setattr(&place, c"", false, &readonly))
            .map_err(at(Step::ReadonlyPath, index))?;
    }
    Ok(())
}

/// Covers each path with a read-only copy of itself.
pub(crate) fn make_readonly(tree: BorrowedFd<'_>, root: &Root<'_>) -> Result<()> {
    let has_proc = has_proc(root);
    for (index, path) in root.readonly_paths.iter().enumerate() {
        let fail = |error| at(Step::ReadonlyPath, index)(error);
        let Some(place) = protected(tree, path, has_proc).map_err(fail)? else { continue };
        let tree = clone_tree(&place, c"", true).map_err(fail)?;
        let readonly = MountAttributes { set: MOUNT_ATTR_RDONLY, ..Default::default() };
        mount_setattr(&tree, c"", true, &readonly).map_err(fail)?;
        attach_at(&tree, &place).map_err(fail)?;
    }
    Ok(())
}

/// Copies the content of a folder of the root into a new tmpfs, which no guest sees yet.
fn copy_folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> core::result::Result<(), Errno> {
    if depth == 0 {
        return Err(Errno::LOOP);
    }
    let read = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let (from, to) = (openat(from, c".", read, Mode::empty())?, openat(to, c".", read, Mode::empty())?);
    let own = fstat(&from)?;
    fchown(&to, Some(Uid::from_raw(own.st_uid)), Some(Gid::from_raw(own.st_gid)))?;
    fchmod(&to, Mode::from_raw_mode(own.st_mode & 0o7777))?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&from, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from.as_fd(), to.as_fd(), name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    depth: usize,
) -> core::result::Result<(), Errno> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mkdirat(to, name, mode)?;
            let read = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let (from, to) =
                (openat(from, name, read, Mode::empty())?, openat(to, name, read, Mode::empty())?);
            copy_folder(from.as_fd(), to.as_fd(), depth - 1)
        }
        FileType::RegularFile => {
            // What has taken the file's place since it was looked at must not make us wait.
            let read =
                OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
            let input = openat(from, name, read, Mode::empty())?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let output = openat(to, name, flags, Mode::from_raw_mode(0o600))?;
            while sendfile(&output, &input, None, 1 << 30)? > 0 {}
            fchown(&output, Some(user), Some(group))?;
            fchmod(&output, mode)
        }
        FileType::Symlink => {
            let mut space = [MaybeUninit::<u8>::uninit(); 4096];
            let (target, rest) = readlinkat_raw(from, name, &mut space)?;
            if rest.is_empty() {
                return Err(Errno::NAMETOOLONG);
            }
            let mut text = resolve::Path::new();
            text.append(target)?;
            symlinkat(text.as_c_str()?, to, name)?;
            chownat(to, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
        }
        kind => {
            mknodat(to, name, kind, mode, stat.st_rdev)?;
            chownat(to, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
        }
    }
}
