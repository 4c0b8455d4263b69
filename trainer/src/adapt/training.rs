//! The stages of one adaptation.

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use swr_core::package::{Counts, Delta, Group, Limit, Precision, Steps};

use super::estimates::{observe, statistics_of};
use super::fit::Packer;
use super::probe::probe;
use super::select::Selector;
use super::stage::{Coordinates, Step};
use super::{Adaptation, CLASSIFIER, Fold, Frame, empty_file};
use crate::baselines::select::{open_units, scores};
use crate::baselines::{Choice, Method};
use crate::checkpoint::Position;
use crate::examples::Examples;
use crate::learner::{Learner, Rule};
use crate::network::initial_weights_of;
use crate::reparam::quantise::Grids;
use crate::reparam::{Level, Units};
use crate::train::Schedule;

pub(super) const DELTA: &str = "delta";
/// Decided after the dense stage: what the units may cost together.
const ALLOWED: &str = "allowed";
/// Decided by the select stage: whether every weight changes.
const MASK: &str = "mask";
/// Decided before the last stage: the same once more, the grid of every tensor, and the loss's curvature in every weight.
const FINAL_MASK: &str = "final mask";
pub(super) const GRIDS: &str = "grids";
const CURVATURE: &str = "curvature";
/// Bits of a dense delta's norms and classifier, beside the sign.
const INT8: u32 = 7;
/// Stages, in order.
const DENSE: usize = 0;
pub(super) const SELECT: usize = 1;
const TUNE: usize = 2;
const QUANTISE: usize = 3;

/// One adaptation under way.
pub(super) struct Way<'a> {
    pub(super) job: &'a Adaptation<'a>,
    pub(super) frame: &'a Frame,
    /// What the budget allows, in its own unit.
    allowed: usize,
    limit: Limit,
    pub(super) units: Units,
    /// Clips that estimates are made from.
    pub(super) sample: Examples,
}

/// Position of a run, learner and coordinates after the dense stage.
pub(super) struct AfterDense {
    reached: Position,
    learner: Learner,
    start: Tensor,
}

impl<'a> Way<'a> {
    pub(super) fn new(job: &'a Adaptation<'a>, frame: &'a Frame, allowed: usize) -> Result<Self> {
        let budget = job.header.budget.as_ref().context("a budget")?;
        let tensors = job.network.tensors(frame.classes);
        let groups = job.method.groups(
            &tensors,
            budget.limit(),
            job.config.units,
            always_norms(job)?,
            job.config.policy.by_block,
        );
        Ok(Self {
            job,
            frame,
            allowed,
            limit: budget.limit(),
            units: Units::new(&frame.layout, &groups, |_| 1.0)?,
            sample: job.language.a_sample(job.config.seed),
        })
    }

    /// Weights that count and change whatever is chosen; where the budget is in bytes, they take as many as their grids make them.
    fn always_open(&self) -> usize {
        let counts = match self.limit {
            Limit::ConvolutionShare(_) => {
                let convolution = |name: &str| Group::of(name) == Group::Convolution;
                self.frame.layout.by_tensor(convolution)
            }
            Limit::AllShare(_) => vec![true; self.frame.base.len()],
            Limit::FileBytes(_) => return 0,
        };
        let open = self.units.mask(&vec![false; self.units.len()]);
        open.iter().zip(counts).filter(|(o, c)| **o && *c).count()
    }

    /// Refuses a budget that what always changes uses up.
    pub(super) fn check_units(&self) -> Result<()> {
        let open = self.always_open();
        ensure!(
            open < self.allowed || !self.job.method.is_budgeted(),
            "{open} weights change whatever is chosen, and the budget allows {}: give a larger one, or let [units] gate more",
            self.allowed
        );
        Ok(())
    }

    /// Which weights the method may train at all, as gates.
    pub(super) fn trainable(&self) -> Result<Tensor> {
        let tensors = self.job.network.tensors(self.frame.classes);
        let trains = self.job.method.trains(&tensors);
        mask(&self.frame.layout.by_tensor(|name| trains.contains(name)))
    }

