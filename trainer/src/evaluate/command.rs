//! `swr-train evaluate`: accuracy of a language's merged network on clips, by the trainer's own passes.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use swr_core::labels::NOT_KEYWORDS;
use swr_dataset::TaskOptions;

use super::{Evaluation, evaluate};
use crate::config::{EVALUATE_DEFAULT, EvaluateConfig, EvaluateSplit, resolve};
use crate::examples::Examples;
use crate::models::read_language;
use crate::progress::Progress;

/// Accuracy of a language's merged network on a split, by the trainer's own passes
#[derive(Args)]
pub(crate) struct EvaluateArguments {
    /// Folder with speech
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Language to evaluate
    #[arg(long, value_name = "L")]
    lang: String,
    /// Clips to use, instead of the configuration's
    #[arg(long, value_enum)]
    split: Option<EvaluateSplit>,
    /// Configuration file; the built-in one if absent
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change to the configuration, such as batch=10; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of models
    #[arg(long, value_name = "DIR", default_value = "models/small")]
    models: PathBuf,
    /// One JSON object with the resolved configuration and the confusion matrix
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(a: &EvaluateArguments, progress: &Progress) -> Result<()> {
    let mut config: EvaluateConfig = resolve(a.config.as_deref(), EVALUATE_DEFAULT, &a.set)?;
    config.split = a.split.unwrap_or(config.split);
    ensure!(config.batch > 0, "batch = 0: expected at least 1");
    let (architecture, language, weights) = read_language(&a.models, &a.lang)?;
    let labels = &language.labels;
    // What is there is measured: words without training clips are keywords of the model as well.
    let options = TaskOptions {
        keywords: Some(labels[..labels.len() - NOT_KEYWORDS].to_vec()),
        ..TaskOptions::default()
    };
    let mut task = swr_dataset::task(&a.data, &a.lang, &options)?;
    let faults = &mut task.report.faults;
    let mut clips = match config.split {
        EvaluateSplit::Dev => task.dev,
        EvaluateSplit::Test => task.test,
        EvaluateSplit::DevTest => [task.dev, task.test].concat(),
    };
    let examples = Examples::load(&mut clips, language.frontend, faults, progress, "decoding");
    progress.say(&task.report.to_string());
    let keywords = labels.len() - NOT_KEYWORDS;
    ensure!(
        clips.iter().any(|clip| clip.label < keywords),
        "{}: no clips of keywords of `{}` to measure on; give another --split, or add recordings of more speakers",
        a.data.display(),
        a.lang
    );
    let window_frames = language.detector.window_frames;
    let found = evaluate(
        &architecture,
        &weights,
        &examples,
        labels,
        window_frames,
        config.batch,
    )?;
    if a.json {
        let mut line = summary(&found);
        line["lang"] = json!(a.lang);
        line["config"] = json!(config);
        line["labels"] = json!(labels);
        line["confusion"] = json!(found.confusion);
        println!("{line}");
    } else {
        println!("{}: {found}", a.lang);
    }
    Ok(())
}

/// The figures of an evaluation, for records and `--json`.
pub(crate) fn summary(found: &Evaluation) -> Value {
    let (low, high) = found.all.interval();
    json!({
        "clips": found.all.clips,
        "accuracy": found.all.accuracy(),
        "interval": [low, high],
        "keywords": found.keywords,
        "unknown": found.unknown,
        "silence": found.silence,
    })
}
