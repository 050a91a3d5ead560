//! A tree that is written below the descriptor of a folder.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown,
    fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use crate::image::archive::{Entry, Kind};
use crate::inside::{self, FOLDER};

use super::{Content, Error, Rules, Sink, file, shown};

const BUFFER: usize = 256 << 10;

/// A tree below a folder in which nobody else is meant to write.
pub struct Tree<'a> {
    root: OwnedFd,
    rules: &'a Rules,
    /// The folder of the last entry.
    last: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Tree<'a> {
    /// Entries are made below `root`.
    #[must_use]
    pub fn new(root: OwnedFd, rules: &'a Rules) -> Tree<'a> {
        Tree { root, rules, last: None }
    }

    /// The folder of an entry; where an archive has left it out, it is made.
    fn parent(&mut self, path: &[u8]) -> Result<&OwnedFd, Error> {
        if self.last.as_ref().is_none_or(|(known, _)| known != path) {
            let folder = match inside::folder_below(&self.root, path) {
                Err(Errno::NOENT) => self.make_parents(path),
                result => result,
            };
            let folder = folder.map_err(|error| match error {
                Errno::LOOP | Errno::NOTDIR | Errno::XDEV => Error::Refused {
                    name: shown(path).display().to_string(),
                    reason: "its path leads through what is no folder",
                },
                error => Error::write(path)(error),
            })?;
            self.last = Some((path.to_vec(), folder));
        }
        self.last.as_ref().map(|(_, folder)| folder).ok_or(Error::NoTree)
    }

    fn make_parents(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut folder = openat(&self.root, c".", FOLDER, Mode::empty())?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            match mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            folder = openat(&folder, name, FOLDER, Mode::empty())?;
        }
        Ok(folder)
    }

    fn make_file(
        &self,
        entry: &Entry,
        folder: &OwnedFd,
        name: &[u8],
        content: Content<'_>,
    ) -> Result<(), Error> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(folder, name, flags, Mode::RUSR | Mode::WUSR).map_err(Error::write(&entry.path))?;
        let file = File::from(file);
        match content {
            Content::Nothing => {}
            Content::File(from) => file::copy(&entry.path, from, &file, entry.size)?,
            Content::Stream(read) => match &entry.sparse {
                None => pour(entry, read, &file, 0, entry.size)?,
                Some((length, pieces)) => {
                    for &(offset, size) in pieces {
                        pour(entry, read, &file, offset, size)?;
                    }
                    file.set_len(*length).map_err(Error::write(&entry.path))?;
                }
            },
        }
        self.attributes(entry, &file)?;
        futimens(&file, &times(entry)).map_err(Error::write(&entry.path))
    }

    /// Owner first: a change of owner clears the set-id bits and the capabilities.
    fn attributes(&self, entry: &Entry, file: impl AsFd) -> Result<(), Error> {
        let (user, group) = self.rules.owner(entry)?;
        fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))
            .map_err(|error| owner_error(entry, (user, group), error))?;
        fchmod(&file, Mode::from_raw_mode(self.rules.mode(entry.mode))).map_err(Error::write(&entry.path))?;
        for (name, value) in &entry.attributes {
            match fsetxattr(&file, OsStr::from_bytes(name), value, XattrFlags::empty()) {
                // A file system without them, or labels that only root of the host sets.
                Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
                Err(error) => return Err(Error::write(&entry.path)(error)),
            }
        }
        Ok(())
    }

    fn make_node(&self, entry: &Entry, folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        match entry.kind {
            Kind::Symlink => symlinkat(OsStr::from_bytes(&entry.link), folder, name),
            Kind::Fifo => mknodat(folder, name, FileType::Fifo, Mode::RUSR, 0),
            Kind::Block => mknodat(
                folder,
                name,
                FileType::BlockDevice,
                Mode::RUSR,
                makedev(entry.device.0, entry.device.1),
            ),
            _ => {
                let number = makedev(entry.device.0, entry.device.1);
                mknodat(folder, name, FileType::CharacterDevice, Mode::RUSR, number)
            }
        }
    }

    fn make_link(&self, entry: &Entry, folder: &OwnedFd, name: &[u8]) -> Result<(), Error> {
        let (parent, last) = split(&entry.link);
        let reason = "it is a hard link to a file that is not in the archive before it";
        let absent = |_| Error::Refused { name: entry.name(), reason };
        let source = inside::folder_below(&self.root, parent).map_err(absent)?;
        linkat(&source, last, folder, name, AtFlags::empty()).map_err(|error| match error {
            Errno::NOENT => absent(error),
            error => Error::write(&entry.path)(error),
        })
    }
}

impl Sink for Tree<'_> {
    fn put(&mut self, entry: &Entry, content: Content<'_>) -> Result<(), Error> {
        let (parent, name) = split(&entry.path);
        if name.is_empty() {
            // The content of a folder is copied, and its place is there.
            return Ok(());
        }
        let folder = self.parent(parent)?.try_clone().map_err(Error::write(&entry.path))?;
        if entry.kind == Kind::Folder {
            return match mkdirat(&folder, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {
                    let made =
                        openat(&folder, name, FOLDER, Mode::empty()).map_err(Error::write(&entry.path))?;
                    self.attributes(entry, &made)
                }
                Err(error) => Err(Error::write(&entry.path)(error)),
            };
        }
        // A later entry of an archive replaces an earlier one.
        match unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(Error::write(&entry.path)(error)),
        }
        match entry.kind {
            Kind::File => return self.make_file(entry, &folder, name, content),
            Kind::HardLink => return self.make_link(entry, &folder, name),
            _ => self.make_node(entry, &folder, name).map_err(Error::write(&entry.path))?,
        }
        let (user, group) = self.rules.owner(entry)?;
        chownat(
            &folder,
            name,
            Some(Uid::from_raw(user)),
            Some(Gid::from_raw(group)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|error| owner_error(entry, (user, group), error))?;
        if entry.kind != Kind::Symlink {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(&folder, name, flags, Mode::empty())
                .and_then(|made| inside::chmod(made, Mode::from_raw_mode(self.rules.mode(entry.mode))))
                .map_err(Error::write(&entry.path))?;
        }
        utimensat(&folder, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW).map_err(Error::write(&entry.path))
    }

    fn leave(&mut self, entry: &Entry) -> Result<(), Error> {
        if entry.path.is_empty() {
            return Ok(());
        }
        self.last = None;
        let folder = inside::folder_below(&self.root, &entry.path).map_err(Error::write(&entry.path))?;
        futimens(&folder, &times(entry)).map_err(Error::write(&entry.path))
    }
}

fn pour(
    entry: &Entry,
    read: &mut dyn FnMut(&mut [u8]) -> Result<usize, Error>,
    file: &File,
    mut offset: u64,
    mut left: u64,
) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER.min(usize::try_from(left).unwrap_or(BUFFER).max(1))];
    while left > 0 {
        let length = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = read(&mut buffer[..length])?;
        file.write_all_at(&buffer[..count], offset).map_err(Error::write(&entry.path))?;
        offset += count as u64;
        left -= count as u64;
    }
    Ok(())
}

fn owner_error(entry: &Entry, (user, group): (u32, u32), error: Errno) -> Error {
    match error {
        Errno::INVAL => Error::Owner { path: shown(&entry.path), user, group },
        error => Error::write(&entry.path)(error),
    }
}

/// The folder and the last name of a path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.modified.0, tv_nsec: entry.modified.1.into() };
    Timestamps { last_access: time, last_modification: time }
}
