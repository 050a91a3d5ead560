//! The criu of a verb that was killed. It holds the lock of the context, and may wait for ever for pages that nobody sends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use vctx_context::criu::Service;
use vctx_context::{brief, procfs};

use crate::state::Context;
use crate::{Error, Result};

/// The file that names a criu at work: its id, its start time, and the id of the verb that it works for.
const FILE: &str = "criu";

/// How long a criu may take to die of SIGKILL.
const DEATH: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The file, removed when dropped: until then the criu is at work.
#[derive(Debug)]
pub(super) struct Named {
    path: PathBuf,
}

/// Names the criu of a verb, before it is asked for anything: one that was asked for nothing ends by itself.
pub(super) fn name(folder: &Path, service: &Service) -> Result<Named> {
    let path = folder.join(FILE);
    let pid = service.pid();
    let identity = procfs::identity(pid).map_err(Error::Proc)?;
    let start = identity.map_or(0, |identity| identity.start_time);
    let line = format!("{pid} {start} {}\n", std::process::id());
    brief::write(&path, line.as_bytes()).map_err(Error::state("write", &path))?;
    Ok(Named { path })
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Ends the criu of a verb that was killed, and what it has made or holds: all processes of the context. Where the verb
/// lives, or no criu is at work, nothing is done. For `delete --force` alone: processes that are being dumped have code of
/// criu's in them, and cannot go on.
pub(crate) fn end(context: &Context) -> Result<()> {
    let path = context.folder.join(FILE);
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(Error::state("read", &path))?,
    };
    let Some((pid, start, verb)) = parse(&text) else { return Ok(()) };
    let Some(raw) = Pid::from_raw(pid) else { return Ok(()) };
    // First the descriptor, then the look: in this order the id cannot change hands in between.
    let Ok(pidfd) = pidfd_open(raw, PidfdFlags::empty()) else { return Ok(()) };
    match procfs::identity(pid).map_err(Error::Proc)? {
        // A child whose parent has died has another one.
        Some(identity) if identity.start_time == start && identity.parent != verb => {}
        _ => return Ok(()),
    }
    let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    let mut descriptors = [PollFd::new(&pidfd, PollFlags::IN)];
    let _ = rustix::io::retry_on_intr(|| poll(&mut descriptors, Some(&DEATH)));
    match &context.state.cgroup {
        Some(cgroup) => Ok(cgroup.kill_all()?),
        None => Ok(()),
    }
}

/// None when it is no whole line: its writer was killed, before anything was asked of the criu.
fn parse(text: &str) -> Option<(i32, u64, i32)> {
    let mut words = text.strip_suffix('\n')?.split(' ');
    let mut next = || words.next();
    Some((next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_criu_is_named_by_a_whole_line() {
        assert_eq!(parse("12 345 6\n"), Some((12, 345, 6)));
        for torn in ["", "12", "12 345", "12 345 6", "12 345\n", "x 1 2\n"] {
            assert_eq!(parse(torn), None, "{torn:?}");
        }
    }
}
