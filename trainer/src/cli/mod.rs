//! The commands of `swr-train`: arguments in, files and figures out.

mod adapt;
mod base;
mod bench;
mod calibrate;
mod compare;
mod evaluate;
mod golden;
mod languages;
mod pack;
mod release;
mod synth;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use serde::de::DeserializeOwned;
use swr_core::labels::NOT_KEYWORDS;

use crate::calibrate::Calibrated;
use crate::config::resolve;
use crate::examples::Data;
use crate::progress::Progress;

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
    Base(base::Base),
    /// Add a language to the base and write its delta
    Adapt(adapt::Adapt),
    /// Accuracy of a language's merged network on a split, by the trainer's own passes
    Evaluate(evaluate::Evaluate),
    /// Choose thresholds for a wanted rate of false accepts
    Calibrate(calibrate::Calibrate),
    /// Compare SWR with its baselines: one row of results per run
    Compare(compare::Compare),
    /// What a training step costs, alone and with its input
    Bench(bench::Bench),
    /// Write a language's merged network as plain ONNX, with the trainer's own logits to compare other runtimes with
    Export(pack::Export),
    /// Pack weights trained anywhere: a base, or a delta on the base that is there
    Pack(pack::Pack),
    /// Write a language's merged weights as safetensors
    Unpack(pack::Unpack),
    /// Make a delta between any two networks of equal tensors
    Delta(pack::MakeDelta),
    /// Make the golden clip by which devices try a model
    Golden(golden::GoldenClip),
    /// Make a pair of keys to sign with
    Key(release::Key),
    /// Sign manifests, deltas and golden clips
    Sign(release::Sign),
    /// Write signatures that lie beside deltas into them
    Embed(release::Embed),
    /// Write the index of a release
    Index(release::MakeIndex),
    /// Synthetic speech made with espeak-ng
    #[command(subcommand)]
    Synth(synth::Synth),
}

/// A configuration and changes to it.
#[derive(Args)]
struct Settings {
    /// Configuration file; the built-in one if absent
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Change to the configuration, such as seed=3; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Settings {
    /// The configuration that they come to, from `default` where no file is given.
    fn resolve<T: DeserializeOwned>(&self, default: &str) -> Result<T> {
        resolve(self.config.as_deref(), default, &self.set)
    }
}

/// Where speech comes from and how a run is configured.
#[derive(Args)]
struct Common {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    settings: Settings,
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

/// Runs the program on its own arguments and standard output.
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os(), &mut io::stdout()))
}

/// Runs the program on `arguments`, whose first is the program's name, and writes results to `out`. Gives the exit code: 0 done, 2 error, which is told on
/// standard error.
pub fn run<I>(arguments: I, out: &mut dyn Write) -> u8
where
    I: IntoIterator,
    I::Item: Into<OsString>,
{
    let given: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let arguments = match Arguments::try_parse_from(&given) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are results; a failure to print leaves nobody to tell.
            let _ = if error.use_stderr() {
                write!(io::stderr(), "{}", error.render())
            } else {
                write!(out, "{}", error.render())
            };
            return if error.use_stderr() { 2 } else { 0 };
        }
    };
    let progress = Progress {
        quiet: arguments.quiet,
    };
    let done = match &arguments.command {
        Command::Base(command) => command.run(out, &progress),
        Command::Adapt(command) => command.run(&given, out, &progress),
        Command::Evaluate(command) => command.run(out, &progress),
        Command::Calibrate(command) => command.run(out, &progress),
        Command::Compare(command) => command.run(out, &progress),
        Command::Bench(command) => command.run(out, &progress),
        Command::Export(command) => command.run(out),
        Command::Pack(command) => command.run(out),
        Command::Unpack(command) => command.run(out),
        Command::Delta(command) => command.run(out),
        Command::Golden(command) => command.run(out),
        Command::Key(command) => command.run(out),
        Command::Sign(command) => command.run(out),
        Command::Embed(command) => command.run(out),
        Command::Index(command) => command.run(out),
        Command::Synth(command) => command.run(&progress),
    };
    match done.and_then(|()| Ok(out.flush()?)) {
        Ok(()) => 0,
        // Whoever read the results has gone away.
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            eprintln!("swr-train: {error:#}");
            2
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
    causes.any(|cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe)
}

impl Common {
    fn work(&self, name: &str) -> PathBuf {
        self.work
            .clone()
            .unwrap_or_else(|| PathBuf::from("target/train").join(name))
    }
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
