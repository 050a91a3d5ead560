//! The folder in which a context's layers lie.
//!
//! Changes that are kept need a lasting place: `/var/lib/vctx`, or the user's own data folder. Overlayfs asks more of the
//! file system of an upper layer than of a lower one (file types in directories, atomic renames over whiteouts, own
//! extended attributes), and says EINVAL where it is refused; so the kind is looked at first.

use std::path::{Path, PathBuf};

use nix::sys::statfs::{FsType, statfs};
use nix::unistd::geteuid;

use crate::Error;

/// File systems that overlayfs refuses for an upper layer, by their statfs(2) numbers (linux/magic.h).
const UNFIT: [(u32, &str); 8] = [
    (0x794c_7630, "overlayfs"),
    (0x6969, "NFS"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "FUSE"),
    (0x4d44, "FAT"),
    (0x2011_bab0, "exFAT"),
    (0xff53_4d42, "CIFS"),
    (0xf15f, "eCryptfs"),
];

/// How long changes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until the context is deleted.
    Kept,
    /// Until it ends.
    ThrownAway,
}

/// Where layers can lie.
#[derive(Debug, Clone)]
pub struct Place {
    /// The lasting store.
    pub store: PathBuf,
    /// Folders on memory, for changes that are thrown away where the store is unfit.
    pub memory: Vec<PathBuf>,
}

/// The layers of one context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layers {
    /// Their folder, which goes with the context.
    pub folder: PathBuf,
    /// They are thrown away, so nothing of them need reach a disk.
    pub volatile: bool,
}

impl Place {
    /// The usual places, or one below a state folder that the caller has chosen.
    #[must_use]
    pub fn usual(state: Option<&Path>) -> Place {
        let user = geteuid();
        let home = |path: &str| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(path));
        let absolute = |path: &PathBuf| path.is_absolute();
        let store = match state {
            Some(state) => std::path::absolute(state).unwrap_or_else(|_| state.into()).join(".store"),
            None if user.is_root() => PathBuf::from("/var/lib/vctx"),
            None => std::env::var_os("XDG_DATA_HOME")
                .map(|data| PathBuf::from(data).join("vctx"))
                .filter(absolute)
                .or_else(|| home(".local/share/vctx").filter(absolute))
                .unwrap_or_else(|| PathBuf::from(format!("/var/tmp/vctx-{user}"))),
        };
        Place { store, memory: vec![PathBuf::from(format!("/dev/shm/vctx-{user}"))] }
    }

    /// Finds the place for a context's layers. The folder is not made.
    ///
    /// # Errors
    ///
    /// No file system there can hold an upper layer.
    pub fn layers(&self, id: &str, lifetime: Lifetime) -> Result<Layers, Error> {
        let volatile = lifetime == Lifetime::ThrownAway;
        let at = |store: &Path| Layers { folder: store.join("contexts").join(id), volatile };
        match (unfit(&self.store), lifetime) {
            (None, _) => Ok(at(&self.store)),
            (Some(kind), Lifetime::Kept) => Err(Error::Unfit { path: self.store.clone(), kind }),
            (Some(_), Lifetime::ThrownAway) => self
                .memory
                .iter()
                .find(|memory| unfit(memory).is_none())
                .map(|memory| at(memory))
                .ok_or_else(|| Error::NoPlace { path: self.store.clone() }),
        }
    }
}

/// The name of the file system of `path`, or of the nearest folder above that exists, if it is unfit for changes.
fn unfit(path: &Path) -> Option<&'static str> {
    let FsType(magic) = path.ancestors().find_map(|folder| statfs(folder).ok())?.filesystem_type();
    // The kernel's numbers have 32 bits; what a libc makes of them is wider, and may be extended by the sign.
    UNFIT.iter().find(|(number, _)| *number == magic as u32).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_of_a_chosen_state_folder_lie_in_it() {
        let place = Place::usual(Some(Path::new("/run/x")));
        assert_eq!(place.store, Path::new("/run/x/.store"));
    }

    #[test]
    fn a_store_that_cannot_keep_changes_is_refused_and_a_tmpfs_takes_those_that_are_thrown_away() {
        let fit = tempfile::tempdir().unwrap();
        let place = Place { store: fit.path().join("not/yet/made"), memory: vec!["/dev/shm".into()] };
        let layers = place.layers("a", Lifetime::Kept).unwrap();
        assert_eq!(layers, Layers { folder: place.store.join("contexts/a"), volatile: false });
    }
}
