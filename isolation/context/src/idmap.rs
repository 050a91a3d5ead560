//! User and group id mappings of a new user namespace (user_namespaces(7)).

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// One line of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub length: u32,
}

/// Mappings of both kinds of id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mappings {
    /// User ids.
    pub users: Vec<Range>,
    /// Group ids.
    pub groups: Vec<Range>,
}

/// Why a namespace could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("cannot write the id mapping {text:?} to {}", path.display())]
    Write {
        /// File in procfs.
        path: PathBuf,
        /// What was written.
        text: String,
        /// Cause.
        source: io::Error,
    },
    /// The helper is missing or cannot be run.
    #[error("cannot run {helper}, which maps the ids of an ordinary user; install the package uidmap")]
    Helper {
        /// `newuidmap` or `newgidmap`.
        helper: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// The helper refused.
    #[error("{helper} refused the mapping {text:?}: {message}; check /etc/subuid and /etc/subgid")]
    Refused {
        /// `newuidmap` or `newgidmap`.
        helper: &'static str,
        /// The mapping.
        text: String,
        /// Its words.
        message: String,
    },
}

impl Mappings {
    /// Maps one user and one group, which needs no privilege and no helper.
    #[must_use]
    pub fn single(inside: (u32, u32), outside: (u32, u32)) -> Mappings {
        let one = |inside, outside| vec![Range { inside, outside, length: 1 }];
        Mappings { users: one(inside.0, outside.0), groups: one(inside.1, outside.1) }
    }

    /// The mapping maps nothing but the caller: such a namespace must deny setgroups(2) when it is made without privilege.
    #[must_use]
    pub fn is_single(&self) -> bool {
        let one = |ranges: &[Range]| matches!(ranges, [Range { length: 1, .. }]);
        one(&self.users) && one(&self.groups)
    }

    /// The outside ids of inside ids, where they are mapped.
    #[must_use]
    pub fn outside(&self, user: u32, group: u32) -> Option<(u32, u32)> {
        Some((outside(&self.users, user)?, outside(&self.groups, group)?))
    }

    /// Root of the host is one of the outside ids.
    #[must_use]
    pub fn reaches_root(&self) -> bool {
        self.users.iter().any(|range| range.outside == 0 && range.length > 0)
    }

    /// Writes the mappings for the process `pid`: directly with the privilege, or for the caller alone; else by the
    /// setuid helpers.
    ///
    /// # Errors
    ///
    /// The kernel or the helper refused.
    pub fn write(&self, pid: i32, privileged: bool) -> Result<(), Error> {
        if !privileged && !self.is_single() {
            help("newuidmap", pid, &self.users)?;
            return help("newgidmap", pid, &self.groups);
        }
        if !privileged {
            write(pid, "setgroups", "deny".into())?;
        }
        write(pid, "gid_map", lines(&self.groups, '\n'))?;
        write(pid, "uid_map", lines(&self.users, '\n'))
    }
}

fn outside(ranges: &[Range], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.inside)?;
        (offset < range.length).then(|| range.outside.checked_add(offset))?
    })
}

fn lines(ranges: &[Range], separator: char) -> String {
    let mut text = String::new();
    for Range { inside, outside, length } in ranges {
        text.push_str(&format!("{inside} {outside} {length}{separator}"));
    }
    text
}

fn write(pid: i32, file: &str, text: String) -> Result<(), Error> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    fs::write(&path, &text).map_err(|source| Error::Write { path, text, source })
}

fn help(helper: &'static str, pid: i32, ranges: &[Range]) -> Result<(), Error> {
    let text = lines(ranges, ' ');
    let output = Command::new(helper)
        .arg(pid.to_string())
        .args(text.split_ascii_whitespace())
        .output()
        .map_err(|source| Error::Helper { helper, source })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Refused { helper, text, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_looked_up_in_its_range() {
        let mut mappings = Mappings::single((0, 0), (1000, 1000));
        assert!(mappings.is_single() && !mappings.reaches_root());
        mappings.users.push(Range { inside: 1, outside: 100_000, length: 65_536 });
        assert!(!mappings.is_single());
        assert_eq!(mappings.outside(5, 0), Some((100_004, 1000)));
        assert_eq!(mappings.outside(65_537, 0), None);
        assert_eq!(mappings.outside(0, 1), None);
    }
}
