//! Copies of what a context has changed: its snapshots, and the layers of a new context that begins as another one is.
//!
//! ```text
//! contexts/ID/N/upper, own/N/data   what the context has changed, and its own volumes: its parts
//! contexts/ID/snapshots/NAME/...    the same parts, as they were
//! contexts/ID/N/staged              what a restore puts in the place of a part
//! contexts/ID/restoring             all of it is staged: from here on a restore is finished, whoever does it
//! ```
//!
//! Files share their extents where the file system can. A snapshot has its name when it is complete, and [`tidy`] finishes
//! or throws away what a killed command has left; every command begins with it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FlockOperation, Gid, Mode, OFlags, Uid, fchmod, fchown, flock, fstat, openat};
use serde::{Deserialize, Serialize};

use crate::image::mark;
use crate::inside::FOLDER;
use crate::transfer::{self, Rules, Source, Tree, remove_tree, walk};
use crate::usage;
use crate::volume::{check_name, names};

const STAGED: &str = "staged";
const REPLACED: &str = "replaced";
const RESTORING: &str = "restoring";

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is none.
    #[error(
        "{0:?} is no name of a snapshot; it begins with a letter or digit, and has letters, digits and _ . - up to 128"
    )]
    Name(String),
    /// There is no such snapshot.
    #[error("there is no snapshot {0:?} of this context; `vctx snapshot ls` lists them")]
    Absent(String),
    /// The name is taken.
    #[error("there is a snapshot {0:?} of this context already")]
    Exists(String),
    /// The snapshot is not of these parts.
    #[error("{} is not as the context is made; it was not changed", .0.display())]
    Other(PathBuf),
    /// A file of the store.
    #[error("cannot {action} {}", path.display())]
    File {
        /// The verb of the sentence.
        action: &'static str,
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The content.
    #[error("cannot copy what the context has changed")]
    Copy(#[from] transfer::Error),
}

fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { action, path, source }
}

/// A snapshot of a context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

/// The parts of a context or snapshot: the folder of each, and the name in it that holds the files.
fn parts(folder: &Path) -> Result<Vec<(PathBuf, &'static str)>, Error> {
    let list = |path: &Path| names(path).map_err(|error| file("read", path)(io::Error::other(error)));
    let mut parts = Vec::new();
    for name in list(folder)? {
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            parts.push((PathBuf::from(name), "upper"));
        }
    }
    let own = list(&folder.join("own"))?;
    parts.extend(own.into_iter().map(|name| (Path::new("own").join(name), "data")));
    parts.sort();
    Ok(parts)
}

/// Makes a snapshot of a context, of which nothing changes meanwhile.
///
/// # Errors
///
/// The name is none or taken; the disk is full. Nothing is left then.
pub fn create(context: &Path, name: &str) -> Result<Snapshot, Error> {
    check(name)?;
    let all = context.join("snapshots");
    make(&all, 0o700)?;
    let _lock = lock(&all)?;
    tidy(context)?;
    let place = all.join(name);
    if place.exists() {
        return Err(Error::Exists(name.into()));
    }
    let new = all.join(format!(".new-{name}"));
    let snapshot = Snapshot { name: name.into(), created: now() };
    let work = || -> Result<(), Error> {
        make(&new, 0o700)?;
        copy_parts(context, &new)?;
        let bytes = serde_json::to_vec(&snapshot).map_err(|error| file("write", &new)(error.into()))?;
        fs::write(new.join("about.json"), bytes).map_err(file("write", &new))?;
        fs::rename(&new, &place).map_err(file("make", &place))
    };
    if let Err(error) = work() {
        let _ = remove(&new);
        return Err(error);
    }
    Ok(snapshot)
}

