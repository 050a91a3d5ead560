//! Who the guest is: its user inside, and the ids of a user namespace on the host.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use nix::unistd::{getegid, geteuid};
use rustix::fs::OFlags;
use serde_json::{Value, json};
use vctx_context::idmap::{Mappings, Range};
use vctx_context::passwd::{self, User};

use super::target::Target;
use super::{NativeError, is_root};
use crate::error::Error;
use crate::run_args::{RunArgs, Userns};
use crate::values::Account;

/// The ids of a context.
#[derive(Debug)]
pub(super) struct Ids {
    /// Of its first process.
    pub(super) user: User,
    /// Of its user namespace, if it has one.
    pub(super) mappings: Option<Mappings>,
}

impl Ids {
    pub(super) fn of(args: &RunArgs, target: &Target) -> Result<Ids, Error> {
        let mappings = mappings(args)?;
        let user = user(args, target)?;
        if let Some(mappings) = &mappings {
            if mappings.outside(0, 0).is_none() {
                return Err(NativeError::NoRoot.into());
            }
            if mappings.outside(user.uid, user.gid).is_none() {
                return Err(NativeError::Unmapped(user.uid).into());
            }
        }
        Ok(Ids { user, mappings })
    }

    /// As the configuration has them: of users, and of groups.
    pub(super) fn mappings(&self) -> Option<(Value, Value)> {
        let list = |ranges: &[Range]| -> Value {
            let one = |range: &Range| json!({ "containerID": range.inside, "hostID": range.outside, "size": range.length });
            ranges.iter().map(one).collect()
        };
        self.mappings.as_ref().map(|both| (list(&both.users), list(&both.groups)))
    }

    /// A group of the guest exists on the host.
    pub(super) fn has_group(&self, group: u32) -> bool {
        self.mappings.as_ref().is_none_or(|mappings| mappings.outside(0, group).is_some())
    }
}

fn mappings(args: &RunArgs) -> Result<Option<Mappings>, NativeError> {
    let security = &args.security;
    if is_root() {
        if !security.idmap.is_empty() {
            return Err(NativeError::NoUserNamespace("--idmap"));
        }
        return match security.userns {
            Some(Userns::Auto) => Err(NativeError::NoUserNamespace("--userns auto")),
            _ => Ok(None),
        };
    }
    if security.userns == Some(Userns::Host) {
        return Err(NativeError::NeedsRoot("--userns host"));
    }
    if security.idmap.is_empty() {
        return Ok(Some(usual()));
    }
    let ranges = |of: fn(&crate::grants::IdMap) -> bool| {
        let range =
            |one: &crate::grants::IdMap| Range { inside: one.container, outside: one.host, length: one.size };
        security.idmap.iter().filter(|one| of(one)).map(range).collect()
    };
    Ok(Some(Mappings { users: ranges(|one| one.users), groups: ranges(|one| one.groups) }))
}

/// Root inside is the caller. The others are of the caller's subordinate ranges, where there are such.
pub(crate) fn usual() -> Mappings {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let mut mappings = Mappings::single((0, 0), (uid, gid));
    if !["newuidmap", "newgidmap"].iter().all(|helper| is_installed(helper)) {
        return mappings;
    }
    let name = name_of(uid);
    let subordinate = |file| fs::read_to_string(file).ok().and_then(|text| first_range(&text, uid, &name));
    if let (Some(users), Some(groups)) = (subordinate("/etc/subuid"), subordinate("/etc/subgid")) {
        mappings.users.push(users);
        mappings.groups.push(groups);
    }
    mappings
}

fn is_installed(helper: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(helper).is_file())
}

/// The host's own name of a user, without the name service, which a static program does not have.
fn name_of(uid: u32) -> String {
    let text = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let id = uid.to_string();
    let name = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(&id)).then(|| name.to_owned())
    });
    name.unwrap_or_default()
}

/// `NAME:START:LENGTH` (subuid(5)), mapped from id 1 on.
fn first_range(text: &str, uid: u32, name: &str) -> Option<Range> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let (start, length) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        let is_ours = (!name.is_empty() && owner == name) || owner.parse() == Ok(uid);
        (is_ours && length > 0).then_some(Range { inside: 1, outside: start, length })
    })
}

fn user(args: &RunArgs, target: &Target) -> Result<User, NativeError> {
    let text = |account: &Account| match account {
        Account::Id(id) => id.to_string(),
        Account::Name(name) => name.clone(),
    };
    let spec = match (&args.process.user, target.settings()) {
        (Some(wanted), _) => match &wanted.group {
            Some(group) => format!("{}:{}", text(&wanted.user), text(group)),
            None => text(&wanted.user),
        },
        (None, Some(settings)) if !settings.user.is_empty() => settings.user.clone(),
        _ => return Ok(User { uid: 0, gid: 0, groups: Vec::new(), home: "/root".into() }),
    };
    let open = |file: &'static str| -> Result<Box<dyn BufRead>, NativeError> {
        // A pipe in the root must not make us wait.
        match target.open(Path::new(file), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
            Ok(descriptor) => Ok(Box::new(BufReader::new(fs::File::from(descriptor)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Box::new(io::empty())),
            Err(source) => Err(NativeError::UserFile { file, source }),
        }
    };
    Ok(passwd::resolve_user(&spec, open("/etc/passwd")?, open("/etc/group")?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_range_of_a_user_is_found_by_name_or_number() {
        let text = "root:1:1\nada:100000:65536\n1000:300000:10\n:5:5\n";
        let range = |outside, length| Some(Range { inside: 1, outside, length });
        assert_eq!(first_range(text, 7, "ada"), range(100_000, 65_536));
        assert_eq!(first_range(text, 1000, ""), range(300_000, 10));
        assert_eq!(first_range(text, 8, ""), None);
    }
}
