//! Volumes: folders that outlive contexts, under names.
//!
//! ```text
//! volumes/NAME/about.json   when it was made, and its labels
//! volumes/NAME/data         what contexts see
//! volumes/.new-*, .gone-*   what is being made or removed: locked by who does it, and worth nothing without
//! volumes/.lock             held for moments; shared from the choice of a volume until its context says that it uses it
//! contexts/ID/volumes/NAME  says that the context uses it, and goes with the context
//! contexts/ID/own/N/data    a volume without a name, which goes with the context too
//! ```
//!
//! The first context that sees an empty volume finds in it what its image has at that place: it is copied beside `data`
//! and renamed to it when it is complete.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FlockOperation, Gid, Mode, OFlags, Uid, fchmod, fchown, flock, fstat, openat};
use serde::{Deserialize, Serialize};

use crate::inside::FOLDER;
use crate::transfer::{self, Rules, Source, Tree, remove_tree, walk};
use crate::{NewFolder, usage};

/// The longest name, in bytes.
const LONGEST: usize = 128;
const FILLING: &str = "filling";

/// Why something was not done with a volume.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name is none.
    #[error(
        "{name:?} is no name of a volume; it begins with a letter or digit, and has letters, digits and _ . - up to 128"
    )]
    Name {
        /// As given, shortened.
        name: String,
    },
    /// There is no such volume.
    #[error("there is no volume {name:?}; `vctx volume ls` lists them")]
    Absent {
        /// Name.
        name: String,
    },
    /// The name is taken.
    #[error("there is a volume {name:?} already")]
    Exists {
        /// Name.
        name: String,
    },
    /// A context has it.
    #[error("volume {name:?} is used by {}; delete that first", contexts.join(", "))]
    Used {
        /// Name.
        name: String,
        /// Contexts.
        contexts: Vec<String>,
    },
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
    /// The first content could not be copied.
    #[error("cannot copy what the image has at {} into the volume", path.display())]
    Fill {
        /// In the image.
        path: PathBuf,
        /// Cause.
        source: Box<transfer::Error>,
    },
}

fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { action, path, source }
}

/// The volumes of a store.
#[derive(Debug, Clone)]
pub struct Volumes {
    folder: PathBuf,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Notes of its maker.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Keeps every volume as it is, until it is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it gives the lock back")] File);

impl Volumes {
    /// Those of the store in this folder, such as `/var/lib/vctx`.
    #[must_use]
    pub fn new(store: &Path) -> Volumes {
        Volumes { folder: store.join("volumes") }
    }

    /// Where the content of a volume lies.
    #[must_use]
    pub fn data(&self, name: &str) -> PathBuf {
        self.folder.join(name).join("data")
    }

    /// None of them goes meanwhile.
    ///
    /// # Errors
    ///
    /// The store cannot be written.
    pub fn keep(&self) -> Result<Lock, Error> {
        self.lock(FlockOperation::LockShared)
    }

    fn lock(&self, how: FlockOperation) -> Result<Lock, Error> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(file("make the folder", &self.folder))?;
        let path = self.folder.join(".lock");
        let open = || -> io::Result<File> {
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            rustix::io::retry_on_intr(|| flock(&file, how))?;
            Ok(file)
        };
        open().map(Lock).map_err(file("lock", &path))
    }

    /// Makes a volume.
    ///
    /// # Errors
    ///
    /// The name is none, or taken; the disk is full.
    pub fn create(&self, name: &str, labels: BTreeMap<String, String>) -> Result<Volume, Error> {
        check_name(name)?;
        let lock = self.lock(FlockOperation::LockExclusive)?;
        self.sweep();
        let volume = self.make(name, labels);
        drop(lock);
        volume
    }

