//! Landlock, parent side: the words for what a rule allows, and what the kernel can hold back (landlock(7)).

use std::str::FromStr;

use rustix::io::Errno;

const EXECUTE: u64 = 1 << 0;
const READ: u64 = 1 << 2 | 1 << 3;
/// Of the accesses above, and of those to write, what a file that is no folder can have: to execute, write, read, truncate,
/// and ioctl(2) of a device. The kernel refuses the others in its rule.
const OF_A_FILE: u64 = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15;

/// The version that came with truncate(2) (Linux 6.2). A kernel with an older one would let a file be emptied that may not be
/// written.
const NEEDED: u32 = 3;

/// Why the kernel cannot hold a guest so.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Not compiled in.
    #[error("needs Landlock, which this kernel does not have")]
    Absent,
    /// Compiled in, and not among the modules of the boot.
    #[error("needs Landlock, which is off on this kernel; add it to the boot parameter lsm=")]
    Off,
    /// It lets pass what a rule must be able to refuse.
    #[error("needs Landlock of Linux 6.2 or later (version {NEEDED}), and this kernel has version {0}")]
    Old(u32),
    /// A filter around us.
    #[error("needs Landlock, which cannot be asked for: {0}")]
    Refused(Errno),
}

/// What is refused where no rule allows it: every access to files that this kernel knows.
///
/// # Errors
///
/// The kernel has no Landlock, or one that is too old.
pub fn handled() -> Result<u64, Error> {
    judge(vctx_child::sys::landlock_version())
}

fn judge(version: Result<u32, Errno>) -> Result<u64, Error> {
    match version {
        Ok(5..) => Ok((1 << 16) - 1),
        Ok(NEEDED..) => Ok((1 << 15) - 1),
        Ok(version) => Err(Error::Old(version)),
        Err(Errno::NOSYS) => Err(Error::Absent),
        Err(Errno::OPNOTSUPP) => Err(Error::Off),
        Err(error) => Err(Error::Refused(error)),
    }
}

/// What a rule allows below its path: `r`, `rx`, `rw` or `rwx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    write: bool,
    execute: bool,
}

impl FromStr for Access {
    type Err = ();

    fn from_str(word: &str) -> Result<Access, ()> {
        match word {
            "r" => Ok(Access { write: false, execute: false }),
            "rx" => Ok(Access { write: false, execute: true }),
            "rw" => Ok(Access { write: true, execute: false }),
            "rwx" => Ok(Access { write: true, execute: true }),
            _ => Err(()),
        }
    }
}

impl Access {
    /// In LANDLOCK_ACCESS_FS_* bits, of those that are `handled`: (below a folder, of another file). To write is to change,
    /// make, remove, rename, link, truncate, and to command devices.
    #[must_use]
    pub fn bits(self, handled: u64) -> (u64, u64) {
        let execute = if self.execute { EXECUTE } else { 0 };
        let write = if self.write { !(READ | EXECUTE) } else { 0 };
        let folder = (READ | execute | write) & handled;
        (folder, folder & OF_A_FILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_cannot_hold_a_guest_is_told_apart() {
        assert_eq!(judge(Ok(7)), Ok(0xffff));
        assert_eq!(judge(Ok(3)), Ok(0x7fff));
        assert_eq!(judge(Ok(2)), Err(Error::Old(2)));
        assert_eq!(judge(Err(Errno::NOSYS)), Err(Error::Absent));
        assert_eq!(judge(Err(Errno::OPNOTSUPP)), Err(Error::Off));
    }

    #[test]
    fn no_word_allows_what_another_is_for() {
        let bits = |word: &str| word.parse::<Access>().unwrap().bits(0xffff);
        assert_eq!(bits("r"), (0b1100, 0b0100));
        assert_eq!(bits("rx"), (0b1101, 0b0101));
        assert_eq!(bits("rw").0 | EXECUTE, bits("rwx").0);
        assert_eq!(bits("rwx").0, 0xffff);
        assert!(["", "w", "x", "wx", "xr", "RW"].iter().all(|word| word.parse::<Access>().is_err()));
    }
}
