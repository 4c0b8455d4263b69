//! From per-frame logits to detections: averaging, posteriors, thresholds, one event per spoken word.
//! Logits of any number of frames come in, detections with their frame go out; the frame counter is the only clock. Also the
//! mean over a clip's frames that evaluation uses, so that trainer and runtime agree. No network is run here.

use alloc::{string::String, vec, vec::Vec};
use core::ops::Range;

use crate::labels::{LabelsError, NOT_KEYWORDS, check_labels};
use crate::settings::WINDOW_FRAMES;

/// A peak moves on only if the posterior rises by more than this over it. A posterior near 1 creeps upwards for as long as the word
/// fills the averaging window; waiting for the very last rise would delay the event by tenths of a second.
const LEAST_RISE: f32 = 0.01;
/// Longest averaging of either kind, in frames (10 minutes); more is a mistake, and memory grows with it.
const MAX_FRAMES: usize = 60_000;

/// How posteriors become events.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectorSettings {
    /// Frames over which logits are averaged before the softmax. Default: [`WINDOW_FRAMES`].
    pub window_frames: usize,
    /// Frames over which posteriors are averaged; more means calmer and later. Default: 30 (300 ms): while a word slides into the averaging
    /// window, its first sounds may look like another keyword for 100 to 150 ms, whereas the word itself stays for half a second.
    pub smoothing_frames: usize,
    /// Frames without a new peak after which a candidate becomes an event; a stronger keyword may still take its place until then. Default: 25 (250 ms).
    pub confirm_frames: usize,
    /// Frames after an event in which no new candidate begins. Default: 50 (500 ms).
    pub refractory_frames: usize,
    /// Posterior from 0 to 1 that a keyword must reach, one per label; those of the last two labels are not used. No default.
    pub thresholds: Vec<f32>,
}

impl DetectorSettings {
    /// The defaults with the given thresholds, one per label.
    pub fn new(thresholds: Vec<f32>) -> Self {
        Self {
            window_frames: WINDOW_FRAMES,
            smoothing_frames: 30,
            confirm_frames: 25,
            refractory_frames: 50,
            thresholds,
        }
    }
}

/// Why a detector was not made, or a mean not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DetectorError {
    /// The label list breaks a rule.
    #[error(transparent)]
    Labels(#[from] LabelsError),
    /// Not one threshold per label.
    #[error(
        "thresholds: expected one for each of {labels} labels, found {found}; take them from the same manifest or delta as the labels"
    )]
    Thresholds {
        /// Number of labels.
        labels: usize,
        /// Number of thresholds.
        found: usize,
    },
    /// A threshold that is no posterior.
    #[error("threshold of {label:?}: expected a posterior from 0 to 1, found {found}")]
    Threshold {
        /// The keyword.
        label: String,
        /// The threshold.
        found: f32,
    },
    /// A number of frames out of its range.
    #[error("{setting}: expected {least} to {most} frames, found {found}")]
    Frames {
        /// Name of the setting.
        setting: &'static str,
        /// Fewest frames allowed.
        least: usize,
        /// Most frames allowed.
        most: usize,
        /// Frames given.
        found: usize,
    },
    /// The logits do not hold the frames asked for.
    #[error(
        "mean logits: expected frames {start}..{end} of {classes} logits, found {logits} logits in all; check the clip's length"
    )]
    ClipTooShort {
        /// First frame asked for.
        start: usize,
        /// First frame after those asked for.
        end: usize,
        /// Logits per frame.
        classes: usize,
        /// Logits given.
        logits: usize,
    },
}

/// A spoken keyword.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Index of the keyword in the label list.
    pub label: usize,
    /// Smoothed posterior at the event's peak, from 0 to 1.
    pub score: f32,
    /// Frame of that peak, counted from 0 at the start or the last reset; the frame begins at sample `frame * HOP_SAMPLES`.
    /// The peak comes after the word, since the averages look back.
    pub frame: u64,
}

