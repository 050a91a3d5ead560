//! Unpacks a layer into a folder of its own, in the form that overlayfs takes for a lower layer.
//!
//! The archive is not trusted. Every path is resolved from the descriptor of the layer's root (`within`), and what is made
//! is made by a single name below a descriptor, never over something that is there. Whiteouts become character devices
//! 0:0, opaque folders get an attribute (overlayfs.rst, "whiteouts and opaque directories"); attributes that overlayfs
//! would obey and that a layer may not bring itself are left out.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::{fs, io};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown,
    fsetxattr, futimens, linkat, makedev, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::archive::{self, Archive, Entry, Kind, printable};
use super::tree::{Tree, is_whiteout};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names of the file system that whiteouts come from, which mean nothing here.
const NOTE: &[u8] = b".wh..wh.";
const BUFFER: usize = 256 << 10;

/// Whose the files become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// As the layer says: for root, here or of a user namespace.
    Layer,
    /// All the caller's, who has no other ids.
    Caller,
}

/// What a layer may take at most, against those made to fill a disk.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of all files together, in bytes.
    pub bytes: u64,
    /// Files, folders and links.
    pub entries: u64,
    /// Of the paths of all folders together, in bytes: they are kept until the end.
    pub paths: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 128 << 30, entries: 4_000_000, paths: 256 << 20 }
    }
}

/// How a layer is unpacked.
#[derive(Debug, Clone, Copy)]
pub struct Unpack {
    /// Whose the files become.
    pub owners: Owners,
    /// The process is root of the host, and not of a user namespace.
    pub privileged: bool,
    /// What it may take.
    pub limits: Limits,
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is truncated or damaged.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The archive asks for what no layer may do.
    #[error("{name}: refused, because {reason}")]
    Refused {
        /// The entry.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// It is larger than it may be.
    #[error("{name}: the layer has more than {most} {what}; if that is right, raise the limit")]
    Limit {
        /// The entry at which it became too large.
        name: String,
        /// `bytes`, `files` or `bytes in the paths of its folders`.
        what: &'static str,
        /// How many it may have.
        most: u64,
    },
    /// The user namespace has no such ids.
    #[error(
        "{name}: belongs to {user}:{group}, and only ids of the caller's ranges exist without root; enlarge them in /etc/subuid and /etc/subgid"
    )]
    Owner {
        /// The entry.
        name: String,
        /// User id.
        user: u64,
        /// Group id.
        group: u64,
    },
    /// The kernel refused.
    #[error("{name}: cannot be written")]
    Write {
        /// The entry.
        name: String,
        /// Cause.
        source: io::Error,
    },
}

/// What was unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Of all files together, in bytes.
    pub bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Devices that were left out, because only root of the host makes them.
    pub devices_skipped: u64,
    /// Folders that were made only to go through them; with an empty path the root, where no entry is of it.
    pub implied: Vec<Vec<u8>>,
}

/// Unpacks the archive into the empty folder `root`.
///
/// # Errors
///
/// The archive is damaged, too large or refused; the disk is full. What is there then is no layer.
pub fn unpack(input: impl Read, root: OwnedFd, how: &Unpack) -> Result<Unpacked, Error> {
    let mut unpacker = Unpacker {
        archive: Archive::new(input),
        tree: Tree::new(root, how.privileged),
        how,
        done: Unpacked::default(),
        has_root: false,
        times: HashMap::new(),
        paths: 0,
        buffer: vec![0; BUFFER],
    };
    while let Some(entry) = unpacker.archive.next_entry()? {
        unpacker.entry(&entry)?;
    }
    unpacker.finish()
}

struct Unpacker<'a, R> {
    archive: Archive<R>,
    tree: Tree,
    how: &'a Unpack,
    done: Unpacked,
    /// An entry was of the root itself.
    has_root: bool,
    /// Of folders, which change while they are filled.
    times: HashMap<Vec<u8>, (i64, u32)>,
    /// Bytes of their paths.
    paths: u64,
    buffer: Vec<u8>,
}

