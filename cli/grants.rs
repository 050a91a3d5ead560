//! What the command line gives a guest: shares, mounts, devices, network, id ranges, security options, I/O limits, subgroups.
//!
//! Like `values.rs`, each type parses itself; nothing is looked up here. `cli/run.rs` turns them into the specification.

use std::path::PathBuf;
use std::str::FromStr;

use vctx_context::cgroup::Subgroup;

use crate::values::{Size, ValueError, duration};

/// A path of the host that the guest of `run host` sees at the same place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) path: PathBuf,
    pub(crate) read_only: bool,
}

impl FromStr for Share {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (path, read_only) = match text.rsplit_once(':') {
            Some((path, "ro")) => (path, true),
            Some((path, "rw")) => (path, false),
            _ => (text, false),
        };
        // A relative path is the caller's, so it is made absolute by who knows the working directory.
        if path.is_empty() {
            Err(ValueError::Share)
        } else {
            Ok(Share { path: PathBuf::from(path), read_only })
        }
    }
}

/// What a mount brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// A path of the host.
    Bind { source: PathBuf },
    /// Fresh memory.
    Tmpfs,
    /// A volume of ours, or one without a name, which goes with the context.
    Volume { name: Option<String> },
}

/// One mount asked for with `--mount`, `--volume` or `--tmpfs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountSpec {
    pub(crate) kind: MountKind,
    /// Absolute, as the guest sees it.
    pub(crate) target: PathBuf,
    /// Mount options as the OCI specification names them.
    pub(crate) options: Vec<String>,
}

/// `--mount type=bind|tmpfs|volume,source=PATH,target=PATH[,OPTION...]`.
pub(crate) fn mount(text: &str) -> Result<MountSpec, ValueError> {
    let (mut kind, mut source, mut target, mut options) = (None, None, None, Vec::new());
    for field in text.split(',') {
        match field.split_once('=').unwrap_or((field, "")) {
            ("type", value) => kind = Some(value),
            ("source" | "src", value) => source = Some(PathBuf::from(value)),
            ("target" | "dst" | "destination", value) => target = Some(PathBuf::from(value)),
            ("volume-nocopy", "" | "true") => options.push("nocopy".to_owned()),
            ("readonly" | "ro", "" | "true") => options.push("ro".to_owned()),
            ("readonly" | "ro", "false") => options.push("rw".to_owned()),
            ("bind-propagation", value) => options.push(value.to_owned()),
            ("tmpfs-size", value) => options.push(format!("size={value}")),
            ("tmpfs-mode", value) => options.push(format!("mode={value}")),
            ("", _) => return Err(ValueError::Mount("an option is empty")),
            _ => options.push(field.to_owned()),
        }
    }
    let target =
        target.filter(|path| path.is_absolute()).ok_or(ValueError::Mount("target must be absolute"))?;
    let kind = match (kind, source) {
        (Some("bind"), Some(source)) => MountKind::Bind { source },
        (Some("bind"), None) => return Err(ValueError::Mount("a bind mount needs a source")),
        (Some("tmpfs"), None) => MountKind::Tmpfs,
        (Some("tmpfs"), Some(_)) => return Err(ValueError::Mount("a tmpfs has no source")),
        (Some("volume"), source) => {
            let name = source.map(|source| source.into_os_string().into_string().unwrap_or_default());
            MountKind::Volume { name: name.map(|name| volume_name(&name)).transpose()? }
        }
        _ => return Err(ValueError::Mount("type must be bind, tmpfs or volume")),
    };
    Ok(MountSpec { kind, target, options })
}

/// `--volume [SOURCE:]TARGET[:OPTION,...]`: a source that begins with `/` or `.` is a path of the host, another one the
/// name of a volume.
pub(crate) fn volume(text: &str) -> Result<MountSpec, ValueError> {
    let (source, rest) = match text.split_once(':') {
        // A path alone, or with options.
        None => (None, text),
        Some((target, options)) if target.starts_with('/') && options.split(',').all(is_plain) => {
            (None, text)
        }
        Some((source, rest)) => (Some(source), rest),
    };
    let (target, options) = match rest.split_once(':') {
        None => (rest, None),
        Some((target, options)) => (target, Some(options)),
    };
    let target = PathBuf::from(target);
    if source == Some("") || !target.is_absolute() {
        return Err(ValueError::Volume);
    }
    let kind = match source {
        None => MountKind::Volume { name: None },
        Some(source) if source.starts_with(['/', '.']) => MountKind::Bind { source: PathBuf::from(source) },
        Some(name) => MountKind::Volume { name: Some(volume_name(name)?) },
    };
    Ok(MountSpec { kind, target, options: option_list(options).ok_or(ValueError::Volume)? })
}

