//! `swr inspect`: what base and deltas hold and cost. Every delta is merged for it, so a file that is listed is whole and fits the base.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use swr_core::package::{Budget, Calibration, ChangeBytes, Counts, Limit, Sizes, changed};

use super::{ModelsArgs, Outcome, json_line};
use crate::models::{DeltaFile, Models};

/// Show base and deltas: labels, budget, changed weights recounted, bytes part by part
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr inspect
  swr inspect models --json
  swr inspect models/small/ar.swr

The changed weights are recounted from the merged network against the base. `changed` and `allowed` are in the budget's unit:
convolution weights for 10%, all weights for 10%all, bytes of the file for 4000B.
Exits with 1 if a delta exceeds its budget.")]
pub(super) struct Inspect {
    /// Directory of models, or one .swr file [default: the directory of --models]
    #[arg(value_name = "DIR|FILE")]
    path: Option<PathBuf>,
    /// One JSON object per delta
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsArgs,
}

/// One delta; the line of `--json`.
#[derive(Serialize)]
struct Report {
    lang: String,
    file: PathBuf,
    /// Version of the file's format.
    format: u16,
    model_version: u32,
    /// Whether a signature is embedded; `swr verify --key` tells whose.
    signed: bool,
    synthetic: bool,
    labels: usize,
    /// The rate of false accepts that the thresholds were chosen for, and whether it is verified.
    calibration: Option<Calibration>,
    /// None: it was made without a budget.
    budget: Option<String>,
    /// What `changed` and `allowed` count.
    unit: &'static str,
    changed: usize,
    allowed: usize,
    /// Weights that differ from the base's, by group; the classifier's are replaced and all counted.
    changed_weights: Counts,
    /// Weights of the base, by group.
    base_weights: Counts,
    file_bytes: usize,
    /// Of formats 1 and 2, as the file would be if it were written again.
    parts: Vec<Part>,
}

/// Bytes of one part of the file; together they are the whole.
#[derive(Serialize)]
struct Part {
    /// Name of the part, or of the changed tensor.
    part: String,
    bytes: usize,
    /// Of a changed tensor: the bytes that say which weights change.
    #[serde(skip_serializing_if = "Option::is_none")]
    positions_bytes: Option<usize>,
    /// Of a changed tensor: the bytes of the new values and their scales.
    #[serde(skip_serializing_if = "Option::is_none")]
    values_bytes: Option<usize>,
}

impl Inspect {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let (models, files) = self.open()?;
        let reports: Vec<Report> = files
            .iter()
            .map(|file| Report::new(&models, file))
            .collect::<anyhow::Result<_>>()?;
        if self.json {
            for report in &reports {
                json_line(out, report)?;
            }
        } else {
            write_base(&models, out)?;
            write_table(&reports, out)?;
            for report in &reports {
                report.write_parts(out)?;
            }
        }
        let within = reports
            .iter()
            .all(|report| report.changed <= report.allowed);
        Ok(if within {
            Outcome::Success
        } else {
            Outcome::Negative
        })
    }

    /// The base, and the deltas asked for: all of a directory, or the one file.
    fn open(&self) -> anyhow::Result<(Models, Vec<DeltaFile>)> {
        match self.path.as_deref() {
            Some(path) if !path.is_dir() => {
                let file = DeltaFile::read(path)?;
                let beside = path
                    .parent()
                    .filter(|parent| parent.join("base.json").is_file());
                let models = match beside {
                    Some(directory) if self.models.directory.is_none() => {
                        self.models.open_directory(directory)?
                    }
                    _ => self.models.open()?,
                };
                Ok((models, vec![file]))
            }
            directory => {
                let models = match directory {
                    Some(directory) => {
                        let sized = self.models.sized(directory.to_owned())?;
                        self.models.open_directory(&sized)?
                    }
                    None => self.models.open()?,
                };
                let languages = models.languages()?;
                let files = languages[1..].iter().map(|language| models.delta(language));
                let files = files.collect::<Result<_, _>>()?;
                Ok((models, files))
            }
        }
    }
}

impl Report {
    fn new(models: &Models, file: &DeltaFile) -> anyhow::Result<Report> {
        let merged = models.merge(file)?;
        let base_weights = Counts::of(models.tensors());
        let changed_weights = changed(models.tensors(), &merged)?;
        let header = file.delta.header();
        let names: Vec<&String> = models.tensors().keys().collect();
        Ok(Report {
            lang: header.language.clone(),
            file: file.path.clone(),
            format: file.delta.format(),
            model_version: header.model_version,
            signed: file.delta.has_signature(),
            synthetic: header.synthetic,
            labels: header.labels.len(),
            calibration: header.calibration,
            budget: header.budget.as_ref().map(Budget::to_string),
            unit: match header.budget.as_ref().map(Budget::limit) {
                Some(Limit::ConvolutionShare(_)) => "convolution weights",
                Some(Limit::AllShare(_)) | None => "weights",
                Some(Limit::FileBytes(_)) => "bytes",
            },
            changed: match &header.budget {
                Some(budget) => budget.used(&changed_weights, file.file_bytes),
                None => changed_weights.all(),
            },
            allowed: match &header.budget {
                Some(budget) => budget.allowed(&base_weights),
                None => base_weights.all(),
            },
            changed_weights,
            base_weights,
            file_bytes: file.file_bytes,
            parts: parts(&file.delta.sizes(), &names),
        })
    }

