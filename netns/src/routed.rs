//! Routed networks: each context has a veth pair whose outer end is no port of a bridge, but a way of the machine to that
//! one context. The gateway is the machine itself, with the same address on each of them.
//!
//! With a parent the addresses are known beyond the machine. Where the machines there take them for neighbours, we answer
//! for each of them; where a router sends them to us, nobody asks.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use crate::bridge::{self, INSIDE_INDEX};
use crate::link::Plug;
use crate::network::{Definition, GATEWAY};
use crate::wire::{Wire, own};
use crate::{Error, Result, macvlan, rules, sysctl};

/// The number of its parent, or 0, when its rules are there.
pub(crate) fn find(network: &Definition) -> Result<Option<u32>> {
    let parent = parent(network)?;
    Ok(rules::are_there(network)?.then_some(parent))
}

/// Makes its rules, and sets what the kernel has to be told.
pub(crate) fn make(network: &Definition) -> Result<u32> {
    let index = parent(network)?;
    sysctl::forwarding(network)?;
    if let Some(parent) = network.parent.as_ref().filter(|_| network.proxy && network.v6.is_some()) {
        sysctl::proxy_ndp(parent)?;
    }
    if !rules::are_there(network)? {
        rules::make(network)?;
    }
    Ok(index)
}

fn parent(network: &Definition) -> Result<u32> {
    if network.parent.is_some() { macvlan::parent(network) } else { Ok(0) }
}

/// Makes a pair, and routes the context's addresses to it.
pub(crate) fn attach(network: &Definition, parent: u32, plug: Plug<'_>) -> Result<()> {
    let port = network.port(plug.lease);
    let failed = || Error::link("make the network device", &port);
    let host = own().map_err(failed())?;
    let here = Wire::here().map_err(failed())?;
    let there = Wire::there_from(host.as_fd(), plug.namespace).map_err(failed())?;
    let requests = || {
        // One MAC address for all of them: nobody but the one context sees it.
        let outer = vec![LinkAttribute::Address(network.mac(GATEWAY).to_vec())];
        let mut requests = bridge::pair(network, plug.lease, host.as_fd(), outer);
        for subnet in network.subnets() {
            let (own, gateway) = (subnet.nth(plug.lease), subnet.nth(GATEWAY));
            requests.push((alone(INSIDE_INDEX, own), NLM_F_CREATE | NLM_F_EXCL));
            requests.push((default_route(gateway), NLM_F_CREATE | NLM_F_EXCL));
        }
        requests
    };
    let mut made = there.change_all(requests());
    if made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
        // As in `bridge`: the one who had the address before has it no longer.
        bridge::delete(&here, &port)?;
        made = there.change_all(requests());
    }
    made.map_err(failed())?;
    let gone = || Error::link("find the network device", &port)(io::ErrorKind::NotFound.into());
    let index = bridge::index(&port)?.ok_or_else(gone)?;
    let mut requests = vec![(Message::SetLink(bridge::up_message(index)), 0)];
    let new = NLM_F_CREATE | NLM_F_REPLACE;
    for subnet in network.subnets() {
        let (context, gateway) = (subnet.nth(plug.lease), subnet.nth(GATEWAY));
        requests.push((alone(index, gateway), new));
        requests.push((way_to(context, index), new));
        // Nobody has to be asked for the one neighbour; and with version 6 nobody could be for a second or two, until the
        // device's link-local address is its own.
        requests.push((neighbour(index, context, network.mac(plug.lease)), new));
        if network.proxy {
            requests.push((answer_for(parent, context), new));
        }
    }
    here.change_all(requests).map_err(Error::link("route to the network device", &port))?;
    // Published ports of 127.0.0.1.
    if plug.published && network.v4.is_some() { sysctl::route_localnet(&port) } else { Ok(()) }
}

/// Answers for a context's addresses no more. Of version 4 the kernel would stop by itself, with the route; of version 6
/// it would not.
pub(crate) fn answer_no_more(network: &Definition, lease: u32) -> Result<()> {
    let Some(name) = &network.parent else { return Ok(()) };
    let Some(parent) = bridge::index(name)? else { return Ok(()) };
    let failed = || Error::link("stop answering on", name);
    let wire = Wire::here().map_err(failed())?;
    for address in network.addresses(lease) {
        match wire.change(Message::DelNeighbour(proxied(parent, address)), 0) {
            // ENOENT: nobody has answered for it.
            Err(error) if error.raw_os_error() != Some(2) => return Err(failed()(error)),
            _ => {}
        }
    }
    Ok(())
}

/// An address beside which there is no other on the wire.
fn alone(device: u32, address: IpAddr) -> Message {
    let mut message = AddressMessage::default();
    message.header.family = bridge::family(address);
    message.header.prefix_len = width(address);
    message.header.index = device;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    if address.is_ipv6() {
        // There are two on this wire, and their addresses differ.
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    Message::NewAddress(message)
}

/// The context's way to everything. The gateway is on the wire, which no prefix says. (The address of the other end could
/// say it, but of version 6 the kernel makes that route some time later.)
fn default_route(gateway: IpAddr) -> Message {
    let mut route = route(INSIDE_INDEX, gateway);
    route.header.scope = RouteScope::Universe;
    route.header.flags = RouteFlags::Onlink;
    route.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
    Message::NewRoute(route)
}

/// The machine's way to a context.
fn way_to(context: IpAddr, device: u32) -> Message {
    let mut route = route(device, context);
    route.header.scope = RouteScope::Link;
    route.header.destination_prefix_length = width(context);
    route.attributes.push(RouteAttribute::Destination(RouteAddress::from(context)));
    Message::NewRoute(route)
}

fn route(device: u32, family: IpAddr) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = bridge::family(family);
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.kind = RouteType::Unicast;
    route.attributes.push(RouteAttribute::Oif(device));
    route
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn neighbour(device: u32, address: IpAddr, mac: [u8; 6]) -> Message {
    let mut message = of(device, address);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    Message::NewNeighbour(message)
}

/// Answers who asks on a device for an address that is elsewhere.
fn answer_for(device: u32, address: IpAddr) -> Message {
    Message::NewNeighbour(proxied(device, address))
}

fn proxied(device: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = of(device, address);
    message.header.flags = NeighbourFlags::Proxy;
    message.header.state = NeighbourState::Permanent;
    message
}

fn of(device: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = bridge::family(address);
    message.header.ifindex = device;
    message.attributes.push(NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }));
    message
}
