//! `state.json`, torn or made by somebody else: it is refused, or says nothing that could hurt; and what hooks are told of
//! it is the state of the specification.
#![no_main]

use std::path::{Component, Path};

use libfuzzer_sys::fuzz_target;
use vctx_runtime::fuzzing;

fuzz_target!(|data: &[u8]| {
    let Ok(state) = fuzzing::state(data, "web") else { return };
    assert_eq!(state.id, "web");
    assert!(state.process.is_none_or(|(pid, _)| pid > 0), "signals would go to {:?}", state.process);
    let plain =
        |path: &Path| path.is_absolute() && path.components().all(|part| part != Component::ParentDir);
    for folder in &state.own {
        assert!(plain(folder) && folder.components().count() > 1, "{folder:?} would be removed");
    }
    if let Some(cgroup) = &state.cgroup {
        for (_, dir) in cgroup.directories() {
            assert!(plain(dir) && dir.components().count() > 1, "the processes of {dir:?} would be killed");
        }
    }
    let written = serde_json::to_vec(&state).unwrap();
    let again = fuzzing::state(&written, "web").unwrap();
    assert_eq!(serde_json::to_vec(&again).unwrap(), written);
    let told = fuzzing::hook_state(state, 7);
    let told: oci_spec::runtime::State = serde_json::from_value(told).unwrap();
    assert_eq!((told.id().as_str(), *told.pid()), ("web", Some(7)));
});
