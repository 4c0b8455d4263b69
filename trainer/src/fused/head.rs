//! The head: 5x5 convolution with frequency stride 2, norm, ReLU. `[B, 1, 40, T]` to `[B, 2c, 20, T]`.

use multiversion::multiversion;
use rayon::prelude::*;

use super::activation;
use super::add_up;
use super::buffer::Buffer;
use super::kernels::{back_through_norm, band_conv, band_conv_kernel_gradient, row_moments};
use super::norm::{Norm, NormMode};
use crate::architecture::MEL_BINS;

const BANDS: usize = MEL_BINS / 2;

/// Parameters packed as `conv [width, 5, 5]`, `scale [width]`, `shift [width]`. The input gets no gradient: it is the log-mel.
pub(super) struct Head {
    /// Output channels.
    pub(super) width: usize,
    /// Frames of zero padding on the left: 4 causal, 2 symmetric.
    pub(super) left: usize,
}

/// What backward needs of the forward pass.
pub(super) struct HeadSaved {
    before: Buffer,
    norm: Norm,
}

/// The log-mel of a clip between zeros: rows of bands with two above and below, `left` frames before. Gives the rows and their length.
fn pad(x: &[f32], left: usize, frames: usize) -> (Vec<f32>, usize) {
    let stride = frames + 4;
    let mut padded = vec![0f32; (MEL_BINS + 4) * stride];
    for (band, row) in x.chunks_exact(frames).enumerate() {
        padded[(band + 2) * stride + left..][..frames].copy_from_slice(row);
    }
    (padded, stride)
}

/// Where the taps of the kernel begin for an output band.
fn taps(band: usize, stride: usize) -> [usize; 25] {
    std::array::from_fn(|i| (2 * band + i / 5) * stride + i % 5)
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
    for band in 0..BANDS {
        band_conv(out, &x, kernel, &taps(band, stride), band, BANDS, frames);
    }
    row_moments(out, BANDS * frames)
}

/// The gradient of the kernel; `dy` holds that after the norm and is used up.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
fn backward(
    dy: &mut [f32],
    before: &[f32],
    x: &[f32],
    terms: &[[f32; 3]],
    left: usize,
    frames: usize,
) -> Vec<f32> {
    let (x, stride) = pad(x, left, frames);
    back_through_norm(dy, before, terms, BANDS * frames);
    let mut dkernel = vec![0f32; terms.len() * 25];
    for band in 0..BANDS {
        let taps = taps(band, stride);
        band_conv_kernel_gradient(&mut dkernel, dy, &x, &taps, band, BANDS, frames);
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
    ) -> (Buffer, HeadSaved) {
        let (kernel, norm) = p.split_at(self.width * 25);
        let (scale, shift) = norm.split_at(self.width);
        let (channel, sample) = (BANDS * frames, self.width * BANDS * frames);
        let mut before = Buffer::new(batch * sample);
        let moments: Vec<_> = before
            .par_chunks_mut(sample)
            .zip(x.par_chunks(MEL_BINS * frames))
            .map(|(out, x)| forward(out, x, kernel, self.left, frames))
            .collect();
        let norm = Norm::new(mode, "head", scale, shift, &moments, batch * channel);
        let mut out = Buffer::new(batch * sample);
        out.par_chunks_mut(sample)
            .zip(before.par_chunks(sample))
            .for_each(|(out, before)| activation::forward(out, before, &norm, channel));
        (out, HeadSaved { before, norm })
    }

    /// The gradient of the packed parameters; `dy` holds that of the output and is used up.
    pub(super) fn backward(
        &self,
        saved: HeadSaved,
        x: &[f32],
        p: &[f32],
        out: &[f32],
        mut dy: Buffer,
        frames: usize,
    ) -> Vec<f32> {
        let HeadSaved { before, norm } = saved;
        let (channel, sample) = (BANDS * frames, self.width * BANDS * frames);
        let sums: Vec<_> = dy
            .par_chunks_mut(sample)
            .zip(out.par_chunks(sample))
            .zip(before.par_chunks(sample))
            .map(|((dy, out), before)| activation::backward(dy, out, before, channel))
            .collect();
        let norm = norm.backward(&p[self.width * 25..self.width * 26], &sums);
        let per_sample: Vec<_> = dy
            .par_chunks_mut(sample)
            .zip(before.par_chunks(sample))
            .zip(x.par_chunks(MEL_BINS * frames))
            .map(|((dy, before), x)| backward(dy, before, x, &norm.terms, self.left, frames))
            .collect();
        let mut dp = vec![0f32; self.width * 25];
        add_up(&mut dp, per_sample);
        dp.extend(norm.dscale);
        dp.extend(norm.dshift);
        dp
    }
}
