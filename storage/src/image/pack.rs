//! Packs a folder with a root file system into an archive, which becomes the layer of an image.
//!
//! The tree may be one that a guest writes to meanwhile: everything is opened by a single name below a descriptor, and no
//! link is followed. What is mounted below it belongs to another file system and is left out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, fstat, openat, readlinkat, statat,
};
use rustix::io::Errno;
use tar::{EntryType, Header};

use super::archive::printable;

/// Folders in folders, each of which holds a descriptor.
const DEEPEST: usize = 200;
/// Larger lists or values of attributes than any file system keeps, in bytes.
const ATTRIBUTES: usize = 64 << 10;
const WHITEOUT: &[u8] = b".wh.";
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
/// The most that an octal field of a header holds.
const LARGEST_ID: u32 = 0o7_777_777;
const LARGEST_SIZE: u64 = 0o77_777_777_777;

/// Names and values.
type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// Why a folder cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("cannot read {name}")]
    Read {
        /// The file.
        name: String,
        /// Cause.
        source: io::Error,
    },
    /// It cannot be part of a layer.
    #[error("{name}: {reason}")]
    Refused {
        /// The file.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// The disk is full.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
}

/// Writes the archive of the folder.
///
/// # Errors
///
/// Something cannot be read, or has a name that means something else in a layer; or the disk is full.
pub fn pack(folder: &Path, output: impl Write) -> Result<(), Error> {
    let read = |error: Errno| Error::Read { name: folder.display().to_string(), source: error.into() };
    let root = openat(CWD, folder, FOLDER, Mode::empty()).map_err(read)?;
    let about = fstat(&root).map_err(read)?;
    let mut packer = Packer { output, device: about.st_dev, linked: HashMap::new() };
    packer.entry(b"./", b"", &about, EntryType::Directory, attributes(&root, b"./")?)?;
    packer.folder(&root, b"", 0)?;
    packer.output.write_all(&[0; 1024]).and_then(|()| packer.output.flush()).map_err(Error::Write)
}

