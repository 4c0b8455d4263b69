//! The only feature extractor of the project: 16 kHz samples enter, log-mel frames leave.
//! Whole clips and live streams go through the same incremental `push`, so their features have the same bits.

#[cfg(any(test, not(feature = "std")))]
mod fft;
mod gain;
mod lanes;
mod mel;
mod spectrum;

use alloc::{
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;

use crate::settings::{
    FFT_SIZE, FrontendSettings, HOP_SAMPLES, MEL_BINS, SAMPLE_RATE_HZ, WINDOW_SAMPLES,
};
use gain::Gain;
use lanes::LANES;
use mel::MelBank;
use spectrum::Spectrum;

/// Largest sample magnitude that [`Frontend::push`] accepts.
///
/// Full scale is 1.0; the limit only keeps the squares in the power spectrum far from f32's overflow, so that features are finite.
pub const MAX_SAMPLE_MAGNITUDE: f32 = 1e6;

/// What the front end refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FrontendError {
    /// A setting that this front end cannot reproduce, for example from a package made for another one.
    #[error(
        "front-end setting `{field}` is {found}, but this front end computes only {expected}; use a base trained with it"
    )]
    UnsupportedSetting {
        /// Name of the field in [`FrontendSettings`].
        field: &'static str,
        /// The value that is supported.
        expected: String,
        /// The value that was asked for.
        found: String,
    },
    /// A setting of the gain outside of its range.
    #[error("front-end setting `{field}` is {found}, expected {expected}")]
    BadGain {
        /// Name of the field in [`FrontendSettings`].
        field: &'static str,
        /// Its range.
        expected: &'static str,
        /// The value found.
        found: f32,
    },
    /// A sample that is NaN, infinite or beyond [`MAX_SAMPLE_MAGNITUDE`].
    #[error(
        "sample {index} is {value}, expected a finite number in [-1, 1] (at most {MAX_SAMPLE_MAGNITUDE:e} in magnitude); check the audio source"
    )]
    BadSample {
        /// Position in the slice that was pushed.
        index: usize,
        /// The value found there.
        value: f32,
    },
}

/// Log-mel features of a stream of samples.
///
/// Frame k is made of the samples `[160 k, 160 k + 480)` since the start or the last [`reset`](Self::reset); nothing is padded.
/// A frame is: periodic Hann window, 512-point power spectrum, 40 HTK mel triangles from 0 to 8000 Hz, the slow gain if the
/// settings have one, `ln(mel + 1e-6)`.
/// The logarithm comes from the `libm` crate and every sum has a fixed order, so that features do not depend on the CPU.
///
/// ```
/// use swr_core::frontend::Frontend;
///
/// let mut frontend = Frontend::new(&Default::default())?;
/// let mut features = Vec::new();
/// frontend.push(&[0.0; 1_000], &mut features)?; // 4 frames of 40 values
/// assert_eq!(features.len(), 4 * 40);
/// # Ok::<(), swr_core::frontend::FrontendError>(())
/// ```
#[derive(Clone)]
pub struct Frontend {
    spectrum: Spectrum,
    mel_bank: MelBank,
    /// What each mel power is multiplied by: a microphone's response.
    response: [f32; MEL_BINS],
    gain: Option<Gain>,
    log_floor: f32,
    /// The frame being filled; the first `filled` samples are valid.
    window: [f32; WINDOW_SAMPLES],
    filled: usize,
}

impl Frontend {
    /// Builds the tables and buffers. Cloning the result is cheaper than building another one.
    ///
    /// # Errors
    /// [`FrontendError::UnsupportedSetting`] for any value but the default ones, [`FrontendError::BadGain`] for a gain outside of its ranges.
    pub fn new(settings: &FrontendSettings) -> Result<Self, FrontendError> {
        check_settings(settings)?;
        Ok(Self {
            spectrum: Spectrum::new(),
            mel_bank: MelBank::new(
                MEL_BINS,
                f64::from(settings.low_hz),
                f64::from(settings.high_hz),
                f64::from(SAMPLE_RATE_HZ),
                FFT_SIZE,
            ),
            response: [1.0; MEL_BINS],
            gain: settings.gain.as_ref().map(Gain::new),
            log_floor: settings.log_floor,
            window: [0.0; WINDOW_SAMPLES],
            filled: 0,
        })
    }

    /// Takes the next `samples` (16 kHz, mono, full scale ±1) and appends each frame that they complete to `frames`.
    ///
    /// `frames` is frame-major: n new frames append `40 n` values, lowest mel bin first. The frames do not depend on how
    /// the stream was cut into calls, to the bit. Beyond the growth of `frames` nothing is allocated.
    ///
    /// # Errors
    /// [`FrontendError::BadSample`] names the first sample that is NaN, infinite or too large. Then none of `samples` was taken:
    /// state and `frames` are as before the call, and the caller may go on or [`reset`](Self::reset).
    pub fn push(&mut self, samples: &[f32], frames: &mut Vec<f32>) -> Result<(), FrontendError> {
        // Written so that NaN, which is in no range, is refused as well.
        let is_bad =
            |sample: &f32| !(-MAX_SAMPLE_MAGNITUDE..=MAX_SAMPLE_MAGNITUDE).contains(sample);
        if let Some(index) = samples.iter().position(is_bad) {
            let value = samples[index];
            return Err(FrontendError::BadSample { index, value });
        }

        frames.reserve(frame_count(self.filled + samples.len()) * MEL_BINS);
        let (mut rest, mut waiting) = (samples, 0);
        while !rest.is_empty() {
            let (taken, left) = rest.split_at(rest.len().min(WINDOW_SAMPLES - self.filled));
            self.window[self.filled..self.filled + taken.len()].copy_from_slice(taken);
            self.filled += taken.len();
            rest = left;
            if self.filled == WINDOW_SAMPLES {
                self.spectrum.set(waiting, &self.window);
                waiting += 1;
                if waiting == LANES {
                    self.finish(waiting, frames);
                    waiting = 0;
                }
                self.window.copy_within(HOP_SAMPLES.., 0);
                self.filled -= HOP_SAMPLES;
            }
        }
        if waiting > 0 {
            self.finish(waiting, frames);
        }
        Ok(())
    }

