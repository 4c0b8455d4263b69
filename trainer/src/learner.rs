//! What training changes: named variables, each with its rule of update, and the running statistics of the norms.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use crate::fused::{EPSILON, NormStatistics, Statistics};
use crate::network::Weights;
use crate::reparam::quantise::Grids;

/// Weight of a new batch in the running statistics (PyTorch's default).
const RUNNING_MOMENTUM: f32 = 0.1;

/// How a variable is updated.
#[derive(Clone)]
pub enum Rule {
    /// Momentum; weight decay pulls towards the anchor.
    Sgd {
        /// Where decay pulls to: zero, or the weight that training started from.
        anchor: Tensor,
    },
    /// Adam (arXiv 1412.6980) at a constant rate, without decay: for the policy's scores, whose gradients differ by orders of magnitude.
    Adam {
        /// Learning rate.
        rate: f64,
    },
}

/// A variable with its optimiser's memory.
struct Learned {
    var: Var,
    rule: Rule,
    first: Tensor,
    second: Tensor,
}

/// Settings of one update.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Learning rate of the SGD variables.
    pub rate: f64,
    /// Momentum of the SGD variables.
    pub momentum: f64,
    /// Weight decay of the SGD variables, towards their anchors.
    pub decay: f64,
    /// Updates since the stage began, from 1; Adam corrects its start by it.
    pub step: usize,
    /// Largest Euclidean norm of the SGD variables' gradient; a longer one is shortened to it.
    pub longest: f64,
}

/// All that training changes.
#[derive(Default)]
pub struct Learner {
    learned: BTreeMap<String, Learned>,
    /// Running statistics of the norms that standardise.
    pub running: NormStatistics,
    /// What finished stages of an adaptation decided.
    pub decided: Decided,
}

/// What finished stages of an adaptation decided. It is kept with the checkpoints of the stages after them.
#[derive(Clone, Default)]
pub struct Decided {
    /// What the units may cost together.
    pub allowed: Option<f64>,
    /// How much the dense stage changed every unit, which the policy may see, `[units]`.
    pub changes: Option<Tensor>,
    /// Where weights change by scaling their channel, as 0 and 1, `[weights]`.
    pub scaled: Option<Tensor>,
    /// Where weights change at all, as 0 and 1, `[weights]`.
    pub chosen: Option<Tensor>,
    /// How they are stored.
    pub packing: Option<Packing>,
}

/// What is stored of a network's weights, and on which grids.
#[derive(Clone)]
pub struct Packing {
    /// Whether every weight is stored.
    pub open: Vec<bool>,
    /// The grid of every tensor.
    pub grids: Grids,
    /// The loss's curvature in every weight, as stored.
    pub curvature: Vec<f32>,
}

/// Names of [`Decided`] in a checkpoint.
const ALLOWED: &str = "decided:allowed";
const CHANGES: &str = "decided:changes";
const SCALED: &str = "decided:scaled";
const CHOSEN: &str = "decided:chosen";
const OPEN: &str = "decided:open";
const GRIDS: &str = "decided:grids";
const CURVATURE: &str = "decided:curvature";

impl Decided {
    /// How the weights are stored.
    ///
    /// # Errors
    /// Before that is decided.
    pub fn packing(&self) -> Result<&Packing> {
        let packing = self.packing.as_ref();
        packing.context("how weights are stored is decided when they have been tuned")
    }

    fn keep(&self, state: &mut BTreeMap<String, Tensor>) -> Result<()> {
        if let Some(allowed) = self.allowed {
            state.insert(ALLOWED.into(), Tensor::new(&[allowed], &Device::Cpu)?);
        }
        for (name, tensor) in [
            (CHANGES, &self.changes),
            (SCALED, &self.scaled),
            (CHOSEN, &self.chosen),
        ] {
            if let Some(tensor) = tensor {
                state.insert(name.into(), tensor.clone());
            }
        }
        if let Some(packing) = &self.packing {
            let open = packing.open.iter().map(|open| u8::from(*open));
            let open = Tensor::from_iter(open, &Device::Cpu)?;
            let vector = |values: &[f32]| Tensor::new(values, &Device::Cpu);
            state.insert(OPEN.into(), open);
            state.insert(GRIDS.into(), vector(&packing.grids.steps)?);
            state.insert(CURVATURE.into(), vector(&packing.curvature)?);
        }
        Ok(())
    }

    fn kept(state: &BTreeMap<String, Tensor>) -> Result<Self> {
        let allowed = state.get(ALLOWED).map(Tensor::to_vec1::<f64>).transpose()?;
        let packing = match (state.get(OPEN), state.get(GRIDS), state.get(CURVATURE)) {
            (Some(open), Some(grids), Some(curvature)) => Some(Packing {
                open: open.to_vec1::<u8>()?.iter().map(|open| *open > 0).collect(),
                grids: Grids {
                    steps: grids.to_vec1()?,
                },
                curvature: curvature.to_vec1()?,
            }),
            _ => None,
        };
        Ok(Self {
            allowed: allowed.and_then(|allowed| allowed.first().copied()),
            changes: state.get(CHANGES).cloned(),
            scaled: state.get(SCALED).cloned(),
            chosen: state.get(CHOSEN).cloned(),
            packing,
        })
    }
}

