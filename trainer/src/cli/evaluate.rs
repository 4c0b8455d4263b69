//! `swr-train evaluate`: accuracy of a language's merged network on clips, by the trainer's own passes.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;
use swr_core::labels::NOT_KEYWORDS;
use swr_dataset::TaskOptions;

use super::Settings;
use crate::config::{EVALUATE_DEFAULT, EvaluateConfig, EvaluateSplit};
use crate::evaluate::evaluate;
use crate::examples::Examples;
use crate::models::read_language;
use crate::progress::Progress;

/// Accuracy of a language's merged network on a split, by the trainer's own passes
#[derive(Args)]
pub(super) struct Evaluate {
    /// Folder with speech
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Language to evaluate
    #[arg(long, value_name = "L")]
    lang: String,
    /// Clips to use, instead of the configuration's
    #[arg(long, value_enum)]
    split: Option<EvaluateSplit>,
    #[command(flatten)]
    settings: Settings,
    /// Folder of models
    #[arg(long, value_name = "DIR", default_value = "models/small")]
    models: PathBuf,
    /// One JSON object with the resolved configuration and the confusion matrix
    #[arg(long)]
    json: bool,
}

impl Evaluate {
    pub(super) fn run(&self, out: &mut dyn Write, progress: &Progress) -> Result<()> {
        let mut config: EvaluateConfig = self.settings.resolve(EVALUATE_DEFAULT)?;
        config.split = self.split.unwrap_or(config.split);
        ensure!(config.batch > 0, "batch = 0: expected at least 1");
        let (architecture, language, weights) = read_language(&self.models, &self.lang)?;
        let labels = &language.labels;
        // What is there is measured: words without training clips are keywords of the model as well.
        let options = TaskOptions {
            keywords: Some(labels[..labels.len() - NOT_KEYWORDS].to_vec()),
            ..TaskOptions::default()
        };
        let mut task = swr_dataset::task(&self.data, &self.lang, &options)?;
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
            self.data.display(),
            self.lang
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
        if self.json {
            let mut line = found.summary();
            line["lang"] = json!(self.lang);
            line["config"] = json!(config);
            line["labels"] = json!(labels);
            line["confusion"] = json!(found.confusion);
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{}: {found}", self.lang)?;
        }
        Ok(())
    }
}
