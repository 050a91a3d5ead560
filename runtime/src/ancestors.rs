//! Who could put another folder in the place of ours: whoever owns a folder above it, or may write one.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, absolute};

use vctx_context::{brief, procfs};

use crate::{Error, Result};

/// Writable by all, but entries only by their owners, as /tmp is.
const STICKY: u32 = 0o1000;

/// Refuses a folder below one of another user's. What says so is the path as it was given, and, where links are part of
/// it, the path that they lead to.
///
/// # Errors
///
/// Names the folder.
pub(crate) fn check(path: &Path) -> Result<()> {
    let path = absolute(path).map_err(Error::state("look at", path))?;
    above(&path)?;
    // What is not there yet is made by us, below the nearest folder that is.
    let nearest = path.ancestors().find_map(|folder| Some((folder, brief::real_path(folder).ok()?)));
    match nearest {
        Some((folder, real)) if real != folder => {
            above(&real.join(path.strip_prefix(folder).unwrap_or(Path::new(""))))
        }
        _ => Ok(()),
    }
}

fn above(path: &Path) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    for folder in path.ancestors().skip(1) {
        let about = match fs::symlink_metadata(folder) {
            Ok(about) => about,
            // It is made by us, below one that is looked at.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::state("look at", folder)(error)),
        };
        let shared = about.mode() & 0o002 != 0 && about.mode() & STICKY == 0 && !about.is_symlink();
        // In a user namespace the host's root is nobody, and whom we look for is, too.
        let foreign = ![0, own].contains(&about.uid()) && procfs::in_first_user_namespace();
        if foreign || shared {
            return Err(Error::Replaceable { path: path.into(), folder: folder.into() });
        }
    }
    Ok(())
}
