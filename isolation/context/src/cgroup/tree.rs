//! Making and removing the group's directories in every hierarchy.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, FileType, Mode as FileMode, OFlags, open, openat, unlinkat};
use rustix::io::Errno;

use super::systemd::Scope;
use super::{Cgroup, Error, Hierarchy, Mode, file};
use crate::spawn::Placeholder;

/// How often a lost race with somebody's removal of a shared parent is tried again.
const RACES: usize = 16;
/// The longest wait between two attempts to remove a group.
const LONGEST_PAUSE: Duration = Duration::from_millis(64);
/// How long processes that are on their way out are waited for. A machine with twenty processes for each processor has
/// been seen to take a second for one.
const PATIENCE: Duration = Duration::from_secs(5);

/// What [`Cgroup::create`] found.
#[derive(Debug)]
pub struct Created {
    /// The group was there already in at least one hierarchy, so it may hold processes and limits of others.
    pub existed: bool,
    /// The first process of a scope, which systemd would remove without one: to be kept until there is another.
    pub holder: Option<Placeholder>,
}

impl Cgroup {
    /// Makes the group in every hierarchy. What was made is removed again when a later step fails.
    pub fn create(&self) -> Result<Created, Error> {
        let mut made = Vec::new();
        let result = match &self.scope {
            Some(scope) => self.create_scope(scope, &mut made),
            None => self.create_recording(&mut made),
        };
        if result.is_err() {
            for dir in made.iter().rev() {
                // The first error is the one to report; a directory that someone else entered meanwhile is theirs.
                let _ = rustix::fs::rmdir(dir);
            }
        }
        result
    }

    /// Has systemd make the scope, and makes the group in the version 1 hierarchies that systemd leaves alone.
    fn create_scope(&self, scope: &Scope, made: &mut Vec<PathBuf>) -> Result<Created, Error> {
        let holder = scope.start(self)?;
        for hierarchy in &self.v1 {
            if hierarchy.place_of(holder.pid())? == hierarchy.dir {
                continue;
            }
            if make_in(hierarchy, made)? == Leaf::Existed
                && !file::read(&hierarchy.dir.join("tasks"))?.is_empty()
            {
                return Err(Error::Occupied { path: hierarchy.dir.clone() });
            }
        }
        Ok(Created { existed: false, holder: Some(holder) })
    }

    fn create_recording(&self, made: &mut Vec<PathBuf>) -> Result<Created, Error> {
        let mut existed = false;
        for hierarchy in self.hierarchies() {
            existed |= make_in(hierarchy, made)? == Leaf::Existed;
        }
        // Whoever is in there would be limited, frozen and in the end killed along with the context.
        if existed && !self.procs(true)?.is_empty() {
            return Err(Error::Occupied { path: self.census().into() });
        }
        if let (Mode::V2, Some(unified)) = (self.mode, &self.v2) {
            enable_all(unified)?;
        }
        Ok(Created { existed, holder: None })
    }

