//! A defined network, and the names that follow from its number: bridge, table, ports, MAC addresses. Nothing else has to
//! be stored or looked for: number and lease say what there is.
//!
//! What its devices are is its [`Driver`]; [`link`](crate::link) makes them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, Subnet};

/// The network of `--net bridge`, which is made on first use.
pub const DEFAULT: &str = "vctx0";

/// The gateway's number in each subnet: the bridge itself.
pub const GATEWAY: u32 = 1;

/// A bridge has 1023 ports (`BR_MAX_PORTS`, linux/net/bridge/br_private.h), and so contexts get one of the first numbers.
const PORTS: u32 = 1022;

/// What the devices of a network are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge of ours, with a veth pair for each context.
    #[default]
    Bridge,
    /// A veth pair for each context, from point to point: packets are routed and not bridged.
    Routed,
    /// A device of the machine, of which each context has a part with a MAC address of its own.
    Macvlan,
}

/// The word is no driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected bridge, routed or macvlan")]
pub struct UnknownDriver;

impl FromStr for Driver {
    type Err = UnknownDriver;

    fn from_str(text: &str) -> std::result::Result<Driver, UnknownDriver> {
        let all = [Driver::Bridge, Driver::Routed, Driver::Macvlan];
        all.into_iter().find(|driver| driver.to_string() == text).ok_or(UnknownDriver)
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Driver::Bridge => "bridge",
            Driver::Routed => "routed",
            Driver::Macvlan => "macvlan",
        })
    }
}

/// A network, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// What its devices are named after.
    pub number: u16,
    /// Its subnet of version 4.
    pub v4: Option<Subnet>,
    /// Its subnet of version 6.
    pub v6: Option<Subnet>,
    /// It does not reach beyond the machine.
    pub internal: bool,
    /// Largest packet, in bytes; the kernel's usual 1500 when absent.
    pub mtu: Option<u32>,
    /// What its devices are.
    #[serde(default)]
    pub driver: Driver,
    /// The device of the machine that leads outside: the one that a macvlan network is part of, or the only one by which a
    /// routed network is reached under its own addresses.
    #[serde(default)]
    pub parent: Option<String>,
    /// The machines behind `parent` take the addresses of contexts for neighbours, and so we answer for them.
    #[serde(default)]
    pub proxy: bool,
    /// The addresses that contexts get which ask for none.
    #[serde(default)]
    pub range: Option<Subnet>,
    /// Routers of a macvlan network; those of the others are we.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
}

/// What a new network is to be.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// At most one of each family; none asks for one of each.
    pub subnets: Vec<Subnet>,
    /// It is not to reach beyond the machine.
    pub internal: bool,
    /// Largest packet, in bytes.
    pub mtu: Option<u32>,
    /// What its devices are to be.
    pub driver: Driver,
    /// See [`Definition::parent`].
    pub parent: Option<String>,
    /// See [`Definition::range`].
    pub range: Option<Subnet>,
    /// See [`Definition::gateways`].
    pub gateways: Vec<IpAddr>,
}

/// A name of a network: it becomes a file name and a word of `--net`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
    let kinds = [
        "none",
        "host",
        "bridge",
        "shared",
        "macvlan",
        "routed",
        "cni",
        "ns",
        "container",
        "pasta",
        "slirp4netns",
    ];
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.len() <= 32
        && text.bytes().all(rest)
        && !kinds.contains(&text)
}

impl Definition {
    /// Name of the bridge, and of the tables of nftables.
    #[must_use]
    pub fn bridge(&self) -> String {
        format!("vctx{}", self.number)
    }

    /// Its contexts are routed to, each over a device of its own.
    #[must_use]
    pub fn is_routed(&self) -> bool {
        self.driver == Driver::Routed
    }

    /// The machine's devices that lead to its contexts, as nftables matches them.
    #[must_use]
    pub fn devices(&self) -> String {
        if self.is_routed() { format!("vx{}p*", self.number) } else { self.bridge() }
    }

    /// Name of the machine's device for a lease; none of a macvlan network.
    #[must_use]
    pub fn port(&self, lease: u32) -> String {
        format!("vx{}p{lease}", self.number)
    }

