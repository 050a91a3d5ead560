//! The devices of a network, whatever they are: brought up with the first context, given to each, removed with the
//! network. `bridge`, `routed` and `macvlan` are the three ways.

use std::os::fd::BorrowedFd;

use crate::network::{Definition, Driver};
use crate::{Result, bridge, macvlan, routed, rules};

/// The number of the device of the machine that a network stands on, when all of it is up; 0 where there is none.
///
/// # Errors
///
/// The kernel does not answer, or the device of the machine is missing or down.
pub fn find(network: &Definition) -> Result<Option<u32>> {
    match network.driver {
        Driver::Bridge => bridge::find(network),
        Driver::Routed => routed::find(network),
        Driver::Macvlan => macvlan::parent(network).map(Some),
    }
}

/// Makes what is missing of a network. Gives the number as [`find`] does. `leases` are those of contexts that are there.
///
/// # Errors
///
/// The kernel refuses, nft is missing, or the device of the machine is missing or down.
pub fn make(network: &Definition, leases: &[u32]) -> Result<u32> {
    match network.driver {
        Driver::Bridge => bridge::make(network, leases),
        Driver::Routed => routed::make(network),
        Driver::Macvlan => macvlan::parent(network),
    }
}

/// What a context needs of its network, beside the network itself.
#[derive(Debug, Clone, Copy)]
pub struct Plug<'a> {
    /// Its number.
    pub lease: u32,
    /// Its network namespace.
    pub namespace: BorrowedFd<'a>,
    /// Ports of the machine lead to it.
    pub published: bool,
}

/// Gives a context its device, addresses and routes. `base` is what [`find`] gives.
///
/// # Errors
///
/// The kernel refuses.
pub fn attach(network: &Definition, base: u32, plug: Plug<'_>) -> Result<()> {
    match network.driver {
        Driver::Bridge => bridge::attach(network, base, plug.lease, plug.namespace),
        Driver::Routed => routed::attach(network, base, plug),
        Driver::Macvlan => macvlan::attach(network, base, plug),
    }
}

/// Takes away what a context leaves when its device has gone with its namespace. A parent that is gone has none of it.
///
/// # Errors
///
/// The kernel refuses.
pub fn detach(network: &Definition, lease: u32) -> Result<()> {
    if network.proxy { routed::answer_no_more(network, lease) } else { Ok(()) }
}

/// Removes a network that no context uses. `leases` are those of dead contexts.
///
/// # Errors
///
/// The kernel refuses, or nft is missing.
pub fn remove(network: &Definition, mut leases: impl Iterator<Item = u32>) -> Result<()> {
    leases.try_for_each(|lease| detach(network, lease))?;
    match network.driver {
        Driver::Bridge => {
            rules::remove(network)?;
            bridge::remove(network)
        }
        Driver::Routed => rules::remove(network),
        Driver::Macvlan => Ok(()),
    }
}
