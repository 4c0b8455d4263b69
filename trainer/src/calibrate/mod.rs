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
use swr_core::spotter::detect_in_recording;
use swr_core::{CONTEXT_FRAMES, SAMPLE_RATE_HZ};
use swr_dataset::{Background, Split, Stream, StreamOptions, Task, stream};

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
/// Candidates in steps of 0.05, from 0.40 to 0.95: below, a keyword need hardly be the likeliest label.
const STEPS: std::ops::RangeInclusive<u32> = 8..=19;

/// What a threshold does on the calibration stream.
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

/// The highest threshold that is about as good as the one with the most hits less false alarms: of two equally good devices the
/// quieter one annoys less. `None` if there are no development keywords.
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
    let thresholds: Vec<f32> = STEPS.map(|step| step as f32 * 0.05).collect();
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
    let heard = hear(
        &network,
        detector,
        CONTEXT_FRAMES,
        &stream.samples,
        &choices,
    )?;
    let calibrated = |(threshold, heard): (&f32, &Vec<Detected>)| {
        let matched = match_detections(&stream.events, heard, TOLERANCE_SAMPLES);
        Calibrated {
            threshold: *threshold,
            words: stream.events.len(),
            hits: matched.hits.len(),
            false_alarms: matched.false_alarms.len(),
        }
    };
    let all: Vec<Calibrated> = thresholds.iter().zip(&heard).map(calibrated).collect();
    let worth = |c: &Calibrated| c.hits as f64 - c.false_alarms as f64;
    let best = all.iter().map(worth).fold(f64::MIN, f64::max);
    // The best is flat and counted on a few hundred words; where none is good, nothing is detected that need not be.
    let good = |c: &&Calibrated| best > 0.0 && worth(c) >= NEAR_BEST * best;
    Ok(all.iter().rev().find(good).or(all.last()).copied())
}
