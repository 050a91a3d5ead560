//! The hooks of a configuration. They run late, and one that cannot run would be found when much was made already.

use oci_spec::runtime::Spec;

use super::{path, text};
use crate::hooks::Point;
use crate::{Error, Result};

pub(super) fn hooks(spec: &Spec) -> Result<()> {
    for point in Point::ALL {
        for (index, hook) in point.of(spec).iter().enumerate() {
            let at = |name: &str| format!("hooks.{}[{index}].{name}", point.name());
            path(&at("path"), hook.path())?;
            if !hook.path().is_absolute() {
                return Err(Error::invalid(
                    at("path"),
                    format!("is {:?}, and must be an absolute path", hook.path()),
                ));
            }
            hook.args().iter().flatten().try_for_each(|one| text(&at("args"), one))?;
            hook.env().iter().flatten().try_for_each(|one| text(&at("env"), one))?;
            if let Some(seconds) = hook.timeout().filter(|seconds| *seconds <= 0) {
                return Err(Error::invalid(at("timeout"), format!("is {seconds}, and must be more than 0")));
            }
        }
    }
    Ok(())
}
