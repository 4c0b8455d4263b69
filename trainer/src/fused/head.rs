//! The head: 5x5 convolution with frequency stride 2, norm, ReLU. `[B, 1, 40, T]` to `[B, 2c, 20, T]`.

use multiversion::multiversion;
use rayon::prelude::*;

use super::add_up;
use super::kernels::{row_dots, row_moments};
use super::norm::{Norm, NormMode};
use crate::architecture::MEL_BINS;

const BANDS: usize = MEL_BINS / 2;
const LANES: usize = 16;

/// Parameters packed as `conv [width, 5, 5]`, `scale [width]`, `shift [width]`. The input gets no gradient: it is the log-mel.
pub(super) struct Head {
    /// Output channels.
    pub(super) width: usize,
    /// Frames of zero padding on the left: 4 causal, 2 symmetric.
    pub(super) left: usize,
}

/// What backward needs of the forward pass.
pub(super) struct HeadSaved {
    before: Vec<f32>,
    norm: Norm,
}

/// The log-mel of a clip between zeros: rows of bands with two above and below, `left` frames before.
#[inline(always)]
fn pad(x: &[f32], left: usize, frames: usize) -> (Vec<f32>, usize) {
    let stride = frames.next_multiple_of(LANES) + LANES;
    let mut padded = vec![0f32; (MEL_BINS + 4) * stride];
    for (band, row) in x.chunks_exact(frames).enumerate() {
        padded[(band + 2) * stride + left..][..frames].copy_from_slice(row);
    }
    (padded, stride)
}

#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
fn forward(
    out: &mut [f32],
    x: &[f32],
    kernel: &[f32],
    left: usize,
    frames: usize,
) -> Vec<[f32; 2]> {
    let (x, stride) = pad(x, left, frames);
    let channel = BANDS * frames;
    for (group, out) in out.chunks_mut(4 * channel).enumerate() {
        let width = out.len() / channel;
        for band in 0..BANDS {
            let mut from = 0;
            while from < frames {
                let mut tile = [[0f32; LANES]; 4];
                for row in 0..5 {
                    for column in 0..5 {
                        let x: &[f32; LANES] = x[(2 * band + row) * stride + from + column..]
                            [..LANES]
                            .try_into()
                            .expect("slice of LANES values");
                        for (c, tile) in tile.iter_mut().enumerate().take(width) {
                            let k = kernel[(group * 4 + c) * 25 + row * 5 + column];
                            for l in 0..LANES {
                                tile[l] = k.mul_add(x[l], tile[l]);
                            }
                        }
                    }
                }
                let count = (frames - from).min(LANES);
                for (c, tile) in tile.iter().enumerate().take(width) {
                    out[c * channel + band * frames + from..][..count]
                        .copy_from_slice(&tile[..count]);
                }
                from += LANES;
            }
        }
    }
    row_moments(out, channel)
}

#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
fn activate(out: &mut [f32], before: &[f32], norm: &Norm, channel: usize) {
    for (c, (out, before)) in out
        .chunks_exact_mut(channel)
        .zip(before.chunks_exact(channel))
        .enumerate()
    {
        let (f, o) = (norm.factor[c], norm.offset[c]);
        for (out, x) in out.iter_mut().zip(before) {
            *out = f.mul_add(*x, o).max(0.0);
        }
    }
}

/// Masks the gradient by the ReLU in place and leaves `[sum of dy, sum of dy * x]` per channel.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
fn backward_activation(
    dy: &mut [f32],
    grad: &[f32],
    out: &[f32],
    before: &[f32],
    channel: usize,
) -> Vec<[f32; 2]> {
    for ((dy, grad), out) in dy.iter_mut().zip(grad).zip(out) {
        *dy = if *out > 0.0 { *grad } else { 0.0 };
    }
    row_dots(dy, before, channel)
}

