//! Devices of the host that change their network namespace: with their addresses, under a new name if wanted, and up
//! again (runtime-spec 1.3, "Network Devices", is what this serves; network_namespaces(7)).

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use crate::wire::{Wire, own};

/// A device that is to be moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name where it is.
    pub name: String,
    /// Its name where it goes, when another; `%d` in it stands for the first free number.
    pub new_name: Option<String>,
}

/// A device that was moved.
#[derive(Debug)]
pub struct Moved {
    /// Its name where it was.
    name: String,
    /// Its number where it is.
    index: u32,
    up: bool,
    addresses: Vec<AddressMessage>,
    namespace: OwnedFd,
}

/// Why a device was not moved.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// netlink does not answer.
    #[error("cannot ask for the network devices of the {side}")]
    Ask {
        /// `host` or `context`.
        side: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// There is no such device.
    #[error("there is no network device {name:?}; `ip link` shows those that there are")]
    Absent {
        /// Its name.
        name: String,
    },
    /// The name is taken.
    #[error("the context has a network device {name:?} already; choose another name, or end it in %d")]
    Taken {
        /// The name.
        name: String,
    },
    /// The kernel refuses the move.
    #[error("cannot move the network device {name:?}{}", hint(.source))]
    Move {
        /// Its name.
        name: String,
        /// Cause.
        source: io::Error,
    },
    /// An address could not be kept.
    #[error("cannot give the moved network device {name:?} its address {address} again")]
    Address {
        /// Name of the device.
        name: String,
        /// Address and length of its prefix.
        address: String,
        /// Cause.
        source: io::Error,
    },
    /// It stays down.
    #[error("cannot bring the moved network device {name:?} up")]
    Up {
        /// Its name.
        name: String,
        /// Cause.
        source: io::Error,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        // NETIF_F_NETNS_LOCAL: bridges, loopback and their like.
        Some(22) => "; a device of this kind is bound to its network namespace",
        Some(1) => "; that needs root",
        _ => "",
    }
}

/// A name that the kernel takes (netdevice(7)): at most 15 bytes without slash, colon or space; `%` in `%d` only.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = name.replacen("%d", "", 1);
    !name.is_empty()
        && name.len() < 16
        && !matches!(name, "." | "..")
        && !plain.contains(['/', ':', '%', '\0'])
        && !plain.contains(char::is_whitespace)
}

/// Moves a device of the caller's namespace into another. A failure leaves it where it was.
///
/// # Errors
///
/// There is no such device, its name is taken, or the kernel refuses.
pub fn move_into(device: &Device, namespace: BorrowedFd<'_>) -> Result<Moved, Error> {
    let here = Wire::here().map_err(|source| Error::Ask { side: "host", source })?;
    let there = Wire::there(namespace).map_err(|source| Error::Ask { side: "context", source })?;
    let link = links(&here, "host")?.into_iter().find(|link| name_of(link) == Some(&device.name));
    let link = link.ok_or_else(|| Error::Absent { name: device.name.clone() })?;
    let before = links(&there, "context")?;
    let new_name = device.new_name.as_ref().unwrap_or(&device.name);
    if before.iter().any(|other| name_of(other) == Some(new_name)) {
        return Err(Error::Taken { name: new_name.clone() });
    }
    let addresses = addresses(&here, link.header.index)?;
    let namespace =
        namespace.try_clone_to_owned().map_err(|source| Error::Ask { side: "context", source })?;
    set_namespace(&here, link.header.index, new_name, namespace.as_fd())
        .map_err(|source| Error::Move { name: device.name.clone(), source })?;
    // The number stays the same only where it is free; with a template the name is the kernel's choice, too.
    let known: HashSet<u32> = before.iter().map(|link| link.header.index).collect();
    let arrived = links(&there, "context")?.into_iter().find(|link| !known.contains(&link.header.index));
    let moved = Moved {
        name: device.name.clone(),
        index: arrived.ok_or_else(|| Error::Absent { name: new_name.clone() })?.header.index,
        up: link.header.flags.contains(LinkFlags::Up),
        addresses,
        namespace,
    };
    match settle(&there, &moved, moved.index, true) {
        Ok(()) => Ok(moved),
        Err(error) => {
            // The first error is told; where the way back fails as well, the device goes with the namespace.
            let _ = moved.back();
            Err(error)
        }
    }
}

