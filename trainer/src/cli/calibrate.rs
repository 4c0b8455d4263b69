//! `swr-train calibrate`: thresholds for a wanted rate of false accepts per hour, chosen on one part of the negatives and judged on the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use serde_json::json;
use swr_core::matching::{Detected, match_detections};
use swr_core::model::Language;
use swr_core::network::Network;
use swr_core::package::{Calibration, Delta, Digest, Limit, Manifest, Thresholds};
use swr_dataset::{
    Faults, Split, Task, TaskOptions, audio_below, poisson_interval, poisson_upper, stable_hash,
};

use crate::babble;
use crate::calibrate::choose::{Accepts, candidates, keeping};
use crate::calibrate::{Ear, TOLERANCE_SAMPLES, development_stream};
use crate::files::{read, write_package};
use crate::models::{
    BASE_JSON, Base, delta_path, deltas, merged, read_base, report_path, write_report,
};
use crate::progress::Progress;

/// Confidence of the proof and of intervals.
const CONFIDENCE: f64 = 0.95;
/// Choose thresholds for a wanted rate of false accepts
#[derive(Args)]
#[command(after_help = "Examples:
  swr-train calibrate --data ../shared/speech --lang ar --negatives radio --per-hour 1
  swr-train calibrate --data my-words --lang sv --negatives tv.flac --negatives talks --per-hour 0.5 --models models

Negatives are recordings without keywords, in any format that is read. A file given, or what lies directly in a folder given, is a source; thresholds are chosen
on half of the sources and judged on the other half. A file that holds the same audio as another counts once.
Only hours prove a rate: without a false accept, 1 an hour takes three hours in the half that judges. What is not proven is stored as `verified: false`.
Of a keyword, the threshold is the one that misses least on the development clips for its false accepts. The proof takes false accepts as independent,
and holds once: choosing again until a half is quiet proves nothing.
A package that is calibrated has lost its signature; sign it again with `swr-train sign`.")]
pub(super) struct Calibrate {
    /// Folder with speech, for the words that must still be found
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Further folder that the language was trained with; may be repeated
    #[arg(long, value_name = "DIR")]
    extra: Vec<PathBuf>,
    /// Language to calibrate
    #[arg(long, value_name = "L")]
    lang: String,
    /// Recording or folder of recordings without keywords; may be repeated [default: negatives/dev of the data]
    #[arg(long, value_name = "PATH")]
    negatives: Vec<PathBuf>,
    /// Wanted false accepts per hour, of all keywords together
    #[arg(long, value_name = "RATE", default_value_t = 1.0)]
    per_hour: f32,
    /// Folder of models
    #[arg(long, value_name = "DIR", default_value = "models/small")]
    models: PathBuf,
    /// Seed of the stream of development clips
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Tell what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// One part of the negatives under the chosen thresholds.
#[derive(Debug, Clone, Serialize)]
struct Part {
    sources: usize,
    hours: f64,
    false_accepts: usize,
    per_hour: f64,
    /// Exact Poisson interval, 95 %.
    interval: (f64, f64),
}

/// What was chosen and what it does; the object of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    lang: String,
    wanted_per_hour: f32,
    /// The rate is below the wanted one at 95 % confidence, by negatives that took no part in the choice.
    verified: bool,
    /// The largest rate that the judging negatives leave possible, at 95 % confidence, one-sided.
    at_most_per_hour: f64,
    /// What was heard where it was chosen, at these thresholds and at lower ones, lets expect so many.
    expected_per_hour: f64,
    chosen_on: Part,
    judged_on: Part,
    /// Development words found, of all, and false alarms between them.
    words: usize,
    found: usize,
    /// With the thresholds that were there before.
    found_before: usize,
    false_accepts_before: usize,
    thresholds: BTreeMap<String, f32>,
}

/// Audio files of one origin: what is like itself must not both choose and judge.
type Source = Vec<PathBuf>;

/// A language that hears.
struct Listening {
    network: Network,
    language: Language,
}

impl Listening {
    fn ear(&self) -> Result<Ear<'_>> {
        Ear::of(&self.network, &self.language)
    }

    /// Detections in every file of the sources under each choice.
    fn accepts(
        &self,
        sources: &[Source],
        choices: &[Vec<f32>],
        progress: &Progress,
        what: &str,
    ) -> Result<Vec<Accepts>> {
        let files: Vec<PathBuf> = sources.iter().flatten().cloned().collect();
        let bar = progress.bar(what, files.len());
        let accepts = self.ear()?.accepts(&files, choices, || bar.inc(1))?;
        bar.finish_and_clear();
        Ok(accepts)
    }
}

