//! Where a copy goes. It is made in a folder of its own beside its target, and moved from there when it is complete: a
//! copy that fails has changed nothing, and what a killed one leaves is locked by nobody, so that the next one into the
//! same folder removes it.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, mkdirat, openat,
    readlinkat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use crate::inside::{self, FOLDER, LastLink};

use super::source::folder_at;
use super::{DEPTH, Error, Rules, Source, Tree, Writer, shown, walk};

const STAGE: &[u8] = b".vctx-cp-";
/// Links at the end of a target that are followed.
const LINKS: usize = 40;

/// Where a copy goes.
pub enum Target<'a> {
    /// A path below a root.
    Path(&'a OwnedFd, &'a Path),
    /// An archive.
    Archive(&'a mut dyn Write),
}

/// A source in a root, as it was named. `content` means what lies in the folder, and not the folder.
///
/// # Errors
///
/// It is not there.
pub fn find<'a>(root: &OwnedFd, path: &Path, last: LastLink) -> Result<Source<'a>, Error> {
    let bytes = path.as_os_str().as_bytes();
    let name = path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
    let content = bytes.ends_with(b"/.") || bytes == b"." || name.is_empty();
    let last = if bytes.ends_with(b"/") || content { LastLink::Followed } else { last };
    let found = inside::find(root, path, last).map_err(|error| match error {
        Errno::NOTDIR => Error::NoFolder { path: shown(bytes) },
        error => Error::read(bytes)(error),
    })?;
    if (content || bytes.ends_with(b"/")) && kind(&found) != Some(FileType::Directory) {
        return Err(Error::NoFolder { path: shown(bytes) });
    }
    Ok(Source::Tree(found, if content { Vec::new() } else { name }))
}

/// Copies a source to a target.
///
/// # Errors
///
/// Something cannot be read or written, or does not fit; nothing of the copy is left then.
pub fn copy(source: Source<'_>, target: Target<'_>, rules: &Rules) -> Result<(), Error> {
    let (root, path) = match target {
        Target::Path(root, path) => (root, path),
        Target::Archive(output) => {
            if matches!(source, Source::Archive(_)) {
                return Err(Error::NoTree);
            }
            let mut writer = Writer::new(output);
            walk(source, rules, &mut writer)?;
            let fail = |source| Error::Write { path: "the archive".into(), source };
            return writer.finish().map_err(fail);
        }
    };
    let place = Place::of(root, path, &source)?;
    remove_abandoned(&place.folder);
    let stage = Stage::new(&place.folder, path)?;
    let source = match (source, &place.name) {
        // The content of a folder goes to a new one.
        (Source::Tree(found, _), Some(name)) => Source::Tree(found, name.clone()),
        (source, _) => source,
    };
    walk(source, rules, &mut Tree::new(stage.open()?, rules))?;
    let staged = stage.open()?;
    check(&staged, &place.folder, path, 0)?;
    settle(&staged, &place.folder, path, rules, 0)
}

/// A folder, and the name in it that the copy gets; none when its entries keep their own.
struct Place {
    folder: OwnedFd,
    name: Option<Vec<u8>>,
}

impl Place {
    fn of(root: &OwnedFd, path: &Path, source: &Source<'_>) -> Result<Place, Error> {
        let bytes = path.as_os_str().as_bytes();
        let write = |error: Errno| Error::write(bytes)(error);
        let (is_folder, is_tree) = match source {
            Source::Tree(found, _) => (kind(found) == Some(FileType::Directory), true),
            Source::Archive(_) => (true, false),
        };
        match folder_at(root, path) {
            Ok(folder) => return Ok(Place { folder, name: None }),
            Err(Errno::NOENT) if is_tree => {}
            Err(Errno::NOTDIR) => {
                if is_folder || bytes.ends_with(b"/") {
                    return Err(Error::NoFolder { path: shown(bytes) });
                }
            }
            Err(error) => return Err(write(error)),
        }
        if bytes.ends_with(b"/") && !is_folder {
            return Err(write(Errno::NOENT));
        }
        // The last name may be a link, of which the end is meant.
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let name = path.file_name().ok_or(Errno::INVAL).map_err(write)?.to_owned();
            let above = path.parent().unwrap_or(Path::new("/")).to_owned();
            let folder = folder_at(root, &above).map_err(write)?;
            match readlinkat(&folder, &name, Vec::new()) {
                Ok(target) => path = above.join(OsString::from_vec(target.into_bytes())),
                Err(Errno::INVAL | Errno::NOENT) => return Ok(Place { folder, name: Some(name.into_vec()) }),
                Err(error) => return Err(write(error)),
            }
        }
        Err(write(Errno::LOOP))
    }
}

/// The folder in which a copy is made, locked until it is dropped, and removed then.
struct Stage<'a> {
    above: &'a OwnedFd,
    name: Vec<u8>,
    folder: OwnedFd,
}

impl Stage<'_> {
    fn new<'a>(above: &'a OwnedFd, path: &Path) -> Result<Stage<'a>, Error> {
        let fail = |error: Errno| Error::write(path.as_os_str().as_bytes())(error);
        for number in 0.. {
            let name = [STAGE, format!("{}-{number}", std::process::id()).as_bytes()].concat();
            match mkdirat(above, &*name, Mode::RWXU) {
                Err(Errno::EXIST) if number < 1000 => {}
                Err(error) => return Err(fail(error)),
                Ok(()) => {
                    let folder = openat(above, &*name, FOLDER, Mode::empty()).map_err(fail)?;
                    flock(&folder, FlockOperation::NonBlockingLockExclusive).map_err(fail)?;
                    return Ok(Stage { above, name, folder });
                }
            }
        }
        Err(fail(Errno::EXIST))
    }

    fn open(&self) -> Result<OwnedFd, Error> {
        openat(&self.folder, c".", FOLDER, Mode::empty()).map_err(Error::write(&self.name))
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // What cannot be removed is locked by nobody any more, and goes with the next copy.
        let _ = remove_tree(self.above, OsStr::from_bytes(&self.name));
    }
}

