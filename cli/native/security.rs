//! What the guest may do: capabilities, the system call filter, devices, labels.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};
use vctx_context::capability;
use vctx_context::seccomp::{DEFAULT_CAPABILITIES, default_profile};
use vctx_netns::Network;

use super::ids::Ids;
use super::{NativeError, is_root};
use crate::error::Error;
use crate::grants::{DeviceSpec, Seccomp, SecurityOpt};
use crate::run_args::RunArgs;

/// The capabilities of the guest's root, as a bit mask: what is taken away counts after what is added, and ALL before
/// single ones.
pub(super) fn capabilities(args: &RunArgs) -> u64 {
    let security = &args.security;
    let mask =
        |list: &[String]| list.iter().filter_map(|name| capability::bit(name)).fold(0, |all, bit| all | bit);
    let has_all = |list: &[String]| list.iter().any(|name| name == "ALL");
    // A restricted root, as in a container of another engine, gives what it has; root of a new namespace has all.
    let held = if is_root() { capability::permitted() } else { u64::MAX };
    let all = || capability::bounding() & held;
    let (add, drop) = (&security.cap_add, &security.cap_drop);
    let usual = if security.privileged { all() } else { DEFAULT_CAPABILITIES & held };
    // A packet socket goes past what holds a context to its address, and hears the host.
    let past = mask(&["CAP_NET_RAW".into()]);
    let usual = if args.mounts.net == Network::Shared { usual & !past } else { usual };
    match (has_all(add), has_all(drop)) {
        (true, _) => all() & !mask(drop),
        (false, true) => mask(add),
        (false, false) => (usual | mask(add)) & !mask(drop),
    }
}

/// On, unless the caller switches it off, or gives all privileges.
pub(super) fn no_new_privileges(args: &RunArgs) -> bool {
    let asked = args.security.security_opt.iter().rev().find_map(|option| match option {
        SecurityOpt::NoNewPrivileges(on) => Some(*on),
        _ => None,
    });
    asked.unwrap_or(!args.security.privileged)
}

pub(super) fn readonly_paths(args: &RunArgs) -> &'static [&'static str] {
    if args.security.privileged {
        &[]
    } else {
        &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
    }
}

/// AppArmor and SELinux.
pub(super) fn labels(args: &RunArgs, process: &mut Value) {
    for option in &args.security.security_opt {
        match option {
            SecurityOpt::Apparmor(profile) => process["apparmorProfile"] = json!(profile),
            SecurityOpt::Label(label) if label != "disable" => process["selinuxLabel"] = json!(label),
            _ => {}
        }
    }
}

/// The rules of Landlock, as the annotation that asks for them.
pub(super) fn landlock(args: &RunArgs) -> Option<(String, String)> {
    let line = |rule: &crate::grants::Landlock| format!("{} {}\n", rule.access, rule.path);
    let rules: String = args.security.landlock.iter().map(line).collect();
    (!rules.is_empty()).then(|| (vctx_runtime::landlock::ANNOTATION.to_owned(), rules))
}

/// The profile of the system call filter. The default one is the key of a program that is in the binary.
pub(super) fn filter(args: &RunArgs, capabilities: u64) -> Result<Option<LinuxSeccomp>, Error> {
    let security = &args.security;
    let by_option = security.security_opt.iter().rev().find_map(|option| match option {
        SecurityOpt::Seccomp(seccomp) => Some(("security-opt seccomp=", seccomp)),
        _ => None,
    });
    match security.seccomp.as_ref().map(|seccomp| ("seccomp", seccomp)).or(by_option) {
        None if security.privileged => Ok(None),
        None | Some((_, Seccomp::Default)) => Ok(Some(default_profile(capabilities))),
        Some((_, Seccomp::Unconfined)) => Ok(None),
        Some((option, Seccomp::File(path))) => read_profile(option, path, capabilities).map(Some),
    }
}

/// A profile in the form of the specification, or in the engines' own, whose conditions are decided here.
fn read_profile(option: &'static str, path: &Path, capabilities: u64) -> Result<LinuxSeccomp, Error> {
    let fail = |source| NativeError::Seccomp { option, path: path.into(), source };
    let bytes = fs::read(path).map_err(fail)?;
    let mut profile: Value = serde_json::from_slice(&bytes).map_err(|error| fail(error.into()))?;
    decide(&mut profile, capabilities);
    Ok(vctx_runtime::config::seccomp_profile(profile).map_err(|error| fail(error.into()))?)
}

