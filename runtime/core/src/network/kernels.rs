//! The arithmetic of the fused network on channels-innermost rows, eight channels at a time. Every result is one chain of additions in an order that
//! depends neither on the number of rows nor on how they are tiled: the same bits for every size of step.

use alloc::{vec, vec::Vec};

/// Channels that are computed together; rows are padded with zeros to a multiple.
pub(super) const LANES: usize = 8;
/// Rows whose sums are kept in registers together. Numbers of bands are multiples of it.
const ROWS: usize = 5;

/// Eight channels.
pub(super) type Lanes = [f32; LANES];

/// `a * b + c`, rounded once where `FUSED`.
#[inline(always)]
fn fma<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    #[cfg(feature = "std")]
    if FUSED {
        return a.mul_add(b, c);
    }
    a * b + c
}

/// `a * b + c`, lane by lane.
#[inline(always)]
pub(super) fn mul_add<const FUSED: bool>(a: &Lanes, b: &Lanes, c: &Lanes) -> Lanes {
    let mut out = *c;
    for lane in 0..LANES {
        out[lane] = fma::<FUSED>(a[lane], b[lane], c[lane]);
    }
    out
}

/// Lane by lane.
#[inline(always)]
pub(super) fn add(a: &Lanes, b: &Lanes) -> Lanes {
    let mut out = *a;
    for lane in 0..LANES {
        out[lane] += b[lane];
    }
    out
}

/// Negative ones become zero.
#[inline(always)]
pub(super) fn relu(a: &Lanes) -> Lanes {
    a.map(|x| if x > 0.0 { x } else { 0.0 })
}

/// Weights of a sum over `inputs` values for every channel, and what the sum begins with.
#[derive(Clone, Debug)]
pub(super) struct Dense {
    inputs: usize,
    /// Groups of eight channels.
    pub(super) groups: usize,
    /// `[groups][inputs]`.
    weights: Vec<Lanes>,
    /// `[groups]`.
    bias: Vec<Lanes>,
}

