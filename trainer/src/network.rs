//! BC-ResNet as a function of named weights: log-mel in, logits out. Weights are an argument, so `W + g * D` is just another set.
//!
//! Two paths compute the same: [`Path::Fused`] by the operation of [`crate::fused`], which training uses, and [`Path::Plain`]
//! by candle's own operations, which is the oracle in tests and would run on a GPU.
//! Shapes: B batch, C classes, F mel bins (40), T frames.

use std::collections::BTreeMap;

use candle_core::{DType, Result, Tensor};

use crate::architecture::{Architecture, Block, SUB_BANDS};
use crate::examples::Clips;
use crate::fused::{BodyOp, Dropout, EPSILON, NormMode};

/// Weights by name; see [`Architecture::body_tensors`] for names and shapes.
pub type Weights = BTreeMap<String, Tensor>;

/// Which operations compute the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Fused operations, on the CPU.
    Fused,
    /// Candle's own operations, on any device.
    Plain,
}

/// How one pass over the network behaves.
#[derive(Clone)]
pub struct Pass {
    /// Which operations compute it.
    pub path: Path,
    /// Behaviour of all norms.
    pub mode: NormMode,
    /// Channel dropout, with the seed of this step.
    pub dropout: Option<Dropout>,
}

impl Pass {
    /// Evaluation: norms in deployed form, no dropout, fused.
    pub fn evaluation() -> Self {
        Self {
            path: Path::Fused,
            mode: NormMode::Affine,
            dropout: None,
        }
    }
}

/// What adapting, comparing and judging need to know of a network: its tensors, and what it makes of them. All weights come as one flat vector, in the
/// order of [`Network::tensors`]. Thresholds are chosen by what a device hears, and so by the device's own network.
pub trait Network: Sync {
    /// Names and shapes of all tensors of a network with `classes` labels, `classifier.weight` `[classes, width, 1, 1]` and `classifier.bias` last.
    fn tensors(&self, classes: usize) -> Vec<(String, Vec<usize>)>;

    /// Features of every frame, before the classifier: `[B, 1, F, T]` to `[B, width, T]`.
    fn features(&self, weights: &Tensor, log_mel: &Tensor, pass: &Pass) -> Result<Tensor>;

    /// Number of features that the classifier sees.
    fn width(&self) -> usize;

    /// The tensors of the norms, by part: `part.norm.scale` and `part.norm.shift`.
    fn norms(&self) -> Vec<String> {
        let tensors = self.tensors(2).into_iter();
        let part =
            |(name, _): (String, Vec<usize>)| name.strip_suffix(".norm.scale").map(String::from);
        tensors.filter_map(part).collect()
    }
}

impl Network for Architecture {
    fn tensors(&self, classes: usize) -> Vec<(String, Vec<usize>)> {
        [self.body_tensors(), self.classifier_tensors(classes)].concat()
    }

    fn features(&self, weights: &Tensor, log_mel: &Tensor, pass: &Pass) -> Result<Tensor> {
        let body = BodyOp::new(self, pass.mode.clone(), pass.dropout);
        let packed = weights.narrow(0, 0, self.parameters(0))?.contiguous()?;
        log_mel.contiguous()?.apply_op2(&packed, body)
    }

    fn width(&self) -> usize {
        self.tail_width()
    }
}

/// Logits of every frame of a batch, `[B, 1, F, T]` to `[B, classes, T]`, under all weights in a flat vector.
pub fn flat_logits(
    network: &dyn Network,
    weights: &Tensor,
    classes: usize,
    log_mel: &Tensor,
    pass: &Pass,
) -> Result<Tensor> {
    let features = network.features(weights, log_mel, pass)?;
    classified(weights, network.width(), classes, &features)
}

/// Logits of clips, averaged over the `window_frames` before the frames `ends`: `[B, 1, F, T]` to `[B, classes]`, under all weights in a flat vector.
pub fn flat_clip_logits(
    network: &dyn Network,
    weights: &Tensor,
    classes: usize,
    clips: &Clips,
    window_frames: usize,
    pass: &Pass,
) -> Result<Tensor> {
    let pooled = pooled(network, weights, clips, window_frames, pass)?;
    classified(weights, network.width(), classes, &pooled.unsqueeze(2)?)?.squeeze(2)
}

/// Features of clips, averaged over the `window_frames` before the frames `ends`: `[B, width]`, what the classifier sees of them.
pub fn pooled(
    network: &dyn Network,
    weights: &Tensor,
    clips: &Clips,
    window_frames: usize,
    pass: &Pass,
) -> Result<Tensor> {
    pool(
        &network.features(weights, &clips.log_mel, pass)?,
        &clips.ends,
        window_frames,
    )
}

