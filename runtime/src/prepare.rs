//! Work of the caller's in `create`, between the folders of a context and its first process.

use crate::{Error, Result};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is done when the folders of a context are there and nothing runs yet.
pub struct Prepare(Box<dyn FnOnce() -> std::result::Result<(), Failure>>);

impl Prepare {
    /// What fails is undone with the rest.
    pub fn new(work: impl FnOnce() -> std::result::Result<(), Failure> + 'static) -> Prepare {
        Prepare(Box::new(work))
    }

    pub(crate) fn run(self) -> Result<()> {
        (self.0)().map_err(Error::Prepare)
    }
}

impl std::fmt::Debug for Prepare {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Prepare")
    }
}
