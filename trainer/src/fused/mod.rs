//! The network's body fused for the processor: from log-mel to the features before the classifier, as one candle operation with
//! its own backward.
//!
//! The network does little arithmetic; passes over memory dominate. So each block is three sweeps forward and three
//! backward, parallel over samples, and batch statistics are the only point where samples meet. Candle's operations take at
//! most three tensors, so this takes the log-mel and one vector of packed parameters, in the order of
//! [`Architecture::body_tensors`]; candle's autograd distributes their gradient to whatever they were made of. One operation
//! for the whole body, because candle would add up every gradient between operations in passes of its own.
//! [`crate::network`] holds the same network in plain candle operations, the oracle this is tested against.

mod activation;
mod block;
mod buffer;
mod head;
mod kernels;
mod norm;
mod sweeps;
mod tail;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Storage, Tensor, bail};

use crate::architecture::{Architecture, MEL_BINS};
use crate::random::mix;
use block::{BlockSaved, FusedBlock};
use buffer::Buffer;
use head::{Head, HeadSaved};
pub(crate) use norm::EPSILON;
pub use norm::NormMode;
use tail::{Tail, TailSaved};

/// Mean and unbiased variance per group of every norm, by the name of its part, such as `block03.time`.
pub type NormStatistics = BTreeMap<String, (Vec<f32>, Vec<f32>)>;

/// Batch statistics that a training pass leaves behind.
#[derive(Clone, Default)]
pub struct Statistics(Arc<Mutex<NormStatistics>>);

impl Statistics {
    /// Notes the statistics of one norm.
    pub(crate) fn record(&self, name: &str, mean: Vec<f32>, variance: Vec<f32>) {
        self.0
            .lock()
            .expect("no holder of the statistics panics")
            .insert(name.to_string(), (mean, variance));
    }

    /// Takes what was recorded since the last call.
    pub fn take(&self) -> NormStatistics {
        std::mem::take(&mut self.0.lock().expect("no holder of the statistics panics"))
    }
}

/// Channel dropout on the blocks' temporal branch (arXiv 2106.04140, section 3.2), drawn per sample and channel from a seed.
#[derive(Clone, Copy)]
pub struct Dropout {
    /// Probability that a channel is dropped.
    pub rate: f32,
    /// Seed of this step.
    pub seed: u64,
}

impl Dropout {
    /// Factor of every sample's channel in block `index`: 0 where dropped, `1 / (1 - rate)` elsewhere; `batch * width` of them.
    pub(crate) fn factors(self, index: usize, batch: usize, width: usize) -> Vec<f32> {
        let seed = mix(self.seed, index as u64);
        let draw = |i: usize| (mix(seed, i as u64) >> 40) as f32 / (1u64 << 24) as f32;
        let kept = 1.0 / (1.0 - self.rate);
        (0..batch * width)
            .map(|i| if draw(i) < self.rate { 0.0 } else { kept })
            .collect()
    }
}

/// The body for one forward and at most one backward pass: log-mel `[B, 1, 40, T]` and packed parameters to `[B, width, T]`.
pub struct BodyOp {
    head: Head,
    blocks: Vec<FusedBlock>,
    tail: Tail,
    mode: NormMode,
    dropout: Option<Dropout>,
    saved: Mutex<Option<BodySaved>>,
}

/// What backward needs of the forward pass; `outs[i]` enters block `i`, the last one the tail.
struct BodySaved {
    head: HeadSaved,
    blocks: Vec<BlockSaved>,
    tail: TailSaved,
    outs: Vec<Buffer>,
}

impl BodyOp {
    /// The body of `architecture`.
    pub fn new(architecture: &Architecture, mode: NormMode, dropout: Option<Dropout>) -> Self {
        let left = |span| architecture.padding.left(span);
        let blocks: Vec<FusedBlock> = architecture
            .blocks()
            .into_iter()
            .map(|block| FusedBlock {
                left: left(2 * block.dilation),
                block,
            })
            .collect();
        let inputs = blocks.last().map_or(0, |b| b.block.width);
        Self {
            head: Head {
                width: architecture.head_width(),
                left: left(4),
            },
            blocks,
            tail: Tail {
                inputs,
                width: architecture.tail_width(),
                left: left(4),
            },
            mode,
            dropout,
            saved: Mutex::new(None),
        }
    }

    /// Ranges of the packed parameters: head, blocks, tail.
    fn packing(&self) -> (Range<usize>, Vec<Range<usize>>, Range<usize>) {
        let mut packing = Packing::new();
        let head = packing.next(self.head.parameters());
        let blocks = self
            .blocks
            .iter()
            .map(|b| packing.next(b.parameters()))
            .collect();
        (head, blocks, packing.next(self.tail.parameters()))
    }
}

