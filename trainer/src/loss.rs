//! The loss of a stream: in the stretch where a word ends, its best frame must be the word; in every other frame no keyword may be.
//!
//! It sees what a device sees of each frame: the mean of the last `window_frames` logits, and its softmax. A word gives the cross entropy of its best
//! frame (max-pooling over time, arXiv 2001.09246), so that nobody need tell where exactly in its stretch the network should know it. What is no keyword
//! gives the loss of the frame most like one in every third of a second (hard regions, Hou et al., ICASSP 2020), and a share of the mean over all frames.
//! Value and gradient are computed together, in one pass over every scene; candle's own operations would take dozens over tensors of `[B, C, T]`.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::fused::values;

/// Frames of a region, of which the hardest counts: about as long as a false accept lasts.
const REGION_FRAMES: usize = 32;

/// Where the weights of what is no keyword begin.
const LEAST_SHARE: f32 = 0.05;

/// How much each part of the loss weighs. The mean over the words that are to be learned weighs 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossSettings {
    /// How the frames in which a word is due share its weight: as their posteriors to this power. 0 shares evenly, much more than 1 gives all to the best.
    pub sharpness: f32,
    /// The frame most like a keyword, in every region of about a third of a second that holds none.
    pub hard: f32,
    /// The mean over the frames of such a region.
    pub even: f32,
    /// Whether speech without keywords is `_unknown_` and everything else `_silence_`, the mean over the frames of a region.
    pub kind: f32,
    /// The mean over all frames of the cross entropy with a teacher's posteriors (Hinton et al., arXiv 1503.02531), where there is a teacher.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub teach: f32,
    /// Share of the first stage in which `hard` and `even` rise from a twentieth to what they are: with all of it at once, a network that knows nothing
    /// yet learns to say nothing, and stays there.
    pub rise: f32,
}

impl LossSettings {
    /// The weights when a share `done` of the first stage is over.
    pub fn at(self, done: f64) -> Self {
        let risen = match self.rise > 0.0 {
            true => (done as f32 / self.rise).min(1.0),
            false => 1.0,
        };
        let factor = LEAST_SHARE + (1.0 - LEAST_SHARE) * risen;
        Self {
            hard: factor * self.hard,
            even: factor * self.even,
            ..self
        }
    }

    /// Refuses weights that training could not run with.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, weight) in [
            ("sharpness", self.sharpness),
            ("hard", self.hard),
            ("even", self.even),
            ("kind", self.kind),
            ("teach", self.teach),
            ("rise", self.rise),
        ] {
            ensure!(
                weight >= 0.0 && weight.is_finite(),
                "loss.{name} = {weight}: expected 0 or more"
            );
        }
        Ok(())
    }
}

fn is_zero(weight: &f32) -> bool {
    *weight == 0.0
}

/// What is heard in a frame in which no keyword is to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Speech, or what is left of it in the averaging window.
    Speech,
    /// Something of both.
    Either,
    /// Anything but speech.
    Rest,
}

/// A keyword in a scene, in frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Its label.
    pub label: usize,
    /// Where its posterior may be high: while it sounds, and while it is in the averaging window.
    pub allowed: Range<usize>,
    /// Where its posterior must be high once.
    pub due: Range<usize>,
}

/// What a scene of `T` frames asks of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The first frame that is judged: before it, the network knows too little of what it hears.
    pub first: usize,
    /// Keywords, in order of time.
    pub words: Vec<Word>,
    /// What every frame holds beside them, `[T]`.
    pub heard: Vec<Heard>,
}

/// Words whose best frame is theirs, of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// Words of which, in the frame where their posterior is highest, no other class is likelier.
    pub known: usize,
    /// Words.
    pub words: usize,
}

impl Score {
    /// Share of words known, 0 to 1; 0 without words.
    pub fn share(self) -> f64 {
        self.known as f64 / self.words.max(1) as f64
    }
}

impl std::ops::AddAssign for Score {
    fn add_assign(&mut self, other: Self) {
        self.known += other.known;
        self.words += other.words;
    }
}

