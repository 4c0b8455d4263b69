//! The four stages of an adaptation, each from what the one before it ended with.

use anyhow::{Context, Result};
use candle_core::Tensor;
use swr_core::package::{Delta, Group, Precision, Steps};

use super::estimates::{observe, statistics_of};
use super::plan::{DELTA, Plan, flat, mask};
use super::select::Selector;
use super::stage::{Coordinates, Step};
use super::{CLASSIFIER, probe};
use crate::baselines::select::{open_units, scores};
use crate::baselines::{Gates, INT8, Rounding, Score, Selection, Start};
use crate::checkpoint::Position;
use crate::learner::{Learner, Packing, Rule};
use crate::network::initial_weights;
use crate::reparam::Units;
use crate::train::Schedule;

/// The stages, by their place in a run.
pub const STAGES: [&str; 4] = ["dense", "select", "tune", "quantise"];
pub(super) const DENSE: usize = 0;
pub(super) const SELECT: usize = 1;
const TUNE: usize = 2;
const QUANTISE: usize = 3;

/// What training has come to.
pub(super) struct Trained {
    /// Where the run stood when it was opened.
    pub(super) reached: Position,
    pub(super) learner: Learner,
    /// The weights that training started from, in standard coordinates.
    pub(super) start: Tensor,
    /// How the learner's difference becomes weights.
    pub(super) at: Coordinates,
}

