//! Normalisation over groups of values (a channel, or a channel's sub-band), shared by head, blocks and tail.
//!
//! Batch statistics are the only point where samples meet: every pass leaves per-sample sums, which are reduced here in f64
//! and in the order of the samples, whatever the number of threads.

use super::Statistics;

/// Added to the variance. A hundred times PyTorch's default, equal to Keras's: a group that hardly varies in the base's language
/// would get a deployed scale of up to 300, which the next language's signal would pass with.
pub(crate) const EPSILON: f64 = 1e-3;

/// How the norms of a network behave.
#[derive(Clone)]
pub enum NormMode {
    /// Standardise by the statistics of the batch, then scale and shift; the statistics are reported.
    Batch {
        /// Where the statistics of the batch are reported.
        statistics: Statistics,
    },
    /// Scale and shift alone: the deployed form.
    Affine,
    /// The deployed form, reporting the statistics of what enters each norm.
    Observe(Statistics),
}

impl NormMode {
    /// All norms standardise by the batch.
    pub fn batch() -> Self {
        Self::batch_into(&Statistics::default())
    }

    /// All norms standardise by the batch, whose statistics go into `statistics`.
    pub fn batch_into(statistics: &Statistics) -> Self {
        NormMode::Batch {
            statistics: statistics.clone(),
        }
    }

    /// Where norms report their statistics, if they do.
    pub(crate) fn statistics(&self) -> Option<&Statistics> {
        match self {
            NormMode::Batch { statistics } | NormMode::Observe(statistics) => Some(statistics),
            NormMode::Affine => None,
        }
    }

    /// Whether norms standardise by the batch.
    pub(crate) fn standardises(&self) -> bool {
        matches!(self, NormMode::Batch { .. })
    }
}

/// A norm ready to be applied: `y = x * factor[g] + offset[g]` for group `g`.
pub(super) struct Norm {
    pub(super) factor: Vec<f32>,
    pub(super) offset: Vec<f32>,
    /// Mean and reciprocal deviation per group, `None` in the deployed form.
    standard: Option<Vec<(f64, f64)>>,
    count: f64,
}

/// Backward of a norm: `dx = dy * a[g] + x * b[g] + c[g]`.
pub(super) struct NormBackward {
    pub(super) dscale: Vec<f32>,
    pub(super) dshift: Vec<f32>,
    pub(super) terms: Vec<[f32; 3]>,
}

impl Norm {
    /// From per-sample `[sum, sum of squares]` of every group; `count` values a group over the whole batch.
    pub(super) fn new(
        mode: &NormMode,
        name: &str,
        scale: &[f32],
        shift: &[f32],
        moments: &[Vec<[f32; 2]>],
        count: usize,
    ) -> Self {
        let n = count as f64;
        let deployed = Self {
            factor: scale.to_vec(),
            offset: shift.to_vec(),
            standard: None,
            count: n,
        };
        let Some(statistics) = mode.statistics() else {
            return deployed;
        };
        let mut standard = Vec::with_capacity(scale.len());
        let (mut means, mut variances) = (Vec::new(), Vec::new());
        for g in 0..scale.len() {
            let [sum, square] = reduce(moments, g);
            let mean = sum / n;
            let variance = (square / n - mean * mean).max(0.0);
            standard.push((mean, 1.0 / (variance + EPSILON).sqrt()));
            means.push(mean as f32);
            variances.push((variance * n / (n - 1.0).max(1.0)) as f32);
        }
        statistics.record(name, means, variances);
        if !mode.standardises() {
            return deployed;
        }
        let factor = |g: usize| scale[g] as f64 * standard[g].1;
        Self {
            factor: (0..scale.len()).map(|g| factor(g) as f32).collect(),
            offset: (0..scale.len())
                .map(|g| (shift[g] as f64 - standard[g].0 * factor(g)) as f32)
                .collect(),
            standard: Some(standard),
            count: n,
        }
    }

    /// From per-sample `[sum of dy, sum of dy * x]` of every group.
    pub(super) fn backward(&self, scale: &[f32], sums: &[Vec<[f32; 2]>]) -> NormBackward {
        let (mut dscale, mut dshift, mut terms) = (Vec::new(), Vec::new(), Vec::new());
        for (g, scale) in scale.iter().enumerate() {
            let [dy, dy_x] = reduce(sums, g);
            dshift.push(dy as f32);
            let Some((mean, reciprocal)) = self.standard.as_ref().map(|s| s[g]) else {
                dscale.push(dy_x as f32);
                terms.push([*scale, 0.0, 0.0]);
                continue;
            };
            let d = (dy_x - dy * mean) * reciprocal;
            dscale.push(d as f32);
            let a = *scale as f64 * reciprocal;
            let b = -a * reciprocal * d / self.count;
            terms.push([a as f32, b as f32, (-a * dy / self.count - b * mean) as f32]);
        }
        NormBackward {
            dscale,
            dshift,
            terms,
        }
    }
}

fn reduce(samples: &[Vec<[f32; 2]>], group: usize) -> [f64; 2] {
    samples.iter().fold([0.0; 2], |[a, b], s| {
        [a + s[group][0] as f64, b + s[group][1] as f64]
    })
}
