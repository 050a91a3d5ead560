//! The devices of a network: the bridge, and a veth pair for each context, whose far end is made in the context's network
//! namespace. With the namespace the pair goes; nothing of it has to be undone.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use rustix::net::{AddressFamily as Family, SocketFlags, SocketType, netdevice, socket_with};

use crate::network::{Definition, GATEWAY};
use crate::wire::{Wire, own};
use crate::{Error, Result, Subnet, rules, sysctl};

/// The device of a context.
pub(crate) const INSIDE: &str = "eth0";

/// Its number there. It is chosen here, so that nothing has to be asked between the requests; the first ones may belong to
/// what the kernel puts into every namespace (`net.core.fb_tunnels_only_for_init_net`).
pub(crate) const INSIDE_INDEX: u32 = 64;

/// The number of a network's bridge, when it is there with its rules. These come last, and so say that all is there.
///
/// # Errors
///
/// The kernel does not answer.
pub fn find(network: &Definition) -> Result<Option<u32>> {
    match index(&network.bridge())? {
        Some(bridge) if rules::are_there(network)? => Ok(Some(bridge)),
        _ => Ok(None),
    }
}

/// Makes what is missing of a network: bridge, settings of the kernel, rules. Gives the number of the bridge. `leases` are
/// those whose ports a new bridge has to take in.
///
/// # Errors
///
/// The kernel refuses, or nft is missing.
pub fn make(network: &Definition, leases: &[u32]) -> Result<u32> {
    let name = network.bridge();
    let wire = Wire::here().map_err(Error::link("make the bridge", &name))?;
    let found = index(&name)?;
    if found.is_none() {
        let new = wire.change(new_bridge(network), NLM_F_CREATE | NLM_F_EXCL);
        new.map_err(Error::link("make the bridge", &name))?;
    }
    let gone = || Error::link("find the bridge", &name)(io::ErrorKind::NotFound.into());
    let bridge = index(&name)?.ok_or_else(gone)?;
    addresses(&wire, network, bridge)?;
    if found.is_none() {
        for lease in leases {
            // A port whose context has just ended is gone.
            let _ = enslave(&wire, &network.port(*lease), bridge);
        }
    }
    settings(network)?;
    if !rules::are_there(network)? {
        rules::make(network)?;
    }
    Ok(bridge)
}

/// Puts a context on the bridge: a veth pair, addresses and routes. Two packets of requests: one to the context's
/// namespace, one to the host's.
///
/// # Errors
///
/// The kernel refuses.
pub fn attach(network: &Definition, bridge: u32, lease: u32, namespace: BorrowedFd<'_>) -> Result<()> {
    let port = network.port(lease);
    let failed = || Error::link("make the network device", &port);
    let host = own().map_err(failed())?;
    let here = Wire::here().map_err(failed())?;
    let there = Wire::there_from(host.as_fd(), namespace).map_err(failed())?;
    let mut made = there.change_all(inside(network, lease, host.as_fd()));
    if made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
        // The namespace of who had the lease before is still going, or somebody holds it. The address is no longer theirs.
        delete(&here, &port)?;
        made = there.change_all(inside(network, lease, host.as_fd()));
    }
    made.map_err(failed())?;
    let mut link = up_message(0);
    link.attributes.push(LinkAttribute::IfName(port.clone()));
    link.attributes.push(LinkAttribute::Controller(bridge));
    // Where the kernel shows bridged packets to the rules (br_netfilter), what a context sends to a published port of its
    // own has to go back through the port by which it came.
    let mut hairpin = LinkMessage::default();
    hairpin.attributes.push(LinkAttribute::IfName(port.clone()));
    hairpin.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::HairpinMode(true)])),
    ]));
    let requests = vec![(Message::SetLink(link), 0), (Message::NewLink(hairpin), 0)];
    here.change_all(requests).map_err(Error::link("attach to its bridge", &port))
}

/// What is asked of the kernel in the context's namespace.
fn inside(network: &Definition, lease: u32, host: BorrowedFd<'_>) -> Vec<(Message, u16)> {
    let new = NLM_F_CREATE | NLM_F_EXCL;
    let mut requests = pair(network, lease, host, Vec::new());
    requests.extend(network.subnets().map(|subnet| (address(INSIDE_INDEX, subnet, lease), new)));
    if !network.internal {
        let route = |subnet: Subnet| default_route(INSIDE_INDEX, subnet.nth(GATEWAY));
        requests.extend(network.subnets().map(|subnet| (route(subnet), new)));
    }
    requests
}

/// Makes the pair and brings its inner end up. It is made from inside, because only the end that is made first can be
/// given a number, by which the further requests go. The outer end gets these attributes beside.
pub(crate) fn pair(
    network: &Definition,
    lease: u32,
    host: BorrowedFd<'_>,
    outer: Vec<LinkAttribute>,
) -> Vec<(Message, u16)> {
    let mut port = LinkMessage::default();
    port.attributes.push(LinkAttribute::IfName(network.port(lease)));
    port.attributes.push(LinkAttribute::NetNsFd(host.as_raw_fd()));
    port.attributes.extend(one_queue());
    port.attributes.extend(network.mtu.map(LinkAttribute::Mtu));
    port.attributes.extend(outer);
    let mut pair = LinkMessage::default();
    pair.header.index = INSIDE_INDEX;
    pair.attributes.push(LinkAttribute::IfName(INSIDE.into()));
    pair.attributes.push(LinkAttribute::Address(network.mac(lease).to_vec()));
    pair.attributes.extend(one_queue());
    pair.attributes.extend(network.mtu.map(LinkAttribute::Mtu));
    pair.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(port))),
    ]));
    // A device with a peer cannot be born up: the peer is not there yet (veth_open in linux/drivers/net/veth.c).
    vec![(Message::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL), (Message::SetLink(up_message(INSIDE_INDEX)), 0)]
}

