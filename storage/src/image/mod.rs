//! Images: from a name, an archive or a registry to the folders below a context's overlay.
//!
//! `reference` parses names, `spec` what manifests say. `source` reads archives and layouts, `bootstrap` makes a root and `pack` an archive
//! of a folder; `acquire` takes an image in,
//! from them or from a registry (which is a program of its own), and has its layers unpacked: `archive` reads the entries
//! of a layer, `unpack` makes them, `tree` and `within` keep that inside the layer's folder. `joint` mends what
//! single layers cannot say, `stacks` has them in order. `store` holds all of it,
//! `index` the names, `settle` waits for the disk, `collect` and `check` clean up and look after it. `lookup` finds a file in a stack of layers.

pub mod acquire;
pub mod archive;
pub mod bootstrap;
pub mod check;
pub mod collect;
pub mod compression;
pub mod digest;
pub mod error;
pub mod export;
pub mod import;
pub mod index;
mod joint;
pub mod layers;
pub mod lookup;
pub mod mark;
pub mod pack;
pub mod reference;
pub mod remote;
mod settle;
pub mod source;
pub mod spec;
pub mod stacks;
pub mod store;
mod tree;
pub mod unpack;
mod within;

pub use digest::Digest;
pub use error::Error;
pub use index::{Details, Image};
pub use reference::Reference;
pub use store::{Access, Lock, Pin, Store};
