//! Small files in the fewest system calls. What std calls beside open(2), read(2) and close(2) is a tenth of all calls of a
//! start: it asks for sizes first, reads on to an empty read and, under musl, sets close-on-exec once more.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags, open, readlink};
use rustix::io::retry_on_intr;
use rustix::path::Arg;

/// What is read at first. Nearly all files here are smaller.
const USUAL: usize = 4096;

/// Reads a plain file, or one of procfs, sysfs or cgroupfs that is shown whole (`single_open` in the kernel): a read that is
/// shorter than what was asked for is then the last. Lists, such as `cgroup.procs` and `mountinfo`, are not.
///
/// # Errors
///
/// As open(2) and read(2).
pub fn read(path: impl Arg) -> io::Result<Vec<u8>> {
    let file = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // On the stack: memory for a moment costs more than the copy.
    let mut usual = [0; USUAL];
    let mut got = retry_on_intr(|| rustix::io::read(&file, &mut usual))?;
    let mut bytes = usual[..got].to_vec();
    let mut room = USUAL;
    while got == room {
        bytes.reserve(bytes.len());
        room = bytes.capacity() - bytes.len();
        got = retry_on_intr(|| rustix::io::read(&file, spare_capacity(&mut bytes)))?;
    }
    Ok(bytes)
}

/// Makes a file, or empties it, and writes it.
///
/// # Errors
///
/// As open(2) and write(2).
pub fn write(path: impl Arg, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::from_raw_mode(0o666))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        match retry_on_intr(|| rustix::io::write(&file, rest))? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => rest = &rest[written..],
        }
    }
    Ok(())
}

/// The path without links and dots, as realpath(3), but in three calls whatever its length.
///
/// # Errors
///
/// As realpath(3).
pub fn real_path(path: &Path) -> io::Result<PathBuf> {
    let file = open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let shown = readlink(format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new())
        .map(|name| PathBuf::from(OsString::from_vec(name.into_bytes())));
    match shown {
        // What is no name of a file any more begins or ends with a word of the kernel's.
        Ok(real) if real.is_absolute() && !real.as_os_str().as_bytes().ends_with(b" (deleted)") => Ok(real),
        _ => path.canonicalize(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_sizes_come_back_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for size in [0, 1, USUAL - 1, USUAL, USUAL + 1, 5 * USUAL, 1 << 20] {
            let bytes: Vec<u8> = (0..size).map(|index| index as u8).collect();
            write(&path, &bytes).unwrap();
            assert_eq!(read(&path).unwrap(), bytes, "{size}");
        }
        assert_eq!(read(folder.path().join("absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn files_of_the_kernel_come_back_whole() {
        for path in ["/proc/self/uid_map", "/proc/self/cgroup", "/proc/self/limits"] {
            assert_eq!(read(path).unwrap(), std::fs::read(path).unwrap(), "{path}");
        }
    }

    #[test]
    fn a_path_is_what_realpath_says_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path();
        std::fs::create_dir(own.join("real (deleted)")).unwrap();
        std::fs::create_dir(own.join("plain")).unwrap();
        std::os::unix::fs::symlink("plain", own.join("link")).unwrap();
        for path in ["plain", "link", "link/../plain/.", "real (deleted)", "absent", "link/absent"] {
            let path = own.join(path);
            let ours = real_path(&path).map_err(|error| error.kind());
            assert_eq!(ours, path.canonicalize().map_err(|error| error.kind()), "{path:?}");
        }
    }
}
