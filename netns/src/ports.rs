//! Published ports: connections to the machine that go on to a context.
//!
//! Who has which port of the machine is a link, as a lease is: its name is the port, its target the context's id. The
//! redirection itself is an element of a map of the network's table (`rules`).

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::file::{self, Lock};
use crate::{Error, Result};

/// The most ports that one option can name.
const MOST: u16 = 4096;

/// What carries the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "named as in IP")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A range of ports of the machine that lead to as many of a context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The machine's address; all of them when absent.
    pub address: Option<IpAddr>,
    /// First port of the machine.
    pub host: u16,
    /// First port of the context.
    pub guest: u16,
    /// How many.
    pub count: u16,
    /// What carries the data.
    pub protocol: Protocol,
}

/// The text names no ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected [ADDRESS:]PORT:PORT[/udp], such as 8080:80, 127.0.0.1:53:53/udp, [::1]:80:80 or 9000-9009:9000-9009"
)]
pub struct NoPorts;

/// The ports of a machine and who has them.
#[derive(Debug, Clone)]
pub struct Ports {
    folder: PathBuf,
}

impl Ports {
    /// Below the folder of all networks.
    #[must_use]
    pub fn new(memory: &Path) -> Ports {
        Ports { folder: memory.join(".ports") }
    }

    /// Waits for the lock, which all that follows needs.
    ///
    /// # Errors
    ///
    /// The folder cannot be made.
    pub fn lock(&self) -> Result<Lock> {
        file::lock(&self.folder)
    }

    /// Takes ports for a context; those of the dead are taken over, and then true is given: their redirections are to be
    /// withdrawn. What was taken before a failure goes with [`give_back`](Ports::give_back). `alive` says whether a
    /// context is.
    ///
    /// # Errors
    ///
    /// A context or a program of the machine has one of them.
    pub fn take(
        &self,
        _lock: &Lock,
        publish: &Publish,
        id: &str,
        alive: impl Fn(&str) -> bool,
    ) -> Result<bool> {
        let others = self.all()?;
        let mut dead = false;
        for (port, _) in publish.pairs() {
            let taken = |holder: String| Error::Port { port: publish.name(port), holder };
            let beside = |name: &str| publish.collides(port, name);
            if let Some((_, holder)) = others.iter().find(|(name, holder)| beside(name) && alive(holder)) {
                return Err(taken(format!("the context {holder:?}")));
            }
            if publish.is_bound(port) {
                return Err(taken("a program of this machine".into()));
            }
            dead |= others.iter().any(|(name, _)| beside(name));
            let link = self.folder.join(publish.link(port));
            file::remove(&link)?;
            symlink(id, &link).map_err(Error::file("make", link))?;
        }
        Ok(dead)
    }

    /// Takes the ports of the dead away. Gives them with who had them; their redirections are to be withdrawn.
    ///
    /// # Errors
    ///
    /// A link cannot be removed.
    pub fn clear(&self, _lock: &Lock, alive: impl Fn(&str) -> bool) -> Result<Vec<(Publish, String)>> {
        let mut cleared = Vec::new();
        for (name, holder) in self.all()? {
            if !alive(&holder) {
                file::remove(&self.folder.join(&name))?;
                cleared.extend(Publish::of_link(&name).map(|publish| (publish, holder)));
            }
        }
        Ok(cleared)
    }

    /// Gives ports back that are still the context's. Gives those that were.
    ///
    /// # Errors
    ///
    /// A link cannot be removed.
    pub fn give_back(&self, _lock: &Lock, publish: &Publish, id: &str) -> Result<Vec<u16>> {
        let mut given = Vec::new();
        for (port, _) in publish.pairs() {
            let link = self.folder.join(publish.link(port));
            if fs::read_link(&link).is_ok_and(|holder| holder == Path::new(id)) {
                file::remove(&link)?;
                given.push(port);
            }
        }
        Ok(given)
    }

    fn all(&self) -> Result<Vec<(String, String)>> {
        let entries = fs::read_dir(&self.folder).map_err(Error::file("read", &self.folder))?;
        let one = |entry: fs::DirEntry| {
            let holder = fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok()?;
            Some((entry.file_name().into_string().ok()?, holder))
        };
        Ok(entries.filter_map(|entry| one(entry.ok()?)).collect())
    }
}

impl Publish {
    /// Each port of the machine with the one of the context.
    pub fn pairs(&self) -> impl Iterator<Item = (u16, u16)> + '_ {
        (0..self.count).map(|offset| (self.host + offset, self.guest + offset))
    }

    /// `tcp` or `udp`.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        }
    }

    fn link(&self, port: u16) -> String {
        let address = self.address.map_or("any".into(), |address| address.to_string());
        format!("{}-{port}-{address}", self.protocol())
    }

    fn of_link(link: &str) -> Option<Publish> {
        let mut parts = link.splitn(3, '-');
        let (protocol, host, address) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
        let address = if address == "any" { None } else { Some(address.parse().ok()?) };
        let protocol = if protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
        Some(Publish { address, host, guest: host, count: 1, protocol })
    }

    /// For a message.
    fn name(&self, port: u16) -> String {
        let address = self.address.map_or(String::new(), |address| format!(" of {address}"));
        format!("{}/{port}{address}", self.protocol())
    }

    /// The link is of the same port: of the same address, or of all on one of the sides.
    fn collides(&self, port: u16, link: &str) -> bool {
        let same_port = format!("{}-{port}-", self.protocol());
        let Some(address) = link.strip_prefix(&same_port) else { return false };
        address == "any" || self.address.is_none_or(|own| own.to_string() == address)
    }

    /// A program of the machine listens there.
    fn is_bound(&self, port: u16) -> bool {
        let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let addresses = self.address.map_or(all.to_vec(), |address| vec![address]);
        let in_use =
            |result: io::Result<()>| result.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
        addresses.into_iter().any(|address| {
            in_use(match self.protocol {
                Protocol::Tcp => TcpListener::bind((address, port)).map(drop),
                Protocol::Udp => UdpSocket::bind((address, port)).map(drop),
            })
        })
    }
}

