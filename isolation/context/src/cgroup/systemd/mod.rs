//! The systemd driver: a group that is a transient scope, made and removed by systemd and handed over to us whole
//! (`Delegate=`). It differs from the other groups in its plan, its making and its removal; and whatever limit is
//! written to a file that systemd keeps too is told systemd, which else would write its own at the next daemon-reload.
//!
//! The rules for devices are told on version 1 alone, where systemd writes the same file. On version 2 it leaves programs
//! that others attached alone, and with no rule of its own it attaches none.
//!
//! On version 1 systemd makes the group in the hierarchies of the controllers that it knows (cpu, memory, blkio, devices,
//! pids) and in its own; the others (cpuset, freezer, net_cls and more) are ours to make and to remove, under the same name.

mod bus;
mod nodes;
mod properties;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zvariant::Value;

use super::devices::List;
use super::{Cgroup, Error, Hierarchy, Layout, Mode, layout};
use crate::spawn::Placeholder;
use bus::{Answer, Bus, Manager};

/// The slice of the groups whose path nobody chose: of the machine's systemd, and of a user's.
const SYSTEM_SLICE: &str = "system.slice";
const USER_SLICE: &str = "user.slice";
/// What their names begin with.
const OWN_PREFIX: &str = "vctx";
/// The longest name of a unit, in bytes (systemd.unit(5)).
const LONGEST_NAME: usize = 255;
/// The version 1 hierarchy of systemd's own.
const OWN_HIERARCHY: &str = "name=systemd";

/// The unit that the group is.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    unit: String,
    slice: String,
}

impl Cgroup {
    /// As [`Cgroup::plan`], for a scope that systemd makes. `cgroups_path` has the form that other runtimes read:
    /// `SLICE:PREFIX:NAME`, for the unit `PREFIX-NAME.scope` in `SLICE`. Without one it is `system.slice:vctx:ID`, or
    /// `user.slice:vctx:ID` for an ordinary user, whose own systemd makes it.
    pub fn plan_scope(layout: &Layout, cgroups_path: Option<&str>, id: &str) -> Result<Cgroup, Error> {
        let manager = Manager::ours()?;
        let own_slice = if manager == Manager::System { SYSTEM_SLICE } else { USER_SLICE };
        let (slice, prefix, name) = match cgroups_path.filter(|path| !path.is_empty()) {
            Some(path) => parts(path)?,
            None => (own_slice, OWN_PREFIX, id),
        };
        if let Manager::User(_) = manager {
            check_place(layout, &manager.root())?;
        }
        let refuse = |why| Error::Path { path: cgroups_path.unwrap_or(id).into(), why };
        let slice = if slice.is_empty() { own_slice } else { slice };
        let folders = expand(slice).ok_or_else(|| refuse("names no slice, such as system.slice"))?;
        let unit = unit(prefix, name);
        if name.is_empty() || unit.len() > LONGEST_NAME {
            return Err(refuse("makes no name of a unit: it is empty or longer than 255 bytes"));
        }
        let place = |mount: &layout::Mount| Hierarchy {
            controllers: mount.controllers.clone(),
            point: mount.point.clone(),
            dir: mount.point.join(manager.root()).join(&folders).join(&unit),
        };
        Ok(Cgroup {
            mode: layout.mode,
            v1: layout.v1.iter().map(place).collect(),
            v2: layout.v2.as_ref().map(place),
            scope: Some(Scope { unit, slice: slice.into() }),
        })
    }

    /// With version 1, puts back what systemd has moved. When the controllers of a slice change, as they do when it is
    /// new, systemd moves every process below it up to the slice, in those hierarchies, scopes that are handed over
    /// included; there no limit of ours would hold.
    pub(super) fn take_back(&self, scope: &Scope) -> Result<(), Error> {
        if self.v1.is_empty() {
            return Ok(());
        }
        // It does so when it has time. It has had, once it answers again.
        scope.ask()?;
        for pid in self.procs(true)? {
            for hierarchy in &self.v1 {
                match hierarchy.hold(pid) {
                    Err(error) if error.is_of_the_dead() => break,
                    result => result?,
                }
            }
        }
        Ok(())
    }

    /// The directory of the unit: where systemd itself looks for its processes.
    fn tracked(&self) -> Result<&Hierarchy, Error> {
        let own = || self.v1.iter().find(|hierarchy| hierarchy.controllers == [OWN_HIERARCHY]);
        self.v2.as_ref().or_else(own).ok_or(Error::NoSystemd)
    }
}

/// Whether an ordinary user may have a scope: its systemd is trusted with version 2 alone, and a process is moved by who
/// may write both groups and the one above them (cgroups(7), "Delegation").
fn check_place(layout: &Layout, root: &Path) -> Result<(), Error> {
    let own = match (&layout.v2, layout.mode) {
        (Some(mount), Mode::V2) => Path::new(mount.own.trim_start_matches('/')),
        _ => return Err(Error::UserSystemdNeedsV2 { mode: layout.mode }),
    };
    match own.starts_with(root) {
        true => Ok(()),
        false => Err(Error::OutsideUserSystemd { own: own.into(), root: root.into() }),
    }
}

fn parts(path: &str) -> Result<(&str, &str, &str), Error> {
    let mut fields = path.split(':');
    match (fields.next(), fields.next(), fields.next(), fields.next()) {
        (Some(slice), Some(prefix), Some(name), None) => Ok((slice, prefix, name)),
        _ => Err(Error::Path { path: path.into(), why: "must be SLICE:PREFIX:NAME for the systemd driver" }),
    }
}

