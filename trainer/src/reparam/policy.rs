//! The policy as the paper and the patent describe it, as far as is known: a pair of scores per unit, gates drawn from them by Gumbel-Softmax, hard
//! forward and soft backward, and a cost factor on the expected cost in the loss. Where the sources leave a choice open, it is a setting.

use anyhow::Result;
use candle_core::{D, Device, Tensor};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Units;

/// Width of the policy's hidden layer, and of the vector that it may learn to see.
const WIDTH: usize = 32;
/// Numbers that describe a unit to the policy.
const DESCRIPTION: usize = 4;

/// What the scores are a function of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// Of nothing: they are learned themselves.
    Table,
    /// Of a learned vector, by two layers.
    Vector,
    /// Of the unit's cost, size and place, by two layers shared by all units.
    Description,
    /// Of the network's pooled features, averaged over the batch, by two layers. What is chosen in the end follows from their mean over a sample.
    Features,
}

/// What the expected share of cost `c` adds to the loss, against the budget's share `t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Penalty {
    /// `max(0, c - t)`: only excess counts. Uniformly low probabilities satisfy it.
    Hinge,
    /// `max(0, c - t)^2`.
    Squared,
    /// `|c - t|`: also pulls up to the budget, so that the gates are decided where it lies.
    Absolute,
    /// `c`: the less the better, whatever the budget.
    Linear,
    /// `m (c - t)`: the multiplier `m` grows with the excess and falls with what is left (dual ascent).
    Dual,
}

/// The policy's variables and how they become scores.
pub struct Policy {
    input: Input,
    units: usize,
    description: Tensor,
}

impl Policy {
    /// A policy over `units`.
    pub fn new(input: Input, units: &Units) -> Result<Self> {
        let (costs, sizes, count) = (units.costs(), units.sizes(), units.len());
        let total: f64 = costs.iter().sum();
        let describe = |unit: usize| {
            let share = (costs[unit] / total.max(f64::MIN_POSITIVE)) as f32;
            let place = unit as f32 / count as f32;
            [1.0, share, (sizes[unit] as f32).ln() / 10.0, place]
        };
        let description: Vec<f32> = (0..count).flat_map(describe).collect();
        Ok(Self {
            input,
            units: count,
            description: Tensor::from_vec(description, (count, DESCRIPTION), &Device::Cpu)?,
        })
    }