    /// Appends the frames of the first `count` lanes.
    fn finish(&mut self, count: usize, frames: &mut Vec<f32>) {
        let start = frames.len();
        frames.resize(start + count * MEL_BINS, 0.0);
        let mel_bands = self.mel_bank.apply(self.spectrum.power());
        for (bin, mel) in mel_bands.enumerate() {
            for (lane, mel) in mel.0[..count].iter().enumerate() {
                frames[start + lane * MEL_BINS + bin] = *mel;
            }
        }
        for frame in frames[start..].chunks_exact_mut(MEL_BINS) {
            // Where nothing was asked for, a product with 1: the same bits.
            let heard = frame.iter_mut().zip(&self.response);
            heard.for_each(|(mel, response)| *mel *= response);
            let gain = self.gain.as_mut().map_or(1.0, |gain| gain.of(frame));
            for value in frame {
                *value = libm::logf(*value * gain + self.log_floor);
            }
        }
    }

    /// Forgets the samples of an unfinished frame and the gain: the next sample is the first of a new stream.
    pub fn reset(&mut self) {
        self.filled = 0;
        self.reset_gain();
    }

    /// From now on hears as through another microphone, whose `response` is a factor of each mel power, 1 for all that there is. Training varies it.
    ///
    /// # Panics
    /// If a factor is not from 0 to 1e6.
    pub fn hear_through(&mut self, response: &[f32; MEL_BINS]) {
        assert!(
            response.iter().all(|factor| (0.0..=1e6).contains(factor)),
            "a response of 0 to 1e6"
        );
        self.response = *response;
    }

    /// Forgets how loud the stream was, where there is a gain: what comes is from another microphone.
    pub fn reset_gain(&mut self) {
        if let Some(gain) = &mut self.gain {
            gain.reset();
        }
    }
}

impl fmt::Debug for Frontend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Frontend")
            .field("filled_samples", &self.filled)
            .finish_non_exhaustive()
    }
}

/// The number of complete frames in `samples` samples: `(samples - 480) / 160 + 1`, or 0 if there are fewer than 480.
///
/// One second (16,000 samples) has 98.
pub const fn frame_count(samples: usize) -> usize {
    if samples < WINDOW_SAMPLES {
        0
    } else {
        (samples - WINDOW_SAMPLES) / HOP_SAMPLES + 1
    }
}

/// The features of a whole clip: `[T, 40]` flattened, with T = [`frame_count`] frames.
///
/// Who computes features of many clips keeps a [`Frontend`] and resets it between clips, which saves building its tables.
///
/// # Errors
/// As [`Frontend::new`] and [`Frontend::push`].
pub fn log_mel(settings: &FrontendSettings, samples: &[f32]) -> Result<Vec<f32>, FrontendError> {
    let mut frames = Vec::new();
    Frontend::new(settings)?.push(samples, &mut frames)?;
    Ok(frames)
}

/// Refuses every setting that the front end does not reproduce, naming the first one.
///
/// # Errors
/// As [`Frontend::new`].
pub(crate) fn check_settings(settings: &FrontendSettings) -> Result<(), FrontendError> {
    let FrontendSettings {
        sample_rate_hz,
        window_samples,
        hop_samples,
        fft_size,
        mel_bins,
        low_hz,
        high_hz,
        log_floor,
        gain,
    } = *settings;
    let supported = FrontendSettings::default();
    check("sample_rate_hz", supported.sample_rate_hz, sample_rate_hz)?;
    check("window_samples", supported.window_samples, window_samples)?;
    check("hop_samples", supported.hop_samples, hop_samples)?;
    check("fft_size", supported.fft_size, fft_size)?;
    check("mel_bins", supported.mel_bins, mel_bins)?;
    check("low_hz", supported.low_hz, low_hz)?;
    check("high_hz", supported.high_hz, high_hz)?;
    check("log_floor", supported.log_floor, log_floor)?;
    match gain.and_then(|gain| gain.problem()) {
        None => Ok(()),
        Some((field, expected, found)) => Err(FrontendError::BadGain {
            field,
            expected,
            found,
        }),
    }
}

fn check<T: PartialEq + fmt::Display>(
    field: &'static str,
    expected: T,
    found: T,
) -> Result<(), FrontendError> {
    if expected == found {
        return Ok(());
    }
    Err(FrontendError::UnsupportedSetting {
        field,
        expected: expected.to_string(),
        found: found.to_string(),
    })
}
