//! The one place where a path in a tree that a guest can change is resolved: from a descriptor of the root, by the
//! kernel, with openat2(2).
//!
//! `RESOLVE_IN_ROOT` keeps absolute links and `..` inside the root, also while another process renames folders;
//! `RESOLVE_NO_MAGICLINKS` refuses `/proc/*/fd` and its like. What is made is made with a single name below a
//! descriptor, never through a path that could have changed since (CVE-2021-30465, CVE-2024-45310).

use core::ffi::CStr;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

/// How often a resolution that raced with a rename is tried again (openat2(2), EAGAIN).
const RACES: usize = 128;
/// PATH_MAX.
const LENGTH: usize = 4096;

/// Opens `path` inside `root`.
///
/// # Errors
///
/// As openat2(2); EAGAIN when the tree kept changing during 128 attempts.
pub fn open(root: impl AsFd, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_with(root.as_fd(), path, flags, ResolveFlags::empty())
}

/// Opens `path` inside `root`, and refuses a symbolic link anywhere in it with ELOOP.
///
/// # Errors
///
/// As [`open`].
pub fn open_without_links(root: impl AsFd, path: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_with(root.as_fd(), path, flags, ResolveFlags::NO_SYMLINKS)
}

fn open_with(root: BorrowedFd<'_>, path: &CStr, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
    let path = if path.is_empty() { c"." } else { path };
    for _ in 0..RACES {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens the folder `path` inside `root`, and makes what is missing of it with `mode`.
///
/// # Errors
///
/// As openat2(2) and mkdirat(2); ENOTDIR when a part exists and is no folder; ENOENT at a dangling link.
pub fn ensure_folder(root: impl AsFd, path: &CStr, mode: Mode) -> Result<OwnedFd, Errno> {
    let root = root.as_fd();
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open(root, path, flags) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let mut prefix = Path::new();
    let mut folder = open(root, c".", flags)?;
    for name in path.to_bytes().split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        prefix.push(name)?;
        folder = match open(root, prefix.as_c_str()?, flags) {
            Err(Errno::NOENT) => {
                let mut single = Path::new();
                single.push(name)?;
                match mkdirat(&folder, single.name()?, mode) {
                    Ok(()) | Err(Errno::EXIST) => open(root, prefix.as_c_str()?, flags)?,
                    Err(error) => return Err(error),
                }
            }
            result => result?,
        };
    }
    Ok(folder)
}

/// Opens the file `path` inside `root` as a place (O_PATH), and makes an empty one when it is missing.
///
/// # Errors
///
/// As [`ensure_folder`].
pub fn ensure_file(root: impl AsFd, path: &CStr) -> Result<OwnedFd, Errno> {
    let root = root.as_fd();
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let (folder, name) = ensure_parent(root, path)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    match openat(&folder, name.name()?, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => open(root, path, OFlags::PATH),
        Err(error) => Err(error),
    }
}

/// Opens the folder that holds `path`, made where it is missing, and gives the last name.
///
/// # Errors
///
/// As [`ensure_folder`]; EINVAL when the path has no last name.
pub fn ensure_parent(root: impl AsFd, path: &CStr) -> Result<(OwnedFd, Path), Errno> {
    let bytes = path.to_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/').ok_or(Errno::INVAL)? + 1;
    let begin = bytes[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let mut parent = Path::new();
    parent.push(&bytes[..begin])?;
    let mut name = Path::new();
    name.push(&bytes[begin..end])?;
    if matches!(&bytes[begin..end], b"." | b"..") {
        return Err(Errno::INVAL);
    }
    let folder = ensure_folder(root, parent.as_c_str()?, Mode::from_raw_mode(0o755))?;
    Ok((folder, name))
}

/// A path that grows on the stack.
#[derive(Debug)]
pub struct Path {
    bytes: [u8; LENGTH],
    length: usize,
}

impl Default for Path {
    fn default() -> Self {
        Path::new()
    }
}

impl Path {
    /// An empty path.
    #[must_use]
    pub fn new() -> Path {
        Path { bytes: [0; LENGTH], length: 0 }
    }

    /// Appends a slash and `part`.
    ///
    /// # Errors
    ///
    /// ENAMETOOLONG past PATH_MAX.
    pub fn push(&mut self, part: &[u8]) -> Result<(), Errno> {
        self.append(b"/")?;
        self.append(part)
    }

    /// Appends `part` as it is.
    ///
    /// # Errors
    ///
    /// ENAMETOOLONG past PATH_MAX.
    pub fn append(&mut self, part: &[u8]) -> Result<(), Errno> {
        let end = self.length + part.len();
        if end >= LENGTH {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes[self.length..end].copy_from_slice(part);
        self.bytes[end] = 0;
        self.length = end;
        Ok(())
    }

    /// The whole path.
    ///
    /// # Errors
    ///
    /// EINVAL when a part contained a nul.
    pub fn as_c_str(&self) -> Result<&CStr, Errno> {
        CStr::from_bytes_with_nul(&self.bytes[..=self.length]).map_err(|_| Errno::INVAL)
    }

    /// The path without its leading slash: a name for the `*at` calls.
    ///
    /// # Errors
    ///
    /// EINVAL when it is empty or holds a nul.
    pub fn name(&self) -> Result<&CStr, Errno> {
        let start = usize::from(self.bytes[0] == b'/');
        CStr::from_bytes_with_nul(&self.bytes[start..=self.length]).map_err(|_| Errno::INVAL)
    }
}
