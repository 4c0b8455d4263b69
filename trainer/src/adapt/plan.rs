//! What follows from an adaptation's method and budget: which weights may change, which share a gate, what the budget leaves for them.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use swr_core::package::{Counts, DeltaHeader, Group, Limit};

use super::fit::Packer;
use super::{Adaptation, Fold, Frame, empty_file};
use crate::baselines::{Recipe, Start};
use crate::examples::Examples;
use crate::learner::Learner;
use crate::reparam::policy::Form;
use crate::reparam::{Level, Units};

/// The variable that every method trains: the difference of every weight.
pub(super) const DELTA: &str = "delta";

/// One adaptation, and what follows from its method and budget.
pub(super) struct Plan<'a> {
    pub(super) job: &'a Adaptation<'a>,
    pub(super) recipe: Recipe,
    /// What a unit whose gate is open becomes.
    pub(super) form: Form,
    pub(super) frame: Frame,
    /// Everything that the delta says beside the weights, its budget too.
    pub(super) header: DeltaHeader,
    /// What the budget allows, in its own unit, without what is kept free for thresholds.
    pub(super) allowed: usize,
    pub(super) limit: Limit,
    pub(super) units: Units,
    /// Whether norms standardise by the batch until the last stage. They do where all of them always change; where they are gated or fixed, or a file is
    /// too small for all of them, a weight that does not change must mean what it means in the base. Weights that nobody trained yet have no statistics
    /// that would hold.
    pub(super) batch_norms: bool,
    /// Clips that estimates are made from.
    pub(super) sample: Examples,
}

impl<'a> Plan<'a> {
    /// The plan of a job whose budget allows so much.
    pub(super) fn new(job: &'a Adaptation<'a>, allowed: usize) -> Result<Self> {
        let recipe = job.method.recipe();
        let frame = Frame::new(job.network, job.base, job.header.labels.len())?;
        let header = job.header();
        let limit = job.budget.limit();

        let always_norms = always_norms(job, &header)?;
        let tensors = job.network.tensors(frame.classes);
        let groups = recipe.groups(
            &tensors,
            limit,
            job.config.units,
            always_norms,
            job.config.policy.by_block,
        );
        let units = Units::new(&frame.layout, &groups, |_| 1.0)?;

        let open = units.mask(&vec![false; units.len()]);
        let norms = frame.layout.by_tensor(is_norm);
        let all_norms = open.iter().zip(norms).all(|(open, norm)| *open || !norm);
        let batch_norms = match recipe.start {
            Start::Random => true,
            Start::Base => always_norms && (all_norms || recipe.statistics_alone),
        };
        Ok(Self {
            form: recipe.form(&job.config.policy),
            sample: job.language.a_sample(job.config.seed),
            job,
            recipe,
            frame,
            header,
            allowed,
            limit,
            units,
            batch_norms,
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
            open < self.allowed || !self.recipe.is_budgeted(),
            "{open} weights change whatever is chosen, and the budget allows {}: give a larger one, or let [units] gate more",
            self.allowed
        );
        Ok(())
    }

    /// What the units may cost together.
    pub(super) fn unit_budget(
        &self,
        learner: &Learner,
        start: &Tensor,
        scores: &[f32],
    ) -> Result<f64> {
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
                let levels = self.job.config.grids.levels;
                let (open, _) = packer.open(&self.units, scores, self.allowed, levels)?;
                let costs = open.iter().zip(self.units.costs());
                let open = costs.filter(|(open, _)| **open);
                open.map(|(_, cost)| cost).sum()
            }
        })
    }

    /// Which weights the method may train at all, as gates.
    pub(super) fn trainable(&self) -> Result<Tensor> {
        let tensors = self.job.network.tensors(self.frame.classes);
        let trained = self.recipe.trained(&tensors);
        mask(&self.frame.layout.by_tensor(|name| trained.contains(name)))
    }

    /// Weights that may differ from the base's in the file: those that are trained, and norms where their statistics are new.
    pub(super) fn stored(&self, chosen: &Tensor) -> Result<Vec<bool>> {
        let mut open = is_open(chosen)?;
        if self.recipe.statistics_alone {
            let norms = self.frame.layout.by_tensor(is_norm);
            open.iter_mut()
                .zip(norms)
                .for_each(|(open, norm)| *open |= norm);
        }
        Ok(open)
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

    pub(super) fn packer<'b>(
        &'b self,
        fold: &'b Fold,
        standard: &'b [f32],
        curvature: &'b [f32],
    ) -> Packer<'b> {
        Packer {
            frame: &self.frame,
            base: self.job.base,
            header: &self.header,
            fold,
            standard,
            curvature,
        }
    }

    pub(super) fn by_bytes(&self) -> bool {
        matches!(self.limit, Limit::FileBytes(_))
    }
}

/// Whether norms change whatever is chosen.
fn always_norms(job: &Adaptation, header: &DeltaHeader) -> Result<bool> {
    Ok(match job.budget.limit() {
        Limit::ConvolutionShare(_) => true,
        Limit::AllShare(_) => job.config.units.norms == Level::Open,
        Limit::FileBytes(bytes) => {
            let (empty, classifier) = empty_file(job.base, header)?;
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

pub(super) fn is_open(mask: &Tensor) -> Result<Vec<bool>> {
    let gates: Vec<f32> = mask.to_vec1()?;
    Ok(gates.iter().map(|gate| *gate > 0.0).collect())
}

pub(super) fn mask(open: &[bool]) -> Result<Tensor> {
    let open = open.iter().map(|open| f32::from(u8::from(*open)));
    flat(&open.collect::<Vec<f32>>())
}
