//! BPF programs of groups of version 2, loaded with bpf(2) and attached to the group's directory, whose removal frees
//! them. The one for devices is generated here: the kernel runs it whenever a process of the group opens or makes a device
//! node. Those that hold a group to its addresses are in `addresses`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::{Mode as FileMode, OFlags, open};

use super::Error;
use super::devices::{ALL, Kind, Policy, Rule};

/// Where a program is attached (`enum bpf_prog_type` and `enum bpf_attach_type` of linux/bpf.h), and under which name.
pub(super) struct Hook {
    pub(super) kind: u32,
    pub(super) attach: u32,
    pub(super) name: [u8; 16],
}

/// By its name an update knows the program to replace.
const DEVICES: Hook = Hook { kind: 15, attach: 6, name: *b"vctx_devices\0\0\0\0" };
/// The program calls no helper, so it need not be under the GPL.
const LICENSE: &[u8] = b"Apache-2.0\0";

// linux/bpf.h
const PROG_LOAD: i32 = 5;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const PROG_GET_FD_BY_ID: i32 = 13;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const PROG_QUERY: i32 = 16;
const ALLOW_MULTI: u32 = 2;
/// `BPF_CGROUP_MAX_PROGS`.
const MOST_PROGRAMS: usize = 64;

/// Puts `policy` in place of the device program that vctx attached to the group at `dir` before, if any. For a moment
/// both are attached and an access must pass both, so an update never opens a gap.
pub(super) fn replace(dir: &Path, policy: &Policy) -> Result<(), Error> {
    let failed = |step| move |source| Error::Bpf { step, path: dir.into(), source };
    let group = open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())
        .map_err(|errno| Error::Open { path: dir.into(), source: errno.into() })?;
    let old = attached(group.as_fd()).map_err(failed("query"))?;
    // Without a program everything is allowed that the groups above allow.
    if !policy.allow || !policy.rules.is_empty() {
        let program = load(&compile(policy), &DEVICES).map_err(failed("load"))?;
        change(PROG_ATTACH, group.as_fd(), program.as_fd(), &DEVICES).map_err(failed("attach"))?;
    }
    for program in old {
        change(PROG_DETACH, group.as_fd(), program.as_fd(), &DEVICES).map_err(failed("detach"))?;
    }
    Ok(())
}

/// `struct bpf_insn`; `registers` holds the destination in its low half, the source in its high half.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) code: u8,
    pub(super) registers: u8,
    pub(super) offset: i16,
    pub(super) constant: i32,
}

// Registers: the verdict and the first argument are the kernel's choice.
const VERDICT: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

// Opcodes (Documentation/bpf/standardization/instruction-set.rst), as class | source | operation.
pub(super) const LOAD_WORD: u8 = 0x61;
pub(super) const MOVE_CONSTANT: u8 = 0xb7;
const MOVE: u8 = 0xbf;
pub(super) const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP: u8 = 0x05;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

pub(super) fn instruction(code: u8, registers: u8, offset: i16, constant: i32) -> Instruction {
    Instruction { code, registers, offset, constant }
}

pub(super) fn copy(to: u8, from: u8) -> Instruction {
    instruction(MOVE, to | from << 4, 0, 0)
}

pub(super) fn constant(code: u8, register: u8, constant: i32) -> Instruction {
    instruction(code, register, 0, constant)
}

