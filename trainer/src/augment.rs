//! Seeded augmentation of training clips: a clip in, the clip inside some context out, ready for the front end.
//!
//! Nothing here is active in evaluation, where a clip stands after digital silence ([`plain`]).

use anyhow::{Result, ensure};
use multiversion::multiversion;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use swr_core::HOP_SAMPLES;
use swr_dataset::{CLIP_SAMPLES, active_span};

use crate::architecture::CONTEXT_FRAMES;

/// Samples before the clip.
pub const CONTEXT_SAMPLES: usize = CONTEXT_FRAMES * HOP_SAMPLES;
/// Samples of a training example: context and clip.
pub const EXAMPLE_SAMPLES: usize = CONTEXT_SAMPLES + CLIP_SAMPLES;

const SAMPLES_PER_MS: f32 = 16.0;
/// Least shift of a fragment; the largest is twice as much.
const FRAGMENT_SHIFT_MS: f32 = 450.0;
/// Speech is what lies at most this far below the loudest part of a clip.
const ACTIVE_RANGE_DB: f32 = 30.0;

/// How clips are varied in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Largest shift of the word, in milliseconds, either way.
    pub shift_ms: f32,
    /// Largest change of speed, and with it of pitch: 0.15 means 0.85 to 1.15 times.
    pub speed: f32,
    /// Largest change of level, in decibel, either way.
    pub gain_db: f32,
    /// Probability that background noise is added; half the time by amplitude, half by ratio to the word.
    pub noise_probability: f32,
    /// Largest factor of the noise recording (arXiv 1804.03209 uses 0.1).
    pub noise_amplitude: f32,
    /// Lowest and highest ratio of the word's power to the noise's, in decibel.
    pub noise_snr_db: [f32; 2],
    /// Probability that a keyword is moved so far that only a fragment is heard: an unknown word, as in a window that slides over it.
    pub fragment_probability: f32,
    /// Probability that the context holds the end of another clip; otherwise it is as quiet as digital silence.
    pub speech_context: f32,
}

impl Augment {
    /// Refuses values that no example can be made with.
    pub(crate) fn check(&self) -> Result<()> {
        let [low, high] = self.noise_snr_db;
        ensure!(
            low.is_finite() && high.is_finite() && low <= high,
            "augment.noise_snr_db = [{low}, {high}]: expected lowest, highest"
        );
        ensure!(
            (0.0..0.9).contains(&self.speed),
            "augment.speed = {}: expected 0 to below 0.9",
            self.speed
        );
        for (name, share) in [
            ("noise_probability", self.noise_probability),
            ("fragment_probability", self.fragment_probability),
            ("speech_context", self.speech_context),
        ] {
            ensure!(
                (0.0..=1.0).contains(&share),
                "augment.{name} = {share}: expected 0 to 1"
            );
        }
        for (name, size) in [
            ("shift_ms", self.shift_ms),
            ("gain_db", self.gain_db),
            ("noise_amplitude", self.noise_amplitude),
        ] {
            ensure!(
                size.is_finite() && size >= 0.0,
                "augment.{name} = {size}: expected 0 or more"
            );
        }
        Ok(())
    }
}

/// What an example of a clip is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The clip's word.
    Word,
    /// Less than about half of it.
    Fragment,
    /// Background noise instead of the clip.
    Silence,
}

/// What examples are made of.
pub struct Material<'a> {
    /// All training clips, 16,000 samples each, 16-bit.
    pub clips: &'a [Vec<i16>],
    /// Mean power of each clip's speech, see [`speech_power`].
    pub powers: &'a [f32],
    /// Background recordings, their training parts.
    pub background: &'a [&'a [f32]],
}

fn to_float(sample: i16) -> f32 {
    f32::from(sample) / 32_768.0
}

/// The clip after digital silence, unchanged: the form in which every evaluation sees it.
pub fn plain(clip: &[i16]) -> Vec<f32> {
    let mut example = vec![0f32; EXAMPLE_SAMPLES];
    for (e, s) in example[CONTEXT_SAMPLES..].iter_mut().zip(clip) {
        *e = to_float(*s);
    }
    example
}