impl Dense {
    /// `weight(channel, input)` and `bias(channel)` for `channels` channels; padded ones are zero.
    pub(super) fn new(
        channels: usize,
        inputs: usize,
        weight: impl Fn(usize, usize) -> f32,
        bias: impl Fn(usize) -> f32,
    ) -> Self {
        let groups = groups(channels);
        let mut dense = Self {
            inputs,
            groups,
            weights: vec![[0.0; LANES]; groups * inputs],
            bias: vec![[0.0; LANES]; groups],
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

    /// `out`, `[rows][groups]`, from `rows` rows of `x`, which begin `step` values apart. A row is `parts` runs of values, `apart` from one another, that
    /// make up [`Self::inputs`] together. With `RELU`, negative results are zero.
    #[inline(always)]
    pub(super) fn apply<const FUSED: bool, const RELU: bool>(
        &self,
        x: &[f32],
        step: usize,
        [parts, apart]: [usize; 2],
        out: &mut [Lanes],
    ) {
        let rows = out.len() / self.groups;
        let mut row = 0;
        while row + ROWS <= rows {
            let (x, out) = (&x[row * step..], &mut out[row * self.groups..]);
            self.tile::<FUSED, RELU, ROWS>(x, step, [parts, apart], out);
            row += ROWS;
        }
        while row < rows {
            let (x, out) = (&x[row * step..], &mut out[row * self.groups..]);
            self.tile::<FUSED, RELU, 1>(x, step, [parts, apart], out);
            row += 1;
        }
    }

    #[inline(always)]
    fn tile<const FUSED: bool, const RELU: bool, const N: usize>(
        &self,
        x: &[f32],
        step: usize,
        parts: [usize; 2],
        out: &mut [Lanes],
    ) {
        let mut group = 0;
        // Two groups share what is read of the rows.
        while group + 2 <= self.groups {
            self.columns::<FUSED, RELU, N, 2>(x, step, parts, group, out);
            group += 2;
        }
        if group < self.groups {
            self.columns::<FUSED, RELU, N, 1>(x, step, parts, group, out);
        }
    }

    #[inline(always)]
    fn columns<const FUSED: bool, const RELU: bool, const N: usize, const G: usize>(
        &self,
        x: &[f32],
        step: usize,
        [parts, apart]: [usize; 2],
        group: usize,
        out: &mut [Lanes],
    ) {
        let run = self.inputs / parts;
        let mut sums = [[[0.0; LANES]; G]; N];
        for sums in &mut sums {
            sums.copy_from_slice(&self.bias[group..group + G]);
        }
        for part in 0..parts {
            let x = &x[part * apart..];
            let mut rows = [x; N];
            for (row, values) in rows.iter_mut().enumerate() {
                *values = &x[row * step..][..run];
            }
            let mut weights = [&self.weights[..]; G];
            for (column, weights) in weights.iter_mut().enumerate() {
                *weights = &self.weights[(group + column) * self.inputs + part * run..][..run];
            }
            for input in 0..run {
                for column in 0..G {
                    let weight = &weights[column][input];
                    for row in 0..N {
                        let factor = [rows[row][input]; LANES];
                        sums[row][column] = mul_add::<FUSED>(&factor, weight, &sums[row][column]);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let out = &mut out[row * self.groups + group..][..G];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = if RELU { relu(sum) } else { *sum };
            }
        }
    }
}

/// Groups of eight that `channels` take.
pub(super) const fn groups(channels: usize) -> usize {
    channels.div_ceil(LANES)
}

/// `start + a * x + b * y + c * z`, from the left, group by group.
#[inline(always)]
pub(super) fn three_taps<const FUSED: bool>(
    out: &mut [Lanes],
    start: &[Lanes],
    [x, y, z]: [&[Lanes]; 3],
    taps: &[Lanes],
) {
    let groups = out.len();
    let (start, x, y, z) = (&start[..groups], &x[..groups], &y[..groups], &z[..groups]);
    let (a, taps) = taps.split_at(groups);
    let (b, c) = taps.split_at(groups);
    let c = &c[..groups];
    for group in 0..groups {
        let sum = mul_add::<FUSED>(&x[group], &a[group], &start[group]);
        let sum = mul_add::<FUSED>(&y[group], &b[group], &sum);
        out[group] = mul_add::<FUSED>(&z[group], &c[group], &sum);
    }
}

/// The sum of `taps` times rows, `[taps][groups]` both, group by group.
#[inline(always)]
pub(super) fn weighted_sum<const FUSED: bool>(out: &mut [Lanes], rows: &[Lanes], taps: &[Lanes]) {
    let groups = out.len();
    for (group, out) in out.iter_mut().enumerate() {
        let mut sum = [0.0; LANES];
        for (row, tap) in rows.chunks_exact(groups).zip(taps.chunks_exact(groups)) {
            sum = mul_add::<FUSED>(&row[group], &tap[group], &sum);
        }
        *out = sum;
    }
}

/// `x * sigmoid(x)`, by a polynomial for the exponential.
#[inline(always)]
pub(super) fn silu<const FUSED: bool>(x: &Lanes) -> Lanes {
    let mut out = *x;
    for lane in 0..LANES {
        out[lane] = x[lane] / (1.0 + exp::<FUSED>(-x[lane]));
    }
    out
}

/// `e^x` within 2e-7 of itself, from -87 to 88; beyond, as at these ends. Cody and Waite's reduction to half an octave, and a polynomial of degree 6
/// (coefficients as in Cephes' expf).
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    /// Added to a number, it leaves a whole one in the last bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let whole = fma::<FUSED>(x, core::f32::consts::LOG2_E, ROUND);
    let octaves = whole - ROUND;
    let r = fma::<FUSED>(octaves, -0.693_359_4, x);
    let r = fma::<FUSED>(octaves, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for coefficient in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = fma::<FUSED>(p, r, coefficient);
    }
    let p = fma::<FUSED>(p * r, r, r) + 1.0;
    // Two to the power of a whole number, by its exponent bits.
    p * f32::from_bits(whole.to_bits().wrapping_add(127) << 23)
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