impl<R: Read> Unpacker<'_, R> {
    fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        self.done.entries += 1;
        let (implied, their_paths) = self.tree.implied();
        let limits = &self.how.limits;
        for (count, most, what) in [
            (self.done.entries + implied, limits.entries, "files"),
            (self.paths + their_paths, limits.paths, "bytes in the paths of its folders"),
        ] {
            if count > most {
                return Err(Error::Limit { name: entry.name(), what, most });
            }
        }
        let path = normal(&entry.path).map_err(|reason| refused(entry, reason))?;
        let (parent, name) = split(&path);
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(entry, parent, name, hidden);
        }
        if name.is_empty() {
            return match entry.kind {
                Kind::Folder => {
                    self.has_root = true;
                    self.folder_attributes(entry, &path, None)
                }
                _ => Err(refused(entry, "the root of a layer is a folder")),
            };
        }
        let folder = self.tree.folder(parent).map_err(|error| in_tree(entry, error))?;
        let write = |error: Errno| write_error(entry, error);
        match entry.kind {
            Kind::Folder => {
                let made = self.tree.make_folder(&folder, &path, name).map_err(write)?;
                return self.folder_attributes(entry, &path, Some(made));
            }
            _ => self.tree.make_room(&folder, name).map_err(write)?,
        }
        match entry.kind {
            Kind::File => return self.file(entry, &folder, name),
            Kind::HardLink => return self.hard_link(entry, &folder, name),
            Kind::Symlink if entry.link.is_empty() => return Err(refused(entry, "it is a link to nothing")),
            Kind::Symlink => symlinkat(OsStr::from_bytes(&entry.link), &folder, name).map_err(write)?,
            Kind::Fifo => mknodat(&folder, name, FileType::Fifo, Mode::RUSR, 0).map_err(write)?,
            Kind::Character | Kind::Block if !self.how.privileged => {
                self.done.devices_skipped += 1;
                return Ok(());
            }
            kind => {
                let kind =
                    if kind == Kind::Block { FileType::BlockDevice } else { FileType::CharacterDevice };
                let number = makedev(entry.device.0, entry.device.1);
                match mknodat(&folder, name, kind, Mode::RUSR, number) {
                    // Root of a container.
                    Err(Errno::PERM) => {
                        self.done.devices_skipped += 1;
                        return Ok(());
                    }
                    result => result.map_err(write)?,
                }
            }
        }
        if self.how.owners == Owners::Layer {
            let (user, group) = owner(entry)?;
            chownat(&folder, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| owner_error(entry, error))?;
        }
        if entry.kind != Kind::Symlink {
            // The name is of what was just made, so no link is followed.
            rustix::fs::chmodat(&folder, name, mode(entry), AtFlags::empty()).map_err(write)?;
        }
        utimensat(&folder, name, &times(entry.modified), AtFlags::SYMLINK_NOFOLLOW).map_err(write)
    }

    fn whiteout(&mut self, entry: &Entry, parent: &[u8], name: &[u8], hidden: &[u8]) -> Result<(), Error> {
        let write = |error| write_error(entry, error);
        if name == OPAQUE {
            let folder = self.tree.folder(parent).map_err(|error| in_tree(entry, error))?;
            return self.tree.set_opaque(&folder).map_err(write);
        }
        if name.starts_with(NOTE) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(refused(entry, "it takes away the folder itself, or the one above"));
        }
        match self.tree.folder(parent) {
            Ok(folder) => self.tree.whiteout(&folder, hidden).map_err(write),
            // umoci takes away, one by one, the files of a folder in whose place a link or a file has come: it hides them.
            Err(Errno::XDEV | Errno::LOOP | Errno::NOTDIR | Errno::EXIST) => Ok(()),
            Err(error) => Err(in_tree(entry, error)),
        }
    }

    /// Owner, mode and attributes now, times at the end.
    fn folder_attributes(&mut self, entry: &Entry, path: &[u8], made: Option<OwnedFd>) -> Result<(), Error> {
        let folder = match made {
            Some(folder) => folder,
            None => self.tree.reopen_root().map_err(|error| write_error(entry, error))?,
        };
        self.attributes(entry, &folder)?;
        if self.times.insert(path.to_vec(), entry.modified).is_none() {
            self.paths += path.len() as u64;
        }
        Ok(())
    }

    /// Owner first: a change of owner clears the set-id bits and the capabilities.
    fn attributes(&self, entry: &Entry, file: impl AsFd) -> Result<(), Error> {
        if self.how.owners == Owners::Layer {
            let (user, group) = owner(entry)?;
            fchown(&file, Some(user), Some(group)).map_err(|error| owner_error(entry, error))?;
        }
        fchmod(&file, mode(entry)).map_err(|error| write_error(entry, error))?;
        for (name, value) in &entry.attributes {
            self.attribute(entry, &file, name, value)?;
        }
        Ok(())
    }

    fn attribute(&self, entry: &Entry, file: impl AsFd, name: &[u8], value: &[u8]) -> Result<(), Error> {
        // overlayfs would take them for its own: a redirect leads anywhere in the layers below.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            return Ok(());
        }
        match fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => Ok(()),
            // Labels and attributes of the host's root: not without it.
            Err(Errno::PERM) if !self.how.privileged => Ok(()),
            Err(error) => Err(write_error(entry, error)),
        }
    }

    fn file(&mut self, entry: &Entry, folder: &OwnedFd, name: &[u8]) -> Result<(), Error> {
        let write = |error: Errno| write_error(entry, error);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::File::from(openat(folder, name, flags, Mode::RUSR | Mode::WUSR).map_err(write)?);
        self.done.bytes = self.done.bytes.saturating_add(entry.size);
        if self.done.bytes > self.how.limits.bytes {
            let (name, most) = (entry.name(), self.how.limits.bytes);
            return Err(Error::Limit { name, what: "bytes", most });
        }
        match &entry.sparse {
            None => self.pour(entry, &file, 0, entry.size)?,
            Some((length, pieces)) => {
                for &(offset, size) in pieces {
                    self.pour(entry, &file, offset, size)?;
                }
                file.set_len(*length).map_err(|source| Error::Write { name: entry.name(), source })?;
            }
        }
        self.attributes(entry, &file)?;
        futimens(&file, &times(entry.modified)).map_err(write)
    }

    fn pour(&mut self, entry: &Entry, file: &fs::File, mut offset: u64, mut left: u64) -> Result<(), Error> {
        while left > 0 {
            let length = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = self.archive.read(&mut self.buffer[..length])?;
            file.write_all_at(&self.buffer[..count], offset)
                .map_err(|source| Error::Write { name: entry.name(), source })?;
            offset += count as u64;
            left -= count as u64;
        }
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, folder: &OwnedFd, name: &[u8]) -> Result<(), Error> {
        let target = normal(&entry.link).map_err(|reason| refused(entry, reason))?;
        let (parent, last) = split(&target);
        let absent = || refused(entry, "it is a hard link to a file that is not in this layer");
        if last.is_empty() || last.starts_with(WHITEOUT) {
            return Err(absent());
        }
        let source = match self.tree.existing(parent) {
            Err(Errno::NOENT) => return Err(absent()),
            Err(Errno::XDEV | Errno::LOOP) => {
                return Err(refused(
                    entry,
                    "it is a hard link through a symbolic link that leads out of the layer",
                ));
            }
            result => result.map_err(|error| write_error(entry, error))?,
        };
        match is_whiteout(&source, last) {
            Ok(false) => {}
            Ok(true) | Err(Errno::NOENT) => return Err(absent()),
            Err(error) => return Err(write_error(entry, error)),
        }
        linkat(&source, last, folder, name, AtFlags::empty()).map_err(|error| write_error(entry, error))
    }

    fn finish(mut self) -> Result<Unpacked, Error> {
        for (path, modified) in &self.times {
            // A folder that a later entry has replaced needs none.
            let Ok(folder) = self.tree.existing(path) else { continue };
            let write = |error: Errno| Error::Write { name: printable(path), source: error.into() };
            futimens(&folder, &times(*modified)).map_err(write)?;
        }
        // What lies behind the end belongs to the layer's digest, and is bounded as its files are.
        let mut rest = self.archive.into_input().take(self.how.limits.bytes);
        io::copy(&mut rest, &mut io::sink())
            .map_err(|source| archive::Error::Read { name: "the end".into(), source })?;
        self.done.implied = self.tree.into_implied();
        if !self.has_root {
            self.done.implied.push(Vec::new());
        }
        Ok(self.done)
    }
}

