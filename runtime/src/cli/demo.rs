//! `swr demo`: streams the sample audio of every language and shows each detection beside what was expected;
//! with `--data`, streams a seeded draw of recordings in noise instead and reports rates.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use swr_core::SAMPLE_RATE_HZ;
use swr_dataset::{DatasetError, Event as Spoken, StreamOptions, match_detections};

use super::stream::{Measured, TOLERANCE_SAMPLES, detected, measure};
use super::{ModelsArgs, Outcome, eval, json_line, spot};
use crate::capture::Recording;
use crate::models::Models;
use crate::spotter::Event;

/// Spot keywords in the shipped sample audio of every language
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr demo
  swr demo --json
  swr demo --data ../shared/speech --minutes 5 --seed 1

Exits with 0 only if every expected keyword was found and nothing else; with --data, when the run was completed.")]
pub(super) struct Demo {
    /// Stream recordings of this folder's TEST clips in noise instead of the sample audio
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Length of each language's stream
    #[arg(long, default_value = "2", value_parser = super::duration, requires = "data")]
    minutes: f64,
    /// Seed of the streams
    #[arg(long, default_value_t = 0, requires = "data")]
    seed: u64,
    /// JSON lines; the last one has the sums
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsArgs,
}

/// What lies beside a sample's audio; other fields, such as the command that made it, are for people.
#[derive(Debug, Deserialize)]
struct Script {
    language: String,
    keywords: Vec<Keyword>,
}

#[derive(Debug, Deserialize)]
struct Keyword {
    word: String,
    start_s: f64,
    end_s: f64,
}

/// A keyword that was spoken, or a detection without one.
#[derive(Debug, Serialize)]
struct Line<'a> {
    language: &'a str,
    /// The keyword expected; none for a false alarm.
    expected: Option<&'a str>,
    /// When it was spoken, or for a false alarm when it was detected.
    start_s: f64,
    /// The keyword detected; none if it was missed.
    detected: Option<&'a str>,
    time_s: Option<f64>,
    score: Option<f32>,
}

#[derive(Debug, Default, Clone, Copy, Serialize)]
struct Sums {
    expected: usize,
    found: usize,
    false_alarms: usize,
}

#[derive(Serialize)]
struct StreamLine<'a> {
    language: &'a str,
    seed: u64,
    #[serde(flatten)]
    measured: &'a Measured,
}