/// The classifier at the end of a flat vector: `[B, width, T]` to `[B, classes, T]`.
fn classified(weights: &Tensor, width: usize, classes: usize, features: &Tensor) -> Result<Tensor> {
    let all = weights.dim(0)?;
    let rows = weights.narrow(0, all - classes * (width + 1), classes * width)?;
    let bias = weights.narrow(0, all - classes, classes)?;
    rows.reshape((classes, width))?
        .broadcast_matmul(&features.contiguous()?)?
        .broadcast_add(&bias.reshape((1, classes, 1))?)
}

/// Means over the `window_frames` before the frame of each clip in `ends`, or the frames there are: `[B, width, T]` to `[B, width]`.
fn pool(features: &Tensor, ends: &[usize], window_frames: usize) -> Result<Tensor> {
    let (batch, _, frames) = features.dims3()?;
    let mut shares = vec![0f32; batch * frames];
    for (shares, end) in shares.chunks_exact_mut(frames).zip(ends) {
        let end = *end.min(&frames);
        let from = end.saturating_sub(window_frames);
        shares[from..end].fill(1.0 / (end - from).max(1) as f32);
    }
    let shares = Tensor::from_vec(shares, (batch, frames, 1), features.device())?;
    features.contiguous()?.matmul(&shares)?.squeeze(2)
}

/// The network before the classifier: `[B, 1, F, T]` to `[B, width, T]`.
pub fn features(
    architecture: &Architecture,
    weights: &Weights,
    log_mel: &Tensor,
    pass: &Pass,
) -> Result<Tensor> {
    match pass.path {
        Path::Fused => fused_features(architecture, weights, log_mel, pass),
        Path::Plain => plain_features(architecture, weights, log_mel, pass),
    }
}

/// Logits of every frame: `[B, 1, F, T]` to `[B, C, T]`.
pub fn frame_logits(
    architecture: &Architecture,
    weights: &Weights,
    log_mel: &Tensor,
    pass: &Pass,
) -> Result<Tensor> {
    classify(weights, &features(architecture, weights, log_mel, pass)?)
}

/// The classifier: `[B, width, T]` to `[B, C, T]`.
fn classify(weights: &Weights, features: &Tensor) -> Result<Tensor> {
    let weight = get(weights, "classifier.weight")?;
    let (classes, width) = (weight.dim(0)?, weight.dim(1)?);
    let logits = weight
        .reshape((classes, width))?
        .broadcast_matmul(&features.contiguous()?)?;
    logits.broadcast_add(&get(weights, "classifier.bias")?.reshape((1, classes, 1))?)
}

fn get<'a>(weights: &'a Weights, name: &str) -> Result<&'a Tensor> {
    weights
        .get(name)
        .ok_or_else(|| candle_core::Error::Msg(format!("the weights lack `{name}`")))
}

fn fused_features(
    architecture: &Architecture,
    weights: &Weights,
    log_mel: &Tensor,
    pass: &Pass,
) -> Result<Tensor> {
    let flat = |(name, _): (String, Vec<usize>)| get(weights, &name)?.flatten_all();
    let packed = architecture
        .body_tensors()
        .into_iter()
        .map(flat)
        .collect::<Result<Vec<_>>>()?;
    let body = BodyOp::new(architecture, pass.mode.clone(), pass.dropout);
    log_mel
        .contiguous()?
        .apply_op2(&Tensor::cat(&packed, 0)?, body)
}

fn plain_features(
    architecture: &Architecture,
    weights: &Weights,
    log_mel: &Tensor,
    pass: &Pass,
) -> Result<Tensor> {
    let pad_time = |x: &Tensor, span: usize| {
        let left = architecture.padding.left(span);
        x.pad_with_zeros(3, left, span - left)
    };
    let norm = |x: &Tensor, part: &str, groups: usize| norm(x, weights, part, groups, &pass.mode);
    let x = pad_time(&log_mel.pad_with_zeros(2, 2, 2)?, 4)?.conv2d(
        get(weights, "head.conv.weight")?,
        0,
        1,
        1,
        1,
    )?;
    let mut x = norm(&every_row(&x, 2)?, "head", 1)?.relu()?;
    for (i, block) in architecture.blocks().into_iter().enumerate() {
        let Block {
            name,
            width,
            stride,
            dilation,
            ..
        } = &block;
        let mut y = x.clone();
        if block.has_entry() {
            let entry = y.conv2d(
                get(weights, &format!("{name}.entry.conv.weight"))?,
                0,
                1,
                1,
                1,
            )?;
            y = norm(&entry, &format!("{name}.entry"), 1)?.relu()?;
        }
        let frequency = get(weights, &format!("{name}.frequency.conv.weight"))?;
        let aux = every_row(
            &y.pad_with_zeros(2, 1, 1)?
                .conv2d(frequency, 0, 1, 1, *width)?,
            *stride,
        )?;
        let aux = norm(&aux, &format!("{name}.frequency"), SUB_BANDS)?;
        let time = get(weights, &format!("{name}.time.conv.weight"))?;
        let z =
            pad_time(&aux.mean_keepdim(2)?, 2 * dilation)?.conv2d(time, 0, 1, *dilation, *width)?;
        let z = norm(&z, &format!("{name}.time"), 1)?.silu()?;
        let point = get(weights, &format!("{name}.point.conv.weight"))?;
        let mut z = z.conv2d(point, 0, 1, 1, 1)?;
        if let Some(dropout) = pass.dropout {
            let batch = z.dim(0)?;
            let factors = dropout.factors(i, batch, *width);
            let factors = Tensor::from_vec(factors, (batch, *width, 1, 1), z.device())?;
            z = z.broadcast_mul(&factors.to_dtype(z.dtype())?)?;
        }
        let sum = aux.broadcast_add(&z)?;
        x = if block.has_entry() { sum } else { (sum + x)? }.relu()?;
    }
    let depthwise = get(weights, "tail.depthwise.conv.weight")?;
    let x = pad_time(&x, 4)?.conv2d(depthwise, 0, 1, 1, depthwise.dim(0)?)?;
    let x = x.conv2d(get(weights, "tail.point.conv.weight")?, 0, 1, 1, 1)?;
    norm(&x, "tail", 1)?.relu()?.squeeze(2)
}

