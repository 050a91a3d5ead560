//! The command line of the bench.

use clap::Parser;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// Measures vctx against its peers.
#[derive(Debug, Parser)]
pub struct Options {
    /// Sections to run, separated by commas [default: all].
    #[arg(value_delimiter = ',')]
    pub sections: Vec<String>,
    /// Paired rounds of each main measure.
    #[arg(long, default_value_t = 60)]
    pub rounds: usize,
    /// Seed of the order.
    #[arg(long, default_value_t = now())]
    pub seed: u64,
    /// File for the figures as JSON.
    #[arg(long, default_value = "target/bench.json")]
    pub output: PathBuf,
    /// Write docs/performance.md and docs/bench.svg from the figures; a run of all sections does so by itself.
    #[arg(long)]
    pub document: bool,
    /// Fail when a ratio is worse than the one in this file by more than a fifth.
    #[arg(long, value_name = "FILE")]
    pub check: Option<PathBuf>,
    /// Write the file of `--check` instead.
    #[arg(long, requires = "check")]
    pub keep: bool,
    /// Measure nothing, and write the order of functions for the linker to this file.
    #[cfg(target_arch = "x86_64")]
    #[arg(long, value_name = "FILE")]
    pub order: Option<PathBuf>,
    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    bench: bool,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
}

impl Options {
    pub fn parse() -> Options {
        let options = <Options as Parser>::parse();
        let known = |name: &String| super::SECTIONS.iter().any(|(section, _)| section == name);
        if let Some(stranger) = options.sections.iter().find(|name| !name.is_empty() && !known(name)) {
            let names: Vec<&str> = super::SECTIONS.iter().map(|(name, _)| *name).collect();
            eprintln!("bench: there is no section {stranger}; there are {}", names.join(", "));
            std::process::exit(2);
        }
        options
    }

    pub fn is_everything(&self) -> bool {
        self.sections.iter().all(String::is_empty)
    }

    pub fn wants(&self, section: &str) -> bool {
        self.is_everything() || self.sections.iter().any(|name| name == section)
    }
}
