//! The tables in docs/spec-conformance.md and docs/engines.md say what the tests show: each test that they name has to be
//! there, and each field of the specification without one needs its reason.

use crate::harness::{Case, case};
use std::collections::HashSet;
use std::fs;
use std::path::Path;

pub fn cases() -> Vec<Case> {
    vec![case!(every_test_that_the_tables_name_exists), case!(every_field_without_a_test_has_its_reason)]
}

const TABLE: &str = include_str!("../docs/spec-conformance.md");
const CALLS: &str = include_str!("../docs/engines.md");

fn every_test_that_the_tables_name_exists() {
    assert_tests_exist(TABLE, 100);
    assert_tests_exist(CALLS, 50);
}

/// The tests that a text names, more than `at_least`, are there.
#[track_caller]
pub fn assert_tests_exist(text: &str, at_least: usize) {
    let mut functions = HashSet::new();
    for folder in ["tests", "isolation", "runtime", "netns", "cli"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut functions);
    }
    // Words in code type: a test's name has some underscores, and neither spaces nor a path.
    let is_test = |name: &&str| {
        name.matches('_').count() > 2 && !name.contains([' ', '/', ':']) && !name.contains(char::is_uppercase)
    };
    let named: Vec<_> = text.split('`').skip(1).step_by(2).filter(is_test).collect();
    assert!(named.len() > at_least, "the text was read wrongly: {} names", named.len());
    let absent: Vec<_> = named.iter().filter(|name| !functions.contains(**name)).collect();
    assert!(absent.is_empty(), "named there, and no test: {absent:#?}");
}

/// The names of the functions without arguments in all sources below `folder`.
fn collect(folder: &Path, functions: &mut HashSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, functions);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let names = text.lines().filter_map(|line| line.trim().strip_prefix("fn ")?.strip_suffix("() {"));
            functions.extend(names.map(String::from));
        }
    }
}

fn every_field_without_a_test_has_its_reason() {
    let rows: Vec<_> =
        TABLE.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---")).collect();
    for row in rows.iter().filter(|row| !row.starts_with("| Field")) {
        let columns: Vec<_> = row.split('|').map(str::trim).collect();
        assert_eq!(columns.len(), 5, "{row}");
        assert!(columns[2].contains('`') || (columns[2] == "none" && !columns[3].is_empty()), "{row}");
    }
}
