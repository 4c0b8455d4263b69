//! Gates that are trained in the select stage: SWR's, the published policy's, and those of two baselines.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::plan::{DELTA, Plan, flat, mask};
use super::stage::Step;
use super::stages::{SELECT, Trained};
use crate::baselines::Gates;
use crate::config::AdaptConfig;
use crate::examples::for_each_plain_batch;
use crate::learner::{Learner, Rule};
use crate::network::Pass;
use crate::random::generator;
use crate::reparam::choose::choose;
use crate::reparam::policy::{CHANGES, Form, Input, Policy, draw, expected_share, preferences};
use crate::reparam::{Units, gates};
use crate::train::Moment;

/// Steps of the select stage from one record of what the gates cost to the next.
const GATES_LOGGED: usize = 10;
const SCORES: &str = "gates.scores";
const MULTIPLIER: &str = "policy.multiplier";
/// Units above which the likeliest that fill the budget are opened instead of some that are drawn: a draw of thousands is its own mean. (Of those likelier
/// open than not, a small budget would at first open none, and gates would learn from a network that changes nothing.)
const MANY_UNITS: usize = 5_000;
/// Diff pruning (arXiv 2012.07463, section 3.1): the hard-concrete distribution is stretched to this interval, and its logits begin here.
const STRETCH: (f64, f64) = (-1.5, 1.5);
const HARD_CONCRETE_START: f32 = 5.0;
/// Factor of their expected share in the loss.
const HARD_CONCRETE_PENALTY: f64 = 5.0;
/// TAPS (arXiv 2203.16708, and its code): gates are open from this score on, and begin above it.
const TAPS_THRESHOLD: f64 = 0.1;
const TAPS_START: f32 = 0.15;

/// What one step's gates are.
pub(super) struct Drawn {
    /// Gates of all units for every way to change, one set of them or several that share the batch.
    pub(super) gates: Vec<Vec<Tensor>>,
    /// What the loss gains.
    pub(super) extra: Option<Tensor>,
    /// What the gates cost as a share of what is allowed: expected, and of those more open than shut.
    pub(super) cost: [f64; 2],
}

/// Gates to be trained.
pub(super) struct Selector<'a> {
    gates: Gates,
    form: Form,
    config: &'a AdaptConfig,
    units: &'a Units,
    /// What the units may cost together.
    allowed: f64,
    policy: Policy,
    /// Channels of the network's features.
    width: usize,
}

impl<'a> Selector<'a> {
    /// The gates of a plan over its units, which may cost so much together.
    pub(super) fn new(plan: &'a Plan, gates: Gates, allowed: f64) -> Result<Self> {
        let (config, units) = (plan.job.config, &plan.units);
        Ok(Self {
            gates,
            form: plan.form,
            config,
            units,
            allowed,
            policy: Policy::new(config.policy.input, config.policy.form, units)?,
            width: plan.job.network.width(),
        })
    }

    /// Whether every unit changes by scaling its channels instead, where the policy decides that, `[units]`.
    fn scaled(&self, learner: &Learner, features: &Tensor) -> Result<Option<Tensor>> {
        if self.form != Form::Actions {
            return Ok(None);
        }
        let scores = self.policy_scores(learner, features)?;
        let action = |action| scores.narrow(1, action, 1)?.squeeze(1);
        let scaled = action(2)?.gt(&action(1)?)?;
        Ok(Some(scaled.to_dtype(scores.dtype())?))
    }

    /// Whether the gates depend on features of the batch.
    fn sees_features(&self) -> bool {
        self.gates == Gates::Policy && self.config.policy.input == Input::Features
    }

    /// Scores of the policy, as its variables are.
    fn policy_scores(&self, learner: &Learner, features: &Tensor) -> Result<Tensor> {
        let get = |name: &str| match &learner.decided.changes {
            Some(changes) if name == CHANGES => Ok(changes),
            _ => learner.get(name),
        };
        self.policy.scores(get, features)
    }

