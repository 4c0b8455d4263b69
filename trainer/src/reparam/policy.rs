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
const DESCRIPTION: usize = 7;
/// How much the stage before changed every unit, `[units]`, of mean 0 and deviation 1; see [`Input::Description`].
pub const CHANGES: &str = "policy.changes";

/// What the scores are a function of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// Of nothing: they are learned themselves.
    Table,
    /// Of a learned vector, by two layers.
    Vector,
    /// Of the unit's cost, size, place, kind, and of how much it changed before, by two layers shared by all units.
    Description,
    /// Of the network's pooled features, averaged over the batch, by two layers. What is chosen in the end follows from their mean over a sample.
    Features,
}

/// What a unit whose gate is open becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// `W + D`.
    Additive,
    /// `W + L R` in 1x1 convolutions, of the rank in `baselines.rank`; `W + D` in others.
    LowRank,
    /// `W + s_c W + b_c`, with a scale and a shift for every output channel `c`.
    Affine,
    /// One of both: the policy has three actions, to keep a unit, to scale it, or to replace it.
    Actions,
}

impl Form {
    /// The policy's actions.
    fn actions(self) -> usize {
        match self {
            Self::Additive | Self::LowRank | Self::Affine => 2,
            Self::Actions => 3,
        }
    }
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
    actions: usize,
    units: usize,
    description: Tensor,
}

impl Policy {
    /// A policy over `units`.
    pub fn new(input: Input, form: Form, units: &Units) -> Result<Self> {
        let (costs, sizes, kinds, count) =
            (units.costs(), units.sizes(), units.kinds(), units.len());
        let total: f64 = costs.iter().sum();
        let describe = |unit: usize| {
            let share = (costs[unit] / total.max(f64::MIN_POSITIVE)) as f32;
            let place = unit as f32 / count as f32;
            let [inputs, kernel] = kinds[unit].map(|n| (n as f32).ln() / 5.0);
            let size = (sizes[unit] as f32).ln() / 10.0;
            [1.0, share, size, place, inputs, kernel]
        };
        let description: Vec<f32> = (0..count).flat_map(describe).collect();
        Ok(Self {
            input,
            actions: form.actions(),
            units: count,
            description: Tensor::from_vec(description, (count, DESCRIPTION - 1), &Device::Cpu)?,
        })
    }

