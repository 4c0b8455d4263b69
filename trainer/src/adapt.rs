//! Adding a language to a base: linear probe, then SWR's stages dense, select and tune, then the packed delta.
//!
//! Enters: deployed tensors of the base, clips of the language, a budget. Leaves: a delta that never exceeds the budget. Every
//! tensor of the body has a delta; which of them survive is decided by [`crate::reparam`]. With a budget in per cent of the
//! convolution weights, the convolutions are the units and norms always change; with `%all` or bytes, norms are units too.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use candle_nn::{VarBuilder, VarMap};
use rand::seq::SliceRandom;
use swr_core::package::{
    Budget, Counts, Delta, DeltaHeader, Group, Limit, Precision, Tensors, merge,
};

use crate::architecture::Architecture;
use crate::checkpoint::{Position, Run};
use crate::config::{AdaptConfig, Probe};
use crate::examples::{Batch, Examples, Language, for_each_plain_batch};
use crate::fused::{Dropout, NormMode, NormStatistics, Statistics};
use crate::learner::{Learner, Rule, fold, unfold};
use crate::network::{Pass, Path, Weights, clip_logits, cross_entropy, pooled_features};
use crate::progress::Progress;
use crate::random::{generator, mix};
use crate::reparam::{
    Gates, Unit, choose, draw, initial_scores, penalty, probabilities, reparametrize,
};
use crate::train::{Moment, Schedule, Stage, run_stage};
use crate::weights::{from_package, to_package};

const CLASSIFIER: [&str; 2] = ["classifier.weight", "classifier.bias"];
const SCORES: &str = "policy.scores";
/// Batches that the base's statistics on the new language are estimated from.
const OBSERVED_BATCHES: usize = 20;
/// Upper bound of what a changed tensor costs in a delta beside one byte a weight: index, kind, scale, counts.
const TENSOR_BYTES: usize = 16;

/// What a budget leaves to decide.
#[derive(Debug)]
pub struct Plan {
    /// What may be changed or left.
    pub units: Vec<Unit>,
    /// What the chosen units may cost together.
    pub allowed: usize,
    /// The budget's own figure: weights, or bytes.
    pub budget: usize,
    /// The budget itself.
    pub typed: Budget,
}

impl Plan {
    /// The units of `base` under a budget. A budget that cannot hold what every delta holds is refused with the least that can.
    pub fn new(base: &Tensors, header: &DeltaHeader) -> Result<Self> {
        let typed = header
            .budget
            .as_ref()
            .context("adapting needs a budget; give one with --budget")?;
        let (counts, budget) = (Counts::of(base), typed.allowed(&Counts::of(base)));
        let only_convs = matches!(typed.limit(), Limit::ConvolutionShare(_));
        let overhead = if matches!(typed.limit(), Limit::FileBytes(_)) {
            TENSOR_BYTES
        } else {
            0
        };
        let mut units: Vec<Unit> = Vec::new();
        for (name, tensor) in base {
            let cost = tensor.data.len() + overhead;
            match Group::of(name) {
                Group::Convolution => units.push(Unit {
                    tensors: vec![name.clone()],
                    cost,
                }),
                // Scale and shift share a gate, and follow each other in name order.
                Group::Norm if !only_convs && name.ends_with(".scale") => units.push(Unit {
                    tensors: vec![name.clone()],
                    cost,
                }),
                Group::Norm if !only_convs => {
                    let unit = units.last_mut().context("a shift follows its scale")?;
                    unit.tensors.push(name.clone());
                    unit.cost += cost;
                }
                _ => {}
            }
        }
        let classifier = with_classifier(base, header.labels.len())?;
        // Also checks the header, before anything is trained.
        let least_bytes = Delta::build(base, &classifier, header.clone(), Precision::DEFAULT)?
            .sizes()
            .total();
        let fixed = match typed.limit() {
            Limit::ConvolutionShare(_) => 0,
            Limit::AllShare(_) => Counts::of(&classifier).classifier,
            Limit::FileBytes(_) => least_bytes,
        };
        let Some(allowed) = budget.checked_sub(fixed) else {
            let least = match typed.limit() {
                Limit::FileBytes(_) => format!("{fixed}B"),
                _ => format!(
                    "{:.1}%all",
                    (fixed as f64 / counts.all() as f64 * 1000.0).ceil() / 10.0
                ),
            };
            bail!(
                "--budget {typed}: allows {budget}, but the classifier and what names the labels take {fixed} already; give at least {least}"
            );
        };
        Ok(Self {
            units,
            allowed,
            budget,
            typed: typed.clone(),
        })
    }
}