/// Keeps every `stride`-th row of the frequency axis: candle's convolutions have one stride for both axes.
fn every_row(x: &Tensor, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return Ok(x.clone());
    }
    let (b, c, f, t) = x.dims4()?;
    x.reshape((b, c, f / stride, stride, t))?
        .narrow(3, 0, 1)?
        .squeeze(3)?
        .contiguous()
}

/// `values [1, ...]`, once for each of `batch` clips. Where they meet larger tensors, candle then sums gradients over last dimensions, and over clips
/// afterwards; over first and last ones together it would divide for the place of every entry (`ReduceSum` of candle-core 0.11.1).
pub fn per_clip(values: &Tensor, batch: usize) -> Result<Tensor> {
    let mut shape = values.dims().to_vec();
    shape[0] = batch;
    values.broadcast_as(shape)
}

/// Norm over `groups` sub-bands per channel (arXiv 2103.13620 for more than one).
pub fn norm(
    x: &Tensor,
    weights: &Weights,
    part: &str,
    groups: usize,
    mode: &NormMode,
) -> Result<Tensor> {
    let (b, c, f, t) = x.dims4()?;
    let shape = (1, c * groups, 1);
    let scale = get(weights, &format!("{part}.norm.scale"))?.reshape(shape)?;
    let shift = get(weights, &format!("{part}.norm.shift"))?.reshape(shape)?;
    let mut y = x.reshape((b, c * groups, (f / groups) * t))?;
    if let Some(statistics) = mode.statistics() {
        let mean = y.mean_keepdim(2)?.mean_keepdim(0)?;
        let centred = y.broadcast_sub(&per_clip(&mean, b)?)?;
        let variance = centred.sqr()?.mean_keepdim(2)?.mean_keepdim(0)?;
        let count = (b * (f / groups) * t) as f64;
        let unbiased = (&variance * (count / (count - 1.0).max(1.0)))?;
        let values = |t: &Tensor| t.flatten_all()?.to_dtype(DType::F32)?.to_vec1();
        statistics.record(part, values(&mean)?, values(&unbiased)?);
        if mode.standardises() {
            let deviation = (variance + EPSILON)?.sqrt()?;
            y = centred.broadcast_div(&per_clip(&deviation, b)?)?;
        }
    }
    y.broadcast_mul(&per_clip(&scale, b)?)?
        .broadcast_add(&per_clip(&shift, b)?)?
        .reshape((b, c, f, t))
}

/// Seeded starting weights of a network with `classes` labels: convolutions uniform within `1 / sqrt(fan in)` (PyTorch's default), norms identity.
pub fn initial_weights(network: &dyn Network, classes: usize, seed: u64) -> Result<Weights> {
    use rand::RngExt;
    let mut weights = Weights::new();
    for (i, (name, shape)) in network.tensors(classes).iter().enumerate() {
        let count = shape.iter().product::<usize>();
        let values = if name.ends_with(".scale") {
            vec![1.0; count]
        } else if name.ends_with(".shift") {
            vec![0.0; count]
        } else {
            let fan_in = match name.as_str() {
                "classifier.bias" => network.width(),
                _ => shape[1..].iter().product(),
            };
            let bound = 1.0 / (fan_in as f32).sqrt();
            let mut rng = crate::random::generator(seed, &[i as u64]);
            (0..count)
                .map(|_| rng.random_range(-bound..bound))
                .collect()
        };
        let tensor = Tensor::from_vec(values, shape.as_slice(), &candle_core::Device::Cpu)?;
        weights.insert(name.clone(), tensor);
    }
    Ok(weights)
}

/// Cross entropy of `logits [B, C]` against `labels [B]` (u32), mean over the batch.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    candle_nn::loss::cross_entropy(logits, labels)
}
