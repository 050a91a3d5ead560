//! Detection: which hierarchies this machine mounts, where, and which groups are our own. Two small reads and a
//! statfs(2) per hierarchy; the mount table is read only where a hierarchy is not in its usual place, since its cost
//! grows with every mount of every container on the host.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Error, file};

const ROOT: &str = "/sys/fs/cgroup";
/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const V1_MAGIC: i64 = 0x0027_e0eb;
const V2_MAGIC: i64 = 0x6367_7270;

/// The three kinds of machine.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Version 1 hierarchies only.
    V1,
    /// Version 1 hierarchies with the controllers, and a version 2 tree beside them.
    Hybrid,
    /// The unified hierarchy alone.
    V2,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::V1 => "cgroup v1",
            Mode::Hybrid => "cgroup v1 and v2, hybrid",
            Mode::V2 => "cgroup v2",
        })
    }
}

/// The mounted hierarchies of this machine and our place in them.
#[derive(Clone, Debug)]
pub struct Layout {
    pub(super) mode: Mode,
    pub(super) v1: Vec<Mount>,
    pub(super) v2: Option<Mount>,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// `cpu`, `cpuacct`, `name=systemd`; empty for the version 2 tree.
    pub(super) controllers: Vec<String>,
    pub(super) point: PathBuf,
    /// Our own group, as a path below `point` that begins with a slash.
    pub(super) own: String,
}

impl Layout {
    /// Finds the hierarchies that this process is a member of and that are mounted.
    pub fn detect() -> Result<Layout, Error> {
        let membership = file::read_value(Path::new("/proc/self/cgroup"))?;
        if let Some(layout) = usual(&membership) {
            return Ok(layout);
        }
        let mountinfo = file::read(Path::new("/proc/self/mountinfo"))?;
        parse(&membership, &mountinfo).ok_or(Error::NoHierarchy)
    }

    /// The kind of machine.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The names of the mounted version 1 controllers, named hierarchies included.
    pub fn v1_controllers(&self) -> impl Iterator<Item = &str> {
        self.v1.iter().flat_map(|mount| mount.controllers.iter().map(String::as_str))
    }

    /// Where the version 2 tree is mounted.
    pub fn unified(&self) -> Option<&Path> {
        self.v2.as_ref().map(|mount| mount.point.as_path())
    }
}

/// The layout when every hierarchy is where systemd, Docker's scripts and all others mount it.
fn usual(membership: &str) -> Option<Layout> {
    let root = Path::new(ROOT);
    let entries: Vec<Entry> = entries(membership).collect();
    if magic(root) == Some(V2_MAGIC) {
        let own = entries.iter().find(|entry| entry.controllers.is_empty())?;
        let v2 = own.at(root.into())?;
        return Some(Layout { mode: Mode::V2, v1: Vec::new(), v2: Some(v2) });
    }
    let mut v1 = Vec::new();
    let mut v2 = None;
    for entry in &entries {
        if entry.controllers.is_empty() {
            let point = root.join("unified");
            match rustix::fs::statfs(&point) {
                Ok(stat) if stat.f_type == V2_MAGIC => v2 = Some(entry.at(point)?),
                Ok(_) | Err(rustix::io::Errno::NOENT) => {}
                // A hierarchy that cannot be looked at is not absent: the mount table knows.
                Err(_) => return None,
            }
            continue;
        }
        let point = root.join(entry.controllers.trim_start_matches("name="));
        if magic(&point) != Some(V1_MAGIC) {
            return None;
        }
        v1.push(entry.at(point)?);
    }
    finish(v1, v2)
}

fn finish(v1: Vec<Mount>, v2: Option<Mount>) -> Option<Layout> {
    let mode = match (v1.is_empty(), v2.is_some()) {
        (true, false) => return None,
        (true, true) => Mode::V2,
        (false, true) => Mode::Hybrid,
        (false, false) => Mode::V1,
    };
    Some(Layout { mode, v1, v2 })
}

/// A line of `/proc/self/cgroup`: `ID:CONTROLLERS:PATH`.
struct Entry<'a> {
    controllers: &'a str,
    path: &'a str,
}

impl Entry<'_> {
    fn names(&self) -> Vec<String> {
        self.controllers.split(',').filter(|name| !name.is_empty()).map(String::from).collect()
    }

    /// The mount at `point`, if our group can be found below it: inside a container without a cgroup namespace the
    /// mount shows a subtree only, and the path must be cut, which needs the mount table.
    fn at(&self, point: PathBuf) -> Option<Mount> {
        let below = self.path.trim_start_matches('/');
        let found = below.is_empty() || (!below.starts_with("..") && point.join(below).exists());
        found.then(|| Mount { controllers: self.names(), point, own: self.path.into() })
    }
}

fn entries(membership: &str) -> impl Iterator<Item = Entry<'_>> {
    membership.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let entry = Entry { controllers: fields.next()?, path: fields.next()? };
        entry.path.starts_with('/').then_some(entry)
    })
}

