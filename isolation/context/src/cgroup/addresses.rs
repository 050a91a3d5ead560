//! Contexts on the host's own network stack that are held to addresses of it, by BPF programs on their group of version 2:
//! what asks for any address gets its own, what asks for the loopback gets a private one of 127.0.0.0/8, and all else is
//! refused. The host's ::1 is one address and has no private neighbours: it stands for the same one of version 4
//! (::ffff:127.x.y.z). Addresses of version 4 in the clothes of version 6 are held as what they are.
//!
//! Two more programs look at the packets themselves, for what no call can be held to: a socket that listens without
//! having been bound, the control messages of a datagram, and raw sockets. One more refuses the protocols whose calls pass
//! by all of these (SCTP, for one, has a bind of its own).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::program::{
    AND, Hook, Instruction, LOAD_WORD, MOVE_CONSTANT, add, constant, copy, instruction, verdict,
};
use super::{Cgroup, Error};

/// The addresses of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Those of the host that it has; the first of each family is what any address becomes.
    pub own: Vec<IpAddr>,
    /// Stands for all of 127.0.0.0/8, and for ::1.
    pub loopback: Ipv4Addr,
}

// linux/bpf.h: program types, and the offsets in `struct bpf_sock_addr`, `struct bpf_sock` and `struct __sk_buff`.
const SOCKET: u32 = 9;
const SOCKET_ADDRESS: u32 = 18;
const PACKET: u32 = 8;
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const SOURCE_IP4: i16 = 40;
const SOURCE_IP6: i16 = 44;
const OWN_SOCKET: i16 = 64;
const SOCKET_TYPE: i16 = 8;
const SOCKET_PROTOCOL: i16 = 12;
const SOCKET_IP4: i16 = 24;
const SOCKET_IP6: i16 = 28;
const PACKET_PROTOCOL: i16 = 16;
const PACKET_DATA: i16 = 76;
const PACKET_END: i16 = 80;

// A helper (bpf-helpers(7)).
const BIND: i32 = 64;

// Registers. The four words of an address of version 6, the last of which is one of version 4 where it stands for one.
const ARGUMENTS: [u8; 4] = [1, 2, 3, 4];
const WORDS: [u8; 4] = [7, 8, 9, 2];
const ADDRESS: u8 = WORDS[3];
const SCRATCH: u8 = 3;
const CONTEXT: u8 = 6;
const FRAME: u8 = 10;

// Opcodes beside those of `program`. The comparisons are of 32 bits: a constant of 64 is extended by its sign.
const JUMP_UNLESS_EQUAL_32: u8 = 0x56;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_UNLESS_GREATER: u8 = 0xbd;
const MOVE_CONSTANT_32: u8 = 0xb4;
const STORE_WORD: u8 = 0x63;
const STORE_CONSTANT: u8 = 0x62;
const LOAD_DOUBLE: u8 = 0x79;
const ADD: u8 = 0x07;
const OR: u8 = 0x4f;
const CALL: u8 = 0x85;

