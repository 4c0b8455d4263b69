//! `swr-train adapt`: languages added to a base.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use swr_core::package::{
    Budget, Counts, DeltaHeader, Digest, Group, Label, Limit, Tensor, Tensors, changed,
};
use swr_dataset::Split;

use super::{Common, DEFAULT_THRESHOLD, EVALUATION_BATCH, describe, languages};
use crate::adapt::{Adaptation, Adapted, TRAINING_VERSION, adapt, check_budget};
use crate::baselines::{Method, Needs};
use crate::calibrate::{Calibrated, calibrate};
use crate::checkpoint::Run;
use crate::config::{ADAPT_DEFAULT, AdaptConfig};
use crate::evaluate::evaluate;
use crate::examples::Language;
use crate::files::write_package;
use crate::models::{
    Base, MODEL_VERSION, Pipeline, architecture_of, delta_path, read_base, read_language,
    report_path, write_report,
};
use crate::network::Network;
use crate::progress::Progress;
use crate::weights::to_package;

/// Times that a delta is packed, each with more bytes kept free for thresholds: new ones may take a byte more than those before.
const MOST_PACKINGS: usize = 8;
/// Bytes of the rate that thresholds were chosen for.
const RATE_BYTES: usize = 4;

/// Add a language to the base and write its delta
#[derive(Args)]
#[command(after_help = "Budgets:
  10%      share of the convolution weights that may change; norms and classifier always do
  10%all   share of all weights, norms and classifier included
  4000B    bytes of the whole delta file

A language whose delta was made by the same command before is skipped; delete the .swr to pack it again, or give --restart.

Examples:
  swr-train adapt --data ../shared/speech --lang ar --budget 10%
  swr-train adapt --data ../shared/speech --lang ar,zh,de --budget 4000B
  swr-train adapt --data ../shared/speech --lang all --jobs 4")]
pub(super) struct Adapt {
    #[command(flatten)]
    common: Common,
    /// Language to add, several with commas between, or `all` that the data holds
    #[arg(long, value_name = "L", overrides_with = "lang")]
    lang: String,
    /// Languages trained at a time, each in its own process; with several, --work is a folder of their folders
    #[arg(long, default_value_t = 1, value_name = "N", overrides_with = "jobs", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// How much may change
    #[arg(long, default_value = "10%")]
    budget: Budget,
    /// Train without development clips: threshold and accuracy are then a guess
    #[arg(long)]
    no_dev: bool,
}

impl Adapt {
    /// Adds the languages; `arguments` are the program's own, for processes side by side.
    pub(super) fn run(
        &self,
        arguments: &[OsString],
        out: &mut dyn Write,
        progress: &Progress,
    ) -> Result<()> {
        let common = &self.common;
        let config: AdaptConfig = common.settings.resolve(ADAPT_DEFAULT)?;
        config.check()?;
        let base = read_base(&common.models)?;
        let own = &base.manifest().language;
        let codes = languages::named(
            ("--lang", &self.lang),
            (&common.data.data, &common.data.extra),
            own,
        )?;
        if let ([_, _, ..], 2..) = (&codes[..], self.jobs) {
            let (jobs, work) = (self.jobs.into(), common.work.as_deref());
            return languages::side_by_side(&codes, jobs, work, arguments, out, progress);
        }
        languages::one_after_another(&codes, progress, |code| {
            let work = match (&codes[..], &common.work) {
                ([_, _, ..], Some(work)) => work.join(code),
                _ => common.work(&format!("{code}-{}", self.budget)),
            };
            self.language(&config, &base, code, &work, out, progress)
        })
    }

