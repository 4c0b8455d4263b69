//! Background recordings, and noise made in code for data that brings none: 16 kHz mono samples in [-1, 1].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::error::DatasetError;
use crate::load::{CLIP_SAMPLES, decode_file};

/// A recording without speech. Its first 80 % serve TRAIN and DEV, its last 20 % TEST.
#[derive(Debug, Clone, PartialEq)]
pub struct Background {
    /// The file, or a name in angle brackets for noise made in code.
    pub path: PathBuf,
    /// 16 kHz mono, [-1, 1].
    pub samples: Vec<f32>,
}

/// The shortest recording of use: its last 20 % must hold a clip.
const SHORTEST_SAMPLES: usize = 5 * CLIP_SAMPLES;

impl Background {
    /// The first 80 %: for training, augmentation and DEV.
    pub fn train_part(&self) -> &[f32] {
        &self.samples[..self.border()]
    }

    /// The last 20 %: for TEST and test streams.
    pub fn test_part(&self) -> &[f32] {
        &self.samples[self.border()..]
    }

    /// Index of the first sample of [`test_part`](Self::test_part).
    pub fn border(&self) -> usize {
        self.samples.len() / 5 * 4
    }
}

/// Decodes the noise files; without any usable one, a minute each of pink and white noise. The second value tells what was done instead of the obvious.
pub(crate) fn backgrounds(
    files: &[PathBuf],
) -> Result<(Vec<Arc<Background>>, Vec<String>), DatasetError> {
    let mut recordings = Vec::new();
    let mut notes = Vec::new();
    for path in files {
        let samples = decode_file(path)?;
        if samples.len() < SHORTEST_SAMPLES {
            notes.push(format!(
                "{}: background recording left out, it is shorter than 5 s",
                path.display()
            ));
            continue;
        }
        recordings.push(Arc::new(Background {
            path: path.clone(),
            samples,
        }));
    }
    if recordings.is_empty() {
        notes.push("no background recordings found: a minute each of pink and white noise made in code is used".to_owned());
        for (name, make) in [
            ("<pink noise>", pink_noise as fn(u64, usize) -> Vec<f32>),
            ("<white noise>", white_noise),
        ] {
            // An RMS of -26 dBFS, about that of recorded household noise.
            let samples = make(0, 60 * CLIP_SAMPLES)
                .iter()
                .map(|sample| 0.05 * sample)
                .collect();
            recordings.push(Arc::new(Background {
                path: Path::new(name).to_path_buf(),
                samples,
            }));
        }
    }
    Ok((recordings, notes))
}

/// `samples` samples of white noise of RMS 1, uniformly distributed (so never beyond 1.74). The same seed gives the same bits everywhere.
pub fn white_noise(seed: u64, samples: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let root_3 = 3f32.sqrt();
    (0..samples)
        .map(|_| root_3 * rng.random_range(-1.0f32..1.0))
        .collect()
}

/// `samples` samples of pink noise (power falling 3 dB an octave) of RMS 1. The same seed gives the same bits everywhere.
///
/// White noise through Paul Kellet's "economy" filter of three one-pole sections, as published on
/// <https://www.firstpr.com.au/dsp/pink-noise/>; within 0.5 dB of the slope from 10 Hz up at 44.1 kHz.
pub fn pink_noise(seed: u64, samples: usize) -> Vec<f32> {
    let mut poles = [0f32; 3];
    let mut pink: Vec<f32> = white_noise(seed, samples)
        .into_iter()
        .map(|white| {
            for (state, (pole, gain)) in poles.iter_mut().zip([
                (0.99765, 0.099_046),
                (0.963, 0.296_516_4),
                (0.57, 1.052_691_3),
            ]) {
                *state = pole * *state + white * gain;
            }
            poles.iter().sum::<f32>() + white * 0.1848
        })
        .collect();
    let power = pink
        .iter()
        .map(|sample| f64::from(*sample).powi(2))
        .sum::<f64>()
        / samples.max(1) as f64;
    let scale = if power > 0.0 {
        (1.0 / power.sqrt()) as f32
    } else {
        0.0
    };
    pink.iter_mut().for_each(|sample| *sample *= scale);
    pink
}
