//! Terminals: the console socket of the OCI commands, and a terminal of our own for the engines' `-t`.

use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// The listening end of a console socket.
pub struct ConsoleSocket {
    pub path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Unix socket names are short (108 bytes), so the socket lies in the workspace.
    pub fn new(id: &str) -> ConsoleSocket {
        let path = super::rootfs::workspace().join(format!("{id}.sock"));
        let listener = UnixListener::bind(&path).unwrap();
        ConsoleSocket { path, listener }
    }

    /// Receives the terminal's master end from the runtime, which has connected by the time it returns.
    #[track_caller]
    pub fn receive(self) -> Terminal {
        Terminal { master: File::from(self.descriptor()), seen: String::new() }
    }

    /// Receives whatever descriptor comes.
    #[track_caller]
    pub fn descriptor(&self) -> OwnedFd {
        readable(&self.listener, Duration::from_secs(10), "the runtime to send the terminal");
        let (stream, _) = self.listener.accept().unwrap();
        let mut byte = [0; 4096];
        let mut space = cmsg_space!([i32; 1]);
        let mut buffers = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut buffers, Some(&mut space), flags).unwrap();
        let fd = message.cmsgs().unwrap().find_map(|message| match message {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        });
        let fd = fd.expect("a descriptor on the socket");
        // SAFETY: recvmsg has just made this descriptor for us, and nothing else refers to it.
        unsafe { OwnedFd::from_raw_fd(fd) }
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The master end of a terminal, with what was read from it.
pub struct Terminal {
    master: File,
    pub seen: String,
}

impl Terminal {
    /// Starts `command` on a new terminal of 24 lines and 80 columns.
    pub fn spawn(command: &mut Command) -> (Child, Terminal) {
        let pair = openpty(None, None).unwrap();
        let slave = File::from(pair.slave);
        command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let child = command.spawn().unwrap();
        // The command keeps the slave's descriptors; without this the end of the child would not be seen.
        command.stdin(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let terminal = Terminal { master: File::from(pair.master), seen: String::new() };
        terminal.resize(24, 80);
        (child, terminal)
    }

    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
        let result = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        assert_eq!(result, 0);
    }

    /// Reads until `text` was printed.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(20) * super::slowness();
        while !self.seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(self.read(left), "{text:?} does not come; seen: {:?}", self.seen);
        }
    }

    fn read(&mut self, bound: Duration) -> bool {
        if !wait_readable(&self.master, bound) {
            return false;
        }
        let mut buffer = [0; 4096];
        // EIO is how a terminal says that its other side is closed.
        let count = self.master.read(&mut buffer).unwrap_or(0);
        self.seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        count > 0
    }
}

fn wait_readable(fd: &impl AsFd, bound: Duration) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::try_from(bound).unwrap()).unwrap() > 0
}

#[track_caller]
fn readable(fd: &impl AsFd, bound: Duration, what: &str) {
    assert!(wait_readable(fd, bound * super::slowness()), "waited {bound:?} for {what}");
}
