//! The mounts of a context as criu has to see them: which are not of the tree, where they come from on restore, and which
//! there may be at all.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount as SpecMount, Spec};
use rustix::fs::{CWD, Mode, OFlags, openat};
use vctx_context::cgroup::Cgroup;
use vctx_context::child::resolve;
use vctx_context::mountinfo::{self, Mount};

use crate::plan::root::{DEFAULT_DEVICES, options_of};
use crate::validate::clean;
use crate::{Error, Result};

/// What a mount of the configuration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A folder or a file of the host, with the mounts below it or without.
    Bind { source: PathBuf, recursive: bool },
    /// The control groups.
    Groups,
    /// A file system of this type.
    FileSystem(String),
}

/// A mount of the configuration.
#[derive(Debug)]
pub(super) struct Place {
    /// Where it is, without links.
    pub(super) point: PathBuf,
    pub(super) what: What,
    /// Options that it must have: `ro`, `nosuid`, `nodev`, `noexec`.
    pub(super) options: Vec<&'static str>,
}

fn what(mount: &SpecMount) -> What {
    let options = options_of(mount);
    let kind = mount.typ().as_deref().unwrap_or("");
    match mount.source() {
        _ if matches!(kind, "cgroup" | "cgroup2") => What::Groups,
        Some(source) if options.bind || kind == "bind" => {
            What::Bind { source: source.clone(), recursive: options.recursive }
        }
        _ => What::FileSystem(kind.to_owned()),
    }
}

/// The mounts of the configuration, with their targets as `root` resolves them.
pub(super) fn places(spec: &Spec, root: &OwnedFd) -> Vec<Place> {
    let place = |mount: &SpecMount| {
        let set = options_of(mount).set;
        let flags = [(1, "ro"), (2, "nosuid"), (4, "nodev"), (8, "noexec")];
        Place {
            point: resolved(root, mount.destination()),
            what: what(mount),
            options: flags.into_iter().filter(|(bit, _)| set & bit != 0).map(|(_, name)| name).collect(),
        }
    };
    spec.mounts().iter().flatten().map(place).collect()
}

/// Opens a root, of the host or of a process.
pub(super) fn open_root(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|error| Error::state("open", path)(error.into()))
}

/// A path in a root, without the links in it; as it is where nothing is there.
pub(super) fn resolved(root: &OwnedFd, path: &Path) -> PathBuf {
    use std::os::fd::AsRawFd;
    let plain = clean(path);
    let look = || {
        let place = resolve::open(root, CString::new(plain.as_str()).ok()?.as_c_str(), OFlags::PATH).ok()?;
        let name = |descriptor: &OwnedFd| {
            std::fs::read_link(format!("/proc/self/fd/{}", descriptor.as_raw_fd())).ok()
        };
        Some(Path::new("/").join(name(&place)?.strip_prefix(name(root)?).ok()?))
    };
    look().unwrap_or_else(|| PathBuf::from(&plain))
}

/// The mount of the configuration below which a point lies; the last one wins, as it covers the others.
fn owner<'a>(places: &'a [Place], point: &Path) -> Option<&'a Place> {
    let above = places.iter().rev().filter(|place| point.starts_with(&place.point));
    above.max_by_key(|place| place.point.components().count())
}

/// The points of those mounts of a running context that come from the host.
pub(super) fn foreign(pid: i32, spec: &Spec, table: &[Mount]) -> Result<Vec<Vec<u8>>> {
    let root = open_root(Path::new(&format!("/proc/{pid}/root")))?;
    let places = places(spec, &root);
    let is_foreign = |mount: &&Mount| {
        let below = owner(&places, &mount.point);
        mount.point != Path::new("/")
            && match mount.kind.as_str() {
                // A mask, or a device in a user namespace.
                "devtmpfs" | "cgroup" | "cgroup2" => true,
                _ => below.is_some_and(|place| matches!(place.what, What::Bind { .. })),
            }
    };
    let points = table.iter().filter(is_foreign).map(|mount| bytes(&mount.point));
    Ok(points.collect())
}

