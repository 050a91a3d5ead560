//! What the root is made of: the host, an image, or a folder.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use vctx_context::child::resolve;
use vctx_runtime::plan::RootFs;
use vctx_storage::host::{self, HIDDEN, Part};
use vctx_storage::image::spec::Settings;
use vctx_storage::image::stacks::Stack;
use vctx_storage::image::{Access, Digest, Lock, lookup, mark};
use vctx_storage::{Layers, Lifetime, Lowers, NewFolder, Place, mounts};

use super::NativeError;
use super::ids::Ids;
use crate::args::Global;
use crate::error::Error;
use crate::run_args::RunArgs;

/// What TARGET names.
#[derive(Debug)]
pub(super) enum Target {
    /// The machine's own root.
    Host,
    /// A folder with a root file system, absolute.
    Folder(PathBuf),
    /// An image of the store.
    Image(Box<ImageTarget>),
}

/// An image that is to be run.
#[derive(Debug)]
pub(super) struct ImageTarget {
    name: String,
    manifest: Digest,
    /// Its layers.
    stack: Stack,
    /// How it wants to be run.
    pub(super) settings: Settings,
}

/// The root of one context.
#[derive(Debug)]
pub(super) struct Root {
    /// How it is mounted.
    pub(super) file_system: RootFs,
    /// Where it is attached.
    pub(super) at: PathBuf,
    /// What is mounted in it before everything else.
    pub(super) parts: Vec<Part>,
    /// The context's own folder.
    pub(super) folder: PathBuf,
    /// Folders to be made.
    pub(super) folders: Vec<(PathBuf, u32)>,
    /// Empty files to be made in them.
    pub(super) marks: Vec<PathBuf>,
    /// Its volumes: where, and the mount.
    pub(super) volumes: Vec<(PathBuf, serde_json::Value)>,
    /// What the guest must not see of the host.
    pub(super) hidden: Vec<PathBuf>,
}

impl Target {
    /// What the text names. For an image also the lock that keeps its layers until the context has them.
    pub(super) fn of(global: &Global, text: &str) -> Result<(Target, Option<Lock>), Error> {
        if text == "host" {
            return Ok((Target::Host, None));
        }
        let is_path = text.starts_with(['/', '.']);
        if !is_path && let Some((image, lock)) = ImageTarget::of(global, text)? {
            return Ok((Target::Image(Box::new(image)), Some(lock)));
        }
        let path = match Path::new(text).canonicalize() {
            Ok(path) => path,
            // What does not look like a path may be meant as the name of an image.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_path => {
                return Err(NativeError::Target(text.into()).into());
            }
            Err(source) => return Err(NativeError::Folder { path: text.into(), source }.into()),
        };
        match path {
            path if path == Path::new("/") => Err(NativeError::HostRoot(text.into()).into()),
            path if path.is_dir() => Ok((Target::Folder(path), None)),
            _ => Err(NativeError::NoFolder(text.into()).into()),
        }
    }

    pub(super) fn is_host(&self) -> bool {
        matches!(self, Target::Host)
    }

    /// How an image wants to be run.
    pub(super) fn settings(&self) -> Option<&Settings> {
        match self {
            Target::Image(image) => Some(&image.settings),
            _ => None,
        }
    }

    /// Opens a file of the root, whose links lead nowhere else.
    pub(super) fn open(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let folder = match self {
            Target::Host => Path::new("/"),
            Target::Folder(path) => path,
            Target::Image(image) => return lookup::open(&image.stack.layers, path, flags),
        };
        let root = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let path = CString::new(path.as_os_str().as_bytes())?;
        Ok(resolve::open(&root, &path, flags)?)
    }

    /// The guest will find this program.
    pub(super) fn has_program(&self, path: &Path) -> bool {
        let hidden = self.is_host() && HIDDEN.iter().any(|hidden| path.starts_with(hidden));
        path.is_absolute() && !hidden && self.open(path, OFlags::PATH).is_ok()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Host => f.write_str("host"),
            Target::Folder(path) => path.display().fmt(f),
            Target::Image(image) => f.write_str(&image.name),
        }
    }
}

