//! Device rules: which device nodes the group's processes may open or make. Version 1 has a white list (or a black
//! list) in files, version 2 runs a program, see `program`.

use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType};
use rustix::fs::{Mode as FileMode, OFlags, open};
use rustix::io::Errno;

use super::systemd::Scope;
use super::{Cgroup, Error, file, program};

pub(super) const MKNOD: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
pub(super) const ALL: u8 = MKNOD | READ | WRITE;

/// The rules every context gets before those of its configuration: nothing may be opened but the pseudo-devices of the
/// runtime specification and terminals; nodes may be made, which alone gives no access.
pub fn default_devices() -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{B, C};
    let rule =
        |allow, kind: Option<LinuxDeviceType>, major: Option<i64>, minor: Option<i64>, access: &str| {
            let mut rule =
                LinuxDeviceCgroupBuilder::default().allow(allow).access(access).build().unwrap_or_default();
            rule.set_typ(kind).set_major(major).set_minor(minor);
            rule
        };
    let mut rules = vec![
        rule(false, None, None, None, "rwm"),
        rule(true, Some(C), None, None, "m"),
        rule(true, Some(B), None, None, "m"),
    ];
    // null, zero, full, random, urandom; tty, console, ptmx.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule(true, Some(C), Some(major), Some(minor), "rwm"));
    }
    // The terminals behind /dev/pts.
    rules.push(rule(true, Some(C), Some(136), None, "rwm"));
    rules
}

/// A kind of device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Block,
    Char,
}

/// The nodes a rule speaks of; `None` is any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Nodes {
    pub(super) kind: Kind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
}

impl Nodes {
    fn covers(&self, other: &Nodes) -> bool {
        let number = |ours: Option<u32>, theirs| ours.is_none() || ours == theirs;
        self.kind == other.kind && number(self.major, other.major) && number(self.minor, other.minor)
    }

    fn meets(&self, other: &Nodes) -> bool {
        let number =
            |ours: Option<u32>, theirs: Option<u32>| ours.is_none() || theirs.is_none() || ours == theirs;
        self.kind == other.kind && number(self.major, other.major) && number(self.minor, other.minor)
    }
}

/// One rule, for one kind of node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) nodes: Nodes,
    pub(super) access: u8,
}

/// The rules in force: a default, then rules of which the last one that speaks of a node and an access decides.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) allow: bool,
    pub(super) rules: Vec<Rule>,
}

impl Policy {
    /// Reads the configuration's list. What it does not speak of is denied. A rule about everything replaces all
    /// rules before it.
    pub(super) fn parse(list: &[LinuxDeviceCgroup]) -> Result<Policy, Error> {
        let mut policy = Policy { allow: false, rules: Vec::new() };
        for entry in list {
            let refuse =
                |why: &str| Error::Value { field: "devices".into(), why: format!("has `{entry}`: {why}") };
            let access =
                access(entry.access().as_deref()).ok_or_else(|| refuse("access is made of r, w and m"))?;
            let number = |number: Option<i64>| match number {
                None | Some(-1) => Ok(None),
                // The kernel's numbers have 12 and 20 bits; the program compares with signed 32-bit constants.
                Some(number) if (0..=0x7fff_ffff).contains(&number) => Ok(Some(number as u32)),
                Some(_) => Err(refuse("device numbers are not negative and below 2^31")),
            };
            let (major, minor) = (number(entry.major())?, number(entry.minor())?);
            let kinds: &[Kind] = match entry.typ().unwrap_or_default() {
                LinuxDeviceType::A => &[Kind::Block, Kind::Char],
                LinuxDeviceType::B => &[Kind::Block],
                LinuxDeviceType::C | LinuxDeviceType::U => &[Kind::Char],
                LinuxDeviceType::P => return Err(refuse("a FIFO is no device that could be controlled")),
            };
            if kinds.len() == 2 && major.is_none() && minor.is_none() && access == ALL {
                policy = Policy { allow: entry.allow(), rules: Vec::new() };
                continue;
            }
            for &kind in kinds {
                policy.rules.push(Rule { allow: entry.allow(), nodes: Nodes { kind, major, minor }, access });
            }
        }
        Ok(policy)
    }
}

fn access(text: Option<&str>) -> Option<u8> {
    let text = text.filter(|text| !text.is_empty()).unwrap_or("rwm");
    text.bytes().try_fold(0, |bits, letter| match letter {
        b'r' => Some(bits | READ),
        b'w' => Some(bits | WRITE),
        b'm' => Some(bits | MKNOD),
        _ => None,
    })
}