/// The loss of frame logits `[B, C, T]`, of which the last two classes are `_unknown_` and `_silence_`; a scalar: the mean over words, and
/// that over regions, weighed, and how far they are from a teacher's logits of the same shape; and how many of their words are known.
pub fn stream_loss(
    logits: &Tensor,
    targets: &[Target],
    window_frames: usize,
    settings: LossSettings,
    teacher: Option<&Tensor>,
) -> candle_core::Result<(Tensor, Score)> {
    let score = Arc::new(Mutex::new(Score::default()));
    if let Some(teacher) = teacher.filter(|t| t.shape() != logits.shape()) {
        candle_core::bail!(
            "stream-loss: expected a teacher's logits of shape {:?}, found {:?}",
            logits.shape(),
            teacher.shape()
        );
    }
    let teacher = teacher.map(|t| t.flatten_all()?.to_vec1()).transpose()?;
    let loss = logits.contiguous()?.apply_op1(StreamLoss {
        targets: targets.to_vec(),
        window_frames,
        settings,
        teacher,
        score: score.clone(),
        gradient: Mutex::new(None),
    })?;
    let score = *score.lock().expect("no holder of the score panics");
    Ok((loss, score))
}

struct StreamLoss {
    targets: Vec<Target>,
    window_frames: usize,
    settings: LossSettings,
    /// Of the same shape as the logits.
    teacher: Option<Vec<f32>>,
    /// Left by the forward pass.
    score: Arc<Mutex<Score>>,
    /// Of the logits, left by the forward pass.
    gradient: Mutex<Option<Vec<f32>>>,
}

impl CustomOp1 for StreamLoss {
    fn name(&self) -> &'static str {
        "stream-loss"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (batch, classes, frames) = layout.shape().dims3()?;
        if batch != self.targets.len() || self.targets.iter().any(|t| t.heard.len() != frames) {
            candle_core::bail!(
                "stream-loss: expected a target of {frames} frames for each of {batch} scenes, found {}",
                self.targets.len()
            );
        }
        let logits = values(logits, layout)?;
        let mut gradient = vec![0f32; logits.len()];
        let shares = Shares::of(&self.targets, frames);
        let learned: Vec<(f64, Score)> = gradient
            .par_chunks_mut(classes * frames)
            .zip(logits.par_chunks(classes * frames))
            .zip(&self.targets)
            .enumerate()
            .map(|(index, ((gradient, logits), target))| {
                let heard = |logits: &[f32]| Scene::new(logits, classes, self.window_frames);
                let teacher = self.teacher.as_ref();
                let teacher =
                    teacher.map(|all| heard(&all[index * logits.len()..][..logits.len()]));
                heard(logits).learn(target, &self.settings, &shares, teacher.as_ref(), gradient)
            })
            .collect();
        *self
            .gradient
            .lock()
            .expect("no holder of the gradient panics") = Some(gradient);
        let mut loss = 0f64;
        for (of_scene, score) in learned {
            loss += of_scene;
            *self.score.lock().expect("no holder of the score panics") += score;
        }
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        let gradient = self
            .gradient
            .lock()
            .expect("no holder of the gradient panics")
            .take();
        let Some(mut gradient) = gradient else {
            candle_core::bail!(
                "stream-loss: backward needs a forward pass before it, and only once"
            );
        };
        let factor: f32 = grad.to_scalar()?;
        if factor != 1.0 {
            gradient.iter_mut().for_each(|g| *g *= factor);
        }
        Tensor::from_vec(gradient, logits.shape(), logits.device()).map(Some)
    }
}

/// What one word and one region weigh in a batch: words and regions together count alike, however many there are.
struct Shares {
    word: f32,
    region: f32,
}

impl Shares {
    fn of(targets: &[Target], frames: usize) -> Self {
        let due = |word: &&Word| word.due.start < frames && !word.due.is_empty();
        let words: usize = targets
            .iter()
            .map(|t| t.words.iter().filter(due).count())
            .sum();
        let judged: usize = targets.iter().map(|t| frames.saturating_sub(t.first)).sum();
        Self {
            word: 1.0 / words.max(1) as f32,
            region: REGION_FRAMES as f32 / judged.max(1) as f32,
        }
    }
}

