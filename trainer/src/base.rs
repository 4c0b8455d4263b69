//! Training of the base network, from its first random weight to its deployed tensors.

use anyhow::Result;
use candle_core::Tensor;

use crate::architecture::Architecture;
use crate::checkpoint::Run;
use crate::config::BaseConfig;
use crate::examples::{Batch, Language};
use crate::fused::{Dropout, NormMode, Statistics};
use crate::learner::{Learner, Rule, fold};
use crate::network::{Pass, Path, Weights, clip_logits, cross_entropy, initial_weights};
use crate::progress::Progress;
use crate::random::mix;
use crate::train::{Stage, run_stage};

/// A learner of all weights, each decaying to zero.
pub(crate) fn base_learner(weights: &Weights) -> Result<Learner> {
    let mut learner = Learner::default();
    for (name, value) in weights {
        let anchor = value.zeros_like()?;
        learner.add(name, value, Rule::Sgd { anchor })?;
    }
    Ok(learner)
}

/// Logits `[B, C]` of a batch and its loss; `seed` draws what is dropped.
pub(crate) fn base_loss(
    architecture: &Architecture,
    learner: &Learner,
    batch: &Batch,
    mode: &NormMode,
    dropout: f32,
    seed: u64,
) -> Result<(Tensor, Tensor)> {
    let pass = Pass {
        path: Path::Fused,
        mode: mode.clone(),
        dropout: (dropout > 0.0).then_some(Dropout {
            rate: dropout,
            seed,
        }),
    };
    let logits = clip_logits(architecture, &learner.weights(), &batch.log_mel, &pass)?;
    let loss = cross_entropy(&logits, &batch.labels)?;
    Ok((logits, loss))
}

/// Trains a base on a language's clips, from where `run` stands; gives its weights in deployed form.
pub fn train_base(
    config: &BaseConfig,
    language: &Language,
    run: &Run,
    progress: &Progress,
) -> Result<Weights> {
    let mut learner = base_learner(&initial_weights(
        &config.architecture,
        language.labels.len(),
        config.seed,
    )?)?;
    let reached = run.restore(&mut learner)?.unwrap_or_default();
    let statistics = Statistics::default();
    let stage = Stage {
        index: 0,
        name: "base",
        schedule: &config.schedule,
        augment: &config.augment,
        seed: config.seed,
        statistics: &statistics,
        progress,
    };
    let mode = NormMode::batch_into(&statistics);
    run_stage(
        &stage,
        run,
        language,
        &mut learner,
        reached,
        |_, _| Ok(()),
        |learner, batch, moment| {
            let seed = mix(config.seed, moment.step as u64);
            base_loss(
                &config.architecture,
                learner,
                batch,
                &mode,
                config.schedule.dropout,
                seed,
            )
        },
    )?;
    let mut weights = learner.weights();
    fold(&mut weights, &learner.running)?;
    Ok(weights
        .into_iter()
        .map(|(name, tensor)| (name, tensor.detach()))
        .collect())
}
