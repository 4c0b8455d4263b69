//! `swr export`: base and delta merged into one plain ONNX file, for any runtime.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use swr_core::package::{merge, onnx::initializers};

use super::{ModelsArgs, Outcome, json_line};
use crate::engine::merged_onnx;
use crate::files::write_atomically;
use crate::models::{DeltaFile, package_error, read};

/// Write a language's merged network as plain ONNX
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr export --lang ar -o ar.onnx
  swr export --base theirs.onnx --delta tuned.swr -o tuned.onnx     of any network, see `swr-train delta`

The file has the base's graph with the merged weights, and runs wherever ONNX does.")]
pub(super) struct Export {
    /// Language to export
    #[arg(
        long,
        value_name = "L",
        required_unless_present = "delta",
        conflicts_with = "delta"
    )]
    lang: Option<String>,
    /// Any delta, in place of a language's
    #[arg(long, value_name = "FILE", requires = "base")]
    delta: Option<PathBuf>,
    /// The network that --delta fits
    #[arg(long, value_name = "ONNX", requires = "delta")]
    base: Option<PathBuf>,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsArgs,
}

/// The object of `--json`.
#[derive(Serialize)]
struct Written<'a> {
    file: &'a Path,
    bytes: usize,
}

impl Export {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let bytes = match (&self.lang, &self.base, &self.delta) {
            (_, Some(base), Some(delta)) => {
                let delta = DeltaFile::read(delta)?;
                delta.check_signature(&self.models.keys()?)?;
                merged_from_files(base, &delta)?
            }
            (lang, _, _) => {
                let models = self.models.open()?;
                models
                    .load(lang.as_deref().unwrap_or_default())?
                    .to_onnx()?
            }
        };
        write_atomically(&self.out, &bytes)?;
        if self.json {
            json_line(
                out,
                &Written {
                    file: &self.out,
                    bytes: bytes.len(),
                },
            )?;
        } else {
            writeln!(out, "{}: {} bytes", self.out.display(), bytes.len())?;
        }
        Ok(Outcome::Success)
    }
}

fn merged_from_files(base: &Path, delta: &DeltaFile) -> anyhow::Result<Vec<u8>> {
    let onnx = read(base, "give the network that the delta was made from")?;
    let tensors = initializers(&onnx).map_err(package_error(base))?;
    let merged = merge(&tensors, &delta.delta).map_err(package_error(&delta.path))?;
    Ok(merged_onnx(&onnx, &merged)?)
}
