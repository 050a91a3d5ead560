//! Who `--user` means, by the context's own /etc/passwd and /etc/group: pure parsing, before anything is started.
//!
//! Both files belong to the guest. They can be of any size and content, so reading is bounded, and a value that looks
//! like a number is one: a user *named* 1000 whose uid is 0 never gets anybody root (CVE-2016-3697), and no number wraps
//! around to 0 (CVE-2024-40635).

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{BufRead, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Far more than any real file of users has, in bytes.
const LARGEST_FILE: u64 = 4 << 20;
/// A group with thousands of members fits into a line, in bytes.
const LONGEST_LINE: u64 = 256 << 10;
/// The kernel's NGROUPS_MAX.
const MOST_GROUPS: usize = 65_536;

/// The identity of a context's first process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids, in the order of the file; none when the caller names a group.
    pub groups: Vec<u32>,
    /// For HOME; `/` when the user has no entry.
    pub home: PathBuf,
}

/// Which of the guest's files.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Database {
    /// Users.
    Passwd,
    /// Groups.
    Group,
}

impl std::fmt::Display for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passwd => "/etc/passwd",
            Self::Group => "/etc/group",
        })
    }
}

/// Why there is no such user.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part is missing, or there are too many.
    #[error("user {spec:?}: write a name or a number, or USER:GROUP")]
    Form {
        /// What was given.
        spec: String,
    },
    /// It looks like a number, and no id has it.
    #[error("user {spec:?}: an id is a number from 0 to 4294967294")]
    Number {
        /// What was given.
        spec: String,
    },
    /// The name is not in the file.
    #[error("{name:?} is not in the context's {database}")]
    Missing {
        /// The name.
        name: String,
        /// The file.
        database: Database,
    },
    /// The entry that was asked for makes no sense.
    #[error("the entry of {name:?} in the context's {database} is malformed")]
    Malformed {
        /// The name.
        name: String,
        /// The file.
        database: Database,
    },
    /// The file or a line of it is larger than what is read.
    #[error(
        "the context's {database} is too large (4 MiB, and 256 KiB for a line, are read); use numbers for --user"
    )]
    TooLarge {
        /// The file.
        database: Database,
    },
    /// The kernel takes 65,536.
    #[error("{name:?} is in more groups of the context's /etc/group than the kernel takes (65536)")]
    TooManyGroups {
        /// The name.
        name: String,
    },
    /// Reading failed.
    #[error("the context's {database} cannot be read")]
    Read {
        /// The file.
        database: Database,
        /// The cause.
        source: std::io::Error,
    },
}

/// Resolves `USER` or `USER:GROUP`, each a name or a number. A missing file is an empty one: `std::io::empty()`.
///
/// With a bare number the entry of that uid, if there is one, gives the group, the supplementary groups and the home
/// folder; without an entry the group is 0, as engines do. With a group there are no supplementary groups.
pub fn resolve_user(spec: &str, passwd: impl BufRead, group: impl BufRead) -> Result<User, Error> {
    let form = || Error::Form { spec: spec.to_owned() };
    let mut parts = spec.split(':');
    let (user, wanted_group) = (parts.next().unwrap_or_default(), parts.next());
    if user.is_empty() || wanted_group == Some("") || parts.next().is_some() {
        return Err(form());
    }
    let uid = number(user, spec)?;
    let gid = wanted_group.map(|name| number(name, spec)).transpose()?.flatten();

    let entry = find_user(user, uid, passwd)?;
    let (uid, mut resolved_gid, home, name) = match (entry, uid) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.home, Some(entry.name)),
        (None, Some(uid)) => (uid, 0, PathBuf::from("/"), None),
        (None, None) => return Err(Error::Missing { name: user.to_owned(), database: Database::Passwd }),
    };
    let mut groups = Vec::new();
    match (wanted_group, gid) {
        (Some(_), Some(gid)) => resolved_gid = gid,
        (Some(wanted), None) => resolved_gid = find_group(wanted, group)?,
        (None, _) => {
            if let Some(name) = name {
                groups = memberships(&name, user, group)?;
            }
        }
    }
    Ok(User { uid, gid: resolved_gid, groups, home })
}

