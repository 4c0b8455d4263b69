//! The inner loops of the fused passes: rows of frames in, rows of frames out.
//!
//! What works element by element is inlined into the per-sample passes, which are compiled for several instruction sets and chosen at
//! run time; so plain loops over slices become AVX-512, AVX2 or NEON code. The two kernels that hold tiles of sums in registers,
//! [`Combine`] and [`Correlate`], are written for [`pulp`]'s vectors, because compilers leave such loops scalar.
//! Summation order depends on lengths and instruction set alone, so results do not depend on the number of threads.

use pulp::{Arch, Simd, WithSimd};

const LANES: usize = 32;
/// Rows of a register tile.
const TILE: usize = 4;

/// `out += factor * x`.
#[inline(always)]
pub(super) fn add_scaled(out: &mut [f32], x: &[f32], factor: f32) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = factor.mul_add(*x, *o);
    }
}

/// Sum of partial sums, by halves: one after the other would take longer than the loop before it.
#[inline(always)]
fn total(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[half + i];
        }
        half /= 2;
    }
    lanes[0]
}

/// Sum of all values.
#[inline(always)]
pub(super) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    for (l, v) in lanes.iter_mut().zip(chunks.remainder()) {
        *l = *v;
    }
    for chunk in chunks {
        for (l, v) in lanes.iter_mut().zip(chunk) {
            *l += v;
        }
    }
    total(lanes)
}

/// Sum of products.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    for (l, (x, y)) in lanes
        .iter_mut()
        .zip(a.remainder().iter().zip(b.remainder()))
    {
        *l = x * y;
    }
    for (a, b) in a.zip(b) {
        for i in 0..LANES {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    total(lanes)
}

/// Sum of `a + b`, and of `(a + b) * x`.
#[inline(always)]
pub(super) fn sum_and_dot(a: &[f32], b: &[f32], x: &[f32]) -> [f32; 2] {
    let (mut sums, mut products) = ([0f32; LANES], [0f32; LANES]);
    let whole = a.len() / LANES * LANES;
    for i in whole..a.len() {
        sums[i - whole] = a[i] + b[i];
        products[i - whole] = (a[i] + b[i]) * x[i];
    }
    for ((a, b), x) in a
        .chunks_exact(LANES)
        .zip(b.chunks_exact(LANES))
        .zip(x.chunks_exact(LANES))
    {
        for i in 0..LANES {
            let d = a[i] + b[i];
            sums[i] += d;
            products[i] = d.mul_add(x[i], products[i]);
        }
    }
    [total(sums), total(products)]
}

/// Sum and sum of squares.
#[inline(always)]
pub(super) fn moments(x: &[f32]) -> [f32; 2] {
    let (mut sums, mut squares) = ([0f32; LANES], [0f32; LANES]);
    let chunks = x.chunks_exact(LANES);
    for (i, v) in chunks.remainder().iter().enumerate() {
        sums[i] = *v;
        squares[i] = v * v;
    }
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] += chunk[i];
            squares[i] = chunk[i].mul_add(chunk[i], squares[i]);
        }
    }
    [total(sums), total(squares)]
}

/// [`moments`] of every row of `length` values. A loop, because closures are not compiled for the caller's instruction set.
#[inline(always)]
pub(super) fn row_moments(x: &[f32], length: usize) -> Vec<[f32; 2]> {
    let mut rows = Vec::with_capacity(x.len() / length);
    for row in x.chunks_exact(length) {
        rows.push(moments(row));
    }
    rows
}

/// `[sum of dy, sum of dy * x]` of every row of `length` values.
#[inline(always)]
pub(super) fn row_dots(dy: &[f32], x: &[f32], length: usize) -> Vec<[f32; 2]> {
    let mut rows = Vec::with_capacity(x.len() / length);
    for (dy, x) in dy.chunks_exact(length).zip(x.chunks_exact(length)) {
        rows.push([sum(dy), dot(dy, x)]);
    }
    rows
}

/// Back through a norm, in place: `dy = a * dy + b * x + c` with the `[a, b, c]` of each row of `length` values.
#[inline(always)]
pub(super) fn back_through_norm(dy: &mut [f32], x: &[f32], terms: &[[f32; 3]], length: usize) {
    for (c, (dy, x)) in dy
        .chunks_exact_mut(length)
        .zip(x.chunks_exact(length))
        .enumerate()
    {
        let [a, b, k] = terms[c];
        for (dy, x) in dy.iter_mut().zip(x) {
            *dy = a.mul_add(*dy, b.mul_add(*x, k));
        }
    }
}

