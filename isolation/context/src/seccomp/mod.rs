//! From an OCI seccomp profile to the BPF program that the child loads with seccomp(2), in the parent, before clone.
//!
//! Downward: `validate` refuses what cannot work; `cache` knows programs that were compiled before, the default one
//! from the binary itself; `lower` reads what is new, with the `numbers` of its names from libseccomp; `ranges` writes the
//! program as a search tree, and `rules` its leaves.

mod architecture;
mod bpf;
mod cache;
mod default;
#[cfg(fuzzing)]
pub mod fuzzing;
mod lower;
mod numbers;
mod ranges;
mod rules;
mod validate;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use libseccomp::error::SeccompError;
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag};

pub use default::{DEFAULT_CAPABILITIES, default_profile};
pub use validate::validate;

/// What the child passes to seccomp(2).
#[derive(Clone, Debug)]
pub struct Filter {
    /// The classic BPF program, at most 4,096 instructions.
    pub program: Vec<libc::sock_filter>,
    /// The `SECCOMP_FILTER_FLAG_*` bits; NEW_LISTENER is among them exactly when there is a listener.
    pub flags: u32,
    /// Who is to get the descriptor that seccomp(2) returns.
    pub listener: Option<Listener>,
    /// There is a listener, and the filter lets a process that has loaded it still wait for its start.
    pub early: bool,
}

/// The agent that answers the notifications of a filter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// The agent's Unix socket.
    pub path: PathBuf,
    /// Opaque data for the agent, sent along with the descriptor.
    pub metadata: String,
}

/// A profile that cannot become a filter, or a failed step on the way there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every call would wait for the agent, also those that hand the listener over.
    #[error("seccomp: SCMP_ACT_NOTIFY cannot be the default action; name the syscalls to notify")]
    NotifyByDefault,
    /// The process needs the call to hand the listener over, and would wait for an agent that has no listener yet.
    #[error(
        "seccomp: SCMP_ACT_NOTIFY cannot be used on `{syscall}`, which is needed to hand the listener over"
    )]
    NotifyOnHandOver {
        /// The call.
        syscall: String,
    },
    /// Nobody would answer.
    #[error("seccomp: `{syscall}` uses SCMP_ACT_NOTIFY, but listenerPath is not set")]
    NotifyWithoutListener {
        /// The first such call.
        syscall: String,
    },
    /// Nobody would get it; the OCI specification demands a refusal here.
    #[error("seccomp: listenerMetadata is set, and listenerPath is not")]
    MetadataWithoutListener,
    /// Error numbers end there for libseccomp and the kernel, and a tracer's message has 16 bits.
    #[error("seccomp: {place}: error number {value} is larger than {limit}")]
    ErrnoTooLarge {
        /// `default action` or the name of a call.
        place: String,
        /// What was asked for.
        value: u32,
        /// The largest value of that action.
        limit: u32,
    },
    /// The OCI specification demands a refusal here.
    #[error("seccomp: {place}: {action} takes no error number")]
    ErrnoWithoutUse {
        /// `default action` or the name of a call.
        place: String,
        /// The action, which is neither ERRNO nor TRACE.
        action: LinuxSeccompAction,
    },
    /// A system call has six arguments.
    #[error("seccomp: `{syscall}`: argument index {index} is larger than 5")]
    ArgumentIndex {
        /// The call.
        syscall: String,
        /// What was asked for.
        index: usize,
    },
    /// A name that no system call can have.
    #[error("seccomp: {name:?} is not a name of a system call")]
    Name {
        /// The empty string, or one with a zero byte.
        name: String,
    },
    /// The running kernel is older than the flag.
    #[error("seccomp: this kernel does not know {flag}; remove it from the profile's flags")]
    Flag {
        /// The flag.
        flag: LinuxSeccompFilterFlag,
    },
    /// libseccomp does not know the architecture, or it does not fit the others (byte order).
    #[error("seccomp: architecture {arch} cannot be part of the filter")]
    Architecture {
        /// The architecture.
        arch: Arch,
        /// libseccomp's reason.
        source: SeccompError,
    },
    /// libseccomp, which knows names and architectures, could not be asked.
    #[error("seccomp: libseccomp cannot be used")]
    Libseccomp(#[source] SeccompError),
    /// The kernel refuses longer programs.
    #[error(
        "seccomp: the filter has {instructions} instructions, the kernel takes 4096; shorten the profile"
    )]
    TooLong {
        /// The length.
        instructions: usize,
    },
}

