//! The part of a sweep that flashes and cards have in common: every operation, every state that a cut in it may leave, and what a device makes of it.

use std::collections::HashMap;
use std::sync::Mutex;

use rayon::prelude::*;
use serde::Serialize;

use crate::flash::TORN_STATES;
use crate::scenario::{Outcome, Scenario};

/// Which operations are cut, and how.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Every so many-th operation.
    pub every: usize,
    /// In-between states of each, up to [`TORN_STATES`].
    pub torn_states: u32,
    /// Draws the bits of those states.
    pub seed: u64,
}

/// How a device failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// It runs no models, or takes no update any more.
    Bricked,
    /// An update that was acknowledged is gone.
    Lost,
    /// It runs models that are neither those before nor those after: older, unsigned, of another base, untried.
    WrongModel,
}

/// A cut that broke a device.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What failed.
    pub failure: Failure,
    /// Step of the scenario, from 0.
    pub step: usize,
    /// Operation that was cut, counted from the start of the scenario.
    pub operation: usize,
    /// Which in-between state it left.
    pub torn: u32,
    /// What was seen.
    pub what: String,
}

/// What a sweep saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Swept {
    /// Operations cut.
    pub cuts: usize,
    /// Flashes that the cuts left, of which a device woke up.
    pub torn: usize,
    /// Of them, different ones in different places, which were really started.
    pub recoveries_run: usize,
    /// Different flashes that cuts in the operations of those starts left, started as well.
    pub cut_again: usize,
    /// Golden clips run in trials.
    pub trials_run: usize,
    /// Devices that ran no models, or took no update.
    pub bricked: usize,
    /// Acknowledged updates that were gone.
    pub lost: usize,
    /// Devices that ran what they must not.
    pub wrong_model: usize,
    /// Of devices after a cut, those that woke up with the models before the step.
    pub woke_old: usize,
    /// Of devices after a cut, those that woke up with the models after the step.
    pub woke_new: usize,
    /// What came of every cut, in the order of operations.
    #[serde(skip)]
    pub columns: Vec<Column>,
    /// The first failures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

impl Swept {
    /// Whether nothing failed.
    pub fn is_clean(&self) -> bool {
        self.bricked + self.lost + self.wrong_model == 0
    }

    /// Both together.
    pub fn and(mut self, other: Self) -> Self {
        self.cuts += other.cuts;
        self.torn += other.torn;
        self.recoveries_run += other.recoveries_run;
        self.cut_again += other.cut_again;
        self.trials_run += other.trials_run;
        self.bricked += other.bricked;
        self.lost += other.lost;
        self.wrong_model += other.wrong_model;
        self.woke_old += other.woke_old;
        self.woke_new += other.woke_new;
        self.columns.extend(other.columns);
        self.findings.extend(other.findings);
        self
    }
}

/// An operation that is cut.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    /// Counted from the start of the scenario.
    pub(crate) operation: usize,
    /// The scenario's step that it is part of.
    pub(crate) step: usize,
    /// Whether that step was acknowledged before.
    pub(crate) acknowledged: bool,
    /// The operation, for people.
    pub(crate) what: String,
}

/// Where a scenario's steps end, in operations from its start, if nothing is cut. A course that went wrong has fewer steps than its scenario.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// For each step, the operations before its acknowledgement, or refusal.
    pub(crate) acknowledged: Vec<usize>,
    /// For each step, the operations before its end.
    pub(crate) ended: Vec<usize>,
}

impl Course {
    /// Every so many-th operation, of which each is named, as a moment to cut the power in; `promises` tells of what outcome a step's acknowledgement is a promise.
    /// What was under way when a course went wrong belongs to no step.
    pub(crate) fn moments<'a>(
        &self,
        scenario: &Scenario,
        operations: impl Iterator<Item = &'a dyn std::fmt::Display>,
        every: usize,
        promises: impl Fn(Outcome) -> bool,
    ) -> Vec<Moment> {
        let operations = operations.enumerate().step_by(every);
        let moments = operations.filter_map(|(operation, what)| {
            let step = self.ended.partition_point(|end| *end <= operation);
            let acknowledged = operation >= *self.acknowledged.get(step)?;
            self.ended.get(step)?;
            Some(Moment {
                operation,
                step,
                acknowledged: acknowledged && promises(scenario.steps[step].outcome),
                what: what.to_string(),
            })
        });
        moments.collect()
    }
}

