//! Background recordings, and noise made in code for data that brings none: 16 kHz mono samples in [-1, 1].

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::layout::{RoleFile, Split};
use crate::load::CLIP_SAMPLES;
use crate::task::Report;

/// A recording without words to learn. One that is for all sets serves TRAIN and DEV with its first 80 %, TEST with its last 20 %.
#[derive(Debug, Clone, PartialEq)]
pub struct Background {
    /// The file, or a name in angle brackets for noise made in code.
    pub path: PathBuf,
    /// Sample of the file that the first one here is; not 0 where only a part of it is kept.
    pub start_samples: usize,
    /// 16 kHz mono, [-1, 1].
    pub samples: Vec<f32>,
    /// The only set that it serves; none for all.
    pub split: Option<Split>,
}

/// The shortest recording of use for all sets: its last 20 % must hold a clip.
const SHORTEST_SAMPLES: usize = 5 * CLIP_SAMPLES;
/// Where short recordings are joined, each is faded in and out over 10 ms.
const FADE_SAMPLES: usize = 160;

impl Background {
    /// Which samples serve a set; perhaps none.
    pub fn range(&self, split: Split) -> Range<usize> {
        let border = self.samples.len() / 5 * 4;
        match self.split {
            None if split == Split::Test => border..self.samples.len(),
            None => 0..border,
            Some(own) if own == split => 0..self.samples.len(),
            Some(_) => 0..0,
        }
    }

    /// The samples that serve a set; perhaps none.
    pub fn part(&self, split: Split) -> &[f32] {
        &self.samples[self.range(split)]
    }
}

/// Decodes the noise files; short ones of a set are joined, and a set without any gets a minute each of pink and white noise. What was done instead of the obvious,
/// and what could not be read, goes to the report.
pub(crate) fn backgrounds(files: &[RoleFile], report: &mut Report) -> Vec<Arc<Background>> {
    let mut recordings = Vec::new();
    for split in [
        None,
        Some(Split::Train),
        Some(Split::Dev),
        Some(Split::Test),
    ] {
        let shortest = split.map_or(SHORTEST_SAMPLES, |_| CLIP_SAMPLES);
        let (mut joined, mut short) = (Vec::new(), 0);
        for file in files.iter().filter(|file| file.split == split) {
            let mut samples = match report.faults.decode(&file.path) {
                Some(samples) => samples,
                None => continue,
            };
            if samples.len() < shortest {
                fade(&mut samples);
                joined.extend(samples);
                short += 1;
                continue;
            }
            recordings.push(Arc::new(Background {
                path: file.path.clone(),
                start_samples: 0,
                samples,
                split,
            }));
        }
        if joined.len() >= shortest {
            report.notes.push(format!(
                "{short} background recordings shorter than {} s are joined to one of {} s",
                shortest / CLIP_SAMPLES,
                joined.len() / CLIP_SAMPLES
            ));
            recordings.push(Arc::new(Background {
                path: format!("<{short} short recordings>").into(),
                start_samples: 0,
                samples: joined,
                split,
            }));
        } else if short > 0 {
            report.notes.push(format!(
                "{short} background recordings left out: together they are shorter than {} s",
                shortest / CLIP_SAMPLES
            ));
        }
    }
    let without: Vec<Split> = Split::ALL
        .into_iter()
        .filter(|split| {
            recordings
                .iter()
                .all(|found| found.range(*split).is_empty())
        })
        .collect();
    if without.is_empty() {
        return recordings;
    }
    let all = without.len() == Split::ALL.len();
    let names: Vec<&str> = without.iter().map(|split| split.name()).collect();
    report.notes.push(format!(
        "no background recordings{}: a minute each of pink and white noise made in code is used",
        if all {
            " found".to_owned()
        } else {
            format!(" for {}", names.join(" and "))
        }
    ));
    let roles: Vec<Option<Split>> = match all {
        true => vec![None],
        false => without.into_iter().map(Some).collect(),
    };
    for split in roles {
        for (name, make) in [
            ("<pink noise>", pink_noise as fn(u64, usize) -> Vec<f32>),
            ("<white noise>", white_noise),
        ] {
            // Another for each set. An RMS of -26 dBFS is about that of recorded household noise.
            let seed = split.map_or(0, |split| 1 + split as u64);
            let samples = make(seed, 60 * CLIP_SAMPLES)
                .iter()
                .map(|sample| 0.05 * sample)
                .collect();
            recordings.push(Arc::new(Background {
                path: name.into(),
                start_samples: 0,
                samples,
                split,
            }));
        }
    }
    recordings
}

fn fade(samples: &mut [f32]) {
    let length = samples.len();
    for (index, sample) in samples.iter_mut().enumerate() {
        let to_edge = (index + 1).min(length - index) as f32;
        *sample *= (to_edge / FADE_SAMPLES as f32).min(1.0);
    }
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
