//! The commands of `swr-train` that turn weights into packages and back, whoever trained them: a base, a language, a delta between any two
//! networks, and merged networks as ONNX and safetensors.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use candle_core::Device;
use clap::{Args, ValueEnum};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::json;
use swr_core::MEL_BINS;
use swr_core::audio::decode_16k_mono;
use swr_core::frontend::log_mel;
use swr_core::labels::{SILENCE, UNKNOWN};
use swr_core::package::{
    Budget, Counts, Delta, DeltaHeader, Label, MAX_QUANTISED_BITS, Manifest, Precision, Steps,
    Tensor, Tensors, Thresholds, changed, merge,
    onnx::{Storage, check_same_graph, initializers, store},
};
use swr_dataset::nfc;

use crate::architecture::Architecture;
use crate::files::{read, write_atomically, write_package};
use crate::models::{MODEL_VERSION, base_files, delta_path, merged, read_base, read_language};
use crate::network::{Pass, Weights, frame_logits};
use crate::weights::to_package;
use swr_core::network::graph::streaming_graph;

/// Frames that the trainer's own pass computes at once, and frames before them that the network must have seen (its receptive field is 117).
const CHUNK_FRAMES: usize = 3_000;
const LEAD_FRAMES: usize = 128;

/// Extension of what `unpack` writes and `pack` reads beside ONNX.
const SAFETENSORS: &str = "safetensors";
/// How closely a delta keeps to the tuned network.
#[derive(Args, Clone, Copy)]
struct PrecisionArguments {
    /// Quantise differences to a sign and so many bits: 7 is int8, 3 is int4
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_QUANTISED_BITS)))]
    bits: Option<u32>,
    /// Quantise in even steps, which take fewer bytes, instead of steps that grow with the value, which spare small values beside large ones
    #[arg(long)]
    even: bool,
    /// Round differences to ten fraction bits, as f16 has
    #[arg(long, conflicts_with_all = ["bits", "even"])]
    rounded: bool,
    /// Keep every bit of the tuned network
    #[arg(long, conflicts_with_all = ["bits", "even", "rounded"])]
    lossless: bool,
}

impl PrecisionArguments {
    fn or(self, default: Precision) -> Precision {
        let steps = if self.even {
            Steps::Even
        } else {
            Steps::Growing
        };
        match self {
            Self { lossless: true, .. } => Precision::Lossless,
            Self { rounded: true, .. } => Precision::Rounded,
            Self {
                bits: None,
                even: false,
                ..
            } => default,
            Self { bits, .. } => Precision::Quantised(bits.unwrap_or(MAX_QUANTISED_BITS), steps),
        }
    }
}

/// How weights lie in a base's file.
#[derive(Clone, Copy, ValueEnum)]
enum BaseValues {
    /// As they are.
    F32,
    /// Half the bytes.
    F16,
    /// A quarter of the bytes, with a scale per output channel.
    Int8,
}

#[derive(Args)]
#[command(after_help = "Examples:
  swr-train pack --lang sv --tuned sv.safetensors --labels sv.txt --threshold 0.8
  swr-train pack --base network.onnx --lang en --labels en.txt --models out
  swr-train pack --base models/small/base.onnx --manifest models/small/base.json --values f16 --models out

