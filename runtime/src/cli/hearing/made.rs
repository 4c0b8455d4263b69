//! What is heard of sounds made in code, and of words at other levels and after a bang.

use swr_core::SAMPLE_RATE_HZ;
use swr_core::detector::Detection;
use swr_dataset::{Made, Stream, household, pink_noise, steady_tones, white_noise};

use super::{Ear, Level, MadeSounds, matches};

/// Levels at which the stream is heard, in dB.
const LEVELS_DB: [f32; 6] = [0.0, -6.0, -12.0, -18.0, -24.0, -30.0];
/// A door that slams before every word: how long before it, its length, its fall to a third, its loudest, and the level of the words in dB.
const BANG_BEFORE_S: f32 = 0.5;
const BANG_S: f32 = 0.2;
const BANG_FALL_S: f32 = 0.05;
const BANG_PEAK: f32 = 0.5;
const BANG_LEVEL_DB: f32 = -24.0;
/// Seconds of a sound made in code.
const MADE_S: usize = 10;
/// Seed of the noise.
const NOISE_SEED: u64 = 7;

impl Ear {
    /// Steady tones, a household's sounds, and so much noise of each kind.
    pub(super) fn hear_made(&mut self, noise_samples: usize) -> anyhow::Result<Vec<MadeSounds>> {
        let tones = self.hear_sounds("steady tones", &steady_tones())?;
        let household = self.hear_sounds("household sounds", &household())?;
        let mut noise = MadeSounds {
            kind: "noise",
            sounds: 2,
            hours: 2.0 * noise_samples as f64 / f64::from(SAMPLE_RATE_HZ) / 3_600.0,
            heard: Vec::new(),
        };
        for (name, mut samples) in [
            ("pink noise", pink_noise(NOISE_SEED, noise_samples)),
            ("white noise", white_noise(NOISE_SEED, noise_samples)),
        ] {
            // At the level of a recorded household.
            samples.iter_mut().for_each(|sample| *sample *= 0.05);
            let found = self.hear_once(&samples)?;
            noise.heard.extend(self.named(name, &found));
        }
        Ok(vec![tones, household, noise])
    }

    fn hear_sounds(&mut self, kind: &'static str, sounds: &[Made]) -> anyhow::Result<MadeSounds> {
        let mut heard = Vec::new();
        for made in sounds {
            let found = self.hear_once(&made.samples(MADE_S))?;
            heard.extend(self.named(&made.name, &found));
        }
        Ok(MadeSounds {
            kind,
            sounds: sounds.len(),
            hours: (sounds.len() * MADE_S) as f64 / 3_600.0,
            heard,
        })
    }

    fn named(&self, name: &str, found: &[Detection]) -> Vec<(String, String, f32)> {
        let labels = &self.language.labels;
        let named = |d: &Detection| (name.to_owned(), labels[d.label].clone(), d.score);
        found.iter().map(named).collect()
    }

    /// The stream at every level, and softly with a bang before every word, which a front end that adapts must not be deaf after.
    pub(super) fn hear_levels(&mut self, stream: &Stream) -> anyhow::Result<Vec<Level>> {
        let mut levels = Vec::new();
        let plain = LEVELS_DB.map(|level_db| (level_db, false));
        for (level_db, bang) in plain.into_iter().chain([(BANG_LEVEL_DB, true)]) {
            let gain = 10f32.powf(level_db / 20.0);
            let mut softer: Vec<f32> = stream.samples.iter().map(|sample| gain * sample).collect();
            if bang {
                add_bangs(&mut softer, stream);
            }
            let found = self.hear_once(&softer)?;
            let matched = &matches(stream, &[found])[0];
            levels.push(Level {
                level_db,
                bang,
                found: matched.hits.len(),
                false_accepts: matched.false_alarms.len(),
            });
        }
        Ok(levels)
    }
}

/// Adds a burst of noise that falls off, always the same, before every word of `stream`.
fn add_bangs(samples: &mut [f32], stream: &Stream) {
    let rate = SAMPLE_RATE_HZ as f32;
    let burst = white_noise(NOISE_SEED, (BANG_S * rate) as usize);
    let fall = |at: usize| (-(at as f32) / (BANG_FALL_S * rate)).exp();
    let peak = burst.iter().fold(0.0, |most: f32, s| most.max(s.abs()));
    for word in &stream.events {
        let from = word
            .start_samples
            .saturating_sub((BANG_BEFORE_S * rate) as usize);
        let heard = samples[from..].iter_mut().zip(&burst).enumerate();
        heard.for_each(|(at, (sample, noise))| *sample += BANG_PEAK / peak * fall(at) * noise);
    }
}
