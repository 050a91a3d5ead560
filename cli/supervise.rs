//! The foreground: passes signals on, serves the terminal, reaps what the guest leaves, and ends as the guest does.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{read, write};
use vctx_context::spawn::{Child, send_signal};
use vctx_context::terminal;

use crate::error::Error;
use crate::exit::ExitCode;

/// The signals of this process, taken before the guest exists, so that none is lost.
pub(crate) struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Blocks all signals that can be, and gives them as a descriptor.
    pub(crate) fn take() -> Result<Signals, Error> {
        let mut set = SigSet::all();
        // Those of a fault, and those by which a shell stops and continues us.
        for own in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
        ] {
            set.remove(own);
        }
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None).map_err(wait_error)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Signals { descriptor: SignalFd::with_flags(&set, flags).map_err(wait_error)? })
    }
}

/// Waits for one process.
pub(crate) struct Supervisor {
    signals: Signals,
    child: Child,
    /// Where the guest's terminal arrives.
    socket: Option<OwnedFd>,
    terminal: Option<Terminal>,
}

impl Supervisor {
    /// With `socket`, the guest's terminal arrives there and is joined to ours.
    pub(crate) fn new(signals: Signals, child: Child, socket: Option<OwnedFd>) -> Supervisor {
        Supervisor { signals, child, socket, terminal: None }
    }

    /// Serves until the process has ended, and gives its exit code: 128+n for a signal. A process that cannot be served
    /// is ended: nobody would know of it.
    pub(crate) fn run(mut self) -> Result<ExitCode, Error> {
        let served = self.take_terminal().and_then(|()| self.serve());
        let code = served.inspect_err(|_| drop(send_signal(self.child.pidfd.as_fd(), libc::SIGKILL)))?;
        if let Some(terminal) = &mut self.terminal {
            terminal.drain();
        }
        Ok(ExitCode::from(code))
    }

    fn take_terminal(&mut self) -> Result<(), Error> {
        if let Some(socket) = self.socket.take() {
            let master = terminal::receive(socket.as_fd()).map_err(vctx_runtime::Error::from)?;
            self.terminal = Some(Terminal::new(master)?);
        }
        Ok(())
    }

    fn serve(&mut self) -> Result<u8, Error> {
        loop {
            let mut watched = vec![
                PollFd::new(self.signals.descriptor.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.child.pidfd.as_fd(), PollFlags::POLLIN),
            ];
            if let Some(terminal) = &self.terminal {
                watched.extend(terminal.watched());
            }
            match poll(&mut watched, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                result => result.map_err(wait_error)?,
            };
            let ready: Vec<PollFlags> =
                watched.iter().map(|one| one.revents().unwrap_or(PollFlags::empty())).collect();
            if let Some(terminal) = &mut self.terminal {
                terminal.serve(&ready[2..]);
            }
            if !ready[0].is_empty() {
                self.pass_signals()?;
            }
            if let Some(code) = self.reap()? {
                return Ok(code);
            }
        }
    }

    /// Passes signals on to the guest. A terminal's own arrive as characters.
    fn pass_signals(&mut self) -> Result<(), Error> {
        loop {
            let info = match self.signals.descriptor.read_signal() {
                Ok(Some(info)) => info,
                Ok(None) => break,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(wait_error(error)),
            };
            let signal = info.ssi_signo as i32;
            match Signal::try_from(signal) {
                Ok(Signal::SIGCHLD) => {}
                Ok(Signal::SIGWINCH) if self.terminal.is_some() => {
                    if let Some(terminal) = &self.terminal {
                        terminal.resize();
                    }
                }
                // The guest may have ended meanwhile; that is noticed next.
                _ => drop(send_signal(self.child.pidfd.as_fd(), signal)),
            }
        }
        Ok(())
    }

    /// Reaps the guest and the orphans that a subreaper gets.
    fn reap(&mut self) -> Result<Option<u8>, Error> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == self.child.pid => {
                    return Ok(Some(code as u8));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid.as_raw() == self.child.pid => {
                    return Ok(Some(128 + signal as u8));
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(wait_error(error)),
            }
        }
    }
}

