//! `swr demo`: streams the sample audio of every language and shows each detection beside what was expected;
//! with `--data`, streams a seeded draw of recordings in noise instead and reports rates.

use std::io::Write;
use std::path::Path;

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use swr_core::SAMPLE_RATE_HZ;
use swr_core::matching::match_detections;

use super::script::{Keyword, Script, TOLERANCE_SAMPLES, detected, sample_audio, samples_of};
#[cfg(feature = "eval")]
use super::stream::Recordings;
use super::{ModelsArgs, Outcome, json_line, languages, spot};
use crate::DEFAULT_STEP_FRAMES;
use crate::capture::{Recording, Source};
use crate::models::Models;
use crate::spotter::{Event, Spotter};

/// Spot keywords in the shipped sample audio of every language
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr demo
  swr demo --json
  swr demo --lang de,en --together          one device that listens for both languages
  swr demo --data ../shared/speech --minutes 5 --seed 1

Exits with 0 if at least nine in ten keywords of every language were found and nothing else was heard; with --data, when the run was completed.")]
pub(super) struct Demo {
    #[cfg(feature = "eval")]
    #[command(flatten)]
    recordings: Recordings,
    /// Languages to hear, with commas between [default: all]
    #[arg(long = "lang", value_name = "L,…", value_delimiter = ',')]
    languages: Vec<String>,
    /// Listen for all of these languages in the audio of each, as a device with several does
    #[arg(long)]
    together: bool,
    /// JSON lines; the last one has the sums
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsArgs,
}

/// A keyword that was spoken, or a detection without one.
#[derive(Debug, Serialize)]
struct Line<'a> {
    /// The language of the audio, or of a false alarm.
    language: &'a str,
    /// The keyword expected; none for a false alarm.
    expected: Option<&'a str>,
    /// When it begins; none for a false alarm.
    start_s: Option<f64>,
    /// The keyword detected; none if it was missed.
    detected: Option<&'a str>,
    /// When it was detected.
    time_s: Option<f64>,
    score: Option<f32>,
}

/// Sums over languages.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(super) struct Sums {
    pub(super) expected: usize,
    pub(super) found: usize,
    pub(super) false_alarms: usize,
    /// Of the false alarms, those that are keywords of another language than what was spoken.
    pub(super) other_languages: usize,
}

/// Which languages' audio is heard, and for which languages.
pub(super) struct Listening {
    pub(super) languages: Vec<String>,
    together: bool,
}

impl Listening {
    /// The languages that are listened for in audio of `language`.
    pub(super) fn to(&self, language: &str) -> Vec<String> {
        match self.together {
            true => self.languages.clone(),
            false => vec![language.to_owned()],
        }
    }
}