impl Plan<'_> {
    /// The dense stage: everything that the method may train, from the base with a classifier of its own.
    pub(super) fn dense(&self) -> Result<Trained> {
        let (job, frame) = (self.job, &self.frame);
        let from = match job.dense {
            Some(dense) if job.run.position()? == Position::default() => dense,
            _ => job.run,
        };
        let reached = from.position()?;

        // Scale and shift are rewritten for inputs that are standardised by what the base meets in this language; where only the statistics are to
        // change, by what it met in its own.
        let batch = job.config.dense.batch;
        let observed = observe(job.network, &frame.base, &self.sample, batch)?;
        let met = match self.recipe.statistics_alone {
            true => job
                .source
                .context("this method needs clips of the base's own language below --data")?,
            false => &observed,
        };
        let start = frame.fold(met)?.standard(&frame.base);

        let mut learner = Learner::default();
        learner.running = observed;
        let (delta, anchor) = self.first_delta(&start, reached)?;
        learner.add(DELTA, &flat(&delta)?, Rule::Sgd { anchor })?;
        self.add_low_rank(&mut learner)?;
        if let Selection::Gates(gates) = self.recipe.selection
            && reached.stage >= SELECT
        {
            // Whatever they start as, the checkpoint has what has become of them.
            let zeros = vec![0.0; self.units.len()];
            Selector::new(self, gates, 1.0)?.add_variables(&mut learner, &zeros)?;
            self.add_affine(&mut learner)?;
        }
        from.restore(&mut learner)?;

        let start = flat(&start)?;
        let at = match self.batch_norms {
            true => Coordinates::Batch(start.clone()),
            false => Coordinates::Deployed(start.clone(), frame.fold(&learner.running)?),
        };
        let mut trained = Trained {
            reached,
            learner,
            start,
            at,
        };
        let trainable = self.trainable()?;
        self.train(&mut trained, DENSE, &job.config.dense, &trainable)?;
        Ok(trained)
    }

    /// Where the difference from `start` begins, and what weight decay pulls it to.
    fn first_delta(&self, start: &[f32], reached: Position) -> Result<(Vec<f32>, Tensor)> {
        let layout = &self.frame.layout;
        let mut delta = vec![0.0; start.len()];
        let mut anchor = flat(&delta)?;
        match self.recipe.start {
            Start::Random => {
                let (network, seed) = (self.job.network, self.job.config.seed);
                let random = initial_weights(network, self.frame.classes, seed)?;
                let random = layout.pack(&random)?;
                delta = random.iter().zip(start).map(|(w, s)| w - s).collect();
                anchor = flat(&start.iter().map(|s| -s).collect::<Vec<f32>>())?;
            }
            Start::Base if reached == Position::default() => {
                for (name, values) in CLASSIFIER.into_iter().zip(self.probe()?) {
                    delta[layout.slot(name)?.range.clone()].copy_from_slice(&values);
                }
            }
            // A checkpoint has what has become of it.
            Start::Base => {}
        }
        Ok((delta, anchor))
    }

    /// The classifier's start: a linear probe on the base's features.
    pub(super) fn probe(&self) -> Result<[Vec<f32>; 2]> {
        let job = self.job;
        probe::probe(
            &job.config.probe,
            job.config.seed,
            (job.network, job.window_frames),
            &self.frame.base,
            &self.sample,
            self.frame.classes,
            job.progress,
        )
    }

    /// The select stage: which weights change, as gates. Methods without trained gates train on in it.
    pub(super) fn select(&self, trained: &mut Trained) -> Result<Tensor> {
        let schedule = &self.job.config.select;
        let chosen = match self.recipe.selection {
            Selection::Everything | Selection::ScoresAtTheEnd(_) => self.trainable()?,
            Selection::Scores(score) => self.ranked(trained, score)?,
            Selection::Gates(gates) => return self.gated(trained, gates),
        };
        self.train(trained, SELECT, schedule, &chosen)?;
        Ok(chosen)
    }

    /// The units with the best scores within the budget.
    fn ranked(&self, trained: &mut Trained, score: Score) -> Result<Tensor> {
        let learner = &trained.learner;
        if let Some(chosen) = &learner.decided.chosen {
            return Ok(chosen.clone());
        }
        let scores = scores(&self.units, self.evidence(learner, &trained.start, score)?);
        let allowed = self.unit_budget(learner, &trained.start, &scores)?;
        let chosen = self.open(&scores, allowed)?;
        trained.learner.decided.chosen = Some(chosen.clone());
        Ok(chosen)
    }

    /// The units whose gates stay open when they have been trained.
    fn gated(&self, trained: &mut Trained, gates: Gates) -> Result<Tensor> {
        let Trained {
            reached,
            learner,
            start,
            ..
        } = trained;
        if let Some(chosen) = &learner.decided.chosen {
            return Ok(chosen.clone());
        }
        // They start from the best of the scores that are computed.
        let changes = self.evidence(learner, start, Score::Magnitude)?;
        let computed = scores(&self.units, changes);
        let allowed = match learner.decided.allowed {
            Some(allowed) => allowed,
            None => self.unit_budget(learner, start, &computed)?,
        };
        learner.decided.allowed = Some(allowed);

        let selector = Selector::new(self, gates, allowed)?;
        if reached.stage < SELECT {
            selector.add_variables(learner, &computed)?;
            self.add_affine(learner)?;
        }
        let scores = self.train_gates(trained, &selector)?;
        let chosen = self.open(&scores, allowed)?;
        trained.learner.decided.chosen = Some(chosen.clone());
        Ok(chosen)
    }

    /// The gates that scores open within the budget.
    fn open(&self, scores: &[f32], allowed: f64) -> Result<Tensor> {
        let open = open_units(self.recipe.selection, scores, self.units.costs(), allowed);
        mask(&self.units.mask(&open))
    }

    /// The tune stage: the chosen weights alone. Gives what is chosen by then.
    pub(super) fn tune(&self, trained: &mut Trained, chosen: Tensor) -> Result<Tensor> {
        let config = self.job.config;
        let on_grids = self.recipe.grids == Rounding::Trained;
        // Weights in the form that is stored already are tuned on the grids of the file.
        if self.batch_norms || !on_grids {
            self.train(trained, TUNE, &config.tune, &chosen)?;
        }
        if !on_grids {
            self.train(trained, QUANTISE, &config.quantise, &chosen)?;
        }
        match self.recipe.selection {
            Selection::ScoresAtTheEnd(score) => self.ranked_at_the_end(trained, score),
            Selection::Everything | Selection::Gates(_) | Selection::Scores(_) => Ok(chosen),
        }
    }

    /// The units with the best scores of all training; the others are the base's again.
    fn ranked_at_the_end(&self, trained: &mut Trained, score: Score) -> Result<Tensor> {
        let Trained { learner, start, .. } = trained;
        let scores = scores(&self.units, self.evidence(learner, start, score)?);
        let allowed = self.unit_budget(learner, start, &scores)?;
        let chosen = self.open(&scores, allowed)?;
        if self.batch_norms {
            // What enters the norms is no longer what training ended with.
            let standard = flat(&self.standard(learner, start, &chosen)?)?;
            let (network, batch) = (self.job.network, self.job.config.dense.batch);
            learner.running = statistics_of(network, &standard, &self.sample, batch)?;
        }
        Ok(chosen)
    }

    /// The quantise stage: the same weights in the form that is stored, on the grids of the file; then the delta.
    pub(super) fn quantise(&self, mut trained: Trained, chosen: &Tensor) -> Result<Delta> {
        let fold = self.frame.fold(&trained.learner.running)?;
        let base = flat(&fold.standard(&self.frame.base))?;
        if trained.learner.decided.packing.is_none() {
            let packing = self.settle(&mut trained, chosen, &base)?;
            trained.learner.decided.packing = Some(packing);
        }
        trained.at =
            Coordinates::Deployed(base.clone(), self.frame.fold(&trained.learner.running)?);
        if self.recipe.grids == Rounding::Trained {
            self.train_on_grids(&mut trained, &base)?;
        }

        let learner = &trained.learner;
        let Packing {
            open,
            grids,
            curvature,
        } = learner.decided.packing()?;
        let standard = self.standard(learner, &base, &mask(open)?)?;
        if let Rounding::Even(bits) = self.recipe.grids {
            // As they are, on even steps of every tensor's own size.
            let deployed: Vec<f32> = fold.deployed(&flat(&standard)?, None)?.to_vec1()?;
            let precision = |name: &str| {
                let convolution = Group::of(name) == Group::Convolution;
                Precision::Quantised(if convolution { bits } else { INT8 }, Steps::Even)
            };
            let tuned = self.frame.tensors(&deployed);
            let header = self.header.clone();
            return Ok(Delta::build_by(self.job.base, &tuned, header, &precision)?);
        }
        // Thresholds are calibrated afterwards; other ones may take the range code a byte more to end.
        let budget = self.by_bytes().then(|| self.allowed - 1);
        self.packer(&fold, &standard, curvature)
            .finish(&self.units, open, grids, budget)
    }

    /// Moves the differences into the coordinates of the norms' last statistics, in which `base` is the base, and decides what is stored and on which grids.
    fn settle(&self, trained: &mut Trained, chosen: &Tensor, base: &Tensor) -> Result<Packing> {
        let Trained { learner, start, .. } = trained;
        let settings = &self.job.config.grids;
        let fold = self.frame.fold(&learner.running)?;
        let standard = self.standard(learner, start, chosen)?;
        let curvature = self.curvature(&fold, &standard)?;
        let packer = self.packer(&fold, &standard, &curvature);
        let mut open = self.stored(chosen)?;
        let grids = if self.by_bytes() {
            // Of the chosen units, those that matter most for what they cost.
            let importance = packer.importance().into_iter().zip(&open);
            let importance = importance.map(|(i, open)| if *open { i } else { 0.0 });
            let by_unit = self.units.sum(&importance.collect::<Vec<f32>>());
            let score = |sum: &f64| match *sum > 0.0 {
                true => *sum as f32,
                false => f32::NEG_INFINITY,
            };
            let scores: Vec<f32> = by_unit.iter().map(score).collect();
            let (units, found) =
                packer.open(&self.units, &scores, self.allowed, settings.levels)?;
            open = self.units.mask(&units);
            found
        } else {
            packer.grids(&open, settings.fine_levels)
        };
        learner.set(DELTA, &(flat(&standard)? - base)?)?;
        Ok(Packing {
            open,
            grids,
            curvature,
        })
    }

    /// Trains on grids. Under a budget in bytes they are set anew with every epoch but the last ones, so that the file keeps to it.
    fn train_on_grids(&self, trained: &mut Trained, base: &Tensor) -> Result<()> {
        let config = self.job.config;
        let mut schedule = config.quantise.clone();
        if !self.batch_norms {
            // There was no tune stage.
            schedule.epochs += config.tune.epochs;
        }
        let fold = self.frame.fold(&trained.learner.running)?;
        let refits = schedule.epochs.saturating_sub(config.grids.settle_epochs);
        let refit = |learner: &mut Learner, epoch: usize| -> Result<()> {
            if epoch == 0 || epoch > refits || !self.by_bytes() {
                return Ok(());
            }
            let Packing {
                open, curvature, ..
            } = learner.decided.packing()?;
            let standard = self.standard(learner, base, &mask(open)?)?;
            let packer = self.packer(&fold, &standard, curvature);
            let units = Units::fixed(open);
            let (_, mut grids) = packer.open(&units, &[], self.allowed, config.grids.levels)?;
            if epoch == refits {
                // The last ones are those of the file, as far as it will fit.
                grids = packer.refine(open, &grids, self.allowed)?;
            }
            if let Some(packing) = &mut learner.decided.packing {
                packing.grids = grids;
            }
            Ok(())
        };

        let open = mask(&trained.learner.decided.packing()?.open)?;
        // Norms whose statistics are new are stored, but nobody trains them.
        let moving = match self.recipe.statistics_alone {
            true => Some(self.trainable()?),
            false => None,
        };
        self.stage(trained, QUANTISE, &schedule, refit, |learner, _, _| {
            let change = (self.delta(learner)? * &open)?;
            Ok(Step::of(match &moving {
                Some(moving) => {
                    let fixed = (change.detach() * (1.0 - moving)?)?;
                    ((change * moving)? + fixed)?
                }
                None => change,
            }))
        })
    }

    /// Trains the differences behind gates that stay as they are.
    fn train(
        &self,
        trained: &mut Trained,
        index: usize,
        schedule: &Schedule,
        gates: &Tensor,
    ) -> Result<()> {
        let nothing = |_: &mut Learner, _| Ok(());
        self.stage(trained, index, schedule, nothing, |learner, _, _| {
            Ok(Step::of((self.delta(learner)? * gates)?))
        })
    }
}