    /// Probe and dense stage, or what a checkpoint holds instead.
    pub(super) fn dense(&self) -> Result<AfterDense> {
        let Adaptation {
            config,
            method,
            network,
            run,
            aids,
            ..
        } = *self.job;
        let frame = self.frame;
        // Scale and shift are rewritten for inputs that are standardised by what the base meets in this language; where only the statistics are to
        // change, by what it met in its own.
        let observed = observe(network, &frame.base, &self.sample, config.dense.batch)?;
        let met = match method {
            Method::HeadStatistics => aids
                .source
                .as_ref()
                .context("this method needs clips of the base's own language below --data")?,
            _ => &observed,
        };
        let start = frame.fold(met)?.standard(&frame.base);
        let from = match self.job.dense {
            Some(dense) if run.position()? == Position::default() => dense,
            _ => run,
        };
        let reached = from.position()?;
        let mut delta = vec![0.0; start.len()];
        let mut anchor = delta.clone();
        if method == Method::Scratch {
            let random = initial_weights_of(
                &network.tensors(frame.classes),
                network.width(),
                config.seed,
            )?;
            delta = frame
                .layout
                .pack(&random)?
                .iter()
                .zip(&start)
                .map(|(w, s)| w - s)
                .collect();
            anchor = start.iter().map(|s| -s).collect();
        } else if reached == Position::default() {
            let values = self.probe()?;
            for (name, values) in CLASSIFIER.into_iter().zip(values) {
                delta[frame.layout.slot(name)?.range.clone()].copy_from_slice(&values);
            }
        }
        let mut learner = Learner::default();
        learner.running = observed;
        learner.add(
            DELTA,
            &flat(&delta)?,
            Rule::Sgd {
                anchor: flat(&anchor)?,
            },
        )?;
        self.add_low_rank(&mut learner)?;
        if reached.stage >= SELECT {
            // Whatever they start as, the checkpoint has what has become of them.
            let zeros = vec![0.0; self.units.len()];
            self.selector(1.0)?.add_variables(&mut learner, &zeros)?;
            self.add_affine(&mut learner)?;
        }
        from.restore(&mut learner)?;
        let start = flat(&start)?;
        let trainable = self.trainable()?;
        let at = self.coordinates(&start, &learner)?;
        self.stage(
            DENSE,
            "dense",
            &config.dense,
            &mut learner,
            reached,
            &at,
            |_, _| Ok(()),
            |learner, _, _| self.step(learner, &trainable),
        )?;
        Ok(AfterDense {
            reached,
            learner,
            start,
        })
    }

    /// Whether norms standardise by the batch until the last stage. They do where all of them always change; where they are gated or fixed, or a file is
    /// too small for all of them, a weight that does not change must mean what it means in the base. Weights that nobody trained yet have no statistics
    /// that would hold.
    pub(super) fn batch_norms(&self) -> Result<bool> {
        let open = self.units.mask(&vec![false; self.units.len()]);
        let norms = self.frame.layout.by_tensor(is_norm);
        let all = open.iter().zip(norms).all(|(open, norm)| *open || !norm);
        Ok(match self.job.method {
            Method::Scratch => true,
            Method::HeadStatistics => always_norms(self.job)?,
            _ => all && always_norms(self.job)?,
        })
    }

    /// The coordinates of the stages before the last.
    fn coordinates(&self, start: &Tensor, learner: &Learner) -> Result<Coordinates> {
        if self.batch_norms()? {
            return Ok(Coordinates::Batch(start.clone()));
        }
        Ok(Coordinates::Deployed(
            start.clone(),
            self.frame.fold(&learner.running)?,
        ))
    }

    pub(super) fn probe(&self) -> Result<[Vec<f32>; 2]> {
        let Adaptation {
            config,
            network,
            window_frames,
            progress,
            ..
        } = *self.job;
        probe(
            &config.probe,
            config.seed,
            (network, window_frames),
            &self.frame.base,
            &self.sample,
            self.frame.classes,
            progress,
        )
    }

