//! Device rules: the program of version 2 and the list of version 1 allow what the rules say, read naively. The input is
//! the list as JSON, or else choices from which one is made.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use serde_json::{Value, json};
use vctx_context::cgroup::fuzzing::{device_list, device_program, read_device_list};
use vctx_fuzz::{Choices, machine};

const NUMBERS: [u32; 4] = [0, 1, 136, 0x7fff_ffff];

fuzz_target!(|data: &[u8]| {
    let rules: Vec<LinuxDeviceCgroup> = match serde_json::from_slice(data) {
        Ok(rules) => rules,
        Err(_) => serde_json::from_value(made(&mut Choices::new(data))).unwrap(),
    };
    let Ok(program) = device_program(&rules) else { return };
    let list = device_list(&rules).ok();
    if let Some((allow, lines)) = &list {
        // A list that allows by default does not show its exceptions.
        let shown = if *allow { "a *:* rwm\n".to_owned() } else { lines.join("\n") };
        assert_eq!(read_device_list(&shown), (*allow, if *allow { Vec::new() } else { lines.clone() }));
    }
    let mut numbers = NUMBERS.to_vec();
    let named = rules.iter().flat_map(|rule| [rule.major(), rule.minor()]).flatten().take(4);
    numbers.extend(named.filter_map(|number| u32::try_from(number).ok()));
    for (kind, letter) in [(1, 'b'), (2, 'c')] {
        for &major in &numbers {
            for &minor in &numbers {
                let naive = |bit| naive(&rules, letter, major, minor, bit);
                for access in 1..8_u32 {
                    let expected = [1, 2, 4].into_iter().all(|bit| access & bit == 0 || naive(bit));
                    let decided = machine::device(&program, kind, access, major, minor);
                    assert_eq!(decided, expected, "{letter} {major}:{minor} {access} by {rules:?}");
                }
                if let Some((allow, lines)) = &list {
                    for (bit, name) in [(1, 'm'), (2, 'r'), (4, 'w')] {
                        let excepted = lines.iter().any(|line| speaks(line, letter, major, minor, name));
                        assert_eq!(
                            excepted != *allow,
                            naive(bit),
                            "{letter} {major}:{minor} {name}: {lines:?}"
                        );
                    }
                }
            }
        }
    }
});

/// The last rule that speaks of the node and the access decides (runtime-spec, "Allowed Device list").
fn naive(rules: &[LinuxDeviceCgroup], letter: char, major: u32, minor: u32, bit: u32) -> bool {
    let mut allowed = false;
    for rule in rules {
        let kinds = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => true,
            LinuxDeviceType::B => letter == 'b',
            LinuxDeviceType::C | LinuxDeviceType::U => letter == 'c',
            LinuxDeviceType::P => false,
        };
        let number =
            |wanted: Option<i64>, number: u32| wanted.is_none_or(|one| one == -1 || one == i64::from(number));
        let name = ["", "m", "r", "", "w"][bit as usize];
        let access = rule.access().as_deref().filter(|text| !text.is_empty()).unwrap_or("rwm");
        if kinds && number(rule.major(), major) && number(rule.minor(), minor) && access.contains(name) {
            allowed = rule.allow();
        }
    }
    allowed
}

/// A line such as `c 1:* rw` speaks of the node and the access.
fn speaks(line: &str, letter: char, major: u32, minor: u32, access: char) -> bool {
    let mut words = line.split([' ', ':']);
    let mut next = || words.next().unwrap();
    let kind = next().starts_with(letter);
    let number = |text: &str, number: u32| text == "*" || text.parse() == Ok(number);
    let (majors, minors) = (number(next(), major), number(next(), minor));
    kind && majors && minors && next().contains(access)
}

fn made(choices: &mut Choices) -> Value {
    let mut rules = Vec::new();
    for _ in 0..1 + choices.below(12) {
        let mut rule = json!({ "allow": choices.yes() });
        if let Some(kind) = choices.one(&[None, Some("a"), Some("b"), Some("c"), Some("u")]) {
            rule["type"] = json!(kind);
        }
        for name in ["major", "minor"] {
            match choices.below(8) {
                0..3 => {}
                3 => rule[name] = json!(-1),
                place => rule[name] = json!(NUMBERS[place - 4]),
            }
        }
        if let Some(access) = choices.one(&[
            None,
            Some(""),
            Some("r"),
            Some("w"),
            Some("m"),
            Some("rw"),
            Some("mr"),
            Some("rwm"),
        ]) {
            rule["access"] = json!(access);
        }
        rules.push(rule);
    }
    Value::from(rules)
}