The labels file has a keyword a line, in the order of the classifier's rows; `_unknown_` and `_silence_` come last and may be left out.
A tuned network has the base's tensors under the base's names, as safetensors or ONNX; the classifier has a row per label.")]
pub(super) struct Pack {
    /// BCP-47 code of the language
    #[arg(long, value_name = "L", required_unless_present = "manifest")]
    lang: Option<String>,
    /// Weights of the language, to become a delta on the base of --models
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "base",
        conflicts_with = "base"
    )]
    tuned: Option<PathBuf>,
    /// A streaming ONNX network, to become the base of --models
    #[arg(long, value_name = "ONNX")]
    base: Option<PathBuf>,
    /// Keywords, one a line
    #[arg(long, value_name = "FILE", required_unless_present = "manifest")]
    labels: Option<PathBuf>,
    /// Detection threshold of every keyword
    #[arg(long, default_value_t = 0.7)]
    threshold: f32,
    /// Version of the model; it must rise with every release
    #[arg(long)]
    model_version: Option<u32>,
    /// Refuse a delta that exceeds this
    #[arg(long, conflicts_with = "base")]
    budget: Option<Budget>,
    /// The weights were trained on synthetic speech
    #[arg(long)]
    synthetic: bool,
    /// Where the weights come from, in a sentence
    #[arg(long, default_value = "swr-train pack")]
    provenance: String,
    /// Manifest to take all but the digests from, in place of --lang and --labels
    #[arg(long, value_name = "FILE", requires = "base")]
    manifest: Option<PathBuf>,
    /// How the base's weights are stored; a delta fits the base as it is stored
    #[arg(long, value_enum, default_value = "f32", requires = "base")]
    values: BaseValues,
    /// Name of the network in the manifest
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "unknown",
        requires = "base"
    )]
    architecture: String,
    /// Licence of the base's weights, an SPDX expression
    #[arg(
        long,
        value_name = "SPDX",
        default_value = "MIT OR Apache-2.0",
        requires = "base"
    )]
    licence: String,
    #[command(flatten)]
    precision: PrecisionArguments,
    /// Folder of models
    #[arg(long, value_name = "DIR", default_value = "models/small")]
    models: PathBuf,
}

#[derive(Args)]
#[command(after_help = "Example:\n  swr-train unpack --lang ar --out ar.safetensors")]
pub(super) struct Unpack {
    /// Language whose merged weights are written
    #[arg(long, value_name = "L")]
    lang: String,
    /// The safetensors file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Folder of models
    #[arg(long, value_name = "DIR", default_value = "models/small")]
    models: PathBuf,
}

#[derive(Args)]
#[command(after_help = "Examples:
  swr-train delta base.onnx tuned.onnx --out tuned.swr                 every bit of the tuned network
  swr-train delta base.onnx tuned.safetensors --out tuned.swr --bits 7
  swr export --base base.onnx --delta tuned.swr --out again.onnx

Works for any network: the two have the same f32 tensors in the same shapes, whoever trained them.")]
pub(super) struct MakeDelta {
    /// The network that is there already: .onnx or .safetensors
    #[arg(value_name = "BASE")]
    base: PathBuf,
    /// What it is to become
    #[arg(value_name = "TUNED")]
    tuned: PathBuf,
    /// The delta
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
    /// Where the change comes from, in a sentence
    #[arg(long, default_value = "")]
    provenance: String,
    /// Version of the tuned network
    #[arg(long, default_value_t = 1)]
    model_version: u32,
    #[command(flatten)]
    precision: PrecisionArguments,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

fn is_safetensors(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == SAFETENSORS)
}

/// Weights by name from an ONNX or safetensors file.
fn read_tensors(path: &Path) -> Result<Tensors> {
    let bytes = read(path)?;
    if is_safetensors(path) {
        read_safetensors(&bytes).with_context(|| path.display().to_string())
    } else {
        initializers(&bytes).with_context(|| path.display().to_string())
    }
}

/// The f32 tensors. Integers, such as the number of batches that a norm has counted, are no weights; they are refused only where they differ ([`check_same_integers`]).
fn read_safetensors(bytes: &[u8]) -> Result<Tensors> {
    let file = SafeTensors::deserialize(bytes).context("not a safetensors file")?;
    let mut tensors = Tensors::new();
    for (name, view) in file.tensors() {
        if is_integer(view.dtype()) {
            continue;
        }
        ensure!(
            view.dtype() == Dtype::F32,
            "tensor {name}: expected F32, found {:?}; convert it when it is saved",
            view.dtype()
        );
        let values = view.data().chunks_exact(4);
        let values = values.map(|v| f32::from_le_bytes([v[0], v[1], v[2], v[3]]));
        let tensor = Tensor::new(view.shape().to_vec(), values.collect());
        tensors.insert(name, tensor);
    }
    ensure!(
        !tensors.is_empty(),
        "it has no F32 tensor; give an f32 model"
    );
    Ok(tensors)
}