impl Demo {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let models = self.models.open()?;
        match &self.data {
            None => self.samples(&models, out),
            Some(data) => self.recordings(&models, data, out),
        }
    }

    fn samples(&self, models: &Models, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let directory = models.directory().join("demo");
        let mut sums = Sums::default();
        let mut languages = 0;
        for language in models.languages()? {
            let path = directory.join(format!("{language}.json"));
            if path.is_file() {
                sums += self.sample(models, &language, &path, out)?;
                languages += 1;
            }
        }
        if languages == 0 {
            bail!(
                "{}: no sample audio of any language here; make it with `swr-train synth demo`, or stream recordings with --data DIR",
                directory.display()
            );
        }
        if self.json {
            json_line(out, &sums)?;
        } else {
            let Sums {
                expected,
                found,
                false_alarms,
            } = sums;
            writeln!(
                out,
                "{languages} languages: {found} of {expected} keywords found, {false_alarms} false alarms"
            )?;
        }
        let perfect = sums.found == sums.expected && sums.false_alarms == 0;
        Ok(if perfect {
            Outcome::Success
        } else {
            Outcome::Negative
        })
    }

    /// Streams one language's sample and prints what was expected and what was heard, in order of time.
    fn sample(
        &self,
        models: &Models,
        language: &str,
        path: &Path,
        out: &mut dyn Write,
    ) -> anyhow::Result<Sums> {
        let script = Script::read(path, language)?;
        let audio = path.with_extension("wav");
        let recording = Recording::open(&audio)?;
        let mut spotters = spot::spotters(models, &[language.to_owned()])?;
        let labels = spotters[0].labels().to_vec();
        let spoken = script.spoken(&labels, path)?;
        let events = spot::events(&mut spotters, recording.samples(), &audio)?;
        let matched = match_detections(&spoken, &detected(&events, &labels), TOLERANCE_SAMPLES);

        let expected = |index: usize, event: Option<&'_ Event>| {
            (script.keywords[index].start_s, Some(index), event.cloned())
        };
        let mut rows: Vec<(f64, Option<usize>, Option<Event>)> = Vec::new();
        rows.extend(
            matched
                .hits
                .iter()
                .map(|&(word, event)| expected(word, Some(&events[event]))),
        );
        rows.extend(matched.misses.iter().map(|&word| expected(word, None)));
        rows.extend(
            matched
                .false_alarms
                .iter()
                .map(|&event| (events[event].time_s, None, Some(events[event].clone()))),
        );
        rows.sort_by(|a, b| a.0.total_cmp(&b.0));

        if !self.json {
            let seconds = recording.samples().len() as f64 / f64::from(SAMPLE_RATE_HZ);
            let model = if language == models.manifest().language {
                format!("base, {} bytes", models.onnx_bytes())
            } else {
                format!("base + {} bytes", models.delta(language)?.file_bytes)
            };
            writeln!(
                out,
                "{language} ({model}): {}, {seconds:.0} s",
                audio.display()
            )?;
        }
        for (start_s, word, event) in &rows {
            let line = Line {
                language,
                expected: word.map(|word| script.keywords[word].word.as_str()),
                start_s: *start_s,
                detected: event.as_ref().map(|event| event.keyword.as_str()),
                time_s: event.as_ref().map(|event| event.time_s),
                score: event.as_ref().map(|event| event.score),
            };
            line.write(out, self.json)?;
        }
        let sums = Sums {
            expected: spoken.len(),
            found: matched.hits.len(),
            false_alarms: matched.false_alarms.len(),
        };
        if !self.json {
            writeln!(
                out,
                "  {} of {} found, {} false alarms\n",
                sums.found, sums.expected, sums.false_alarms
            )?;
        }
        Ok(sums)
    }

    /// Streams each language's TEST clips in noise; languages that the data does not have are left out.
    fn recordings(
        &self,
        models: &Models,
        data: &Path,
        out: &mut dyn Write,
    ) -> anyhow::Result<Outcome> {
        let options = StreamOptions {
            minutes: self.minutes,
            seed: self.seed,
            ..StreamOptions::default()
        };
        let mut sums = Sums::default();
        let mut languages = 0;
        for language in models.languages()? {
            let task = match eval::task_of(data, &models.load(&language)?) {
                Err(error)
                    if matches!(error.downcast_ref(), Some(DatasetError::NoLanguage { .. })) =>
                {
                    eprintln!(
                        "swr: {language} left out, {} has no recordings of it",
                        data.display()
                    );
                    continue;
                }
                task => task?,
            };
            let measured = measure(models, &task, &task.test, &options)?;
            if self.json {
                let line = StreamLine {
                    language: &language,
                    seed: self.seed,
                    measured: &measured,
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
            }
            languages += 1;
            sums += Sums {
                expected: measured.expected,
                found: measured.found,
                false_alarms: measured.false_alarms,
            };
        }
        if languages == 0 {
            bail!(
                "{}: it has recordings of no language of {}",
                data.display(),
                models.directory().display()
            );
        }
        if self.json {
            json_line(out, &sums)?;
        }
        Ok(Outcome::Success)
    }
}

impl Script {
    fn read(path: &Path, language: &str) -> anyhow::Result<Script> {
        let bytes =
            fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let script: Script = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{}: damaged; expected language and keywords with word, start_s, end_s",
                path.display()
            )
        })?;
        if script.language != language {
            bail!(
                "{}: its language is \"{}\", expected \"{language}\" as its name says",
                path.display(),
                script.language
            );
        }
        Ok(script)
    }

    /// The keywords as the matching takes them, in samples and label indexes.
    fn spoken(&self, labels: &[String], path: &Path) -> anyhow::Result<Vec<Spoken>> {
        let samples = |seconds: f64| (seconds * f64::from(SAMPLE_RATE_HZ)) as usize;
        let spoken = |keyword: &Keyword| {
            let label = labels.iter().position(|label| *label == keyword.word);
            Ok(Spoken {
                label: label.with_context(|| {
                    format!(
                        "{}: \"{}\" is no keyword of the model",
                        path.display(),
                        keyword.word
                    )
                })?,
                word: keyword.word.clone(),
                start_samples: samples(keyword.start_s),
                end_samples: samples(keyword.end_s),
            })
        };
        self.keywords.iter().map(spoken).collect()
    }
}

impl Line<'_> {
    /// The word comes last, since its width on a terminal is not known in every script.
    fn write(&self, out: &mut dyn Write, json: bool) -> anyhow::Result<()> {
        if json {
            return json_line(out, self);
        }
        let score = self.score.unwrap_or(0.0);
        match (self.expected, self.detected) {
            (Some(expected), Some(_)) => writeln!(
                out,
                "  {:7.2} s  found {score:4.2}        {expected}",
                self.start_s
            )?,
            (Some(expected), None) => writeln!(
                out,
                "  {:7.2} s  MISSED            {expected}",
                self.start_s
            )?,
            (None, detected) => writeln!(
                out,
                "  {:7.2} s  FALSE ALARM {score:4.2}  {}",
                self.start_s,
                detected.unwrap_or_default()
            )?,
        }
        Ok(())
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Sums) {
        self.expected += other.expected;
        self.found += other.found;
        self.false_alarms += other.false_alarms;
    }
}
