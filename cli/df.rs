//! `vctx df`: what images, contexts, snapshots and volumes take on disk, and what of it nobody needs.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vctx_runtime::state::{Status, Store};
use vctx_storage::Place;
use vctx_storage::image::{self, Digest};
use vctx_storage::volume::Volumes;
use vctx_storage::{quota, snapshot, usage};

use crate::args::Global;
use crate::create::store;
use crate::error::Error;
use crate::exit::ExitCode;
use crate::image::{as_owner, places};
use crate::output;
use crate::storage_args::DfArgs;

/// One line.
struct Line {
    kind: &'static str,
    count: usize,
    used: usize,
    size: u64,
    reclaimable: u64,
    each: Vec<Value>,
}

/// Runs the verb.
pub(crate) fn run(global: &Global, args: &DfArgs) -> Result<ExitCode, Error> {
    // Found before the user changes: root of a user namespace has another home.
    let place = Place::usual(global.root.as_deref());
    let store = store(global);
    as_owner(global, || {
        let (contexts, snapshots) = contexts(&store, &place);
        let lines = [images(&place)?, contexts, snapshots, volumes(&place)?];
        if args.json {
            let object = |line: &Line| {
                let about = json!({
                    "count": line.count, "used": line.used, "size": line.size, "reclaimable": line.reclaimable,
                    "each": line.each,
                });
                (line.kind.to_lowercase(), about)
            };
            output::json(&lines.iter().map(object).collect::<serde_json::Map<_, _>>())?;
            return Ok(0);
        }
        let mut rows = vec![["KIND", "COUNT", "USED", "SIZE", "RECLAIMABLE"].map(str::to_owned).to_vec()];
        for line in &lines {
            let (size, reclaimable) = (output::size(line.size), output::size(line.reclaimable));
            rows.push(vec![
                line.kind.into(),
                line.count.to_string(),
                line.used.to_string(),
                size,
                reclaimable,
            ]);
        }
        output::table(&rows)?;
        Ok(0)
    })
}

/// Blobs and layers, each once, however many images have it.
fn images(place: &Place) -> Result<Line, Error> {
    let store = image::Store::new(&place.store);
    let images = store.images()?;
    let mut wanted: HashSet<Digest> = HashSet::new();
    for folder in contexts_of(place) {
        wanted.extend(image::mark::all(&folder)?);
    }
    let mut paths = Vec::new();
    for manifest in &wanted {
        paths.push(store.blob(manifest));
        // One that is damaged is for `image fsck`.
        for digest in store.details(manifest).iter().flat_map(|details| details.digests()) {
            paths.extend([store.blob(digest), store.layer(digest)]);
        }
    }
    paths.sort();
    paths.dedup();
    let size = usage::of(&["blobs", "layers"].map(|name| place.store.join(name))).own;
    let each = images.iter().map(|image| json!({ "name": image.name, "id": image.id, "size": image.size }));
    Ok(Line {
        kind: "Images",
        count: images.len(),
        used: images.iter().filter(|image| wanted.contains(&image.manifest)).count(),
        size,
        reclaimable: size.saturating_sub(usage::of(&paths).own),
        each: each.collect(),
    })
}

fn contexts(store: &Store, place: &Place) -> (Line, Line) {
    let line = |kind| Line { kind, count: 0, used: 0, size: 0, reclaimable: 0, each: Vec::new() };
    let (mut all, mut snapshots) = (line("Contexts"), line("Snapshots"));
    for folder in contexts_of(place) {
        let id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let status = store.open(&id).ok().and_then(|context| context.status().ok());
        // One without a state was there before the machine was started anew.
        let runs = status.is_some_and(|status| status != Status::Stopped);
        let parts = entries(&folder)
            .into_iter()
            .filter(|path| !path.ends_with("snapshots") && !path.ends_with("root"));
        let size = usage::of(&parts.collect::<Vec<_>>()).own;
        let limit = quota::look(&folder).ok().flatten();
        all.count += 1;
        all.used += usize::from(runs);
        all.size += size;
        all.reclaimable += if runs { 0 } else { size };
        all.each.push(json!({
            "name": id, "status": status.map_or_else(|| "unknown".to_owned(), |status| status.to_string()), "size": size,
            "limit": limit.filter(|limit| limit.bytes > 0).map(|limit| limit.bytes),
            "inodes": limit.map(|limit| limit.inodes_used),
            "inodes_limit": limit.filter(|limit| limit.inodes > 0).map(|limit| limit.inodes),
        }));
        for one in snapshot::list(&folder).unwrap_or_default() {
            let size = snapshot::size(&folder, &one.name);
            snapshots.count += 1;
            snapshots.size += size;
            snapshots.reclaimable += size;
            snapshots.each.push(json!({ "context": id, "name": one.name, "size": size }));
        }
    }
    (all, snapshots)
}

fn volumes(place: &Place) -> Result<Line, Error> {
    let volumes = Volumes::new(&place.store);
    let mut line = Line { kind: "Volumes", count: 0, used: 0, size: 0, reclaimable: 0, each: Vec::new() };
    for volume in volumes.list()? {
        let (users, size) = (volumes.users(&volume.name, &places(place))?, volumes.size(&volume.name));
        line.count += 1;
        line.used += usize::from(!users.is_empty());
        line.size += size;
        line.reclaimable += if users.is_empty() { size } else { 0 };
        line.each.push(json!({ "name": volume.name, "size": size, "contexts": users }));
    }
    Ok(line)
}

/// The folders of all contexts that have changes of their own.
pub(crate) fn contexts_of(place: &Place) -> Vec<PathBuf> {
    places(place).iter().flat_map(|place| entries(&place.join("contexts"))).collect()
}

/// The paths in a folder of ours; none where it is missing.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
