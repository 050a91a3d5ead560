//! Stopping and resuming all processes of the group.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Cgroup, Error, Home, file};

/// How long freezing may take. A process that the kernel cannot stop (in the middle of a page fault from a dead network
/// file system) would otherwise hold us for ever.
const BOUND: Duration = Duration::from_secs(3);

impl Cgroup {
    /// Stops every process in the group and returns when all have stopped. When they do not within three seconds,
    /// they are resumed and the result is an error.
    pub fn freeze(&self) -> Result<(), Error> {
        let result = match self.freezer()? {
            Home::V1(dir) => freeze_v1(dir),
            Home::V2(dir) => change_v2(dir, "1", "frozen"),
        };
        if result.is_err() {
            // The error that matters is the first one.
            let _ = self.thaw();
        }
        result
    }

    /// Resumes every process in the group.
    pub fn thaw(&self) -> Result<(), Error> {
        match self.freezer()? {
            Home::V1(dir) => file::write(&dir.join("freezer.state"), "THAWED", "freezer.state"),
            Home::V2(dir) => change_v2(dir, "0", "running"),
        }
    }

    /// True when the group is frozen. A group that is gone is not.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        let text = match self.freezer()? {
            Home::V1(dir) => file::value_if_present(&dir.join("freezer.state"))?,
            Home::V2(dir) => file::value_if_present(&dir.join("cgroup.events"))?,
        };
        Ok(text.is_some_and(|text| text.trim() == "FROZEN" || file::keyed(&text, "frozen") == Some(1)))
    }

    /// The folder of the group whose freezer holds its processes still.
    pub fn freezer_dir(&self) -> Result<&Path, Error> {
        self.freezer().map(|home| match home {
            Home::V1(dir) | Home::V2(dir) => dir,
        })
    }

    /// Every version 2 group can be frozen (Linux 5.2), but where a version 1 freezer is mounted other tools look there.
    fn freezer(&self) -> Result<Home<'_>, Error> {
        let v1 = self.v1_dir("freezer").map(Home::V1);
        v1.or(self.v2_dir().map(Home::V2)).ok_or_else(|| self.missing("freezing", "the freezer controller"))
    }
}

/// Version 1 has no event: FREEZING becomes FROZEN when the state is read after the last process stopped. Processes
/// forked meanwhile can keep it at FREEZING until the request is repeated.
fn freeze_v1(dir: &Path) -> Result<(), Error> {
    let path = dir.join("freezer.state");
    let deadline = Instant::now() + BOUND;
    let mut pause = Duration::from_micros(50);
    loop {
        file::write(&path, "FROZEN", "freezer.state")?;
        if file::read_value(&path)?.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(late(dir, "frozen"));
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// Writes `cgroup.freeze` and waits for the kernel's notification in `cgroup.events`.
fn change_v2(dir: &Path, request: &str, wanted: &'static str) -> Result<(), Error> {
    let path = dir.join("cgroup.events");
    let failed = |source| Error::Read { path: path.clone(), source };
    // Opened before the request, so that no notification is missed.
    let mut events = File::open(&path).map_err(failed)?;
    file::write(&dir.join("cgroup.freeze"), request, "cgroup.freeze")?;
    let deadline = Instant::now() + BOUND;
    loop {
        let mut text = String::new();
        events.rewind().and_then(|()| events.read_to_string(&mut text)).map_err(failed)?;
        let frozen = file::keyed(&text, "frozen") == Some(1);
        if frozen == (request == "1") {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        // A group inside a frozen one is thawed when its own request is; its state follows the parent's.
        if left.is_zero() {
            return Err(late(dir, wanted));
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

fn late(dir: &Path, wanted: &'static str) -> Error {
    Error::FreezeTimeout { path: dir.into(), wanted, millis: BOUND.as_millis() as u64 }
}
