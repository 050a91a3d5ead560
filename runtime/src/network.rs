//! The network of a context: its address is leased and its names are written before its process exists, its device is made
//! while the process mounts, and all of it goes with `delete`.
//!
//! The state names the network from its first writing on. What a killed `create` has leased is found by the context's id.

use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use vctx_context::namespace::{Joined, Kind};
use vctx_netns::network::Definition;
use vctx_netns::{Networks, bridge};

use crate::state::{Context, Lock, Store};
use crate::undo::{Step, Undo};
use crate::{Error, Result};

/// The network that a new context is to have. Its configuration asks for a network namespace of its own.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where networks are kept.
    pub networks: Networks,
    /// The network.
    pub definition: Definition,
    /// The address to have, of either family.
    pub address: Option<IpAddr>,
    /// Names under which others of the network find it.
    pub names: Vec<String>,
}

/// What a context has of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The network's name.
    pub network: String,
    /// The number of the lease; absent until the context is attached.
    pub lease: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its device on the host.
    pub port: Option<String>,
}

impl Wanted {
    /// What the state says before anything is made.
    pub(crate) fn announced(&self) -> Attached {
        Attached { network: self.definition.name.clone(), lease: None, addresses: Vec::new(), port: None }
    }
}

/// Brings the network up and leases an address. Gives the number of the bridge.
pub(crate) fn lease(store: &Store, wanted: &Wanted, context: &mut Context, undo: &mut Undo) -> Result<u32> {
    let network = &wanted.definition;
    let id = context.state.id.clone();
    let pool = wanted.networks.pool(&network.name);
    let lock = pool.lock()?;
    let bridge =
        bridge::up(network, || Ok(pool.leases(&lock)?.into_iter().map(|(lease, _)| lease).collect()))?;
    let alive = |holder: &str, lease: u32| store.holds_lease(holder, &network.name, lease);
    let lease = pool.take(&lock, network, &id, wanted.address, alive)?;
    let attached = Attached {
        lease: Some(lease),
        addresses: network.addresses(lease),
        port: Some(network.port(lease)),
        ..wanted.announced()
    };
    undo.push(Step::LeaveNetwork(store.root().to_owned(), id, attached.clone()));
    pool.add_names(&lock, network, lease, &wanted.names)?;
    context.state.network = Some(attached);
    Ok(bridge)
}

/// Makes the device of a context whose process is there.
pub(crate) fn attach(wanted: &Wanted, bridge: u32, context: &Context, pid: i32) -> Result<()> {
    let Some(lease) = context.state.network.as_ref().and_then(|attached| attached.lease) else {
        return Ok(());
    };
    let namespace = Joined::open(Kind::Network, format!("/proc/{pid}/ns/net").as_ref())?;
    Ok(bridge::attach(&wanted.definition, bridge, lease, namespace.as_fd())?)
}

/// Gives back what a context has of its network. The device goes with the namespace.
pub(crate) fn leave(state_root: &Path, id: &str, attached: &Attached) -> Result<()> {
    let memory = Networks::memory(state_root);
    let pool = vctx_netns::lease::Pool::new(&memory, &attached.network);
    if !pool.folder().exists() {
        return Ok(());
    }
    let lock = pool.lock()?;
    let own: Vec<u32> = match attached.lease {
        Some(lease) => vec![lease],
        // A killed create: the lease may have been taken and not yet written down.
        None => pool
            .leases(&lock)?
            .into_iter()
            .filter(|(_, holder)| holder == id)
            .map(|(lease, _)| lease)
            .collect(),
    };
    for lease in own {
        if pool.give_back(&lock, lease, id)? {
            pool.remove_names(&lock, id)?;
        }
    }
    Ok(())
}

/// Repairs: gives back what dead contexts have left, and makes missing bridges and rules of networks in use anew. Gives a
/// line for each thing done.
///
/// # Errors
///
/// A network cannot be read or brought up.
pub fn prune(store: &Store, networks: &Networks) -> Result<Vec<String>> {
    let mut done = Vec::new();
    for network in networks.list()? {
        let name = &network.name;
        let pool = networks.pool(name);
        if !pool.folder().exists() {
            continue;
        }
        let lock = pool.lock()?;
        let mut alive = Vec::new();
        for (lease, id) in pool.leases(&lock)? {
            if store.holds_lease(&id, name, lease) {
                alive.push(lease);
            } else {
                pool.give_back(&lock, lease, &id)?;
                pool.remove_names(&lock, &id)?;
                done.push(format!("{name}: gave back number {lease} of {id}, which is gone"));
            }
        }
        if !alive.is_empty() && !bridge::is_up(&network)? {
            bridge::up(&network, || Ok(alive))?;
            done.push(format!("{name}: made the bridge {} or its rules anew", network.bridge()));
        }
    }
    Ok(done)
}

impl Store {
    /// The context lives, or is being made, and has this lease.
    #[must_use]
    pub fn holds_lease(&self, id: &str, network: &str, lease: u32) -> bool {
        if Lock::is_held(&self.root().join(id)) {
            return true;
        }
        let Ok(context) = self.open(id) else { return false };
        let own = context.state.network.as_ref();
        own.is_some_and(|own| own.network == network && own.lease == Some(lease))
            && context.alive().is_ok_and(|alive| alive.is_some())
    }
}

impl From<vctx_netns::Error> for Error {
    fn from(error: vctx_netns::Error) -> Error {
        Error::Network(Box::new(error))
    }
}
