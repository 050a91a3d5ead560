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

    /// Gives a context addresses of the machine. Gives the address that is its loopback, which nobody else has.
    ///
    /// # Errors
    ///
    /// An address is not the machine's, or a living context has it.
    pub fn take(
        &self,
        _lock: &Lock,
        addresses: &[IpAddr],
        id: &str,
        alive: impl Fn(&str) -> bool,
    ) -> Result<Ipv4Addr> {
        let holder = |address: IpAddr| self.holder(address).filter(|holder| holder != id && alive(holder));
        for address in addresses {
            if !is_local(*address) {
                return Err(Error::NotLocal(*address));
            }
            if let Some(holder) = holder(*address) {
                let holder = format!("the context {holder:?}");
                return Err(Error::Taken { address: *address, holder });
            }
        }
        // The upper half of 127.0.0.0/8, away from 127.0.0.1 and its neighbours.
        let last = addresses.first().map_or(0, |address| match address {
            IpAddr::V4(address) => address.to_bits(),
            IpAddr::V6(address) => address.to_bits() as u32,
        });
        let range = || 0x7f80_0001..0x7fff_ffff;
        let first = (0x7f80_0000 | (last & 0x007f_ffff)).clamp(range().start, range().end - 1);
        let loopback = (first..range().end)
            .chain(range().start..first)
            .map(Ipv4Addr::from_bits)
            .find(|other| holder(IpAddr::V4(*other)).is_none());
        let loopback = loopback.ok_or(Error::NoSubnet)?;
        for one in addresses.iter().copied().chain([IpAddr::V4(loopback)]) {
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

    fn link(&self, address: IpAddr) -> PathBuf {
        self.folder.join(address.to_string())
    }

    fn holder(&self, address: IpAddr) -> Option<String> {
        fs::read_link(self.link(address)).ok()?.into_os_string().into_string().ok()
    }
}

/// The machine has the address, and not as one of its loopback, nor is it one of many.
fn is_local(address: IpAddr) -> bool {
    let is_one = !(address.is_loopback() || address.is_unspecified() || address.is_multicast());
    is_one && address != IpAddr::V4(Ipv4Addr::BROADCAST) && UdpSocket::bind((address, 0)).is_ok()
}
