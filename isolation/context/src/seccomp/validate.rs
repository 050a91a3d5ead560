//! The refusals that need neither libseccomp nor the kernel: pure, and before any side effect.

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, LinuxSyscall};

use super::Error;

/// The kernel takes 4,095, libseccomp (2.5) only what is smaller.
const MAX_ERRNO: u32 = 4094;

/// Refuses a profile that cannot do what it says, and names the call or field. What runc refuses is refused here; so
/// is an error number for an action that takes none, as the OCI specification asks.
pub fn validate(profile: &LinuxSeccomp) -> Result<(), Error> {
    if profile.default_action() == LinuxSeccompAction::ScmpActNotify {
        return Err(Error::NotifyByDefault);
    }
    errno("default action", profile.default_action(), profile.default_errno_ret())?;
    for rule in profile.syscalls().iter().flatten() {
        check(rule)?;
    }
    if profile.listener_metadata().is_some() && profile.listener_path().is_none() {
        return Err(Error::MetadataWithoutListener);
    }
    match first_notify(profile) {
        Some(syscall) if profile.listener_path().is_none() => {
            Err(Error::NotifyWithoutListener { syscall: syscall.to_owned() })
        }
        _ => Ok(()),
    }
}

/// The first call that is to wait for an agent's answer.
pub(super) fn first_notify(profile: &LinuxSeccomp) -> Option<&str> {
    let rules = profile.syscalls().iter().flatten();
    let mut notify = rules.filter(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify);
    notify.find_map(|rule| rule.names().first()).map(String::as_str)
}

fn check(rule: &LinuxSyscall) -> Result<(), Error> {
    let notify = rule.action() == LinuxSeccompAction::ScmpActNotify;
    for name in rule.names() {
        if name.is_empty() || name.contains('\0') {
            return Err(Error::Name { name: name.clone() });
        }
        // The first is ours, the second runc's: a profile must work with both.
        if notify && ["sendmsg", "write"].contains(&name.as_str()) {
            return Err(Error::NotifyOnHandOver { syscall: name.clone() });
        }
    }
    let syscall = rule.names().first().map_or("a rule without names", String::as_str);
    errno(syscall, rule.action(), rule.errno_ret())?;
    match rule.args().iter().flatten().find(|arg| arg.index() > 5) {
        Some(arg) => Err(Error::ArgumentIndex { syscall: syscall.to_owned(), index: arg.index() }),
        None => Ok(()),
    }
}

fn errno(place: &str, action: LinuxSeccompAction, errno: Option<u32>) -> Result<(), Error> {
    let Some(value) = errno else { return Ok(()) };
    let place = || place.to_owned();
    let limit = match action {
        LinuxSeccompAction::ScmpActErrno => MAX_ERRNO,
        LinuxSeccompAction::ScmpActTrace => u32::from(u16::MAX),
        action => return Err(Error::ErrnoWithoutUse { place: place(), action }),
    };
    if value > limit { Err(Error::ErrnoTooLarge { place: place(), value, limit }) } else { Ok(()) }
}
