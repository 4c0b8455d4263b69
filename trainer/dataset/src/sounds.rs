//! Sounds made in code that are no speech: tones, beeps, sirens, hum, clicks. The same call gives the same samples.
//!
//! A device hears them in every home, and nobody has spoken: to train on, drawn at random, and to judge by, as a fixed list ([`household`]).

use std::f32::consts::TAU;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use swr_core::SAMPLE_RATE_HZ;

/// A sound by its nature; frequencies in Hz, times in seconds, levels as amplitudes of the loudest partial.
#[derive(Debug, Clone, PartialEq)]
pub enum Sound {
    /// Partials that sound together, each with its amplitude, without end.
    Tone(Vec<(f32, f32)>),
    /// The same, on and off.
    Beeps {
        /// Frequencies and amplitudes.
        partials: Vec<(f32, f32)>,
        /// Time on.
        on_s: f32,
        /// Time off.
        off_s: f32,
    },
    /// A tone that rises and falls.
    Siren {
        /// Lowest frequency.
        low_hz: f32,
        /// Highest frequency.
        high_hz: f32,
        /// Time of a rise and a fall.
        period_s: f32,
    },
    /// Struck resonances, irregularly.
    Clicks {
        /// Frequency of the resonance.
        ring_hz: f32,
        /// Time in which it falls to a thousandth.
        ring_s: f32,
        /// Clicks a second, on average.
        per_s: f32,
        /// Seed of the times.
        seed: u64,
    },
}

/// Tones begin and end within 5 ms.
const RAMP_SAMPLES: f32 = 80.0;

impl Sound {
    /// `samples` samples at 16 kHz, of amplitude 1 for the loudest partial or click.
    pub fn render(&self, samples: usize) -> Vec<f32> {
        let rate = SAMPLE_RATE_HZ as f32;
        match self {
            Sound::Tone(partials) => {
                let mut sound = tone(partials, samples);
                ramp(&mut sound);
                sound
            }
            Sound::Beeps {
                partials,
                on_s,
                off_s,
            } => {
                let mut sound = tone(partials, samples);
                let on = ((on_s * rate) as usize).max(1);
                let period = on + (off_s * rate) as usize;
                for part in sound.chunks_mut(period) {
                    let on = on.min(part.len());
                    ramp(&mut part[..on]);
                    part[on..].fill(0.0);
                }
                sound
            }
            Sound::Siren {
                low_hz,
                high_hz,
                period_s,
            } => {
                let mut phase = 0f32;
                let mut sound: Vec<f32> = (0..samples)
                    .map(|k| {
                        let place = (k as f32 / (period_s * rate)).fract();
                        let rise = 1.0 - (2.0 * place - 1.0).abs();
                        phase = (phase + (low_hz + rise * (high_hz - low_hz)) / rate).fract();
                        libm::sinf(TAU * phase)
                    })
                    .collect();
                ramp(&mut sound);
                sound
            }
            Sound::Clicks {
                ring_hz,
                ring_s,
                per_s,
                seed,
            } => {
                let mut rng = ChaCha8Rng::seed_from_u64(*seed);
                let mut sound = vec![0f32; samples];
                let length = ((ring_s * rate) as usize).max(1);
                let click: Vec<f32> = (0..length)
                    .map(|k| {
                        let time = k as f32 / rate;
                        libm::powf(10.0, -3.0 * time / ring_s)
                            * libm::sinf(TAU * (ring_hz * time).fract())
                    })
                    .collect();
                let mut at = 0.0;
                loop {
                    // Exponential pauses: clicks come without memory.
                    at -= libm::logf(1.0 - rng.random::<f32>()) / per_s * rate;
                    if at >= samples as f32 {
                        return sound;
                    }
                    for (s, c) in sound[at as usize..].iter_mut().zip(&click) {
                        *s = (*s + c).clamp(-1.0, 1.0);
                    }
                }
            }
        }
    }

    /// A sound drawn at random.
    pub fn random(rng: &mut ChaCha8Rng) -> Sound {
        let pitch = |rng: &mut ChaCha8Rng| 60.0 * libm::powf(100.0, rng.random::<f32>());
        let partials = |rng: &mut ChaCha8Rng, first: f32| -> Vec<(f32, f32)> {
            let count = rng.random_range(1..=4u32);
            // Half of them harmonic, as of an instrument or a motor, half as they come.
            let harmonic = rng.random::<bool>();
            (1..=count)
                .map(|n| {
                    let hz = match (n, harmonic) {
                        (1, _) => first,
                        (n, true) => first * n as f32,
                        (_, false) => pitch(rng),
                    };
                    let amplitude = if n == 1 { 1.0 } else { rng.random::<f32>() };
                    (hz.min(7_900.0), amplitude)
                })
                .collect()
        };
        let first = pitch(rng);
        match rng.random_range(0..10u32) {
            0..=3 => Sound::Tone(partials(rng, first)),
            4..=6 => Sound::Beeps {
                partials: partials(rng, first),
                on_s: rng.random_range(0.03..0.8),
                off_s: rng.random_range(0.03..0.8),
            },
            7 => {
                let mains_hz = if rng.random() { 50.0 } else { 60.0 };
                let harmonics = (1..=12).map(|n| (mains_hz * n as f32, rng.random::<f32>()));
                Sound::Tone(harmonics.collect())
            }
            8 => Sound::Siren {
                low_hz: first,
                high_hz: (first * rng.random_range(1.1..3.0)).min(7_900.0),
                period_s: rng.random_range(0.2..4.0),
            },
            _ => Sound::Clicks {
                ring_hz: first,
                ring_s: rng.random_range(0.005..0.15),
                per_s: rng.random_range(1.0..20.0),
                seed: rng.random(),
            },
        }
    }
}

