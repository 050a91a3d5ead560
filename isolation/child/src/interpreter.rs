//! Which interpreter a program asks for, to name the one that is missing (moby#40859).

use core::ffi::CStr;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{pread, read};

/// Bytes for an interpreter's path.
pub(crate) const SPACE: usize = 255;
/// Program header type of the interpreter's path (elf(5)).
const PT_INTERP: u32 = 3;

/// Puts the path of the program's interpreter into `to`, and gives its length. Best effort: the file is the guest's.
pub(crate) fn find(program: &CStr, to: &mut [u8; SPACE]) -> Option<usize> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat(CWD, program, flags, Mode::empty()).ok()?;
    let mut head = [0u8; 4096];
    let length = read(&file, &mut head).ok()?;
    let head = &head[..length];
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.trim_ascii_start();
        let end = line.iter().position(|byte| byte.is_ascii_whitespace()).unwrap_or(line.len());
        return keep(&line[..end], to);
    }
    let (offset, size) = interpreter_segment(head)?;
    let mut path = [0u8; SPACE];
    let count = pread(&file, &mut path[..size.min(SPACE)], offset).ok()?;
    let end = path[..count].iter().position(|byte| *byte == 0).unwrap_or(count);
    keep(&path[..end], to)
}

/// Offset and size, in bytes, of a 64-bit program's PT_INTERP segment.
pub(crate) fn interpreter_segment(head: &[u8]) -> Option<(u64, usize)> {
    if !head.starts_with(b"\x7fELF\x02") {
        return None;
    }
    let number = |at: usize, length: usize| -> Option<u64> {
        let mut bytes = [0u8; 8];
        bytes[..length].copy_from_slice(head.get(at..at.checked_add(length)?)?);
        Some(u64::from_le_bytes(bytes))
    };
    let (table, entry, count) = (number(32, 8)? as usize, number(54, 2)? as usize, number(56, 2)? as usize);
    (0..count).find_map(|index| {
        let at = table.checked_add(index.checked_mul(entry)?)?;
        (number(at, 4)? == u64::from(PT_INTERP)).then_some(())?;
        Some((number(at + 8, 8)?, number(at + 32, 8)? as usize))
    })
}

fn keep(path: &[u8], to: &mut [u8; SPACE]) -> Option<usize> {
    to.get_mut(..path.len())?.copy_from_slice(path);
    Some(path.len())
}
