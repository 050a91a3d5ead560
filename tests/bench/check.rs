//! `--check`: the ratios of now against those that the tree keeps. Times depend on the machine; ratios hardly do.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Result;
use super::statistics::{Better, Measure};

/// By how much a ratio may be worse: a fifth.
const MARGIN: f64 = 1.2;

/// Measure, and what of it, to the ratio; less is better.
type Ratios = BTreeMap<String, BTreeMap<String, f64>>;

fn ratios(measures: &[Measure]) -> Ratios {
    measures
        .iter()
        .map(|measure| (measure.name.clone(), of(measure)))
        .filter(|(_, of)| !of.is_empty())
        .collect()
}

fn of(measure: &Measure) -> BTreeMap<String, f64> {
    let mut ratios = BTreeMap::new();
    for (peer, figures) in &measure.figures {
        ratios.extend(figures.vctx_wall.map(|ratio| (format!("wall time over {peer}'s"), ratio)));
        ratios.extend(figures.vctx_cpu_minimum.map(|ratio| (format!("processor time over {peer}'s"), ratio)));
    }
    for value in &measure.values {
        match value.better {
            Better::Less => drop(ratios.insert(value.name.clone(), value.value)),
            // Turned round, so that less is better here too.
            Better::More if value.value > 0.0 => drop(ratios.insert(value.name.clone(), 1.0 / value.value)),
            _ => {}
        }
    }
    ratios.retain(|_, ratio| ratio.is_finite());
    ratios
}

/// Writes what was measured as what is to be kept.
pub fn keep(path: &Path, measures: &[Measure]) -> Result<()> {
    let mut kept: Ratios =
        fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    kept.extend(ratios(measures));
    // Three digits are more than the noise leaves.
    kept.values_mut()
        .flat_map(BTreeMap::values_mut)
        .for_each(|ratio| *ratio = (*ratio * 1000.0).round() / 1000.0);
    fs::write(path, serde_json::to_string_pretty(&kept)? + "\n")?;
    println!("kept in {}", path.display());
    Ok(())
}

/// Fails with a line for each ratio that got worse.
pub fn compare(path: &Path, measures: &[Measure]) -> Result<()> {
    let kept = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (kept, now): (Ratios, Ratios) = (serde_json::from_slice(&kept)?, ratios(measures));
    let (mut compared, mut worse) = (0, vec![]);
    for (measure, ratios) in &kept {
        for (what, before) in ratios {
            let Some(after) = now.get(measure).and_then(|now| now.get(what)) else { continue };
            compared += 1;
            if *after > before * MARGIN {
                worse.push(format!("{measure}: {what} was {before:.2} and is {after:.2}"));
            }
        }
    }
    println!(
        "compared with {}: {compared} ratios, {} worse by more than a fifth",
        path.display(),
        worse.len()
    );
    match (compared, worse.is_empty()) {
        (0, _) => Err("nothing that was measured is kept in the file".into()),
        (_, true) => Ok(()),
        (_, false) => Err(worse.join("\n       ").into()),
    }
}