/// The second word from the end of `::ffff:a.b.c.d`.
const MAPPED: i32 = i32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Cgroup {
    /// Holds the processes of this group to `addresses`.
    ///
    /// # Errors
    ///
    /// The machine has no tree of version 2, or the kernel refuses.
    pub fn hold_to(&self, addresses: &Addresses) -> Result<(), Error> {
        let group = self.v2_dir().ok_or(Error::NoUnified)?;
        let hook = |kind, attach| Hook { kind, attach, name: *b"vctx_addresses\0\0" };
        let all = &Own::of(addresses);
        for (kind, attach, program) in [
            (SOCKET, 2, known_protocols()),
            (SOCKET_ADDRESS, 8, bind(all, Family::Four)),
            (SOCKET_ADDRESS, 9, bind(all, Family::Six)),
            (SOCKET_ADDRESS, 10, connect(all, Family::Four)),
            (SOCKET_ADDRESS, 11, connect(all, Family::Six)),
            (SOCKET_ADDRESS, 14, send4(all)),
            (SOCKET_ADDRESS, 15, send6(all)),
            // What recvmsg(2), getpeername(2), accept(2) and getsockname(2) tell.
            (SOCKET_ADDRESS, 19, tell4(all)),
            // Who answers a datagram can name no ::1 (see `send6`).
            (SOCKET_ADDRESS, 20, tell6(all, mapped(Ipv4Addr::LOCALHOST))),
            (SOCKET_ADDRESS, 29, tell4(all)),
            (SOCKET_ADDRESS, 30, tell6(all, raw_words(Ipv6Addr::LOCALHOST))),
            (SOCKET_ADDRESS, 31, tell4(all)),
            (SOCKET_ADDRESS, 32, tell6(all, raw_words(Ipv6Addr::LOCALHOST))),
            // Where the destination lies in a packet of each version, and the source.
            (PACKET, 0, packet(all, 16, 24)),
            (PACKET, 1, packet(all, 12, 8)),
        ] {
            add(group, &program, &hook(kind, attach))?;
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Four,
    Six,
}

/// The addresses by family.
struct Own {
    four: Vec<Ipv4Addr>,
    six: Vec<Ipv6Addr>,
    loopback: Ipv4Addr,
}

impl Own {
    fn of(addresses: &Addresses) -> Own {
        let mut own = Own { four: Vec::new(), six: Vec::new(), loopback: addresses.loopback };
        for address in &addresses.own {
            match address {
                IpAddr::V4(address) => own.four.push(*address),
                IpAddr::V6(address) => own.six.push(*address),
            }
        }
        own
    }
}

/// As the kernel has it in memory.
fn raw(address: Ipv4Addr) -> i32 {
    i32::from_ne_bytes(address.octets())
}

fn raw_words(address: Ipv6Addr) -> [i32; 4] {
    let octets = address.octets();
    std::array::from_fn(|word| std::array::from_fn(|byte| octets[word * 4 + byte])).map(i32::from_ne_bytes)
}

fn begin(family: Family) -> Vec<Instruction> {
    let load = |register: u8, offset| instruction(LOAD_WORD, register | CONTEXT << 4, offset, 0);
    let mut steps = vec![copy(CONTEXT, ARGUMENTS[0])];
    match family {
        Family::Four => steps.push(load(ADDRESS, USER_IP4)),
        Family::Six => {
            steps.extend(WORDS.into_iter().zip([0, 4, 8, 12]).map(|(to, at)| load(to, USER_IP6 + at)))
        }
    }
    steps
}

/// Goes through a block, which ends the program, when all of these registers hold these words.
fn when(conditions: &[(u8, i32)], block: Vec<Instruction>) -> Vec<Instruction> {
    let length = conditions.len() + block.len();
    let jump = |(at, (register, word)): (usize, &(u8, i32))| {
        instruction(JUMP_UNLESS_EQUAL_32, *register, (length - at - 1) as i16, *word)
    };
    conditions.iter().enumerate().map(jump).chain(block).collect()
}

fn when_six(words: [i32; 4], block: Vec<Instruction>) -> Vec<Instruction> {
    let conditions: Vec<(u8, i32)> = WORDS.into_iter().zip(words).collect();
    when(&conditions, block)
}

/// The address is one of version 4 in the clothes of version 6.
fn when_mapped(block: Vec<Instruction>) -> Vec<Instruction> {
    when(&[(WORDS[0], 0), (WORDS[1], 0), (WORDS[2], MAPPED)], block)
}

/// The address is one of 127.0.0.0/8. Its first byte is the lowest one of the register.
fn when_loopback(block: Vec<Instruction>) -> Vec<Instruction> {
    let mut steps = vec![copy(SCRATCH, ADDRESS), constant(AND, SCRATCH, 0xff)];
    steps.extend(when(&[(SCRATCH, 127)], block));
    steps
}

fn put(offset: i16, word: i32) -> [Instruction; 2] {
    [constant(MOVE_CONSTANT_32, SCRATCH, word), instruction(STORE_WORD, CONTEXT | SCRATCH << 4, offset, 0)]
}

fn put_six(offset: i16, words: [i32; 4]) -> Vec<Instruction> {
    words.into_iter().zip([0, 4, 8, 12]).flat_map(|(word, at)| put(offset + at, word)).collect()
}

fn mapped(address: Ipv4Addr) -> [i32; 4] {
    [0, 0, MAPPED, raw(address)]
}

fn allow(steps: impl IntoIterator<Item = Instruction>) -> Vec<Instruction> {
    steps.into_iter().chain(verdict(true)).collect()
}

fn refuse() -> Vec<Instruction> {
    verdict(false).to_vec()
}

/// What one of a family's own addresses comes to, and what nobody's does: a refusal.
fn first<T: Copy>(list: &[T], steps: impl FnOnce(T) -> Vec<Instruction>) -> Vec<Instruction> {
    list.first().map_or_else(refuse, |address| allow(steps(*address)))
}

fn bind(own: &Own, family: Family) -> Vec<Instruction> {
    let mut program = begin(family);
    // Where an address of version 4 lies.
    let place = if family == Family::Four { USER_IP4 } else { USER_IP6 + 12 };
    let mut four: Vec<Instruction> =
        own.four.iter().flat_map(|address| when(&[(ADDRESS, raw(*address))], allow([]))).collect();
    four.extend(when(&[(ADDRESS, 0)], first(&own.four, |address| put(place, raw(address)).into())));
    four.extend(when_loopback(allow(put(place, raw(own.loopback)))));
    four.extend(refuse());
    if family == Family::Four {
        program.extend(four);
        return program;
    }
    program.extend(when_mapped(four));
    program.extend(own.six.iter().flat_map(|address| when_six(raw_words(*address), allow([]))));
    let any = match own.six.first() {
        Some(address) => allow(put_six(USER_IP6, raw_words(*address))),
        None => first(&own.four, |address| put_six(USER_IP6, mapped(address))),
    };
    program.extend(when_six([0; 4], any));
    program.extend(when_six(raw_words(Ipv6Addr::LOCALHOST), allow(put_six(USER_IP6, mapped(own.loopback)))));
    program.extend(refuse());
    program
}

fn connect(own: &Own, family: Family) -> Vec<Instruction> {
    let mut program = begin(family);
    let place = if family == Family::Four { USER_IP4 } else { USER_IP6 + 12 };
    let source = |address: Ipv4Addr| match family {
        Family::Four => bind_source4(address),
        Family::Six => bind_source6(mapped(address)),
    };
    let local = || allow(put(place, raw(own.loopback)).into_iter().chain(source(own.loopback)));
    // The address 0.0.0.0 means the machine itself (ip(7)).
    let mut four = when(&[(ADDRESS, 0)], local());
    four.extend(when_loopback(local()));
    four.extend(first(&own.four, source));
    if family == Family::Four {
        program.extend(four);
        return program;
    }
    program.extend(when_mapped(four));
    for local in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST] {
        let loopback = mapped(own.loopback);
        let steps = put_six(USER_IP6, loopback).into_iter().chain(bind_source6(loopback));
        program.extend(when_six(raw_words(local), allow(steps)));
    }
    program.extend(first(&own.six, |address| bind_source6(raw_words(address))));
    program
}

fn send4(own: &Own) -> Vec<Instruction> {
    let mut program = begin(Family::Four);
    let local =
        || allow(put(USER_IP4, raw(own.loopback)).into_iter().chain(put(SOURCE_IP4, raw(own.loopback))));
    program.extend(when(&[(ADDRESS, 0)], local()));
    program.extend(when_loopback(local()));
    program.extend(first(&own.four, |address| {
        unless_bound(&[SOCKET_IP4], put(SOURCE_IP4, raw(address)).into())
    }));
    program
}

/// Here the kernel takes no address of version 4 in place of one of version 6, so that ::1 cannot be led anywhere.
fn send6(own: &Own) -> Vec<Instruction> {
    let mut program = begin(Family::Six);
    for local in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST] {
        program.extend(when_six(raw_words(local), refuse()));
    }
    program.extend(first(&own.six, |address| {
        unless_bound(&SOCKET_IP6_WORDS, put_six(SOURCE_IP6, raw_words(address)))
    }));
    program
}