#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
fn backward_conv(
    dy: &[f32],
    before: &[f32],
    x: &[f32],
    terms: &[[f32; 3]],
    left: usize,
    frames: usize,
) -> Vec<f32> {
    let (x, stride) = pad(x, left, frames);
    let channel = BANDS * frames;
    let padded = frames.next_multiple_of(LANES);
    let mut dkernel = vec![0f32; terms.len() * 25];
    let mut d = vec![0f32; BANDS * padded];
    for (c, [a, b, k]) in terms.iter().enumerate() {
        for band in 0..BANDS {
            let at = c * channel + band * frames;
            let (dy, before) = (&dy[at..][..frames], &before[at..][..frames]);
            for (d, (dy, x)) in d[band * padded..][..frames]
                .iter_mut()
                .zip(dy.iter().zip(before))
            {
                *d = a.mul_add(*dy, b.mul_add(*x, *k));
            }
        }
        for row in 0..5 {
            let mut taps = [[0f32; LANES]; 5];
            for band in 0..BANDS {
                for from in (0..padded).step_by(LANES) {
                    let d: &[f32; LANES] = d[band * padded + from..][..LANES]
                        .try_into()
                        .expect("slice of LANES values");
                    for (column, tap) in taps.iter_mut().enumerate() {
                        let x: &[f32; LANES] = x[(2 * band + row) * stride + from + column..]
                            [..LANES]
                            .try_into()
                            .expect("slice of LANES values");
                        for l in 0..LANES {
                            tap[l] = d[l].mul_add(x[l], tap[l]);
                        }
                    }
                }
            }
            for (column, tap) in taps.iter().enumerate() {
                dkernel[c * 25 + row * 5 + column] = tap.iter().sum();
            }
        }
    }
    dkernel
}

impl Head {
    /// Number of packed parameters.
    pub(super) fn parameters(&self) -> usize {
        self.width * 27
    }

    /// `x [B, 40, T]` to `[B, width, 20, T]`.
    pub(super) fn forward(
        &self,
        x: &[f32],
        p: &[f32],
        mode: &NormMode,
        batch: usize,
        frames: usize,
    ) -> (Vec<f32>, HeadSaved) {
        let (kernel, norm) = p.split_at(self.width * 25);
        let (scale, shift) = norm.split_at(self.width);
        let (channel, sample) = (BANDS * frames, self.width * BANDS * frames);
        let mut before = vec![0f32; batch * sample];
        let moments: Vec<_> = before
            .par_chunks_mut(sample)
            .zip(x.par_chunks(MEL_BINS * frames))
            .map(|(out, x)| forward(out, x, kernel, self.left, frames))
            .collect();
        let norm = Norm::new(mode, "head", scale, shift, &moments, batch * channel);
        let mut out = vec![0f32; batch * sample];
        out.par_chunks_mut(sample)
            .zip(before.par_chunks(sample))
            .for_each(|(out, before)| activate(out, before, &norm, channel));
        (out, HeadSaved { before, norm })
    }

    /// The gradient of the packed parameters.
    pub(super) fn backward(
        &self,
        saved: HeadSaved,
        x: &[f32],
        p: &[f32],
        out: &[f32],
        grad: &[f32],
        frames: usize,
    ) -> Vec<f32> {
        let HeadSaved { before, norm } = saved;
        let (channel, sample) = (BANDS * frames, self.width * BANDS * frames);
        let mut dy = vec![0f32; before.len()];
        let sums: Vec<_> = dy
            .par_chunks_mut(sample)
            .enumerate()
            .map(|(i, dy)| {
                let at = i * sample..(i + 1) * sample;
                backward_activation(
                    dy,
                    &grad[at.clone()],
                    &out[at.clone()],
                    &before[at],
                    channel,
                )
            })
            .collect();
        let norm = norm.backward(&p[self.width * 25..self.width * 26], &sums);
        let per_sample: Vec<_> = dy
            .par_chunks(sample)
            .zip(before.par_chunks(sample))
            .zip(x.par_chunks(MEL_BINS * frames))
            .map(|((dy, before), x)| backward_conv(dy, before, x, &norm.terms, self.left, frames))
            .collect();
        let mut dp = vec![0f32; self.width * 25];
        add_up(&mut dp, per_sample);
        dp.extend(norm.dscale);
        dp.extend(norm.dshift);
        dp
    }
}
