//! HOME for a process whose environment has none: the user's entry in the context's passwd file.
//!
//! The file is the guest's, so the reading is bounded: one buffer, a fixed number of bytes in all.

use core::cell::Cell;
use core::ffi::c_char;

use rustix::fd::BorrowedFd;
use rustix::fs::OFlags;
use rustix::io::read;

use crate::resolve;

/// Bytes for the variable, with its nul.
pub const SPACE: usize = 512;
/// Bytes of the passwd file that are looked at.
const LIMIT: usize = 1 << 20;

/// Puts `HOME=...` into the first free slot of `env`; `/` when the user has no entry.
pub(crate) fn find(root: BorrowedFd<'_>, uid: u32, space: &Cell<[u8; SPACE]>, env: &[Cell<*const c_char>]) {
    let mut home = [0u8; SPACE];
    home[..6].copy_from_slice(b"HOME=/");
    if let Ok(file) = resolve::open(root, c"etc/passwd", OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        let mut line = [0u8; 1024];
        let (mut length, mut total) = (0, 0);
        let mut block = [0u8; 4096];
        'file: while let Ok(count @ 1..) = read(&file, &mut block) {
            for &byte in &block[..count] {
                if byte != b'\n' {
                    // What does not fit is too long for an entry; the rest of the line is skipped.
                    if length < line.len() {
                        line[length] = byte;
                    }
                    length += 1;
                } else {
                    if length <= line.len() && copy_home(&line[..length], uid, &mut home[5..]) {
                        break 'file;
                    }
                    length = 0;
                }
            }
            total += count;
            if total >= LIMIT {
                break;
            }
        }
        if length > 0 && length <= line.len() && home[6] == 0 {
            copy_home(&line[..length], uid, &mut home[5..]);
        }
    }
    // The last byte stays nul: `copy_home` takes only what leaves room for it.
    space.set(home);
    if let Some(slot) = env.iter().rev().skip(1).rev().find(|slot| slot.get().is_null()) {
        slot.set(space.as_ptr().cast());
    }
}

/// Copies the sixth field of an entry whose third is `uid`.
pub(crate) fn copy_home(line: &[u8], uid: u32, to: &mut [u8]) -> bool {
    let mut fields = line.split(|&byte| byte == b':');
    let Some(id) = fields.nth(2) else { return false };
    // A number as the parent reads it: `parse` would also take a sign.
    let plain = id.iter().all(u8::is_ascii_digit);
    if !plain || core::str::from_utf8(id).ok().and_then(|id| id.parse().ok()) != Some(uid) {
        return false;
    }
    match fields.nth(2) {
        Some(home) if !home.is_empty() && home.len() < to.len() && !home.contains(&0) => {
            to.fill(0);
            to[..home.len()].copy_from_slice(home);
            true
        }
        _ => false,
    }
}
