//! The machines that run what is compiled: classic BPF as seccomp(2) has it, and the part of BPF that device programs use.
//! Both are written from the kernel's documents, not from what the compilers emit.

use libc::sock_filter;

/// What a filter decides (linux/seccomp.h, `struct seccomp_data`). Panics where the kernel would refuse the program.
pub fn filter(program: &[sock_filter], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = [0; 64];
    data[..4].copy_from_slice(&number.to_ne_bytes());
    data[4..8].copy_from_slice(&arch.to_ne_bytes());
    for (place, arg) in data[16..].chunks_exact_mut(8).zip(args) {
        place.copy_from_slice(&arg.to_ne_bytes());
    }
    let (mut at, mut a) = (0_usize, 0_u32);
    loop {
        let one = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { one.jt } else { one.jf });
        match one.code {
            0x20 => {
                assert!(one.k % 4 == 0 && one.k < 64, "load from {}", one.k);
                a = u32::from_ne_bytes(data[one.k as usize..][..4].try_into().unwrap());
            }
            0x54 => a &= one.k,
            0x05 => at += one.k as usize,
            0x15 => at += jump(a == one.k),
            0x45 => at += jump(a & one.k != 0),
            0x25 => at += jump(a > one.k),
            0x35 => at += jump(a >= one.k),
            0x06 => return one.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// Whether a device program allows the access (linux/bpf.h, `struct bpf_cgroup_dev_ctx`).
pub fn device(program: &[(u8, u8, i16, i32)], kind: u32, access: u32, major: u32, minor: u32) -> bool {
    let context = [access << 16 | kind, major, minor];
    let mut registers = [None; 11];
    let mut at = 0_usize;
    loop {
        let (code, names, offset, constant) = program[at];
        at += 1;
        let (to, from) = (usize::from(names & 15), usize::from(names >> 4));
        let value = |register: usize| -> u64 { registers[register].expect("a register that was never set") };
        // Constants of 64-bit operations are extended with their sign.
        let constant = i64::from(constant) as u64;
        match code {
            0x61 => {
                assert_eq!(from, 1, "loads are from the context");
                registers[to] = Some(u64::from(context[usize::try_from(offset).unwrap() / 4]));
            }
            0xb7 => registers[to] = Some(constant),
            0xbf => registers[to] = Some(value(from)),
            0x57 => registers[to] = Some(value(to) & constant),
            0x77 => registers[to] = Some(value(to) >> constant),
            0x05 => at = at.checked_add_signed(offset.into()).unwrap(),
            0x15 | 0x55 => {
                if (value(to) == constant) == (code == 0x15) {
                    at = at.checked_add_signed(offset.into()).unwrap();
                }
            }
            0x95 => return value(0) != 0,
            other => panic!("instruction {other:#x}"),
        }
    }
}