fn is_integer(kind: Dtype) -> bool {
    use Dtype::{BOOL, I8, I16, I32, I64, U8, U16, U32, U64};
    [BOOL, I8, I16, I32, I64, U8, U16, U32, U64].contains(&kind)
}

/// Refuses two safetensors files whose integers are not the same: a delta does not hold them.
fn check_same_integers(base: &Path, tuned: &Path) -> Result<()> {
    if !is_safetensors(base) || !is_safetensors(tuned) {
        return Ok(());
    }
    let (base_bytes, tuned_bytes) = (read(base)?, read(tuned)?);
    let [base_file, tuned_file] =
        [(base, &base_bytes), (tuned, &tuned_bytes)].map(|(path, bytes)| {
            SafeTensors::deserialize(bytes).with_context(|| path.display().to_string())
        });
    let (base_file, tuned_file) = (base_file?, tuned_file?);
    let integers = |file: &SafeTensors| -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
        let all = file.tensors().into_iter();
        all.filter(|(_, view)| is_integer(view.dtype()))
            .map(|(name, view)| {
                (
                    name,
                    (view.dtype(), view.shape().to_vec(), view.data().to_vec()),
                )
            })
            .collect()
    };
    let (before, after) = (integers(&base_file), integers(&tuned_file));
    let names = before.keys().chain(after.keys());
    let mut differing = names.filter(|name| before.get(*name) != after.get(*name));
    match differing.next() {
        Some(name) => bail!(
            "{}: integer tensor {name} is not that of {}; a delta changes f32 weights only, give both the same",
            tuned.display(),
            base.display()
        ),
        None => Ok(()),
    }
}

