//! Runs one program with captured output and a bound on its time.
//!
//! Output goes to files, not pipes: a detached context inherits it, and the end of a pipe would come with the
//! context's end, not with the program's.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Two cores are shared with other work; a healthy call takes milliseconds.
pub const BOUND: Duration = Duration::from_secs(60);

/// What a finished program left: its exit code (128+n after a signal) and its output so far.
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    /// Still written to by a context that was created with this output.
    pub log: File,
}

impl Output {
    /// Insists on exit code 0, and passes the output on.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.exits(0)
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Output {
        assert!(
            self.code == code,
            "exit code {} instead of {code}\nstdout: {}\nstderr: {}",
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Insists on a refusal: a non-zero code, and a word about it on stderr.
    #[track_caller]
    pub fn refused(self) -> Output {
        assert!(self.code != 0, "it was accepted\nstdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(!self.stderr.trim().is_empty(), "exit code {} without a message", self.code);
        self
    }

    /// Insists on a refusal that says one of `words` (in lower case), whatever the case it is said in.
    #[track_caller]
    pub fn refused_with(self, words: &[&str]) -> Output {
        let output = self.refused();
        let text = output.stderr.to_lowercase();
        assert!(words.iter().any(|word| text.contains(word)), "none of {words:?} in: {}", output.stderr);
        output
    }

    pub fn line(&self) -> &str {
        self.stdout.trim()
    }
}

/// Runs `command` to its end with nothing on stdin.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    run_with(command, b"", BOUND)
}

/// Runs `command` to its end with `input` on stdin; it is killed, and the case fails, after `bound`.
#[track_caller]
pub fn run_with(command: &mut Command, input: &[u8], bound: Duration) -> Output {
    let (output, ended) = attempt(command, input, bound);
    assert!(
        ended,
        "{command:?} was killed after {bound:?}\nstdout: {}\nstderr: {}",
        output.stdout, output.stderr
    );
    output
}

/// Runs `command` for clearing up: whatever comes of it, nothing panics on its account.
pub fn quietly(command: &mut Command) -> Output {
    attempt(command, b"", BOUND).0
}

/// Starts `command`. A program that an attack has open for writing cannot be executed for that moment.
#[track_caller]
fn spawn(command: &mut Command) -> Child {
    for _ in 0..1000 {
        match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            result => return result.unwrap_or_else(|error| panic!("{command:?}: {error}")),
        }
    }
    panic!("{command:?} is kept busy");
}

/// Runs `command`, and says whether it ended within `bound`; else it was killed.
#[track_caller]
pub fn attempt(command: &mut Command, input: &[u8], bound: Duration) -> (Output, bool) {
    let out = tempfile::tempfile().unwrap();
    let err = tempfile::tempfile().unwrap();
    command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
    if input.is_empty() {
        command.stdin(Stdio::null());
    } else {
        let mut stdin = tempfile::tempfile().unwrap();
        stdin.write_all(input).unwrap();
        stdin.seek(SeekFrom::Start(0)).unwrap();
        command.stdin(stdin);
    }
    let mut child = spawn(command);
    let ended = wait_for_exit(child.id(), bound);
    if !ended {
        child.kill().unwrap();
    }
    let code = exit_code(&mut child);
    (Output { code, stdout: text(&out), stderr: text(&err), log: out }, ended)
}

pub fn exit_code(child: &mut Child) -> i32 {
    let status = child.wait().unwrap();
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

/// Everything that was written to `file` so far. Its offset, which the writers share, stays where it is.
pub fn text(file: &File) -> String {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    let count = file.read_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes[..count]).into_owned()
}

/// Waits for the process to end, on its pidfd; false when `bound` (of a machine of usual speed) ran out. A process that is gone has ended.
pub fn wait_for_exit(pid: u32, bound: Duration) -> bool {
    // SAFETY: pidfd_open reads two integers, and a non-negative result is a new descriptor that nobody else owns.
    let pidfd = unsafe {
        match libc::syscall(libc::SYS_pidfd_open, pid, 0) {
            fd if fd < 0 => return true,
            fd => OwnedFd::from_raw_fd(fd as i32),
        }
    };
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(bound * super::slowness()).unwrap_or(PollTimeout::MAX);
    poll(&mut fds, timeout).unwrap() > 0
}
