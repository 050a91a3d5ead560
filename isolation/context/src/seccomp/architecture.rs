//! The architectures of a filter: OCI's names, libseccomp's tokens, the kernel's audit numbers.

use libseccomp::{ScmpAction, ScmpArch, ScmpFilterContext};
use oci_spec::runtime::{Arch, LinuxSeccomp};

use super::Error;
use super::rules::Width;

/// What this binary runs on. A constant, so that a cached filter needs no question to libseccomp.
#[cfg(target_arch = "x86_64")]
pub(super) const NATIVE: Arch = Arch::ScmpArchX86_64;
/// What this binary runs on.
#[cfg(target_arch = "aarch64")]
pub(super) const NATIVE: Arch = Arch::ScmpArchAarch64;
/// What this binary runs on.
#[cfg(target_arch = "riscv64")]
pub(super) const NATIVE: Arch = Arch::ScmpArchRiscv64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
compile_error!("seccomp: name the native architecture of this target here");

/// The architectures of a profile, each once; the native one is always the first.
pub(super) fn of(profile: &LinuxSeccomp) -> Vec<Arch> {
    let mut all = vec![NATIVE];
    for &arch in profile.architectures().iter().flatten() {
        if arch != Arch::ScmpArchNative && !all.contains(&arch) {
            all.push(arch);
        }
    }
    all
}

/// Refuses what libseccomp does not know, and what has not the byte order of the others.
pub(super) fn check(all: &[Arch]) -> Result<(), Error> {
    let mut context = ScmpFilterContext::new(ScmpAction::Allow).map_err(Error::Libseccomp)?;
    for &arch in all {
        context.add_arch(token(arch)).map_err(|source| Error::Architecture { arch, source })?;
    }
    Ok(())
}

/// libseccomp's reading, which is every other runtime's too: the architectures that have pointers of 32 bits have
/// arguments of 32 bits.
pub(super) fn width(arch: Arch) -> Width {
    /// `__AUDIT_ARCH_64BIT`, of linux/audit.h.
    const WIDE: u32 = 0x8000_0000;
    match arch {
        Arch::ScmpArchX32 | Arch::ScmpArchMips64n32 | Arch::ScmpArchMipsel64n32 => Width::Low,
        arch if arch as u32 & WIDE == 0 => Width::Low,
        _ => Width::Whole,
    }
}

/// The number in `seccomp_data.arch`. libseccomp's token is that number, except for x32: there the kernel reports
/// x86_64, and marks the system call's number instead.
pub(super) fn audit(arch: Arch) -> u32 {
    match arch {
        Arch::ScmpArchX32 => Arch::ScmpArchX86_64 as u32,
        arch => arch as u32,
    }
}

/// libseccomp's own type.
pub(super) fn token(arch: Arch) -> ScmpArch {
    match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}
