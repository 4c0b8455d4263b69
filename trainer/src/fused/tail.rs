//! The tail: depthwise 5x5 convolution over all five bands, 1x1 convolution, norm, ReLU. `[B, inputs, 5, T]` to `[B, width, T]`.

use multiversion::multiversion;
use rayon::prelude::*;

use super::activation;
use super::buffer::Buffer;
use super::kernels::*;
use super::norm::{Norm, NormMode};
use super::{Packing, add_up};
use crate::architecture::SUB_BANDS as BANDS;

/// Parameters packed as `depthwise [inputs, 5, 5]`, `point [width, inputs]`, `scale [width]`, `shift [width]`.
pub(super) struct Tail {
    /// Input channels.
    pub(super) inputs: usize,
    /// Output channels.
    pub(super) width: usize,
    /// Frames of zero padding on the left: 4 causal, 2 symmetric.
    pub(super) left: usize,
}

/// What backward needs of the forward pass.
pub(super) struct TailSaved {
    depthwise: Buffer,
    point: Buffer,
    norm: Norm,
}

#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
#[allow(clippy::too_many_arguments)]
fn forward(
    depthwise: &mut [f32],
    point: &mut [f32],
    x: &[f32],
    kernel: &[f32],
    weight: &[f32],
    width: usize,
    left: usize,
    frames: usize,
) -> Vec<[f32; 2]> {
    let inputs = depthwise.len() / frames;
    for (c, out) in depthwise.chunks_exact_mut(frames).enumerate() {
        out.fill(0.0);
        for band in 0..BANDS {
            let x = &x[(c * BANDS + band) * frames..][..frames];
            for tap in 0..5 {
                let (to, from, count) = tap_range(tap, 1, left, frames);
                add_scaled(
                    &mut out[to..to + count],
                    &x[from..from + count],
                    kernel[c * 25 + band * 5 + tap],
                );
            }
        }
    }
    point_conv(point, depthwise, Matrix::new(weight, width, inputs), frames);
    row_moments(point, frames)
}

/// `dpoint` holds the gradient after the norm and is used up; leaves the gradients of both kernels, one after the other.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
#[allow(clippy::too_many_arguments)]
fn backward(
    dx: &mut [f32],
    dpoint: &mut [f32],
    x: &[f32],
    depthwise: &[f32],
    point: &[f32],
    terms: &[[f32; 3]],
    kernel: &[f32],
    weight: &[f32],
    left: usize,
    frames: usize,
) -> Vec<f32> {
    let (inputs, width) = (depthwise.len() / frames, terms.len());
    back_through_norm(dpoint, point, terms, frames);
    let mut ddepthwise = vec![0f32; inputs * frames];
    point_conv(
        &mut ddepthwise,
        dpoint,
        Matrix::new(weight, width, inputs).transposed(),
        frames,
    );
    let mut gradients = vec![0f32; inputs * 25 + width * inputs];
    let (dkernel, dweight) = gradients.split_at_mut(inputs * 25);
    point_conv_weight_gradient(dweight, dpoint, depthwise, width, inputs, frames);
    dx.fill(0.0);
    for (c, d) in ddepthwise.chunks_exact(frames).enumerate() {
        for band in 0..BANDS {
            let at = (c * BANDS + band) * frames;
            for tap in 0..5 {
                let (to, from, count) = tap_range(tap, 1, left, frames);
                let k = c * 25 + band * 5 + tap;
                add_scaled(&mut dx[at + from..][..count], &d[to..to + count], kernel[k]);
                dkernel[k] = dot(&d[to..to + count], &x[at + from..][..count]);
            }
        }
    }
    gradients
}

impl Tail {
    /// Number of packed parameters.
    pub(super) fn parameters(&self) -> usize {
        self.inputs * 25 + self.width * self.inputs + 2 * self.width
    }

    fn unpack<'a>(&self, p: &'a [f32]) -> [&'a [f32]; 4] {
        let mut packing = Packing::new();
        [
            self.inputs * 25,
            self.width * self.inputs,
            self.width,
            self.width,
        ]
        .map(|length| &p[packing.next(length)])
    }

    /// `x [B, inputs, 5, T]` to `[B, width, T]`.
    pub(super) fn forward(
        &self,
        x: &[f32],
        p: &[f32],
        mode: &NormMode,
        batch: usize,
        frames: usize,
    ) -> (Vec<f32>, TailSaved) {
        let [kernel, weight, scale, shift] = self.unpack(p);
        let (sample_in, sample_mid, sample_out) = self.sample_sizes(frames);
        let (mut depthwise, mut point) = (
            Buffer::new(batch * sample_mid),
            Buffer::new(batch * sample_out),
        );
        let moments: Vec<_> = depthwise
            .par_chunks_mut(sample_mid)
            .zip(point.par_chunks_mut(sample_out))
            .zip(x.par_chunks(sample_in))
            .map(|((depthwise, point), x)| {
                forward(
                    depthwise, point, x, kernel, weight, self.width, self.left, frames,
                )
            })
            .collect();
        let norm = Norm::new(mode, "tail", scale, shift, &moments, batch * frames);
        let mut out = vec![0f32; point.len()];
        out.par_chunks_mut(sample_out)
            .zip(point.par_chunks(sample_out))
            .for_each(|(out, point)| activation::forward(out, point, &norm, frames));
        (
            out,
            TailSaved {
                depthwise,
                point,
                norm,
            },
        )
    }

    /// Gradients of the input and of the packed parameters.
    pub(super) fn backward(
        &self,
        saved: TailSaved,
        x: &[f32],
        p: &[f32],
        out: &[f32],
        grad: &[f32],
        frames: usize,
    ) -> (Buffer, Vec<f32>) {
        let TailSaved {
            depthwise,
            point,
            norm,
        } = saved;
        let (sample_in, sample_mid, sample_out) = self.sample_sizes(frames);
        let mut dpoint = Buffer::new(point.len());
        dpoint.copy_from_slice(grad);
        let sums: Vec<_> = dpoint
            .par_chunks_mut(sample_out)
            .zip(out.par_chunks(sample_out))
            .zip(point.par_chunks(sample_out))
            .map(|((dy, out), point)| activation::backward(dy, out, point, frames))
            .collect();
        let [kernel, weight, scale, _] = self.unpack(p);
        let norm = norm.backward(scale, &sums);
        let mut dx = Buffer::new(x.len());
        let per_sample: Vec<_> = dx
            .par_chunks_mut(sample_in)
            .zip(dpoint.par_chunks_mut(sample_out))
            .enumerate()
            .map(|(i, (dx, dpoint))| {
                let (x, depthwise) = (
                    &x[i * sample_in..][..sample_in],
                    &depthwise[i * sample_mid..][..sample_mid],
                );
                let point = &point[i * sample_out..][..sample_out];
                backward(
                    dx,
                    dpoint,
                    x,
                    depthwise,
                    point,
                    &norm.terms,
                    kernel,
                    weight,
                    self.left,
                    frames,
                )
            })
            .collect();
        let mut dp = vec![0f32; self.inputs * 25 + self.width * self.inputs];
        add_up(&mut dp, per_sample);
        dp.extend(norm.dscale);
        dp.extend(norm.dshift);
        (dx, dp)
    }

    /// Values a sample of the input, the depthwise result and the output.
    fn sample_sizes(&self, frames: usize) -> (usize, usize, usize) {
        (
            self.inputs * BANDS * frames,
            self.inputs * frames,
            self.width * frames,
        )
    }
}
