//! Scores of units that are computed, not trained.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use rand::RngExt;
use rand::seq::SliceRandom;

use super::{Choice, Method};
use crate::random::generator;
use crate::reparam::choose::{choose, knapsack};
use crate::reparam::{Layout, Units};

/// What a score may be computed from; what a method does not need may be empty.
pub struct Evidence<'a> {
    /// Seed of the run.
    pub seed: u64,
    /// The units.
    pub units: &'a Units,
    /// Where each tensor lies.
    pub layout: &'a Layout,
    /// What the dense stage changed, in the coordinates of training.
    pub delta: Vec<f32>,
    /// The same in the size in which it is stored.
    pub differences: Vec<f32>,
    /// The loss's curvature in every weight, as stored.
    pub curvature: Vec<f32>,
    /// The loss's gradient by every weight of the base, as stored.
    pub gradient: Vec<f32>,
    /// How much the loss rises when a unit is the base's again.
    pub rise: Vec<f64>,
    /// Changed weights of every tensor under SWR.
    pub density: &'a BTreeMap<String, usize>,
}

/// A score for every unit: the higher, the sooner it is opened.
///
/// # Errors
/// If the evidence for the method is missing.
pub fn scores(method: Method, evidence: &Evidence) -> Result<Vec<f32>> {
    let Evidence {
        seed,
        units,
        delta,
        differences,
        curvature,
        gradient,
        ..
    } = evidence;
    let mut rng = generator(*seed, &[8]);
    let square = |values: &[f32]| values.iter().map(|v| v * v).collect::<Vec<f32>>();
    let by_weight = match method {
        Method::Random => return Ok((0..units.len()).map(|_| rng.random()).collect()),
        Method::RandomDensity => return as_dense(evidence),
        Method::Sensitivity => return Ok(evidence.rise.iter().map(|rise| *rise as f32).collect()),
        Method::Fisher => curvature.clone(),
        Method::FirstGradient => square(gradient),
        Method::Magnitude | Method::MagnitudeOnce => square(delta),
        _ => differences
            .iter()
            .zip(curvature)
            .map(|(d, c)| d * d * c)
            .collect(),
    };
    Ok(units.sum(&by_weight).iter().map(|s| *s as f32).collect())
}

/// What is opened of units with these scores and costs: by rank, or the best of all choices where a method says what a unit is worth.
pub fn open_units(method: Method, scores: &[f32], costs: &[f64], allowed: f64) -> Vec<bool> {
    let worth: Vec<f64> = match method.choice() {
        // Most of what the policy would change.
        Choice::Policy => {
            let p = |score: &f32| 1.0 / (1.0 + (-f64::from(*score)).exp());
            let pairs = scores.iter().zip(costs);
            pairs.map(|(score, cost)| cost * p(score)).collect()
        }
        _ if method == Method::Sensitivity => scores.iter().map(|rise| f64::from(*rise)).collect(),
        _ => return choose(scores, costs, allowed),
    };
    knapsack(&worth, costs, allowed)
}

/// Scores by which random units are opened, of every tensor as many as the density says: 1 for these, less for all others.
fn as_dense(evidence: &Evidence) -> Result<Vec<f32>> {
    let Evidence {
        seed,
        units,
        layout,
        density,
        ..
    } = evidence;
    ensure!(
        !density.is_empty(),
        "this method needs the result of swr under the same budget and seed; run that first"
    );
    let mut rng = generator(*seed, &[8]);
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
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reparam::{Group, Level};

    #[test]
    fn scores_are_what_their_methods_are_named_for() {
        let layout = Layout::new([("a.conv.weight".to_string(), vec![4])]);
        let group = Group {
            tensors: vec!["a.conv.weight".into()],
            level: Level::Weight,
        };
        let units = Units::new(&layout, &[group], |_| 1.0).unwrap();
        let evidence = Evidence {
            seed: 1,
            units: &units,
            layout: &layout,
            delta: vec![-3.0, 1.0, 2.0, 0.0],
            differences: vec![1.0, 2.0, -1.0, 0.0],
            curvature: vec![1.0, 2.0, 3.0, 4.0],
            gradient: vec![0.0, 1.0, -2.0, 1.0],
            rise: vec![0.5, -0.5, 0.0, 1.0],
            density: &BTreeMap::new(),
        };
        for (method, expected) in [
            (Method::Magnitude, [9.0, 1.0, 4.0, 0.0]),
            (Method::MagnitudeOnce, [9.0, 1.0, 4.0, 0.0]),
            (Method::Fisher, [1.0, 2.0, 3.0, 4.0]),
            (Method::Taylor, [1.0, 8.0, 3.0, 0.0]),
            (Method::FirstGradient, [0.0, 1.0, 4.0, 1.0]),
            (Method::Sensitivity, [0.5, -0.5, 0.0, 1.0]),
        ] {
            assert_eq!(scores(method, &evidence).unwrap(), expected, "{method:?}");
        }
        assert!(scores(Method::RandomDensity, &evidence).is_err());
    }

    #[test]
    fn what_is_worth_most_together_is_opened() {
        // A large unit of little worth each, and small ones of more.
        let (scores, costs) = ([0.4, 0.3, 0.3, -1.0], [4.0, 2.0, 2.0, 1.0]);
        let open = |method| open_units(method, &scores, &costs, 4.0);
        assert_eq!(open(Method::Sensitivity), [false, true, true, false]);
        // By rank, the largest comes first; the policy's would change as much with the two.
        assert_eq!(open(Method::Taylor), [true, false, false, false]);
        assert_eq!(open(Method::SwrLayers), [true, false, false, false]);
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
            let scores = as_dense(&Evidence {
                seed,
                units: &units,
                layout: &layout,
                delta: vec![],
                differences: vec![],
                curvature: vec![],
                gradient: vec![],
                rise: vec![],
                density: &density,
            });
            let open: Vec<bool> = scores.unwrap().iter().map(|score| *score == 1.0).collect();
            let count = |units: &[bool]| units.iter().filter(|open| **open).count();
            assert_eq!((count(&open[..30]), count(&open[30..])), (7, 5));
        }
    }
}
