//! Networks of contexts, by netlink and without a daemon. Nothing here knows of OCI: a namespace is a descriptor, a device
//! a name.
//!
//! [`kind`] says which networks there are; [`device`] moves devices of the host into a namespace and back; `wire` is the
//! socket that all requests go through.

pub mod device;
pub mod kind;

mod wire;

pub use kind::Network;
