//! Where entries come from: a tree, walked from a descriptor, or an archive.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    Dir, FileType, OFlags, Stat, fgetxattr, flistxattr, fstat, major, minor, openat, readlinkat,
};
use rustix::io::Errno;

use crate::image::archive::{Archive, Entry, Kind};
use crate::inside::{self, FOLDER};

use super::{DEPTH, Error, Rules, Sink, shown};

/// Files with several names that are remembered; of more, each name becomes a file.
const LINKS: usize = 1 << 20;
/// Folders of an archive whose times are set at its end.
const TIMES: usize = 1 << 20;
/// Names and values of one file's attributes, in bytes.
const ATTRIBUTES: usize = 1 << 18;

/// Names and values of extended attributes.
type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// The content of an entry.
pub enum Content<'a> {
    /// It has none.
    Nothing,
    /// An open file.
    File(&'a OwnedFd),
    /// The entry of an archive that is being read.
    Stream(&'a mut dyn FnMut(&mut [u8]) -> Result<usize, Error>),
}

/// What is copied.
pub enum Source<'a> {
    /// A file or tree that was found, and the name that its entry gets; empty for a folder whose content is meant.
    Tree(OwnedFd, Vec<u8>),
    /// An archive.
    Archive(&'a mut dyn Read),
}

/// Gives every entry of the source to the sink.
///
/// # Errors
///
/// The source cannot be read, the sink cannot be written, or a special file is refused.
pub fn walk(source: Source<'_>, rules: &Rules, sink: &mut dyn Sink) -> Result<(), Error> {
    match source {
        Source::Tree(found, name) => Walk { rules, sink, links: HashMap::new() }.visit(&found, name, 0),
        Source::Archive(input) => archive(input, rules, sink),
    }
}

struct Walk<'a> {
    rules: &'a Rules,
    sink: &'a mut dyn Sink,
    /// The first name of each file that has several, and how many are still to come.
    links: HashMap<(u64, u64), (Vec<u8>, u64)>,
}

impl Walk<'_> {
    fn visit(&mut self, found: &OwnedFd, path: Vec<u8>, depth: usize) -> Result<(), Error> {
        let about = fstat(found).map_err(Error::read(&path))?;
        let mut entry = self.entry(&about, path);
        match FileType::from_raw_mode(about.st_mode) {
            FileType::Directory => return self.folder(found, entry, depth),
            FileType::RegularFile => {
                if self.is_known(&about, &mut entry) {
                    return self.sink.put(&entry, Content::Nothing);
                }
                let file = inside::reopen(found, OFlags::RDONLY).map_err(Error::read(&entry.path))?;
                entry.attributes = self.attributes(&file, &entry.path)?;
                return self.sink.put(&entry, Content::File(&file));
            }
            FileType::Symlink => {
                entry.kind = Kind::Symlink;
                entry.link =
                    readlinkat(found, c"", Vec::new()).map_err(Error::read(&entry.path))?.into_bytes();
            }
            FileType::Fifo => entry.kind = Kind::Fifo,
            FileType::CharacterDevice => entry.kind = Kind::Character,
            FileType::BlockDevice => entry.kind = Kind::Block,
            _ => {
                // Nobody could make it anew so that its owner would listen.
                return self.rules.special(&entry.path, "socket").map(drop);
            }
        }
        if !self.rules.takes(&entry)? || self.is_known(&about, &mut entry) && entry.kind != Kind::HardLink {
            return Ok(());
        }
        self.sink.put(&entry, Content::Nothing)
    }

    fn folder(&mut self, found: &OwnedFd, mut entry: Entry, depth: usize) -> Result<(), Error> {
        if depth >= DEPTH {
            return Err(Error::Deep { path: shown(&entry.path) });
        }
        entry.kind = Kind::Folder;
        entry.size = 0;
        let folder =
            openat(found, c".", FOLDER, rustix::fs::Mode::empty()).map_err(Error::read(&entry.path))?;
        entry.attributes = self.attributes(&folder, &entry.path)?;
        self.sink.put(&entry, Content::Nothing)?;
        let mut names = Dir::new(folder).map_err(Error::read(&entry.path))?;
        while let Some(name) = names.read() {
            let name = name.map_err(Error::read(&entry.path))?;
            let name = name.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = join(&entry.path, name.to_bytes());
            let folder = names.fd().map_err(Error::read(&entry.path))?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = match openat(folder, name, flags, rustix::fs::Mode::empty()) {
                // It went while we looked.
                Err(Errno::NOENT) => continue,
                result => result.map_err(Error::read(&path))?,
            };
            self.visit(&inner, path, depth + 1)?;
        }
        self.sink.leave(&entry)
    }

    fn entry(&self, about: &Stat, path: Vec<u8>) -> Entry {
        Entry {
            path,
            link: Vec::new(),
            kind: Kind::File,
            mode: about.st_mode & 0o7777,
            owner: self.rules.seen(about.st_uid, about.st_gid),
            modified: (about.st_mtime, u32::try_from(about.st_mtime_nsec).unwrap_or(0)),
            size: u64::try_from(about.st_size).unwrap_or(0),
            sparse: None,
            attributes: Vec::new(),
            device: (major(about.st_rdev), minor(about.st_rdev)),
        }
    }

    /// Turns the second and each further name of a file into a link to the first.
    fn is_known(&mut self, about: &Stat, entry: &mut Entry) -> bool {
        let key = (about.st_dev, about.st_ino);
        if about.st_nlink < 2 {
            return false;
        }
        if let Some((first, left)) = self.links.get_mut(&key) {
            (entry.kind, entry.link) = (Kind::HardLink, first.clone());
            *left -= 1;
            if *left == 0 {
                self.links.remove(&key);
            }
            return true;
        }
        if self.links.len() < LINKS {
            self.links.insert(key, (entry.path.clone(), about.st_nlink - 1));
        }
        false
    }

    fn attributes(&self, file: &OwnedFd, path: &[u8]) -> Result<Attributes, Error> {
        attributes(self.rules, file, path)
    }
}