/// The kernel gives a veth as many queues as there are processors (Linux 5.17), and each an entry in sysfs: a fourth of
/// what a pair costs on two, most of it on many. Nothing waits in them, for a veth passes packets on at once.
fn one_queue() -> [LinkAttribute; 2] {
    [LinkAttribute::NumTxQueues(1), LinkAttribute::NumRxQueues(1)]
}

/// Removes the bridge of a network, if there is one.
///
/// # Errors
///
/// The kernel refuses.
pub fn remove(network: &Definition) -> Result<()> {
    let name = network.bridge();
    delete(&Wire::here().map_err(Error::link("remove", &name))?, &name)
}

pub(crate) fn delete(wire: &Wire, name: &str) -> Result<()> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.into()));
    match wire.change(Message::DelLink(link), 0) {
        // ENODEV: it is gone.
        Err(error) if error.raw_os_error() != Some(19) => {
            Err(Error::link("remove the network device", name)(error))
        }
        _ => Ok(()),
    }
}

/// The number of a device of the caller's namespace (netdevice(7), SIOCGIFINDEX).
///
/// # Errors
///
/// No socket can be made.
pub fn index(name: &str) -> Result<Option<u32>> {
    let look = || {
        let socket = socket_with(Family::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        match netdevice::name_to_index(&socket, name) {
            Err(rustix::io::Errno::NODEV) => Ok(None),
            result => result.map(Some),
        }
    };
    look().map_err(|error: rustix::io::Errno| Error::link("look for", name)(error.into()))
}

fn new_bridge(network: &Definition) -> Message {
    let mut link = up_message(0);
    link.attributes.push(LinkAttribute::IfName(network.bridge()));
    // Without one of its own it takes that of a port, and another when the port goes.
    link.attributes.push(LinkAttribute::Address(network.mac(GATEWAY).to_vec()));
    link.attributes.extend(network.mtu.map(LinkAttribute::Mtu));
    // A port forwards at once: there are no loops that a spanning tree would have to look for.
    let data = vec![InfoBridge::StpState(BridgeStpState::Disabled), InfoBridge::ForwardDelay(0)];
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Bridge),
        LinkInfo::Data(InfoData::Bridge(data)),
    ]));
    Message::NewLink(link)
}

pub(crate) fn up_message(index: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link
}

fn enslave(wire: &Wire, port: &str, bridge: u32) -> Result<()> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(port.into()));
    link.attributes.push(LinkAttribute::Controller(bridge));
    wire.change(Message::SetLink(link), 0).map_err(Error::link("attach to its bridge", port))
}

fn addresses(wire: &Wire, network: &Definition, bridge: u32) -> Result<()> {
    let add = |subnet| (address(bridge, subnet, GATEWAY), NLM_F_CREATE | NLM_F_REPLACE);
    let added = wire.change_all(network.subnets().map(add).collect());
    added.map_err(Error::link("give its addresses to", &network.bridge()))
}

pub(crate) fn address(device: u32, subnet: Subnet, number: u32) -> Message {
    let address = subnet.nth(number);
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = subnet.prefix();
    message.header.index = device;
    message.attributes.push(AddressAttribute::Address(address));
    message.attributes.push(AddressAttribute::Local(address));
    match address {
        IpAddr::V4(_) => {
            let broadcast = subnet.nth(subnet.last() + 1);
            if let IpAddr::V4(broadcast) = broadcast {
                message.attributes.push(AddressAttribute::Broadcast(broadcast));
            }
        }
        // Leases are unique: nothing has to be detected, and the address works at once.
        IpAddr::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    Message::NewAddress(message)
}

pub(crate) fn default_route(device: u32, gateway: IpAddr) -> Message {
    let mut route = RouteMessage::default();
    route.header.address_family = family(gateway);
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Static;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
    route.attributes.push(RouteAttribute::Oif(device));
    Message::NewRoute(route)
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// What the kernel has to be told beside.
fn settings(network: &Definition) -> Result<()> {
    let bridge = network.bridge();
    if network.v4.is_some() {
        // Published ports of 127.0.0.1; the rules drop what a context itself would send there.
        sysctl::route_localnet(&bridge)?;
    }
    let own = PathBuf::from("/proc/sys/net/ipv6/conf").join(&bridge);
    if network.v6.is_none() {
        if own.exists() {
            sysctl::set(&own.join("disable_ipv6"), "1")?;
        }
        return sysctl::forwarding(network);
    }
    sysctl::set(&own.join("accept_ra"), "0")?;
    // Until its link-local address is its own, for a second or two, a bridge asks for no neighbour on behalf of others.
    sysctl::set(&own.join("accept_dad"), "0")?;
    sysctl::forwarding(network)
}
