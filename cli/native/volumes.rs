//! The volumes of a new context: those of `-v` and `--mount`, and those that its image declares.
//!
//! What an image declares has no name, lies in the context's own folder and goes with it. A volume that is still empty
//! takes over what the image has at its place; that is done when the context's folder is made and nothing runs yet.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};
use vctx_context::apart;
use vctx_runtime::plan::RootFs;
use vctx_runtime::prepare::Prepare;
use vctx_runtime::view;
use vctx_storage::inside::{self, LastLink};
use vctx_storage::quota::{self, Limits};
use vctx_storage::volume::{self, Lock};
use vctx_storage::{NewFolder, Place};

use super::ids::Ids;
use super::target::{Root, Target};
use super::{NativeError, is_root};
use crate::args::Global;
use crate::error::Error;
use crate::grants::{MountKind, MountSpec};
use crate::run_args::RunArgs;

/// What can be said of how a volume is mounted.
const OPTIONS: [&str; 14] = [
    "ro", "rw", "nocopy", "nosuid", "nodev", "noexec", "noatime", "relatime", "private", "rprivate", "slave",
    "rslave", "shared", "rshared",
];

/// The volumes of a context.
#[derive(Debug, Default)]
pub(super) struct Volumes {
    /// Where, and the mount.
    pub(super) mounts: Vec<(PathBuf, Value)>,
    /// Folders to be made.
    pub(super) folders: Vec<NewFolder>,
    /// Those with names, which are made where they are missing.
    named: Vec<String>,
    /// Those that may be filled.
    fills: Vec<Fill>,
    /// Keeps named ones until the context has them.
    pub(super) lock: Option<Lock>,
}

#[derive(Debug)]
struct Fill {
    data: PathBuf,
    path: PathBuf,
    /// What an image declares is not led anywhere by its links (CVE-2022-23648).
    last: LastLink,
}

impl Volumes {
    pub(super) fn of(
        global: &Global,
        args: &RunArgs,
        target: &Target,
        context: &Path,
    ) -> Result<Volumes, Error> {
        let mut wanted: Vec<(Option<&str>, PathBuf, Vec<String>, LastLink)> = Vec::new();
        let all = &args.mounts;
        for one in all.mount.iter().chain(&all.volume) {
            if let MountKind::Volume { name } = &one.kind {
                wanted.push((name.as_deref(), one.target.clone(), one.options.clone(), LastLink::Followed));
            }
        }
        let is_asked = |path: &Path| {
            let asked = all.mount.iter().chain(&all.volume).chain(&all.tmpfs);
            asked.map(|one: &MountSpec| &one.target).any(|target| target == path)
        };
        for path in declared(target)? {
            if !is_asked(&path) {
                wanted.push((None, path, Vec::new(), LastLink::Taken));
            }
        }
        if wanted.is_empty() {
            return Ok(Volumes::default());
        }
        Volumes::make(global, context, wanted)
    }

    fn make(
        global: &Global,
        context: &Path,
        wanted: Vec<(Option<&str>, PathBuf, Vec<String>, LastLink)>,
    ) -> Result<Volumes, Error> {
        let store = store(global);
        let names: Vec<&str> = wanted.iter().filter_map(|(name, ..)| *name).collect();
        let lock = if names.is_empty() { None } else { Some(store.keep()?) };
        let (mut folders, places) = volume::own(context, wanted.len() - names.len());
        folders.extend(volume::marks(context, &names));
        let mut volumes = Volumes {
            folders,
            lock,
            named: names.iter().map(|&name| name.to_owned()).collect(),
            ..Volumes::default()
        };
        let mut places = places.into_iter();
        for (name, path, mut options, last) in wanted {
            let data = match name {
                Some(name) => store.data(name),
                None => places.next().unwrap_or_default(),
            };
            if let Some(unknown) = options.iter().find(|option| !OPTIONS.contains(&option.as_str())) {
                return Err(NativeError::VolumeOption(unknown.clone()).into());
            }
            let copies = !options.iter().any(|option| option == "nocopy");
            options.retain(|option| !matches!(option.as_str(), "nocopy" | "rw"));
            if options.iter().any(|option| option == "ro") {
                options.push("rro".into());
            }
            options.push("rbind".into());
            let mount = json!({ "destination": path, "type": "bind", "source": data, "options": options });
            volumes.mounts.push((path.clone(), mount));
            if copies && (!data.exists() || volume::is_empty(&data)) {
                volumes.fills.push(Fill { data, path, last });
            }
        }
        Ok(volumes)
    }

