//! A second network, in plain candle operations: a depthwise separable CNN. It shows that adapting knows no particular network; it is not exported for
//! streaming.
//!
//! Source: Zhang et al., "Hello Edge: Keyword Spotting on Microcontrollers", arXiv 1711.07128, section 4.1; smaller, and causal in time.

use candle_core::{Result, Tensor};

use swr_trainer::network::{Network, Pass, Weights, norm, per_clip};

/// A DS-CNN.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DsCnn {
    /// Channels of all layers.
    pub(crate) channels: usize,
    /// Blocks of a depthwise and a pointwise convolution.
    pub(crate) blocks: usize,
}

/// Side of all kernels but the pointwise ones.
const KERNEL: usize = 3;
/// Bands and frames from one that is kept after the first convolution to the next.
const STRIDE: usize = 4;

impl Network for DsCnn {
    fn tensors(&self, classes: usize) -> Vec<(String, Vec<usize>)> {
        let (c, mut tensors) = (self.channels, Vec::new());
        let mut layer = |name: String, shape: [usize; 4]| {
            tensors.push((format!("{name}.conv.weight"), shape.to_vec()));
            for part in ["scale", "shift"] {
                tensors.push((format!("{name}.norm.{part}"), vec![c]));
            }
        };
        layer("head".into(), [c, 1, KERNEL, KERNEL]);
        for block in 0..self.blocks {
            layer(format!("block{block}.depthwise"), [c, 1, KERNEL, KERNEL]);
            layer(format!("block{block}.pointwise"), [c, c, 1, 1]);
        }
        tensors.push(("classifier.weight".into(), vec![classes, c, 1, 1]));
        tensors.push(("classifier.bias".into(), vec![classes]));
        tensors
    }

    fn features(&self, weights: &Tensor, log_mel: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (mut body, mut next) = (Weights::new(), 0);
        for (name, shape) in self.tensors(0) {
            let count = shape.iter().product::<usize>();
            body.insert(name, weights.narrow(0, next, count)?.reshape(shape)?);
            next += count;
        }
        let activated = |x: &Tensor, part: &str| norm(x, &body, part, 1, &pass.mode)?.relu();
        let kernel = |name: &str| &body[&format!("{name}.conv.weight")];
        let mut x = activated(&shifted(log_mel, kernel("head"), STRIDE)?, "head")?;
        for block in 0..self.blocks {
            let name = format!("block{block}.depthwise");
            x = activated(&shifted(&x, kernel(&name), 1)?, &name)?;
            let name = format!("block{block}.pointwise");
            x = activated(&pointwise(&x, kernel(&name))?, &name)?;
        }
        // As many frames as come in: each for the stride that it was made of.
        let (x, frames) = (x.mean(2)?, log_mel.dim(3)?);
        let (batch, channels, kept) = x.dims3()?;
        x.unsqueeze(3)?
            .broadcast_as((batch, channels, kept, STRIDE))?
            .reshape((batch, channels, kept * STRIDE))?
            .narrow(2, 0, frames)
    }

    fn width(&self) -> usize {
        self.channels
    }
}

/// A convolution with one input channel per output channel, or one for all, kernels `[C, 1, 3, 3]`: shifted copies, weighted. Centred over bands and
/// causal over frames, of both of which one in `stride` is kept. Candle's own takes one pass a channel.
fn shifted(x: &Tensor, kernel: &Tensor, stride: usize) -> Result<Tensor> {
    let (batch, _, bands, frames) = x.dims4()?;
    let channels = kernel.dim(0)?;
    let x = x
        .pad_with_zeros(2, KERNEL / 2, KERNEL / 2)?
        .pad_with_zeros(3, KERNEL - 1, 0)?;
    let mut sum: Option<Tensor> = None;
    let kept = |length: usize, from: usize| {
        let kept: Vec<u32> = (0..length)
            .step_by(stride)
            .map(|at| (at + from) as u32)
            .collect();
        Tensor::from_slice(&kept, kept.len(), x.device())
    };
    for i in 0..KERNEL {
        let rows = x.index_select(&kept(bands, i)?, 2)?;
        for j in 0..KERNEL {
            let weight = kernel
                .narrow(2, i, 1)?
                .narrow(3, j, 1)?
                .reshape((1, channels, 1, 1))?;
            let part = rows
                .index_select(&kept(frames, j)?, 3)?
                .broadcast_mul(&per_clip(&weight, batch)?)?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
    }
    sum.ok_or_else(|| candle_core::Error::Msg("a kernel without weights".into()))
}

/// A 1x1 convolution, kernel `[C, C, 1, 1]`.
fn pointwise(x: &Tensor, kernel: &Tensor) -> Result<Tensor> {
    let (batch, channels, bands, frames) = x.dims4()?;
    let out = kernel.dim(0)?;
    let x = x.reshape((batch, channels, bands * frames))?;
    kernel
        .reshape((out, channels))?
        .broadcast_matmul(&x)?
        .reshape((batch, out, bands, frames))
}
