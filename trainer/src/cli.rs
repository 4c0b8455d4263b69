//! The commands of `swr-train`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::base::train_base;
use crate::checkpoint::Run;
use crate::config::{BASE_DEFAULT, BaseConfig, resolve};
use crate::evaluate::evaluate;
use crate::examples::Language;
use crate::progress::Progress;

/// Trains the base network and one weight delta per language under a budget.
#[derive(Parser)]
#[command(name = "swr-train", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Say nothing while working.
    #[arg(long, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Train the base network.
    Base(BaseArguments),
}

#[derive(clap::Args)]
struct BaseArguments {
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    extra: Vec<PathBuf>,
    #[arg(long, default_value = "en")]
    lang: String,
    #[arg(long)]
    config: Option<PathBuf>,
    #[arg(long = "set")]
    set: Vec<String>,
    #[arg(long, default_value = "target/train/base")]
    work: PathBuf,
    #[arg(long)]
    restart: bool,
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let progress = Progress { quiet: arguments.quiet };
    let done = match arguments.command {
        Command::Base(a) => base(&a, &progress),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("swr-train: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn base(a: &BaseArguments, progress: &Progress) -> Result<()> {
    let config: BaseConfig = resolve(a.config.as_deref(), BASE_DEFAULT, &a.set)?;
    let language = Language::load(&a.data, &a.extra, &a.lang, progress)?;
    let run = Run::open(&a.work, serde_json::to_value(&config)?, a.restart)?;
    let weights = train_base(&config, &language, &run, progress)?;
    println!("dev: {}", evaluate(&config.architecture, &weights, &language.dev, &language.labels)?);
    Ok(())
}
