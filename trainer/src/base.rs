//! Training of the base network, from its first random weight to its deployed tensors.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::Tensor;

use crate::checkpoint::Run;
use crate::config::BaseConfig;
use crate::examples::{Batch, Language, Scenes};
use crate::fused::{Dropout, NormMode, Statistics};
use crate::learner::{Learner, Rule, fold};
use crate::loss::{Score, stream_loss};
use crate::network::{Pass, Path, Weights, frame_logits, initial_weights};
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

/// The loss of a batch, and how many of its words are known, at a step and a share of the training.
pub(crate) fn base_loss(
    config: &BaseConfig,
    learner: &Learner,
    batch: &Batch,
    mode: &NormMode,
    (step, done): (usize, f64),
) -> Result<(Tensor, Score)> {
    let dropout = config.schedule.dropout;
    let pass = Pass {
        path: Path::Fused,
        mode: mode.clone(),
        dropout: (dropout > 0.0).then_some(Dropout {
            rate: dropout,
            seed: mix(config.seed, step as u64),
        }),
    };
    let logits = frame_logits(
        &config.architecture,
        &learner.weights(),
        &batch.log_mel,
        &pass,
    )?;
    Ok(stream_loss(
        &logits,
        &batch.targets,
        config.window_frames,
        config.loss.at(done),
    )?)
}

/// Trains a base on a language's clips, from where `run` stands, at first from what another run had learned, if it is given; gives its weights in deployed
/// form.
pub fn train_base(
    config: &BaseConfig,
    language: &Language,
    run: &Run,
    earlier: Option<&BTreeMap<String, Tensor>>,
    progress: &Progress,
) -> Result<Weights> {
    let mut learner = base_learner(&initial_weights(
        &config.architecture,
        language.labels.len(),
        config.seed,
    )?)?;
    if let Some(earlier) = earlier {
        let taken = learner.take_up(earlier)?;
        progress.say(&format!(
            "{taken} tensors begin as the earlier run left them"
        ));
    }
    let reached = run.restore(&mut learner)?.unwrap_or_default();
    let statistics = Statistics::default();
    let stage = Stage {
        index: 0,
        name: "base",
        schedule: &config.schedule,
        scenes: Scenes {
            settings: &config.scenes,
            augment: &config.augment,
            window_frames: config.window_frames,
        },
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
            base_loss(config, learner, batch, &mode, (moment.step, moment.done))
        },
    )?;
    let mut weights = learner.weights();
    fold(&mut weights, &learner.running)?;
    Ok(weights
        .into_iter()
        .map(|(name, tensor)| (name, tensor.detach()))
        .collect())
}