/// The path as names joined by slashes; that of the root is empty.
fn normal(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    if path.is_empty() {
        return Err("it has no name");
    }
    if path.starts_with(b"/") {
        return Err("its path is absolute");
    }
    if path.contains(&0) {
        return Err("its path holds a nul character");
    }
    let parts: Vec<&[u8]> =
        path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&b"..".as_slice()) {
        return Err("its path has `..`");
    }
    if parts.iter().rev().skip(1).any(|part| part.starts_with(WHITEOUT)) {
        return Err("its path leads through a whiteout");
    }
    Ok(parts.join(&b'/'))
}

/// The folder and the last name of a normal path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode)
}

fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn owner(entry: &Entry) -> Result<(Uid, Gid), Error> {
    // The last number stands for "leave as it is" in chown(2).
    let id = |id: u64| u32::try_from(id).ok().filter(|&id| id != u32::MAX);
    match (id(entry.owner.0), id(entry.owner.1)) {
        (Some(user), Some(group)) => Ok((Uid::from_raw(user), Gid::from_raw(group))),
        _ => Err(refused(entry, "its owner is no id")),
    }
}

fn owner_error(entry: &Entry, error: Errno) -> Error {
    match error {
        Errno::INVAL => Error::Owner { name: entry.name(), user: entry.owner.0, group: entry.owner.1 },
        error => write_error(entry, error),
    }
}

