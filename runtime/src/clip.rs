//! Single one-second clips by the evaluation protocol: samples come in, logits leave.
//! The protocol is the same for every method and language, so that accuracies can be compared.

use swr_core::frontend::{Frontend, frame_count};
use swr_core::{HOP_SAMPLES, SAMPLE_RATE_HZ};

use crate::engine::Engine;
use crate::error::{ModelsError, SpotError};
use crate::models::Model;

/// Samples of a clip: one second.
pub const CLIP_SAMPLES: usize = SAMPLE_RATE_HZ as usize;

/// Runs clips one by one, each from a zero state.
///
/// The network hears `context_frames` frames' worth of zero samples (46 frames, 7,360 samples), then the clip;
/// the clip's logits are those of the frames after the context (46..144).
#[derive(Debug)]
pub struct ClipRunner {
    frontend: Frontend,
    /// Takes context and clip in one step.
    engine: Engine,
    context_frames: usize,
    samples: Vec<f32>,
    frames: Vec<f32>,
    logits: Vec<f32>,
}

impl ClipRunner {
    /// Builds the network of `model` for whole clips.
    ///
    /// # Errors
    /// [`ModelsError`] when the network cannot be built.
    pub fn new(model: &Model) -> Result<ClipRunner, ModelsError> {
        let samples = vec![0.0; model.language.context_frames * HOP_SAMPLES + CLIP_SAMPLES];
        let frontend =
            Frontend::new(&model.language.frontend).map_err(|error| ModelsError::Spotter {
                path: model.path.clone(),
                source: Box::new(error.into()),
            })?;
        Ok(ClipRunner {
            frontend,
            engine: model.engine(frame_count(samples.len()))?,
            context_frames: model.language.context_frames,
            samples,
            frames: Vec::new(),
            logits: Vec::new(),
        })
    }

    /// The logits `[frames, classes]` of a clip of [`CLIP_SAMPLES`] samples: 16 kHz, mono, full scale ±1. A shorter clip is followed by zeros,
    /// of a longer one the first second is taken.
    ///
    /// # Errors
    /// [`SpotError`] for samples that are not finite and when the network fails.
    pub fn logits(&mut self, clip: &[f32]) -> Result<&[f32], SpotError> {
        let heard = &mut self.samples[self.context_frames * HOP_SAMPLES..];
        let length = clip.len().min(CLIP_SAMPLES);
        heard[..length].copy_from_slice(&clip[..length]);
        heard[length..].fill(0.0);

        self.frontend.reset();
        self.frames.clear();
        self.frontend.push(&self.samples, &mut self.frames)?;
        self.engine.reset();
        self.logits.clear();
        self.engine
            .step(&self.frames, &mut self.logits)
            .map_err(SpotError::Network)?;
        Ok(&self.logits[self.context_frames * self.engine.classes()..])
    }
}
