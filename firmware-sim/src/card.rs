//! The same sweep for devices that keep their models in files: `swr models pull` and `remove` on a card that is cut in every operation, read by the runtime itself.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use swr_core::package::{Digest, PublicKey};
use swr_runtime::install::{self, Disk, RELEASE};
use swr_runtime::{ChangeError, Installed, Models, pull, remove};

use crate::cuts::{Course, Extent, Failure, Finding, Swept, cut_everywhere};
use crate::disk::Card;
use crate::publisher::{Flaw, Packages};
use crate::scenario::{Outcome, Scenario, Set, Step};

struct Bench<'a> {
    packages: &'a Packages,
    keys: [PublicKey; 1],
}

/// What a step came to: whether its last operation was acknowledged, or why it was refused.
type Sent = Result<(), String>;

impl Bench<'_> {
    /// Pulls a release that holds `put` and what is installed, once it is there, as `swr models pull` does.
    fn pull(
        &self,
        card: &mut Card,
        step: &Step,
        before: &Set,
        acknowledge: impl FnOnce(&mut Card),
    ) -> Result<Sent> {
        let fetch = |card: &mut Card, _: &Installed, ()| -> Result<(), String> {
            let mut release = before.clone();
            release.extend(step.put.iter().map(|item| (item.language, *item)));
            for item in release.values() {
                let package = self.packages.get(item);
                for (file, (name, bytes)) in package.entry.files.iter().zip(&package.files) {
                    if Digest::of_bytes(bytes) != file.sha256 {
                        return Err(format!("{name}: not what the index says"));
                    }
                    let written = card.write(&format!("{RELEASE}/{name}"), bytes);
                    written.map_err(|error| error.to_string())?;
                }
                if item.flaw == Flaw::Crashes {
                    return Err("the program is killed in its trial".into());
                }
            }
            Ok(())
        };
        match pull(card, &self.keys, |_| Ok(()), fetch, acknowledge) {
            Ok(()) => Ok(Ok(())),
            Err(ChangeError::Disk(error)) => Err(error.into()),
            Err(refused) => Ok(Err(refused.to_string())),
        }
    }

    /// Removes languages that are there, as `swr models remove` does.
    fn remove(&self, card: &mut Card, step: &Step) -> Result<Sent> {
        let there = Installed::find(card.to_folder()?.path())?.versions;
        // A cut may have come between two of them.
        for language in step.remove.iter().filter(|l| there.contains_key(**l)) {
            remove(card, language)?;
        }
        Ok(Ok(()))
    }

    /// Does a step, and tells by `acknowledge` when the device says that it is done.
    fn send(
        &self,
        card: &mut Card,
        step: &Step,
        before: &Set,
        acknowledge: impl FnOnce(&mut Card),
    ) -> Result<Sent> {
        match step.put.is_empty() {
            true => {
                let sent = self.remove(card, step)?;
                acknowledge(card);
                Ok(sent)
            }
            false => self.pull(card, step, before, acknowledge),
        }
    }

    /// What the runtime makes of the card.
    fn running(&self, card: &Card) -> Result<Vec<(String, u32, Digest)>> {
        let folder = card.to_folder()?;
        let models = Models::open_trusting(folder.path(), &self.keys)?;
        let manifest = models.manifest();
        let mut running = vec![(
            manifest.language.clone(),
            manifest.model_version,
            manifest.tensors_sha256,
        )];
        for language in &models.languages()?[1..] {
            models.load(language)?.engine(4)?;
            let delta = models.delta(language)?.delta;
            let version = delta.header().model_version;
            running.push((language.clone(), version, delta.merged_digest()));
        }
        Ok(running)
    }

    fn is_set(&self, running: &[(String, u32, Digest)], set: &Set) -> bool {
        running.len() == set.len()
            && running.iter().all(|(language, version, digest)| {
                set.get(language.as_str()).is_some_and(|item| {
                    item.version == *version && self.packages.get(item).tensors_sha256 == *digest
                })
            })
    }

    /// Whether the card has the models after the step; an error if it has neither those nor those before it.
    fn wake(
        &self,
        card: &Card,
        sets: &[Set],
        step: usize,
        acknowledged: bool,
    ) -> Result<bool, (Failure, String)> {
        let running = self
            .running(card)
            .map_err(|error| (Failure::Bricked, format!("{error:#}")))?;
        let new = self.is_set(&running, &sets[step + 1]);
        if new || (!acknowledged && self.is_set(&running, &sets[step])) {
            return Ok(new);
        }
        let failure = match self.is_set(&running, &sets[step]) {
            true => Failure::Lost,
            false => Failure::WrongModel,
        };
        let seen = running
            .iter()
            .map(|(l, version, _)| format!("{l} {version}"));
        Err((failure, seen.collect::<Vec<_>>().join(", ")))
    }

    /// Does a step again on a card that was cut in it: it must end as it would have.
    fn resume(
        &self,
        card: &mut Card,
        scenario: &Scenario,
        sets: &[Set],
        step: usize,
    ) -> Result<(), (Failure, String)> {
        let failed = |error: anyhow::Error| (Failure::Bricked, format!("{error:#}"));
        let sent = self
            .send(card, &scenario.steps[step], &sets[step], |_| ())
            .map_err(failed)?;
        judge(&sent, &scenario.steps[step])?;
        match self.wake(card, sets, step, sent.is_ok())? {
            true => Ok(()),
            false => Err((Failure::Bricked, "takes no update any more".into())),
        }
    }
}

