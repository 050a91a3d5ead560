//! Networks of contexts, by netlink and without a daemon. Nothing here knows of OCI: a namespace is a descriptor, a device
//! a name.
//!
//! [`device`] moves devices of the host into a namespace and back; `wire` is the socket that all requests go through.

pub mod device;

mod wire;