impl ImageTarget {
    fn of(global: &Global, text: &str) -> Result<Option<(ImageTarget, Lock)>, Error> {
        use vctx_storage::image::Error as Failure;
        let store = crate::image::store(global);
        let image = match store.find(text) {
            Err(Failure::Absent(_)) => return Ok(None),
            image => image?,
        };
        let lock = store.lock(Access::Read)?;
        let details = store.details(&image.manifest)?;
        let stack = store.stack(&image, &details.config.rootfs.diff_ids, super::is_root())?;
        let settings = details.config.config.unwrap_or_default();
        Ok(Some((ImageTarget { name: image.name, manifest: image.manifest, stack, settings }, lock)))
    }

    /// A file in the context's own folder that names the image, for garbage collection.
    fn mark(&self, context: &Path) -> PathBuf {
        mark::of(context, &self.manifest)
    }
}

impl Root {
    pub(super) fn of(
        global: &Global,
        args: &RunArgs,
        name: &str,
        target: &Target,
        ids: &Ids,
    ) -> Result<Root, Error> {
        let thrown_away = args.process.rm || args.mounts.ephemeral;
        let lifetime = if thrown_away { Lifetime::ThrownAway } else { Lifetime::Kept };
        let place = Place::usual(global.root.as_deref());
        let layers = place.layers(name, lifetime)?;
        let (mut folders, mut marks) = (vec![layers.own()], Vec::new());
        let mut hidden: Vec<PathBuf> = HIDDEN.iter().map(PathBuf::from).collect();
        hidden.extend([place.store, crate::create::store(global).root().to_owned()]);
        let (file_system, parts) = match (target, ids.mappings.is_some()) {
            (Target::Host, true) => {
                let parts = host::taken_apart(&layers, &hidden)?;
                let at = layers.root();
                folders.push(at.clone());
                (of_parts(at.path, &parts), parts)
            }
            (Target::Host, false) => {
                let root = overlay(&layers, Lowers::Folders(&[Path::new("/")]), false, &mut folders)?;
                (root, host::mounted(&layers, &hidden)?)
            }
            (Target::Folder(path), user_namespace) => {
                if user_namespace && let Some(mount) = mounts::below(&mounts::all()?, path) {
                    let (path, below) = (path.clone(), mount.point.clone());
                    return Err(vctx_storage::Error::MountsBelow { path, below }.into());
                }
                (overlay(&layers, Lowers::Folders(&[path]), user_namespace, &mut folders)?, Vec::new())
            }
            (Target::Image(image), user_namespace) => {
                let paths: Vec<&Path> = image.stack.layers.iter().map(PathBuf::as_path).collect();
                let root = overlay(&layers, image.stack.lowers(&paths), user_namespace, &mut folders)?;
                marks.push(image.mark(&layers.folder));
                (root, Vec::new())
            }
        };
        folders.extend(host::folders(&parts));
        let folders = folders.into_iter().map(|NewFolder { path, mode }| (path, mode)).collect();
        let at = match &file_system {
            RootFs::Folder(at) | RootFs::Mount { at, .. } => at.clone(),
        };
        Ok(Root {
            file_system,
            at,
            parts,
            folder: layers.folder,
            folders,
            marks,
            volumes: Vec::new(),
            hidden,
        })
    }
}

/// A root of overlays and links, as an ordinary user can have it.
fn of_parts(at: PathBuf, parts: &[Part]) -> RootFs {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let link = |part: &Part| match part {
        Part::Link(target, place) => Some((text(target), text(place))),
        _ => None,
    };
    RootFs::Mount {
        kind: "tmpfs".into(),
        options: vec![("mode".into(), Some("755".into()))],
        at,
        within: None,
        links: parts.iter().filter_map(link).collect(),
    }
}

fn overlay(
    layers: &Layers,
    lowers: Lowers<'_>,
    user_namespace: bool,
    folders: &mut Vec<NewFolder>,
) -> Result<RootFs, Error> {
    let overlay = layers.overlay("0", lowers, user_namespace)?;
    folders.extend(overlay.folders);
    Ok(RootFs::Mount {
        kind: "overlay".into(),
        options: overlay.options,
        within: overlay.within,
        at: overlay.at,
        links: Vec::new(),
    })
}

/// The mode of a folder that is hidden by an empty one.
pub(super) fn mode_of(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt;
    let about = std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_dir)?;
    Some(about.permissions().mode() & 0o7777)
}
