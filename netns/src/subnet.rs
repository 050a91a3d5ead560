//! Addresses by number: a subnet of either family, and its n-th address.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The highest number of an address that we count to: three bytes of a MAC.
const MOST: u32 = 0xff_ffff;

/// A range of addresses, such as 10.1.2.0/24 or fd00:1::/64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: IpAddr,
    prefix: u8,
}

/// The text is no subnet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a subnet such as 10.1.2.0/24 or fd00:1::/64, without bits beside the prefix")]
pub struct NotASubnet;

impl Subnet {
    /// The range of that many leading bits around an address; none when there are more bits than the address has.
    #[must_use]
    pub fn around(address: IpAddr, prefix: u8) -> Option<Subnet> {
        let rest = width(address).checked_sub(prefix)?;
        let mask = u128::MAX.checked_shl(rest.into()).unwrap_or(0);
        Some(Subnet { base: with_bits(address, bits(address) & mask), prefix })
    }

    /// Number of leading bits.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// It is of version 4.
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.base.is_ipv4()
    }

    /// The address with this number.
    #[must_use]
    pub fn nth(&self, number: u32) -> IpAddr {
        with_bits(self.base, bits(self.base) + u128::from(number))
    }

    /// The number of an address that a host can have.
    #[must_use]
    pub fn number_of(&self, address: IpAddr) -> Option<u32> {
        let distance = bits(address).checked_sub(bits(self.base))?;
        let number = u32::try_from(distance).ok()?;
        (address.is_ipv4() == self.is_v4() && (1..=self.last()).contains(&number)).then_some(number)
    }

    /// How many addresses there are, up to the most that we count to.
    #[must_use]
    pub fn count(&self) -> u32 {
        1_u32.checked_shl(u32::from(width(self.base) - self.prefix)).unwrap_or(MOST).clamp(1, MOST)
    }

    /// All addresses of the other are of this one.
    #[must_use]
    pub fn contains(&self, other: &Subnet) -> bool {
        self.prefix <= other.prefix && self.overlaps(other)
    }

    /// The highest number that a host can have. Version 4 keeps the last address for broadcasts.
    #[must_use]
    pub fn last(&self) -> u32 {
        let rest = u32::from(width(self.base) - self.prefix);
        let count = 1_u128.checked_shl(rest).unwrap_or(u128::MAX) - 1 - u128::from(self.is_v4() && rest > 0);
        u32::try_from(count).unwrap_or(MOST).min(MOST)
    }

    /// They have addresses in common.
    #[must_use]
    pub fn overlaps(&self, other: &Subnet) -> bool {
        let wider = self.prefix.min(other.prefix);
        self.is_v4() == other.is_v4() && Subnet::around(self.base, wider) == Subnet::around(other.base, wider)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn with_bits(family: IpAddr, bits: u128) -> IpAddr {
    match family {
        // The upper bits are none: what is added to an address of version 4 stays below its broadcast.
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(bits)),
    }
}

impl FromStr for Subnet {
    type Err = NotASubnet;

    fn from_str(text: &str) -> Result<Subnet, NotASubnet> {
        let (address, prefix) = text.split_once('/').ok_or(NotASubnet)?;
        let base: IpAddr = address.parse().map_err(|_| NotASubnet)?;
        let prefix = prefix.parse().map_err(|_| NotASubnet)?;
        Subnet::around(base, prefix).filter(|subnet| subnet.base == base).ok_or(NotASubnet)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.base, self.prefix)
    }
}

impl TryFrom<String> for Subnet {
    type Error = NotASubnet;

    fn try_from(text: String) -> Result<Subnet, NotASubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_have_numbers() {
        let four = subnet("10.1.4.0/22");
        assert_eq!(four.nth(258).to_string(), "10.1.5.2");
        assert_eq!(four.number_of("10.1.5.2".parse().unwrap()), Some(258));
        assert_eq!(four.last(), 1022);
        for foreign in ["10.1.4.0", "10.1.7.255", "10.1.8.1", "10.1.3.255", "fd00::1"] {
            assert_eq!(four.number_of(foreign.parse().unwrap()), None, "{foreign}");
        }
        let six = subnet("fd00:1::/64");
        assert_eq!(six.nth(16).to_string(), "fd00:1::10");
        assert_eq!(six.number_of("fd00:1::10".parse().unwrap()), Some(16));
        assert_eq!(six.last(), MOST);
        assert_eq!(subnet("10.0.0.8/30").last(), 2);
        assert_eq!(subnet("10.0.0.8/32").last(), 0);
        assert_eq!(subnet("0.0.0.0/0").last(), MOST);
    }

    #[test]
    fn what_is_in_another_overlaps_with_it() {
        assert!(subnet("10.0.0.0/8").overlaps(&subnet("10.1.0.0/22")));
        assert!(subnet("10.1.0.0/22").overlaps(&subnet("10.0.0.0/8")));
        assert!(!subnet("10.1.0.0/22").overlaps(&subnet("10.1.4.0/22")));
        assert!(!subnet("::/0").overlaps(&subnet("0.0.0.0/0")));
    }

    #[test]
    fn only_whole_subnets_are_read() {
        for text in ["", "10.0.0.0", "10.0.0.1/24", "10.0.0.0/33", "fd00::1/64", "x/24", "10.0.0.0/-1"] {
            assert_eq!(text.parse::<Subnet>(), Err(NotASubnet), "{text}");
        }
    }
}
