//! The methods that SWR is compared with, and SWR itself, as one table: what a method may train, where it starts, and how it chooses what changes.
//! All run through [`crate::adapt`]: the same loop, data order, epochs, quantisation and accounting of bytes.

pub mod select;

use std::collections::BTreeSet;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use swr_core::package::{Group as Kind, Limit};

use crate::config::UnitSettings;
use crate::reparam::{Group, Level};

/// How a language's delta is learned.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// SWR with gates on single weights, held at the budget in every step
    Swr,
    /// SWR as published, as far as is known: a policy of layer gates and a cost factor
    SwrLayers,
    /// The classifier alone
    Head,
    /// The classifier, on norm statistics of the new language
    HeadStatistics,
    /// The classifier and all norms
    HeadNorm,
    /// The classifier, all norms and the depthwise convolutions
    HeadNormDepthwise,
    /// The classifier and the last third of the layers, whole blocks
    LastStage,
    /// Everything
    Full,
    /// Everything, from random weights instead of the base's
    Scratch,
    /// Random weights
    Random,
    /// Random weights, of every tensor as many as SWR chose (of the classifier under a budget in bytes: random)
    RandomDensity,
    /// The largest changes of full fine-tuning, trained on
    Magnitude,
    /// The largest changes of full fine-tuning, as they are
    MagnitudeOnce,
    /// The largest Fisher information in the base (FISH mask)
    Fisher,
    /// The largest changes, each weighed by its Fisher information
    Taylor,
    /// The largest gradients before any training (SIFT)
    FirstGradient,
    /// Hard-concrete gates on single weights and a penalty on their number (diff pruning)
    DiffPruning,
    /// Layer gates by a threshold and a penalty on their sum (TAPS)
    Taps,
    /// Differences of low rank in the 1x1 convolutions (LoRA, merged)
    LowRank,
    /// The layers without which the loss rises most, by a knapsack
    Sensitivity,
    /// Full fine-tuning, all differences in int8
    DenseInt8,
    /// Full fine-tuning, differences of convolutions in int4, others in int8
    DenseInt4,
    /// One network for all languages together
    Joint,
}

/// How a method comes to what changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All that may be trained changes, from the first step on.
    Fixed,
    /// Gates that are trained in a stage of their own.
    Gates,
    /// The published policy, likewise.
    Policy,
    /// Hard-concrete gates, likewise.
    HardConcrete,
    /// Threshold gates, likewise.
    Threshold,
    /// A score that is computed from the dense stage's result.
    Scored,
}

impl Method {
    /// Its name on the command line and in results.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// How it comes to what changes.
    pub fn choice(self) -> Choice {
        use Method::*;
        match self {
            Swr => Choice::Gates,
            SwrLayers => Choice::Policy,
            DiffPruning => Choice::HardConcrete,
            Taps => Choice::Threshold,
            Random | RandomDensity | Magnitude | MagnitudeOnce | Fisher | Taylor
            | FirstGradient | Sensitivity => Choice::Scored,
            Head | HeadStatistics | HeadNorm | HeadNormDepthwise | LastStage | Full | Scratch
            | LowRank | DenseInt8 | DenseInt4 | Joint => Choice::Fixed,
        }
    }

    /// Whether its dense stage is that of full fine-tuning, which then is trained once for all of these.
    pub fn starts_dense(self) -> bool {
        self.choice() != Choice::Fixed
            || matches!(self, Method::Full | Method::DenseInt8 | Method::DenseInt4)
    }

    /// Whether the budget limits it: the others change all that they may.
    pub fn is_budgeted(self) -> bool {
        self.choice() != Choice::Fixed
    }

    /// Whether what it chooses among is layers.
    fn chooses_layers(self) -> bool {
        matches!(self.choice(), Choice::Policy | Choice::Threshold) || self == Method::Sensitivity
    }

    /// Bits of even steps that all differences are rounded to without training on them, where that is the method.
    pub fn plain_bits(self) -> Option<u32> {
        match self {
            Method::DenseInt8 => Some(7),
            Method::DenseInt4 => Some(3),
            _ => None,
        }
    }

    /// Whether weights are trained on the grids of the file.
    pub fn trains_on_grids(self) -> bool {
        self.plain_bits().is_none() && self != Method::MagnitudeOnce
    }

