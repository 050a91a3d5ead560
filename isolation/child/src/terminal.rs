//! The guest's terminal: a pseudo-terminal of the context's own devpts, so that its name is right inside.
//!
//! The slave is taken from the master's descriptor (TIOCGPTPEER) and never opened by a path that the image could have
//! turned into a link (CVE-2025-52565). A new session keeps TIOCSTI away from the caller's terminal (CVE-2017-5226).

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, OFlags, fchown, fstat};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::Result;
use crate::failure::At;
use crate::handshake::{Step, send_descriptor};
use crate::plan::Console;
use crate::resolve;
use crate::root::{attach_at, clone_tree};
use crate::sys::dup_onto;

/// Number of the pseudo-terminal multiplexer, 5:2.
const PTMX: u64 = 0x502;

/// Makes the terminal in the root at `root`, and gives the slave.
pub(crate) fn open(root: BorrowedFd<'_>, console: &Console<'_>, user: u32) -> Result<OwnedFd> {
    let (master, slave) = pair(root, console).or_at(Step::Terminal)?;
    // The guest's user must be able to open its own terminal again; a user namespace may not map the group.
    let _ = fchown(&slave, Some(Uid::from_raw(user)), None::<Gid>);
    send_descriptor(console.socket, b"/dev/ptmx", &master).or_at(Step::TerminalSend)?;
    Ok(slave)
}

fn pair(root: BorrowedFd<'_>, console: &Console<'_>) -> core::result::Result<(OwnedFd, OwnedFd), Errno> {
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = match resolve::open_without_links(root, c"dev/pts/ptmx", flags) {
        Err(Errno::NOENT) => resolve::open_without_links(root, c"dev/ptmx", flags)?,
        result => result?,
    };
    let stat = fstat(&master)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != PTMX {
        return Err(Errno::NODEV);
    }
    unlockpt(&master)?;
    if let Some((rows, columns)) = console.size {
        tcsetwinsize(&master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    }
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((master, slave))
}

/// Mounts the slave on `/dev/console`, from its descriptor.
pub(crate) fn mount_console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<()> {
    let attach = || {
        let tree = clone_tree(slave, c"", false)?;
        attach_at(tree, resolve::ensure_file(root, c"dev/console")?)
    };
    attach().or_at(Step::ConsoleMount)
}

/// Begins a session whose terminal is the slave, and makes it standard input, output and error.
pub(crate) fn adopt(slave: OwnedFd) -> Result<()> {
    setsid().or_at(Step::Session)?;
    ioctl_tiocsctty(&slave).or_at(Step::Terminal)?;
    for standard in 0..3 {
        dup_onto(slave.as_fd(), standard).or_at(Step::Terminal)?;
    }
    Ok(())
}
