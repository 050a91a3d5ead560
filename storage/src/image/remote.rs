//! What vctx asks of the program that talks to registries, and a download that goes on where an earlier one broke off.
//!
//! The program is a second one, `vctx-registry`: network and TLS would be pages that every start of `vctx` maps. It gets
//! a [`Job`] as JSON, and works on the store itself.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, Running};
use super::error::Error;
use super::reference::Reference;
use super::spec::Platform;
use super::store::{Partial, Store};
use super::unpack::{Limits, Owners, Unpack};

/// A pull, a push, or a look at signatures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// What to do.
    pub verb: Verb,
    /// Folder of the store.
    pub store: PathBuf,
    /// The image in the store; of a pull as it was written.
    pub image: String,
    /// The complete name in the registry.
    pub name: String,
    /// Which of several platforms.
    pub platform: Platform,
    /// All files of the layers become the caller's.
    pub squash: bool,
    /// The process is root of the host.
    pub privileged: bool,
    /// How much a layer may unpack to, in bytes.
    pub limit: Option<u64>,
    /// File with credentials, before the usual ones.
    pub authfile: Option<PathBuf>,
    /// Folder with certificates of authorities, beside the usual ones.
    pub cert_dir: Option<PathBuf>,
    /// Whom to trust.
    pub transport: Transport,
    /// File with a signature policy, in place of the usual ones.
    pub policy: Option<PathBuf>,
    /// File with a public key by which the image must be signed.
    pub key: Option<PathBuf>,
    /// Show no progress.
    pub quiet: bool,
}

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// From the registry.
    Pull,
    /// To the registry.
    Push,
    /// Only look whether it would be let in.
    Verify,
}

/// How a registry is talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Transport {
    /// TLS; on this machine's own loopback also plain HTTP.
    Usual,
    /// Also plain HTTP, and TLS without a look at the certificate.
    Insecure,
}

impl Job {
    /// How layers are unpacked.
    #[must_use]
    pub fn unpack(&self) -> Unpack {
        let usual = Limits::default();
        Unpack {
            owners: if self.squash { Owners::Caller } else { Owners::Layer },
            privileged: self.privileged,
            limits: Limits { bytes: self.limit.unwrap_or(usual.bytes), ..usual },
        }
    }

    /// The name in the registry.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn reference(&self) -> Result<Reference, Error> {
        Ok(self.name.parse()?)
    }
}

/// A blob that grows.
#[derive(Debug)]
pub struct Download {
    store: Store,
    partial: Partial,
    digest: Digest,
    size: u64,
    /// Bytes that are there.
    pub have: u64,
    /// Of these bytes.
    running: Running,
    /// Some of them were there before.
    pub resumed: bool,
}

impl Store {
    /// Begins or goes on with a blob, alone; nothing where it is there already.
    ///
    /// # Errors
    ///
    /// The store cannot be written.
    pub fn download(&self, digest: &Digest, size: u64) -> Result<Option<Download>, Error> {
        if self.blob(digest).exists() {
            return Ok(None);
        }
        let partial = self.partial(&format!("blob-{}", digest.hex()), false)?;
        // Another process may have finished it while we waited for it.
        if self.blob(digest).exists() {
            return Ok(None);
        }
        let mut running = Running::default();
        let have = digested(&partial.file, &mut running).map_err(Error::file("read", &partial.path))?;
        let (store, digest, resumed) = (self.clone(), digest.clone(), have > 0);
        let mut download = Download { store, partial, digest, size, have, running, resumed };
        if have > size {
            download.restart()?;
        }
        Ok(Some(download))
    }
}

/// Digests what an earlier attempt has left, and gives its length.
fn digested(mut file: &File, running: &mut Running) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut have = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(have),
            count => {
                running.add(&buffer[..count]);
                have += count as u64;
            }
        }
    }
}

impl Download {
    /// Throws away what is there.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn restart(&mut self) -> Result<(), Error> {
        self.partial.file.set_len(0).map_err(Error::file("write", &self.partial.path))?;
        self.have = 0;
        self.running = Running::default();
        Ok(())
    }

    /// Appends what comes, and tells how much has come each time. More than the blob's size is refused.
    ///
    /// # Errors
    ///
    /// The input breaks off, which leaves what has come; or the disk is full.
    pub fn append(&mut self, mut input: impl Read, mut tell: impl FnMut(u64)) -> Result<(), Error> {
        let mut file = &self.partial.file;
        let path = &self.partial.path;
        file.seek(SeekFrom::Start(self.have)).map_err(Error::file("write", path))?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match input.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.have += count as u64;
                    if self.have > self.size {
                        let (expected, found) = (self.size, self.have);
                        self.restart()?;
                        return Err(Error::Size { what: self.digest.to_string(), expected, found });
                    }
                    file.write_all(&buffer[..count]).map_err(Error::file("write", path))?;
                    self.running.add(&buffer[..count]);
                    tell(self.have);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Input { what: self.digest.to_string(), source }),
            }
        }
    }

    /// All of it has come.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.have == self.size
    }

    /// Checks the digest, and puts the blob into the store.
    ///
    /// # Errors
    ///
    /// It is not what it should be; then it is thrown away.
    pub fn finish(mut self) -> Result<(), Error> {
        let found = std::mem::take(&mut self.running).digest();
        if found != self.digest {
            self.restart()?;
            return Err(Error::Digest { expected: self.digest, found });
        }
        let place = self.store.blob(&self.digest);
        self.store.note_unsettled(&self.digest)?;
        self.partial.keep_as(&place)
    }

    /// Leaves what has come for the next attempt, until garbage is collected.
    pub fn pause(self) {
        self.partial.leave();
    }
}
