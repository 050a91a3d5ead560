//! `vctx snapshot` and `vctx copy`: what a context has changed, kept under a name, brought back, or given to a new context.
//!
//! An ordinary user's contexts have files of the ids of a user namespace: all of it is done by the root of one.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use vctx_runtime::copy::{at_rest, when_stopped};
use vctx_runtime::state::Store;
use vctx_storage::snapshot::{self, Snapshot};
use vctx_storage::{Lifetime, Place};

use crate::args::Global;
use crate::create::store;
use crate::error::Error;
use crate::exit::ExitCode;
use crate::image::as_owner;
use crate::output;
use crate::storage_args::{CopyArgs, ListSnapshotsArgs, SnapshotVerb};

/// Runs the verb.
pub(crate) fn run(global: &Global, verb: SnapshotVerb) -> Result<ExitCode, Error> {
    // Found before the user changes: root of a user namespace has another place for states.
    let store = store(global);
    as_owner(global, || {
        match &verb {
            SnapshotVerb::Create(args) => {
                at_rest(&store, &args.id, |_, folder| Ok(snapshot::create(folder, &args.name).map(drop)?))?;
                output::text(&format!("{}\n", args.name))?;
            }
            SnapshotVerb::Ls(args) => list(&store, args)?,
            SnapshotVerb::Rm(args) => {
                for name in &args.names {
                    let folder = folder(&store, &args.id)?;
                    snapshot::delete(&folder, name)?;
                    output::text(&format!("{name}\n"))?;
                }
            }
            SnapshotVerb::Restore(args) => {
                when_stopped(&store, &args.id, "restore", |_, folder| {
                    Ok(snapshot::restore(folder, &args.name)?)
                })?;
            }
        }
        Ok(0)
    })
}

/// `vctx copy`.
pub(crate) fn copy(global: &Global, args: &CopyArgs) -> Result<ExitCode, Error> {
    let store = store(global);
    let place = Place::usual(global.root.as_deref());
    vctx_runtime::state::check_id(&args.new)?;
    let layers = place.layers(&args.new, Lifetime::Kept)?;
    as_owner(global, || {
        let copy = |from: &Path, to: &Path| Ok(snapshot::copy(from, to)?);
        vctx_runtime::copy::copy(&store, &args.source, &args.new, &layers.folder, copy)?;
        output::text(&format!("{}\n", args.new))?;
        Ok(0)
    })
}

/// Where the changes of a context lie.
fn folder(store: &Store, id: &str) -> Result<std::path::PathBuf, Error> {
    let context = store.open(id)?;
    context.state.own.first().cloned().ok_or_else(|| Error::NoChanges(id.into()))
}

fn list(store: &Store, args: &ListSnapshotsArgs) -> Result<(), Error> {
    let folder = folder(store, &args.id)?;
    let all = snapshot::list(&folder)?;
    let created = |one: &Snapshot| output::rfc3339(UNIX_EPOCH + Duration::from_secs(one.created));
    if args.json {
        let describe = |one: &Snapshot| json!({ "name": one.name, "created": created(one), "size": snapshot::size(&folder, &one.name) });
        return output::json(&all.iter().map(describe).collect::<Vec<Value>>());
    }
    let row = |one: &Snapshot| {
        let size = output::size(snapshot::size(&folder, &one.name));
        vec![one.name.clone(), created(one)[..16].replace('T', " "), size]
    };
    let head = ["SNAPSHOT", "CREATED", "SIZE"].map(str::to_owned).to_vec();
    output::table(&std::iter::once(head).chain(all.iter().map(row)).collect::<Vec<_>>())
}
