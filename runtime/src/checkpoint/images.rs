//! The folders that criu writes to and reads from. It follows links in them, and believes what it reads: so they are
//! nobody's but ours or root's to change, and hold plain files.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fchmod, fstat, mkdirat, openat, readlinkat, statat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;
use vctx_context::criu;
use vctx_context::idmap::{self, Mapped, Mappings, Range};
use vctx_context::mountinfo::Mount;

use super::Common;
use crate::{Error, Result, mount};

/// What the standard descriptors of the first process were: a JSON list of texts, as runc and crun write it.
const DESCRIPTORS: &str = "descriptors.json";
/// criu's link to the folder of an earlier dump.
const PARENT: &str = "parent";
/// The socket of criu's daemon that brings memory when it is asked for.
const PAGES: &CStr = c"lazy-pages.socket";
/// The clocks of a context that has no time namespace.
const CLOCKS: &CStr = c"timens-0.img";
/// The bit of a folder in which nobody can remove or rename what is another's.
const STICKY: u32 = 0o1000;
/// Errors of criu that say only that it has failed, or come in runs that succeed as well.
const NOISE: [&str; 4] =
    ["FAILED.", "RLIMIT_NOFILE for self", "Unable to create tun", "cgroupd: recv req error"];
const NO_FILE: &str = "is no plain file: criu would write or read through it";
/// So many earlier dumps may stand behind one another.
const PARENTS: usize = 64;
/// A log of which more than this is not looked at, in bytes.
const LOG_LIMIT: u64 = 16 << 20;

/// The folders of a dump or a restore.
#[derive(Debug)]
pub(super) struct Folders {
    pub(super) images: OwnedFd,
    work: Option<OwnedFd>,
    path: PathBuf,
    log: PathBuf,
}

impl Folders {
    /// Opens the folders, made where they are missing.
    pub(super) fn make(common: &Common, log: &str) -> Result<Folders> {
        make(&common.images)?;
        Folders::open(common, log)
    }

    /// Opens the folders. Only that of the log is made.
    pub(super) fn open(common: &Common, log: &str) -> Result<Folders> {
        if let Some(work) = &common.work {
            make(work)?;
        }
        let images = open(&common.images)?;
        check_entries(images.as_fd(), &common.images, PARENTS)?;
        let work = common.work.as_deref().map(|path| open_work(path, log)).transpose()?;
        let log = common.work.as_ref().unwrap_or(&common.images).join(log);
        Ok(Folders { images, work, path: common.images.clone(), log })
    }

