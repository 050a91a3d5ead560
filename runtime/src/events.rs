//! `events` and `ps`: what the control groups tell of a context.

use serde::Serialize;
use vctx_context::cgroup::{OomEvents, Stats};
use vctx_netns::counters;

use crate::pause::cgroup;
use crate::state::{Context, Status};
use crate::{Error, Result};

/// The `data` object of runc's `events --stats`.
#[derive(Debug, Serialize)]
pub struct Statistics {
    /// What the control groups count.
    #[serde(flatten)]
    pub groups: Stats,
    /// What the devices of networks of ours count.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network_interfaces: Vec<Interface>,
}

/// A device and its counters from the side of the context, under runc's names.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "each field is the number of its name in ip-link(8)")]
pub struct Interface {
    /// The device on the host.
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// Statistics.
///
/// # Errors
///
/// The context is stopped or has no control group.
pub fn stats(context: &Context) -> Result<Statistics> {
    running(context, "read the statistics of")?;
    let groups = cgroup(context, "read the statistics of")?.stats()?;
    let port = context.state.network.as_ref().and_then(|attached| attached.port.as_deref());
    let network_interfaces = port.map(interface).transpose()?.into_iter().collect();
    Ok(Statistics { groups, network_interfaces })
}

fn interface(port: &str) -> Result<Interface> {
    let counters::Counters { received, sent } = counters::of(port)?;
    Ok(Interface {
        name: port.into(),
        rx_bytes: received.bytes,
        rx_packets: received.packets,
        rx_errors: received.errors,
        rx_dropped: received.dropped,
        tx_bytes: sent.bytes,
        tx_packets: sent.packets,
        tx_errors: sent.errors,
        tx_dropped: sent.dropped,
    })
}

/// A source of out-of-memory events.
///
/// # Errors
///
/// As [`stats`].
pub fn out_of_memory(context: &Context) -> Result<OomEvents> {
    running(context, "watch")?;
    Ok(cgroup(context, "watch")?.oom_events()?)
}

/// The ids of all processes, in the caller's pid namespace.
///
/// # Errors
///
/// The control group cannot be read.
pub fn processes(context: &Context) -> Result<Vec<i32>> {
    match &context.state.cgroup {
        Some(cgroup) => Ok(cgroup.procs(true)?),
        None => Ok(context.alive()?.map(|alive| alive.pid).into_iter().collect()),
    }
}

fn running(context: &Context, verb: &'static str) -> Result<()> {
    match context.status()? {
        status @ (Status::Stopped | Status::Creating) => Err(Error::Status {
            verb,
            id: context.state.id.clone(),
            status,
            hint: Some("container not running"),
        }),
        _ => Ok(()),
    }
}
