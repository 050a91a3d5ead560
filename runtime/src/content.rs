//! Files and folders that are made for a new context, when its state already says so: a killed `create` is cleaned up by
//! what is written there.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use vctx_context::brief;

use crate::request::Request;
use crate::{Error, Result};

/// Makes the files that lie in the folder of the state, and the folders and marks of its own that a context asks for.
pub(crate) fn make(state: &Path, request: &Request) -> Result<()> {
    for (name, content) in &request.files {
        let path = state.join(name);
        write_public(&path, content).map_err(Error::state("write", path))?;
    }
    for (path, mode) in &request.folders {
        make_folder(path, *mode).map_err(Error::state("make the folder", path))?;
    }
    for path in &request.marks {
        brief::write(path, b"").map_err(Error::state("make", path))?;
    }
    Ok(())
}

/// Writes a file that everybody may read, whatever the umask.
fn write_public(path: &Path, content: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content.as_bytes())?;
    file.set_permissions(Permissions::from_mode(0o644))
}

/// Makes a folder with exactly these permission bits, whatever the umask. Those above it are only for their owner.
fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    let make = || DirBuilder::new().mode(0o700).create(path);
    match (make(), path.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            make()?;
        }
        (made, _) => made?,
    }
    if mode == 0o700 { Ok(()) } else { fs::set_permissions(path, Permissions::from_mode(mode)) }
}