    /// Its variables and what they start as: every unit then changes with probability `p`. `features` are the features' number.
    pub fn variables(
        &self,
        p: f64,
        features: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<Vec<(&'static str, Tensor)>> {
        let actions = self.actions;
        // The changes share the probability evenly.
        let half = (0.5 * (p / (1.0 - p) / (actions - 1) as f64).ln()) as f32;
        let mut start = vec![half; actions];
        start[0] = -half;
        let pairs =
            |units: usize| Tensor::from_vec(start.repeat(units), (units, actions), &Device::Cpu);
        let mut random = |rows: usize, columns: usize| {
            let bound = 1.0 / (columns as f32).sqrt();
            let values: Vec<f32> = (0..rows * columns)
                .map(|_| rng.random_range(-bound..bound))
                .collect();
            Tensor::from_vec(values, (rows, columns), &Device::Cpu)
        };
        let (inputs, outputs, start) = match self.input {
            Input::Table => return Ok(vec![("policy.scores", pairs(self.units)?)]),
            Input::Vector => (WIDTH, actions * self.units, pairs(self.units)?),
            Input::Description => (DESCRIPTION, actions, pairs(1)?),
            Input::Features => (features, actions * self.units, pairs(self.units)?),
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

    /// The scores, `[units, actions]`: column 0 speaks for keeping a unit, the others for changing it. `get` gives a variable or [`CHANGES`], `features` is `[1, features]`.
    pub fn scores<'a>(
        &self,
        get: impl Fn(&str) -> Result<&'a Tensor>,
        features: &Tensor,
    ) -> Result<Tensor> {
        let input = match self.input {
            Input::Table => return Ok(get("policy.scores")?.clone()),
            Input::Vector => get("policy.vector")?.clone(),
            Input::Description => {
                Tensor::cat(&[&self.description, &get(CHANGES)?.unsqueeze(1)?], 1)?
            }
            Input::Features => features.clone(),
        };
        let hidden = input.matmul(&get("policy.hidden")?.t()?)?.tanh()?;
        let out = hidden.matmul(&get("policy.out")?.t()?)?;
        Ok(out
            .reshape(((), self.actions))?
            .broadcast_add(get("policy.start")?)?)
    }
}

/// Draws gates from scores `[units, actions]` by Gumbel-Softmax (arXiv 1611.01144), hard forward, soft backward: `[units]` for every action but the first,
/// which is to keep the unit.
pub fn draw(scores: &Tensor, temperature: f64, rng: &mut ChaCha8Rng) -> Result<Vec<Tensor>> {
    let (units, actions) = scores.dims2()?;
    let gumbel = |_| -> f32 { -(-(rng.random_range(f32::MIN_POSITIVE..1.0)).ln()).ln() };
    let noise: Vec<f32> = (0..actions * units).map(gumbel).collect();
    let noise = Tensor::from_vec(noise, (units, actions), &Device::Cpu)?;
    let soft = candle_nn::ops::softmax(&((scores + noise)? / temperature)?, D::Minus1)?;
    let best = soft.argmax(D::Minus1)?;
    let gate = |action: usize| {
        let soft = soft.narrow(1, action, 1)?.squeeze(1)?;
        let hard = best.eq(action as u32)?.to_dtype(soft.dtype())?;
        Ok(((hard - soft.detach())? + soft)?)
    };
    (1..actions).map(gate).collect()
}

/// What speaks for a change of every unit, less what speaks against it: `[units]`, the logit of its probability.
pub fn preferences(scores: &Tensor) -> Result<Tensor> {
    let changes = scores.narrow(1, 1, scores.dim(1)? - 1)?;
    Ok((changes.log_sum_exp(1)? - scores.narrow(1, 0, 1)?.squeeze(1)?)?)
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
        let inputs = [
            Input::Table,
            Input::Vector,
            Input::Description,
            Input::Features,
        ];
        let forms = [(Form::Additive, 2), (Form::Actions, 3)];
        for (input, (form, actions)) in inputs.iter().flat_map(|i| forms.map(|f| (*i, f))) {
            let policy = Policy::new(input, form, &units).unwrap();
            let variables = policy.variables(0.8, 5, &mut generator(3, &[])).unwrap();
            let variables: BTreeMap<&str, Var> = variables
                .iter()
                .map(|(name, value)| (*name, Var::from_tensor(value).unwrap()))
                .collect();
            let features = Tensor::ones((1, 5), candle_core::DType::F32, &Device::Cpu).unwrap();
            let changes = Tensor::new(&[-1f32, 0.0, 1.0], &Device::Cpu).unwrap();
            let get = |name: &str| match name {
                CHANGES => Ok(&changes),
                _ => Ok(variables[name].as_tensor()),
            };
            let scores = policy.scores(get, &features).unwrap();
            assert_eq!(scores.dims(), [3, actions], "{input:?}");
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
        let gates = draw(scores.as_tensor(), 0.5, &mut generator(7, &[]))
            .unwrap()
            .remove(0);
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
    fn of_three_actions_one_is_drawn() {
        let scores = Tensor::new(&[0f32, 1.0, 0.5].repeat(2000)[..], &Device::Cpu).unwrap();
        let scores = scores.reshape((2000, 3)).unwrap();
        let gates = draw(&scores, 1.0, &mut generator(7, &[])).unwrap();
        let gates: Vec<Vec<f32>> = gates.iter().map(|g| g.to_vec1().unwrap()).collect();
        let weights = [0f32, 1.0, 0.5].map(f32::exp);
        for (action, gates) in gates.iter().enumerate() {
            let share = gates.iter().sum::<f32>() / 2000.0;
            let expected = weights[action + 1] / weights.iter().sum::<f32>();
            assert!((share - expected).abs() < 0.04, "{share}, {expected}");
        }
        assert!(gates[0].iter().zip(&gates[1]).all(|(a, b)| a + b < 1.001));
        let p = candle_nn::ops::sigmoid(&preferences(&scores).unwrap()).unwrap();
        let p: Vec<f32> = p.to_vec1().unwrap();
        assert!((p[0] - (1.0 - weights[0] / weights.iter().sum::<f32>())).abs() < 1e-5);
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
