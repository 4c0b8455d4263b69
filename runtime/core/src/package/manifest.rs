//! The base's manifest, the JSON file beside the ONNX file: what the network is, how its features are made, how it is detected with.
//! Bytes come in and are checked, deterministic JSON goes out; the ONNX file itself is not touched here.

use alloc::{format, string::String, string::ToString, vec, vec::Vec};
use core::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Digest, PackageError,
    early::early_model_version,
    fields::{check_labels, check_language, check_model_version, check_name, check_thresholds},
};
use crate::FrontendSettings;
use crate::frontend::check_settings;
use crate::settings::Timing;

/// The manifest format that is written.
pub const MANIFEST_VERSION: u32 = 4;
/// The ones before it, which are read as well: their networks are detected with [`Timing::default`].
const OLD_MANIFEST_VERSIONS: RangeInclusive<u32> = 1..=2;
/// The one whose model version is a text.
const EARLY_MANIFEST_VERSION: u32 = 1;
/// Largest manifest that is read.
const MAX_MANIFEST_BYTES: usize = 1 << 20;
/// Bits of a calibrated threshold's step.
pub(super) const THRESHOLD_BITS: u32 = 7;
/// The step of the threshold 1.
const HUNDREDTHS: u32 = 100;
/// Steps in which the distance to 1 falls to a tenth.
const STEPS_A_NINE: f64 = 9.0;
/// Longest averaging window and context, in frames (10 minutes); more is a mistake.
const MAX_FRAMES: usize = 60_000;

/// Describes a base: its `.json` file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format of the manifest: [`MANIFEST_VERSION`], 2 or 1.
    pub format: u32,
    /// Version of the model, from 1; it rises with every release.
    pub model_version: u32,
    /// Name of the network, such as `bcresnet-causal tau=1`.
    pub architecture: String,
    /// BCP-47 code of the base's language.
    pub language: String,
    /// Labels in the order of the logits; the last two are `_unknown_` and `_silence_`.
    pub labels: Vec<String>,
    /// Detection thresholds, posteriors from 0 to 1.
    pub thresholds: Thresholds,
    /// The rate of false accepts that the thresholds were chosen for, if they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// How features are made.
    pub frontend: FrontendSettings,
    /// Frames over which logits are averaged.
    pub window_frames: usize,
    /// How posteriors become events, beside thresholds and window; none in the old format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timing: Option<Timing>,
    /// Frames of context that the network saw before a clip in training and evaluation.
    pub context_frames: usize,
    /// Licence of the weights, an SPDX expression.
    pub licence: String,
    /// [`digest`](super::digest) of the ONNX file's f32 initialisers.
    pub tensors_sha256: Digest,
    /// SHA-256 of the ONNX file's bytes.
    pub onnx_sha256: Digest,
    /// What a reader must know beyond this format; nothing yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// Where the weights come from: resolved configuration, seed, whatever the trainer records.
    pub training: Map<String, Value>,
}

/// Detection thresholds of a manifest: one for all labels, or one per label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Thresholds {
    /// The same for every label.
    ForAll(f32),
    /// One per label, in the labels' order.
    PerLabel(Vec<f32>),
}

/// What detection thresholds were chosen for, in a delta or a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Wanted false accepts per hour of all keywords together, above 0.
    pub false_accepts_per_hour: f32,
    /// Whether audio that took no part in the choice was long and quiet enough to show that the rate is kept, at 95 % confidence.
    pub verified: bool,
}

impl Calibration {
    /// The last step of [`Calibration::threshold`].
    pub const STEPS: u32 = (1 << THRESHOLD_BITS) - 1;

    /// The threshold of a step, 0 to [`Calibration::STEPS`]: so many hundredths up to 100, the f32 nearest to them; above, 1 - 10^-(2 + (step - 100) / 9), since
    /// what is rare shows close to 1.
    pub fn threshold(step: u32) -> f32 {
        match step {
            0..=HUNDREDTHS => step as f32 / 100.0,
            _ => {
                let nines = 2.0 + f64::from(step - HUNDREDTHS) / STEPS_A_NINE;
                (1.0 - libm::pow(10.0, -nines)) as f32
            }
        }
    }

    /// The steps of rising thresholds, from one of them on.
    pub fn steps_from(first: u32) -> impl Iterator<Item = f32> {
        let below = (first..HUNDREDTHS).map(Self::threshold);
        below.chain((HUNDREDTHS + 1..=Self::STEPS).map(Self::threshold))
    }

    /// The step of a threshold, the one nearest to it or the next.
    pub(super) fn step(threshold: f32) -> u32 {
        let rest = 1.0 - f64::from(threshold);
        if rest <= 0.0 {
            return HUNDREDTHS;
        }
        let above = libm::round((-libm::log10(rest) - 2.0) * STEPS_A_NINE);
        match above >= 1.0 {
            true => (HUNDREDTHS + above as u32).min(Self::STEPS),
            false => libm::round(100.0 * f64::from(threshold)) as u32,
        }
    }

    /// Checks the rate, and that the thresholds are steps.
    pub(super) fn check(&self, thresholds: &[f32]) -> Result<(), PackageError> {
        let bad = |reason| PackageError::BadField {
            field: "calibration",
            reason,
        };
        let rate = self.false_accepts_per_hour;
        if !(rate.is_finite() && rate > 0.0) {
            return Err(bad(format!(
                "expected false accepts per hour above 0, found {rate}"
            )));
        }
        let on_grid = |threshold: &&f32| {
            Self::threshold(Self::step(**threshold)).to_bits() == threshold.to_bits()
        };
        match thresholds.iter().find(|threshold| !on_grid(threshold)) {
            Some(threshold) => Err(bad(format!(
                "expected thresholds on the grid of FORMAT.md, such as whole hundredths, found {threshold}"
            ))),
            None => Ok(()),
        }
    }
}