/// `base` with a classifier of `classes` rows, every weight one: to count what a new classifier costs.
fn with_classifier(base: &Tensors, classes: usize) -> Result<Tensors> {
    let mut tensors = base.clone();
    for name in CLASSIFIER {
        let tensor = tensors
            .get_mut(name)
            .with_context(|| format!("the base has no `{name}`"))?;
        tensor.shape[0] = classes;
        tensor.data = vec![1.0; tensor.shape.iter().product()];
    }
    Ok(tensors)
}

/// What adapting came to.
pub struct Adapted {
    /// The delta, quantised, within its budget.
    pub delta: Delta,
    /// The units that changed.
    pub chosen: Vec<Unit>,
    /// Deployed weights of base and delta merged, as the runtime computes with them.
    pub merged: Weights,
}

/// Adds `language` to `base` under the header's budget, from where `run` stands. `header` tells everything but the weights.
pub fn adapt(
    config: &AdaptConfig,
    architecture: &Architecture,
    base: &Tensors,
    language: &Language,
    header: &DeltaHeader,
    run: &Run,
    progress: &Progress,
) -> Result<Adapted> {
    let plan = Plan::new(base, header)?;
    let deployed = from_package(base)?;
    // Training standardises by the batch, so scale and shift are rewritten for the statistics that the base meets in this language.
    let sample = language.an_epoch(config.seed);
    let observed = observe(architecture, &deployed, &sample, config.dense.batch)?;
    let mut start = deployed.clone();
    unfold(&mut start, &observed)?;
    let body: Weights = start
        .iter()
        .filter(|(name, _)| !CLASSIFIER.contains(&name.as_str()))
        .map(|(n, t)| (n.clone(), t.clone()))
        .collect();

    let mut learner = Learner::default();
    learner.running = observed;
    for (name, weight) in &body {
        let zeros = weight.zeros_like()?;
        learner.add(
            &delta_name(name),
            &zeros,
            Rule::Sgd {
                anchor: zeros.clone(),
            },
        )?;
    }
    learner.add(
        SCORES,
        &initial_scores(plan.units.len(), config.policy.initial_probability)?,
        Rule::Adam {
            rate: config.policy.learning_rate,
        },
    )?;
    for (name, value) in CLASSIFIER.into_iter().zip(probe(
        &config.probe,
        config.seed,
        architecture,
        &deployed,
        &sample,
        language.labels.len(),
        progress,
    )?) {
        learner.add(
            name,
            &value,
            Rule::Sgd {
                anchor: value.zeros_like()?,
            },
        )?;
    }

    let reached = run.restore(&mut learner)?.unwrap_or_default();
    let context = Training {
        config,
        architecture,
        language,
        run,
        progress,
        body: &body,
        units: &plan.units,
    };
    let everywhere = Arc::default();

    context.stage(
        0,
        "dense",
        &config.dense,
        &mut learner,
        reached,
        &everywhere,
        |_, _| Ok((Gates::Open, None)),
    )?;
    context.stage(
        1,
        "select",
        &config.select,
        &mut learner,
        reached,
        &everywhere,
        |learner, moment| {
            let policy = &config.policy;
            let temperature = policy.first_temperature
                * (policy.last_temperature / policy.first_temperature).powf(moment.done);
            let scores = learner.get(SCORES)?;
            let mut rng = generator(config.seed, &[1, u64::MAX, moment.step as u64]);
            let cost = penalty(scores, &plan.units, plan.allowed, policy.penalty)?;
            Ok((
                Gates::Drawn(draw(scores, temperature, &mut rng)?),
                Some((cost * policy.penalty_weight)?),
            ))
        },
    )?;

    let probabilities: Vec<f32> = probabilities(learner.get(SCORES)?)?.to_vec1()?;
    let gates = choose(&probabilities, &plan.units, plan.allowed);
    let left_out = || {
        plan.units
            .iter()
            .zip(&gates)
            .filter(|(_, open)| !**open)
            .flat_map(|(unit, _)| &unit.tensors)
    };
    // A norm that stays the base's has the base's deployed form, whatever the batch's statistics.
    let kept: BTreeSet<String> = left_out()
        .filter_map(|name| name.strip_suffix(".norm.scale"))
        .map(String::from)
        .collect();
    let mut body = body.clone();
    for name in left_out() {
        body.insert(name.clone(), deployed[name].clone());
    }
    if (reached.stage, reached.epochs) < (2, 1) {
        // The deltas of the dense stage hold where every norm standardises. Under norms that stay the base's they would let activations
        // grow from layer to layer, so the chosen units then start from the base.
        let anew = body
            .keys()
            .filter(|name| !kept.is_empty() || left_out().any(|left| left == *name));
        for name in anew {
            learner.set(&delta_name(name), &body[name].zeros_like()?)?;
        }
        learner.running.retain(|part, _| !kept.contains(part));
    }
    let context = Training {
        body: &body,
        ..context
    };
    let fixed = gates.clone();
    context.stage(
        2,
        "tune",
        &config.tune,
        &mut learner,
        reached,
        &Arc::new(kept),
        |_, _| Ok((Gates::Fixed(fixed.clone()), None)),
    )?;

    let mut tuned = weights(&learner, &body, &plan.units, &Gates::Fixed(gates.clone()))?;
    fold(&mut tuned, &learner.running)?;
    settle_entries(&mut tuned, &deployed, architecture, &learner.running)?;
    let delta = Delta::build(
        base,
        &to_package(&tuned)?,
        header.clone(),
        Precision::DEFAULT,
    )?;
    let merged = merge(base, &Delta::read(&delta.write())?)?;
    let used = plan.typed.used(
        &swr_core::package::changed(base, &merged)?,
        delta.sizes().total(),
    );
    if used > plan.budget {
        bail!(
            "the delta uses {used} of a budget of {}: nothing was written",
            plan.budget
        );
    }
    let chosen = plan
        .units
        .into_iter()
        .zip(gates)
        .filter(|(_, open)| *open)
        .map(|(unit, _)| unit)
        .collect();
    Ok(Adapted {
        delta,
        chosen,
        merged: from_package(&merged)?,
    })
}