    /// Its variables as they start; SWR's scores start from those that are computed, which also tell the policy how much was changed before.
    pub(super) fn add_variables(&self, learner: &mut Learner, computed: &[f32]) -> Result<()> {
        let flat = |values: Vec<f32>| Tensor::from_slice(&values, values.len(), &Device::Cpu);
        let (count, policy) = (self.units.len(), &self.config.policy);
        let adam = |rate| Rule::Adam { rate };
        match self.gates {
            Gates::Budgeted => learner.add(
                SCORES,
                &flat(standardised(computed))?,
                adam(self.config.gates.learning_rate),
            ),
            Gates::HardConcrete => {
                learner.add(SCORES, &flat(vec![HARD_CONCRETE_START; count])?, adam(0.1))
            }
            Gates::Threshold => {
                let start = flat(vec![TAPS_START; count])?;
                let anchor = start.clone();
                learner.add(SCORES, &start, Rule::Sgd { anchor })
            }
            Gates::Policy => {
                learner.decided.changes = Some(flat(standardised(computed))?);
                let mut rng = generator(self.config.seed, &[9]);
                for (name, value) in
                    self.policy
                        .variables(policy.initial_probability, self.width, &mut rng)?
                {
                    learner.add(name, &value, adam(policy.learning_rate))?;
                }
                learner.add(MULTIPLIER, &flat(vec![0.0])?, adam(policy.penalty_weight))
            }
        }
    }

    /// The gates of a step. `features` is `[1, features]`, of the batch if they are seen.
    pub(super) fn draw(
        &self,
        learner: &Learner,
        features: &Tensor,
        moment: Moment,
    ) -> Result<Drawn> {
        let rng = |draw: usize| {
            generator(
                self.config.seed,
                &[1, u64::MAX, moment.step as u64, draw as u64],
            )
        };
        let falling = |first: f64, last: f64| first * (last / first).powf(moment.done);
        let costs = self.units.costs();
        let total: f64 = costs.iter().sum();
        let share = (self.allowed / total).min(1.0);
        match self.gates {
            Gates::Budgeted => {
                let g = &self.config.gates;
                let op = gates::Budgeted {
                    costs: costs.to_vec(),
                    budget: self.allowed,
                    temperature: falling(g.first_temperature, g.last_temperature),
                };
                let p = learner.get(SCORES)?.apply_op1(op)?;
                let gate = if self.units.len() > MANY_UNITS {
                    filled(&p, costs, self.allowed)?
                } else {
                    gates::draw(&p, &mut rng(0))?
                };
                Ok(Drawn {
                    gates: vec![vec![gate]],
                    extra: None,
                    cost: self.cost(&p.to_vec1()?),
                })
            }
            Gates::Policy => {
                let policy = &self.config.policy;
                let scores = self.policy_scores(learner, features)?;
                let temperature = falling(policy.first_temperature, policy.last_temperature);
                let drawn = (0..policy.draws).map(|i| draw(&scores, temperature, &mut rng(i)));
                let expected = expected_share(&scores, costs)?;
                let extra = policy.penalty.of(
                    &expected,
                    share,
                    policy.penalty_weight,
                    learner.get(MULTIPLIER)?,
                )?;
                let p: Vec<f32> = candle_nn::ops::sigmoid(&preferences(&scores)?)?.to_vec1()?;
                Ok(Drawn {
                    gates: drawn.collect::<Result<_>>()?,
                    extra: Some(extra),
                    cost: self.cost(&p),
                })
            }
            Gates::HardConcrete => {
                let alpha = learner.get(SCORES)?;
                let uniform = uniform(self.units.len(), &mut rng(0))?;
                let noise = (uniform.log()? - (1.0 - &uniform)?.log()?)?;
                let (low, high) = STRETCH;
                let s = candle_nn::ops::sigmoid(&(noise + alpha)?)?;
                let gate = ((s * (high - low))? + low)?.clamp(0.0, 1.0)?;
                let p = candle_nn::ops::sigmoid(&(alpha - (-low / high).ln())?)?;
                let shares: Vec<f32> = costs.iter().map(|cost| (cost / total) as f32).collect();
                let expected =
                    (&p * Tensor::from_vec(shares, costs.len(), &Device::Cpu)?)?.sum_all()?;
                let extra = (expected * HARD_CONCRETE_PENALTY)?;
                Ok(Drawn {
                    gates: vec![vec![gate]],
                    extra: Some(extra),
                    cost: self.cost(&p.to_vec1()?),
                })
            }
            Gates::Threshold => {
                let s = learner.get(SCORES)?;
                let open = s.ge(TAPS_THRESHOLD)?.to_dtype(s.dtype())?;
                let gate = ((&open - s.detach())? + s)?;
                let extra = (s.abs()?.mean_all()? * self.config.baselines.taps_penalty)?;
                Ok(Drawn {
                    gates: vec![vec![gate]],
                    extra: Some(extra),
                    cost: self.cost(&open.to_vec1()?),
                })
            }
        }
    }