/// The private loopback address is told as the usual one.
fn tell4(own: &Own) -> Vec<Instruction> {
    let mut program = begin(Family::Four);
    let usual = allow(put(USER_IP4, raw(Ipv4Addr::LOCALHOST)));
    program.extend(when(&[(ADDRESS, raw(own.loopback))], usual));
    program.extend(verdict(true));
    program
}

fn tell6(own: &Own, usual: [i32; 4]) -> Vec<Instruction> {
    let mut program = begin(Family::Six);
    program.extend(when_six(mapped(own.loopback), allow(put_six(USER_IP6, usual))));
    program.extend(verdict(true));
    program
}

const SOCKET_IP6_WORDS: [i16; 4] = [SOCKET_IP6, SOCKET_IP6 + 4, SOCKET_IP6 + 8, SOCKET_IP6 + 12];

/// Goes past the steps when the socket has an address already, words of which lie at these offsets: `bind` has held it.
fn unless_bound(words: &[i16], steps: Vec<Instruction>) -> Vec<Instruction> {
    let (socket, sum) = (ARGUMENTS[2], ARGUMENTS[3]);
    let word = ARGUMENTS[0];
    let mut all =
        vec![instruction(LOAD_DOUBLE, socket | CONTEXT << 4, OWN_SOCKET, 0), constant(MOVE_CONSTANT, sum, 0)];
    for offset in words {
        all.push(instruction(LOAD_WORD, word | socket << 4, *offset, 0));
        all.push(instruction(OR, sum | word << 4, 0, 0));
    }
    all.push(instruction(JUMP_UNLESS_EQUAL, sum, steps.len() as i16, 0));
    all.extend(steps);
    all
}