impl FromStr for Publish {
    type Err = NoPorts;

    fn from_str(text: &str) -> std::result::Result<Publish, NoPorts> {
        let (text, protocol) = match text.split_once('/') {
            None => (text, Protocol::Tcp),
            Some((text, "tcp")) => (text, Protocol::Tcp),
            Some((text, "udp")) => (text, Protocol::Udp),
            _ => return Err(NoPorts),
        };
        let (rest, guest) = text.rsplit_once(':').ok_or(NoPorts)?;
        let (address, host) = match rest.rsplit_once(':') {
            None => (None, rest),
            Some((address, host)) => {
                let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let address: IpAddr = inner.unwrap_or(address).parse().map_err(|_| NoPorts)?;
                if address.is_ipv6() != inner.is_some() {
                    return Err(NoPorts);
                }
                ((!address.is_unspecified()).then_some(address), host)
            }
        };
        let ((host, last), (guest, guest_last)) = (range(host)?, range(guest)?);
        match (last - host, guest_last - guest) {
            (one, other) if one == other && one < MOST => {
                Ok(Publish { address, host, guest, count: one + 1, protocol })
            }
            _ => Err(NoPorts),
        }
    }
}

fn range(text: &str) -> std::result::Result<(u16, u16), NoPorts> {
    let port = |text: &str| text.parse().ok().filter(|port| *port > 0).ok_or(NoPorts);
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first <= last { Ok((first, last)) } else { Err(NoPorts) }
}

impl fmt::Display for Publish {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(IpAddr::V6(address)) => write!(formatter, "[{address}]:")?,
            Some(address) => write!(formatter, "{address}:")?,
            None => {}
        }
        let range = |first: u16| match self.count {
            1 => first.to_string(),
            count => format!("{first}-{}", first + (count - 1)),
        };
        write!(formatter, "{}:{}/{}", range(self.host), range(self.guest), self.protocol())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_and_written() {
        for (text, written) in [
            ("8080:80", "8080:80/tcp"),
            ("127.0.0.1:53:53/udp", "127.0.0.1:53:53/udp"),
            ("[::1]:80:8080/tcp", "[::1]:80:8080/tcp"),
            ("0.0.0.0:80:80", "80:80/tcp"),
            ("9000-9009:1000-1009", "9000-9009:1000-1009/tcp"),
        ] {
            assert_eq!(text.parse::<Publish>().unwrap().to_string(), written);
        }
        for text in [
            "",
            "80",
            ":80",
            "80:",
            "0:80",
            "80:0",
            "65536:80",
            "1-2:1",
            "2-1:2-1",
            "80:80/sctp",
            "x:80:80",
            "::1:80:80",
            "1-5000:1-5000",
        ] {
            assert_eq!(text.parse::<Publish>(), Err(NoPorts), "{text}");
        }
    }

    #[test]
    fn a_port_has_one_holder() {
        let folder = tempfile::TempDir::new().unwrap();
        let ports = Ports::new(folder.path());
        let lock = ports.lock().unwrap();
        let take =
            |text: &str, id: &str| ports.take(&lock, &text.parse().unwrap(), id, |holder| holder != "dead");
        take("127.0.0.1:47811:80", "a").unwrap();
        take("127.0.0.1:47811:80/udp", "b").unwrap();
        assert!(matches!(take("47811:81", "b"), Err(Error::Port { holder, .. }) if holder.contains("\"a\"")));
        assert!(matches!(take("47810-47812:1-3", "b"), Err(Error::Port { .. })));
        assert!(!take("47820:1", "dead").unwrap());
        assert!(take("127.0.0.1:47820:2", "b").unwrap());
        let cleared = ports.clear(&lock, |holder| holder != "dead").unwrap();
        assert_eq!(cleared, [("47820:47820".parse().unwrap(), "dead".to_owned())]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let text = format!("127.0.0.1:{}:80", listener.local_addr().unwrap().port());
        assert!(matches!(take(&text, "b"), Err(Error::Port { holder, .. }) if holder.contains("program")));
        let publish = "127.0.0.1:47811:80".parse().unwrap();
        assert_eq!(ports.give_back(&lock, &publish, "b").unwrap(), [0; 0]);
        assert_eq!(ports.give_back(&lock, &publish, "a").unwrap(), [47811]);
        assert!(!take("47811:81", "c").unwrap());
    }
}
