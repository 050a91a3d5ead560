//! Contexts on the host's own network stack that are held to one address of it, by BPF programs on their group of version
//! 2: what asks for any address gets its own, what asks for the loopback gets a private one of 127.0.0.0/8, and all else is
//! refused. There is no IPv6 for them: a group has no address of it.
//!
//! Two more programs look at the packets themselves, for what no call can be held to: a socket that listens without
//! having been bound, and raw sockets.

use std::net::Ipv4Addr;

use super::program::{
    AND, Hook, Instruction, JUMP_IF_EQUAL, LOAD_WORD, MOVE_CONSTANT, add, constant, copy, instruction,
    verdict,
};
use super::{Cgroup, Error};

/// The addresses of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// One of the host's.
    pub own: Ipv4Addr,
    /// Stands for all of 127.0.0.0/8.
    pub loopback: Ipv4Addr,
}

// linux/bpf.h: program types, and the offsets in `struct bpf_sock_addr` and `struct __sk_buff`.
const SOCKET_ADDRESS: u32 = 18;
const PACKET: u32 = 8;
const USER_IP4: i16 = 4;
const SOURCE_IP4: i16 = 40;
const PACKET_PROTOCOL: i16 = 16;

// Helpers (bpf-helpers(7)).
const SKB_LOAD_BYTES: i32 = 26;
const BIND: i32 = 64;

// Registers.
const ARGUMENTS: [u8; 4] = [1, 2, 3, 4];
const ADDRESS: u8 = 2;
const SCRATCH: u8 = 3;
const CONTEXT: u8 = 6;
const FRAME: u8 = 10;

// Opcodes beside those of `program`. The comparisons are of 32 bits: a constant of 64 is extended by its sign.
const JUMP_IF_EQUAL_32: u8 = 0x16;
const MOVE_CONSTANT_32: u8 = 0xb4;
const STORE_WORD: u8 = 0x63;
const STORE_CONSTANT: u8 = 0x62;
const ADD: u8 = 0x07;
const CALL: u8 = 0x85;

impl Cgroup {
    /// Holds the processes of this group to `addresses`.
    ///
    /// # Errors
    ///
    /// The machine has no tree of version 2, or the kernel refuses.
    pub fn hold_to(&self, addresses: Addresses) -> Result<(), Error> {
        let group = self.v2_dir().ok_or(Error::NoUnified)?;
        let refused = verdict(false).to_vec();
        let hook = |kind, attach| Hook { kind, attach, name: *b"vctx_addresses\0\0" };
        for (kind, attach, program) in [
            (SOCKET_ADDRESS, 8, bind(addresses)),
            (SOCKET_ADDRESS, 9, refused.clone()),
            (SOCKET_ADDRESS, 10, connect(addresses)),
            (SOCKET_ADDRESS, 11, refused.clone()),
            (SOCKET_ADDRESS, 14, send(addresses)),
            (SOCKET_ADDRESS, 15, refused.clone()),
            // Where the destination lies in a packet, and the source.
            (PACKET, 0, packet(addresses, 16)),
            (PACKET, 1, packet(addresses, 12)),
        ] {
            add(group, &program, &hook(kind, attach))?;
        }
        Ok(())
    }
}

/// As the kernel has it in memory.
fn raw(address: Ipv4Addr) -> i32 {
    i32::from_ne_bytes(address.octets())
}

fn begin() -> Vec<Instruction> {
    vec![copy(CONTEXT, ARGUMENTS[0]), instruction(LOAD_WORD, ADDRESS | CONTEXT << 4, USER_IP4, 0)]
}

/// Jumps over `skipped` when the address is one of 127.0.0.0/8. Its first byte is the lowest one of the register.
fn if_loopback(skipped: &[Instruction]) -> Vec<Instruction> {
    let mut steps = vec![copy(SCRATCH, ADDRESS), constant(AND, SCRATCH, 0xff)];
    steps.push(instruction(JUMP_IF_EQUAL, SCRATCH, skipped.len() as i16, 127));
    steps.extend(skipped);
    steps
}

fn put(offset: i16, address: Ipv4Addr) -> [Instruction; 2] {
    [
        constant(MOVE_CONSTANT_32, SCRATCH, raw(address)),
        instruction(STORE_WORD, CONTEXT | SCRATCH << 4, offset, 0),
    ]
}

