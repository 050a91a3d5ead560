//! The fine split, parent side: what the kernel needs to be told to make a context, and to reach into one.
//!
//! [`spawn`] is the clone itself and the parent's half of the handshake; the other modules prepare what the child
//! applies, or act on a context that runs. Nothing above this crate names a namespace flag.

pub mod apart;
pub mod brief;
pub mod capability;
pub mod cgroup;
pub mod criu;
pub mod exe;
pub mod idmap;
pub mod landlock;
pub mod mountinfo;
pub mod namespace;
pub mod passwd;
pub mod probe;
pub mod procfs;
pub mod seccomp;
pub mod spawn;
pub mod terminal;
pub mod watch;

pub use vctx_child as child;