    fn selector(&self, allowed: f64) -> Result<Selector<'_>> {
        let Adaptation {
            config,
            method,
            network,
            ..
        } = *self.job;
        Selector::new(
            method.choice(),
            config,
            &self.units,
            allowed,
            network.width(),
        )
    }

    /// All stages; the delta on its grids.
    pub(super) fn go(&self) -> Result<Delta> {
        let Adaptation { config, method, .. } = *self.job;
        let AfterDense {
            reached,
            mut learner,
            start,
        } = self.dense()?;
        let at = self.coordinates(&start, &learner)?;
        let mut chosen = self.choose(&mut learner, reached, &start, &at)?;
        let train = |learner: &mut Learner, index, name, schedule: &Schedule| {
            self.stage(
                index,
                name,
                schedule,
                learner,
                reached,
                &at,
                |_, _| Ok(()),
                |learner, _, _| self.step(learner, &chosen),
            )
        };
        if matches!(method.choice(), Choice::Fixed | Choice::Scored) {
            train(&mut learner, SELECT, "select", &config.select)?;
        }
        let mut last = config.quantise.clone();
        if self.batch_norms()? || !method.trains_on_grids() {
            train(&mut learner, TUNE, "tune", &config.tune)?;
        } else {
            // In the form that is stored already.
            last.epochs += config.tune.epochs;
        }
        if !method.trains_on_grids() {
            train(&mut learner, QUANTISE, "quantise", &config.quantise)?;
        }
        if method == Method::MagnitudeOnce {
            let scores = scores(method, &self.evidence(&learner, &start)?)?;
            let allowed = self.unit_budget(&learner, &start, &scores)?;
            let open = open_units(method, &scores, self.units.costs(), allowed);
            chosen = mask(&self.units.mask(&open))?;
            if self.batch_norms()? {
                // What enters the norms is no longer what training ended with.
                let standard = flat(&self.standard(&learner, &start, &chosen)?)?;
                let (network, batch) = (self.job.network, config.dense.batch);
                learner.running = statistics_of(network, &standard, &self.sample, batch)?;
            }
        }

        // From here on in the form that is stored, by the statistics that training ended with.
        let fold = self.frame.fold(&learner.running)?;
        let base = flat(&fold.standard(&self.frame.base))?;
        if !learner.decided.contains_key(GRIDS) {
            self.settle(&mut learner, &start, &chosen, &fold, &base)?;
        }
        if let Some(bits) = method.plain_bits() {
            // As they are, on even steps of every tensor's own size.
            let standard = self.standard(&learner, &base, &learner.decided[FINAL_MASK])?;
            let deployed: Vec<f32> = fold.deployed(&flat(&standard)?, None)?.to_vec1()?;
            let header = self.job.header.clone();
            let precision = |name: &str| {
                let convolution = Group::of(name) == Group::Convolution;
                Precision::Quantised(if convolution { bits } else { INT8 }, Steps::Even)
            };
            let tuned = self.frame.tensors(&deployed);
            return Ok(Delta::build_by(self.job.base, &tuned, header, &precision)?);
        }
        if method.trains_on_grids() {
            self.quantise(&mut learner, reached, &fold, &base, &last)?;
        }
        let open = learner.decided[FINAL_MASK].clone();
        let curvature: Vec<f32> = learner.decided[CURVATURE].to_vec1()?;
        let grids = Grids {
            steps: learner.decided[GRIDS].to_vec1()?,
        };
        let standard = self.standard(&learner, &base, &open)?;
        // Thresholds are calibrated afterwards; other ones may take the range code a byte more to end.
        let budget = self.by_bytes().then(|| self.allowed - 1);
        self.packer(&fold, &standard, &curvature).finish(
            &self.units,
            &is_open(&open)?,
            &grids,
            budget,
        )
    }

    fn by_bytes(&self) -> bool {
        matches!(self.limit, Limit::FileBytes(_))
    }

    /// Which weights change, as gates: what scores or trained gates decide, or all that the method may train.
    fn choose(
        &self,
        learner: &mut Learner,
        reached: Position,
        start: &Tensor,
        at: &Coordinates,
    ) -> Result<Tensor> {
        let method = self.job.method;
        if method.choice() == Choice::Fixed || method == Method::MagnitudeOnce {
            return self.trainable();
        }
        if let Some(mask) = learner.decided.get(MASK) {
            return Ok(mask.clone());
        }
        let computed = method.choice() == Choice::Scored;
        let evidence = self.evidence(learner, start)?;
        // Trained gates start from what is best of the scores that are computed.
        let start_from = if computed { method } else { Method::Magnitude };
        let mut scores = scores(start_from, &evidence)?;
        let allowed = match learner.decided.get(ALLOWED) {
            Some(allowed) => f64::from(allowed.to_vec1::<f32>()?[0]),
            None => self.unit_budget(learner, start, &scores)?,
        };
        let kept = flat(&[allowed as f32])?;
        learner.decided.insert(ALLOWED.into(), kept);
        if !computed {
            let selector = self.selector(allowed)?;
            if reached.stage < SELECT {
                selector.add_variables(learner, &scores)?;
                self.add_affine(learner)?;
            }
            scores = self.select(learner, reached, at, &selector)?;
        }
        let open = open_units(method, &scores, self.units.costs(), allowed);
        let mask = mask(&self.units.mask(&open))?;
        learner.decided.insert(MASK.into(), mask.clone());
        Ok(mask)
    }

    /// Moves the deltas into the coordinates of `fold`, and decides what is stored and on which grids.
    fn settle(
        &self,
        learner: &mut Learner,
        start: &Tensor,
        chosen: &Tensor,
        fold: &Fold,
        base: &Tensor,
    ) -> Result<()> {
        let grids = &self.job.config.grids;
        let standard = self.standard(learner, start, chosen)?;
        let curvature = self.curvature(fold, &standard)?;
        let packer = self.packer(fold, &standard, &curvature);
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
            let (units, found) = packer.open(&self.units, &scores, self.allowed, grids.levels)?;
            open = self.units.mask(&units);
            found
        } else {
            packer.grids(&open, grids.fine_levels)
        };
        learner.set(DELTA, &(flat(&standard)? - base)?)?;
        let decided = [
            (FINAL_MASK, mask(&open)?),
            (GRIDS, flat(&grids.steps)?),
            (CURVATURE, flat(&curvature)?),
        ];
        for (name, tensor) in decided {
            learner.decided.insert(name.into(), tensor);
        }
        Ok(())
    }

    /// The last stage, on grids. Under a budget in bytes they are set anew with every epoch but the last ones, so that the file keeps to it.
    fn quantise(
        &self,
        learner: &mut Learner,
        reached: Position,
        fold: &Fold,
        base: &Tensor,
        schedule: &Schedule,
    ) -> Result<()> {
        let settings = &self.job.config.grids;
        let refits = schedule.epochs.saturating_sub(settings.settle_epochs);
        let curvature: Vec<f32> = learner.decided[CURVATURE].to_vec1()?;
        let refit = |learner: &mut Learner, epoch: usize| -> Result<()> {
            if epoch == 0 || epoch > refits || !self.by_bytes() {
                return Ok(());
            }
            let mask = learner.decided[FINAL_MASK].clone();
            let standard = self.standard(learner, base, &mask)?;
            let units = Units::fixed(&is_open(&mask)?);
            let packer = self.packer(fold, &standard, &curvature);
            let (_, mut grids) = packer.open(&units, &[], self.allowed, settings.levels)?;
            if epoch == refits {
                // The last ones are those of the file, as far as it will fit.
                grids = packer.refine(&is_open(&mask)?, &grids, self.allowed)?;
            }
            learner.decided.insert(GRIDS.into(), flat(&grids.steps)?);
            Ok(())
        };
        let open = learner.decided[FINAL_MASK].clone();
        // Norms whose statistics are new are stored, but nobody trains them.
        let trained = match self.job.method {
            Method::HeadStatistics => Some(self.trainable()?),
            _ => None,
        };
        let at = Coordinates::Deployed(base.clone(), self.frame.fold(&learner.running)?);
        self.stage(
            QUANTISE,
            "quantise",
            schedule,
            learner,
            reached,
            &at,
            refit,
            |learner, _, _| {
                let mut step = self.step(learner, &open)?;
                if let (Some(trained), [change]) = (&trained, &mut step.changes[..]) {
                    let fixed = (change.detach() * (1.0 - trained)?)?;
                    *change = ((&*change * trained)? + fixed)?;
                }
                Ok(step)
            },
        )
    }

    fn packer<'b>(
        &'b self,
        fold: &'b Fold,
        standard: &'b [f32],
        curvature: &'b [f32],
    ) -> Packer<'b> {
        let (frame, Adaptation { base, header, .. }) = (self.frame, self.job);
        Packer {
            frame,
            base,
            header,
            fold,
            standard,
            curvature,
        }
    }

    /// Weights that may differ from the base's in the file: those that are trained, and norms where their statistics are new.
    fn stored(&self, chosen: &Tensor) -> Result<Vec<bool>> {
        let mut open = is_open(chosen)?;
        if self.job.method == Method::HeadStatistics {
            let norms = self.frame.layout.by_tensor(is_norm);
            open.iter_mut()
                .zip(norms)
                .for_each(|(open, norm)| *open |= norm);
        }
        Ok(open)
    }

    /// What the units may cost together.
    fn unit_budget(&self, learner: &Learner, start: &Tensor, scores: &[f32]) -> Result<f64> {
        Ok(match self.limit {
            Limit::ConvolutionShare(_) | Limit::AllShare(_) => {
                (self.allowed - self.always_open()) as f64
            }
            // As many as the file has room for.
            Limit::FileBytes(_) => {
                let fold = self.frame.fold(&learner.running)?;
                let standard = self.standard(learner, start, &self.trainable()?)?;
                let curvature = self.curvature(&fold, &standard)?;
                let packer = self.packer(&fold, &standard, &curvature);
                let (open, _) = packer.open(
                    &self.units,
                    scores,
                    self.allowed,
                    self.job.config.grids.levels,
                )?;
                let open = open
                    .iter()
                    .zip(self.units.costs())
                    .filter(|(open, _)| **open);
                open.map(|(_, cost)| cost).sum()
            }
        })
    }

    /// All weights in standard coordinates, deltas where `gates` are open.
    pub(super) fn standard(
        &self,
        learner: &Learner,
        start: &Tensor,
        gates: &Tensor,
    ) -> Result<Vec<f32>> {
        Ok((start + (self.delta(learner)? * gates)?)?.to_vec1()?)
    }

    fn step(&self, learner: &Learner, mask: &Tensor) -> Result<Step> {
        Ok(Step {
            changes: vec![(self.delta(learner)? * mask)?],
            extra: None,
        })
    }
}