    /// What has to be done when the context's folders are there: a limit first, for it counts what comes.
    pub(super) fn prepare(
        &mut self,
        store: volume::Volumes,
        root: &Root,
        target: &Target,
        ids: &Ids,
        limits: Limits,
    ) -> Option<Prepare> {
        let mut fills = std::mem::take(&mut self.fills);
        if target.is_host() {
            fills.clear();
        }
        let named = std::mem::take(&mut self.named);
        if fills.is_empty() && named.is_empty() && limits == Limits::default() {
            return None;
        }
        let limited = limited(root);
        let (context, root, mappings) = (root.folder.clone(), root.file_system.clone(), ids.mappings.clone());
        Some(Prepare::new(move || {
            if limits != Limits::default() {
                quota::limit(&context, &limited, limits)?;
            }
            named.iter().try_for_each(|name| store.ensure(name))?;
            let one = |fill: &Fill| match &mappings {
                Some(mappings) if !is_root() => {
                    let work = || {
                        apart::own_mounts()?;
                        fill.run(&root)
                    };
                    apart::as_root_of(mappings, work)
                }
                _ => fill.run(&root),
            };
            for fill in &fills {
                one(fill).map_err(|source| refused(fill, source))?;
            }
            Ok(())
        }))
    }
}

/// The volumes of the store.
pub(super) fn store(global: &Global) -> volume::Volumes {
    volume::Volumes::new(&Place::usual(global.root.as_deref()).store)
}

impl Fill {
    fn run(&self, root: &RootFs) -> io::Result<()> {
        let Some(below) = view::below(root)? else { return Ok(()) };
        let found: OwnedFd = match inside::find(&below, &self.path, self.last) {
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
            found => found?,
        };
        if rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode).is_symlink() {
            return Err(rustix::io::Errno::LOOP.into());
        }
        volume::fill(&self.data, found, &self.path).map_err(|error| {
            // Through the exit of a process goes a number.
            std::iter::successors(std::error::Error::source(&error), |error| error.source())
                .find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error())
                .map_or_else(|| io::Error::other(error), io::Error::from_raw_os_error)
        })
    }
}

fn refused(fill: &Fill, source: io::Error) -> Box<dyn std::error::Error + Send + Sync> {
    let path = fill.path.clone();
    if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
        return Box::new(NativeError::LinkedVolume(path));
    }
    Box::new(NativeError::FillVolume { path, source })
}

/// The folders of a context that take its changes, and its own volumes.
fn limited(root: &Root) -> Vec<PathBuf> {
    let is_part = |name: &str| name == "own" || name.bytes().all(|byte| byte.is_ascii_digit());
    let in_part = |path: &Path| {
        let first = path.strip_prefix(&root.folder).ok().and_then(|rest| rest.components().next());
        first.is_some_and(|name| name.as_os_str().to_str().is_some_and(is_part))
    };
    root.folders.iter().map(|(path, _)| path.clone()).filter(|path| in_part(path)).collect()
}

/// The volumes that an image declares: absolute paths that do not climb.
fn declared(target: &Target) -> Result<Vec<PathBuf>, NativeError> {
    let Some(settings) = target.settings() else { return Ok(Vec::new()) };
    let mut paths = Vec::new();
    for text in settings.volumes.keys() {
        let path = Path::new(text);
        let climbs = path.components().any(|part| part == Component::ParentDir);
        if !path.is_absolute() || climbs || text.contains('\0') || path.components().count() < 2 {
            return Err(NativeError::ImageVolume(text.escape_debug().to_string()));
        }
        paths.push(path.components().collect());
    }
    paths.sort();
    paths.dedup();
    Ok(paths)
}
