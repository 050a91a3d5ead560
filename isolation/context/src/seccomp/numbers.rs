//! By which numbers an architecture knows a system call. libseccomp has the tables.

use std::collections::HashMap;

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::Arch;

use super::architecture;

/// Some architectures have one call for a whole family: `socketcall(call, arguments *)` and `ipc(call, ...)`.
pub(super) struct Multiplexed {
    /// The number of `socketcall` or `ipc`.
    pub(super) number: u32,
    /// Which of the family it is: the value of the first argument.
    pub(super) call: u32,
    /// What the kernel looks at of the first argument.
    pub(super) mask: u32,
}

/// The names of one architecture.
pub(super) struct Numbers {
    arch: ScmpArch,
    /// The calls of a family that have a number of their own as well.
    own: HashMap<String, u32>,
}

impl Numbers {
    pub(super) fn of(arch: Arch) -> Self {
        let arch = architecture::token(arch);
        let families = ["socketcall", "ipc"].map(|name| resolve(name, arch));
        // libseccomp hides these numbers behind those of the family, so its table is read in the other direction. The
        // families' own numbers say where an architecture begins to count.
        let first = families.into_iter().find_map(|number| u32::try_from(number?).ok());
        let numbers = first.map(|number| number & !0x3ff).map(|first| first..first + 0x400);
        let name = |number: u32| ScmpSyscall::from_raw_syscall(number as i32).get_name_by_arch(arch).ok();
        let own = numbers.into_iter().flatten().filter_map(|number| Some((name(number)?, number)));
        Self { arch, own: own.collect() }
    }

    /// The number of the call itself.
    pub(super) fn direct(&self, name: &str) -> Option<u32> {
        match u32::try_from(resolve(name, self.arch)?) {
            Ok(number) => Some(number),
            Err(_) => self.own.get(name).copied(),
        }
    }

    /// The call as one of a family, where the architecture has that.
    pub(super) fn multiplexed(&self, name: &str) -> Option<Multiplexed> {
        // Negative numbers are libseccomp's own. These stand for members of the families, and count as the kernel does.
        let (family, call, mask) = match resolve(name, self.arch)? {
            pseudo @ -120..=-101 => ("socketcall", -100 - pseudo, u32::MAX),
            // The upper half is the version of the caller's structures.
            pseudo @ -224..=-201 => ("ipc", -200 - pseudo, 0xffff),
            _ => return None,
        };
        let number = u32::try_from(resolve(family, self.arch)?).ok()?;
        Some(Multiplexed { number, call: call as u32, mask })
    }
}

/// Below zero for what the architecture has not, or not alone.
fn resolve(name: &str, arch: ScmpArch) -> Option<i32> {
    ScmpSyscall::from_name_by_arch(name, arch).ok().map(ScmpSyscall::as_raw_syscall)
}
