//! What has passed through a context's device, read on the host's side of it. The namespace is not entered.

use std::io;

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::wire::Wire;
use crate::{Error, Result};

/// The counters of a context, from its own side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// What it has received.
    pub received: Direction,
    /// What it has sent.
    pub sent: Direction,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the number of its name in ip-link(8)")]
pub struct Direction {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// The counters of the context behind a port: what leaves by the port is what the context receives.
///
/// # Errors
///
/// The port is gone, or the kernel does not answer.
pub fn of(port: &str) -> Result<Counters> {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(port.into()));
    let answers = Wire::here().and_then(|wire| wire.ask(Message::GetLink(link), NLM_F_ACK));
    let answers = answers.map_err(Error::link("read the counters of", port))?;
    let found = answers.into_iter().find_map(|answer| match answer {
        Message::NewLink(link) => link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(stats),
            _ => None,
        }),
        _ => None,
    });
    let stats =
        found.ok_or_else(|| Error::link("read the counters of", port)(io::ErrorKind::NotFound.into()))?;
    Ok(Counters {
        received: Direction {
            bytes: stats.tx_bytes,
            packets: stats.tx_packets,
            errors: stats.tx_errors,
            dropped: stats.tx_dropped,
        },
        sent: Direction {
            bytes: stats.rx_bytes,
            packets: stats.rx_packets,
            errors: stats.rx_errors,
            dropped: stats.rx_dropped,
        },
    })
}
