//! What runs a program as the kernel does.

/// The instructions of classic BPF that filters use, as the kernel's documentation describes them.
pub(super) fn run(program: &[libc::sock_filter], arch: u32, number: u32, args: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend([0; 8]);
    data.extend(args.iter().flat_map(|arg| arg.to_ne_bytes()));
    let (mut at, mut a) = (0, 0_u32);
    loop {
        let one = program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { one.jt } else { one.jf });
        match one.code {
            0x20 => a = u32::from_ne_bytes(data[one.k as usize..][..4].try_into().unwrap()),
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
