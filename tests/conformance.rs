//! The table in docs/spec-conformance.md says what the tests show: each test that it names has to be there, and each field
//! without one needs its reason.

use crate::harness::{Case, case};
use std::collections::HashSet;
use std::fs;
use std::path::Path;

pub fn cases() -> Vec<Case> {
    vec![case!(every_test_that_the_table_names_exists), case!(every_field_without_a_test_has_its_reason)]
}

const TABLE: &str = include_str!("../docs/spec-conformance.md");

fn every_test_that_the_table_names_exists() {
    assert_tests_exist(TABLE, 100);
}

/// The tests that a text names, more than `at_least`, are there.
#[track_caller]
pub fn assert_tests_exist(text: &str, at_least: usize) {
    let mut functions = HashSet::new();
    for folder in ["tests", "isolation", "runtime", "netns", "cli"] {
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), &mut functions);
    }
    let named: Vec<_> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.matches('_').count() > 2 && !name.contains(char::is_uppercase))
        .collect();
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
