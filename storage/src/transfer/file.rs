//! The content of one file: shared with the original where the file system can, else copied piece by piece, holes left
//! out.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, copy_file_range, ftruncate, ioctl_ficlone, seek};
use rustix::io::{Errno, pread};

use super::Error;

const BUFFER: usize = 256 << 10;
/// So much is copied by one call, so that a signal is not kept waiting.
const PIECE: usize = 64 << 20;

/// Copies the first `size` bytes, or what is left of them.
pub(super) fn copy(path: &[u8], from: &OwnedFd, to: &File, size: u64) -> Result<(), Error> {
    if size == 0 || ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    pieces(from, size, |offset, length| piece(path, from, to, offset, length))?;
    ftruncate(to, size).map_err(Error::write(path))
}

/// Calls with offset and length of every piece that holds data.
pub(super) fn pieces(
    file: impl AsFd,
    size: u64,
    mut each: impl FnMut(u64, u64) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut offset = 0;
    while offset < size {
        let begin = match seek(&file, SeekFrom::Data(offset)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => break,
            // A file system without holes.
            Err(_) => return each(offset, size - offset),
        };
        if begin >= size {
            break;
        }
        let end = seek(&file, SeekFrom::Hole(begin)).unwrap_or(size).min(size);
        each(begin, end.saturating_sub(begin))?;
        offset = end.max(begin + 1);
    }
    Ok(())
}

fn piece(path: &[u8], from: &OwnedFd, to: &File, mut offset: u64, mut left: u64) -> Result<(), Error> {
    let mut buffer = Vec::new();
    while left > 0 {
        let length = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        if buffer.is_empty() {
            let (mut read_at, mut write_at) = (offset, offset);
            match copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length) {
                // Shorter than it was.
                Ok(0) => return Ok(()),
                Ok(count) => {
                    offset += count as u64;
                    left -= count as u64;
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => {
                    return Err(Error::write(path)(error));
                }
                // Between these two it does not work, and reading says what is wrong.
                Err(_) => buffer = vec![0; BUFFER],
            }
        }
        let length = buffer.len().min(length);
        let count = match pread(from, &mut buffer[..length], offset) {
            Err(Errno::INTR) => continue,
            count => count.map_err(Error::read(path))?,
        };
        if count == 0 {
            return Ok(());
        }
        to.write_all_at(&buffer[..count], offset).map_err(Error::write::<io::Error>(path))?;
        offset += count as u64;
        left -= count as u64;
    }
    Ok(())
}