impl Learner {
    /// Adds a variable that starts at `value`.
    pub fn add(&mut self, name: &str, value: &Tensor, rule: Rule) -> Result<()> {
        let zeros = value.zeros_like()?;
        let learned = Learned {
            var: Var::from_tensor(value)?,
            rule,
            first: zeros.clone(),
            second: zeros,
        };
        self.learned.insert(name.to_string(), learned);
        Ok(())
    }

    /// The variables themselves, through which gradients flow.
    pub fn weights(&self) -> Weights {
        self.learned
            .iter()
            .map(|(name, l)| (name.clone(), l.var.as_tensor().clone()))
            .collect()
    }

    /// One variable.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        Ok(self
            .learned
            .get(name)
            .with_context(|| format!("nothing named `{name}` is being learned"))?
            .var
            .as_tensor())
    }

    /// Sets a variable.
    pub fn set(&self, name: &str, value: &Tensor) -> Result<()> {
        let learned = self
            .learned
            .get(name)
            .with_context(|| format!("nothing named `{name}` is being learned"))?;
        Ok(learned.var.set(value)?)
    }

    /// Forgets the optimisers' memory, as a new stage does.
    pub fn forget_momentum(&mut self) -> Result<()> {
        for learned in self.learned.values_mut() {
            learned.first = learned.first.zeros_like()?;
            learned.second = learned.second.zeros_like()?;
        }
        Ok(())
    }

    /// One step of training: the gradient of `loss`, the update, and the batch's `statistics` into the running ones.
    pub fn learn(&mut self, loss: &Tensor, statistics: &Statistics, update: Update) -> Result<()> {
        self.update(&loss.backward()?, update)?;
        self.observe(statistics);
        Ok(())
    }

    /// One update of every variable that has a gradient.
    fn update(&mut self, gradients: &GradStore, update: Update) -> Result<()> {
        let mut square = 0.0;
        for learned in self.learned.values() {
            if let (Rule::Sgd { .. }, Some(gradient)) =
                (&learned.rule, gradients.get(learned.var.as_tensor()))
            {
                square += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
            }
        }
        let shorten = (update.longest / square.sqrt().max(f64::MIN_POSITIVE)).min(1.0);
        for learned in self.learned.values_mut() {
            let Some(gradient) = gradients.get(learned.var.as_tensor()) else {
                continue;
            };
            let value = learned.var.as_detached_tensor();
            // Without `detach` the graph of every past step would stay alive.
            match &learned.rule {
                Rule::Sgd { anchor } => {
                    let decay = ((&value - anchor)? * update.decay)?;
                    let gradient = ((gradient * shorten)? + decay)?;
                    learned.first = ((&learned.first * update.momentum)? + gradient)?.detach();
                    learned
                        .var
                        .set(&(value - (&learned.first * update.rate)?)?)?;
                }
                Rule::Adam { rate } => {
                    let (b1, b2) = (0.9, 0.999);
                    learned.first = ((&learned.first * b1)? + (gradient * (1.0 - b1))?)?.detach();
                    learned.second =
                        ((&learned.second * b2)? + (gradient.sqr()? * (1.0 - b2))?)?.detach();
                    let first = (&learned.first / (1.0 - b1.powi(update.step as i32)))?;
                    let second = (&learned.second / (1.0 - b2.powi(update.step as i32)))?;
                    learned
                        .var
                        .set(&(value - ((first / (second.sqrt()? + 1e-8)?)? * *rate)?)?)?;
                }
            }
        }
        Ok(())
    }

    /// Moves the running statistics towards a batch's.
    fn observe(&mut self, statistics: &Statistics) {
        for (name, (mean, variance)) in statistics.take() {
            let running = self
                .running
                .entry(name)
                .or_insert_with(|| (vec![0.0; mean.len()], vec![1.0; mean.len()]));
            for (old, new) in [(&mut running.0, mean), (&mut running.1, variance)] {
                for (old, new) in old.iter_mut().zip(new) {
                    *old += RUNNING_MOMENTUM * (new - *old);
                }
            }
        }
    }

    /// Everything that a checkpoint keeps, by name.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = state_of(&self.weights(), &self.running)?;
        for (name, learned) in &self.learned {
            state.insert(format!("first:{name}"), learned.first.clone());
            state.insert(format!("second:{name}"), learned.second.clone());
        }
        self.decided.keep(&mut state)?;
        Ok(state)
    }

    /// Begins with what another learner had learned, as far as names and shapes are the same; gives how many of the variables that are.
    pub fn take_up(&mut self, state: &BTreeMap<String, Tensor>) -> Result<usize> {
        let mut taken = 0;
        for (name, learned) in &self.learned {
            if let Some(value) = state.get(&format!("value:{name}"))
                && value.dims() == learned.var.dims()
            {
                learned.var.set(value)?;
                taken += 1;
            }
        }
        self.running = statistics_of(state)?;
        Ok(taken)
    }

    /// Takes up the state of a checkpoint made by a learner with the same variables.
    pub fn restore(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, learned) in &mut self.learned {
            let get = |kind: &str| match state.get(&format!("{kind}:{name}")) {
                Some(tensor) if tensor.dims() == learned.var.dims() => Ok(tensor.clone()),
                _ => bail!("the checkpoint holds no fitting `{kind}:{name}`"),
            };
            learned.var.set(&get("value")?)?;
            learned.first = get("first")?;
            learned.second = get("second")?;
        }
        self.running = statistics_of(state)?;
        self.decided = Decided::kept(state)?;
        Ok(())
    }
}