/// The last rule that speaks of a node and of one kind of access decides about that access, and all accesses of a
/// request must be allowed. So the rules are tried from the last to the first: one that allows takes its accesses off
/// the request, which is granted when none is left; one that denies any of those left ends it.
pub(super) fn compile(policy: &Policy) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx { u32 access_type; u32 major; u32 minor; }, with the access in the upper half of the
    // first word and the type in the lower.
    let load = |register: u8, offset| instruction(LOAD_WORD, register | CONTEXT << 4, offset, 0);
    let mut program = vec![
        load(ACCESS, 0),
        copy(KIND, ACCESS),
        constant(AND, KIND, 0xffff),
        constant(SHIFT_RIGHT, ACCESS, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    let rules: Vec<&Rule> = policy.rules.iter().rev().collect();
    for rules in rules
        .chunk_by(|one, next| allows_a_device(one, one.nodes.kind) && allows_a_device(next, one.nodes.kind))
    {
        match rules {
            [rule] => program.extend(one_rule(rule)),
            rules => program.extend(devices(rules)),
        }
    }
    program.extend(verdict(policy.allow));
    program
}

/// The rule allows all of a device of this kind, or of all with its major number.
fn allows_a_device(rule: &Rule, kind: Kind) -> bool {
    rule.allow && rule.access == ALL && rule.nodes.major.is_some() && rule.nodes.kind == kind
}

fn number(kind: Kind) -> u32 {
    if kind == Kind::Block { 1 } else { 2 }
}

fn one_rule(rule: &Rule) -> Vec<Instruction> {
    let wanted =
        [(KIND, Some(number(rule.nodes.kind))), (MAJOR, rule.nodes.major), (MINOR, rule.nodes.minor)];
    let mut block = Vec::new();
    for (register, number) in wanted {
        block.extend(number.map(|number| constant(JUMP_UNLESS_EQUAL, register, number as i32)));
    }
    let access = i32::from(rule.access);
    match (rule.access == ALL, rule.allow) {
        (true, _) => {}
        (false, true) => {
            block.push(constant(AND, ACCESS, !access));
            block.push(constant(JUMP_UNLESS_EQUAL, ACCESS, 0));
        }
        (false, false) => {
            block.push(copy(SCRATCH, ACCESS));
            block.push(constant(AND, SCRATCH, access));
            block.push(constant(JUMP_IF_EQUAL, SCRATCH, 0));
        }
    }
    block.extend(verdict(rule.allow));
    // Every jump of a rule goes to the next rule.
    let length = block.len();
    for (at, step) in block.iter_mut().enumerate() {
        if matches!(step.code, JUMP_IF_EQUAL | JUMP_UNLESS_EQUAL) {
            step.offset = (length - at - 1) as i16;
        }
    }
    block
}

/// Several rules as [`allows_a_device`] has them, whose order does not matter. Each jump costs the kernel's verifier some
/// ten thousand instructions, so that kind and major numbers are compared once for all.
fn devices(rules: &[&Rule]) -> Vec<Instruction> {
    let mut majors: BTreeMap<u32, BTreeSet<Option<u32>>> = BTreeMap::new();
    for rule in rules {
        majors.entry(rule.nodes.major.unwrap_or_default()).or_default().insert(rule.nodes.minor);
    }
    let test = |code, register, number: u32, to: To| (constant(code, register, number as i32), to);
    let mut block = vec![test(JUMP_UNLESS_EQUAL, KIND, number(rules[0].nodes.kind), To::End)];
    for (major, minors) in majors {
        if minors.contains(&None) {
            block.push(test(JUMP_IF_EQUAL, MAJOR, major, To::Allow));
            continue;
        }
        block.push(test(JUMP_UNLESS_EQUAL, MAJOR, major, To::Over(minors.len() + 1)));
        block.extend(minors.iter().flatten().map(|minor| test(JUMP_IF_EQUAL, MINOR, *minor, To::Allow)));
        block.push((constant(JUMP, 0, 0), To::End));
    }
    block.push((constant(JUMP, 0, 0), To::End));
    let length = block.len();
    let place = |(at, (mut step, to)): (usize, (Instruction, To))| {
        step.offset = match to {
            To::Over(steps) => steps,
            To::Allow => length - at - 1,
            To::End => length - at - 1 + verdict(true).len(),
        } as i16;
        step
    };
    block.into_iter().enumerate().map(place).chain(verdict(true)).collect()
}

/// Where a jump of [`devices`] goes: over so many instructions, to the verdict behind all of them, or past it.
enum To {
    Over(usize),
    Allow,
    End,
}

pub(super) fn verdict(allow: bool) -> [Instruction; 2] {
    [constant(MOVE_CONSTANT, VERDICT, allow.into()), instruction(EXIT, 0, 0, 0)]
}

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

#[repr(C)]
struct AttachAttr {
    target: RawFd,
    program: RawFd,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct QueryAttr {
    target: RawFd,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    pad: u32,
}

#[repr(C)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
struct InfoAttr {
    fd: RawFd,
    length: u32,
    info: u64,
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct Info {
    head: [u64; 8],
    name: [u8; 16],
}

/// Attaches one more program to the group at `dir`.
pub(super) fn add(dir: &Path, program: &[Instruction], hook: &Hook) -> Result<(), Error> {
    let failed = |step| move |source| Error::Bpf { step, path: dir.into(), source };
    let group = open(dir, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())
        .map_err(|errno| Error::Open { path: dir.into(), source: errno.into() })?;
    let program = load(program, hook).map_err(failed("load"))?;
    change(PROG_ATTACH, group.as_fd(), program.as_fd(), hook).map_err(failed("attach"))
}

pub(super) fn load(program: &[Instruction], hook: &Hook) -> io::Result<OwnedFd> {
    let mut attr = LoadAttr {
        kind: hook.kind,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        name: hook.name,
        attach_type: hook.attach,
        ..LoadAttr::default()
    };
    // SAFETY: `attr` is laid out as BPF_PROG_LOAD reads it, and both pointers in it outlive the call: the instructions
    // are borrowed by this function with their count beside them, the licence is a NUL-terminated constant.
    let fd = unsafe { bpf(PROG_LOAD, &mut attr) }?;
    // SAFETY: a successful BPF_PROG_LOAD returns a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn change(command: i32, group: BorrowedFd, program: BorrowedFd, hook: &Hook) -> io::Result<()> {
    let flags = if command == PROG_ATTACH { ALLOW_MULTI } else { 0 };
    let (target, program) = (group.as_raw_fd(), program.as_raw_fd());
    let mut attr = AttachAttr { target, program, attach_type: hook.attach, flags };
    // SAFETY: `attr` is laid out as BPF_PROG_ATTACH and BPF_PROG_DETACH read it and holds no pointer.
    unsafe { bpf(command, &mut attr) }.map(drop)
}

/// The device programs on this very group that vctx attached.
fn attached(group: BorrowedFd) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0_u32; MOST_PROGRAMS];
    let mut attr = QueryAttr {
        target: group.as_raw_fd(),
        attach_type: DEVICES.attach,
        flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        pad: 0,
    };
    // SAFETY: `attr` is laid out as BPF_PROG_QUERY reads it; the kernel writes at most `count` ids to `ids`, which has
    // that many elements and is borrowed for nothing else.
    unsafe { bpf(PROG_QUERY, &mut attr) }?;
    let mut ours = Vec::new();
    for id in &ids[..attr.count as usize] {
        let mut attr = IdAttr { id: *id, next: 0, flags: 0 };
        // SAFETY: `attr` is laid out as BPF_PROG_GET_FD_BY_ID reads it and holds no pointer.
        let fd = match unsafe { bpf(PROG_GET_FD_BY_ID, &mut attr) } {
            // SAFETY: the call returned a new descriptor that nobody else knows.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            // Detached by someone else since the query.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
            Err(error) => return Err(error),
        };
        if name(fd.as_fd())? == DEVICES.name {
            ours.push(fd);
        }
    }
    Ok(ours)
}

fn name(program: BorrowedFd) -> io::Result<[u8; 16]> {
    let mut info = Info::default();
    let pointer = (&raw mut info) as u64;
    let mut attr = InfoAttr { fd: program.as_raw_fd(), length: size_of::<Info>() as u32, info: pointer };
    // SAFETY: `attr` is laid out as BPF_OBJ_GET_INFO_BY_FD reads it; the kernel reads and writes no more than `length`
    // bytes at `info`, which is the size of the live variable there. The zeroes it starts with ask for no arrays.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info.name)
}

/// bpf(2).
///
/// # Safety
///
/// `attr` must have the layout that the kernel expects for `command`, and each pointer in it must be valid for what the
/// command does with it.
unsafe fn bpf<T>(command: i32, attr: &mut T) -> io::Result<RawFd> {
    let pointer = (attr as *mut T).cast::<c_void>();
    // SAFETY: the kernel accesses `size_of::<T>()` bytes of `attr`, which is borrowed exclusively; the caller vouches
    // for the pointers inside.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, pointer, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}