impl Cgroup {
    /// Makes `list` the whole device policy of the group, first to last. On a running context what stays allowed is
    /// allowed throughout.
    pub(super) fn apply_devices(&self, list: &[LinuxDeviceCgroup]) -> Result<(), Error> {
        let policy = Policy::parse(list)?;
        match (self.v1_dir("devices"), self.v2_dir()) {
            (Some(dir), _) => match (&self.scope, List::of(&policy)?) {
                (Some(scope), list) => self.tell_first(scope, dir, &list),
                (None, list) => update_v1(dir, &list),
            },
            (None, Some(dir)) => program::replace(dir, &policy),
            (None, None) if policy.allow && policy.rules.is_empty() => Ok(()),
            (None, None) => Err(self.missing("devices", "the devices controller")),
        }
    }

    /// systemd writes its rules before we write ours, which may say more. In between less is allowed than before or
    /// after: the processes are stopped, so that none meets it.
    fn tell_first(&self, scope: &Scope, dir: &Path, list: &List) -> Result<(), Error> {
        let stopped_by_us = !self.is_frozen()?;
        if stopped_by_us {
            self.freeze()?;
        }
        let result =
            scope.tell_devices(list).and_then(|()| update_v1(dir, list)).and_then(|()| self.take_back(scope));
        if stopped_by_us {
            self.thaw()?;
        }
        result
    }
}

/// The policy as version 1 keeps it: a default and the exceptions from it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct List {
    pub(super) allow: bool,
    /// In the order of the configuration, which the kernel's own list then keeps as well.
    pub(super) exceptions: Vec<(Nodes, u8)>,
}

impl List {
    /// Flattens the rules, which is possible as long as no rule takes a part out of an earlier exception.
    pub(super) fn of(policy: &Policy) -> Result<List, Error> {
        let mut list = List { allow: policy.allow, exceptions: Vec::new() };
        for rule in &policy.rules {
            if rule.allow != list.allow {
                match list.exceptions.iter_mut().find(|(nodes, _)| *nodes == rule.nodes) {
                    Some((_, access)) => *access |= rule.access,
                    None => list.exceptions.push((rule.nodes, rule.access)),
                }
                continue;
            }
            for (nodes, access) in &mut list.exceptions {
                if rule.nodes.covers(nodes) {
                    *access &= !rule.access;
                } else if rule.nodes.meets(nodes) && rule.access & *access != 0 {
                    let verb = if rule.allow { "allow" } else { "deny" };
                    let (part, whole) = (line(&rule.nodes, rule.access), line(nodes, *access));
                    return Err(Error::Value {
                        field: "devices".into(),
                        why: format!(
                            "has `{verb} {part}` after `{whole}`: version 1 cannot except a part of a rule"
                        ),
                    });
                }
            }
            list.exceptions.retain(|(_, access)| *access != 0);
        }
        Ok(list)
    }

    /// Reads `devices.list`. A list that allows by default does not show its exceptions.
    pub(super) fn parse(text: &str) -> List {
        let mut list = List { allow: false, exceptions: Vec::new() };
        for line in text.lines() {
            let mut fields = line.split([' ', ':']);
            let kind = match fields.next() {
                Some("b") => Kind::Block,
                Some("c") => Kind::Char,
                Some("a") => {
                    list.allow = true;
                    continue;
                }
                _ => continue,
            };
            let mut number = || fields.next().and_then(|digits| digits.parse().ok());
            let nodes = Nodes { kind, major: number(), minor: number() };
            list.exceptions.push((nodes, access(fields.next()).unwrap_or(ALL)));
        }
        list
    }
}

/// Takes the group from its present list to `target` with as few writes as possible; what becomes allowed comes before
/// what becomes denied.
fn update_v1(dir: &Path, target: &List) -> Result<(), Error> {
    let now = List::parse(&file::read_value(&dir.join("devices.list"))?);
    let mut writer = Writer { dir, allow: None, deny: None };
    let mut present = now.exceptions.as_slice();
    if target.allow || target.allow != now.allow {
        match writer.write(target.allow, "a") {
            // The default of a group with children is fixed. That it allows by default was so before.
            Err(error) if now.allow == target.allow && error.write_errno() == Some(Errno::INVAL) => {}
            result => result?,
        }
        present = &[];
    }
    let less = |from: &[(Nodes, u8)], what: &[(Nodes, u8)]| {
        let of = |nodes: &Nodes| what.iter().find(|(one, _)| one == nodes).map_or(0, |(_, access)| *access);
        let rest = from.iter().map(|(nodes, access)| (*nodes, access & !of(nodes)));
        rest.filter(|(_, access)| *access != 0).collect::<Vec<_>>()
    };
    let (added, dropped) = (less(&target.exceptions, present), less(present, &target.exceptions));
    // Exceptions from a denying default allow, and the reverse.
    let (allowed, denied) = if target.allow { (dropped, added) } else { (added, dropped) };
    for (verdict, changes) in [(true, allowed), (false, denied)] {
        for (nodes, access) in changes {
            writer.write(verdict, &line(&nodes, access))?;
        }
    }
    Ok(())
}

