//! The part of the plan that makes the root: mounts, control groups, devices and links.

use std::ffi::CStr;

use oci_spec::runtime::{LinuxDeviceType, Mount as SpecMount, Spec};
use vctx_context::child::plan::{Device, Mount, Root, Source};

use super::{Facts, Press, RootFs, makes_mounts};
use crate::mount::{self, Options};
use crate::validate::{clean, may_cover};
use crate::{Error, Result};

pub(super) fn root<'a>(press: &Press<'a>, spec: &Spec, facts: &Facts<'a>) -> Result<Root<'a>> {
    let linux = spec.linux().as_ref();
    let propagation = propagation(spec);
    let staged = !makes_mounts(spec);
    let (source, within, at, mut links) = match &facts.root {
        RootFs::Folder(path) => {
            let path = press.path(path)?;
            (Source::Bind { path, recursive: true, procfs: false }, None, path, Vec::new())
        }
        RootFs::Mount { kind, options, within, at, links } => {
            let options = options.iter().map(|(key, value)| {
                Ok((press.text(key)?, value.as_ref().map(|value| press.text(value)).transpose()?))
            });
            let options = press.list(options.collect::<Result<Vec<_>>>()?);
            let source = Source::FileSystem { kind: press.text(kind)?, source: press.text("vctx")?, options };
            let pair = |(target, path): &(String, String)| Ok((press.text(target)?, press.text(path)?));
            let within = within.as_ref().map(|path| press.path(path)).transpose()?;
            (source, within, press.path(at)?, links.iter().map(pair).collect::<Result<Vec<_>>>()?)
        }
    };
    // The files of a new file system have the context's label (runtime-spec, "Mount Label").
    let label = linux.and_then(|linux| linux.mount_label().as_deref()).filter(|label| !label.is_empty());
    let mut mounts = Vec::new();
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        if matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2")) {
            mounts.push(cgroup_mount(press, mount, facts)?);
        } else {
            mounts.push(self::mount(press, mount, index, facts, label)?);
        }
    }
    let terminal = spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
    let own_dev = !spec
        .mounts()
        .iter()
        .flatten()
        .any(|mount| clean(mount.destination()) == "/dev" && options_of(mount).bind);
    if own_dev {
        links.extend(dev_links(press)?);
    }
    let texts = |list: Option<&Vec<String>>| press.texts(list.into_iter().flatten());
    Ok(Root {
        source,
        within,
        at,
        staged,
        // What is mounted in a peer of the host's mount would appear on the host.
        propagation: if staged { mount::SLAVE } else { flow(spec) },
        final_propagation: propagation.filter(|flag| matches!(*flag, mount::SHARED | mount::UNBINDABLE)),
        readonly: spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly).unwrap_or(false),
        no_pivot: facts.no_pivot,
        mounts: press.list(mounts),
        devices: if own_dev { press.list(devices(press, spec)?) } else { &[] },
        links: press.list(links),
        console: terminal && own_dev,
        masked: texts(linux.and_then(|linux| linux.masked_paths().as_ref()))?,
        readonly_paths: texts(linux.and_then(|linux| linux.readonly_paths().as_ref()))?,
    })
}

fn propagation(spec: &Spec) -> Option<u64> {
    let linux = spec.linux().as_ref()?;
    linux.rootfs_propagation().as_deref().and_then(mount::root_propagation)
}

/// Propagation of every mount that comes from the host. One that the host makes later must be able to arrive, and what
/// the context does must not leave.
pub(crate) fn flow(spec: &Spec) -> u64 {
    propagation(spec).filter(|flag| *flag != mount::UNBINDABLE).unwrap_or(mount::SLAVE)
}

pub(crate) fn options_of(mount: &SpecMount) -> Options<'_> {
    mount::options(mount.options().iter().flatten().map(String::as_str))
}

