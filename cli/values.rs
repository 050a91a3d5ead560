//! The scalar values of the command line: sizes, times, signals, accounts, limits, names.
//!
//! Each type parses itself (`FromStr`), so that `args.rs` only names it; clap prints the error after the option's name
//! and the rejected value, therefore the texts here say only what would have been right. What a guest is *given*
//! (mounts, devices, networks) is in `grants.rs`.

use std::str::FromStr;
use std::time::Duration;

use nix::sys::signal::Signal as NixSignal;

/// A value that the command line cannot take; the text says which form is expected.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ValueError {
    #[error("expected bytes, or a number with k, m, g or t (powers of 1024), or `max`")]
    Size,
    #[error("expected a number of CPUs such as 0.5 or 2, at least 0.01")]
    Cpus,
    #[error("expected a list of numbers and ranges such as 0-3,7")]
    CpuList,
    #[error("expected a duration such as 5s, 1m30s or 250ms")]
    Duration,
    #[error("expected a signal's number (0 to 64) or name, such as 9, KILL, SIGTERM or SIGRTMIN+3")]
    Signal,
    #[error("expected UID[:GID] as numbers")]
    NumericUser,
    #[error("expected USER[:GROUP], each a name or a number")]
    User,
    #[error("expected NAME=VALUE, or NAME to pass the caller's value on")]
    Env,
    #[error("expected a host name of letters, digits and . - _, at most 64")]
    HostName,
    #[error("expected KEY=VALUE")]
    KeyValue,
    #[error("expected PATH, or CONTROLLER[,CONTROLLER...]:PATH")]
    Subgroup,
    #[error("`{0}` is not a resource limit; known are {names}", names = RLIMITS.join(", ").to_lowercase())]
    RlimitName(String),
    #[error("expected NAME=SOFT[:HARD], each a number or `unlimited`, SOFT not above HARD")]
    Rlimit,
    #[error("`{0}` is not a capability; see capabilities(7), or use ALL")]
    Capability(String),
    #[error("expected CLOCK=OFFSET: monotonic or boottime, and seconds or a duration such as -1h30m")]
    TimeOffset,
    #[error("expected [u:|g:]CONTAINER:HOST:SIZE as numbers, SIZE at least 1")]
    IdMap,
    #[error("expected PATH or PATH:ro")]
    Share,
    #[error("expected [SOURCE:]TARGET[:OPTION,...], TARGET absolute")]
    Volume,
    #[error("no path (/PATH, ./PATH), so a volume's name: letters, digits and _ . -, the first no sign")]
    VolumeName,
    #[error("expected TARGET[:OPTION,...], absolute")]
    Tmpfs,
    #[error("expected type=bind|tmpfs,source=PATH,target=PATH[,OPTION...]; {0}")]
    Mount(&'static str),
    #[error("expected SOURCE[:TARGET[:rwm]], both absolute")]
    Device,
    #[error(
        "expected seccomp=FILE|unconfined, no-new-privileges[:true|false], apparmor=PROFILE or label=LABEL"
    )]
    SecurityOpt,
    #[error("expected PATH[:r|rx|rw|rwx], PATH absolute and of the context")]
    Landlock,
    #[error("expected DEVICE:rbps=N,wbps=N,riops=N,wiops=N, one or more, DEVICE a path or MAJOR:MINOR")]
    IoMax,
    #[error("expected ADDRESS:PORT")]
    Server,
}

/// A name as the kernel and the hosts files of networks take it.
pub(crate) fn host_name(text: &str) -> Result<String, ValueError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    match (1..=64).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with('-') {
        true => Ok(text.into()),
        false => Err(ValueError::HostName),
    }
}

/// A limit in bytes, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// `max` or `-1`: no limit.
    Max,
    /// Bytes.
    Bytes(u64),
}

impl Size {
    /// The value as the OCI specification writes it: bytes, or -1 for no limit.
    pub(crate) fn as_oci(self) -> i64 {
        match self {
            Size::Max => -1,
            Size::Bytes(bytes) => i64::try_from(bytes).unwrap_or(i64::MAX),
        }
    }
}

impl FromStr for Size {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "max" || text == "-1" {
            return Ok(Size::Max);
        }
        let lower = text.to_ascii_lowercase();
        let digits_end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
        let (number, unit) = lower.split_at(digits_end);
        let shift = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit) {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return Err(ValueError::Size),
        };
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(1 << shift).ok_or(ValueError::Size)?,
            Err(_) => {
                let fraction: f64 = number.parse().map_err(|_| ValueError::Size)?;
                (fraction * (1u64 << shift) as f64) as u64
            }
        };
        // The OCI specification counts bytes in a signed number.
        if bytes > i64::MAX as u64 { Err(ValueError::Size) } else { Ok(Size::Bytes(bytes)) }
    }
}

