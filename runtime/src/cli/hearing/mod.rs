//! What a person hears of a language: words found in noise and in sentences, how late, at which level; and what is falsely reported in running speech, in
//! sound and music, and of sounds made in code. At the package's thresholds, and with all of them moved together.

mod made;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use serde::Serialize;
use swr_core::detector::{Detection, Posteriors, Trigger};
use swr_core::frontend::Frontend;
use swr_core::labels::NOT_KEYWORDS;
use swr_core::matching::{Detected, Matched, match_detections};
use swr_core::model::Language;
use swr_core::package::Digest;
use swr_core::spotter::detect_in_recording;
use swr_core::{HOP_SAMPLES, SAMPLE_RATE_HZ, WINDOW_SAMPLES};
use swr_dataset::{Stream, audio_below, binomial_interval, poisson_interval};

use super::script::TOLERANCE_SAMPLES;
use super::stream::{CONFIDENCE, Measured};
use crate::DEFAULT_STEP_FRAMES;
use crate::capture::{Recording, Source};
use crate::engine::Engine;
use crate::models::Model;
pub(super) use report::plot;

/// How far thresholds are moved, in steps of a quarter of their log-odds: from a hundredth of the odds to a hundred times as much.
const SHIFTS: std::ops::RangeInclusive<i32> = -20..=20;
const SHIFT_STEP: f32 = 0.25;
/// False accepts an hour at which words found are told.
const RATES: [f64; 3] = [1.0, 5.0, 20.0];
/// How much longer than the stream each kind of noise made in code is: half an hour for ten minutes.
const NOISE_LENGTH: usize = 3;

/// A network with a trigger for every choice of thresholds; the first one has the package's.
pub(super) struct Ear {
    language: Language,
    engine: Engine,
    frontend: Frontend,
    posteriors: Posteriors,
    triggers: Vec<Trigger>,
    /// Whether a label's events are reported.
    reported: Vec<bool>,
}

/// Audio in which no keyword is spoken.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Quiet {
    files: usize,
    /// Files that hold the same samples as another; they count once.
    copies: usize,
    hours: f64,
    false_accepts: usize,
    false_accepts_per_hour: f64,
    false_accepts_interval: (f64, f64),
    /// What was reported, the surest first. If a keyword is really said there, it was right, and the recording is no negative.
    heard: Vec<Accept>,
}

/// A false accept, to be listened to.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Accept {
    file: PathBuf,
    time_s: f64,
    keyword: String,
    score: f32,
}

/// Sounds made in code of one kind.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MadeSounds {
    kind: &'static str,
    sounds: usize,
    hours: f64,
    /// Those with an event: what sounded, the keyword, its score.
    heard: Vec<(String, String, f32)>,
}

/// Words found at one level.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Level {
    level_db: f32,
    /// Whether a door slams before every word.
    bang: bool,
    found: usize,
    false_accepts: usize,
}

/// What thresholds moved by one distance do.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Point {
    /// By how much the log-odds of all thresholds are moved.
    shift: f32,
    found: usize,
    expected: usize,
    /// Exact interval of the share found.
    found_interval: (f64, f64),
    false_accepts: usize,
    false_accepts_per_hour: f64,
    false_accepts_interval: (f64, f64),
    /// Words found in sentences, where there are any.
    found_in_sentences: Option<(usize, usize)>,
}

/// Words found where thresholds are moved just so far that a rate of false accepts is kept.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct AtRate {
    false_accepts_per_hour: f64,
    /// None where no distance keeps it.
    point: Option<Point>,
}

/// One keyword at the package's thresholds.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ByKeyword {
    keyword: String,
    threshold: f32,
    found: usize,
    expected: usize,
    /// Exact interval of the share found.
    found_interval: (f64, f64),
    false_accepts: usize,
    /// Of the words found; none if there are none.
    delay: Option<Delay>,
    /// Words found where this keyword alone keeps each of [`RATES`].
    at_rates: Vec<KeywordAtRate>,
}

/// A keyword's words found where its threshold is moved just so far that it keeps a rate of false accepts by itself.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct KeywordAtRate {
    false_accepts_per_hour: f64,
    /// None where no distance keeps it.
    found: Option<usize>,
    /// Exact interval of the share found.
    found_interval: Option<(f64, f64)>,
}

/// Milliseconds from a word's end to its event.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Delay {
    median_ms: f64,
    /// 95 of 100 events are not later.
    late_ms: f64,
}