/// What can follow the place of a volume without a name.
fn is_plain(option: &str) -> bool {
    matches!(option, "ro" | "rw" | "nocopy")
}

fn volume_name(name: &str) -> Result<String, ValueError> {
    vctx_storage::volume::check_name(name).map_err(|_| ValueError::VolumeName)?;
    Ok(name.to_owned())
}

/// `--tmpfs TARGET[:OPTION,...]`.
pub(crate) fn tmpfs(text: &str) -> Result<MountSpec, ValueError> {
    let (target, options) = match text.split_once(':') {
        None => (text, None),
        Some((target, options)) => (target, Some(options)),
    };
    let target = PathBuf::from(target);
    if !target.is_absolute() {
        return Err(ValueError::Tmpfs);
    }
    Ok(MountSpec { kind: MountKind::Tmpfs, target, options: option_list(options).ok_or(ValueError::Tmpfs)? })
}

/// Split a comma list; `None` when an option in it is empty.
fn option_list(text: Option<&str>) -> Option<Vec<String>> {
    let Some(text) = text else { return Some(Vec::new()) };
    text.split(',').map(|option| (!option.is_empty()).then(|| option.to_owned())).collect()
}

/// A device node of the host for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceSpec {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
    /// Letters of `rwm`, for the device cgroup.
    pub(crate) access: String,
}

impl FromStr for DeviceSpec {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let is_access = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, access) = match parts[..] {
            [source] => (source, source, "rwm"),
            [source, access] if is_access(access) => (source, source, access),
            [source, target] => (source, target, "rwm"),
            [source, target, access] if is_access(access) => (source, target, access),
            _ => return Err(ValueError::Device),
        };
        let (source, target) = (PathBuf::from(source), PathBuf::from(target));
        if source.is_absolute() && target.is_absolute() {
            Ok(DeviceSpec { source, target, access: access.to_owned() })
        } else {
            Err(ValueError::Device)
        }
    }
}

/// A range of user or group ids of the guest and where it lies on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdMap {
    pub(crate) users: bool,
    pub(crate) groups: bool,
    pub(crate) container: u32,
    pub(crate) host: u32,
    pub(crate) size: u32,
}

impl FromStr for IdMap {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (users, groups, range) = match text.split_at_checked(2) {
            Some(("u:", range)) => (true, false, range),
            Some(("g:", range)) => (false, true, range),
            _ => (true, true, text),
        };
        let numbers: Result<Vec<u32>, _> = range.split(':').map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[container, host, size])
                if size > 0 && container.checked_add(size).is_some() && host.checked_add(size).is_some() =>
            {
                Ok(IdMap { users, groups, container, host, size })
            }
            _ => Err(ValueError::IdMap),
        }
    }
}

/// A clock of a time namespace (time_namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    Monotonic,
    Boottime,
}

/// How far a guest's clock is from the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeOffset {
    pub(crate) clock: Clock,
    /// Seconds, rounded down; with `nanoseconds` added the offset is exact.
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: u32,
}

impl FromStr for TimeOffset {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (clock, offset) = text.split_once('=').ok_or(ValueError::TimeOffset)?;
        let clock = match clock {
            "monotonic" => Clock::Monotonic,
            "boottime" => Clock::Boottime,
            _ => return Err(ValueError::TimeOffset),
        };
        if let Ok(seconds) = offset.parse::<i64>() {
            return Ok(TimeOffset { clock, seconds, nanoseconds: 0 });
        }
        let (negative, length) = match offset.strip_prefix('-') {
            Some(length) => (true, length),
            None => (false, offset.strip_prefix('+').unwrap_or(offset)),
        };
        let length = duration(length).map_err(|_| ValueError::TimeOffset)?;
        let whole = i64::try_from(length.as_secs()).map_err(|_| ValueError::TimeOffset)?;
        // The kernel takes nanoseconds that are never negative: -1.25 s is -2 s and 0.75 s.
        let (seconds, nanoseconds) = match (negative, length.subsec_nanos()) {
            (false, nanoseconds) => (whole, nanoseconds),
            (true, 0) => (-whole, 0),
            (true, nanoseconds) => (-whole - 1, 1_000_000_000 - nanoseconds),
        };
        Ok(TimeOffset { clock, seconds, nanoseconds })
    }
}

/// A path that the guest may reach, and how: a rule of Landlock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Landlock {
    pub(crate) path: String,
    /// `r`, `rx`, `rw` or `rwx`.
    pub(crate) access: String,
}