/// Weights and running statistics as a checkpoint keeps them, for [`Learner::take_up`].
pub fn state_of(weights: &Weights, running: &NormStatistics) -> Result<BTreeMap<String, Tensor>> {
    let mut state = BTreeMap::new();
    for (name, value) in weights {
        state.insert(format!("value:{name}"), value.detach());
    }
    for (name, (mean, variance)) in running {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu);
        state.insert(format!("mean:{name}"), tensor(mean)?);
        state.insert(format!("variance:{name}"), tensor(variance)?);
    }
    Ok(state)
}

/// The running statistics of a checkpoint.
fn statistics_of(state: &BTreeMap<String, Tensor>) -> Result<NormStatistics> {
    let mut running = NormStatistics::new();
    for (key, mean) in state {
        let Some(name) = key.strip_prefix("mean:") else {
            continue;
        };
        let variance = state
            .get(&format!("variance:{name}"))
            .with_context(|| format!("the checkpoint lacks `variance:{name}`"))?;
        running.insert(name.to_string(), (mean.to_vec1()?, variance.to_vec1()?));
    }
    Ok(running)
}

/// Folds running statistics into scale and shift: the deployed form of norms that standardised in training.
/// Norms without running statistics are in deployed form already.
pub fn fold(weights: &mut Weights, running: &NormStatistics) -> Result<()> {
    for (part, (mean, variance)) in running {
        rewrite_norm(weights, part, |g, scale, shift| {
            let factor = scale / (variance[g] as f64 + EPSILON).sqrt();
            (factor, shift - mean[g] as f64 * factor)
        })?;
    }
    Ok(())
}

/// The inverse of [`fold`]: norms that standardise in training and, with these statistics, do what the deployed ones do.
pub fn unfold(weights: &mut Weights, running: &NormStatistics) -> Result<()> {
    for (part, (mean, variance)) in running {
        rewrite_norm(weights, part, |g, scale, shift| {
            let deviation = (variance[g] as f64 + EPSILON).sqrt();
            (scale * deviation, shift + mean[g] as f64 * scale)
        })?;
    }
    Ok(())
}

fn rewrite_norm(
    weights: &mut Weights,
    part: &str,
    rule: impl Fn(usize, f64, f64) -> (f64, f64),
) -> Result<()> {
    let names = [format!("{part}.norm.scale"), format!("{part}.norm.shift")];
    let values = |name: &String| -> Result<Vec<f32>> {
        Ok(weights
            .get(name)
            .with_context(|| format!("the weights lack `{name}`"))?
            .flatten_all()?
            .to_vec1()?)
    };
    let (scale, shift) = (values(&names[0])?, values(&names[1])?);
    let shape = weights[&names[0]].shape().clone();
    let pairs = scale
        .iter()
        .zip(&shift)
        .enumerate()
        .map(|(g, (scale, shift))| rule(g, f64::from(*scale), f64::from(*shift)));
    let (scale, shift): (Vec<f32>, Vec<f32>) = pairs.map(|(a, b)| (a as f32, b as f32)).unzip();
    for (name, values) in names.into_iter().zip([scale, shift]) {
        weights.insert(name, Tensor::from_vec(values, shape.clone(), &Device::Cpu)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_that_is_unfolded_and_folded_is_what_it_was() {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).expect("a tensor");
        let deployed = Weights::from([
            ("a.norm.scale".to_string(), tensor(&[0.5, -2.0, 1e-3])),
            ("a.norm.shift".to_string(), tensor(&[0.25, 1.0, -4.0])),
        ]);
        let running = NormStatistics::from([(
            "a".to_string(),
            (vec![3.0, -0.5, 100.0], vec![4.0, 0.01, 9.0]),
        )]);
        let mut weights = deployed.clone();
        unfold(&mut weights, &running).expect("weights of a norm");
        let scale: Vec<f32> = weights["a.norm.scale"].to_vec1().expect("a vector");
        assert!((scale[0] - 1.0).abs() < 1e-3, "half of a deviation of 2");
        fold(&mut weights, &running).expect("weights of a norm");
        for (name, deployed) in &deployed {
            let (a, b): (Vec<f32>, Vec<f32>) = (
                deployed.to_vec1().expect("a vector"),
                weights[name].to_vec1().expect("a vector"),
            );
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * (1.0 + a.abs());
            assert!(a.iter().zip(&b).all(near), "{name}: {a:?} {b:?}");
        }
    }
}
