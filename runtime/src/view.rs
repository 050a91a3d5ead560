//! The root of a context as a tree of files, for who copies into it and out of it.
//!
//! Of one that runs it is the root of its first process, with all that is mounted there; of one that has stopped it is
//! mounted once more, in a mount namespace of the caller's own, with the volumes and shares of its configuration. What is
//! memory only while it runs is there as an empty folder that cannot be written.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{chdir, fchdir};
use vctx_child::sys::{MountAttributes, mount_setattr};
use vctx_child::{resolve, root};
use vctx_context::idmap::Mappings;

use crate::config::Config;
use crate::lock::Lock;
use crate::plan::RootFs;
use crate::state::{Context, Store};
use crate::{Error, Result};

/// A context whose files are wanted.
#[derive(Debug)]
pub struct View {
    context: Context,
    spec: Spec,
    /// Of one that runs.
    root: Option<OwnedFd>,
    /// It stays as it is: of one that has stopped.
    _lock: Option<Lock>,
}

impl View {
    /// Finds the context. One that has stopped neither starts nor goes while this lives.
    ///
    /// # Errors
    ///
    /// There is none, or the root of its process may not be opened.
    pub fn of(store: &Store, id: &str) -> Result<View> {
        let mut context = store.open(id)?;
        if let Some(root) = running(&context)? {
            let spec = Config::read(&context.config_path())?.spec;
            return Ok(View { context, spec, root: Some(root), _lock: None });
        }
        let lock = context.lock()?;
        if context.state.process.is_none() {
            return Err(Error::Unfinished { id: id.into() });
        }
        let root = running(&context)?;
        let spec = Config::read(&context.config_path())?.spec;
        let lock = if root.is_some() { None } else { Some(lock) };
        Ok(View { context, spec, root, _lock: lock })
    }

    /// Its ids, where it has a user namespace of its own.
    #[must_use]
    pub fn mappings(&self) -> Option<Mappings> {
        let mappings = crate::host::mappings(&self.spec);
        (!mappings.users.is_empty()).then_some(mappings)
    }

    /// It has stopped, and so [`View::open`] mounts.
    #[must_use]
    pub fn mounts(&self) -> bool {
        self.root.is_none()
    }

    /// The folder of its changes, where it has some.
    #[must_use]
    pub fn own(&self) -> Option<&Path> {
        self.context.state.own.first().map(PathBuf::as_path)
    }

    /// Its root. When it [`mounts`](View::mounts), the caller has a mount namespace of its own, which ends with it.
    ///
    /// # Errors
    ///
    /// Something cannot be mounted.
    pub fn open(&self) -> Result<OwnedFd> {
        match &self.root {
            Some(root) => root.try_clone().map_err(Error::state("open the root of", &self.context.folder)),
            None => self.mount(),
        }
    }

    fn mount(&self) -> Result<OwnedFd> {
        let fail = |what: String| move |error: Errno| Error::Step { step: what, source: error.into() };
        let (base, at) = match &self.context.state.mounted {
            None => (self.context.state.rootfs.clone(), self.context.state.rootfs.clone()),
            Some(RootFs::Folder(path)) => (path.clone(), path.clone()),
            Some(RootFs::Mount { kind, at, .. }) => (PathBuf::from(kind), at.clone()),
        };
        let tree = match &self.context.state.mounted {
            Some(RootFs::Mount { kind, options, within, .. }) => {
                make(kind, options, within.as_deref(), MountAttrFlags::empty())
            }
            _ => clone(&base),
        };
        let hint = if self.is_volatile() { "; its changes were thrown away at its end" } else { "" };
        let what = || format!("mount the root of the stopped context {:?}{hint}", self.context.state.id);
        let tree = tree.map_err(fail(what()))?;
        attach(&tree, CWD, &at).map_err(fail(what()))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, &at, flags, Mode::empty()).map_err(fail(what()))?;
        let is_memory = base == Path::new("tmpfs");
        if let Some(RootFs::Mount { links, .. }) = &self.context.state.mounted {
            for (target, path) in links {
                let path = text(Path::new(path));
                let place = resolve::ensure_parent(&root, &path)
                    .and_then(|(folder, name)| symlinkat(&**target, &folder, name.as_c_str()?));
                match place {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(fail(format!("make the link {target}"))(error)),
                }
            }
        }
        for mount in self.spec.mounts().iter().flatten() {
            let what = || format!("mount {} of the stopped context", mount.destination().display());
            self.part(&root, mount, is_memory).map_err(fail(what()))?;
        }
        self.cover(&root).map_err(fail("cover what the context may not see".into()))?;
        if self.spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false) {
            read_only(&root).map_err(fail("make the root read-only".into()))?;
        }
        Ok(root)
    }

    fn is_volatile(&self) -> bool {
        let mounted = &self.context.state.mounted;
        matches!(mounted, Some(RootFs::Mount { options, .. }) if options.iter().any(|(key, _)| key == "volatile"))
    }

    /// One mount of the configuration, if it holds files.
    fn part(&self, root: &OwnedFd, mount: &Mount, is_memory: bool) -> std::result::Result<(), Errno> {
        let target = mount.destination();
        if ["/proc", "/sys", "/dev"].iter().any(|kernel| target.starts_with(kernel)) {
            return Ok(());
        }
        let options: Vec<&str> = mount.options().iter().flatten().map(String::as_str).collect();
        let kind = mount.typ().as_deref().unwrap_or("none");
        let tree = match (kind, mount.source()) {
            ("overlay", _) => make("overlay", &split(&options), None, MountAttrFlags::empty())?,
            ("tmpfs", _) => {
                let mode = options.iter().find_map(|option| option.strip_prefix("mode="));
                let mode = mode.map(|mode| ("mode".to_owned(), Some(mode.to_owned())));
                make("tmpfs", &Vec::from_iter(mode), None, MountAttrFlags::MOUNT_ATTR_RDONLY)?
            }
            (_, Some(source)) if options.iter().any(|option| matches!(*option, "bind" | "rbind")) => {
                match clone(source) {
                    // It went since.
                    Err(Errno::NOENT) => return Ok(()),
                    tree => tree?,
                }
            }
            _ => return Ok(()),
        };
        if options.iter().any(|option| matches!(*option, "ro" | "rro")) {
            read_only(&tree)?;
        }
        let place = text(target);
        let is_folder = rustix::fs::fstat(&tree)
            .is_ok_and(|about| rustix::fs::FileType::from_raw_mode(about.st_mode).is_dir());
        let place = match resolve::open(root, &place, OFlags::PATH) {
            Err(Errno::NOENT) if is_memory && is_folder => {
                resolve::ensure_folder(root, &place, Mode::from_raw_mode(0o755))?
            }
            Err(Errno::NOENT) if is_memory => resolve::ensure_file(root, &place)?,
            // It was made when the context started, and the guest has removed it.
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            place => place?,
        };
        attach(&tree, &place, Path::new(""))
    }

    /// What was hidden from the guest is hidden here too: its links may lead there.
    fn cover(&self, root: &OwnedFd) -> std::result::Result<(), Errno> {
        let masked = self.spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_ref());
        for path in masked
            .into_iter()
            .flatten()
            .filter(|path| !path.starts_with("/proc") && !path.starts_with("/sys"))
        {
            let Ok(place) = resolve::open(root, &text(Path::new(path)), OFlags::PATH) else { continue };
            let is_folder = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode).is_dir();
            let tree = if is_folder {
                let mode = [("mode".into(), Some("755".into()))];
                make("tmpfs", &mode, None, MountAttrFlags::MOUNT_ATTR_RDONLY)?
            } else {
                clone(Path::new("/dev/null"))?
            };
            attach(&tree, &place, Path::new(""))?;
        }
        Ok(())
    }
}

