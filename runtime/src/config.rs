//! `config.json`: the bytes as they came, and what they say.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxSeccomp, Process, Spec};
use rustix::fs::{Mode, OFlags, open};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Result, strict};

/// A configuration, with its original bytes: what is kept is never a re-serialisation.
#[derive(Debug)]
pub struct Config {
    /// As read.
    pub bytes: Vec<u8>,
    /// As understood.
    pub spec: Spec,
    /// Capabilities that it names and nobody knows; they are left out of `spec`.
    pub unknown_capabilities: Vec<String>,
}

/// A process of `exec --process`.
#[derive(Debug)]
pub struct ProcessConfig {
    /// As understood.
    pub process: Process,
    /// As [`Config::unknown_capabilities`].
    pub unknown_capabilities: Vec<String>,
}

/// A configuration larger than this is refused, in bytes.
const LIMIT: u64 = 16 << 20;

impl Config {
    /// Reads a bundle's `config.json`.
    ///
    /// # Errors
    ///
    /// The file is missing, too large, or no configuration.
    pub fn of_bundle(bundle: &Path) -> Result<Config> {
        Config::read(&bundle.join("config.json"))
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    ///
    /// As [`Config::of_bundle`].
    pub fn read(path: &Path) -> Result<Config> {
        Config::parse(read(path)?, path)
    }

    /// The bytes that `path` holds.
    pub(crate) fn parse(bytes: Vec<u8>, path: &Path) -> Result<Config> {
        let (spec, unknown_capabilities) = understand(&bytes, path, normalise)?;
        Ok(Config { bytes, spec, unknown_capabilities })
    }

    /// A configuration that was made in memory.
    ///
    /// # Errors
    ///
    /// It cannot be written as JSON.
    pub fn from_spec(spec: Spec) -> Result<Config> {
        let path = || PathBuf::from("the generated configuration");
        let bytes = serde_json::to_vec(&spec).map_err(|source| Error::ParseConfig {
            path: path(),
            field: String::new(),
            source,
        })?;
        Ok(Config { bytes, spec, unknown_capabilities: Vec::new() })
    }
}

/// Reads the process of `exec --process`.
///
/// # Errors
///
/// As [`Config::of_bundle`].
pub fn read_process(path: &Path) -> Result<ProcessConfig> {
    let bytes = read(path)?;
    let (process, unknown_capabilities) = understand(&bytes, path, normalise_process)?;
    Ok(ProcessConfig { process, unknown_capabilities })
}

/// Reads a seccomp profile, as `linux.seccomp` has it.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn seccomp_profile(profile: Value) -> serde_json::Result<LinuxSeccomp> {
    strict::from_value(profile).map_err(serde_path_to_error::Error::into_inner)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let fail = |source| Error::ReadConfig { path: path.into(), source };
    let mut bytes = Vec::with_capacity(16 << 10);
    // The length that a device says it has is none.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).map_err(|error| fail(error.into()))?;
    let file = File::from(file);
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > LIMIT {
        return Err(Error::invalid(path.display().to_string(), format!("is longer than {LIMIT} bytes")));
    }
    Ok(bytes)
}

/// What the text says, and the unknown capabilities in it. What the package does not know is taken out only when it gets in
/// the way: the good case is parsed once, and only an error costs a second reading, which finds its field.
fn understand<T: DeserializeOwned>(
    bytes: &[u8],
    path: &Path,
    change: impl Fn(&mut Value) -> Vec<String>,
) -> Result<(T, Vec<String>)> {
    let source = match strict::from_slice(bytes) {
        Ok(whole) => return Ok((whole, Vec::new())),
        Err(source) => source,
    };
    let refused = |field: Option<String>, source| {
        // What is missing has no place of its own: the path then ends in a question mark.
        let place = field.as_deref().map(|field| field.trim_end_matches(".?"));
        let named = place.filter(|field| !matches!(*field, "." | "?"));
        let field = named.map_or_else(String::new, |field| format!(" in {field}"));
        Error::ParseConfig { path: path.into(), field, source }
    };
    let changed = serde_json::from_slice::<Value>(bytes).ok().and_then(|before| {
        let mut value = before.clone();
        let unknown_capabilities = change(&mut value);
        (value != before).then_some((value, unknown_capabilities))
    });
    let Some((value, unknown_capabilities)) = changed else {
        return Err(refused(strict::locate::<T>(bytes).map(|error| error.path().to_string()), source));
    };
    match strict::from_value(value) {
        Ok(whole) => Ok((whole, unknown_capabilities)),
        Err(error) => Err(refused(Some(error.path().to_string()), error.into_inner())),
    }
}

/// Takes out what newer callers write and the package refuses: unknown capabilities, whose names are given (the
/// specification wants a warning, not an error), the fields of other systems, and a scheduler flag by its full name.
fn normalise(spec: &mut Value) -> Vec<String> {
    if let Some(spec) = spec.as_object_mut() {
        for foreign in ["vm", "windows", "solaris", "zos", "freebsd"] {
            spec.remove(foreign);
        }
    }
    spec.get_mut("process").map(normalise_process).unwrap_or_default()
}

fn normalise_process(process: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    if let Some(sets) = process.get_mut("capabilities").and_then(Value::as_object_mut) {
        for set in sets.values_mut().filter_map(Value::as_array_mut) {
            set.retain(|name| match name.as_str() {
                Some(text) if vctx_context::capability::bit(text).is_none() => {
                    unknown.extend((!unknown.iter().any(|known| known == text)).then(|| text.to_owned()));
                    false
                }
                // What is no text at all is an error, which names its place.
                _ => true,
            });
        }
    }
    if let Some(flags) = process.pointer_mut("/scheduler/flags").and_then(Value::as_array_mut) {
        for flag in flags.iter_mut().filter(|flag| *flag == "SCHED_FLAG_RESET_ON_FORK") {
            *flag = Value::from("SCHED_RESET_ON_FORK");
        }
    }
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Spec, Vec<String>)> {
        understand(text.as_bytes(), "config.json".as_ref(), normalise)
    }

    #[test]
    fn an_unknown_capability_is_left_out_and_the_others_stay() {
        let text = r#"{"ociVersion":"1.2.0","process":{"user":{"uid":0,"gid":0},"cwd":"/","args":["a"],
            "capabilities":{"bounding":["CAP_KILL","CAP_SHRUBBERY"],"effective":["CAP_SHRUBBERY"]}}}"#;
        let (spec, unknown) = parse(text).unwrap();
        assert_eq!(unknown, ["CAP_SHRUBBERY"]);
        let capabilities = spec.process().as_ref().unwrap().capabilities().as_ref().unwrap();
        assert_eq!(capabilities.bounding().as_ref().unwrap().len(), 1);
        // What is wrong beside it is what the error names.
        let error = parse(&text.replace(r#""cwd":"/""#, r#""cwd":7"#)).unwrap_err();
        assert!(error.to_string().ends_with("in process.cwd"), "{error}");
    }

    #[test]
    fn a_missing_field_is_named_with_its_object() {
        let error = parse(r#"{"ociVersion":"1.0.0","process":{"cwd":"/","user":{"gid":0}}}"#).unwrap_err();
        assert!(error.to_string().ends_with("in process.user"), "{error}");
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("`uid`"));
    }

    #[test]
    fn the_error_of_a_wrong_type_says_where_it_is() {
        let error = parse(r#"{"ociVersion":"1.0.0","root":{"path":7}}"#).unwrap_err();
        assert!(error.to_string().ends_with("in root.path"), "{error}");
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("column"), "{cause}");
    }
}
