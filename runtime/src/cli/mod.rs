//! The program `swr`: arguments come in, results go to the writer given (standard output), talk goes to standard error.
//!
//! Every command is a function of its arguments that tests call in process. Exit codes: 0 success, 1 a negative result
//! (nothing found, a budget exceeded), 2 an error.

mod bench;
mod demo;
#[cfg(feature = "live")]
mod devices;
mod diff;
#[cfg(feature = "eval")]
mod eval;
mod export;
#[cfg(feature = "eval")]
mod hearing;
mod inspect;
mod listen;
mod record;
mod releases;
mod script;
mod soak;
mod source;
mod spot;
#[cfg(feature = "eval")]
mod stream;
mod verify;
mod words;

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use swr_core::package::PublicKey;

use crate::models::{BASE_FILES, Models};
use crate::spotter::Event;

/// Environment variable with the directory of models.
const MODELS_VARIABLE: &str = "SWR_MODELS";
/// Environment variable with the public key that models must be signed with.
const KEY_VARIABLE: &str = "SWR_KEY";

/// Keyword spotting in many languages from one base network and a small delta per language
#[derive(Debug, Parser)]
#[command(
    name = "swr",
    version,
    after_help = "Exit codes: 0 success, 1 negative result (nothing found), 2 error."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Spot(spot::Spot),
    Listen(listen::Listen),
    #[cfg(feature = "live")]
    Devices(devices::Devices),
    Demo(demo::Demo),
    Inspect(inspect::Inspect),
    #[cfg(feature = "eval")]
    Eval(eval::Eval),
    Verify(verify::Verify),
    Diff(diff::Diff),
    Export(export::Export),
    Bench(bench::Bench),
    Record(record::Record),
    #[command(subcommand)]
    Models(releases::Releases),
}

/// Where the models are.
#[derive(Debug, Args)]
struct ModelsArgs {
    /// Directory with base.onnx, base.json and <language>.swr, or with a folder of these for every size [default: $SWR_MODELS, ./models, or models beside the program]
    #[arg(long = "models", value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Which of the sizes in the directory: `large` is to hear better, `small` to cost less [default: small]
    #[arg(long)]
    size: Option<Size>,
    /// Public key that base and deltas must be signed with: a file of minisign's, or its line of base64; may be repeated [default: $SWR_KEY]
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
}

/// A size that models are released in: the name of its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Size {
    Small,
    Large,
}

impl Size {
    fn folder(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Large => "large",
        }
    }
}

/// Which of several channels is heard.
#[derive(Debug, Args)]
struct ChannelArgs {
    /// Channel to hear alone, from 1, as of a microphone array [default: the mean of all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    channel: Option<u16>,
}

/// How a command that did not fail ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Success,
    Negative,
}

/// Runs the program on its own arguments, standard output and standard error.
pub fn main() -> ExitCode {
    let terminal = io::stdout().is_terminal();
    ExitCode::from(run_on(
        std::env::args_os(),
        &mut io::stdout().lock(),
        terminal,
    ))
}

/// Runs the program on `arguments`, whose first is the program's name, and writes results to `out`. Gives the exit code.
///
/// Errors go to standard error. A reader of `out` that has gone away (a broken pipe) ends the program quietly with success.
pub fn run<I>(arguments: I, out: &mut dyn Write) -> u8
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    run_on(arguments, out, false)
}

/// As [`run`]; `terminal` tells whether `out` is one.
fn run_on<I>(arguments: I, out: &mut dyn Write, terminal: bool) -> u8
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
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
    let outcome = match cli.command {
        Command::Spot(command) => command.run(out),
        Command::Listen(command) => command.run(out, terminal),
        #[cfg(feature = "live")]
        Command::Devices(command) => command.run(out),
        Command::Demo(command) => command.run(out),
        Command::Inspect(command) => command.run(out),
        #[cfg(feature = "eval")]
        Command::Eval(command) => command.run(out),
        Command::Verify(command) => command.run(out),
        Command::Diff(command) => command.run(out),
        Command::Export(command) => command.run(out),
        Command::Bench(command) => command.run(out),
        Command::Record(command) => command.run(out),
        Command::Models(command) => command.run(out),
    };
    match outcome.and_then(|outcome| out.flush().map(|()| outcome).map_err(Into::into)) {
        Ok(Outcome::Success) => 0,
        Ok(Outcome::Negative) => 1,
        Err(error) if is_broken_pipe(&error) => 0,
        Err(error) => {
            eprintln!("swr: {}", sentence(&error));
            2
        }
    }
}

/// The messages of an error and its causes on one line. Many of the project's errors quote their cause, which is then not repeated.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !sentence.contains(&cause) {
            let colon = if sentence.is_empty() { "" } else { ": " };
            sentence += &format!("{colon}{cause}");
        }
    }
    sentence
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

impl ModelsArgs {
    fn open(&self) -> anyhow::Result<Models> {
        self.open_directory(&self.directory()?)
    }

