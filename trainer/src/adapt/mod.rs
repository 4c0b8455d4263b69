//! Adding a language to a base: linear probe, a dense stage in which everything may change, a stage that selects what does, a stage that tunes the
//! chosen weights, and one that tunes them on the grids of the delta. Then the packed delta, which never exceeds its budget.
//!
//! All methods of [`crate::baselines`] take this way, with the same number of epochs; they differ in what they may train and how they select.
//! Where all norms always change, as under a budget on convolution weights, they standardise by the batch until the last stage. Where they are gated or
//! fixed, they are in the form that is stored from the beginning.

mod estimates;
mod fit;
mod frame;
mod plan;
mod probe;
mod select;
mod stage;
mod stages;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use swr_core::package::{
    Budget, Counts, Delta, DeltaHeader, Limit, Precision, Tensors, changed, merge,
};

pub use estimates::observe;
pub use frame::{CLASSIFIER, Fold, Frame};
use plan::Plan;
pub use stages::STAGES;

use crate::baselines::Method;
use crate::checkpoint::Run;
use crate::config::AdaptConfig;
use crate::examples::Language;
use crate::fused::NormStatistics;
use crate::network::{Network, Weights};
use crate::progress::Progress;
use crate::weights::from_package;

/// To be raised with every change to what training computes: results of other versions are not mixed, and what they made is made again.
pub const TRAINING_VERSION: u32 = 3;

/// A language to be added, and how.
#[derive(Clone, Copy)]
pub struct Adaptation<'a> {
    /// Stages, rates and settings.
    pub config: &'a AdaptConfig,
    /// What selects.
    pub method: Method,
    /// Frames over which the base's logits are averaged.
    pub window_frames: usize,
    /// The base's network.
    pub network: &'a dyn Network,
    /// The base's weights.
    pub base: &'a Tensors,
    /// Clips to learn from.
    pub language: &'a Language,
    /// How much may change.
    pub budget: &'a Budget,
    /// Everything that the delta says beside the weights and this budget.
    pub header: &'a DeltaHeader,
    /// Bytes of a budget in bytes that are kept free, for a header that will be longer than this one.
    pub kept_free: usize,
    /// Where the run stands. One that has ended packs again what it trained.
    pub run: &'a Run,
    /// Where a finished dense stage lies that this one would repeat.
    pub dense: Option<&'a Run>,
    /// Statistics of what enters the norms when the base hears its own language, for [`Method::HeadStatistics`].
    pub source: Option<&'a NormStatistics>,
    /// Changed weights of every tensor under SWR, for [`Method::RandomDensity`].
    pub density: Option<&'a BTreeMap<String, usize>>,
    /// Talk to people.
    pub progress: &'a Progress,
}

impl Adaptation<'_> {
    /// Everything that the delta says beside the weights.
    fn header(&self) -> DeltaHeader {
        DeltaHeader {
            budget: Some(self.budget.clone()),
            ..self.header.clone()
        }
    }
}

/// What adapting came to.
pub struct Adapted {
    /// The delta, on its grids, within its budget.
    pub delta: Delta,
    /// Weights that differ from the base's.
    pub changed: Counts,
    /// Deployed weights of base and delta merged, as the runtime computes with them.
    pub merged: Weights,
    /// What the budget allows, in its own unit.
    pub allowed: usize,
    /// What is used of it.
    pub used: usize,
}

/// What is wrong with a base that lacks a tensor.
fn no_tensor(name: &str) -> String {
    format!(
        "the base has no tensor `{name}`; it is of another network than its manifest says, train it anew"
    )
}

/// Bytes of a file in which nothing changes, and weights of its classifier.
fn empty_file(base: &Tensors, header: &DeltaHeader) -> Result<(usize, usize)> {
    let mut tensors = base.clone();
    let mut classifier = 0;
    for name in CLASSIFIER {
        let tensor = tensors.get_mut(name).with_context(|| no_tensor(name))?;
        tensor.shape[0] = header.labels.len();
        tensor.data = vec![0.0; tensor.shape.iter().product()];
        classifier += tensor.data.len();
    }
    let nothing = |_: &str| Precision::Multiples(1.0);
    let empty = Delta::build_by(base, &tensors, header.clone(), &nothing)?;
    Ok((empty.sizes().total(), classifier))
}

