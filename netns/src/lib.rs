//! Networks of contexts: which kinds there are, and what is done to a network namespace.
//!
//! The crate knows nothing of OCI: its arguments are names, descriptors and numbers.

pub mod kind;

pub use kind::Network;