/// A varied example made of clip `index`.
pub fn example(
    settings: &Augment,
    material: &Material,
    index: usize,
    kind: Kind,
    rng: &mut ChaCha8Rng,
) -> Vec<f32> {
    let mut example = vec![0f32; EXAMPLE_SAMPLES];
    if rng.random::<f32>() < settings.speech_context {
        let other = &material.clips[rng.random_range(0..material.clips.len())];
        // The word may end anywhere before the clip begins, also earlier than the context.
        let end = rng.random_range(CLIP_SAMPLES / 2..=CLIP_SAMPLES);
        let context = &other[end.saturating_sub(CONTEXT_SAMPLES)..end];
        for (e, s) in example[CONTEXT_SAMPLES - context.len()..]
            .iter_mut()
            .zip(context)
        {
            *e = to_float(*s);
        }
    }
    if kind == Kind::Silence {
        add_noise(
            &mut example,
            material,
            Noise::Amplitude(rng.random::<f32>()),
            rng,
        );
    } else {
        let clip = &material.clips[index];
        let gain = decibel(symmetric(settings.gain_db, rng));
        let shift_ms = match kind {
            Kind::Fragment => {
                FRAGMENT_SHIFT_MS
                    * if rng.random() { 1.0 } else { -1.0 }
                    * rng.random_range(1.0..2.0)
            }
            _ => symmetric(settings.shift_ms, rng),
        };
        let speed = 1.0 + symmetric(settings.speed, rng);
        add_clip(&mut example, clip, gain, shift_ms * SAMPLES_PER_MS, speed);
        if rng.random::<f32>() < settings.noise_probability {
            let noise = if rng.random() {
                Noise::Amplitude(rng.random::<f32>() * settings.noise_amplitude)
            } else {
                let [low, high] = settings.noise_snr_db;
                Noise::Power(
                    gain * gain * material.powers[index]
                        / decibel(rng.random_range(low..=high)).powi(2),
                )
            };
            add_noise(&mut example, material, noise, rng);
        }
    }
    for e in &mut example {
        *e = e.clamp(-1.0, 1.0);
    }
    example
}

/// How loud noise is to be.
enum Noise {
    /// A factor of the recording.
    Amplitude(f32),
    /// Mean power.
    Power(f32),
}

/// Mean power of the part of a clip that holds speech.
pub fn speech_power(clip: &[i16]) -> f32 {
    let samples: Vec<f32> = clip.iter().map(|s| to_float(*s)).collect();
    let (from, to) = active_span(&samples, ACTIVE_RANGE_DB).unwrap_or((0, samples.len()));
    mean_power(&samples[from..to])
}

fn mean_power(samples: &[f32]) -> f32 {
    samples.iter().map(|s| s * s).sum::<f32>() / samples.len().max(1) as f32
}

fn symmetric(largest: f32, rng: &mut ChaCha8Rng) -> f32 {
    if largest > 0.0 {
        rng.random_range(-largest..=largest)
    } else {
        0.0
    }
}

fn decibel(db: f32) -> f32 {
    libm::powf(10.0, db / 20.0)
}

/// Where in the clip sample `k` of the example comes from.
#[inline(always)]
fn position_in_clip(k: usize, shift: f32, speed: f32) -> f32 {
    const MIDDLE: f32 = CLIP_SAMPLES as f32 / 2.0;
    (k as f32 - CONTEXT_SAMPLES as f32 - shift - MIDDLE) * speed + MIDDLE
}

/// Adds the clip, played `speed` times as fast around its middle and moved by `shift` samples, by cubic interpolation
/// (Catmull-Rom). A word moved ahead of the clip's first sample reaches into the context.
#[multiversion(targets("x86_64+avx2", "aarch64+neon"))]
fn add_clip(example: &mut [f32], clip: &[i16], gain: f32, shift: f32, speed: f32) {
    const BLOCK: usize = 64;
    // Positions ascend with k, so those inside the clip lie together.
    let first_where = |past: &dyn Fn(f32) -> bool| {
        let (mut low, mut high) = (0, example.len());
        while low < high {
            let centre = (low + high) / 2;
            if past(position_in_clip(centre, shift, speed)) {
                high = centre;
            } else {
                low = centre + 1;
            }
        }
        low
    };
    let from = first_where(&|position| position >= 0.0);
    let until = first_where(&|position| position >= CLIP_SAMPLES as f32);

    // Zeros around, so that four samples lie about every position.
    let mut padded = vec![0f32; clip.len().max(CLIP_SAMPLES) + 4];
    for (p, s) in padded[2..].iter_mut().zip(clip) {
        *p = to_float(*s);
    }
    // In three passes over a block, of which only the one that gathers samples is not vector code.
    let (mut whole, mut fraction) = ([0i32; BLOCK], [0f32; BLOCK]);
    let mut samples = [[0f32; BLOCK]; 4];
    for start in (from..until).step_by(BLOCK) {
        let block = BLOCK.min(until - start);
        for j in 0..BLOCK {
            let position = position_in_clip(start + j, shift, speed);
            whole[j] = position as i32;
            fraction[j] = position - whole[j] as f32;
        }
        for j in 0..block {
            let i = whole[j] as usize;
            let Some(around) = padded[i + 1..].first_chunk::<4>() else {
                continue;
            };
            for (samples, sample) in samples.iter_mut().zip(around) {
                samples[j] = *sample;
            }
        }
        let [a, b, c, d] = &samples;
        let mut cubic = [0f32; BLOCK];
        for j in 0..BLOCK {
            let (a, b, c, d, f) = (a[j], b[j], c[j], d[j], fraction[j]);
            cubic[j] = b + 0.5
                * f
                * (c - a + f * (2.0 * a - 5.0 * b + 4.0 * c - d + f * (3.0 * (b - c) + d - a)));
        }
        for (e, cubic) in example[start..start + block].iter_mut().zip(&cubic) {
            *e += gain * cubic;
        }
    }
}

