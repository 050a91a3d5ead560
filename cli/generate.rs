//! Writes the man pages and shell completions into a folder: `cargo run --example generate-docs -- DIR`.
//!
//! It includes the command line's types, so that help, manuals and completions have one source.

#[allow(dead_code, reason = "only the definitions are read here, never parsed values")]
mod args;
#[allow(dead_code, reason = "as above")]
mod checkpoint_args;
#[allow(dead_code, reason = "as above")]
mod grants;
#[allow(dead_code, reason = "as above")]
mod image_args;
#[allow(dead_code, reason = "as above")]
mod network_args;
#[allow(dead_code, reason = "as above")]
mod run_args;
#[allow(dead_code, reason = "as above")]
mod storage_args;
#[allow(dead_code, reason = "as above")]
mod values;

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs, io};

use clap::CommandFactory;
use clap_complete::{Shell, generate_to};

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        return fail("usage: generate-docs DIR");
    };
    match generate(&folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot write the documents into {}: {error}", folder.display())),
    }
}

fn generate(folder: &PathBuf) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // A manual names the version on one line; the lines for engines are for `--version` alone.
    let mut command = args::Cli::command().version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true);
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "vctx", folder)?;
    }
    clap_mangen::generate_to(command, folder)
}

#[allow(clippy::print_stderr, reason = "a program of its own")]
fn fail(message: &str) -> ExitCode {
    eprintln!("{message}");
    ExitCode::FAILURE
}