fn refused(entry: &Entry, reason: &'static str) -> Error {
    Error::Refused { name: entry.name(), reason }
}

fn write_error(entry: &Entry, error: Errno) -> Error {
    Error::Write { name: entry.name(), source: error.into() }
}

/// On the way to the entry's folder.
fn in_tree(entry: &Entry, error: Errno) -> Error {
    match error {
        Errno::XDEV | Errno::LOOP => {
            refused(entry, "its path leads through a symbolic link that leads out of the layer")
        }
        Errno::NOTDIR | Errno::EXIST => refused(entry, "its path leads through what is no folder"),
        error => write_error(entry, error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use tar::{EntryType, Header};

    use super::*;

    /// A folder this many levels deep, of which nothing above is in the archive, and a file.
    fn deep(levels: usize) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind) in [("d/".repeat(levels), EntryType::Directory), ("file".into(), EntryType::Regular)]
        {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_size(0);
            builder.append_data(&mut header, path, io::empty()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn the_paths_of_folders_are_bounded() {
        let limits = Limits { paths: 1000, ..Limits::default() };
        let how = Unpack { owners: Owners::Caller, privileged: false, limits };
        let into = |levels| {
            let folder = tempfile::tempdir().unwrap();
            unpack(&deep(levels)[..], File::open(folder.path()).unwrap().into(), &how)
        };
        assert_eq!(into(20).unwrap().implied.len(), 20);
        let refused = into(100).unwrap_err().to_string();
        assert!(refused.contains("more than 1000 bytes in the paths of its folders"), "{refused}");
    }
}
