//! The one place where a path in a tree that a guest can change is resolved: from a descriptor of the root, by the
//! kernel, with openat2(2).
//!
//! `RESOLVE_IN_ROOT` keeps absolute links and `..` inside the root, also while another process renames folders;
//! `RESOLVE_NO_MAGICLINKS` refuses `/proc/*/fd` and its like. What is made is made with a single name below a
//! descriptor, never through a path that could have changed since (CVE-2021-30465, CVE-2024-45310).

use core::ffi::CStr;
use core::mem::MaybeUninit;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, readlinkat_raw};
use rustix::io::Errno;

/// How often a resolution that raced with a rename is tried again (openat2(2), EAGAIN).
const RACES: usize = 128;
/// PATH_MAX.
const LENGTH: usize = 4096;
/// NAME_MAX, and the zero behind it.
const NAME: usize = 256;
/// How many links that lead nowhere are followed.
const LINKS: usize = 16;

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

/// Opens the folder `path` inside `root`, and makes what is missing of it with `mode`. A link that leads nowhere is
/// followed inside the root, and what it names is made there.
///
/// # Errors
///
/// As openat2(2) and mkdirat(2); ENOTDIR when a part exists and is no folder; ELOOP past 16 such links.
pub fn ensure_folder(root: impl AsFd, path: &CStr, mode: Mode) -> Result<OwnedFd, Errno> {
    ensure_folder_in(root.as_fd(), path, mode, LINKS)
}

fn ensure_folder_in(root: BorrowedFd<'_>, path: &CStr, mode: Mode, links: usize) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open(root, path, flags) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    // Mostly it is the last name alone that is missing.
    if let Some(folder) = make_last(root, path, mode)? {
        return Ok(folder);
    }
    walk(root, path, mode, links)
}

/// Name after name. What it takes of the stack is a page for each path, which a start mostly need not have.
#[cold]
#[inline(never)]
fn walk(root: BorrowedFd<'_>, path: &CStr, mode: Mode, links: usize) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let mut prefix = Path::new();
    let mut folder = open(root, c".", flags)?;
    let bytes = path.to_bytes();
    let mut end = 0;
    for name in bytes.split(|&byte| byte == b'/') {
        end += name.len() + 1;
        if name.is_empty() {
            continue;
        }
        let parent = prefix.length;
        prefix.push(name)?;
        folder = match open(root, prefix.as_c_str()?, flags) {
            Err(Errno::NOENT) => {
                let mut single = Name::new();
                single.append(name)?;
                match mkdirat(&folder, single.as_c_str()?, mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                match open(root, prefix.as_c_str()?, flags) {
                    // It exists and leads nowhere: a link.
                    Err(Errno::NOENT) if links > 0 => {
                        let mut path = target(&folder, single.as_c_str()?, &prefix.bytes[..parent])?;
                        path.push(bytes.get(end..).unwrap_or_default())?;
                        return ensure_folder_in(root, path.as_c_str()?, mode, links - 1);
                    }
                    Err(Errno::NOENT) => return Err(Errno::LOOP),
                    result => result?,
                }
            }
            result => result?,
        };
    }
    Ok(folder)
}

/// Makes the last folder of a path whose parent is there; none where it is not, where the name is a link, or where they are
/// long.
fn make_last(root: BorrowedFd<'_>, path: &CStr, mode: Mode) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let Some((parent, name)) = split(path) else { return Ok(None) };
    let (mut above, mut single) = (Name::new(), Name::new());
    if above.append(parent).and_then(|()| single.append(name)).is_err() {
        return Ok(None);
    }
    let folder = match open(root, above.as_c_str()?, flags) {
        Err(Errno::NOENT) => return Ok(None),
        result => result?,
    };
    match mkdirat(&folder, single.as_c_str()?, mode) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    match open(root, path, flags) {
        Err(Errno::NOENT) => Ok(None),
        result => result.map(Some),
    }
}

/// A path without its last name, and that name; none where there is no name to be made.
fn split(path: &CStr) -> Option<(&[u8], &[u8])> {
    let bytes = path.to_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/')? + 1;
    let begin = bytes[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let (parent, name) = (&bytes[..begin], &bytes[begin..end]);
    (!matches!(name, b"." | b"..")).then_some((parent, name))
}

/// Where the link `name` in `folder` leads, as a path in the root; `parent` is the folder's own path.
fn target(folder: &OwnedFd, name: &CStr, parent: &[u8]) -> Result<Path, Errno> {
    let mut space = [MaybeUninit::<u8>::uninit(); LENGTH];
    let (text, _) = readlinkat_raw(folder, name, &mut space)?;
    let mut path = Path::new();
    if !text.starts_with(b"/") {
        path.append(parent)?;
    }
    path.push(text)?;
    Ok(path)
}

/// Opens the file `path` inside `root` as a place (O_PATH), and makes an empty one when it is missing. A link that leads
/// nowhere is followed inside the root.
///
/// # Errors
///
/// As [`ensure_folder`].
pub fn ensure_file(root: impl AsFd, path: &CStr) -> Result<OwnedFd, Errno> {
    ensure_file_in(root.as_fd(), path, LINKS)
}

fn ensure_file_in(root: BorrowedFd<'_>, path: &CStr, links: usize) -> Result<OwnedFd, Errno> {
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let (folder, name) = ensure_parent(root, path)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    match openat(&folder, name.as_c_str()?, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error),
    }
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) if links > 0 => ensure_target(root, &folder, &name, path, links),
        Err(Errno::NOENT) => Err(Errno::LOOP),
        result => result,
    }
}

