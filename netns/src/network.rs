//! A defined network, and the names that follow from its number: bridge, table, ports, MAC addresses. Nothing else has to
//! be stored or looked for: number and lease say what there is.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, Subnet};

/// The network of `--net bridge`, which is made on first use.
pub const DEFAULT: &str = "vctx0";

/// The gateway's number in each subnet: the bridge itself.
pub const GATEWAY: u32 = 1;

/// A bridge has 1023 ports (`BR_MAX_PORTS`, linux/net/bridge/br_private.h), and so contexts get one of the first numbers.
const PORTS: u32 = 1022;

/// A network, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// A name of a network: it becomes a file name and a word of `--net`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
    let kinds = ["none", "host", "bridge", "shared", "macvlan", "routed", "cni", "ns", "container"];
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

    /// Name of the bridge's port for a lease.
    #[must_use]
    pub fn port(&self, lease: u32) -> String {
        format!("vx{}p{lease}", self.number)
    }

    /// The MAC address of a lease: locally administered, and nobody else's on this machine.
    #[must_use]
    pub fn mac(&self, lease: u32) -> [u8; 6] {
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
        GATEWAY + 1..=self.last().min(PORTS)
    }

    /// The lease that an address belongs to.
    ///
    /// # Errors
    ///
    /// It is not one of this network, or not one for contexts.
    pub fn lease_of(&self, address: IpAddr) -> Result<u32> {
        let number = self.subnets().find_map(|subnet| subnet.number_of(address));
        number.filter(|number| (GATEWAY + 1..=self.last()).contains(number)).ok_or_else(|| {
            let subnets: Vec<String> = self.subnets().map(|subnet| subnet.to_string()).collect();
            Error::Foreign { address, network: self.name.clone(), subnets: subnets.join(" and ") }
        })
    }
}
