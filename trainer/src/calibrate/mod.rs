//! Detection thresholds, one a keyword: chosen for a rate of false accepts in running speech without keywords, whenever a language is trained or by
//! `swr-train calibrate`; without such speech one for all keywords, by a seeded stream of development clips in noise.
//!
//! The stream never holds a TEST clip nor the noise that TEST streams are made of.

pub(crate) mod choose;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use swr_core::detector::{DetectorSettings, Posteriors, Trigger};
use swr_core::frontend::Frontend;
use swr_core::labels::NOT_KEYWORDS;
use swr_core::matching::{Detected, match_detections};
use swr_core::model::Language;
use swr_core::network::{self as fused, Network};
use swr_core::package::Calibration;
use swr_core::spotter::detect_in_recording;
use swr_core::{CONTEXT_FRAMES, SAMPLE_RATE_HZ};
use swr_dataset::{Background, Split, Stream, StreamOptions, Task, decode_file, stream};

use crate::models::Pipeline;
use crate::network::Weights;
use crate::weights::to_package;
use choose::{Accepts, Choice, Evidence, keeping};

/// Minutes of the stream.
const MINUTES: f64 = 60.0;
/// Minutes of the stream of TEST clips.
const TEST_MINUTES: f64 = 20.0;
/// Quiet rooms and noisy ones: the power of speech over that of noise.
const SNR_DB: (f32, f32) = (10.0, 40.0);
/// A word may be detected until this long after its end.
pub(crate) const TOLERANCE_SAMPLES: usize = SAMPLE_RATE_HZ as usize;
/// Frames of a step.
const STEP_FRAMES: usize = 10;
/// A threshold is as good as the best if its hits less false alarms come this close.
const NEAR_BEST: f64 = 0.95;
/// False accepts an hour of running speech that thresholds may give, all keywords together.
pub const PER_HOUR: f32 = 5.0;
/// Less running speech than this tells nothing about the rate: less than one false accept is expected in it.
const LEAST_HOURS: f64 = 1.0 / PER_HOUR as f64;
/// The highest threshold without running speech to choose by, in hundredths. Networks that learned on streams are sure of words: at 0.90 German, which had too little
/// running speech, gave 40 false accepts an hour, and a word like a keyword 0.92.
const HIGHEST_UNPROVEN: u32 = 95;
/// Parts that the running speech is divided into; each is judged by thresholds chosen on the others.
const FOLDS: usize = 5;

/// Thresholds, and what they do on development recordings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibrated {
    /// The posterior that each label must reach, `[label]`.
    pub thresholds: Vec<f32>,
    /// The rate that they were chosen for; none where there was no running speech to choose by.
    pub calibration: Option<Calibration>,
    /// Words of the stream.
    pub words: usize,
    /// Words detected.
    pub hits: usize,
    /// Detections of anything else.
    pub false_alarms: usize,
    /// Hours of running speech without keywords.
    pub running_hours: f64,
    /// Detections in it, every fifth of its recordings heard with thresholds chosen on the others.
    pub false_accepts: usize,
    /// What a person should know of the choice.
    pub note: Option<String>,
}

/// A seeded stream of development clips in noise; `None` if there are no development keywords.
pub(crate) fn development_stream(task: &Task, seed: u64) -> Result<Option<Stream>> {
    let keywords = task.labels.len() - NOT_KEYWORDS;
    if !task.dev.iter().any(|clip| clip.label < keywords) {
        return Ok(None);
    }
    // The stream takes the last fifth of what it is given: here of the part that training and development may hear.
    let development = |b: &Arc<Background>| {
        let samples = b.part(Split::Dev).to_vec();
        (!samples.is_empty()).then(|| {
            Arc::new(Background {
                path: b.path.clone(),
                start_samples: 0,
                samples,
                split: None,
            })
        })
    };
    let task = Task {
        background: task.background.iter().filter_map(development).collect(),
        ..task.clone()
    };
    let options = StreamOptions {
        minutes: MINUTES,
        snr_db: SNR_DB,
        seed,
        ..StreamOptions::default()
    };
    Ok(Some(stream(&task, &task.dev, &options)?))
}

/// A network that hears as a device does, under several choices of thresholds at once.
pub(crate) struct Ear<'a> {
    network: &'a Network,
    labels: &'a [String],
    settings: &'a DetectorSettings,
    frontend: Frontend,
    context_frames: usize,
}

fn settings(pipeline: &Pipeline) -> DetectorSettings {
    DetectorSettings {
        window_frames: pipeline.window_frames,
        timing: pipeline.timing,
        ..DetectorSettings::new(Vec::new())
    }
}

impl<'a> Ear<'a> {
    fn new(
        network: &'a Network,
        labels: &'a [String],
        settings: &'a DetectorSettings,
        pipeline: &Pipeline,
    ) -> Result<Self> {
        Ok(Self {
            network,
            labels,
            settings,
            frontend: Frontend::new(&pipeline.frontend)?,
            context_frames: CONTEXT_FRAMES,
        })
    }