/// All that is accepted under a choice.
fn sum(accepts: &[Accepts], choice: usize) -> usize {
    accepts.iter().flat_map(|a| &a.counts[choice]).sum()
}

fn hours(accepts: &[Accepts]) -> f64 {
    accepts.iter().map(|accepts| accepts.hours).sum()
}

impl Calibrate {
    pub(super) fn run(&self, out: &mut dyn Write, progress: &Progress) -> Result<()> {
        ensure!(
            self.per_hour.is_finite() && self.per_hour > 0.0,
            "--per-hour {}: expected a rate above 0; no audio proves that nothing is ever falsely accepted",
            self.per_hour
        );
        let (language, tensors) = merged(&read_base(&self.models)?, &self.models, &self.lang)?;
        let network = Network::new(&tensors).with_context(|| {
        format!(
            "`{}` is heard by the device's own pass of the causal BC-ResNet, which this model is not",
            self.lang
        )
    })?;
        let labels = &language.labels;
        let options = TaskOptions {
            extra: self.extra.clone(),
            ..TaskOptions::default()
        };
        let mut task = swr_dataset::task(&self.data, &self.lang, &options)?;
        babble::fill(&mut task)?;
        ensure!(
            task.labels == *labels,
            "{}: its labels for `{}` are not the model's; calibrate on the data it was trained on, --extra included",
            self.data.display(),
            self.lang
        );
        progress.say(&task.report.to_string());
        // Before hours of listening: thresholds that all differ must have room.
        let candidates = candidates();
        let different = (0..labels.len()).map(|n| candidates[n * 7 % candidates.len()]);
        let calibration = Calibration {
            false_accepts_per_hour: self.per_hour,
            verified: true,
        };
        calibrated(self, different.collect(), calibration)?;
        let listening = Listening { network, language };
        let negatives = match self.negatives.is_empty() {
            true => task.negatives_of(Split::Dev),
            false => self.negatives.clone(),
        };
        ensure!(
            !negatives.is_empty(),
            "{}: no negatives/dev there; give recordings without keywords with --negatives",
            self.data.display()
        );
        let (choosing, judging) = halves(&negatives, progress)?;
        let (report, thresholds) = choose(self, &listening, &task, &choosing, &judging, progress)?;
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&report)?)?;
        } else {
            write!(out, "{report}")?;
        }
        if !self.dry_run {
            let calibration = Calibration {
                verified: report.verified,
                ..calibration
            };
            // The base first: deltas name its manifest.
            for (path, bytes) in calibrated(self, thresholds, calibration)? {
                write_package(&path, &bytes)?;
                progress.say(&format!("{}: written, without a signature", path.display()));
            }
            record(self, &report)?;
        }
        if !report.verified {
            progress.say(&format!(
            "not verified: {:.2} h without keywords and with {} false accepts leave up to {:.1} an hour possible, {} is wanted; with none, {:.1} h would prove it",
            report.judged_on.hours,
            report.judged_on.false_accepts,
            report.at_most_per_hour,
            self.per_hour,
            poisson_upper(0, 1.0, CONFIDENCE) / f64::from(self.per_hour)
        ));
        }
        Ok(())
    }
}

