//! `vctx run`: a context from creation to its end.

use std::path::Path;

use vctx_context::terminal;
use vctx_runtime::create::{Created, wants_terminal};
use vctx_runtime::request::{Console, Request, Start};
use vctx_runtime::state::Store;

use crate::args::Global;
use crate::create::{of_bundle, store};
use crate::error::Error;
use crate::exit::ExitCode;
use crate::handles;
use crate::log::Log;
use crate::native::Native;
use crate::run_args::RunArgs;
use crate::supervise::{Signals, Supervisor, become_subreaper};

/// Runs the verb. In the foreground it ends as the guest does.
pub(crate) fn run(global: &Global, args: RunArgs) -> Result<ExitCode, Error> {
    let asked = match &args.bundle {
        Some(bundle) => Native {
            request: of_bundle(global, &args.target, bundle, &args.handles, Start::Now)?,
            keep: args.keep,
            lock: None,
            volumes: None,
            warnings: Vec::new(),
        },
        None => crate::native::request(global, &args)?,
    };
    let foreground = Foreground {
        detach: args.detach,
        no_subreaper: args.no_subreaper,
        pidfd_socket: args.handles.pidfd_socket.as_deref(),
        // The caller may not have chosen the name.
        print_id: args.bundle.is_none(),
    };
    live(global, &foreground, asked, vctx_runtime::create::create)
}

/// How a context is lived with.
pub(crate) struct Foreground<'a> {
    /// Return as soon as it runs.
    pub(crate) detach: bool,
    /// Do not become the parent of its orphans.
    pub(crate) no_subreaper: bool,
    /// Where the pidfd of its first process goes.
    pub(crate) pidfd_socket: Option<&'a Path>,
    /// Print its name when it is detached.
    pub(crate) print_id: bool,
}

/// Makes the context, and unless it is detached, waits for its end and removes it.
pub(crate) fn live(
    global: &Global,
    foreground: &Foreground<'_>,
    asked: Native,
    make: impl FnOnce(&Store, Request) -> vctx_runtime::Result<Created>,
) -> Result<ExitCode, Error> {
    let Native { mut request, keep, lock, volumes, warnings } = asked;
    Log::new(global).warnings(&warnings);
    let store = store(global);
    let mut own_terminal = None;
    if wants_terminal(&request.config.spec) && request.console.is_none() {
        if foreground.detach {
            return Err(Error::DetachedTerminal);
        }
        let (ours, theirs) = terminal::pair().map_err(vctx_runtime::Error::from)?;
        own_terminal = Some(ours);
        request.console = Some(Console::Socket(theirs));
    }
    if foreground.detach {
        let created = make(&store, request)?;
        Log::new(global).warnings(&created.warnings);
        handles::send_pidfd(foreground.pidfd_socket, &created.child)?;
        if foreground.print_id {
            crate::output::text(&format!("{}\n", created.context.state.id))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !foreground.no_subreaper {
        become_subreaper()?;
    }
    let signals = Signals::take()?;
    let created = make(&store, request)?;
    Log::new(global).warnings(&created.warnings);
    // Other commands must be able to reach the context while it runs, and to change the store of images.
    drop((created.lock, lock, volumes));
    let result = handles::send_pidfd(foreground.pidfd_socket, &created.child)
        .and_then(|()| Supervisor::new(signals, created.child, own_terminal).run());
    if result.is_err() {
        // The guest may live. One error is told: the one that has led here.
        let _ = vctx_runtime::delete::delete(&store, &created.context.state.id, true);
    } else if !keep {
        let failed = vctx_runtime::delete::finish(&created.context)?;
        Log::new(global).warnings(&failed);
    }
    result
}
