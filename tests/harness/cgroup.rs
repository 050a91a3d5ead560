//! Reads a context's control group, wherever this machine has it: version 1, version 2 or hybrid.

use super::Context;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the context's group in the hierarchy that carries `controller`.
pub fn folder(context: &Context, controller: &str) -> PathBuf {
    let name = context.spec["linux"]["cgroupsPath"].as_str().unwrap().trim_start_matches('/');
    let root = Path::new("/sys/fs/cgroup");
    if is_v2(controller) { root.join(name) } else { root.join(controller).join(name) }
}

/// Whether the unified hierarchy is the only one.
pub fn pure_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// Whether `controller` is on the unified hierarchy.
pub fn is_v2(controller: &str) -> bool {
    !Path::new("/sys/fs/cgroup").join(controller).is_dir()
}

/// The trimmed content of `v1` or of `v2`, whichever this machine has.
#[track_caller]
pub fn read(context: &Context, controller: &str, v1: &str, v2: &str) -> String {
    let file = folder(context, controller).join(if is_v2(controller) { v2 } else { v1 });
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.trim().to_string()
}

/// The processes in the context's group.
pub fn members(context: &Context, controller: &str) -> Vec<u32> {
    let list = fs::read_to_string(folder(context, controller).join("cgroup.procs")).unwrap();
    list.lines().map(|line| line.parse().unwrap()).collect()
}
