//! The control groups of a new context, and what is written to them when.

use oci_spec::runtime::{LinuxResources, Spec};
use rustix::process::geteuid;
use vctx_context::cgroup::{Cgroup, Join, default_devices};
use vctx_context::procfs;
use vctx_context::spawn::{self};

use crate::state::Context;
use crate::undo::{Step, Undo};
use crate::{Error, Result};

/// How the child comes into its control groups.
#[derive(Default)]
pub(crate) struct Entry {
    /// What it is born with.
    pub(crate) join: Join,
    /// Holds a group until the child is in.
    pub(crate) holder: Option<spawn::Placeholder>,
    /// The groups of version 1, which are made while it mounts.
    pub(crate) later: Option<Cgroup>,
}

/// Makes the control group that the child is born into.
pub(crate) fn first_groups(context: &mut Context, spec: &Spec, undo: &mut Undo) -> Result<Entry> {
    let Some(cgroup) = context.state.cgroup.clone() else { return Ok(Entry::default()) };
    // Root of the machine makes them or fails. For anybody else, whether there are groups has to be known for the plan.
    let (now, later) = if holds_devices() { cgroup.parts() } else { (Some(cgroup), None) };
    let Some(cgroup) = now else { return Ok(Entry { later, ..Entry::default() }) };
    match cgroup.create() {
        Ok(created) => {
            undo.push(Step::RemoveCgroup(cgroup.clone()));
            Ok(Entry { join: cgroup.join()?, holder: created.holder, later })
        }
        // An ordinary user without a delegated group can still have a context, only no limits. Root's guests can make
        // device nodes: for them the group is a wall, and no convenience.
        Err(error) if error.is_not_permitted() && !holds_devices() && !asks_for_limits(spec) => {
            context.state.cgroup = None;
            context.write()?;
            Ok(Entry::default())
        }
        Err(error) if error.is_not_permitted() => Err(Error::Limits(error)),
        Err(error) => Err(error.into()),
    }
}

/// Makes all groups at once, for a process that enters them by itself.
pub(crate) fn all_groups(
    context: &mut Context,
    spec: &Spec,
    undo: &mut Undo,
) -> Result<(Join, Option<spawn::Placeholder>)> {
    let Entry { mut join, holder, later } = first_groups(context, spec, undo)?;
    if let Some(later) = later {
        later.create()?;
        undo.push(Step::RemoveCgroup(later.clone()));
        join.tasks = later.join()?.tasks;
    }
    Ok((join, holder))
}

/// Makes the groups that the child enters while it mounts, with the rules for devices in force: while those are written,
/// there are moments in which it could not make its own.
pub(crate) fn later_groups(
    context: &Context,
    later: &Cgroup,
    resources: Option<&LinuxResources>,
    undo: &mut Undo,
) -> Result<Join> {
    later.create()?;
    undo.push_below_child(Step::RemoveCgroup(later.clone()));
    if let Some(cgroup) = &context.state.cgroup {
        apply_devices(cgroup, resources)?;
    }
    Ok(later.join()?)
}

/// The guest could open any device that the group does not keep it from: we are root of the machine itself.
fn holds_devices() -> bool {
    rustix::process::geteuid().is_root() && vctx_context::procfs::in_first_user_namespace()
}

/// Limits beside the rules for devices, which every engine writes and a user namespace makes moot.
fn asks_for_limits(spec: &Spec) -> bool {
    let Some(resources) = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref()) else {
        return false;
    };
    let empty = without_devices(resources);
    empty != LinuxResources::default()
}

pub(crate) fn without_devices(resources: &LinuxResources) -> LinuxResources {
    let mut rest = resources.clone();
    rest.set_devices(None);
    rest
}

/// Puts the rules for devices in force. An ordinary user may load no such program, and needs none: in its user namespace
/// no device can be made, and those of the host open as they do for the user.
pub(crate) fn apply_devices(cgroup: &Cgroup, resources: Option<&LinuxResources>) -> Result<()> {
    let ordinary = || !(geteuid().is_root() && procfs::in_first_user_namespace());
    match cgroup.apply(&only_devices(resources)) {
        Err(error) if error.is_program_refused() && ordinary() => Ok(()),
        result => Ok(result?),
    }
}

/// The whole policy for devices: nothing, then what the configuration says, then what every context needs. The last are
/// not the configuration's to take away: without them no terminal can be made.
fn only_devices(resources: Option<&LinuxResources>) -> LinuxResources {
    let asked = resources.and_then(|resources| resources.devices().as_ref()).into_iter().flatten();
    let mut usual = default_devices().into_iter();
    let devices = usual.next().into_iter().chain(asked.cloned()).chain(usual);
    let mut only = LinuxResources::default();
    only.set_devices(Some(devices.collect()));
    only
}
