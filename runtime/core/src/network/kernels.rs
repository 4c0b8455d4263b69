//! The arithmetic of the fused network on channels-innermost rows, eight channels at a time. Every result is one chain of additions in an order that
//! depends neither on the number of rows nor on how they are tiled: the same bits for every size of step.

use alloc::{vec, vec::Vec};

/// Channels that are computed together; rows are padded with zeros to a multiple.
pub(super) const LANES: usize = 8;
/// Rows whose sums are kept in registers together. Numbers of bands are multiples of it.
const ROWS: usize = 5;

/// Eight channels.
pub(super) type Lanes = [f32; LANES];

/// How a kind of processor computes, on eight channels in registers. Vectors are explicit, since compilers leave sums that many products are added to in
/// memory.
pub(super) trait Arithmetic: Copy {
    /// Eight channels.
    type Vector: Copy;
    /// Rows as vectors.
    fn vectors(self, rows: &[Lanes]) -> &[Self::Vector];
    /// Rows to be written as vectors.
    fn vectors_mut(self, rows: &mut [Lanes]) -> &mut [Self::Vector];
    /// The same in all lanes.
    fn all(self, value: f32) -> Self::Vector;
    /// `a * b + c`, rounded once where the processor can.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// Sum.
    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Product.
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Quotient.
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The smaller.
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Two to the power of the whole number in the lowest bits.
    fn power_of_two(self, whole: Self::Vector) -> Self::Vector;
}

/// Exponent bits of 1.
const BIAS: u32 = 127;
/// Bits of a fraction.
const FRACTION: u32 = 23;

/// Any processor: each product and each sum is rounded.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl Plain {
    #[inline(always)]
    fn each(a: Lanes, b: Lanes, of: impl Fn(f32, f32) -> f32) -> Lanes {
        let mut out = a;
        for lane in 0..LANES {
            out[lane] = of(a[lane], b[lane]);
        }
        out
    }
}

impl Arithmetic for Plain {
    type Vector = Lanes;

    #[inline(always)]
    fn vectors(self, rows: &[Lanes]) -> &[Lanes] {
        rows
    }

    #[inline(always)]
    fn vectors_mut(self, rows: &mut [Lanes]) -> &mut [Lanes] {
        rows
    }

    #[inline(always)]
    fn all(self, value: f32) -> Lanes {
        [value; LANES]
    }

    #[inline(always)]
    fn mul_add(self, a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        self.add(self.mul(a, b), c)
    }

