//! The program: parse, one match, print the error once, exit code.

mod args;
mod grants;
mod run_args;
mod values;

use clap::Parser;

fn main() {
    let _ = args::Cli::parse();
}