    fn open_directory(&self, directory: &Path) -> anyhow::Result<Models> {
        Ok(Models::open_trusting(directory, &self.keys()?)?)
    }

    /// The keys given, or the one of the environment.
    fn keys(&self) -> anyhow::Result<Vec<PublicKey>> {
        let variable = std::env::var(KEY_VARIABLE).ok();
        let given = if self.keys.is_empty() {
            variable.as_slice()
        } else {
            &self.keys
        };
        given.iter().map(|key| public_key(key)).collect()
    }

    /// The directory of the size asked for, in the directory given or the first of the usual ones that is there.
    fn directory(&self) -> anyhow::Result<PathBuf> {
        self.sized(self.given()?)
    }

    /// The folder of a size below `directory`; `directory` itself where it has no such folders, as every directory once was and a device's own may be.
    fn sized(&self, directory: PathBuf) -> anyhow::Result<PathBuf> {
        let below = |size: Size| directory.join(size.folder());
        match self.size {
            Some(size) if below(size).is_dir() => Ok(below(size)),
            Some(size) => bail!(
                "{}: expected a folder `{}` there; leave out --size for models that lie in the directory itself",
                directory.display(),
                size.folder()
            ),
            None if !directory.join(BASE_FILES[0]).exists() && below(Size::Small).is_dir() => {
                Ok(below(Size::Small))
            }
            None => Ok(directory),
        }
    }

    /// Where a release is to lie: as `directory`, but it may not be there yet.
    fn destination(&self) -> anyhow::Result<PathBuf> {
        let directory = self.told().unwrap_or_else(|| "models".into());
        match self.size {
            Some(size) if !directory.join(BASE_FILES[0]).exists() => {
                Ok(directory.join(size.folder()))
            }
            _ => self.sized(directory),
        }
    }

    /// The directory given as an option or in the environment.
    fn told(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os(MODELS_VARIABLE).map(PathBuf::from);
        self.directory.clone().or_else(variable)
    }

    /// The directory given, or the first of the usual ones that is there.
    fn given(&self) -> anyhow::Result<PathBuf> {
        if let Some(directory) = self.told() {
            return Ok(directory);
        }
        let beside = std::env::current_exe()
            .ok()
            .and_then(|program| Some(program.parent()?.join("models")));
        let usual: Vec<PathBuf> = [Some("models".into()), beside]
            .into_iter()
            .flatten()
            .collect();
        if let Some(directory) = usual.iter().find(|directory| directory.is_dir()) {
            return Ok(directory.clone());
        }
        let looked: Vec<String> = usual
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        bail!(
            "no directory of models found (looked for {}); give it with --models DIR or {MODELS_VARIABLE}",
            looked.join(" and ")
        )
    }
}

/// A public key from a file, or from its line of base64.
fn public_key(given: &str) -> anyhow::Result<PublicKey> {
    let text = match fs::read_to_string(given) {
        Ok(text) => text,
        Err(_) if given.len() == 56 => given.to_owned(),
        Err(error) => {
            return Err(error).with_context(|| {
                format!("{given}: no readable public key; give minisign's .pub file or its line of base64")
            });
        }
    };
    text.parse().with_context(|| given.to_owned())
}

/// The languages asked for: those given in their order, `all` for every one, the base's if none is given.
fn languages(models: &Models, asked: &[String]) -> anyhow::Result<Vec<String>> {
    if asked.is_empty() {
        return Ok(vec![models.manifest().language.clone()]);
    }
    if asked.iter().any(|language| language == "all") {
        return Ok(models.languages()?);
    }
    let mut languages: Vec<String> = Vec::new();
    for language in asked {
        if !languages.contains(language) {
            languages.push(language.clone());
        }
    }
    Ok(languages)
}

/// A number of minutes or seconds as an argument: finite and more than zero.
fn duration(typed: &str) -> Result<f64, String> {
    match typed.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("expected a number above 0".into()),
    }
}

/// A number from 0 to 1 as an argument.
fn share(typed: &str) -> Result<f32, String> {
    match typed.parse::<f32>() {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err("expected a number from 0 to 1".into()),
    }
}

/// Writes `value` as a line of JSON.
fn json_line(out: &mut dyn Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// An event as commands print it, with the file it was found in where there are several.
#[derive(Serialize)]
struct Printed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a Path>,
    #[serde(flatten)]
    event: &'a Event,
}

impl Printed<'_> {
    /// One line, for people or as JSON. The keyword comes last, since its width on a terminal is not known in every script.
    fn write(&self, out: &mut dyn Write, json: bool) -> anyhow::Result<()> {
        if json {
            return json_line(out, self);
        }
        if let Some(file) = self.file {
            write!(out, "{}  ", file.display())?;
        }
        let Event {
            time_s,
            language,
            keyword,
            score,
        } = self.event;
        writeln!(out, "{time_s:8.2} s  {language:<5} {score:4.2}  {keyword}")?;
        Ok(())
    }
}