/// The extended attributes of a file that the rules keep.
pub(super) fn attributes(rules: &Rules, file: &OwnedFd, path: &[u8]) -> Result<Attributes, Error> {
    let mut names = Vec::with_capacity(256);
    let listed = loop {
        match flistxattr(file, rustix::buffer::spare_capacity(&mut names)) {
            Err(Errno::RANGE) if names.capacity() < ATTRIBUTES => names.reserve(names.capacity() * 2),
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            result => break result,
        }
    };
    listed.map_err(Error::read(path))?;
    let mut list = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty() && rules.keeps(name)) {
        let mut value = Vec::with_capacity(256);
        loop {
            match fgetxattr(file, name, rustix::buffer::spare_capacity(&mut value)) {
                Ok(_) => break list.push((name.to_vec(), value)),
                Err(Errno::RANGE) if value.capacity() < ATTRIBUTES => value.reserve(value.capacity() * 2),
                // It went meanwhile, or is for others to read.
                Err(Errno::NODATA | Errno::PERM | Errno::NOTSUP) => break,
                Err(error) => return Err(Error::read(path)(error)),
            }
        }
    }
    Ok(list)
}

pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

fn archive(input: &mut dyn Read, rules: &Rules, sink: &mut dyn Sink) -> Result<(), Error> {
    let mut archive = Archive::new(input);
    let mut folders = Vec::new();
    while let Some(mut entry) = archive.next_entry()? {
        entry.path = plain(&entry, &entry.path)?;
        if entry.kind == Kind::HardLink {
            entry.link = plain(&entry, &entry.link)?;
        }
        entry.attributes.retain(|(name, _)| rules.keeps(name));
        match entry.kind {
            _ if !rules.takes(&entry)? => continue,
            Kind::File => {
                let mut read = |buffer: &mut [u8]| Ok(archive.read(buffer)?);
                sink.put(&entry, Content::Stream(&mut read))?;
            }
            // The target folder itself stays as it is.
            Kind::Folder if entry.path.is_empty() => {}
            Kind::Folder => {
                sink.put(&entry, Content::Nothing)?;
                if folders.len() < TIMES {
                    folders.push(Entry { attributes: Vec::new(), ..entry });
                }
            }
            _ => sink.put(&entry, Content::Nothing)?,
        }
    }
    folders.iter().rev().try_for_each(|folder| sink.leave(folder))
}

/// A path of an archive as names joined by slashes.
fn plain(entry: &Entry, path: &[u8]) -> Result<Vec<u8>, Error> {
    let refuse = |reason| Err(Error::Refused { name: entry.name(), reason });
    let names: Vec<&[u8]> =
        path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    match () {
        () if path.contains(&0) => refuse("its path holds a nul character"),
        () if names.contains(&b"..".as_slice()) => refuse("its path has `..`"),
        () if names.len() > DEPTH => Err(Error::Deep { path: shown(path) }),
        () if names.is_empty() && entry.kind != Kind::Folder => refuse("it has no name"),
        () => Ok(names.join(&b'/')),
    }
}

/// The folder that a path names, where it is one.
///
/// # Errors
///
/// As openat2(2); ENOTDIR.
pub(super) fn folder_at(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let found = inside::find(root, path, inside::LastLink::Followed)?;
    openat(found, c".", FOLDER, rustix::fs::Mode::empty())
}
