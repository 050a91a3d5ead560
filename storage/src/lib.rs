//! Where a context's writable layer lies, and what its root file system is made of.
//!
//! [`place`] finds the folder of a context's layers, on a file system that can carry them; [`mounts`] reads what the host
//! has mounted; [`host`] and [`overlay`] say of which overlays a root consists. Nothing is mounted or made here: the
//! results are descriptions, which the runtime makes in the context's own mount namespace.

pub mod dedup;
pub mod host;
pub mod image;
pub mod inside;
pub mod mounts;
pub mod overlay;
pub mod place;
pub mod quota;
pub mod snapshot;
pub mod transfer;
pub mod usage;
pub mod volume;

pub use overlay::{Lowers, NewFolder, Overlay};
pub use place::{Layers, Lifetime, Place};

mod disk;
mod kernel;
mod program;

use std::io;
use std::path::PathBuf;

/// Why there is no root file system.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Changes were to be kept, and the store's file system cannot hold an overlay's upper layer.
    #[error(
        "{} is on {kind}, which cannot keep the changes of a context; use --ephemeral, or another store with --root",
        path.display()
    )]
    Unfit {
        /// The store.
        path: PathBuf,
        /// Its file system.
        kind: &'static str,
    },
    /// Nowhere is there a place for changes that are thrown away.
    #[error("neither {} nor a tmpfs can hold the changes of a context; give a folder on ext4, xfs or btrfs with --root", path.display())]
    NoPlace {
        /// The store.
        path: PathBuf,
    },
    /// The kernel takes 255 bytes for a path among the options of a mount.
    #[error("{} is longer than the 255 bytes that overlayfs takes; use a shorter path", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// An image of nothing.
    #[error("the image has no layers, and so nothing to run")]
    NoLower,
    /// A comma would end the option.
    #[error("{} contains a comma, which overlayfs cannot take; rename it, or bind it to another place", path.display())]
    Comma {
        /// The path.
        path: PathBuf,
    },
    /// An ordinary user's overlay of a folder with mounts below it.
    #[error("{} has mounts below it, such as {}; without root an overlay needs a folder without", path.display(), below.display())]
    MountsBelow {
        /// The lower folder.
        path: PathBuf,
        /// One of them.
        below: PathBuf,
    },
    /// A folder of the host cannot be looked at.
    #[error("cannot look at {}", path.display())]
    Look {
        /// The folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}
