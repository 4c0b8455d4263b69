//! The methods that SWR is compared with, and SWR itself, as one table: what a method may train, where it starts, and how it chooses what changes.
//! All run through [`crate::adapt`]: the same loop, data order, epochs, quantisation and accounting of bytes.

pub mod select;

use std::collections::BTreeSet;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use swr_core::package::{Group as Kind, Limit};

use crate::config::{PolicySettings, UnitSettings};
use crate::reparam::policy::Form;
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
    /// The largest products of gradient and weight before any training (SNIP, as SHiRA takes it)
    Snip,
    /// The largest gradients for the size of their weights before any training (GaLLoP)
    Gallop,
    /// Whole channels, those with the most Fisher information for their weights (after TinyTrain, which weighs multiply-adds and memory too)
    Channels,
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

/// What a method is, as data: [`crate::adapt`] reads it and asks for no method by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What may change at all.
    pub trains: Trained,
    /// What shares a gate.
    pub gated: Gated,
    /// How it comes to what changes of that.
    pub selection: Selection,
    /// What a unit whose gate is open becomes; as the configuration's `policy.form` says if absent.
    pub form: Option<Form>,
    /// Where training starts.
    pub start: Start,
    /// Whether norms take the statistics of the new language while their weights stay the base's.
    pub statistics_alone: bool,
    /// How differences come onto the grids of the file.
    pub grids: Rounding,
    /// What it needs beside the clips of its language.
    pub needs: Needs,
}

/// Which tensors may change at all; the classifier always may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trained {
    /// No others.
    Classifier,
    /// Norms.
    Norms,
    /// Norms and depthwise convolutions.
    NormsAndDepthwise,
    /// Norms and 1x1 convolutions.
    NormsAndPointwise,
    /// The last third of the tensors, whole blocks.
    LastStage,
    /// All.
    Everything,
}

/// What shares a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gated {
    /// Nothing has one.
    Nothing,
    /// What the configuration's `[units]` say: weights, unless something else is to be tried.
    AsConfigured,
    /// The weights of an output channel of a convolution; of the rest as configured.
    Channels,
    /// The weights of a layer, but for the classifier's, which cannot be left out.
    Layers,
}

/// How a method comes to what changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All that may change does, from the first step on.
    Everything,
    /// By gates that are trained in the select stage.
    Gates(Gates),
    /// By a score of what the dense stage changed; what is chosen is trained on.
    Scores(Score),
    /// By a score of what all training changed; what is chosen stays as it is.
    ScoresAtTheEnd(Score),
}

/// Gates that are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gates {
    /// Held at the budget in every step.
    Budgeted,
    /// Of the published policy.
    Policy,
    /// Hard-concrete ones, and a penalty on their number.
    HardConcrete,
    /// By a threshold, and a penalty on their sum.
    Threshold,
}

/// What ranks units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// Chance.
    Random,
    /// Chance, in every tensor as many as SWR chose.
    RandomAsSwr,
    /// The size of the change.
    Magnitude,
    /// The Fisher information in the base.
    Fisher,
    /// The size of the change, weighed by the Fisher information.
    Taylor,
    /// The Fisher information in the base for each weight of a unit.
    FisherForWeights,
    /// The gradient before any training.
    FirstGradient,
    /// That gradient times the weight (Lee et al., SNIP, arXiv 1810.02340, as Bhardwaj et al., SHiRA, arXiv 2406.13175, use it).
    Snip,
    /// The size of that gradient over that of the weight: the abstract of GaLLoP (Choudhary et al., arXiv 2510.19778) wants large and small ones, as one ratio.
    Gallop,
    /// The rise of the loss without the change.
    Rise,
}

/// Where training starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the base, with a classifier that was trained on its features.
    Base,
    /// At random weights.
    Random,
}

/// How differences come onto the grids of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// They are trained on them.
    Trained,
    /// They are rounded to them in the end.
    AtTheEnd,
    /// They are rounded in the end to even steps of every tensor's own size: so many bits in convolutions beside the sign, [`INT8`] in others.
    Even(u32),
}

/// What a method needs beside the clips of its language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// The statistics of the norms when the base hears its own language.
    BaseStatistics,
    /// How many weights of every tensor SWR changed.
    ResultOfSwr,
    /// The clips of all languages.
    AllLanguages,
}