impl CustomOp2 for BodyOp {
    fn name(&self) -> &'static str {
        "fused-body"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        p: &CpuStorage,
        lp: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, one, bands, frames) = lx.shape().dims4()?;
        let (head, blocks, tail) = self.packing();
        if (one, bands) != (1, MEL_BINS) || lp.shape().elem_count() != tail.end {
            bail!(
                "fused-body: expected [B, 1, {MEL_BINS}, T] and {} parameters, found {:?} and {:?}",
                tail.end,
                lx.shape(),
                lp.shape()
            );
        }
        let (x, p) = (values(x, lx)?, values(p, lp)?);
        let (out, head) = self.head.forward(x, &p[head], &self.mode, batch, frames);
        let (mut outs, mut saved) = (vec![out], Vec::new());
        for (i, (block, range)) in self.blocks.iter().zip(blocks).enumerate() {
            let width = block.block.width;
            let keep = match self.dropout {
                Some(dropout) => dropout.factors(i, batch, width),
                None => vec![1.0; batch * width],
            };
            let (out, kept) = block.forward(&outs[i], &p[range], &self.mode, keep, batch, frames);
            outs.push(out);
            saved.push(kept);
        }
        let (out, tail) = self.tail.forward(
            &outs[self.blocks.len()],
            &p[tail],
            &self.mode,
            batch,
            frames,
        );
        *self.saved.lock().expect("no holder of saved values panics") = Some(BodySaved {
            head,
            blocks: saved,
            tail,
            outs,
        });
        Ok((
            CpuStorage::F32(out),
            Shape::from((batch, self.tail.width, frames)),
        ))
    }

    fn bwd(
        &self,
        x: &Tensor,
        p: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(mut saved) = self
            .saved
            .lock()
            .expect("no holder of saved values panics")
            .take()
        else {
            bail!("fused-body: backward needs a forward pass before it, and only once");
        };
        let frames = x.dim(3)?;
        let dp = with_values([x, p, out, grad], |[x, p, out, grad]| {
            let (head, blocks, tail) = self.packing();
            let mut dp = vec![0f32; tail.end];
            let mut entering = saved
                .outs
                .pop()
                .expect("forward keeps what enters the tail");
            let (mut dx, d) =
                self.tail
                    .backward(saved.tail, &entering, &p[tail.clone()], out, grad, frames);
            dp[tail].copy_from_slice(&d);
            for ((block, kept), range) in self.blocks.iter().zip(saved.blocks).zip(blocks).rev() {
                let left = entering;
                entering = saved
                    .outs
                    .pop()
                    .expect("forward keeps what enters each block");
                let (d_entering, d) =
                    block.backward(kept, &entering, &p[range.clone()], &left, dx, frames);
                dp[range].copy_from_slice(&d);
                dx = d_entering;
            }
            dp[head.clone()].copy_from_slice(
                &self
                    .head
                    .backward(saved.head, x, &p[head], &entering, dx, frames),
            );
            dp
        })?;
        Ok((None, Some(Tensor::from_vec(dp, p.shape(), &Device::Cpu)?)))
    }
}

/// Consecutive ranges in a vector of packed parameters.
struct Packing {
    end: usize,
}

impl Packing {
    fn new() -> Self {
        Self { end: 0 }
    }

    fn next(&mut self, length: usize) -> Range<usize> {
        let range = self.end..self.end + length;
        self.end = range.end;
        range
    }
}

/// The contiguous f32 values behind a custom operation's argument.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => bail!("fused operations need contiguous tensors"),
    }
}

/// Runs `f` on the values of CPU tensors.
fn with_values<R, const N: usize>(
    tensors: [&Tensor; N],
    f: impl FnOnce([&[f32]; N]) -> R,
) -> Result<R> {
    let tensors: Vec<Tensor> = tensors
        .into_iter()
        .map(Tensor::contiguous)
        .collect::<Result<_>>()?;
    let held: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices = [[].as_slice(); N];
    for (slice, (storage, layout)) in slices.iter_mut().zip(&held) {
        *slice = match &**storage {
            Storage::Cpu(storage) => values(storage, layout)?,
            _ => bail!("fused operations run on the CPU"),
        };
    }
    Ok(f(slices))
}

/// Adds up per-sample gradients in the order of the samples.
fn add_up(total: &mut [f32], samples: Vec<Vec<f32>>) {
    for sample in samples {
        for (t, s) in total.iter_mut().zip(&sample) {
            *t += s;
        }
    }
}