    /// Cost of probabilities, as a share of what is allowed: expected, and of those above a half.
    fn cost(&self, p: &[f32]) -> [f64; 2] {
        let units = || p.iter().zip(self.units.costs());
        let expected: f64 = units().map(|(p, cost)| f64::from(*p) * cost).sum();
        let open: f64 = units()
            .filter(|(p, _)| **p > 0.5)
            .map(|(_, cost)| cost)
            .sum();
        [expected / self.allowed, open / self.allowed]
    }

    /// Scores of all units when training is over: logits of a change for layers, anything that ranks for weights. `sizes` are the squares of the
    /// units' deltas.
    pub(super) fn scores(
        &self,
        learner: &Learner,
        features: &Tensor,
        sizes: &[f64],
    ) -> Result<Vec<f32>> {
        match self.gates {
            Gates::Policy => Ok(preferences(&self.policy_scores(learner, features)?)?.to_vec1()?),
            Gates::HardConcrete => {
                // What survives of diff pruning is projected to the budget by size; where that leaves room, what is nearest to survive follows.
                let alpha: Vec<f32> = learner.get(SCORES)?.to_vec1()?;
                let (low, high) = STRETCH;
                let gate = |alpha: &f32| {
                    ((high - low) / (1.0 + f64::from(-alpha).exp()) + low).clamp(0.0, 1.0)
                };
                Ok(alpha
                    .iter()
                    .zip(sizes)
                    .map(|(alpha, size)| match gate(alpha) {
                        0.0 => alpha.min(0.0),
                        gate => (gate.powi(2) * size) as f32,
                    })
                    .collect())
            }
            Gates::Budgeted | Gates::Threshold => Ok(learner.get(SCORES)?.to_vec1()?),
        }
    }
}