    /// The MAC address of a lease: locally administered, and nobody else's on this machine. On the wire of others it
    /// follows from the address, for that is nobody else's there.
    #[must_use]
    pub fn mac(&self, lease: u32) -> [u8; 6] {
        if self.driver == Driver::Macvlan {
            let bits = match self.subnets().next().map(|subnet| subnet.nth(lease)) {
                Some(IpAddr::V4(address)) => address.to_bits(),
                Some(IpAddr::V6(address)) => address.to_bits() as u32,
                None => lease,
            };
            let [one, two, three, four] = bits.to_be_bytes();
            return [0x0a, 0x76, one, two, three, four];
        }
        let [high, low] = self.number.to_be_bytes();
        let [_, one, two, three] = lease.to_be_bytes();
        [0x02, high, low, one, two, three]
    }

    /// Both subnets, as far as there are.
    pub fn subnets(&self) -> impl Iterator<Item = Subnet> {
        [self.v4, self.v6].into_iter().flatten()
    }

    /// The addresses of a lease.
    #[must_use]
    pub fn addresses(&self, lease: u32) -> Vec<IpAddr> {
        self.subnets().map(|subnet| subnet.nth(lease)).collect()
    }

    /// The highest number that a context can ask for.
    #[must_use]
    pub fn last(&self) -> u32 {
        self.subnets().map(|subnet| subnet.last()).min().unwrap_or_default()
    }

    /// The numbers that are given to contexts that ask for none.
    #[must_use]
    pub fn usual(&self) -> std::ops::RangeInclusive<u32> {
        let all = GATEWAY + 1..=self.last().min(PORTS);
        let Some(range) = self.range else { return all };
        let number = |address: IpAddr| self.subnets().find_map(|subnet| subnet.number_of(address));
        // A whole subnet begins and ends with addresses that are nobody's.
        let first = number(range.nth(0)).unwrap_or(GATEWAY + 1);
        let last =
            number(range.nth(range.count() - 1)).or_else(|| number(range.nth(range.count().checked_sub(2)?)));
        first.max(GATEWAY + 1)..=last.unwrap_or(0).min(self.last())
    }

    /// The number belongs to a router.
    #[must_use]
    pub fn is_gateway(&self, lease: u32) -> bool {
        let mut gateways = self.gateways.iter();
        gateways.any(|gateway| self.subnets().any(|subnet| subnet.number_of(*gateway) == Some(lease)))
    }

    /// The lease that an address belongs to.
    ///
    /// # Errors
    ///
    /// It is not one of this network, or not one for contexts.
    pub fn lease_of(&self, address: IpAddr) -> Result<u32> {
        let number = self.subnets().find_map(|subnet| subnet.number_of(address));
        let is_free =
            |number: &u32| (GATEWAY + 1..=self.last()).contains(number) && !self.is_gateway(*number);
        number.filter(is_free).ok_or_else(|| {
            let subnets: Vec<String> = self.subnets().map(|subnet| subnet.to_string()).collect();
            Error::Foreign { address, network: self.name.clone(), subnets: subnets.join(" and ") }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(subnet: &str, range: &str) -> Definition {
        let range = Some(range.parse().unwrap());
        Definition { v4: Some(subnet.parse().unwrap()), range, ..Definition::default() }
    }

    #[test]
    fn a_range_is_a_part_of_the_subnet() {
        assert_eq!(network("10.0.0.0/24", "10.0.0.64/26").usual(), 64..=127);
        assert_eq!(network("10.0.0.0/24", "10.0.0.192/26").usual(), 192..=254);
        assert_eq!(network("10.0.0.0/24", "10.0.0.0/25").usual(), 2..=127);
        assert_eq!(network("10.0.0.0/24", "10.0.0.0/24").usual(), 2..=254);
        assert_eq!(network("10.0.0.0/24", "10.0.0.9/32").usual(), 9..=9);
        for nobodys in ["10.0.0.0/32", "10.0.0.255/32"] {
            assert!(network("10.0.0.0/24", nobodys).usual().is_empty(), "{nobodys}");
        }
    }

    #[test]
    fn a_router_is_no_context() {
        let mut lan = network("10.0.0.0/24", "10.0.0.64/26");
        lan.gateways = vec!["10.0.0.254".parse().unwrap()];
        assert!(lan.lease_of("10.0.0.254".parse().unwrap()).is_err());
        assert_eq!(lan.lease_of("10.0.0.253".parse().unwrap()).unwrap(), 253);
    }

    #[test]
    fn a_mac_address_on_a_foreign_wire_follows_from_the_address() {
        let mut lan = network("10.0.1.0/24", "10.0.1.64/26");
        lan.driver = Driver::Macvlan;
        assert_eq!(lan.mac(65), [0x0a, 0x76, 10, 0, 1, 65]);
    }
}
