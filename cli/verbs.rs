//! The verbs that act on a context and print nothing: start, kill, delete, pause, resume.

use vctx_runtime::kill::Scope;
use vctx_runtime::{delete, kill, pause, start};

use crate::args::{DeleteArgs, Global, KillArgs, PauseArgs, ResumeArgs, StartArgs};
use crate::create::store;
use crate::error::Error;
use crate::exit::ExitCode;
use crate::log::Log;

/// `vctx start`.
pub(crate) fn start(global: &Global, args: StartArgs) -> Result<ExitCode, Error> {
    start::start(&store(global), &args.id)?;
    Ok(ExitCode::SUCCESS)
}

/// `vctx kill`.
pub(crate) fn kill(global: &Global, args: KillArgs) -> Result<ExitCode, Error> {
    let scope = if args.all { Scope::All } else { Scope::First };
    kill::kill(&store(global), &args.id, args.signal.0, scope)?;
    Ok(ExitCode::SUCCESS)
}

/// `vctx delete`.
pub(crate) fn delete(global: &Global, args: DeleteArgs) -> Result<ExitCode, Error> {
    let failed = delete::delete(&store(global), &args.id, args.force)?;
    Log::new(global).warnings(&failed);
    Ok(ExitCode::SUCCESS)
}

/// `vctx pause`.
pub(crate) fn pause(global: &Global, args: PauseArgs) -> Result<ExitCode, Error> {
    pause::pause(&store(global), &args.id)?;
    Ok(ExitCode::SUCCESS)
}

/// `vctx resume`.
pub(crate) fn resume(global: &Global, args: ResumeArgs) -> Result<ExitCode, Error> {
    pause::resume(&store(global), &args.id)?;
    Ok(ExitCode::SUCCESS)
}
