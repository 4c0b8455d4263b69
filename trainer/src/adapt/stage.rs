//! One stage of an adaptation, and what its steps train.

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use rand::RngExt;
use swr_core::package::Group as Kind;

use super::Fold;
use super::plan::{DELTA, Plan, flat, mask};
use super::stages::{DENSE, STAGES, Trained};
use crate::batches::{Batch, Scenes, Turns};
use crate::fused::{Dropout, NormMode, Statistics};
use crate::learner::{Learner, Rule};
use crate::loss::stream_loss;
use crate::network::{Pass, Path, flat_logits};
use crate::random::{generator, mix};
use crate::reparam::affine::Affine;
use crate::reparam::policy::Form;
use crate::train::{Moment, Schedule, Stage, run_stage};

/// The variable of scaled channels.
const AFFINE: &str = "affine";

/// In which coordinates a stage trains.
pub(super) enum Coordinates {
    /// Norms standardise by the batch; the weights that training started from.
    Batch(Tensor),
    /// Norms as they are stored; the base's weights by these statistics.
    Deployed(Tensor, Fold),
}

/// What a step trains: `W + change`, on grids or not.
pub(super) struct Step {
    /// Changes of all weights, gates applied; several share the batch evenly.
    pub(super) changes: Vec<Tensor>,
    /// What the loss gains.
    pub(super) extra: Option<Tensor>,
}

impl Step {
    /// One change for the whole batch.
    pub(super) fn of(change: Tensor) -> Self {
        Self {
            changes: vec![change],
            extra: None,
        }
    }
}

