//! Networks of contexts, by netlink and without a daemon. Nothing here knows of OCI: a namespace is a descriptor, a device
//! a name, a context an id.
//!
//! [`kind`] says which networks there are; [`network`] is one that was defined, [`store`] where definitions are kept, and `used`
//! what a new one can have;
//! [`lease`] who has which address, [`names`] how they find each other, [`resolver`] how they find the outside; [`link`] makes
//! the devices, of a [`bridge`], routed or macvlan; [`ports`] says who has which port of the machine, and [`rules`] and `guard`
//! are the nftables, `forward` and `zone` what is done where others drop; [`rate`] says how much may pass, and [`shaping`] holds contexts
//! to it; [`counters`] say what has passed. [`shared`] is for contexts without a network namespace; [`cni`] and [`usermode`]
//! have other programs make a network. [`device`] moves devices of the host into a namespace and back; `wire` is the socket
//! that all requests go through.

pub mod bridge;
pub mod cni;
pub mod counters;
pub mod device;
pub mod error;
pub mod kind;
pub mod lease;
pub mod link;
pub mod names;
pub mod network;
pub mod ports;
pub mod rate;
pub mod resolver;
pub mod rules;
pub mod shaping;
pub mod shared;
pub mod store;
pub mod subnet;
pub mod usermode;

mod file;
mod forward;
mod guard;
mod macvlan;
mod routed;
mod sysctl;
mod used;
mod wire;
mod zone;

pub use error::Error;
pub use kind::Network;
pub use network::Definition;
pub use store::Networks;
pub use subnet::Subnet;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
