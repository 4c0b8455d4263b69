//! The commands of `swr-train`: arguments in, files and figures out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use swr_core::labels::{NOT_KEYWORDS, check_labels};
use swr_core::package::{
    Budget, Counts, DeltaHeader, Digest, Group, Limit, Tensor, Tensors, Thresholds, changed,
};

use crate::adapt::{Adaptation, Aids, TRAINING_VERSION, adapt, check_budget};
use crate::architecture::{Architecture, TimePadding};
use crate::base::{Beginning, Teacher, train_base};
use crate::baselines::Method;
use crate::bench::{self, BenchArguments};
use crate::calibrate::command::{self as calibration, CalibrateArguments};
use crate::calibrate::{Calibrated, calibrate};
use crate::checkpoint::Run;
use crate::compare::command::{self as compare, CompareArguments};
use crate::config::{ADAPT_DEFAULT, AdaptConfig, BASE_DEFAULT, BaseConfig, resolve};
use crate::evaluate::command::{self as evaluation, EvaluateArguments, summary};
use crate::evaluate::evaluate;
use crate::examples::{Data, Language};
use crate::files::write_package;
use crate::golden::{self, GoldenArguments};
use crate::languages;
use crate::models::{
    Base, MODEL_VERSION, Pipeline, architecture_of, delta_path, read_base, read_language,
    report_path, write_base, write_report,
};
use crate::network::Network;
use crate::pack::{self, DeltaArguments, ExportArguments, PackArguments, UnpackArguments};
use crate::progress::Progress;
use crate::release::{self, EmbedArguments, IndexArguments, KeyArguments, SignArguments};
use crate::synth::{self, SynthOptions};
use crate::weights::to_package;

/// Clips computed together after a training.
const EVALUATION_BATCH: usize = 100;
/// Threshold where no development clips are there to choose it on.
const DEFAULT_THRESHOLD: f32 = 0.7;

/// Trains the base network, and one weight delta per language under a budget.
#[derive(Parser)]
#[command(
    name = "swr-train",
    version,
    about,
    after_help = "Examples:
  swr-train synth clips --out target/synth
  swr-train base --data ../shared/speech --extra target/synth
  swr-train adapt --data ../shared/speech --extra target/synth --lang ar --budget 10%
  swr-train evaluate --data ../shared/speech --lang ar --split dev

Every run is seeded and stores its resolved configuration; an interrupted one goes on where it stopped when started again.
Exit codes: 0 done, 2 error."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Say nothing while working
    #[arg(long, global = true, overrides_with = "quiet")]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Train the base network and write base.onnx and base.json
    Base(BaseArguments),
    /// Add a language to the base and write its delta
    Adapt(AdaptArguments),
    /// Accuracy of a language's merged network on a split, by the trainer's own passes
    Evaluate(EvaluateArguments),
    /// Choose thresholds for a wanted rate of false accepts
    Calibrate(CalibrateArguments),
    /// Compare SWR with its baselines: one row of results per run
    Compare(CompareArguments),
    /// What a training step costs, alone and with its input
    Bench(BenchArguments),
    /// Write a language's merged network as plain ONNX, with the trainer's own logits to compare other runtimes with
    Export(ExportArguments),
    /// Pack weights trained anywhere: a base, or a delta on the base that is there
    Pack(PackArguments),
    /// Write a language's merged weights as safetensors
    Unpack(UnpackArguments),
    /// Make a delta between any two networks of equal tensors
    Delta(DeltaArguments),
    /// Make the golden clip by which devices try a model
    Golden(GoldenArguments),
    /// Make a pair of keys to sign with
    Key(KeyArguments),
    /// Sign manifests, deltas and golden clips
    Sign(SignArguments),
    /// Write signatures that lie beside deltas into them
    Embed(EmbedArguments),
    /// Write the index of a release
    Index(IndexArguments),
    /// Synthetic speech made with espeak-ng
    #[command(subcommand)]
    Synth(SynthCommand),
}