impl Plan<'_> {
    /// Variables of low-rank differences, where the method has them: one factor begins random, the other at zero.
    pub(super) fn add_low_rank(&self, learner: &mut Learner) -> Result<()> {
        for (place, name, [rows, columns]) in self.low_rank() {
            let rank = self.job.config.baselines.rank.min(rows).min(columns);
            let mut rng = generator(self.job.config.seed, &[11, place as u64]);
            let bound = 1.0 / (columns as f32).sqrt();
            let values: Vec<f32> = (0..rank * columns)
                .map(|_| rng.random_range(-bound..bound))
                .collect();
            let right = Tensor::from_vec(values, (rank, columns), &Device::Cpu)?;
            let left = Tensor::zeros((rows, rank), DType::F32, &Device::Cpu)?;
            for (side, value) in [("left", left), ("right", right)] {
                learner.add(
                    &format!("{side}.{name}"),
                    &value,
                    Rule::Sgd {
                        anchor: value.zeros_like()?,
                    },
                )?;
            }
        }
        Ok(())
    }

    /// Place, name, rows and columns of the tensors whose differences are of low rank.
    pub(super) fn low_rank(&self) -> Vec<(usize, &str, [usize; 2])> {
        if self.form != Form::LowRank {
            return Vec::new();
        }
        let slots = self.frame.layout.slots().iter().enumerate();
        let pointwise =
            slots.filter(|(_, slot)| crate::baselines::is_pointwise(&slot.name, &slot.shape));
        pointwise
            .map(|(place, slot)| (place, slot.name.as_str(), [slot.shape[0], slot.shape[1]]))
            .collect()
    }

    /// What the differences of a layer can be, where the published method is asked for another form than one number for every weight.
    pub(super) fn affine(&self) -> Option<Affine> {
        let convolution = |name: &str| Kind::of(name) == Kind::Convolution;
        match self.form {
            Form::Additive | Form::LowRank => None,
            Form::Affine | Form::Actions => Some(Affine::new(&self.frame.layout, convolution)),
        }
    }

    /// Adds the variable of [`Self::affine`], if that is there, nearest to the differences as they are.
    pub(super) fn add_affine(&self, learner: &mut Learner) -> Result<()> {
        let Some(affine) = self.affine() else {
            return Ok(());
        };
        let delta: Vec<f32> = learner.get(DELTA)?.to_vec1()?;
        let nearest = affine.nearest(&delta, &self.frame.base)?;
        let anchor = nearest.zeros_like()?;
        learner.add(AFFINE, &nearest, Rule::Sgd { anchor })?;
        // Where every layer is scaled, there is nothing to decide.
        if self.form == Form::Affine {
            learner.decided.scaled = Some(mask(affine.inside())?);
        }
        Ok(())
    }

    /// The differences as a flat vector: of every weight's own, of scaled channels where that is decided, or of low rank.
    pub(super) fn delta(&self, learner: &Learner) -> Result<Tensor> {
        let delta = self.own_delta(learner)?;
        match &learner.decided.scaled {
            Some(scaled) => {
                let other = self.scaled_delta(learner)?;
                Ok((&delta + ((other - &delta)? * scaled)?)?)
            }
            None => Ok(delta),
        }
    }

    /// Differences of scaled channels; where a tensor has none, every weight's own.
    pub(super) fn scaled_delta(&self, learner: &Learner) -> Result<Tensor> {
        let affine = self.affine().context("a form with scaled channels")?;
        let scaled = affine.delta(learner.get(AFFINE)?, &flat(&self.frame.base)?)?;
        let own = learner.get(DELTA)?;
        Ok((own + ((scaled - own)? * mask(affine.inside())?)?)?)
    }

    fn own_delta(&self, learner: &Learner) -> Result<Tensor> {
        let delta = learner.get(DELTA)?;
        let low_rank = self.low_rank();
        if low_rank.is_empty() {
            return Ok(delta.clone());
        }
        let (mut parts, mut next) = (Vec::new(), 0);
        for (place, name, _) in low_rank {
            let range = &self.frame.layout.slots()[place].range;
            parts.push(delta.narrow(0, next, range.start - next)?);
            let product = learner
                .get(&format!("left.{name}"))?
                .matmul(learner.get(&format!("right.{name}"))?)?;
            parts.push(product.flatten_all()?);
            next = range.end;
        }
        parts.push(delta.narrow(0, next, self.frame.base.len() - next)?);
        Ok(Tensor::cat(&parts, 0)?)
    }

    /// Runs one stage from where the run stood to its end; `begin_epoch` is called before every epoch, `step` gives what is trained. In deployed
    /// coordinates, it is trained on the grids that are decided, if they are.
    pub(super) fn stage(
        &self,
        trained: &mut Trained,
        index: usize,
        schedule: &Schedule,
        begin_epoch: impl FnMut(&mut Learner, usize) -> Result<()>,
        mut step: impl FnMut(&Learner, &Batch, Moment) -> Result<Step>,
    ) -> Result<()> {
        let Trained {
            reached,
            learner,
            at,
            ..
        } = trained;
        if reached.stage > index {
            return Ok(());
        }
        let job = self.job;
        let statistics = Statistics::default();
        let stage = Stage {
            index,
            name: STAGES[index],
            schedule,
            scenes: Scenes {
                settings: &job.config.scenes,
                augment: &job.config.augment,
                window_frames: job.window_frames,
            },
            seed: job.config.seed,
            statistics: &statistics,
            progress: job.progress,
        };
        let base = flat(&self.frame.base)?;

        let objective = |learner: &Learner, batch: &Batch, moment: Moment| {
            let Step { changes, extra } = step(learner, batch, moment)?;
            let packing = learner.decided.packing.as_ref();
            let steps = packing.map(|packing| self.frame.steps(&packing.grids));
            let dropout = (schedule.dropout > 0.0).then(|| Dropout {
                rate: schedule.dropout,
                seed: mix(job.config.seed, (index << 32 | moment.step) as u64),
            });

            // Every change hears its share of the batch.
            let clips = batch.targets.len();
            let sets = changes.len().min(clips);
            let mut logits = Vec::new();
            for (set, change) in changes.iter().take(sets).enumerate() {
                let (weights, mode) = match at {
                    Coordinates::Batch(start) => {
                        ((&*start + change)?, NormMode::batch_into(&statistics))
                    }
                    Coordinates::Deployed(start, fold) => {
                        let standard = (&*start + change)?;
                        let grid = steps.as_deref().map(|steps| (&base, steps));
                        (fold.deployed(&standard, grid)?, NormMode::Affine)
                    }
                };
                let pass = Pass {
                    path: Path::Fused,
                    mode,
                    dropout,
                };
                let (first, end) = (set * clips / sets, (set + 1) * clips / sets);
                let log_mel = batch.log_mel.narrow(0, first, end - first)?;
                let classes = self.frame.classes;
                logits.push(flat_logits(
                    job.network,
                    &weights,
                    classes,
                    &log_mel,
                    &pass,
                )?);
            }
            let logits = Tensor::cat(&logits, 0)?;

            let rising = if index == DENSE { moment.done } else { 1.0 };
            let weights = job.config.loss.at(rising);
            let (mut loss, score) =
                stream_loss(&logits, &batch.targets, job.window_frames, weights, None)?;
            if let Some(extra) = extra {
                loss = (loss + extra)?;
            }
            Ok((loss, score))
        };
        run_stage(
            &stage,
            job.run,
            Turns::of(job.language),
            learner,
            *reached,
            begin_epoch,
            objective,
        )
    }
}
