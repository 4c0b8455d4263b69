//! Variation of recorded sound, seeded: how fast and how loud it plays, in which room, under which noise, through which microphone.
//!
//! Nothing here is active in evaluation, where a clip stands after digital silence ([`plain`]).

use anyhow::{Result, ensure};
use multiversion::multiversion;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use swr_core::{HOP_SAMPLES, SAMPLE_RATE_HZ};
use swr_dataset::{CLIP_SAMPLES, active_span};

use crate::architecture::{CONTEXT_FRAMES, MEL_BINS};

/// Samples before the clip.
pub const CONTEXT_SAMPLES: usize = CONTEXT_FRAMES * HOP_SAMPLES;
/// Samples of a clip as evaluation sees it: context and clip.
pub const EXAMPLE_SAMPLES: usize = CONTEXT_SAMPLES + CLIP_SAMPLES;

/// Speech is what lies at most this far below the loudest part of a clip. Less than streams use (30 dB): of a word in noise, that would be all.
const ACTIVE_RANGE_DB: f32 = 20.0;
/// What is cut out of a recording is faded over 5 ms, so that it begins without a click.
const FADE_SAMPLES: f32 = 80.0;
/// Reflections of a made room; few and of either sign, as in velvet noise (Karjalainen and Järveläinen, AES 2007), since each costs a pass.
const REFLECTIONS: usize = 32;

/// How far what a narrow microphone does not hear is below what it hears, and over how many Hz it falls so far.
const NARROW_DB: f32 = 60.0;
const NARROW_SLOPE_HZ: f32 = 500.0;

/// How sound is varied in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// Largest change of speed, and with it of pitch: 0.15 means 0.85 to 1.15 times.
    pub speed: f32,
    /// Lowest and highest change of level, in decibel.
    pub gain_db: [f32; 2],
    /// Probability that background noise is added; half the time by amplitude, half by ratio to the speech.
    pub noise_probability: f32,
    /// Largest factor of the noise recording (arXiv 1804.03209 uses 0.1).
    pub noise_amplitude: f32,
    /// Lowest and highest ratio of the speech's power to the noise's, in decibel.
    pub noise_snr_db: [f32; 2],
    /// Probability that speech sounds in a made room.
    pub room_probability: f32,
    /// Shortest and longest time in which that room's sound falls by 60 dB, in seconds.
    pub room_s: [f32; 2],
    /// Largest rise or fall of the microphone's response along the bands, in decibel.
    pub channel_db: f32,
    /// Probability that nothing above some frequency is heard, as over a telephone or a headset.
    pub narrow_probability: f32,
    /// The lowest and highest such frequency, in Hz.
    pub narrow_hz: [f32; 2],
}

impl Augment {
    /// Refuses values that no example can be made with.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, [low, high]) in [
            ("gain_db", self.gain_db),
            ("noise_snr_db", self.noise_snr_db),
            ("room_s", self.room_s),
            ("narrow_hz", self.narrow_hz),
        ] {
            ensure!(
                low.is_finite() && high.is_finite() && low <= high,
                "augment.{name} = [{low}, {high}]: expected lowest, highest"
            );
        }
        ensure!(
            self.room_s[0] > 0.0 && self.room_s[1] <= 2.0,
            "augment.room_s = {:?}: expected above 0 and at most 2 s",
            self.room_s
        );
        ensure!(
            (0.0..0.9).contains(&self.speed),
            "augment.speed = {}: expected 0 to below 0.9",
            self.speed
        );
        for (name, share) in [
            ("noise_probability", self.noise_probability),
            ("room_probability", self.room_probability),
            ("narrow_probability", self.narrow_probability),
        ] {
            ensure!(
                (0.0..=1.0).contains(&share),
                "augment.{name} = {share}: expected 0 to 1"
            );
        }
        for (name, size) in [
            ("noise_amplitude", self.noise_amplitude),
            ("channel_db", self.channel_db),
        ] {
            ensure!(
                size.is_finite() && size >= 0.0,
                "augment.{name} = {size}: expected 0 or more"
            );
        }
        Ok(())
    }
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

