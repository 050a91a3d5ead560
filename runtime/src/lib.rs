//! The life of a context: from a configuration to a process and back to nothing.
//!
//! One file a verb; [`create`](mod@create) is the step list that all else serves. The crate prints nothing and knows no
//! command line, so that an agent in a domain can link it as the command does.

pub mod checkpoint;
pub mod config;
pub mod copy;
pub mod create;
pub mod delete;
pub mod error;
pub mod events;
pub mod exec;
pub mod hooks;
pub mod kill;
pub mod landlock;
pub mod lock;
pub mod network;
pub mod pause;
pub mod plan;
pub mod prepare;
pub mod request;
pub mod start;
pub mod state;
pub mod update;
pub mod validate;
pub mod view;

#[cfg(fuzzing)]
pub mod fuzzing;

mod ancestors;
mod content;
mod failure;
mod groups;
mod host;
mod idmapped;
mod kernel;
mod mount;
mod strict;
mod undo;

pub use error::Error;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