/// The folder of a slice: `a-b.slice` lies in `a.slice` (systemd.slice(5)).
fn expand(slice: &str) -> Option<PathBuf> {
    let name = slice.strip_suffix(".slice")?;
    if name == "-" {
        return Some(PathBuf::new());
    }
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b":_.\\@".contains(&byte);
    let mut folders = PathBuf::new();
    let mut whole = String::new();
    for part in name.split('-') {
        if part.is_empty() || !part.bytes().all(valid) {
            return None;
        }
        if !whole.is_empty() {
            whole.push('-');
        }
        whole.push_str(part);
        folders.push(format!("{whole}.slice"));
    }
    Some(folders)
}

/// The name of the scope; what a unit's name may not hold is escaped as systemd-escape(1) does.
fn unit(prefix: &str, name: &str) -> String {
    let joint = if prefix.is_empty() { "" } else { "-" };
    let mut unit = String::new();
    for byte in format!("{prefix}{joint}{name}").bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'-' | b'_' | b'.' | b'\\' | b'@' => {
                unit.push(byte.into());
            }
            _ => unit.push_str(&format!("\\x{byte:02x}")),
        }
    }
    unit + ".scope"
}

impl Scope {
    /// Has systemd make the scope, whose directory must then be that of `group`. A scope needs a process: the one
    /// returned is in it, and keeps it alive until another is.
    pub(super) fn start(&self, group: &Cgroup) -> Result<Placeholder, Error> {
        let hierarchy = group.tracked()?;
        let mut bus = Bus::connect()?;
        let holder = Placeholder::new().map_err(Error::Placeholder)?;
        self.accept("subscribe to systemd for", bus.call("Subscribe", &())?)?;
        let text = |text: &str| Value::from(text.to_owned());
        let properties = vec![
            ("Description", Value::from(format!("vctx context {}", self.unit.trim_end_matches(".scope")))),
            ("Slice", text(&self.slice)),
            ("Delegate", Value::from(true)),
            // The engine above decides when its contexts end: no order of the shutdown does.
            ("DefaultDependencies", Value::from(false)),
            // A scope that failed is not to keep its name taken.
            ("CollectMode", text("inactive-or-failed")),
            ("PIDs", Value::from(vec![holder.pid() as u32])),
        ];
        let auxiliary: Vec<(&str, Vec<(&str, Value)>)> = Vec::new();
        let answer = bus.call("StartTransientUnit", &(&self.unit, "fail", properties, auxiliary))?;
        let job = self.accept("start", answer)?;
        self.finish(&mut bus, "start", &Bus::job(&job)?)?;
        match hierarchy.place_of(holder.pid())? {
            dir if dir == hierarchy.dir => Ok(holder),
            dir => Err(Error::Elsewhere { unit: self.unit.clone(), planned: hierarchy.dir.clone(), dir }),
        }
    }

    /// Has systemd remove the scope, and waits until it has. One that is gone already, because its last process is, is
    /// fine.
    pub(super) fn stop(&self) -> Result<(), Error> {
        let mut bus = Bus::connect()?;
        self.accept("subscribe to systemd for", bus.call("Subscribe", &())?)?;
        match bus.call("StopUnit", &(&self.unit, "replace"))? {
            Err(refusal) if refusal.name == "org.freedesktop.systemd1.NoSuchUnit" => Ok(()),
            answer => {
                let job = self.accept("stop", answer)?;
                self.finish(&mut bus, "stop", &Bus::job(&job)?)
            }
        }
    }

    /// Tells systemd the limits that are in force in `group`.
    pub(super) fn tell(&self, group: &Cgroup) -> Result<(), Error> {
        let answer = Bus::connect()?.call("SetUnitProperties", &(&self.unit, true, properties::of(group)))?;
        self.accept("set the limits of", answer).map(drop)
    }

    /// Tells systemd which devices are allowed, as far as it has words for them: what it writes whenever it writes the
    /// rules allows nothing more than `list`. It denies all before it allows those.
    pub(super) fn tell_devices(&self, list: &List) -> Result<(), Error> {
        let properties = nodes::properties(list)?;
        let answer = Bus::connect()?.call("SetUnitProperties", &(&self.unit, true, properties))?;
        self.accept("set the devices of", answer).map(drop)
    }

    /// Waits until systemd has done what it was about to do.
    fn ask(&self) -> Result<(), Error> {
        self.accept("ask for", Bus::connect()?.call("GetUnit", &self.unit)?).map(drop)
    }

    fn accept(&self, step: &'static str, answer: Answer) -> Result<bus::Body, Error> {
        answer.map_err(|refusal| Error::Unit { step, unit: self.unit.clone(), says: refusal.text })
    }

    fn finish(&self, bus: &mut Bus, step: &'static str, job: &str) -> Result<(), Error> {
        match bus.job_result(job)? {
            result if result == "done" => Ok(()),
            result => {
                Err(Error::Unit { step, unit: self.unit.clone(), says: format!("its job is {result}") })
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_slice_lies_in_the_slices_that_its_name_begins_with() {
        assert_eq!(expand("a-b-c.slice").unwrap(), Path::new("a.slice/a-b.slice/a-b-c.slice"));
        assert_eq!(expand("-.slice").unwrap(), Path::new(""));
        for bad in ["", ".slice", "a", "a--b.slice", "-a.slice", "a-.slice", "a/b.slice", "a\nb.slice"] {
            assert_eq!(expand(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_path_has_three_parts() {
        assert_eq!(parts("a.slice:cri:x").unwrap(), ("a.slice", "cri", "x"));
        for bad in ["/a/b", "a.slice", "a.slice:b", "a:b:c:d"] {
            assert!(parts(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_units_name_holds_nothing_that_leads_elsewhere() {
        assert_eq!(unit("cri", "x"), "cri-x.scope");
        assert_eq!(unit("", "x"), "x.scope");
        assert_eq!(unit("a", "../b+c"), "a-..\\x2fb\\x2bc.scope");
    }
}