/// An id, if the text looks like one at all: a sign or digits make it a number, and never a name.
fn number(text: &str, spec: &str) -> Result<Option<u32>, Error> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    id(text.as_bytes()).map(Some).ok_or_else(|| Error::Number { spec: spec.to_owned() })
}

/// 4294967295 is -1, which tells the kernel to leave an id as it is.
fn id(field: &[u8]) -> Option<u32> {
    let plain = field.first().is_some_and(u8::is_ascii_digit);
    let id = std::str::from_utf8(field).ok().filter(|_| plain)?.parse().ok()?;
    (id != u32::MAX).then_some(id)
}

struct Entry {
    name: Vec<u8>,
    uid: u32,
    gid: u32,
    home: PathBuf,
}

/// `name:password:uid:gid:comment:home:shell`, the first that fits. By uid, broken lines are passed over; by name they
/// are an error, because the next line of that name would be another identity.
fn find_user(name: &str, uid: Option<u32>, passwd: impl BufRead) -> Result<Option<Entry>, Error> {
    let mut lines = Lines::new(passwd, Database::Passwd);
    while let Some(line) = lines.next()? {
        let fields: Vec<&[u8]> = line.split(|&byte| byte == b':').collect();
        let fits = match uid {
            Some(uid) => fields.get(2).and_then(|field| id(field)) == Some(uid),
            None => fields[0] == name.as_bytes(),
        };
        if !fits {
            continue;
        }
        match (entry(&fields), uid) {
            (Some(entry), _) => return Ok(Some(entry)),
            (None, Some(_)) => {}
            (None, None) => {
                return Err(Error::Malformed { name: name.to_owned(), database: Database::Passwd });
            }
        }
    }
    Ok(None)
}

fn entry(fields: &[&[u8]]) -> Option<Entry> {
    let [name, _, uid, gid, _, home, ..] = fields else { return None };
    let home = if home.is_empty() { b"/" } else { *home };
    let sound = !name.is_empty() && !home.contains(&0);
    let home = PathBuf::from(OsString::from_vec(home.to_vec()));
    sound.then_some(Entry { name: name.to_vec(), uid: id(uid)?, gid: id(gid)?, home })
}

/// `name:password:gid:members`.
fn find_group(name: &str, group: impl BufRead) -> Result<u32, Error> {
    let mut lines = Lines::new(group, Database::Group);
    while let Some(line) = lines.next()? {
        let mut fields = line.split(|&byte| byte == b':');
        if fields.next() == Some(name.as_bytes()) {
            let gid = fields.nth(1).and_then(id);
            return gid.ok_or_else(|| Error::Malformed { name: name.to_owned(), database: Database::Group });
        }
    }
    Err(Error::Missing { name: name.to_owned(), database: Database::Group })
}

/// Every group that lists the member; broken lines give nothing.
fn memberships(member: &[u8], spec: &str, group: impl BufRead) -> Result<Vec<u32>, Error> {
    let mut groups = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut lines = Lines::new(group, Database::Group);
    while let Some(line) = lines.next()? {
        let mut fields = line.split(|&byte| byte == b':').skip(2);
        let (Some(gid), Some(members)) = (fields.next().and_then(id), fields.next()) else { continue };
        if members.split(|&byte| byte == b',').any(|one| one == member) && seen.insert(gid) {
            groups.push(gid);
        }
    }
    if groups.len() > MOST_GROUPS {
        return Err(Error::TooManyGroups { name: spec.to_owned() });
    }
    Ok(groups)
}

/// The lines of a file of the guest's, within bounds.
struct Lines<R> {
    source: R,
    database: Database,
    left: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn new(source: R, database: Database) -> Self {
        Self { source, database, left: LARGEST_FILE, line: Vec::new() }
    }

    /// The next line without its end.
    fn next(&mut self) -> Result<Option<&[u8]>, Error> {
        let database = self.database;
        self.line.clear();
        // One byte more than allowed tells a line that ends at the limit from one that goes on.
        let limit = LONGEST_LINE.min(self.left) + 1;
        let read = self.source.by_ref().take(limit).read_until(b'\n', &mut self.line);
        let length = read.map_err(|source| Error::Read { database, source })? as u64;
        if length == limit {
            return Err(Error::TooLarge { database });
        }
        self.left -= length;
        Ok((length > 0).then(|| self.line.strip_suffix(b"\n").unwrap_or(&self.line)))
    }
}
