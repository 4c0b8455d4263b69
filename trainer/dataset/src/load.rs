//! Samples of clips: a [`Clip`] in, exactly one second at 16 kHz out.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use swr_core::audio::{AudioError, Format, decode, to_16k_mono};

use crate::error::DatasetError;
use crate::task::{Clip, Source};

/// Samples of a clip: 1 s at 16 kHz.
pub const CLIP_SAMPLES: usize = 16_000;

/// The samples of a clip: 16,000 at 16 kHz mono, [-1, 1]; see [`fit_one_second`] for files of another length.
pub fn load(clip: &Clip) -> Result<Vec<f32>, DatasetError> {
    match &clip.source {
        Source::File(path) => Ok(fit_one_second(&decode_file(path)?)),
        Source::Crop {
            recording,
            start_samples,
            gain,
        } => {
            let crop = recording
                .samples
                .iter()
                .skip(*start_samples)
                .take(CLIP_SAMPLES);
            Ok(fit_one_second(
                &crop.map(|sample| gain * sample).collect::<Vec<_>>(),
            ))
        }
    }
}

/// Loads all clips on all cores, in their order. `progress` hears the number of clips done so far, from any thread.
pub fn load_all(
    clips: &[Clip],
    progress: impl Fn(usize) + Sync,
) -> Result<Vec<Vec<f32>>, DatasetError> {
    in_parallel(clips, progress, |samples| samples)
}

/// As [`load_all`] in half the memory: 16-bit samples, `round(32768 * x)` held within the 16-bit range.
pub fn load_all_i16(
    clips: &[Clip],
    progress: impl Fn(usize) + Sync,
) -> Result<Vec<Vec<i16>>, DatasetError> {
    // The conversion saturates: 1.0 becomes 32767.
    in_parallel(clips, progress, |samples| {
        samples
            .iter()
            .map(|sample| (32768.0 * sample).round() as i16)
            .collect()
    })
}

fn in_parallel<T: Send>(
    clips: &[Clip],
    progress: impl Fn(usize) + Sync,
    convert: impl Fn(Vec<f32>) -> T + Sync,
) -> Result<Vec<T>, DatasetError> {
    let done = AtomicUsize::new(0);
    clips
        .par_iter()
        .map(|clip| {
            let samples = load(clip)?;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            Ok(convert(samples))
        })
        .collect()
}

/// One second of `samples`: shorter audio is centred between zeros, of longer audio the most energetic second is kept (the first of equals, in
/// steps of 10 ms). The result has 16,000 samples.
pub fn fit_one_second(samples: &[f32]) -> Vec<f32> {
    if samples.len() <= CLIP_SAMPLES {
        let mut second = vec![0.0; CLIP_SAMPLES];
        let start = (CLIP_SAMPLES - samples.len()) / 2;
        second[start..start + samples.len()].copy_from_slice(samples);
        return second;
    }
    const STEP_SAMPLES: usize = 160;
    let energies: Vec<f64> = samples
        .chunks(STEP_SAMPLES)
        .map(|step| step.iter().map(|sample| f64::from(*sample).powi(2)).sum())
        .collect();
    let steps = CLIP_SAMPLES / STEP_SAMPLES;
    let mut energy: f64 = energies[..steps].iter().sum();
    let (mut best, mut best_step) = (energy, 0);
    // The last second may begin between two steps, and its last step be a short one.
    for step in 1..=(samples.len() - CLIP_SAMPLES).div_ceil(STEP_SAMPLES) {
        energy += energies[step + steps - 1] - energies[step - 1];
        // The margin keeps rounding from preferring a later one of equals.
        if energy > best * (1.0 + 1e-9) {
            (best, best_step) = (energy, step);
        }
    }
    let start = (best_step * STEP_SAMPLES).min(samples.len() - CLIP_SAMPLES);
    samples[start..start + CLIP_SAMPLES].to_vec()
}

/// All samples of an audio file, 16 kHz mono; what exceeds full scale (float WAV can) is clipped.
///
/// # Errors
/// For a file that cannot be read, or is no WAV, FLAC or Ogg Opus.
pub fn decode_file(path: &Path) -> Result<Vec<f32>, DatasetError> {
    let bytes = fs::read(path).map_err(DatasetError::io(path))?;
    let whole = decode(&bytes).and_then(|audio| match audio.notes.as_slice() {
        [] => to_16k_mono(audio),
        // Half a word is worse than none.
        notes => Err(AudioError::Damaged {
            format: Format::Wav,
            problem: notes.join("; "),
        }),
    });
    let mut samples = whole.map_err(|source| DatasetError::Audio {
        path: path.to_path_buf(),
        source,
    })?;
    samples
        .iter_mut()
        .for_each(|sample| *sample = sample.clamp(-1.0, 1.0));
    Ok(samples)
}