/// Where the mounts that come from the host are to come from: (point, host path).
pub(super) fn sources(
    spec: &Spec,
    places: &[Place],
    cgroup: Option<&Cgroup>,
) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let host = mountinfo::of("self").map_err(Error::Proc)?;
    let mut sources = Vec::new();
    for place in places {
        match &place.what {
            What::Bind { source, recursive } => {
                let source = source.canonicalize().map_err(|cause| Error::HostPath {
                    what: "the source of a mount",
                    path: source.clone(),
                    source: cause,
                })?;
                sources.push((bytes(&place.point), bytes(&source)));
                let below = host.iter().filter(|mount| *recursive && mount.point != source);
                for mount in below {
                    if let Ok(rest) = mount.point.strip_prefix(&source) {
                        sources.push((bytes(&place.point.join(rest)), bytes(&mount.point)));
                    }
                }
            }
            What::Groups => {
                let groups = cgroup.map(Cgroup::bind_sources).map(|sources| sources.directories);
                for (name, path) in groups.unwrap_or_default() {
                    let point = if name.is_empty() { place.point.clone() } else { place.point.join(name) };
                    sources.push((bytes(&point), bytes(&path)));
                }
            }
            What::FileSystem(_) => {}
        }
    }
    let linux = spec.linux().as_ref();
    // Files are masked with the null device; folders are not, and such a key is asked for by nobody.
    for masked in linux.and_then(|linux| linux.masked_paths().as_ref()).into_iter().flatten() {
        sources.push((clean(Path::new(masked)).into_bytes(), b"/dev/null".to_vec()));
    }
    // In a user namespace devices are bound.
    sources.extend(devices(spec).map(|path| (path.clone().into_bytes(), path.into_bytes())));
    Ok(sources)
}

/// The devices of a context.
pub(super) fn devices(spec: &Spec) -> impl Iterator<Item = String> {
    let asked = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref()).into_iter().flatten();
    let usual = DEFAULT_DEVICES.iter().map(|(path, _)| path.to_string_lossy().into_owned());
    asked.map(|device| clean(device.path())).chain(usual)
}

/// The root is read-only.
pub(super) fn is_read_only(spec: &Spec) -> bool {
    spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false)
}

/// Makes the targets of mounts that are missing in the root file system: criu makes none.
pub(super) fn make_targets(spec: &Spec, rootfs: &Path) -> Result<()> {
    let root = open_root(rootfs)?;
    if is_read_only(spec) {
        // Where criu lays the old root down for a moment; in one that can be written it makes a folder for that.
        make_target(&root, Path::new("/tmp"), &What::FileSystem(String::new()), rootfs)?;
    }
    let mut above: Vec<(PathBuf, What)> = Vec::new();
    for mount in spec.mounts().iter().flatten() {
        let point = PathBuf::from(clean(mount.destination()));
        let what = what(mount);
        let holder = above
            .iter()
            .filter(|(other, _)| point.starts_with(other) && *other != point)
            .max_by_key(|(other, _)| other.components().count());
        match holder {
            None => make_target(&root, &point, &what, rootfs)?,
            Some((other, What::Bind { source, .. })) if source.is_dir() => {
                let rest = Path::new("/").join(point.strip_prefix(other).unwrap_or(Path::new("")));
                make_target(&open_root(source)?, &rest, &what, source)?;
            }
            // criu brings the content of what lives in memory.
            Some(_) => {}
        }
        above.push((point, what));
    }
    Ok(())
}

fn make_target(root: &OwnedFd, point: &Path, what: &What, shown: &Path) -> Result<()> {
    let is_file = matches!(what, What::Bind { source, .. } if !source.is_dir());
    let fail = |error: rustix::io::Errno| {
        let path = shown.join(point.strip_prefix("/").unwrap_or(point));
        Error::state("make the target of a mount", path)(error.into())
    };
    let name = CString::new(bytes(point)).map_err(|_| fail(rustix::io::Errno::INVAL))?;
    let made = match is_file {
        true => resolve::ensure_file(root, &name),
        false => resolve::ensure_folder(root, &name, Mode::from_raw_mode(0o755)),
    };
    made.map(drop).map_err(fail)
}

pub(super) fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_encoded_bytes().to_vec()
}
