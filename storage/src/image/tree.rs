//! The tree of a layer while it is unpacked: folders by their paths, and the marks that overlayfs reads.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, XattrFlags, fsetxattr, mkdirat, mknodat, openat, statat, unlinkat,
};
use rustix::io::Errno;

use super::unpack::split;
use super::within;

/// Folders that are kept open. Archives are written folder by folder.
const KEPT: usize = 64;
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

pub(super) struct Tree {
    root: OwnedFd,
    /// The attribute that makes a folder opaque.
    opaque: &'static str,
    open: RefCell<HashMap<Vec<u8>, Rc<OwnedFd>>>,
    /// Folders that were made only to go through them.
    implied: RefCell<HashSet<Vec<u8>>>,
    /// Bytes of their paths.
    paths: Cell<u64>,
}

impl Tree {
    pub(super) fn new(root: OwnedFd, privileged: bool) -> Tree {
        Tree {
            root,
            opaque: opaque_attribute(privileged),
            open: RefCell::default(),
            implied: RefCell::default(),
            paths: Cell::default(),
        }
    }

    pub(super) fn reopen_root(&self) -> Result<OwnedFd, Errno> {
        openat(&self.root, c".", FOLDER, Mode::empty())
    }

    /// The folder at a path. Where it or one above is missing, it is made, as archives may leave folders out.
    pub(super) fn folder(&self, path: &[u8]) -> Result<Rc<OwnedFd>, Errno> {
        if let Some(folder) = self.open.borrow().get(path) {
            return Ok(Rc::clone(folder));
        }
        let folder = match within::open(&self.root, path, FOLDER) {
            Err(Errno::NOENT | Errno::NOTDIR) if !path.is_empty() => {
                let (above, name) = split(path);
                let above = self.folder(above)?;
                let hides = is_whiteout(&above, name) == Ok(true);
                if hides {
                    unlinkat(&above, name, AtFlags::empty())?;
                }
                mkdirat(&above, name, Mode::from_raw_mode(0o755))?;
                let made = openat(&above, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
                if self.implied.borrow_mut().insert(path.to_vec()) {
                    self.paths.set(self.paths.get() + path.len() as u64);
                }
                if hides {
                    self.set_opaque(&made)?;
                }
                made
            }
            result => result?,
        };
        let folder = Rc::new(folder);
        let mut open = self.open.borrow_mut();
        if open.len() >= KEPT {
            open.clear();
        }
        open.insert(path.to_vec(), Rc::clone(&folder));
        Ok(folder)
    }

    /// The folder at a path, where it is.
    pub(super) fn existing(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        within::open(&self.root, path, FOLDER)
    }

    /// How many folders were made only to go through them, and the bytes of their paths: an entry can name two thousand.
    pub(super) fn implied(&self) -> (u64, u64) {
        (self.implied.borrow().len() as u64, self.paths.get())
    }

    /// Folders that were made only to go through them.
    pub(super) fn into_implied(self) -> Vec<Vec<u8>> {
        self.implied.into_inner().into_iter().collect()
    }

    /// Makes a folder, or takes the one that is there.
    pub(super) fn make_folder(&self, above: &OwnedFd, path: &[u8], name: &[u8]) -> Result<OwnedFd, Errno> {
        if self.implied.borrow_mut().remove(path) {
            self.paths.set(self.paths.get() - path.len() as u64);
        }
        let open = || openat(above, name, FOLDER | OFlags::NOFOLLOW, Mode::empty());
        match mkdirat(above, name, Mode::RWXU) {
            Ok(()) => open(),
            Err(Errno::EXIST) => match open() {
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    // A whiteout in the same layer is meant for what lies below it.
                    let hides = is_whiteout(above, name)?;
                    self.make_room(above, name)?;
                    mkdirat(above, name, Mode::RWXU)?;
                    let made = open()?;
                    if hides {
                        self.set_opaque(&made)?;
                    }
                    Ok(made)
                }
                result => result,
            },
            Err(error) => Err(error),
        }
    }

    /// Removes what an earlier entry has put at this place.
    pub(super) fn make_room(&self, above: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        match unlinkat(above, name, AtFlags::empty()) {
            Ok(()) => {
                // It may have been a link through which a folder was reached.
                self.open.borrow_mut().clear();
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                self.open.borrow_mut().clear();
                Tree::remove_folder(above, name)
            }
            Err(error) => Err(error),
        }
    }

    fn remove_folder(above: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        let folder = openat(above, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
        for entry in rustix::fs::Dir::read_from(&folder)? {
            let entry = entry?;
            let inner = entry.file_name().to_bytes();
            if matches!(inner, b"." | b"..") {
                continue;
            }
            match unlinkat(&folder, inner, AtFlags::empty()) {
                Err(Errno::ISDIR) => Tree::remove_folder(&folder, inner)?,
                result => result?,
            }
        }
        unlinkat(above, name, AtFlags::REMOVEDIR)
    }

    /// Hides what layers below have under this name. What this layer itself has there stays.
    pub(super) fn whiteout(&self, folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        match mknodat(folder, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => match openat(folder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(own) => self.set_opaque(&own),
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(()),
                Err(error) => Err(error),
            },
            result => result,
        }
    }

    pub(super) fn set_opaque(&self, folder: impl AsFd) -> Result<(), Errno> {
        fsetxattr(folder, self.opaque, b"y", XattrFlags::empty())
    }
}

/// The attribute by which overlayfs knows an opaque folder; in a user namespace it reads another one.
pub(super) fn opaque_attribute(privileged: bool) -> &'static str {
    if privileged { "trusted.overlay.opaque" } else { "user.overlay.opaque" }
}

/// A character device 0:0 stands for a name that the layers below are not to show.
pub(super) fn is_whiteout(folder: impl AsFd, name: &[u8]) -> Result<bool, Errno> {
    let about = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(about.st_mode) == FileType::CharacterDevice && about.st_rdev == 0)
}
