//! The models folder as the trainer writes and reads it: `base.onnx`, `base.json`, one `<language>.swr` per language, and beside
//! each a `.training.json` with the resolved configuration and what came of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use swr_core::FrontendSettings;
use swr_core::detector::{CONTEXT_FRAMES, WINDOW_FRAMES};
use swr_core::package::{
    Delta, Digest, MANIFEST_VERSION, Manifest, Tensors, Thresholds, digest, merge,
    onnx::initializers,
};

use crate::architecture::Architecture;
use crate::files::{read, write_atomically, write_package};
use crate::network::Weights;
use crate::weights::{from_package, to_package};
use swr_core::network::graph::streaming_graph;

/// Version of the models written; it rises with every release.
pub const MODEL_VERSION: u32 = 2;
const BASE_ONNX: &str = "base.onnx";
pub(crate) const BASE_JSON: &str = "base.json";

/// A base as it lies in a models folder.
pub struct Base {
    /// Its description.
    pub manifest: Manifest,
    /// SHA-256 of the description's file.
    pub manifest_sha256: Digest,
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
        let bytes = std::fs::read(&path).with_context(missing)?;
        let manifest = Manifest::parse(&bytes).with_context(|| path.display().to_string())?;
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
        Ok(Self {
            manifest,
            manifest_sha256: Digest::of_bytes(&bytes),
            tensors,
        })
    }
}

impl Base {
    /// Its shape, where it is one that is trained here.
    pub fn architecture(&self) -> Result<Architecture> {
        Ok(Architecture::from_name(&self.manifest.architecture)?)
    }
}

/// A base's two files.
pub(crate) mod base_files {
    use super::*;

    /// A manifest for a network of whose origin nothing is known yet.
    pub(crate) fn manifest(tensors: &Tensors, onnx: &[u8]) -> Manifest {
        Manifest {
            format: MANIFEST_VERSION,
            model_version: MODEL_VERSION,
            architecture: String::new(),
            language: String::new(),
            labels: Vec::new(),
            thresholds: Thresholds::ForAll(0.0),
            calibration: None,
            frontend: FrontendSettings::default(),
            window_frames: WINDOW_FRAMES,
            context_frames: CONTEXT_FRAMES,
            licence: "MIT OR Apache-2.0".into(),
            tensors_sha256: digest(tensors),
            onnx_sha256: Digest::of_bytes(onnx),
            training: Map::new(),
        }
    }

    /// Writes graph, then manifest, each atomically; the manifest's digests are those of the graph.
    pub(crate) fn write(models: &Path, onnx: &[u8], manifest: Manifest) -> Result<()> {
        let manifest = Manifest {
            tensors_sha256: digest(&initializers(onnx)?),
            onnx_sha256: Digest::of_bytes(onnx),
            ..manifest
        };
        let json = manifest.to_json()?;
        write_atomically(&models.join(BASE_ONNX), onnx)?;
        write_package(&models.join(BASE_JSON), json.as_bytes())
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
        architecture: architecture.name(),
        language: language.into(),
        labels: labels.to_vec(),
        thresholds: Thresholds::ForAll(threshold),
        training,
        ..base_files::manifest(&tensors, &onnx)
    };
    base_files::write(models, &onnx, manifest)?;
    Ok(tensors)
}

/// Where a language's delta lies.
pub fn delta_path(models: &Path, language: &str) -> PathBuf {
    models.join(format!("{language}.swr"))
}

/// The deltas of a folder, sorted.
pub fn deltas(models: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(models).with_context(|| models.display().to_string())?;
    let mut deltas: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    deltas.retain(|path| path.extension().is_some_and(|e| e == "swr"));
    deltas.sort();
    Ok(deltas)
}

/// Labels and deployed weights of a language: the base's own, or the base merged with the language's delta.
pub fn read_language(
    models: &Path,
    language: &str,
) -> Result<(Architecture, Vec<String>, Weights)> {
    let base = Base::read(models)?;
    let (labels, tensors) = merged(&base, models, language)?;
    Ok((base.architecture()?, labels, from_package(&tensors)?))
}

/// Deployed tensors of a language, of whatever architecture.
pub fn merged_tensors(models: &Path, language: &str) -> Result<Tensors> {
    Ok(merged(&Base::read(models)?, models, language)?.1)
}

/// Labels and deployed tensors of a language on `base`.
pub(crate) fn merged(base: &Base, models: &Path, language: &str) -> Result<(Vec<String>, Tensors)> {
    if base.manifest.language == language {
        return Ok((base.manifest.labels.clone(), base.tensors.clone()));
    }
    let path = delta_path(models, language);
    let named = || path.display().to_string();
    let delta = Delta::read(&read(&path)?).with_context(named)?;
    let merged = merge(&base.tensors, &delta).with_context(named)?;
    delta
        .check_manifest(base.manifest_sha256)
        .with_context(named)?;
    Ok((delta.header().labels.clone(), merged))
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
