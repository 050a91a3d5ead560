//! `vctx image`: takes images in and out of the store, lists and looks after them.
//!
//! `registry` hands over to the program that talks to registries. An ordinary user's layers hold files of the ids of a user namespace, so what changes the store is done by the root of
//! one with the same ids as the contexts will have.

mod registry;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::unistd::geteuid;
use serde_json::{Value, json};
use vctx_context::apart;
use vctx_storage::image::bootstrap::{Root, Suite};
use vctx_storage::image::collect::{Collected, Doing};
use vctx_storage::image::export::Form;
use vctx_storage::image::import::Import;
use vctx_storage::image::spec::Platform;
use vctx_storage::image::unpack::{Limits, Owners, Unpack};
use vctx_storage::image::{Image, Reference, Store};
use vctx_storage::place::Place;

use crate::args::Global;
use crate::error::{self, Error};
use crate::exit::ExitCode;
use crate::image_args::{ExportArgs, ExportForm, FsckArgs, GcArgs, ImageVerb, ImportArgs, ListImagesArgs};
use crate::log::Log;
use crate::native::own_ids;
use crate::output;
use crate::values::Size;

/// Runs the verb.
pub(crate) fn run(global: &Global, verb: ImageVerb) -> Result<ExitCode, Error> {
    // Found before the user changes: root of a user namespace has another home.
    let place = Place::usual(global.root.as_deref());
    let store = Store::new(&place.store);
    let apart = |work: &dyn Fn(Unpack) -> Result<u8, Error>| apart(global, work);
    match verb {
        ImageVerb::Pull(args) => apart(&|how| registry::pull(&store, &args, how)),
        ImageVerb::Push(args) => apart(&|how| registry::push(&store, &args, how)),
        ImageVerb::Verify(args) => apart(&|how| registry::verify(&store, &args, how)),
        ImageVerb::Import(args) => {
            // The tool finds its own way without root, which is not that of the layers.
            let root = bootstrapped(&store, &args)?;
            apart(&|how| import(&store, &args, root.as_ref(), how))
        }
        ImageVerb::Export(args) => apart(&|_| export(&store, &args)),
        ImageVerb::Ls(args) => list(&store, &args),
        ImageVerb::Rm(args) => apart(&|_| remove(&store, &place, &args.images)),
        ImageVerb::Inspect(args) => inspect(&store, &args.image),
        ImageVerb::Fsck(args) => apart(&|_| check(&store, &args)),
        ImageVerb::Gc(args) => apart(&|_| collect(&store, &place, &args)),
    }
}

/// The store of images, beside that of contexts.
pub(crate) fn store(global: &Global) -> Store {
    Store::new(Place::usual(global.root.as_deref()).store)
}

/// Does the work as whoever owns the files of contexts: root of a user namespace with their ids.
pub(crate) fn as_owner(global: &Global, work: impl FnOnce() -> Result<u8, Error>) -> Result<ExitCode, Error> {
    apart(global, |_| work())
}

/// Does the work as whoever owns the files of layers.
fn apart(global: &Global, work: impl FnOnce(Unpack) -> Result<u8, Error>) -> Result<ExitCode, Error> {
    let limits = Limits::default();
    if geteuid().is_root() {
        return work(Unpack { owners: Owners::Layer, privileged: true, limits }).map(ExitCode::from);
    }
    let ids = own_ids();
    let owners = if ids.is_single() { Owners::Caller } else { Owners::Layer };
    let work = || match work(Unpack { owners, privileged: false, limits }) {
        Ok(code) => code,
        Err(error) => {
            Log::new(global).failure(&error::chain(&error));
            1
        }
    };
    apart::code_as_root_of(&ids, work).map(ExitCode::from).map_err(Error::Apart)
}

/// Makes the image of a suite, unless it is there; other sources of a context need nothing. What fails without root is told
/// where it happens, and leaves a code.
pub(crate) fn ensure_suite(global: &Global, source: &str) -> Result<ExitCode, Error> {
    let store = store(global);
    if Suite::of(source).is_none() || store.find(source).is_ok() {
        return Ok(ExitCode::SUCCESS);
    }
    let args = ImportArgs::of(source);
    let root = bootstrapped(&store, &args)?;
    apart(global, |how| take_in(&store, &args, root.as_ref(), how).map(|_| 0))
}

/// The root of a suite, if that is what is asked for.
fn bootstrapped(store: &Store, args: &ImportArgs) -> Result<Option<Root>, Error> {
    match args.source.to_str().and_then(Suite::of) {
        Some(suite) => {
            let suite = Suite { include: args.include.clone(), mirror: args.mirror.clone(), ..suite };
            Ok(Some(store.bootstrap(&suite)?))
        }
        None if args.include.is_empty() && args.mirror.is_none() => Ok(None),
        None => Err(Error::NoSuite),
    }
}

fn import(store: &Store, args: &ImportArgs, root: Option<&Root>, how: Unpack) -> Result<u8, Error> {
    let images = take_in(store, args, root, how)?;
    let names: String = images.iter().map(|image| format!("{}\n", familiar(image))).collect();
    output::text(&names)?;
    Ok(0)
}