/// Makes the file to which the link `name` in `folder` leads, whose path is `path`.
#[cold]
#[inline(never)]
fn ensure_target(
    root: BorrowedFd<'_>,
    folder: &OwnedFd,
    name: &Name,
    path: &CStr,
    links: usize,
) -> Result<OwnedFd, Errno> {
    let parent = path.to_bytes();
    let length = parent.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    let path = target(folder, name.as_c_str()?, &parent[..length])?;
    ensure_file_in(root, path.as_c_str()?, links - 1)
}

/// Opens the folder that holds `path`, made where it is missing, and gives the last name.
///
/// # Errors
///
/// As [`ensure_folder`]; EINVAL when the path has no last name.
pub fn ensure_parent(root: impl AsFd, path: &CStr) -> Result<(OwnedFd, Name), Errno> {
    let (parent, last) = split(path).ok_or(Errno::INVAL)?;
    let (mut above, mut name) = (Name::new(), Name::new());
    name.append(last)?;
    let folder = match above.append(parent) {
        Ok(()) => ensure_folder(root, above.as_c_str()?, PARENT)?,
        Err(_) => ensure_long_folder(root.as_fd(), parent)?,
    };
    Ok((folder, name))
}

/// Of a folder that is made because something is to lie in it.
const PARENT: Mode = Mode::from_raw_mode(0o755);

#[cold]
#[inline(never)]
fn ensure_long_folder(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut whole = Path::new();
    whole.append(path)?;
    ensure_folder(root, whole.as_c_str()?, PARENT)
}

/// The folder of the last path that was asked for: what is made one after the other mostly lies side by side. What it
/// holds stays the folder that it was found to be, also when its path is moved meanwhile.
#[derive(Debug, Default)]
pub struct Parents<'a> {
    last: Option<(&'a [u8], OwnedFd)>,
}

impl<'a> Parents<'a> {
    /// As [`ensure_parent`], with the folder lent.
    ///
    /// # Errors
    ///
    /// As [`ensure_parent`].
    pub fn of(&mut self, root: impl AsFd, path: &'a CStr) -> Result<(BorrowedFd<'_>, Name), Errno> {
        let (parent, last) = split(path).ok_or(Errno::INVAL)?;
        if self.last.as_ref().is_none_or(|(known, _)| *known != parent) {
            self.last = Some((parent, ensure_parent(root, path)?.0));
        }
        let mut name = Name::new();
        name.append(last)?;
        self.last.as_ref().map(|(_, folder)| (folder.as_fd(), name)).ok_or(Errno::INVAL)
    }
}

/// A text that grows on the stack, to less than `SPACE` bytes.
#[derive(Debug)]
pub struct Text<const SPACE: usize> {
    bytes: [u8; SPACE],
    length: usize,
}

/// A path of any length.
pub type Path = Text<LENGTH>;

/// One name, or a short path.
pub type Name = Text<NAME>;

impl<const SPACE: usize> Default for Text<SPACE> {
    fn default() -> Self {
        Text::new()
    }
}

impl<const SPACE: usize> Text<SPACE> {
    /// An empty text.
    #[must_use]
    pub fn new() -> Self {
        Text { bytes: [0; SPACE], length: 0 }
    }

    /// Appends a slash and `part`.
    ///
    /// # Errors
    ///
    /// ENAMETOOLONG where there is no space for it.
    pub fn push(&mut self, part: &[u8]) -> Result<(), Errno> {
        self.append(b"/")?;
        self.append(part)
    }

    /// Appends `part` as it is.
    ///
    /// # Errors
    ///
    /// ENAMETOOLONG where there is no space for it.
    pub fn append(&mut self, part: &[u8]) -> Result<(), Errno> {
        let end = self.length + part.len();
        if end >= SPACE {
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
}