    /// Adds one language.
    fn language(
        &self,
        config: &AdaptConfig,
        base: &Base,
        lang: &str,
        work: &Path,
        out: &mut dyn Write,
        progress: &Progress,
    ) -> Result<()> {
        let common = &self.common;
        let pipeline = Pipeline::of(base.manifest());
        let language = Language::load(
            &common.data,
            lang,
            pipeline.frontend,
            config.unknown_pool,
            progress,
        )?;
        if !self.no_dev {
            language.check_development()?;
        }
        let resolved = json!({
            "config": config,
            "language": lang,
            "labels": language.labels,
            "budget": self.budget,
            "training_clips": language.training_clips(),
            "base": base.manifest().tensors_sha256,
            "training": TRAINING_VERSION,
        });
        let architecture = architecture_of(base)?;
        let record = Digest::of_bytes(resolved.to_string().as_bytes()).to_string();
        if !common.restart && finished(&common.models, lang, &record) {
            let path = delta_path(&common.models, lang);
            writeln!(
                out,
                "{}: made by this command before; skipped",
                path.display()
            )?;
            return Ok(());
        }
        let header = DeltaHeader {
            language: lang.to_string(),
            model_version: MODEL_VERSION,
            manifest: Some(base.manifest_sha256()),
            labels: Label::over(&language.labels, &base.manifest().labels),
            thresholds: vec![DEFAULT_THRESHOLD; language.labels.len()],
            calibration: None,
            budget: None,
            synthetic: language.synthetic,
            provenance: format!("adapt seed {} run {}", config.seed, &record[..16]),
        };
        // Before hours of training: a budget that cannot hold is refused now.
        check_budget(base.tensors(), &header, &self.budget)?;
        let whole = Counts::of(base.tensors());
        check_method(config.method, &self.budget, &architecture, &whole)?;
        let run = Run::open(work, resolved.clone(), common.restart)?;
        let job = Adaptation {
            config,
            method: config.method,
            network: &architecture,
            window_frames: pipeline.window_frames,
            base: base.tensors(),
            language: &language,
            budget: &self.budget,
            header: &header,
            kept_free: config.calibration_bytes + thresholds_bytes(&language),
            run: &run,
            dense: None,
            source: None,
            density: None,
            progress,
        };
        let Packed {
            adapted,
            calibrated,
            bytes,
        } = packed(job, &pipeline)?;
        let dev = evaluate(
            &architecture,
            &adapted.merged,
            &language.dev,
            &language.labels,
            pipeline.window_frames,
            EVALUATION_BATCH,
        )?;
        let merged = to_package(&adapted.merged)?;
        let counts = changed(base.tensors(), &merged)?;
        let used = self.budget.used(&counts, bytes.len());
        ensure!(
            used <= adapted.allowed,
            "the delta uses {used} of a budget of {}: nothing was written",
            adapted.allowed
        );
        let report = json!({
            "run": record,
            "resolved": resolved,
            "allowed": adapted.allowed,
            "used": used,
            "changed": counts,
            "changed_by_tensor": changed_by_tensor(base.tensors(), &merged),
            "file_bytes": bytes.len(),
            "development": dev.summary(),
            "calibration": calibrated,
        });
        let path = delta_path(&common.models, lang);
        write_package(&path, &bytes)?;
        write_report(&common.models, lang, &report)?;
        writeln!(out, "development: {dev}")?;
        writeln!(
            out,
            "thresholds: {}",
            describe(calibrated.as_ref(), &language.labels)
        )?;
        let share = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
        writeln!(
            out,
            "budget {}: {used} of {} used; changed {} of {} convolution weights ({:.1} %), {} of {} of norms, {} of the classifier: as many as {:.1} % of the base's {}",
            self.budget,
            adapted.allowed,
            counts.convolution,
            whole.convolution,
            share(counts.convolution, whole.convolution),
            counts.norms,
            whole.norms,
            counts.classifier,
            share(counts.all(), whole.all()),
            whole.all()
        )?;
        writeln!(out, "{}: {} bytes", path.display(), bytes.len())?;
        Ok(())
    }
}

/// A delta with thresholds of its own.
struct Packed {
    adapted: Adapted,
    calibrated: Option<Calibrated>,
    /// The file.
    bytes: Vec<u8>,
}

