//! The mounts of the configuration, each made detached, set up, and then attached at a place that was resolved inside
//! the root.

use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::ops::Range;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawDir, Uid, chownat, fchmod, fchown, fstat, fstatfs, mkdirat,
    mknodat, openat, readlinkat_raw, sendfile, statat, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

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

/// Makes these of the mounts, in order.
pub(crate) fn make(root: BorrowedFd<'_>, mounts: &[Mount<'_>], these: Range<usize>) -> Result<()> {
    these.into_iter().try_for_each(|index| one(root, &mounts[index], index))
}

fn one(root: BorrowedFd<'_>, mount: &Mount<'_>, index: usize) -> Result<()> {
    let fail = |step| at(step, index);
    // A tmpfs that is filled first gets its flags later; sysfs and procfs in a user namespace must have them from birth.
    let folders = matches!(mount.source, Source::Folders { .. });
    let early = if mount.copy_up || mount.inherit_mode || folders { 0 } else { mount.set };
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
    if let Source::Folders { folders, links } = mount.source {
        // Mounts are made below a mount that is attached; a detached one takes none before Linux 6.15.
        attach_at(&source, &place).map_err(fail(Step::MountAttach))?;
        bind_folders(source.as_fd(), folders, links).map_err(fail(Step::MountAttach))?;
        return set_flags(&source, mount, early).map_err(fail(Step::MountFlags));
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
        Source::Tree { .. } | Source::Folders { .. } => false,
    };
    let is_folder = match mount.source {
        Source::FileSystem { .. } | Source::Folders { .. } => true,
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

/// Binds host folders in a new tmpfs. Nobody else has seen it yet, so its names are what was made here.
fn bind_folders(
    top: BorrowedFd<'_>,
    folders: &[(&CStr, &CStr)],
    links: &[(&CStr, &CStr)],
) -> core::result::Result<(), Errno> {
    for (name, path) in folders {
        let tree = clone_tree(CWD, path, false)?;
        mkdirat(top, *name, Mode::from_raw_mode(0o755))?;
        move_mount(&tree, c"", top, *name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    }
    links.iter().try_for_each(|(target, name)| symlinkat(*target, top, *name))
}

fn set_flags(source: &OwnedFd, mount: &Mount<'_>, early: u64) -> core::result::Result<(), Errno> {
    let (mut set, mut clear) = (mount.set_recursive, mount.clear_recursive);
    if let Source::Folders { .. } = mount.source {
        // What holds for the tmpfs holds for the folders in it.
        (set, clear) = (set | mount.set, clear | mount.clear);
    }
    if set | clear != 0 {
        mount_setattr(source, c"", true, &MountAttributes { set, clear, ..Default::default() })?;
    }
    let born_with = match mount.source {
        Source::FileSystem { .. } => early == mount.set,
        Source::Folders { .. } => true,
        Source::Bind { .. } | Source::Tree { .. } => false,
    };
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

/// Where paths that are to be hidden or made read-only are opened.
struct Protected<'a> {
    root: BorrowedFd<'a>,
    /// The plan mounts a procfs.
    has_proc: bool,
    /// That procfs, when it was needed.
    proc: Option<OwnedFd>,
}

impl<'a> Protected<'a> {
    fn new(tree: BorrowedFd<'a>, root: &Root<'_>) -> Self {
        let has_proc = root.mounts.iter().any(|mount| mount.target == c"/proc");
        Protected { root: tree, has_proc, proc: None }
    }

    /// Opens a path; none where there is nothing to protect. One in `/proc` begins at the procfs itself: whoever shares the
    /// root could put an empty folder in its place for this moment, and a skipped mask would be the result.
    fn open(&mut self, path: &CStr) -> core::result::Result<Option<OwnedFd>, Errno> {
        let opened = match path.to_bytes_with_nul().strip_prefix(b"/proc/") {
            Some(below) if self.has_proc => {
                let below = CStr::from_bytes_with_nul(below).map_err(|_| Errno::INVAL)?;
                resolve::open(self.proc()?, below, OFlags::PATH)
            }
            _ => resolve::open(self.root, path, OFlags::PATH),
        };
        match opened {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// The procfs, resolved and verified once: what is put in its place later is not what is looked at.
    fn proc(&mut self) -> core::result::Result<BorrowedFd<'_>, Errno> {
        if self.proc.is_none() {
            let proc = resolve::open_without_links(self.root, c"/proc", OFlags::PATH | OFlags::DIRECTORY)?;
            if fstatfs(&proc)?.f_type as i64 != PROC_SUPER_MAGIC {
                return Err(Errno::XDEV);
            }
            self.proc = Some(proc);
        }
        self.proc.as_ref().map(AsFd::as_fd).ok_or(Errno::BADF)
    }
}

/// Hides paths: a file under the null device, a folder under an empty read-only tmpfs.
pub(crate) fn mask(tree: BorrowedFd<'_>, root: &Root<'_>) -> Result<()> {
    let mut protected = Protected::new(tree, root);
    let mut null: Option<OwnedFd> = None;
    let mut empty: Option<OwnedFd> = None;
    for (index, path) in root.masked.iter().enumerate() {
        let Some(place) = protected.open(path).map_err(at(Step::Mask, index))? else { continue };
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

/// Covers each path with a read-only copy of itself.
pub(crate) fn make_readonly(tree: BorrowedFd<'_>, root: &Root<'_>) -> Result<()> {
    let mut protected = Protected::new(tree, root);
    for (index, path) in root.readonly_paths.iter().enumerate() {
        let fail = |error| at(Step::ReadonlyPath, index)(error);
        let Some(place) = protected.open(path).map_err(fail)? else { continue };
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
