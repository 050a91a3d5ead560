//! Removes a tree of files, however deep a guest or an image has made it.
//!
//! The standard library calls itself for each folder and keeps each one open: some thousand folders in folders, which take
//! a guest no time, and it ends for want of descriptors or of stack. Here one folder is open at a time, and the way up is
//! `..`. What is removed must be nobody else's to change; where it is, the look at each folder on the way up ends it.

pub mod btrfs;

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, unlinkat};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes a folder and all in it, and follows no link.
///
/// # Errors
///
/// It is none, or is not there, or something in it cannot be removed.
pub fn tree(path: &Path) -> io::Result<()> {
    content(path)?;
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Removes the folder of a context, and what its file system keeps of a limit on it.
///
/// # Errors
///
/// As [`tree`].
pub fn limited(path: &Path) -> io::Result<()> {
    btrfs::ungroup(path)?;
    tree(path)
}

/// Removes all that is in a folder, and follows no link.
///
/// # Errors
///
/// As [`tree`].
pub fn content(path: &Path) -> io::Result<()> {
    let mut folder = openat(CWD, path, FOLDER, Mode::empty())?;
    let mut above = Vec::new();
    loop {
        if let Some(below) = first_full(&folder)? {
            above.push(identity(&folder)?);
            folder = openat(&folder, below, FOLDER, Mode::empty())?;
            continue;
        }
        let Some(wanted) = above.pop() else { return Ok(()) };
        let up = openat(&folder, c"..", FOLDER, Mode::empty())?;
        if identity(&up)? != wanted {
            return Err(io::Error::other("a folder was moved away while it was removed"));
        }
        folder = up;
    }
}

/// Removes what is no folder, and empty ones, up to the first folder that has something in it.
fn first_full(folder: &OwnedFd) -> io::Result<Option<CString>> {
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let is_folder = match entry.file_type() {
            FileType::Directory => true,
            _ => match unlinkat(folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => false,
                // A file system that does not say what an entry is.
                Err(Errno::ISDIR) => true,
                Err(error) => return Err(error.into()),
            },
        };
        if is_folder {
            match unlinkat(folder, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(Some(name.into())),
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(None)
}

fn identity(folder: &OwnedFd) -> io::Result<(u64, u64)> {
    let about = fstat(folder)?;
    Ok((about.st_dev, about.st_ino))
}

#[cfg(test)]
mod tests {
    // A failed step of a test is a failed test.
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::os::unix::fs::symlink;

    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn folders_in_folders_beyond_the_length_of_a_path_go() {
        let own = tempfile::tempdir().unwrap();
        let top = own.path().join("top");
        fs::create_dir(&top).unwrap();
        let mut folder = openat(CWD, &top, FOLDER, Mode::empty()).unwrap();
        for _ in 0..2_000 {
            mkdirat(&folder, "x", Mode::RWXU).unwrap();
            folder = openat(&folder, "x", FOLDER, Mode::empty()).unwrap();
        }
        tree(&top).unwrap();
        assert!(!top.exists());
    }

    #[test]
    fn a_tree_goes_and_what_its_links_lead_to_stays() {
        let own = tempfile::tempdir().unwrap();
        let (top, kept) = (own.path().join("top"), own.path().join("kept"));
        for folder in ["a/b/c", "a/d", "e"] {
            fs::create_dir_all(top.join(folder)).unwrap();
            fs::write(top.join(folder).join("file"), "x").unwrap();
        }
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        symlink(&kept, top.join("a/link")).unwrap();
        symlink(&kept, own.path().join("link")).unwrap();
        content(&top).unwrap();
        assert_eq!(fs::read_dir(&top).unwrap().count(), 0);
        tree(&top).unwrap();
        assert!(!top.exists() && kept.join("file").exists());
        assert!(tree(&own.path().join("link")).is_err() && kept.join("file").exists());
        assert_eq!(tree(&top).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(tree(&kept.join("file")).is_err());
    }
}
