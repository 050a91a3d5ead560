//! The picture that README shows: bars of `run` and `exec`, wall time on the left and processor time on the right.

use std::fmt::Write;

use super::report::{Report, ordered};
use super::statistics::{Figures, Measure};

/// What is drawn: the measure, and what it says to somebody who sees only the picture.
const PANELS: [(&str, &str); 3] = [
    ("run: plain", "run of true: create, start, wait, delete"),
    ("run: bare", "the same, without control group settings"),
    ("exec: plain", "exec of true in a running context"),
];

/// Pixels.
const WIDTH: f64 = 820.0;
const LABEL: f64 = 74.0;
const BAR: f64 = 250.0;
const ROW: f64 = 22.0;

/// Text in a grey that can be read on white and on black; the colours as well.
const STYLE: &str = "text{font:13px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;fill:#768390}\
    .title{font-weight:600;font-size:14px}.small{font-size:11px}.vctx{font-weight:600;fill:#2f81f7}\
    .bar{fill:#8c959f}.bar.ours{fill:#2f81f7}.bar.floor{fill:#2da44e}.axis{stroke:#8c959f;stroke-opacity:.4}";

pub fn draw(report: &Report) -> String {
    let mut body = String::new();
    let mut y = 24.0;
    heading(&mut body, y);
    for (name, title) in PANELS {
        if let Some(measure) = report.measures.iter().find(|measure| measure.name == name) {
            y = panel(&mut body, y + 26.0, title, measure);
        }
    }
    let header = &report.header;
    let rounds =
        report.measures.first().and_then(|measure| measure.figures.get("vctx")).map_or(0, |vctx| vctx.rounds);
    let below = [
        format!(
            "Medians of {rounds} interleaved rounds; less is better. floor: the same namespaces and mounts by bare system calls."
        ),
        format!(
            "{}, commit {}, {}, control groups {}",
            header.date, header.commit, header.machine, header.groups
        ),
    ];
    for line in below {
        y += 18.0;
        text(&mut body, 12.0, y + 6.0, "small", "start", &line);
    }
    let height = y + 20.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\" aria-label=\"Times of a start\">\n<style>{STYLE}</style>\n{body}</svg>\n"
    )
}

fn heading(body: &mut String, y: f64) {
    text(body, LABEL, y, "small", "start", "wall time");
    text(body, LABEL + WIDTH / 2.0 - 20.0, y, "small", "start", "processor time");
}

/// One row a contender; the result is where the next panel may begin.
fn panel(body: &mut String, mut y: f64, title: &str, measure: &Measure) -> f64 {
    text(body, 12.0, y, "title", "start", title);
    let top = y + 6.0;
    let rows = ordered(measure);
    let wall = |figures: &Figures| figures.wall.median;
    let cpu = |figures: &Figures| figures.cpu.median;
    let longest = rows.iter().map(|(_, figures)| wall(figures).max(cpu(figures))).fold(1.0, f64::max);
    for (name, figures) in rows {
        y += ROW;
        let class = if name == "vctx" { "vctx" } else { "" };
        text(body, LABEL - 8.0, y, class, "end", name);
        bar(body, LABEL, y, name, wall(figures), longest);
        bar(body, LABEL + WIDTH / 2.0 - 20.0, y, name, cpu(figures), longest);
    }
    for x in [LABEL, LABEL + WIDTH / 2.0 - 20.0] {
        let _ =
            writeln!(body, "<line class=\"axis\" x1=\"{x}\" y1=\"{top}\" x2=\"{x}\" y2=\"{}\"/>", y + 6.0);
    }
    y + 10.0
}

/// `value` in microseconds.
fn bar(body: &mut String, x: f64, y: f64, name: &str, value: f64, longest: f64) {
    let width = (value / longest * BAR).max(1.0);
    let class = match name {
        "vctx" => "bar ours",
        "floor" => "bar floor",
        _ => "bar",
    };
    let top = y - 12.0;
    let _ = writeln!(
        body,
        "<rect class=\"{class}\" x=\"{x}\" y=\"{top}\" width=\"{width:.1}\" height=\"15\" rx=\"2\"/>"
    );
    text(body, x + width + 6.0, y, if name == "vctx" { "vctx" } else { "" }, "start", &milliseconds(value));
}

pub fn milliseconds(microseconds: f64) -> String {
    let value = microseconds / 1000.0;
    if value < 9.95 { format!("{value:.2} ms") } else { format!("{value:.1} ms") }
}

fn text(body: &mut String, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let _ =
        writeln!(body, "<text x=\"{x}\" y=\"{y}\" class=\"{class}\" text-anchor=\"{anchor}\">{text}</text>");
}
