//! The numbers that define front end and clip protocol: as constants for code, and as the struct that a base's manifest carries.
//! Plain data without arithmetic; who computes features checks that it can reproduce them.

use serde::{Deserialize, Serialize};

/// Samples per second of every buffer in the project.
pub const SAMPLE_RATE_HZ: u32 = 16_000;
/// Length of one frame: 30 ms. Frame k covers samples `[HOP_SAMPLES * k, HOP_SAMPLES * k + WINDOW_SAMPLES)`.
pub const WINDOW_SAMPLES: usize = 480;
/// Distance between the starts of two frames: 10 ms.
pub const HOP_SAMPLES: usize = 160;
/// Length of the Fourier transform; the window is followed by zeros up to it.
pub const FFT_SIZE: usize = 512;
/// Log-mel values per frame.
pub const MEL_BINS: usize = 40;

/// Frames over which logits are averaged: those of a one-second clip.
pub const WINDOW_FRAMES: usize = 98;
/// Frames of context before a clip in the clip protocol: zero samples that the network hears first, from a zero state.
pub const CONTEXT_FRAMES: usize = 46;

/// Settings of the log-mel front end; a package pins them, so that features on a device are those the network was trained on.
///
/// But for the gain, the defaults are the only values that the front end reproduces. Window, hop and number of mel bins are those of the
/// BC-ResNet paper (Kim et al., "Broadcasted Residual Learning for Efficient Keyword Spotting", Interspeech 2021, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontendSettings {
    /// Samples per second. Default: 16000.
    pub sample_rate_hz: u32,
    /// Length of a frame in samples. Default: 480 (30 ms).
    pub window_samples: u32,
    /// Distance between the starts of two frames in samples. Default: 160 (10 ms).
    pub hop_samples: u32,
    /// Length of the Fourier transform in samples. Default: 512.
    pub fft_size: u32,
    /// Log-mel values per frame. Default: 40.
    pub mel_bins: u32,
    /// Lower edge of the lowest mel triangle. Default: 0.
    pub low_hz: f32,
    /// Upper edge of the highest mel triangle. Default: 8000.
    pub high_hz: f32,
    /// Added to each mel power before the logarithm, so that digital silence stays finite. Default: 1e-6.
    pub log_floor: f32,
    /// Slow gain that makes quiet speech as loud as loud speech. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<GainSettings>,
}

/// Settings of the slow gain: each frame's mel powers are multiplied by `target / level`, before the floor is added.
///
/// The level follows the sum of a frame's mel powers: upwards by `smoothing` of the difference, downwards by `fall_db_per_s` and never below the frame's own
/// power or `least`, at which it begins. It looks back only, so features stay the same however a stream is cut.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GainSettings {
    /// Share of a rise that a frame takes over, above 0 and at most 1. Default: 0.05, so that a click is no new level.
    pub smoothing: f32,
    /// Decibels that the level falls in a second of silence, 0 to 1000. Default: 12, little within a word.
    pub fall_db_per_s: f32,
    /// Sum of a frame's mel powers that the gain aims at, 1e-6 to 1e12. Default: 500, that of noise of -20 dB of full scale.
    pub target: f32,
    /// The lowest level, 1e-6 to 1e12, which bounds the gain. Default: 0.126, 36 dB below the target.
    pub least: f32,
}

impl GainSettings {
    /// The first setting outside of its range: its name, what is expected, and what was found.
    pub(crate) fn problem(&self) -> Option<(&'static str, &'static str, f32)> {
        let Self {
            smoothing,
            fall_db_per_s,
            target,
            least,
        } = *self;
        let power = 1e-6..=1e12;
        // Written so that NaN, which is in no range, is refused as well.
        let fields = [
            (
                "gain.smoothing",
                "more than 0 and at most 1",
                smoothing,
                smoothing > 0.0 && smoothing <= 1.0,
            ),
            (
                "gain.fall_db_per_s",
                "0 to 1000",
                fall_db_per_s,
                (0.0..=1_000.0).contains(&fall_db_per_s),
            ),
            (
                "gain.target",
                "1e-6 to 1e12",
                target,
                power.contains(&target),
            ),
            ("gain.least", "1e-6 to 1e12", least, power.contains(&least)),
        ];
        let wrong = fields.into_iter().find(|(.., fits)| !fits);
        wrong.map(|(field, expected, found, _)| (field, expected, found))
    }
}

impl Default for GainSettings {
    fn default() -> Self {
        Self {
            smoothing: 0.05,
            fall_db_per_s: 12.0,
            target: 500.0,
            least: 0.126,
        }
    }
}

impl Default for FrontendSettings {
    fn default() -> Self {
        Self {
            sample_rate_hz: SAMPLE_RATE_HZ,
            window_samples: WINDOW_SAMPLES as u32,
            hop_samples: HOP_SAMPLES as u32,
            fft_size: FFT_SIZE as u32,
            mel_bins: MEL_BINS as u32,
            low_hz: 0.0,
            high_hz: 8_000.0,
            log_floor: 1e-6,
            gain: None,
        }
    }
}

/// How posteriors become events, in frames; what a package tells beside its thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// Frames over which posteriors are averaged; more means calmer and later.
    pub smoothing_frames: usize,
    /// Frames without a new peak after which a candidate becomes an event; a stronger keyword may still take its place until then.
    pub confirm_frames: usize,
    /// Frames after an event in which no new candidate begins.
    pub refractory_frames: usize,
}

/// That of networks whose logits are averaged over a second: while a word slides into that average, its first sounds may look like another keyword for 100
/// to 150 ms, whereas the word itself stays for half a second.
impl Default for Timing {
    fn default() -> Self {
        Self {
            smoothing_frames: 30,
            confirm_frames: 25,
            refractory_frames: 50,
        }
    }
}