struct Packer<W> {
    output: W,
    /// The file system of the folder.
    device: u64,
    /// The first name of a file with several.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> Packer<W> {
    fn folder(&mut self, folder: &OwnedFd, path: &[u8], depth: usize) -> Result<(), Error> {
        if depth > DEEPEST {
            return Err(refused(path, "it lies deeper than 200 folders"));
        }
        let read = |error: Errno| read_error(path, error);
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(read)? {
            let name = entry.map_err(read)?.file_name().to_bytes().to_vec();
            if !matches!(&*name, b"." | b"..") {
                names.push(name);
            }
        }
        // The same folder gives the same archive.
        names.sort_unstable();
        for name in names {
            let inner = [path, if path.is_empty() { &b""[..] } else { b"/" }, &*name].concat();
            if name.starts_with(WHITEOUT) {
                return Err(refused(&inner, "a name that begins with .wh. would take another file away"));
            }
            match self.one(folder, &name, &inner, depth) {
                // It has gone since the folder was read.
                Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    fn one(&mut self, folder: &OwnedFd, name: &[u8], path: &[u8], depth: usize) -> Result<(), Error> {
        let read = |error: Errno| read_error(path, error);
        let about = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(read)?;
        match FileType::from_raw_mode(about.st_mode) {
            FileType::Directory => {
                let inner = openat(folder, name, FOLDER, Mode::empty()).map_err(read)?;
                let about = fstat(&inner).map_err(read)?;
                let name = [path, b"/"].concat();
                if about.st_dev != self.device {
                    // The folder under the mount cannot be seen; an empty one keeps its place.
                    return self.entry(&name, b"", &about, EntryType::Directory, Vec::new());
                }
                self.entry(&name, b"", &about, EntryType::Directory, attributes(&inner, path)?)?;
                self.folder(&inner, path, depth + 1)
            }
            FileType::RegularFile => self.file(folder, name, path),
            FileType::Symlink => {
                let target = readlinkat(folder, name, Vec::new()).map_err(read)?;
                self.entry(path, target.as_bytes(), &about, EntryType::Symlink, Vec::new())
            }
            FileType::Fifo => self.entry(path, b"", &about, EntryType::Fifo, Vec::new()),
            FileType::CharacterDevice => self.entry(path, b"", &about, EntryType::Char, Vec::new()),
            FileType::BlockDevice => self.entry(path, b"", &about, EntryType::Block, Vec::new()),
            // A socket is of a process, and no archive has it.
            _ => Ok(()),
        }
    }

    fn file(&mut self, folder: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), Error> {
        let read = |error: Errno| read_error(path, error);
        // What has become a pipe since it was looked at does not hold us up.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(folder, name, flags, Mode::empty()).map_err(read)?;
        let about = fstat(&file).map_err(read)?;
        if FileType::from_raw_mode(about.st_mode) != FileType::RegularFile {
            return Err(refused(path, "it has changed while it was read"));
        }
        if about.st_nlink > 1 {
            if let Some(first) = self.linked.get(&(about.st_dev, about.st_ino)).cloned() {
                return self.entry(path, &first, &about, EntryType::Link, Vec::new());
            }
            self.linked.insert((about.st_dev, about.st_ino), path.to_vec());
        }
        self.entry(path, b"", &about, EntryType::Regular, attributes(&file, path)?)?;
        let size = about.st_size.unsigned_abs();
        let copied = io::copy(&mut File::from(file).take(size), &mut self.output).map_err(Error::Write)?;
        if copied != size {
            return Err(refused(path, "it became shorter while it was read"));
        }
        self.pad(size)
    }

    /// The header of an entry, behind the records that do not fit into it.
    fn entry(
        &mut self,
        path: &[u8],
        link: &[u8],
        about: &Stat,
        kind: EntryType,
        attributes: Attributes,
    ) -> Result<(), Error> {
        let size = if kind == EntryType::Regular { about.st_size.unsigned_abs() } else { 0 };
        let mut records = Vec::new();
        let mut record = |key: &[u8], value: &[u8]| records.extend(pax(key, value));
        if path.len() > 100 {
            record(b"path", path);
        }
        if link.len() > 100 {
            record(b"linkpath", link);
        }
        if size > LARGEST_SIZE {
            record(b"size", size.to_string().as_bytes());
        }
        if about.st_uid > LARGEST_ID {
            record(b"uid", about.st_uid.to_string().as_bytes());
        }
        if about.st_gid > LARGEST_ID {
            record(b"gid", about.st_gid.to_string().as_bytes());
        }
        let whole = u64::try_from(about.st_mtime).ok().filter(|&seconds| seconds <= LARGEST_SIZE);
        if whole.is_none() || about.st_mtime_nsec != 0 {
            record(b"mtime", time(about.st_mtime, about.st_mtime_nsec).as_bytes());
        }
        for (name, value) in attributes {
            record(&[&b"SCHILY.xattr."[..], &*name].concat(), &value);
        }
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            header.set_mode(0o644);
            header.set_size(records.len() as u64);
            header.as_old_mut().name[..3].copy_from_slice(b"pax");
            self.header(&mut header)?;
            self.output.write_all(&records).map_err(Error::Write)?;
            self.pad(records.len() as u64)?;
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(about.st_mode & 0o7777);
        header.set_uid(about.st_uid.min(LARGEST_ID).into());
        header.set_gid(about.st_gid.min(LARGEST_ID).into());
        header.set_mtime(whole.unwrap_or(0));
        header.set_size(size.min(LARGEST_SIZE));
        if matches!(kind, EntryType::Char | EntryType::Block) {
            let numbers = (rustix::fs::major(about.st_rdev), rustix::fs::minor(about.st_rdev));
            let fits = header.set_device_major(numbers.0).and_then(|()| header.set_device_minor(numbers.1));
            fits.map_err(|source| Error::Read { name: printable(path), source })?;
        }
        // Not the library's own setters, which split paths and refuse what a file may well be called.
        let fields = header.as_old_mut();
        let (shown, shown_link) = (&path[..path.len().min(100)], &link[..link.len().min(100)]);
        fields.name[..shown.len()].copy_from_slice(shown);
        fields.linkname[..shown_link.len()].copy_from_slice(shown_link);
        self.header(&mut header)
    }

    fn header(&mut self, header: &mut Header) -> Result<(), Error> {
        header.set_cksum();
        self.output.write_all(header.as_bytes()).map_err(Error::Write)
    }

    fn pad(&mut self, size: u64) -> Result<(), Error> {
        let padding = size.next_multiple_of(512) - size;
        self.output.write_all(&[0; 512][..padding as usize]).map_err(Error::Write)
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn pax(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} ").as_bytes(), key, b"=", value, b"\n"].concat()
}

/// Seconds since 1970 as a decimal fraction; of the time before, the nanoseconds still count forward.
fn time(seconds: i64, nanoseconds: u64) -> String {
    match (seconds, nanoseconds) {
        (seconds, 0) => seconds.to_string(),
        (0.., nanoseconds) => format!("{seconds}.{nanoseconds:09}"),
        (seconds, nanoseconds) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds),
    }
}

/// The attributes that a layer carries: not the labels of this machine, nor the marks of an overlay.
fn attributes(file: impl AsFd, path: &[u8]) -> Result<Attributes, Error> {
    let mut names = vec![0; ATTRIBUTES];
    let length = match flistxattr(&file, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        length => length.map_err(|error| read_error(path, error))?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|&byte| byte == 0) {
        let is_marked =
            [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|mark| name.starts_with(mark));
        let is_carried = [&b"user."[..], b"trusted.", b"system.posix_acl_", b"security.capability"]
            .iter()
            .any(|kind| name.starts_with(kind));
        if is_marked || !is_carried {
            continue;
        }
        let mut value = vec![0; ATTRIBUTES];
        match fgetxattr(&file, name, &mut value[..]) {
            Err(Errno::NODATA) => continue,
            length => value.truncate(length.map_err(|error| read_error(path, error))?),
        }
        found.push((name.to_vec(), value));
    }
    found.sort_unstable();
    Ok(found)
}

fn read_error(path: &[u8], error: Errno) -> Error {
    Error::Read { name: printable(path), source: error.into() }
}

fn refused(path: &[u8], reason: &'static str) -> Error {
    Error::Refused { name: printable(path), reason }
}

#[cfg(test)]
mod tests {
    use super::super::archive::{Archive, Kind};
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_record_counts_its_own_length() {
        assert_eq!(pax(b"path", b"x"), b"9 path=x\n");
        assert_eq!(pax(b"path", b""), b"8 path=\n");
        assert_eq!(pax(b"a", &[b'x'; 95]).len(), 102);
        assert_eq!((time(5, 0), time(5, 1), time(-5, 0)), ("5".into(), "5.000000001".into(), "-5".into()));
        assert_eq!(time(-6, 500_000_000), "-5.500000000");
    }

    #[test]
    fn what_is_packed_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let long = "n".repeat(200);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/file"), "content").unwrap();
        fs::hard_link(at("d/file"), at("d/other")).unwrap();
        symlink("/absent", at("link")).unwrap();
        fs::write(at(&long), "x").unwrap();
        let mut bytes = Vec::new();
        pack(folder.path(), &mut bytes).unwrap();
        let mut archive = Archive::new(&*bytes);
        let mut found = Vec::new();
        while let Some(entry) = archive.next_entry().unwrap() {
            found.push((String::from_utf8(entry.path).unwrap(), entry.kind, entry.link, entry.size));
        }
        let file = |name: &str, size| (name.to_owned(), Kind::File, vec![], size);
        assert_eq!(
            found,
            [
                ("./".to_owned(), Kind::Folder, vec![], 0),
                ("d/".to_owned(), Kind::Folder, vec![], 0),
                file("d/file", 7),
                ("d/other".to_owned(), Kind::HardLink, b"d/file".to_vec(), 0),
                ("link".to_owned(), Kind::Symlink, b"/absent".to_vec(), 0),
                file(&long, 1),
            ]
        );
        fs::write(at(".wh.x"), "").unwrap();
        assert!(matches!(pack(folder.path(), io::sink()), Err(Error::Refused { .. })));
    }
}
