//! What of an entry a copy keeps.

use crate::image::archive::{Entry, Kind};

use super::{Error, shown};

/// Whose the copies become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// The same numbers, as each side's context sees them.
    Same,
    /// All this user's and group's, as the target's context numbers them.
    One(u32, u32),
}

/// Which bits of a mode are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// Without set-user-id and set-group-id: with another owner they would give that one's rights away.
    Plain,
    /// All.
    All,
}

/// Which extended attributes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attributes {
    /// `user.*`, but for those that overlayfs reads.
    User,
    /// All that are not overlayfs's.
    All,
    /// Overlayfs's too: it is a layer that is copied.
    Layer,
}

/// What becomes of devices, pipes and sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// The copy is refused.
    Refuse,
    /// They are left out.
    Skip,
    /// Devices and pipes are made; sockets, which nobody listens on, are left out.
    Make,
}

/// Ids of a user namespace: (first inside, first outside, how many).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// Of users.
    pub users: Vec<(u32, u32, u32)>,
    /// Of groups.
    pub groups: Vec<(u32, u32, u32)>,
}

/// What a copy keeps.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Owners.
    pub owners: Owners,
    /// Modes.
    pub bits: Bits,
    /// Attributes.
    pub attributes: Attributes,
    /// Special files.
    pub specials: Specials,
    /// Ids of the context that is read, where it has ids of its own.
    pub source_ids: Option<Ids>,
    /// Ids of the context that is written.
    pub target_ids: Option<Ids>,
}

impl Rules {
    /// Everything as it is, for a copy within one store.
    #[must_use]
    pub fn layer() -> Rules {
        Rules {
            owners: Owners::Same,
            bits: Bits::All,
            attributes: Attributes::Layer,
            specials: Specials::Make,
            source_ids: None,
            target_ids: None,
        }
    }

    pub(super) fn mode(&self, mode: u32) -> u32 {
        match self.bits {
            Bits::Plain => mode & 0o1777,
            Bits::All => mode & 0o7777,
        }
    }

    pub(super) fn keeps(&self, attribute: &[u8]) -> bool {
        let overlay = attribute.starts_with(b"trusted.overlay.") || attribute.starts_with(b"user.overlay.");
        match self.attributes {
            Attributes::User => attribute.starts_with(b"user.") && !overlay,
            Attributes::All => !overlay,
            Attributes::Layer => true,
        }
    }

    /// The owner on disk of the copy of an entry.
    pub(super) fn owner(&self, entry: &Entry) -> Result<(u32, u32), Error> {
        let number = |id: u64| u32::try_from(id).unwrap_or(u32::MAX);
        let (user, group) = match self.owners {
            Owners::One(user, group) => (user, group),
            Owners::Same => (number(entry.owner.0), number(entry.owner.1)),
        };
        let fail = || Error::Owner { path: shown(&entry.path), user, group };
        // The last number stands for "leave as it is" in chown(2).
        if user == u32::MAX || group == u32::MAX {
            return Err(fail());
        }
        match &self.target_ids {
            None => Ok((user, group)),
            Some(ids) => map(&ids.users, user).zip(map(&ids.groups, group)).ok_or_else(fail),
        }
    }

    /// The owner of a source's file as its context sees it; what has no number there keeps its own.
    pub(super) fn seen(&self, user: u32, group: u32) -> (u64, u64) {
        let back = |ranges: &[(u32, u32, u32)], id: u32| {
            let turned: Vec<_> =
                ranges.iter().map(|&(inside, outside, length)| (outside, inside, length)).collect();
            map(&turned, id).unwrap_or(NOBODY)
        };
        match &self.source_ids {
            None => (user.into(), group.into()),
            Some(ids) => (back(&ids.users, user).into(), back(&ids.groups, group).into()),
        }
    }

    /// Whether an entry is taken at all.
    pub(super) fn takes(&self, entry: &Entry) -> Result<bool, Error> {
        let kind = match entry.kind {
            Kind::Fifo => "pipe",
            Kind::Character | Kind::Block => "device",
            _ => return Ok(true),
        };
        self.special(&entry.path, kind)
    }

    pub(super) fn special(&self, path: &[u8], kind: &'static str) -> Result<bool, Error> {
        match self.specials {
            Specials::Refuse => Err(Error::Special { path: shown(path), kind }),
            Specials::Skip => Ok(false),
            Specials::Make => Ok(kind != "socket"),
        }
    }
}

/// The kernel's number for who has none.
const NOBODY: u32 = 65534;

fn map(ranges: &[(u32, u32, u32)], id: u32) -> Option<u32> {
    ranges.iter().find_map(|&(from, to, length)| {
        let offset = id.checked_sub(from).filter(|offset| *offset < length)?;
        to.checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_through_both_namespaces() {
        let ids = Ids { users: vec![(0, 1000, 1), (1, 100_000, 10)], groups: vec![(0, 1000, 1)] };
        let rules = Rules { source_ids: Some(ids.clone()), target_ids: Some(ids), ..Rules::layer() };
        assert_eq!(rules.seen(100_004, 1000), (5, 0));
        assert_eq!(rules.seen(7, 7), (65534, 65534));
        assert_eq!(map(&[(0, 1000, 1), (1, 100_000, 10)], 10), Some(100_009));
        assert_eq!(map(&[(0, 1000, 1), (1, 100_000, 10)], 11), None);
    }
}
