//! x
use crate::args::Global;
use crate::error::Error;
use crate::run_args::RunArgs;
use vctx_runtime::create::Request;
pub(crate) fn request(_: &Global, _: &RunArgs) -> Result<(Request, bool), Error> {
    Err(Error::NoProcess)
}
