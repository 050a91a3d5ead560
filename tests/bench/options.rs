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

    pub fn wants(&self, section: &str) -> bool {
        let mut asked = self.sections.iter().filter(|name| !name.is_empty()).peekable();
        asked.peek().is_none() || asked.any(|name| name == section)
    }
}