/// Bits of an int8 difference beside the sign.
pub const INT8: u32 = 7;
/// Those of an int4 difference.
const INT4: u32 = 3;

/// Everything, retrained from the base, trained on the file's grids: what recipes differ from.
const FULL: Recipe = Recipe {
    trains: Trained::Everything,
    gated: Gated::Nothing,
    selection: Selection::Everything,
    form: Some(Form::Additive),
    start: Start::Base,
    statistics_alone: false,
    grids: Rounding::Trained,
    needs: Needs::Nothing,
};

/// Weights, or what `[units]` says, ranked by a score.
const fn ranked(score: Score) -> Recipe {
    Recipe {
        gated: Gated::AsConfigured,
        selection: Selection::Scores(score),
        ..FULL
    }
}

/// Whatever is gated, by trained gates.
const fn gates(gated: Gated, gates: Gates) -> Recipe {
    Recipe {
        gated,
        selection: Selection::Gates(gates),
        ..FULL
    }
}

/// A part of the tensors, all of each.
const fn part(trains: Trained) -> Recipe {
    Recipe { trains, ..FULL }
}

impl Method {
    /// Its name on the command line and in results.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// What it is.
    pub const fn recipe(self) -> Recipe {
        match self {
            Self::Swr => gates(Gated::AsConfigured, Gates::Budgeted),
            Self::SwrLayers => Recipe {
                form: None,
                ..gates(Gated::Layers, Gates::Policy)
            },
            Self::Head => part(Trained::Classifier),
            Self::HeadStatistics => Recipe {
                statistics_alone: true,
                needs: Needs::BaseStatistics,
                ..part(Trained::Classifier)
            },
            Self::HeadNorm => part(Trained::Norms),
            Self::HeadNormDepthwise => part(Trained::NormsAndDepthwise),
            Self::LastStage => part(Trained::LastStage),
            Self::Full => FULL,
            Self::Scratch => Recipe {
                start: Start::Random,
                ..FULL
            },
            Self::Random => ranked(Score::Random),
            Self::RandomDensity => Recipe {
                needs: Needs::ResultOfSwr,
                ..ranked(Score::RandomAsSwr)
            },
            Self::Magnitude => ranked(Score::Magnitude),
            Self::MagnitudeOnce => Recipe {
                selection: Selection::ScoresAtTheEnd(Score::Magnitude),
                grids: Rounding::AtTheEnd,
                ..ranked(Score::Magnitude)
            },
            Self::Fisher => ranked(Score::Fisher),
            Self::Taylor => ranked(Score::Taylor),
            Self::FirstGradient => ranked(Score::FirstGradient),
            Self::Snip => ranked(Score::Snip),
            Self::Gallop => ranked(Score::Gallop),
            Self::Channels => Recipe {
                gated: Gated::Channels,
                ..ranked(Score::FisherForWeights)
            },
            Self::DiffPruning => gates(Gated::AsConfigured, Gates::HardConcrete),
            Self::Taps => gates(Gated::Layers, Gates::Threshold),
            Self::LowRank => Recipe {
                form: Some(Form::LowRank),
                ..part(Trained::NormsAndPointwise)
            },
            Self::Sensitivity => Recipe {
                gated: Gated::Layers,
                ..ranked(Score::Rise)
            },
            Self::DenseInt8 => Recipe {
                grids: Rounding::Even(INT8),
                ..FULL
            },
            Self::DenseInt4 => Recipe {
                grids: Rounding::Even(INT4),
                ..FULL
            },
            Self::Joint => Recipe {
                needs: Needs::AllLanguages,
                ..FULL
            },
        }
    }
}

impl Recipe {
    /// Whether the budget limits it: the others change all that they may.
    pub fn is_budgeted(&self) -> bool {
        match self.selection {
            Selection::Everything => false,
            Selection::Gates(_) | Selection::Scores(_) | Selection::ScoresAtTheEnd(_) => true,
        }
    }

    /// What a unit whose gate is open becomes.
    pub fn form(&self, policy: &PolicySettings) -> Form {
        self.form.unwrap_or(policy.form)
    }

