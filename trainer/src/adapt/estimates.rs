//! Estimates on clips as they are: statistics of norms, gradients, curvature.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor, Var};
use rand::RngExt;

use super::plan::{Plan, flat};
use super::{CLASSIFIER, Fold};
use crate::baselines::Score;
use crate::baselines::select::Evidence;
use crate::examples::{Examples, for_each_plain_batch};
use crate::fused::{NormMode, NormStatistics, Statistics};
use crate::learner::Learner;
use crate::network::{Network, Pass, Path, cross_entropy, flat_clip_logits};
use crate::random::generator;

/// Batches that the base's statistics on the new language are estimated from.
const OBSERVED_BATCHES: usize = 20;
/// Clips that the curvature is estimated from; about a thousand suffice (FISH mask, arXiv 2111.09839).
const CURVATURE_CLIPS: usize = 1_000;

impl Plan<'_> {
    /// What a score is computed from, with the differences from `start` that have been learned.
    pub(super) fn evidence(
        &self,
        learner: &Learner,
        start: &Tensor,
        score: Score,
    ) -> Result<Evidence<'_>> {
        let (frame, seed) = (&self.frame, self.job.config.seed);
        let fold = frame.fold(&learner.running)?;
        let standard = self.standard(learner, start, &self.trainable()?)?;
        Ok(match score {
            Score::Random => Evidence::Seed(seed),
            Score::RandomAsSwr => Evidence::Density {
                seed,
                layout: &frame.layout,
                density: self.job.density.context(
                    "this method needs the result of swr under the same budget and seed; run that first",
                )?,
            },
            Score::Magnitude => {
                let base = fold.standard(&frame.base);
                let pairs = standard.iter().zip(&base);
                Evidence::Changes(pairs.map(|(w, b)| w - b).collect())
            }
            Score::Fisher => Evidence::Curvature(self.first_curvature(&fold)?),
            Score::FisherForWeights => Evidence::CurvatureForWeights(self.first_curvature(&fold)?),
            Score::Taylor => Evidence::ChangesAndCurvature(
                fold.differences(&standard, &frame.base),
                self.curvature(&fold, &standard)?,
            ),
            Score::FirstGradient => Evidence::Gradient(self.first_gradient()?),
            Score::Snip => Evidence::GradientTimesWeight(self.first_gradient()?, &frame.base),
            Score::Gallop => Evidence::GradientOverWeight(self.first_gradient()?, &frame.base),
            Score::Rise => Evidence::Rise(self.rises(&fold, &standard)?),
        })
    }

    /// The base with a classifier, deployed: where some say what is to change before anything is trained.
    fn before_training(&self) -> Result<Vec<f32>> {
        let mut first = self.frame.base.clone();
        for (name, values) in CLASSIFIER.into_iter().zip(self.probe()?) {
            first[self.frame.layout.slot(name)?.range.clone()].copy_from_slice(&values);
        }
        Ok(first)
    }

    fn first_curvature(&self, fold: &Fold) -> Result<Vec<f32>> {
        self.curvature(fold, &fold.standard(&self.before_training()?))
    }

    fn first_gradient(&self) -> Result<Vec<f32>> {
        self.mean_gradient(&self.before_training()?)
    }

    /// The Fisher information in every weight, as stored: the mean square of the gradient of a label's log-likelihood, labels drawn as the network
    /// finds them likely.
    pub(super) fn curvature(&self, fold: &Fold, standard: &[f32]) -> Result<Vec<f32>> {
        let deployed = fold.deployed(&flat(standard)?, None)?;
        let mut rng = generator(self.job.config.seed, &[7]);
        let mut sum = vec![0f64; standard.len()];
        let clips = self.gradients(
            &deployed,
            1,
            |p| {
                let mut left: f32 = rng.random();
                let drawn = p.iter().position(|p| {
                    left -= p;
                    left < 0.0
                });
                drawn.unwrap_or(p.len() - 1) as u32
            },
            |gradient| {
                let gradient = fold.gradient(&gradient);
                sum.iter_mut()
                    .zip(gradient)
                    .for_each(|(sum, g)| *sum += f64::from(g).powi(2));
            },
        )?;
        // A weight that no clip moves would else get a grid of any coarseness.
        let mean = sum.iter().sum::<f64>() / (sum.len() * clips) as f64;
        Ok(sum
            .iter()
            .map(|s| (s / clips as f64 + 1e-6 * mean) as f32)
            .collect())
    }

    /// The gradient of the loss by the deployed weights, over the sample.
    fn mean_gradient(&self, deployed: &[f32]) -> Result<Vec<f32>> {
        let mut sum = vec![0f32; deployed.len()];
        self.gradients(
            &flat(deployed)?,
            100,
            |_| u32::MAX,
            |gradient| {
                sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
            },
        )?;
        Ok(sum)
    }

    /// Gradients of the sample's batches by deployed weights. `label` gives a label for the probabilities of a clip, or one beyond all for the true
    /// one. Returns how many clips there were.
    fn gradients(
        &self,
        deployed: &Tensor,
        batch: usize,
        mut label: impl FnMut(&[f32]) -> u32,
        mut each: impl FnMut(Vec<f32>),
    ) -> Result<usize> {
        let (variable, classes) = (Var::from_tensor(deployed)?, self.frame.classes);
        let pass = Pass {
            path: Path::Fused,
            mode: NormMode::Affine,
            dropout: None,
        };
        let most = CURVATURE_CLIPS.min(self.sample.len());
        let (mut clips, bar) = (0, self.job.progress.bar("curvature", most));
        for_each_plain_batch(&self.sample, batch, |batch| {
            if clips >= most {
                return Ok(());
            }
            clips += batch.ends.len();
            bar.inc(batch.ends.len() as u64);
            let logits = flat_clip_logits(
                self.job.network,
                variable.as_tensor(),
                classes,
                &batch,
                self.job.window_frames,
                &pass,
            )?;
            let p: Vec<Vec<f32>> = candle_nn::ops::softmax(&logits, 1)?.to_vec2()?;
            let truth: Vec<u32> = batch.labels.to_vec1()?;
            let labels = p.iter().zip(truth).map(|(p, truth)| match label(p) {
                u32::MAX => truth,
                drawn => drawn,
            });
            let labels = Tensor::from_vec(labels.collect::<Vec<u32>>(), p.len(), &Device::Cpu)?;
            let gradients = cross_entropy(&logits, &labels)?.backward()?;
            each(
                gradients
                    .get(&variable)
                    .context("no gradient reached the weights")?
                    .to_vec1()?,
            );
            Ok(())
        })?;
        bar.finish_and_clear();
        Ok(clips.max(1))
    }

    /// How much the loss rises when one unit is the base's again, for every unit.
    fn rises(&self, fold: &Fold, standard: &[f32]) -> Result<Vec<f64>> {
        let base = fold.standard(&self.frame.base);
        let loss = |standard: &[f32]| -> Result<f64> {
            let deployed = fold.deployed(&flat(standard)?, None)?;
            let (mut sum, mut clips) = (0.0, 0);
            for_each_plain_batch(&self.sample, 100, |batch| {
                if clips >= CURVATURE_CLIPS {
                    return Ok(());
                }
                let logits = flat_clip_logits(
                    self.job.network,
                    &deployed,
                    self.frame.classes,
                    &batch,
                    self.job.window_frames,
                    &Pass::evaluation(),
                )?;
                let loss: f32 = cross_entropy(&logits, &batch.labels)?.to_scalar()?;
                sum += f64::from(loss) * batch.ends.len() as f64;
                clips += batch.ends.len();
                Ok(())
            })?;
            Ok(sum / clips.max(1) as f64)
        };
        let whole = loss(standard)?;
        let bar = self.job.progress.bar("sensitivity", self.units.len());
        let rises = (0..self.units.len()).map(|unit| {
            let weights = 0..standard.len();
            let without: Vec<f32> = weights
                .map(|w| {
                    if self.units.of(w) == Some(unit) {
                        base[w]
                    } else {
                        standard[w]
                    }
                })
                .collect();
            bar.inc(1);
            Ok(loss(&without)? - whole)
        });
        let rises = rises.collect::<Result<Vec<f64>>>()?;
        bar.finish_and_clear();
        Ok(rises)
    }
}

