//! A network's weights as one flat vector, in two coordinates: *deployed*, as they are stored and run, and *standard*, in which training moves
//! them: there, a norm scales and shifts inputs of mean 0 and variance 1, so that its weights are of the same size everywhere.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor as Values};
use swr_core::package::{Tensor, Tensors, multiple};

use super::no_tensor;
use crate::fused::{EPSILON, NormStatistics};
use crate::network::Network;
use crate::reparam::layout::{Layout, Slot};
use crate::reparam::quantise::{Grids, Rounded, power_of_two};

/// The tensors of the classifier, which every language has its own of.
pub const CLASSIFIER: [&str; 2] = ["classifier.weight", "classifier.bias"];

/// The base in a flat vector.
pub struct Frame {
    /// Where each tensor lies.
    pub layout: Layout,
    /// The base's deployed weights; the classifier, which is new, is zero.
    pub base: Vec<f32>,
    /// Labels of the language.
    pub classes: usize,
    /// What a grid's steps count in: at a norm's scale its size in the base and a floor, since those differ by orders of magnitude; 1 elsewhere.
    pub units: Vec<f32>,
    /// The floor of every tensor.
    pub floors: Vec<f32>,
}

/// The floor of a norm's scales, as a share of their mean size: smaller ones are stored in steps of about the same size.
const FLOOR: f32 = 0.25;

/// Whether a tensor holds the scales of a norm, whose differences are stored as shares of the base's weights.
pub(super) fn is_scale(tensor: &str) -> bool {
    tensor.ends_with(".norm.scale")
}

/// Between standard and deployed coordinates, by the statistics of what enters the norms.
///
/// A norm's scale is stored as `scale / deviation`, its shift as `shift - mean * stored scale`: as the scale is stored, rounded, so that the shift makes
/// up for what that does to the mean.
pub struct Fold {
    /// Deviation of what enters a norm, at its scale; 1 elsewhere.
    deviation: Vec<f32>,
    /// Mean of what enters a norm, at its shift; 0 elsewhere.
    mean: Vec<f32>,
    /// The place of the scale, at a shift; its own elsewhere.
    scale: Vec<u32>,
    /// The same as tensors, with 1 at shifts and 0 elsewhere.
    values: FoldValues,
}

struct FoldValues {
    factor: Values,
    mean: Values,
    scale: Values,
    shifts: Values,
}

impl Frame {
    /// The frame of `base`, whose network is `network`, for a language with `classes` labels.
    ///
    /// # Errors
    /// If the base lacks a tensor of the network, or has it in another shape.
    pub fn new(network: &dyn Network, base: &Tensors, classes: usize) -> Result<Self> {
        let layout = Layout::new(network.tensors(classes));
        let mut flat = vec![0.0; layout.weights()];
        for slot in layout.slots() {
            let found = base
                .get(&slot.name)
                .with_context(|| no_tensor(&slot.name))?;
            if CLASSIFIER.contains(&slot.name.as_str()) {
                continue;
            }
            ensure!(
                found.shape == slot.shape,
                "tensor `{}` of the base: expected shape {:?}, found {:?}; it is of another network than its manifest says",
                slot.name,
                slot.shape,
                found.shape
            );
            flat[slot.range.clone()].copy_from_slice(&found.data);
        }
        let floor = |slot: &Slot| {
            let scales = &flat[slot.range.clone()];
            let sum: f32 = scales.iter().map(|scale| scale.abs()).sum();
            power_of_two(f64::from(FLOOR * sum) / scales.len() as f64)
        };
        let floors: Vec<f32> = layout.slots().iter().map(floor).collect();
        let units = layout
            .slots()
            .iter()
            .zip(&floors)
            .flat_map(|(slot, floor)| {
                let scale = is_scale(&slot.name);
                flat[slot.range.clone()]
                    .iter()
                    .map(move |weight| match scale {
                        true => weight.abs() + floor,
                        false => 1.0,
                    })
            });
        Ok(Self {
            units: units.collect(),
            floors,
            layout,
            base: flat,
            classes,
        })
    }

