//! What only the fuzzers reach: the pure parts of a life, on bytes instead of files.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use bumpalo::Bump;
use oci_spec::runtime::Spec;
use vctx_context::child::plan::Plan;
use vctx_context::spawn;

use crate::config::Config;
use crate::plan::{Facts, RootFs};
use crate::state::{Context, State};
use crate::{Error, Result, mount};

/// Reads a configuration.
pub fn config(bytes: &[u8]) -> Result<Config> {
    Config::parse(bytes.to_vec(), Path::new("config.json"))
}

/// Plans a new context, and shows the plan without its addresses.
pub fn plan(spec: &Spec) -> Result<String> {
    with_plan(spec, |plan| {
        let text = format!("{plan:?}");
        let mut parts = text.split("0x");
        let mut shown = parts.next().unwrap_or_default().to_owned();
        parts.for_each(|part| shown.push_str(part.trim_start_matches(|c: char| c.is_ascii_hexdigit())));
        shown
    })
}

/// What is said of an error of the child.
pub fn explain(spec: &Spec, error: spawn::Error) -> Result<Error> {
    with_plan(spec, |plan| crate::failure::explain(error, plan))
}

fn with_plan<T>(spec: &Spec, look: impl FnOnce(&Plan<'_>) -> T) -> Result<T> {
    static NULL: LazyLock<File> =
        LazyLock::new(|| File::open("/dev/null").unwrap_or_else(|_| panic!("/dev/null")));
    let descriptor = NULL.as_fd();
    let facts = Facts {
        root: RootFs::Folder(PathBuf::from("/root")),
        join: vec![(descriptor, 1)],
        user_namespace: false,
        landlock: 0xffff,
        grantable: u64::MAX,
        no_setgroups: false,
        cgroups: vec![("cpu".into(), PathBuf::from("/sys/fs/cgroup/cpu/x"))],
        cgroup_links: vec![("cpu".into(), "cpuacct".into())],
        idmaps: Vec::new(),
        gate: false,
        keyring: true,
        scoped: true,
        start: Some(descriptor),
        no_pivot: false,
        proc: descriptor,
        tasks: Vec::new(),
        groups_later: true,
        close: Vec::new(),
        path: None,
        standard: Vec::new(),
        console: None,
        filter: None,
        preserve: u32::MAX,
    };
    let arena = Bump::new();
    crate::plan::new_context(&arena, spec, &facts).map(|plan| look(&plan))
}

/// Reads the `state.json` of a context.
pub fn state(bytes: &[u8], id: &str) -> serde_json::Result<State> {
    State::parse(bytes, id)
}

/// The state that hooks see.
pub fn hook_state(state: State, pid: i32) -> serde_json::Value {
    crate::hooks::state(&Context { folder: PathBuf::new(), state }, "creating", pid)
}

/// Mount options: flags to set and to clear, the same for all mounts below, propagation, and what is left for the file
/// system.
pub type MountOptions = ([u64; 4], Vec<(u64, bool)>, [bool; 3], Vec<String>);

/// Reads mount options.
pub fn mount_options(texts: &[&str]) -> MountOptions {
    let read = mount::options(texts.iter().copied());
    let data = read.data.iter().map(|(key, value)| match value {
        Some(value) => format!("{key}={value}"),
        None => (*key).to_owned(),
    });
    (
        [read.set, read.clear, read.set_recursive, read.clear_recursive],
        read.propagation.clone(),
        [read.bind, read.recursive, read.copy_up],
        data.collect(),
    )
}