/// Finds keywords in a stream of per-frame logits.
///
/// Each frame goes through these steps: mean of the logits over `window_frames` (at the start, over the frames there are);
/// softmax; mean of the posteriors over `smoothing_frames`; the strongest keyword among those at or above their thresholds becomes the
/// candidate, and takes the place of a weaker one; when its posterior has not risen for `confirm_frames`, it is an event. Then no candidate
/// begins for `refractory_frames`, and the same keyword not before its posterior has been below its threshold.
/// Nothing is detected in the first `window_frames` frames, while the mean rests on less than a window.
#[derive(Clone, Debug)]
pub struct Detector {
    settings: DetectorSettings,
    logits: SlidingMean,
    smoothed: SlidingMean,
    /// Softmax of the mean logits of the present frame.
    softmax: Vec<f32>,
    /// Mean of the last posteriors.
    posteriors: Vec<f32>,
    /// Whether a keyword's posterior was below its threshold since its last event.
    armed: Vec<bool>,
    candidate: Option<Detection>,
    /// Frames heard so far.
    frames: u64,
    /// First frame after the refractory time.
    free_from: u64,
}

impl Detector {
    /// A detector for logits in the order of `labels`, of which the last two are `_unknown_` and `_silence_`.
    ///
    /// # Errors
    /// For a label list, thresholds or numbers of frames that break their rule: see [`DetectorError`].
    pub fn new(labels: &[String], settings: DetectorSettings) -> Result<Self, DetectorError> {
        check_labels(labels)?;
        let classes = labels.len();
        if settings.thresholds.len() != classes {
            return Err(DetectorError::Thresholds {
                labels: classes,
                found: settings.thresholds.len(),
            });
        }
        for (label, &found) in labels.iter().zip(&settings.thresholds) {
            if !(0.0..=1.0).contains(&found) {
                let label = label.clone();
                return Err(DetectorError::Threshold { label, found });
            }
        }
        for (setting, found, least) in [
            ("window_frames", settings.window_frames, 1),
            ("smoothing_frames", settings.smoothing_frames, 1),
            ("confirm_frames", settings.confirm_frames, 0),
            ("refractory_frames", settings.refractory_frames, 0),
        ] {
            if !(least..=MAX_FRAMES).contains(&found) {
                return Err(DetectorError::Frames {
                    setting,
                    least,
                    most: MAX_FRAMES,
                    found,
                });
            }
        }
        let mut detector = Self {
            logits: SlidingMean::new(classes, settings.window_frames),
            smoothed: SlidingMean::new(classes, settings.smoothing_frames),
            softmax: vec![0.0; classes],
            posteriors: vec![0.0; classes],
            armed: vec![true; classes],
            candidate: None,
            frames: 0,
            free_from: 0,
            settings,
        };
        detector.reset();
        Ok(detector)
    }

    /// Hears the logits of any number of frames, `[n, C]` flattened; gives the events that they complete, mostly none.
    ///
    /// The events do not depend on how the frames are divided among calls.
    ///
    /// # Panics
    /// If the length is no multiple of the number of labels.
    pub fn push(&mut self, logits: &[f32]) -> Vec<Detection> {
        let classes = self.posteriors.len();
        assert_eq!(logits.len() % classes, 0, "logits of whole frames");
        logits
            .chunks_exact(classes)
            .filter_map(|frame| self.push_frame(frame))
            .collect()
    }

    /// The stream has ended: gives the event that was waiting for its confirmation, if any.
    pub fn finish(&mut self) -> Option<Detection> {
        let candidate = self.candidate.take()?;
        Some(self.fire(candidate))
    }

    /// Forgets everything heard; the next frame is frame 0.
    pub fn reset(&mut self) {
        self.logits.clear();
        self.smoothed.clear();
        self.posteriors.fill(0.0);
        self.armed.fill(true);
        self.candidate = None;
        self.frames = 0;
        self.free_from = self.settings.window_frames as u64;
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &DetectorSettings {
        &self.settings
    }

    /// Smoothed posteriors of the last frame, `[C]` in the order of the labels; zeros before the first frame.
    pub fn posteriors(&self) -> &[f32] {
        &self.posteriors
    }

    /// Number of frames heard since the start or the last reset.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    fn push_frame(&mut self, logits: &[f32]) -> Option<Detection> {
        self.logits.push(logits);
        self.logits.mean(&mut self.softmax);
        softmax(&mut self.softmax);
        self.smoothed.push(&self.softmax);
        self.smoothed.mean(&mut self.posteriors);
        let frame = self.frames;
        self.frames += 1;

        let keywords = self.posteriors.len() - NOT_KEYWORDS;
        let mut best: Option<Detection> = None;
        for label in 0..keywords {
            let score = self.posteriors[label];
            // A posterior that is not a number is below every threshold.
            let reached = score >= self.settings.thresholds[label];
            self.armed[label] |= !reached;
            if reached && best.is_none_or(|best| score > best.score) {
                best = Some(Detection {
                    label,
                    score,
                    frame,
                });
            }
        }
        // The strongest keyword decides even where it is not armed: as long as it sounds, a weaker one is no word of its own.
        let best = best.filter(|best| self.armed[best.label]);

        match (&mut self.candidate, best) {
            (None, Some(best)) if frame >= self.free_from => self.candidate = Some(best),
            (Some(peak), Some(best)) => {
                let same = best.label == peak.label;
                if best.score > peak.score + if same { LEAST_RISE } else { 0.0 } {
                    *peak = best;
                }
            }
            _ => {}
        }
        let confirmed = self
            .candidate
            .filter(|candidate| frame - candidate.frame >= self.settings.confirm_frames as u64)?;
        Some(self.fire(confirmed))
    }