/// The snapshots of a context, the oldest first.
///
/// # Errors
///
/// They cannot be read.
pub fn list(context: &Path) -> Result<Vec<Snapshot>, Error> {
    let all = context.join("snapshots");
    let found = names(&all).map_err(|error| file("read", &all)(io::Error::other(error)))?;
    let found = found.into_iter().filter(|name| !name.starts_with('.'));
    let read = |name: String| serde_json::from_slice(&fs::read(all.join(name).join("about.json")).ok()?).ok();
    let mut list: Vec<Snapshot> = found.filter_map(read).collect();
    list.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
    Ok(list)
}

/// What a snapshot takes on disk, in bytes; what it shares with others counts as well.
#[must_use]
pub fn size(context: &Path, name: &str) -> u64 {
    usage::of(&[context.join("snapshots").join(name)]).own
}

/// Removes a snapshot.
///
/// # Errors
///
/// There is none of this name, or it cannot be removed.
pub fn delete(context: &Path, name: &str) -> Result<(), Error> {
    check(name)?;
    let all = context.join("snapshots");
    let place = all.join(name);
    if !place.exists() {
        return Err(Error::Absent(name.into()));
    }
    let _lock = lock(&all)?;
    tidy(context)?;
    let gone = all.join(format!(".gone-{name}"));
    match fs::rename(&place, &gone) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Absent(name.into())),
        result => result.map_err(file("remove", &place))?,
    }
    remove(&gone)
}

/// Puts a snapshot in the place of what a context has changed since. The context does not run.
///
/// # Errors
///
/// There is none of this name, or the disk is full: the context is as before then.
pub fn restore(context: &Path, name: &str) -> Result<(), Error> {
    check(name)?;
    let all = context.join("snapshots");
    let from = all.join(name);
    if !from.exists() {
        return Err(Error::Absent(name.into()));
    }
    let _lock = lock(&all)?;
    tidy(context)?;
    let wanted = parts(&from)?;
    if wanted != parts(context)? {
        return Err(Error::Other(from));
    }
    let stage = || -> Result<(), Error> {
        for (part, leaf) in &wanted {
            copy_tree(&from.join(part).join(leaf), &context.join(part), STAGED)?;
        }
        // From here on it counts.
        make(&context.join(RESTORING), 0o700)
    };
    let staged = stage();
    tidy(context)?;
    staged
}

/// Finishes a restore whose parts are all staged, and throws away whatever else is half made. The caller has the lock of
/// the context's snapshots, or the context itself.
///
/// # Errors
///
/// Something cannot be moved or removed.
pub fn tidy(context: &Path) -> Result<(), Error> {
    let restoring = context.join(RESTORING);
    let counts = restoring.exists();
    for (part, leaf) in parts(context)? {
        let part = context.join(part);
        let (staged, place, replaced) = (part.join(STAGED), part.join(leaf), part.join(REPLACED));
        if counts && staged.exists() {
            // In two steps, of which a second attempt can tell which has been done.
            if place.exists() {
                fs::rename(&place, &replaced).map_err(file("move away", &place))?;
            }
            fs::rename(&staged, &place).map_err(file("restore", &place))?;
        }
        for left in [staged, replaced] {
            remove(&left)?;
        }
    }
    remove(&restoring)?;
    let all = context.join("snapshots");
    let found = names(&all).map_err(|error| file("read", &all)(io::Error::other(error)))?;
    for name in found.iter().filter(|name| name.starts_with(".new-") || name.starts_with(".gone-")) {
        remove(&all.join(name))?;
    }
    Ok(())
}

/// Does so for a context whose snapshots nobody works on, or waits for it.
///
/// # Errors
///
/// As [`tidy`].
pub fn sweep(context: &Path) -> Result<(), Error> {
    let all = context.join("snapshots");
    if !all.exists() {
        return Ok(());
    }
    let _lock = lock(&all)?;
    tidy(context)
}

