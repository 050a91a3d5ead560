//! The network of a context: its address is leased and its names are written before its process exists, its device is made
//! while the process mounts, and all of it goes with `delete`.
//!
//! The state names the network from its first writing on. What a killed `create` has leased is found by the context's id.

pub mod join;
pub mod outer;

use std::net::IpAddr;
use std::path::Path;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};
use vctx_context::cgroup::{self, Addresses};
use vctx_context::namespace::{Joined, Kind};
use vctx_netns::network::{Definition, Driver};
use vctx_netns::ports::{Ports, Publish};
use vctx_netns::rate::{Change, Rates};
use vctx_netns::resolver::Entry;
use vctx_netns::shared::Claims;
use vctx_netns::{Networks, device, link, rules, shaping};

use crate::host::Host;
use crate::lock::Lock;
use crate::request::Request;
use crate::state::{Context, Store};
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
    /// Names that only it knows.
    pub entries: Vec<Entry>,
    /// Ports of the machine that lead to it.
    pub ports: Vec<Publish>,
    /// How much it may receive and send.
    pub rates: Rates,
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
    /// The network's device, and what its rules are named after.
    pub bridge: String,
    /// Ports of the machine that lead to it.
    pub ports: Vec<Publish>,
    /// How much it may receive and send.
    #[serde(default, skip_serializing_if = "Rates::is_none")]
    pub rates: Rates,
    /// The network, where its end takes more than giving back: the machine answers for its addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxied: Option<Definition>,
}

impl Wanted {
    /// What the state says before anything is made.
    pub(crate) fn announced(&self) -> Attached {
        Attached {
            network: self.definition.name.clone(),
            lease: None,
            addresses: Vec::new(),
            port: None,
            bridge: self.definition.bridge(),
            ports: self.ports.clone(),
            rates: self.rates,
            proxied: self.definition.proxy.then(|| self.definition.clone()),
        }
    }
}

/// Brings the network up and leases an address. Gives the number of the device that it stands on.
pub(crate) fn lease(store: &Store, wanted: &Wanted, context: &mut Context, undo: &mut Undo) -> Result<u32> {
    let network = &wanted.definition;
    let id = context.state.id.clone();
    let pool = wanted.networks.pool(&network.name);
    let lock = pool.lock()?;
    let base = bring_up(store, network, || Ok(pool.leases(&lock)?))?;
    let alive = |holder: &str, lease: u32| store.holds_lease(holder, &network.name, lease);
    let (lease, dead) = pool.take(&lock, network, &id, wanted.address, alive)?;
    let attached = Attached {
        lease: Some(lease),
        addresses: network.addresses(lease),
        port: (network.driver != Driver::Macvlan).then(|| network.port(lease)),
        ..wanted.announced()
    };
    undo.push(Step::LeaveNetwork(store.root().to_owned(), id, attached.clone()));
    // Ports of a dead context must not lead to who has its address now, nor its rate hold it.
    if dead.is_some() {
        shaping::forget(&network.port(lease))?;
    }
    if let Some(own) = dead.and_then(|dead| store.open(&dead).ok()?.state.network) {
        rules::withdraw(&own.bridge, &own.ports);
    }
    rules::admit(network, lease)?;
    publish(store, wanted, &context.state.id, lease)?;
    pool.add_names(&lock, network, lease, &wanted.names, &wanted.entries)?;
    context.state.network = Some(attached);
    context.write()?;
    Ok(base)
}

/// Takes the ports of the machine, and redirects them.
fn publish(store: &Store, wanted: &Wanted, id: &str, lease: u32) -> Result<()> {
    if wanted.ports.is_empty() {
        return Ok(());
    }
    let ports = wanted.networks.ports();
    let lock = ports.lock()?;
    for publish in &wanted.ports {
        if ports.take(&lock, publish, id, |holder| store.is_alive(holder))? {
            for network in wanted.networks.list()? {
                rules::withdraw(&network.bridge(), std::slice::from_ref(publish));
            }
        }
    }
    Ok(rules::publish(&wanted.definition, lease, &wanted.ports)?)
}

/// Makes the device of a context whose process is there.
pub(crate) fn attach(wanted: &Wanted, base: u32, context: &Context, pid: i32) -> Result<()> {
    let Some(lease) = context.state.network.as_ref().and_then(|attached| attached.lease) else {
        return Ok(());
    };
    let namespace = Joined::open(Kind::Network, format!("/proc/{pid}/ns/net").as_ref())?;
    let plug = link::Plug { lease, namespace: namespace.as_fd(), published: !wanted.ports.is_empty() };
    link::attach(&wanted.definition, base, plug)?;
    if wanted.rates.is_none() {
        return Ok(());
    }
    Ok(shaping::hold(&wanted.definition.port(lease), &wanted.rates)?)
}