    fn fire(&mut self, detection: Detection) -> Detection {
        self.candidate = None;
        self.armed[detection.label] = false;
        self.free_from = self.frames + self.settings.refractory_frames as u64;
        detection
    }
}

/// Mean of the logits of one clip: of the frames `frames` of `logits`, `[T, classes]` flattened; `[classes]` comes out.
///
/// The clip protocol takes the frames [`CONTEXT_FRAMES`](crate::CONTEXT_FRAMES)`..CONTEXT_FRAMES + `[`WINDOW_FRAMES`]; the largest mean is the answer.
///
/// # Errors
/// [`DetectorError::ClipTooShort`] if `frames` is empty or not within the logits.
pub fn mean_logits(
    logits: &[f32],
    classes: usize,
    frames: Range<usize>,
) -> Result<Vec<f32>, DetectorError> {
    let too_short = DetectorError::ClipTooShort {
        start: frames.start,
        end: frames.end,
        classes,
        logits: logits.len(),
    };
    let asked = frames
        .start
        .checked_mul(classes)
        .zip(frames.end.checked_mul(classes))
        .and_then(|(start, end)| logits.get(start..end))
        .filter(|asked| !asked.is_empty())
        .ok_or(too_short)?;
    let mut sums = vec![0.0f64; classes];
    for frame in asked.chunks_exact(classes) {
        add(&mut sums, frame);
    }
    Ok(sums
        .iter()
        .map(|sum| (sum / frames.len() as f64) as f32)
        .collect())
}

/// Mean of the last rows pushed, per column.
///
/// The sums are kept in f64 and taken afresh from the rows each time the ring is full once more: adding and subtracting alone would let
/// rounding errors, or one value that is not finite, stay for as long as a device runs.
#[derive(Clone, Debug)]
struct SlidingMean {
    /// Ring of rows, `[capacity, columns]`.
    rows: Vec<f32>,
    sums: Vec<f64>,
    capacity: usize,
    /// Row that the next push overwrites.
    next: usize,
    filled: usize,
}

impl SlidingMean {
    fn new(columns: usize, capacity: usize) -> Self {
        Self {
            rows: vec![0.0; columns * capacity],
            sums: vec![0.0; columns],
            capacity,
            next: 0,
            filled: 0,
        }
    }

    fn clear(&mut self) {
        self.rows.fill(0.0);
        self.sums.fill(0.0);
        self.next = 0;
        self.filled = 0;
    }

    fn push(&mut self, row: &[f32]) {
        let columns = self.sums.len();
        let slot = &mut self.rows[self.next * columns..][..columns];
        for ((sum, old), &new) in self.sums.iter_mut().zip(slot.iter_mut()).zip(row) {
            *sum += f64::from(new) - f64::from(*old);
            *old = new;
        }
        self.filled = self.capacity.min(self.filled + 1);
        self.next += 1;
        if self.next == self.capacity {
            self.next = 0;
            self.sums.fill(0.0);
            for row in self.rows.chunks_exact(columns) {
                add(&mut self.sums, row);
            }
        }
    }

    fn mean(&self, means: &mut [f32]) {
        for (mean, sum) in means.iter_mut().zip(&self.sums) {
            *mean = (sum / self.filled as f64) as f32;
        }
    }
}

fn add(sums: &mut [f64], row: &[f32]) {
    for (sum, &value) in sums.iter_mut().zip(row) {
        *sum += f64::from(value);
    }
}

/// Logits to posteriors in place, with `expf` from libm so that every machine gets the same bits.
fn softmax(values: &mut [f32]) {
    let largest = values.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
    let mut sum = 0.0;
    for value in values.iter_mut() {
        *value = libm::expf(*value - largest);
        sum += *value;
    }
    for value in values.iter_mut() {
        *value /= sum;
    }
}
