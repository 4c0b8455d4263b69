//! The models folder as the trainer writes and reads it: `base.onnx`, `base.json`, one `<language>.swr` per language, and beside
//! each a `.training.json` with the resolved configuration and what came of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value};
use swr_core::detector::Timing;
pub use swr_core::model::Base;
use swr_core::model::{Language, ModelError, Part, Signed, Trust};
use swr_core::package::{
    Calibration, Digest, MANIFEST_VERSION, Manifest, Tensors, Thresholds, digest,
    onnx::initializers,
};
use swr_core::{CONTEXT_FRAMES, FrontendSettings, WINDOW_FRAMES};

use crate::architecture::Architecture;
use crate::files::{read, write_atomically, write_package};
use crate::network::Weights;
use crate::weights::{from_package, to_package};
use swr_core::network::graph::streaming_graph;

/// Version of the models written; it rises with every release.
pub const MODEL_VERSION: u32 = 3;
const BASE_ONNX: &str = "base.onnx";
pub(crate) const BASE_JSON: &str = "base.json";

/// Reads a base and checks it as a device does.
pub fn read_base(models: &Path) -> Result<Base> {
    let path = models.join(BASE_JSON);
    let missing = || {
        format!(
            "{}: no base there; make one with `swr-train base --models {}`",
            path.display(),
            models.display()
        )
    };
    let manifest = std::fs::read(&path).with_context(missing)?;
    let onnx = models.join(BASE_ONNX);
    let base = Base::verify(unsigned(&manifest), &read(&onnx)?, Trust::Anyone);
    base.map_err(|error| match error {
        ModelError::WrongNetwork {
            what,
            expected,
            found,
        } => anyhow!(
            "{}: the digest of its {what} is {found}, {} expects {expected}; the two files do not belong together",
            onnx.display(),
            path.display()
        ),
        error => {
            let file = match error.part() {
                Part::Network => &onnx,
                _ => &path,
            };
            anyhow::Error::new(error).context(file.display().to_string())
        }
    })
}

/// What lies before and behind a base's network: how samples become features, and logits events.
#[derive(Clone, Copy, Debug)]
pub struct Pipeline {
    /// How features are made.
    pub frontend: FrontendSettings,
    /// Frames over which logits are averaged.
    pub window_frames: usize,
    /// How posteriors become events.
    pub timing: Timing,
}

impl Pipeline {
    /// That of a base.
    pub fn of(manifest: &Manifest) -> Self {
        Self {
            frontend: manifest.frontend,
            window_frames: manifest.window_frames,
            timing: manifest.timing.unwrap_or_default(),
        }
    }
}

/// Its shape, where it is one that is trained here.
pub fn architecture_of(base: &Base) -> Result<Architecture> {
    Ok(Architecture::from_name(&base.manifest().architecture)?)
}

/// Models of the trainer's own folders need no signature yet.
fn unsigned(file: &[u8]) -> Signed<'_> {
    Signed {
        file,
        signature: None,
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
            timing: Some(Timing::default()),
            context_frames: CONTEXT_FRAMES,
            licence: "MIT OR Apache-2.0".into(),
            tensors_sha256: digest(tensors),
            onnx_sha256: Digest::of_bytes(onnx),
            needs: Vec::new(),
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
    (language, labels): (&str, &[String]),
    (thresholds, calibration): (Thresholds, Option<Calibration>),
    pipeline: &Pipeline,
    training: Map<String, Value>,
) -> Result<Tensors> {
    let tensors = to_package(weights)?;
    let onnx = streaming_graph(architecture.tau, &tensors)?;
    let manifest = Manifest {
        architecture: architecture.name(),
        language: language.into(),
        labels: labels.to_vec(),
        thresholds,
        calibration,
        frontend: pipeline.frontend,
        window_frames: pipeline.window_frames,
        timing: Some(pipeline.timing),
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

/// A language and its deployed weights: the base's own, or the base merged with the language's delta.
pub fn read_language(models: &Path, language: &str) -> Result<(Architecture, Language, Weights)> {
    let base = read_base(models)?;
    let (language, tensors) = merged(&base, models, language)?;
    let architecture = architecture_of(&base)?;
    Ok((architecture, language, from_package(&tensors)?))
}

/// A language on `base`, and its deployed tensors, of whatever architecture.
pub(crate) fn merged(base: &Base, models: &Path, code: &str) -> Result<(Language, Arc<Tensors>)> {
    if base.manifest().language == code {
        return Ok((base.language(), Arc::clone(base.tensors())));
    }
    let path = delta_path(models, code);
    let merged = base.merge(code, unsigned(&read(&path)?), Trust::Anyone);
    let (language, tensors) = merged.with_context(|| path.display().to_string())?;
    Ok((language, Arc::new(tensors)))
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