/// A weight matrix: that of output `o`, input `i` is `data[o * outputs_stride + i * inputs_stride]`.
/// The transposed strides give the gradient of the input.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    outputs: usize,
    inputs: usize,
    outputs_stride: usize,
    inputs_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A `[outputs, inputs]` weight as it is stored.
    #[inline(always)]
    pub(super) fn new(data: &'a [f32], outputs: usize, inputs: usize) -> Self {
        Self {
            data,
            outputs,
            inputs,
            outputs_stride: inputs,
            inputs_stride: 1,
        }
    }

    /// Its transpose.
    #[inline(always)]
    pub(super) fn transposed(self) -> Self {
        Self {
            data: self.data,
            outputs: self.inputs,
            inputs: self.outputs,
            outputs_stride: self.inputs_stride,
            inputs_stride: self.outputs_stride,
        }
    }
}

/// The vector that begins at `x[at]`.
#[inline(always)]
fn load<S: Simd>(x: &[f32], at: usize) -> S::f32s {
    S::as_simd_f32s(&x[at..at + S::F32_LANES]).0[0]
}

/// Rows as weighted sums of rows, `n` values each: `out[out_at + o * out_stride ..] = sum over i of w[o][i] * x[x_at(i) ..]`.
struct Combine<'a, F> {
    out: &'a mut [f32],
    out_at: usize,
    out_stride: usize,
    x: &'a [f32],
    x_at: F,
    w: Matrix<'a>,
    n: usize,
}

impl<F: Fn(usize) -> usize> Combine<'_, F> {
    /// The sums of `TILE` outputs, whose weights are `packed` by input, over `V` vectors from position `p`.
    #[inline(always)]
    fn tile<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        packed: &[[f32; TILE]],
        o: usize,
        rows: usize,
        p: usize,
    ) {
        let mut sums = [[simd.splat_f32s(0.0); V]; TILE];
        for (i, weights) in packed.iter().enumerate() {
            let at = (self.x_at)(i) + p;
            let mut x = [simd.splat_f32s(0.0); V];
            for (v, x) in x.iter_mut().enumerate() {
                *x = load::<S>(self.x, at + v * S::F32_LANES);
            }
            for k in 0..TILE {
                let w = simd.splat_f32s(weights[k]);
                for v in 0..V {
                    sums[k][v] = simd.mul_add_f32s(w, x[v], sums[k][v]);
                }
            }
        }
        for (k, sums) in sums.iter().enumerate().take(rows) {
            let at = self.out_at + (o + k) * self.out_stride + p;
            let out = &mut self.out[at..at + V * S::F32_LANES];
            S::as_mut_simd_f32s(out).0.copy_from_slice(sums);
        }
    }

    /// What is left of the rows from position `p`, less than a vector.
    #[inline(always)]
    fn rest<S: Simd>(&mut self, simd: S, packed: &[[f32; TILE]], o: usize, rows: usize, p: usize) {
        let mut sums = [simd.splat_f32s(0.0); TILE];
        for (i, weights) in packed.iter().enumerate() {
            let at = (self.x_at)(i);
            let x = simd.partial_load_f32s(&self.x[at + p..at + self.n]);
            for k in 0..TILE {
                sums[k] = simd.mul_add_f32s(simd.splat_f32s(weights[k]), x, sums[k]);
            }
        }
        for (k, sums) in sums.iter().enumerate().take(rows) {
            let at = self.out_at + (o + k) * self.out_stride;
            simd.partial_store_f32s(&mut self.out[at + p..at + self.n], *sums);
        }
    }
}

impl<F: Fn(usize) -> usize> WithSimd for Combine<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let w = self.w;
        let mut packed = vec![[0f32; TILE]; w.inputs];
        for o in (0..w.outputs).step_by(TILE) {
            let rows = (w.outputs - o).min(TILE);
            for (i, weights) in packed.iter_mut().enumerate() {
                for (k, weight) in weights.iter_mut().enumerate().take(rows) {
                    *weight = w.data[(o + k) * w.outputs_stride + i * w.inputs_stride];
                }
            }
            let mut p = 0;
            while p + 2 * S::F32_LANES <= self.n {
                self.tile::<S, 2>(simd, &packed, o, rows, p);
                p += 2 * S::F32_LANES;
            }
            if p + S::F32_LANES <= self.n {
                self.tile::<S, 1>(simd, &packed, o, rows, p);
                p += S::F32_LANES;
            }
            if p < self.n {
                self.rest(simd, &packed, o, rows, p);
            }
        }
    }
}

