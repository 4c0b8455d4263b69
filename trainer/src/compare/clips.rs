//! The clips that cells are trained and judged on: of a language or of all, whole or of a fold of speakers.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use swr_dataset::{Faults, Task};

use super::place::Place;
use super::row::{Cell, ClipRecord};
use crate::adapt::{Frame, observe};
use crate::examples::{Examples, Language};
use crate::fused::NormStatistics;
use crate::models::{Base, Pipeline};
use crate::network::Network;

/// Clips of a language, read once for all cells that need them.
#[derive(Default)]
pub struct Clips {
    read: Option<(String, Language)>,
    judged: Option<(String, Examples)>,
    /// By the base's width.
    source: BTreeMap<String, NormStatistics>,
}

impl Clips {
    /// Training clips of a cell for a base of this pipeline: its language's, or those of all languages together.
    pub(super) fn training(
        &mut self,
        cell: &Cell,
        pipeline: &Pipeline,
        place: &Place,
    ) -> Result<&Language> {
        let languages = match cell.is_for_all() {
            true => place.together,
            false => std::slice::from_ref(&cell.language),
        };
        let few = cell.clips_per_word.map(|clips| (clips, cell.seed));
        let frontend = pipeline.frontend;
        let key = format!("{languages:?} {} {few:?} {frontend:?}", cell.split);
        if self.read.as_ref().is_none_or(|(found, _)| *found != key) {
            self.read = None;
            let tasks = languages.iter().map(|language| {
                let mut task = part(&place.task(language)?, &cell.split)?;
                if let Some((clips, seed)) = few {
                    task = task.few(clips, seed);
                }
                check_part(&task, &cell.split)?;
                Ok(task)
            });
            let mut tasks = tasks.collect::<Result<Vec<Task>>>()?;
            let task = if cell.is_for_all() {
                Task::union(&tasks)
            } else {
                tasks.remove(0)
            };
            let language = Language::of(task, frontend, place.config.unknown_pool, place.progress)?;
            let faults = &language.task.report.faults;
            ensure!(faults.unread.is_empty(), "{faults}");
            self.read = Some((key, language));
        }
        let (_, language) = self.read.as_ref().context("clips that were read")?;
        Ok(language)
    }

    /// The clips that a cell is judged on, decoded, and what they are.
    pub(super) fn judged(
        &mut self,
        cell: &Cell,
        pipeline: &Pipeline,
        place: &Place,
    ) -> Result<(&Examples, ClipRecord)> {
        let task = part(&place.task(&cell.language)?, &cell.split)?;
        let clips = if cell.split == "test" {
            &task.test
        } else {
            &task.dev
        };
        let frontend = pipeline.frontend;
        let key = format!("{} {} {frontend:?}", cell.language, cell.split);
        if self.judged.as_ref().is_none_or(|(found, _)| *found != key) {
            let (mut all, mut faults) = (clips.clone(), Faults::default());
            let what = "decoding clips to judge on";
            let examples = Examples::load(&mut all, frontend, &mut faults, place.progress, what);
            // What is compared is compared on the same clips.
            ensure!(faults.unread.is_empty(), "{faults}");
            self.judged = Some((key, examples));
        }
        let record = ClipRecord {
            language: cell.language.clone(),
            clips_of: cell.split.clone(),
            truth: clips.iter().map(|clip| clip.label as u32).collect(),
            speakers: clips.iter().map(|clip| clip.speaker.clone()).collect(),
            synthetic: clips
                .iter()
                .any(|clip| clip.synthetic && clip.label < task.unknown_label()),
            labels: task.labels,
        };
        let (_, examples) = self.judged.as_ref().context("clips that were decoded")?;
        Ok((examples, record))
    }

    /// What enters the norms when the base hears its own language.
    pub(super) fn source(
        &mut self,
        tau: &str,
        base: &Base,
        network: &dyn Network,
        place: &Place,
    ) -> Result<NormStatistics> {
        if !self.source.contains_key(tau) {
            let task = Task {
                dev: Vec::new(),
                ..place.task(&base.manifest().language)?
            };
            let language = Language::of(task, base.manifest().frontend, 1, place.progress)?;
            let frame = Frame::new(network, base.tensors(), base.manifest().labels.len())?;
            let sample = language.a_sample(place.config.seed);
            let found = observe(network, &frame.base, &sample, place.config.dense.batch)?;
            self.source.insert(tau.to_string(), found);
        }
        Ok(self.source[tau].clone())
    }
}

/// Refuses a task in which some keyword has nothing to train on, or none has anything to judge on.
fn check_part(task: &Task, split: &str) -> Result<()> {
    let keywords = task.unknown_label();
    let trained: BTreeSet<usize> = task.train.iter().map(|clip| clip.label).collect();
    if let Some(word) = (0..keywords).find(|label| !trained.contains(label)) {
        bail!(
            "`{}`, {split}: no TRAIN clips of \"{}\" are left; give other --folds, or recordings of more speakers",
            task.language,
            task.labels[word]
        );
    }
    let judged = if split == "test" {
        &task.test
    } else {
        &task.dev
    };
    ensure!(
        judged.iter().any(|clip| clip.label < keywords),
        "`{}`, {split}: no clips of its keywords to judge on; add recordings of other speakers, about one in ten goes to TEST",
        task.language
    );
    Ok(())
}

/// The task of a split: whole for `test`, else a fold.
pub fn part(task: &Task, split: &str) -> Result<Task> {
    if split == "test" {
        return Ok(task.clone());
    }
    let clips = task.train.iter().chain(&task.dev);
    let spoken = clips.filter(|clip| clip.label < task.unknown_label());
    let speakers: BTreeSet<&str> = spoken.map(|clip| clip.speaker.as_str()).collect();
    let fold = split
        .strip_prefix("fold ")
        .and_then(|fold| fold.split_once('/'));
    let fold = fold.and_then(|(index, folds)| {
        Some((index.parse::<usize>().ok()?, folds.parse::<usize>().ok()?))
    });
    match fold {
        Some((index, folds)) if (1..=folds).contains(&index) => {
            ensure!(
                folds <= speakers.len(),
                "`{}`: {folds} folds of {} speakers of keywords in TRAIN and DEV; give fewer --folds, or recordings of more speakers",
                task.language,
                speakers.len()
            );
            Ok(task.speaker_fold(index - 1, folds))
        }
        _ => bail!("split \"{split}\": expected test or a fold such as \"fold 1/4\""),
    }
}
