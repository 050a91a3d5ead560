//! Folders that a layer goes through without bringing them: `tmp/x` without `tmp`. In the layer they have to be made, and
//! overlayfs would show the made one's owner and mode instead of those of the layer below. So an image with such folders
//! gets one more layer on top, which repeats them as the layer says that does bring them. The root itself, which most layers
//! leave out, is such a folder where it is not the usual one.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr,
    fsetxattr, fstat, futimens, mkdirat, openat,
};
use rustix::io::Errno;

use super::digest::Digest;
use super::error::Error;
use super::store::{Store, unique};
use super::tree::is_whiteout;
use super::unpack::{Owners, Unpack, split};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
/// Larger attributes than any file system keeps, in bytes.
const ATTRIBUTE: usize = 64 << 10;

/// A layer, and the folders that were made in it only to go through them.
struct Layer {
    path: PathBuf,
    implied: HashSet<Vec<u8>>,
}

/// A folder as one layer has it.
enum Seen {
    /// The layer says nothing of it.
    Absent,
    /// The layer has it; whether that hides it in those below.
    Folder(OwnedFd, bool),
    /// The layer hides it.
    Hidden,
}

/// The name of the layer on top of these.
pub(super) fn digest(diff_ids: &[Digest]) -> Digest {
    let all: String = diff_ids.iter().map(|digest| format!("joint {digest}\n")).collect();
    Digest::of(all.as_bytes())
}

impl Store {
    pub(super) fn implied(&self) -> PathBuf {
        self.folder().join("implied")
    }

    /// Notes which folders of a layer were made without being brought. Comes before the layer itself.
    pub(super) fn note_implied(&self, layer: &Digest, paths: &[Vec<u8>]) -> Result<(), Error> {
        if paths.is_empty() {
            return Ok(());
        }
        let path = self.implied().join(layer.hex());
        let mut partial = self.partial(&unique("implied"), false)?;
        partial.empty()?;
        partial.file.write_all(&paths.join(&0)).map_err(Error::file("write", &partial.path))?;
        partial.keep_as(&path)
    }

    fn implied_of(&self, layer: &Digest) -> Result<HashSet<Vec<u8>>, Error> {
        let path = self.implied().join(layer.hex());
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
            bytes => {
                let bytes = bytes.map_err(Error::file("read", &path))?;
                Ok(bytes.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect())
            }
        }
    }

    /// These layers need one more on top.
    pub(super) fn needs_joint(&self, diff_ids: &[Digest]) -> Result<bool, Error> {
        for digest in diff_ids.iter().skip(1) {
            if self.implied_of(digest)?.iter().any(|path| !path.is_empty()) {
                return Ok(true);
            }
        }
        let layers = self.described(diff_ids)?;
        let is_usual =
            |about: &fs::Metadata| (about.mode() & 0o7777, about.uid(), about.gid()) == (0o755, 0, 0);
        let brings = root_of(&layers).filter(|layer| layer.path != layers[0].path);
        Ok(brings.and_then(|layer| fs::metadata(&layer.path).ok()).is_some_and(|about| !is_usual(&about)))
    }

    /// The layers with what they imply, the topmost first.
    fn described(&self, diff_ids: &[Digest]) -> Result<Vec<Layer>, Error> {
        let layer =
            |digest: &Digest| Ok(Layer { path: self.layer(digest), implied: self.implied_of(digest)? });
        diff_ids.iter().rev().map(layer).collect()
    }

    /// Makes the layer on top of these, where they need one and it is not there.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(super) fn join(&self, diff_ids: &[Digest], how: &Unpack) -> Result<(), Error> {
        let name = digest(diff_ids);
        if self.layer(&name).is_dir() || !self.needs_joint(diff_ids)? {
            return Ok(());
        }
        let layers = self.described(diff_ids)?;
        let mut paths = BTreeSet::new();
        for path in layers.iter().flat_map(|layer| &layer.implied) {
            let mut path = path.as_slice();
            while !path.is_empty() && paths.insert(path) {
                path = split(path).0;
            }
        }
        let partial = self.partial(name.hex(), true)?;
        if self.layer(&name).is_dir() {
            return Ok(());
        }
        partial.empty()?;
        let root = partial.folder()?;
        let fail = |error: Errno| Error::file("write", &partial.path)(error.into());
        let mut made = Vec::new();
        if let Some(layer) = root_of(&layers) {
            let model = openat(CWD, &layer.path, FOLDER, Mode::empty()).map_err(fail)?;
            made.push(copy(&root, b"", &model, how).map_err(fail)?);
        }
        // Sorted, so that a folder comes before what is in it.
        for path in paths {
            if let Some(model) = model(&layers, path).map_err(fail)? {
                made.push(copy(&root, path, &model, how).map_err(fail)?);
            }
        }
        // Folders change while they are filled.
        for (folder, times) in made.iter().rev() {
            futimens(folder, times).map_err(fail)?;
        }
        self.note_unsettled(&name)?;
        partial.keep_as(&self.layer(&name))
    }
}