/// Sums of products of rows, `n` values each: `dw[o * inputs + i] += dot(dy[dy_at + o * dy_stride ..], x[x_at(i) ..])`.
struct Correlate<'a, F> {
    dw: &'a mut [f32],
    dy: &'a [f32],
    dy_at: usize,
    dy_stride: usize,
    x: &'a [f32],
    x_at: F,
    outputs: usize,
    inputs: usize,
    n: usize,
}

impl<F: Fn(usize) -> usize> WithSimd for Correlate<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let whole = self.n / S::F32_LANES * S::F32_LANES;
        for o in (0..self.outputs).step_by(TILE) {
            // Where there are fewer, the last is computed again, and not used.
            let dy_at: [usize; TILE] = std::array::from_fn(|k| {
                self.dy_at + (o + k).min(self.outputs - 1) * self.dy_stride
            });
            for i in (0..self.inputs).step_by(TILE) {
                let x_at: [usize; TILE] =
                    std::array::from_fn(|j| (self.x_at)((i + j).min(self.inputs - 1)));
                let mut sums = [[simd.splat_f32s(0.0); TILE]; TILE];
                for p in (0..whole).step_by(S::F32_LANES) {
                    let mut x = [simd.splat_f32s(0.0); TILE];
                    for j in 0..TILE {
                        x[j] = load::<S>(self.x, x_at[j] + p);
                    }
                    for k in 0..TILE {
                        let dy = load::<S>(self.dy, dy_at[k] + p);
                        for j in 0..TILE {
                            sums[k][j] = simd.mul_add_f32s(dy, x[j], sums[k][j]);
                        }
                    }
                }
                if whole < self.n {
                    let mut x = [simd.splat_f32s(0.0); TILE];
                    for j in 0..TILE {
                        x[j] = simd.partial_load_f32s(&self.x[x_at[j] + whole..x_at[j] + self.n]);
                    }
                    for k in 0..TILE {
                        let dy =
                            simd.partial_load_f32s(&self.dy[dy_at[k] + whole..dy_at[k] + self.n]);
                        for j in 0..TILE {
                            sums[k][j] = simd.mul_add_f32s(dy, x[j], sums[k][j]);
                        }
                    }
                }
                for (k, sums) in sums.iter().enumerate().take(self.outputs - o) {
                    for (j, sums) in sums.iter().enumerate().take(self.inputs - i) {
                        self.dw[(o + k) * self.inputs + i + j] += simd.reduce_sum_f32s(*sums);
                    }
                }
            }
        }
    }
}

/// 1x1 convolution: `out [outputs, n] = w x`, `x [inputs, n]`.
pub(super) fn point_conv(out: &mut [f32], x: &[f32], w: Matrix, n: usize) {
    Arch::new().dispatch(Combine {
        out,
        out_at: 0,
        out_stride: n,
        x,
        x_at: |i| i * n,
        w,
        n,
    });
}

/// Gradient of a 1x1 convolution's weight: `dw [outputs, inputs] += dy x^T`, `dy [outputs, n]`, `x [inputs, n]`.
pub(super) fn point_conv_weight_gradient(
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    outputs: usize,
    inputs: usize,
    n: usize,
) {
    Arch::new().dispatch(Correlate {
        dw,
        dy,
        dy_at: 0,
        dy_stride: n,
        x,
        x_at: |i| i * n,
        outputs,
        inputs,
        n,
    });
}

/// One output band of a convolution with one input channel: `out [outputs, bands, n]`, `kernel [outputs, taps]`; tap `i` sees
/// `x[taps[i] ..]`.
pub(super) fn band_conv(
    out: &mut [f32],
    x: &[f32],
    kernel: &[f32],
    taps: &[usize],
    band: usize,
    bands: usize,
    n: usize,
) {
    Arch::new().dispatch(Combine {
        out,
        out_at: band * n,
        out_stride: bands * n,
        x,
        x_at: |i: usize| taps[i],
        w: Matrix::new(kernel, kernel.len() / taps.len(), taps.len()),
        n,
    });
}

/// Adds one output band's share of the gradient of [`band_conv`]'s kernel.
pub(super) fn band_conv_kernel_gradient(
    dkernel: &mut [f32],
    dy: &[f32],
    x: &[f32],
    taps: &[usize],
    band: usize,
    bands: usize,
    n: usize,
) {
    let outputs = dkernel.len() / taps.len();
    Arch::new().dispatch(Correlate {
        dw: dkernel,
        dy,
        dy_at: band * n,
        dy_stride: bands * n,
        x,
        x_at: |i: usize| taps[i],
        outputs,
        inputs: taps.len(),
        n,
    });
}

