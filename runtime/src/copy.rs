//! A context that begins as another one is: its configuration and state under a new name. What it has changed is copied by
//! the caller, who knows where that lies.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use vctx_context::apart::{self, Guard};

use crate::network::{self, join::FILES};
use crate::plan::RootFs;
use crate::state::{Context, State, Status, Store, check_id};
use crate::{Error, Result, delete};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The first process of a context that has not run: an id that no process has.
const NEVER: (i32, u64) = (i32::MAX, 0);

/// Does work on the files of a context while they do not change: one that runs is frozen, and thawed afterwards also when
/// this process is killed.
///
/// # Errors
///
/// There is no such context, it was made from a bundle and so has no changes of its own, or what the work says.
pub fn at_rest(
    store: &Store,
    id: &str,
    work: impl FnOnce(&Context, &Path) -> std::result::Result<(), Failure>,
) -> Result<()> {
    let mut context = store.open(id)?;
    let guard = freeze(store, &context)?;
    let lock = context.lock()?;
    let status = context.status_locked(&lock)?;
    let done = match (context.state.process, context.state.own.first(), status) {
        (None, ..) => Err(Error::Unfinished { id: id.into() }),
        (_, None, _) => Err(Error::NoChanges { id: id.into() }),
        (_, _, Status::Creating | Status::Running | Status::Created) => {
            let hint = Some("it has just been thawed; try again");
            Err(Error::Status { verb: "copy", id: id.into(), status, hint })
        }
        (_, Some(folder), Status::Paused | Status::Stopped) => work(&context, folder).map_err(Error::Prepare),
    };
    drop(lock);
    drop(guard);
    done
}

/// Does work on the files of a context that has stopped.
///
/// # Errors
///
/// As [`at_rest`]; the context runs.
pub fn when_stopped(
    store: &Store,
    id: &str,
    verb: &'static str,
    work: impl FnOnce(&Context, &Path) -> std::result::Result<(), Failure>,
) -> Result<()> {
    let context = store.open(id)?;
    match context.status()? {
        Status::Stopped => at_rest(store, id, work),
        status => Err(Error::Status { verb, id: id.into(), status, hint: Some("stop it first") }),
    }
}

/// Freezes a context that runs. What thaws it lives on when this process is killed.
fn freeze(store: &Store, context: &Context) -> Result<Option<Guard>> {
    if context.status()? != Status::Running {
        return Ok(None);
    }
    let (own, id) = (store.clone(), context.state.id.clone());
    let thaw = move || drop(crate::pause::resume(&own, &id));
    let guard = apart::afterwards(thaw).map_err(Error::state("guard", &context.folder))?;
    crate::pause::pause(store, &context.state.id)?;
    Ok(Some(guard))
}

/// Makes the context `new` as a copy of `id`; `folder` is where its changes will lie, and `copy` brings them there.
///
/// # Errors
///
/// The name is taken, or a step fails; nothing is left then.
pub fn copy(
    store: &Store,
    id: &str,
    new: &str,
    folder: &Path,
    copy: impl FnOnce(&Path, &Path) -> std::result::Result<(), Failure>,
) -> Result<()> {
    check_id(new)?;
    if folder.exists() {
        return Err(Error::Exists { id: new.into() });
    }
    at_rest(store, id, |source, from| {
        let (place, lock) = store.reserve(new)?;
        let mut made = Context { folder: place, state: state(&source.state, new, from, folder) };
        let work = || -> std::result::Result<(), Failure> {
            let path = made.config_path();
            let configuration = configuration(source, &made, from, folder)?;
            fs::write(&path, configuration.bytes).map_err(Error::state("write", path))?;
            // From here on a killed copy is cleaned up by what was written.
            made.write()?;
            for (file, new) in configuration.files {
                fs::copy(&file, &new).map_err(Error::state("copy", file))?;
            }
            copy(from, folder)?;
            Ok(made.write_process(NEVER.0, NEVER.1)?)
        };
        let done = work();
        if done.is_err() {
            // One error is told: the one that has led here.
            let _ = delete::clear(&made);
            let _ = made.remove();
        }
        drop(lock);
        done
    })
}

fn state(source: &State, new: &str, from: &Path, to: &Path) -> State {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let moved = |path: &PathBuf| path.strip_prefix(from).map_or_else(|_| path.clone(), |rest| to.join(rest));
    let mounted = source.mounted.clone().map(|root| match root {
        RootFs::Mount { kind, options, within, at, links } => {
            let value = |value: String| replace(&value, from, to);
            let options = options.into_iter().map(|(key, text)| (key, text.map(value))).collect();
            let within = within.map(|path| moved(&path));
            RootFs::Mount { kind, options, within, at: moved(&at), links }
        }
        folder @ RootFs::Folder(_) => folder,
    });
    State {
        id: new.into(),
        bundle: moved(&source.bundle),
        rootfs: moved(&source.rootfs),
        created: now.as_secs(),
        created_nanos: now.subsec_nanos(),
        process: None,
        cgroup: None,
        own: vec![to.to_owned()],
        mounted,
        network: None,
        outer: None,
        shared: Vec::new(),
        ..source.clone()
    }
}

/// The configuration of a copy.
struct Configuration {
    bytes: Vec<u8>,
    /// What goes with the source and the copy needs as well, and where that has it.
    files: Vec<(PathBuf, PathBuf)>,
}

/// The configuration with the paths and the host name of the new context.
fn configuration(source: &Context, made: &Context, from: &Path, to: &Path) -> Result<Configuration> {
    let path = source.config_path();
    let wrong = |source| Error::Damaged { path: path.clone(), source };
    let bytes = fs::read(&path).map_err(Error::state("read", &path))?;
    let mut value: Value = serde_json::from_slice(&bytes).map_err(wrong)?;
    rewrite(&mut value, from, to);
    if value["hostname"] == *source.state.id {
        value["hostname"] = made.state.id.clone().into();
    }
    let files = files(&mut value, source, made);
    Ok(Configuration { bytes: serde_json::to_vec(&value).map_err(wrong)?, files })
}

/// The names and name servers that were written for the source alone.
fn files(value: &mut Value, source: &Context, made: &Context) -> Vec<(PathBuf, PathBuf)> {
    let network = source.state.network.as_ref().zip(source.folder.parent());
    let hosts = network.map(|(attached, root)| network::own_hosts(root, &source.state.id, attached));
    let mut files = Vec::new();
    for mount in value["mounts"].as_array_mut().into_iter().flatten() {
        let path = |key: &str| mount[key].as_str().map(PathBuf::from).unwrap_or_default();
        let (file, place) = (path("source"), path("destination"));
        let is_own = file.starts_with(&source.folder) || Some(&file) == hosts.as_ref();
        let is_known = FILES.iter().any(|known| place == Path::new(known));
        let Some(name) = place.file_name().filter(|_| is_own && is_known && file.is_file()) else { continue };
        let new = made.folder.join(name);
        mount["source"] = new.to_string_lossy().into();
        files.push((file, new));
    }
    files
}

fn rewrite(value: &mut Value, from: &Path, to: &Path) {
    match value {
        Value::String(text) => *text = replace(text, from, to),
        Value::Array(list) => list.iter_mut().for_each(|one| rewrite(one, from, to)),
        Value::Object(map) => map.values_mut().for_each(|one| rewrite(one, from, to)),
        _ => {}
    }
}

/// Paths in the folder of the one become paths in that of the other, also within the options of a mount.
fn replace(text: &str, from: &Path, to: &Path) -> String {
    text.replace(&format!("{}/", from.display()), &format!("{}/", to.display()))
}
