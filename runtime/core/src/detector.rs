//! From per-frame logits to detections: averaging, posteriors, thresholds, one event per spoken word.
//! Logits of any number of frames come in, detections with their frame go out; the frame counter is the only clock. Also the
//! mean over a clip's frames that evaluation uses, so that trainer and runtime agree. No network is run here.

use alloc::{string::String, vec, vec::Vec};
use core::ops::Range;

use crate::labels::{LabelsError, NOT_KEYWORDS, check_labels};
pub use crate::settings::Timing;
use crate::settings::WINDOW_FRAMES;
use crate::softmax::softmax;

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
    /// How what is averaged becomes events.
    pub timing: Timing,
    /// Posterior from 0 to 1 that a keyword must reach, one per label; those of the last two labels are not used. No default.
    pub thresholds: Vec<f32>,
}

impl DetectorSettings {
    /// The defaults with the given thresholds, one per label.
    pub fn new(thresholds: Vec<f32>) -> Self {
        Self {
            window_frames: WINDOW_FRAMES,
            timing: Timing::default(),
            thresholds,
        }
    }

    /// Moves the log-odds of all thresholds by `shift`: up, and less is reported, rightly and falsely; down, and more. What differs between keywords stays, where
    /// one threshold for all would be lax for some and strict for others. 0 changes nothing.
    pub fn move_thresholds(&mut self, shift: f32) {
        if shift == 0.0 {
            return;
        }
        let odds = libm::expf(shift);
        for t in &mut self.thresholds {
            *t = (odds * *t / (odds * *t + (1.0 - *t))).clamp(0.0, 1.0);
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
    /// Frame with which the event was given out: [`Timing::confirm_frames`] after the peak, or the last of the stream.
    pub given: u64,
}

/// Finds keywords in a stream of per-frame logits.
///
/// Each frame goes through these steps: mean of the logits over `window_frames` (at the start, over the frames there are);
/// softmax; mean of the posteriors over `smoothing_frames` ([`Posteriors`]); the strongest keyword among those at or above their thresholds becomes the
/// candidate, and takes the place of a weaker one; when its posterior has not risen for `confirm_frames`, it is an event. Then no candidate
/// begins for `refractory_frames`, and the same keyword not before its posterior has been below its threshold ([`Trigger`]).
/// Nothing is detected in the first `window_frames` frames, while the mean rests on less than a window.
#[derive(Clone, Debug)]
pub struct Detector {
    settings: DetectorSettings,
    posteriors: Posteriors,
    trigger: Trigger,
}

impl Detector {
    /// A detector for logits in the order of `labels`, of which the last two are `_unknown_` and `_silence_`.
    ///
    /// # Errors
    /// For a label list, thresholds or numbers of frames that break their rule: see [`DetectorError`].
    pub fn new(labels: &[String], settings: DetectorSettings) -> Result<Self, DetectorError> {
        Ok(Self {
            posteriors: Posteriors::new(labels, &settings)?,
            trigger: Trigger::new(labels, &settings)?,
            settings,
        })
    }

    /// Hears the logits of any number of frames, `[n, C]` flattened; gives the events that they complete, mostly none.
    ///
    /// The events do not depend on how the frames are divided among calls.
    ///
    /// # Panics
    /// If the length is no multiple of the number of labels.
    pub fn push(&mut self, logits: &[f32]) -> Vec<Detection> {
        let classes = self.posteriors.of_frame().len();
        assert_eq!(logits.len() % classes, 0, "logits of whole frames");
        logits
            .chunks_exact(classes)
            .filter_map(|frame| self.trigger.push(self.posteriors.push(frame)))
            .collect()
    }

    /// The stream has ended: gives the event that was waiting for its confirmation, if any.
    pub fn finish(&mut self) -> Option<Detection> {
        self.trigger.finish()
    }

    /// Forgets everything heard; the next frame is frame 0.
    pub fn reset(&mut self) {
        self.posteriors.reset();
        self.trigger.reset();
    }

    /// The settings it was made with.
    pub fn settings(&self) -> &DetectorSettings {
        &self.settings
    }

    /// Smoothed posteriors of the last frame, `[C]` in the order of the labels; zeros before the first frame.
    pub fn posteriors(&self) -> &[f32] {
        self.posteriors.of_frame()
    }

    /// Number of frames heard since the start or the last reset.
    pub fn frames(&self) -> u64 {
        self.trigger.frames
    }
}

/// The first half of a [`Detector`]: logits of a frame in, averaged posteriors out. Several triggers can share it, each with its own thresholds.
#[derive(Clone, Debug)]
pub struct Posteriors {
    logits: SlidingMean,
    /// None where posteriors are not averaged.
    smoothed: Option<SlidingMean>,
    /// Softmax of the mean logits of the present frame.
    softmax: Vec<f32>,
    /// Mean of the last ones.
    averaged: Vec<f32>,
}

impl Posteriors {
    /// For logits in the order of `labels`; thresholds do not matter.
    ///
    /// # Errors
    /// [`DetectorError::Labels`] and [`DetectorError::Frames`].
    pub fn new(labels: &[String], settings: &DetectorSettings) -> Result<Self, DetectorError> {
        check_labels(labels)?;
        let classes = labels.len();
        let smoothing = settings.timing.smoothing_frames;
        check_frames("window_frames", settings.window_frames, 1)?;
        check_frames("smoothing_frames", smoothing, 1)?;
        Ok(Self {
            logits: SlidingMean::new(classes, settings.window_frames),
            smoothed: (smoothing > 1).then(|| SlidingMean::new(classes, smoothing)),
            softmax: vec![0.0; classes],
            averaged: vec![0.0; classes],
        })
    }

    /// Hears the logits of a frame, `[C]`; its averaged posteriors, `[C]`.
    pub fn push(&mut self, logits: &[f32]) -> &[f32] {
        self.logits.push(logits);
        match &mut self.smoothed {
            None => {
                self.logits.mean(&mut self.averaged);
                softmax(&mut self.averaged);
            }
            Some(smoothed) => {
                self.logits.mean(&mut self.softmax);
                softmax(&mut self.softmax);
                smoothed.push(&self.softmax);
                smoothed.mean(&mut self.averaged);
            }
        }
        &self.averaged
    }

    /// Those of the last frame, `[C]`; zeros before the first.
    pub fn of_frame(&self) -> &[f32] {
        &self.averaged
    }

    /// Forgets everything heard.
    pub fn reset(&mut self) {
        self.logits.clear();
        if let Some(smoothed) = &mut self.smoothed {
            smoothed.clear();
        }
        self.averaged.fill(0.0);
    }
}

/// The second half of a [`Detector`]: posteriors of a frame in, events out.
#[derive(Clone, Debug)]
pub struct Trigger {
    timing: Timing,
    thresholds: Vec<f32>,
    /// Frames in which nothing is detected.
    first: u64,
    /// Whether a keyword's posterior was below its threshold since its last event.
    armed: Vec<bool>,
    candidate: Option<Detection>,
    /// Frames heard so far.
    frames: u64,
    /// First frame after the refractory time.
    free_from: u64,
}

impl Trigger {
    /// For posteriors in the order of `labels`.
    ///
    /// # Errors
    /// As [`Detector::new`].
    pub fn new(labels: &[String], settings: &DetectorSettings) -> Result<Self, DetectorError> {
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
        check_frames("confirm_frames", settings.timing.confirm_frames, 0)?;
        check_frames("refractory_frames", settings.timing.refractory_frames, 0)?;
        let first = settings.window_frames as u64;
        Ok(Self {
            timing: settings.timing,
            thresholds: settings.thresholds.clone(),
            first,
            armed: vec![true; classes],
            candidate: None,
            frames: 0,
            free_from: first,
        })
    }

    /// Hears the posteriors of a frame, `[C]`; the event that they complete, mostly none.
    pub fn push(&mut self, posteriors: &[f32]) -> Option<Detection> {
        let frame = self.frames;
        self.frames += 1;

        let keywords = self.thresholds.len() - NOT_KEYWORDS;
        let scores = posteriors[..keywords].iter();
        let pairs = scores.zip(&self.thresholds);
        // A posterior that is not a number is below every threshold. In most frames all are: without a branch for each, since compilers make vectors of it.
        let any = pairs
            .clone()
            .fold(false, |any, (score, threshold)| any | (score >= threshold));
        let mut best: Option<Detection> = None;
        if !any {
            self.armed.fill(true);
        } else {
            for (label, (&score, threshold)) in pairs.enumerate() {
                let reached = score >= *threshold;
                self.armed[label] |= !reached;
                if reached && best.is_none_or(|best| score > best.score) {
                    best = Some(Detection {
                        label,
                        score,
                        frame,
                        given: frame,
                    });
                }
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
        let waited = |candidate: &Detection| frame - candidate.frame;
        let confirm = self.timing.confirm_frames as u64;
        let confirmed = self.candidate.filter(|c| waited(c) >= confirm)?;
        Some(self.fire(confirmed))
    }

    /// As [`Detector::finish`].
    pub fn finish(&mut self) -> Option<Detection> {
        let candidate = self.candidate.take()?;
        Some(self.fire(candidate))
    }

    /// Forgets everything heard.
    pub fn reset(&mut self) {
        self.armed.fill(true);
        self.candidate = None;
        self.frames = 0;
        self.free_from = self.first;
    }

    fn fire(&mut self, detection: Detection) -> Detection {
        self.candidate = None;
        self.armed[detection.label] = false;
        self.free_from = self.frames + self.timing.refractory_frames as u64;
        Detection {
            given: self.frames.saturating_sub(1),
            ..detection
        }
    }
}

fn check_frames(setting: &'static str, found: usize, least: usize) -> Result<(), DetectorError> {
    if (least..=MAX_FRAMES).contains(&found) {
        return Ok(());
    }
    Err(DetectorError::Frames {
        setting,
        least,
        most: MAX_FRAMES,
        found,
    })
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

/// What one clip is heard as: its label, and the highest posterior of a keyword.
///
/// `logits` are those of the clip's frames, `[T, classes]` flattened. As in a stream, they are averaged over `window_frames` (over all, in a clip that is
/// shorter). In the frame whose averages make a keyword likeliest, that keyword is the answer if it is the likeliest label; else the answer is `_unknown_` or
/// `_silence_`, whichever is the likelier on average.
///
/// # Errors
/// [`DetectorError::ClipTooShort`] if there is no frame.
pub fn clip_answer(
    logits: &[f32],
    classes: usize,
    window_frames: usize,
) -> Result<(usize, f32), DetectorError> {
    let frames = logits.len() / classes;
    let mean = mean_logits(logits, classes, 0..frames)?;
    let keywords = classes - NOT_KEYWORDS;
    let mut means = SlidingMean::new(classes, window_frames.min(frames));
    let mut posteriors = vec![0.0; classes];
    let (mut best, mut likeliest) = ((0, f32::NEG_INFINITY), false);
    for (index, frame) in logits.chunks_exact(classes).enumerate() {
        means.push(frame);
        if index + 1 < means.capacity {
            continue;
        }
        means.mean(&mut posteriors);
        softmax(&mut posteriors);
        for (label, posterior) in posteriors[..keywords].iter().enumerate() {
            if *posterior > best.1 {
                best = (label, *posterior);
                likeliest = posteriors.iter().all(|other| other <= posterior);
            }
        }
    }
    let rest = keywords + usize::from(mean[keywords + 1] > mean[keywords]);
    Ok((if likeliest { best.0 } else { rest }, best.1))
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
        let scale = 1.0 / self.filled as f64;
        for (mean, sum) in means.iter_mut().zip(&self.sums) {
            *mean = (sum * scale) as f32;
        }
    }
}

fn add(sums: &mut [f64], row: &[f32]) {
    for (sum, &value) in sums.iter_mut().zip(row) {
        *sum += f64::from(value);
    }
}