/// Frames over which tap `tap` of a temporal kernel reaches both output and input:
/// `(first output frame, first input frame, count)` for a row of `frames`, zero padding `left` and `dilation` frames a tap.
#[inline(always)]
pub(super) fn tap_range(
    tap: usize,
    dilation: usize,
    left: usize,
    frames: usize,
) -> (usize, usize, usize) {
    let ahead = tap * dilation;
    let to = left.saturating_sub(ahead).min(frames);
    let from = ahead.saturating_sub(left).min(frames);
    (to, from, frames.saturating_sub(to + from))
}

/// Depthwise convolution along frequency of one channel: 3 taps, one row of zeros above and below, any stride.
/// `x [bands_in, frames]`, `out [bands_out, frames]`.
#[inline(always)]
pub(super) fn frequency_conv(
    out: &mut [f32],
    x: &[f32],
    kernel: &[f32],
    bands_in: usize,
    stride: usize,
    frames: usize,
) {
    for (band, out) in out.chunks_exact_mut(frames).enumerate() {
        let middle = band * stride;
        let row = |r: usize| &x[r * frames..][..frames];
        let centre = row(middle);
        let (above, k0) = if middle > 0 {
            (row(middle - 1), kernel[0])
        } else {
            (centre, 0.0)
        };
        let (below, k2) = if middle + 1 < bands_in {
            (row(middle + 1), kernel[2])
        } else {
            (centre, 0.0)
        };
        for i in 0..frames {
            out[i] = k0.mul_add(above[i], kernel[1].mul_add(centre[i], k2 * below[i]));
        }
    }
}

/// Backward of [`frequency_conv`]: adds to the gradient of the input, returns the gradient of the three taps.
#[inline(always)]
pub(super) fn frequency_conv_backward(
    dx: &mut [f32],
    dout: &[f32],
    x: &[f32],
    kernel: &[f32],
    bands_in: usize,
    stride: usize,
    frames: usize,
) -> [f32; 3] {
    let mut dkernel = [0f32; 3];
    for (band, dout) in dout.chunks_exact(frames).enumerate() {
        for tap in 0..3 {
            let Some(r) = (band * stride + tap).checked_sub(1) else {
                continue;
            };
            if r >= bands_in {
                continue;
            }
            add_scaled(&mut dx[r * frames..][..frames], dout, kernel[tap]);
            dkernel[tap] += dot(dout, &x[r * frames..][..frames]);
        }
    }
    dkernel
}

/// Logistic function by a polynomial exponential (relative error below 1e-5 down to exp(-87)), so that rows of it become vector code.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    let t = (x * -std::f32::consts::LOG2_E).clamp(-126.0, 126.0);
    let whole = t.round_ties_even();
    let f = t - whole;
    // Taylor coefficients of 2^f = exp(f ln 2) for |f| <= 0.5, to the sixth power.
    let p = 1.540_353e-4f32
        .mul_add(f, 1.333_355_8e-3)
        .mul_add(f, 9.618_129e-3)
        .mul_add(f, 5.550_411e-2)
        .mul_add(f, 0.240_226_5)
        .mul_add(f, std::f32::consts::LN_2)
        .mul_add(f, 1.0);
    let power = f32::from_bits(((whole as i32 + 127) as u32) << 23);
    1.0 / p.mul_add(power, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigmoid_is_accurate_everywhere() {
        for i in -100_000..=100_000 {
            let x = i as f32 * 1e-3;
            let exact = 1.0 / (1.0 + (-x as f64).exp());
            let relative = ((sigmoid(x) as f64 - exact) / exact.max(1e-30)).abs();
            assert!(
                relative < 1e-5 || x < -87.0,
                "sigmoid({x}) is off by {relative}"
            );
        }
    }

    #[test]
    fn taps_stay_inside_the_row() {
        // Causal, 3 taps, dilation 8: the oldest tap starts 16 frames later.
        assert_eq!(tap_range(0, 8, 16, 20), (16, 0, 4));
        assert_eq!(tap_range(2, 8, 16, 20), (0, 0, 20));
        // Symmetric: the last tap looks ahead.
        assert_eq!(tap_range(2, 8, 8, 20), (0, 8, 12));
        // A row shorter than the dilation has no such tap.
        assert_eq!(tap_range(0, 8, 16, 10), (10, 0, 0));
    }
}
