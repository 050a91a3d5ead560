//! A configuration: from its bytes to the plan. What is refused is named; what is accepted can be planned, and is always
//! planned the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vctx_runtime::{Error, fuzzing, validate};

const FIELDS: [&str; 9] =
    ["annotations", "domainname", "hooks", "hostname", "linux", "mounts", "ociVersion", "process", "root"];

fuzz_target!(|data: &[u8]| {
    let Some(plan) = accept(data) else { return };
    assert_eq!(accept(data).as_deref(), Some(&*plan), "planned twice, and differently");
});

fn accept(data: &[u8]) -> Option<String> {
    let config = match fuzzing::config(data) {
        Ok(config) => config,
        Err(Error::ParseConfig { field, source, .. }) => {
            let at_the_top = source.to_string().contains('`') || !source.is_data();
            let object = data.trim_ascii_start().starts_with(b"{");
            assert!(!field.is_empty() || at_the_top || !object, "no field is named: {source}");
            return None;
        }
        Err(other) => panic!("{other}"),
    };
    match validate::validate(&config.spec) {
        Ok(()) => {
            Some(fuzzing::plan(&config.spec).unwrap_or_else(|error| panic!("only planning found: {error}")))
        }
        Err(Error::Invalid { field, .. }) => {
            assert!(FIELDS.iter().any(|top| field.starts_with(top)), "{field:?} is no field");
            None
        }
        Err(Error::Seccomp(_)) => None,
        Err(other) => panic!("an error without a field: {other}"),
    }
}
