//! The program: parse, one match on the verb, print the error chain once, exit code.
//!
//! Exit codes: the guest's own for `run` and `exec`; our own failures are 125 for `run` and `info` (as the engines' own
//! `run`), 255 for `exec` and 1 for the other verbs of OCI (as runc).

#![cfg_attr(not(test), no_main)]

mod args;
mod argv;
mod checkpoint;
mod checkpoint_args;
mod cp;
mod create;
mod dedup;
mod df;
#[cfg(not(test))]
mod entry;
mod error;
mod events;
mod exec;
mod exit;
mod features;
mod gc;
mod grants;
mod handles;
mod heap;
mod image;
mod image_args;
mod info;
mod log;
mod native;
mod network;
mod network_args;
mod output;
mod run;
mod run_args;
mod show;
mod snapshot;
mod spec;
mod storage_args;
mod supervise;
mod update;
mod values;
mod verbs;
mod volume;

use std::ffi::OsString;
use std::mem::ManuallyDrop;

use clap::{CommandFactory, FromArgMatches};

use args::{Cli, Global, Verb};
use error::Error;
use exit::ExitCode;
use heap::Heap;
use log::Log;

#[global_allocator]
static HEAP: Heap = Heap::new();

#[cfg_attr(test, allow(dead_code, reason = "the tests have a main of their own"))]
fn run() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    // The verbs that put a child of ours before guests make sure of this themselves. Where the process has to start
    // anew, it does so before it has read anything; a word that only looks like a verb costs one system call.
    if words.iter().any(|word| word == "run" || word == "create" || word == "exec") {
        let _ = vctx_context::exe::protect();
    }
    run_args::expect(&words);
    let mut parsed = parse(&words);
    if parsed.cli.is_err() && run_args::expect_all() {
        parsed = parse(&words);
    }
    let Parsed { argv, failure, cli } = parsed;
    let cli = match cli {
        Ok(cli) => cli,
        Err(usage) => return print_usage(&usage, failure),
    };
    let log = Log::new(&cli.global);
    let verb_exits_as_guest = matches!(cli.verb, Verb::Run(_));
    log.debug(&format!("called as {argv:?}"));
    match act(&cli.global, cli.verb) {
        Ok(code) => code,
        Err(error) => {
            log.failure(&error::chain(&error));
            error.exit_code(verb_exits_as_guest).unwrap_or(failure)
        }
    }
}

/// What the words ask for, or what clap has to say of them.
struct Parsed {
    argv: Vec<OsString>,
    failure: ExitCode,
    cli: Result<Cli, clap::Error>,
}

fn parse(words: &[OsString]) -> Parsed {
    // To take it apart would be work for nothing: the process ends soon.
    let mut command = ManuallyDrop::new(Cli::command());
    let argv = argv::normalise(words.to_vec(), &mut command);
    let failure = failure_code(&argv, &command);
    let cli = command
        .try_get_matches_from_mut(&argv)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    Parsed { argv, failure, cli }
}

fn act(global: &Global, verb: Verb) -> Result<ExitCode, Error> {
    match verb {
        Verb::Create(args) => create::run(global, *args),
        Verb::Start(args) => verbs::start(global, *args),
        Verb::Run(args) => run::run(global, *args),
        Verb::Exec(args) => exec::run(global, *args),
        Verb::State(args) => show::state(global, *args),
        Verb::Kill(args) => verbs::kill(global, *args),
        Verb::Delete(args) => verbs::delete(global, *args),
        Verb::Checkpoint(args) => checkpoint::checkpoint(global, *args),
        Verb::Restore(args) => checkpoint::restore(global, *args),
        Verb::Ps(args) => show::ps(global, *args),
        Verb::Pause(args) => verbs::pause(global, *args),
        Verb::Resume(args) => verbs::resume(global, *args),
        Verb::Update(args) => update::run(global, *args),
        Verb::Events(args) => events::run(global, *args),
        Verb::List(args) => show::list(global, *args),
        Verb::Spec(args) => spec::run(global, *args),
        Verb::Features(args) => features::run(global, *args),
        Verb::Info(args) => info::run(global, *args),
        Verb::Network(args) => network::run(global, args.verb),
        Verb::Cp(args) => cp::run(global, &args),
        Verb::Volume(args) => volume::run(global, args.verb),
        Verb::Snapshot(args) => snapshot::run(global, args.verb),
        Verb::Copy(args) => snapshot::copy(global, &args),
        Verb::Df(args) => df::run(global, &args),
        Verb::Gc(args) => gc::run(global, &args),
        Verb::Dedup(args) => dedup::run(global, &args),
        Verb::Image(args) => image::run(global, args.verb),
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