/// Makes the folder of a new context with the changes of another one, of which nothing changes meanwhile: its parts, its own
/// volumes, and the names of the image and the volumes that it uses.
///
/// # Errors
///
/// The disk is full. The new folder is the caller's to remove.
pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    tidy(from)?;
    if let Some(above) = to.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(above);
        made.map_err(file("make the folder", above))?;
    }
    make(to, 0o700)?;
    // What it uses comes first: from here on nobody removes it.
    let listed = |folder: &Path| names(folder).map_err(|error| file("read", from)(io::Error::other(error)));
    for manifest in mark::all(from).map_err(|error| file("read", from)(io::Error::other(error)))? {
        let mark = mark::of(to, &manifest);
        fs::write(&mark, "").map_err(file("make", &mark))?;
    }
    for name in listed(&from.join("volumes"))? {
        make(&to.join("volumes"), 0o700)?;
        make(&to.join("volumes").join(name), 0o700)?;
    }
    if from.join("root").is_dir() {
        make(&to.join("root"), 0o755)?;
    }
    copy_parts(from, to)?;
    for (part, leaf) in parts(to)? {
        if leaf == "upper" {
            make(&to.join(part).join("work"), 0o700)?;
        }
    }
    Ok(())
}

fn copy_parts(from: &Path, to: &Path) -> Result<(), Error> {
    for (part, leaf) in parts(from)? {
        if part.starts_with("own") {
            make(&to.join("own"), 0o700)?;
        }
        make(&to.join(&part), 0o700)?;
        copy_tree(&from.join(&part).join(leaf), &to.join(&part), leaf)?;
    }
    Ok(())
}

/// Copies a folder with its owner, mode and attributes.
fn copy_tree(from: &Path, above: &Path, name: &str) -> Result<(), Error> {
    let place = above.join(name);
    let found = openat(CWD, from, FOLDER, Mode::empty()).map_err(|error| file("open", from)(error.into()))?;
    make(&place, 0o700)?;
    let made = open(&place)?;
    let rules = Rules::layer();
    let about = fstat(&found).map_err(|error| file("look at", from)(error.into()))?;
    let root = found.try_clone().map_err(file("open", from))?;
    walk(Source::Tree(root, Vec::new()), &rules, &mut Tree::new(open(&place)?, &rules))?;
    let write = |error: rustix::io::Errno| file("write", &place)(error.into());
    transfer::copy_attributes(&found, &made, &rules)?;
    fchown(&made, Some(Uid::from_raw(about.st_uid)), Some(Gid::from_raw(about.st_gid))).map_err(write)?;
    fchmod(&made, Mode::from_raw_mode(about.st_mode & 0o7777)).map_err(write)
}

fn open(path: &Path) -> Result<OwnedFd, Error> {
    openat(CWD, path, FOLDER, Mode::empty()).map_err(|error| file("open", path)(error.into()))
}

/// Makes a folder, or takes the one that is there.
fn make(path: &Path, mode: u32) -> Result<(), Error> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(file("make the folder", path)(error))
        }
        _ => Ok(()),
    }
}

fn lock(folder: &Path) -> Result<OwnedFd, Error> {
    let held = open(folder)?;
    rustix::io::retry_on_intr(|| flock(&held, FlockOperation::LockExclusive))
        .map_err(|error| file("lock", folder)(error.into()))?;
    let (one, other) = (fstat(&held), fs::symlink_metadata(folder));
    match (one, other) {
        (Ok(one), Ok(other)) if one.st_ino == other.ino() => Ok(held),
        _ => Err(file("lock", folder)(io::ErrorKind::NotFound.into())),
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = path.parent().unwrap_or(Path::new("/"));
    let work =
        || remove_tree(openat(CWD, above, flags, Mode::empty())?, path.file_name().unwrap_or(OsStr::new("")));
    match work() {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        result => result.map_err(|error| file("remove", path)(error.into())),
    }
}

fn check(name: &str) -> Result<(), Error> {
    check_name(name).map_err(|_| Error::Name(name.chars().take(40).collect()))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
