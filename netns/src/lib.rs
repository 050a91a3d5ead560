//! Networks of contexts, by netlink and without a daemon. Nothing here knows of OCI: a namespace is a descriptor, a device
//! a name, a context an id.
//!
//! [`kind`] says which networks there are; [`network`] is one that was defined, [`store`] where definitions are kept;
//! [`lease`] who has which address, [`names`] how they find each other; [`bridge`] makes the devices and [`rules`] the
//! nftables. [`device`] moves devices of the host into a namespace and back; `wire` is the socket that all requests go
//! through.

pub mod bridge;
pub mod device;
pub mod error;
pub mod kind;
pub mod lease;
pub mod names;
pub mod network;
pub mod rules;
pub mod store;
pub mod subnet;

mod file;
mod wire;

pub use error::Error;
pub use kind::Network;
pub use network::Definition;
pub use store::Networks;
pub use subnet::Subnet;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
