//! The figures as a table on the terminal and as JSON.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::Result;
use super::peer::Peer;
use super::statistics::{Figures, Measure};

/// Under what circumstances the figures came about.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Header {
    pub date: String,
    pub commit: String,
    pub machine: String,
    pub groups: String,
    pub peers: Vec<String>,
    pub left_out: Vec<String>,
    pub seed: u64,
}

/// All of it, as it lies in the JSON file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub header: Header,
    pub measures: Vec<Measure>,
}

impl Header {
    pub fn new(peers: &[Peer], left_out: Vec<String>, seed: u64) -> Header {
        let tree = Path::new("/sys/fs/cgroup");
        let groups = match (tree.join("cgroup.controllers").exists(), tree.join("unified").exists()) {
            (true, _) => "v2",
            (false, true) => "hybrid: v1 beside v2",
            (false, false) => "v1",
        };
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Header {
            date: output_of("date", &["-u", "+%Y-%m-%d"]),
            commit: output_of("git", &["describe", "--always", "--dirty", "--abbrev=12", "--match="]),
            machine: format!("{processors} processors, Linux {}", kernel.trim()),
            groups: groups.into(),
            peers: peers.iter().map(|peer| format!("{} {}", peer.name, peer.version).trim().into()).collect(),
            left_out,
            seed,
        }
    }
}

impl Header {
    /// Notes in the measure where, when and of what it was taken.
    pub fn sign(&self, section: &str, measure: Measure) -> Measure {
        Measure { section: section.into(), taken: format!("{}, {}", self.date, self.commit), ..measure }
    }
}

fn output_of(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".into())
}

impl fmt::Display for Header {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        writeln!(
            to,
            "{}, commit {}, {}, control groups: {}",
            self.date, self.commit, self.machine, self.groups
        )?;
        writeln!(to, "measured: {}", self.peers.join(", "))?;
        self.left_out.iter().try_for_each(|reason| writeln!(to, "left out: {reason}"))?;
        write!(to, "seed {}", self.seed)
    }
}

/// The order of the rows: vctx, its peers, the floor; then anything else.
const ORDER: [&str; 6] = ["vctx", "crun", "runc", "youki", "bwrap", "floor"];

/// The contenders of a measure in the order of the tables.
pub fn ordered(measure: &Measure) -> Vec<(&String, &Figures)> {
    let mut rows: Vec<_> = measure.figures.iter().collect();
    rows.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
    rows
}

pub fn print(measure: &Measure) {
    println!("\n{}", measure.name);
    if !measure.figures.is_empty() {
        println!(
            "  {:<12}{:>8}{:>10}{:>10}{:>10}{:>10}{:>10}{:>12}{:>12}{:>12}",
            "us", "rounds", "min", "median", "p95", "cpu min", "cpu", "to floor", "vctx/it", "vctx/it cpu"
        );
    }
    let ratio = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
    for (name, figures) in ordered(measure) {
        println!(
            "  {:<12}{:>8}{:>10.0}{:>10.0}{:>10.0}{:>10.0}{:>10.0}{:>12}{:>12}{:>12}",
            name,
            figures.rounds,
            figures.wall.minimum,
            figures.wall.median,
            figures.wall.p95,
            figures.cpu.minimum,
            figures.cpu.median,
            ratio(figures.to_floor),
            ratio(figures.vctx_wall),
            ratio(figures.vctx_cpu),
        );
    }
    for value in &measure.values {
        println!("  {:<60}{:>12.2} {}", value.name, value.value, value.unit);
    }
    measure.notes.iter().for_each(|note| println!("  {note}"));
}

/// Writes the file; measures of sections that this run did not take stay in it. The result is all that it holds.
pub fn write(path: &Path, header: Header, measures: &[Measure]) -> Result<Report> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let before = fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Report>(&bytes).ok());
    let mut kept = before.unwrap_or_default().measures;
    kept.retain(|old| measures.iter().all(|new| new.section != old.section));
    kept.extend_from_slice(measures);
    let position = |measure: &Measure| super::SECTIONS.iter().position(|(name, _)| *name == measure.section);
    kept.sort_by_key(position);
    let report = Report { header, measures: kept };
    fs::write(path, serde_json::to_string_pretty(&report)?)?;
    println!("\nwritten to {}", path.display());
    Ok(report)
}
