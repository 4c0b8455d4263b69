//! Samples of clips: a [`Clip`] in, exactly one second at 16 kHz out.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use swr_core::audio::{Note, decode, to_16k_mono};

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
                .skip(start_samples - recording.start_samples)
                .take(CLIP_SAMPLES);
            Ok(fit_one_second(
                &crop.map(|sample| gain * sample).collect::<Vec<_>>(),
            ))
        }
    }
}

/// Loads clips on all cores, in their order. `progress` hears the number of clips done so far, from any thread.
///
/// # Errors
/// [`DatasetError::Unread`], which names every clip that cannot be loaded.
pub fn load_all(
    clips: &[Clip],
    progress: impl Fn(usize) + Sync,
) -> Result<Vec<Vec<f32>>, DatasetError> {
    let mut faults = Faults::default();
    let samples = load_readable(&mut clips.to_vec(), &mut faults, progress);
    match faults.unread.is_empty() {
        true => Ok(samples),
        false => Err(DatasetError::Unread(faults)),
    }
}

/// As [`load_all`], but a clip that cannot be loaded is taken out of `clips` and named among the faults.
pub fn load_readable(
    clips: &mut Vec<Clip>,
    faults: &mut Faults,
    progress: impl Fn(usize) + Sync,
) -> Vec<Vec<f32>> {
    in_parallel(clips, faults, progress, |samples| samples)
}

/// As [`load_readable`] in half the memory: 16-bit samples, `round(32768 * x)` held within the 16-bit range.
pub fn load_readable_i16(
    clips: &mut Vec<Clip>,
    faults: &mut Faults,
    progress: impl Fn(usize) + Sync,
) -> Vec<Vec<i16>> {
    // The conversion saturates: 1.0 becomes 32767.
    in_parallel(clips, faults, progress, |samples| {
        samples
            .iter()
            .map(|sample| (32768.0 * sample).round() as i16)
            .collect()
    })
}

fn in_parallel<T: Send>(
    clips: &mut Vec<Clip>,
    faults: &mut Faults,
    progress: impl Fn(usize) + Sync,
    convert: impl Fn(Vec<f32>) -> T + Sync,
) -> Vec<T> {
    let done = AtomicUsize::new(0);
    let loaded: Vec<(Option<T>, Faults)> = clips
        .par_iter()
        .map(|clip| {
            let mut faults = Faults::default();
            let samples = match &clip.source {
                Source::File(path) => faults.decode(path).map(|all| fit_one_second(&all)),
                // In memory.
                Source::Crop { .. } => load(clip).ok(),
            };
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            (samples.map(&convert), faults)
        })
        .collect();
    let mut loaded = loaded.into_iter();
    let mut samples = Vec::with_capacity(clips.len());
    clips.retain(|_| {
        let (found, of_clip) = loaded.next().unwrap_or_default();
        faults.add(of_clip);
        let is_there = found.is_some();
        samples.extend(found);
        is_there
    });
    samples
}

/// Files that could not be read, or were used though something is to be told of them; `Display` counts and names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    /// Left out, each with the reason.
    pub unread: Vec<(PathBuf, String)>,
    /// Used, each with what is to be told.
    pub noted: Vec<(PathBuf, String)>,
}

/// Files of a kind that are named; a folder of many thousands may be of a format that is not read.
const NAMED: usize = 1_000;

impl Faults {
    /// The samples of a file, unless it cannot be read; either way what is to be told is kept.
    pub fn decode(&mut self, path: &Path) -> Option<Vec<f32>> {
        match decode_noted(path) {
            Ok((samples, notes)) => {
                let notes = notes
                    .into_iter()
                    .map(|note| (path.to_owned(), note.problem));
                self.noted.extend(notes);
                Some(samples)
            }
            Err(DatasetError::Audio { source, .. }) => {
                self.unread.push((path.to_owned(), source.to_string()));
                None
            }
            Err(error) => {
                self.unread.push((path.to_owned(), error.to_string()));
                None
            }
        }
    }

    /// Takes over what is to be told of other files.
    pub fn add(&mut self, others: Faults) {
        self.unread.extend(others.unread);
        self.noted.extend(others.noted);
    }

    /// Nothing is to be told.
    pub fn is_empty(&self) -> bool {
        self.unread.is_empty() && self.noted.is_empty()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (what, files) in [
            ("cannot be read", &self.unread),
            ("used, but to be looked at", &self.noted),
        ] {
            if files.is_empty() {
                continue;
            }
            write!(out, "{between}{} files {what}: ", files.len())?;
            for (place, (path, problem)) in files.iter().take(NAMED).enumerate() {
                let comma = if place > 0 { ", " } else { "" };
                write!(out, "{comma}{} ({problem})", path.display())?;
            }
            if files.len() > NAMED {
                write!(out, " and {} more", files.len() - NAMED)?;
            }
            between = "; ";
        }
        Ok(())
    }
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
/// For a file that cannot be read, is of no format that is read here, or lacks a part.
pub fn decode_file(path: &Path) -> Result<Vec<f32>, DatasetError> {
    decode_noted(path).map(|(samples, _)| samples)
}

/// As [`decode_file`], with what is to be told of the file.
fn decode_noted(path: &Path) -> Result<(Vec<f32>, Vec<Note>), DatasetError> {
    let bytes = fs::read(path).map_err(DatasetError::io(path))?;
    let unusable = |source| DatasetError::Audio {
        path: path.to_path_buf(),
        source,
    };
    let mut audio = decode(&bytes).map_err(unusable)?;
    let notes = std::mem::take(&mut audio.notes);
    // Half a word is worse than none.
    if let Some(note) = notes.iter().find(|note| note.lost) {
        return Err(DatasetError::Incomplete {
            path: path.to_path_buf(),
            problem: note.problem.clone(),
        });
    }
    let mut samples = to_16k_mono(audio).map_err(unusable)?;
    samples
        .iter_mut()
        .for_each(|sample| *sample = sample.clamp(-1.0, 1.0));
    Ok((samples, notes))
}
