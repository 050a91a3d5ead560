//! docs/threat-model.md names tests for each line that it draws, and for each attack what makes it succeed; docs/faults.md
//! names the tests of faults. All of it has to be there.

use crate::attacks;
use crate::conformance::assert_tests_exist;
use crate::harness::{Case, case};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

pub fn cases() -> Vec<Case> {
    vec![
        case!(every_test_that_the_threat_model_names_exists),
        case!(every_attack_is_known_to_bite),
        case!(every_defence_that_is_taken_away_names_attacks),
    ]
}

const MODEL: &str = include_str!("../docs/threat-model.md");
const FAULTS: &str = include_str!("../docs/faults.md");

fn every_test_that_the_threat_model_names_exists() {
    assert_tests_exist(MODEL, 60);
    assert_tests_exist(FAULTS, 12);
}

/// The defences of tests/bite, and the attacks that succeed without them.
fn defences() -> BTreeMap<String, Vec<String>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bite");
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let Some(name) =
            entry.file_name().to_str().and_then(|name| name.strip_suffix(".patch")).map(String::from)
        else {
            continue;
        };
        let text = fs::read_to_string(entry.path()).unwrap();
        let header =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().to_owned();
        assert!(
            !header("Defence: ").is_empty() && !header("Shows: ").is_empty(),
            "{name} has no whole header"
        );
        all.insert(name, header("Attacks: ").split_whitespace().map(String::from).collect());
    }
    all
}

fn names() -> BTreeSet<String> {
    attacks::cases().iter().map(|case| case.name().to_owned()).collect()
}

/// The rows of the table of attacks: the attack, its record, the defence in tests/bite, the peers.
fn rows() -> Vec<[String; 4]> {
    let table = MODEL.split("## The attacks").nth(1).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let columns: Vec<_> =
            row.trim_matches('|').split('|').map(|text| text.trim().trim_matches('`')).collect();
        <[&str; 4]>::try_from(columns).unwrap_or_else(|_| panic!("{row}")).map(String::from)
    })
    .collect()
}

fn every_attack_is_known_to_bite() {
    let (rows, defences) = (rows(), defences());
    let listed: BTreeSet<_> = rows.iter().map(|[attack, ..]| attack.clone()).collect();
    assert_eq!(listed, names(), "left: in the table; right: in tests/attacks");
    for [attack, _, defence, peers] in rows {
        match defences.get(&defence) {
            Some(attacks) => {
                assert!(attacks.contains(&attack), "{attack} is none of the attacks on {defence}")
            }
            None => assert!(peers.contains(char::is_numeric), "{attack} bites by neither a patch nor a peer"),
        }
    }
}

fn every_defence_that_is_taken_away_names_attacks() {
    let names = names();
    for (defence, attacks) in defences() {
        assert!(!attacks.is_empty(), "{defence} names no attack");
        let absent: Vec<_> = attacks.iter().filter(|attack| !names.contains(*attack)).collect();
        assert!(absent.is_empty(), "{defence} names what is no attack: {absent:?}");
    }
}