fn take_in(
    store: &Store,
    args: &ImportArgs,
    root: Option<&Root>,
    mut how: Unpack,
) -> Result<Vec<Image>, Error> {
    match args.limit {
        Some(Size::Bytes(bytes)) => how.limits.bytes = bytes,
        Some(Size::Max) => how.limits.bytes = u64::MAX,
        None => {}
    }
    let platform = args.platform.clone().unwrap_or_else(Platform::here);
    // A suite's image is called as it is asked for.
    let suite = root.and_then(|_| args.source.to_str()?.parse().ok());
    let import = Import {
        path: Some(&*args.source).filter(|path| *path != Path::new("-")),
        name: args.name.as_ref().or(suite.as_ref()),
        platform: &platform,
        unpack: how,
    };
    Ok(match root {
        Some(root) => vec![store.import_root(&import, root)?],
        None => store.import(&import)?,
    })
}

fn export(store: &Store, args: &ExportArgs) -> Result<u8, Error> {
    let image = store.find(&args.image)?;
    let is_standard = args.target == Path::new("-");
    let is_archive = is_standard || args.target.extension().is_some_and(|ending| ending == "tar");
    let form = match args.format {
        ExportForm::Docker => Form::Docker,
        ExportForm::Oci if is_archive => Form::Archive,
        ExportForm::Oci => Form::Folder,
    };
    if is_standard {
        store.export(&image, form, Path::new("standard output"), Some(&mut output::stream()))?;
    } else {
        store.export(&image, form, &args.target, None)?;
    }
    Ok(0)
}

fn list(store: &Store, args: &ListImagesArgs) -> Result<ExitCode, Error> {
    let images = store.images()?;
    if args.json {
        let all: Vec<Value> = images.iter().map(described).collect();
        output::json(&all)?;
    } else if args.quiet {
        let mut ids: Vec<&str> = images.iter().map(|image| image.id.hex()).collect();
        ids.sort_unstable();
        ids.dedup();
        output::text(&ids.iter().map(|id| format!("{}\n", &id[..12])).collect::<String>())?;
    } else {
        let head = ["IMAGE", "ID", "SIZE", "ADDED"].map(String::from).to_vec();
        let row = |image: &Image| {
            let added = output::rfc3339(moment(image));
            let id = image.id.hex()[..12].to_owned();
            vec![familiar(image), id, output::size(image.size), added[..16].replace('T', " ")]
        };
        output::table(&std::iter::once(head).chain(images.iter().map(row)).collect::<Vec<_>>())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn remove(store: &Store, place: &Place, images: &[String]) -> Result<u8, Error> {
    for image in images {
        let gone = store.remove(image)?;
        output::text(&gone.iter().map(|image| format!("{}\n", familiar(image))).collect::<String>())?;
    }
    store.collect(&places(place), Doing::Remove)?;
    Ok(0)
}

fn inspect(store: &Store, text: &str) -> Result<ExitCode, Error> {
    let image = store.find(text)?;
    let details = store.details(&image.manifest)?;
    let config: Value = serde_json::from_slice(&store.small(&image.id)?).map_err(Error::Json)?;
    let mut value = described(&image);
    value["layers"] = json!(details.manifest.layers);
    value["config"] = config;
    output::json(&value)?;
    Ok(ExitCode::SUCCESS)
}

fn check(store: &Store, args: &FsckArgs) -> Result<u8, Error> {
    let findings = store.check()?;
    if args.json {
        let all = findings.iter().map(|one| json!({ "image": one.image, "problem": one.problem }));
        output::json(&all.collect::<Vec<_>>())?;
    } else {
        let line = |image: &str, problem: &str| output::escape(&format!("{image}: {problem}")) + "\n";
        output::text(&findings.iter().map(|one| line(&one.image, &one.problem)).collect::<String>())?;
    }
    Ok(u8::from(!findings.is_empty()))
}

fn collect(store: &Store, place: &Place, args: &GcArgs) -> Result<u8, Error> {
    let doing = if args.dry_run { Doing::Look } else { Doing::Remove };
    let Collected { blobs, bytes, layers, partial } = store.collect(&places(place), doing)?;
    if args.json {
        let all = json!({ "blobs": blobs, "bytes": bytes, "layers": layers, "partial": partial });
        output::json(&all)?;
    } else {
        let size = output::size(bytes);
        output::text(&format!("{blobs} blobs ({size}), {layers} layers, {partial} unfinished\n"))?;
    }
    Ok(0)
}

/// Where contexts are, whose images stay.
pub(crate) fn places(place: &Place) -> Vec<PathBuf> {
    place.memory.iter().chain([&place.store]).cloned().collect()
}

fn described(image: &Image) -> Value {
    json!({
        "name": image.name,
        "id": image.id,
        "manifest": image.manifest,
        "size": image.size,
        "added": output::rfc3339(moment(image)),
    })
}

fn familiar(image: &Image) -> String {
    image.name.parse::<Reference>().map_or_else(|_| image.name.clone(), |name| name.familiar())
}

fn moment(image: &Image) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(image.added)
}
