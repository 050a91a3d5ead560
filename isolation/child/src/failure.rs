//! From an errno to the step that met it.

use rustix::io::Errno;

use crate::handshake::{Failure, Step};

/// Names the step, and the item of its list.
pub(crate) fn at(step: Step, index: usize) -> impl Fn(Errno) -> Failure {
    move |error| Failure { step, index: index.min(usize::from(u16::MAX)) as u16, errno: error.raw_os_error() }
}

/// Names the step of a result.
pub(crate) trait At<T> {
    /// For a step without a list.
    fn or_at(self, step: Step) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn or_at(self, step: Step) -> Result<T, Failure> {
        self.map_err(at(step, 0))
    }
}
