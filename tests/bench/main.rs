//! The bench: vctx, its peers and the kernel's floor, interleaved in a shuffled order, on the same bundles.
//!
//! `make bench` builds it and calls it as root; docs/performance.md says what each measure is. A section makes bundles,
//! calls `measure::rounds`, and gets `Measure`s; the report writes them as a table, JSON, a picture and documentation.
// It prints, and what is wrong ends it.
#![allow(clippy::print_stdout, clippy::print_stderr, unreachable_pub, missing_docs)]

mod bundle;
mod calls;
mod check;
mod crowd;
mod document;
mod floor_words;
mod inside;
mod measure;
mod options;
#[cfg(target_arch = "x86_64")]
mod order;
mod peer;
mod picture;
mod report;
mod starts;
mod statistics;
mod workspace;

use measure::{Before, Contender, Dice};
use options::Options;
use peer::Peer;
use statistics::Measure;
use workspace::Workspace;

/// One line that says what is wrong.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What every section works with.
pub struct Bench {
    pub workspace: Workspace,
    pub peers: Vec<Peer>,
    pub dice: Dice,
    /// Paired rounds of a main measure.
    pub rounds: usize,
}

type Section = fn(&mut Bench) -> Result<Vec<Measure>>;

/// The sections by name, in the order in which they run.
pub const SECTIONS: [(&str, Section); 9] = [
    ("run", starts::run),
    ("exec", starts::exec),
    ("verbs", starts::verbs),
    ("calls", calls::calls),
    ("at-once", crowd::at_once),
    ("crowd", crowd::crowd),
    ("inside", inside::inside),
    ("web", inside::web),
    ("density", inside::density),
];

impl Bench {
    pub fn peer(&self, name: &str) -> Option<Peer> {
        self.peers.iter().find(|peer| peer.name == name).cloned()
    }

    /// Runs the rounds and prints their table.
    pub fn compare(
        &mut self,
        name: &str,
        rounds: usize,
        before: Before,
        contenders: Vec<Contender>,
    ) -> Result<Vec<Measure>> {
        let (samples, notes) = measure::rounds(&self.workspace, &mut self.dice, rounds, before, contenders)?;
        let measures = statistics::measures(name, &samples, &notes);
        measures.iter().for_each(report::print);
        Ok(measures)
    }

    /// A measure that cannot be taken here, with the reason.
    pub fn nothing(&self, name: &str, reason: &dyn std::fmt::Display) -> Vec<Measure> {
        let measure = Measure {
            name: name.into(),
            notes: vec![format!("not measured: {reason}")],
            ..Measure::default()
        };
        report::print(&measure);
        vec![measure]
    }
}

fn main() {
    let options = Options::parse();
    if let Err(error) = run(&options) {
        eprintln!("bench: {error}");
        std::process::exit(1);
    }
}

fn run(options: &Options) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err("it measures as root; run it so".into());
    }
    let mut workspace = Workspace::new()?;
    let (peers, left_out) = peer::present(&mut workspace)?;
    let header = report::Header::new(&peers, left_out, options.seed);
    println!("{header}");
    let dice = Dice(options.seed);
    let mut bench = Bench { workspace, peers, dice, rounds: options.rounds };
    #[cfg(target_arch = "x86_64")]
    if let Some(script) = &options.order {
        return order::write(&bench, script);
    }
    let mut measures = vec![];
    for (name, section) in SECTIONS.iter().filter(|(name, _)| options.wants(name)) {
        println!("\n# {name}");
        let taken = section(&mut bench)?;
        measures.extend(taken.into_iter().map(|measure| header.sign(name, measure)));
    }
    let report = report::write(&options.output, header, &measures)?;
    if options.document || options.is_everything() {
        document::write(&report)?;
    }
    match &options.check {
        Some(baseline) if options.keep => check::keep(baseline, &measures),
        Some(baseline) => check::compare(baseline, &measures),
        None => Ok(()),
    }
}
