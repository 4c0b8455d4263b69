//! Norm and ReLU over rows of one norm group each, and back: what head and tail end with.

use multiversion::multiversion;

use super::kernels::row_dots;
use super::norm::Norm;

/// `out = relu(norm(before))`, rows of `length` values.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
pub(super) fn forward(out: &mut [f32], before: &[f32], norm: &Norm, length: usize) {
    for (c, (out, before)) in out
        .chunks_exact_mut(length)
        .zip(before.chunks_exact(length))
        .enumerate()
    {
        let (f, o) = (norm.factor[c], norm.offset[c]);
        for (out, x) in out.iter_mut().zip(before) {
            *out = f.mul_add(*x, o).max(0.0);
        }
    }
}

/// Masks the gradient `dy` by the ReLU and leaves `[sum of dy, sum of dy * before]` per row.
#[multiversion(targets(
    "x86_64+avx512f+avx512vl+avx512dq+avx512bw+avx2+fma",
    "x86_64+avx2+fma"
))]
pub(super) fn backward(
    dy: &mut [f32],
    out: &[f32],
    before: &[f32],
    length: usize,
) -> Vec<[f32; 2]> {
    for (dy, out) in dy.iter_mut().zip(out) {
        *dy = if *out > 0.0 { *dy } else { 0.0 };
    }
    row_dots(dy, before, length)
}
