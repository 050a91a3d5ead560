//! Removes a tree of files, however deep a guest or an image has made it.
//!
//! The standard library calls itself for each folder and keeps each one open: some thousand folders in folders, which take
//! a guest no time, and it ends for want of descriptors or of stack. Here one folder is open at a time, and the way up is
//! `..`. What is removed must be nobody else's to change; where it is, the look at each folder on the way up ends it.

pub mod btrfs;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawDir, StatxAttributes, StatxFlags, fstat, openat, statx, unlinkat,
};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How many bytes of names are asked for at once.
const NAMES: usize = 8 << 10;
/// What is in the folder of a context that has changed nothing: the layers of its root, and what overlayfs adds to them for
/// an overlay that is thrown away (`volatile`). No guest can put anything in the place of these.
const UNCHANGED: [(&CStr, AtFlags); 7] = [
    (c"0/work/work/incompat/volatile/dirty", AtFlags::empty()),
    (c"0/work/work/incompat/volatile", AtFlags::REMOVEDIR),
    (c"0/work/work/incompat", AtFlags::REMOVEDIR),
    (c"0/work/work", AtFlags::REMOVEDIR),
    (c"0/work", AtFlags::REMOVEDIR),
    (c"0/upper", AtFlags::REMOVEDIR),
    (c"0", AtFlags::REMOVEDIR),
];

/// Removes a folder and all in it, and follows no link.
///
/// # Errors
///
/// It is none, or is not there, or something in it cannot be removed.
pub fn tree(path: &Path) -> io::Result<()> {
    content(path)?;
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Something is mounted at the folder.
#[must_use]
pub fn is_mounted(folder: impl AsFd) -> bool {
    statx(folder, c"", AtFlags::EMPTY_PATH, StatxFlags::empty())
        .is_ok_and(|about| about.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Removes the folder of a context, with the disk of its own and what its file system keeps of a limit on it.
///
/// # Errors
///
/// As [`tree`].
pub fn of_context(path: &Path) -> io::Result<()> {
    let mut folder = openat(CWD, path, FOLDER, Mode::empty())?;
    if is_mounted(&folder) {
        // The disk of its own, which is a file in the folder below. It ends when nobody uses it any more.
        unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
        folder = openat(CWD, path, FOLDER, Mode::empty())?;
    }
    btrfs::ungroup(&folder, path)?;
    // In a tenth of the calls of a walk, which finds what this leaves.
    for (name, flags) in UNCHANGED {
        let _ = unlinkat(&folder, name, flags);
    }
    walk(folder)?;
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// Removes all that is in a folder, and follows no link.
///
/// # Errors
///
/// As [`tree`].
pub fn content(path: &Path) -> io::Result<()> {
    walk(openat(CWD, path, FOLDER, Mode::empty())?)
}

fn walk(mut folder: OwnedFd) -> io::Result<()> {
    let mut above = Vec::new();
    let mut names = Vec::with_capacity(NAMES);
    loop {
        if let Some(below) = first_full(&folder, &mut names)? {
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
/// It has just been opened.
fn first_full(folder: &OwnedFd, names: &mut Vec<u8>) -> io::Result<Option<CString>> {
    let mut entries = RawDir::new(folder, names.spare_capacity_mut());
    while let Some(entry) = entries.next() {
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

    #[test]
    fn the_folder_of_a_context_goes_changed_or_not() {
        let own = tempfile::tempdir().unwrap();
        let top = own.path().join("top");
        for (changed, thrown_away) in [(false, true), (true, true), (false, false), (true, false)] {
            for folder in ["0/upper", "0/work/work", "1/upper", "1/work/work"] {
                fs::create_dir_all(top.join(folder)).unwrap();
            }
            if thrown_away {
                fs::create_dir_all(top.join("0/work/work/incompat/volatile")).unwrap();
                fs::write(top.join("0/work/work/incompat/volatile/dirty"), "").unwrap();
            }
            if changed {
                fs::create_dir(top.join("0/upper/etc")).unwrap();
                symlink(own.path(), top.join("0/upper/etc/link")).unwrap();
            }
            of_context(&top).unwrap();
            assert!(!top.exists());
        }
        assert_eq!(of_context(&top).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
