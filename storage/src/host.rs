//! The machine's own root as the lower layer: as root one overlay of `/` and one of each file system mounted below it;
//! without root, where the kernel refuses `/` (its mounts are locked in a user namespace), one of each folder in it.

use std::fs::{self, DirEntry, FileType};
use std::path::{Path, PathBuf};

use crate::mounts::{self, Mount};
use crate::{Error, Layers, Lowers, NewFolder, Overlay};

/// Shown to no guest, and replaced by an empty file system or by one of the context's own.
pub const HIDDEN: [&str; 17] = [
    "/proc",
    "/sys",
    "/dev",
    "/tmp",
    "/var/tmp",
    "/run",
    "/home",
    "/root",
    "/mnt",
    "/media",
    "/srv",
    "/boot",
    "/lost+found",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/vctx",
];

/// How deep a folder with mounts below it is taken apart.
const DEPTH: usize = 4;
/// Folders with more entries are not taken apart.
const ENTRIES: usize = 64;

/// A part of the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// An overlay at this place.
    Overlay(PathBuf, Overlay),
    /// The host's own tree, read-only, where an overlay cannot be had.
    Bind(PathBuf),
    /// A symbolic link: (target, place).
    Link(PathBuf, PathBuf),
}

/// The parts of the root below its top, parents first.
///
/// # Errors
///
/// The host's mounts or folders cannot be read.
pub fn mounted(layers: &Layers, hidden: &[PathBuf]) -> Result<Vec<Part>, Error> {
    let mounts = mounts::all()?;
    let mut parts = Vec::new();
    for mount in
        mounts.iter().filter(|mount| mount.point != Path::new("/") && !is_hidden(&mount.point, hidden))
    {
        if mount.is_pseudo() || !mount.point.exists() {
            continue;
        }
        parts.push(part(
            layers,
            &mount.point,
            parts.len() + 1,
            mount.is_lower() && mount.point.is_dir(),
            false,
        ));
    }
    Ok(parts)
}

/// The parts of a root that an ordinary user makes.
///
/// # Errors
///
/// As [`mounted`].
pub fn taken_apart(layers: &Layers, hidden: &[PathBuf]) -> Result<Vec<Part>, Error> {
    let mounts = mounts::all()?;
    let mut parts = Vec::new();
    take_apart(layers, Path::new("/"), &mounts, hidden, DEPTH, &mut parts)?;
    Ok(parts)
}

fn take_apart(
    layers: &Layers,
    folder: &Path,
    mounts: &[Mount],
    hidden: &[PathBuf],
    depth: usize,
    parts: &mut Vec<Part>,
) -> Result<(), Error> {
    for (path, kind) in entries(folder)? {
        if is_hidden(&path, hidden) {
            continue;
        }
        if kind.is_symlink() {
            if let Ok(target) = fs::read_link(&path) {
                parts.push(Part::Link(target, path));
            }
        } else if kind.is_dir() && nix::unistd::access(&path, readable()).is_ok() {
            let own = mounts.iter().find(|mount| mount.point == path);
            if own.is_some_and(Mount::is_pseudo) {
                continue;
            }
            let whole = mounts::below(mounts, &path).is_none();
            if !whole && depth > 1 && can_be_taken_apart(&path) {
                take_apart(layers, &path, mounts, hidden, depth - 1, parts)?;
            } else {
                let lower = whole && own.is_none_or(Mount::is_lower);
                parts.push(part(layers, &path, parts.len() + 1, lower, true));
            }
        }
    }
    Ok(())
}

/// An overlay, or where that cannot be, the host's tree.
fn part(layers: &Layers, path: &Path, number: usize, lower: bool, user_namespace: bool) -> Part {
    match layers.overlay(&number.to_string(), Lowers::Folders(&[path]), user_namespace) {
        Ok(overlay) if lower => Part::Overlay(path.into(), overlay),
        _ => Part::Bind(path.into()),
    }
}

fn is_hidden(path: &Path, hidden: &[PathBuf]) -> bool {
    hidden.iter().any(|one| path.starts_with(one))
}

fn readable() -> nix::unistd::AccessFlags {
    nix::unistd::AccessFlags::R_OK | nix::unistd::AccessFlags::X_OK
}

/// Only folders and links: files in it would be lost.
fn can_be_taken_apart(folder: &Path) -> bool {
    match entries(folder) {
        Ok(entries) => {
            entries.len() <= ENTRIES && entries.iter().all(|(_, kind)| kind.is_dir() || kind.is_symlink())
        }
        Err(_) => false,
    }
}

fn entries(folder: &Path) -> Result<Vec<(PathBuf, FileType)>, Error> {
    let look = |source| Error::Look { path: folder.into(), source };
    let typed = |entry: std::io::Result<DirEntry>| {
        let entry = entry?;
        Ok((entry.path(), entry.file_type()?))
    };
    let mut entries: Vec<_> =
        fs::read_dir(folder).map_err(look)?.map(typed).collect::<std::io::Result<_>>().map_err(look)?;
    entries.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(entries)
}

/// The folders that the parts need.
pub fn folders(parts: &[Part]) -> impl Iterator<Item = NewFolder> {
    parts
        .iter()
        .filter_map(|part| if let Part::Overlay(_, overlay) = part { Some(overlay) } else { None })
        .flat_map(|overlay| overlay.folders.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_become_overlays_and_links_stay_links() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["usr/lib", "var/lib", "var/data", "etc", "secret"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        fs::write(root.path().join("etc/passwd"), "").unwrap();
        std::os::unix::fs::symlink("usr/bin", root.path().join("bin")).unwrap();
        let at = |path: &str| root.path().join(path);
        let mount = |path: &str, kind: &str| Mount { point: at(path), kind: kind.into() };
        let mounts = [mount("var/data", "fuse.x"), mount("etc/resolv.conf", "tmpfs")];
        let layers = Layers { folder: "/s".into(), volatile: false };
        let mut parts = Vec::new();
        take_apart(&layers, root.path(), &mounts, &[at("secret")], DEPTH, &mut parts).unwrap();
        let told: Vec<String> = parts
            .iter()
            .map(|part| match part {
                Part::Overlay(path, _) => format!("overlay {}", path.display()),
                Part::Bind(path) => format!("bind {}", path.display()),
                Part::Link(target, path) => format!("{} -> {}", path.display(), target.display()),
            })
            .map(|line| line.replace(&format!("{}/", root.path().display()), ""))
            .collect();
        assert_eq!(told, ["bin -> usr/bin", "bind etc", "overlay usr", "bind var/data", "overlay var/lib"]);
    }
}
