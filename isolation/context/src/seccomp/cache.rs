//! Compiled programs as files: one entry for each profile, found by a hash and proven by the whole key.
//!
//! An entry is `header | key | program`. The key is all of the profile that `lower` reads, and it is compared byte by
//! byte, so a profile that is made to collide with another one's hash finds nothing. What the kernel offers is not part
//! of it: every action is older (5.0) than the clone3(2) that vctx needs, and flags are no part of the program.
//! Concurrent writers each link a complete file; whoever is last wins, with the same bytes.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use libc::sock_filter;
use libseccomp::ScmpVersion;
use oci_spec::runtime::LinuxSeccomp;
use rustix::fs::{AtFlags, CWD, linkat, unlink};
use rustix::io::Errno;

use super::{architecture, bpf};

/// The file's type and the version of everything here that shapes a program: change the number with `lower`, `ranges` or
/// `rules`.
const MAGIC: [u8; 8] = *b"vctxbpf3";

/// Magic, compiler (8 bytes), length of the key (4), instructions (4), checksum of key and program (8).
const HEADER: usize = 32;

/// The default profile's entry, made by `cargo test -p vctx-context -- --ignored regenerate`.
#[cfg(target_arch = "x86_64")]
pub(super) const PREBUILT: &[u8] = include_bytes!("default.x86_64.bpf");
/// Other architectures compile their default profile once, and cache it.
#[cfg(not(target_arch = "x86_64"))]
pub(super) const PREBUILT: &[u8] = &[];

/// Stands for a profile.
pub(super) struct Key(Vec<u8>);

impl Key {
    /// Flags, listener path and metadata are left out: they change from container to container, and no program.
    pub(super) fn of(profile: &LinuxSeccomp) -> Self {
        let parts = (
            profile.default_action(),
            profile.default_errno_ret(),
            profile.architectures(),
            profile.syscalls(),
        );
        // Plain enums, numbers and strings always become JSON; without a key there would only be no entry.
        Self(serde_json::to_vec(&parts).unwrap_or_default())
    }

    /// Reads the program of this profile. Anything unexpected means that there is none: it is compiled, and replaced.
    pub(super) fn load(&self, folder: &Path) -> Option<Vec<sock_filter>> {
        let path = folder.join(self.file_name());
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
        let about = file.metadata().ok()?;
        let ours = about.uid() == rustix::process::geteuid().as_raw() && about.mode() & 0o022 == 0;
        let longest = HEADER + self.0.len() + 8 * libc::BPF_MAXINSNS as usize;
        if !ours || !about.is_file() || about.len() > longest as u64 {
            return None;
        }
        let mut entry = vec![0; about.len() as usize];
        file.read_exact(&mut entry).ok()?;
        let (compiler, program) = self.open(&entry)?;
        if compiler == current_compiler() { bpf::from_bytes(program) } else { None }
    }

    /// Keeps the program for the next time. A full, read-only or forbidden folder costs only that time, so errors end
    /// here.
    pub(super) fn store(&self, folder: &Path, program: &[sock_filter]) {
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let path = folder.join(self.file_name());
        let _ = self.write(folder, program).and_then(|file| {
            let link = || linkat(CWD, own_path(&file), CWD, &path, AtFlags::SYMLINK_FOLLOW);
            match link() {
                // An entry that could not be used, or a concurrent writer's, which has the same bytes.
                Err(Errno::EXIST) => unlink(&path).and_then(|()| link()),
                result => result,
            }
            .map_err(Into::into)
        });
    }

    /// The whole entry in a file without a name: a killed process leaves nothing.
    fn write(&self, folder: &Path, program: &[sock_filter]) -> std::io::Result<File> {
        let mut file =
            OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(folder)?;
        file.write_all(&self.seal(program))?;
        Ok(file)
    }

    /// The whole entry for a program.
    pub(super) fn seal(&self, program: &[sock_filter]) -> Vec<u8> {
        let program_bytes = bpf::to_bytes(program);
        let mut entry = Vec::with_capacity(HEADER + self.0.len() + program_bytes.len());
        entry.extend(MAGIC);
        entry.extend(current_compiler());
        entry.extend((self.0.len() as u32).to_ne_bytes());
        entry.extend((program.len() as u32).to_ne_bytes());
        entry.extend(digest(&[&self.0, &program_bytes]).to_ne_bytes());
        entry.extend(&self.0);
        entry.extend(program_bytes);
        entry
    }

    /// Who compiled a sound entry of this very profile, and the program's bytes.
    fn open<'a>(&self, entry: &'a [u8]) -> Option<([u8; 8], &'a [u8])> {
        let (magic, rest) = entry.split_first_chunk::<8>()?;
        let (compiler, rest) = rest.split_first_chunk::<8>()?;
        let (key_length, rest) = rest.split_first_chunk::<4>()?;
        let (instructions, rest) = rest.split_first_chunk::<4>()?;
        let (checksum, rest) = rest.split_first_chunk::<8>()?;
        let (key, program) = rest.split_at_checked(u32::from_ne_bytes(*key_length) as usize)?;
        let sound = *magic == MAGIC
            && key == self.0
            && program.len() / 8 == u32::from_ne_bytes(*instructions) as usize
            && digest(&[key, program]) == u64::from_ne_bytes(*checksum);
        sound.then_some((*compiler, program))
    }

    fn file_name(&self) -> String {
        format!("{:016x}.bpf", digest(&[&self.0]))
    }
}

/// The program from the binary itself, where the profile is the default one. It was compiled with the libseccomp of its
/// day, which only decides how many of the newest names are known.
pub(super) fn prebuilt(key: &Key) -> Option<Vec<sock_filter>> {
    bpf::from_bytes(key.open(PREBUILT)?.1)
}

/// The same for a caller who knows that the profile is the default one. A test keeps the entry up to date.
pub(super) fn prebuilt_default() -> Option<Vec<sock_filter>> {
    let key_length = PREBUILT.get(16..)?.first_chunk::<4>()?;
    bpf::from_bytes(PREBUILT.get(HEADER + u32::from_ne_bytes(*key_length) as usize..)?)
}

/// The linked libseccomp, whose names and numbers are in a program, and the architecture.
fn current_compiler() -> [u8; 8] {
    let version = ScmpVersion::current().map_or(0, |v| v.major << 16 | v.minor << 8 | v.micro);
    let words = [version, architecture::NATIVE as u32].map(u32::to_ne_bytes);
    let mut compiler = [0; 8];
    compiler.as_chunks_mut::<4>().0.copy_from_slice(&words);
    compiler
}

/// The name under which an open file can be linked (open(2), O_TMPFILE).
fn own_path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Names files and finds damage, eight bytes at a time. Not cryptographic, and nothing rests on it being so.
fn digest(parts: &[&[u8]]) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        let (words, rest) = part.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        for word in words.iter().chain([&last, &(part.len() as u64).to_ne_bytes()]) {
            state = (state ^ u64::from_ne_bytes(*word)).wrapping_mul(PRIME).rotate_left(23);
        }
    }
    state
}