/// Everything that was measured of a language.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Hearing {
    /// Words in noise, at the package's thresholds.
    #[serde(flatten)]
    pub(super) measured: Measured,
    /// Of the words found in noise; none if there are none.
    delay: Option<Delay>,
    /// Words in running speech.
    sentences: Option<Measured>,
    /// Running speech without keywords.
    negatives: Option<Quiet>,
    /// Recorded sound and music.
    sounds: Option<Quiet>,
    /// Sounds made in code; measured where there are negatives.
    made: Vec<MadeSounds>,
    /// The words in noise, louder and softer; likewise.
    levels: Vec<Level>,
    at_rates: Vec<AtRate>,
    /// False accepts are those on the negatives where there are any, else those in the stream.
    pub(super) points: Vec<Point>,
    keywords: Vec<ByKeyword>,
}

/// What a language hears.
pub(super) struct Heard<'a> {
    /// Words in noise.
    pub(super) stream: &'a Stream,
    /// Words in running speech.
    pub(super) sentences: Option<&'a Stream>,
    /// Files or folders of running speech without keywords.
    pub(super) negatives: &'a [PathBuf],
    /// Files or folders of sound and music.
    pub(super) sounds: &'a [PathBuf],
}

impl Ear {
    /// For a model of whose labels those marked are reported.
    pub(super) fn new(model: &Model, reported: Vec<bool>) -> anyhow::Result<Self> {
        let (labels, package) = (&model.language.labels, &model.language.detector);
        let moved = |shift: i32| {
            let mut settings = package.clone();
            settings.move_thresholds(shift as f32 * SHIFT_STEP);
            Trigger::new(labels, &settings)
        };
        let triggers: Result<Vec<Trigger>, _> = [0].into_iter().chain(SHIFTS).map(moved).collect();
        Ok(Self {
            engine: model.engine(DEFAULT_STEP_FRAMES)?,
            frontend: Frontend::new(&model.language.frontend)?,
            posteriors: Posteriors::new(labels, package)?,
            triggers: triggers?,
            reported,
            language: model.language.clone(),
        })
    }

    /// Events in a recording under every choice of thresholds, as a stream of its own that a second of silence ends.
    fn hear(&mut self, samples: &[f32]) -> anyhow::Result<Vec<Vec<Detection>>> {
        self.hear_with(samples, self.triggers.len())
    }

    /// The same under the package's thresholds alone.
    fn hear_once(&mut self, samples: &[f32]) -> anyhow::Result<Vec<Detection>> {
        Ok(self.hear_with(samples, 1)?.swap_remove(0))
    }

    fn hear_with(&mut self, samples: &[f32], count: usize) -> anyhow::Result<Vec<Vec<Detection>>> {
        let mut found = detect_in_recording(
            &mut self.engine,
            (&mut self.frontend, self.language.context_frames),
            samples,
            &mut self.posteriors,
            &mut self.triggers[..count],
        )?;
        for found in &mut found {
            found.retain(|detection| self.reported[detection.label]);
        }
        Ok(found)
    }