    /// The folder of the log.
    pub(super) fn work(&self) -> BorrowedFd<'_> {
        self.work.as_ref().unwrap_or(&self.images).as_fd()
    }

    /// The folder of an earlier dump is there. criu would say nothing, and dump the whole memory.
    pub(super) fn check_parent(&self, parent: Option<&Path>) -> Result<()> {
        let Some(parent) = parent else { return Ok(()) };
        let path = self.path.join(parent);
        if parent.is_absolute() {
            return Err(Error::Images {
                path,
                reason: "--parent-path is relative to the folder of the images",
            });
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat(&self.images, parent, flags, Mode::empty())
            .map_err(fail("open the folder of --parent-path", &path))?;
        check_owner(&fstat(&folder).map_err(fail("look at", &path))?, &path)?;
        check_entries(folder.as_fd(), &path, PARENTS)
    }

    /// Writes what the standard descriptors of the first process are, so that a restore can give others for them: a pipe,
    /// or a file that lies outside of the context, by criu's names for these. Gives those of files.
    pub(super) fn describe(&self, pid: i32, table: &[Mount]) -> Result<Vec<String>> {
        let names: Vec<String> = (0..3).map(|number| name(pid, number, table)).collect();
        let path = self.path.join(DESCRIPTORS);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.images, DESCRIPTORS, flags, Mode::from_raw_mode(0o600));
        let mut file = File::from(file.map_err(fail("write", &path))?);
        let bytes = serde_json::json!(names).to_string();
        file.write_all(bytes.as_bytes()).map_err(Error::state("write", path))?;
        Ok(names.into_iter().filter(|name| name.starts_with("file[")).collect())
    }

    /// What the standard descriptors were, where another can stand for them: (number, criu's name).
    pub(super) fn standard(&self) -> Result<Vec<(usize, String)>> {
        let path = self.path.join(DESCRIPTORS);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(&self.images, DESCRIPTORS, flags, Mode::empty()) {
            // criu itself writes no such file.
            Err(Errno::NOENT) => return Ok(Vec::new()),
            file => File::from(file.map_err(fail("read", &path))?),
        };
        let mut bytes = Vec::new();
        file.take(64 << 10).read_to_end(&mut bytes).map_err(Error::state("read", &path))?;
        let names: Vec<String> = serde_json::from_slice(&bytes)
            .map_err(|_| Error::Images { path, reason: "is no list of descriptors" })?;
        let names = names.into_iter().take(3).enumerate();
        Ok(names.filter(|(_, name)| name.starts_with("pipe:[") || name.starts_with("file[")).collect())
    }

    /// A file of the images, whole.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.images, name, flags, Mode::empty()).map_err(fail("read", &path))?;
        let mut bytes = Vec::new();
        File::from(file).take(LOG_LIMIT).read_to_end(&mut bytes).map_err(Error::state("read", path))?;
        Ok(bytes)
    }

    /// The names of the files.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let read = || -> std::result::Result<Vec<String>, Errno> {
            let entries = Dir::read_from(&self.images)?;
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        read().map_err(fail("read", &self.path))
    }

    /// The error of criu with the last errors of its log, and where that lies.
    pub(super) fn explain(&self, error: criu::Error) -> Error {
        super::failed(error, self.last_errors(), self.log.clone())
    }

    /// The folder as the ids of a user namespace see it, of which root is then the owner: in the middle of a restore the
    /// images are read by the context's root. Nothing of that is seen by others, as it would be with wider rights.
    ///
    /// The group stays the host's: criu reads the clocks before the new namespace is mapped, at times (4.2), and is only
    /// in that group then.
    pub(super) fn mapped(&self, mappings: &Mappings) -> Result<OwnedFd> {
        self.let_group(c".", 0o010)?;
        self.let_group(CLOCKS, 0o040)?;
        let root = Range { inside: 0, outside: 0, length: 1 };
        let seen = Mappings { users: mappings.users.clone(), groups: vec![root] };
        let namespace = idmap::namespace(&seen, true)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.images.as_raw_fd()));
        let mapped = Mapped {
            path: &path,
            namespace: namespace.as_fd(),
            recursive: false,
            map_below: false,
            propagation: mount::PRIVATE,
        };
        let tree = mapped.tree()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&tree, c".", flags, Mode::empty()).map_err(fail("open", &self.path))
    }

    /// Gives root's group a right to a file of the images, where it has none yet and the file is there.
    fn let_group(&self, name: &CStr, right: u32) -> Result<()> {
        let path = self.path.join(name.to_string_lossy().as_ref());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(&self.images, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            file => file.map_err(fail("open", &path))?,
        };
        let about = fstat(&file).map_err(fail("look at", &path))?;
        if about.st_gid != 0 || about.st_mode & right != 0 {
            return Ok(());
        }
        let mode = Mode::from_raw_mode(about.st_mode & 0o7777 | right);
        fchmod(&file, mode).map_err(fail("let root's group read", &path))
    }

    /// The folder, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn last_errors(&self) -> Vec<String> {
        let Some(name) = self.log.file_name() else { return Vec::new() };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(file) = openat(self.work(), name, flags, Mode::empty()) else { return Vec::new() };
        let mut bytes = Vec::new();
        let _ = File::from(file).take(LOG_LIMIT).read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        // `(00.086) Error (criu/mount.c:753): words`: who reads it wants the words.
        let errors = text.lines().filter_map(|line| line.split_once("Error (")?.1.split_once("): "));
        let mut words: Vec<String> = Vec::new();
        for (_, error) in errors {
            if words.last().is_none_or(|last| last != error) {
                words.push(error.trim().to_owned());
            }
        }
        words.retain(|line| !NOISE.iter().any(|noise| line.contains(noise)));
        let skip = words.len().saturating_sub(3);
        words.split_off(skip)
    }
}

