//! A device that has started listens to a recording: front end, the network it loaded from its flash, detector; the same parts that a device runs.

use anyhow::Result;
use sha2::{Digest as _, Sha256};
use swr_core::detector::{Detection, Detector, DetectorSettings};
use swr_core::frontend::Frontend;
use swr_core::package::Digest;
use swr_core::{FrontendSettings, HOP_SAMPLES, MEL_BINS, SAMPLE_RATE_HZ};
use swr_update::Model;

/// Samples that arrive together, and frames of a step: 40 ms.
const CHUNK_SAMPLES: usize = 640;
const STEP_FRAMES: usize = 4;

/// What a device heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// Keyword, frame of its peak, and score.
    pub detections: Vec<(String, u64, f32)>,
    /// SHA-256 over the bits of every logit.
    pub logits_sha256: Digest,
}

/// Lets a device listen to samples at 16 kHz.
///
/// # Errors
/// If the model's labels or thresholds are none that a detector takes.
pub fn listen(model: &Model, samples: &[f32]) -> Result<Heard> {
    let mut hash = Sha256::new();
    let detections = hear(model, samples, |logits| {
        for logit in logits {
            hash.update(logit.to_bits().to_le_bytes());
        }
    })?;
    Ok(Heard {
        detections,
        logits_sha256: Digest(hash.finalize().into()),
    })
}

/// The keywords in samples at 16 kHz, each with the frame of its peak and its score; `see` is shown all logits.
///
/// # Errors
/// Those of [`listen`].
pub fn hear(
    model: &Model,
    samples: &[f32],
    mut see: impl FnMut(&[f32]),
) -> Result<Vec<(String, u64, f32)>> {
    let mut frontend = Frontend::new(&FrontendSettings::default())?;
    let settings = DetectorSettings {
        window_frames: model.window_frames,
        ..DetectorSettings::new(model.thresholds.clone())
    };
    let mut detector = Detector::new(&model.labels, settings)?;
    let mut state = model.network.state();
    let (mut frames, mut logits) = (Vec::new(), Vec::new());
    let mut detections = Vec::new();
    let named = |detection: &Detection| {
        let label = model.labels[detection.label].clone();
        (label, detection.frame, detection.score)
    };
    // As `swr` does it: a context of silence, whose logits nobody sees, and a second of silence at the end.
    let before = vec![0.0; model.context_frames * HOP_SAMPLES];
    let after = vec![0.0; SAMPLE_RATE_HZ as usize];
    let mut context = model.context_frames * model.labels.len();
    let chunks = samples.chunks(CHUNK_SAMPLES);
    for chunk in [before.as_slice()]
        .into_iter()
        .chain(chunks)
        .chain([after.as_slice()])
    {
        frontend.push(chunk, &mut frames)?;
        let whole = frames.len() / (STEP_FRAMES * MEL_BINS) * STEP_FRAMES * MEL_BINS;
        logits.clear();
        model
            .network
            .step(&mut state, &frames[..whole], &mut logits)?;
        frames.drain(..whole);
        see(&logits);
        let unseen = context.min(logits.len());
        context -= unseen;
        detections.extend(detector.push(&logits[unseen..]).iter().map(named));
    }
    detections.extend(detector.finish().as_ref().map(named));
    Ok(detections)
}
