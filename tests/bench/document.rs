//! docs/performance.md between its markers, and docs/bench.svg, from the figures.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::Result;
use super::picture::{self, milliseconds};
use super::report::{Report, ordered};
use super::statistics::{Figures, Measure};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md");
const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bench.svg");
const BEGIN: &str = "<!-- bench: what follows is written by `make bench` -->";
const END: &str = "<!-- bench: end -->";

pub fn write(report: &Report) -> Result<()> {
    let page = fs::read_to_string(PAGE).map_err(|error| format!("{PAGE}: {error}"))?;
    let parts = page.split_once(BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
    let (head, tail) = parts.ok_or_else(|| format!("{PAGE}: the markers {BEGIN} and {END} are missing"))?;
    fs::write(PAGE, format!("{head}{BEGIN}\n\n{}{END}{tail}", tables(report)))?;
    fs::write(PICTURE, picture::draw(report))?;
    for path in [PAGE, PICTURE] {
        println!("written to {}", Path::new(path).display());
    }
    Ok(())
}

fn tables(report: &Report) -> String {
    let header = &report.header;
    let mut page = format!("Machine: {}. Control groups: {}.\n\n", header.machine, header.groups);
    let _ = writeln!(page, "Measured: {}.", header.peers.join("; "));
    header.left_out.iter().for_each(|reason| page.push_str(&format!("Left out: {}.\n", one_line(reason))));
    for (section, _) in super::SECTIONS {
        let measures: Vec<&Measure> =
            report.measures.iter().filter(|measure| measure.section == section).collect();
        let Some(first) = measures.first() else { continue };
        let _ = writeln!(page, "\n### {section} ({})\n", first.taken);
        times(&mut page, &measures);
        values(&mut page, &measures);
        for measure in &measures {
            measure
                .notes
                .iter()
                .for_each(|note| page.push_str(&format!("- {}: {}\n", measure.name, one_line(note))));
        }
    }
    page + "\n"
}

/// A message of somebody else's may have several lines, and folders of the run.
fn one_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(160).collect()
}

/// A row for each measure and contender.
fn times(page: &mut String, measures: &[&Measure]) {
    if measures.iter().all(|measure| measure.figures.is_empty()) {
        return;
    }
    page.push_str("| measure | who | rounds | min | median | p95 | CPU min | CPU median | to the floor | vctx to it, wall | vctx to it, CPU |\n");
    page.push_str("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
    for measure in measures {
        for (index, (name, figures)) in ordered(measure).into_iter().enumerate() {
            let what = if index == 0 { measure.name.as_str() } else { "" };
            row(page, what, name, figures);
        }
    }
}

fn row(page: &mut String, what: &str, name: &str, figures: &Figures) {
    let ratio = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.2}"));
    let times = [
        figures.wall.minimum,
        figures.wall.median,
        figures.wall.p95,
        figures.cpu.minimum,
        figures.cpu.median,
    ];
    let times = times.map(milliseconds).join(" | ");
    let ratios = [figures.to_floor, figures.vctx_wall, figures.vctx_cpu].map(ratio).join(" | ");
    let _ = writeln!(page, "| {what} | {name} | {} | {times} | {ratios} |", figures.rounds);
}

fn values(page: &mut String, measures: &[&Measure]) {
    if measures.iter().all(|measure| measure.values.is_empty()) {
        return;
    }
    page.push_str("\n| | | |\n|---|--:|---|\n");
    for measure in measures {
        for value in &measure.values {
            let _ =
                writeln!(page, "| {}: {} | {:.2} | {} |", measure.name, value.name, value.value, value.unit);
        }
    }
}