/// What came of the cuts in one operation.
#[derive(Clone, Debug)]
pub struct Column {
    /// The operation, counted from the start of the scenario.
    pub operation: usize,
    /// What it was.
    pub what: String,
    /// The step that it was part of.
    pub step: usize,
    /// Whether that step was acknowledged before.
    pub acknowledged: bool,
    /// For each in-between state, whether the device woke up with the models after the step; none if it broke.
    pub woke_new: Vec<Option<bool>>,
}

/// Whether a device came to the models after the step, or how it broke.
pub(crate) type Seen = Result<bool, (Failure, String)>;
/// What it began with (the digest of all that it can read), in which step, and whether that was acknowledged.
type Beginning = ([u8; 32], usize, bool);

/// What devices came to, so that equal ones are started once.
#[derive(Debug, Default)]
pub(crate) struct Memory(Mutex<HashMap<Beginning, Seen>>);

impl Memory {
    /// What is known, or else what `see` gives.
    pub(crate) fn recall(&self, beginning: Beginning, see: impl FnOnce() -> Seen) -> Seen {
        let known = self.locked().get(&beginning).cloned();
        known.unwrap_or_else(|| {
            let seen = see();
            self.locked().insert(beginning, seen.clone());
            seen
        })
    }

    /// Different beginnings that are known.
    pub(crate) fn len(&self) -> usize {
        self.locked().len()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<Beginning, Seen>> {
        self.0.lock().expect("no panic while it is locked")
    }
}

/// Cuts every operation of `moments`: `leave` gives what a state of it leaves, and its digest; `wake` starts a device on that.
pub(crate) fn cut_everywhere<D>(
    moments: &[Moment],
    extent: &Extent,
    leave: impl Fn(&Moment, u32, u64) -> (D, [u8; 32]) + Sync,
    wake: impl Fn(D, &Moment) -> Seen + Sync,
) -> Swept {
    let memory = Memory::default();
    let each = moments.par_iter().map(|moment| {
        let mut swept = Swept {
            cuts: 1,
            ..Swept::default()
        };
        let mut woke_new = Vec::new();
        for torn in 0..extent.torn_states.min(TORN_STATES) {
            let seed = extent.seed.wrapping_mul(1_000_003) ^ moment.operation as u64;
            let (device, digest) = leave(moment, torn, seed);
            swept.torn += 1;
            let beginning = (digest, moment.step, moment.acknowledged);
            let seen = memory.recall(beginning, || wake(device, moment));
            woke_new.push(seen.as_ref().ok().copied());
            match seen {
                Ok(true) => swept.woke_new += 1,
                Ok(false) => swept.woke_old += 1,
                Err((failure, what)) => swept.fail(Finding {
                    failure,
                    step: moment.step,
                    operation: moment.operation,
                    torn,
                    what,
                }),
            }
        }
        swept.columns.push(Column {
            operation: moment.operation,
            what: moment.what.clone(),
            step: moment.step,
            acknowledged: moment.acknowledged,
            woke_new,
        });
        swept
    });
    let mut swept = each.reduce(Swept::default, Swept::and);
    // Two threads may have started equal devices at the same time.
    swept.recoveries_run = memory.len();
    swept.columns.sort_by_key(|column| column.operation);
    swept
        .findings
        .sort_by_key(|finding| (finding.operation, finding.torn));
    swept.findings.truncate(MAX_FINDINGS);
    swept
}

/// So many failures are told one by one.
const MAX_FINDINGS: usize = 20;

impl Swept {
    pub(crate) fn fail(&mut self, finding: Finding) {
        match finding.failure {
            Failure::Bricked => self.bricked += 1,
            Failure::Lost => self.lost += 1,
            Failure::WrongModel => self.wrong_model += 1,
        }
        self.findings.push(finding);
    }
}
