//! The mount table of a process (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Its id.
    pub id: u32,
    /// `MAJOR:MINOR` of its file system.
    pub device: String,
    /// The folder of that file system which is its root.
    pub root: PathBuf,
    /// Where it is mounted, seen from the root of the process.
    pub point: PathBuf,
    /// Its own options.
    pub options: Vec<String>,
    /// Type of its file system.
    pub kind: String,
}

/// The mounts that a process sees, in the order in which they were made.
///
/// # Errors
///
/// As read(2) of `/proc/PID/mountinfo`; InvalidData for a line that is none.
pub fn of(process: &str) -> io::Result<Vec<Mount>> {
    let table = fs::read(format!("/proc/{process}/mountinfo"))?;
    let lines = table.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| parse(line).ok_or_else(|| io::ErrorKind::InvalidData.into())).collect()
}

fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let path = |field: &[u8]| PathBuf::from(OsString::from_vec(unescape(field)));
    let id = text(fields.next()?).parse().ok()?;
    let device = text(fields.nth(1)?);
    let (root, point) = (path(fields.next()?), path(fields.next()?));
    let options = text(fields.next()?).split(',').map(String::from).collect();
    let kind = text(fields.skip_while(|field| *field != b"-").nth(1)?);
    Some(Mount { id, device, root, point, options, kind })
}

/// Undoes the octal escapes of space, tab, newline and backslash.
pub(crate) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| byte == b'\\') {
            Some(escaped) => {
                out.push(escaped);
                rest = &after[3..];
            }
            None => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_and_without_optional_fields_is_read() {
        let line = r"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = parse(line.as_bytes()).unwrap();
        assert_eq!((mount.id, mount.device.as_str(), mount.kind.as_str()), (36, "98:0", "ext3"));
        assert_eq!((mount.root, mount.point), ("/mnt1".into(), "/mnt 2".into()));
        assert_eq!(mount.options, ["rw", "noatime"]);
        let line = b"1 2 0:5 / /dev rw - tmpfs tmpfs rw";
        assert_eq!(parse(line).unwrap().kind, "tmpfs");
        assert_eq!(parse(b"1 2 0:5 / /dev rw"), None);
    }

    #[test]
    fn only_whole_escapes_are_undone() {
        assert_eq!(unescape(br"a\040b\134\0"), b"a b\\\\0");
    }
}
