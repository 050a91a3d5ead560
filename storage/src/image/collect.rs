//! Garbage collection: what no image, no running pull and no context needs.
//!
//! It runs under the store's lock for the moment in which it looks and moves things away, and removes them afterwards. A
//! pull names what it relies on under the same lock, before it looks whether it is there.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::digest::Digest;
use super::error::Error;
use super::joint;
use super::mark;
use super::store::{Access, Store, is_at, unique};

/// What was, or would be, removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs.
    pub blobs: u64,
    /// Of the blobs.
    pub bytes: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// What killed pulls and imports have left.
    pub partial: u64,
}

/// Whether anything is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It is.
    Remove,
    /// It is only counted.
    Look,
}

impl Store {
    /// Removes what is no longer needed. `places` are the folders that have `contexts` in them, each of which names the
    /// manifest of its image.
    ///
    /// # Errors
    ///
    /// Something cannot be read or removed; nothing that is needed has gone then.
    pub fn collect(&self, places: &[PathBuf], doing: Doing) -> Result<Collected, Error> {
        self.make()?;
        self.recover()?;
        let mut collected = Collected::default();
        let mut trash = Vec::new();
        let lock = self.lock(Access::Change)?;
        let needed = self.needed(places)?;
        for folder in [self.blobs(), self.layers(), self.stacks()] {
            for path in entries(&folder)? {
                let digest = path.file_name().and_then(|name| name.to_str()).and_then(Digest::from_hex);
                if digest.is_some_and(|digest| needed.contains(&digest)) {
                    continue;
                }
                if folder == self.layers() {
                    collected.layers += 1;
                } else if folder == self.blobs() {
                    collected.blobs += 1;
                    collected.bytes += fs::symlink_metadata(&path).map_or(0, |about| about.len());
                }
                if doing == Doing::Remove {
                    // In one step it counts for nothing any more.
                    let away = self.partials().join(unique("gone"));
                    fs::rename(&path, &away).map_err(Error::file("remove", &path))?;
                    trash.push(away);
                }
            }
        }
        if doing == Doing::Remove {
            for path in entries(&self.implied())? {
                let digest = path.file_name().and_then(|name| name.to_str()).and_then(Digest::from_hex);
                if !digest.is_some_and(|digest| needed.contains(&digest)) {
                    remove(&path)?;
                }
            }
        }
        self.abandoned(doing, &mut collected, &mut trash)?;
        drop(lock);
        trash.iter().try_for_each(|path| remove(path))?;
        Ok(collected)
    }

    /// Digests of all that is needed. The caller has the lock.
    fn needed(&self, places: &[PathBuf]) -> Result<HashSet<Digest>, Error> {
        let mut manifests: Vec<Digest> = self.images()?.into_iter().map(|image| image.manifest).collect();
        for place in places {
            for context in entries(&place.join("contexts"))? {
                manifests.extend(mark::all(&context)?);
            }
        }
        let mut needed = HashSet::new();
        for manifest in manifests {
            // What is damaged is not taken for what needs nothing: `fsck` tells of it.
            match self.details(&manifest) {
                Ok(details) => {
                    needed.extend(details.digests().cloned());
                    needed.insert(joint::digest(&details.config.rootfs.diff_ids));
                }
                Err(error) => return Err(error),
            }
            needed.insert(manifest);
        }
        for path in entries(&self.pins())? {
            let Ok(file) = File::open(&path) else { continue };
            if is_abandoned(&file, &path) {
                let _ = fs::remove_file(&path);
                continue;
            }
            let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
            needed.extend(text.lines().filter_map(Digest::from_hex));
        }
        Ok(needed)
    }

    /// What nobody writes any more.
    fn abandoned(
        &self,
        doing: Doing,
        collected: &mut Collected,
        trash: &mut Vec<PathBuf>,
    ) -> Result<(), Error> {
        for path in entries(&self.partials())? {
            if trash.contains(&path) {
                continue;
            }
            let Ok(file) = File::open(&path) else { continue };
            if !is_abandoned(&file, &path) {
                continue;
            }
            collected.partial += 1;
            if doing == Doing::Remove {
                let away = self.partials().join(unique("gone"));
                fs::rename(&path, &away).map_err(Error::file("remove", &path))?;
                trash.push(away);
            }
        }
        Ok(())
    }
}

/// Its writer is gone: nobody holds its lock. Whoever waits for it sees that it has moved.
fn is_abandoned(file: &File, path: &Path) -> bool {
    flock(file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(file, path)
}

/// The paths in a folder; none where it is missing.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let read =
        || -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    match read() {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        result => result.map_err(Error::file("look at", folder)),
    }
}

pub(super) fn remove(path: &Path) -> Result<(), Error> {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|about| about.is_dir());
    let removed = if is_folder { vctx_remove::tree(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}