/// Posteriors of a scene as a device computes them, `[C, T]`.
pub(crate) struct Scene {
    posteriors: Vec<f32>,
    classes: usize,
    frames: usize,
    window_frames: usize,
}

impl Scene {
    /// Posteriors of frame logits `[C, T]`: at the start, the mean is of the frames there are.
    pub(crate) fn new(logits: &[f32], classes: usize, window_frames: usize) -> Self {
        let frames = logits.len() / classes;
        let mut posteriors = vec![0f32; logits.len()];
        for (mean, logits) in posteriors
            .chunks_exact_mut(frames)
            .zip(logits.chunks_exact(frames))
        {
            let mut sum = 0f64;
            for t in 0..frames {
                sum += f64::from(logits[t]);
                if t >= window_frames {
                    sum -= f64::from(logits[t - window_frames]);
                }
                mean[t] = (sum / (t + 1).min(window_frames) as f64) as f32;
            }
        }
        let (mut largest, mut sum) = (vec![f32::NEG_INFINITY; frames], vec![0f32; frames]);
        for row in posteriors.chunks_exact(frames) {
            largest
                .iter_mut()
                .zip(row)
                .for_each(|(l, z)| *l = l.max(*z));
        }
        for row in posteriors.chunks_exact_mut(frames) {
            for ((z, largest), sum) in row.iter_mut().zip(&largest).zip(&mut sum) {
                *z = (*z - largest).exp();
                *sum += *z;
            }
        }
        for row in posteriors.chunks_exact_mut(frames) {
            row.iter_mut().zip(&sum).for_each(|(p, sum)| *p /= sum);
        }
        Self {
            posteriors,
            classes,
            frames,
            window_frames,
        }
    }

    /// Posterior of a class in every frame, `[T]`.
    pub(crate) fn of(&self, class: usize) -> &[f32] {
        &self.posteriors[class * self.frames..][..self.frames]
    }

