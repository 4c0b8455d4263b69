//! Cuts the power in every operation of a scenario, leaves every in-between state, and looks at what the device makes of it.
//!
//! The scenario runs once without a cut, with a snapshot before every operation. Each snapshot with each torn state is a flash on which a device wakes up: it must
//! run the models before the step or after it, after it if the step was acknowledged; nothing else ever; and the step, taken up again, must end as it would have.
//! Equal flashes in equal places are woken once.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use embedded_storage::nor_flash::NorFlash;
use swr_core::package::{Digest, PublicKey};
use swr_update::{Device, MAX_TRIES, Model, Sabotage, Started, UpdateError};

use crate::cuts::{Course, Extent, Failure, Finding, Memory, Moment, Seen, Swept, cut_everywhere};
use crate::flash::{Cut, Nor, Power, Snapshot, TORN_STATES};
use crate::publisher::{Item, Packages};
use crate::scenario::{Outcome, Scenario, Set, Step};

/// Bytes that arrive together.
const CHUNK_BYTES: usize = 1_000;

/// The models of a device after a start.
struct Running {
    models: Vec<Model>,
    /// Languages whose files do not hold any more.
    damaged: Vec<UpdateError>,
    refused: Option<String>,
}

/// A device of the simulator: the update code on a flash, with the packages of a scenario to be sent.
struct Bench<'a> {
    packages: &'a Packages,
    keys: [PublicKey; 1],
    crashing: Vec<Digest>,
    sabotage: Option<Sabotage>,
    trials_run: AtomicUsize,
}

type Flash<const W: usize, const E: usize> = Nor<W, E>;

impl Bench<'_> {
    fn open<'f, const W: usize, const E: usize>(
        &self,
        flash: &'f mut Flash<W, E>,
    ) -> Result<Device<&'f mut Flash<W, E>>, UpdateError> {
        Device::open_sabotaged(flash, &self.keys, self.sabotage)
    }

    /// The trial as a device does it; a model that crashes takes the power with it.
    fn trial(&self, power: &Power, model: &Model) -> Result<(), UpdateError> {
        if self.crashing.contains(&model.language.tensors_sha256) {
            power.off();
        }
        self.trials_run.fetch_add(1, Ordering::Relaxed);
        let checked = model.golden.check(&model.network, &model.language.labels);
        checked.map(|_| ()).map_err(|source| UpdateError::Package {
            language: model.language.code.clone(),
            source: Box::new(source),
        })
    }

    /// What a device loads after its start.
    fn running<F: NorFlash>(
        device: &mut Device<F>,
        started: Started,
    ) -> Result<Running, UpdateError> {
        let languages: Vec<String> = device.installed().map(|(l, _)| l.to_owned()).collect();
        let (mut models, mut damaged) = (Vec::new(), Vec::new());
        for (number, language) in languages.iter().enumerate() {
            match device.load(language) {
                Ok(model) => models.push(model),
                // Without a base nothing runs.
                Err(error) if number == 0 => return Err(error),
                Err(error) => damaged.push(error),
            }
        }
        Ok(Running {
            models,
            damaged,
            refused: started.refused,
        })
    }

    /// Switches the device on, again after each crash; what it runs then.
    fn start<const W: usize, const E: usize>(
        &self,
        flash: &mut Flash<W, E>,
    ) -> Result<Running, UpdateError> {
        let mut last = UpdateError::NotProvisioned;
        // One start more than the trials of a model that never ends, and one for the record's repair.
        for _ in 0..MAX_TRIES + 2 {
            flash.power_on();
            let power = flash.power();
            let started = self.open(flash).and_then(|mut device| {
                let started = device.start_with(|model| self.trial(&power, model))?;
                Self::running(&mut device, started)
            });
            match started {
                Ok(started) => return Ok(started),
                Err(error) => last = error,
            }
            if power.is_on() {
                break;
            }
        }
        Err(last)
    }

    /// Sends a step's packages and commits them. An error is the device's refusal.
    fn send<const W: usize, const E: usize>(
        &self,
        flash: &mut Flash<W, E>,
        step: &Step,
    ) -> Result<(), UpdateError> {
        let mut device = self.open(flash)?;
        for item in &step.put {
            let package = self.packages.get(item);
            let from = device.stage(&package.entry)?;
            for chunk in package.bytes[from as usize..].chunks(CHUNK_BYTES) {
                device.write(chunk)?;
            }
            device.finish()?;
        }
        device.commit(&step.remove)
    }

    /// Whether the models are exactly those of a set.
    fn is_set(&self, started: &Running, set: &Set) -> bool {
        started.damaged.is_empty()
            && started.models.len() == set.len()
            && started.models.iter().all(|model| {
                set.get(model.language.code.as_str())
                    .is_some_and(|item| self.runs(model, item))
            })
    }

    fn runs(&self, model: &Model, item: &Item<'static>) -> bool {
        let digest = self.packages.get(item).tensors_sha256;
        digest == model.language.tensors_sha256 && model.language.model_version == item.version
    }
}

