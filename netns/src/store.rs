//! Where networks are defined: one file each, in a folder that lasts; and the folder of each on memory, with its leases.

use std::collections::HashSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};

use crate::lease::Pool;
use crate::network::{DEFAULT, Definition, Wanted, is_name};
use crate::ports::Ports;
use crate::wire::Wire;
use crate::{Error, Result, Subnet, bridge, file, rules, shaping};

/// The networks of a machine.
#[derive(Debug, Clone)]
pub struct Networks {
    /// Definitions; they outlive a reboot.
    definitions: PathBuf,
    /// Leases and shared files; they do not.
    memory: PathBuf,
}

impl Networks {
    /// Definitions below the first folder, leases below the second.
    #[must_use]
    pub fn new(store: &Path, state: &Path) -> Networks {
        Networks { definitions: store.join("networks"), memory: Networks::memory(state) }
    }

    /// Where the leases lie below a state folder.
    #[must_use]
    pub fn memory(state: &Path) -> PathBuf {
        state.join(".networks")
    }

    /// The leases of a network.
    #[must_use]
    pub fn pool(&self, name: &str) -> Pool {
        Pool::new(&self.memory, name)
    }

    /// The published ports of the machine.
    #[must_use]
    pub fn ports(&self) -> Ports {
        Ports::new(&self.memory)
    }

    /// Finds a network. The default one is made when it is absent.
    ///
    /// # Errors
    ///
    /// There is no such network.
    pub fn open(&self, name: &str) -> Result<Definition> {
        let path = self.path(name)?;
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| Error::Damaged { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound && name == DEFAULT => {
                match self.create(&Wanted { name: name.into(), ..Wanted::default() }) {
                    // Somebody else was first.
                    Err(Error::Exists(_)) => self.open(name),
                    result => result,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::Absent(name.into())),
            Err(error) => Err(Error::file("read", path)(error)),
        }
    }

    /// All networks, by name.
    ///
    /// # Errors
    ///
    /// The folder or a definition cannot be read.
    pub fn list(&self) -> Result<Vec<Definition>> {
        let entries = match fs::read_dir(&self.definitions) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            result => result.map_err(Error::file("read", &self.definitions))?,
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|file| file.strip_suffix(".json").map(str::to_owned))
            .collect();
        names.sort();
        names.iter().map(|name| self.open(name)).collect()
    }

    /// Defines a network. Its devices are made when the first context comes.
    ///
    /// # Errors
    ///
    /// The name is taken, or a subnet overlaps with a network or a route of the machine.
    pub fn create(&self, wanted: &Wanted) -> Result<Definition> {
        let path = self.path(&wanted.name)?;
        let _lock = file::lock(&self.definitions)?;
        let others = self.list()?;
        if others.iter().any(|other| other.name == wanted.name) {
            return Err(Error::Exists(wanted.name.clone()));
        }
        let used = Used::look(&others)?;
        let (v4, v6) = if wanted.subnets.is_empty() { used.free()? } else { used.check(&wanted.subnets)? };
        let definition = Definition {
            name: wanted.name.clone(),
            number: free_number(&others)?,
            v4,
            v6,
            internal: wanted.internal,
            mtu: wanted.mtu,
        };
        let bytes = serde_json::to_vec_pretty(&definition)
            .map_err(|source| Error::Damaged { path: path.clone(), source })?;
        file::replace(&path, &bytes)?;
        Ok(definition)
    }

    /// Removes a network with its devices and rules. `alive` says whether a context still has a lease.
    ///
    /// # Errors
    ///
    /// It is in use, or something cannot be removed.
    pub fn remove(&self, name: &str, alive: impl Fn(&str, u32) -> bool) -> Result<()> {
        let path = self.path(name)?;
        let _lock = file::lock(&self.definitions)?;
        if !path.exists() {
            return Err(Error::Absent(name.into()));
        }
        let definition = self.open(name)?;
        let pool = self.pool(name);
        let lock = pool.lock()?;
        let leases = pool.leases(&lock)?;
        let users = leases.iter().filter(|(lease, id)| alive(id, *lease));
        let users: Vec<String> = users.map(|(_, id)| id.clone()).collect();
        if !users.is_empty() {
            return Err(Error::InUse { name: name.into(), users });
        }
        leases.iter().try_for_each(|(lease, _)| shaping::forget(&definition.port(*lease)))?;
        rules::remove(&definition)?;
        bridge::remove(&definition)?;
        file::remove(pool.folder())?;
        file::remove(&path)
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        match is_name(name) {
            true => Ok(self.definitions.join(format!("{name}.json"))),
            false => Err(Error::Name(name.into())),
        }
    }
}

