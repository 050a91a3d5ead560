//! Control files: whole reads, single writes. cgroupfs takes one value per write(2) and reports by its result, so a
//! value is never split or retried here.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;

use super::Error;
use crate::brief;

/// The text of a control file that the kernel shows whole.
pub(super) fn read_value(path: &Path) -> Result<String, Error> {
    let text = brief::read(path).and_then(|text| {
        String::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    });
    text.map_err(|source| Error::Read { path: path.into(), source })
}

/// The whole text of a control file. The kernel knows no size for these files beforehand; nearly all fit into the first
/// read.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    let text = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).and_then(whole);
    let text = text.map_err(io::Error::from).and_then(|text| {
        String::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    });
    text.map_err(|source| Error::Read { path: path.into(), source })
}

/// The same of a file in an open group; what is not text is left out.
pub(super) fn read_in(group: &OwnedFd, name: &CStr) -> Result<String, Errno> {
    let text = openat(group, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).and_then(whole)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn whole(file: OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut text = Vec::with_capacity(4096);
    while rustix::io::read(&file, spare_capacity(&mut text))? > 0 {
        text.reserve(1024);
    }
    Ok(text)
}

/// The same, or `None` when the file or its group is not there.
pub(super) fn value_if_present(path: &Path) -> Result<Option<String>, Error> {
    match read_value(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A file that holds one number; `max` reads as the largest.
pub(super) fn read_number(path: &Path) -> Result<u64, Error> {
    let text = read(path)?;
    number(&text).ok_or_else(|| Error::Read { path: path.into(), source: io::ErrorKind::InvalidData.into() })
}

/// One number of a control file; `max` is the largest.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        digits => digits.parse().ok(),
    }
}

/// The value behind `key` in a flat keyed file (`key value`, one a line).
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ').and_then(number))
}

/// Writes `value` to a control file in one call; `field` names the setting in an error.
pub(super) fn write(path: &Path, value: &str, field: &str) -> Result<(), Error> {
    let written = open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::write(file, value.as_bytes()));
    match written {
        Ok(_) => Ok(()),
        Err(errno) => Err(refused(path, value, field, errno)),
    }
}

/// The error of a refused write.
pub(super) fn refused(path: &Path, value: &str, field: &str, errno: Errno) -> Error {
    Error::Write { field: field.into(), value: value.into(), path: path.into(), source: errno.into() }
}
