//! A sweep as one HTML page without anything from elsewhere: for each device and scenario a map of what was cut where, and what the device came to.

use std::fmt::Write;

use crate::cuts::{Column, Swept};

/// Height of a state and width of an operation, in pixels.
const CELL: usize = 5;

/// What the page begins with.
const HEAD: &str = r##"<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>swr-sim: power cuts</title><style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; color: #222; }
h2 { margin-top: 1.6em; font-size: 1.15em; } p.about { margin: 0 0 .4em; color: #555; }
table { border-collapse: collapse; } td, th { padding: .15em .8em; text-align: right; border-bottom: 1px solid #ddd; } td:first-child, th:first-child, td:nth-child(2), th:nth-child(2) { text-align: left; }
svg { display: block; max-width: 100%; } .key span { display: inline-block; width: 1em; height: 1em; vertical-align: -.15em; margin: 0 .3em 0 1em; }
.bad { color: #b00020; font-weight: bold; }
</style></head><body>
<h1>What power cuts left, and what woke up</h1>
<p>Each column is an operation of a scenario, in which the power was cut; each row one of the states that a cut leaves, the first two being nothing of the operation and all of it. A device
was started on every one, and the update taken up again. Where a step must be refused, the models before and after it are the same, and count as those after.</p>
<p class="key"><span style="background:#9db8d9"></span>woke up with the models before the step<span style="background:#7bbf7f"></span>with those after it<span style="background:#d0021b"></span>broken
<span style="background:#444"></span>above: the step is acknowledged from here on<span style="background:#bbb"></span>below: another step of the scenario</p>
"##;

/// One scenario on one device.
pub struct Section<'a> {
    /// Name of the device.
    pub device: &'a str,
    /// Name of the scenario.
    pub scenario: &'a str,
    /// What it shows.
    pub about: &'a str,
    /// What was seen.
    pub swept: &'a Swept,
}

/// The page of these sections.
pub fn page(sections: &[Section<'_>]) -> String {
    let mut html = HEAD.to_owned();
    html += "<table><tr><th>device</th><th>scenario</th><th>cuts</th><th>states</th><th>started</th><th>woke old</th><th>woke new</th><th>bricked</th><th>lost</th><th>wrong model</th></tr>\n";
    for Section {
        device,
        scenario,
        swept,
        ..
    } in sections
    {
        let class = if swept.is_clean() {
            ""
        } else {
            " class=\"bad\""
        };
        html += &format!(
            "<tr{class}><td>{device}</td><td><a href=\"#{device}-{scenario}\">{scenario}</a></td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            swept.cuts,
            swept.torn,
            swept.recoveries_run,
            swept.woke_old,
            swept.woke_new,
            swept.bricked,
            swept.lost,
            swept.wrong_model
        );
    }
    html += "</table>\n";
    for section in sections {
        let (device, scenario) = (section.device, section.scenario);
        html += &format!(
            "<h2 id=\"{device}-{scenario}\">{scenario} on {device}</h2><p class=\"about\">{}</p>\n",
            section.about
        );
        html += &map(&section.swept.columns);
        for finding in &section.swept.findings {
            html += &format!(
                "<p class=\"bad\">step {}, operation {}, state {}: {:?}: {}</p>\n",
                finding.step,
                finding.operation,
                finding.torn,
                finding.failure,
                escaped(&finding.what)
            );
        }
    }
    html += "</body></html>\n";
    html
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}

/// The map of a scenario: a column an operation, a row a state.
fn map(columns: &[Column]) -> String {
    let rows = columns.iter().map(|column| column.woke_new.len()).max();
    let rows = rows.unwrap_or(0);
    let (width, height) = (columns.len() * CELL, (rows + 3) * CELL);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" shape-rendering=\"crispEdges\">\n"
    );
    for (number, column) in columns.iter().enumerate() {
        let x = number * CELL;
        // Writing to a String cannot fail.
        let _ = write!(
            svg,
            "<g><title>operation {}, step {}: {}</title>",
            column.operation,
            column.step,
            escaped(&column.what)
        );
        let mut rect = |y: usize, height: usize, colour: &str| {
            let _ = write!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{CELL}\" height=\"{height}\" fill=\"{colour}\"/>"
            );
        };
        if column.acknowledged {
            rect(0, CELL, "#444");
        }
        if column.step % 2 == 1 {
            rect((rows + 2) * CELL, CELL, "#bbb");
        }
        // Equal neighbours as one.
        let mut row = 0;
        while row < column.woke_new.len() {
            let state = column.woke_new[row];
            let same = column.woke_new[row..]
                .iter()
                .take_while(|s| **s == state)
                .count();
            let colour = match state {
                Some(false) => "#9db8d9",
                Some(true) => "#7bbf7f",
                None => "#d0021b",
            };
            rect((row + 1) * CELL + CELL / 2, same * CELL, colour);
            row += same;
        }
        svg += "</g>\n";
    }
    svg += "</svg>\n";
    svg
}