/// Divides the sources into halves of about equal length, the same every time: those to choose on, and those to judge by.
fn halves(paths: &[PathBuf], progress: &Progress) -> Result<(Vec<Source>, Vec<Source>)> {
    let mut sources: BTreeMap<PathBuf, Source> = BTreeMap::new();
    for path in paths {
        for file in audio_below(path)? {
            let below = file.strip_prefix(path).unwrap_or(&file);
            let source = below
                .components()
                .next()
                .map_or(path.clone(), |c| path.join(c));
            sources.entry(source).or_default().push(file);
        }
    }
    let name =
        |source: &PathBuf| stable_hash(&source.file_name().unwrap_or_default().to_string_lossy());
    let mut sources: Vec<(PathBuf, Source)> = sources.into_iter().collect();
    sources.sort_by_key(|(source, _)| name(source));
    let (mut seen, mut copies, mut faults) = (BTreeSet::new(), 0, Faults::default());
    let mut halves = [(Vec::new(), 0), (Vec::new(), 0)];
    for (_, files) in sources {
        let (mut fresh, mut samples) = (Vec::new(), 0);
        for file in files {
            // The same audio in another format, or with other tags, is the same audio.
            let Some(audio) = faults.decode(&file) else {
                continue;
            };
            let bytes: Vec<u8> = audio.iter().flat_map(|s| s.to_le_bytes()).collect();
            if seen.insert(Digest::of_bytes(&bytes)) {
                samples += audio.len();
                fresh.push(file);
            } else {
                copies += 1;
            }
        }
        if !fresh.is_empty() {
            let smaller = usize::from(halves[1].1 < halves[0].1);
            halves[smaller].0.push(fresh);
            halves[smaller].1 += samples;
        }
    }
    if !faults.is_empty() {
        progress.say(&faults.to_string());
    }
    if copies > 0 {
        progress.say(&format!("{copies} files are copies of others and left out"));
    }
    let [(choosing, _), (judging, _)] = halves;
    ensure!(!choosing.is_empty(), "--negatives: no audio file there");
    if judging.is_empty() {
        progress.say(
            "one source only: thresholds are chosen on it, and nothing is left to judge them by; give another recording or folder (what lies directly in a folder given is a source)",
        );
    }
    Ok((choosing, judging))
}

/// Chooses the thresholds on one half and the development clips, and judges them by the other half.
fn choose(
    a: &Calibrate,
    listening: &Listening,
    task: &Task,
    choosing: &[Source],
    judging: &[Source],
    progress: &Progress,
) -> Result<(Report, Vec<f32>)> {
    let labels = &listening.language.labels;
    let stream = development_stream(task, a.seed)?.with_context(|| {
        format!(
            "`{}` has no development clips of its keywords, so nothing tells what a threshold misses; add recordings of other speakers",
            a.lang
        )
    })?;
    let ear = listening.ear()?;
    let accepts = listening.accepts(choosing, &ear.alike(), progress, "choosing on negatives")?;
    let choices = ear.evidence(&stream)?.with(&accepts).choices();
    // Keywords compete, so that what they do together is not the sum of what they do alone: heard once more.
    let tried: Vec<Vec<f32>> = choices.iter().map(|c| c.thresholds.clone()).collect();
    let together = listening.accepts(choosing, &tried, progress, "listening again")?;
    let hours_chosen_on = hours(&together);
    let wanted = f64::from(a.per_hour);
    let kept = |at: usize| sum(&together, at) as f64 <= wanted * hours_chosen_on;
    let Some(chosen) = keeping(&choices, wanted, kept) else {
        let last = choices.len() - 1;
        bail!(
            "no thresholds keep {} false accepts an hour on these negatives: {} in {hours_chosen_on:.2} h even with the highest; listen to what they are \
             (`swr eval --stream --negatives`), and train with such words in `_unknown_`",
            a.per_hour,
            sum(&together, last)
        );
    };
    let expected_per_hour = choices[chosen].per_hour;
    if expected_per_hour > wanted {
        progress.say(&format!(
            "{hours_chosen_on:.2} h are too short to choose thresholds for {} an hour by: {expected_per_hour:.2} are expected even at the highest, which are taken; \
             give more recordings with --negatives, or a higher --per-hour",
            a.per_hour
        ));
    }
    let thresholds = ear.for_labels(&tried[chosen]);
    let chosen_on = part(choosing, hours_chosen_on, sum(&together, chosen));
    // With them, and with those that the package has now.
    let both = [
        thresholds.clone(),
        listening.language.detector.thresholds.clone(),
    ];
    let judged = listening.accepts(judging, &both, progress, "judging on negatives")?;
    let judged_hours = hours(&judged);
    let judged_on = part(judging, judged_hours, sum(&judged, 0));
    let heard = ear.hear(&stream.samples, &both)?;
    let found = |heard: &[Detected]| {
        let matched = match_detections(&stream.events, heard, TOLERANCE_SAMPLES);
        matched.hits.len()
    };
    let at_most = poisson_upper(judged_on.false_accepts as u64, judged_hours, CONFIDENCE);
    let report = Report {
        lang: a.lang.clone(),
        wanted_per_hour: a.per_hour,
        verified: at_most <= f64::from(a.per_hour),
        at_most_per_hour: at_most,
        expected_per_hour,
        chosen_on,
        judged_on,
        words: stream.events.len(),
        found: found(&heard[0]),
        found_before: found(&heard[1]),
        false_accepts_before: sum(&judged, 1),
        thresholds: labels[..ear.keywords()]
            .iter()
            .cloned()
            .zip(thresholds.clone())
            .collect(),
    };
    Ok((report, thresholds))
}

