//! Scores of units that are computed, not trained.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::seq::SliceRandom;

use super::{Gates, Score, Selection};
use crate::random::generator;
use crate::reparam::choose::{choose, knapsack};
use crate::reparam::{Layout, Units};

/// Added to the size of a weight that a gradient is divided by, so that a weight of 0 does not come first whatever its gradient.
const SMALL_WEIGHT: f32 = 1e-3;

/// What a score is computed from: one kind of evidence for every [`Score`].
pub enum Evidence<'a> {
    /// Nothing: chance.
    Seed(u64),
    /// Chance, and how many weights of every tensor are to change.
    Density {
        /// Seed of the run.
        seed: u64,
        /// Where each tensor lies.
        layout: &'a Layout,
        /// Changed weights of every tensor under SWR.
        density: &'a BTreeMap<String, usize>,
    },
    /// What the dense stage changed, in the coordinates of training.
    Changes(Vec<f32>),
    /// The loss's curvature in every weight, as stored.
    Curvature(Vec<f32>),
    /// What the dense stage changed, in the size in which it is stored, and the loss's curvature there.
    ChangesAndCurvature(Vec<f32>, Vec<f32>),
    /// The loss's curvature in every weight, as stored, of which a unit has the mean.
    CurvatureForWeights(Vec<f32>),
    /// The loss's gradient by every weight of the base, as stored.
    Gradient(Vec<f32>),
    /// The same gradient, times the weight.
    GradientTimesWeight(Vec<f32>, &'a [f32]),
    /// The same gradient, over the weight.
    GradientOverWeight(Vec<f32>, &'a [f32]),
    /// How much the loss rises when a unit is the base's again.
    Rise(Vec<f64>),
}

/// A score for every unit: the higher, the sooner it is opened.
pub fn scores(units: &Units, evidence: Evidence) -> Vec<f32> {
    let squares = |values: Vec<f32>| values.iter().map(|v| v * v).collect::<Vec<f32>>();
    let by_weight = match evidence {
        Evidence::Seed(seed) => {
            let mut rng = generator(seed, &[8]);
            return (0..units.len()).map(|_| rng.random()).collect();
        }
        Evidence::Density {
            seed,
            layout,
            density,
        } => return random_as_dense(seed, units, layout, density),
        Evidence::Rise(rise) => return rise.iter().map(|rise| *rise as f32).collect(),
        Evidence::Changes(changes) => squares(changes),
        Evidence::Curvature(curvature) => curvature,
        Evidence::CurvatureForWeights(curvature) => {
            let weights = units.sum(&vec![1.0; curvature.len()]);
            let sums = units.sum(&curvature).into_iter().zip(weights);
            return sums.map(|(sum, weights)| (sum / weights) as f32).collect();
        }
        Evidence::ChangesAndCurvature(changes, curvature) => {
            let pairs = changes.iter().zip(&curvature);
            pairs.map(|(d, c)| d * d * c).collect()
        }
        Evidence::Gradient(gradient) => squares(gradient),
        Evidence::GradientTimesWeight(gradient, weights) => {
            let pairs = gradient.iter().zip(weights);
            squares(pairs.map(|(g, w)| g * w).collect())
        }
        Evidence::GradientOverWeight(gradient, weights) => {
            let pairs = gradient.iter().zip(weights);
            squares(pairs.map(|(g, w)| g / (w.abs() + SMALL_WEIGHT)).collect())
        }
    };
    units.sum(&by_weight).iter().map(|s| *s as f32).collect()
}

/// What is opened of units with these scores and costs: by rank, or the best of all choices where the scores say what a unit is worth.
pub fn open_units(selection: Selection, scores: &[f32], costs: &[f64], allowed: f64) -> Vec<bool> {
    let worth: Option<Vec<f64>> = match selection {
        // Most of what the policy would change.
        Selection::Gates(Gates::Policy) => {
            let p = |score: &f32| 1.0 / (1.0 + (-f64::from(*score)).exp());
            let pairs = scores.iter().zip(costs);
            Some(pairs.map(|(score, cost)| cost * p(score)).collect())
        }
        Selection::Gates(Gates::Budgeted | Gates::HardConcrete | Gates::Threshold) => None,
        Selection::Scores(score) | Selection::ScoresAtTheEnd(score) => match score {
            Score::Rise => Some(scores.iter().map(|rise| f64::from(*rise)).collect()),
            Score::Random | Score::RandomAsSwr | Score::Magnitude => None,
            Score::Fisher | Score::FisherForWeights | Score::Taylor => None,
            Score::FirstGradient | Score::Snip | Score::Gallop => None,
        },
        Selection::Everything => None,
    };
    match worth {
        Some(worth) => knapsack(&worth, costs, allowed),
        None => choose(scores, costs, allowed),
    }
}

/// Scores by which random units are opened, of every tensor as many as the density says: 1 for these, less for all others.
fn random_as_dense(
    seed: u64,
    units: &Units,
    layout: &Layout,
    density: &BTreeMap<String, usize>,
) -> Vec<f32> {
    let mut rng = generator(seed, &[8]);
    let mut scores: Vec<f32> = (0..units.len())
        .map(|_| 0.5 * rng.random::<f32>())
        .collect();
    for slot in layout.slots() {
        let mut here: Vec<usize> = slot
            .range
            .clone()
            .filter_map(|weight| units.of(weight))
            .collect();
        here.dedup();
        here.shuffle(&mut rng);
        // A norm's scale and shift share units: what was opened for the one is open for the other.
        let mut left = density.get(&slot.name).copied().unwrap_or(0);
        let weights = |unit: usize| {
            slot.range
                .clone()
                .filter(|w| units.of(*w) == Some(unit))
                .count()
        };
        here.sort_by_key(|unit| scores[*unit] < 1.0);
        for unit in here {
            if left == 0 {
                break;
            }
            scores[unit] = 1.0;
            left = left.saturating_sub(weights(unit));
        }
    }
    scores
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reparam::choose::ranking;
    use crate::reparam::{Group, Level};

    #[test]
    fn scores_are_what_their_methods_are_named_for() {
        let layout = Layout::new([("a.conv.weight".to_string(), vec![4])]);
        let group = Group {
            tensors: vec!["a.conv.weight".into()],
            level: Level::Weight,
        };
        let units = Units::new(&layout, &[group], |_| 1.0).unwrap();
        let (changes, curvature) = (vec![1.0, 2.0, -1.0, 0.0], vec![1.0, 2.0, 3.0, 4.0]);
        for (evidence, expected) in [
            (
                Evidence::Changes(vec![-3.0, 1.0, 2.0, 0.0]),
                [9.0, 1.0, 4.0, 0.0],
            ),
            (Evidence::Curvature(curvature.clone()), [1.0, 2.0, 3.0, 4.0]),
            (
                Evidence::ChangesAndCurvature(changes, curvature),
                [1.0, 8.0, 3.0, 0.0],
            ),
            (
                Evidence::Gradient(vec![0.0, 1.0, -2.0, 1.0]),
                [0.0, 1.0, 4.0, 1.0],
            ),
            (
                Evidence::GradientTimesWeight(vec![0.0, 1.0, -2.0, 1.0], &[9.0, 3.0, 0.5, -2.0]),
                [0.0, 9.0, 1.0, 4.0],
            ),
            (
                Evidence::Rise(vec![0.5, -0.5, 0.0, 1.0]),
                [0.5, -0.5, 0.0, 1.0],
            ),
        ] {
            assert_eq!(scores(&units, evidence), expected);
        }
        let weights = [1.0, -0.1, 0.0, 0.5];
        let gradient = vec![1.0, 1.0, 0.0, 2.0];
        let found = scores(&units, Evidence::GradientOverWeight(gradient, &weights));
        // The smallest of equal gradients' weights, then twice the gradient at half the weight; no gradient, no matter how small the weight.
        assert_eq!(ranking(&found), [1, 3, 0, 2]);
    }

    #[test]
    fn channels_are_ranked_by_what_they_hold_for_each_weight() {
        let layout = Layout::new([
            ("a.conv.weight".to_string(), vec![2, 3]),
            ("b.conv.weight".to_string(), vec![2, 1]),
        ]);
        let groups = ["a.conv.weight", "b.conv.weight"].map(|name| Group {
            tensors: vec![name.into()],
            level: Level::Channel,
        });
        let units = Units::new(&layout, &groups, |_| 1.0).unwrap();
        let curvature = vec![1.0, 2.0, 3.0, 0.0, 0.0, 9.0, 2.5, 0.5];
        let found = scores(&units, Evidence::CurvatureForWeights(curvature));
        assert_eq!(found, [2.0, 3.0, 2.5, 0.5]);
    }

    #[test]
    fn what_is_worth_most_together_is_opened() {
        // A large unit of little worth each, and small ones of more.
        let (scores, costs) = ([0.4, 0.3, 0.3, -1.0], [4.0, 2.0, 2.0, 1.0]);
        let open = |selection| open_units(selection, &scores, &costs, 4.0);
        let ranked = |score| open(Selection::Scores(score));
        assert_eq!(ranked(Score::Rise), [false, true, true, false]);
        // By rank, the largest comes first; the policy's would change as much with the two.
        assert_eq!(ranked(Score::Taylor), [true, false, false, false]);
        let policy = open(Selection::Gates(Gates::Policy));
        assert_eq!(policy, [true, false, false, false]);
    }

    #[test]
    fn random_weights_are_as_many_in_every_tensor_as_the_density_says() {
        let shapes = [
            ("a.conv.weight", 30),
            ("a.norm.scale", 10),
            ("a.norm.shift", 10),
        ];
        let shapes = shapes.map(|(name, weights)| (name.to_string(), vec![weights]));
        let layout = Layout::new(shapes);
        let group = |tensors: &[&str]| Group {
            tensors: tensors.iter().map(|name| name.to_string()).collect(),
            level: Level::Weight,
        };
        let groups = [
            group(&["a.conv.weight"]),
            group(&["a.norm.scale", "a.norm.shift"]),
        ];
        let units = Units::new(&layout, &groups, |_| 1.0).unwrap();
        let density = [
            ("a.conv.weight", 7),
            ("a.norm.scale", 4),
            ("a.norm.shift", 5),
        ];
        let density = density
            .map(|(name, count)| (name.to_string(), count))
            .into();
        for seed in 0..20 {
            let evidence = Evidence::Density {
                seed,
                layout: &layout,
                density: &density,
            };
            let scores = scores(&units, evidence);
            let open: Vec<bool> = scores.iter().map(|score| *score == 1.0).collect();
            let count = |units: &[bool]| units.iter().filter(|open| **open).count();
            assert_eq!((count(&open[..30]), count(&open[30..])), (7, 5));
        }
    }
}