    /// The tensors that may be trained at all, of those of a network in its order.
    pub fn trains(self, tensors: &[(String, Vec<usize>)]) -> BTreeSet<&str> {
        use Method::*;
        let block = |place: usize| tensors[place].0.split('.').next();
        // The last third of the tensors, from where its first block begins.
        let third = tensors.len() * 2 / 3;
        let last_stage = (0..=third).find(|place| block(*place) == block(third));
        let first = tensors
            .iter()
            .position(|(name, _)| Kind::of(name) == Kind::Convolution);
        let trains = |place: usize, name: &str, shape: &[usize]| {
            let kind = Kind::of(name);
            match self {
                _ if kind == Kind::Classifier => true,
                Head | HeadStatistics => false,
                HeadNorm => kind == Kind::Norm,
                HeadNormDepthwise => {
                    kind == Kind::Norm || Some(place) != first && is_depthwise(name, shape)
                }
                LastStage => Some(place) >= last_stage,
                LowRank => kind == Kind::Norm || is_pointwise(name, shape),
                _ => true,
            }
        };
        let tensors = tensors.iter().enumerate();
        let trained = tensors.filter(|(place, (name, shape))| trains(*place, name, shape));
        trained.map(|(_, (name, _))| name.as_str()).collect()
    }

    /// What shares a gate; norms, where they do not `always_norms` change, and the classifier under a budget in bytes only.
    pub fn groups(
        self,
        tensors: &[(String, Vec<usize>)],
        limit: Limit,
        units: UnitSettings,
        always_norms: bool,
        by_block: bool,
    ) -> Vec<Group> {
        let trained = self.trains(tensors);
        // A layer of the classifier cannot be left out.
        let UnitSettings {
            convolutions,
            norms,
            classifier,
            ..
        } = match self.choice() {
            Choice::Fixed => UnitSettings {
                convolutions: Level::Open,
                norms: Level::Open,
                classifier: Level::Open,
                ..units
            },
            _ if self.chooses_layers() => UnitSettings {
                convolutions: Level::Layer,
                norms: Level::Layer,
                classifier: Level::Open,
                ..units
            },
            _ => units,
        };
        let norms = if always_norms { Level::Open } else { norms };
        let classifier = match limit {
            Limit::FileBytes(_) => classifier,
            _ => Level::Open,
        };
        let mut groups: Vec<Group> = Vec::new();
        for (name, _) in tensors {
            let kind = Kind::of(name);
            let level = match kind {
                _ if !trained.contains(name.as_str()) => Level::Closed,
                Kind::Convolution => convolutions,
                Kind::Norm => norms,
                Kind::Classifier | Kind::Other => classifier,
            };
            // Scale and shift of a norm follow each other and share gates; so do a block's convolutions, if they are to.
            let partner = |group: &&mut Group| {
                let first = &group.tensors[0];
                let norm = name
                    .strip_suffix(".shift")
                    .is_some_and(|part| first.strip_suffix(".scale") == Some(part));
                let block = by_block
                    && level == Level::Layer
                    && kind == Kind::Convolution
                    && Kind::of(first) == kind;
                norm || block && first.split('.').next() == name.split('.').next()
            };
            match groups.iter_mut().rev().find(partner) {
                Some(group) => group.tensors.push(name.clone()),
                None => groups.push(Group {
                    tensors: vec![name.clone()],
                    level,
                }),
            }
        }
        groups
    }
}

/// A convolution with one input channel per output channel, over frames or bands.
fn is_depthwise(name: &str, shape: &[usize]) -> bool {
    Kind::of(name) == Kind::Convolution && shape[1] == 1 && shape[2..].iter().product::<usize>() > 1
}

/// A 1x1 convolution.
pub(crate) fn is_pointwise(name: &str, shape: &[usize]) -> bool {
    Kind::of(name) == Kind::Convolution && shape[2..].iter().all(|side| *side == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stage_begins_with_a_block() {
        let block = |n: usize| {
            let parts = ["conv.weight", "norm.scale", "norm.shift"];
            parts.map(|part| (format!("block{n}.{part}"), vec![4, 4, 1, 1]))
        };
        let mut tensors: Vec<(String, Vec<usize>)> = (0..5).flat_map(block).collect();
        tensors.push(("classifier.weight".into(), vec![3, 4]));
        // Two thirds of 16 tensors lie within the fourth block.
        let trained = Method::LastStage.trains(&tensors);
        assert_eq!(trained.len(), 7);
        assert!(trained.contains("block3.conv.weight") && trained.contains("classifier.weight"));
        assert!(!trained.contains("block2.norm.shift"));
    }
}