    /// Its variables and what they start as: every unit then changes with probability `p`. `features` are the features' number.
    pub fn variables(
        &self,
        p: f64,
        features: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<(&'static str, Tensor)>> {
        let half = (0.5 * (p / (1.0 - p)).ln()) as f32;
        let pairs =
            |units: usize| Tensor::from_vec([-half, half].repeat(units), (units, 2), &Device::Cpu);
        let mut random = |rows: usize, columns: usize| {
            let bound = 1.0 / (columns as f32).sqrt();
            let values: Vec<f32> = (0..rows * columns)
                .map(|_| rng.random_range(-bound..bound))
                .collect();
            Tensor::from_vec(values, (rows, columns), &Device::Cpu)
        };
        let (inputs, outputs, start) = match self.input {
            Input::Table => return Ok(vec![("policy.scores", pairs(self.units)?)]),
            Input::Vector => (WIDTH, 2 * self.units, pairs(self.units)?),
            Input::Description => (DESCRIPTION, 2, pairs(1)?),
            Input::Features => (features, 2 * self.units, pairs(self.units)?),
        };
        let mut variables = vec![
            ("policy.hidden", random(WIDTH, inputs)?),
            ("policy.out", (random(outputs, WIDTH)? * 0.1)?),
            ("policy.start", start),
        ];
        if self.input == Input::Vector {
            variables.push(("policy.vector", random(1, WIDTH)?));
        }
        Ok(variables)
    }

    /// The scores, `[units, 2]`, column 1 speaks for change. `get` gives a variable, `features` is `[1, features]`.
    pub fn scores<'a>(
        &self,
        get: impl Fn(&str) -> Result<&'a Tensor>,
        features: &Tensor,
    ) -> Result<Tensor> {
        let input = match self.input {
            Input::Table => return Ok(get("policy.scores")?.clone()),
            Input::Vector => get("policy.vector")?.clone(),
            Input::Description => self.description.clone(),
            Input::Features => features.clone(),
        };
        let hidden = input.matmul(&get("policy.hidden")?.t()?)?.tanh()?;
        let out = hidden.matmul(&get("policy.out")?.t()?)?;
        Ok(out.reshape(((), 2))?.broadcast_add(get("policy.start")?)?)
    }
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

/// What speaks for a change of every unit, less what speaks against it: `[units]`, the logit of its probability.
pub fn preferences(scores: &Tensor) -> Result<Tensor> {
    Ok((scores.narrow(1, 1, 1)? - scores.narrow(1, 0, 1)?)?.squeeze(1)?)
}

/// Expected share of all units' cost, a scalar.
pub fn expected_share(scores: &Tensor, costs: &[f64]) -> Result<Tensor> {
    let total: f64 = costs.iter().sum();
    let shares: Vec<f32> = costs.iter().map(|cost| (cost / total) as f32).collect();
    let p = candle_nn::ops::sigmoid(&preferences(scores)?)?;
    Ok((p * Tensor::new(shares, &Device::Cpu)?)?.sum_all()?)
}

impl Penalty {
    /// What the loss gains. `weight` is the cost factor. [`Penalty::Dual`] takes `multiplier`, a variable `[1]`, in its place, which a descent along the
    /// gradient lets grow with the excess.
    pub fn of(
        self,
        share: &Tensor,
        allowed_share: f64,
        weight: f64,
        multiplier: &Tensor,
    ) -> Result<Tensor> {
        let excess = (share - allowed_share)?;
        Ok(match self {
            Self::Hinge => (excess.relu()? * weight)?,
            Self::Squared => (excess.relu()?.sqr()? * weight)?,
            Self::Absolute => (excess.abs()? * weight)?,
            Self::Linear => (share * weight)?,
            Self::Dual => {
                let m = multiplier.squeeze(0)?;
                ((m.detach() * &excess)? - (m * excess.detach())?)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;
    use crate::reparam::{Group, Layout, Level};
    use candle_core::Var;
    use std::collections::BTreeMap;

    fn units(sizes: &[usize]) -> Units {
        let name = |i: usize| format!("t{i}");
        let layout = Layout::new(sizes.iter().enumerate().map(|(i, n)| (name(i), vec![*n])));
        let groups: Vec<Group> = (0..sizes.len())
            .map(|i| Group {
                tensors: vec![name(i)],
                level: Level::Layer,
            })
            .collect();
        Units::new(&layout, &groups, |_| 1.0).unwrap()
    }

    #[test]
    fn every_input_starts_near_the_given_probability_and_learns() {
        let units = units(&[60, 40, 7]);
        for input in [
            Input::Table,
            Input::Vector,
            Input::Description,
            Input::Features,
        ] {
            let policy = Policy::new(input, &units).unwrap();
            let variables = policy.variables(0.8, 5, &mut generator(3, &[])).unwrap();
            let variables: BTreeMap<&str, Var> = variables
                .iter()
                .map(|(name, value)| (*name, Var::from_tensor(value).unwrap()))
                .collect();
            let features = Tensor::ones((1, 5), candle_core::DType::F32, &Device::Cpu).unwrap();
            let scores = policy
                .scores(|name| Ok(variables[name].as_tensor()), &features)
                .unwrap();
            assert_eq!(scores.dims(), [3, 2], "{input:?}");
            let share: f32 = expected_share(&scores, units.costs())
                .unwrap()
                .to_scalar()
                .unwrap();
            assert!((share - 0.8).abs() < 0.1, "{input:?}: {share}");
            let gradients = scores.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            for (name, variable) in &variables {
                assert!(
                    gradients.get(variable).is_some(),
                    "{input:?}: nothing moves {name}"
                );
            }
        }
    }

    #[test]
    fn gates_are_hard_forward_and_soft_backward() {
        let pairs = Tensor::from_vec([-0.7f32, 0.7].repeat(500), (500, 2), &Device::Cpu).unwrap();
        let scores = Var::from_tensor(&pairs).unwrap();
        let gates = draw(scores.as_tensor(), 0.5, &mut generator(7, &[])).unwrap();
        let values: Vec<f32> = gates.to_vec1().unwrap();
        assert!(values.iter().all(|g| (g - g.round()).abs() < 1e-6));
        let share = values.iter().sum::<f32>() / 500.0;
        assert!(
            (share - 0.8).abs() < 0.06,
            "{share} of the gates are open, 0.8 expected"
        );
        let gradients = gates.sum_all().unwrap().backward().unwrap();
        let gradient = gradients
            .get(scores.as_tensor())
            .unwrap()
            .flatten_all()
            .unwrap();
        let gradient: Vec<f32> = gradient.to_vec1().unwrap();
        assert!(
            gradient.iter().any(|g| *g != 0.0),
            "the scores get a gradient"
        );
    }

    #[test]
    fn penalties_differ_below_and_above_the_budget() {
        let multiplier = Var::new(&[-3f32], &Device::Cpu).unwrap();
        let slopes = |penalty: Penalty, share: f32| {
            let share = Var::new(share, &Device::Cpu).unwrap();
            let value = penalty
                .of(&share, 0.5, 2.0, multiplier.as_tensor())
                .unwrap();
            let gradients = value.backward().unwrap();
            let at = |v: &Var| {
                gradients.get(v).map_or(0.0, |g| {
                    g.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]
                })
            };
            let rounded = |v: f32| (v * 1e4).round() / 1e4;
            (rounded(at(&share)), rounded(at(&multiplier)))
        };
        for (penalty, below, above) in [
            (Penalty::Hinge, (0.0, 0.0), (2.0, 0.0)),
            (Penalty::Squared, (0.0, 0.0), (0.4, 0.0)),
            (Penalty::Absolute, (-2.0, 0.0), (2.0, 0.0)),
            (Penalty::Linear, (2.0, 0.0), (2.0, 0.0)),
            (Penalty::Dual, (-3.0, 0.4), (-3.0, -0.1)),
        ] {
            assert_eq!(
                (slopes(penalty, 0.1), slopes(penalty, 0.6)),
                (below, above),
                "{penalty:?}"
            );
        }
    }
}
