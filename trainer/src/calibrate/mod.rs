//! Detection thresholds: one for all keywords, chosen on a seeded stream of development clips in noise whenever a language is trained; or one a
//! keyword, chosen for a wanted rate of false accepts on audio without keywords (`swr-train calibrate`).
//!
//! The stream never holds a TEST clip nor the noise that TEST streams are made of.

pub(crate) mod command;

use std::sync::Arc;

use anyhow::Result;
use candle_core::{Device, Tensor};
use swr_core::detector::{Detection, Detector, DetectorSettings};
use swr_core::frontend::log_mel;
use swr_core::{HOP_SAMPLES, SAMPLE_RATE_HZ};
use swr_dataset::{Background, Detected, Stream, StreamOptions, Task, match_detections, stream};

use crate::architecture::{Architecture, CONTEXT_FRAMES, MEL_BINS};
use crate::augment::CONTEXT_SAMPLES;
use crate::network::{Pass, Weights, frame_logits};

/// Minutes of the stream.
const MINUTES: f64 = 20.0;
/// Quiet rooms and noisy ones: the power of speech over that of noise.
const SNR_DB: (f32, f32) = (10.0, 40.0);
/// A word may be detected until this long after its end.
const TOLERANCE_SAMPLES: usize = SAMPLE_RATE_HZ as usize;
/// Frames computed at once, and frames before them that the network must have seen (its receptive field is 117).
const CHUNK_FRAMES: usize = 3_000;
const LEAD_FRAMES: usize = 128;
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

/// A seeded stream of development clips in noise, and the network's logits on it; `None` if there are no development keywords.
fn development_stream(
    architecture: &Architecture,
    weights: &Weights,
    task: &Task,
    seed: u64,
) -> Result<Option<(Stream, Vec<f32>)>> {
    let keywords = task.labels.len() - 2;
    if !task.dev.iter().any(|clip| clip.label < keywords) {
        return Ok(None);
    }
    // The stream takes the last fifth of what it is given: here of the part that training and development may hear.
    let development = |b: &Arc<Background>| {
        Arc::new(Background {
            path: b.path.clone(),
            samples: b.train_part().to_vec(),
        })
    };
    let task = Task {
        background: task.background.iter().map(development).collect(),
        ..task.clone()
    };
    let options = StreamOptions {
        minutes: MINUTES,
        snr_db: SNR_DB,
        seed,
        ..StreamOptions::default()
    };
    let stream = stream(&task, &task.dev, &options)?;
    let logits = recording_logits(architecture, weights, &stream.samples, task.labels.len())?;
    Ok(Some((stream, logits)))
}

/// Logits of a recording as a device computes them: after a context of silence, whose logits are dropped.
fn recording_logits(
    architecture: &Architecture,
    weights: &Weights,
    samples: &[f32],
    classes: usize,
) -> Result<Vec<f32>> {
    let samples = [&vec![0.0; CONTEXT_SAMPLES], samples].concat();
    let mut logits = stream_logits(architecture, weights, &log_mel(&samples)?)?;
    logits.drain(..CONTEXT_FRAMES * classes);
    Ok(logits)
}

/// What a detector with these thresholds reports of a recording's logits.
fn detect(labels: &[String], thresholds: Vec<f32>, logits: &[f32]) -> Result<Vec<Detected>> {
    let mut detector = Detector::new(labels, DetectorSettings::new(thresholds))?;
    let mut detections = detector.push(logits);
    detections.extend(detector.finish());
    let detected = |detection: Detection| Detected {
        label: detection.label,
        at_samples: detection.frame as usize * HOP_SAMPLES,
    };
    Ok(detections.into_iter().map(detected).collect())
}

/// The highest threshold that is about as good as the one with the most hits less false alarms: of two equally good devices the
/// quieter one annoys less. `None` if there are no development keywords.
pub fn calibrate(
    architecture: &Architecture,
    weights: &Weights,
    task: &Task,
    seed: u64,
) -> Result<Option<Calibrated>> {
    let Some((stream, logits)) = development_stream(architecture, weights, task, seed)? else {
        return Ok(None);
    };
    let mut all: Vec<Calibrated> = Vec::new();
    for step in STEPS {
        let threshold = step as f32 * 0.05;
        let detected = detect(&task.labels, vec![threshold; task.labels.len()], &logits)?;
        let matched = match_detections(&stream.events, &detected, TOLERANCE_SAMPLES);
        all.push(Calibrated {
            threshold,
            words: stream.events.len(),
            hits: matched.hits.len(),
            false_alarms: matched.false_alarms.len(),
        });
    }
    let worth = |c: &Calibrated| c.hits as f64 - c.false_alarms as f64;
    let best = all.iter().map(worth).fold(f64::MIN, f64::max);
    // The best is flat and counted on a few hundred words; where none is good, nothing is detected that need not be.
    let good = |c: &&Calibrated| best > 0.0 && worth(c) >= NEAR_BEST * best;
    Ok(all.iter().rev().find(good).or(all.last()).copied())
}

/// Logits `[T, C]` of a long recording's frames `[T, 40]`, both flattened, in pieces that fit into memory.
pub fn stream_logits(
    architecture: &Architecture,
    weights: &Weights,
    frames: &[f32],
) -> Result<Vec<f32>> {
    let total = frames.len() / MEL_BINS;
    let mut logits = Vec::new();
    for start in (0..total).step_by(CHUNK_FRAMES) {
        let from = start.saturating_sub(LEAD_FRAMES);
        let count = (start + CHUNK_FRAMES).min(total) - from;
        let chunk = Tensor::from_slice(
            &frames[from * MEL_BINS..(from + count) * MEL_BINS],
            (count, MEL_BINS),
            &Device::Cpu,
        )?;
        let chunk = chunk.t()?.reshape((1, 1, MEL_BINS, count))?.contiguous()?;
        let out = frame_logits(architecture, weights, &chunk, &Pass::evaluation())?
            .squeeze(0)?
            .t()?;
        logits.extend(
            out.narrow(0, start - from, count - (start - from))?
                .flatten_all()?
                .to_vec1::<f32>()?,
        );
    }
    Ok(logits)
}
