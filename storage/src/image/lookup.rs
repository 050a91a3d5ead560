//! Finds a file in a stack of layers without mounting it, as an overlay of them would show it: `/etc/passwd` has to be
//! read before the context exists, and an ordinary user cannot mount outside a user namespace.
//!
//! Layers do not change, so one name after another is looked up below a descriptor; links are followed by hand, and `..`
//! at the top stays there.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::{ffi::OsString, io};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fgetxattr, openat, readlinkat, statat};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
/// Links on the way, as many as the kernel follows.
const LINKS: usize = 40;

/// One folder of the overlay: the folders that it merges, the topmost first.
type Merged = Vec<OwnedFd>;

enum Found {
    Folder(Merged),
    /// The layer's folder that has it.
    Other(OwnedFd, FileType),
}

/// Opens a file in the layers, the topmost first.
///
/// # Errors
///
/// As open(2): NotFound where the overlay would not show it.
pub fn open(layers: &[PathBuf], path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let roots = layers.iter().map(|layer| openat(CWD, layer, FOLDER, Mode::empty()));
    let mut above: Vec<Merged> = vec![roots.collect::<Result<_, _>>()?];
    let mut names = parts(path);
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        if name == ".." {
            above.truncate(above.len().saturating_sub(1).max(1));
            continue;
        }
        let here = above.last().ok_or(Errno::NOENT)?;
        match find(here, &name)? {
            Found::Folder(folder) => above.push(folder),
            Found::Other(folder, FileType::Symlink) => {
                links += 1;
                if links > LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = readlinkat(&folder, &name, Vec::new())?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    above.truncate(1);
                }
                let mut ahead = parts(&target);
                ahead.append(&mut names);
                names = ahead;
            }
            Found::Other(folder, _) if names.is_empty() => {
                return Ok(openat(
                    &folder,
                    &name,
                    flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?);
            }
            Found::Other(..) => return Err(Errno::NOTDIR.into()),
        }
    }
    let folder = above.last().and_then(|merged| merged.first()).ok_or(Errno::NOENT)?;
    Ok(openat(folder, c".", flags | OFlags::CLOEXEC, Mode::empty())?)
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

fn find(merged: &Merged, name: &OsString) -> Result<Found, Errno> {
    let mut folders = Vec::new();
    for folder in merged {
        let about = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            about => about?,
        };
        let kind = FileType::from_raw_mode(about.st_mode);
        let is_whiteout = kind == FileType::CharacterDevice && about.st_rdev == 0;
        if kind != FileType::Directory {
            if folders.is_empty() && !is_whiteout {
                return Ok(Found::Other(openat(folder, c".", FOLDER, Mode::empty())?, kind));
            }
            break;
        }
        let inner = openat(folder, name, FOLDER, Mode::empty())?;
        let opaque = ["trusted.overlay.opaque", "user.overlay.opaque"];
        let is_opaque = opaque.iter().any(|key| fgetxattr(&inner, *key, &mut [0u8; 1][..]).is_ok());
        folders.push(inner);
        if is_opaque {
            break;
        }
    }
    if folders.is_empty() { Err(Errno::NOENT) } else { Ok(Found::Folder(folders)) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_found_as_the_overlay_would_show_it() {
        let folder = tempfile::tempdir().unwrap();
        let (low, top) = (folder.path().join("low"), folder.path().join("top"));
        for path in ["low/etc/deep", "low/usr/lib", "top/etc"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        fs::write(low.join("etc/passwd"), "low").unwrap();
        fs::write(low.join("etc/deep/file"), "deep").unwrap();
        fs::write(low.join("usr/lib/file"), "lib").unwrap();
        fs::write(top.join("etc/group"), "top").unwrap();
        symlink("/usr/lib", low.join("lib")).unwrap();
        symlink("../../../etc/group", top.join("etc/up")).unwrap();
        symlink("round", top.join("round")).unwrap();
        let layers = [top, low];
        let read = |path: &str| {
            let file = open(&layers, Path::new(path), OFlags::RDONLY)?;
            io::read_to_string(fs::File::from(file))
        };
        for (path, text) in [
            ("/etc/passwd", "low"),
            ("/etc/group", "top"),
            ("/etc/deep/file", "deep"),
            ("/lib/file", "lib"),
            ("/lib/../lib/file", "lib"),
            ("/etc/up", "top"),
            ("/../../etc/group", "top"),
        ] {
            assert_eq!(read(path).unwrap(), text, "{path}");
        }
        for path in ["/etc/absent", "/etc/passwd/x", "/round"] {
            assert!(read(path).is_err(), "{path}");
        }
    }
}
