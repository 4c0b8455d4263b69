//! The arithmetic of the fused network on channels-innermost rows, eight channels at a time. Every result is one chain of additions in an order that
//! depends neither on the number of rows nor on how they are tiled: the same bits for every size of step.

/// Channels that are computed together; rows are padded with zeros to a multiple.
pub(super) const LANES: usize = 8;
/// Rows whose sums are kept in registers together. Numbers of bands are multiples of it.
const ROWS: usize = 5;

/// Eight channels.
pub(super) type Lanes = [f32; LANES];

/// `a * b + c`, rounded once where `FUSED`.
#[inline(always)]
pub(super) fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    #[cfg(feature = "std")]
    if FUSED {
        return a.mul_add(b, c);
    }
    a * b + c
}

/// The lanes of a row.
#[inline(always)]
pub(super) fn lanes(row: &[f32]) -> &[Lanes] {
    row.as_chunks().0
}

#[inline(always)]
pub(super) fn lanes_mut(row: &mut [f32]) -> &mut [Lanes] {
    row.as_chunks_mut().0
}

#[inline(always)]
fn add_product<const FUSED: bool>(sum: &mut Lanes, factor: f32, weights: &Lanes) {
    for (sum, weight) in sum.iter_mut().zip(weights) {
        *sum = fma::<FUSED>(factor, *weight, *sum);
    }
}

/// Weights of a sum over `inputs` values for every channel, and what the sum begins with.
#[derive(Clone, Debug)]
pub(super) struct Dense {
    pub(super) inputs: usize,
    /// Channels, padded.
    pub(super) width: usize,
    /// `[width / 8][inputs][8]`.
    weights: Vec<Lanes>,
    /// `[width / 8][8]`.
    bias: Vec<Lanes>,
}

use alloc::{vec, vec::Vec};

impl Dense {
    /// `weight(channel, input)` and `bias(channel)` for `channels` channels; padded ones are zero.
    pub(super) fn new(
        channels: usize,
        inputs: usize,
        weight: impl Fn(usize, usize) -> f32,
        bias: impl Fn(usize) -> f32,
    ) -> Self {
        let width = padded(channels);
        let mut dense = Self {
            inputs,
            width,
            weights: vec![[0.0; LANES]; width / LANES * inputs],
            bias: vec![[0.0; LANES]; width / LANES],
        };
        for channel in 0..channels {
            let (group, lane) = (channel / LANES, channel % LANES);
            dense.bias[group][lane] = bias(channel);
            for input in 0..inputs {
                dense.weights[group * inputs + input][lane] = weight(channel, input);
            }
        }
        dense
    }

    /// Rows of `out`, `[rows][width]`, from rows of `x`, of which each takes the first [`Self::inputs`] of `stride` values. With `relu`, negative
    /// results are zero.
    #[inline(always)]
    pub(super) fn apply<const FUSED: bool>(
        &self,
        x: &[f32],
        stride: usize,
        out: &mut [f32],
        relu: bool,
    ) {
        let tiles = x.chunks_exact(ROWS * stride);
        let rest = tiles.remainder();
        let mut outs = out.chunks_exact_mut(ROWS * self.width);
        for (x, out) in tiles.zip(&mut outs) {
            self.tile::<FUSED, ROWS>(x, stride, out, relu);
        }
        let outs = outs.into_remainder().chunks_exact_mut(self.width);
        for (x, out) in rest.chunks_exact(stride).zip(outs) {
            self.tile::<FUSED, 1>(x, stride, out, relu);
        }
    }