/// A share of the machine's CPU time: microseconds in each period of 100 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cpus {
    /// Microseconds of CPU time in each period.
    pub(crate) quota: i64,
}

impl Cpus {
    /// The period that `quota` refers to, in microseconds.
    pub(crate) const PERIOD: u64 = 100_000;
}

impl FromStr for Cpus {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let cpus: f64 = text.parse().map_err(|_| ValueError::Cpus)?;
        // The kernel refuses a quota below one millisecond.
        if (0.01..=1e6).contains(&cpus) {
            Ok(Cpus { quota: (cpus * Self::PERIOD as f64).round() as i64 })
        } else {
            Err(ValueError::Cpus)
        }
    }
}

/// Check a list such as `0-3,7` (cpuset(7), "List format"); it is passed on as written.
pub(crate) fn cpu_list(text: &str) -> Result<String, ValueError> {
    let in_order = |part: &str| match part.split_once('-') {
        None => part.parse::<u32>().is_ok(),
        Some((first, last)) => {
            matches!((first.parse::<u32>(), last.parse::<u32>()), (Ok(first), Ok(last)) if first <= last)
        }
    };
    if text.split(',').all(in_order) { Ok(text.to_owned()) } else { Err(ValueError::CpuList) }
}

/// Parse a duration in Go's notation: decimal numbers with `h`, `m`, `s`, `ms`, `us` or `ns`, in any sequence.
pub(crate) fn duration(text: &str) -> Result<Duration, ValueError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(ValueError::Duration)?;
        let unit_end = rest[number_end..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |length| number_end + length);
        let number: f64 = rest[..number_end].parse().map_err(|_| ValueError::Duration)?;
        let seconds = match &rest[number_end..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(ValueError::Duration),
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| ValueError::Duration)?;
        total = total.checked_add(part).ok_or(ValueError::Duration)?;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { Err(ValueError::Duration) } else { Ok(total) }
}

/// Parse a burst: a duration, or plain microseconds as the cgroup file takes them.
pub(crate) fn microseconds(text: &str) -> Result<u64, ValueError> {
    match text.parse() {
        Ok(plain) => Ok(plain),
        Err(_) => u64::try_from(duration(text)?.as_micros()).map_err(|_| ValueError::Duration),
    }
}

/// A signal's number, 0 to 64; 0 only asks whether the process is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signal(pub(crate) i32);

impl FromStr for Signal {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // SIGRTMIN as glibc and Go count it: its threads library keeps 32 and 33 for itself.
        const RTMIN: i32 = 34;
        const RTMAX: i32 = 64;
        if let Ok(number) = text.parse::<i32>() {
            return if (0..=RTMAX).contains(&number) { Ok(Signal(number)) } else { Err(ValueError::Signal) };
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = if let Some(offset) = name.strip_prefix("RTMIN") {
            RTMIN + real_time_offset(offset, '+')?
        } else if let Some(offset) = name.strip_prefix("RTMAX") {
            RTMAX - real_time_offset(offset, '-')?
        } else {
            match name {
                "CLD" => libc::SIGCHLD,
                "IOT" => libc::SIGABRT,
                "POLL" => libc::SIGIO,
                _ => NixSignal::from_str(&format!("SIG{name}")).map_err(|_| ValueError::Signal)? as i32,
            }
        };
        // An offset must not lead out of the real-time signals.
        let known = if name.starts_with("RT") { RTMIN..=RTMAX } else { 1..=31 };
        if known.contains(&number) { Ok(Signal(number)) } else { Err(ValueError::Signal) }
    }
}

/// The number behind `RTMIN+` or `RTMAX-`; nothing counts as 0.
fn real_time_offset(text: &str, sign: char) -> Result<i32, ValueError> {
    if text.is_empty() {
        return Ok(0);
    }
    let digits = text
        .strip_prefix(sign)
        .filter(|digits| digits.len() <= 2 && digits.chars().all(|c| c.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(ValueError::Signal)
}

/// The numeric user of `exec --user`: the caller resolves names, as engines do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NumericUser {
    pub(crate) uid: u32,
    pub(crate) gid: Option<u32>,
}

impl FromStr for NumericUser {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let id = |text: &str| account_id(text).ok_or(ValueError::NumericUser);
        match text.split_once(':') {
            None => Ok(NumericUser { uid: id(text)?, gid: None }),
            Some((user, group)) => Ok(NumericUser { uid: id(user)?, gid: Some(id(group)?) }),
        }
    }
}