fn allow(steps: impl IntoIterator<Item = Instruction>) -> Vec<Instruction> {
    steps.into_iter().chain(verdict(true)).collect()
}

fn bind(Addresses { own, loopback }: Addresses) -> Vec<Instruction> {
    let to_own = allow(put(USER_IP4, own));
    let mut program = begin();
    // Past the four of `if_loopback` and the refusal lies the loopback's part, and behind that the one for any address.
    let to_loopback = allow(put(USER_IP4, loopback));
    let refusal = verdict(false);
    let rest = if_loopback(&refusal).len() + to_loopback.len();
    program.push(instruction(JUMP_IF_EQUAL_32, ADDRESS, rest as i16 + 1, 0));
    program.push(instruction(JUMP_IF_EQUAL_32, ADDRESS, rest as i16, raw(own)));
    program.extend(if_loopback(&refusal));
    program.extend(to_loopback);
    program.extend(to_own);
    program
}

fn connect(Addresses { own, loopback }: Addresses) -> Vec<Instruction> {
    let to_others = allow(bind_source(own));
    let mut program = begin();
    let others = if_loopback(&to_others);
    // The address 0.0.0.0 means the machine itself (ip(7)).
    program.push(instruction(JUMP_IF_EQUAL_32, ADDRESS, others.len() as i16, 0));
    program.extend(others);
    program.extend(allow(put(USER_IP4, loopback).into_iter().chain(bind_source(loopback))));
    program
}

fn send(Addresses { own, loopback }: Addresses) -> Vec<Instruction> {
    let to_others = allow(put(SOURCE_IP4, own));
    let mut program = begin();
    let others = if_loopback(&to_others);
    program.push(instruction(JUMP_IF_EQUAL_32, ADDRESS, others.len() as i16, 0));
    program.extend(others);
    program.extend(allow(put(USER_IP4, loopback).into_iter().chain(put(SOURCE_IP4, loopback))));
    program
}

/// Binds a socket that is not bound yet; one that is was held by `bind`, and the helper's refusal means nothing.
fn bind_source(address: Ipv4Addr) -> Vec<Instruction> {
    // struct sockaddr_in: family and port 0, address, zeroes.
    let words = [i32::from(libc::AF_INET as i16), raw(address), 0, 0];
    let mut steps: Vec<Instruction> = words
        .into_iter()
        .zip([-16, -12, -8, -4])
        .map(|(word, at)| instruction(STORE_CONSTANT, FRAME, at, word))
        .collect();
    steps.extend([
        copy(ARGUMENTS[0], CONTEXT),
        copy(ARGUMENTS[1], FRAME),
        constant(ADD, ARGUMENTS[1], -16),
        constant(MOVE_CONSTANT, ARGUMENTS[2], 16),
        constant(CALL, 0, BIND),
    ]);
    steps
}

/// Lets packets of IPv4 pass that have one of the addresses at `offset` of their header.
fn packet(Addresses { own, loopback }: Addresses, offset: i32) -> Vec<Instruction> {
    const IP: i32 = u16::from_ne_bytes([8, 0]) as i32;
    let mut steps = vec![
        constant(MOVE_CONSTANT, ARGUMENTS[1], offset),
        copy(ARGUMENTS[2], FRAME),
        constant(ADD, ARGUMENTS[2], -4),
        constant(MOVE_CONSTANT, ARGUMENTS[3], 4),
        instruction(STORE_CONSTANT, FRAME, -4, 0),
        constant(CALL, 0, SKB_LOAD_BYTES),
        instruction(LOAD_WORD, ADDRESS | FRAME << 4, -4, 0),
        instruction(JUMP_IF_EQUAL_32, ADDRESS, 3, raw(own)),
        instruction(JUMP_IF_EQUAL_32, ADDRESS, 2, raw(loopback)),
    ];
    steps.extend(verdict(false));
    steps.extend(verdict(true));
    let mut program = vec![instruction(LOAD_WORD, ADDRESS | ARGUMENTS[0] << 4, PACKET_PROTOCOL, 0)];
    program.push(instruction(JUMP_IF_EQUAL_32, ADDRESS, 2, IP));
    program.extend(verdict(false));
    program.extend(steps);
    program
}
