//! `--log`, `--log-format`, `--debug`: the records that engines read, and the one line on standard error.
//!
//! containerd, conmon and Podman read the last record of level `error` from the file, so a failure appends one there,
//! and says the same on standard error for people. The level is named there too: scripts look for the word.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::args::{Global, LogFormat};
use crate::output::{escape, rfc3339};

/// Where records go and which.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    file: Option<PathBuf>,
    format: LogFormat,
    debug: bool,
    verbose: bool,
}

impl Log {
    pub(crate) fn new(global: &Global) -> Log {
        Log {
            file: global.log.clone(),
            format: global.log_format,
            debug: global.debug,
            verbose: global.verbose,
        }
    }

    /// Tell of a failure, once: `chain` holds the error and its causes, outermost first.
    pub(crate) fn failure(&self, chain: &[String]) {
        let line = chain.join(": ");
        if self.file.is_some() || self.format == LogFormat::Json {
            self.record("error", &line);
        }
        if self.file.is_some() || self.format == LogFormat::Text {
            let mut text = format!("vctx: error: {}\n", escape(&line));
            if self.verbose {
                for cause in chain.iter().skip(1) {
                    text.push_str(&format!("  caused by: {}\n", escape(cause)));
                }
            }
            to_stderr(&text);
        }
    }

    /// Record what went wrong and does no harm.
    pub(crate) fn warnings(&self, warnings: &[vctx_runtime::Error]) {
        for warning in warnings {
            self.record("warning", &crate::error::chain(warning).join(": "));
        }
    }

    /// Record a step, if `--debug` asks for it.
    pub(crate) fn debug(&self, message: &str) {
        if self.debug {
            self.record("debug", message);
        }
    }

    fn record(&self, level: &str, message: &str) {
        let record = record(self.format, level, message, SystemTime::now());
        let Some(path) = &self.file else { return to_stderr(&record) };
        // O_APPEND and one write: records of runtimes that share a file do not mix.
        let appended = open(path).and_then(|mut file| file.write_all(record.as_bytes()));
        if let Err(error) = appended {
            to_stderr(&format!(
                "vctx: error: cannot append to the log {}: {error}\n",
                escape(&path.to_string_lossy())
            ));
        }
    }
}

/// Follows no link but root's and our own, such as /dev/stderr: in a folder that others may write, one could lead to any
/// file that we may.
fn open(path: &Path) -> io::Result<File> {
    let options = |flags| OpenOptions::new().append(true).create(true).custom_flags(flags).open(path);
    let link = match options(libc::O_NOFOLLOW) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => std::fs::symlink_metadata(path)?,
        result => return result,
    };
    match [0, nix::unistd::geteuid().as_raw()].contains(&link.uid()) {
        true => options(0),
        false => Err(io::Error::other("it is a link that another user has made")),
    }
}

/// Tell of a failure before there are options that say where to.
#[cfg_attr(test, allow(dead_code, reason = "the tests have a main of their own"))]
pub(crate) fn without_options(failure: &str) {
    to_stderr(&format!("vctx: error: {failure}\n"));
}

/// Standard error may be closed; there is no one left to tell then.
fn to_stderr(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

fn record(format: LogFormat, level: &str, message: &str, time: SystemTime) -> String {
    let time = rfc3339(time);
    match format {
        LogFormat::Json => {
            format!("{}\n", serde_json::json!({ "level": level, "msg": message, "time": time }))
        }
        LogFormat::Text => {
            let quoted = escape(&message.replace('\\', "\\\\").replace('"', "\\\""));
            format!("time=\"{time}\" level={level} msg=\"{quoted}\"\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn a_record_is_one_line_whatever_the_message_holds() {
        let message = "cannot run \"a\nb\x1b\\\"";
        let json = record(LogFormat::Json, "error", message, UNIX_EPOCH);
        assert_eq!(json.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["msg"], message);
        assert_eq!(value["level"], "error");
        assert_eq!(value["time"], "1970-01-01T00:00:00.000000000Z");
        let text = record(LogFormat::Text, "error", message, UNIX_EPOCH);
        assert_eq!(
            text,
            "time=\"1970-01-01T00:00:00.000000000Z\" level=error msg=\"cannot run \\\"a\\nb\\u{1b}\\\\\\\"\"\n"
        );
    }

    #[test]
    fn records_are_appended_to_the_file_and_debug_ones_only_when_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.json");
        let mut log = Log { file: Some(path.clone()), format: LogFormat::Json, debug: false, verbose: false };
        log.debug("not asked for");
        log.failure(&["outer".to_owned(), "inner".to_owned()]);
        log.debug = true;
        log.debug("asked for");
        let text = std::fs::read_to_string(&path).unwrap();
        let messages: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["msg"].to_string())
            .collect();
        assert_eq!(messages, ["\"outer: inner\"", "\"asked for\""]);
    }
}