impl Unpack {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<()> {
        let (_, tensors) = merged(&read_base(&self.models)?, &self.models, &self.lang)?;
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
            .iter()
            .map(|(name, tensor)| {
                let bytes = tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect();
                (name.clone(), tensor.shape.clone(), bytes)
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, shape, bytes)| {
                Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>>>()?;
        write_atomically(&self.out, &safetensors::serialize(views, None)?)?;
        writeln!(out, "{}: {} tensors", self.out.display(), bytes.len())?;
        Ok(())
    }
}

/// The keywords of a labels file, with `_unknown_` and `_silence_` at the end.
fn read_labels(path: &Path) -> Result<Vec<String>> {
    let text = String::from_utf8(read(path)?).with_context(|| path.display().to_string())?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut labels: Vec<String> = lines.map(nfc).collect();
    labels.retain(|label| label != UNKNOWN && label != SILENCE);
    labels.extend([UNKNOWN, SILENCE].map(String::from));
    Ok(labels)
}

impl Pack {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<()> {
        match (&self.base, &self.tuned) {
            (Some(base), _) => self.base(base, out),
            (_, Some(tuned)) => self.language(tuned, out),
            (None, None) => bail!("give --tuned or --base"),
        }
    }
}

impl Pack {
    fn base(&self, network: &Path, out: &mut dyn Write) -> Result<()> {
        let storage = match self.values {
            BaseValues::F32 => Storage::F32,
            BaseValues::F16 => Storage::F16,
            BaseValues::Int8 => Storage::Int8,
        };
        let onnx =
            store(&read(network)?, storage).with_context(|| network.display().to_string())?;
        let tensors = initializers(&onnx)?;
        let manifest = match (&self.manifest, &self.lang, &self.labels) {
            (Some(path), _, _) => {
                let manifest = Manifest::parse(&read(path)?);
                let manifest = manifest.with_context(|| path.display().to_string())?;
                Manifest {
                    model_version: self.model_version.unwrap_or(manifest.model_version),
                    ..manifest
                }
            }
            (_, Some(lang), Some(labels)) => Manifest {
                language: lang.clone(),
                labels: read_labels(labels)?,
                architecture: self.architecture.clone(),
                licence: self.licence.clone(),
                model_version: self.model_version.unwrap_or(MODEL_VERSION),
                thresholds: Thresholds::ForAll(self.threshold),
                training: serde_json::Map::from_iter([(
                    "provenance".into(),
                    json!(self.provenance),
                )]),
                ..base_files::manifest(&tensors, &onnx)
            },
            _ => bail!("give --lang and --labels, or --manifest"),
        };
        base_files::write(&self.models, &onnx, manifest)?;
        writeln!(
            out,
            "{}: base of {} tensors, {} bytes",
            self.models.display(),
            tensors.len(),
            onnx.len()
        )?;
        Ok(())
    }
}

impl Pack {
    fn language(&self, tuned: &Path, out: &mut dyn Write) -> Result<()> {
        let base = read_base(&self.models)?;
        let (Some(lang), Some(labels)) = (&self.lang, &self.labels) else {
            bail!("give --lang and --labels");
        };
        let labels = read_labels(labels)?;
        let header = DeltaHeader {
            language: lang.clone(),
            model_version: self.model_version.unwrap_or(MODEL_VERSION),
            manifest: Some(base.manifest_sha256()),
            thresholds: vec![self.threshold; labels.len()],
            labels: Label::over(&labels, &base.manifest().labels),
            calibration: None,
            budget: self.budget.clone(),
            synthetic: self.synthetic,
            provenance: self.provenance.clone(),
        };
        let tensors = read_tensors(tuned)?;
        let precision = self.precision.or(Precision::DEFAULT);
        let delta = Delta::build(base.tensors(), &tensors, header, precision)
            .with_context(|| tuned.display().to_string())?;
        let bytes = delta.write();
        let merged = merge(base.tensors(), &Delta::read(&bytes)?)?;
        if let Some(budget) = &self.budget {
            let used = budget.used(&changed(base.tensors(), &merged)?, bytes.len());
            let allowed = budget.allowed(&Counts::of(base.tensors()));
            ensure!(
                used <= allowed,
                "--budget {budget}: the delta uses {used} of {allowed}; nothing was written"
            );
        }
        let path = delta_path(&self.models, lang);
        write_package(&path, &bytes)?;
        writeln!(
            out,
            "{}: {} bytes; largest error {:e}",
            path.display(),
            bytes.len(),
            largest_error(&tensors, &merged)
        )?;
        Ok(())
    }
}

/// The largest difference between weights of the same name.
fn largest_error(wanted: &Tensors, found: &Tensors) -> f32 {
    let differences = wanted.iter().flat_map(|(name, tensor)| {
        let pairs = tensor.data.iter().zip(&found[name].data);
        pairs.map(|(wanted, found)| (wanted - found).abs())
    });
    differences.fold(0.0, f32::max)
}

impl MakeDelta {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<()> {
        let (base, tuned) = (read_tensors(&self.base)?, read_tensors(&self.tuned)?);
        if [&self.base, &self.tuned]
            .iter()
            .all(|path| !is_safetensors(path))
        {
            check_same_graph(&read(&self.base)?, &read(&self.tuned)?)?;
        }
        check_same_integers(&self.base, &self.tuned)?;
        let header = DeltaHeader {
            language: "und".into(),
            model_version: self.model_version,
            manifest: None,
            labels: Vec::new(),
            thresholds: Vec::new(),
            calibration: None,
            budget: None,
            synthetic: false,
            provenance: self.provenance.clone(),
        };
        let precision = self.precision.or(Precision::Lossless);
        let delta = Delta::build(&base, &tuned, header, precision)
            .with_context(|| format!("from {} to {}", self.base.display(), self.tuned.display()))?;
        let bytes = delta.write();
        let merged = merge(&base, &Delta::read(&bytes)?)?;
        write_atomically(&self.out, &bytes)?;
        let error = largest_error(&tuned, &merged);
        let weights = changed(&base, &merged)?.all();
        if self.json {
            let sizes = delta.sizes();
            writeln!(
                out,
                "{}",
                json!({
                    "file": self.out,
                    "bytes": bytes.len(),
                    "changed": weights,
                    "tensors": sizes.changes.len(),
                    "positions_bytes": sizes.changes.iter().map(|c| c.positions_bytes).sum::<usize>(),
                    "values_bytes": sizes.changes.iter().map(|c| c.values_bytes).sum::<usize>(),
                    "largest_error": error,
                })
            )?;
        } else {
            writeln!(
                out,
                "{}: {} bytes, {weights} weights of {} tensors; largest error {error:e}",
                self.out.display(),
                bytes.len(),
                delta.changes().len()
            )?;
        }
        Ok(())
    }
}

#[derive(Args)]
#[command(
    after_help = "Example:\n  swr-train export --lang ar --out ar.onnx --audio recording.wav --logits ar.csv"
)]
pub(super) struct Export {
    /// Language to export
    #[arg(long, value_name = "L")]
    lang: String,
    /// The ONNX file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Folder of models
    #[arg(long, value_name = "DIR", default_value = "models/small")]
    models: PathBuf,
    /// Recording whose frames and logits go to --logits
    #[arg(long, value_name = "FILE", requires = "logits")]
    audio: Option<PathBuf>,
    /// CSV with a frame a line: log-mel, then the logits that the trainer's own passes give
    #[arg(long, value_name = "FILE", requires = "audio")]
    logits: Option<PathBuf>,
}