    #[inline(always)]
    fn add(self, a: Lanes, b: Lanes) -> Lanes {
        Self::each(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn mul(self, a: Lanes, b: Lanes) -> Lanes {
        Self::each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Lanes, b: Lanes) -> Lanes {
        Self::each(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn max(self, a: Lanes, b: Lanes) -> Lanes {
        Self::each(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Lanes, b: Lanes) -> Lanes {
        Self::each(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn power_of_two(self, whole: Lanes) -> Lanes {
        whole.map(|whole| f32::from_bits(whole.to_bits().wrapping_add(BIAS) << FRACTION))
    }
}

#[cfg(all(feature = "std", target_arch = "x86_64"))]
mod avx2 {
    use pulp::f32x8;
    use pulp::x86::V3;

    use super::{Arithmetic, BIAS, FRACTION, Lanes};

    impl Arithmetic for V3 {
        type Vector = f32x8;

        #[inline(always)]
        fn vectors(self, rows: &[Lanes]) -> &[f32x8] {
            pulp::bytemuck::cast_slice(rows)
        }

        #[inline(always)]
        fn vectors_mut(self, rows: &mut [Lanes]) -> &mut [f32x8] {
            pulp::bytemuck::cast_slice_mut(rows)
        }

        #[inline(always)]
        fn all(self, value: f32) -> f32x8 {
            self.splat_f32x8(value)
        }

        #[inline(always)]
        fn mul_add(self, a: f32x8, b: f32x8, c: f32x8) -> f32x8 {
            self.mul_add_f32x8(a, b, c)
        }

        #[inline(always)]
        fn add(self, a: f32x8, b: f32x8) -> f32x8 {
            self.add_f32x8(a, b)
        }

        #[inline(always)]
        fn mul(self, a: f32x8, b: f32x8) -> f32x8 {
            self.mul_f32x8(a, b)
        }

        #[inline(always)]
        fn div(self, a: f32x8, b: f32x8) -> f32x8 {
            self.div_f32x8(a, b)
        }

        #[inline(always)]
        fn max(self, a: f32x8, b: f32x8) -> f32x8 {
            self.max_f32x8(a, b)
        }

        #[inline(always)]
        fn min(self, a: f32x8, b: f32x8) -> f32x8 {
            self.min_f32x8(a, b)
        }

        #[inline(always)]
        fn power_of_two(self, whole: f32x8) -> f32x8 {
            let biased = self.wrapping_add_u32x8(pulp::cast(whole), self.splat_u32x8(BIAS));
            pulp::cast(self.shl_const_u32x8::<{ FRACTION as i32 }>(biased))
        }
    }
}

#[cfg(all(feature = "std", target_arch = "aarch64"))]
mod neon {
    use pulp::aarch64::Neon;
    use pulp::f32x4;

    use super::{Arithmetic, BIAS, FRACTION, Lanes};

    impl Arithmetic for Neon {
        type Vector = [f32x4; 2];

        #[inline(always)]
        fn vectors(self, rows: &[Lanes]) -> &[[f32x4; 2]] {
            pulp::bytemuck::cast_slice(rows)
        }

        #[inline(always)]
        fn vectors_mut(self, rows: &mut [Lanes]) -> &mut [[f32x4; 2]] {
            pulp::bytemuck::cast_slice_mut(rows)
        }

        #[inline(always)]
        fn all(self, value: f32) -> Self::Vector {
            [self.splat_f32x4(value); 2]
        }

        #[inline(always)]
        fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector {
            [
                self.mul_add_f32x4(a[0], b[0], c[0]),
                self.mul_add_f32x4(a[1], b[1], c[1]),
            ]
        }

        #[inline(always)]
        fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            [self.add_f32x4(a[0], b[0]), self.add_f32x4(a[1], b[1])]
        }

        #[inline(always)]
        fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            [self.mul_f32x4(a[0], b[0]), self.mul_f32x4(a[1], b[1])]
        }

        #[inline(always)]
        fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            [self.div_f32x4(a[0], b[0]), self.div_f32x4(a[1], b[1])]
        }

        #[inline(always)]
        fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            [self.max_f32x4(a[0], b[0]), self.max_f32x4(a[1], b[1])]
        }

        #[inline(always)]
        fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector {
            [self.min_f32x4(a[0], b[0]), self.min_f32x4(a[1], b[1])]
        }

        #[inline(always)]
        fn power_of_two(self, whole: Self::Vector) -> Self::Vector {
            let power = |bits: u32| bits.wrapping_add(BIAS) << FRACTION;
            let lanes: [u32; 8] = pulp::cast(whole);
            pulp::cast(lanes.map(power))
        }
    }
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
    pub(super) fn apply<A: Arithmetic, const RELU: bool>(
        &self,
        arithmetic: A,
        x: &[f32],
        step: usize,
        [parts, apart]: [usize; 2],
        out: &mut [Lanes],
    ) {
        let rows = out.len() / self.groups;
        let mut row = 0;
        let parts = [parts, apart];
        while row + ROWS <= rows {
            let (x, out) = (&x[row * step..], &mut out[row * self.groups..]);
            self.tile::<A, RELU, ROWS>(arithmetic, x, step, parts, out);
            row += ROWS;
        }
        // Rows that are left, together too: one alone would wait for each of its sums.
        let (x, out) = (&x[row * step..], &mut out[row * self.groups..]);
        match rows - row {
            4 => self.tile::<A, RELU, 4>(arithmetic, x, step, parts, out),
            3 => self.tile::<A, RELU, 3>(arithmetic, x, step, parts, out),
            2 => self.tile::<A, RELU, 2>(arithmetic, x, step, parts, out),
            1 => self.tile::<A, RELU, 1>(arithmetic, x, step, parts, out),
            _ => {}
        }
    }

    #[inline(always)]
    fn tile<A: Arithmetic, const RELU: bool, const N: usize>(
        &self,
        arithmetic: A,
        x: &[f32],
        step: usize,
        parts: [usize; 2],
        out: &mut [Lanes],
    ) {
        let mut group = 0;
        // Two groups share what is read of the rows.
        while group + 2 <= self.groups {
            self.columns::<A, RELU, N, 2>(arithmetic, x, step, parts, group, out);
            group += 2;
        }
        if group < self.groups {
            self.columns::<A, RELU, N, 1>(arithmetic, x, step, parts, group, out);
        }
    }

    #[inline(always)]
    fn columns<A: Arithmetic, const RELU: bool, const N: usize, const G: usize>(
        &self,
        arithmetic: A,
        x: &[f32],
        step: usize,
        [parts, apart]: [usize; 2],
        group: usize,
        out: &mut [Lanes],
    ) {
        let run = self.inputs / parts;
        let all = arithmetic.vectors(&self.weights);
        let bias = &arithmetic.vectors(&self.bias)[group..][..G];
        let mut sums: [[A::Vector; G]; N] = [core::array::from_fn(|column| bias[column]); N];
        for part in 0..parts {
            let x = &x[part * apart..];
            let mut rows = [x; N];
            for (row, values) in rows.iter_mut().enumerate() {
                *values = &x[row * step..][..run];
            }
            let mut weights = [all; G];
            for (column, weights) in weights.iter_mut().enumerate() {
                *weights = &all[(group + column) * self.inputs + part * run..][..run];
            }
            for input in 0..run {
                for column in 0..G {
                    let weight = weights[column][input];
                    for row in 0..N {
                        let sum = &mut sums[row][column];
                        let factor = arithmetic.all(rows[row][input]);
                        *sum = arithmetic.mul_add(factor, weight, *sum);
                    }
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            let out = &mut out[row * self.groups + group..][..G];
            for (out, sum) in arithmetic.vectors_mut(out).iter_mut().zip(sums) {
                *out = if RELU { relu(arithmetic, sum) } else { sum };
            }
        }
    }
}

/// Groups of eight that `channels` take.
pub(super) const fn groups(channels: usize) -> usize {
    channels.div_ceil(LANES)
}

/// Negative ones become zero.
#[inline(always)]
pub(super) fn relu<A: Arithmetic>(arithmetic: A, a: A::Vector) -> A::Vector {
    arithmetic.max(a, arithmetic.all(0.0))
}

/// `start + a * x + b * y + c * z`, from the left.
#[inline(always)]
pub(super) fn three_taps<A: Arithmetic>(
    arithmetic: A,
    start: A::Vector,
    [x, y, z]: [A::Vector; 3],
    [a, b, c]: [A::Vector; 3],
) -> A::Vector {
    let sum = arithmetic.mul_add(x, a, start);
    let sum = arithmetic.mul_add(y, b, sum);
    arithmetic.mul_add(z, c, sum)
}

/// The sum of `taps` times rows, `[taps][groups]` both, group by group.
#[inline(always)]
pub(super) fn weighted_sum<A: Arithmetic>(
    arithmetic: A,
    out: &mut [A::Vector],
    rows: &[A::Vector],
    taps: &[A::Vector],
) {
    let groups = out.len();
    for (group, out) in out.iter_mut().enumerate() {
        let mut sum = arithmetic.all(0.0);
        for (row, tap) in rows.chunks_exact(groups).zip(taps.chunks_exact(groups)) {
            sum = arithmetic.mul_add(row[group], tap[group], sum);
        }
        *out = sum;
    }
}

/// `x * sigmoid(x)`, by a polynomial for the exponential.
#[inline(always)]
pub(super) fn silu<A: Arithmetic>(arithmetic: A, x: A::Vector) -> A::Vector {
    let negative = arithmetic.mul(x, arithmetic.all(-1.0));
    let below = arithmetic.add(exp(arithmetic, negative), arithmetic.all(1.0));
    arithmetic.div(x, below)
}

/// `e^x` within 2e-7 of itself, from -87 to 88; beyond, as at these ends. Cody and Waite's reduction to half an octave, and a polynomial of degree 6
/// (coefficients as in Cephes' expf).
#[inline(always)]
fn exp<A: Arithmetic>(arithmetic: A, x: A::Vector) -> A::Vector {
    /// Added to a number, it leaves a whole one in the last bits.
    const ROUND: f32 = 12_582_912.0;
    let a = arithmetic;
    let x = a.min(a.max(x, a.all(-87.0)), a.all(88.0));
    let whole = a.mul_add(x, a.all(core::f32::consts::LOG2_E), a.all(ROUND));
    let octaves = a.add(whole, a.all(-ROUND));
    let r = a.mul_add(octaves, a.all(-0.693_359_4), x);
    let r = a.mul_add(octaves, a.all(2.121_944_4e-4), r);
    let mut p = a.all(1.987_569_1e-4);
    for coefficient in [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = a.mul_add(p, r, a.all(coefficient));
    }
    let p = a.add(a.mul_add(a.mul(p, r), r, r), a.all(1.0));
    a.mul(p, a.power_of_two(whole))
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
            let found = exp(Plain, [x; LANES])[0];
            largest = largest.max((f64::from(found) / expected - 1.0).abs());
        }
        assert!(largest < 2e-7, "{largest:e}");
        assert!(exp(Plain, [1e30; LANES])[0].is_finite() && exp(Plain, [-1e30; LANES])[0] >= 0.0);
    }
}