impl Plan<'_> {
    /// Trains gates; the scores that they end with.
    pub(super) fn train_gates(
        &self,
        trained: &mut Trained,
        selector: &Selector,
    ) -> Result<Vec<f32>> {
        let (job, config) = (self.job, self.job.config);
        let base = flat(&self.frame.base)?;
        let pooled = |log_mel: &Tensor| -> Result<Tensor> {
            let features = job.network.features(&base, log_mel, &Pass::evaluation())?;
            Ok(features.mean(2)?.mean_keepdim(0)?)
        };
        let mut seen = Tensor::zeros((1, selector.width), DType::F32, &Device::Cpu)?;
        let frozen = selector.gates == Gates::Policy && !config.policy.train_deltas;
        let gated = (0..self.frame.base.len()).map(|weight| self.units.of(weight).is_some());
        let gated = mask(&gated.collect::<Vec<bool>>())?;

        let nothing = |_: &mut Learner, _| Ok(());
        self.stage(trained, SELECT, &config.select, nothing, |learner, batch, moment| {
            if selector.sees_features() {
                seen = pooled(&batch.log_mel)?;
            }
            let drawn = selector.draw(learner, &seen, moment)?;
            if moment.step.is_multiple_of(GATES_LOGGED) {
                let [expected, open] = drawn.cost;
                job.run.log(&json!({"stage": "gates", "step": moment.step, "expected": expected, "open": open}))?;
            }
            let mut deltas = vec![self.delta(learner)?];
            if selector.form == Form::Actions {
                deltas.push(self.scaled_delta(learner)?);
            }
            if frozen {
                deltas.iter_mut().for_each(|delta| *delta = delta.detach());
            }
            let change = |gates: &Vec<Tensor>| {
                let mut change = (self.units.spread(&gates[0])? * &deltas[0])?;
                for (gate, delta) in gates.iter().zip(&deltas).skip(1) {
                    // What has no gate takes its own difference alone.
                    let gates = (self.units.spread(gate)? * &gated)?;
                    change = (change + (gates * delta)?)?;
                }
                Ok(change)
            };
            Ok(Step {
                changes: drawn.gates.iter().map(change).collect::<Result<_>>()?,
                extra: drawn.extra,
            })
        })?;

        if selector.sees_features() {
            // The same whether or not the stage was interrupted.
            let mut all = Vec::new();
            for_each_plain_batch(&self.sample, 100, |batch| {
                all.push(pooled(&batch.log_mel)?);
                Ok(())
            })?;
            seen = Tensor::cat(&all, 0)?.mean_keepdim(0)?;
        }
        let learner = &mut trained.learner;
        if let Some(scaled) = selector.scaled(learner, &seen)? {
            learner.decided.scaled = Some((self.units.spread(&scaled)? * &gated)?);
        }
        let sizes: Vec<f32> = learner.get(DELTA)?.sqr()?.to_vec1()?;
        selector.scores(learner, &seen, &self.units.sum(&sizes))
    }
}

/// 1 where the likeliest units that fit into `allowed` are, 0 elsewhere; backward the probabilities.
fn filled(p: &Tensor, costs: &[f64], allowed: f64) -> Result<Tensor> {
    let open = choose(&p.to_vec1::<f32>()?, costs, allowed);
    let open: Vec<f32> = open
        .into_iter()
        .map(|open| f32::from(u8::from(open)))
        .collect();
    let open = Tensor::from_vec(open, costs.len(), &Device::Cpu)?;
    Ok(((open - p.detach())? + p)?)
}

fn uniform(count: usize, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    use rand::RngExt;
    let values: Vec<f32> = (0..count)
        .map(|_| rng.random_range(1e-6..1.0 - 1e-6))
        .collect();
    Ok(Tensor::from_vec(values, count, &Device::Cpu)?)
}

/// Logarithms of scores, of mean 0 and deviation 1.
fn standardised(scores: &[f32]) -> Vec<f32> {
    let logs: Vec<f64> = scores
        .iter()
        .map(|s| f64::from(s.max(1e-30)).ln())
        .collect();
    let n = logs.len().max(1) as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let deviation = (logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / n).sqrt();
    logs.iter()
        .map(|l| ((l - mean) / deviation.max(1e-9)) as f32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;

    #[test]
    fn gates_of_a_step_fill_the_budget_and_pass_gradients_to_all() {
        // Far below a half, as thousands of units under a budget of a few per cent begin.
        let p: Vec<f32> = (0..100).map(|unit| 0.01 + 0.001 * unit as f32).collect();
        let p = Var::from_vec(p, 100, &Device::Cpu).unwrap();
        let gate = filled(&p, &[2.0; 100], 21.0).unwrap();
        let open: Vec<f32> = gate.to_vec1().unwrap();
        let expected = (0..100).map(|unit| if unit < 90 { 0.0 } else { 1.0 });
        assert!(open.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6));
        let weights = Tensor::arange(0f32, 100.0, &Device::Cpu).unwrap();
        let loss = (gate * &weights).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let found: Vec<f32> = gradients.get(&p).unwrap().to_vec1().unwrap();
        assert_eq!(found, weights.to_vec1::<f32>().unwrap());
    }
}
