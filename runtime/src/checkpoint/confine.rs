//! What was restored is held to what the bundle says, before it runs: the images may come from anybody.
//!
//! criu gives the processes the namespaces, mounts, capabilities and filters that the images name. Those are looked at
//! here in the kernel's own words, when all is made and nothing runs yet. Filters cannot be read back then, and are
//! compared in the images, which nobody else can change.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use vctx_context::capability;
use vctx_context::criu::{Value, fields};
use vctx_context::mountinfo::{self, Mount};
use vctx_context::namespace::Kind;
use vctx_context::procfs;
use vctx_context::seccomp::Filter;

use super::images::Folders;
use super::mounts::{self, Place, What};
use crate::host::{Host, grantable};
use crate::plan::process::all_capabilities;
use crate::validate::clean;
use crate::{Error, Result};

fn refuse<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::Smuggled(what.into()))
}

/// Every thread in the images has the filter of the configuration, below what it has added itself.
pub(super) fn check_filters(folders: &Folders, filter: Option<&Filter>) -> Result<()> {
    let Some(filter) = filter else { return Ok(()) };
    let wanted: Vec<u8> = filter
        .program
        .iter()
        .flat_map(|one| [&one.code.to_ne_bytes()[..], &[one.jt, one.jf], &one.k.to_ne_bytes()[..]].concat())
        .collect();
    let names = folders.names()?;
    let damaged =
        |name: &str| Error::Images { path: folders.path().join(name), reason: "is no image of criu's" };
    let known = match names.iter().any(|name| name == "seccomp.img") {
        true => {
            let bytes = folders.read("seccomp.img")?;
            filters(&bytes).ok_or_else(|| damaged("seccomp.img"))?
        }
        false => Vec::new(),
    };
    for name in names.iter().filter(|name| name.starts_with("core-") && name.ends_with(".img")) {
        let bytes = folders.read(name)?;
        let thread = thread_filter(&bytes).ok_or_else(|| damaged(name))?;
        let mut next = thread;
        let mut found = false;
        // A chain is no longer than the list.
        for _ in 0..=known.len() {
            let Some((program, previous)) = next.and_then(|index| known.get(index)) else { break };
            found |= *program == wanted;
            next = *previous;
        }
        if !found {
            return refuse(format!("the process of {name} has not the seccomp filter of the configuration"));
        }
    }
    Ok(())
}

/// The first message of an image: two magic numbers, a length, and the message.
fn message(image: &[u8]) -> Option<&[u8]> {
    const COMMON_MAGIC: u32 = 0x5456_4319;
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?));
    if word(0)? != COMMON_MAGIC {
        return None;
    }
    let length = usize::try_from(word(8)?).ok()?;
    image.get(12..)?.get(..length)
}

/// The programs of `seccomp.img`, each with the index of the one before it.
fn filters(image: &[u8]) -> Option<Vec<(Vec<u8>, Option<usize>)>> {
    let mut all = Vec::new();
    for field in fields(message(image)?)? {
        let (1, Value::Bytes(filter)) = field else { continue };
        let (mut program, mut previous) = (Vec::new(), None);
        for field in fields(filter)? {
            match field {
                (1, Value::Bytes(bytes)) => program = bytes.to_vec(),
                (2, Value::Number(index)) => previous = usize::try_from(index).ok(),
                _ => {}
            }
        }
        all.push((program, previous));
    }
    Some(all)
}

/// The index of the last filter of a thread; none inside when it has no filter.
fn thread_filter(image: &[u8]) -> Option<Option<usize>> {
    const FILTER_MODE: u64 = 2;
    let (mut mode, mut index) = (0, None);
    for field in fields(message(image)?)? {
        let (5, Value::Bytes(thread)) = field else { continue };
        for field in fields(thread)? {
            match field {
                (11, Value::Number(number)) => mode = number,
                (12, Value::Number(number)) => index = usize::try_from(number).ok(),
                _ => {}
            }
        }
    }
    Some(index.filter(|_| mode == FILTER_MODE))
}

/// Looks at all processes of the tree.
pub(super) fn check(spec: &Spec, host: &Host, places: &[Place], first: i32) -> Result<()> {
    check_namespaces(host, first)?;
    check_ids(host, first)?;
    check_mounts(spec, places, first)?;
    for pid in tree(first)? {
        for thread in threads(pid)? {
            if !has_ended(pid, thread)? {
                check_beside(host, first, pid, thread)?;
                check_thread(spec, host, pid, thread)?;
            }
        }
    }
    Ok(())
}