/// Between an entry's norm and the norm after the frequency convolution, a factor per channel is free: `relu(k x) = k relu(x)` for
/// positive `k`, and the second norm divides by it again. Training lets it drift by orders of magnitude, which quantised differences
/// cannot follow; so it is set such that the entry's norm has the size that it has in the base.
fn settle_entries(
    tuned: &mut Weights,
    base: &Weights,
    architecture: &Architecture,
    changed: &NormStatistics,
) -> Result<()> {
    for block in architecture.blocks().iter().filter(|b| b.has_entry()) {
        let (entry, frequency) = (
            format!("{}.entry", block.name),
            format!("{}.frequency", block.name),
        );
        if !changed.contains_key(&entry) || !changed.contains_key(&frequency) {
            continue;
        }
        let (scale, shift) = (format!("{entry}.norm.scale"), format!("{entry}.norm.shift"));
        let size = |w: &Weights| (w[&scale].sqr()? + w[&shift].sqr()?)?.sqrt();
        let (wanted, found) = (size(base)?, size(tuned)?);
        let least = Tensor::new(f32::MIN_POSITIVE, &Device::Cpu)?;
        let factor = wanted
            .broadcast_maximum(&least)?
            .div(&found.broadcast_maximum(&least)?)?;
        for name in [scale, shift] {
            let settled = (&tuned[&name] * &factor)?;
            tuned.insert(name, settled);
        }
        let name = format!("{frequency}.norm.scale");
        let settled = tuned[&name].broadcast_div(&factor.unsqueeze(1)?)?;
        tuned.insert(name, settled);
    }
    Ok(())
}

fn delta_name(tensor: &str) -> String {
    format!("delta.{tensor}")
}

/// The reparametrized body with the learned classifier.
fn weights(learner: &Learner, body: &Weights, units: &[Unit], gates: &Gates) -> Result<Weights> {
    let deltas = body
        .keys()
        .map(|name| Ok((name.clone(), learner.get(&delta_name(name))?.clone())))
        .collect::<Result<Weights>>()?;
    let mut weights = reparametrize(body, &deltas, units, gates)?;
    for name in CLASSIFIER {
        weights.insert(name.to_string(), learner.get(name)?.clone());
    }
    Ok(weights)
}

/// What the stages of one run share.
#[derive(Clone, Copy)]
struct Training<'a> {
    config: &'a AdaptConfig,
    architecture: &'a Architecture,
    language: &'a Language,
    run: &'a Run,
    progress: &'a Progress,
    body: &'a Weights,
    units: &'a [Unit],
}

