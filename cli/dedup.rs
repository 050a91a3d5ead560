//! `vctx dedup`: equal files of contexts, snapshots and image layers come to share their place on disk.

use std::path::PathBuf;

use serde_json::json;
use vctx_storage::Place;
use vctx_storage::dedup::{Doing, Error as Failure, Found, can_share, dedup};

use crate::args::Global;
use crate::df::contexts_of;
use crate::error::Error;
use crate::exit::ExitCode;
use crate::image::as_owner;
use crate::output;
use crate::storage_args::DedupArgs;

/// Runs the verb.
pub(crate) fn run(global: &Global, args: &DedupArgs) -> Result<ExitCode, Error> {
    // Found before the user changes: root of a user namespace has another home.
    let place = Place::usual(global.root.as_deref());
    as_owner(global, || {
        if !place.store.exists() {
            return tell(args, Found::default());
        }
        if !can_share(&place.store) {
            return Err(Failure::Unfit(place.store.clone()).into());
        }
        let mut folders: Vec<PathBuf> =
            contexts_of(&place).into_iter().filter(|path| path.starts_with(&place.store)).collect();
        folders.push(place.store.join("layers"));
        let doing = if args.dry_run { Doing::Look } else { Doing::Share };
        tell(args, dedup(&folders, doing)?)
    })
}

fn tell(args: &DedupArgs, found: Found) -> Result<u8, Error> {
    let Found { files, equal, bytes, shared, passed } = found;
    if args.json {
        let all =
            json!({ "files": files, "equal": equal, "bytes": bytes, "shared": shared, "passed": passed });
        output::json(&all)?;
    } else {
        let (size, would) = (output::size(bytes), if args.dry_run { "would share" } else { "share now" });
        output::text(&format!("{equal} of {files} files {would} {size}; {shared} did before\n"))?;
    }
    Ok(0)
}
