//! The fine split, parent side: what a context is made of before its first process runs.

pub mod cgroup;
