//! Training of the base network, from its first random weight to its deployed tensors.

mod also;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use candle_core::Tensor;
use swr_core::package::Digest;

pub use also::AlsoSettings;

use crate::adapt::{CLASSIFIER, Frame, observe};
use crate::architecture::Architecture;
use crate::batches::{Batch, Scenes, Turns};
use crate::checkpoint::{Run, learned_by};
use crate::config::BaseConfig;
use crate::examples::Language;
use crate::fused::{Dropout, NormMode, Statistics};
use crate::learner::{Learner, Rule, fold, state_of, unfold};
use crate::loss::{Score, stream_loss};
use crate::models::{BASE_JSON, architecture_of, read_base};
use crate::network::{Pass, Path, Weights, frame_logits, initial_weights};
use crate::progress::Progress;
use crate::random::mix;
use crate::train::{Stage, run_stage};
use crate::weights::from_package;

/// What a training begins with in place of random weights, and its digest: what another run had learned, or a base that was released.
pub struct Beginning {
    /// As a checkpoint keeps it.
    pub state: BTreeMap<String, Tensor>,
    /// Of the checkpoint or the base's tensors.
    pub digest: Digest,
}

impl Beginning {
    /// Reads the folder of a run, or one of models, whose base is of the same architecture. Of the base's classifier, labels that `language` has too keep their
    /// rows; the others begin at random.
    pub fn read(
        folder: &std::path::Path,
        config: &BaseConfig,
        language: &Language,
    ) -> Result<Self> {
        if !folder.join(BASE_JSON).exists() {
            let learned = learned_by(folder).with_context(|| {
                format!(
                    "{}: neither a folder of models, with {BASE_JSON}, nor of a run that has finished an epoch",
                    folder.display()
                )
            });
            let (state, digest) = learned?;
            return Ok(Self { state, digest });
        }
        let base = read_base(folder)?;
        let manifest = base.manifest();
        ensure!(
            manifest.architecture == config.architecture.name(),
            "{}: its base is a {}, the configuration asks for {}; set architecture.tau, or begin with another base",
            folder.display(),
            manifest.architecture,
            config.architecture.name()
        );
        let frame = Frame::new(&config.architecture, base.tensors(), manifest.labels.len())?;
        let sample = language.a_sample(config.seed);
        let statistics = observe(
            &config.architecture,
            &frame.base,
            &sample,
            config.schedule.batch,
        )?;
        let mut weights = from_package(base.tensors())?;
        unfold(&mut weights, &statistics)?;
        let random = initial_weights(&config.architecture, language.labels.len(), config.seed)?;
        for name in CLASSIFIER {
            let mut rows = Vec::new();
            for (row, label) in language.labels.iter().enumerate() {
                rows.push(match manifest.labels.iter().position(|l| l == label) {
                    Some(known) => weights[name].narrow(0, known, 1)?,
                    None => random[name].narrow(0, row, 1)?,
                });
            }
            weights.insert(name.into(), Tensor::cat(&rows, 0)?);
        }
        Ok(Self {
            state: state_of(&weights, &statistics)?,
            digest: manifest.tensors_sha256,
        })
    }
}

/// A trained network whose posteriors another one learns to give: a larger one for a smaller.
pub struct Teacher {
    architecture: Architecture,
    weights: Weights,
    /// Of its base's tensors.
    pub digest: Digest,
}

impl Teacher {
    /// The base in a folder of models, which must hear the same features and know the same labels.
    pub fn read(folder: &std::path::Path, config: &BaseConfig, labels: &[String]) -> Result<Self> {
        let base = read_base(folder)?;
        let manifest = base.manifest();
        ensure!(
            config.loss.teach > 0.0,
            "loss.teach = 0: expected more where there is a teacher; --set loss.teach=3"
        );
        ensure!(
            manifest.labels == labels,
            "{}: expected the {} labels of the data, found {}; teach with a base of the same words",
            folder.display(),
            labels.join(", "),
            manifest.labels.join(", ")
        );
        ensure!(
            manifest.frontend == config.pipeline().frontend,
            "{}: its front end is {:?}, the configuration's {:?}; set gain as it was there",
            folder.display(),
            manifest.frontend,
            config.pipeline().frontend
        );
        Ok(Self {
            architecture: architecture_of(&base)?,
            weights: from_package(base.tensors())?,
            digest: manifest.tensors_sha256,
        })
    }

    /// Its logits of every frame, `[B, 1, F, T]` to `[B, C, T]`.
    fn logits(&self, log_mel: &Tensor) -> Result<Tensor> {
        let pass = Pass::evaluation();
        Ok(frame_logits(&self.architecture, &self.weights, log_mel, &pass)?.contiguous()?)
    }
}

/// A learner of all weights, each decaying to zero.
pub(crate) fn base_learner(weights: &Weights) -> Result<Learner> {
    let mut learner = Learner::default();
    for (name, value) in weights {
        let anchor = value.zeros_like()?;
        learner.add(name, value, Rule::Sgd { anchor })?;
    }
    Ok(learner)
}

/// The loss of a batch under `weights`, and how many of its words are known, at a step and a share of the training.
pub(crate) fn base_loss(
    config: &BaseConfig,
    weights: &Weights,
    batch: &Batch,
    mode: &NormMode,
    (step, done): (usize, f64),
    teacher: Option<&Teacher>,
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
    let logits = frame_logits(&config.architecture, weights, &batch.log_mel, &pass)?;
    let taught = teacher.map(|teacher| teacher.logits(&batch.log_mel));
    Ok(stream_loss(
        &logits,
        &batch.targets,
        config.window_frames,
        config.loss.at(done),
        taught.transpose()?.as_ref(),
    )?)
}

/// Trains a base on a language's clips, `also` on those of others, from where `run` stands, at first from a beginning, and by a teacher, if they are given;
/// gives its weights in deployed form.
pub fn train_base(
    config: &BaseConfig,
    (language, also): (&Language, &[Language]),
    run: &Run,
    beginning: Option<&Beginning>,
    teacher: Option<&Teacher>,
    progress: &Progress,
) -> Result<Weights> {
    let mut learner = base_learner(&initial_weights(
        &config.architecture,
        language.labels.len(),
        config.seed,
    )?)?;
    if let Some(beginning) = beginning {
        learner.take_up(&beginning.state)?;
    }
    also::add(&mut learner, config, also)?;
    if let Some(beginning) = beginning {
        // Again, since a run on the same languages has left what they have of their own as well.
        let taken = learner.take_up(&beginning.state)?;
        progress.say(&format!("{taken} tensors begin as they were left"));
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
    // What the base's norms standardise by is its own language's.
    let elsewhere = NormMode::batch_into(&Statistics::default());
    let turns = Turns {
        language,
        others: also,
        share: config.also.share,
    };
    run_stage(
        &stage,
        run,
        turns,
        &mut learner,
        reached,
        |_, _| Ok(()),
        |learner, batch, moment| {
            let (place, learned) = ((moment.step, moment.done), learner.weights());
            let Some(other) = batch.language.checked_sub(1) else {
                let weights = also::of_the_base(&learned);
                return base_loss(config, &weights, batch, &mode, place, teacher);
            };
            let code = &also[other].code;
            let weights = also::of_a_language(&learned, code, config.also.change)?;
            base_loss(config, &weights, batch, &elsewhere, place, None)
        },
    )?;
    let mut weights = also::of_the_base(&learner.weights());
    fold(&mut weights, &learner.running)?;
    Ok(weights
        .into_iter()
        .map(|(name, tensor)| (name, tensor.detach()))
        .collect())
}