impl Training<'_> {
    /// Runs one stage; `gates` gives the gates of a step and what is added to the loss. Norms in `deployed` do not standardise.
    #[allow(clippy::too_many_arguments)]
    fn stage(
        &self,
        index: usize,
        name: &str,
        schedule: &Schedule,
        learner: &mut Learner,
        reached: Position,
        deployed: &Arc<BTreeSet<String>>,
        mut gates: impl FnMut(&Learner, Moment) -> Result<(Gates, Option<Tensor>)>,
    ) -> Result<()> {
        if reached.stage > index {
            return Ok(());
        }
        let seed = self.config.seed;
        let statistics = Statistics::default();
        let stage = Stage {
            index,
            name,
            schedule,
            augment: &self.config.augment,
            seed,
            statistics: &statistics,
        };
        let mode = NormMode::Batch {
            statistics: statistics.clone(),
            deployed: deployed.clone(),
        };
        let objective = |learner: &Learner, batch: &Batch, moment: Moment| {
            let (gates, extra) = gates(learner, moment)?;
            let weights = weights(learner, self.body, self.units, &gates)?;
            let dropout = Dropout {
                rate: schedule.dropout,
                seed: mix(seed, (index << 32 | moment.step) as u64),
            };
            let pass = Pass {
                path: Path::Fused,
                mode: mode.clone(),
                dropout: (dropout.rate > 0.0).then_some(dropout),
            };
            let logits = clip_logits(self.architecture, &weights, &batch.log_mel, &pass)?;
            let mut loss = cross_entropy(&logits, &batch.labels)?;
            if let Some(extra) = extra {
                loss = (loss + extra)?;
            }
            Ok((logits, loss))
        };
        run_stage(
            &stage,
            self.run,
            self.language,
            learner,
            reached,
            self.progress,
            objective,
        )
    }
}

/// Statistics of what enters every norm of the deployed base when it hears this language.
fn observe(
    architecture: &Architecture,
    deployed: &Weights,
    sample: &Examples,
    batch: usize,
) -> Result<NormStatistics> {
    let statistics = Statistics::default();
    let pass = Pass {
        mode: NormMode::Observe(statistics.clone()),
        ..Pass::evaluation()
    };
    let mut mean = NormStatistics::new();
    let mut batches = 0usize;
    for_each_plain_batch(sample, batch, |batch| {
        if batches == OBSERVED_BATCHES {
            return Ok(());
        }
        clip_logits(architecture, deployed, &batch.log_mel, &pass)?;
        batches += 1;
        for (name, (means, variances)) in statistics.take() {
            let total = mean
                .entry(name)
                .or_insert_with(|| (vec![0.0; means.len()], vec![0.0; means.len()]));
            for (total, new) in [(&mut total.0, means), (&mut total.1, variances)] {
                total
                    .iter_mut()
                    .zip(new)
                    .for_each(|(total, new)| *total += (new - *total) / batches as f32);
            }
        }
        Ok(())
    })?;
    Ok(mean)
}

/// The classifier's start: softmax regression on the base's features, which stay as they are. Weight `[C, width, 1, 1]`, bias `[C]`.
fn probe(
    settings: &Probe,
    seed: u64,
    architecture: &Architecture,
    deployed: &Weights,
    sample: &Examples,
    classes: usize,
    progress: &Progress,
) -> Result<[Tensor; 2]> {
    let width = architecture.tail_width();
    let mut features = Vec::new();
    let bar = progress.bar("linear probe", sample.len());
    for_each_plain_batch(sample, 100, |batch| {
        features.push(
            pooled_features(architecture, deployed, &batch.log_mel, &Pass::evaluation())?
                .squeeze(2)?,
        );
        bar.inc(batch.indexes.len() as u64);
        Ok(())
    })?;
    bar.finish_and_clear();
    let features = Tensor::cat(&features, 0)?;
    let mean = features.mean_keepdim(0)?;
    let centred = features.broadcast_sub(&mean)?;
    let deviation = (centred.sqr()?.mean_keepdim(0)?.sqrt()? + 1e-5)?;
    let standard = centred.broadcast_div(&deviation)?;

    let variables = VarMap::new();
    let builder = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let weight = builder.get_with_hints((classes, width), "weight", candle_nn::init::ZERO)?;
    let bias = builder.get_with_hints(classes, "bias", candle_nn::init::ZERO)?;
    let parameters = ParamsAdamW {
        lr: settings.learning_rate,
        weight_decay: 0.0,
        ..ParamsAdamW::default()
    };
    let mut optimiser = AdamW::new(variables.all_vars(), parameters)?;
    let mut order: Vec<u32> = (0..sample.len() as u32).collect();
    for epoch in 0..settings.epochs {
        order.shuffle(&mut generator(seed, &[u64::MAX, epoch as u64]));
        for indexes in order.chunks(settings.batch) {
            let labels: Vec<u32> = indexes.iter().map(|i| sample.labels[*i as usize]).collect();
            let (indexes, labels) = (
                Tensor::new(indexes, &Device::Cpu)?,
                Tensor::new(labels, &Device::Cpu)?,
            );
            let logits = standard
                .index_select(&indexes, 0)?
                .matmul(&weight.t()?)?
                .broadcast_add(&bias)?;
            optimiser.backward_step(&cross_entropy(&logits, &labels)?)?;
        }
    }
    // The standardisation becomes part of the classifier.
    let weight = weight.detach().broadcast_div(&deviation)?;
    let bias = (bias.detach() - weight.matmul(&mean.t()?)?.squeeze(1)?)?;
    Ok([weight.reshape((classes, width, 1, 1))?, bias])
}
