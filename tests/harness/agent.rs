//! A seccomp agent: takes listeners from the runtime, and answers what they notify of.

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::Value;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Answers that making a folder is out of space, and lets all other calls go on.
pub struct Agent {
    pub path: PathBuf,
    states: Receiver<Value>,
}

impl Agent {
    /// Listens; each listener that comes is served by a thread, which ends with the last process of the filter.
    pub fn new(id: &str) -> Agent {
        let path = super::rootfs::workspace().join(format!("{id}.agent"));
        let listener = UnixListener::bind(&path).unwrap();
        let (sender, states) = channel();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let Some((state, notices)) = receive(&stream) else { continue };
                if sender.send(state).is_err() {
                    break;
                }
                std::thread::spawn(move || while answer(&notices) {});
            }
        });
        Agent { path, states }
    }

    /// The container process state that came with a listener.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.states.recv_timeout(Duration::from_secs(10)).expect("a listener and its state")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn receive(stream: &UnixStream) -> Option<(Value, OwnedFd)> {
    let mut bytes = [0; 65536];
    let mut space = cmsg_space!([i32; 1]);
    let (length, descriptor) = {
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut buffers, Some(&mut space), flags).ok()?;
        let descriptor = message.cmsgs().ok()?.find_map(|message| match message {
            ControlMessageOwned::ScmRights(all) => all.first().copied(),
            _ => None,
        });
        (message.bytes, descriptor?)
    };
    // SAFETY: recvmsg has just made this descriptor for us, and nothing else refers to it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    Some((serde_json::from_slice(&bytes[..length]).ok()?, descriptor))
}

/// `struct seccomp_notif` of seccomp_unotify(2).
#[repr(C)]
#[derive(Default)]
struct Notice {
    id: u64,
    pid: u32,
    flags: u32,
    call: i32,
    architecture: u32,
    instruction: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// Serves one notice; false when there will be no more.
fn answer(notices: &OwnedFd) -> bool {
    const RECEIVE: u64 = 0xc050_2100;
    const SEND: u64 = 0xc018_2101;
    const GO_ON: u32 = 1;
    let mut notice = Notice::default();
    // SAFETY: the request number holds the size of the struct, which is live and zeroed, as the kernel asks for.
    if unsafe { libc::ioctl(notices.as_raw_fd(), RECEIVE as _, &raw mut notice) } < 0 {
        return std::io::Error::last_os_error().raw_os_error() == Some(libc::EINTR);
    }
    let makes_a_folder = [libc::SYS_mkdirat as i32, MKDIR].contains(&notice.call);
    let (error, flags) = if makes_a_folder { (-libc::ENOSPC, 0) } else { (0, GO_ON) };
    let answer = Answer { id: notice.id, value: 0, error, flags };
    // SAFETY: as above. A process that has gone in between makes it fail, which is no matter.
    unsafe { libc::ioctl(notices.as_raw_fd(), SEND as _, &raw const answer) };
    true
}

#[cfg(target_arch = "x86_64")]
const MKDIR: i32 = libc::SYS_mkdir as i32;
/// Newer architectures have mkdirat(2) alone.
#[cfg(not(target_arch = "x86_64"))]
const MKDIR: i32 = libc::SYS_mkdirat as i32;
