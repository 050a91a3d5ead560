//! What only the fuzzers reach: readers of control files on texts, and device rules as each version is told them.

use oci_spec::runtime::LinuxDeviceCgroup;

use super::devices::{List, Policy, line};
use super::{BlkioEntry, Error, Pressure, figures, layout, program};

/// One instruction of a device program: code, registers (destination low, source high), offset, constant.
pub type Instruction = (u8, u8, i16, i32);

/// The program of version 2.
pub fn device_program(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Instruction>, Error> {
    let program = program::compile(&Policy::parse(rules)?);
    Ok(program.into_iter().map(|one| (one.code, one.registers, one.offset, one.constant)).collect())
}

/// The list of version 1: whether it allows by default, and the exceptions in the kernel's words.
pub fn device_list(rules: &[LinuxDeviceCgroup]) -> Result<(bool, Vec<String>), Error> {
    Ok(words(&List::of(&Policy::parse(rules)?)?))
}

/// What is understood of the kernel's `devices.list`.
pub fn read_device_list(text: &str) -> (bool, Vec<String>) {
    words(&List::parse(text))
}

fn words(list: &List) -> (bool, Vec<String>) {
    (list.allow, list.exceptions.iter().map(|(nodes, access)| line(nodes, *access)).collect())
}

/// The mount points that are found, with their controllers and our own group.
pub fn hierarchies(membership: &str, mountinfo: &str) -> Vec<(Vec<String>, std::path::PathBuf, String)> {
    let layout = layout::parse(membership, mountinfo);
    let mounts = layout.into_iter().flat_map(|layout| layout.v1.into_iter().chain(layout.v2));
    mounts.map(|mount| (mount.controllers, mount.point, mount.own)).collect()
}

/// `io.stat`: bytes and operations.
pub fn io_stat(text: &str) -> (Vec<BlkioEntry>, Vec<BlkioEntry>) {
    let read = figures::io_stat(text);
    (read.io_service_bytes_recursive, read.io_serviced_recursive)
}

/// `*.pressure`.
pub fn pressure(text: &str) -> Option<Pressure> {
    figures::stalls(text)
}

/// A list such as `0-2,5`.
pub fn ranges(text: &str) -> Vec<u16> {
    figures::ranges(text)
}