impl Demo {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let models = self.models.open()?;
        let listening = Listening {
            languages: match self.languages.is_empty() {
                true => models.languages()?,
                false => languages(&models, &self.languages)?,
            },
            together: self.together,
        };
        #[cfg(feature = "eval")]
        if self.recordings.asked() {
            return self.recordings.run(&models, &listening, self.json, out);
        }
        self.samples(&models, &listening, out)
    }

    fn samples(
        &self,
        models: &Models,
        listening: &Listening,
        out: &mut dyn Write,
    ) -> anyhow::Result<Outcome> {
        let directory = samples_of(models.directory());
        let (mut sums, mut good) = (Sums::default(), true);
        let mut languages = 0;
        for language in &listening.languages {
            let path = directory.join(format!("{language}.json"));
            if path.is_file() {
                let mut spotter = models.spotter(&listening.to(language), DEFAULT_STEP_FRAMES)?;
                let own = self.sample(models, language, &mut spotter, &path, out)?;
                // No network hears everything; one that is broken hears far less.
                good &= 10 * own.found >= 9 * own.expected && own.false_alarms == 0;
                sums += own;
                languages += 1;
            } else {
                eprintln!("{}: left out, no {}", language, path.display());
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
                other_languages,
            } = sums;
            write!(
                out,
                "{languages} languages: {found} of {expected} keywords found, {false_alarms} false alarms"
            )?;
            match self.together {
                true => writeln!(out, ", {other_languages} of them in another language")?,
                false => writeln!(out)?,
            }
        }
        Ok(if good {
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
        spotter: &mut Spotter,
        path: &Path,
        out: &mut dyn Write,
    ) -> anyhow::Result<Sums> {
        let script = Script::read(path, language)?;
        let audio = sample_audio(path);
        let mut recording = Recording::open(&audio, None)?;
        while let Some(notice) = recording.notice() {
            eprintln!("swr: {notice}");
        }
        let labels = models.load(language)?.language.labels;
        let spoken = script.spoken(&labels, path)?;
        let events = spot::events(spotter, recording.samples(), &audio)?;
        let (events, others): (Vec<_>, Vec<_>) = events
            .into_iter()
            .partition(|event| event.language == language);
        let matched = match_detections(&spoken, &detected(&events, &labels), TOLERANCE_SAMPLES);

        let line = |word: Option<usize>, event: Option<usize>| {
            Line::new(
                language,
                word.map(|word| &script.keywords[word]),
                event.map(|event| &events[event]),
            )
        };
        let hits = matched
            .hits
            .iter()
            .map(|&(word, event)| line(Some(word), Some(event)));
        let misses = matched.misses.iter().map(|&word| line(Some(word), None));
        let false_alarms = matched
            .false_alarms
            .iter()
            .map(|&event| line(None, Some(event)));
        let elsewhere = others
            .iter()
            .map(|event| Line::new(&event.language, None, Some(event)));
        let lines = hits.chain(misses).chain(false_alarms).chain(elsewhere);
        let mut lines: Vec<Line> = lines.collect();
        lines.sort_by(|a, b| a.place_s().total_cmp(&b.place_s()));

        if !self.json {
            let seconds = recording.samples().len() as f64 / f64::from(SAMPLE_RATE_HZ);
            let model = if language == models.manifest().language {
                format!("base, {} bytes", models.onnx().len())
            } else {
                format!("base + {} bytes", models.delta(language)?.file_bytes)
            };
            writeln!(
                out,
                "{language} ({model}): {}, {seconds:.0} s\n       spoken      heard  score",
                audio.display()
            )?;
        }
        for line in &lines {
            line.write(out, self.json)?;
        }
        let sums = Sums {
            expected: spoken.len(),
            found: matched.hits.len(),
            false_alarms: matched.false_alarms.len() + others.len(),
            other_languages: others.len(),
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
}

impl<'a> Line<'a> {
    fn new(language: &'a str, word: Option<&'a Keyword>, event: Option<&'a Event>) -> Line<'a> {
        Line {
            language,
            expected: word.map(|word| word.word.as_str()),
            start_s: word.map(|word| word.start_s),
            detected: event.map(|event| event.keyword.as_str()),
            time_s: event.map(|event| event.time_s),
            score: event.map(|event| event.score),
        }
    }

    /// Where the line stands among the others.
    fn place_s(&self) -> f64 {
        self.start_s.or(self.time_s).unwrap_or_default()
    }

    /// The word comes last, since its width and direction on a terminal are not known in every script.
    fn write(&self, out: &mut dyn Write, json: bool) -> anyhow::Result<()> {
        if json {
            return json_line(out, self);
        }
        match self.start_s {
            Some(start_s) => write!(out, "  {start_s:9.2} s")?,
            None => write!(out, "  FALSE ALARM")?,
        }
        match (self.time_s, self.score) {
            (Some(time_s), Some(score)) => write!(out, "  {time_s:7.2} s   {score:4.2}")?,
            _ => write!(out, "     MISSED       ")?,
        }
        let word = self.expected.or(self.detected).unwrap_or_default();
        match self.expected {
            Some(_) => writeln!(out, "  {word}")?,
            None => writeln!(out, "  {} {word}", self.language)?,
        }
        Ok(())
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Sums) {
        self.expected += other.expected;
        self.found += other.found;
        self.false_alarms += other.false_alarms;
        self.other_languages += other.other_languages;
    }
}
