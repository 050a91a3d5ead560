//! What only the fuzzers reach: both forms of a compiled program.

use libc::sock_filter;
use oci_spec::runtime::LinuxSeccomp;

use super::{lower, validate};

/// The program as libseccomp wrote it with our prologue, and the one that is loaded; none for a profile that is refused.
pub fn programs(profile: &LinuxSeccomp) -> Option<(Vec<sock_filter>, Vec<sock_filter>)> {
    validate(profile).ok()?;
    let (whole, _) = lower::whole(profile).ok()?;
    Some((whole, lower::lower(profile).ok()?))
}
