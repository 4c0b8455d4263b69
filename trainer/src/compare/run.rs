//! Runs cells: the clips, the shared dense stage, the adaptation, the row.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use swr_core::package::{DeltaHeader, Digest, Group, Limit, changed};
use swr_dataset::{Faults, Task, TaskOptions};

use super::benchmark::Benchmark;
use super::row::{Cell, ClipRecord, Epoch, Results, Row, append, read_results};
use crate::adapt::{
    Adaptation, Aids, Frame, TRAINING_VERSION, adapt, batch_norms, check_budget, is_low_rank,
    observe,
};
use crate::architecture::Architecture;
use crate::baselines::Method;
use crate::calibrate::{Heard, calibrate, hear_test};
use crate::checkpoint::Run;
use crate::config::AdaptConfig;
use crate::evaluate::answers;
use crate::examples::{Examples, Language, for_each_plain_batch};
use crate::fused::NormStatistics;
use crate::models::{Base, MODEL_VERSION, Pipeline, architecture_of, read_base};
use crate::network::{Network, Weights};
use crate::progress::Progress;
use crate::weights::to_package;

/// Where everything lies that cells are run with.
pub struct Place<'a> {
    /// Folder with speech.
    pub data: &'a Path,
    /// Further training clips.
    pub extra: &'a [PathBuf],
    /// Folder with the base of a width.
    pub models: &'a Path,
    /// Folder for checkpoints.
    pub work: &'a Path,
    /// The results file.
    pub results: &'a Path,
    /// The languages that one joint network is trained for.
    pub together: &'a [String],
    /// Which words the tasks have.
    pub benchmark: &'a Benchmark,
    /// Settings; method and seed are the cell's.
    pub config: &'a AdaptConfig,
    /// Talk to people.
    pub progress: &'a Progress,
}

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
    fn training(&mut self, cell: &Cell, pipeline: &Pipeline, place: &Place) -> Result<&Language> {
        let languages = match cell.method {
            Method::Joint => place.together,
            _ => std::slice::from_ref(&cell.language),
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
            let task = if cell.method == Method::Joint {
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
    fn judged(
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
    fn source(
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

impl Place<'_> {
    fn task(&self, language: &str) -> Result<Task> {
        let mut keywords = self.benchmark.keywords.get(language).cloned();
        keywords.iter_mut().for_each(|words| words.sort());
        let options = TaskOptions {
            extra: self.extra.to_vec(),
            unknown_pool: self.config.unknown_pool,
            keywords,
            max_keywords: self.benchmark.most_keywords,
            unknown_languages: self.benchmark.unknown_languages.clone(),
            ..TaskOptions::default()
        };
        let task = swr_dataset::task(self.data, language, &options)?;
        Ok(task)
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

/// Runs a cell, unless its row is there, and adds its row.
pub fn run_cell(cell: &Cell, place: &Place, clips: &mut Clips) -> Result<bool> {
    let results = read_results(place.results)?;
    let base = read_base(place.models)?;
    let mut given = json!({
        "config": place.config, "base": base.manifest().tensors_sha256, "training": TRAINING_VERSION,
    });
    if !place.extra.is_empty() {
        given["extra"] = json!(place.extra);
    }
    let settings = Digest::of_bytes(given.to_string().as_bytes()).to_string();
    let differs = |row: &&Row| row.cell.tau == cell.tau && row.settings != settings;
    if let Some(row) = results.rows.iter().find(differs) {
        bail!(
            "{}: its row {} was made under other settings, --extra or base, or by another version of the training; give another --results file",
            place.results.display(),
            row.cell.name()
        );
    }
    if results.rows.iter().any(|row| row.cell == *cell) {
        return Ok(false);
    }
    let architecture = architecture_of(&base)?;
    let config = AdaptConfig {
        method: cell.method,
        seed: cell.seed,
        ..place.config.clone()
    };
    let aids = Aids {
        source: match cell.method {
            Method::HeadStatistics => Some(clips.source(&cell.tau, &base, &architecture, place)?),
            _ => None,
        },
        density: match cell.method {
            Method::RandomDensity => density(&results, cell)?,
            _ => BTreeMap::new(),
        },
    };
    let pipeline = Pipeline::of(base.manifest());
    let language = clips.training(cell, &pipeline, place)?;
    let training_clips = language.training_clips();
    // A joint network is trained once for all languages that it is judged on, in as many times the bytes.
    let joint = cell.method == Method::Joint;
    let served = if joint { place.together.len() } else { 1 };
    let trained = Cell {
        language: match joint {
            true => place.together.join("+"),
            false => cell.language.clone(),
        },
        budget: match cell.budget.limit() {
            Limit::FileBytes(bytes) => format!("{}B", bytes * served as u64).parse()?,
            _ => cell.budget.clone(),
        },
        ..cell.clone()
    };
    let resolved = json!({
        "config": config, "cell": trained, "training_clips": training_clips, "base": base.manifest().tensors_sha256,
        "training": TRAINING_VERSION,
    });
    let digest = Digest::of_bytes(resolved.to_string().as_bytes()).to_string();
    let header = DeltaHeader {
        language: if joint {
            "mul".into()
        } else {
            cell.language.clone()
        },
        model_version: MODEL_VERSION,
        manifest: Some(base.manifest_sha256()),
        labels: language.labels.clone(),
        thresholds: vec![0.7; language.labels.len()],
        calibration: None,
        budget: Some(trained.budget.clone()),
        synthetic: language.synthetic,
        provenance: format!("adapt seed {} run {}", config.seed, &digest[..16]),
    };
    check_budget(base.tensors(), &header)?;
    let folder = place
        .work
        .join(format!("{}-{}", trained.name(), &digest[..8]));
    let run = Run::open(&folder, resolved, false)?;
    let job = Adaptation {
        config: &config,
        method: cell.method,
        window_frames: pipeline.window_frames,
        network: &architecture,
        base: base.tensors(),
        language,
        header: &header,
        run: &run,
        dense: None,
        aids: &aids,
        progress: place.progress,
    };
    let dense = if cell.method.starts_dense() && !is_low_rank(cell.method, &config) {
        let norms = match batch_norms(&job)? {
            true => "batch",
            false => "deployed",
        };
        let key = json!({
            "config": dense_settings(&config)?, "norms": norms, "training_clips": training_clips,
            "base": base.manifest().tensors_sha256, "training": TRAINING_VERSION,
        });
        let key_digest = Digest::of_bytes(key.to_string().as_bytes()).to_string();
        let shared = Run::open(
            &place.work.join(format!("dense-{}", &key_digest[..16])),
            key,
            false,
        )?;
        crate::adapt::dense_stage(&Adaptation {
            run: &shared,
            ..job
        })?;
        Some(shared)
    } else {
        None
    };
    let started = Instant::now();
    let adapted = adapt(&Adaptation {
        dense: dense.as_ref(),
        ..job
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let merged = to_package(&adapted.merged)?;
    // A file for several languages is a share of it for each.
    let file_bytes = adapted.delta.sizes().total().div_ceil(served);
    let (allowed, used) = match cell.budget.limit() {
        Limit::FileBytes(_) => (adapted.allowed / served, file_bytes),
        _ => (adapted.allowed, adapted.used),
    };
    let heard = match !joint && cell.split == "test" {
        true => heard(&adapted.merged, &pipeline, &language.task, cell.seed)?,
        false => None,
    };
    let labels = language.labels.clone();
    let (judged, record) = clips.judged(cell, &pipeline, place)?;
    let labels = judged_labels(&labels, &record)?;
    let (predictions, keyword_posteriors) = judge(
        &architecture,
        &adapted.merged,
        judged,
        &labels,
        pipeline.window_frames,
    )?;
    let correct = predictions
        .iter()
        .zip(&record.truth)
        .filter(|(a, b)| a == b)
        .count();
    let (mut by_tensor, mut bits) = (BTreeMap::new(), Vec::new());
    for (name, old) in base
        .tensors()
        .iter()
        .filter(|(name, _)| Group::of(name) != Group::Classifier)
    {
        let differ: Vec<bool> = old
            .data
            .iter()
            .zip(&merged[name].data)
            .map(|(a, b)| a != b)
            .collect();
        let count = differ.iter().filter(|differ| **differ).count();
        if count > 0 {
            by_tensor.insert(name.clone(), count);
        }
        bits.extend(differ);
    }
    let mut logs = vec![run.log_path()];
    logs.extend(dense.as_ref().map(Run::log_path));
    let (curve, gates) = told(&logs)?;
    let row = Row {
        cell: cell.clone(),
        run: digest,
        settings,
        allowed,
        used,
        file_bytes,
        changed: changed(base.tensors(), &merged)?,
        changed_by_tensor: by_tensor,
        changed_bits: hexadecimal(&bits),
        curve,
        correct,
        clips: judged.len(),
        predictions,
        keyword_posteriors,
        heard,
        seconds,
        gates,
    };
    append(place.results, record, &row)?;
    println!(
        "{}: {:.1} % of {} clips, {} bytes, {} of {}, {:.0} s",
        cell.name(),
        100.0 * row.correct as f64 / row.clips.max(1) as f64,
        row.clips,
        row.file_bytes,
        row.used,
        row.allowed,
        seconds
    );
    // What is kept is the row; the joint network is that of other languages as well.
    if !joint {
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    Ok(true)
}

/// What the network hears of TEST, with the thresholds that a release of it would have.
fn heard(weights: &Weights, pipeline: &Pipeline, task: &Task, seed: u64) -> Result<Option<Heard>> {
    match calibrate(weights, pipeline, task, seed)? {
        Some(c) if c.calibration.is_some() => hear_test(weights, pipeline, task, &c.thresholds),
        _ => Ok(None),
    }
}

/// The settings that a dense stage depends on: all but those of what comes after it.
fn dense_settings(config: &AdaptConfig) -> Result<serde_json::Value> {
    let mut settings = json!(config);
    let fields = settings.as_object_mut().context("settings are an object")?;
    for later in [
        "method",
        "select",
        "units",
        "gates",
        "policy",
        "tune",
        "quantise",
        "grids",
        "baselines",
    ] {
        fields
            .remove(later)
            .with_context(|| format!("no setting {later}"))?;
    }
    Ok(settings)
}

/// Changed weights of every tensor in the row of SWR that differs from the cell by its method alone.
fn density(results: &Results, cell: &Cell) -> Result<BTreeMap<String, usize>> {
    let ours = Cell {
        method: Method::Swr,
        ..cell.clone()
    };
    let row = results.rows.iter().find(|row| row.cell == ours);
    let row = row.with_context(|| {
        format!(
            "random-density needs the result of {}; run that before",
            ours.name()
        )
    })?;
    Ok(row.changed_by_tensor.clone())
}

/// For every label of a network, the one that it counts as where a language is judged: a word of another language is an unknown one.
fn judged_labels(trained: &[String], judged: &ClipRecord) -> Result<Vec<u32>> {
    let of = |label: &String| {
        let own = label.strip_prefix(&format!("{}:", judged.language));
        let named = |l: &String| l == label || own == Some(l);
        judged.labels.iter().position(named)
    };
    let found: Vec<Option<usize>> = trained.iter().map(of).collect();
    let missing = (0..judged.labels.len()).find(|label| !found.contains(&Some(*label)));
    if let Some(label) = missing {
        bail!("the network has no label {}", judged.labels[label]);
    }
    let unknown = judged.labels.len() - 2;
    let labels = found
        .into_iter()
        .map(|label| label.unwrap_or(unknown) as u32);
    Ok(labels.collect())
}

/// Label of every clip and posterior of its likeliest keyword, in per mille, where the network's labels count as `labels` of `classes`.
fn judge(
    architecture: &Architecture,
    weights: &Weights,
    examples: &Examples,
    labels: &[u32],
    window_frames: usize,
) -> Result<(Vec<u32>, Vec<u16>)> {
    let (mut found, mut posteriors) = (Vec::new(), Vec::new());
    for_each_plain_batch(examples, 100, |batch| {
        for (label, posterior) in answers(architecture, weights, &batch, window_frames)? {
            found.push(labels[label]);
            posteriors.push((posterior * 1000.0).round() as u16);
        }
        Ok(())
    })?;
    Ok((found, posteriors))
}

/// Bits as hexadecimal digits, the first the highest of a digit; the last digit is filled with zeros.
pub fn hexadecimal(bits: &[bool]) -> String {
    let digit = |bits: &[bool]| {
        let value = (0..4).fold(0, |value, i| {
            value << 1 | u32::from(bits.get(i) == Some(&true))
        });
        char::from_digit(value, 16).unwrap_or('0')
    };
    bits.chunks(4).map(digit).collect()
}

/// Epochs, and what the gates cost over the select stage, from the logs of a run and of its dense stage. What was done twice counts once.
fn told(logs: &[PathBuf]) -> Result<(Vec<Epoch>, Vec<[f64; 2]>)> {
    let (mut epochs, mut costs) = (BTreeMap::new(), BTreeMap::new());
    let rounded = |value: Option<f64>| (value.unwrap_or(0.0) * 1e4).round() / 1e4;
    for log in logs.iter().filter(|log| log.exists()) {
        let text = std::fs::read_to_string(log).with_context(|| log.display().to_string())?;
        for line in text.lines() {
            let entry: serde_json::Value =
                serde_json::from_str(line).with_context(|| log.display().to_string())?;
            let value = |key: &str| rounded(entry[key].as_f64());
            let stage = entry["stage"].as_str().unwrap_or_default().to_string();
            if stage == "gates" {
                costs.insert(entry["step"].as_u64(), [value("expected"), value("open")]);
            } else if let Some(epoch) = entry["epoch"].as_u64() {
                let place = ["dense", "select", "tune", "quantise"]
                    .iter()
                    .position(|name| *name == stage);
                epochs.insert(
                    (place, epoch),
                    Epoch {
                        stage,
                        loss: value("loss"),
                        accuracy: value("train_accuracy"),
                    },
                );
            }
        }
    }
    Ok((
        epochs.into_values().collect(),
        costs.into_values().collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_another_language_counts_as_unknown() {
        let labels =
            |names: &[&str]| -> Vec<String> { names.iter().map(|name| name.to_string()).collect() };
        let judged = ClipRecord {
            language: "bb".into(),
            clips_of: "test".into(),
            labels: labels(&["one", "_unknown_", "_silence_"]),
            truth: vec![],
            speakers: vec![],
            synthetic: false,
        };
        let joint = labels(&["aa:one", "aa:two", "bb:one", "_unknown_", "_silence_"]);
        assert_eq!(judged_labels(&joint, &judged).unwrap(), [1, 1, 0, 1, 2]);
        assert_eq!(judged_labels(&judged.labels, &judged).unwrap(), [0, 1, 2]);
        assert!(judged_labels(&joint[..2], &judged).is_err());
    }
}