fn add_noise(example: &mut [f32], material: &Material, noise: Noise, rng: &mut ChaCha8Rng) {
    let recording = material.background[rng.random_range(0..material.background.len())];
    let start = rng.random_range(0..recording.len());
    // A recording shorter than the example repeats.
    let mut part = Vec::with_capacity(example.len());
    let mut from = start;
    while part.len() < example.len() {
        let until = recording.len().min(from + example.len() - part.len());
        part.extend_from_slice(&recording[from..until]);
        from = 0;
    }
    let amplitude = match noise {
        Noise::Amplitude(amplitude) => amplitude,
        // Digital silence stays silence.
        Noise::Power(power) => (power / mean_power(&part).max(1e-10)).sqrt(),
    };
    for (e, n) in example.iter_mut().zip(part) {
        *e += amplitude * n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;

    const NONE: Augment = Augment {
        shift_ms: 0.0,
        speed: 0.0,
        gain_db: 0.0,
        noise_probability: 0.0,
        noise_amplitude: 0.0,
        noise_snr_db: [0.0, 0.0],
        fragment_probability: 0.0,
        speech_context: 0.0,
    };

    #[test]
    fn without_variation_an_example_is_the_plain_clip() {
        let clip: Vec<i16> = (0..CLIP_SAMPLES)
            .map(|i| ((i * 37) % 2_000) as i16 - 1_000)
            .collect();
        let noise = vec![0.1f32; 1_000];
        let material = Material {
            clips: std::slice::from_ref(&clip),
            powers: &[speech_power(&clip)],
            background: &[&noise],
        };
        let example = example(&NONE, &material, 0, Kind::Word, &mut generator(1, &[]));
        assert_eq!(example, plain(&clip));
    }

    #[test]
    fn blocks_interpolate_as_one_sample_at_a_time_to_the_bit() {
        let clip: Vec<i16> = (0..CLIP_SAMPLES)
            .map(|i| ((i * 7_919) % 65_536) as u16 as i16)
            .collect();
        let at = |i: i64| match usize::try_from(i) {
            Ok(i) if i < CLIP_SAMPLES => to_float(clip[i]),
            _ => 0.0,
        };
        for (gain, shift, speed) in [(1.0, 0.0, 1.0), (0.7, -1_234.5, 0.88), (1.9, 777.7, 1.12)] {
            let mut found = vec![0.1f32; EXAMPLE_SAMPLES];
            add_clip(&mut found, &clip, gain, shift, speed);
            for (k, found) in found.iter().enumerate() {
                let position = position_in_clip(k, shift, speed);
                let mut expected = 0.1;
                if (0.0..CLIP_SAMPLES as f32).contains(&position) {
                    let i = position as i64;
                    let f = position - i as f32;
                    let [a, b, c, d] = [at(i - 1), at(i), at(i + 1), at(i + 2)];
                    let cubic = b + 0.5
                        * f
                        * (c - a
                            + f * (2.0 * a - 5.0 * b + 4.0 * c - d + f * (3.0 * (b - c) + d - a)));
                    expected += gain * cubic;
                }
                assert_eq!(found.to_bits(), expected.to_bits(), "sample {k}");
            }
        }
    }

    #[test]
    fn a_shift_moves_the_word_and_speed_shortens_it() {
        let mut clip = vec![0i16; CLIP_SAMPLES];
        clip[8_000..8_100].fill(16_384);
        let mut moved = vec![0f32; EXAMPLE_SAMPLES];
        add_clip(&mut moved, &clip, 1.0, 160.0, 1.0);
        assert_eq!(moved[CONTEXT_SAMPLES + 8_050 + 160], 0.5);
        assert_eq!(moved[CONTEXT_SAMPLES + 8_050], 0.0);
        let mut fast = vec![0f32; EXAMPLE_SAMPLES];
        add_clip(&mut fast, &clip, 1.0, 0.0, 2.0);
        let loud = |x: &[f32]| x.iter().filter(|v| **v > 0.25).count();
        assert_eq!(loud(&fast), 50);
    }
}
