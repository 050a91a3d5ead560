//! `vctx gc`: what nobody needs goes, of all kinds, while other commands work.
//!
//! Contexts come first: what a killed `create` has named counts as used as long as it is there. Each kind has its own lock,
//! under which it is seen what is in use.

use serde_json::json;
use vctx_runtime::delete;
use vctx_storage::image::collect::{Collected, Doing};
use vctx_storage::volume::Volumes;
use vctx_storage::{Place, image, snapshot};

use crate::args::Global;
use crate::create::store;
use crate::df::contexts_of;
use crate::error::Error;
use crate::exit::ExitCode;
use crate::image::{as_owner, places};
use crate::output;
use crate::storage_args::CollectArgs;

/// Runs the verb.
pub(crate) fn run(global: &Global, args: &CollectArgs) -> Result<ExitCode, Error> {
    let place = Place::usual(global.root.as_deref());
    let store = store(global);
    let contexts = delete::unfinished(&store)?;
    if !args.dry_run {
        contexts.iter().try_for_each(|id| delete::sweep_unfinished(&store, id))?;
    }
    as_owner(global, || {
        if !place.store.exists() {
            return tell(args, &contexts, &[], Collected::default());
        }
        let volumes = volumes(&place, args)?;
        if args.dry_run {
            let collected = image::Store::new(&place.store).collect(&places(&place), Doing::Look)?;
            return tell(args, &contexts, &volumes, collected);
        }
        for folder in contexts_of(&place) {
            match snapshot::sweep(&folder) {
                // Somebody deletes the context.
                Err(_) if !folder.exists() => {}
                swept => swept?,
            }
        }
        let collected = image::Store::new(&place.store).collect(&places(&place), Doing::Remove)?;
        tell(args, &contexts, &volumes, collected)
    })
}

/// The volumes that have gone, or would.
fn volumes(place: &Place, args: &CollectArgs) -> Result<Vec<String>, Error> {
    let (volumes, places) = (Volumes::new(&place.store), places(place));
    if !args.dry_run {
        return Ok(volumes.prune(&places, args.volumes)?);
    }
    let mut unused = Vec::new();
    for volume in volumes.list()?.into_iter().filter(|_| args.volumes) {
        if volumes.users(&volume.name, &places)?.is_empty() {
            unused.push(volume.name);
        }
    }
    Ok(unused)
}

fn tell(
    args: &CollectArgs,
    contexts: &[String],
    volumes: &[String],
    collected: Collected,
) -> Result<u8, Error> {
    let Collected { blobs, bytes, layers, partial } = collected;
    if args.json {
        output::json(&json!({
            "contexts": contexts, "volumes": volumes,
            "images": { "blobs": blobs, "bytes": bytes, "layers": layers, "partial": partial },
        }))?;
        return Ok(0);
    }
    let (contexts, volumes, size) = (contexts.len(), volumes.len(), output::size(bytes));
    output::text(&format!(
        "{contexts} unfinished contexts, {volumes} volumes, {blobs} blobs ({size}), {layers} layers, {partial} unfinished\n"
    ))?;
    Ok(0)
}