/// Changes how much a context may receive and send. Gives what held before.
pub(crate) fn change_rates(context: &mut Context, change: Change) -> Result<Rates> {
    let id = context.state.id.clone();
    let own = context.state.network.as_mut().ok_or_else(|| Error::NoRate { id: id.clone() })?;
    let port = own.port.clone().ok_or(Error::NoRate { id })?;
    let before = own.rates;
    let rates = change.applied_to(before);
    // Written first, and what is lifted only afterwards: whatever a killed command has left is then known to `delete`, for
    // not all of it goes with the port, and to `prune`.
    own.rates = rates.or(before);
    context.write()?;
    let held = shaping::hold(&port, &rates).map_err(Error::from).and_then(|()| lift(context, rates));
    if let Err(error) = held {
        set_rates(context, before);
        return Err(error);
    }
    Ok(before)
}

fn lift(context: &mut Context, rates: Rates) -> Result<()> {
    match context.state.network.as_mut() {
        Some(own) if own.rates != rates => own.rates = rates,
        _ => return Ok(()),
    }
    context.write()
}

/// Goes back to what held before. The first error is told, and not one of this.
pub(crate) fn set_rates(context: &mut Context, rates: Rates) {
    let Some(own) = context.state.network.as_mut() else { return };
    own.rates = rates;
    if let Some(port) = &own.port {
        let _ = shaping::hold(port, &rates);
    }
    let _ = context.write();
}

/// Moves the network devices that the configuration names into the context. At its end the kernel takes care of them.
pub(crate) fn move_devices(spec: &Spec, host: &Host, pid: i32, undo: &mut Undo) -> Result<()> {
    let devices = crate::plan::net_devices(spec);
    if devices.is_empty() {
        return Ok(());
    }
    let own;
    let namespace = match host.joined.iter().find(|one| one.kind == Kind::Network) {
        Some(joined) => joined.as_fd(),
        None => {
            own = Joined::open(Kind::Network, format!("/proc/{pid}/ns/net").as_ref())?;
            own.as_fd()
        }
    };
    for device in devices {
        undo.push(Step::ReturnDevice(device::move_into(&device, namespace)?));
    }
    Ok(())
}

/// The file of names that a network keeps for one context alone, and removes when that leaves.
pub(crate) fn own_hosts(state_root: &Path, id: &str, attached: &Attached) -> std::path::PathBuf {
    vctx_netns::lease::Pool::new(&Networks::memory(state_root), &attached.network).own_hosts(id)
}

/// Gives back what a context has of its network. The device goes with the namespace.
pub(crate) fn leave(state_root: &Path, id: &str, attached: &Attached) -> Result<()> {
    let memory = Networks::memory(state_root);
    let pool = vctx_netns::lease::Pool::new(&memory, &attached.network);
    if !pool.folder().exists() {
        return Ok(());
    }
    let lock = pool.lock()?;
    give_ports_back(&memory, id, attached)?;
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
        // Last of all the number: by it the rest is found.
        if pool.is_of(&lock, lease, id) {
            pool.remove_names(&lock, id)?;
            if let (Some(port), Some(_)) = (&attached.port, attached.rates.outward) {
                shaping::forget(port)?;
            }
            attached.proxied.iter().try_for_each(|network| link::detach(network, lease))?;
            pool.give_back(&lock, lease, id)?;
        }
    }
    Ok(())
}

/// Holds a context that shares the host's network to its addresses. Its group is there, and its process not yet.
pub(crate) fn hold(store: &Store, request: &Request, context: &Context, undo: &mut Undo) -> Result<()> {
    let own = &request.shared;
    if own.is_empty() {
        return Ok(());
    }
    let id = &context.state.id;
    let claims = Claims::new(&Networks::memory(store.root()));
    undo.push(Step::LetGo(store.root().to_owned(), id.clone()));
    let loopback = claims.take(&claims.lock()?, own, id, |holder| store.is_alive(holder))?;
    let cgroup = context.state.cgroup.as_ref().ok_or(cgroup::Error::NoUnified)?;
    Ok(cgroup.hold_to(&Addresses { own: own.clone(), loopback })?)
}

/// What a context on the host's network is not held from.
pub(crate) fn warning(request: &Request) -> Option<Error> {
    const SCOPES: u32 = 6;
    (!request.shared.is_empty() && vctx_context::child::sys::landlock_version().unwrap_or(0) < SCOPES)
        .then_some(Error::NoScope)
}

/// Gives back the addresses that a context was held to. The programs have gone with its group.
pub(crate) fn let_go(state_root: &Path, id: &str) -> Result<()> {
    let claims = Claims::new(&Networks::memory(state_root));
    Ok(claims.give_back(&claims.lock()?, id)?)
}