/// A scenario run without a cut.
struct Uncut<const W: usize, const E: usize> {
    snapshots: Vec<Snapshot<W, E>>,
    course: Course,
    /// What went wrong without any cut.
    finding: Option<Finding>,
}

impl Bench<'_> {
    /// Runs the scenario and keeps a snapshot before every operation of its steps.
    fn uncut<const W: usize, const E: usize>(
        &self,
        scenario: &Scenario,
        part: &Part,
    ) -> Result<Uncut<W, E>> {
        let mut flash = self.factory::<W, E>(scenario, part)?;
        flash.record();
        let start = flash.operations();
        let done = |flash: &Flash<W, E>| (flash.operations() - start) as usize;
        let sets = scenario.sets();
        let mut course = Course::default();
        let mut finding = None;
        for (number, step) in scenario.steps.iter().enumerate() {
            let sent = self.send(&mut flash, step);
            course.acknowledged.push(done(&flash));
            let seen = self
                .judge(&sent, step)
                .and_then(|()| self.wake(&mut flash, &sets, number, sent.is_ok()))
                .and_then(|woke| match woke.new {
                    true => Ok(()),
                    false => Err((Failure::Lost, woke.what)),
                });
            course.ended.push(done(&flash));
            if let Err((failure, what)) = seen {
                finding = Some(Finding {
                    failure,
                    step: number,
                    operation: done(&flash),
                    torn: 1,
                    what: format!("without any cut: {what}"),
                });
                break;
            }
        }
        Ok(Uncut {
            snapshots: flash.recorded(),
            course,
            finding,
        })
    }

    /// A flash as it leaves the factory.
    fn factory<const W: usize, const E: usize>(
        &self,
        scenario: &Scenario,
        part: &Part,
    ) -> Result<Flash<W, E>> {
        let mut flash = Nor::<W, E>::new(part.sectors, part.ecc);
        let packages = scenario.factory.iter().map(|item| self.packages.get(item));
        let release: Vec<_> = packages
            .map(|p| (p.entry.clone(), p.bytes.clone()))
            .collect();
        Device::provision(&mut flash, &self.keys, &release)
            .with_context(|| format!("{}: the factory's release", scenario.name))?;
        Ok(flash)
    }

    /// Whether a device answered a step's packages as it must.
    fn judge(&self, sent: &Result<(), UpdateError>, step: &Step) -> Result<(), (Failure, String)> {
        match (sent, step.outcome) {
            (Ok(()), Outcome::Refused(_)) => Err((
                Failure::WrongModel,
                "acknowledged what it must refuse".into(),
            )),
            (Err(error), Outcome::Refused(why)) if !error.to_string().contains(why) => Err((
                Failure::Bricked,
                format!("refused for another reason than `{why}`: {error}"),
            )),
            (Err(error), Outcome::Confirmed | Outcome::Reverted) => {
                Err((Failure::Bricked, format!("refused a good update: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Switches the device on in step `number`; what it runs must be the models before the step or after it.
    fn wake<const W: usize, const E: usize>(
        &self,
        flash: &mut Flash<W, E>,
        sets: &[Set],
        number: usize,
        acknowledged: bool,
    ) -> Result<Woke, (Failure, String)> {
        let started = self
            .start(flash)
            .map_err(|error| (Failure::Bricked, error.to_string()))?;
        let [before, after] = [&sets[number], &sets[number + 1]];
        let what = described(&started);
        let (old, new) = (self.is_set(&started, before), self.is_set(&started, after));
        if new || (old && !acknowledged) {
            return Ok(Woke { new, what });
        }
        let known = |model: &Model| {
            [before, after].into_iter().any(|set| {
                set.get(model.language.code.as_str())
                    .is_some_and(|item| self.runs(model, item))
            })
        };
        // What is missing was confirmed, or acknowledged; what is not known was neither.
        let failure = match started.models.iter().all(known) {
            true => Failure::Lost,
            false => Failure::WrongModel,
        };
        Err((failure, what))
    }

    /// Cuts the power once more, in every operation of the start on what a cut has left, each in one in-between state; `recover` is given what is left then.
    fn cut_again<const W: usize, const E: usize>(
        &self,
        left: &Flash<W, E>,
        recover: impl Fn(Flash<W, E>) -> Seen,
    ) -> Result<(), (Failure, String)> {
        let digest = left.digest();
        for number in 0.. {
            let mut flash = left.clone();
            flash.power_on();
            let operation = flash.operations() + number;
            flash.cut_at(Some(Cut {
                operation,
                torn: (u32::from(digest[0]) + number as u32) % TORN_STATES,
                seed: u64::from(digest[1]),
            }));
            let power = flash.power();
            // Whatever it comes to, the next start shows what is left.
            let _ = self
                .open(&mut flash)
                .and_then(|mut device| device.start_with(|model| self.trial(&power, model)));
            if flash.operations() <= operation {
                return Ok(());
            }
            recover(flash).map_err(|(failure, what)| {
                let again = format!("cut again, in operation {number} of the start: {what}");
                (failure, again)
            })?;
        }
        unreachable!("a start has an end")
    }

    /// Switches the device on after a cut, and takes the step up again; whether it woke up with the models after the step.
    fn recover<const W: usize, const E: usize>(
        &self,
        flash: &mut Flash<W, E>,
        scenario: &Scenario,
        sets: &[Set],
        moment: &Moment,
        resumed: &Memory,
    ) -> Seen {
        let woke = self.wake(flash, sets, moment.step, moment.acknowledged)?;
        // What was confirmed can be sent again; what was only removed is not there any more.
        let step = &scenario.steps[moment.step];
        let repeatable = !step.put.is_empty() && step.remove.is_empty();
        let over = woke.new && step.outcome == Outcome::Confirmed && !repeatable;
        if !over {
            let key = (flash.digest(), moment.step, moment.acknowledged);
            resumed.recall(key, || {
                let ended = self.resume(flash, scenario, sets, moment.step);
                ended.map(|()| true)
            })?;
        }
        Ok(woke.new)
    }

    /// Takes a step up again after a cut: it must end as it would have without.
    fn resume<const W: usize, const E: usize>(
        &self,
        flash: &mut Flash<W, E>,
        scenario: &Scenario,
        sets: &[Set],
        number: usize,
    ) -> Result<(), (Failure, String)> {
        let step = &scenario.steps[number];
        let sent = self.send(flash, step);
        self.judge(&sent, step)?;
        let woke = self.wake(flash, sets, number, sent.is_ok())?;
        match woke.new {
            true => Ok(()),
            false => Err((Failure::Bricked, format!("stays at {}", woke.what))),
        }
    }
}

/// What a device runs.
struct Woke {
    /// Whether these are the models after the step.
    new: bool,
    what: String,
}

fn described(started: &Running) -> String {
    let models = started.models.iter();
    let models =
        models.map(|model| format!("{} {}", model.language.code, model.language.model_version));
    let damaged = started.damaged.iter().map(|error| format!("({error})"));
    let refused = started
        .refused
        .iter()
        .map(|why| format!("(refused: {why})"));
    let all = models.chain(damaged).chain(refused);
    all.collect::<Vec<_>>().join(", ")
}

/// A flash part.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Number of sectors.
    pub sectors: usize,
    /// Whether each word has ECC: programmed once, unreadable when torn.
    pub ecc: bool,
}

/// Sweeps a scenario on a part with words of `W` bytes and sectors of `E`.
///
/// # Errors
/// If the scenario's packages do not fit in the part.
pub fn sweep<const W: usize, const E: usize>(
    scenario: &Scenario,
    packages: &Packages,
    key: &PublicKey,
    part: &Part,
    extent: &Extent,
    sabotage: Option<Sabotage>,
) -> Result<Swept> {
    let bench = Bench {
        packages,
        keys: [key.clone()],
        crashing: packages.crashing(),
        sabotage,
        trials_run: AtomicUsize::new(0),
    };
    let uncut = bench.uncut::<W, E>(scenario, part)?;
    let sets = scenario.sets();
    let operations = uncut.snapshots.iter().map(|s| &s.operation as _);
    let moments = uncut
        .course
        .moments(scenario, operations, extent.every, |outcome| {
            !matches!(outcome, Outcome::Refused(_))
        });
    let (resumed, again) = (Memory::default(), Memory::default());
    let mut swept = cut_everywhere(
        &moments,
        extent,
        |moment, torn, seed| {
            let flash = Nor::torn(&uncut.snapshots[moment.operation], torn, seed);
            let digest = flash.digest();
            (flash, digest)
        },
        |mut flash, moment| {
            let recovered =
                |flash: &mut Flash<W, E>| bench.recover(flash, scenario, &sets, moment, &resumed);
            bench.cut_again(&flash, |mut left| {
                let key = (left.digest(), moment.step, moment.acknowledged);
                again.recall(key, || recovered(&mut left))
            })?;
            recovered(&mut flash)
        },
    );
    if let Some(finding) = uncut.finding {
        swept.fail(finding);
    }
    swept.cut_again = again.len();
    swept.trials_run = bench.trials_run.into_inner();
    Ok(swept)
}