    /// Removes the group with its children. Processes that are still on their way out are waited for, up to five seconds;
    /// none is ever moved elsewhere. A group that is not there is fine.
    pub fn remove(&self) -> Result<(), Error> {
        if let Some(scope) = &self.scope {
            scope.stop()?;
        }
        let mut pause = Duration::from_micros(500);
        let mut waited = Duration::ZERO;
        loop {
            let mut left: Vec<(PathBuf, io::Error)> = Vec::new();
            for hierarchy in self.hierarchies() {
                if let Err(errno) = remove_tree(&hierarchy.dir) {
                    left.push((hierarchy.dir.clone(), errno.into()));
                }
            }
            if left.is_empty() {
                return Ok(());
            }
            let busy = left.iter().all(|(_, error)| Errno::from_io_error(error) == Some(Errno::BUSY));
            if !busy || waited > PATIENCE {
                let (path, source) = left.swap_remove(0);
                return Err(Error::Remove { path, others: left, source });
            }
            // cgroup v1 has no event for "the last process is gone", hence the short pause.
            sleep(pause);
            waited += pause;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Turns a version 2 controller on for this group alone; used where a limit needs it on a hybrid machine.
    /// Returns whether it is on.
    pub(super) fn enable(&self, controller: &str) -> Result<bool, Error> {
        let Some(unified) = &self.v2 else { return Ok(false) };
        if has_word(&unified.dir.join("cgroup.controllers"), controller)? {
            return Ok(true);
        }
        for ancestor in ancestors(unified) {
            if !has_word(&ancestor.join("cgroup.controllers"), controller)? {
                return Ok(false);
            }
            let path = ancestor.join("cgroup.subtree_control");
            if has_word(&path, controller)? {
                continue;
            }
            if holds_processes(ancestor)
                || file::write(&path, &format!("+{controller}"), "cgroup.subtree_control").is_err()
            {
                return Ok(false);
            }
        }
        has_word(&unified.dir.join("cgroup.controllers"), controller)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Made,
    Existed,
}

/// Makes the group in one hierarchy, ready to take processes.
fn make_in(hierarchy: &Hierarchy, made: &mut Vec<PathBuf>) -> Result<Leaf, Error> {
    let leaf = make(&hierarchy.point, &hierarchy.dir, made)?;
    if hierarchy.controllers.iter().any(|name| name == "cpuset") {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            inherit(&hierarchy.point, &hierarchy.dir, file, leaf)?;
        }
    }
    Ok(leaf)
}

/// Makes `dir` and its missing ancestors down from `point`, which exists.
fn make(point: &Path, dir: &Path, made: &mut Vec<PathBuf>) -> Result<Leaf, Error> {
    for _ in 0..RACES {
        match rustix::fs::mkdir(dir, FileMode::from_raw_mode(0o755)) {
            Ok(()) => {
                made.push(dir.into());
                return Ok(Leaf::Made);
            }
            Err(Errno::EXIST) => return Ok(Leaf::Existed),
            // Also when somebody removes the shared parent between the two calls.
            Err(Errno::NOENT) => match dir.parent() {
                Some(parent) if dir != point => make(point, parent, made)?,
                _ => break,
            },
            Err(errno) => return Err(Error::Make { path: dir.into(), source: errno.into() }),
        };
    }
    Err(Error::Make { path: dir.into(), source: Errno::NOENT.into() })
}

/// Fills an empty cpuset file from the nearest ancestor that has a value: a version 1 cpuset without processors or
/// memory nodes accepts no process. That of a new group is empty without being read.
fn inherit(point: &Path, dir: &Path, name: &str, leaf: Leaf) -> Result<String, Error> {
    let path = dir.join(name);
    let value = if leaf == Leaf::Made { String::new() } else { file::read_value(&path)? };
    match dir.parent() {
        Some(parent) if value.trim().is_empty() && dir != point => {
            let value = inherit(point, parent, name, Leaf::Existed)?;
            file::write(&path, &value, name)?;
            Ok(value)
        }
        _ => Ok(value.trim().into()),
    }
}

/// Turns on, in each ancestor, all controllers that are available there. The leaf having as many as the root means that
/// an earlier start did the work.
fn enable_all(unified: &Hierarchy) -> Result<(), Error> {
    let available = file::read_value(&unified.point.join("cgroup.controllers"))?;
    if file::read_value(&unified.dir.join("cgroup.controllers"))? == available {
        return Ok(());
    }
    for ancestor in ancestors(unified) {
        let available = file::read_value(&ancestor.join("cgroup.controllers"))?;
        let enabled = file::read_value(&ancestor.join("cgroup.subtree_control"))?;
        let wanted: Vec<String> = available
            .split_whitespace()
            .filter(|name| !enabled.split_whitespace().any(|on| on == *name))
            .map(|name| format!("+{name}"))
            .collect();
        if wanted.is_empty() {
            continue;
        }
        if holds_processes(ancestor) {
            return Ok(());
        }
        let path = ancestor.join("cgroup.subtree_control");
        if file::write(&path, &wanted.join(" "), "cgroup.subtree_control").is_err() {
            // One controller that cannot be had (cpu, while realtime processes run) must not cost the others. A
            // limit that needs a controller which stayed off is refused by `apply`, with its name.
            for name in &wanted {
                let _ = file::write(&path, name, "cgroup.subtree_control");
            }
        }
    }
    Ok(())
}

/// True for a group, other than the kernel's root, that has processes of its own. Most controllers cannot be turned on
/// for its children; those that can (cpu, pids) would turn it into the root of threaded groups, into whose children no
/// process could be put.
fn holds_processes(dir: &Path) -> bool {
    let procs = || file::read(&dir.join("cgroup.procs")).map_or(true, |text| !text.is_empty());
    dir.join("cgroup.type").exists() && procs()
}

/// The directories from the hierarchy's root down to the group's parent.
fn ancestors(hierarchy: &Hierarchy) -> Vec<&Path> {
    let mut list: Vec<&Path> =
        hierarchy.dir.ancestors().skip(1).take_while(|dir| dir.starts_with(&hierarchy.point)).collect();
    list.reverse();
    list
}

fn has_word(path: &Path, word: &str) -> Result<bool, Error> {
    Ok(file::read(path)?.split_whitespace().any(|name| name == word))
}

/// Removes a group and its children, deepest first.
fn remove_tree(dir: &Path) -> Result<(), Errno> {
    let absent_is_fine = |result| if result == Err(Errno::NOENT) { Ok(()) } else { result };
    match rustix::fs::rmdir(dir) {
        Err(Errno::BUSY | Errno::NOTEMPTY) => {}
        result => return absent_is_fine(result),
    }
    walk(dir, &mut |_| Ok(()), &mut |parent, name| {
        absent_is_fine(unlinkat(parent, name, AtFlags::REMOVEDIR))
    })?;
    absent_is_fine(rustix::fs::rmdir(dir))
}

/// Goes over a group and all below it: `enter` is called with each, and `leave` with the parent and the name of each
/// below when it and its own children were gone over. A guest with groups of its own can nest them deeper than a path
/// can say, and than a process may have open files: one descriptor goes down and up. A group that is gone is passed over.
pub(super) fn walk(
    dir: &Path,
    enter: &mut dyn FnMut(&OwnedFd) -> Result<(), Errno>,
    leave: &mut dyn FnMut(&OwnedFd, &CStr) -> Result<(), Errno>,
) -> Result<(), Errno> {
    const FLAGS: OFlags =
        OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
    let mut current = match open(dir, FLAGS, FileMode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    enter(&current)?;
    // What is still to be visited on each level, and the names of the levels entered.
    let mut pending = vec![children(&current)?];
    let mut names: Vec<CString> = Vec::new();
    while let Some(level) = pending.last_mut() {
        if let Some(name) = level.pop() {
            match openat(&current, &name, FLAGS, FileMode::empty()) {
                Err(Errno::NOENT) => continue,
                child => current = child?,
            }
            enter(&current)?;
            pending.push(children(&current)?);
            names.push(name);
        } else {
            pending.pop();
            if let Some(name) = names.pop() {
                current = openat(&current, c"..", FLAGS, FileMode::empty())?;
                leave(&current, &name)?;
            }
        }
    }
    Ok(())
}

/// The names of the groups directly below.
fn children(dir: &OwnedFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = match entry {
            // The group was removed meanwhile.
            Err(Errno::NODEV | Errno::NOENT) => break,
            entry => entry?,
        };
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}
