//! The BPF programs that the kernel has loaded, by bpf(2) itself: a program that nobody holds is gone, so what is listed
//! is in use by a group, a descriptor or a pin.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

// linux/bpf.h
const PROG_GET_NEXT_ID: i32 = 11;
const PROG_GET_FD_BY_ID: i32 = 13;
const OBJ_GET_INFO_BY_FD: i32 = 15;

/// `struct bpf_prog_info`, up to the instructions as they were loaded.
#[repr(C)]
#[derive(Default)]
struct Info {
    head: [u32; 5],
    /// Bytes at `instructions`; what there is, when the kernel answers.
    length: u32,
    machine_code: u64,
    instructions: u64,
}

/// The ids of all programs.
pub fn programs() -> Vec<u32> {
    // The id to begin after, and the answer.
    let mut attr = [0_u32; 4];
    let mut all = Vec::new();
    while bpf(PROG_GET_NEXT_ID, &mut attr).is_ok() {
        all.push(attr[1]);
        attr[0] = attr[1];
    }
    all
}

/// The programs in which these bytes stand, such as an address.
pub fn programs_with(bytes: &[u8]) -> Vec<u32> {
    let has =
        |id: &u32| instructions(*id).is_some_and(|code| code.windows(bytes.len()).any(|part| part == bytes));
    programs().into_iter().filter(has).collect()
}

/// Nothing for one that is gone meanwhile.
fn instructions(id: u32) -> Option<Vec<u8>> {
    let fd = bpf(PROG_GET_FD_BY_ID, &mut [id, 0, 0, 0]).ok()?;
    // SAFETY: a successful BPF_PROG_GET_FD_BY_ID returns a new descriptor that nobody else knows.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut code = vec![0; 64 << 10];
    let mut info =
        Info { length: code.len() as u32, instructions: code.as_mut_ptr() as u64, ..Info::default() };
    let pointer = (&raw mut info) as u64;
    let about = [program.as_raw_fd() as u32, size_of::<Info>() as u32];
    let mut attr = [about[0], about[1], pointer as u32, (pointer >> 32) as u32];
    bpf(OBJ_GET_INFO_BY_FD, &mut attr).ok()?;
    code.truncate(info.length as usize);
    Some(code)
}

/// One of the three commands above: each reads four words at most.
fn bpf(command: i32, attr: &mut [u32; 4]) -> io::Result<RawFd> {
    // SAFETY: the kernel reads and writes `attr`, which is borrowed exclusively. The only command with a pointer in it gets
    // one to a live `Info` of the size beside it, whose own pointer is to a buffer of the length that stands there.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}