/// A sound made in code, with its name and its level.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// For people.
    pub name: String,
    /// What it is.
    pub sound: Sound,
    /// Level of its loudest partial, in dBFS.
    pub level_db: f32,
}

impl Made {
    /// `seconds` seconds of it after half a second of silence, 16 kHz.
    pub fn samples(&self, seconds: usize) -> Vec<f32> {
        let rate = SAMPLE_RATE_HZ as usize;
        let amplitude = libm::powf(10.0, self.level_db / 20.0);
        let sound = self.sound.render(seconds * rate);
        let sound = sound.iter().map(|s| (amplitude * s).clamp(-1.0, 1.0));
        std::iter::repeat_n(0.0, rate / 2).chain(sound).collect()
    }
}

/// 120 steady tones: 40 frequencies from 100 to 4,000 Hz, evenly by ratio, each at three levels. None of them is a word.
pub fn steady_tones() -> Vec<Made> {
    let frequencies = (0..40).map(|n| 100.0 * libm::powf(40.0, n as f32 / 39.0));
    let tones = frequencies.flat_map(|hz| {
        [-6.0, -20.0, -34.0].map(|level_db| Made {
            name: format!("{hz:.0} Hz at {level_db} dBFS"),
            sound: Sound::Tone(vec![(hz, 1.0)]),
            level_db,
        })
    });
    tones.collect()
}

/// Sounds of a household that are made of tones, and one of clicks. None of them is a word.
pub fn household() -> Vec<Made> {
    let mains = |hz: f32| {
        let harmonics = (1..=10).map(|n| (hz * n as f32, 1.0 / n as f32));
        Sound::Tone(harmonics.collect())
    };
    let beeps = |partials: &[f32], on_s, off_s| Sound::Beeps {
        partials: partials.iter().map(|hz| (*hz, 1.0)).collect(),
        on_s,
        off_s,
    };
    let sounds = [
        ("dial tone", Sound::Tone(vec![(350.0, 1.0), (440.0, 1.0)])),
        ("busy tone", beeps(&[480.0, 620.0], 0.5, 0.5)),
        ("ringing tone", beeps(&[440.0, 480.0], 2.0, 4.0)),
        ("smoke alarm", beeps(&[3_100.0], 0.5, 0.5)),
        ("oven", beeps(&[2_048.0], 0.25, 0.25)),
        ("microwave oven", beeps(&[1_000.0], 1.0, 1.0)),
        ("mains hum, 50 Hz", mains(50.0)),
        ("mains hum, 60 Hz", mains(60.0)),
        (
            "siren",
            Sound::Siren {
                low_hz: 600.0,
                high_hz: 1_500.0,
                period_s: 3.0,
            },
        ),
        (
            "keys",
            Sound::Clicks {
                ring_hz: 2_500.0,
                ring_s: 0.03,
                per_s: 6.0,
                seed: 1,
            },
        ),
    ];
    let made = |(name, sound): (&str, Sound)| Made {
        name: name.to_owned(),
        sound,
        level_db: -20.0,
    };
    sounds.into_iter().map(made).collect()
}

fn tone(partials: &[(f32, f32)], samples: usize) -> Vec<f32> {
    let mut sound = vec![0f32; samples];
    for (hz, amplitude) in partials {
        // A turning pointer in f64, whose length stays 1 for hours: two multiplications a sample instead of a sine.
        let step = std::f64::consts::TAU * f64::from(*hz) / f64::from(SAMPLE_RATE_HZ);
        let (turn_sin, turn_cos) = libm::sincos(step);
        let (mut sin, mut cos) = (0f64, 1f64);
        for s in &mut sound {
            *s += amplitude * sin as f32;
            (sin, cos) = (
                sin * turn_cos + cos * turn_sin,
                cos * turn_cos - sin * turn_sin,
            );
        }
    }
    sound
}

fn ramp(sound: &mut [f32]) {
    let length = sound.len();
    for (index, sample) in sound.iter_mut().enumerate() {
        let to_edge = (index + 1).min(length - index) as f32;
        *sample *= (to_edge / RAMP_SAMPLES).min(1.0);
    }
}
