//! Copies of files and trees between roots that do not trust each other: `vctx cp`, the first content of volumes, copies
//! of upper layers.
//!
//! `source` walks a tree or reads an archive and says of each entry what it is; `sink` makes it below a descriptor, or
//! writes an archive; `place` stages a whole copy beside its target and moves it there when it is complete. `rules` says
//! what of an entry is kept. Nothing is executed, and of a tree that a guest can change every name is a single one below
//! a descriptor (CVE-2019-14271, 2026-41567).

mod file;
mod place;
mod rules;
mod sink;
mod source;
mod write;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::image::archive;

pub use place::{Target, copy, find, remove_tree};
pub use rules::{Attributes, Bits, Ids, Owners, Rules, Specials};
pub use sink::Tree;
pub use source::{Source, walk};
pub use write::Writer;

pub(crate) use source::Content;

/// Folders in folders: deeper trees are refused, for each level holds a descriptor.
pub(crate) const DEPTH: usize = 900;

/// What is made of entries.
pub trait Sink {
    /// Takes one entry; its folder came before.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    fn put(&mut self, entry: &archive::Entry, content: Content<'_>) -> Result<(), Error>;

    /// All entries of a folder have come.
    ///
    /// # Errors
    ///
    /// Its time cannot be set.
    fn leave(&mut self, folder: &archive::Entry) -> Result<(), Error>;
}

/// Why a copy was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The target cannot be written.
    #[error("cannot write {}{}", path.display(), hint(source))]
    Write {
        /// What.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A device, pipe or socket.
    #[error("{} is a {kind}; leave such files out with --special skip, or make them with --special make", path.display())]
    Special {
        /// Which.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The tree is too deep.
    #[error("{} lies more than {DEPTH} folders deep", path.display())]
    Deep {
        /// A folder in it.
        path: PathBuf,
    },
    /// A folder is to replace a file, or the other way round.
    #[error("{} is {there}, and {coming} cannot take its place", path.display())]
    Clash {
        /// The target.
        path: PathBuf,
        /// What it is.
        there: &'static str,
        /// What was to be written.
        coming: &'static str,
    },
    /// The target has to be a folder.
    #[error("{} is no folder", path.display())]
    NoFolder {
        /// The target.
        path: PathBuf,
    },
    /// The id does not exist on the other side.
    #[error("{} belongs to {user}:{group}, which its new place has no ids for; leave --archive away", path.display())]
    Owner {
        /// What.
        path: PathBuf,
        /// User id, as its context sees it.
        user: u32,
        /// Group id.
        group: u32,
    },
    /// The archive is damaged.
    #[error(transparent)]
    Archive(#[from] archive::Error),
    /// The archive asks for what is not done.
    #[error("{name}: refused, because {reason}")]
    Refused {
        /// The entry.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// An archive would be written to an archive.
    #[error("one of the two must be a path; `-` on both sides copies nothing")]
    NoTree,
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc_errno::EROFS) => {
            "; it is read-only there, or lies on memory that goes when the context stops"
        }
        Some(libc_errno::ENOSPC | libc_errno::EDQUOT) => "; nothing of the copy was kept",
        _ => "",
    }
}

/// Numbers that rustix names and `io::Error` carries.
mod libc_errno {
    pub(super) const EROFS: i32 = rustix::io::Errno::ROFS.raw_os_error();
    pub(super) const ENOSPC: i32 = rustix::io::Errno::NOSPC.raw_os_error();
    pub(super) const EDQUOT: i32 = rustix::io::Errno::DQUOT.raw_os_error();
}

impl Error {
    pub(crate) fn read<E: Into<io::Error>>(path: &[u8]) -> impl FnOnce(E) -> Error {
        let path = shown(path);
        move |source| Error::Read { path, source: source.into() }
    }

    pub(crate) fn write<E: Into<io::Error>>(path: &[u8]) -> impl FnOnce(E) -> Error {
        let path = shown(path);
        move |source| Error::Write { path, source: source.into() }
    }
}

/// Gives a folder the extended attributes of another one.
pub(crate) fn copy_attributes(from: &OwnedFd, to: &OwnedFd, rules: &Rules) -> Result<(), Error> {
    for (name, value) in source::attributes(rules, from, b"")? {
        let name = std::ffi::OsStr::from_bytes(&name);
        match rustix::fs::fsetxattr(to, name, &value, rustix::fs::XattrFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(Error::write(b"")(error)),
        }
    }
    Ok(())
}

/// A path for messages; control characters of a guest's name do not reach a terminal.
pub(crate) fn shown(path: &[u8]) -> PathBuf {
    let text = if path.is_empty() { "." } else { &*String::from_utf8_lossy(path) };
    text.escape_debug().to_string().into()
}
