//! Notice of out-of-memory kills: a descriptor to poll and a reading of what happened since.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode as FileMode, OFlags, inotify, open};
use rustix::io::Errno;

use super::{Cgroup, Error, Home, file};

/// A watch on the group's out-of-memory kills; poll it for reading, then call [`OomEvents::read`].
#[derive(Debug)]
pub struct OomEvents {
    notice: OwnedFd,
    /// Holds the `kills` counter: `memory.oom_control` (version 1) or `memory.events`.
    path: PathBuf,
    kills: u64,
    /// Says whether the group has processes (version 2), and by which watch its changes are announced.
    group: Option<(PathBuf, i32)>,
}

/// What happened since the last reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OomReading {
    /// Processes killed since the last reading.
    pub kills: u64,
    /// The group is empty or gone: there will be no more.
    pub over: bool,
}

impl Cgroup {
    /// How many processes of the group were killed for want of memory so far.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        match self.home("memory") {
            Some(Home::V1(dir)) => Ok(count(&dir.join("memory.oom_control"))?.unwrap_or(0)),
            Some(Home::V2(dir)) => Ok(count(&dir.join("memory.events"))?.unwrap_or(0)),
            None => Ok(0),
        }
    }

    /// Watches for out-of-memory kills in the group.
    pub fn oom_events(&self) -> Result<OomEvents, Error> {
        let (path, group, notice) = match self.home("memory") {
            Some(Home::V1(dir)) => (dir.join("memory.oom_control"), None, watch_v1(dir)?),
            Some(Home::V2(dir)) => {
                let (events, group) = (dir.join("memory.events"), dir.join("cgroup.events"));
                let (notice, watch) = watch_v2(&events, &group)?;
                (events, Some((group, watch)), notice)
            }
            None => return Err(self.missing("notice of out-of-memory kills", "the memory controller")),
        };
        let kills = count(&path)?.unwrap_or(0);
        Ok(OomEvents { notice, path, kills, group })
    }
}

impl OomEvents {
    /// Takes what the descriptor announced. Does not block.
    pub fn read(&mut self) -> Result<OomReading, Error> {
        let changed = match &self.group {
            Some((_, watch)) => drain_inotify(&self.notice, *watch),
            None => drain_eventfd(&self.notice).map(|()| false),
        };
        let changed =
            changed.map_err(|errno| Error::Watch { path: self.path.clone(), source: errno.into() })?;
        let Some(total) = count(&self.path)? else { return Ok(OomReading { kills: 0, over: true }) };
        let kills = total.saturating_sub(self.kills);
        self.kills = total;
        let over = match &self.group {
            // Only a change to empty is an end: before its first process the group is empty too.
            Some((path, _)) if changed => {
                file::value_if_present(path)?.is_none_or(|text| file::keyed(&text, "populated") == Some(0))
            }
            _ => false,
        };
        Ok(OomReading { kills, over })
    }
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notice.as_fd()
    }
}

fn count(path: &Path) -> Result<Option<u64>, Error> {
    Ok(file::value_if_present(path)?.map(|text| file::keyed(&text, "oom_kill").unwrap_or(0)))
}

/// Registers an eventfd with the kernel (cgroup-v1/memory.rst, section 9). The kernel also signals it when the group is
/// removed.
fn watch_v1(dir: &Path) -> Result<OwnedFd, Error> {
    let path = dir.join("memory.oom_control");
    let failed = |errno: Errno| Error::Watch { path: path.clone(), source: errno.into() };
    let notice = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
    let control = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty()).map_err(failed)?;
    let request = format!("{} {}", notice.as_raw_fd(), control.as_raw_fd());
    file::write(&dir.join("cgroup.event_control"), &request, "cgroup.event_control")?;
    Ok(notice)
}

/// The inotify descriptor and its watch of `group`.
fn watch_v2(memory: &Path, group: &Path) -> Result<(OwnedFd, i32), Error> {
    let failed = |path: &Path, errno: Errno| Error::Watch { path: path.into(), source: errno.into() };
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let notice = inotify::init(flags).map_err(|errno| failed(memory, errno))?;
    let watch = |path: &Path| {
        let watch = inotify::add_watch(&notice, path, inotify::WatchFlags::MODIFY);
        watch.map_err(|errno| failed(path, errno))
    };
    watch(memory)?;
    let group = watch(group)?;
    Ok((notice, group))
}

/// Takes all records; returns whether one was of `watch`.
fn drain_inotify(notice: &OwnedFd, watch: i32) -> Result<bool, Errno> {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut records = inotify::Reader::new(notice, &mut buffer);
    let mut seen = false;
    loop {
        match records.next() {
            Ok(record) => seen |= record.wd() == watch,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(seen),
            Err(errno) => return Err(errno),
        }
    }
}

/// Takes the count, of which only the announcement matters.
fn drain_eventfd(notice: &OwnedFd) -> Result<(), Errno> {
    match rustix::io::read(notice, &mut [0; 8]) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