    /// Whether its dense stage is that of full fine-tuning, which then is trained once for all of these.
    pub fn shares_dense_stage(&self, policy: &PolicySettings) -> bool {
        self.trains == Trained::Everything
            && self.start == Start::Base
            && self.needs != Needs::AllLanguages
            && self.form(policy) != Form::LowRank
    }

    /// The tensors that may be trained at all, of those of a network in its order.
    pub fn trained(self, tensors: &[(String, Vec<usize>)]) -> BTreeSet<&str> {
        let block = |place: usize| tensors[place].0.split('.').next();
        // The last third of the tensors, from where its first block begins.
        let third = tensors.len() * 2 / 3;
        let last_stage = (0..=third).find(|place| block(*place) == block(third));
        let first = tensors
            .iter()
            .position(|(name, _)| Kind::of(name) == Kind::Convolution);
        let trains = |place: usize, name: &str, shape: &[usize]| {
            let kind = Kind::of(name);
            let norm = kind == Kind::Norm;
            kind == Kind::Classifier
                || match self.trains {
                    Trained::Classifier => false,
                    Trained::Norms => norm,
                    Trained::NormsAndDepthwise => {
                        norm || Some(place) != first && is_depthwise(name, shape)
                    }
                    Trained::NormsAndPointwise => norm || is_pointwise(name, shape),
                    Trained::LastStage => Some(place) >= last_stage,
                    Trained::Everything => true,
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
        let trained = self.trained(tensors);
        let [convolutions, norms, classifier] = match self.gated {
            Gated::Nothing => [Level::Open; 3],
            Gated::AsConfigured => [units.convolutions, units.norms, units.classifier],
            Gated::Channels => [Level::Channel, units.norms, units.classifier],
            Gated::Layers => [Level::Layer, Level::Layer, Level::Open],
        };
        let norms = if always_norms { Level::Open } else { norms };
        let classifier = match limit {
            Limit::FileBytes(_) => classifier,
            Limit::ConvolutionShare(_) | Limit::AllShare(_) => Level::Open,
        };
        let mut groups: Vec<Group> = Vec::new();
        for (name, _) in tensors {
            let kind = Kind::of(name);
            let level = match (trained.contains(name.as_str()), kind) {
                (false, _) => Level::Closed,
                (true, Kind::Convolution) => convolutions,
                (true, Kind::Norm) => norms,
                (true, Kind::Classifier | Kind::Other) => classifier,
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
    use crate::config::{ADAPT_DEFAULT, AdaptConfig, resolve};

    #[test]
    fn methods_that_choose_have_gates_and_begin_where_full_fine_tuning_does() {
        let config: AdaptConfig = resolve(None, ADAPT_DEFAULT, &[]).unwrap();
        for method in Method::value_variants() {
            let recipe = method.recipe();
            assert_eq!(
                recipe.is_budgeted(),
                recipe.gated != Gated::Nothing,
                "{method:?}"
            );
            if recipe.is_budgeted() {
                assert!(recipe.shares_dense_stage(&config.policy), "{method:?}");
            }
        }
        // Asked for differences of low rank, the published method trains others from the beginning.
        let changes = ["policy.form=\"lowrank\"".to_string()];
        let low_rank: AdaptConfig = resolve(None, ADAPT_DEFAULT, &changes).unwrap();
        let published = Method::SwrLayers.recipe();
        assert!(!published.shares_dense_stage(&low_rank.policy));
    }

    #[test]
    fn the_last_stage_begins_with_a_block() {
        let block = |n: usize| {
            let parts = ["conv.weight", "norm.scale", "norm.shift"];
            parts.map(|part| (format!("block{n}.{part}"), vec![4, 4, 1, 1]))
        };
        let mut tensors: Vec<(String, Vec<usize>)> = (0..5).flat_map(block).collect();
        tensors.push(("classifier.weight".into(), vec![3, 4]));
        // Two thirds of 16 tensors lie within the fourth block.
        let trained = Method::LastStage.recipe().trained(&tensors);
        assert_eq!(trained.len(), 7);
        assert!(trained.contains("block3.conv.weight") && trained.contains("classifier.weight"));
        assert!(!trained.contains("block2.norm.shift"));
    }
}
