//! Files that hold images: OCI layouts (a folder, or a tar archive of one), archives of `docker save`, and plain archives
//! of a root file system. Archives are not unpacked for this: their entries are found once and read in place.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::archive::{Archive, Entry, Kind};
use super::digest::Digest;
use super::error::Error;
use super::spec::LARGEST;

/// Entries of an archive of images: far more than any has.
const MOST_ENTRIES: usize = 100_000;
const LINKS: usize = 8;

/// Files by name.
#[derive(Debug)]
pub(super) enum Files {
    Folder(PathBuf),
    Archive { path: PathBuf, file: File, entries: HashMap<String, Place> },
}

/// Where an entry's content lies.
#[derive(Debug, Clone)]
pub(super) enum Place {
    At { offset: u64, size: u64 },
    Link(String),
}

impl Files {
    /// Where they are, for messages.
    pub(super) fn path(&self) -> &Path {
        match self {
            Files::Folder(path) | Files::Archive { path, .. } => path,
        }
    }

    /// The archive's files, or nothing if it is no archive of images but one of a root file system.
    pub(super) fn of_archive(path: &Path, file: File) -> Result<Result<Files, File>, Error> {
        let fail = |source| Error::Archive { path: path.into(), source };
        let mut entries = HashMap::new();
        let mut archive = Archive::new(&file);
        while let Some(entry) = archive.next_entry().map_err(fail)? {
            let name = String::from_utf8_lossy(&entry.path).into_owned();
            let name = name.trim_start_matches("./").trim_end_matches('/').to_owned();
            if !name.is_empty() && !is_of_images(&name) || entries.len() > MOST_ENTRIES {
                return rewound(path, file).map(Err);
            }
            let offset = archive.position;
            match entry.kind {
                Kind::File => drop(entries.insert(name, Place::At { offset, size: entry.size })),
                Kind::Symlink => {
                    let target = joined(&name, &String::from_utf8_lossy(&entry.link));
                    entries.insert(name, Place::Link(target));
                }
                _ => {}
            }
            let next = offset + archive.remaining();
            (&file).seek(SeekFrom::Start(next)).map_err(Error::file("read", path))?;
            archive.moved_on();
        }
        if entries.contains_key("index.json") || entries.contains_key("manifest.json") {
            return Ok(Ok(Files::Archive { path: path.into(), file, entries }));
        }
        rewound(path, file).map(Err)
    }

    /// The first entry of an archive says that it is one of images.
    pub(super) fn is_of_images(first: &Entry) -> bool {
        let name = String::from_utf8_lossy(&first.path);
        let name = name.trim_start_matches("./").trim_end_matches('/');
        !name.is_empty() && is_of_images(name)
    }

    /// There is a file of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Files::Folder(path) => path.join(name).is_file(),
            Files::Archive { entries, .. } => place(entries, name).is_some(),
        }
    }

    /// A file by its name, which must be one that we have made or checked.
    pub(super) fn open(&self, name: &str) -> Result<Box<dyn Read + Send + '_>, Error> {
        match self {
            Files::Folder(path) => {
                let path = path.join(name);
                Ok(Box::new(File::open(&path).map_err(Error::file("read", &path))?))
            }
            Files::Archive { path, file, entries } => match place(entries, name) {
                Some((offset, left)) => Ok(Box::new(Section { file, offset, left })),
                None => Err(Error::nonsense(path.display(), format!("it has no file {name}"))),
            },
        }
    }

    /// A small file by its name.
    pub(super) fn small(&self, name: &str) -> Result<Vec<u8>, Error> {
        let what = || format!("{name} in {}", self.path().display());
        let mut bytes = Vec::new();
        let read = self.open(name)?.take(LARGEST + 1).read_to_end(&mut bytes);
        read.map_err(|source| Error::Input { what: what(), source })?;
        match bytes.len() as u64 > LARGEST {
            true => Err(Error::nonsense(what(), "it is larger than 8 MiB")),
            false => Ok(bytes),
        }
    }
}

fn rewound(path: &Path, file: File) -> Result<File, Error> {
    (&file).seek(SeekFrom::Start(0)).map_err(Error::file("read", path))?;
    Ok(file)
}

fn place(entries: &HashMap<String, Place>, name: &str) -> Option<(u64, u64)> {
    let mut name = name.trim_start_matches("./");
    for _ in 0..LINKS {
        match entries.get(name)? {
            Place::At { offset, size } => return Some((*offset, *size)),
            Place::Link(target) => name = target,
        }
    }
    None
}

/// Where a link in the archive leads, as a name in it.
fn joined(name: &str, target: &str) -> String {
    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The names that archives of images have; the first other one tells that it is none.
fn is_of_images(name: &str) -> bool {
    let first = name.split('/').next().unwrap_or(name);
    let stem = first.strip_suffix(".json").or_else(|| first.strip_suffix(".tar")).unwrap_or(first);
    matches!(first, "oci-layout" | "index.json" | "manifest.json" | "repositories" | "blobs")
        || Digest::from_hex(stem).is_some()
}

/// A part of a file, read without a common position: several readers share the file.
struct Section<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..length], self.offset)?;
        if count == 0 && length > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_an_archive_stay_in_it() {
        assert_eq!(joined("a/layer.tar", "../b/layer.tar"), "b/layer.tar");
        assert_eq!(joined("a/layer.tar", "../../../etc/passwd"), "etc/passwd");
        let entries =
            HashMap::from([("a".to_owned(), Place::Link("b".into())), ("b".into(), Place::Link("a".into()))]);
        assert_eq!(place(&entries, "a"), None);
    }

    #[test]
    fn an_archive_of_a_root_is_told_from_one_of_images() {
        let hex = "0".repeat(64);
        assert!(is_of_images("blobs/sha256/x") && is_of_images(&format!("{hex}/layer.tar")));
        assert!(is_of_images(&format!("{hex}.json")) && !is_of_images("etc/passwd"));
    }
}