/// A process and all that descend from it.
fn tree(first: i32) -> Result<Vec<i32>> {
    let mut all = vec![first];
    let mut next = 0;
    while let Some(pid) = all.get(next).copied() {
        next += 1;
        for thread in threads(pid)? {
            let path = format!("/proc/{pid}/task/{thread}/children");
            let children = fs::read_to_string(&path).map_err(Error::state("read", path))?;
            all.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    Ok(all)
}

fn threads(pid: i32) -> Result<Vec<i32>> {
    let path = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&path).map_err(Error::state("read", path))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// A thread that nobody has waited for yet, which criu makes again as well: it has no namespaces any more, and runs no more.
fn has_ended(pid: i32, thread: i32) -> Result<bool> {
    let path = format!("/proc/{pid}/task/{thread}/stat");
    let line = fs::read(&path).map_err(Error::state("read", path))?;
    Ok(procfs::parse(&line).is_some_and(|identity| identity.zombie))
}

/// What tells a namespace from others: the device and the inode of its file.
fn namespace(process: &str, kind: Kind) -> Result<(u64, u64)> {
    let path = format!("/proc/{process}/ns/{}", kind.file());
    let about = rustix::fs::stat(&path).map_err(|error| Error::state("look at", path)(error.into()))?;
    Ok((about.st_dev, about.st_ino))
}

fn check_namespaces(host: &Host, pid: i32) -> Result<()> {
    for kind in Kind::ALL {
        let (has, ours) = (namespace(&pid.to_string(), kind)?, namespace("self", kind)?);
        let right = match host.kinds.iter().find(|(one, _)| *one == kind) {
            // criu makes one so that the clocks go on.
            _ if kind == Kind::Time => true,
            None => has == ours,
            Some((_, None)) => has != ours,
            Some((_, Some(_))) => {
                let joined = host.joined.iter().find(|one| one.kind == kind);
                let about = joined.and_then(|one| rustix::fs::fstat(one.as_fd()).ok());
                about.is_some_and(|about| (about.st_dev, about.st_ino) == has)
            }
        };
        if !right {
            return refuse(format!("the {} namespace is not as linux.namespaces says", kind.file()));
        }
    }
    Ok(())
}

/// A thread may have namespaces of its own inside, but none of the host's where the first process has others.
fn check_beside(host: &Host, first: i32, pid: i32, thread: i32) -> Result<()> {
    let of_thread = |kind| namespace(&format!("{pid}/task/{thread}"), kind);
    for (kind, _) in &host.kinds {
        let (has, ours) = (of_thread(*kind)?, namespace("self", *kind)?);
        let inside = namespace(&first.to_string(), *kind)?;
        if has != inside && (has == ours || matches!(kind, Kind::User | Kind::Mount)) {
            return refuse(format!("process {pid} has another {} namespace than the first", kind.file()));
        }
    }
    if !host.kinds.iter().any(|(kind, _)| *kind == Kind::User)
        && of_thread(Kind::User)? != namespace("self", Kind::User)?
    {
        return refuse(format!("process {pid} has a user namespace of its own"));
    }
    Ok(())
}

fn check_ids(host: &Host, pid: i32) -> Result<()> {
    let Some(mappings) = &host.mappings else { return Ok(()) };
    for (file, wanted) in [("uid_map", &mappings.users), ("gid_map", &mappings.groups)] {
        let path = format!("/proc/{pid}/{file}");
        let text = fs::read_to_string(&path).map_err(Error::state("read", path))?;
        let numbers = |line: &str| -> Vec<u32> {
            line.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
        };
        let has: BTreeSet<Vec<u32>> = text.lines().map(numbers).collect();
        let wanted: BTreeSet<Vec<u32>> =
            wanted.iter().map(|range| vec![range.inside, range.outside, range.length]).collect();
        if has != wanted {
            return refuse(format!(
                "the ids of the user namespace are not those of linux.{}",
                match file {
                    "uid_map" => "uidMappings",
                    _ => "gidMappings",
                }
            ));
        }
    }
    Ok(())
}

/// Each mount of the configuration is there with its flags, and what there is beside lives in memory of its own.
fn check_mounts(spec: &Spec, places: &[Place], pid: i32) -> Result<()> {
    let table = mountinfo::of(&pid.to_string()).map_err(Error::Proc)?;
    let host = mountinfo::of("self").map_err(Error::Proc)?;
    let at = |point: &Path| table.iter().filter(|mount| mount.point == point).collect::<Vec<_>>();
    if mounts::is_read_only(spec) && !at(Path::new("/")).iter().all(|mount| has(mount, "ro")) {
        return refuse("the root can be written, and root.readonly says that it cannot");
    }
    for place in places {
        let here = at(&place.point);
        let right = |mount: &&Mount| {
            is_of_kind(mount, &place.what, &host) && place.options.iter().all(|option| has(mount, option))
        };
        if here.is_empty() || !here.iter().all(right) {
            return refuse(format!("{} is not mounted as the configuration says", place.point.display()));
        }
    }
    let linux = spec.linux().as_ref();
    let root = mounts::open_root(Path::new(&format!("/proc/{pid}/root")))?;
    for path in linux.and_then(|linux| linux.masked_paths().as_ref()).into_iter().flatten() {
        if !mount_of(&table, &root, path).is_none_or(is_mask) {
            return refuse(format!("{path} is not masked"));
        }
    }
    for path in linux.and_then(|linux| linux.readonly_paths().as_ref()).into_iter().flatten() {
        if !mount_of(&table, &root, path).is_none_or(|mount| has(mount, "ro")) {
            return refuse(format!("{path} can be written"));
        }
    }
    let asked: BTreeSet<&str> = table
        .iter()
        .filter(|mount| {
            mount.point == Path::new("/") || places.iter().any(|place| place.point == mount.point)
        })
        .map(|mount| mount.device.as_str())
        .collect();
    let is_own =
        |mount: &&Mount| is_of_its_own(mount) && !host.iter().any(|other| other.device == mount.device);
    let known = |mount: &&Mount| is_known(mount, spec, places, &asked) || is_own(mount);
    match table.iter().find(|mount| !known(mount)) {
        Some(mount) => refuse(format!(
            "there is a mount of {} at {}, which the configuration does not have",
            mount.kind,
            mount.point.display()
        )),
        None => Ok(()),
    }
}

fn has(mount: &Mount, option: &str) -> bool {
    mount.options.iter().any(|one| one == option)
}

fn is_mask(mount: &Mount) -> bool {
    matches!(mount.kind.as_str(), "tmpfs" | "devtmpfs")
}

/// The mount is of the file system that the configuration names, or of the one in which its source lies.
fn is_of_kind(mount: &Mount, what: &What, host: &[Mount]) -> bool {
    match what {
        What::FileSystem(kind) => mount.kind == *kind,
        What::Groups => matches!(mount.kind.as_str(), "tmpfs" | "cgroup" | "cgroup2"),
        What::Bind { source, .. } => {
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
            let opened = rustix::fs::openat(rustix::fs::CWD, source, flags, rustix::fs::Mode::empty());
            let id = opened.ok().and_then(|source| mount_id(&source));
            host.iter().any(|one| Some(one.id) == id && one.device == mount.device)
        }
    }
}

fn mount_id(file: &OwnedFd) -> Option<u32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// The mount that a path of the context is in; none when there is no such path.
fn mount_of<'a>(table: &'a [Mount], root: &OwnedFd, path: &str) -> Option<&'a Mount> {
    let name = std::ffi::CString::new(clean(Path::new(path))).ok()?;
    let place = vctx_context::child::resolve::open(root, &name, rustix::fs::OFlags::PATH).ok()?;
    let id = mount_id(&place)?;
    table.iter().find(|mount| mount.id == id)
}

