//! From samples to the figures that are shown and kept.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::measure::{Sample, Samples};

/// Of one quantity; in microseconds where the measure says nothing else.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Spread {
    pub minimum: f64,
    pub median: f64,
    /// 95th percentile.
    pub p95: f64,
}

/// What one contender needed for one measure.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    pub rounds: usize,
    pub wall: Spread,
    pub cpu: Spread,
    /// vctx's time over this contender's: the median over the rounds of the pairs' ratios.
    pub vctx_wall: Option<f64>,
    pub vctx_cpu: Option<f64>,
    /// vctx's least processor time over this contender's least: the ratio that noise disturbs least.
    pub vctx_cpu_minimum: Option<f64>,
    /// This contender's wall time over the floor's, as the median of pairs.
    pub to_floor: Option<f64>,
}

/// Which way a value is good, for `--check`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Better {
    Less,
    More,
    /// It describes the machine or a peer, and nothing is asked of it.
    #[default]
    Neither,
}

/// A figure that is no time of a process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Value {
    pub name: String,
    pub value: f64,
    pub unit: String,
    pub better: Better,
}

impl Value {
    pub fn new(name: impl Into<String>, value: f64, unit: &str, better: Better) -> Value {
        Value { name: name.into(), value, unit: unit.into(), better }
    }
}

/// One measure: its name, each contender's figures, and what follows from them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measure {
    pub name: String,
    /// The section that took it; set when it is reported.
    pub section: String,
    /// Date and commit; set when it is reported.
    pub taken: String,
    pub figures: BTreeMap<String, Figures>,
    pub values: Vec<Value>,
    pub notes: Vec<String>,
}

impl Measure {
    pub fn named(name: impl Into<String>) -> Measure {
        Measure { name: name.into(), ..Measure::default() }
    }
}

pub fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let at = |part: f64| sorted.get(((sorted.len().max(1) - 1) as f64 * part).round() as usize).copied();
    let at = |part| at(part).unwrap_or_default();
    Spread { minimum: at(0.0), median: at(0.5), p95: at(0.95) }
}

/// The median over the rounds of `ours / theirs`; none where a time is too short to have been seen.
pub fn paired(ours: &[Sample], theirs: &[Sample], of: fn(&Sample) -> f64) -> Option<f64> {
    let pairs = ours.iter().zip(theirs).filter(|(_, their)| of(their) > 0.0);
    let ratios: Vec<f64> = pairs.map(|(our, their)| of(our) / of(their)).collect();
    (!ratios.is_empty()).then(|| spread(ratios.into_iter()).median)
}

/// A measure for each operation in the samples: `prefix`, and the operation's name where it has one.
pub fn measures(prefix: &str, samples: &Samples, notes: &[String]) -> Vec<Measure> {
    let with_notes = |(operation, of): (&&'static str, &BTreeMap<String, Vec<Sample>>)| {
        let name = if operation.is_empty() { prefix.to_string() } else { format!("{prefix}: {operation}") };
        let figures = of.iter().map(|(name, own)| (name.clone(), figures(name, own, of))).collect();
        Measure { figures, notes: notes.to_vec(), ..Measure::named(name) }
    };
    samples.iter().map(with_notes).collect()
}

fn figures(name: &str, own: &[Sample], all: &BTreeMap<String, Vec<Sample>>) -> Figures {
    let vctx = all.get("vctx").filter(|_| name != "vctx");
    let (wall, cpu) = (|sample: &Sample| sample.wall, |sample: &Sample| sample.cpu);
    let least = |samples: &[Sample]| spread(samples.iter().map(cpu)).minimum;
    Figures {
        rounds: own.len(),
        wall: spread(own.iter().map(wall)),
        cpu: spread(own.iter().map(cpu)),
        vctx_wall: vctx.and_then(|vctx| paired(vctx, own, wall)),
        vctx_cpu: vctx.and_then(|vctx| paired(vctx, own, cpu)),
        vctx_cpu_minimum: vctx.filter(|_| least(own) > 0.0).map(|vctx| least(vctx) / least(own)),
        to_floor: all.get("floor").filter(|_| name != "floor").and_then(|floor| paired(own, floor, wall)),
    }
}