/// A user or group of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Account {
    Id(u32),
    Name(String),
}

/// `run --user`: a user and perhaps a group, by name (looked up in the guest's own files) or by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) user: Account,
    pub(crate) group: Option<Account>,
}

impl FromStr for User {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let account = |text: &str| match account_id(text) {
            Some(id) => Ok(Account::Id(id)),
            // A number that is no id must not be looked up as a name (CVE-2016-3697).
            None if text.is_empty() || text.contains(':') || text.bytes().all(|b| b.is_ascii_digit()) => {
                Err(ValueError::User)
            }
            None => Ok(Account::Name(text.to_owned())),
        };
        match text.split_once(':') {
            None => Ok(User { user: account(text)?, group: None }),
            Some((user, group)) => Ok(User { user: account(user)?, group: Some(account(group)?) }),
        }
    }
}

/// A numeric id; 4294967295 is "no change" to the kernel, so it names nobody.
fn account_id(text: &str) -> Option<u32> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|&id| id != u32::MAX)
}

/// `--env NAME=VALUE`, or `--env NAME` for the caller's own value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnvVar {
    pub(crate) name: String,
    pub(crate) value: Option<String>,
}

impl EnvVar {
    /// `NAME=VALUE`, the value taken from the caller's environment where none was given; none if it has none.
    pub(crate) fn resolve(&self) -> Option<String> {
        let value = self.value.clone().or_else(|| std::env::var(&self.name).ok())?;
        Some(format!("{}={value}", self.name))
    }
}

impl FromStr for EnvVar {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (name, value) = match text.split_once('=') {
            None => (text, None),
            Some((name, value)) => (name, Some(value.to_owned())),
        };
        if name.is_empty() { Err(ValueError::Env) } else { Ok(EnvVar { name: name.to_owned(), value }) }
    }
}

/// `KEY=VALUE`; the value may be empty, the key may not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyValue {
    pub(crate) key: String,
    pub(crate) value: String,
}

impl FromStr for KeyValue {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(KeyValue { key: key.to_owned(), value: value.to_owned() })
            }
            _ => Err(ValueError::KeyValue),
        }
    }
}

/// The resource limits of getrlimit(2), without their prefix.
const RLIMITS: [&str; 16] = [
    "AS",
    "CORE",
    "CPU",
    "DATA",
    "FSIZE",
    "LOCKS",
    "MEMLOCK",
    "MSGQUEUE",
    "NICE",
    "NOFILE",
    "NPROC",
    "RSS",
    "RTPRIO",
    "RTTIME",
    "SIGPENDING",
    "STACK",
];

/// A resource limit of the guest's processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rlimit {
    /// The name as the OCI specification writes it, such as `RLIMIT_NOFILE`.
    pub(crate) name: String,
    /// `u64::MAX` is no limit, for both.
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

impl FromStr for Rlimit {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (name, limits) = text.split_once('=').ok_or(ValueError::Rlimit)?;
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("RLIMIT_").unwrap_or(&upper);
        if !RLIMITS.contains(&short) {
            return Err(ValueError::RlimitName(name.to_owned()));
        }
        let limit = |text: &str| match text {
            "unlimited" | "-1" => Ok(u64::MAX),
            _ => text.parse().map_err(|_| ValueError::Rlimit),
        };
        let (soft, hard) = match limits.split_once(':') {
            None => (limit(limits)?, limit(limits)?),
            Some((soft, hard)) => (limit(soft)?, limit(hard)?),
        };
        if soft > hard {
            Err(ValueError::Rlimit)
        } else {
            Ok(Rlimit { name: format!("RLIMIT_{short}"), soft, hard })
        }
    }
}

/// The kernel's capabilities in the order of their numbers (linux/capability.h).
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A capability's full name from any usual spelling (`net_admin`, `CAP_NET_ADMIN`), or `ALL`.
pub(crate) fn capability(text: &str) -> Result<String, ValueError> {
    let upper = text.to_ascii_uppercase();
    let full = if upper == "ALL" || upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    if full == "ALL" || CAPABILITIES.contains(&full.as_str()) {
        Ok(full)
    } else {
        Err(ValueError::Capability(text.to_owned()))
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
