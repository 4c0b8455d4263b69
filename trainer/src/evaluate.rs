//! Accuracy of deployed weights on clips, by the one protocol of every method and language: network state zero, digital silence
//! before the clip, and the answer of [`clip_answer`].

pub(crate) mod command;

use anyhow::Result;
use serde::Serialize;
use swr_core::detector::clip_answer;
use swr_dataset::{SILENCE, UNKNOWN, wilson_interval};

use crate::architecture::{Architecture, CONTEXT_FRAMES};
use crate::examples::{Clips, Examples, for_each_plain_batch};
use crate::network::{Pass, Weights, frame_logits};

/// Correct clips out of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Share {
    /// Clips classified as labelled.
    pub correct: usize,
    /// Clips.
    pub clips: usize,
}

impl Share {
    fn add(&mut self, correct: bool) {
        self.correct += usize::from(correct);
        self.clips += 1;
    }

    /// Share of correct clips, 0 to 1; 0 without clips.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.clips.max(1) as f64
    }

    /// Wilson 95 % interval, clips taken as independent (clips of one speaker are not: the truth is wider).
    pub fn interval(&self) -> (f64, f64) {
        wilson_interval(self.correct, self.clips)
    }
}

/// What an evaluation found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// All clips.
    pub all: Share,
    /// Clips of keywords.
    pub keywords: Share,
    /// Clips of other words.
    pub unknown: Share,
    /// Clips without speech.
    pub silence: Share,
    /// `confusion[truth][prediction]`, in clips.
    pub confusion: Vec<Vec<usize>>,
}

impl std::fmt::Display for Evaluation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (low, high) = self.all.interval();
        let percent =
            |share: &Share| format!("{:.1} % of {}", 100.0 * share.accuracy(), share.clips);
        write!(
            f,
            "{} clips right ({:.1}-{:.1})",
            percent(&self.all),
            100.0 * low,
            100.0 * high
        )?;
        write!(
            f,
            ": keywords {}, unknown {}, silence {}",
            percent(&self.keywords),
            percent(&self.unknown),
            percent(&self.silence)
        )
    }
}

/// Classifies all `examples` with deployed weights, `batch` at a time.
pub fn evaluate(
    architecture: &Architecture,
    weights: &Weights,
    examples: &Examples,
    labels: &[String],
    window_frames: usize,
    batch: usize,
) -> Result<Evaluation> {
    let mut found = Evaluation {
        confusion: vec![vec![0; labels.len()]; labels.len()],
        ..Evaluation::default()
    };
    for_each_plain_batch(examples, batch, |batch| {
        let truth: Vec<u32> = batch.labels.to_vec1()?;
        let answers = answers(architecture, weights, &batch, window_frames)?;
        for (truth, (prediction, _)) in truth.into_iter().zip(answers) {
            let correct = truth as usize == prediction;
            found.all.add(correct);
            match labels[truth as usize].as_str() {
                UNKNOWN => found.unknown.add(correct),
                SILENCE => found.silence.add(correct),
                _ => found.keywords.add(correct),
            }
            found.confusion[truth as usize][prediction] += 1;
        }
        Ok(())
    })?;
    Ok(found)
}

/// What each clip of a batch is heard as, and the highest posterior of a keyword in it.
pub fn answers(
    architecture: &Architecture,
    weights: &Weights,
    clips: &Clips,
    window_frames: usize,
) -> Result<Vec<(usize, f32)>> {
    let logits = frame_logits(architecture, weights, &clips.log_mel, &Pass::evaluation())?;
    let (batch, classes, frames) = logits.dims3()?;
    let of_clip = logits
        .narrow(2, CONTEXT_FRAMES, frames - CONTEXT_FRAMES)?
        .transpose(1, 2)?
        .contiguous()?;
    let of_clip: Vec<f32> = of_clip.flatten_all()?.to_vec1()?;
    of_clip
        .chunks_exact(of_clip.len() / batch)
        .map(|logits| Ok(clip_answer(logits, classes, window_frames)?))
        .collect()
}
