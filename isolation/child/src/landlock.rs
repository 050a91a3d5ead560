//! Landlock: the parts of its root that the guest may reach at all (landlock(7)). The rules are made while the context is set
//! up, so that `create` can name a path that is missing, and hold from just before the program on.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, OFlags, fstat};

use crate::Result;
use crate::failure::{At, at};
use crate::handshake::Step;
use crate::plan::Landlock;
use crate::{resolve, sys};

/// Makes the rules: each path is resolved inside the root, and stands for what lies there now.
pub(crate) fn prepare(landlock: &Landlock<'_>, root: BorrowedFd<'_>) -> Result<OwnedFd> {
    let ruleset = sys::landlock_create(landlock.handled).or_at(Step::Landlock)?;
    for (index, rule) in landlock.rules.iter().enumerate() {
        let allow = || {
            let place = resolve::open(root, rule.path, OFlags::PATH)?;
            let folder = FileType::from_raw_mode(fstat(&place)?.st_mode) == FileType::Directory;
            let allowed = if folder { rule.folder } else { rule.file };
            sys::landlock_allow(ruleset.as_fd(), place.as_fd(), allowed)
        };
        allow().map_err(at(Step::LandlockPath, index))?;
    }
    Ok(ruleset)
}

/// Holds the process to the rules.
pub(crate) fn hold(ruleset: Option<&OwnedFd>) -> Result<()> {
    ruleset.map_or(Ok(()), |ruleset| sys::landlock_restrict(ruleset.as_fd()).or_at(Step::Landlock))
}