    /// The ear of a packaged language, whose network this is.
    pub(crate) fn of(network: &'a Network, language: &'a Language) -> Result<Self> {
        Ok(Self {
            network,
            labels: &language.labels,
            settings: &language.detector,
            frontend: Frontend::new(&language.frontend)?,
            context_frames: language.context_frames,
        })
    }

    pub(crate) fn keywords(&self) -> usize {
        self.labels.len() - NOT_KEYWORDS
    }

    /// What a device reports of a recording under each choice, `[keyword]` or `[label]`; all else is as in the settings.
    pub(crate) fn hear(&self, samples: &[f32], choices: &[Vec<f32>]) -> Result<Vec<Vec<Detected>>> {
        let mut network = fused::Stream::new(self.network, STEP_FRAMES);
        let mut posteriors = Posteriors::new(self.labels, self.settings)?;
        let trigger = |thresholds: &Vec<f32>| {
            let settings = DetectorSettings {
                thresholds: self.for_labels(thresholds),
                ..self.settings.clone()
            };
            Ok(Trigger::new(self.labels, &settings)?)
        };
        let mut triggers: Vec<Trigger> = choices.iter().map(trigger).collect::<Result<_>>()?;
        let heard = detect_in_recording(
            &mut network,
            (&mut self.frontend.clone(), self.context_frames),
            samples,
            &mut posteriors,
            &mut triggers,
        )?;
        let detected = |found: Vec<_>| found.into_iter().map(Detected::from).collect();
        Ok(heard.into_iter().map(detected).collect())
    }

    /// Thresholds of keywords, and for what is none that of the last keyword, which costs a package nothing.
    pub(crate) fn for_labels(&self, thresholds: &[f32]) -> Vec<f32> {
        let mut all = thresholds.to_vec();
        all.resize(self.labels.len(), *all.last().unwrap_or(&1.0));
        all
    }

    /// Every candidate as the threshold of all keywords.
    pub(crate) fn alike(&self) -> Vec<Vec<f32>> {
        let thresholds = choose::candidates().into_iter();
        thresholds.map(|t| vec![t; self.keywords()]).collect()
    }

    /// Detections of every keyword in recordings, `[recording][choice][keyword]`, and the hours of each recording.
    pub(crate) fn accepts(
        &self,
        files: &[PathBuf],
        choices: &[Vec<f32>],
        heard: impl Fn(),
    ) -> Result<Vec<Accepts>> {
        let accepts = |path: &PathBuf| {
            let recording = decode_file(path)?;
            let detections = self.hear(&recording, choices);
            let detections = detections.with_context(|| path.display().to_string())?;
            let count = |detections: Vec<Detected>| {
                let mut counts = vec![0; self.keywords()];
                detections.iter().for_each(|d| counts[d.label] += 1);
                counts
            };
            heard();
            Ok(Accepts {
                hours: recording.len() as f64 / f64::from(SAMPLE_RATE_HZ) / 3_600.0,
                counts: detections.into_iter().map(count).collect(),
            })
        };
        files.iter().map(accepts).collect()
    }

    /// What every candidate finds in the stream, before anything is known of what it accepts elsewhere.
    pub(crate) fn evidence(&self, stream: &Stream) -> Result<Evidence> {
        let alike = self.alike();
        let mut evidence = Evidence::nothing(alike.len(), self.keywords());
        for word in &stream.events {
            evidence.words[word.label] += 1;
        }
        for (at, detected) in self.hear(&stream.samples, &alike)?.iter().enumerate() {
            let matched = match_detections(&stream.events, detected, TOLERANCE_SAMPLES);
            for (word, _) in matched.hits {
                evidence.found[at][stream.events[word].label] += 1;
            }
            for alarm in matched.false_alarms {
                evidence.alarms[at][detected[alarm].label] += 1;
            }
        }
        Ok(evidence)
    }
}

