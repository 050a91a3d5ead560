//! Addresses of the machine that contexts without a network namespace are held to, and who has which. A claim is a link,
//! as a lease is: its name is the address, its target the context's id.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::file::{self, Lock};
use crate::{Error, Result};

/// The addresses and who has them.
#[derive(Debug, Clone)]
pub struct Claims {
    folder: PathBuf,
}

impl Claims {
    /// Below the folder of all networks.
    #[must_use]
    pub fn new(memory: &Path) -> Claims {
        Claims { folder: memory.join(".shared") }
    }

    /// Waits for the lock, which all that follows needs.
    ///
    /// # Errors
    ///
    /// The folder cannot be made.
    pub fn lock(&self) -> Result<Lock> {
        file::lock(&self.folder)
    }

    /// Gives a context an address of the machine. Gives the address that is its loopback, which nobody else has.
    ///
    /// # Errors
    ///
    /// The address is not the machine's, or a living context has it.
    pub fn take(
        &self,
        _lock: &Lock,
        address: Ipv4Addr,
        id: &str,
        alive: impl Fn(&str) -> bool,
    ) -> Result<Ipv4Addr> {
        if address.is_loopback() || address.is_unspecified() || UdpSocket::bind((address, 0)).is_err() {
            return Err(Error::NotLocal(address));
        }
        let holder = |address: Ipv4Addr| self.holder(address).filter(|holder| holder != id && alive(holder));
        if let Some(holder) = holder(address) {
            let holder = format!("the context {holder:?}");
            return Err(Error::Taken { address: IpAddr::V4(address), holder });
        }
        // The upper half of 127.0.0.0/8, away from 127.0.0.1 and its neighbours.
        let first = 0x7f80_0000 | (address.to_bits() & 0x007f_ffff);
        let loopback = (first..0x7fff_ffff).map(Ipv4Addr::from_bits).find(|other| holder(*other).is_none());
        let loopback = loopback.ok_or(Error::NoSubnet)?;
        for one in [address, loopback] {
            let link = self.link(one);
            file::remove(&link)?;
            symlink(id, &link).map_err(Error::file("make", link))?;
        }
        Ok(loopback)
    }

    /// Gives back what is still the context's.
    ///
    /// # Errors
    ///
    /// A link cannot be removed.
    pub fn give_back(&self, _lock: &Lock, id: &str) -> Result<()> {
        let entries = fs::read_dir(&self.folder).map_err(Error::file("read", &self.folder))?;
        for entry in entries.flatten() {
            if fs::read_link(entry.path()).is_ok_and(|holder| holder == Path::new(id)) {
                file::remove(&entry.path())?;
            }
        }
        Ok(())
    }

    fn link(&self, address: Ipv4Addr) -> PathBuf {
        self.folder.join(address.to_string())
    }

    fn holder(&self, address: Ipv4Addr) -> Option<String> {
        fs::read_link(self.link(address)).ok()?.into_os_string().into_string().ok()
    }
}