/// The path of a process in the hierarchy of `controllers`, by its `/proc/PID/cgroup`.
pub(super) fn path_of<'a>(membership: &'a str, controllers: &[String]) -> Option<&'a str> {
    entries(membership).find(|entry| entry.names() == controllers).map(|entry| entry.path)
}

fn magic(path: &Path) -> Option<i64> {
    rustix::fs::statfs(path).ok().map(|stat| stat.f_type)
}

/// The layout from the texts of `/proc/self/cgroup` and `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
pub(super) fn parse(membership: &str, mountinfo: &str) -> Option<Layout> {
    let mut v1: Vec<Mount> = Vec::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(point)) = (left.next(), left.next()) else { continue };
        let mut right = right.split(' ');
        let (Some(kind), Some(options)) = (right.next(), right.nth(1)) else { continue };
        let find = |wanted: &dyn Fn(&Entry) -> bool| entries(membership).find(|entry| wanted(entry));
        let entry = match kind {
            "cgroup2" => find(&|entry| entry.controllers.is_empty()),
            "cgroup" => find(&|entry| {
                !entry.controllers.is_empty()
                    && entry
                        .controllers
                        .split(',')
                        .all(|name| options.split(',').any(|option| option == name))
            }),
            _ => continue,
        };
        let Some(entry) = entry else { continue };
        let mount = Mount {
            controllers: entry.names(),
            point: unescape(point).into(),
            own: below(&unescape(root), entry.path),
        };
        if mount.controllers.is_empty() {
            v2.get_or_insert(mount);
        } else if v1.iter().all(|known| known.controllers != mount.controllers) {
            v1.push(mount);
        }
    }
    // A version 2 tree at the usual place is the machine's; stray version 1 mounts elsewhere are someone's own.
    if v2.as_ref().is_some_and(|mount| mount.point == Path::new(ROOT)) {
        v1.clear();
    }
    finish(v1, v2)
}

/// Our group as seen below a mount that shows `root`; its top when our group lies outside.
fn below(root: &str, own: &str) -> String {
    let inside = match root {
        "/" => Some(own),
        _ => own.strip_prefix(root).filter(|rest| rest.is_empty() || rest.starts_with('/')),
    };
    match inside {
        Some(path) if !path.is_empty() && !path.starts_with("/..") => path.into(),
        _ => "/".into(),
    }
}

fn unescape(text: &str) -> String {
    String::from_utf8_lossy(&crate::mountinfo::unescape(text.as_bytes())).into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_unified_machine_is_v2() {
        let layout =
            parse("0::/user.slice\n", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n").unwrap();
        assert_eq!(layout.mode, Mode::V2);
        assert_eq!(layout.v2.unwrap().own, "/user.slice");
    }

    #[test]
    fn controllers_mounted_together_are_one_hierarchy_in_any_order() {
        let layout = parse(
            "3:cpu,cpuacct:/a\n2:name=systemd:/b\n0::/c\n",
            "31 1 0:3 / /sys/fs/cgroup/cpuacct,cpu rw - cgroup cgroup rw,cpuacct,cpu\n\
             32 1 0:4 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n",
        )
        .unwrap();
        assert_eq!(layout.mode, Mode::V1);
        assert_eq!(layout.v1[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(layout.v1[0].point, Path::new("/sys/fs/cgroup/cpuacct,cpu"));
        assert_eq!(layout.v1[1].own, "/b");
    }

    #[test]
    fn a_mount_that_shows_a_subtree_cuts_our_own_path() {
        let mounts = "31 1 0:3 /docker/abc /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
        let own = |path: &str| parse(&format!("3:pids:{path}\n"), mounts).unwrap().v1[0].own.clone();
        assert_eq!(own("/docker/abc"), "/");
        assert_eq!(own("/docker/abc/x"), "/x");
        assert_eq!(own("/docker/abcd"), "/");
    }

    #[test]
    fn a_membership_without_a_path_is_none() {
        let mounts = "31 1 0:3 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert!(parse("3:cpu:name=systemd:/b\n", mounts).is_none());
    }

    #[test]
    fn a_mount_point_with_a_space_is_found() {
        let layout = parse("0::/\n", "31 1 0:3 / /my\\040groups rw - cgroup2 none rw\n").unwrap();
        assert_eq!(layout.v2.unwrap().point, Path::new("/my groups"));
    }

    #[test]
    fn a_machine_without_control_groups_is_an_error() {
        assert!(parse("0::/\n", "31 1 0:3 / / rw - ext4 /dev/sda rw\n").is_none());
    }

    #[test]
    fn both_ways_of_detection_agree_on_this_machine() {
        let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let (Some(quick), Some(full)) = (usual(&membership), parse(&membership, &mountinfo)) else { return };
        assert_eq!(quick.mode, full.mode);
        assert_eq!(quick.v2, full.v2);
        let sorted = |mut mounts: Vec<Mount>| {
            mounts.sort_by(|a, b| a.point.cmp(&b.point));
            mounts
        };
        assert_eq!(sorted(quick.v1), sorted(full.v1));
    }
}