/// A mount that vctx itself makes for this configuration. `asked` are the devices of those that it names.
fn is_known(mount: &Mount, spec: &Spec, places: &[Place], asked: &BTreeSet<&str>) -> bool {
    if mount.point == Path::new("/") || places.iter().any(|place| place.point == mount.point) {
        return true;
    }
    let below = |place: &&Place| mount.point.starts_with(&place.point);
    let holder = places.iter().filter(below).max_by_key(|place| place.point.components().count());
    let from_host = holder.is_some_and(|place| match &place.what {
        // criu knows no sources for such points but those that it was given.
        What::Bind { recursive, .. } => *recursive,
        What::Groups => matches!(mount.kind.as_str(), "cgroup" | "cgroup2"),
        What::FileSystem(_) => false,
    });
    let linux = spec.linux().as_ref();
    let mut masked = linux.and_then(|linux| linux.masked_paths().as_ref()).into_iter().flatten();
    let mut guarded = linux.and_then(|linux| linux.readonly_paths().as_ref()).into_iter().flatten();
    let is_masked = masked.any(|path| mount.point == Path::new(&clean(Path::new(path))) && is_mask(mount));
    // A copy of a path of the context itself, and of what is mounted below it.
    let is_guarded = guarded.any(|path| {
        let path = clean(Path::new(path));
        let inside = holder.map_or(Path::new("/"), |place| place.point.as_path());
        let rest = Path::new(&path).strip_prefix(inside).unwrap_or(Path::new(""));
        let is_copy = mount.point != Path::new(&path) || mount.root.ends_with(rest);
        mount.point.starts_with(&path) && is_copy && has(mount, "ro") && asked.contains(mount.device.as_str())
    });
    let is_device = mounts::devices(spec).any(|path| mount.point == Path::new(&path));
    from_host || is_masked || is_guarded || (is_device && mount.kind == "devtmpfs")
}