/// The thresholds for [`PER_HOUR`] false accepts an hour in the running speech of DEV. Where there is too little of it: the one threshold for all keywords
/// that is the highest of those about as good as the one with the most hits less false alarms in the stream, since of two equally good devices the quieter one
/// annoys less. `None` if there are no development keywords.
///
/// # Errors
/// For recordings that cannot be read.
pub fn calibrate(
    weights: &Weights,
    pipeline: &Pipeline,
    task: &Task,
    seed: u64,
) -> Result<Option<Calibrated>> {
    let Some(stream) = development_stream(task, seed)? else {
        return Ok(None);
    };
    let network = Network::new(&to_package(weights)?)?;
    let settings = settings(pipeline);
    let ear = Ear::new(&network, &task.labels, &settings, pipeline)?;
    let files = task.negatives_of(Split::Dev);
    let accepts = ear.accepts(&files, &ear.alike(), || ())?;
    let words = ear.evidence(&stream)?;
    let evidence = words.with(&accepts);
    let proven = evidence.hours >= LEAST_HOURS;
    let (thresholds, note) = match proven {
        true => kept(&evidence),
        false => (unproven(&evidence), too_short(evidence.hours)),
    };
    let mut false_accepts = 0;
    for fold in (0..FOLDS).filter(|_| proven) {
        let others = accepts.iter().enumerate().filter(|a| a.0 % FOLDS != fold);
        let (thresholds, _) = kept(&words.with(others.map(|(_, accepts)| accepts)));
        let judged = files.iter().enumerate().filter(|f| f.0 % FOLDS == fold);
        let judged: Vec<PathBuf> = judged.map(|(_, path)| path.clone()).collect();
        let heard = ear.accepts(&judged, &[thresholds], || ())?;
        false_accepts += heard.iter().flat_map(|h| &h.counts[0]).sum::<usize>();
    }
    let heard = ear.hear(&stream.samples, std::slice::from_ref(&thresholds))?;
    let matched = match_detections(&stream.events, &heard[0], TOLERANCE_SAMPLES);
    Ok(Some(Calibrated {
        thresholds: ear.for_labels(&thresholds),
        calibration: proven.then_some(Calibration {
            false_accepts_per_hour: PER_HOUR,
            verified: false,
        }),
        words: stream.events.len(),
        hits: matched.hits.len(),
        false_alarms: matched.false_alarms.len(),
        running_hours: evidence.hours,
        false_accepts,
        note,
    }))
}

/// What a network hears of TEST with given thresholds: words in noise, 10 to 20 dB above it, and running speech without keywords.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// Keywords said.
    pub words: usize,
    /// Keywords missed.
    pub missed: usize,
    /// Hours of running speech.
    pub hours: f64,
    /// Detections in it.
    pub false_accepts: usize,
}

/// What `weights` hear of TEST with thresholds for a label each; `None` if there are no keywords in TEST.
///
/// # Errors
/// For recordings that cannot be read.
pub fn hear_test(
    weights: &Weights,
    pipeline: &Pipeline,
    task: &Task,
    thresholds: &[f32],
) -> Result<Option<Heard>> {
    let keywords = task.labels.len() - NOT_KEYWORDS;
    if !task.test.iter().any(|clip| clip.label < keywords) {
        return Ok(None);
    }
    let options = StreamOptions {
        minutes: TEST_MINUTES,
        ..StreamOptions::default()
    };
    let stream = stream(task, &task.test, &options)?;
    let network = Network::new(&to_package(weights)?)?;
    let settings = settings(pipeline);
    let ear = Ear::new(&network, &task.labels, &settings, pipeline)?;
    let choice = [thresholds.to_vec()];
    let detected = ear.hear(&stream.samples, &choice)?;
    let matched = match_detections(&stream.events, &detected[0], TOLERANCE_SAMPLES);
    let accepts = ear.accepts(&task.negatives_of(Split::Test), &choice, || ())?;
    Ok(Some(Heard {
        words: stream.events.len(),
        missed: matched.misses.len(),
        hours: accepts.iter().map(|a| a.hours).sum(),
        false_accepts: accepts.iter().flat_map(|a| &a.counts[0]).sum(),
    }))
}

/// The first choice that is expected to keep the rate, or the strictest.
fn kept(evidence: &Evidence) -> (Vec<f32>, Option<String>) {
    let mut choices = evidence.choices();
    let rate = f64::from(PER_HOUR);
    let place = keeping(&choices, rate, |_| true).unwrap_or_default();
    let Choice {
        thresholds,
        per_hour,
    } = choices.swap_remove(place);
    let note = (per_hour > rate).then(|| {
        format!("no thresholds keep {PER_HOUR} false accepts an hour: {per_hour:.0} are expected at the highest")
    });
    (thresholds, note)
}

fn too_short(hours: f64) -> Option<String> {
    (hours > 0.0).then(|| {
        format!(
            "{hours:.2} h of running speech are too short to choose thresholds for {PER_HOUR} false accepts an hour by; it takes {LEAST_HOURS:.2} h"
        )
    })
}

/// One threshold for all keywords, by the stream alone: nothing tells what a high one would save, and clips in noise are easier than what people say.
fn unproven(evidence: &Evidence) -> Vec<f32> {
    let thresholds = choose::candidates();
    let lax = thresholds
        .iter()
        .filter(|t| **t <= Calibration::threshold(HIGHEST_UNPROVEN));
    let worth = |at: usize| {
        let sum = |counts: &[usize]| counts.iter().sum::<usize>() as f64;
        sum(&evidence.found[at]) - sum(&evidence.alarms[at])
    };
    let places = 0..lax.count();
    let best = places.clone().map(worth).fold(f64::MIN, f64::max);
    // The best is flat and counted on a few hundred words; where none is good, nothing is detected that need not be.
    let good = |at: &usize| best > 0.0 && worth(*at) >= NEAR_BEST * best;
    let last = places.end - 1;
    let place = places.rev().find(good).unwrap_or(last);
    vec![thresholds[place]; evidence.words.len()]
}
