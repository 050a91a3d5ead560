//! criu, which writes a tree of processes to images and makes it again from them: `criu swrk`, over a socket of its own.
//!
//! One process serves one request. It tells of the points that it reaches, and waits at each for an answer; the caller
//! of [`Service::ask`] does there what has to be done just then.

mod process;
mod request;
mod wire;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, ExitStatus};

use rustix::io::IoSliceMut;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, recvmsg, send};

pub use process::{Birth, Place};
pub use request::{Features, Groups, NetworkLock, Options, Work};
pub use wire::{Value, fields};

use request::Response;

/// What can go wrong with criu.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not installed.
    #[error("criu, which dumps and restores processes, is not in PATH; install the package criu")]
    Missing,
    /// It could not be started.
    #[error("cannot start {}", path.display())]
    Start {
        /// Its file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The socket to it failed.
    #[error("cannot talk to criu")]
    Talk(#[source] io::Error),
    /// It ended without an answer.
    #[error("criu ended without an answer ({0})")]
    Died(ExitStatus),
    /// It says that it has failed.
    #[error("criu failed: {words}")]
    Failed {
        /// The first error that it met, or the name of its number.
        words: String,
    },
    /// A file for it could not be made ready.
    #[error("cannot prepare criu")]
    Prepare(#[source] io::Error),
}

/// A point that criu has reached.
#[derive(Debug)]
pub struct Notice {
    /// criu's name for it, such as `post-restore`.
    pub point: String,
    /// The first process, where criu names it; else 0.
    pub pid: i32,
    /// What came along.
    pub descriptor: Option<OwnedFd>,
}

/// A criu that waits for a request.
#[derive(Debug)]
pub struct Service {
    process: Child,
    socket: OwnedFd,
}

impl Service {
    /// Starts criu.
    ///
    /// # Errors
    ///
    /// It is not installed, or could not be placed as asked.
    pub fn start(birth: &Birth<'_>) -> Result<Service, Error> {
        let (process, socket) = process::start(birth)?;
        Ok(Service { process, socket })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.id() as i32
    }

    /// Has a request carried out. `reached` is called at each point; when it says no, criu undoes what it has done.
    ///
    /// # Errors
    ///
    /// [`Error::Failed`] also where `reached` has said no.
    pub fn ask(mut self, request: &[u8], mut reached: impl FnMut(Notice) -> bool) -> Result<(), Error> {
        self.say(request)?;
        let mut dissent = false;
        loop {
            let Some((response, descriptor)) = self.hear()? else {
                // After a `no` it may leave without a word.
                let status = self.process.wait().map_err(Error::Talk)?;
                return Err(if dissent {
                    failed("it was told to stop".into(), 0)
                } else {
                    Error::Died(status)
                });
            };
            if !response.is_notice() {
                drop(self.socket);
                let _ = self.process.wait();
                return match response.success && !dissent {
                    true => Ok(()),
                    false => Err(failed(response.words, response.errno)),
                };
            }
            let (point, pid) = response.notice.unwrap_or_default();
            // Once something has failed, nothing more is begun.
            dissent = dissent || !reached(Notice { point, pid, descriptor });
            self.say(&request::acknowledgement(!dissent))?;
        }
    }

    /// Asks what the kernel gives.
    ///
    /// # Errors
    ///
    /// criu is missing or broken.
    pub fn features() -> Result<Features, Error> {
        let mut service = Service::start(&Birth::default())?;
        service.say(&request::feature_request())?;
        let heard = service.hear()?;
        drop(service.socket);
        let status = service.process.wait().map_err(Error::Talk)?;
        heard.map(|(response, _)| response.features).ok_or(Error::Died(status))
    }

    fn say(&self, bytes: &[u8]) -> Result<(), Error> {
        match rustix::io::retry_on_intr(|| send(&self.socket, bytes, SendFlags::NOSIGNAL)) {
            // It has ended; that is heard next.
            Ok(_) | Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Ok(()),
            Err(error) => Err(Error::Talk(error.into())),
        }
    }

    /// The next message; none when criu has ended.
    fn hear(&self) -> Result<Option<(Response, Option<OwnedFd>)>, Error> {
        let mut bytes = vec![0u8; 64 << 10];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let mut vector = [IoSliceMut::new(&mut bytes)];
            recvmsg(self.socket.as_fd(), &mut vector, &mut control, RecvFlags::CMSG_CLOEXEC)
                .map(|message| message.bytes)
        });
        let length = match received {
            Ok(0) | Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Ok(length) => length,
            Err(error) => return Err(Error::Talk(error.into())),
        };
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let unreadable = || Error::Talk(io::ErrorKind::InvalidData.into());
        Response::read(&bytes[..length]).map(|response| Some((response, descriptor))).ok_or_else(unreadable)
    }
}

fn failed(words: String, errno: i32) -> Error {
    let number = || match errno {
        0 => "it does not say why".to_owned(),
        errno => io::Error::from_raw_os_error(errno).to_string(),
    };
    let words = words.trim().to_owned();
    Error::Failed { words: if words.is_empty() { number() } else { words } }
}
