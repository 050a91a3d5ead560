//! The prologue that goes in front of libseccomp's program: what a profile cannot say, written in BPF directly.
//!
//! Two things. A system call that is newer than the profile is answered with ENOSYS and not with the profile's refusal,
//! because a C library falls back to an older call on ENOSYS only (moby#42680). And the one call `socketcall` of some
//! architectures must not open what the profile closes by conditions on arguments.

use libc::{BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// Offset in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
/// Offset in `struct seccomp_data`.
pub(super) const ARCH: u32 = 4;
/// The half of the first argument that holds a small number.
const FIRST_ARGUMENT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };

/// Marks the numbers of x32; the kernel reports them under x86_64.
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// The prologue of one audit architecture.
#[derive(Debug, Default)]
pub(super) struct Section {
    /// The number in `seccomp_data.arch`.
    pub(super) audit: u32,
    /// The largest number that the profile mentions. Numbers of x32 are larger than any other, so they get ENOSYS too
    /// where x32 is not part of the filter: a kernel without x32 says the same.
    pub(super) last: Option<u32>,
    /// The largest x32 number that the profile mentions, with its bit.
    pub(super) last_x32: Option<u32>,
    /// Which sub-calls of `socketcall` are refused.
    pub(super) socketcall: Option<Socketcall>,
}

/// `socketcall(call, args *)`: a filter cannot follow the pointer.
#[derive(Debug)]
pub(super) struct Socketcall {
    /// The number of `socketcall` itself.
    pub(super) number: u32,
    /// Values of the first argument.
    pub(super) refused: Vec<u32>,
    /// The profile's default action as a BPF result.
    pub(super) action: u32,
}

/// Puts the sections in front of a program; it must begin by loading what it needs, as libseccomp's programs do.
pub(super) fn with_prologue(sections: &[Section], program: &[sock_filter]) -> Vec<sock_filter> {
    let bodies: Vec<_> = sections.iter().map(|section| (section.audit, body(section))).collect();
    let mut all = Vec::with_capacity(program.len() + 64);
    all.push(load(ARCH));
    for (index, (audit, body)) in bodies.iter().enumerate() {
        // Each section is entered by its architecture, and leaves over the sections behind it.
        let behind: usize = bodies[index + 1..].iter().map(|(_, body)| body.len() + 2).sum();
        all.push(jump(BPF_JEQ, *audit, 0, body.len() as u8 + 1));
        all.extend_from_slice(body);
        all.push(jump(BPF_JA, behind as u32, 0, 0));
    }
    all.extend_from_slice(program);
    all
}

/// At most 31 instructions, so every jump inside fits its eight bits.
fn body(section: &Section) -> Vec<sock_filter> {
    let enosys = ret(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    let mut code = vec![load(NUMBER)];
    match (section.last, section.last_x32) {
        (Some(last), None) => code.extend([jump(BPF_JGT, last, 0, 1), enosys]),
        (last, Some(last_x32)) => code.extend([
            jump(BPF_JGE, X32_BIT, 1, 0),
            jump(BPF_JGT, last.unwrap_or(X32_BIT), 1, 2),
            jump(BPF_JGT, last_x32, 0, 1),
            enosys,
        ]),
        (None, None) => {}
    }
    if let Some(Socketcall { number, refused, action }) = &section.socketcall {
        let calls = refused.len() as u8;
        code.extend([jump(BPF_JEQ, *number, 0, calls + 2), load(FIRST_ARGUMENT)]);
        for (index, call) in (1..=calls).zip(refused) {
            code.push(jump(BPF_JEQ, *call, calls - index, u8::from(index == calls)));
        }
        code.push(ret(*action));
    }
    code
}

pub(super) fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0)
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

/// The bytes as the kernel, libseccomp's export and the cache know them.
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
