//! Equal files of contexts, snapshots and layers share their extents (btrfs, xfs with reflinks).
//!
//! Files of one size are compared by digest, and the kernel compares them once more, byte by byte and locked, before it
//! lets them share (ioctl_fideduperange(2)): one that changes meanwhile stays as it is. Nobody can tell afterwards but by
//! the room on disk. Owners, modes and names are untouched, and no file becomes another name of a second one.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::inside::{self, FOLDER, LastLink};
use crate::kernel;
use crate::transfer::DEPTH;

/// Smaller files have no extent to share, or lie in the inode.
const SMALLEST: u64 = 4096;
/// So much is shared by one call; file systems take 16 MiB at most.
const PIECE: u64 = 16 << 20;
const BUFFER: usize = 256 << 10;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Equal files come to share.
    Share,
    /// It is only counted what they would.
    Look,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Files that were looked at.
    pub files: u64,
    /// Files that are equal to another one, and share now or would.
    pub equal: u64,
    /// Bytes that they share now or would.
    pub bytes: u64,
    /// Files that share already.
    pub shared: u64,
    /// Files that changed meanwhile, or could not be read.
    pub passed: u64,
}

/// Why nothing is shared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system has no extents that files can share.
    #[error("the file system of {} cannot let files share what is equal in them; btrfs and xfs (reflink=1) can", .0.display())]
    Unfit(PathBuf),
    /// The kernel refuses.
    #[error("cannot share extents in {}", path.display())]
    Share {
        /// The folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

/// A file: the number of its folder, and its path below.
struct Candidate {
    folder: usize,
    path: Vec<u8>,
}

/// Lets equal files below these folders share.
///
/// # Errors
///
/// The file system cannot, or refuses.
pub fn dedup(folders: &[PathBuf], doing: Doing) -> Result<Found, Error> {
    let roots: Vec<OwnedFd> =
        folders.iter().filter_map(|folder| openat(CWD, folder, FOLDER, Mode::empty()).ok()).collect();
    let mut sizes: HashMap<(u64, u64), Vec<Candidate>> = HashMap::new();
    let mut found = Found::default();
    for (number, root) in roots.iter().enumerate() {
        collect(root, OsStr::new("."), &mut Vec::new(), number, &mut sizes, 0);
    }
    for ((_, size), candidates) in sizes {
        found.files += candidates.len() as u64;
        if candidates.len() < 2 {
            continue;
        }
        let mut first: HashMap<[u8; 32], OwnedFd> = HashMap::new();
        for candidate in candidates {
            let Some(file) = open(&roots[candidate.folder], &candidate.path, size) else {
                found.passed += 1;
                continue;
            };
            let Ok(digest) = digest(&file) else {
                found.passed += 1;
                continue;
            };
            let Some(one) = first.get(&digest) else {
                first.insert(digest, file);
                continue;
            };
            if same_place(one, &file) {
                found.shared += 1;
                continue;
            }
            match doing {
                Doing::Look => {
                    found.equal += 1;
                    found.bytes += size;
                }
                Doing::Share => share(one, &file, size, &folders[candidate.folder], &mut found)?,
            }
        }
    }
    Ok(found)
}

/// The file system of a folder lets files share. Nothing is written but a file without a name.
#[must_use]
pub fn can_share(folder: &Path) -> bool {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let make = || -> io::Result<()> {
        let one = File::from(openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR)?);
        let other = openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR)?;
        std::os::unix::fs::FileExt::write_all_at(&one, &[1; 4096], 0)?;
        Ok(rustix::fs::ioctl_ficlone(&other, &one)?)
    };
    make().is_ok()
}

fn share(one: &OwnedFd, other: &OwnedFd, size: u64, folder: &Path, found: &mut Found) -> Result<(), Error> {
    let mut offset = 0;
    while offset < size {
        match kernel::share(one, other, offset, PIECE.min(size - offset)) {
            Ok(Some(count)) if count > 0 => offset += count,
            // It has changed since it was read.
            Ok(_) => {
                found.passed += 1;
                return Ok(());
            }
            Err(error)
                if [Errno::NOTSUP, Errno::INVAL, Errno::XDEV]
                    .iter()
                    .any(|one| error.raw_os_error() == Some(one.raw_os_error())) =>
            {
                return Err(Error::Unfit(folder.into()));
            }
            // It is being executed, or another's, or was sealed.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ExecutableFileBusy
                ) =>
            {
                found.passed += 1;
                return Ok(());
            }
            Err(source) => return Err(Error::Share { path: folder.into(), source }),
        }
    }
    found.equal += 1;
    found.bytes += size;
    Ok(())
}

/// By single names below descriptors: a guest may exchange folders meanwhile.
fn collect(
    above: impl AsFd,
    name: &OsStr,
    path: &mut Vec<u8>,
    number: usize,
    sizes: &mut HashMap<(u64, u64), Vec<Candidate>>,
    depth: usize,
) {
    let Ok(folder) = openat(above, name, FOLDER, Mode::empty()) else { return };
    let Ok(mut entries) = Dir::new(folder) else { return };
    while let Some(Ok(entry)) = entries.read() {
        let inner = entry.file_name().to_bytes();
        let Ok(folder) = entries.fd() else { return };
        if matches!(inner, b"." | b"..") {
            continue;
        }
        let Ok(about) = statat(folder, inner, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let length = path.len();
        path.extend_from_slice(inner);
        match FileType::from_raw_mode(about.st_mode) {
            FileType::Directory if depth < DEPTH => {
                path.push(b'/');
                collect(folder, OsStr::from_bytes(inner), path, number, sizes, depth + 1);
            }
            FileType::RegularFile => {
                let size = u64::try_from(about.st_size).unwrap_or(0);
                if size >= SMALLEST && about.st_blocks > 0 {
                    let candidate = Candidate { folder: number, path: path.clone() };
                    sizes.entry((about.st_dev, size)).or_default().push(candidate);
                }
            }
            _ => {}
        }
        path.truncate(length);
    }
}

fn open(root: &OwnedFd, path: &[u8], size: u64) -> Option<OwnedFd> {
    let path = PathBuf::from(OsString::from_vec(path.to_vec()));
    let found = inside::find(root, &path, LastLink::Taken).ok()?;
    let about = fstat(&found).ok()?;
    let fits =
        FileType::from_raw_mode(about.st_mode) == FileType::RegularFile && about.st_size as u64 == size;
    if fits { inside::reopen(found, OFlags::RDONLY).ok() } else { None }
}

fn digest(file: &OwnedFd) -> io::Result<[u8; 32]> {
    let mut file = File::from(file.try_clone()?);
    let (mut digest, mut buffer) = (Sha256::new(), vec![0; BUFFER]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(digest.finalize().into()),
            count => digest.update(&buffer[..count]),
        }
    }
}

/// They begin at the same place on disk, and so share already, or are one file with two names.
fn same_place(one: &OwnedFd, other: &OwnedFd) -> bool {
    match (kernel::first_extent(one), kernel::first_extent(other)) {
        (Ok(Some(one)), Ok(Some(other))) => one == other,
        _ => false,
    }
}
