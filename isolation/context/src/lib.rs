//! x

pub mod passwd;
pub mod seccomp;