    /// Measures a language; `progress` is told what is being heard, and how many files of how many.
    pub(super) fn measure(
        &mut self,
        heard: &Heard,
        mut progress: impl FnMut(&'static str, usize, usize),
    ) -> anyhow::Result<Hearing> {
        let stream = heard.stream;
        progress("words in noise", 0, 1);
        let found = self.hear(&stream.samples)?;
        let matched = matches(stream, &found);
        let sentences = match heard.sentences {
            None => None,
            Some(sentences) => {
                progress("words in sentences", 0, 1);
                let found = self.hear(&sentences.samples)?;
                Some((sentences, matches(sentences, &found)))
            }
        };
        let mut told = |done, all| progress("running speech", done, all);
        let negatives = self.hear_files(heard.negatives, &mut told)?;
        let mut told = |done, all| progress("sound and music", done, all);
        let sounds = self.hear_files(heard.sounds, &mut told)?;
        let (mut made, mut levels) = (Vec::new(), Vec::new());
        if negatives.is_some() {
            progress("sounds made in code", 0, 1);
            made = self.hear_made(NOISE_LENGTH * stream.samples.len())?;
            progress("levels", 0, 1);
            levels = self.hear_levels(stream)?;
        }

        let points: Vec<Point> = SHIFTS
            .enumerate()
            .map(|(index, shift)| {
                let at = index + 1;
                let (false_accepts, hours) = match &negatives {
                    Some((accepts, quiet)) => (accepts[at].len(), quiet.hours),
                    None => (matched[at].false_alarms.len(), stream.hours()),
                };
                let (found, expected) = (matched[at].hits.len(), stream.events.len());
                Point {
                    shift: shift as f32 * SHIFT_STEP,
                    found,
                    expected,
                    found_interval: binomial_interval(found, expected, CONFIDENCE),
                    false_accepts,
                    false_accepts_per_hour: false_accepts as f64 / hours,
                    false_accepts_interval: poisson_interval(
                        false_accepts as u64,
                        hours,
                        CONFIDENCE,
                    ),
                    found_in_sentences: sentences
                        .as_ref()
                        .map(|(stream, matched)| (matched[at].hits.len(), stream.events.len())),
                }
            })
            .collect();
        let at_rates = RATES.map(|rate| AtRate {
            false_accepts_per_hour: rate,
            point: points
                .iter()
                .find(|point| point.false_accepts_per_hour <= rate)
                .copied(),
        });
        // Under every choice of thresholds, what is falsely accepted.
        let labels = |at: usize| -> Vec<usize> {
            let alarms = &matched[at].false_alarms;
            match &negatives {
                Some((accepts, _)) => accepts[at].iter().map(|found| found.label).collect(),
                None => alarms.iter().map(|place| found[at][*place].label).collect(),
            }
        };
        let accepts: Vec<_> = (0..found.len()).map(|at| count(labels(at))).collect();
        let hours = negatives.as_ref().map_or(stream.hours(), |(_, q)| q.hours);
        let keywords = self.by_keyword(stream, (&found[0], &matched), &accepts, hours);
        Ok(Hearing {
            measured: measured(stream, &matched[0]),
            delay: delay(stream, &found[0], &matched[0], |_| true),
            sentences: sentences.map(|(stream, matched)| measured(stream, &matched[0])),
            negatives: negatives.map(|(_, quiet)| quiet),
            sounds: sounds.map(|(_, quiet)| quiet),
            made,
            levels,
            at_rates: at_rates.to_vec(),
            points,
            keywords,
        })
    }

    /// By what was `found` at the package's thresholds, and what `matched` and was falsely accepted under every choice of them.
    fn by_keyword(
        &self,
        stream: &Stream,
        (heard, matched): (&[Detection], &[Matched]),
        accepts: &[BTreeMap<usize, usize>],
        hours: f64,
    ) -> Vec<ByKeyword> {
        let expected = count(stream.events.iter().map(|event| event.label));
        let hits =
            |matched: &Matched| count(matched.hits.iter().map(|hit| stream.events[hit.0].label));
        let found: Vec<_> = matched.iter().map(hits).collect();
        let of = |counts: &BTreeMap<usize, usize>, label| counts.get(&label).copied().unwrap_or(0);
        let at_rates = |label: usize, said: usize| {
            RATES.map(|rate| {
                let keeps = |at: &usize| of(&accepts[*at], label) as f64 <= rate * hours;
                let found = (1..found.len()).find(keeps).map(|at| of(&found[at], label));
                KeywordAtRate {
                    false_accepts_per_hour: rate,
                    found,
                    found_interval: found.map(|found| binomial_interval(found, said, CONFIDENCE)),
                }
            })
        };
        let keywords = &self.language.labels[..self.language.labels.len() - NOT_KEYWORDS];
        let by_keyword = keywords
            .iter()
            .enumerate()
            .filter(|(label, _)| self.reported[*label])
            .map(|(label, keyword)| {
                let (expected, hits) = (of(&expected, label), of(&found[0], label));
                ByKeyword {
                    keyword: keyword.clone(),
                    threshold: self.language.detector.thresholds[label],
                    found: hits,
                    expected,
                    found_interval: binomial_interval(hits, expected, CONFIDENCE),
                    false_accepts: of(&accepts[0], label),
                    delay: delay(stream, heard, &matched[0], |word| word == label),
                    at_rates: at_rates(label, expected).to_vec(),
                }
            });
        by_keyword.collect()
    }

    /// What is reported in files without keywords, under every choice of thresholds; none without files.
    fn hear_files(
        &mut self,
        paths: &[PathBuf],
        progress: &mut dyn FnMut(usize, usize),
    ) -> anyhow::Result<Option<(Vec<Vec<Detection>>, Quiet)>> {
        if paths.is_empty() {
            return Ok(None);
        }
        let mut files = Vec::new();
        for path in paths {
            files.extend(audio_below(path)?);
        }
        let named = || paths.iter().map(|path| path.display().to_string());
        ensure!(
            !files.is_empty(),
            "{}: no audio file there",
            named().collect::<Vec<_>>().join(", ")
        );
        let (mut seen, mut samples, mut unheard) = (BTreeSet::new(), 0, 0);
        let mut accepts = vec![Vec::new(); self.triggers.len()];
        let mut quiet = Quiet {
            files: files.len(),
            ..Quiet::default()
        };
        for (number, path) in files.iter().enumerate() {
            progress(number, files.len());
            // Files are counted, and one that cannot be heard is told: the hours are those of the others.
            let mut recording = match Recording::open(path, None) {
                Ok(recording) => recording,
                Err(error) => {
                    eprintln!("swr: {error}; left out");
                    unheard += 1;
                    continue;
                }
            };
            while let Some(notice) = recording.notice() {
                eprintln!("swr: {notice}");
            }
            let bytes = recording.samples().iter().flat_map(|s| s.to_le_bytes());
            if !seen.insert(Digest::of_bytes(&bytes.collect::<Vec<u8>>())) {
                quiet.copies += 1;
                continue;
            }
            samples += recording.samples().len();
            let found = self.hear(recording.samples());
            let found = found.with_context(|| path.display().to_string())?;
            quiet.heard.extend(found[0].iter().map(|detection| Accept {
                file: path.clone(),
                time_s: (detection.frame as usize * HOP_SAMPLES) as f64 / f64::from(SAMPLE_RATE_HZ),
                keyword: self.language.labels[detection.label].clone(),
                score: detection.score,
            }));
            for (all, found) in accepts.iter_mut().zip(found) {
                all.extend(found);
            }
        }
        ensure!(
            unheard < files.len(),
            "{}: none of {unheard} files can be heard",
            named().collect::<Vec<_>>().join(", ")
        );
        if unheard > 0 {
            eprintln!("swr: {unheard} of {} files are left out", files.len());
        }
        quiet.heard.sort_by(|a, b| b.score.total_cmp(&a.score));
        quiet.hours = samples as f64 / f64::from(SAMPLE_RATE_HZ) / 3_600.0;
        quiet.false_accepts = accepts[0].len();
        quiet.false_accepts_per_hour = quiet.false_accepts as f64 / quiet.hours;
        quiet.false_accepts_interval =
            poisson_interval(quiet.false_accepts as u64, quiet.hours, CONFIDENCE);
        Ok(Some((accepts, quiet)))
    }
}

fn count(labels: impl IntoIterator<Item = usize>) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for label in labels {
        *counts.entry(label).or_default() += 1;
    }
    counts
}

