//! Programs of the machine's that this crate calls.

use std::path::PathBuf;

/// Where a program lies; also where Debian keeps what only root needs.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path| path.is_absolute() && path.is_file())
}
