//! Attacks that runtimes of this kind have met, set up for real: the guest is hostile and the host has canaries.
//!
//! One file a kind of attack. [`guest`] is what the hostile guest runs where a shell is not enough: the test program
//! itself, mounted into the context.

pub mod guest;

mod checkpoints;
mod copies;
mod descriptors;
mod devices;
mod executable;
mod files;
mod groups;
mod identity;
mod kernel;
mod paths;
mod procfs;
mod terminal;

use crate::harness::Case;

pub fn cases() -> Vec<Case> {
    [
        executable::cases(),
        descriptors::cases(),
        procfs::cases(),
        paths::cases(),
        devices::cases(),
        terminal::cases(),
        identity::cases(),
        kernel::cases(),
        groups::cases(),
        files::cases(),
        copies::cases(),
        checkpoints::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
