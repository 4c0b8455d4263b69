//! Detection thresholds: one for all keywords, chosen on a seeded stream of development clips in noise whenever a language is trained; or one a
//! keyword, chosen for a wanted rate of false accepts on audio without keywords (`swr-train calibrate`).
//!
//! The stream never holds a TEST clip nor the noise that TEST streams are made of.

pub(crate) mod command;

use std::sync::Arc;

use anyhow::Result;
use swr_core::detector::{DetectorSettings, Posteriors, Timing, Trigger};
use swr_core::labels::NOT_KEYWORDS;
use swr_core::matching::{Detected, match_detections};
use swr_core::network::{self as fused, Network};
use swr_core::package::Calibration;
use swr_core::spotter::detect_in_recording;
use swr_core::{CONTEXT_FRAMES, SAMPLE_RATE_HZ};
use swr_dataset::{Background, Split, Stream, StreamOptions, Task, decode_file, stream};

use crate::network::Weights;
use crate::weights::to_package;

/// Minutes of the stream.
const MINUTES: f64 = 20.0;
/// Quiet rooms and noisy ones: the power of speech over that of noise.
const SNR_DB: (f32, f32) = (10.0, 40.0);
/// A word may be detected until this long after its end.
const TOLERANCE_SAMPLES: usize = SAMPLE_RATE_HZ as usize;
/// Frames of a step.
const STEP_FRAMES: usize = 10;
/// A threshold is as good as the best if its hits less false alarms come this close.
const NEAR_BEST: f64 = 0.95;
/// False accepts an hour of running speech that a threshold may give, all keywords together.
const PER_HOUR: f64 = 5.0;
/// Candidates in hundredths: below, a keyword need hardly be the likeliest label.
const CANDIDATES: std::ops::RangeInclusive<u32> = 40..=99;
/// The highest of them without running speech to choose by, likewise.
const HIGHEST_UNPROVEN: u32 = 90;

/// What a threshold does on development recordings.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Calibrated {
    /// The posterior that a keyword must reach.
    pub threshold: f32,
    /// Words of the stream.
    pub words: usize,
    /// Words detected.
    pub hits: usize,
    /// Detections of anything else.
    pub false_alarms: usize,
    /// Hours of running speech without keywords.
    pub running_hours: f64,
    /// Detections in it.
    pub false_accepts: usize,
}

/// A seeded stream of development clips in noise; `None` if there are no development keywords.
fn development_stream(task: &Task, seed: u64) -> Result<Option<Stream>> {
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

/// What a device reports of a recording under each of several choices of thresholds; all else is as in the settings.
fn hear(
    network: &Network,
    (labels, settings): (&[String], &DetectorSettings),
    context_frames: usize,
    samples: &[f32],
    choices: &[Vec<f32>],
) -> Result<Vec<Vec<Detected>>> {
    let mut network = fused::Stream::new(network, STEP_FRAMES);
    let mut posteriors = Posteriors::new(labels, settings)?;
    let trigger = |thresholds: &Vec<f32>| {
        let settings = DetectorSettings {
            thresholds: thresholds.clone(),
            ..settings.clone()
        };
        Ok(Trigger::new(labels, &settings)?)
    };
    let mut triggers: Vec<Trigger> = choices.iter().map(trigger).collect::<Result<_>>()?;
    let heard = detect_in_recording(
        &mut network,
        context_frames,
        samples,
        &mut posteriors,
        &mut triggers,
    )?;
    let detected = |found: Vec<_>| found.into_iter().map(Detected::from).collect();
    Ok(heard.into_iter().map(detected).collect())
}

/// The lowest threshold that gives at most five false accepts an hour in the running speech of DEV, or the highest there is. Where there is no running
/// speech: the highest that is about as good as the one with the most hits less false alarms in the stream, since of two equally good devices the quieter one
/// annoys less. `None` if there are no development keywords.
///
/// # Errors
/// For recordings that cannot be read.
pub fn calibrate(
    weights: &Weights,
    (window_frames, timing): (usize, Timing),
    task: &Task,
    seed: u64,
) -> Result<Option<Calibrated>> {
    let Some(stream) = development_stream(task, seed)? else {
        return Ok(None);
    };
    let network = Network::new(&to_package(weights)?)?;
    let thresholds: Vec<f32> = CANDIDATES.map(Calibration::threshold).collect();
    let choices: Vec<Vec<f32>> = thresholds
        .iter()
        .map(|threshold| vec![*threshold; task.labels.len()])
        .collect();
    let settings = DetectorSettings {
        window_frames,
        timing,
        ..DetectorSettings::new(Vec::new())
    };
    let detector = (&task.labels[..], &settings);
    let hear = |samples: &[f32]| hear(&network, detector, CONTEXT_FRAMES, samples, &choices);
    let heard = hear(&stream.samples)?;
    let (mut accepts, mut samples) = (vec![0; choices.len()], 0);
    for file in task.negatives_of(Split::Dev) {
        let recording = decode_file(&file)?;
        samples += recording.len();
        for (accepts, found) in accepts.iter_mut().zip(hear(&recording)?) {
            *accepts += found.len();
        }
    }
    let running_hours = samples as f64 / f64::from(SAMPLE_RATE_HZ) / 3_600.0;
    let calibrated = |((threshold, heard), accepts): ((&f32, &Vec<Detected>), &usize)| {
        let matched = match_detections(&stream.events, heard, TOLERANCE_SAMPLES);
        Calibrated {
            threshold: *threshold,
            words: stream.events.len(),
            hits: matched.hits.len(),
            false_alarms: matched.false_alarms.len(),
            running_hours,
            false_accepts: *accepts,
        }
    };
    let all = thresholds.iter().zip(&heard).zip(&accepts);
    let all: Vec<Calibrated> = all.map(calibrated).collect();
    if samples > 0 {
        let quiet = |c: &&Calibrated| c.false_accepts as f64 <= PER_HOUR * running_hours;
        return Ok(all.iter().find(quiet).or(all.last()).copied());
    }
    // Nothing tells what the highest of them would save, and clips in noise are easier than what people say.
    let lax = |c: &&Calibrated| c.threshold <= Calibration::threshold(HIGHEST_UNPROVEN);
    let all: Vec<Calibrated> = all.iter().filter(lax).copied().collect();
    let worth = |c: &Calibrated| c.hits as f64 - c.false_alarms as f64;
    let best = all.iter().map(worth).fold(f64::MIN, f64::max);
    // The best is flat and counted on a few hundred words; where none is good, nothing is detected that need not be.
    let good = |c: &&Calibrated| best > 0.0 && worth(c) >= NEAR_BEST * best;
    Ok(all.iter().rev().find(good).or(all.last()).copied())
}
