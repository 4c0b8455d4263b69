//! `swr-train base`: the network that languages are added to.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use swr_core::labels::check_labels;
use swr_core::package::{Counts, Thresholds};

use super::languages::named;
use super::{Common, DEFAULT_THRESHOLD, EVALUATION_BATCH, describe};
use crate::architecture::TimePadding;
use crate::base::{Beginning, Teacher, train_base};
use crate::calibrate::calibrate;
use crate::checkpoint::Run;
use crate::config::{BASE_DEFAULT, BaseConfig};
use crate::evaluate::evaluate;
use crate::examples::Language;
use crate::models::write_base;
use crate::progress::Progress;

/// Train the base network and write base.onnx and base.json
#[derive(Args)]
#[command(after_help = "Examples:
  swr-train base --data ../shared/speech --extra target/synth --set architecture.tau=3 --models /tmp/tau3
  swr-train base --data ../shared/speech --extra target/synth --from models/small --also zh,de,pl --set schedule.epochs=20 --models /tmp/changeable
  swr-train base --data my-words --lang nl --from models --set schedule.epochs=40 --models dutch
  swr-train base --data ../shared/speech --extra target/synth --from models/small --teacher models/large --set schedule.epochs=30 --models /tmp/taught")]
pub(super) struct Base {
    #[command(flatten)]
    common: Common,
    /// Language of the base
    #[arg(long, value_name = "L", default_value = "en")]
    lang: String,
    /// Further languages that it learns from under the budget of a delta, with commas between, so that deltas have less to change
    #[arg(long, value_name = "L,L", default_value = "")]
    also: String,
    /// Begin with what another run learned, or with a base: the folder of that run, or of models, of the same network
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Learn the posteriors of another base as well, which knows the same words: a larger one, in this folder of models
    #[arg(long, value_name = "DIR")]
    teacher: Option<PathBuf>,
}

impl Base {
    pub(super) fn run(&self, out: &mut dyn Write, progress: &Progress) -> Result<()> {
        let common = &self.common;
        let config: BaseConfig = common.settings.resolve(BASE_DEFAULT)?;
        config.check()?;
        let pipeline = config.pipeline();
        let load = |code: &str| Language::load(&common.data, code, pipeline.frontend, 1, progress);
        let language = load(&self.lang)?;
        check_labels(&language.labels)?;
        let folders = (&*common.data.data, &*common.data.extra);
        let also = match self.also.as_str() {
            "" => Vec::new(),
            also => named(("--also", also), folders, &self.lang)?,
        };
        let also = also.iter().map(|code| load(code));
        let also = also.collect::<Result<Vec<Language>>>()?;
        let heard: Vec<Value> = also
            .iter()
            .map(|l| json!({"language": l.code, "labels": l.labels, "training_clips": l.training_clips()}))
            .collect();
        let beginning = |folder: &PathBuf| Beginning::read(folder, &config, &language);
        let beginning = self.from.as_ref().map(beginning).transpose()?;
        let from = beginning.as_ref().map(|beginning| beginning.digest);
        let teacher = |folder: &PathBuf| Teacher::read(folder, &config, &language.labels);
        let teacher = self.teacher.as_ref().map(teacher).transpose()?;
        let taught_by = teacher.as_ref().map(|teacher| teacher.digest);
        let run = Run::open(
            &common.work("base"),
            json!({
                "config": config,
                "language": self.lang,
                "labels": language.labels,
                "training_clips": language.training_clips(),
                "also": heard,
                "from": from,
                "teacher": taught_by,
            }),
            common.restart,
        )?;
        let weights = train_base(
            &config,
            (&language, &also),
            &run,
            beginning.as_ref(),
            teacher.as_ref(),
            progress,
        )?;
        let calibrated = calibrate(&weights, &pipeline, &language.task, config.seed)?;
        let dev = evaluate(
            &config.architecture,
            &weights,
            &language.dev,
            &language.labels,
            config.window_frames,
            EVALUATION_BATCH,
        )?;
        writeln!(out, "development: {dev}")?;
        if config.architecture.padding != TimePadding::Causal {
            writeln!(
                out,
                "not exported: a network that looks ahead cannot stream; it is there for comparison"
            )?;
            return Ok(());
        }
        let training = json!({"config": config, "training_clips": language.training_clips(), "also": heard, "development": dev.summary(), "calibration": calibrated, "from": from, "teacher": taught_by});
        let Value::Object(training) = training else {
            bail!("the training record is no object")
        };
        let thresholds = match &calibrated {
            Some(calibrated) => Thresholds::PerLabel(calibrated.thresholds.clone()),
            None => Thresholds::ForAll(DEFAULT_THRESHOLD),
        };
        let calibration = calibrated.as_ref().and_then(|c| c.calibration);
        let tensors = write_base(
            &common.models,
            &config.architecture,
            &weights,
            (&self.lang, &language.labels),
            (thresholds, calibration),
            &pipeline,
            training,
        )?;
        writeln!(
            out,
            "thresholds: {}",
            describe(calibrated.as_ref(), &language.labels)
        )?;
        writeln!(
            out,
            "{}: base of {} weights, {} labels",
            common.models.display(),
            Counts::of(&tensors).all(),
            language.labels.len()
        )?;
        Ok(())
    }
}