/// Statistics of what enters every norm of the deployed base when it hears these clips.
pub fn observe(
    network: &dyn Network,
    deployed: &[f32],
    sample: &Examples,
    batch: usize,
) -> Result<NormStatistics> {
    let mode = |statistics: &Statistics| NormMode::Observe(statistics.clone());
    mean_statistics(network, &flat(deployed)?, sample, batch, mode)
}

/// The same of weights in standard coordinates, whose norms standardise by the batch.
pub(super) fn statistics_of(
    network: &dyn Network,
    standard: &Tensor,
    sample: &Examples,
    batch: usize,
) -> Result<NormStatistics> {
    mean_statistics(network, standard, sample, batch, NormMode::batch_into)
}

fn mean_statistics(
    network: &dyn Network,
    weights: &Tensor,
    sample: &Examples,
    batch: usize,
    mode: impl Fn(&Statistics) -> NormMode,
) -> Result<NormStatistics> {
    let statistics = Statistics::default();
    let pass = Pass {
        mode: mode(&statistics),
        ..Pass::evaluation()
    };
    let (mut mean, mut batches) = (NormStatistics::new(), 0usize);
    for_each_plain_batch(sample, batch, |batch| {
        if batches == OBSERVED_BATCHES {
            return Ok(());
        }
        network.features(weights, &batch.log_mel, &pass)?;
        batches += 1;
        for (name, (means, variances)) in statistics.take() {
            let total = mean
                .entry(name)
                .or_insert_with(|| (vec![0.0; means.len()], vec![0.0; means.len()]));
            for (total, new) in [(&mut total.0, means), (&mut total.1, variances)] {
                total
                    .iter_mut()
                    .zip(new)
                    .for_each(|(total, new)| *total += (new - *total) / batches as f32);
            }
        }
        Ok(())
    })?;
    Ok(mean)
}
