//! The program: parse, one match on the verb, print the error chain once, exit code.
//!
//! Exit codes: the guest's own for `run` and `exec`; our own failures are 125 for `run` and `info` (as the engines' own
//! `run`), 255 for `exec` and 1 for the other verbs of OCI (as runc).

mod args;
mod argv;
mod error;
mod features;
mod grants;
mod info;
mod log;
mod output;
mod probe;
mod run_args;
mod spec;
mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Global, Verb};
use error::Error;
use log::Log;

fn main() -> ExitCode {
    let command = Cli::command();
    let argv = argv::normalise(std::env::args_os().collect(), &command);
    let failure = failure_code(&argv, &command);
    let cli = match command.try_get_matches_from(&argv).and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(usage) => return print_usage(&usage, failure),
    };
    let log = Log::new(&cli.global);
    match run(&cli.global, cli.verb) {
        Ok(code) => code,
        Err(error) => {
            log.failure(&error::chain(&error));
            failure
        }
    }
}

fn run(global: &Global, verb: Verb) -> Result<ExitCode, Error> {
    match verb {
        Verb::Create(_) => Err(Error::NotBuilt("create")),
        Verb::Start(_) => Err(Error::NotBuilt("start")),
        Verb::Run(_) => Err(Error::NotBuilt("run")),
        Verb::Exec(_) => Err(Error::NotBuilt("exec")),
        Verb::State(_) => Err(Error::NotBuilt("state")),
        Verb::Kill(_) => Err(Error::NotBuilt("kill")),
        Verb::Delete(_) => Err(Error::NotBuilt("delete")),
        Verb::Ps(_) => Err(Error::NotBuilt("ps")),
        Verb::Pause(_) => Err(Error::NotBuilt("pause")),
        Verb::Resume(_) => Err(Error::NotBuilt("resume")),
        Verb::Update(_) => Err(Error::NotBuilt("update")),
        Verb::Events(_) => Err(Error::NotBuilt("events")),
        Verb::List(_) => Err(Error::NotBuilt("list")),
        Verb::Spec(args) => spec::run(global, args),
        Verb::Features(args) => features::run(global, args),
        Verb::Info(args) => info::run(global, args),
    }
}

/// The exit code of our own failures, known before the options are: a usage error has it too.
fn failure_code(argv: &[OsString], command: &clap::Command) -> ExitCode {
    match argv::verb(argv, command).as_deref() {
        Some("run" | "info") => ExitCode::from(125),
        Some("exec") => ExitCode::from(255),
        _ => ExitCode::FAILURE,
    }
}

/// clap's own messages: help and the version go to standard output and are a success.
fn print_usage(usage: &clap::Error, failure: ExitCode) -> ExitCode {
    // The stream may be closed; there is no one left to tell then.
    let _ = usage.print();
    if usage.use_stderr() { failure } else { ExitCode::SUCCESS }
}