/// A trial is part of the check before anything changes, so that what a device with flash would go back from is refused here.
fn judge(sent: &Sent, step: &Step) -> Result<(), (Failure, String)> {
    match (sent, step.outcome) {
        (Ok(()), Outcome::Refused(_) | Outcome::Reverted) => {
            Err((Failure::WrongModel, "took what it must refuse".into()))
        }
        (Err(refused), Outcome::Refused(why)) if !refused.contains(why) => Err((
            Failure::Bricked,
            format!("refused for another reason than `{why}`: {refused}"),
        )),
        (Err(refused), Outcome::Confirmed) => Err((
            Failure::Bricked,
            format!("refused a good release: {refused}"),
        )),
        _ => Ok(()),
    }
}

/// A step that puts and removes is two here.
fn in_files(scenario: &Scenario) -> Scenario {
    let mut steps = Vec::new();
    for step in &scenario.steps {
        let both = !step.put.is_empty() && !step.remove.is_empty();
        if both {
            steps.push(Step {
                remove: Vec::new(),
                ..step.clone()
            });
        }
        steps.push(Step {
            put: if both { Vec::new() } else { step.put.clone() },
            ..step.clone()
        });
    }
    Scenario {
        steps,
        ..scenario.clone()
    }
}

/// Sweeps a scenario on a card, which may be one that acknowledges syncs without doing them.
///
/// # Errors
/// If the real folders that the runtime reads cannot be made.
pub fn sweep(
    scenario: &Scenario,
    packages: &Packages,
    key: &PublicKey,
    extent: &Extent,
    lies: bool,
) -> Result<Swept> {
    let scenario = &in_files(scenario);
    let bench = Bench {
        packages,
        keys: [key.clone()],
    };
    let sets = scenario.sets();
    let mut card = Card::default();
    for item in &scenario.factory {
        for (name, bytes) in &packages.get(item).files {
            card.write(name, bytes)?;
            card.sync(name)?;
        }
    }
    card.sync_folder("")?;
    if lies {
        card.lie();
    }
    card.record();
    let mut course = Course::default();
    let mut swept = Swept::default();
    for (number, step) in scenario.steps.iter().enumerate() {
        let mut acknowledged = None;
        let sent = bench
            .send(&mut card, step, &sets[number], |card| {
                acknowledged = Some(card.recorded_so_far());
            })
            .with_context(|| scenario.name.to_owned())?;
        let ended = card.recorded_so_far();
        course.acknowledged.push(acknowledged.unwrap_or(ended));
        course.ended.push(ended);
        let seen = judge(&sent, step).and_then(|()| bench.wake(&card, &sets, number, sent.is_ok()));
        if let Err((failure, what)) = seen {
            swept.fail(Finding {
                failure,
                step: number,
                operation: card.recorded_so_far(),
                torn: 1,
                what: format!("without any cut: {what}"),
            });
            break;
        }
    }
    let snapshots = card.recorded();
    let operations = snapshots.iter().map(|(what, _)| what as _);
    let moments = course.moments(scenario, operations, extent.every, |outcome| {
        outcome == Outcome::Confirmed
    });
    let trials_run = AtomicUsize::new(0);
    let cut = cut_everywhere(
        &moments,
        extent,
        |moment, torn, seed| {
            let card = snapshots[moment.operation].1.torn(torn, seed);
            let digest = card.digest();
            (card, digest)
        },
        |mut card, moment| {
            let new = bench.wake(&card, &sets, moment.step, moment.acknowledged)?;
            let step = &scenario.steps[moment.step];
            let over = new && step.outcome == Outcome::Confirmed && step.put.is_empty();
            if over {
                // What was begun to be moved is moved to its end by whatever comes next.
                let failed = |error: std::io::Error| (Failure::Bricked, error.to_string());
                install::settle(&mut card).map_err(failed)?;
                bench.wake(&card, &sets, moment.step, true)?;
            } else {
                bench.resume(&mut card, scenario, &sets, moment.step)?;
                trials_run.fetch_add(1, Ordering::Relaxed);
            }
            Ok(new)
        },
    );
    swept = swept.and(cut);
    swept.trials_run = trials_run.into_inner();
    Ok(swept)
}
