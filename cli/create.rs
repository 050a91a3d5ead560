//! `vctx create`: a context whose program waits for `start`, from a bundle, or from what `run` takes.

use std::path::Path;

use vctx_context::brief;
use vctx_netns::Networks;
use vctx_runtime::config::Config;
use vctx_runtime::request::{Cgroups, Console, Request, Start};
use vctx_runtime::state::Store;
use vctx_storage::Place;

use crate::args::{CgroupManager, CreateArgs, Global, Handles};
use crate::error::Error;
use crate::exit::ExitCode;
use crate::log::Log;
use crate::run_args::RunArgs;

/// Runs the verb.
pub(crate) fn run(global: &Global, args: CreateArgs) -> Result<ExitCode, Error> {
    let (request, _lock) = match &args.from {
        None => (of_bundle(global, &args.id, &args.bundle, &args.handles, Start::Wait)?, None),
        Some(source) => {
            vctx_runtime::state::check_id(&args.id)?;
            let code = crate::image::ensure_suite(global, source)?;
            if code != ExitCode::SUCCESS {
                return Ok(code);
            }
            let native = crate::native::request(global, &RunArgs::of(&args, source))?;
            (Request { start: Start::Wait, ..native.request }, native.lock)
        }
    };
    let created = vctx_runtime::create::create(&store(global), request)?;
    Log::new(global).warnings(&created.warnings);
    crate::handles::send_pidfd(args.handles.pidfd_socket.as_deref(), &created.child)?;
    Ok(ExitCode::SUCCESS)
}

/// Where contexts are kept.
pub(crate) fn store(global: &Global) -> Store {
    Store::new(global.root.clone())
}

/// Where networks are kept.
pub(crate) fn networks(global: &Global) -> Networks {
    Networks::new(&Place::usual(global.root.as_deref()).store, store(global).root())
}

/// What is asked for with a bundle, for `create` and `run`.
pub(crate) fn of_bundle(
    global: &Global,
    id: &str,
    bundle: &Path,
    handles: &Handles,
    start: Start,
) -> Result<Request, Error> {
    // A wrong id is told before the bundle is looked for.
    vctx_runtime::state::check_id(id)?;
    let bundle =
        brief::real_path(bundle).map_err(|source| Error::Bundle { path: bundle.to_owned(), source })?;
    let config = Config::of_bundle(&bundle)?;
    Ok(Request {
        id: id.to_owned(),
        config,
        bundle,
        root: None,
        console: handles.console_socket.clone().map(Console::Listener),
        start,
        pid_file: handles.pid_file.clone(),
        preserve: crate::handles::preserve(handles.preserve_fds)?,
        no_pivot: handles.no_pivot,
        no_keyring: handles.no_new_keyring,
        cgroups: cgroups(global),
        own: Vec::new(),
        folders: Vec::new(),
        marks: Vec::new(),
        prepare: None,
        files: Vec::new(),
        joined: None,
        network: None,
        outer: None,
        shared: Vec::new(),
    })
}

/// Who makes control groups.
pub(crate) fn cgroups(global: &Global) -> Cgroups {
    match global.cgroup_manager {
        _ if global.systemd_cgroup => Cgroups::Systemd,
        CgroupManager::Systemd => Cgroups::Systemd,
        CgroupManager::Cgroupfs => Cgroups::Files,
        CgroupManager::Disabled => Cgroups::None,
    }
}
