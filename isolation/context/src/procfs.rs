//! The host's procfs, verified to be one, and what is read from it about a process.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, openat};

use crate::brief;

/// Opens `/proc`.
///
/// # Errors
///
/// ENOTSUP when `/proc` is no procfs; else as open(2).
pub fn open() -> io::Result<OwnedFd> {
    let proc = openat(CWD, c"/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    if fstatfs(&proc)?.f_type != PROC_SUPER_MAGIC {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    Ok(proc)
}

/// What tells a process from a later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Start time, in clock ticks since boot (proc_pid_stat(5), field 22), whatever the caller's time namespace.
    pub start_time: u64,
    /// The process has exited and was not yet waited for.
    pub zombie: bool,
    /// Its parent, or who has taken the place of one that died (field 4).
    pub parent: i32,
}

/// Reads a process's identity; none when there is no such process.
///
/// # Errors
///
/// As read(2), or InvalidData when the line is not as proc_pid_stat(5) says.
pub fn identity(pid: i32) -> io::Result<Option<Identity>> {
    let text = match brief::read(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(error)
            if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut identity = parse(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    identity.start_time = identity.start_time.wrapping_sub(shift()?);
    Ok(Some(identity))
}

/// By how many clock ticks this process's time namespace shifts the start times that it reads (time_namespaces(7)). It
/// stays in the one in which it was started, and so asks once.
fn shift() -> io::Result<u64> {
    static SHIFT: OnceLock<u64> = OnceLock::new();
    match SHIFT.get() {
        Some(ticks) => Ok(*ticks),
        None => read_shift().map(|ticks| *SHIFT.get_or_init(|| ticks)),
    }
}

fn read_shift() -> io::Result<u64> {
    /// Of the kernel's interface, on every architecture that has time namespaces.
    const TICKS: i64 = 100;
    let text = match brief::read(c"/proc/self/timens_offsets") {
        // Linux before 5.6, or built without them.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        result => String::from_utf8(result?).map_err(|_| io::ErrorKind::InvalidData)?,
    };
    let offset = text.lines().find_map(|line| {
        let mut fields = line.strip_prefix("boottime")?.split_ascii_whitespace();
        let (seconds, nanoseconds): (i64, i64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(seconds * TICKS + nanoseconds * TICKS / 1_000_000_000)
    });
    offset.map(|ticks| ticks as u64).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Reads a line of `/proc/PID/stat` (proc_pid_stat(5)); none when it is not as it should be.
#[must_use]
pub fn parse(line: &[u8]) -> Option<Identity> {
    // The name, in parentheses, can hold anything: fields are counted from the last closing one.
    let after_name = line.iter().rposition(|&byte| byte == b')')? + 1;
    let mut fields = std::str::from_utf8(&line[after_name..]).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Identity { start_time: fields.nth(17)?.parse().ok()?, zombie: matches!(state, "Z" | "X"), parent })
}

/// The user namespace of a process was made without privilege, and denies setgroups(2) (proc_pid_setgroups(5)).
#[must_use]
pub fn denies_setgroups(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/setgroups")).is_ok_and(|text| text.starts_with(b"deny"))
}

/// This process is in the user namespace that the kernel began with: all ids are mapped to themselves.
#[must_use]
pub fn in_first_user_namespace() -> bool {
    let map = brief::read(c"/proc/self/uid_map").unwrap_or_default();
    let words = map.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.eq([&b"0"[..], b"0", b"4294967295"])
}

/// The number of threads of this process (proc_pid_task(5)).
///
/// # Errors
///
/// As stat(2).
pub fn own_threads() -> io::Result<u64> {
    let stat = rustix::fs::stat("/proc/self/task")?;
    Ok(u64::from(stat.st_nlink as u32).saturating_sub(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let rest = "S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let identity = parse(format!("7 (a) Z (b) {rest}").as_bytes()).unwrap();
        assert_eq!(identity, Identity { start_time: 4242, zombie: false, parent: 1 });
    }

    #[test]
    fn our_own_identity_is_stable_and_a_free_pid_has_none() {
        let own = std::process::id() as i32;
        assert_eq!(identity(own).unwrap(), identity(own).unwrap());
        assert_eq!(identity(i32::MAX).unwrap(), None);
    }
}