/// Refuses a budget that cannot be kept, with what would work; gives what it allows, in its own unit.
pub fn check_budget(base: &Tensors, header: &DeltaHeader, budget: &Budget) -> Result<usize> {
    let counts = Counts::of(base);
    let allowed = budget.allowed(&counts);
    let classes = header.labels.len();
    let width = base
        .get(CLASSIFIER[0])
        .map_or(0, |tensor| tensor.data.len() / tensor.rows().max(1));
    match budget.limit() {
        Limit::ConvolutionShare(share) => ensure!(
            share > 0 && allowed > 0,
            "--budget {budget}: allows no weight of {} to change; give at least {:.2}%",
            counts.convolution,
            100.0 / counts.convolution as f64 + 0.005
        ),
        Limit::AllShare(_) => {
            let head = classes * (width + 1);
            let least = ((head + 1) as f64 / counts.all() as f64 * 1000.0).ceil() / 10.0;
            ensure!(
                allowed > head,
                "--budget {budget}: allows {allowed} weights, but the classifier of {classes} labels has {head} already; give at least {least:.1}%all"
            );
        }
        Limit::FileBytes(_) => {
            let header = DeltaHeader {
                budget: Some(budget.clone()),
                ..header.clone()
            };
            let (empty, classifier) = empty_file(base, &header)?;
            // One bit a weight of the classifier is the least that tells labels apart.
            let least = empty + classifier / 8;
            ensure!(
                allowed >= least,
                "--budget {budget}: labels, digests and signature take {empty} bytes, and a classifier of {classes} labels at least {} more; give at least {least}B",
                least - empty
            );
        }
    }
    Ok(allowed)
}

/// Adds a language to a base, from where the run stands.
///
/// # Errors
/// For a budget that cannot be kept, a loss that is not finite, and files that cannot be written.
pub fn adapt(job: &Adaptation) -> Result<Adapted> {
    let allowed = check_budget(job.base, job.header, job.budget)?;
    let plan = Plan::new(job, allowed - kept_free(job, allowed)?)?;
    plan.check_units()?;

    let mut trained = plan.dense()?;
    let chosen = plan.select(&mut trained)?;
    let chosen = plan.tune(&mut trained, chosen)?;
    let delta = plan.quantise(trained, &chosen)?;

    let merged = merge(job.base, &Delta::read(&delta.write())?)?;
    let counts = changed(job.base, &merged)?;
    let used = job.budget.used(&counts, delta.sizes().total());
    if used > allowed && (plan.recipe.is_budgeted() || plan.by_bytes()) {
        bail!("the delta uses {used} of a budget of {allowed}: nothing was written");
    }
    Ok(Adapted {
        delta,
        changed: counts,
        merged: from_package(&merged)?,
        allowed,
        used,
    })
}

/// Bytes of the budget that are kept free for thresholds.
fn kept_free(job: &Adaptation, allowed: usize) -> Result<usize> {
    let kept_free = match job.budget.limit() {
        Limit::FileBytes(_) => job.kept_free,
        Limit::ConvolutionShare(_) | Limit::AllShare(_) => 0,
    };
    ensure!(
        kept_free < allowed / 2,
        "{kept_free} bytes are to be kept free for thresholds: expected less than half of the budget, {}",
        job.budget
    );
    Ok(kept_free)
}

/// Whether norms standardise by the batch in the dense stage, or are in the form that is stored: dense stages that differ in it cannot be shared.
///
/// # Errors
/// If the base lacks a tensor of the network.
pub fn batch_norms(job: &Adaptation) -> Result<bool> {
    Ok(Plan::new(job, 0)?.batch_norms)
}

/// Runs the dense stage alone, which methods that begin alike share.
///
/// # Errors
/// Those of [`adapt`].
pub fn dense_stage(job: &Adaptation) -> Result<()> {
    Plan::new(job, 0)?.dense().map(|_| ())
}
