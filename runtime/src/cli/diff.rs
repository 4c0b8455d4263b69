//! `swr diff`: what two deltas change alike and what each changes alone.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use swr_core::package::{Change, Delta, Edit, Label};

use super::{ModelsArgs, Outcome, json_line};
use crate::models::{DeltaFile, Models};

/// Compare two deltas: headers, changed tensors, weights changed by both
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr diff models/small/ar.swr models/small/zh.swr
  swr diff old/ar.swr new/ar.swr --json

Exits with 0 if the deltas do the same under the same header, 1 if they differ, 2 on an error.")]
pub(super) struct Diff {
    /// One delta
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The other
    #[arg(value_name = "B")]
    b: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsArgs,
}

/// The object of `--json`.
#[derive(Serialize)]
struct Report {
    equal: bool,
    /// Fields of the header that differ, with both values.
    header: Vec<Field>,
    bytes: [usize; 2],
    tensors: Vec<Row>,
}

#[derive(Serialize)]
struct Field {
    field: &'static str,
    a: String,
    b: String,
}

/// A tensor that at least one of them changes.
#[derive(Serialize)]
struct Row {
    tensor: String,
    /// Weights that each changes.
    changed: [usize; 2],
    /// Weights that both change.
    both: usize,
    /// Whether both change it to the same.
    same: bool,
}

impl Diff {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let (a, b) = (DeltaFile::read(&self.a)?, DeltaFile::read(&self.b)?);
        let keys = self.models.keys()?;
        a.check_signature(&keys)?;
        b.check_signature(&keys)?;
        // Names come from the base that both fit, where it is at hand.
        let fits = |models: &Models| {
            let base = models.manifest().tensors_sha256;
            [&a, &b].iter().all(|file| file.delta.base_digest() == base)
        };
        let names: Vec<String> = match self.models.open() {
            Ok(models) if fits(&models) => models.tensors().keys().cloned().collect(),
            _ => Vec::new(),
        };
        let report = Report {
            equal: a.delta.clone().with_signature([0; 64])
                == b.delta.clone().with_signature([0; 64]),
            header: header(&a.delta, &b.delta),
            bytes: [a.file_bytes, b.file_bytes],
            tensors: rows(&a.delta, &b.delta, &names),
        };
        if self.json {
            json_line(out, &report)?;
        } else {
            report.write(out)?;
        }
        Ok(if report.equal {
            Outcome::Success
        } else {
            Outcome::Negative
        })
    }
}

fn header(a: &Delta, b: &Delta) -> Vec<Field> {
    let text = |delta: &Delta| {
        let header = delta.header();
        [
            ("base", delta.base_digest().to_string()),
            (
                "manifest",
                header.manifest.map_or("-".into(), |d| d.to_string()),
            ),
            ("language", header.language.clone()),
            ("model version", header.model_version.to_string()),
            (
                "budget",
                header.budget.as_ref().map_or("-".into(), |b| b.to_string()),
            ),
            ("labels", joined(&header.labels)),
            ("thresholds", format!("{:?}", header.thresholds)),
            ("synthetic", header.synthetic.to_string()),
            ("provenance", header.provenance.clone()),
        ]
    };
    text(a)
        .into_iter()
        .zip(text(b))
        .filter(|((_, a), (_, b))| a != b)
        .map(|((field, a), (_, b))| Field { field, a, b })
        .collect()
}

fn joined(labels: &[Label]) -> String {
    let texts: Vec<String> = labels.iter().map(Label::to_string).collect();
    texts.join(", ")
}

fn rows(a: &Delta, b: &Delta, names: &[String]) -> Vec<Row> {
    let by_tensor = |delta: &Delta| -> BTreeMap<usize, Change> {
        let changes = delta.changes().iter().cloned();
        changes.map(|change| (change.tensor, change)).collect()
    };
    let (a, b) = (by_tensor(a), by_tensor(b));
    let mut tensors: Vec<usize> = a.keys().chain(b.keys()).copied().collect();
    tensors.sort_unstable();
    tensors.dedup();
    let row = |tensor: usize| {
        let (a, b) = (a.get(&tensor), b.get(&tensor));
        let weights = [a, b].map(|change| change.map(weights).unwrap_or_default());
        Row {
            tensor: names
                .get(tensor)
                .cloned()
                .unwrap_or_else(|| format!("tensor {tensor}")),
            changed: [weights[0].len(), weights[1].len()],
            both: weights[0]
                .iter()
                .filter(|index| weights[1].binary_search(index).is_ok())
                .count(),
            same: a == b,
        }
    };
    tensors.into_iter().map(row).collect()
}

/// Indexes of the weights that a change touches, ascending.
fn weights(change: &Change) -> Vec<u32> {
    match &change.edit {
        Edit::Add { positions, .. } | Edit::Step { positions, .. } => positions.indexes.clone(),
        Edit::Replace { shape, .. } => (0..shape.iter().product::<usize>() as u32).collect(),
    }
}

impl Report {
    fn write(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        if self.equal {
            writeln!(out, "the deltas do the same")?;
            return Ok(());
        }
        writeln!(out, "{} and {} bytes", self.bytes[0], self.bytes[1])?;
        for Field { field, a, b } in &self.header {
            writeln!(out, "{field}:\n  {a}\n  {b}")?;
        }
        writeln!(
            out,
            "\n{:<32} {:>8} {:>8} {:>8}",
            "weights changed", "A", "B", "both"
        )?;
        for row in &self.tensors {
            let same = if row.same { "  same" } else { "" };
            writeln!(
                out,
                "{:<32} {:>8} {:>8} {:>8}{same}",
                row.tensor, row.changed[0], row.changed[1], row.both
            )?;
        }
        Ok(())
    }
}