/// Adapts, and chooses thresholds for what the file then holds. Their bytes are the file's too: where they leave it too long, what was trained is packed again
/// with so many more kept free.
fn packed(mut job: Adaptation, pipeline: &Pipeline) -> Result<Packed> {
    for _ in 0..MOST_PACKINGS {
        let adapted = adapt(&job)?;
        let task = &job.language.task;
        let calibrated = calibrate(&adapted.merged, pipeline, task, job.config.seed)?;
        let mut header = job.header.clone();
        if let Some(calibrated) = &calibrated {
            header.thresholds.clone_from(&calibrated.thresholds);
            header.calibration = calibrated.calibration;
        }
        header.budget = Some(job.budget.clone());
        let bytes = adapted.delta.clone().with_header(header)?.write();
        let over = match job.budget.limit() {
            Limit::FileBytes(_) => bytes.len().saturating_sub(adapted.allowed),
            Limit::ConvolutionShare(_) | Limit::AllShare(_) => 0,
        };
        if over == 0 {
            return Ok(Packed {
                adapted,
                calibrated,
                bytes,
            });
        }
        job.kept_free += over;
        job.progress.say(&format!(
            "with its thresholds the delta is {over} bytes longer than its budget; packed again"
        ));
    }
    bail!(
        "--budget {}: packed {MOST_PACKINGS} times, and with thresholds always too long; nothing was written. Give --set calibration_bytes={}, which keeps more free",
        job.budget,
        job.kept_free
    )
}

/// About as many bytes as thresholds of their own for every label take, where there is running speech to choose them by.
fn thresholds_bytes(language: &Language) -> usize {
    match language.task.negatives_of(Split::Dev).is_empty() {
        true => 0,
        false => RATE_BYTES + (7 * language.labels.len()).div_ceil(8),
    }
}

/// Whether the delta and the record beside it come from the run with this digest.
fn finished(models: &Path, lang: &str, run: &str) -> bool {
    let record = std::fs::read(report_path(models, lang))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let made_by_it = record.is_some_and(|record| record["run"] == run);
    made_by_it && read_language(models, lang).is_ok()
}

/// Refuses a method that could not end in a delta within the budget.
fn check_method(
    method: Method,
    budget: &Budget,
    network: &dyn Network,
    base: &Counts,
) -> Result<()> {
    let recipe = method.recipe();
    ensure!(
        recipe.needs == Needs::Nothing,
        "method {} needs what only `swr-train compare` has; compare it there",
        method.name()
    );
    let kinds: &[Group] = match budget.limit() {
        Limit::ConvolutionShare(_) => &[Group::Convolution],
        Limit::AllShare(_) => &[Group::Convolution, Group::Norm],
        Limit::FileBytes(_) => return Ok(()),
    };
    let tensors = network.tensors(1);
    let trained = recipe.trained(&tensors);
    let changes = |name: &str| trained.contains(name) && kinds.contains(&Group::of(name));
    let sizes = tensors.iter().filter(|(name, _)| changes(name));
    let least: usize = sizes
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    let allowed = budget.allowed(base);
    ensure!(
        recipe.is_budgeted() || least <= allowed,
        "method {} changes {least} weights whatever the budget, and --budget {budget} allows {allowed}: give one in bytes, such as 8000B, or a method that chooses",
        method.name()
    );
    Ok(())
}

/// How many weights of every tensor differ, where any do.
fn changed_by_tensor(base: &Tensors, merged: &Tensors) -> BTreeMap<String, usize> {
    let count = |(name, old): (&String, &Tensor)| {
        let pairs = old.data.iter().zip(&merged[name].data);
        (name.clone(), pairs.filter(|(a, b)| a != b).count())
    };
    let counts = base
        .iter()
        .filter(|(name, _)| Group::of(name) != Group::Classifier)
        .map(count);
    counts.filter(|(_, count)| *count > 0).collect()
}
