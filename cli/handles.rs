//! What a caller hands over and gets back: sockets and descriptors.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use vctx_context::spawn::Child;
use vctx_context::terminal;

use crate::error::Error;

/// The number of descriptors that the guest gets beside the standard ones: those of socket activation
/// (sd_listen_fds(3)) come first.
pub(crate) fn preserve(asked: u32) -> Result<u32, Error> {
    let first = 3;
    let listen = std::env::var("LISTEN_FDS").ok().and_then(|number| number.parse::<u32>().ok());
    let promised = first..asked.min(MOST).saturating_add(first);
    match promised.into_iter().find(|descriptor| !vctx_context::child::sys::is_inherited(*descriptor as i32))
    {
        Some(descriptor) => Err(Error::NotInherited { asked, descriptor }),
        None => Ok(asked.saturating_add(listen.unwrap_or(0)).min(MOST)),
    }
}

/// More descriptors than this are not handed on.
const MOST: u32 = 1024;

/// Sends a process's pidfd to the caller.
pub(crate) fn send_pidfd(path: Option<&Path>, child: &Child) -> Result<(), Error> {
    let Some(path) = path else { return Ok(()) };
    let fail = |source: io::Error| Error::PidfdSocket { path: path.to_owned(), source };
    let socket = terminal::connect_console(path).map_err(vctx_runtime::Error::from)?;
    terminal::send(socket.as_fd(), b"pidfd", child.pidfd.as_fd()).map_err(fail)
}