/// Turns `archMap` into a list, and keeps the rules whose `includes` hold and whose `excludes` do not.
fn decide(profile: &mut Value, capabilities: u64) {
    let native = match std::env::consts::ARCH {
        "x86_64" => ("SCMP_ARCH_X86_64", "amd64"),
        "aarch64" => ("SCMP_ARCH_AARCH64", "arm64"),
        other => (other, other),
    };
    if let Some(map) = profile.get("archMap").and_then(Value::as_array) {
        let ours = map.iter().filter(|entry| entry["architecture"] == native.0);
        let mut list = vec![json!(native.0)];
        list.extend(ours.flat_map(|entry| entry["subArchitectures"].as_array().cloned().unwrap_or_default()));
        profile["architectures"] = json!(list);
    }
    let granted =
        |name: &Value| name.as_str().and_then(capability::bit).is_some_and(|bit| capabilities & bit != 0);
    let list = |condition: &Value, key: &str| condition[key].as_array().cloned().unwrap_or_default();
    if let Some(rules) = profile.get_mut("syscalls").and_then(Value::as_array_mut) {
        rules.retain(|rule| {
            let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
            let arches = list(includes, "arches");
            list(includes, "caps").iter().all(granted)
                && (arches.is_empty() || arches.contains(&json!(native.1)))
                && !list(excludes, "caps").iter().any(granted)
                && !list(excludes, "arches").contains(&json!(native.1))
        });
    }
}

/// The devices to be made; a device of an ordinary user is bound, see `mounts`.
pub(super) fn devices(args: &RunArgs, ids: &Ids) -> Result<Vec<Value>, Error> {
    if !is_root() || ids.mappings.is_some() {
        return Ok(Vec::new());
    }
    let mut list = Vec::new();
    if args.security.privileged {
        all_nodes(Path::new("/dev"), &mut list);
    }
    for device in &args.mounts.device {
        let mut node = node(&device.source)?.ok_or_else(|| NativeError::NoDevice(device.source.clone()))?;
        node["path"] = json!(device.target);
        list.retain(|other: &Value| other["path"] != node["path"]);
        list.push(node);
    }
    Ok(list)
}

/// The rules for devices beside those that every context has.
pub(super) fn device_rules(args: &RunArgs) -> Result<Vec<Value>, Error> {
    if !is_root() {
        return Ok(Vec::new());
    }
    if args.security.privileged {
        return Ok(vec![json!({ "allow": true, "access": "rwm" })]);
    }
    let rule = |device: &DeviceSpec| {
        let node = node(&device.source)?.ok_or_else(|| NativeError::NoDevice(device.source.clone()))?;
        let (kind, major, minor) = (&node["type"], &node["major"], &node["minor"]);
        Ok(json!({ "allow": true, "type": kind, "major": major, "minor": minor, "access": device.access }))
    };
    args.mounts.device.iter().map(rule).collect()
}

/// A device of the host as the configuration describes it; nothing where it is none.
fn node(path: &Path) -> Result<Option<Value>, NativeError> {
    let fail = |source| NativeError::HostPath { option: "--device", path: path.into(), source };
    let about = fs::metadata(path).map_err(fail)?;
    let kind = match about.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return Ok(None),
    };
    Ok(Some(json!({
        "path": path,
        "type": kind,
        "major": major(about.rdev()),
        "minor": minor(about.rdev()),
        "fileMode": about.mode() & 0o7777,
        "uid": about.uid(),
        "gid": about.gid(),
    })))
}

/// The nodes below `/dev`, but for terminals, which are the context's own.
fn all_nodes(folder: &Path, list: &mut Vec<Value>) {
    const OWN: [&str; 7] =
        ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/dev/ptmx", "/dev/fd", "/dev/hugepages"];
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path: PathBuf = entry.path();
        match entry.file_type() {
            _ if OWN.iter().any(|own| path == Path::new(own)) => {}
            Ok(kind) if kind.is_dir() => all_nodes(&path, list),
            Ok(kind) if kind.is_symlink() => {}
            // A device can vanish while the list is made.
            _ => list.extend(node(&path).ok().flatten()),
        }
    }
}