/// Whether norms change whatever is chosen.
fn always_norms(job: &Adaptation) -> Result<bool> {
    let budget = job.header.budget.as_ref().context("a budget")?;
    Ok(match budget.limit() {
        Limit::ConvolutionShare(_) => true,
        Limit::AllShare(_) => job.config.units.norms == Level::Open,
        Limit::FileBytes(bytes) => {
            let (empty, classifier) = empty_file(job.base, job.header)?;
            let norms = Counts::of(job.base).norms as f64;
            let least = empty as f64 + 0.5 * classifier as f64;
            bytes as f64 >= least + job.config.units.open_norms_bytes * norms
        }
    })
}

fn is_norm(tensor: &str) -> bool {
    tensor.ends_with(".norm.scale") || tensor.ends_with(".norm.shift")
}

pub(super) fn flat(values: &[f32]) -> Result<Tensor> {
    Ok(Tensor::from_slice(values, values.len(), &Device::Cpu)?)
}

fn is_open(mask: &Tensor) -> Result<Vec<bool>> {
    let gates: Vec<f32> = mask.to_vec1()?;
    Ok(gates.iter().map(|gate| *gate > 0.0).collect())
}

pub(super) fn mask(open: &[bool]) -> Result<Tensor> {
    let open = open.iter().map(|open| f32::from(u8::from(*open)));
    flat(&open.collect::<Vec<f32>>())
}