    /// The coordinates in which norms standardise by `statistics`; norms without stay as they are.
    pub fn fold(&self, statistics: &NormStatistics) -> Result<Fold> {
        let weights = self.base.len();
        let (mut deviation, mut mean) = (vec![1.0; weights], vec![0.0; weights]);
        let mut scale: Vec<u32> = (0..weights as u32).collect();
        for (part, (means, variances)) in statistics {
            let scales = self
                .layout
                .slot(&format!("{part}.norm.scale"))?
                .range
                .clone();
            let shifts = self
                .layout
                .slot(&format!("{part}.norm.shift"))?
                .range
                .clone();
            for (group, (at_scale, at_shift)) in scales.zip(shifts).enumerate() {
                deviation[at_scale] = (f64::from(variances[group]) + EPSILON).sqrt() as f32;
                mean[at_shift] = means[group];
                scale[at_shift] = at_scale as u32;
            }
        }
        let flat = |values: Vec<f32>| Values::from_vec(values, weights, &Device::Cpu);
        let is_shift = scale.iter().enumerate().map(|(i, at)| *at as usize != i);
        Ok(Fold {
            values: FoldValues {
                factor: flat(deviation.iter().map(|d| 1.0 / d).collect())?,
                mean: flat(mean.clone())?,
                scale: Values::from_slice(&scale, weights, &Device::Cpu)?,
                shifts: flat(is_shift.map(|shift| f32::from(u8::from(shift))).collect())?,
            },
            deviation,
            mean,
            scale,
        })
    }

    /// The step of every weight's grid.
    pub fn steps(&self, grids: &Grids) -> Vec<f32> {
        grids.spread(&self.layout, &self.units)
    }

    /// A flat vector of deployed weights as the package stores them.
    pub fn tensors(&self, flat: &[f32]) -> Tensors {
        let slots = self.layout.slots().iter();
        slots
            .map(|slot| {
                let tensor = Tensor::new(slot.shape.clone(), flat[slot.range.clone()].to_vec());
                (slot.name.clone(), tensor)
            })
            .collect::<BTreeMap<_, _>>()
    }
}

impl Fold {
    /// Deployed weights of standard ones; gradients flow through. `grid` is the base's deployed weights and a step for every weight: differences
    /// from the base are then rounded to multiples.
    pub fn deployed(&self, standard: &Values, grid: Option<(&Values, &[f32])>) -> Result<Values> {
        let v = &self.values;
        let round = |weights: &Values| -> Result<Values> {
            Ok(match grid {
                Some((base, steps)) => {
                    let steps = steps.to_vec();
                    (base + (weights - base)?.apply_op1(Rounded { steps })?)?
                }
                None => weights.clone(),
            })
        };
        let scales = round(&(standard * &v.factor)?)?;
        let shifts = round(&(standard - (scales.index_select(&v.scale, 0)? * &v.mean)?)?)?;
        Ok(((&scales * (1.0 - &v.shifts)?)? + (shifts * &v.shifts)?)?)
    }

    /// Standard weights of deployed ones.
    pub fn standard(&self, deployed: &[f32]) -> Vec<f32> {
        (0..deployed.len())
            .map(|i| match self.scale[i] as usize {
                scale if scale != i => deployed[i] + self.mean[i] * deployed[scale],
                _ => deployed[i] * self.deviation[i],
            })
            .collect()
    }

    /// Differences of deployed weights, each shift's as if its scale were exact: what rounding has to keep, in the size in which it is stored.
    pub fn differences(&self, standard: &[f32], base: &[f32]) -> Vec<f32> {
        let base = self.standard(base);
        (0..standard.len())
            .map(|i| (standard[i] - base[i]) / self.deviation[i])
            .collect()
    }

    /// Differences of deployed weights, as they are stored but for rounding.
    pub fn stored_differences(&self, standard: &[f32], base: &[f32]) -> Vec<f32> {
        (0..standard.len())
            .map(|i| {
                let scale = self.scale[i] as usize;
                let stored = match scale != i {
                    true => standard[i] - self.mean[i] * standard[scale] / self.deviation[scale],
                    false => standard[i] / self.deviation[i],
                };
                stored - base[i]
            })
            .collect()
    }

    /// The gradient by [`Fold::differences`] of a gradient by deployed weights.
    pub fn gradient(&self, deployed: &[f32]) -> Vec<f32> {
        let mut gradient = deployed.to_vec();
        for (shift, scale) in self.scale.iter().enumerate() {
            if *scale as usize != shift {
                gradient[*scale as usize] -= self.mean[shift] * deployed[shift];
            }
        }
        gradient
    }

