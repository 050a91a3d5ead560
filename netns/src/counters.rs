//! What has passed through a context's device, read on the host's side of it. The namespace is not entered.

use std::io;

use netlink_packet_route::link::LinkAttribute;

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
    let link = Wire::here().and_then(|wire| wire.link(port));
    let link = link.map_err(Error::link("read the counters of", port))?;
    let stats = |attribute| if let LinkAttribute::Stats64(stats) = attribute { Some(stats) } else { None };
    let found = link.and_then(|link| link.attributes.into_iter().find_map(stats));
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
