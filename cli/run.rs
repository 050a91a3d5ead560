//! `vctx run`: a context from creation to its end.

use vctx_context::terminal;
use vctx_runtime::create::{Console, Start};

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
            warnings: Vec::new(),
        },
        None => crate::native::request(global, &args)?,
    };
    live(global, &args, asked)
}

/// Creates the context, and unless it is detached, waits for its end and removes it.
fn live(global: &Global, args: &RunArgs, asked: Native) -> Result<ExitCode, Error> {
    let Native { mut request, keep, lock, warnings } = asked;
    Log::new(global).warnings(&warnings);
    let store = store(global);
    let wants_terminal = request
        .config
        .spec
        .process()
        .as_ref()
        .and_then(oci_spec::runtime::Process::terminal)
        .unwrap_or(false);
    let mut own_terminal = None;
    if wants_terminal && request.console.is_none() {
        if args.detach {
            return Err(Error::DetachedTerminal);
        }
        let (ours, theirs) = terminal::pair().map_err(vctx_runtime::Error::from)?;
        own_terminal = Some(ours);
        request.console = Some(Console::Socket(theirs));
    }
    if args.detach {
        let created = vctx_runtime::create::create(&store, request)?;
        Log::new(global).warnings(&created.warnings);
        handles::send_pidfd(args.handles.pidfd_socket.as_deref(), &created.child)?;
        if args.bundle.is_none() {
            // The caller may not have chosen the name.
            crate::output::text(&format!("{}\n", created.context.state.id))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !args.no_subreaper {
        become_subreaper()?;
    }
    let signals = Signals::take()?;
    let created = vctx_runtime::create::create(&store, request)?;
    Log::new(global).warnings(&created.warnings);
    // Other commands must be able to reach the context while it runs, and to change the store of images.
    drop((created.lock, lock));
    let result = handles::send_pidfd(args.handles.pidfd_socket.as_deref(), &created.child)
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