impl FromStr for Landlock {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let is_access = |word: &str| word.parse::<vctx_context::landlock::Access>().is_ok();
        let (path, access) = match text.rsplit_once(':') {
            Some((path, access)) if is_access(access) => (path, access),
            _ => (text, "rx"),
        };
        if path.starts_with('/') && !path.contains(char::is_control) {
            Ok(Landlock { path: path.to_owned(), access: access.to_owned() })
        } else {
            Err(ValueError::Landlock)
        }
    }
}

/// Which system call filter a guest gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seccomp {
    /// The one that vctx ships.
    Default,
    /// None at all.
    Unconfined,
    /// A profile in the engines' JSON form.
    File(PathBuf),
}

impl FromStr for Seccomp {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "" => Err(ValueError::SecurityOpt),
            "default" => Ok(Seccomp::Default),
            "unconfined" => Ok(Seccomp::Unconfined),
            file => Ok(Seccomp::File(PathBuf::from(file))),
        }
    }
}

/// `--security-opt`, in the spelling of Docker and Podman.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecurityOpt {
    Seccomp(Seccomp),
    NoNewPrivileges(bool),
    /// An AppArmor profile.
    Apparmor(String),
    /// An SELinux process label, or `disable`.
    Label(String),
}

impl FromStr for SecurityOpt {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (name, value) = match text.find(['=', ':']) {
            None => (text, None),
            Some(at) => (&text[..at], Some(&text[at + 1..])),
        };
        match (name, value) {
            ("seccomp", Some(profile)) => Ok(SecurityOpt::Seccomp(profile.parse()?)),
            ("no-new-privileges", None | Some("true")) => Ok(SecurityOpt::NoNewPrivileges(true)),
            ("no-new-privileges", Some("false")) => Ok(SecurityOpt::NoNewPrivileges(false)),
            ("apparmor", Some(profile)) if !profile.is_empty() => {
                Ok(SecurityOpt::Apparmor(profile.to_owned()))
            }
            ("label", Some(label)) if !label.is_empty() => Ok(SecurityOpt::Label(label.to_owned())),
            _ => Err(ValueError::SecurityOpt),
        }
    }
}

/// A block device, by its node or by its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BlockDevice {
    Node(PathBuf),
    Numbers { major: u32, minor: u32 },
}

/// Ceilings of one block device: bytes and operations in each second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IoMax {
    pub(crate) device: BlockDevice,
    pub(crate) read_bytes: Option<u64>,
    pub(crate) write_bytes: Option<u64>,
    pub(crate) read_operations: Option<u64>,
    pub(crate) write_operations: Option<u64>,
}

impl FromStr for IoMax {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (device, limits) = text.rsplit_once(':').ok_or(ValueError::IoMax)?;
        let device = match device.split_once(':').map(|(major, minor)| (major.parse(), minor.parse())) {
            Some((Ok(major), Ok(minor))) => BlockDevice::Numbers { major, minor },
            _ if device.starts_with('/') => BlockDevice::Node(PathBuf::from(device)),
            _ => return Err(ValueError::IoMax),
        };
        let (mut read_bytes, mut write_bytes, mut read_operations, mut write_operations) =
            (None, None, None, None);
        for limit in limits.split(',') {
            let (name, value) = limit.split_once('=').ok_or(ValueError::IoMax)?;
            let Ok(Size::Bytes(value)) = value.parse() else { return Err(ValueError::IoMax) };
            match name {
                "rbps" => read_bytes = Some(value),
                "wbps" => write_bytes = Some(value),
                "riops" => read_operations = Some(value),
                "wiops" => write_operations = Some(value),
                _ => return Err(ValueError::IoMax),
            }
        }
        Ok(IoMax { device, read_bytes, write_bytes, read_operations, write_operations })
    }
}

/// `[CONTROLLER[,CONTROLLER...]:]PATH` of a control group below a context's.
pub(crate) fn subgroup(text: &str) -> Result<Subgroup, ValueError> {
    let (controllers, path) = text.split_once(':').unwrap_or(("", text));
    let controllers: Vec<String> = controllers.split(',').map(str::to_owned).collect();
    match (text.contains(':'), controllers.iter().any(String::is_empty)) {
        (true, true) => Err(ValueError::Subgroup),
        (named, _) => {
            Ok(Subgroup { controllers: if named { controllers } else { Vec::new() }, path: path.to_owned() })
        }
    }
}

#[cfg(test)]
#[path = "grants_tests.rs"]
mod tests;