fn give_ports_back(memory: &Path, id: &str, attached: &Attached) -> Result<()> {
    if attached.ports.is_empty() {
        return Ok(());
    }
    let ports = Ports::new(memory);
    let lock = ports.lock()?;
    for publish in &attached.ports {
        let given = ports.give_back(&lock, publish, id)?;
        if given.len() == usize::from(publish.count) {
            rules::withdraw(&attached.bridge, std::slice::from_ref(publish));
            continue;
        }
        // Some went to others meanwhile, or were never taken.
        for host in given {
            let one = Publish { host, guest: host, count: 1, ..publish.clone() };
            rules::withdraw(&attached.bridge, &[one]);
        }
    }
    Ok(())
}

/// What a repair has done, a line for each thing, and what it could not.
#[derive(Debug, Default)]
pub struct Repair {
    /// What was done.
    pub done: Vec<String>,
    /// Why a network could not be repaired. The others were.
    pub failed: Vec<Error>,
}

/// Repairs: gives back what dead contexts have left, and makes missing bridges and rules of networks in use anew.
///
/// # Errors
///
/// The networks cannot be read.
pub fn prune(store: &Store, networks: &Networks) -> Result<Repair> {
    let Repair { mut done, mut failed } = Repair::default();
    let all = networks.list()?;
    let ports = networks.ports();
    for (publish, id) in ports.clear(&ports.lock()?, |id| store.is_alive(id))? {
        all.iter().for_each(|network| rules::withdraw(&network.bridge(), std::slice::from_ref(&publish)));
        done.push(format!(
            "gave back the port {}/{} of {id}, which is gone",
            publish.protocol(),
            publish.host
        ));
    }
    for network in &all {
        // The device that one stands on may be gone.
        failed.extend(repair(store, networks, network, &mut done).err());
    }
    done.extend(outer::prune(store, &networks.attachments())?);
    Ok(Repair { done, failed })
}

fn repair(store: &Store, networks: &Networks, network: &Definition, done: &mut Vec<String>) -> Result<()> {
    let name = &network.name;
    let pool = networks.pool(name);
    if !pool.folder().exists() {
        return Ok(());
    }
    let lock = pool.lock()?;
    let mut alive = Vec::new();
    for (lease, id) in pool.leases(&lock)? {
        if store.holds_lease(&id, name, lease) {
            alive.push((lease, id));
        } else {
            pool.remove_names(&lock, &id)?;
            shaping::forget(&network.port(lease))?;
            link::detach(network, lease)?;
            pool.give_back(&lock, lease, &id)?;
            done.push(format!("{name}: gave back number {lease} of {id}, which is gone"));
        }
    }
    for (_, id) in &alive {
        hold_again(store, id)?;
    }
    if alive.is_empty() || network.driver == Driver::Macvlan {
        return Ok(());
    }
    if link::find(network)?.is_some() {
        return Ok(rules::admit_forwarding(network)?);
    }
    bring_up(store, network, || Ok(alive))?;
    let bridge = || format!("the bridge {} or its rules", network.bridge());
    let what = if network.is_routed() { "its rules".into() } else { bridge() };
    done.push(format!("{name}: made {what} anew"));
    Ok(())
}

/// Holds a context to its rates, as far as something is missing of what held it.
fn hold_again(store: &Store, id: &str) -> Result<()> {
    let Ok(context) = store.open(id) else { return Ok(()) };
    match context.state.network {
        Some(Attached { port: Some(port), rates, .. }) if !rates.is_none() => {
            Ok(shaping::hold(&port, &rates)?)
        }
        _ => Ok(()),
    }
}

/// Brings a network up. A bridge or rules that had to be made anew get what they have lost: the ports of the bridge, those
/// of the machine, and who may send beyond the usual numbers. Gives the number of the device
/// that it stands on.
fn bring_up(
    store: &Store,
    network: &Definition,
    contexts: impl FnOnce() -> Result<Vec<(u32, String)>>,
) -> Result<u32> {
    if let Some(base) = link::find(network)? {
        return Ok(base);
    }
    let contexts = contexts()?;
    let leases: Vec<u32> = contexts.iter().map(|(lease, _)| *lease).collect();
    let base = link::make(network, &leases)?;
    for (lease, id) in contexts {
        rules::admit(network, lease)?;
        if let Some(own) = store.open(&id).ok().and_then(|context| context.state.network) {
            rules::publish(network, lease, &own.ports)?;
        }
    }
    Ok(base)
}

impl Store {
    /// The context lives, or is being made.
    #[must_use]
    pub fn is_alive(&self, id: &str) -> bool {
        Lock::is_held(&self.root().join(id))
            || self.open(id).is_ok_and(|context| context.alive().is_ok_and(|alive| alive.is_some()))
    }

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