/// The topmost layer that has an entry of its root, or else the lowest.
fn root_of(layers: &[Layer]) -> Option<&Layer> {
    layers.iter().find(|layer| !layer.implied.contains(&b""[..])).or(layers.last())
}

/// The folder of the topmost layer that brings it, or else of the topmost that has it; nothing where the image has none.
fn model(layers: &[Layer], path: &[u8]) -> Result<Option<OwnedFd>, Errno> {
    let mut made = None;
    for layer in layers {
        match look(&layer.path, path)? {
            Seen::Absent => {}
            Seen::Hidden => break,
            Seen::Folder(folder, _) if !layer.implied.contains(path) => return Ok(Some(folder)),
            Seen::Folder(folder, hides) => {
                made.get_or_insert(folder);
                if hides {
                    break;
                }
            }
        }
    }
    Ok(made)
}

fn look(layer: &Path, path: &[u8]) -> Result<Seen, Errno> {
    let mut folder = openat(CWD, layer, FOLDER, Mode::empty())?;
    let mut hides = is_opaque(&folder);
    for name in path.split(|&byte| byte == b'/') {
        folder = match openat(&folder, name, FOLDER, Mode::empty()) {
            Ok(inner) => inner,
            Err(Errno::NOENT) if hides => return Ok(Seen::Hidden),
            Err(Errno::NOENT) => return Ok(Seen::Absent),
            // A file, a link or a whiteout.
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(Seen::Hidden),
            Err(_) if is_whiteout(&folder, name) == Ok(true) => return Ok(Seen::Hidden),
            Err(error) => return Err(error),
        };
        hides |= is_opaque(&folder);
    }
    Ok(Seen::Folder(folder, hides))
}

fn is_opaque(folder: &OwnedFd) -> bool {
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|key| fgetxattr(folder, *key, &mut [0u8; 1][..]).is_ok())
}

/// Makes the folder with the owner, mode and attributes of its model, and gives the times for later.
fn copy(root: &OwnedFd, path: &[u8], model: &OwnedFd, how: &Unpack) -> Result<(OwnedFd, Timestamps), Errno> {
    let mut folder = openat(root, c".", FOLDER, Mode::empty())?;
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        match mkdirat(&folder, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        folder = openat(&folder, name, FOLDER, Mode::empty())?;
    }
    let about = fstat(model)?;
    if how.owners == Owners::Layer {
        fchown(&folder, Some(Uid::from_raw(about.st_uid)), Some(Gid::from_raw(about.st_gid)))?;
    }
    fchmod(&folder, Mode::from_raw_mode(about.st_mode & 0o7777))?;
    attributes(model, &folder)?;
    let time = |seconds: i64, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as i64 };
    let times = Timestamps {
        last_access: time(about.st_atime, about.st_atime_nsec),
        last_modification: time(about.st_mtime, about.st_mtime_nsec),
    };
    Ok((folder, times))
}

fn attributes(from: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    let mut names = vec![0; ATTRIBUTE];
    let length = match flistxattr(&from, &mut names[..]) {
        Err(Errno::NOTSUP) => return Ok(()),
        length => length?,
    };
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        let mut value = vec![0; ATTRIBUTE];
        let length = fgetxattr(&from, name, &mut value[..])?;
        match fsetxattr(&to, name, &value[..length], XattrFlags::empty()) {
            // Labels that only the host's root may set.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