impl Thresholds {
    /// One threshold for each of `labels` labels.
    pub fn per_label(&self, labels: usize) -> Vec<f32> {
        match self {
            Self::ForAll(threshold) => vec![*threshold; labels],
            Self::PerLabel(thresholds) => thresholds.clone(),
        }
    }
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`PackageError::UnsupportedVersion`] before anything else is looked at, then [`PackageError::UnknownNeed`],
    /// [`PackageError::UnknownFrontend`] for settings that the front end does not reproduce,
    /// [`PackageError::BadManifest`] for what is no such JSON object, [`PackageError::BadField`] for a value against its rule.
    pub fn parse(bytes: &[u8]) -> Result<Self, PackageError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(PackageError::TooLarge {
                what: "the manifest, in bytes,",
                found: bytes.len(),
                limit: MAX_MANIFEST_BYTES,
            });
        }
        let mut value: Value = serde_json::from_slice(bytes).map_err(bad_manifest)?;
        let format = value
            .get("format")
            .and_then(Value::as_u64)
            .and_then(|format| u32::try_from(format).ok())
            .ok_or_else(|| PackageError::BadManifest {
                reason: "it has no field \"format\" with the number of its format".into(),
            })?;
        if format != MANIFEST_VERSION && !OLD_MANIFEST_VERSIONS.contains(&format) {
            return Err(PackageError::UnsupportedVersion {
                what: "manifest",
                found: format,
                supported: MANIFEST_VERSION,
            });
        }
        // Before anything else, which such a feature may have changed.
        let needs = value.get("needs").and_then(Value::as_array);
        if let Some(feature) = needs.and_then(|needs| needs.first()) {
            return Err(PackageError::UnknownNeed {
                feature: feature.to_string(),
            });
        }
        if let Some(settings) = value.get("frontend") {
            check_frontend(settings)?;
        }
        if format == EARLY_MANIFEST_VERSION
            && let Some(Value::String(text)) = value.get("model_version")
        {
            value["model_version"] = early_model_version(text)?.into();
        }
        let manifest: Self = serde_json::from_value(value).map_err(bad_manifest)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Whether languages' deltas name the manifest's digest: those for a manifest of format 1 know of the base's tensors alone.
    pub fn deltas_name_it(&self) -> bool {
        self.format != EARLY_MANIFEST_VERSION
    }

    /// The manifest as JSON, indented by two spaces and ended by a line break; equal manifests give equal bytes.
    ///
    /// # Errors
    /// As [`Manifest::parse`]: what would not be read is not written.
    pub fn to_json(&self) -> Result<String, PackageError> {
        self.check()?;
        let mut json = serde_json::to_string_pretty(self).map_err(bad_manifest)?;
        json.push('\n');
        Self::parse(json.as_bytes())?;
        Ok(json)
    }

    fn check(&self) -> Result<(), PackageError> {
        check_model_version(self.model_version)?;
        check_name("architecture", &self.architecture)?;
        check_language(&self.language)?;
        check_labels(&self.labels)?;
        check_thresholds(
            &self.thresholds.per_label(self.labels.len()),
            self.labels.len(),
        )?;
        if let Some(calibration) = &self.calibration {
            calibration.check(&self.thresholds.per_label(self.labels.len()))?;
        }
        check_name("licence", &self.licence)?;
        check_frames("window_frames", self.window_frames, 1)?;
        check_frames("context_frames", self.context_frames, 0)?;
        match (OLD_MANIFEST_VERSIONS.contains(&self.format), &self.timing) {
            (true, None) => Ok(()),
            (true, Some(_)) => Err(PackageError::BadField {
                field: "timing",
                reason: format!("expected none in format {}", self.format),
            }),
            (false, None) => Err(PackageError::BadField {
                field: "timing",
                reason: format!("format {} needs it, and it is not there", self.format),
            }),
            (false, Some(timing)) => {
                check_frames("timing.smoothing_frames", timing.smoothing_frames, 1)?;
                check_frames("timing.confirm_frames", timing.confirm_frames, 0)?;
                check_frames("timing.refractory_frames", timing.refractory_frames, 0)
            }
        }
    }
}

fn check_frames(field: &'static str, frames: usize, least: usize) -> Result<(), PackageError> {
    if (least..=MAX_FRAMES).contains(&frames) {
        return Ok(());
    }
    Err(PackageError::BadField {
        field,
        reason: format!("expected {least} to {MAX_FRAMES} frames, found {frames}"),
    })
}

/// What cannot be read and what cannot be computed are the same mistake: a package for another front end.
fn check_frontend(settings: &Value) -> Result<(), PackageError> {
    let unknown = |reason: String| PackageError::UnknownFrontend { reason };
    let settings =
        FrontendSettings::deserialize(settings).map_err(|error| unknown(error.to_string()))?;
    check_settings(&settings).map_err(|error| unknown(error.to_string()))
}

fn bad_manifest(error: serde_json::Error) -> PackageError {
    PackageError::BadManifest {
        reason: error.to_string(),
    }
}
