//! The slow gain: frames of mel powers enter one after another, the factor that makes them as loud as they are wanted leaves.

use crate::settings::{GainSettings, HOP_SAMPLES, SAMPLE_RATE_HZ};

/// The gain of a stream so far.
#[derive(Clone, Debug)]
pub(super) struct Gain {
    settings: GainSettings,
    /// What is left of the level after a frame of silence.
    fallen: f32,
    /// Sum of mel powers that the stream has now, at least `least`.
    level: f32,
}

impl Gain {
    pub(super) fn new(settings: &GainSettings) -> Self {
        let frame_s = HOP_SAMPLES as f64 / f64::from(SAMPLE_RATE_HZ);
        let fall_db = f64::from(settings.fall_db_per_s) * frame_s;
        Self {
            settings: *settings,
            fallen: libm::pow(10.0, -fall_db / 10.0) as f32,
            level: settings.least,
        }
    }

    /// Hears the mel powers of the next frame; what they are to be multiplied by.
    pub(super) fn of(&mut self, mel: &[f32]) -> f32 {
        // From the lowest bin upwards: a fixed order keeps the bits the same everywhere.
        let power = mel.iter().fold(0.0, |sum, mel| sum + mel);
        let GainSettings {
            smoothing,
            target,
            least,
            ..
        } = self.settings;
        let level = if power > self.level {
            self.level + smoothing * (power - self.level)
        } else {
            (self.level * self.fallen).max(power)
        };
        self.level = level.max(least);
        target / self.level
    }

    pub(super) fn reset(&mut self) {
        self.level = self.settings.least;
    }
}