/// A file system that is made anew with the context and shows nothing of the host.
fn is_of_its_own(mount: &Mount) -> bool {
    matches!(mount.kind.as_str(), "tmpfs" | "devpts" | "mqueue")
}

fn check_thread(spec: &Spec, host: &Host, pid: i32, thread: i32) -> Result<()> {
    let path = format!("/proc/{pid}/task/{thread}/status");
    let status = fs::read_to_string(&path).map_err(Error::state("read", &path))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).ok_or_else(|| Error::state("read", &path)(std::io::ErrorKind::InvalidData.into()))
    };
    let process = spec.process().as_ref();
    let user = host.kinds.iter().any(|(kind, _)| *kind == Kind::User);
    let allowed = process.map_or(0, |process| all_capabilities(process, grantable(user)));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let more = u64::from_str_radix(field(set)?, 16).unwrap_or(u64::MAX) & !allowed;
        if more != 0 {
            let names = capability::names(more).join(" ");
            return refuse(format!("process {pid} has capabilities beyond process.capabilities: {names}"));
        }
    }
    let no_new_privileges = process.and_then(Process::no_new_privileges).unwrap_or(false);
    if no_new_privileges && field("NoNewPrivs")? != "1" {
        return refuse(format!(
            "process {pid} may gain privileges, and process.noNewPrivileges says that it may not"
        ));
    }
    let filtered = spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some());
    if filtered && field("Seccomp")? != "2" {
        return refuse(format!("process {pid} has no seccomp filter"));
    }
    let fixed = no_new_privileges && allowed & capability::bit("SETUID").unwrap_or(0) == 0;
    if let (true, Some(process)) = (fixed, process) {
        let wanted = outside(host, process.user().uid()).to_string();
        if field("Uid")?.split_ascii_whitespace().any(|uid| uid != wanted) {
            return refuse(format!("process {pid} is another user than process.user.uid"));
        }
    }
    check_label(process, pid, thread)
}

/// An id of the context as we see it.
fn outside(host: &Host, id: u32) -> u32 {
    let ranges = host.mappings.as_ref().map(|mappings| mappings.users.as_slice()).unwrap_or_default();
    let range = ranges.iter().find(|range| id.checked_sub(range.inside).is_some_and(|at| at < range.length));
    range.map_or(id, |range| id - range.inside + range.outside)
}

fn check_label(process: Option<&Process>, pid: i32, thread: i32) -> Result<()> {
    let label = |process: &Process| {
        let label = process.selinux_label().clone().or(process.apparmor_profile().clone());
        label.filter(|label| !label.is_empty())
    };
    let Some(label) = process.and_then(label) else { return Ok(()) };
    let path = format!("/proc/{pid}/task/{thread}/attr/current");
    let has = fs::read_to_string(&path).map_err(Error::state("read", path))?;
    match has.starts_with(&label) {
        true => Ok(()),
        false => refuse(format!("process {pid} has another security label than {label:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(message: &[u8]) -> Vec<u8> {
        let mut image = 0x5456_4319u32.to_le_bytes().to_vec();
        image.extend([0; 4]);
        image.extend((message.len() as u32).to_le_bytes());
        image.extend(message);
        image
    }

    #[test]
    fn a_thread_without_filter_mode_has_no_filter_whatever_its_index() {
        // thread_core (5) with seccomp_mode (11) and seccomp_filter (12).
        let thread = |mode: u8| image(&[5 << 3 | 2, 4, 11 << 3, mode, 12 << 3, 3]);
        assert_eq!(thread_filter(&thread(2)), Some(Some(3)));
        assert_eq!(thread_filter(&thread(0)), Some(None));
        assert_eq!(thread_filter(&image(&[])), Some(None));
        assert_eq!(thread_filter(b"no image"), None);
        assert_eq!(thread_filter(&image(&[0xff])), None);
    }

    #[test]
    fn filters_name_the_one_before_them() {
        let image = image(&[10, 3, 10, 1, b'a', 10, 5, 10, 1, b'b', 16, 0]);
        assert_eq!(filters(&image).unwrap(), [(b"a".to_vec(), None), (b"b".to_vec(), Some(0))]);
    }
}