fn mount<'a>(
    press: &Press<'a>,
    mount: &SpecMount,
    index: usize,
    facts: &Facts<'a>,
    files_label: Option<&str>,
) -> Result<Mount<'a>> {
    let mut options = options_of(mount);
    let destination = clean(mount.destination());
    let kind = mount.typ().as_deref().unwrap_or("");
    let bind = options.bind || kind == "bind";
    let source = if bind {
        let path = mount.source().as_ref().ok_or_else(|| {
            Error::invalid(format!("mounts[{index}].source"), "is missing, and a bind mount needs one")
        })?;
        let path = press.path(path)?;
        match facts.idmaps.iter().find(|(of, _)| *of == index) {
            Some(&(_, tree)) => Source::Tree { tree, path },
            None => Source::Bind { path, recursive: options.recursive, procfs: destination == "/proc" },
        }
    } else {
        if kind.is_empty() || kind == "none" {
            return Err(Error::invalid(
                format!("mounts[{index}].type"),
                "is missing; name a file system, or the option bind",
            ));
        }
        options.clear = whole_atime(options.set);
        options.clear_recursive = whole_atime(options.set_recursive);
        let source =
            mount.source().as_ref().map_or(kind.as_bytes(), |path| path.as_os_str().as_encoded_bytes());
        let label = files_label.filter(|_| !matches!(kind, "proc" | "sysfs" | "mqueue"));
        let label = label.map(|label| ("context", Some(label))).into_iter();
        let data =
            options.data.iter().copied().chain(label).map(|(key, value)| {
                Ok((press.text(key)?, value.map(|value| press.text(value)).transpose()?))
            });
        let data = data.collect::<Result<Vec<_>>>()?;
        Source::FileSystem { kind: press.text(kind)?, source: press.text(source)?, options: press.list(data) }
    };
    let mut made = plain(source, press.text(&destination)?);
    options.apply(&mut made);
    made.propagation = press.list(options.propagation.clone());
    made.over_proc = may_cover(&destination);
    made.inherit_mode = kind == "tmpfs" && !bind && !options.data.iter().any(|(key, _)| *key == "mode");
    Ok(made)
}

/// What a new mount has to clear: no flag, but a kind of atime is only set together with the whole field.
fn whole_atime(set: u64) -> u64 {
    if set & mount::ATIME != 0 { mount::ATIME } else { 0 }
}

fn plain<'a>(source: Source<'a>, target: &'a CStr) -> Mount<'a> {
    Mount {
        source,
        target,
        set: 0,
        clear: 0,
        set_recursive: 0,
        clear_recursive: 0,
        propagation: &[],
        copy_up: false,
        over_proc: false,
        inherit_mode: false,
    }
}

/// The context's own groups: the unified one directly, those of version 1 side by side in a tmpfs, as on the host.
fn cgroup_mount<'a>(press: &Press<'a>, mount: &SpecMount, facts: &Facts<'a>) -> Result<Mount<'a>> {
    let source = match facts.cgroups.as_slice() {
        [(name, path)] if name.is_empty() => {
            Source::Bind { path: press.path(path)?, recursive: false, procfs: false }
        }
        groups => {
            let folders = groups.iter().map(|(name, path)| Ok((press.text(name)?, press.path(path)?)));
            let links = facts.cgroup_links.iter().map(|(to, name)| Ok((press.text(to)?, press.text(name)?)));
            Source::Folders {
                folders: press.list(folders.collect::<Result<Vec<_>>>()?),
                links: press.list(links.collect::<Result<Vec<_>>>()?),
            }
        }
    };
    let mut made = plain(source, press.text(clean(mount.destination()))?);
    options_of(mount).apply(&mut made);
    made.clear = whole_atime(made.set);
    made.copy_up = false;
    Ok(made)
}

/// The devices that every context has (runtime-spec, "Default Devices").
pub(crate) const DEFAULT_DEVICES: [(&CStr, (u32, u32)); 6] = [
    (c"/dev/null", (1, 3)),
    (c"/dev/zero", (1, 5)),
    (c"/dev/full", (1, 7)),
    (c"/dev/random", (1, 8)),
    (c"/dev/urandom", (1, 9)),
    (c"/dev/tty", (5, 0)),
];

/// Those, and the ones of the configuration.
fn devices<'a>(press: &Press<'a>, spec: &Spec) -> Result<Vec<Device<'a>>> {
    const CHARACTER: u32 = libc::S_IFCHR;
    let asked = spec.linux().as_ref().and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let mut devices = Vec::new();
    for (path, number) in DEFAULT_DEVICES {
        if !asked.iter().any(|device| device.path().as_os_str().as_encoded_bytes() == path.to_bytes()) {
            devices.push(Device { path, mode: CHARACTER | 0o666, number, owner: (0, 0), host: path });
        }
    }
    for (index, device) in asked.iter().enumerate() {
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => CHARACTER,
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::P => libc::S_IFIFO,
            LinuxDeviceType::A => {
                return Err(Error::invalid(
                    format!("linux.devices[{index}].type"),
                    "is a; c, u, b and p are devices",
                ));
            }
        };
        // Checked by `validate`; a FIFO has none, whatever is written there.
        let number = |number: i64| u32::try_from(number).unwrap_or(0);
        let path = clean(device.path());
        devices.push(Device {
            path: press.text(&path)?,
            mode: kind | (device.file_mode().unwrap_or(0o666) & 0o7777),
            number: (number(device.major()), number(device.minor())),
            owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
            host: press.text(&path)?,
        });
    }
    Ok(devices)
}

fn dev_links<'a>(press: &Press<'a>) -> Result<Vec<(&'a CStr, &'a CStr)>> {
    let links = [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("/proc/kcore", "/dev/core"),
        ("pts/ptmx", "/dev/ptmx"),
    ];
    links.iter().map(|(target, path)| Ok((press.text(target)?, press.text(path)?))).collect()
}