fn measured(stream: &Stream, matched: &Matched) -> Measured {
    Measured::new(
        stream.hours(),
        stream.events.len(),
        matched.hits.len(),
        matched.false_alarms.len(),
    )
}

fn matches(stream: &Stream, found: &[Vec<Detection>]) -> Vec<Matched> {
    let matched = |found: &Vec<Detection>| {
        let detected: Vec<Detected> = found.iter().copied().map(Detected::from).collect();
        match_detections(&stream.events, &detected, TOLERANCE_SAMPLES)
    };
    found.iter().map(matched).collect()
}

/// From the end of each word that was found, of the labels that are wanted, to the sample with which its event is given out: the last one of its frame.
fn delay(
    stream: &Stream,
    found: &[Detection],
    matched: &Matched,
    wanted: impl Fn(usize) -> bool,
) -> Option<Delay> {
    let hits = matched.hits.iter();
    let hits = hits.filter(|(word, _)| wanted(stream.events[*word].label));
    let delay = |(word, detection): &(usize, usize)| {
        let given = found[*detection].given as usize * HOP_SAMPLES + WINDOW_SAMPLES;
        let samples = given as f64 - stream.events[*word].end_samples as f64;
        1_000.0 * samples / f64::from(SAMPLE_RATE_HZ)
    };
    let mut delays: Vec<f64> = hits.map(delay).collect();
    delays.sort_by(f64::total_cmp);
    let at = |share: f64| delays.get(((delays.len() as f64 - 1.0) * share).round() as usize);
    Some(Delay {
        median_ms: *at(0.5)?,
        late_ms: *at(0.95)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_from_a_words_end_to_the_frame_that_gives_its_event() {
        let word = |end_samples| swr_core::matching::Spoken {
            label: 0,
            word: "yes".into(),
            start_samples: end_samples - 8_000,
            end_samples,
        };
        let stream = Stream {
            samples: Vec::new(),
            events: vec![word(16_000), word(48_000)],
            unknown: Vec::new(),
            faults: Default::default(),
        };
        let event = |frame| Detection {
            label: 0,
            score: 0.9,
            frame,
            given: frame + 10,
        };
        let found = [event(105), event(310)];
        let matched = &matches(&stream, &[found.to_vec()])[0];
        let delay = delay(&stream, &found, matched, |_| true).unwrap();
        // Frame 115 ends with sample 18,880, frame 320 with 51,680.
        assert_eq!((delay.median_ms, delay.late_ms), (230.0, 230.0));
    }
}