    /// The volume of this name, made where it is missing. The caller has [`Volumes::keep`].
    ///
    /// # Errors
    ///
    /// As [`Volumes::create`].
    pub fn ensure(&self, name: &str) -> Result<(), Error> {
        check_name(name)?;
        if self.folder.join(name).exists() {
            return Ok(());
        }
        match self.make(name, BTreeMap::new()) {
            // Another one was faster.
            Ok(_) | Err(Error::Exists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// It has its name when it is whole.
    fn make(&self, name: &str, labels: BTreeMap<String, String>) -> Result<Volume, Error> {
        let place = self.folder.join(name);
        if place.exists() {
            return Err(Error::Exists { name: name.into() });
        }
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let volume = Volume { name: name.into(), created, labels };
        let new = self.folder.join(format!(".new-{}-{name}", std::process::id()));
        let make = || -> io::Result<()> {
            DirBuilder::new().mode(0o700).create(&new)?;
            let _held = hold(&new)?;
            fs::write(new.join("about.json"), serde_json::to_vec(&volume)?)?;
            let data = new.join("data");
            DirBuilder::new().mode(0o755).create(&data)?;
            // Whatever the umask.
            fs::set_permissions(&data, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
            fs::rename(&new, &place)
        };
        match make() {
            Ok(()) => Ok(volume),
            Err(error) => {
                let _ = fs::remove_dir_all(&new);
                // A folder is replaced only when it is empty.
                let taken =
                    matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists);
                if taken && place.exists() {
                    Err(Error::Exists { name: name.into() })
                } else {
                    Err(file("make", place)(error))
                }
            }
        }
    }

    /// All volumes, by name.
    ///
    /// # Errors
    ///
    /// The store cannot be read.
    pub fn list(&self) -> Result<Vec<Volume>, Error> {
        let names = names(&self.folder)?.into_iter().filter(|name| !name.starts_with('.'));
        let mut list: Vec<Volume> = names.filter_map(|name| self.open(&name).ok()).collect();
        list.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(list)
    }

    /// The volume of this name.
    ///
    /// # Errors
    ///
    /// There is none, or its notes are damaged.
    pub fn open(&self, name: &str) -> Result<Volume, Error> {
        check_name(name)?;
        let path = self.folder.join(name).join("about.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| file("read", path)(error.into())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Absent { name: name.into() }),
            Err(error) => Err(file("read", path)(error)),
        }
    }

    /// Contexts that use a volume; `places` have `contexts` in them.
    ///
    /// # Errors
    ///
    /// A place cannot be read.
    pub fn users(&self, name: &str, places: &[PathBuf]) -> Result<Vec<String>, Error> {
        let mut users = Vec::new();
        for place in places {
            let contexts = place.join("contexts");
            for id in names(&contexts)? {
                if contexts.join(&id).join("volumes").join(name).exists() {
                    users.push(id);
                }
            }
        }
        users.sort();
        Ok(users)
    }

    /// Removes a volume.
    ///
    /// # Errors
    ///
    /// There is none, a context uses it, or it cannot be removed.
    pub fn remove(&self, name: &str, places: &[PathBuf]) -> Result<(), Error> {
        check_name(name)?;
        let lock = self.lock(FlockOperation::LockExclusive)?;
        self.sweep();
        let place = self.folder.join(name);
        if !place.exists() {
            return Err(Error::Absent { name: name.into() });
        }
        let contexts = self.users(name, places)?;
        if !contexts.is_empty() {
            return Err(Error::Used { name: name.into(), contexts });
        }
        // In one step it is nobody's any more.
        let gone = self.folder.join(format!(".gone-{}-{name}", std::process::id()));
        let held = hold(&place).map_err(file("remove", &place))?;
        fs::rename(&place, &gone).map_err(file("remove", &place))?;
        drop(lock);
        let removed = remove(&gone).map_err(file("remove", &gone));
        drop(held);
        removed
    }

    /// Removes what killed commands have left, and with `all` the volumes that no context uses. Gives their names.
    ///
    /// # Errors
    ///
    /// Something cannot be removed.
    pub fn prune(&self, places: &[PathBuf], all: bool) -> Result<Vec<String>, Error> {
        let lock = self.lock(FlockOperation::LockExclusive)?;
        self.sweep();
        drop(lock);
        let mut gone = Vec::new();
        for volume in self.list()?.into_iter().filter(|_| all) {
            match self.remove(&volume.name, places) {
                Ok(()) => gone.push(volume.name),
                // Somebody uses it, or was faster.
                Err(Error::Used { .. } | Error::Absent { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(gone)
    }

    /// What it takes on disk, in bytes.
    #[must_use]
    pub fn size(&self, name: &str) -> u64 {
        usage::of(&[self.folder.join(name)]).own
    }

    /// Removes what nobody makes or removes any more. The caller has the lock.
    fn sweep(&self) {
        for name in names(&self.folder).unwrap_or_default() {
            if !name.starts_with(".new-") && !name.starts_with(".gone-") {
                continue;
            }
            let path = self.folder.join(name);
            if hold(&path).is_ok() {
                // What cannot be removed is tried again.
                let _ = remove(&path);
            }
        }
    }
}

/// The folders that a context makes to say that it uses these volumes.
#[must_use]
pub fn marks(context: &Path, names: &[&str]) -> Vec<NewFolder> {
    let mark = context.join("volumes");
    let mut folders: Vec<NewFolder> =
        names.iter().map(|name| NewFolder { path: mark.join(name), mode: 0o700 }).collect();
    folders.sort_by(|one, other| one.path.cmp(&other.path));
    folders.dedup();
    if !folders.is_empty() {
        folders.insert(0, NewFolder { path: mark, mode: 0o700 });
    }
    folders
}

/// The folders of a context's own volumes, which have no name, and where their content lies.
#[must_use]
pub fn own(context: &Path, count: usize) -> (Vec<NewFolder>, Vec<PathBuf>) {
    let above = context.join("own");
    let mut folders = Vec::from_iter((count > 0).then(|| NewFolder { path: above.clone(), mode: 0o700 }));
    let mut places = Vec::new();
    for number in 0..count {
        let folder = above.join(number.to_string());
        let data = folder.join("data");
        folders.push(NewFolder { path: folder, mode: 0o700 });
        folders.push(NewFolder { path: data.clone(), mode: 0o755 });
        places.push(data);
    }
    (folders, places)
}

/// A volume holds nothing, and so takes over what the image has.
#[must_use]
pub fn is_empty(data: &Path) -> bool {
    fs::read_dir(data).is_ok_and(|mut entries| entries.next().is_none())
}

/// Gives an empty volume what the folder `found` of an image has: its files, its owner and its mode.
///
/// # Errors
///
/// It cannot be copied; the volume is as empty as before then.
pub fn fill(data: &Path, found: OwnedFd, path: &Path) -> Result<(), Error> {
    let above = data.parent().unwrap_or(Path::new("/"));
    let held =
        openat(CWD, above, FOLDER, Mode::empty()).map_err(|error| file("open", above)(error.into()))?;
    // One fills it, and who comes meanwhile waits and finds it full.
    rustix::io::retry_on_intr(|| flock(&held, FlockOperation::LockExclusive))
        .map_err(|error| file("lock", above)(error.into()))?;
    if !is_empty(data) {
        return Ok(());
    }
    let wrong = |source| Error::Fill { path: path.into(), source: Box::new(source) };
    let write = |error: rustix::io::Errno| file("fill", data)(error.into());
    // What a killed one has left.
    remove_tree(&held, FILLING.as_ref()).map_err(write)?;
    rustix::fs::mkdirat(&held, FILLING, Mode::RWXU).map_err(write)?;
    let filling = openat(&held, FILLING, FOLDER, Mode::empty()).map_err(write)?;
    let about = fstat(&found).map_err(write)?;
    let rules = Rules { attributes: transfer::Attributes::All, ..Rules::layer() };
    let result = walk(
        Source::Tree(found, Vec::new()),
        &rules,
        &mut Tree::new(filling.try_clone().map_err(file("fill", data))?, &rules),
    );
    if let Err(error) = result {
        let _ = remove_tree(&held, FILLING.as_ref());
        return Err(wrong(error));
    }
    fchown(&filling, Some(Uid::from_raw(about.st_uid)), Some(Gid::from_raw(about.st_gid))).map_err(write)?;
    fchmod(&filling, Mode::from_raw_mode(about.st_mode & 0o7777)).map_err(write)?;
    rustix::fs::renameat(&held, FILLING, &held, "data").map_err(write)
}

/// A name is a file name that is not hidden.
///
/// # Errors
///
/// It is none.
pub fn check_name(name: &str) -> Result<(), Error> {
    let first = |byte: u8| byte.is_ascii_alphanumeric();
    let other = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let good = name.len() <= LONGEST && name.bytes().next().is_some_and(first) && name.bytes().all(other);
    if good { Ok(()) } else { Err(Error::Name { name: name.chars().take(40).collect() }) }
}

/// The names in a folder; none where it is missing.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let read = || -> io::Result<Vec<String>> {
        let names =
            fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
        names.collect()
    };
    match read() {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        result => result.map_err(file("look at", folder)),
    }
}

/// The lock of a folder, if nobody has it, and the folder still has its name.
fn hold(path: &Path) -> io::Result<OwnedFd> {
    let folder = openat(CWD, path, FOLDER, Mode::empty())?;
    flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
    let (one, other) = (fstat(&folder)?, fs::symlink_metadata(path)?);
    if (one.st_dev, one.st_ino) == (other.dev(), other.ino()) {
        Ok(folder)
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let above = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, above, flags, Mode::empty())?;
    Ok(remove_tree(folder, path.file_name().unwrap_or_default())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_plain_file_name() {
        for good in ["a", "web-1", "A.b_c", "0", &"x".repeat(128)] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", ".new-1", "-x", "a/b", "a b", "a\n", "é", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_volume_that_is_used_is_not_removed() {
        let store = tempfile::tempdir().unwrap();
        let volumes = Volumes::new(store.path());
        volumes.create("one", BTreeMap::new()).unwrap();
        assert!(matches!(volumes.create("one", BTreeMap::new()), Err(Error::Exists { .. })));
        let mark = store.path().join("contexts/box/volumes/one");
        fs::create_dir_all(&mark).unwrap();
        let places = [store.path().to_owned()];
        assert!(matches!(volumes.remove("one", &places), Err(Error::Used { .. })));
        assert!(volumes.prune(&places, true).unwrap().is_empty());
        fs::remove_dir(mark).unwrap();
        // What a killed command has left goes with the next.
        fs::create_dir_all(store.path().join("volumes/.gone-1-x/data")).unwrap();
        volumes.remove("one", &places).unwrap();
        assert_eq!(names(&store.path().join("volumes")).unwrap(), [".lock"]);
        assert!(matches!(volumes.remove("one", &places), Err(Error::Absent { .. })));
    }
}
