//! Who has which number of a network. A lease is a link: its name is the number, its target the context's id. Making and
//! removing one is a single step of the file system, so that a killed command leaves either all of it or nothing.
//!
//! Beside the links lies `next`, where the search for a free number goes on: a start looks at one number, not at all.
//! Whether a lease is alive is never stored, but asked of its context; the dead ones are looked for when numbers run out,
//! when one of theirs is asked for, and by `prune`.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::file::{self, Lock};
use crate::network::Definition;
use crate::{Error, Result};

/// The leases of one network.
#[derive(Debug, Clone)]
pub struct Pool {
    folder: PathBuf,
}

impl Pool {
    /// The leases of a network, below the folder of all.
    #[must_use]
    pub fn new(memory: &Path, name: &str) -> Pool {
        Pool { folder: memory.join(name) }
    }

    /// Where they lie, with the files that contexts share.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits for the lock, which all that follows needs.
    ///
    /// # Errors
    ///
    /// The folder cannot be made.
    pub fn lock(&self) -> Result<Lock> {
        file::lock(&self.folder)
    }

    /// Gives a context a number: the one of the address, or the next free one. Where it was a dead context's, that one's
    /// id is given beside. `alive` says whether a context has a lease.
    ///
    /// # Errors
    ///
    /// The address is taken, or all are.
    pub fn take(
        &self,
        lock: &Lock,
        network: &Definition,
        id: &str,
        address: Option<IpAddr>,
        alive: impl Fn(&str, u32) -> bool,
    ) -> Result<(u32, Option<String>)> {
        if let Some(address) = address {
            let lease = network.lease_of(address)?;
            if self.try_take(lease, id)? {
                return Ok((lease, None));
            }
            let holder = self.holder(lease);
            return match holder {
                Some(holder) if alive(&holder, lease) => {
                    Err(Error::Taken { address, holder: format!("the context {holder:?}") })
                }
                _ => Ok((lease, self.take_over(lock, lease, id)?)),
            };
        }
        let range = network.usual();
        let next = fs::read_to_string(self.folder.join("next")).unwrap_or_default().trim().parse();
        let next = next.ok().filter(|next| range.contains(next)).unwrap_or(*range.start());
        let in_turn = || (next..=*range.end()).chain(*range.start()..next);
        for lease in in_turn() {
            if !network.is_gateway(lease) && self.try_take(lease, id)? {
                self.go_on_after(lease)?;
                return Ok((lease, None));
            }
        }
        for lease in in_turn().filter(|lease| !network.is_gateway(*lease)) {
            if !self.holder(lease).is_some_and(|holder| alive(&holder, lease)) {
                let dead = self.take_over(lock, lease, id)?;
                self.go_on_after(lease)?;
                return Ok((lease, dead));
            }
        }
        Err(Error::Exhausted(network.name.clone()))
    }

    /// The number is the context's.
    #[must_use]
    pub fn is_of(&self, _lock: &Lock, lease: u32, id: &str) -> bool {
        self.holder(lease).is_some_and(|holder| holder == id)
    }

    /// Gives a number back, unless it has gone to another context meanwhile. Says whether it was the context's.
    ///
    /// # Errors
    ///
    /// The link cannot be removed.
    pub fn give_back(&self, lock: &Lock, lease: u32, id: &str) -> Result<bool> {
        let own = self.is_of(lock, lease, id);
        if own {
            file::remove(&self.link(lease))?;
        }
        Ok(own)
    }

    /// All leases with their contexts, by number.
    ///
    /// # Errors
    ///
    /// The folder cannot be read.
    pub fn leases(&self, _lock: &Lock) -> Result<Vec<(u32, String)>> {
        let links = self.folder.join("leases");
        let entries = match fs::read_dir(&links) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(Error::file("read", &links))?,
        };
        let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let mut leases: Vec<(u32, String)> =
            numbers.filter_map(|lease| Some((lease, self.holder(lease)?))).collect();
        leases.sort();
        Ok(leases)
    }

    fn link(&self, lease: u32) -> PathBuf {
        self.folder.join("leases").join(lease.to_string())
    }

    fn holder(&self, lease: u32) -> Option<String> {
        fs::read_link(self.link(lease)).ok()?.into_os_string().into_string().ok()
    }

    fn try_take(&self, lease: u32, id: &str) -> Result<bool> {
        let mut made = symlink(id, self.link(lease));
        if made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            let links = self.folder.join("leases");
            fs::create_dir(&links).map_err(Error::file("make", links))?;
            made = symlink(id, self.link(lease));
        }
        match made {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(Error::file("make", self.link(lease))(error)),
        }
    }

    /// From a dead context, whose names go.
    fn take_over(&self, lock: &Lock, lease: u32, id: &str) -> Result<Option<String>> {
        let dead = self.holder(lease);
        if let Some(dead) = &dead {
            self.remove_names(lock, dead)?;
        }
        let temporary = self.folder.join("leases/new");
        file::remove(&temporary)?;
        symlink(id, &temporary).map_err(Error::file("make", &temporary))?;
        fs::rename(&temporary, self.link(lease)).map_err(Error::file("make", self.link(lease)))?;
        Ok(dead)
    }

    /// A number is given again as late as possible: others may still know its MAC address.
    fn go_on_after(&self, lease: u32) -> Result<()> {
        let path = self.folder.join("next");
        fs::write(&path, (lease + 1).to_string()).map_err(Error::file("write", path))
    }
}

#[cfg(test)]
mod tests;
