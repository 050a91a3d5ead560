//! `vctx volume`: folders that outlive contexts.
//!
//! An ordinary user's volumes hold files of the ids of a user namespace, so they are removed and measured by the root of
//! one with the same ids as the contexts have.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use vctx_storage::Place;
use vctx_storage::volume::{Volume, Volumes};

use crate::args::Global;
use crate::error::Error;
use crate::exit::ExitCode;
use crate::image::{as_owner, places};
use crate::output;
use crate::storage_args::{ListVolumesArgs, VolumeVerb};

/// Runs the verb.
pub(crate) fn run(global: &Global, verb: VolumeVerb) -> Result<ExitCode, Error> {
    // Found before the user changes: root of a user namespace has another home.
    let place = Place::usual(global.root.as_deref());
    let volumes = Volumes::new(&place.store);
    match verb {
        VolumeVerb::Create(args) => {
            let labels: BTreeMap<_, _> = args.label.into_iter().map(|one| (one.key, one.value)).collect();
            let made = volumes.create(&args.name, labels)?;
            output::text(&format!("{}\n", made.name))?;
            Ok(ExitCode::SUCCESS)
        }
        VolumeVerb::Ls(args) => as_owner(global, || list(&volumes, &place, &args)),
        VolumeVerb::Rm(args) => as_owner(global, || {
            for name in &args.names {
                volumes.remove(name, &places(&place))?;
                output::text(&format!("{name}\n"))?;
            }
            Ok(0)
        }),
        VolumeVerb::Inspect(args) => as_owner(global, || {
            let all: Result<Vec<Value>, Error> =
                args.names.iter().map(|name| describe(&volumes, &place, &volumes.open(name)?)).collect();
            output::json(&all?)?;
            Ok(0)
        }),
        VolumeVerb::Prune(args) => as_owner(global, || {
            for name in volumes.prune(&places(&place), args.all)? {
                output::text(&format!("{name}\n"))?;
            }
            Ok(0)
        }),
    }
}

fn list(volumes: &Volumes, place: &Place, args: &ListVolumesArgs) -> Result<u8, Error> {
    let all = volumes.list()?;
    if args.quiet {
        output::text(&all.iter().map(|one| format!("{}\n", one.name)).collect::<String>())?;
    } else if args.json {
        let all: Result<Vec<Value>, Error> = all.iter().map(|one| describe(volumes, place, one)).collect();
        output::json(&all?)?;
    } else {
        let mut rows = vec![["VOLUME", "CREATED", "SIZE", "USED BY"].map(str::to_owned).to_vec()];
        for volume in &all {
            let users = volumes.users(&volume.name, &places(place))?;
            let size = output::size(volumes.size(&volume.name));
            rows.push(vec![
                volume.name.clone(),
                created(volume)[..16].replace('T', " "),
                size,
                users.join(","),
            ]);
        }
        output::table(&rows)?;
    }
    Ok(0)
}

fn describe(volumes: &Volumes, place: &Place, volume: &Volume) -> Result<Value, Error> {
    Ok(json!({
        "name": volume.name,
        "created": created(volume),
        "labels": volume.labels,
        "mountpoint": volumes.data(&volume.name),
        "size": volumes.size(&volume.name),
        "contexts": volumes.users(&volume.name, &places(place))?,
    }))
}

fn created(volume: &Volume) -> String {
    output::rfc3339(UNIX_EPOCH + Duration::from_secs(volume.created))
}