/// What lies below the changes of a context: its image, as one tree; none where there is no such tree.
///
/// # Errors
///
/// It cannot be opened or mounted; for several layers that takes a mount namespace in which the caller is root.
pub fn below(root: &RootFs) -> std::io::Result<Option<OwnedFd>> {
    let RootFs::Mount { kind, options, within, .. } = root else { return Ok(None) };
    if kind != "overlay" {
        return Ok(None);
    }
    let lower: Vec<_> = options.iter().filter(|(key, _)| key.starts_with("lowerdir")).cloned().collect();
    if let [(_, Some(one))] = &lower[..]
        && !one.replace("\\\\", "").replace("\\:", "").contains(':')
    {
        let path = one.replace("\\:", ":").replace("\\\\", "\\");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // A path of its own is none from there.
        let path = within.as_deref().unwrap_or(Path::new("/")).join(path);
        return Ok(Some(openat(CWD, &path, flags, Mode::empty())?));
    }
    let user = options.iter().filter(|(key, _)| key == "userxattr").cloned();
    let options: Vec<_> = lower.into_iter().chain(user).collect();
    Ok(Some(make("overlay", &options, within.as_deref(), MountAttrFlags::MOUNT_ATTR_RDONLY)?))
}

/// The root of a context's process, as long as it is this process's.
fn running(context: &Context) -> Result<Option<OwnedFd>> {
    let Some(alive) = context.alive()? else { return Ok(None) };
    let path = format!("/proc/{}/root", alive.pid);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(CWD, &*path, flags, Mode::empty()) {
        // The process of before the look lives still, and so it was this one's.
        Ok(root) if context.alive()?.is_some() => Ok(Some(root)),
        Ok(_) | Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        Err(error) => Err(Error::state("open", path)(error.into())),
    }
}

/// A new file system, attached nowhere yet. Its options name folders from `within`.
fn make(
    kind: &str,
    options: &[(String, Option<String>)],
    within: Option<&Path>,
    attributes: MountAttrFlags,
) -> std::result::Result<OwnedFd, Errno> {
    let word = |word: &str| CString::new(word).map_err(|_| Errno::INVAL);
    let pair =
        |(key, value): &(String, Option<String>)| Ok((word(key)?, value.as_deref().map(word).transpose()?));
    let options = options.iter().map(pair).collect::<std::result::Result<Vec<_>, Errno>>()?;
    let options = options.iter().map(|(key, value)| (&**key, value.as_deref()));
    let Some(within) = within else { return root::file_system(&word(kind)?, c"", options, attributes) };
    // Relative paths of the caller's are from where it is.
    let here = openat(CWD, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    chdir(within)?;
    let made = root::file_system(&word(kind)?, c"", options, attributes);
    fchdir(here)?;
    made
}

/// The options of an overlay of the configuration, without those that are the mount's.
fn split(options: &[&str]) -> Vec<(String, Option<String>)> {
    let own = options.iter().filter(|option| !matches!(**option, "ro" | "rw"));
    own.map(|option| match option.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => ((*option).to_owned(), None),
    })
    .collect()
}

fn clone(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags)
}

fn attach(tree: &OwnedFd, folder: impl AsFd, path: &Path) -> std::result::Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", folder, path, flags)
}

fn read_only(tree: &OwnedFd) -> std::result::Result<(), Errno> {
    const MOUNT_ATTR_RDONLY: u64 = 1;
    let attributes = MountAttributes { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, userns_fd: 0 };
    mount_setattr(tree, c"", false, &attributes)
}

fn text(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}
