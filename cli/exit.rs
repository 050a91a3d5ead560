//! How the process ends: its exit code, as a number that can be given to the system (std's own keeps its number to itself).

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExitCode(u8);

impl ExitCode {
    /// 0.
    pub(crate) const SUCCESS: ExitCode = ExitCode(0);
    /// 1.
    pub(crate) const FAILURE: ExitCode = ExitCode(1);
}

impl From<u8> for ExitCode {
    fn from(code: u8) -> ExitCode {
        ExitCode(code)
    }
}

impl From<ExitCode> for i32 {
    fn from(code: ExitCode) -> i32 {
        code.0.into()
    }
}
