//! Classic BPF as seccomp(2) has it: the instructions that filters are made of, and their bytes.

use libc::{BPF_ABS, BPF_ALU, BPF_AND, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// Offset in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
/// Offset in `struct seccomp_data`.
pub(super) const ARCH: u32 = 4;

/// Loads a word; offsets are those in `struct seccomp_data`, in bytes.
pub(super) fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
}

pub(super) fn and(mask: u32) -> sock_filter {
    instruction(BPF_ALU | BPF_AND | BPF_K, mask, 0, 0)
}

pub(super) fn jump(condition: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    instruction(BPF_JMP | condition | BPF_K, k, jt, jf)
}

pub(super) fn ret(action: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, action, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// The bytes as the kernel and the cache know them.
pub(super) fn to_bytes(program: &[sock_filter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for one in program {
        bytes.extend(one.code.to_ne_bytes());
        bytes.extend([one.jt, one.jf]);
        bytes.extend(one.k.to_ne_bytes());
    }
    bytes
}

/// The reverse; `None` for an empty, cut or overlong program.
pub(super) fn from_bytes(bytes: &[u8]) -> Option<Vec<sock_filter>> {
    let (instructions, rest) = bytes.as_chunks::<8>();
    let fits = rest.is_empty() && (1..=libc::BPF_MAXINSNS as usize).contains(&instructions.len());
    fits.then(|| instructions.iter().map(decode).collect())
}

fn decode(&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; 8]) -> sock_filter {
    sock_filter { code: u16::from_ne_bytes([c0, c1]), jt, jf, k: u32::from_ne_bytes([k0, k1, k2, k3]) }
}
