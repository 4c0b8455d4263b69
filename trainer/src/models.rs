//! The models folder as the trainer writes and reads it: `base.onnx`, `base.json`, one `<language>.swr` per language, and beside
//! each a `.training.json` with the resolved configuration and what came of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use swr_core::FrontendSettings;
use swr_core::detector::{CONTEXT_FRAMES, WINDOW_FRAMES};
use swr_core::package::{
    Delta, Digest, Manifest, Tensors, Thresholds, digest, merge, onnx::initializers,
};

use crate::architecture::Architecture;
use crate::export::streaming_graph;
use crate::files::{read, write_atomically};
use crate::network::Weights;
use crate::weights::{from_package, to_package};

/// Version of the models written; it rises with every release of retrained weights.
pub const MODEL_VERSION: &str = "1";
const BASE_ONNX: &str = "base.onnx";
const BASE_JSON: &str = "base.json";

/// A base as it lies in a models folder.
pub struct Base {
    /// Its description.
    pub manifest: Manifest,
    /// Its shape.
    pub architecture: Architecture,
    /// Its deployed tensors.
    pub tensors: Tensors,
}

impl Base {
    /// Reads a base and checks its tensors against the manifest.
    pub fn read(models: &Path) -> Result<Self> {
        let path = models.join(BASE_JSON);
        let missing = || {
            format!(
                "{}: no base there; make one with `swr-train base --models {}`",
                path.display(),
                models.display()
            )
        };
        let manifest = Manifest::parse(&std::fs::read(&path).with_context(missing)?)
            .with_context(|| path.display().to_string())?;
        let onnx = models.join(BASE_ONNX);
        let tensors = initializers(&read(&onnx)?).with_context(|| onnx.display().to_string())?;
        let found = digest(&tensors);
        if found != manifest.tensors_sha256 {
            bail!(
                "{}: the tensors' digest is {found}, {} expects {}; the two files do not belong together",
                onnx.display(),
                path.display(),
                manifest.tensors_sha256
            );
        }
        let architecture = Architecture::from_name(&manifest.architecture)
            .with_context(|| path.display().to_string())?;
        Ok(Self {
            manifest,
            architecture,
            tensors,
        })
    }
}

/// Writes a base: graph, then manifest, each atomically.
pub fn write_base(
    models: &Path,
    architecture: &Architecture,
    weights: &Weights,
    language: &str,
    labels: &[String],
    threshold: f32,
    training: Map<String, Value>,
) -> Result<Tensors> {
    let tensors = to_package(weights)?;
    let onnx = streaming_graph(architecture.tau, &tensors)?;
    let manifest = Manifest {
        format: swr_core::package::MANIFEST_VERSION,
        model_version: MODEL_VERSION.into(),
        architecture: architecture.name(),
        language: language.into(),
        labels: labels.to_vec(),
        thresholds: Thresholds::ForAll(threshold),
        frontend: FrontendSettings::default(),
        window_frames: WINDOW_FRAMES,
        context_frames: CONTEXT_FRAMES,
        licence: "MIT OR Apache-2.0".into(),
        tensors_sha256: digest(&tensors),
        onnx_sha256: Digest::of_bytes(&onnx),
        training,
    };
    let json = manifest.to_json()?;
    write_atomically(&models.join(BASE_ONNX), &onnx)?;
    write_atomically(&models.join(BASE_JSON), json.as_bytes())?;
    Ok(tensors)
}

/// Where a language's delta lies.
pub fn delta_path(models: &Path, language: &str) -> PathBuf {
    models.join(format!("{language}.swr"))
}

/// Labels and deployed weights of a language: the base's own, or the base merged with the language's delta.
pub fn read_language(
    models: &Path,
    language: &str,
) -> Result<(Architecture, Vec<String>, Weights)> {
    let base = Base::read(models)?;
    if base.manifest.language == language {
        return Ok((
            base.architecture,
            base.manifest.labels,
            from_package(&base.tensors)?,
        ));
    }
    let path = delta_path(models, language);
    let delta = Delta::read(&read(&path)?).with_context(|| path.display().to_string())?;
    let merged = merge(&base.tensors, &delta).with_context(|| path.display().to_string())?;
    Ok((
        base.architecture,
        delta.header().labels.clone(),
        from_package(&merged)?,
    ))
}

/// Where the record of how a model was made lies.
pub fn report_path(models: &Path, name: &str) -> PathBuf {
    models.join(format!("{name}.training.json"))
}

/// Notes beside a model how it was made and what came of it.
pub fn write_report(models: &Path, name: &str, report: &Value) -> Result<()> {
    let json = serde_json::to_string_pretty(report).context("the report is not JSON")?;
    write_atomically(&report_path(models, name), format!("{json}\n").as_bytes())
}
