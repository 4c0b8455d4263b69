//! The training loop: batch, forward, loss, backward, step; checkpoint after every epoch. Base and languages share it.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::batches::{Batch, Scenes, Turns};
use crate::checkpoint::{Position, Run, epoch_entry};
use crate::fused::Statistics;
use crate::learner::{Learner, Update};
use crate::loss::Score;
use crate::progress::Progress;

/// One stage of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Rounds, after each of which there is a checkpoint.
    pub epochs: usize,
    /// Scenes in a round.
    pub scenes: usize,
    /// Scenes a step.
    pub batch: usize,
    /// Highest learning rate; it rises linearly from 0 in the warm-up and falls to 0 by a cosine.
    pub learning_rate: f64,
    /// Epochs of warm-up; may be a fraction.
    pub warmup_epochs: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Weight decay, towards zero for the base and the classifier, towards the base for everything else.
    pub weight_decay: f64,
    /// Channel dropout in the blocks' temporal branch.
    pub dropout: f32,
    /// Largest norm of the gradient; a longer one is shortened to it. Matters where norms are in deployed form, whose outputs nothing bounds.
    pub longest_gradient: f64,
}

impl Schedule {
    /// Refuses values that training could not run with; `name` is the section.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        ensure!(
            self.batch > 0 && self.scenes > 0,
            "{name}.batch = {}, scenes = {}: expected at least 1",
            self.batch,
            self.scenes
        );
        ensure!(
            (0.0..1.0).contains(&self.dropout),
            "{name}.dropout = {}: expected 0 to below 1",
            self.dropout
        );
        let rates = [
            self.learning_rate,
            self.warmup_epochs,
            self.momentum,
            self.weight_decay,
        ];
        ensure!(
            rates.iter().all(|v| v.is_finite() && *v >= 0.0),
            "{name}: expected no negative value, found {rates:?}"
        );
        Ok(())
    }

    /// Learning rate after `epochs` epochs, a fraction.
    pub fn rate_at(&self, epochs: f64) -> f64 {
        if epochs < self.warmup_epochs {
            return self.learning_rate * epochs / self.warmup_epochs;
        }
        let rest = (self.epochs as f64 - self.warmup_epochs).max(1e-9);
        let gone = ((epochs - self.warmup_epochs) / rest).clamp(0.0, 1.0);
        self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * gone).cos())
    }
}

/// When a step happens.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Steps since the stage began, from 0.
    pub step: usize,
    /// Share of the stage that is done, 0 to 1.
    pub done: f64,
}

/// A stage of a run: its place in the order, its name, and what it needs.
pub struct Stage<'a> {
    /// Index of the stage in the run.
    pub index: usize,
    /// Its name, in the log and for people.
    pub name: &'a str,
    /// Its schedule.
    pub schedule: &'a Schedule,
    /// How scenes are made.
    pub scenes: Scenes<'a>,
    /// Seed of the run.
    pub seed: u64,
    /// Where the objective leaves the batch's norm statistics.
    pub statistics: &'a Statistics,
    /// Talk to people.
    pub progress: &'a Progress,
}

/// Runs a stage from where the run stands to its end. `begin_epoch` is called before every epoch, with its index; `objective` gives the loss of a batch,
/// with how many words it knows, and leaves the batch's norm statistics where the stage says.
///
/// A loss that is not finite ends training with an error that names step, batch and the last checkpoint, which stays usable.
pub fn run_stage(
    stage: &Stage,
    run: &Run,
    turns: Turns,
    learner: &mut Learner,
    reached: Position,
    mut begin_epoch: impl FnMut(&mut Learner, usize) -> Result<()>,
    mut objective: impl FnMut(&Learner, &Batch, Moment) -> Result<(Tensor, Score)>,
) -> Result<()> {
    let schedule = stage.schedule;
    let first = if reached.stage == stage.index {
        reached.epochs
    } else {
        0
    };
    if first == 0 {
        learner.forget_momentum()?;
    }
    let steps = schedule.scenes.div_ceil(schedule.batch);
    let bar = stage.progress.bar(stage.name, schedule.epochs * steps);
    bar.set_position((first * steps) as u64);
    bar.reset_eta();
    for epoch in first..schedule.epochs {
        let started = Instant::now();
        begin_epoch(learner, epoch)?;
        let (mut loss_sum, mut score, mut step) = (0f64, Score::default(), epoch * steps);
        turns.for_each_batch(&stage.scenes, (schedule.scenes, schedule.batch), stage.seed, [stage.index as u64, epoch as u64], |batch| {
            let moment = Moment { step, done: step as f64 / (schedule.epochs * steps) as f64 };
            let (loss, known) = objective(learner, &batch, moment)?;
            let value: f32 = loss.to_scalar()?;
            if !value.is_finite() {
                let good = run.checkpoint_path();
                let good = if good.exists() {
                    format!("the last good state is {}", good.display())
                } else {
                    "no good state was saved yet".to_string()
                };
                let place = [stage.index, epoch, step - epoch * steps];
                run.log(&json!({"stage": stage.name, "epoch": epoch + 1, "step": step, "loss": value.to_string()}))?;
                bail!(
                    "{}: the loss became {value} at step {step} (epoch {}), batch {place:?} of seed {}; {good}; lower the learning rate",
                    stage.name,
                    epoch + 1,
                    stage.seed
                );
            }
            let rate = schedule.rate_at((step as f64 + 1.0) / steps as f64);
            let update = Update { rate, momentum: schedule.momentum, decay: schedule.weight_decay, step: step + 1, longest: schedule.longest_gradient };
            learner.learn(&loss, stage.statistics, update)?;
            loss_sum += f64::from(value) * batch.targets.len() as f64;
            score += known;
            step += 1;
            bar.inc(1);
            Ok(())
        })?;
        let (loss, accuracy) = (loss_sum / schedule.scenes as f64, score.share());
        bar.set_message(format!(
            "loss {loss:.3}, {:.1} % of words known",
            100.0 * accuracy
        ));
        run.save(
            learner,
            Position {
                stage: stage.index,
                epochs: epoch + 1,
            },
        )?;
        run.log(&epoch_entry(
            stage.name,
            epoch + 1,
            loss,
            accuracy,
            started.elapsed().as_secs_f64(),
        ))?;
    }
    bar.finish();
    Ok(())
}
