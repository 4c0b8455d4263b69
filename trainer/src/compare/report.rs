//! The results as one HTML file with everything inside: tables, and plots as SVG.

mod chosen;
mod folds;
mod plots;

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use swr_core::package::{Counts, Limit, Tensors};
use swr_dataset::{binomial_interval, poisson_interval};

use super::row::{ClipRecord, Results, Row};
use super::statistics::{Estimate, ahead, correct, error_rates, keyword_speakers, over_speakers};
use crate::baselines::Method;
use crate::calibrate::Heard;
use plots::{ACCURACY, Curve, LINEAR, PER_CENT, curves, heat_map};

/// Confidence of exact intervals.
const CONFIDENCE: f64 = 0.95;
const STYLE: &str = "
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1160px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.7em } h2 { margin-top: 2.2em; border-bottom: 1px solid #ccc } h3 { margin-top: 1.6em }
table { border-collapse: collapse; margin: .8em 0; font-size: .93em; font-variant-numeric: tabular-nums }
th, td { padding: .15em .6em; text-align: right; white-space: nowrap; border-bottom: 1px solid #eee } th { border-bottom: 1px solid #888 }
th:first-child, td:first-child { text-align: left } tr.ours td { font-weight: 600; background: #eef5ff }
.note { color: #666; font-size: .92em } summary { margin: .5em 0; cursor: pointer } svg { max-width: 100%; height: auto } .row { display: flex; flex-wrap: wrap; gap: 1em }
.synthetic { background: #fff4d6; padding: .1em .5em; border-radius: .3em }";

/// Rows of one language, width, split and number of clips: what may be compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    tau: String,
    language: String,
    split: String,
    clips_per_word: Option<usize>,
}

impl Place {
    fn of(row: &Row) -> Self {
        Self {
            tau: row.cell.tau.clone(),
            language: row.cell.language.clone(),
            split: row.cell.split.clone(),
            clips_per_word: row.cell.clips_per_word,
        }
    }

    fn title(&self) -> String {
        let few = self.clips_per_word.map_or(String::new(), |clips| {
            format!(", {clips} training clips a word")
        });
        format!("{}, tau {}, {}{few}", self.language, self.tau, self.split)
    }
}

/// Rows of one method under one budget, which differ by seed.
type Seeds<'a> = BTreeMap<(String, Method), Vec<&'a Row>>;

fn by_place(rows: &[Row]) -> BTreeMap<Place, Seeds<'_>> {
    let mut places: BTreeMap<Place, Seeds> = BTreeMap::new();
    for row in rows {
        let key = (row.cell.budget.to_string(), row.cell.method);
        let place = places.entry(Place::of(row)).or_default();
        place.entry(key).or_default().push(row);
    }
    places
}

/// The report on `results`; `base` gives the tensors that a map of chosen weights shows.
///
/// # Errors
/// If rows are judged on clips that the file does not hold, or a plot cannot be drawn.
pub fn report(results: &Results, base: &Tensors) -> Result<String> {
    let places = by_place(&results.rows);
    let (single, judged): (Vec<_>, Vec<_>) =
        places.iter().partition(|(place, _)| folds::is_one(place));
    let clips_of = |place: &Place| {
        let clips = results.clips_of(&place.language, &place.split);
        clips.with_context(|| format!("{}: the results hold no clips of it", place.title()))
    };
    let mut body = String::new();
    for (place, methods) in judged {
        body += &heading(&place.title());
        body += &section(methods, clips_of(place)?, base)?;
    }
    for folds in &folds::together(results) {
        for (place, methods) in &by_place(&folds.rows) {
            body += &heading(&place.title());
            body += "<p>What methods were developed on: folds of the speakers of TRAIN and DEV. Bytes, counts of weights and curves of training are those of the first fold.</p>";
            body += &section(methods, &folds.clips, base)?;
        }
    }
    for (place, methods) in single {
        let (title, table) = (
            escaped(&place.title()),
            table(methods, clips_of(place)?, base)?,
        );
        write!(body, "<details><summary>{title}</summary>{table}</details>")?;
    }
    body += &chosen::by_language(&places, base)?;
    let contents: String = body
        .split("<h2 id=\"")
        .skip(1)
        .filter_map(|rest| rest.split_once("</h2>")?.0.split_once("\">"))
        .map(|(id, title)| format!("<li><a href=\"#{id}\">{title}</a>"))
        .collect();
    Ok(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>swr: methods compared</title><style>{STYLE}</style><h1>SWR and its baselines</h1>\
         <p>{} runs. Accuracy is of all clips, unknown words and silence among them. Intervals are 95 % by bootstrap over speakers, seeds averaged first, speakers of keywords and of other clips drawn apart.</p>\
         <ul>{contents}</ul>{body}</html>\n",
        results.rows.len()
    ))
}

fn heading(title: &str) -> String {
    let id = title.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    format!("<h2 id=\"{id}\">{}</h2>", escaped(title))
}

/// All that is told of one place.
fn section(methods: &Seeds, clips: &ClipRecord, base: &Tensors) -> Result<String> {
    let mut html = String::new();
    if clips.synthetic {
        html += "<p><span class=synthetic>synthetic speech</span></p>";
    }
    html += &table(methods, clips, base)?;
    html += &accuracy_plot(methods, clips)?;
    html += "<div class=row>";
    html += &gates_plot(methods)?;
    html += &learning_plot(methods)?;
    html += &detection_plot(methods, clips)?;
    html += "</div>";
    html += &chosen::by_method(methods, base)?;
    html += &confusion(methods, clips)?;
    Ok(html)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn percent(value: f64) -> String {
    format!("{:.1}", 100.0 * value)
}

fn mean(values: impl Iterator<Item = f64> + Clone) -> f64 {
    values.clone().sum::<f64>() / values.count().max(1) as f64
}

/// The standard deviation of the seeds' accuracies in per cent, if there are several.
fn deviation(rows: &[&Row]) -> String {
    let share = |row: &&Row| row.correct as f64 / row.clips.max(1) as f64;
    let mean = mean(rows.iter().map(share));
    let squares: f64 = rows.iter().map(|row| (share(row) - mean).powi(2)).sum();
    match rows.len() {
        0 | 1 => String::new(),
        seeds => format!(" (± {})", percent((squares / (seeds - 1) as f64).sqrt())),
    }
}

/// Accuracy over seeds, with its interval over speakers.
fn accuracy(rows: &[&Row], clips: &ClipRecord) -> Estimate {
    over_speakers(&correct(rows, clips), clips, 1)
}

/// Budgets in the order of the reader's interest: shares, then bytes, each from small to large.
fn budgets(methods: &Seeds) -> Vec<String> {
    let mut found: BTreeMap<(u8, u64), String> = BTreeMap::new();
    for rows in methods.values() {
        let budget = &rows[0].cell.budget;
        let key = match budget.limit() {
            Limit::ConvolutionShare(share) => (0, share),
            Limit::AllShare(share) => (1, share),
            Limit::FileBytes(bytes) => (2, bytes),
        };
        found.insert(key, budget.to_string());
    }
    found.into_values().collect()
}

fn table(methods: &Seeds, clips: &ClipRecord, base: &Tensors) -> Result<String> {
    let of_base = Counts::of(base);
    let mut html = String::new();
    // What recovery is measured by, under whatever budget: neither is limited by a share of weights.
    let unlimited = |wanted: Method| {
        let found = methods.iter().find(|((_, method), rows)| {
            *method == wanted && !matches!(rows[0].cell.budget.limit(), Limit::FileBytes(_))
        });
        found.map(|(_, rows)| accuracy(rows, clips).value)
    };
    let ends = unlimited(Method::Head).zip(unlimited(Method::Full));
    for budget in budgets(methods) {
        let rows: Vec<(Method, &Vec<&Row>)> = methods
            .iter()
            .filter(|((b, _), _)| *b == budget)
            .map(|((_, method), rows)| (*method, rows))
            .collect();
        let of = |wanted: Method| {
            rows.iter()
                .find(|(method, _)| *method == wanted)
                .map(|(_, rows)| *rows)
        };
        write!(
            html,
            "<h3>Budget {budget}</h3><table><tr><th>method<th>accuracy<br>%<th>95 %<th>seeds<th>missed at<br>5 an hour, %<th>false accepts<br>an hour<th>recovery<th>swr ahead by<th>file<br>bytes<th>convolution<br>weights changed<th>all weights<br>changed<th>used of<br>allowed</tr>"
        )?;
        let mut order: Vec<(f64, Method, &Vec<&Row>)> = rows
            .iter()
            .map(|(method, rows)| (accuracy(rows, clips).value, *method, *rows))
            .collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (_, method, rows) in order {
            let found = accuracy(rows, clips);
            let recovery = ends.map_or("–".into(), |(head, full)| {
                format!("{:.2}", (found.value - head) / (full - head))
            });
            let (missed, accepted) = heard(rows);
            let ours = of(Method::Swr).filter(|_| method != Method::Swr);
            let paired = ours.and_then(|ours| ahead(ours, rows, clips));
            let paired = paired.map_or("–".into(), |(difference, seeds)| {
                // Of the seeds that both have, where these are not all.
                let of = match seeds == rows.len() {
                    true => String::new(),
                    false => format!(", {seeds} of {} seeds", rows.len()),
                };
                let Estimate {
                    value,
                    interval: (low, high),
                } = difference;
                format!(
                    "{:+.1} ({:+.1} to {:+.1}){of}",
                    100.0 * value,
                    100.0 * low,
                    100.0 * high
                )
            });
            let average = |value: &dyn Fn(&Row) -> usize| {
                mean(rows.iter().map(|row| value(row) as f64)).round()
            };
            let changed = |value: &dyn Fn(&Row) -> usize, whole: usize| {
                let weights = average(value);
                match chosen::is_of(rows[0], base) {
                    true => format!("{weights} ({:.1} %)", 100.0 * weights / whole as f64),
                    false => weights.to_string(),
                }
            };
            write!(
                html,
                "<tr{}><td>{}<td>{}<td>{}–{}<td>{}{}<td>{missed}<td>{accepted}<td>{recovery}<td>{paired}<td>{}<td>{}<td>{}<td>{} of {}</tr>",
                if method == Method::Swr {
                    " class=ours"
                } else {
                    ""
                },
                method.name(),
                percent(found.value),
                percent(found.interval.0),
                percent(found.interval.1),
                rows.len(),
                deviation(rows),
                average(&|row| row.file_bytes),
                changed(&|row| row.changed.convolution, of_base.convolution),
                changed(&|row| row.changed.all(), of_base.all()),
                average(&|row| row.used),
                rows[0].allowed,
            )?;
        }
        html += "</table>";
    }
    write!(
        html,
        "<p class=note>{} clips; keywords by {} speakers. Beside the number of seeds, the standard deviation of their accuracies. Missed: of words in noise of 10 to 20 dB, with thresholds chosen on development speakers for 5 false accepts an hour of running speech; beside it, what they give in that of TEST speakers. Recovery: (accuracy − head) / (full − head), of the head and the full fine-tuning that no bytes limit.</p>",
        clips.truth.len(),
        keyword_speakers(clips)
    )?;
    Ok(html)
}

/// Missed words and false accepts an hour, the mean of the rows that tell them, with the exact intervals of one: all seeds hear the same.
fn heard(rows: &[&Row]) -> (String, String) {
    let heard: Vec<Heard> = rows.iter().filter_map(|row| row.heard).collect();
    let Some(Heard { words, hours, .. }) = heard.first().copied() else {
        return ("–".into(), "–".into());
    };
    let average = |value: &dyn Fn(&Heard) -> usize| mean(heard.iter().map(|h| value(h) as f64));
    let (missed, accepts) = (average(&|h| h.missed), average(&|h| h.false_accepts));
    let (low, high) = binomial_interval(missed.round() as usize, words, CONFIDENCE);
    let share = percent(missed / words.max(1) as f64);
    let told = format!("{share} ({}–{}) of {words}", percent(low), percent(high));
    let (low, high) = poisson_interval(accepts.round() as u64, hours, CONFIDENCE);
    let rate = accepts / hours.max(f64::MIN_POSITIVE);
    (
        told,
        format!("{rate:.1} ({low:.1}–{high:.1}) in {hours:.2} h"),
    )
}

/// A curve for budgets in bytes, and one for shares of weights: they leave a method different freedom.
fn accuracy_plot(methods: &Seeds, clips: &ClipRecord) -> Result<String> {
    let mut found: BTreeMap<(bool, Method), Vec<plots::Point>> = BTreeMap::new();
    for ((_, method), rows) in methods {
        let share = !matches!(rows[0].cell.budget.limit(), Limit::FileBytes(_));
        let accuracy = accuracy(rows, clips);
        let bytes = mean(rows.iter().map(|row| row.file_bytes as f64));
        let (low, high) = accuracy.interval;
        let point = (bytes, 100.0 * accuracy.value, 100.0 * low, 100.0 * high);
        found.entry((share, *method)).or_default().push(point);
    }
    let first = found.keys().next().map(|(share, _)| *share);
    let curve = |((share, method), mut points): ((bool, Method), Vec<plots::Point>)| {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let of = if share { "%" } else { "bytes" };
        Curve {
            name: format!("{}, budget in {of}", method.name()),
            bold: method == Method::Swr && Some(share) == first,
            points,
        }
    };
    let all: Vec<Curve> = found.into_iter().map(curve).collect();
    let plot = curves(
        &all,
        ("bytes of the file", LINEAR),
        ("accuracy %, spaced by errors", ACCURACY),
        (1060, 460),
    )?;
    Ok(format!("<h3>Accuracy against bytes</h3>{plot}"))
}

/// The rows whose budget most others share; of these, what is shown where one budget must do.
fn shown<'a>(methods: &'a Seeds) -> Vec<(Method, &'a Vec<&'a Row>)> {
    let budgets = budgets(methods);
    let count = |budget: &String| methods.keys().filter(|(found, _)| found == budget).count();
    let Some(budget) = budgets.iter().max_by_key(|budget| count(budget)) else {
        return Vec::new();
    };
    methods
        .iter()
        .filter(|((found, _), _)| found == budget)
        .map(|((_, method), rows)| (*method, rows))
        .collect()
}

/// What the gates cost while they are trained: the expectation that is held at the budget, and what those cost that are likelier open than not.
fn gates_plot(methods: &Seeds) -> Result<String> {
    let mut all = Vec::new();
    for ((budget, method), rows) in methods.iter().filter(|(_, rows)| !rows[0].gates.is_empty()) {
        for (what, kind) in [(0, "expected"), (1, "p > 1/2")] {
            let gates = &rows[0].gates;
            let share = |i| i as f64 / gates.len() as f64;
            let costs = gates.iter().enumerate();
            let name = format!("{} {budget}, {kind}", method.name());
            let points = costs.map(|(i, cost)| (share(i), 100.0 * cost[what]));
            all.push(line(name, what == 0 && *method == Method::Swr, points));
        }
    }
    if all.is_empty() {
        return Ok(String::new());
    }
    let plot = curves(
        &all,
        ("share of the stage", LINEAR),
        ("% of the budget", PER_CENT),
        (520, 360),
    )?;
    Ok(format!(
        "<div><h3>Cost of the gates over the select stage</h3>{plot}</div>"
    ))
}

/// A line without a band.
fn line(name: String, bold: bool, points: impl Iterator<Item = (f64, f64)>) -> Curve {
    let mut points: Vec<(f64, f64)> = points.collect();
    points.dedup();
    Curve {
        name,
        bold,
        points: points.into_iter().map(|(x, y)| (x, y, y, y)).collect(),
    }
}

fn learning_plot(methods: &Seeds) -> Result<String> {
    let curve = |(method, rows): (Method, &Vec<&Row>)| {
        let epochs = rows[0].curve.iter().enumerate();
        let losses = epochs.map(|(i, epoch)| (i as f64 + 1.0, epoch.loss));
        line(method.name(), method == Method::Swr, losses)
    };
    let all: Vec<Curve> = shown(methods).into_iter().map(curve).collect();
    Ok(format!(
        "<div><h3>Loss on varied training clips, penalties included</h3>{}</div>",
        curves(&all, ("epoch", LINEAR), ("loss", LINEAR), (520, 360))?
    ))
}

fn detection_plot(methods: &Seeds, clips: &ClipRecord) -> Result<String> {
    let curve = |(method, rows): (Method, &Vec<&Row>)| {
        let rates = error_rates(rows, clips).into_iter();
        let rates = rates.map(|r| (100.0 * r.false_accepts, 100.0 * r.missed));
        line(method.name(), method == Method::Swr, rates)
    };
    let all: Vec<Curve> = shown(methods).into_iter().map(curve).collect();
    Ok(format!(
        "<div><h3>Detection errors over the threshold</h3>{}</div>",
        curves(
            &all,
            ("other clips accepted %", PER_CENT),
            ("keywords missed %", PER_CENT),
            (520, 360)
        )?
    ))
}

/// Confusions of SWR, or of the first method there is.
fn confusion(methods: &Seeds, clips: &ClipRecord) -> Result<String> {
    let shown = shown(methods);
    let Some((method, rows)) = shown
        .iter()
        .find(|(method, _)| *method == Method::Swr)
        .or(shown.first())
    else {
        return Ok(String::new());
    };
    let labels = &clips.labels;
    let mut counts = vec![vec![0usize; labels.len()]; labels.len()];
    for row in rows.iter() {
        for (truth, found) in clips.truth.iter().zip(&row.predictions) {
            counts[*truth as usize][*found as usize] += 1;
        }
    }
    let columns: Vec<(String, Vec<f64>)> = labels
        .iter()
        .enumerate()
        .map(|(found, label)| {
            let share = |truth: usize| {
                counts[truth][found] as f64 / counts[truth].iter().sum::<usize>().max(1) as f64
            };
            (label.clone(), (0..labels.len()).map(share).collect())
        })
        .collect();
    Ok(format!(
        "<details><summary><b>Confusions of {} under {}: rows are what was said, columns what was heard</b></summary>{}</details>",
        method.name(),
        rows[0].cell.budget,
        heat_map(&columns, labels)?
    ))
}