    #[inline(always)]
    fn tile<const FUSED: bool, const N: usize>(
        &self,
        x: &[f32],
        stride: usize,
        out: &mut [f32],
        relu: bool,
    ) {
        let rows: [&[f32]; N] = core::array::from_fn(|row| &x[row * stride..][..self.inputs]);
        let mut group = 0;
        // Two groups of lanes share what is read of the rows.
        while group + 1 < self.bias.len() {
            let mut sums = [[self.bias[group], self.bias[group + 1]]; N];
            let weights = &self.weights[group * self.inputs..][..2 * self.inputs];
            let (first, second) = weights.split_at(self.inputs);
            for (input, (first, second)) in first.iter().zip(second).enumerate() {
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    add_product::<FUSED>(&mut sums[0], row[input], first);
                    add_product::<FUSED>(&mut sums[1], row[input], second);
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                let out = &mut out[row * self.width + group * LANES..][..2 * LANES];
                write(&mut out[..LANES], &sums[0], relu);
                write(&mut out[LANES..], &sums[1], relu);
            }
            group += 2;
        }
        if group < self.bias.len() {
            let mut sums = [self.bias[group]; N];
            let weights = &self.weights[group * self.inputs..][..self.inputs];
            for (input, weights) in weights.iter().enumerate() {
                for (sum, row) in sums.iter_mut().zip(&rows) {
                    add_product::<FUSED>(sum, row[input], weights);
                }
            }
            for (row, sum) in sums.iter().enumerate() {
                let out = &mut out[row * self.width + group * LANES..][..LANES];
                write(out, sum, relu);
            }
        }
    }
}

#[inline(always)]
fn write(out: &mut [f32], sum: &Lanes, relu: bool) {
    for (out, sum) in out.iter_mut().zip(sum) {
        *out = if relu { sum.max(0.0) } else { *sum };
    }
}

/// `channels`, padded.
pub(super) const fn padded(channels: usize) -> usize {
    channels.div_ceil(LANES) * LANES
}

/// `start + sum of weight k times row k`, channel by channel; each is `[width]`.
#[inline(always)]
pub(super) fn weighted_sum<const FUSED: bool, const N: usize>(
    out: &mut [f32],
    start: &[f32],
    rows: [&[f32]; N],
    weights: [&[f32]; N],
) {
    for (group, out) in lanes_mut(out).iter_mut().enumerate() {
        let mut sum = lanes(start)[group];
        for (row, weights) in rows.iter().zip(&weights) {
            let (row, weights) = (&lanes(row)[group], &lanes(weights)[group]);
            for ((sum, x), w) in sum.iter_mut().zip(row).zip(weights) {
                *sum = fma::<FUSED>(*x, *w, *sum);
            }
        }
        *out = sum;
    }
}

/// `x * sigmoid(x)` in place, by a polynomial for the exponential.
#[inline(always)]
pub(super) fn silu<const FUSED: bool>(row: &mut [f32]) {
    for lanes in lanes_mut(row) {
        for x in lanes {
            *x /= 1.0 + exp::<FUSED>(-*x);
        }
    }
}

/// `e^x` within 2e-7 of itself, from -87 to 88; beyond, as at these ends. Cody and Waite's reduction to half an octave, and a polynomial of degree 6
/// (coefficients as in Cephes' expf).
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    /// Adding and subtracting it rounds to a whole number.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let octaves = fma::<FUSED>(x, core::f32::consts::LOG2_E, ROUND) - ROUND;
    let r = fma::<FUSED>(octaves, -0.693_359_4, x);
    let r = fma::<FUSED>(octaves, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for coefficient in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        5.000_000_1e-1,
    ] {
        p = fma::<FUSED>(p, r, coefficient);
    }
    let p = fma::<FUSED>(p * r, r, r) + 1.0;
    // Two to the power of a whole number, by its exponent bits.
    p * f32::from_bits(((octaves as i32 + 127) << 23) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_that_of_the_library() {
        let mut largest = 0.0f64;
        for step in -87_000..=88_000 {
            let x = step as f32 / 1000.0;
            let expected = libm::exp(f64::from(x));
            for found in [exp::<false>(x), exp::<true>(x)] {
                largest = largest.max((f64::from(found) / expected - 1.0).abs());
            }
        }
        assert!(largest < 2e-7, "{largest:e}");
        assert!(exp::<false>(1e30).is_finite() && exp::<false>(-1e30) >= 0.0);
    }
}
