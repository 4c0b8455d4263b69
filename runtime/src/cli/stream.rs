//! Detections and false alarms in a stream made of recordings: what `swr eval --stream` and `swr demo --data` report.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use swr_core::matching::{Matched, match_detections};
use swr_dataset::{Clip, StreamOptions, Task, poisson_interval, wilson_interval};

use super::demo::{Listening, Sums};
use super::eval::{has_none, task_of};
use super::script::{TOLERANCE_SAMPLES, detected};
use super::{Outcome, json_line};
use crate::DEFAULT_STEP_FRAMES;
use crate::models::Models;

/// Confidence of all intervals.
pub(super) const CONFIDENCE: f64 = 0.95;

/// What was found in a stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Measured {
    /// Length of the stream.
    pub(super) hours: f64,
    /// Keywords spoken.
    pub(super) expected: usize,
    /// Keywords found.
    pub(super) found: usize,
    /// Share found; none without keywords.
    pub(super) detection_rate: Option<f64>,
    /// Wilson interval of the share.
    pub(super) detection_interval: (f64, f64),
    /// Detections of no keyword, of another one, or of one a second time.
    pub(super) false_alarms: usize,
    /// False alarms per hour.
    pub(super) false_alarms_per_hour: f64,
    /// Exact Poisson interval of that rate.
    pub(super) false_alarms_interval: (f64, f64),
}

/// Makes a stream of `clips` of `task` and lets `languages` listen to it; what was found, and how many false alarms are of another language.
fn measure(
    models: &Models,
    languages: &[String],
    task: &Task,
    clips: &[Clip],
    options: &StreamOptions,
) -> anyhow::Result<(Measured, usize)> {
    let stream = swr_dataset::stream(task, clips, options)?;
    for faults in [&task.report.faults, &stream.faults] {
        if !faults.is_empty() {
            eprintln!("swr: {faults}");
        }
    }
    let mut spotter = models.spotter(languages, DEFAULT_STEP_FRAMES)?;
    let mut events = Vec::new();
    spotter.push(&stream.samples, &mut events)?;
    spotter.finish(&mut events)?;
    let (events, others): (Vec<_>, Vec<_>) = events
        .into_iter()
        .partition(|event| event.language == task.language);
    let detected = detected(&events, &models.load(&task.language)?.language.labels);
    let Matched {
        hits, false_alarms, ..
    } = match_detections(&stream.events, &detected, TOLERANCE_SAMPLES);
    let measured = Measured::new(
        stream.hours(),
        stream.events.len(),
        hits.len(),
        false_alarms.len() + others.len(),
    );
    Ok((measured, others.len()))
}

/// `swr demo --data`.
#[derive(Debug, Args)]
pub(super) struct Recordings {
    /// Stream recordings of this folder's TEST clips in noise instead of the sample audio
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Length of each language's stream
    #[arg(long, default_value = "2", value_parser = super::duration, requires = "data")]
    minutes: f64,
    /// Seed of the streams
    #[arg(long, default_value_t = 0, requires = "data")]
    seed: u64,
}

#[derive(Serialize)]
struct StreamLine<'a> {
    language: &'a str,
    seed: u64,
    #[serde(flatten)]
    measured: &'a Measured,
    /// Of the false alarms, those that are keywords of another language.
    other_languages: usize,
}

impl Recordings {
    /// Whether recordings are to be streamed at all.
    pub(super) fn asked(&self) -> bool {
        self.data.is_some()
    }

    /// Streams each language's TEST clips in noise; languages that the data does not have are left out.
    pub(super) fn run(
        &self,
        models: &Models,
        listening: &Listening,
        json: bool,
        out: &mut dyn Write,
    ) -> anyhow::Result<Outcome> {
        let Some(data) = &self.data else {
            bail!("--data: no folder given");
        };
        let options = StreamOptions {
            minutes: self.minutes,
            seed: self.seed,
            ..StreamOptions::default()
        };
        let mut sums = Sums::default();
        let mut languages = 0;
        for language in &listening.languages {
            let task = match task_of(data, &models.load(language)?) {
                Err(error) if has_none(&error) => {
                    eprintln!(
                        "swr: {language} left out, {} has no recordings of it",
                        data.display()
                    );
                    continue;
                }
                task => task?,
            };
            let (measured, other_languages) =
                measure(models, &listening.to(language), &task, &task.test, &options)?;
            if json {
                let line = StreamLine {
                    language,
                    seed: self.seed,
                    measured: &measured,
                    other_languages,
                };
                json_line(out, &line)?;
            } else {
                let synthetic = task.test.iter().any(|clip| clip.synthetic);
                let kind = if synthetic {
                    "synthetic speech"
                } else {
                    "recordings"
                };
                writeln!(
                    out,
                    "{language}: {} min of {kind} in noise, seed {}\n{measured}",
                    self.minutes, self.seed
                )?;
                if listening.to(language).len() > 1 {
                    writeln!(out, "  of these in another language: {other_languages}")?;
                }
            }
            languages += 1;
            sums += Sums {
                expected: measured.expected,
                found: measured.found,
                false_alarms: measured.false_alarms,
                other_languages,
            };
        }
        if languages == 0 {
            bail!(
                "{}: it has recordings of no language of {}",
                data.display(),
                models.directory().display()
            );
        }
        if json {
            json_line(out, &sums)?;
        }
        Ok(Outcome::Success)
    }
}

impl Measured {
    pub(super) fn new(hours: f64, expected: usize, found: usize, false_alarms: usize) -> Measured {
        Measured {
            hours,
            expected,
            found,
            detection_rate: (expected > 0).then(|| found as f64 / expected as f64),
            detection_interval: wilson_interval(found, expected),
            false_alarms,
            false_alarms_per_hour: false_alarms as f64 / hours,
            false_alarms_interval: poisson_interval(false_alarms as u64, hours, CONFIDENCE),
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "  keywords found: {} of {}, {:.1} % ({:.1} - {:.1})",
            self.found,
            self.expected,
            100.0 * self.detection_rate.unwrap_or(0.0),
            100.0 * self.detection_interval.0,
            100.0 * self.detection_interval.1
        )?;
        write!(
            formatter,
            "  false alarms: {} in {:.3} h, {:.1} per hour ({:.1} - {:.1})",
            self.false_alarms,
            self.hours,
            self.false_alarms_per_hour,
            self.false_alarms_interval.0,
            self.false_alarms_interval.1
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_quiet_minutes_prove_little() {
        let measured = Measured::new(1.0 / 6.0, 120, 120, 0);
        assert_eq!(measured.false_alarms_per_hour, 0.0);
        assert!(measured.false_alarms_interval.1 > 17.0, "{measured}");
        assert!(measured.detection_interval.0 < 1.0, "{measured}");
    }
}
