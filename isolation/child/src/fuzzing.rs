//! What only the fuzzers reach: the readers of the guest's own files, on bytes instead of descriptors.

/// As `home` reads a line of the guest's passwd file; the value lies in `to` up to its first nul.
pub fn copy_home(line: &[u8], uid: u32, to: &mut [u8]) -> bool {
    crate::home::copy_home(line, uid, to)
}

/// As `interpreter` reads the first bytes of the guest's program.
pub fn interpreter_segment(head: &[u8]) -> Option<(u64, usize)> {
    crate::interpreter::interpreter_segment(head)
}
