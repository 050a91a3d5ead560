//! macvlan networks: a context has a part of a device of the machine, with a MAC address of its own, and so stands beside
//! the machine on that wire and not behind it. No rule of ours lies in between, and the machine itself is out of reach: the
//! kernel hands nothing from the parts to the whole.

use std::io;
use std::os::fd::AsRawFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};

use crate::bridge::{self, INSIDE};
use crate::link::Plug;
use crate::network::Definition;
use crate::wire::Wire;
use crate::{Error, Result};

/// The number of the device of the machine that a network lies on.
pub(crate) fn parent(network: &Definition) -> Result<u32> {
    let name = network.parent.as_deref().unwrap_or_default();
    let link = Wire::here().and_then(|wire| wire.link(name)).map_err(Error::link("look for", name))?;
    let link = link.ok_or_else(|| Error::NoParent(name.into()))?;
    match link.header.flags.contains(LinkFlags::Up) {
        true => Ok(link.header.index),
        false => Err(Error::ParentDown(name.into())),
    }
}

/// Makes the context's part, in its namespace from the first moment on.
pub(crate) fn attach(network: &Definition, parent: u32, plug: Plug<'_>) -> Result<()> {
    let name = network.parent.as_deref().unwrap_or_default();
    let failed = || Error::link("make a macvlan device of", name);
    let here = Wire::here().map_err(failed())?;
    let there = Wire::there(plug.namespace).map_err(failed())?;
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(INSIDE.into()));
    link.attributes.push(LinkAttribute::Link(parent));
    link.attributes.push(LinkAttribute::NetNsFd(plug.namespace.as_raw_fd()));
    link.attributes.push(LinkAttribute::Address(network.mac(plug.lease).to_vec()));
    link.attributes.extend(network.mtu.map(LinkAttribute::Mtu));
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::MacVlan),
        LinkInfo::Data(InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)])),
    ]));
    let new = NLM_F_CREATE | NLM_F_EXCL;
    here.change(Message::NewLink(link), new).map_err(failed())?;
    // A number of our choice would have to be free on the machine as well.
    let index = there.link(INSIDE).map_err(failed())?.map(|link| link.header.index);
    let index = index.ok_or_else(|| failed()(io::ErrorKind::NotFound.into()))?;
    bring_up(&there, index, network.mac(plug.lease)).map_err(failed())?;
    let mut requests: Vec<_> =
        network.subnets().map(|subnet| (bridge::address(index, subnet, plug.lease), new)).collect();
    requests.extend(network.gateways.iter().map(|gateway| (bridge::default_route(index, *gateway), new)));
    there.change_all(requests).map_err(failed())
}

/// The one who had the address before may still be going, with the MAC address that follows from it: two parts of one
/// device cannot have the same. Another one does as well.
fn bring_up(there: &Wire, index: u32, mut mac: [u8; 6]) -> io::Result<()> {
    let up = || there.change(Message::SetLink(bridge::up_message(index)), 0);
    match up() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            mac[1] ^= 0x80;
            let mut link = LinkMessage::default();
            link.header.index = index;
            link.attributes.push(LinkAttribute::Address(mac.to_vec()));
            there.change(Message::SetLink(link), 0)?;
            up()
        }
        result => result,
    }
}