/// `devices.allow` and `devices.deny`, each opened at most once.
struct Writer<'a> {
    dir: &'a Path,
    allow: Option<std::os::fd::OwnedFd>,
    deny: Option<std::os::fd::OwnedFd>,
}

impl Writer<'_> {
    fn write(&mut self, allow: bool, rule: &str) -> Result<(), Error> {
        let (name, slot) = match allow {
            true => ("devices.allow", &mut self.allow),
            false => ("devices.deny", &mut self.deny),
        };
        let failed = |errno| file::refused(&self.dir.join(name), rule, "devices", errno);
        let file = match slot {
            Some(file) => file,
            None => {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                slot.insert(open(self.dir.join(name), flags, FileMode::empty()).map_err(failed)?)
            }
        };
        rustix::io::write(file, rule.as_bytes()).map(drop).map_err(failed)
    }
}

/// A rule in the words of the kernel, `c 136:* rwm`.
pub(super) fn line(nodes: &Nodes, access: u8) -> String {
    let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
    let kind = if nodes.kind == Kind::Block { 'b' } else { 'c' };
    let line = format!("{kind} {}:{} ", number(nodes.major), number(nodes.minor));
    line + &letters(access)
}

/// An access in the words of the kernel and of systemd.
pub(super) fn letters(access: u8) -> String {
    [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .iter()
        .filter(|(bit, _)| access & bit != 0)
        .map(|p| p.1)
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test may panic")]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_later_rule_about_everything_replaces_the_earlier_ones() {
        let list =
            rules(r#"[{"allow":true,"type":"c","major":1,"access":"r"},{"allow":true,"access":"rwm"}]"#);
        assert_eq!(Policy::parse(&list).unwrap(), Policy { allow: true, rules: vec![] });
    }

    #[test]
    fn a_rule_without_numbers_is_about_all_of_them_and_not_about_number_0() {
        let policy =
            Policy::parse(&rules(r#"[{"allow":true,"type":"c","major":136,"access":"rw"}]"#)).unwrap();
        assert_eq!(policy.rules[0].nodes, Nodes { kind: Kind::Char, major: Some(136), minor: None });
        assert_eq!(line(&policy.rules[0].nodes, policy.rules[0].access), "c 136:* rw");
    }

    #[test]
    fn bad_rules_are_refused() {
        for bad in [
            r#"[{"allow":true,"type":"c","access":"rx"}]"#,
            r#"[{"allow":true,"type":"c","major":-2}]"#,
            r#"[{"allow":true,"type":"c","minor":4294967296}]"#,
            r#"[{"allow":true,"type":"p"}]"#,
        ] {
            assert!(Policy::parse(&rules(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn version_1_refuses_a_hole_in_a_wider_rule_instead_of_losing_it() {
        let hole = rules(
            r#"[{"allow":false},{"allow":true,"type":"c","access":"rwm"},
                {"allow":false,"type":"c","major":1,"minor":1,"access":"w"}]"#,
        );
        assert!(List::of(&Policy::parse(&hole).unwrap()).is_err());
    }

    #[test]
    fn version_1_keeps_the_order_of_the_configuration() {
        let list = rules(
            r#"[{"allow":true,"type":"c","major":10,"minor":229,"access":"rwm"},
                {"allow":true,"type":"b","major":8,"minor":20,"access":"rw"},
                {"allow":true,"type":"b","access":"m"}]"#,
        );
        let list = List::of(&Policy::parse(&list).unwrap()).unwrap();
        let text: Vec<String> = list.exceptions.iter().map(|(nodes, access)| line(nodes, *access)).collect();
        assert_eq!(text, ["c 10:229 rwm", "b 8:20 rw", "b *:* m"]);
    }

    #[test]
    fn version_1_drops_what_a_wider_later_rule_denies() {
        let list = rules(
            r#"[{"allow":false},{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
                {"allow":false,"type":"c","access":"m"}]"#,
        );
        let list = List::of(&Policy::parse(&list).unwrap()).unwrap();
        assert_eq!(list.exceptions.iter().map(|(_, access)| *access).collect::<Vec<_>>(), [READ | WRITE]);
    }

    #[test]
    fn the_kernels_list_reads_back() {
        let list = List::of(&Policy::parse(&default_devices()).unwrap()).unwrap();
        let text: Vec<String> = list.exceptions.iter().map(|(nodes, access)| line(nodes, *access)).collect();
        assert_eq!(List::parse(&text.join("\n")), list);
    }
}