impl Moved {
    /// Moves it back into the caller's namespace, as it was.
    ///
    /// # Errors
    ///
    /// The device is gone, its name was taken meanwhile, or the kernel refuses.
    pub fn back(&self) -> Result<(), Error> {
        let failed = |source| Error::Move { name: self.name.clone(), source };
        let own = own().map_err(failed)?;
        let there = Wire::there_from(own.as_fd(), self.namespace.as_fd()).map_err(failed)?;
        set_namespace(&there, self.index, &self.name, own.as_fd()).map_err(failed)?;
        let here = Wire::here().map_err(failed)?;
        let back = links(&here, "host")?.into_iter().find(|link| name_of(link) == Some(&self.name));
        let back = back.ok_or_else(|| Error::Absent { name: self.name.clone() })?;
        settle(&here, self, back.header.index, self.up)
    }
}

/// Gives a device that has arrived its addresses, and brings it up.
fn settle(wire: &Wire, moved: &Moved, index: u32, up: bool) -> Result<(), Error> {
    for address in &moved.addresses {
        let mut address = address.clone();
        address.header.index = index;
        let text = text(&address);
        wire.change(Message::NewAddress(address), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|source| Error::Address { name: moved.name.clone(), address: text, source })?;
    }
    if !up {
        return Ok(());
    }
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    wire.change(Message::SetLink(link), 0).map_err(|source| Error::Up { name: moved.name.clone(), source })
}

/// One request for both: the old name may be taken where the device goes.
fn set_namespace(wire: &Wire, index: u32, name: &str, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(LinkAttribute::NetNsFd(to.as_raw_fd()));
    link.attributes.push(LinkAttribute::IfName(name.into()));
    wire.change(Message::SetLink(link), 0)
}

fn links(wire: &Wire, side: &'static str) -> Result<Vec<LinkMessage>, Error> {
    let answers =
        wire.dump(Message::GetLink(LinkMessage::default())).map_err(|source| Error::Ask { side, source })?;
    let link = |answer| if let Message::NewLink(link) = answer { Some(link) } else { None };
    Ok(answers.into_iter().filter_map(link).collect())
}

fn name_of(link: &LinkMessage) -> Option<&String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name),
        _ => None,
    })
}

/// The permanent addresses of global scope, which is what a device keeps; all others the kernel makes anew.
fn addresses(wire: &Wire, index: u32) -> Result<Vec<AddressMessage>, Error> {
    let answers = wire
        .dump(Message::GetAddress(AddressMessage::default()))
        .map_err(|source| Error::Ask { side: "host", source })?;
    let address = |answer| match answer {
        Message::NewAddress(address)
            if address.header.index == index
                && address.header.scope == AddressScope::Universe
                && address.header.flags.contains(AddressHeaderFlags::Permanent) =>
        {
            Some(lasting(address))
        }
        _ => None,
    };
    Ok(answers.into_iter().filter_map(address).collect())
}

/// The address as one would add it: without what the kernel has noted of it, and the label, which holds the old name.
fn lasting(mut address: AddressMessage) -> AddressMessage {
    let wanted = AddressFlags::Noprefixroute | AddressFlags::Nodad | AddressFlags::Homeaddress;
    address.header.flags = AddressHeaderFlags::empty();
    address.attributes = address
        .attributes
        .into_iter()
        .filter_map(|attribute| match attribute {
            AddressAttribute::CacheInfo(_) | AddressAttribute::Label(_) => None,
            AddressAttribute::Flags(flags) => Some(AddressAttribute::Flags(flags & wanted)),
            other => Some(other),
        })
        .collect();
    address
}

fn text(address: &AddressMessage) -> String {
    let ip = address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(ip.to_string()),
        _ => None,
    });
    format!("{}/{}", ip.unwrap_or_default(), address.header.prefix_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_what_the_kernel_takes() {
        for name in ["eth0", "a", "veth%d", "123456789012345"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a b", "a:1", "50%", "a%d%d", "%s", "1234567890123456"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
