//! Runs cells: the clips, the shared dense stage, the adaptation, the row.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::json;
use swr_core::package::{DeltaHeader, Digest, Group, Label, Limit, Tensors, changed};
use swr_dataset::Task;

use super::clips::Clips;
use super::place::Place;
use super::row::{Cell, ClipRecord, Epoch, Results, Row, append, read_results};
use crate::adapt::{
    Adaptation, Adapted, STAGES, TRAINING_VERSION, adapt, batch_norms, check_budget, dense_stage,
};
use crate::baselines::{Method, Needs};
use crate::calibrate::{Heard, calibrate, hear_test};
use crate::checkpoint::Run;
use crate::config::AdaptConfig;
use crate::evaluate::Judge;
use crate::examples::{Examples, for_each_plain_batch};
use crate::models::{Base, MODEL_VERSION, Pipeline, architecture_of, read_base};
use crate::network::{Network, Weights};
use crate::weights::to_package;

/// Runs a cell, unless its row is there, and adds its row; what came of it goes to `out`.
pub fn run_cell(cell: &Cell, place: &Place, clips: &mut Clips, out: &mut dyn Write) -> Result<()> {
    let results = read_results(place.results)?;
    let base = read_base(place.models)?;
    let settings = place.settings(&base);
    check_settings(&results, cell, &settings, place)?;
    if results.rows.iter().any(|row| row.cell == *cell) {
        return Ok(());
    }
    let trained = train(cell, place, clips, &base, &results)?;
    let (record, row) = judged_row(cell, place, clips, &base, settings, &trained)?;
    append(place.results, record, &row)?;
    writeln!(
        out,
        "{}: {:.1} % of {} clips, {} bytes, {} of {}, {:.0} s",
        cell.name(),
        100.0 * row.correct as f64 / row.clips.max(1) as f64,
        row.clips,
        row.file_bytes,
        row.used,
        row.allowed,
        row.seconds
    )?;
    // What is kept is the row; the joint network is that of other languages as well.
    if !trained.for_all {
        let folder = &trained.folder;
        std::fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    Ok(())
}

/// Refuses to mix rows that were made under different settings.
fn check_settings(results: &Results, cell: &Cell, settings: &str, place: &Place) -> Result<()> {
    let differs = |row: &&Row| row.cell.tau == cell.tau && row.settings != settings;
    if let Some(row) = results.rows.iter().find(differs) {
        bail!(
            "{}: its row {} was made under other settings, --extra or base, or by another version of the training; give another --results file",
            place.results.display(),
            row.cell.name()
        );
    }
    Ok(())
}

/// A cell's network.
struct Trained {
    adapted: Adapted,
    /// Its labels.
    labels: Vec<String>,
    /// Languages that share its file: one, unless it was trained for all.
    served: usize,
    for_all: bool,
    /// Digest of what it was made from.
    digest: String,
    folder: PathBuf,
    /// The logs of its stages.
    logs: Vec<PathBuf>,
    seconds: f64,
}

/// Trains a cell's network, from a dense stage that it shares with other cells if it can.
fn train(
    cell: &Cell,
    place: &Place,
    clips: &mut Clips,
    base: &Base,
    results: &Results,
) -> Result<Trained> {
    let architecture = architecture_of(base)?;
    let config = AdaptConfig {
        method: cell.method,
        seed: cell.seed,
        ..place.config.clone()
    };
    let (mut source, mut density) = (None, None);
    match cell.method.recipe().needs {
        Needs::BaseStatistics => {
            source = Some(clips.source(&cell.tau, base, &architecture, place)?);
        }
        Needs::ResultOfSwr => density = Some(density_of_swr(results, cell)?),
        Needs::Nothing | Needs::AllLanguages => {}
    }
    let pipeline = Pipeline::of(base.manifest());
    let language = clips.training(cell, &pipeline, place)?;
    let training_clips = language.training_clips();

    // A joint network is trained once for all languages that it is judged on, in as many times the bytes.
    let for_all = cell.is_for_all();
    let served = if for_all { place.together.len() } else { 1 };
    let trained = Cell {
        language: match for_all {
            true => place.together.join("+"),
            false => cell.language.clone(),
        },
        budget: match cell.budget.limit() {
            Limit::FileBytes(bytes) => format!("{}B", bytes * served as u64).parse()?,
            Limit::ConvolutionShare(_) | Limit::AllShare(_) => cell.budget.clone(),
        },
        ..cell.clone()
    };
    let resolved = json!({
        "config": config, "cell": trained, "training_clips": training_clips, "base": base.manifest().tensors_sha256,
        "training": TRAINING_VERSION,
    });
    let digest = Digest::of_bytes(resolved.to_string().as_bytes()).to_string();
    let header = DeltaHeader {
        language: match for_all {
            true => "mul".into(),
            false => cell.language.clone(),
        },
        model_version: MODEL_VERSION,
        manifest: Some(base.manifest_sha256()),
        labels: Label::over(&language.labels, &base.manifest().labels),
        thresholds: vec![0.7; language.labels.len()],
        calibration: None,
        budget: None,
        synthetic: language.synthetic,
        provenance: format!("adapt seed {} run {}", config.seed, &digest[..16]),
    };
    check_budget(base.tensors(), &header, &trained.budget)?;

    let named = format!("{}-{}", trained.name(), &digest[..8]);
    let folder = place.work.join(named);
    let run = Run::open(&folder, resolved, false)?;
    let job = Adaptation {
        config: &config,
        method: cell.method,
        window_frames: pipeline.window_frames,
        network: &architecture,
        base: base.tensors(),
        language,
        budget: &trained.budget,
        header: &header,
        kept_free: config.calibration_bytes,
        run: &run,
        dense: None,
        source: source.as_ref(),
        density: density.as_ref(),
        progress: place.progress,
    };
    let dense = match cell.method.recipe().shares_dense_stage(&config.policy) {
        true => Some(shared_dense_stage(&job, place, base, training_clips)?),
        false => None,
    };
    let started = Instant::now();
    let adapted = adapt(&Adaptation {
        dense: dense.as_ref(),
        ..job
    })?;
    let mut logs = vec![run.log_path()];
    logs.extend(dense.as_ref().map(Run::log_path));
    Ok(Trained {
        adapted,
        labels: language.labels.clone(),
        served,
        for_all,
        digest,
        folder,
        logs,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// The run of a dense stage that all cells share which begin alike, finished.
fn shared_dense_stage(
    job: &Adaptation,
    place: &Place,
    base: &Base,
    training_clips: serde_json::Value,
) -> Result<Run> {
    let norms = match batch_norms(job)? {
        true => "batch",
        false => "deployed",
    };
    let key = json!({
        "config": dense_settings(job.config)?, "norms": norms, "training_clips": training_clips,
        "base": base.manifest().tensors_sha256, "training": TRAINING_VERSION,
    });
    let digest = Digest::of_bytes(key.to_string().as_bytes()).to_string();
    let folder = place.work.join(format!("dense-{}", &digest[..16]));
    let run = Run::open(&folder, key, false)?;
    dense_stage(&Adaptation { run: &run, ..*job })?;
    Ok(run)
}

/// What a cell's network hears and knows, and the clips that it was judged on.
fn judged_row(
    cell: &Cell,
    place: &Place,
    clips: &mut Clips,
    base: &Base,
    settings: String,
    trained: &Trained,
) -> Result<(ClipRecord, Row)> {
    let Trained {
        adapted, served, ..
    } = trained;
    let pipeline = Pipeline::of(base.manifest());
    let heard = match !trained.for_all && cell.split == "test" {
        true => {
            let task = &clips.training(cell, &pipeline, place)?.task;
            heard(&adapted.merged, &pipeline, task, cell.seed)?
        }
        false => None,
    };
    let (judged, record) = clips.judged(cell, &pipeline, place)?;
    let labels = judged_labels(&trained.labels, &record)?;
    let (predictions, keyword_posteriors) = judge(
        &architecture_of(base)?,
        &adapted.merged,
        judged,
        &labels,
        pipeline.window_frames,
    )?;
    let pairs = predictions.iter().zip(&record.truth);
    let correct = pairs.filter(|(a, b)| a == b).count();

    // A file for several languages is a share of it for each.
    let file_bytes = adapted.delta.sizes().total().div_ceil(*served);
    let (allowed, used) = match cell.budget.limit() {
        Limit::FileBytes(_) => (adapted.allowed / served, file_bytes),
        Limit::ConvolutionShare(_) | Limit::AllShare(_) => (adapted.allowed, adapted.used),
    };
    let merged = to_package(&adapted.merged)?;
    let (changed_by_tensor, changed_bits) = differing(base.tensors(), &merged);
    let (curve, gates) = told(&trained.logs)?;
    let row = Row {
        cell: cell.clone(),
        run: trained.digest.clone(),
        settings,
        allowed,
        used,
        file_bytes,
        changed: changed(base.tensors(), &merged)?,
        changed_by_tensor,
        changed_bits,
        curve,
        correct,
        clips: judged.len(),
        predictions,
        keyword_posteriors,
        heard,
        seconds: trained.seconds,
        gates,
    };
    Ok((record, row))
}

/// How many weights of every tensor differ, where any do, and which, but for the classifier's.
fn differing(base: &Tensors, merged: &Tensors) -> (BTreeMap<String, usize>, String) {
    let (mut by_tensor, mut bits) = (BTreeMap::new(), Vec::new());
    let tensors = base.iter();
    for (name, old) in tensors.filter(|(name, _)| Group::of(name) != Group::Classifier) {
        let pairs = old.data.iter().zip(&merged[name].data);
        let differ: Vec<bool> = pairs.map(|(a, b)| a != b).collect();
        let count = differ.iter().filter(|differ| **differ).count();
        if count > 0 {
            by_tensor.insert(name.clone(), count);
        }
        bits.extend(differ);
    }
    (by_tensor, hexadecimal(&bits))
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
fn density_of_swr(results: &Results, cell: &Cell) -> Result<BTreeMap<String, usize>> {
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
    network: &dyn Network,
    weights: &Weights,
    examples: &Examples,
    labels: &[u32],
    window_frames: usize,
) -> Result<(Vec<u32>, Vec<u16>)> {
    let (mut found, mut posteriors) = (Vec::new(), Vec::new());
    let judge = Judge::new(network, weights, labels.len(), window_frames)?;
    for_each_plain_batch(examples, 100, |batch| {
        for (label, posterior) in judge.answers(&batch)? {
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
                let place = STAGES.iter().position(|name| *name == stage);
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