/// Where speech comes from and how a run is configured.
#[derive(Args)]
struct Common {
    #[command(flatten)]
    data: Data,
    /// Configuration file; the built-in one if absent
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change to the configuration, such as seed=3; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Folder of models
    #[arg(long, value_name = "DIR", default_value = "models/small")]
    models: PathBuf,
    /// Folder of the run: configuration, checkpoint, log
    #[arg(long, value_name = "DIR", overrides_with = "work")]
    work: Option<PathBuf>,
    /// Begin anew instead of going on with an interrupted run
    #[arg(long)]
    restart: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:
  swr-train base --data ../shared/speech --extra target/synth --set architecture.tau=3 --models /tmp/tau3
  swr-train base --data my-words --lang nl --from models --set schedule.epochs=40 --models dutch
  swr-train base --data ../shared/speech --extra target/synth --from models/small --teacher models/large --set schedule.epochs=30 --models /tmp/taught")]
struct BaseArguments {
    #[command(flatten)]
    common: Common,
    /// Language of the base
    #[arg(long, value_name = "L", default_value = "en")]
    lang: String,
    /// Begin with what another run learned, or with a base: the folder of that run, or of models, of the same network
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Learn the posteriors of another base as well, which knows the same words: a larger one, in this folder of models
    #[arg(long, value_name = "DIR")]
    teacher: Option<PathBuf>,
}

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
struct AdaptArguments {
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

#[derive(Subcommand)]
enum SynthCommand {
    /// Training clips in the MSWC layout and sentences without keywords, below OUT/synth/<language>
    Clips(SynthArguments),
    /// The demo's audio: OUT/<language>.flac and .json
    Demo(SynthArguments),
    /// Speech without words, which `adapt` takes for other words where there are none: OUT/babble.opus
    Babble(SynthArguments),
}

#[derive(Args)]
struct SynthArguments {
    /// Languages; all of the configuration if absent
    #[arg(long = "lang", value_name = "L")]
    languages: Vec<String>,
    /// Where the result goes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Configuration file; the built-in one if absent
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change to the configuration, such as seed=3; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Replace clips that are there already
    #[arg(long)]
    replace: bool,
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let progress = Progress {
        quiet: arguments.quiet,
    };
    let done = match &arguments.command {
        Command::Base(a) => base(a, &progress),
        Command::Adapt(a) => adapt_languages(a, &progress),
        Command::Evaluate(a) => evaluation::run(a, &progress),
        Command::Calibrate(a) => calibration::run(a, &progress),
        Command::Compare(a) => compare::run(a, &progress),
        Command::Bench(a) => bench::run(a, &progress),
        Command::Export(a) => pack::export(a),
        Command::Pack(a) => pack::pack(a),
        Command::Unpack(a) => pack::unpack(a),
        Command::Delta(a) => pack::delta(a),
        Command::Golden(a) => golden::run(a),
        Command::Key(a) => release::key(a),
        Command::Sign(a) => release::sign(a),
        Command::Embed(a) => release::embed(a),
        Command::Index(a) => release::index(a),
        Command::Synth(SynthCommand::Clips(a)) => synth::run(&a.options(), &progress),
        Command::Synth(SynthCommand::Demo(a)) => synth::demo(&a.options(), &progress),
        Command::Synth(SynthCommand::Babble(a)) => synth::babble(&a.options(), &progress),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("swr-train: {error:#}");
            ExitCode::from(2)
        }
    }
}

impl SynthArguments {
    fn options(&self) -> SynthOptions {
        SynthOptions {
            config: self.config.clone(),
            changes: self.set.clone(),
            languages: self.languages.clone(),
            out: self.out.clone(),
            replace: self.replace,
        }
    }
}

impl Common {
    fn work(&self, name: &str) -> PathBuf {
        self.work
            .clone()
            .unwrap_or_else(|| PathBuf::from("target/train").join(name))
    }
}

fn base(a: &BaseArguments, progress: &Progress) -> Result<()> {
    let common = &a.common;
    let config: BaseConfig = resolve(common.config.as_deref(), BASE_DEFAULT, &common.set)?;
    config.check()?;
    let pipeline = config.pipeline();
    let language = Language::load(&common.data, &a.lang, pipeline.frontend, 1, progress)?;
    check_labels(&language.labels)?;
    let beginning = |folder: &PathBuf| Beginning::read(folder, &config, &language);
    let beginning = a.from.as_ref().map(beginning).transpose()?;
    let from = beginning.as_ref().map(|beginning| beginning.digest);
    let teacher = |folder: &PathBuf| Teacher::read(folder, &config, &language.labels);
    let teacher = a.teacher.as_ref().map(teacher).transpose()?;
    let taught_by = teacher.as_ref().map(|teacher| teacher.digest);
    let run = Run::open(
        &common.work("base"),
        json!({
            "config": config,
            "language": a.lang,
            "labels": language.labels,
            "training_clips": language.training_clips(),
            "from": from,
            "teacher": taught_by,
        }),
        common.restart,
    )?;
    let weights = train_base(
        &config,
        &language,
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
    println!("development: {dev}");
    if config.architecture.padding != TimePadding::Causal {
        println!(
            "not exported: a network that looks ahead cannot stream; it is there for comparison"
        );
        return Ok(());
    }
    let training = json!({"config": config, "training_clips": language.training_clips(), "development": summary(&dev), "calibration": calibrated, "from": from, "teacher": taught_by});
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
        (&a.lang, &language.labels),
        (thresholds, calibration),
        &pipeline,
        training,
    )?;
    println!(
        "thresholds: {}",
        describe(calibrated.as_ref(), &language.labels)
    );
    println!(
        "{}: base of {} weights, {} labels",
        common.models.display(),
        Counts::of(&tensors).all(),
        language.labels.len()
    );
    Ok(())
}

fn adapt_languages(a: &AdaptArguments, progress: &Progress) -> Result<()> {
    let common = &a.common;
    let config: AdaptConfig = resolve(common.config.as_deref(), ADAPT_DEFAULT, &common.set)?;
    config.check()?;
    let base = read_base(&common.models)?;
    let own = &base.manifest().language;
    let codes = languages::named(&a.lang, &common.data.data, &common.data.extra, own)?;
    let one = |code: &str, work: PathBuf| adapt_language(a, &config, &base, code, &work, progress);
    let name = |code: &str| format!("{code}-{}", a.budget);
    match (&codes[..], &common.work) {
        ([code], _) => one(code, common.work(&name(code))),
        (_, work) if a.jobs > 1 => {
            languages::side_by_side(&codes, a.jobs.into(), work.as_deref(), progress)
        }
        (_, Some(work)) => {
            languages::one_after_another(&codes, progress, |code| one(code, work.join(code)))
        }
        (_, None) => languages::one_after_another(&codes, progress, |code| {
            one(code, common.work(&name(code)))
        }),
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

fn adapt_language(
    a: &AdaptArguments,
    config: &AdaptConfig,
    base: &Base,
    lang: &str,
    work: &Path,
    progress: &Progress,
) -> Result<()> {
    let common = &a.common;
    let pipeline = Pipeline::of(base.manifest());
    let language = Language::load(
        &common.data,
        lang,
        pipeline.frontend,
        config.unknown_pool,
        progress,
    )?;
    if !a.no_dev {
        language.check_development()?;
    }
    let resolved = json!({
        "config": config,
        "language": lang,
        "labels": language.labels,
        "budget": a.budget,
        "training_clips": language.training_clips(),
        "base": base.manifest().tensors_sha256,
        "training": TRAINING_VERSION,
    });
    let architecture = architecture_of(base)?;
    let record = Digest::of_bytes(resolved.to_string().as_bytes()).to_string();
    if !common.restart && finished(&common.models, lang, &record) {
        let path = delta_path(&common.models, lang);
        println!("{}: made by this command before; skipped", path.display());
        return Ok(());
    }
    let mut header = DeltaHeader {
        language: lang.to_string(),
        model_version: MODEL_VERSION,
        manifest: Some(base.manifest_sha256()),
        labels: language.labels.clone(),
        thresholds: vec![DEFAULT_THRESHOLD; language.labels.len()],
        calibration: None,
        budget: Some(a.budget.clone()),
        synthetic: language.synthetic,
        provenance: format!("adapt seed {} run {}", config.seed, &record[..16]),
    };
    // Before hours of training: a budget that cannot hold is refused now.
    check_budget(base.tensors(), &header)?;
    let whole = Counts::of(base.tensors());
    check_method(config.method, &a.budget, &architecture, &whole)?;
    let run = Run::open(work, resolved.clone(), common.restart)?;
    let adapted = adapt(&Adaptation {
        config,
        method: config.method,
        network: &architecture,
        window_frames: pipeline.window_frames,
        base: base.tensors(),
        language: &language,
        header: &header,
        run: &run,
        dense: None,
        aids: &Aids::default(),
        progress,
    })?;

    let calibrated = calibrate(&adapted.merged, &pipeline, &language.task, config.seed)?;
    match &calibrated {
        Some(calibrated) => header.thresholds.clone_from(&calibrated.thresholds),
        None => header.thresholds.fill(DEFAULT_THRESHOLD),
    }
    header.calibration = calibrated.as_ref().and_then(|c| c.calibration);
    let delta = adapted.delta.with_header(header)?;
    let bytes = delta.write();
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
    let used = a.budget.used(&counts, bytes.len());
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
        "development": summary(&dev),
        "calibration": calibrated,
    });
    let path = delta_path(&common.models, lang);
    write_package(&path, &bytes)?;
    write_report(&common.models, lang, &report)?;
    println!("development: {dev}");
    println!(
        "thresholds: {}",
        describe(calibrated.as_ref(), &language.labels)
    );
    let share = |part: usize, whole: usize| 100.0 * part as f64 / whole.max(1) as f64;
    println!(
        "budget {}: {used} of {} used; changed {} of {} convolution weights ({:.1} %), {} of {} of norms, {} of the classifier: as many as {:.1} % of the base's {}",
        a.budget,
        adapted.allowed,
        counts.convolution,
        whole.convolution,
        share(counts.convolution, whole.convolution),
        counts.norms,
        whole.norms,
        counts.classifier,
        share(counts.all(), whole.all()),
        whole.all()
    );
    println!("{}: {} bytes", path.display(), bytes.len());
    Ok(())
}

/// Refuses a method that could not end in a delta within the budget.
fn check_method(
    method: Method,
    budget: &Budget,
    network: &Architecture,
    base: &Counts,
) -> Result<()> {
    ensure!(
        !matches!(
            method,
            Method::HeadStatistics | Method::RandomDensity | Method::Joint
        ),
        "method {} needs what only `swr-train compare` has; compare it there",
        method.name()
    );
    let kinds: &[Group] = match budget.limit() {
        Limit::ConvolutionShare(_) => &[Group::Convolution],
        Limit::AllShare(_) => &[Group::Convolution, Group::Norm],
        Limit::FileBytes(_) => return Ok(()),
    };
    let tensors = network.tensors(1);
    let trained = method.trains(&tensors);
    let changes = |name: &str| trained.contains(name) && kinds.contains(&Group::of(name));
    let sizes = tensors.iter().filter(|(name, _)| changes(name));
    let least: usize = sizes
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    let allowed = budget.allowed(base);
    ensure!(
        method.is_budgeted() || least <= allowed,
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

fn describe(calibrated: Option<&Calibrated>, labels: &[String]) -> String {
    let Some(c) = calibrated else {
        return format!("{DEFAULT_THRESHOLD:.2}, not calibrated: there are no development clips");
    };
    let keywords = c.thresholds.iter().zip(labels);
    let keywords = keywords.take(labels.len() - NOT_KEYWORDS);
    let low = keywords.clone().min_by(|a, b| a.0.total_cmp(b.0));
    let high = keywords.max_by(|a, b| a.0.total_cmp(b.0));
    let range = low.zip(high).map_or_else(String::new, |(low, high)| {
        format!("{} ({}) to {} ({})", low.0, low.1, high.0, high.1)
    });
    let note = c
        .note
        .as_ref()
        .map_or_else(String::new, |note| format!("\n  {note}"));
    format!(
        "{range}; {} of {} words found, {} false alarms on a stream of development clips; {} false accepts in {:.2} h of running speech, by cross-fit{note}",
        c.hits, c.words, c.false_alarms, c.false_accepts, c.running_hours
    )
}