fn part(sources: &[Source], hours: f64, false_accepts: usize) -> Part {
    Part {
        sources: sources.len(),
        hours,
        false_accepts,
        per_hour: false_accepts as f64 / hours.max(f64::MIN_POSITIVE),
        interval: poisson_interval(false_accepts as u64, hours, CONFIDENCE),
    }
}

/// Notes in the record of how the model was made what its thresholds rest on.
fn record(a: &Calibrate, report: &Report) -> Result<()> {
    let path = report_path(&a.models, &a.lang);
    let mut record = serde_json::Map::new();
    if path.exists() {
        let bytes = read(&path)?;
        record = serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
    }
    let calibration = json!({"seed": a.seed, "negatives": a.negatives, "report": report});
    record.insert("calibration".into(), calibration);
    write_report(&a.models, &a.lang, &record.into())
}

/// The files of the package with other thresholds. The base's are in its manifest, which deltas name, so that those beside it are among them.
fn calibrated(
    a: &Calibrate,
    thresholds: Vec<f32>,
    calibration: Calibration,
) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let base = read_base(&a.models)?;
    if base.manifest().language == a.lang {
        return calibrated_base(a, base, thresholds, calibration);
    }
    let path = delta_path(&a.models, &a.lang);
    let delta = Delta::read(&read(&path)?).with_context(|| path.display().to_string())?;
    let mut header = delta.header().clone();
    (header.thresholds, header.calibration) = (thresholds, Some(calibration));
    let budget = header.budget.clone();
    let bytes = delta.with_header(header)?.write();
    if let Some(Limit::FileBytes(limit)) = budget.as_ref().map(|budget| budget.limit()) {
        let over = bytes.len().saturating_sub(limit as usize);
        ensure!(
            over == 0,
            "{}: with a threshold for every keyword it can take {over} bytes more than its budget of {limit}; train with --set calibration_bytes={over}, which keeps them free, and calibrate again",
            path.display()
        );
    }
    Ok(vec![(path, bytes)])
}

/// As [`calibrated`], for the base's own language.
fn calibrated_base(
    a: &Calibrate,
    base: Base,
    thresholds: Vec<f32>,
    calibration: Calibration,
) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let manifest = Manifest {
        thresholds: Thresholds::PerLabel(thresholds),
        calibration: Some(calibration),
        ..base.manifest().clone()
    };
    let json = manifest.to_json()?.into_bytes();
    let named = Digest::of_bytes(&json);
    let mut files = vec![(a.models.join(BASE_JSON), json)];
    for path in deltas(&a.models)? {
        let delta = Delta::read(&read(&path)?).with_context(|| path.display().to_string())?;
        if delta.header().manifest == Some(base.manifest_sha256()) {
            let mut header = delta.header().clone();
            header.manifest = Some(named);
            files.push((path, delta.with_header(header)?.write()));
        }
    }
    Ok(files)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |count: usize| 100.0 * count as f64 / self.words.max(1) as f64;
        writeln!(
            f,
            "{}: {} false accepts an hour wanted; {}",
            self.lang,
            self.wanted_per_hour,
            if self.verified {
                "verified"
            } else {
                "not verified"
            }
        )?;
        for (what, part) in [
            ("chosen on", &self.chosen_on),
            ("judged on", &self.judged_on),
        ] {
            if part.sources == 0 {
                writeln!(f, "  {what} nothing")?;
                continue;
            }
            writeln!(
                f,
                "  {what} {:.3} h of {} sources: {} false accepts, {:.2} an hour ({:.2} - {:.2})",
                part.hours,
                part.sources,
                part.false_accepts,
                part.per_hour,
                part.interval.0,
                part.interval.1
            )?;
        }
        writeln!(
            f,
            "  expected by how false accepts fall off: {:.2} an hour",
            self.expected_per_hour
        )?;
        writeln!(
            f,
            "  with the thresholds before: {} false accepts where it is judged",
            self.false_accepts_before
        )?;
        writeln!(
            f,
            "  words found on development clips: {:.1} % of {} (before: {:.1})",
            percent(self.found),
            self.words,
            percent(self.found_before)
        )?;
        for (keyword, threshold) in &self.thresholds {
            writeln!(f, "  {threshold:<7}  {keyword}")?;
        }
        Ok(())
    }
}
