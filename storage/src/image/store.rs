//! The store: blobs by their digests, unpacked layers by the digests of their plain archives, and the list of images.
//!
//! ```text
//! blobs/sha256/HEX   manifests, configurations and layers, as they came
//! layers/HEX         unpacked layers; each is a lower folder of overlays
//! implied/HEX        what a layer says too little of, see `joint`
//! stacks/HEX/a b ... the layers of a manifest in their order, see `stacks`
//! unsettled/BOOT/HEX what may not be on the disk yet, see `settle`
//! images.json        names, and the manifests they stand for
//! partial/           what is being written: locked by its writer, and worth nothing without one
//! pins/              digests that a running pull or import relies on
//! lock               held for moments, shared by readers that need two things to fit together
//! ```
//!
//! Whatever has its name under `blobs` or `layers` is whole: it comes there by rename(2), when its digest is right.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::digest::{Digest, Digesting};
use super::error::Error;

const BUFFER: usize = 256 << 10;

/// A store of images.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// The store's lock, until it is dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "closing it gives the lock back")] File);

/// What is being written. Dropping it removes it, unless it has been kept.
#[derive(Debug)]
pub(super) struct Partial {
    pub(super) path: PathBuf,
    /// Locked as long as it is open.
    pub(super) file: File,
    is_folder: bool,
    kept: bool,
}

/// Digests that garbage collection leaves alone while this lives.
#[derive(Debug)]
pub struct Pin {
    store: Store,
    path: PathBuf,
    file: File,
}

impl Store {
    /// The store in this folder, such as `/var/lib/vctx`. It need not exist.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>) -> Store {
        Store { folder: folder.into() }
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn index_path(&self) -> PathBuf {
        self.folder.join("images.json")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.folder.join("blobs/sha256")
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.folder.join("layers")
    }

    pub(super) fn partials(&self) -> PathBuf {
        self.folder.join("partial")
    }

    pub(super) fn pins(&self) -> PathBuf {
        self.folder.join("pins")
    }

    /// Where the bytes of a blob lie, if they are there.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// Where a layer lies unpacked, if it is, by the digest of its plain archive.
    #[must_use]
    pub fn layer(&self, digest: &Digest) -> PathBuf {
        self.layers().join(digest.hex())
    }

    /// Makes the folders.
    ///
    /// # Errors
    ///
    /// One cannot be made.
    pub fn make(&self) -> Result<(), Error> {
        for folder in
            [self.blobs(), self.layers(), self.implied(), self.stacks(), self.partials(), self.pins()]
        {
            // Nobody but the owner may come near the set-uid programs of images (CVE-2021-41091).
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(Error::file("make the folder", &folder))?;
        }
        Ok(())
    }

    /// Waits for the lock: `shared` with others that only read.
    ///
    /// # Errors
    ///
    /// The store cannot be written, or is not there.
    pub fn lock(&self, how: Access) -> Result<Lock, Error> {
        let path = self.folder.join("lock");
        let fail = Error::file("lock", &path);
        let operation = match how {
            Access::Read => FlockOperation::LockShared,
            Access::Change => FlockOperation::LockExclusive,
        };
        let open = || -> io::Result<File> {
            let file = File::options().create(true).truncate(false).write(true).open(&path)?;
            rustix::io::retry_on_intr(|| flock(&file, operation))?;
            Ok(file)
        };
        open().map(Lock).map_err(fail)
    }

