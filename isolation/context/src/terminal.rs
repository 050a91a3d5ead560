//! The terminal, parent side: the console socket of a caller, or the master for our own supervisor.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::{IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg,
    socket_with, socketpair,
};

/// Why there is no terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's socket cannot be reached.
    #[error("cannot connect to the console socket {}; the caller must listen there before", .0.display())]
    Connect(PathBuf, #[source] io::Error),
    /// No socket pair.
    #[error("cannot make a socket for the terminal")]
    Pair(#[source] io::Error),
    /// The child sent no descriptor.
    #[error("the context sent no terminal")]
    Missing,
}

/// Connects to the console socket of a caller (runc's `--console-socket`).
///
/// # Errors
///
/// Nobody listens at the path.
pub fn connect_console(path: &Path) -> Result<OwnedFd, Error> {
    let fail = |error: rustix::io::Errno| Error::Connect(path.into(), error.into());
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(fail)?;
    // Engines use paths longer than an address holds; through the folder's descriptor the last name is enough.
    match SocketAddrUnix::new(path) {
        Ok(address) => connect(&socket, &address).map_err(fail)?,
        Err(_) => crate::terminal::connect_long(&socket, path).map_err(fail)?,
    }
    Ok(socket)
}

/// Connects or binds at a path of any length, through `/proc/self/fd`.
fn connect_long(socket: &OwnedFd, path: &Path) -> Result<(), rustix::io::Errno> {
    let (_folder, short) = short_path(path)?;
    connect(socket, &SocketAddrUnix::new(&short)?)
}

/// A path below `/proc/self/fd` that is short enough for a socket's address, and the descriptor that it stands on.
///
/// # Errors
///
/// As open(2) of the folder.
pub fn short_path(path: &Path) -> Result<(OwnedFd, PathBuf), rustix::io::Errno> {
    use rustix::fs::{CWD, Mode, OFlags, openat};
    use std::os::fd::AsRawFd;
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(rustix::io::Errno::INVAL)?;
    let folder = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok((folder, short))
}

/// A socket pair for a terminal that our own supervisor serves: (ours, the child's).
///
/// # Errors
///
/// As socketpair(2).
pub fn pair() -> Result<(OwnedFd, OwnedFd), Error> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| Error::Pair(error.into()))
}

/// Receives the master that the child has sent.
///
/// # Errors
///
/// [`Error::Missing`] when the child died before.
pub fn receive(socket: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let mut bytes = [0u8; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        let mut vector = [IoSliceMut::new(&mut bytes)];
        recvmsg(socket.as_fd(), &mut vector, &mut control, RecvFlags::CMSG_CLOEXEC).map(drop)
    })
    .map_err(|_| Error::Missing)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or(Error::Missing)
}

/// Sends bytes and a descriptor.
///
/// # Errors
///
/// As sendmsg(2).
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
