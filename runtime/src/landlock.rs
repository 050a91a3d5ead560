//! The annotation by which a configuration asks for Landlock, for the specification has no field for it: one rule a line, what
//! is allowed and a path of the root, such as `rx /usr`. What no rule allows is refused.

use oci_spec::runtime::Spec;
use vctx_context::landlock::{self, Access};

use crate::{Error, Result, validate};

/// Its key.
pub const ANNOTATION: &str = "io.github.vctx.landlock";

/// One line.
#[derive(Debug)]
pub(crate) struct Rule<'s> {
    pub(crate) access: Access,
    pub(crate) path: &'s str,
}

impl<'s> Rule<'s> {
    fn parse(line: &'s str) -> Result<Rule<'s>> {
        let (access, path) = line.split_once(' ').unwrap_or((line, ""));
        match access.parse() {
            Ok(access) if path.starts_with('/') => {
                validate::path(&field(), path.as_ref()).map(|()| Rule { access, path })
            }
            _ => Err(refusal(format!(
                "has the line {line:.80?}, which is not r, rx, rw or rwx and an absolute path"
            ))),
        }
    }
}

/// The rules of a configuration, if it asks for Landlock.
///
/// # Errors
///
/// A line is no rule, or there is none.
pub(crate) fn rules(spec: &Spec) -> Result<Option<Vec<Rule<'_>>>> {
    let Some(text) = spec.annotations().as_ref().and_then(|all| all.get(ANNOTATION)) else { return Ok(None) };
    let rules = text.lines().filter(|line| !line.is_empty()).map(Rule::parse).collect::<Result<Vec<_>>>()?;
    if rules.is_empty() {
        return Err(refusal("has no rule, so that the program could not be read; add one, such as rx /usr"));
    }
    Ok(Some(rules))
}

/// The accesses that are refused where no rule allows them; none where the configuration does not ask for Landlock.
///
/// # Errors
///
/// It asks, and the kernel cannot.
pub(crate) fn handled(spec: &Spec) -> Result<u64> {
    match spec.annotations().as_ref().is_some_and(|all| all.contains_key(ANNOTATION)) {
        true => landlock::handled().map_err(|error| refusal(error.to_string())),
        false => Ok(0),
    }
}

fn field() -> String {
    format!("annotations.{ANNOTATION}")
}

fn refusal(why: impl Into<String>) -> Error {
    Error::invalid(field(), why)
}