/// What a descriptor of a process is: as its link says, or `file[MOUNT:INODE]` for what lies in none of its mounts.
fn name(pid: i32, number: i32, table: &[Mount]) -> String {
    let path = format!("/proc/{pid}/fd/{number}");
    let outside = || {
        let about = rustix::fs::stat(&path).ok()?;
        let kind = FileType::from_raw_mode(about.st_mode);
        let is_file = matches!(kind, FileType::RegularFile | FileType::CharacterDevice);
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).ok()?;
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse::<u32>().ok()?;
        let known = table.iter().any(|one| one.id == mount);
        (is_file && !known).then(|| format!("file[{mount:x}:{:x}]", about.st_ino))
    };
    let link = || std::fs::read_link(&path).map(|path| path.to_string_lossy().into_owned());
    outside().or_else(|| link().ok()).unwrap_or_default()
}

fn fail<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(Errno) -> Error + 'a {
    move |error| Error::state(action, path)(error.into())
}

fn make(path: &Path) -> Result<()> {
    match mkdirat(CWD, path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(fail("make the folder", path)(error)),
    }
}

/// Opens a folder that is nobody's but ours or root's to write. Its last name is no link.
fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(Error::Images { path: path.into(), reason: "is a link or a file; name the folder" });
        }
        folder => folder.map_err(fail("open the folder", path))?,
    };
    check_owner(&fstat(&folder).map_err(fail("look at", path))?, path)?;
    Ok(folder)
}

fn check_owner(about: &Stat, path: &Path) -> Result<()> {
    let reason = if ![0, geteuid().as_raw()].contains(&about.st_uid) {
        "belongs to another user, who could change what criu believes"
    } else if about.st_mode & 0o022 != 0 {
        "can be written by others, who could change what criu believes; take that right from them (chmod go-w)"
    } else {
        return Ok(());
    };
    Err(Error::Images { path: path.into(), reason })
}

/// Opens the folder of the log, which can be one in which everybody may write but remove only what is his, such as /tmp.
/// Engines keep other things there as well: what criu writes is made anew by us, so that it is nobody else's.
fn open_work(path: &Path, log: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, path, flags, Mode::empty()).map_err(fail("open the folder", path))?;
    let about = fstat(&folder).map_err(fail("look at", path))?;
    if about.st_uid != 0 || about.st_mode & STICKY == 0 {
        check_owner(&about, path)?;
    }
    let figures = if log == super::LOG { "stats-dump" } else { "stats-restore" };
    for name in [log, figures] {
        let own = path.join(name);
        match unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(fail("remove", &own)(error)),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&folder, name, flags, Mode::from_raw_mode(0o600)).map_err(fail("make", &own))?;
    }
    Ok(folder)
}

/// Plain files, and folders that criu does not look into; the link to the parent leads to such a folder again.
fn check_entries(folder: BorrowedFd<'_>, path: &Path, parents: usize) -> Result<()> {
    let entries = Dir::read_from(folder).map_err(fail("read", path))?;
    for entry in entries {
        let entry = entry.map_err(fail("read", path))?;
        let name = entry.file_name();
        let own = path.join(name.to_string_lossy().as_ref());
        let about = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            about => about.map_err(fail("look at", &own))?,
        };
        match FileType::from_raw_mode(about.st_mode) {
            FileType::Directory => {}
            FileType::RegularFile => check_owner(&about, &own)?,
            // Where `criu lazy-pages` waits for a restore, when it runs in this folder.
            FileType::Socket if name == PAGES => check_owner(&about, &own)?,
            FileType::Symlink if name.to_bytes() == PARENT.as_bytes() && parents > 0 => {
                let target = readlinkat(folder, name, Vec::new()).map_err(fail("read", &own))?;
                let target = PathBuf::from(std::ffi::OsString::from(
                    String::from_utf8_lossy(target.to_bytes()).into_owned(),
                ));
                if target.is_absolute() || !target.components().all(is_relative) {
                    return Err(Error::Images { path: own, reason: "leads away from the images" });
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let parent = openat(folder, &target, flags, Mode::empty()).map_err(fail("open", &own))?;
                check_owner(&fstat(&parent).map_err(fail("look at", &own))?, &own)?;
                check_entries(parent.as_fd(), &own, parents - 1)?;
            }
            _ => {
                return Err(Error::Images { path: own, reason: NO_FILE });
            }
        }
    }
    Ok(())
}

fn is_relative(part: Component<'_>) -> bool {
    matches!(part, Component::Normal(_) | Component::ParentDir | Component::CurDir)
}
