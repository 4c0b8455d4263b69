//! One language listening: samples in chunks of any size come in, an event for every spoken keyword leaves.
//! Front end, engine and detector in a row, with the buffers between them; it reads no files and no clock.

use swr_core::detector::{Detection, Detector, DetectorSettings};
use swr_core::frontend::Frontend;
use swr_core::{FrontendSettings, HOP_SAMPLES, SAMPLE_RATE_HZ};

use crate::engine::Engine;
use crate::error::{ModelsError, SpotError};
use crate::models::{Model, Models};

/// Samples of silence that [`Spotter::finish`] lets follow: time for the last word to pass through averaging and confirmation.
const TAIL_SAMPLES: usize = SAMPLE_RATE_HZ as usize;

/// A keyword that was spoken.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Event {
    /// Seconds since the start of the audio at which the keyword's posterior was highest, which is at or soon after the word's end.
    pub time_s: f64,
    /// BCP-47 code.
    pub language: String,
    /// The keyword, as in the labels.
    pub keyword: String,
    /// Its smoothed posterior at the peak, 0 to 1.
    pub score: f32,
}

/// Spots the keywords of one language in a stream of 16 kHz mono samples.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use swr_runtime::{DEFAULT_STEP_FRAMES, Models, Spotter};
///
/// let models = Models::open("models")?;
/// let mut spotter = Spotter::new(&models, "de", DEFAULT_STEP_FRAMES)?;
/// let mut events = Vec::new();
/// spotter.push(&[0.0; 16_000], &mut events)?;
/// spotter.finish(&mut events)?;
/// assert!(events.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Spotter {
    language: String,
    labels: Vec<String>,
    frontend: Frontend,
    engine: Engine,
    detector: Detector,
    /// Frames that do not fill a step yet, `[n, mel bins]`.
    frames: Vec<f32>,
    /// Logits of the steps just run, `[n, classes]`.
    logits: Vec<f32>,
    /// Frames of context at the start of a stream.
    context_frames: usize,
    /// Of these, the ones whose logits are still to come, and to be dropped.
    context_left: usize,
}

impl Spotter {
    /// Loads `language` from `models`, for network steps of `step_frames` frames.
    ///
    /// # Errors
    /// [`ModelsError`] when the language is not there or cannot be merged or built.
    pub fn new(
        models: &Models,
        language: &str,
        step_frames: usize,
    ) -> Result<Spotter, ModelsError> {
        let model = models.load(language)?;
        let settings = DetectorSettings {
            window_frames: model.window_frames,
            ..DetectorSettings::new(model.thresholds.clone())
        };
        Spotter::with_settings(model, settings, step_frames)
    }

    /// As [`Spotter::new`], with detector settings of the caller's.
    ///
    /// # Errors
    /// [`ModelsError`] when the network cannot be built or the settings do not fit it.
    pub fn with_settings(
        model: Model,
        settings: DetectorSettings,
        step_frames: usize,
    ) -> Result<Spotter, ModelsError> {
        let engine = model.engine(step_frames)?;
        let frontend = Frontend::new(&FrontendSettings::default()).map_err(|source| {
            ModelsError::Frontend {
                path: model.path.clone(),
                source,
            }
        })?;
        let detector =
            Detector::new(&model.labels, settings).map_err(|source| ModelsError::Detector {
                path: model.path.clone(),
                source: Box::new(source),
            })?;
        let mut spotter = Spotter {
            context_frames: model.context_frames,
            context_left: 0,
            language: model.language,
            labels: model.labels,
            frontend,
            engine,
            detector,
            frames: Vec::new(),
            logits: Vec::new(),
        };
        spotter.reset();
        Ok(spotter)
    }

    /// The language's BCP-47 code.
    pub fn language(&self) -> &str {
        &self.language
    }

    /// Labels in the order of the logits; the last two are `_unknown_` and `_silence_`.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Takes the next `samples` (16 kHz, mono, full scale ±1; any number of them) and appends the keywords they complete to `events`.
    /// The events do not depend on how the stream is cut into calls.
    ///
    /// # Errors
    /// [`SpotError::Frontend`] for a sample that is not finite: none of `samples` was taken. [`SpotError::Engine`] when the network fails.
    pub fn push(&mut self, samples: &[f32], events: &mut Vec<Event>) -> Result<(), SpotError> {
        self.frontend.push(samples, &mut self.frames)?;
        let step_values = self.engine.step_frames() * self.engine.mel_bins();
        let whole = self.frames.len() - self.frames.len() % step_values;
        self.logits.clear();
        for step in self.frames[..whole].chunks_exact(step_values) {
            self.engine.step(step, &mut self.logits)?;
        }
        self.frames.drain(..whole);
        let classes = self.engine.classes();
        let context = self.context_left.min(self.logits.len() / classes);
        self.context_left -= context;
        for detection in self.detector.push(&self.logits[context * classes..]) {
            events.push(self.event(&detection));
        }
        Ok(())
    }

    /// Ends the stream, as if a second of silence followed, so that a word at its end is still reported; then as [`Spotter::reset`].
    ///
    /// # Errors
    /// As [`Spotter::push`].
    pub fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), SpotError> {
        let result = self.push(&[0.0; TAIL_SAMPLES], events);
        if let Some(detection) = self.detector.finish() {
            events.push(self.event(&detection));
        }
        self.reset();
        result
    }

    /// Forgets everything heard: the next sample is the first of a new stream.
    ///
    /// As in training and evaluation, the network hears a context of silence before it, whose logits nobody sees: on its first frames
    /// from a zero state it was never trained.
    pub fn reset(&mut self) {
        self.frontend.reset();
        self.engine.reset();
        self.detector.reset();
        self.frames.clear();
        self.frontend
            .push(
                &vec![0.0; self.context_frames * HOP_SAMPLES],
                &mut self.frames,
            )
            .expect("silence is finite");
        self.context_left = self.context_frames;
    }

    fn event(&self, detection: &Detection) -> Event {
        Event {
            time_s: (detection.frame * HOP_SAMPLES as u64) as f64 / f64::from(SAMPLE_RATE_HZ),
            language: self.language.clone(),
            keyword: self.labels[detection.label].clone(),
            score: detection.score,
        }
    }
}
