//! `debootstrap:SUITE`: the root of a Debian suite, or one like it, by the distribution's own tools.
//!
//! mmdebstrap writes an archive, and works for root and for ordinary users; debootstrap makes a folder, for root alone. Both
//! check the signatures of the archive that they fetch from.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::error::Error;
use super::store::{Partial, Store, unique};
use crate::program::which;

const PREFIX: &str = "debootstrap:";
/// A mirror that brings nothing for so long is given up, with all that was fetched.
const BOUND: Duration = Duration::from_secs(3600);

/// What is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    /// Its name, such as `trixie`.
    pub name: String,
    /// Packages beside those that every machine has.
    pub include: Vec<String>,
    /// Where packages are fetched from, in place of the tool's own choice.
    pub mirror: Option<String>,
}

/// What was made.
#[derive(Debug)]
pub struct Root {
    /// Holds the folder or the file until it has been taken in.
    partial: Partial,
    is_folder: bool,
}

impl Suite {
    /// From `debootstrap:SUITE`; nothing where the text is something else.
    #[must_use]
    pub fn of(text: &str) -> Option<Suite> {
        let name = text.strip_prefix(PREFIX)?;
        Some(Suite { name: name.to_owned(), include: Vec::new(), mirror: None })
    }

    /// Words that no tool takes for an option or a list.
    fn check(&self) -> Result<(), Error> {
        let is_word = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_alphanumeric())
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c))
        };
        let wrong = |what: &str, reason: &str| Err(Error::nonsense(format!("{what:?}"), reason));
        if !is_word(&self.name) {
            return wrong(&self.name, "is no name of a suite, such as trixie");
        }
        if let Some(package) = self.include.iter().find(|package| !is_word(package)) {
            return wrong(package, "is no name of a package");
        }
        if let Some(mirror) = self.mirror.as_ref().filter(|mirror| !mirror.contains("://")) {
            return wrong(mirror, "is no address of a mirror, such as http://deb.debian.org/debian");
        }
        Ok(())
    }
}

impl FromStr for Suite {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Suite, Self::Err> {
        Suite::of(text).ok_or("a suite is written debootstrap:SUITE")
    }
}

impl Root {
    /// Where it lies: a folder, or an archive.
    #[must_use]
    pub fn path(&self) -> &Path {
        if self.is_folder { &self.partial.path } else { Path::new("the archive of mmdebstrap") }
    }

    /// The archive, where it is one.
    #[must_use]
    pub fn archive(&self) -> Option<&File> {
        (!self.is_folder).then_some(&self.partial.file)
    }
}

impl Store {
    /// Makes the root of a suite, by whichever tool is installed. The tool tells on standard error what it does.
    ///
    /// # Errors
    ///
    /// None is installed, or it fails; then nothing stays.
    pub fn bootstrap(&self, suite: &Suite) -> Result<Root, Error> {
        suite.check()?;
        let is_root = rustix::process::geteuid().is_root();
        let tool = which("mmdebstrap").map(|path| (path, false));
        let tool = tool.or_else(|| which("debootstrap").filter(|_| is_root).map(|path| (path, true)));
        let Some((program, is_folder)) = tool else { return Err(Error::NoBootstrap) };
        self.make()?;
        let partial = self.partial(&unique("bootstrap"), is_folder)?;
        let mut command = Command::new(&program);
        command.arg("--variant=minbase").stdin(Stdio::null());
        if !suite.include.is_empty() {
            command.arg(format!("--include={}", suite.include.join(",")));
        }
        command.arg(&suite.name);
        let file = |error| Error::file("write", &partial.path)(error);
        let (target, output) = match is_folder {
            true => (partial.path.as_os_str(), Stdio::null()),
            false => (OsStr::new("-"), Stdio::from(partial.file.try_clone().map_err(file)?)),
        };
        command.arg(target).args(&suite.mirror).stdout(output);
        run(command, &program)?;
        Ok(Root { partial, is_folder })
    }
}

/// Waits for the tool, within the bound.
fn run(mut command: Command, program: &Path) -> Result<(), Error> {
    let fail = |reason: String| Error::Bootstrap { program: program.into(), reason };
    let told = |error: io::Error| fail(error.to_string());
    let mut child = command.spawn().map_err(told)?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pidfd = pid
        .ok_or(io::ErrorKind::InvalidData.into())
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from));
    let pidfd = pidfd.map_err(told)?;
    let bound = Timespec { tv_sec: BOUND.as_secs().cast_signed(), tv_nsec: 0 };
    let mut wanted = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let ended =
        rustix::io::retry_on_intr(|| poll(&mut wanted, Some(&bound))).map_err(|error| told(error.into()))?;
    if ended == 0 {
        // It removes its own folders then.
        let _ = pidfd_send_signal(&pidfd, Signal::TERM);
        let _ = child.wait();
        return Err(fail("it has not ended within an hour".into()));
    }
    match child.wait().map_err(told)? {
        status if status.success() => Ok(()),
        status => Err(fail(format!("it ended with {status}; what it says stands above"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_becomes_an_option_of_the_tool() {
        let suite = |name: &str| Suite::of(&format!("{PREFIX}{name}")).unwrap();
        suite("trixie").check().unwrap();
        suite("stable-backports").check().unwrap();
        for wrong in ["", "-x", "a b", "a/../b", "--setup-hook=x"] {
            assert!(suite(wrong).check().is_err(), "{wrong}");
        }
        let with = |include: &str| Suite { include: vec![include.into()], ..suite("sid") };
        assert!(
            with("python3").check().is_ok() && with("g++").check().is_ok() && with("-x").check().is_err()
        );
        assert!(Suite { mirror: Some("--x".into()), ..suite("sid") }.check().is_err());
        assert!(Suite::of("debian:13").is_none());
    }
}