    /// Reads a small blob, such as a manifest, and checks it.
    ///
    /// # Errors
    ///
    /// It is missing, too large or not what its digest says.
    pub fn small(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let path = self.blob(digest);
        let fail = Error::file("read", &path);
        // With room from the beginning, most are read at once.
        let mut bytes = Vec::with_capacity(16 << 10);
        let read =
            File::open(&path).and_then(|file| file.take(super::spec::LARGEST + 1).read_to_end(&mut bytes));
        read.map_err(fail)?;
        match Digest::of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(Error::Corrupt { path }),
        }
    }

    /// Takes a blob in. It is written while it is digested, and kept only if it is what it was said to be.
    ///
    /// # Errors
    ///
    /// It cannot be read or written, or its size or digest is not the one expected.
    pub fn put_blob(
        &self,
        input: impl Read,
        expected: Option<&Digest>,
        size: Option<u64>,
    ) -> Result<(Digest, u64), Error> {
        if let Some(digest) = expected
            && let Ok(about) = fs::metadata(self.blob(digest))
        {
            return Ok((digest.clone(), about.len()));
        }
        let mut partial = self.partial(&unique("blob"), false)?;
        partial.empty()?;
        let what = || expected.map_or_else(|| "a blob".to_owned(), ToString::to_string);
        // One byte more tells a stream that does not end.
        let most = size.map_or(u64::MAX, |size| size.saturating_add(1));
        let mut input = Digesting::new(input.take(most));
        let mut buffer = vec![0; BUFFER];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    partial.file.write_all(&buffer[..count]).map_err(Error::file("write", &partial.path))?
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Input { what: what(), source }),
            }
        }
        let count = input.count;
        if let Some(size) = size.filter(|&size| size != count) {
            return Err(Error::Size { what: what(), expected: size, found: count });
        }
        let digest = input.digest();
        if let Some(expected) = expected.filter(|&expected| *expected != digest) {
            return Err(Error::Digest { expected: expected.clone(), found: digest });
        }
        self.note_unsettled(&digest)?;
        partial.keep_as(&self.blob(&digest))?;
        Ok((digest, count))
    }

    /// Begins something under `partial`, alone: waits for another writer of the same name.
    pub(super) fn partial(&self, name: &str, is_folder: bool) -> Result<Partial, Error> {
        let path = self.partials().join(name);
        let fail = || Error::file("begin", &path);
        loop {
            let file = if is_folder {
                match DirBuilder::new().mode(0o700).create(&path) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fail()(error)),
                    _ => File::open(&path),
                }
            } else {
                File::options().create(true).truncate(false).read(true).write(true).open(&path)
            };
            let file = match file {
                Err(error) if error.kind() == io::ErrorKind::NotFound && is_folder => continue,
                file => file.map_err(fail())?,
            };
            rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
                .map_err(|error| fail()(error.into()))?;
            // Whoever held it may have finished it, or garbage collection may have taken it away.
            if is_at(&file, &path) {
                return Ok(Partial { path, file, is_folder, kept: false });
            }
        }
    }

    /// Begins a pull or an import.
    ///
    /// # Errors
    ///
    /// The store cannot be written.
    pub fn pin(&self) -> Result<Pin, Error> {
        self.make()?;
        self.recover()?;
        let _lock = self.lock(Access::Change)?;
        let path = self.pins().join(unique("pin"));
        let fail = Error::file("write", &path);
        let open = || -> io::Result<File> {
            let file = File::options().create_new(true).write(true).open(&path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        };
        let file = open().map_err(fail)?;
        Ok(Pin { store: self.clone(), path, file })
    }
}

/// What the lock is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing may go meanwhile.
    Read,
    /// Something is added to the list or goes.
    Change,
}

impl Pin {
    /// From here on these stay, if they are there or come.
    ///
    /// # Errors
    ///
    /// The pin cannot be written.
    pub fn add<'a>(&mut self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), Error> {
        let _lock = self.store.lock(Access::Change)?;
        let lines: String = digests.into_iter().map(|digest| format!("{}\n", digest.hex())).collect();
        self.file.write_all(lines.as_bytes()).map_err(Error::file("write", &self.path))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // A pin that stays behind is not locked, and counts for nothing.
        let _ = fs::remove_file(&self.path);
    }
}

impl Partial {
    /// Moves it to its place. What is there already is the same.
    pub(super) fn keep_as(mut self, place: &Path) -> Result<(), Error> {
        match fs::rename(&self.path, place) {
            Ok(()) => self.kept = true,
            // A layer: folders are replaced only when they are empty.
            Err(_) if self.is_folder && place.is_dir() => {}
            Err(error) => return Err(Error::file("move into place", place)(error)),
        }
        Ok(())
    }

    /// Leaves it unfinished.
    pub(super) fn leave(mut self) {
        self.kept = true;
    }

    /// Removes what a killed writer has left in it.
    pub(super) fn empty(&self) -> Result<(), Error> {
        let emptied = if self.is_folder { vctx_remove::content(&self.path) } else { self.file.set_len(0) };
        emptied.map_err(Error::file("empty", &self.path))
    }

    /// A descriptor of the folder.
    pub(super) fn folder(&self) -> Result<rustix::fd::OwnedFd, Error> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.file, c".", flags, Mode::empty())
            .map_err(|error| Error::file("open", &self.path)(error.into()))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.kept {
            // What stays is not locked, and goes with the next garbage collection.
            let _ = if self.is_folder { vctx_remove::tree(&self.path) } else { fs::remove_file(&self.path) };
        }
    }
}

/// The open file is the one at this path.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// A name that no other writer has.
pub(super) fn unique(kind: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{kind}-{}-{count}", std::process::id())
}