    fn write_parts(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        let synthetic = if self.synthetic {
            ", trained on synthetic speech"
        } else {
            ""
        };
        writeln!(
            out,
            "\n{} (model version {}, format {}{synthetic}{})",
            self.file.display(),
            self.model_version,
            self.format,
            if self.signed { ", signed" } else { "" }
        )?;
        let Counts {
            convolution,
            norms,
            classifier,
            other,
        } = self.changed_weights;
        writeln!(
            out,
            "  weights changed: {convolution} of {} convolution, {norms} of {} norms, {other} of {} others; classifier replaced: {classifier}",
            self.base_weights.convolution, self.base_weights.norms, self.base_weights.other
        )?;
        if let Some(calibration) = &self.calibration {
            let proof = if calibration.verified {
                "verified"
            } else {
                "not verified"
            };
            let rate = calibration.false_accepts_per_hour;
            writeln!(
                out,
                "  thresholds for {rate} false accepts an hour, {proof}"
            )?;
        }
        for part in &self.parts {
            write!(out, "  {:>8} B  {}", part.bytes, part.part)?;
            if let (Some(positions), Some(values)) = (part.positions_bytes, part.values_bytes) {
                write!(out, " (positions {positions}, values {values})")?;
            }
            writeln!(out)?;
        }
        let parts_bytes: usize = self.parts.iter().map(|part| part.bytes).sum();
        match parts_bytes == self.file_bytes {
            true => writeln!(out, "  {:>8} B  together", self.file_bytes)?,
            false => writeln!(
                out,
                "  {parts_bytes:>8} B  together, written again; the file's older format takes {} B",
                self.file_bytes
            )?,
        }
        Ok(())
    }
}

fn parts(sizes: &Sizes, names: &[&String]) -> Vec<Part> {
    let plain = |part: &str, bytes| Part {
        part: part.to_owned(),
        bytes,
        positions_bytes: None,
        values_bytes: None,
    };
    let tensor = |change: &ChangeBytes| Part {
        part: names
            .get(change.tensor)
            .map_or_else(String::new, |name| name.to_string()),
        bytes: change.total(),
        positions_bytes: Some(change.positions_bytes),
        values_bytes: Some(change.values_bytes),
    };
    let mut parts = vec![
        plain("header", sizes.header_bytes),
        plain("digests", sizes.digests_bytes),
        plain("provenance", sizes.provenance_bytes),
        plain("labels", sizes.labels_bytes),
        plain("thresholds", sizes.thresholds_bytes),
    ];
    parts.extend(sizes.changes.iter().map(tensor));
    parts.push(plain("signature", sizes.signature_bytes));
    parts.push(plain("checksum", sizes.checksum_bytes));
    parts
}

fn write_base(models: &Models, out: &mut dyn Write) -> anyhow::Result<()> {
    let manifest = models.manifest();
    let Counts {
        convolution,
        norms,
        classifier,
        other,
    } = Counts::of(models.tensors());
    writeln!(
        out,
        "base {} (model version {}), {}, {} labels, {}",
        manifest.language,
        manifest.model_version,
        manifest.architecture,
        manifest.labels.len(),
        manifest.licence
    )?;
    writeln!(
        out,
        "  {} B onnx; weights: {convolution} convolution, {norms} norms, {classifier} classifier, {other} others\n",
        models.onnx().len()
    )?;
    Ok(())
}

fn write_table(reports: &[Report], out: &mut dyn Write) -> anyhow::Result<()> {
    if reports.is_empty() {
        writeln!(out, "no deltas; add a language with `swr-train adapt`")?;
        return Ok(());
    }
    writeln!(
        out,
        "{:<6} {:>6} {:>8} {:>8} {:>8}  {:<20} {:>8}",
        "lang", "labels", "budget", "changed", "allowed", "of", "bytes"
    )?;
    for report in reports {
        let over = if report.changed > report.allowed {
            "  OVER BUDGET"
        } else {
            ""
        };
        writeln!(
            out,
            "{:<6} {:>6} {:>8} {:>8} {:>8}  {:<20} {:>8}{over}",
            report.lang,
            report.labels,
            report.budget.as_deref().unwrap_or("-"),
            report.changed,
            report.allowed,
            report.unit,
            report.file_bytes
        )?;
    }
    Ok(())
}
