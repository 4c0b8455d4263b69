//! A device that has started listens to a recording: front end, the network it loaded from its flash, detector; the same parts that a device runs.

use anyhow::Result;
use sha2::{Digest as _, Sha256};
use swr_core::detector::{Detection, Detector};
use swr_core::frontend::Frontend;
use swr_core::model::Language;
use swr_core::network::Stream;
use swr_core::package::Digest;
use swr_core::spotter::hear_recording;
use swr_update::Model;

/// Frames of a step: 40 ms.
const STEP_FRAMES: usize = 4;

/// What a device heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// Keyword, frame of its peak, and score.
    pub detections: Vec<(String, u64, f32)>,
    /// SHA-256 over the bits of every logit of the recording and of the second of silence after it.
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

/// The keywords in samples at 16 kHz, each with the frame of its peak and its score; `see` is shown the logits that count.
///
/// # Errors
/// Those of [`listen`].
pub fn hear(
    model: &Model,
    samples: &[f32],
    mut see: impl FnMut(&[f32]),
) -> Result<Vec<(String, u64, f32)>> {
    let Language {
        labels,
        detector,
        frontend,
        context_frames,
        ..
    } = &model.language;
    let mut detector = Detector::new(labels, detector.clone())?;
    let mut detections = Vec::new();
    let mut network = Stream::new(&model.network, STEP_FRAMES);
    let mut frontend = Frontend::new(frontend)?;
    let heard_by = (&mut frontend, *context_frames);
    hear_recording(&mut network, heard_by, samples, |logits| {
        see(logits);
        detections.extend(detector.push(logits));
    })?;
    detections.extend(detector.finish());
    let named = |detection: Detection| {
        let label = labels[detection.label].clone();
        (label, detection.frame, detection.score)
    };
    Ok(detections.into_iter().map(named).collect())
}
