//! Scalable weight reparametrization: which units of a network change, decided by a learned policy under a budget.
//!
//! A unit is a set of named tensors that share one gate `g`: `W' = W + g * D`. Named tensors and their costs enter, gates leave;
//! nothing here knows which network they belong to. The policy exists only in training; what is stored is the deltas of the
//! chosen units.
//! Source: Kim et al., "Scalable Weight Reparametrization for Efficient Transfer Learning", arXiv 2302.13435, abstract, and
//! patent application US 2024/0185088, abstract. Their equations could not be read: this is a re-implementation from those.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::{D, Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::config::Penalty;
use crate::network::Weights;

/// Tensors that change together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Names of its tensors.
    pub tensors: Vec<String>,
    /// What changing it costs, in the unit of the budget: weights, or bytes.
    pub cost: usize,
}

/// The state of all gates in one pass.
pub enum Gates {
    /// Every unit changes.
    Open,
    /// One value per unit, `[units]`, drawn from the policy; gradients flow through it.
    Drawn(Tensor),
    /// Fixed: whether each unit changes.
    Fixed(Vec<bool>),
}

/// `W' = W + g * D` for every delta; tensors that belong to no unit have an open gate.
pub fn reparametrize(
    base: &Weights,
    deltas: &Weights,
    units: &[Unit],
    gates: &Gates,
) -> Result<Weights> {
    let unit_of: BTreeMap<&str, usize> = units
        .iter()
        .enumerate()
        .flat_map(|(i, unit)| unit.tensors.iter().map(move |name| (name.as_str(), i)))
        .collect();
    let mut weights = base.clone();
    for (name, delta) in deltas {
        let weight = &base[name];
        let changed = match (unit_of.get(name.as_str()), gates) {
            (Some(unit), Gates::Drawn(gates)) => {
                (weight + delta.broadcast_mul(&gates.get(*unit)?)?)?
            }
            (Some(unit), Gates::Fixed(gates)) if !gates[*unit] => continue,
            _ => (weight + delta)?,
        };
        weights.insert(name.clone(), changed);
    }
    Ok(weights)
}

/// Scores with which every unit changes with probability `p`: `[units, 2]`, column 1 speaks for change.
pub fn initial_scores(units: usize, p: f64) -> Result<Tensor> {
    let half = (0.5 * (p / (1.0 - p)).ln()) as f32;
    Ok(Tensor::from_vec(
        [-half, half].repeat(units),
        (units, 2),
        &Device::Cpu,
    )?)
}

/// Draws gates from scores `[units, 2]` by Gumbel-Softmax (arXiv 1611.01144), hard forward, soft backward: `[units]`.
pub fn draw(scores: &Tensor, temperature: f64, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let units = scores.dim(0)?;
    let gumbel = |_| -> f32 { -(-(rng.random_range(f32::MIN_POSITIVE..1.0)).ln()).ln() };
    let noise: Vec<f32> = (0..2 * units).map(gumbel).collect();
    let noise = Tensor::from_vec(noise, (units, 2), &Device::Cpu)?;
    let soft = candle_nn::ops::softmax(&((scores + noise)? / temperature)?, D::Minus1)?
        .narrow(1, 1, 1)?
        .squeeze(1)?;
    let hard = soft.ge(0.5)?.to_dtype(soft.dtype())?;
    Ok(((hard - soft.detach())? + soft)?)
}

/// Probability of change of every unit: `[units]`.
pub fn probabilities(scores: &Tensor) -> Result<Tensor> {
    Ok(candle_nn::ops::softmax(scores, D::Minus1)?
        .narrow(1, 1, 1)?
        .squeeze(1)?)
}

/// Penalty on the expected cost of the scores against `allowed`, both as shares of all units' cost.
pub fn penalty(scores: &Tensor, units: &[Unit], allowed: usize, shape: Penalty) -> Result<Tensor> {
    let total: usize = units.iter().map(|unit| unit.cost).sum();
    let shares: Vec<f32> = units
        .iter()
        .map(|unit| unit.cost as f32 / total as f32)
        .collect();
    let expected = (probabilities(scores)? * Tensor::new(shares, &Device::Cpu)?)?.sum_all()?;
    let excess = (expected - allowed as f64 / total as f64)?;
    Ok(match shape {
        Penalty::Hinge => excess.relu()?,
        Penalty::Absolute => excess.abs()?,
    })
}