    /// The scene's part of the loss, and its gradient by the logits, added to `gradient`.
    fn learn(
        &self,
        target: &Target,
        settings: &LossSettings,
        shares: &Shares,
        teacher: Option<&Scene>,
        gradient: &mut [f32],
    ) -> (f64, Score) {
        let (keywords, frames) = (self.classes - 2, self.frames);
        // `max`, by which logarithms are kept finite below, would hide what is no number.
        if self.posteriors.iter().any(|p| p.is_nan()) {
            return (f64::NAN, Score::default());
        }
        let (mut loss, mut score) = (0f64, Score::default());
        // Of the mean logits, `[C, T]`: dl/dz = p - (what should be).
        let mut by_mean = vec![0f32; gradient.len()];
        for word in &target.words {
            let due = word.due.start.max(target.first)..word.due.end.min(frames);
            let row = self.of(word.label);
            let Some(best) = due.clone().max_by(|a, b| row[*a].total_cmp(&row[*b])) else {
                continue;
            };
            // By how sure each frame is: all count while the network knows nothing, the best ones later.
            let share = |p: f32| p.max(f32::MIN_POSITIVE).powf(settings.sharpness);
            let sum: f32 = row[due.clone()].iter().map(|p| share(*p)).sum();
            for t in due.clone() {
                let weight = shares.word * share(row[t]) / sum.max(f32::MIN_POSITIVE);
                loss -= f64::from(weight * row[t].max(f32::MIN_POSITIVE).ln());
                for class in 0..self.classes {
                    let wanted = f32::from(u8::from(class == word.label));
                    by_mean[class * frames + t] += weight * (self.of(class)[t] - wanted);
                }
            }
            score += Score {
                known: usize::from((0..self.classes).all(|c| self.of(c)[best] <= row[best])),
                words: 1,
            };
        }
        // What is allowed in a frame: all that is no keyword, and the words that sound.
        let [unknown, silence] = [self.of(keywords), self.of(keywords + 1)];
        let mut allowed: Vec<f32> = unknown.iter().zip(silence).map(|(u, s)| u + s).collect();
        for (index, word) in target.words.iter().enumerate() {
            let said_before = |t: usize| {
                let mut before = target.words[..index].iter();
                before.any(|other| other.label == word.label && other.allowed.contains(&t))
            };
            for t in word.allowed.start..word.allowed.end.min(frames) {
                if !said_before(t) {
                    allowed[t] += self.of(word.label)[t];
                }
            }
        }
        let mut weights = vec![0f32; frames];
        for start in (target.first..frames).step_by(REGION_FRAMES) {
            let end = (start + REGION_FRAMES).min(frames);
            let whole = shares.region * (end - start) as f32 / REGION_FRAMES as f32;
            for weight in &mut weights[start..end] {
                *weight = settings.even * whole / (end - start) as f32;
            }
            let hardest = (start..end).min_by(|a, b| allowed[*a].total_cmp(&allowed[*b]));
            if let Some(hardest) = hardest {
                weights[hardest] += settings.hard * whole;
            }
        }
        for t in target.first..frames {
            loss -= f64::from(weights[t] * allowed[t].max(f32::MIN_POSITIVE).ln());
        }
        let inverse: Vec<f32> = allowed.iter().map(|a| 1.0 / a.max(1e-20)).collect();
        for class in 0..self.classes {
            let row = &self.posteriors[class * frames..][..frames];
            let out = &mut by_mean[class * frames..][..frames];
            for t in target.first..frames {
                out[t] += weights[t] * row[t];
            }
            let mut lessen = |t: usize| out[t] -= weights[t] * row[t] * inverse[t];
            if class >= keywords {
                (target.first..frames).for_each(lessen);
            } else {
                let mut done = target.first;
                for word in target.words.iter().filter(|word| word.label == class) {
                    let end = word.allowed.end.min(frames);
                    (word.allowed.start.max(done)..end).for_each(&mut lessen);
                    done = done.max(end);
                }
            }
        }
        // Among what is no keyword: speech is unknown, the rest silence.
        let each = shares.region * settings.kind / REGION_FRAMES as f32;
        for t in target.first..frames {
            let sum = (unknown[t] + silence[t]).max(1e-20);
            let (right, wrong) = match target.heard[t] {
                Heard::Speech => (keywords, keywords + 1),
                Heard::Rest => (keywords + 1, keywords),
                Heard::Either => continue,
            };
            let share = (self.of(right)[t] / sum).max(f32::MIN_POSITIVE);
            loss -= f64::from(each * share.ln());
            by_mean[right * frames + t] -= each * (1.0 - share);
            by_mean[wrong * frames + t] += each * (1.0 - share);
        }
        if let Some(teacher) = teacher {
            let each = shares.region * settings.teach / REGION_FRAMES as f32;
            for class in 0..self.classes {
                let out = &mut by_mean[class * frames..][..frames];
                let (row, taught) = (self.of(class), teacher.of(class));
                for t in target.first..frames {
                    loss -= f64::from(each * taught[t] * row[t].max(f32::MIN_POSITIVE).ln());
                    out[t] += each * (row[t] - taught[t]);
                }
            }
        }
        self.through_the_mean(&by_mean, gradient);
        (loss, score)
    }

    /// The gradient of the mean logits as one of the logits, added to `gradient`.
    fn through_the_mean(&self, by_mean: &[f32], gradient: &mut [f32]) {
        let frames = self.frames;
        for (out, by_mean) in gradient
            .chunks_exact_mut(frames)
            .zip(by_mean.chunks_exact(frames))
        {
            let part = |t: usize| f64::from(by_mean[t]) / (t + 1).min(self.window_frames) as f64;
            // Frame t is in the means of the frames from t to t + window - 1.
            let mut sum = 0f64;
            for t in (0..frames).rev() {
                sum += part(t);
                if t + self.window_frames < frames {
                    sum -= part(t + self.window_frames);
                }
                out[t] += sum as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests;