/// The lowest number that neither a network nor a device has.
fn free_number(others: &[Definition]) -> Result<u16> {
    let taken: HashSet<u16> = others.iter().map(|other| other.number).collect();
    for number in (0..=u16::MAX).filter(|number| !taken.contains(number)) {
        if bridge::index(&format!("vctx{number}"))?.is_none() {
            return Ok(number);
        }
    }
    Err(Error::NoSubnet)
}

/// The subnets that are in use, each with a word for who uses it.
struct Used {
    list: Vec<(Subnet, String)>,
}

impl Used {
    /// Asks for the routes of all tables, which hold the addresses of the machine, too.
    fn look(others: &[Definition]) -> Result<Used> {
        let mut list = Vec::new();
        for other in others {
            list.extend(
                other.subnets().map(|subnet| (subnet, format!("the network {:?} ({subnet})", other.name))),
            );
        }
        let ask = Error::link("ask for the routes of", "the host");
        let routes = Wire::here().and_then(|wire| {
            let mut all = Vec::new();
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                let mut route = RouteMessage::default();
                route.header.address_family = family;
                all.extend(wire.dump(Message::GetRoute(route))?);
            }
            Ok(all)
        });
        for answer in routes.map_err(ask)? {
            let Message::NewRoute(route) = answer else { continue };
            let destination = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
                RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
                _ => None,
            });
            let subnet = destination
                .and_then(|address| Subnet::around(address, route.header.destination_prefix_length));
            list.extend(subnet.map(|subnet| (subnet, format!("the route to {subnet} of this machine"))));
        }
        Ok(Used { list })
    }

    fn by(&self, subnet: &Subnet) -> Option<&String> {
        self.list.iter().find(|(other, _)| other.overlaps(subnet)).map(|(_, by)| by)
    }

    /// A free one of each family; of version 6 only where the kernel has it.
    fn free(&self) -> Result<(Option<Subnet>, Option<Subnet>)> {
        // 1022 addresses: as many as a bridge has ports. The engines' own defaults begin elsewhere.
        let four = (0..0x1000_u32)
            .map(|block| Ipv4Addr::from_bits(u32::from_be_bytes([10, 200, 0, 0]) + (block << 10)))
            .take_while(|address| address.octets()[0] == 10)
            .filter_map(|address| Subnet::around(address.into(), 22))
            .find(|subnet| self.by(subnet).is_none())
            .ok_or(Error::NoSubnet)?;
        if !Path::new("/proc/sys/net/ipv6").exists() {
            return Ok((Some(four), None));
        }
        // RFC 4193, section 3.2: fd, then 40 random bits. The keys of a fresh state are the kernel's randomness.
        let six = std::iter::repeat_with(|| RandomState::new().hash_one(0_u8) >> 24)
            .map(|random| Ipv6Addr::from_bits((0xfd_u128 << 120) | (u128::from(random) << 80)))
            .filter_map(|address| Subnet::around(address.into(), 64))
            .take(64)
            .find(|subnet| self.by(subnet).is_none())
            .ok_or(Error::NoSubnet)?;
        Ok((Some(four), Some(six)))
    }

    fn check(&self, wanted: &[Subnet]) -> Result<(Option<Subnet>, Option<Subnet>)> {
        let (mut four, mut six) = (None, None);
        for subnet in wanted {
            if subnet.last() < 2 {
                return Err(Error::Small(*subnet));
            }
            if let Some(other) = self.by(subnet) {
                return Err(Error::Overlap { subnet: *subnet, other: other.clone() });
            }
            let place = if subnet.is_v4() { &mut four } else { &mut six };
            if let Some(other) = place.replace(*subnet) {
                return Err(Error::Family(other, *subnet));
            }
        }
        Ok((four, six))
    }
}
