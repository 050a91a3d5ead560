//! What is mounted in the root, in this order: the parts of the host, what hides the rest of it, the kernel's own file
//! systems, and what was asked for, parents first.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vctx_netns::Network;
use vctx_storage::host::Part;

use super::NativeError;
use super::ids::Ids;
use super::target::{Root, Target, mode_of};
use crate::error::Error;
use crate::grants::{MountKind, MountSpec};
use crate::run_args::RunArgs;

/// Hidden folders that the guest may fill. The others are empty and read-only.
const WRITABLE: [&str; 5] = ["/tmp", "/var/tmp", "/run", "/home", "/root"];

/// Files of procfs and sysfs that tell of the machine, or reach it.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// The mounts of a configuration, and what follows from them.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    pub(super) list: Vec<Value>,
    pub(super) masked: Vec<String>,
    /// The caller's working folder inside.
    pub(super) cwd: PathBuf,
}

impl Mounts {
    pub(super) fn of(
        args: &RunArgs,
        target: &Target,
        ids: &Ids,
        root: &Root,
        files: &[(&'static str, PathBuf)],
    ) -> Result<Mounts, Error> {
        let mut mounts = Mounts { cwd: "/".into(), ..Mounts::default() };
        let asked = mounts.asked(args, ids, root)?;
        mounts.parts(args, root);
        if target.is_host() {
            mounts.hide(args, ids, root, &asked);
        } else {
            mounts.masked.extend(MASKED.map(String::from));
        }
        mounts.system(args, ids);
        for (place, source) in files {
            let options = ["bind", "ro", "nosuid", "nodev", "noexec"].map(String::from);
            mounts.list.push(mount(Path::new(place), "bind", source, &options));
        }
        mounts.list.extend(asked.into_iter().map(|(_, mount)| mount));
        Ok(mounts)
    }

    fn parts(&mut self, args: &RunArgs, root: &Root) {
        for part in &root.parts {
            match part {
                Part::Overlay(place, overlay) => {
                    let text = |(key, value): &(String, Option<String>)| match value {
                        Some(value) => format!("{key}={value}"),
                        None => key.clone(),
                    };
                    let mut options: Vec<String> = overlay.options.iter().map(text).collect();
                    options.extend(args.mounts.read_only.then(|| "ro".to_owned()));
                    self.list.push(mount(place, "overlay", "overlay", &options));
                }
                Part::Bind(place) => {
                    self.list.push(mount(place, "bind", place, &["rbind".into(), "rro".into()]));
                }
                // Links are part of the root itself.
                Part::Link(..) => {}
            }
        }
    }

    /// Covers what the guest must not see. The modes are those of the folders that are covered.
    fn hide(&mut self, args: &RunArgs, ids: &Ids, root: &Root, asked: &[(PathBuf, Value)]) {
        self.masked.extend(MASKED.map(String::from));
        for path in &root.hidden {
            let text = path.to_string_lossy();
            let is_covered = asked.iter().any(|(target, _)| target == path);
            let mode = match mode_of(path) {
                Some(mode) if !is_covered && !matches!(&*text, "/proc" | "/sys" | "/dev") => mode,
                _ => continue,
            };
            if WRITABLE.contains(&&*text) || asked.iter().any(|(target, _)| target.starts_with(path)) {
                let options = ["nosuid".to_owned(), "nodev".into(), format!("mode={mode:o}")];
                self.list.push(mount(path, "tmpfs", "tmpfs", &options));
            } else {
                self.masked.push(text.into_owned());
            }
        }
        let home = &ids.user.home;
        let is_hidden = root.hidden.iter().any(|hidden| home.starts_with(hidden) && home != hidden);
        if args.process.user.is_some() && is_hidden && !asked.iter().any(|(target, _)| target == home) {
            let (uid, gid) = (ids.user.uid, ids.user.gid);
            let owner = [format!("uid={uid}"), format!("gid={gid}"), "mode=700".into()];
            self.list.push(mount(
                home,
                "tmpfs",
                "tmpfs",
                &[&["nosuid".into(), "nodev".into()], &owner[..]].concat(),
            ));
        }
    }

    /// The kernel's own file systems, and memory that programs expect.
    fn system(&mut self, args: &RunArgs, ids: &Ids) {
        let privileged = args.security.privileged;
        let ro = if privileged { "rw" } else { "ro" };
        let mut add = |place: &str, kind: &str, source: &str, options: &[&str]| {
            let options: Vec<String> = options.iter().map(|&option| option.into()).collect();
            self.list.push(mount(Path::new(place), kind, source, &options));
        };
        add("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]);
        add("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]);
        let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
        // The group tty, where it exists.
        terminals.extend(ids.has_group(5).then_some("gid=5"));
        add("/dev/pts", "devpts", "devpts", &terminals);
        let shared = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
        add("/dev/shm", "tmpfs", "shm", &shared);
        add("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]);
        // A sysfs shows a network namespace, and only its owner may mount one.
        if ids.mappings.is_some() && args.mounts.net == Network::Host {
            add("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", "rro"]);
        } else {
            add("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", ro]);
            add("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", ro]);
        }
    }

    /// Shares, volumes and memory that were asked for, parents first; a later one of the same place covers an earlier.
    fn asked(&mut self, args: &RunArgs, ids: &Ids, root: &Root) -> Result<Vec<(PathBuf, Value)>, Error> {
        let mut list = Vec::new();
        let here = std::env::current_dir().ok();
        for share in &args.mounts.share {
            let (inside, real) = located("--share", &share.path)?;
            if inside == Path::new("/") {
                return Err(NativeError::ShareAll(share.path.clone()).into());
            }
            if let Some(rest) = here.as_ref().and_then(|here| here.strip_prefix(&real).ok()) {
                self.cwd = if rest.as_os_str().is_empty() { inside.clone() } else { inside.join(rest) };
            }
            let mut options = vec!["rbind".to_owned()];
            options.extend(share.read_only.then(|| "rro".to_owned()));
            list.push((inside.clone(), mount(&inside, "bind", &real, &options)));
        }
        let all = &args.mounts;
        for one in all.mount.iter().chain(&all.volume).chain(&all.tmpfs) {
            if let Some(mount) = asked_mount(one)? {
                list.push((one.target.clone(), mount));
            }
        }
        list.extend_from_slice(&root.volumes);
        if ids.mappings.is_some() {
            // Without root a node cannot be made, but the host's can be shown.
            for device in &all.device {
                let (_, real) = located("--device", &device.source)?;
                let options = ["bind".to_owned(), "nosuid".into(), "noexec".into()];
                list.push((device.target.clone(), mount(&device.target, "bind", &real, &options)));
            }
        }
        list.sort_by_key(|(target, _)| target.components().count());
        Ok(list)
    }
}

fn asked_mount(asked: &MountSpec) -> Result<Option<Value>, Error> {
    let mut options = asked.options.clone();
    let has = |options: &[String], names: &[&str]| options.iter().any(|one| names.contains(&one.as_str()));
    match &asked.kind {
        MountKind::Bind { source } => {
            let (_, real) = located("--mount or --volume", source)?;
            if !has(&options, &["bind", "rbind"]) {
                options.push("rbind".into());
            }
            if has(&options, &["ro"]) {
                options.push("rro".into());
            }
            Ok(Some(mount(&asked.target, "bind", &real, &options)))
        }
        // Where it lies has been found out before.
        MountKind::Volume { .. } => Ok(None),
        MountKind::Tmpfs => {
            for (option, opposite) in [("nosuid", "suid"), ("nodev", "dev")] {
                if !has(&options, &[opposite]) {
                    options.insert(0, option.into());
                }
            }
            Ok(Some(mount(&asked.target, "tmpfs", "tmpfs", &options)))
        }
    }
}

/// A path of the caller: as it is named, absolute, and where it leads.
fn located(option: &'static str, path: &Path) -> Result<(PathBuf, PathBuf), NativeError> {
    let fail = |source| NativeError::HostPath { option, path: path.into(), source };
    let real = path.canonicalize().map_err(fail)?;
    // The name of a relative path is what the caller sees as its folder.
    if path.is_relative() || path.components().any(|part| part == std::path::Component::ParentDir) {
        return Ok((real.clone(), real));
    }
    Ok((path.components().collect(), real))
}

fn mount(place: &Path, kind: &str, source: impl AsRef<Path>, options: &[String]) -> Value {
    json!({ "destination": place, "type": kind, "source": source.as_ref(), "options": options })
}
