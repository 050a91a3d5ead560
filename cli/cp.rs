//! `vctx cp`: files into a context, out of it, and from one to another; `-` is a tar archive.
//!
//! Nothing of the guest is executed, and its links lead nowhere but in its own root. An ordinary user's contexts have
//! files of ids that only the root of their user namespace reaches: the work is then done by such a root.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, openat};
use vctx_context::apart;
use vctx_context::idmap::{Mappings, Range};
use vctx_runtime::view::View;
use vctx_storage::inside::LastLink;
use vctx_storage::transfer::{Attributes, Bits, Ids, Owners, Rules, Source, Specials, Target, copy, find};

use crate::args::Global;
use crate::create::store;
use crate::error::{self, Error};
use crate::exit::ExitCode;
use crate::log::Log;
use crate::output;
use crate::storage_args::{CpArgs, End, Special};

/// Runs the verb.
pub(crate) fn run(global: &Global, args: &CpArgs) -> Result<ExitCode, Error> {
    let ends = (Opened::of(global, &args.source)?, Opened::of(global, &args.target)?);
    if ends.0.view.is_none() && ends.1.view.is_none() {
        return Err(Error::NoContextNamed);
    }
    raise_descriptors();
    let mappings = [&ends.0, &ends.1].map(|end| end.view.as_ref().and_then(View::mappings));
    if nix::unistd::geteuid().is_root() {
        transfer(args, &ends, &mappings)?;
        return Ok(ExitCode::SUCCESS);
    }
    let both = mappings.iter().flatten().collect::<Vec<_>>();
    let ids = match both[..] {
        [one, other] if one != other => return Err(Error::DifferentIds),
        [ids, ..] => ids.clone(),
        [] => crate::native::own_ids(),
    };
    // In there, everybody sees the same ids.
    let work = || match transfer(args, &ends, &[None, None]) {
        Ok(()) => 0,
        Err(error) => {
            Log::new(global).failure(&error::chain(&error));
            1
        }
    };
    apart::code_as_root_of(&ids, work).map(ExitCode::from).map_err(Error::Apart)
}

/// One end of a copy.
struct Opened {
    end: End,
    view: Option<View>,
}

impl Opened {
    fn of(global: &Global, end: &End) -> Result<Opened, Error> {
        let view = match end {
            End::Context(id, _) => Some(View::of(&store(global), id)?),
            _ => None,
        };
        Ok(Opened { end: end.clone(), view })
    }

    /// The root, and the path in it; none for an archive.
    fn tree(&self) -> Result<Option<(OwnedFd, PathBuf)>, Error> {
        match (&self.end, &self.view) {
            (End::Context(_, path), Some(view)) => Ok(Some((view.open()?, path.clone()))),
            (End::Host(path), _) => {
                let fail = |source: io::Error| Error::ReadFact { path: path.clone(), source };
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let root = openat(CWD, "/", flags, Mode::empty()).map_err(|error| fail(error.into()))?;
                // `join` and `absolute` would take the end away that says what is meant.
                let here = std::env::current_dir().map_err(fail)?;
                Ok(Some((root, here.join(path))))
            }
            _ => Ok(None),
        }
    }
}

fn transfer(args: &CpArgs, ends: &(Opened, Opened), mappings: &[Option<Mappings>; 2]) -> Result<(), Error> {
    if [&ends.0, &ends.1].iter().any(|end| end.view.as_ref().is_some_and(View::mounts)) {
        apart::own_mounts().map_err(Error::OwnMounts)?;
    }
    for view in [&ends.0, &ends.1].iter().filter_map(|end| end.view.as_ref()).filter(|view| view.mounts()) {
        // A killed restore is finished before anybody looks.
        view.own().map_or(Ok(()), vctx_storage::snapshot::tidy)?;
    }
    let rules = rules(args, mappings);
    let last = if args.follow_link { LastLink::Followed } else { LastLink::Taken };
    let mut input = io::stdin().lock();
    let source = match ends.0.tree()? {
        Some((root, path)) => find(&root, &path, last)?,
        None => Source::Archive(&mut input),
    };
    match ends.1.tree()? {
        Some((root, path)) => copy(source, Target::Path(&root, &path), &rules)?,
        None => copy(source, Target::Archive(&mut output::stream()), &rules)?,
    }
    Ok(())
}

fn rules(args: &CpArgs, mappings: &[Option<Mappings>; 2]) -> Rules {
    // An archive only tells; what is made of it is asked again.
    let all = args.archive || args.target == End::Archive;
    Rules {
        owners: if all { Owners::Same } else { Owners::One(0, 0) },
        bits: if all { Bits::All } else { Bits::Plain },
        attributes: if all { Attributes::All } else { Attributes::User },
        specials: match args.special {
            Special::Refuse => Specials::Refuse,
            Special::Skip => Specials::Skip,
            Special::Make => Specials::Make,
        },
        source_ids: mappings[0].as_ref().map(ids),
        target_ids: mappings[1].as_ref().map(ids),
    }
}

/// As the storage names them.
pub(crate) fn ids(mappings: &Mappings) -> Ids {
    let list = |ranges: &[Range]| ranges.iter().map(|one| (one.inside, one.outside, one.length)).collect();
    Ids { users: list(&mappings.users), groups: list(&mappings.groups) }
}

/// Deep trees hold a descriptor a level.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum.map(|most| most.min(1 << 16)).or(limit.current);
    // Without it, the copy of a tree of hundreds of levels is refused.
    let _ = setrlimit(Resource::Nofile, limit);
}
