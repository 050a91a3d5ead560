//! Which addresses are in use, and so what a new network can have: the other networks and the routes of the machine are
//! asked for once, when it is defined.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use crate::device::is_name;
use crate::network::{Definition, Driver, Wanted};
use crate::wire::Wire;
use crate::{Error, Result, Subnet, bridge};

/// What is in use of the machine.
pub(crate) struct Used {
    /// The subnets, each with a word for who uses it.
    list: Vec<(Subnet, String)>,
    routes: Vec<Route>,
}

struct Route {
    /// None leads everywhere.
    to: Option<Subnet>,
    device: Option<u32>,
    gateway: Option<IpAddr>,
    /// It leads to the machine itself.
    local: bool,
}

impl Wanted {
    /// What is wrong in itself.
    pub(crate) fn check(&self) -> Result<()> {
        let driver = self.driver;
        let unfit = |option| Err(Error::Unfit { option, driver });
        // It becomes a word of our rules.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.@".contains(&byte);
        let strange = |name: &&String| !is_name(name) || !name.bytes().all(plain);
        if let Some(parent) = self.parent.as_ref().filter(strange) {
            return Err(Error::NoParent(parent.clone()));
        }
        match driver {
            Driver::Bridge if self.parent.is_some() => unfit("--parent"),
            Driver::Bridge | Driver::Routed if self.range.is_some() => unfit("--range"),
            Driver::Bridge | Driver::Routed if !self.gateways.is_empty() => unfit("--gateway"),
            Driver::Macvlan if self.internal => unfit("--internal"),
            Driver::Macvlan if self.parent.is_none() => Err(Error::NeedsParent),
            Driver::Macvlan if self.subnets.is_empty() => Err(Error::NeedsSubnet),
            Driver::Routed if self.parent.is_some() && self.internal => unfit("--internal"),
            Driver::Routed if self.parent.is_some() && self.subnets.is_empty() => Err(Error::NeedsSubnet),
            _ => Ok(()),
        }
    }
}

impl Used {
    /// Asks for the routes of all tables, which hold the addresses of the machine, too.
    pub(crate) fn look(others: &[Definition]) -> Result<Used> {
        let mut list = Vec::new();
        for other in others {
            list.extend(
                other.subnets().map(|subnet| (subnet, format!("the network {:?} ({subnet})", other.name))),
            );
        }
        let ask = Error::link("ask for the routes of", "the host");
        let answers = Wire::here().and_then(|wire| {
            let mut all = Vec::new();
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                let mut route = RouteMessage::default();
                route.header.address_family = family;
                all.extend(wire.dump(Message::GetRoute(route))?);
            }
            Ok(all)
        });
        let route =
            |answer| if let Message::NewRoute(route) = answer { Some(Route::of(&route)) } else { None };
        Ok(Used { list, routes: answers.map_err(ask)?.into_iter().filter_map(route).collect() })
    }

    /// What is asked for, as far as it can be had.
    pub(crate) fn define(mut self, wanted: &Wanted, number: u16) -> Result<Definition> {
        let absent = |name: &String| Error::NoParent(name.clone());
        let find = |name: &String| bridge::index(name)?.ok_or_else(|| absent(name));
        let parent = wanted.parent.as_ref().map(find).transpose()?;
        // What the parent leads to is what a network on it is for.
        let leads_elsewhere = |route: &&Route| parent.is_none() || (route.device != parent && !route.local);
        let subnets = self.routes.iter().filter(leads_elsewhere).filter_map(|route| route.to);
        let named = |subnet: Subnet| (subnet, format!("the route to {subnet} of this machine"));
        self.list.extend(subnets.map(named));
        let (v4, v6) = if wanted.subnets.is_empty() { self.free()? } else { self.check(&wanted.subnets)? };
        let on_link = |subnet: Subnet| {
            let neighbours =
                |route: &Route| route.device == parent && route.gateway.is_none() && !route.local;
            let to = self.routes.iter().filter(|route| neighbours(route)).filter_map(|route| route.to);
            to.into_iter().any(|to| to.overlaps(&subnet))
        };
        let definition = Definition {
            name: wanted.name.clone(),
            number,
            v4,
            v6,
            internal: wanted.internal,
            mtu: wanted.mtu,
            driver: wanted.driver,
            parent: wanted.parent.clone(),
            proxy: wanted.driver == Driver::Routed
                && parent.is_some()
                && [v4, v6].into_iter().flatten().any(on_link),
            range: wanted.range,
            gateways: wanted.gateways.clone(),
        };
        self.check_numbers(&definition)?;
        Ok(definition)
    }

    /// Range and routers lie in the subnets, and what contexts get is neither the machine's nor a router's.
    fn check_numbers(&self, definition: &Definition) -> Result<()> {
        let subnets =
            || definition.subnets().map(|subnet| subnet.to_string()).collect::<Vec<_>>().join(" and ");
        if let Some(range) = definition.range
            && (!definition.subnets().any(|subnet| subnet.contains(&range)) || definition.usual().is_empty())
        {
            return Err(Error::RangeOutside { range, subnets: subnets() });
        }
        for gateway in &definition.gateways {
            if !definition.subnets().any(|subnet| subnet.number_of(*gateway).is_some()) {
                return Err(Error::GatewayOutside { gateway: *gateway, subnets: subnets() });
            }
        }
        if let [one, other, ..] = &definition.gateways[..]
            && (one.is_ipv4() == other.is_ipv4() || definition.gateways.len() > 2)
        {
            return Err(Error::Gateways);
        }
        if definition.parent.is_none() {
            return Ok(());
        }
        let own = self.routes.iter().filter(|route| route.local).filter_map(|route| route.to);
        let own = own.filter(|subnet| subnet.count() == 1).map(|subnet| subnet.nth(0));
        for address in own.chain(self.routes.iter().filter_map(|route| route.gateway)) {
            let number = definition.subnets().find_map(|subnet| subnet.number_of(address));
            let is_ours = |number| definition.is_routed() || definition.usual().contains(&number);
            if number.is_some_and(|number| is_ours(number) && !definition.is_gateway(number)) {
                return Err(Error::NotForContexts { address });
            }
        }
        Ok(())
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

impl Route {
    fn of(route: &RouteMessage) -> Route {
        let address = |address: &RouteAddress| match address {
            RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
            RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
            _ => None,
        };
        let (mut to, mut device, mut gateway) = (None, None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(destination) => {
                    let length = route.header.destination_prefix_length;
                    to = address(destination).and_then(|address| Subnet::around(address, length));
                }
                RouteAttribute::Oif(index) => device = Some(*index),
                RouteAttribute::Gateway(router) => gateway = address(router),
                _ => {}
            }
        }
        Route { to, device, gateway, local: route.header.kind == RouteType::Local }
    }
}