    /// What rounding leaves out of every deployed weight, each shift's after that of its scale.
    pub fn errors(&self, standard: &[f32], base: &[f32], steps: &[f32], counts: &[i8]) -> Vec<f32> {
        let stored = |i: usize| base[i] + steps[i] * f32::from(counts[i]);
        (0..standard.len())
            .map(|i| match self.scale[i] as usize {
                scale if scale != i => standard[i] - self.mean[i] * stored(scale) - stored(i),
                _ => standard[i] / self.deviation[i] - stored(i),
            })
            .collect()
    }

    /// Steps from the base to the weights, on grids with these steps; none where nothing is open. `least` is the difference in steps, below 1.5, from
    /// which on a weight changes; to round to the nearest, it is a half.
    pub fn round(
        &self,
        standard: &[f32],
        base: &[f32],
        open: &[bool],
        steps: &[f32],
        least: &[f32],
    ) -> Vec<i8> {
        let mut counts = vec![0; standard.len()];
        for i in 0..standard.len() {
            let scale = self.scale[i] as usize;
            // A scale stands before its shift.
            let stored = base[scale] + steps[scale] * f32::from(counts[scale]);
            let wanted = if scale == i {
                standard[i] / self.deviation[i]
            } else {
                standard[i] - self.mean[i] * stored
            };
            let difference = wanted - base[i];
            if open[i] && difference.abs() >= least[i] * steps[i] && steps[i] > 0.0 {
                let nearest = multiple(difference, steps[i]);
                counts[i] = if nearest == 0 {
                    difference.signum() as i8
                } else {
                    nearest
                };
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::Architecture;
    use crate::network::initial_weights;
    use crate::random::generator;
    use crate::weights::to_package;
    use rand::RngExt;

    /// A small network, statistics, standard weights near the base's.
    fn example() -> (Frame, Fold, Vec<f32>) {
        let network = Architecture::causal(0.5);
        let base = to_package(&initial_weights(&network, 4, 1).unwrap()).unwrap();
        let frame = Frame::new(&network, &base, 4).unwrap();
        let mut rng = generator(2, &[]);
        let statistics = network.norms().into_iter().map(|part| {
            let scale = frame.layout.slot(&format!("{part}.norm.scale")).unwrap();
            let means = scale
                .range
                .clone()
                .map(|_| rng.random_range(-2.0..2.0))
                .collect();
            let variances = scale
                .range
                .clone()
                .map(|_| rng.random_range(0.01..4.0))
                .collect();
            (part, (means, variances))
        });
        let statistics = statistics.collect();
        let fold = frame.fold(&statistics).unwrap();
        let near = fold.standard(&frame.base).into_iter();
        let near = near.map(|w| w + rng.random_range(-0.3..0.3)).collect();
        (frame, fold, near)
    }

    #[test]
    fn standard_and_deployed_coordinates_are_inverse() {
        let (frame, fold, _) = example();
        let standard = fold.standard(&frame.base);
        let standard = Values::from_slice(&standard, standard.len(), &Device::Cpu).unwrap();
        let back: Vec<f32> = fold.deployed(&standard, None).unwrap().to_vec1().unwrap();
        let far = back.iter().zip(&frame.base).map(|(a, b)| (a - b).abs());
        assert!(far.fold(0.0, f32::max) < 1e-5);
    }

    /// What training computes with on grids is what is stored.
    #[test]
    fn rounding_for_the_file_is_rounding_in_training() {
        let (frame, fold, near) = example();
        let steps: Vec<f32> = (0..near.len())
            .map(|i| [0.125, 0.0625, 0.0][i % 3])
            .collect();
        let (all, half) = (vec![true; near.len()], vec![0.5; near.len()]);
        let counts = fold.round(&near, &frame.base, &all, &steps, &half);
        let values = Values::from_slice(&near, near.len(), &Device::Cpu).unwrap();
        let base = Values::from_slice(&frame.base, near.len(), &Device::Cpu).unwrap();
        let trained = fold.deployed(&values, Some((&base, &steps))).unwrap();
        let trained: Vec<f32> = trained.to_vec1().unwrap();
        for i in 0..near.len() {
            let stored = frame.base[i] + steps[i] * f32::from(counts[i]);
            // Half a step apart where two roundings fall on either side.
            let close = (trained[i] - stored).abs() < 1e-5;
            assert!(
                close,
                "weight {i}: {} in training, {stored} in the file",
                trained[i]
            );
        }
    }
}
