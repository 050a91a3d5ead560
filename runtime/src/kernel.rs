//! What a configuration asks of the kernel that runs: refused before the first side effect where it is not there. A label
//! or a limit that is not in force must never look as if it were.

use std::fs;
use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use rustix::fs::statfs;

use crate::{Error, Result};

const SELINUX_MAGIC: i64 = 0xf97c_ff8c;

/// Checks a whole configuration.
///
/// # Errors
///
/// Names the field, and what is missing.
pub(crate) fn supports(spec: &Spec) -> Result<()> {
    if let Some(process) = spec.process() {
        labels(process)?;
    }
    crate::landlock::handled(spec)?;
    let Some(linux) = spec.linux() else { return Ok(()) };
    if linux.intel_rdt().is_some() {
        return Err(Error::invalid(
            "linux.intelRdt",
            match Path::new("/sys/fs/resctrl/schemata").exists() {
                true => {
                    "is not supported; leave it away, and put the process into its resctrl group by a hook"
                }
                false => "needs the file system resctrl, which is not mounted at /sys/fs/resctrl",
            },
        ));
    }
    Ok(())
}

/// Takes out what only gives to confined processes, where this kernel confines none: a label of mounts makes files open to
/// those of that label, and holds nobody back by itself. What is passed over is a warning.
pub(crate) fn set_aside(spec: &mut Spec) -> Option<Error> {
    let linux = spec.linux_mut().as_mut()?;
    let label = linux.mount_label().as_ref().filter(|label| !label.is_empty())?;
    if selinux() {
        return None;
    }
    let label = label.clone();
    linux.set_mount_label(None);
    Some(Error::MountLabel { label })
}

/// Checks the labels of a process.
///
/// # Errors
///
/// As [`supports`].
pub(crate) fn labels(process: &Process) -> Result<()> {
    let given = |label: &Option<String>| label.as_ref().is_some_and(|label| !label.is_empty());
    if given(process.apparmor_profile()) && !apparmor() {
        return missing("process.apparmorProfile", "AppArmor");
    }
    if given(process.selinux_label()) && !selinux() {
        return missing("process.selinuxLabel", "SELinux");
    }
    Ok(())
}

fn missing(field: &str, module: &str) -> Result<()> {
    Err(Error::invalid(field, format!("is set, and {module} is not enabled on this kernel; leave it away")))
}

fn apparmor() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with(b"Y"))
}

fn selinux() -> bool {
    statfs("/sys/fs/selinux").is_ok_and(|found| found.f_type == SELINUX_MAGIC)
}