/// The units with the largest expected change, the sum of cost times probability, that together cost at most `allowed`: a 0/1
/// knapsack, solved exactly. Units are thus ranked by probability, in which the policy has weighed benefit against cost already.
/// Never exceeds the budget; equal sums prefer the earlier units.
pub fn choose(probabilities: &[f32], units: &[Unit], allowed: usize) -> Vec<bool> {
    let allowed = allowed.min(units.iter().map(|unit| unit.cost).sum());
    // best[c]: largest value at a cost of at most c; taken[u][c]: whether unit u is part of it.
    let mut best = vec![0f64; allowed + 1];
    let mut taken = vec![vec![false; allowed + 1]; units.len()];
    for (u, unit) in units.iter().enumerate() {
        for c in (unit.cost..=allowed).rev() {
            let value = best[c - unit.cost] + unit.cost as f64 * f64::from(probabilities[u]);
            if value > best[c] {
                best[c] = value;
                taken[u][c] = true;
            }
        }
    }
    let mut chosen = vec![false; units.len()];
    let mut left = allowed;
    for u in (0..units.len()).rev() {
        if taken[u][left] {
            chosen[u] = true;
            left -= units[u].cost;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;
    use candle_core::Var;

    fn units(costs: &[usize]) -> Vec<Unit> {
        costs
            .iter()
            .enumerate()
            .map(|(i, cost)| Unit {
                tensors: vec![format!("t{i}")],
                cost: *cost,
            })
            .collect()
    }

    #[test]
    fn the_choice_is_the_best_of_all_that_fit() {
        let mut rng = generator(5, &[]);
        for _ in 0..200 {
            let units = units(&(0..9).map(|_| rng.random_range(1..40)).collect::<Vec<_>>());
            let p: Vec<f32> = (0..9).map(|_| rng.random::<f32>()).collect();
            let allowed = rng.random_range(0..120);
            let worth = |set: &[bool]| {
                (0..9)
                    .filter(|u| set[*u])
                    .map(|u| units[u].cost as f64 * f64::from(p[u]))
                    .sum::<f64>()
            };
            let cost = |set: &[bool]| {
                (0..9)
                    .filter(|u| set[*u])
                    .map(|u| units[u].cost)
                    .sum::<usize>()
            };
            let chosen = choose(&p, &units, allowed);
            assert!(cost(&chosen) <= allowed);
            for bits in 0..512u32 {
                let other: Vec<bool> = (0..9).map(|u| bits >> u & 1 == 1).collect();
                assert!(cost(&other) > allowed || worth(&other) <= worth(&chosen) + 1e-9);
            }
        }
    }

    #[test]
    fn gates_are_hard_forward_and_soft_backward() {
        let scores = Var::from_tensor(&initial_scores(500, 0.8).unwrap()).unwrap();
        let gates = draw(scores.as_tensor(), 0.5, &mut generator(7, &[])).unwrap();
        let values: Vec<f32> = gates.to_vec1().unwrap();
        assert!(
            values.iter().all(|g| (g - g.round()).abs() < 1e-6),
            "gates are 0 or 1"
        );
        let share = values.iter().sum::<f32>() / 500.0;
        assert!(
            (share - 0.8).abs() < 0.06,
            "{share} of the gates are open, 0.8 expected"
        );
        let gradients = gates.sum_all().unwrap().backward().unwrap();
        let gradient: Vec<f32> = gradients
            .get(scores.as_tensor())
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert!(
            gradient.iter().any(|g| *g != 0.0),
            "the scores get a gradient"
        );
    }

    #[test]
    fn a_closed_gate_leaves_the_base_and_an_open_one_adds_the_delta() {
        let tensor = |v: f32| Tensor::new(&[v, v], &Device::Cpu).unwrap();
        let base = Weights::from([
            ("a".into(), tensor(1.0)),
            ("b".into(), tensor(2.0)),
            ("free".into(), tensor(3.0)),
        ]);
        let deltas = Weights::from([
            ("a".into(), tensor(0.5)),
            ("b".into(), tensor(0.5)),
            ("free".into(), tensor(0.5)),
        ]);
        let units = vec![
            Unit {
                tensors: vec!["a".into()],
                cost: 2,
            },
            Unit {
                tensors: vec!["b".into()],
                cost: 2,
            },
        ];
        let sums = |gates: &Gates| -> Vec<f32> {
            let w = reparametrize(&base, &deltas, &units, gates).unwrap();
            w.values()
                .map(|t| t.sum_all().unwrap().to_scalar::<f32>().unwrap())
                .collect()
        };
        assert_eq!(sums(&Gates::Open), [3.0, 5.0, 7.0]);
        assert_eq!(sums(&Gates::Fixed(vec![true, false])), [3.0, 4.0, 7.0]);
        assert_eq!(
            sums(&Gates::Drawn(
                Tensor::new(&[0f32, 1.0], &Device::Cpu).unwrap()
            )),
            [2.0, 5.0, 7.0]
        );
    }

    #[test]
    fn penalties_differ_below_the_budget() {
        let units = units(&[60, 40]);
        let scores = initial_scores(2, 0.1).unwrap();
        let value = |shape| {
            penalty(&scores, &units, 50, shape)
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
        };
        assert_eq!(value(Penalty::Hinge), 0.0);
        assert!((value(Penalty::Absolute) - 0.4).abs() < 1e-5);
    }
}