/// Removes what killed copies have left in a folder.
fn remove_abandoned(folder: &OwnedFd) {
    let Ok(entries) = Dir::read_from(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_bytes().starts_with(STAGE)) {
        let Ok(stage) = openat(folder, entry.file_name(), FOLDER, Mode::empty()) else { continue };
        if flock(&stage, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = remove_tree(folder, OsStr::from_bytes(entry.file_name().to_bytes()));
        }
    }
}

/// Removes a name from a folder, with all that lies below it.
///
/// # Errors
///
/// As unlinkat(2). An absent name is none.
pub fn remove_tree(above: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    fn remove(above: impl AsFd, name: &OsStr, depth: usize) -> Result<(), Errno> {
        match unlinkat(&above, name, AtFlags::empty()) {
            Err(Errno::ISDIR) if depth < 2 * DEPTH => {}
            Err(Errno::NOENT) => return Ok(()),
            result => return result,
        }
        let mut entries = Dir::new(openat(&above, name, FOLDER, Mode::empty())?)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let inner = entry.file_name().to_bytes();
            if !matches!(inner, b"." | b"..") {
                remove(entries.fd()?, OsStr::from_bytes(inner), depth + 1)?;
            }
        }
        unlinkat(&above, name, AtFlags::REMOVEDIR)
    }
    remove(above, name, 0)
}

/// Nothing that was staged is to replace a folder by a file, or the other way round.
fn check(staged: &OwnedFd, target: &OwnedFd, path: &Path, depth: usize) -> Result<(), Error> {
    each(staged, path, |name, path| {
        let coming = kind_of(staged, name, &path)?;
        let there = match statat(target, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            about => FileType::from_raw_mode(about.map_err(write_at(&path))?.st_mode),
        };
        match (coming, there) {
            (FileType::Directory, FileType::Directory) if depth < DEPTH => {
                let (staged, target) = both(staged, name, target, name, &path)?;
                check(&staged, &target, &path, depth + 1)
            }
            (FileType::Directory, _) => Err(Error::Clash { path, there: "no folder", coming: "a folder" }),
            (_, FileType::Directory) => Err(Error::Clash { path, there: "a folder", coming: "a file" }),
            _ => Ok(()),
        }
    })
}

/// Moves what was staged to its place.
fn settle(staged: &OwnedFd, target: &OwnedFd, path: &Path, rules: &Rules, depth: usize) -> Result<(), Error> {
    each(staged, path, |name, path| {
        match renameat_with(staged, name, target, name, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST | Errno::INVAL) => {}
            // Another file system is mounted there.
            Err(Errno::XDEV) if depth > 0 => return move_over(staged, name, target, &path, rules),
            Err(error) => return Err(write_at(&path)(error)),
        }
        if kind_of(staged, name, &path)? == FileType::Directory && depth < DEPTH {
            let (staged, target) = both(staged, name, target, name, &path)?;
            return settle(&staged, &target, &path, rules, depth + 1);
        }
        match renameat(staged, name, target, name) {
            Err(Errno::XDEV) if depth > 0 => move_over(staged, name, target, &path, rules),
            result => result.map_err(write_at(&path)),
        }
    })
}

fn move_over(
    staged: &OwnedFd,
    name: &OsStr,
    target: &OwnedFd,
    path: &Path,
    rules: &Rules,
) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(staged, name, flags, Mode::empty()).map_err(write_at(path))?;
    // What was staged has its final owner, mode and attributes.
    let rules = Rules { specials: rules.specials, ..Rules::layer() };
    let stage = Stage::new(target, path)?;
    walk(Source::Tree(found, name.as_bytes().to_vec()), &rules, &mut Tree::new(stage.open()?, &rules))?;
    settle(&stage.open()?, target, path.parent().unwrap_or(path), &rules, 0)
}

fn each(
    folder: &OwnedFd,
    path: &Path,
    mut work: impl FnMut(&OsStr, PathBuf) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut entries = Dir::read_from(folder).map_err(write_at(path))?;
    while let Some(entry) = entries.read() {
        let entry = entry.map_err(write_at(path))?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            work(name, path.join(shown(name.as_bytes())))?;
        }
    }
    Ok(())
}

fn both(
    one: &OwnedFd,
    name: &OsStr,
    other: &OwnedFd,
    other_name: &OsStr,
    path: &Path,
) -> Result<(OwnedFd, OwnedFd), Error> {
    let open = |folder, name| openat(folder, name, FOLDER, Mode::empty()).map_err(write_at(path));
    Ok((open(one, name)?, open(other, other_name)?))
}

fn write_at(path: &Path) -> impl FnOnce(Errno) -> Error {
    Error::write(path.as_os_str().as_bytes())
}

fn kind(found: &OwnedFd) -> Option<FileType> {
    fstat(found).ok().map(|about| FileType::from_raw_mode(about.st_mode))
}

fn kind_of(folder: &OwnedFd, name: &OsStr, path: &Path) -> Result<FileType, Error> {
    let about = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(write_at(path))?;
    Ok(FileType::from_raw_mode(about.st_mode))
}