/// The guest's terminal joined to ours.
struct Terminal {
    master: OwnedFd,
    /// Ours as it was, to be put back.
    before: Option<Termios>,
    to_guest: Vec<u8>,
    input_open: bool,
    output_open: bool,
}

impl Terminal {
    fn new(master: OwnedFd) -> Result<Terminal, Error> {
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(wait_error)?;
        let mut terminal =
            Terminal { master, before: None, to_guest: Vec::new(), input_open: true, output_open: true };
        if let Ok(before) = tcgetattr(stdin()) {
            let mut raw = before.clone();
            cfmakeraw(&mut raw);
            tcsetattr(stdin(), SetArg::TCSANOW, &raw).map_err(wait_error)?;
            terminal.before = Some(before);
        }
        terminal.resize();
        Ok(terminal)
    }

    /// Gives the guest's terminal the size of ours, if ours is one.
    fn resize(&self) {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the kernel writes one `winsize`, which is live here; a file that is no terminal gives ENOTTY.
        if unsafe { libc::ioctl(libc::STDIN_FILENO, libc::TIOCGWINSZ, &raw mut size) } == 0 {
            // SAFETY: the kernel reads the `winsize` that the call before has filled, and the master is ours and open.
            unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        }
    }

    fn watched(&self) -> [PollFd<'_>; 2] {
        let mut master = PollFlags::empty();
        if self.output_open {
            master |= PollFlags::POLLIN;
        }
        if !self.to_guest.is_empty() {
            master |= PollFlags::POLLOUT;
        }
        // Not read ahead of what the guest takes: memory stays bounded.
        let input =
            if self.input_open && self.to_guest.is_empty() { PollFlags::POLLIN } else { PollFlags::empty() };
        [PollFd::new(self.master.as_fd(), master), PollFd::new(stdin(), input)]
    }

    fn serve(&mut self, ready: &[PollFlags]) {
        if ready[0].intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR)
            && self.output_open
        {
            self.output();
        }
        if ready[1].intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR)
            && self.input_open
            && self.to_guest.is_empty()
        {
            self.input();
        }
        if !self.to_guest.is_empty() {
            match write(&self.master, &self.to_guest) {
                Ok(count) => drop(self.to_guest.drain(..count)),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => self.to_guest.clear(),
            }
        }
    }

    /// One block from the guest to our standard output. False when there was none.
    fn output(&mut self) -> bool {
        let mut block = [0u8; 8192];
        match read(&self.master, &mut block) {
            Ok(count @ 1..) => {
                use std::io::Write;
                let mut stdout = io::stdout().lock();
                let _ = stdout.write_all(&block[..count]).and_then(|()| stdout.flush());
                true
            }
            Err(Errno::EAGAIN | Errno::EINTR) => false,
            // EIO: the last process that had the slave open is gone.
            _ => {
                self.output_open = false;
                false
            }
        }
    }

    fn input(&mut self) {
        let mut block = [0u8; 4096];
        match read(stdin(), &mut block) {
            Ok(count @ 1..) => self.to_guest.extend_from_slice(&block[..count]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // The end of our input is the end of the guest's: the character that a terminal has for it.
            _ => {
                self.input_open = false;
                self.to_guest.push(4);
            }
        }
    }

    /// What the guest wrote before it ended.
    fn drain(&mut self) {
        while self.output_open && self.output() {}
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, before);
        }
    }
}

fn stdin() -> BorrowedFd<'static> {
    // SAFETY: descriptor 0 is never closed or owned by this program.
    unsafe { BorrowedFd::borrow_raw(libc::STDIN_FILENO) }
}

fn wait_error(error: Errno) -> Error {
    Error::Wait(error.into())
}

/// Makes this process the parent of the guest's orphans (PR_SET_CHILD_SUBREAPER).
pub(crate) fn become_subreaper() -> Result<(), Error> {
    nix::sys::prctl::set_child_subreaper(true).map_err(wait_error)
}