/// The part of a clip that holds speech, in samples, and its mean power.
pub fn speech(clip: &[i16]) -> ((usize, usize), f32) {
    let samples: Vec<f32> = clip.iter().map(|s| to_float(*s)).collect();
    let span = active_span(&samples, ACTIVE_RANGE_DB).unwrap_or((0, samples.len()));
    (span, mean_power(&samples[span.0..span.1]))
}

/// Mean square.
pub(crate) fn mean_power(samples: &[f32]) -> f32 {
    samples.iter().map(|s| s * s).sum::<f32>() / samples.len().max(1) as f32
}

/// A number between minus and plus `largest`.
pub(crate) fn symmetric(largest: f32, rng: &mut ChaCha8Rng) -> f32 {
    between([-largest, largest], rng)
}

/// A number of a range that may hold one alone.
pub(crate) fn between([low, high]: [f32; 2], rng: &mut ChaCha8Rng) -> f32 {
    if low < high {
        rng.random_range(low..=high)
    } else {
        low
    }
}

/// Decibels as a factor of the amplitude.
pub(crate) fn decibel(db: f32) -> f32 {
    libm::powf(10.0, db / 20.0)
}

/// Samples that `length` samples take at a speed.
pub(crate) fn played(length: usize, speed: f32) -> usize {
    (length as f32 / speed) as usize
}

