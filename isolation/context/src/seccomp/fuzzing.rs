//! What only the fuzzers reach: the compiler without its cache.

use libc::sock_filter;
use oci_spec::runtime::LinuxSeccomp;

use super::{lower, validate};

/// The program that is loaded; none for a profile that is refused.
pub fn program(profile: &LinuxSeccomp) -> Option<Vec<sock_filter>> {
    validate(profile).ok()?;
    lower::lower(profile).ok()
}
