//! Rules for devices in the words of systemd.resource-control(5), for version 1, where systemd writes `devices.deny` and
//! `devices.allow` as we do.

use std::path::Path;

use zvariant::Value;

use crate::cgroup::devices::{Kind, List, Nodes, letters, line};
use crate::cgroup::{Error, file};

/// The properties for `list`. systemd has no word for an exception from a list that allows by default, and such a list
/// would allow all once it is written anew: it is refused. A rule about all devices with one minor number, or about a
/// major number that no driver or several have, is left out, and so denied by what systemd writes.
pub(super) fn properties(list: &List) -> Result<Vec<(&'static str, Value<'static>)>, Error> {
    let policy = if list.allow { "auto" } else { "strict" };
    if let Some((nodes, access)) = list.exceptions.first().filter(|_| list.allow) {
        let except = line(nodes, *access);
        let why =
            format!("allows all but `{except}`, which systemd cannot hold on cgroup v1: say what is allowed");
        return Err(Error::Value { field: "devices".into(), why });
    }
    let drivers = file::read(Path::new("/proc/devices"))?;
    let allowed = list
        .exceptions
        .iter()
        .filter_map(|(nodes, access)| Some((specifier(nodes, &drivers)?, letters(*access))));
    let none: Vec<(String, String)> = Vec::new();
    Ok(vec![
        ("DevicePolicy", Value::from(policy.to_owned())),
        // An empty list takes back what was said before.
        ("DeviceAllow", Value::from(none)),
        ("DeviceAllow", Value::from(allowed.collect::<Vec<_>>())),
    ])
}

/// What `DeviceAllow=` calls these nodes.
fn specifier(nodes: &Nodes, drivers: &str) -> Option<String> {
    let (word, folder) = match nodes.kind {
        Kind::Char => ("char", "/dev/char"),
        Kind::Block => ("block", "/dev/block"),
    };
    match (nodes.major, nodes.minor) {
        (Some(major), Some(minor)) => Some(format!("{folder}/{major}:{minor}")),
        (Some(major), None) => Some(format!("{word}-{}", driver(nodes.kind, major, drivers)?)),
        (None, None) => Some(format!("{word}-*")),
        (None, Some(_)) => None,
    }
}

/// The name of the driver with this number in `/proc/devices`, if it has no other number and the name is no pattern.
fn driver(kind: Kind, major: u32, drivers: &str) -> Option<&str> {
    let header = match kind {
        Kind::Char => "Character devices:",
        Kind::Block => "Block devices:",
    };
    let section = drivers.lines().skip_while(|line| *line != header).skip(1);
    let entries: Vec<(u32, &str)> = section
        .map_while(|line| line.trim_start().split_once(' '))
        .filter_map(|(number, name)| Some((number.parse().ok()?, name)))
        .collect();
    let (_, name) = entries.iter().find(|(number, _)| *number == major)?;
    let alone = entries.iter().filter(|(_, other)| other == name).count() == 1;
    (alone && !name.contains(['*', '?', '[', '\\'])).then_some(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test may panic")]
mod tests {
    use super::*;

    const DRIVERS: &str =
        "Character devices:\n  1 mem\n  5 /dev/tty\n136 pts\n\nBlock devices:\n  8 sd\n 65 sd\n259 blkext\n";

    fn nodes(kind: Kind, major: Option<u32>, minor: Option<u32>) -> Nodes {
        Nodes { kind, major, minor }
    }

    #[test]
    fn nodes_have_names_that_say_no_more() {
        let name = |kind, major, minor| specifier(&nodes(kind, major, minor), DRIVERS);
        assert_eq!(name(Kind::Char, Some(10), Some(200)).unwrap(), "/dev/char/10:200");
        assert_eq!(name(Kind::Block, Some(8), Some(0)).unwrap(), "/dev/block/8:0");
        assert_eq!(name(Kind::Char, Some(136), None).unwrap(), "char-pts");
        assert_eq!(name(Kind::Char, None, None).unwrap(), "char-*");
        // Two numbers have this name, no driver has that number, and no word says "any with this minor number".
        assert_eq!(name(Kind::Block, Some(8), None), None);
        assert_eq!(name(Kind::Char, Some(8), None), None);
        assert_eq!(name(Kind::Char, None, Some(3)), None);
    }

    #[test]
    fn an_exception_from_everything_is_refused() {
        let exception = (nodes(Kind::Char, Some(1), Some(1)), 2);
        assert!(properties(&List { allow: true, exceptions: vec![exception] }).is_err());
        assert!(properties(&List { allow: true, exceptions: vec![] }).is_ok());
    }
}