impl Export {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<()> {
        let (architecture, language, weights) = read_language(&self.models, &self.lang)?;
        write_atomically(
            &self.out,
            &streaming_graph(architecture.tau, &to_package(&weights)?)?,
        )?;
        writeln!(
            out,
            "{}: {} labels",
            self.out.display(),
            language.labels.len()
        )?;
        let (Some(audio), Some(csv)) = (&self.audio, &self.logits) else {
            return Ok(());
        };
        let samples =
            decode_16k_mono(&read(audio)?).with_context(|| audio.display().to_string())?;
        let frames = log_mel(&language.frontend, &samples)?;
        let logits = stream_logits(&architecture, &weights, &frames)?;
        let mut text = String::new();
        for (frame, logits) in frames
            .chunks_exact(MEL_BINS)
            .zip(logits.chunks_exact(language.labels.len()))
        {
            let values: Vec<String> = frame.iter().chain(logits).map(f32::to_string).collect();
            text += &values.join(",");
            text.push('\n');
        }
        write_atomically(csv, text.as_bytes())
    }
}

/// Logits `[T, C]` of a long recording's frames `[T, 40]`, both flattened, in pieces that fit into memory.
fn stream_logits(
    architecture: &Architecture,
    weights: &Weights,
    frames: &[f32],
) -> Result<Vec<f32>> {
    let total = frames.len() / MEL_BINS;
    let mut logits = Vec::new();
    for start in (0..total).step_by(CHUNK_FRAMES) {
        let from = start.saturating_sub(LEAD_FRAMES);
        let count = (start + CHUNK_FRAMES).min(total) - from;
        let chunk = candle_core::Tensor::from_slice(
            &frames[from * MEL_BINS..(from + count) * MEL_BINS],
            (count, MEL_BINS),
            &Device::Cpu,
        )?;
        let chunk = chunk.t()?.reshape((1, 1, MEL_BINS, count))?.contiguous()?;
        let out = frame_logits(architecture, weights, &chunk, &Pass::evaluation())?
            .squeeze(0)?
            .t()?;
        logits.extend(
            out.narrow(0, start - from, count - (start - from))?
                .flatten_all()?
                .to_vec1::<f32>()?,
        );
    }
    Ok(logits)
}