fn bind_source4(address: Ipv4Addr) -> Vec<Instruction> {
    // struct sockaddr_in: family and port 0, address, zeroes.
    unless_bound(&[SOCKET_IP4], bind_source(&[i32::from(libc::AF_INET as i16), raw(address), 0, 0]))
}

fn bind_source6(words: [i32; 4]) -> Vec<Instruction> {
    let [a, b, c, d] = words;
    // struct sockaddr_in6: family and port 0, flow, address, scope.
    unless_bound(&SOCKET_IP6_WORDS, bind_source(&[i32::from(libc::AF_INET6 as i16), 0, a, b, c, d, 0]))
}

/// Binds the socket to an address that is laid on the stack; a port is found later, as for one that is not bound.
fn bind_source(words: &[i32]) -> Vec<Instruction> {
    let length = 4 * words.len() as i16;
    let store = |(at, word): (usize, &i32)| instruction(STORE_CONSTANT, FRAME, 4 * at as i16 - length, *word);
    let mut steps: Vec<Instruction> = words.iter().enumerate().map(store).collect();
    steps.extend([
        copy(ARGUMENTS[0], CONTEXT),
        copy(ARGUMENTS[1], FRAME),
        constant(ADD, ARGUMENTS[1], i32::from(-length)),
        constant(MOVE_CONSTANT, ARGUMENTS[2], i32::from(length)),
        constant(CALL, 0, BIND),
    ]);
    steps
}

/// Sockets of IP whose addresses are held by the other programs: TCP, UDP, UDP-Lite, MPTCP, those of ping(8), and raw
/// ones, whose packets are looked at.
fn known_protocols() -> Vec<Instruction> {
    const ICMP_6: i32 = 58;
    let known =
        [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_UDPLITE, libc::IPPROTO_ICMP, ICMP_6, 262];
    let (kind, protocol) = (ARGUMENTS[1], ARGUMENTS[2]);
    let mut program = vec![
        instruction(LOAD_WORD, kind | ARGUMENTS[0] << 4, SOCKET_TYPE, 0),
        instruction(LOAD_WORD, protocol | ARGUMENTS[0] << 4, SOCKET_PROTOCOL, 0),
    ];
    program.extend(when(&[(kind, libc::SOCK_RAW)], allow([])));
    known.into_iter().for_each(|number| program.extend(when(&[(protocol, number)], allow([]))));
    program.extend(refuse());
    program
}

/// Lets packets pass that have one of the addresses at these offsets of their headers.
fn packet(own: &Own, offset4: i32, offset6: i32) -> Vec<Instruction> {
    const IP: i32 = u16::from_ne_bytes([8, 0]) as i32;
    const IP6: i32 = u16::from_ne_bytes([0x86, 0xdd]) as i32;
    let protocol = WORDS[0];
    let mut four = load_packet(offset4, 1);
    for address in own.four.iter().chain([&own.loopback]) {
        four.extend(when(&[(ADDRESS, raw(*address))], allow([])));
    }
    four.extend(refuse());
    let mut six = load_packet(offset6, 4);
    six.extend(own.six.iter().flat_map(|address| when_six(raw_words(*address), allow([]))));
    six.extend(refuse());
    let mut program = vec![instruction(LOAD_WORD, protocol | ARGUMENTS[0] << 4, PACKET_PROTOCOL, 0)];
    program.extend(when(&[(protocol, IP)], four));
    program.extend(when(&[(protocol, IP6)], six));
    program.extend(refuse());
    program
}

/// Loads the last of [`WORDS`], as many as are asked for, from a packet, which goes through nothing else where it is too
/// short. The header lies in one piece: the kernel has read it before, or written it.
fn load_packet(offset: i32, count: usize) -> Vec<Instruction> {
    let (data, end, last) = (ARGUMENTS[1], ARGUMENTS[2], ARGUMENTS[3]);
    let length = 4 * count as i32;
    let mut steps = vec![
        instruction(LOAD_WORD, data | ARGUMENTS[0] << 4, PACKET_DATA, 0),
        instruction(LOAD_WORD, end | ARGUMENTS[0] << 4, PACKET_END, 0),
        copy(last, data),
        constant(ADD, last, offset + length),
        instruction(JUMP_UNLESS_GREATER, last | end << 4, 2, 0),
    ];
    steps.extend(refuse());
    // The last word has the register in which the packet lies.
    let places = (offset as i16..).step_by(4);
    let registers = WORDS[4 - count..].iter();
    steps.extend(registers.zip(places).map(|(to, at)| instruction(LOAD_WORD, to | data << 4, at, 0)));
    steps
}