/// Adds a recording to `scene` from sample `at` on, which may lie before it, played `speed` times as fast, by cubic interpolation (Catmull-Rom), and
/// faded at both ends. It takes [`played`] samples, of which those inside the scene are heard.
#[multiversion(targets("x86_64+avx2", "aarch64+neon"))]
pub(crate) fn play(scene: &mut [f32], recording: &[i16], at: i64, gain: f32, speed: f32) {
    const BLOCK: usize = 64;
    let length = played(recording.len(), speed);
    let until = (at + length as i64).clamp(0, scene.len() as i64) as usize;
    let from = at.clamp(0, until as i64) as usize;
    // Zeros around, so that four samples lie about every position.
    let mut padded = vec![0f32; recording.len() + 4];
    for (p, s) in padded[2..].iter_mut().zip(recording) {
        *p = to_float(*s);
    }
    // In three passes over a block, of which only the one that gathers samples is not vector code.
    let (mut whole, mut fraction, mut fade) = ([0i32; BLOCK], [0f32; BLOCK], [0f32; BLOCK]);
    let mut samples = [[0f32; BLOCK]; 4];
    for start in (from..until).step_by(BLOCK) {
        let block = BLOCK.min(until - start);
        let first = (start as i64 - at) as f32;
        for j in 0..BLOCK {
            let k = first + j as f32;
            let position = k * speed;
            whole[j] = position as i32;
            fraction[j] = position - whole[j] as f32;
            fade[j] = ((k + 1.0).min(length as f32 - k) / FADE_SAMPLES).clamp(0.0, 1.0);
        }
        for j in 0..block {
            let i = whole[j] as usize;
            let Some(around) = padded.get(i + 1..).and_then(|rest| rest.first_chunk::<4>()) else {
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
        for ((e, cubic), fade) in scene[start..start + block]
            .iter_mut()
            .zip(&cubic)
            .zip(&fade)
        {
            *e += gain * fade * cubic;
        }
    }
}

/// How loud noise is to be.
pub(crate) enum Loudness {
    /// A factor of the recording.
    Amplitude(f32),
    /// Mean power.
    Power(f32),
}

/// Adds noise to the whole scene, from a random place of the recording on; one shorter than the scene repeats.
pub(crate) fn add_noise(
    scene: &mut [f32],
    recording: &[f32],
    loudness: Loudness,
    rng: &mut ChaCha8Rng,
) {
    let mut from = rng.random_range(0..recording.len());
    let mut part = Vec::with_capacity(scene.len());
    while part.len() < scene.len() {
        let until = recording.len().min(from + scene.len() - part.len());
        part.extend_from_slice(&recording[from..until]);
        from = 0;
    }
    let amplitude = match loudness {
        Loudness::Amplitude(amplitude) => amplitude,
        // Digital silence stays silence.
        Loudness::Power(power) => (power / mean_power(&part).max(1e-10)).sqrt(),
    };
    for (s, n) in scene.iter_mut().zip(part) {
        *s += amplitude * n;
    }
}

/// Adds the reflections of a made room, in which sound falls by 60 dB in `seconds`; all of them together are `direct_db` weaker than what comes
/// straight.
pub(crate) fn add_room(scene: &mut [f32], seconds: f32, direct_db: f32, rng: &mut ChaCha8Rng) {
    let reflections: Vec<(f32, f32)> = (0..REFLECTIONS)
        .map(|index| {
            // One somewhere in each of as many parts of the time, from 2 ms on.
            let time = 0.002 + (index as f32 + rng.random::<f32>()) / REFLECTIONS as f32 * seconds;
            let fallen = libm::powf(10.0, -3.0 * time / seconds);
            (time, if rng.random() { fallen } else { -fallen })
        })
        .collect();
    let power: f32 = reflections.iter().map(|(_, factor)| factor * factor).sum();
    let scale = decibel(-direct_db) / power.sqrt();
    let dry = scene.to_vec();
    for (time, factor) in reflections {
        let delay = (time * SAMPLE_RATE_HZ as f32) as usize;
        for (s, d) in scene.iter_mut().skip(delay).zip(&dry) {
            *s += scale * factor * d;
        }
    }
}

/// The response that no microphone has: every band as it is.
pub(crate) const FLAT: [f32; MEL_BINS] = [1.0; MEL_BINS];

/// A microphone's response, a factor of every mel power: a slope and two waves along the bands, and sometimes an end to them.
pub(crate) fn channel(augment: &Augment, rng: &mut ChaCha8Rng) -> [f32; MEL_BINS] {
    let (mut response_db, waves) = ([0f32; MEL_BINS], [0.5f32, 1.0, 2.0]);
    for wave in waves {
        let size = symmetric(augment.channel_db, rng) / waves.len() as f32;
        let start = rng.random_range(0.0..std::f32::consts::TAU);
        for (band, db) in response_db.iter_mut().enumerate() {
            let angle = start + wave * std::f32::consts::TAU * band as f32 / MEL_BINS as f32;
            *db += size * libm::cosf(angle);
        }
    }
    if rng.random_bool(f64::from(augment.narrow_probability)) {
        let [low, high] = augment.narrow_hz;
        let end_hz = rng.random_range(low..=high);
        for (band, db) in response_db.iter_mut().enumerate() {
            let above = ((centre_hz(band) - end_hz) / NARROW_SLOPE_HZ).clamp(0.0, 1.0);
            *db -= NARROW_DB * above;
        }
    }
    // Of powers, twice as many as of amplitudes.
    response_db.map(|db| decibel(2.0 * db))
}

/// Where the triangle of a mel band has its peak: 40 of them, equally spaced on the HTK mel scale from 0 to 8000 Hz.
fn centre_hz(band: usize) -> f32 {
    let top_mel = 2_595.0 * libm::log10f(1.0 + 8_000.0 / 700.0);
    let mel = top_mel * (band + 1) as f32 / (MEL_BINS + 1) as f32;
    700.0 * (libm::powf(10.0, mel / 2_595.0) - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;

    #[test]
    fn blocks_interpolate_as_one_sample_at_a_time_to_the_bit() {
        let clip: Vec<i16> = (0..CLIP_SAMPLES)
            .map(|i| ((i * 7_919) % 65_536) as u16 as i16)
            .collect();
        let at = |i: i64| match usize::try_from(i) {
            Ok(i) if i < CLIP_SAMPLES => to_float(clip[i]),
            _ => 0.0,
        };
        for (gain, start, speed) in [(1.0, 0i64, 1.0f32), (0.7, -1_234, 0.88), (1.9, 9_777, 1.12)] {
            let mut found = vec![0.1f32; EXAMPLE_SAMPLES];
            play(&mut found, &clip, start, gain, speed);
            let length = played(CLIP_SAMPLES, speed) as i64;
            for (k, found) in found.iter().enumerate() {
                let k = k as i64 - start;
                let mut expected = 0.1;
                if (0..length).contains(&k) {
                    let position = k as f32 * speed;
                    let i = position as i64;
                    let f = position - i as f32;
                    let [a, b, c, d] = [at(i - 1), at(i), at(i + 1), at(i + 2)];
                    let cubic = b + 0.5
                        * f
                        * (c - a
                            + f * (2.0 * a - 5.0 * b + 4.0 * c - d + f * (3.0 * (b - c) + d - a)));
                    let fade =
                        ((k as f32 + 1.0).min((length - k) as f32) / FADE_SAMPLES).clamp(0.0, 1.0);
                    expected += gain * fade * cubic;
                }
                assert_eq!(found.to_bits(), expected.to_bits(), "sample {k}");
            }
        }
    }

    #[test]
    fn speed_shortens_what_is_played() {
        let mut clip = vec![0i16; CLIP_SAMPLES];
        clip[8_000..8_100].fill(16_384);
        let mut fast = vec![0f32; EXAMPLE_SAMPLES];
        play(&mut fast, &clip, 1_000, 1.0, 2.0);
        let loud = |x: &[f32]| x.iter().filter(|v| **v > 0.25).count();
        assert_eq!(loud(&fast), 50);
        assert_eq!(fast[1_000 + 4_020], 0.5);
    }

    #[test]
    fn a_narrow_microphone_hears_nothing_above_its_end() {
        let augment = Augment {
            channel_db: 0.0,
            narrow_probability: 1.0,
            narrow_hz: [3_400.0, 3_400.0],
            ..crate::config::resolve::<crate::config::BaseConfig>(
                None,
                crate::config::BASE_DEFAULT,
                &[],
            )
            .expect("the built-in configuration")
            .augment
        };
        assert!((centre_hz(13) - 1_000.0).abs() < 50.0 && centre_hz(39) < 8_000.0);
        let response = channel(&augment, &mut generator(1, &[]));
        for (band, factor) in response.iter().enumerate() {
            let expected = match centre_hz(band) {
                hz if hz <= 3_400.0 => 1.0..=1.0,
                hz if hz >= 3_900.0 => 0.9e-6..=1.1e-6,
                _ => 1e-6..=1.0,
            };
            assert!(expected.contains(factor), "band {band}: {factor}");
        }
        let flat = Augment {
            narrow_probability: 0.0,
            ..augment
        };
        assert_eq!(channel(&flat, &mut generator(1, &[])), FLAT);
    }

    #[test]
    fn a_room_adds_what_it_is_told_and_nothing_before_the_sound() {
        for direct_db in [0.0, 10.0] {
            let mut scene = vec![0f32; CLIP_SAMPLES];
            scene[1_000] = 1.0;
            add_room(&mut scene, 0.5, direct_db, &mut generator(1, &[]));
            assert!(scene[..1_000].iter().all(|s| *s == 0.0));
            assert_eq!(scene[1_000], 1.0);
            let reflected: f32 = scene[1_001..].iter().map(|s| s * s).sum();
            let found = -10.0 * reflected.log10();
            assert!(
                (found - direct_db).abs() < 0.5,
                "{found} dB, {direct_db} wanted"
            );
        }
    }
}
