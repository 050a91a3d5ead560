//! `vctx events`: statistics and out-of-memory events, one JSON object a line, as runc prints them.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;
use vctx_runtime::events;
use vctx_runtime::state::Context;

use crate::args::{EventsArgs, Global};
use crate::create::store;
use crate::error::Error;
use crate::exit::ExitCode;
use crate::output;

/// Runs the verb. Without `--stats` it goes on until the context ends.
pub(crate) fn run(global: &Global, args: EventsArgs) -> Result<ExitCode, Error> {
    let context = store(global).open(&args.id)?;
    if args.stats {
        print_stats(&context)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.interval.is_zero() {
        return Err(Error::Interval);
    }
    watch(&context, args.interval)?;
    Ok(ExitCode::SUCCESS)
}

fn watch(context: &Context, interval: Duration) -> Result<(), Error> {
    let mut out_of_memory = events::out_of_memory(context)?;
    let Some(alive) = context.alive()? else { return Ok(()) };
    let mut next = Instant::now() + interval;
    loop {
        let rest = next.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX);
        let mut watched = [
            PollFd::new(alive.pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(out_of_memory.as_fd(), PollFlags::POLLIN | PollFlags::POLLPRI),
        ];
        let ready = match poll(&mut watched, timeout) {
            Err(nix::errno::Errno::EINTR) => continue,
            result => result.map_err(|error| Error::Wait(error.into()))?,
        };
        let ended = watched[0].any().unwrap_or(false);
        let notice = watched[1].any().unwrap_or(false);
        if notice && out_of_memory.read().map_err(vctx_runtime::Error::from)?.kills > 0 {
            output::text(&format!("{}\n", json!({"type": "oom", "id": context.state.id})))?;
        }
        if ended {
            return Ok(());
        }
        if ready == 0 {
            print_stats(context)?;
            next += interval;
        }
    }
}

fn print_stats(context: &Context) -> Result<(), Error> {
    let stats = events::stats(context)?;
    output::text(&format!("{}\n", json!({"type": "stats", "id": context.state.id, "data": stats})))
}