/// Turns a profile into a filter; `None` when it allows everything, so that there is nothing to load.
///
/// `cache` is a folder of ours for compiled programs. It is made when it is missing, and an unusable one costs only the
/// time. The profile is validated first.
pub fn compile(profile: &LinuxSeccomp, cache: Option<&Path>) -> Result<Option<Filter>, Error> {
    validate(profile)?;
    if allows_everything(profile) {
        return Ok(None);
    }
    let listener = listener(profile);
    let flags = flags(profile, listener.is_some())?;
    let key = cache::Key::of(profile);
    let program = match cache::prebuilt(&key).or_else(|| cache.and_then(|folder| key.load(folder))) {
        Some(program) => program,
        None => {
            let program = lower::lower(profile)?;
            if let Some(folder) = cache {
                key.store(folder, &program);
            }
            program
        }
    };
    let early = listener.is_some() && BEFORE_START.iter().all(|call| lets_pass(profile, call));
    Ok(Some(Filter { program, flags, listener, early }))
}

/// The filter of [`default_profile`] with these capabilities. Where they unlock what [`DEFAULT_CAPABILITIES`] do, it is in
/// the binary, and the profile is not even built.
pub fn compile_default(capabilities: u64, cache: Option<&Path>) -> Result<Option<Filter>, Error> {
    let prebuilt = if default::is_usual(capabilities) { cache::prebuilt_default() } else { None };
    match prebuilt {
        Some(program) => {
            Ok(Some(Filter { program, flags: WITHOUT_FLAGS as u32, listener: None, early: false }))
        }
        None => compile(&default_profile(capabilities), cache),
    }
}

/// What a process calls between its filter and its program: it hands the listener over, waits for `start`, and without
/// no_new_privs it still has to drop its capabilities.
const BEFORE_START: [&str; 6] = ["sendmsg", "sendto", "recvfrom", "accept4", "capset", "prctl"];

/// The call goes through, whatever its arguments, if need be by the agent's leave.
fn lets_pass(profile: &LinuxSeccomp, call: &str) -> bool {
    use LinuxSeccompAction::{ScmpActAllow, ScmpActLog, ScmpActNotify};
    let passes = |action| matches!(action, ScmpActAllow | ScmpActLog | ScmpActNotify);
    let rules = profile.syscalls().iter().flatten();
    let of_call: Vec<_> = rules.filter(|rule| rule.names().iter().any(|name| name == call)).collect();
    of_call.iter().all(|rule| passes(rule.action()))
        && (passes(profile.default_action())
            || of_call.iter().any(|rule| rule.args().as_ref().is_none_or(Vec::is_empty)))
}

/// With an architecture list the filter still has a job: it keeps all other architectures out.
fn allows_everything(profile: &LinuxSeccomp) -> bool {
    let allow = LinuxSeccompAction::ScmpActAllow;
    profile.default_action() == allow
        && profile.architectures().as_deref().unwrap_or_default().is_empty()
        && profile.syscalls().iter().flatten().all(|rule| rule.action() == allow)
}

/// A listener path without a NOTIFY rule is to be ignored, says the OCI specification.
fn listener(profile: &LinuxSeccomp) -> Option<Listener> {
    validate::first_notify(profile)?;
    let metadata = profile.listener_metadata().clone().unwrap_or_default();
    profile.listener_path().clone().map(|path| Listener { path, metadata })
}

/// As in runc, a profile without a flag list (not: with an empty one) gets SPEC_ALLOW: since Linux 5.16 the kernel keeps
/// the store bypass mitigation for those who ask by prctl(2), and so do we on older ones.
const WITHOUT_FLAGS: libc::c_ulong = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;

/// The bits for seccomp(2).
fn flags(profile: &LinuxSeccomp, notify: bool) -> Result<u32, Error> {
    use LinuxSeccompFilterFlag as Flag;
    let mut flags = if notify { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
    let Some(wanted) = profile.flags() else {
        return Ok((flags | WITHOUT_FLAGS) as u32);
    };
    for &flag in wanted {
        flags |= match flag {
            Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // The result of seccomp(2) cannot be a listener and a thread id at once; TSYNC_ESRCH ends the conflict.
            Flag::SeccompFilterFlagTsync if notify => {
                libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH
            }
            Flag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            // Only a notification can wait: the kernel refuses the flag (Linux 5.19) without a listener.
            Flag::SeccompFilterFlagWaitKillableRecv if !notify => 0,
            Flag::SeccompFilterFlagWaitKillableRecv => {
                let bit = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
                if !kernel_knows(flags | bit | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER) {
                    return Err(Error::Flag { flag });
                }
                bit
            }
        };
    }
    Ok(flags as u32)
}

/// A kernel that knows all flags goes on to the program, and fails on its null address instead.
fn kernel_knows(flags: libc::c_ulong) -> bool {
    // SAFETY: the null program makes the call fail before it changes anything; seccomp(2) documents this probe.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    result == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}
