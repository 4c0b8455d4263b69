//! Accuracy of deployed weights on clips, by the one protocol of every method and language: network state zero, digital silence
//! before the clip, and the answer of [`clip_answer`].

use anyhow::Result;
use candle_core::{Device, Tensor};
use serde::Serialize;
use serde_json::{Value, json};
use swr_core::detector::clip_answer;
use swr_dataset::{SILENCE, UNKNOWN, wilson_interval};

use crate::architecture::CONTEXT_FRAMES;
use crate::examples::{Clips, Examples, for_each_plain_batch};
use crate::network::{Network, Pass, Weights, flat_logits};
use crate::reparam::Layout;

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

impl Evaluation {
    /// The figures, for records and `--json`.
    pub fn summary(&self) -> Value {
        let (low, high) = self.all.interval();
        json!({
            "clips": self.all.clips,
            "accuracy": self.all.accuracy(),
            "interval": [low, high],
            "keywords": self.keywords,
            "unknown": self.unknown,
            "silence": self.silence,
        })
    }
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
    network: &dyn Network,
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
    let judge = Judge::new(network, weights, labels.len(), window_frames)?;
    for_each_plain_batch(examples, batch, |batch| {
        let truth: Vec<u32> = batch.labels.to_vec1()?;
        let answers = judge.answers(&batch)?;
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

/// A network with its weights, which says what clips are.
pub struct Judge<'a> {
    network: &'a dyn Network,
    /// All weights in a flat vector.
    weights: Tensor,
    classes: usize,
    window_frames: usize,
}

impl<'a> Judge<'a> {
    /// A network of `classes` labels with deployed weights, whose logits are averaged over `window_frames`.
    ///
    /// # Errors
    /// If the weights are not the network's.
    pub fn new(
        network: &'a dyn Network,
        weights: &Weights,
        classes: usize,
        window_frames: usize,
    ) -> Result<Self> {
        let flat = Layout::new(network.tensors(classes)).pack(weights)?;
        Ok(Self {
            network,
            weights: Tensor::from_slice(&flat, flat.len(), &Device::Cpu)?,
            classes,
            window_frames,
        })
    }

    /// What each clip of a batch is heard as, and the highest posterior of a keyword in it.
    ///
    /// # Errors
    /// Those of the network.
    pub fn answers(&self, clips: &Clips) -> Result<Vec<(usize, f32)>> {
        let pass = Pass::evaluation();
        let (weights, classes) = (&self.weights, self.classes);
        let logits = flat_logits(self.network, weights, classes, &clips.log_mel, &pass)?;
        let (batch, _, frames) = logits.dims3()?;
        let of_clip = logits
            .narrow(2, CONTEXT_FRAMES, frames - CONTEXT_FRAMES)?
            .transpose(1, 2)?
            .contiguous()?;
        let of_clip: Vec<f32> = of_clip.flatten_all()?.to_vec1()?;
        of_clip
            .chunks_exact(of_clip.len() / batch)
            .map(|logits| Ok(clip_answer(logits, classes, self.window_frames)?))
            .collect()
    }
}
