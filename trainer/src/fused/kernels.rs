//! The inner loops of the fused passes: rows of frames in, rows of frames out.
//!
//! Everything here is inlined into the per-sample passes, which are compiled for several instruction sets and chosen at run
//! time; so plain loops over slices become AVX-512, AVX2 or NEON code. `mul_add` is one instruction on all of these.
//! Summation order depends only on the lengths, so results do not depend on the number of threads.

const LANES: usize = 16;

/// `out += factor * x`.
#[inline(always)]
pub(super) fn add_scaled(out: &mut [f32], x: &[f32], factor: f32) {
    for (o, x) in out.iter_mut().zip(x) {
        *o = factor.mul_add(*x, *o);
    }
}

/// Sum of all values.
#[inline(always)]
pub(super) fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; 2 * LANES];
    let chunks = x.chunks_exact(2 * LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (l, v) in lanes.iter_mut().zip(chunk) {
            *l += v;
        }
    }
    rest + lanes.iter().sum::<f32>()
}

/// Sum of products.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0f32; 2 * LANES];
    let (a, b) = (a.chunks_exact(2 * LANES), b.chunks_exact(2 * LANES));
    let rest: f32 = a
        .remainder()
        .iter()
        .zip(b.remainder())
        .map(|(x, y)| x * y)
        .sum();
    for (a, b) in a.zip(b) {
        for i in 0..2 * LANES {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    rest + lanes.iter().sum::<f32>()
}

/// Sum and sum of squares.
#[inline(always)]
pub(super) fn moments(x: &[f32]) -> [f32; 2] {
    let (mut sums, mut squares) = ([0f32; LANES], [0f32; LANES]);
    let chunks = x.chunks_exact(LANES);
    let (mut sum, mut square) = (0f32, 0f32);
    for v in chunks.remainder() {
        sum += v;
        square += v * v;
    }
    for chunk in chunks {
        for i in 0..LANES {
            sums[i] += chunk[i];
            squares[i] = chunk[i].mul_add(chunk[i], squares[i]);
        }
    }
    [
        sum + sums.iter().sum::<f32>(),
        square + squares.iter().sum::<f32>(),
    ]
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

/// A matrix over which [`point_conv`] runs: weight of output `o`, input `i` is `data[o * outputs_stride + i * inputs_stride]`.
/// The transposed strides give the gradient of the input.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) outputs: usize,
    pub(super) inputs: usize,
    pub(super) outputs_stride: usize,
    pub(super) inputs_stride: usize,
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

/// 1x1 convolution: `out [outputs, n] = w x`, `x [inputs, n]`, in tiles of 4 outputs by 32 positions.
#[inline(always)]
pub(super) fn point_conv(out: &mut [f32], x: &[f32], w: Matrix, n: usize) {
    const TILE: usize = 2 * LANES;
    let tiled = n / TILE * TILE;
    let mut o = 0;
    while o < w.outputs {
        let rows = (w.outputs - o).min(4);
        let mut from = 0;
        if rows == 4 {
            while from < tiled {
                let mut tile = [[0f32; TILE]; 4];
                for i in 0..w.inputs {
                    let x: &[f32; TILE] = x[i * n + from..][..TILE]
                        .try_into()
                        .expect("slice of TILE values");
                    for (k, row) in tile.iter_mut().enumerate() {
                        let weight = w.data[(o + k) * w.outputs_stride + i * w.inputs_stride];
                        for l in 0..TILE {
                            row[l] = weight.mul_add(x[l], row[l]);
                        }
                    }
                }
                for (k, row) in tile.iter().enumerate() {
                    out[(o + k) * n + from..][..TILE].copy_from_slice(row);
                }
                from += TILE;
            }
        }
        for k in 0..rows {
            let row = &mut out[(o + k) * n..][from..n];
            row.fill(0.0);
            for i in 0..w.inputs {
                add_scaled(
                    row,
                    &x[i * n + from..(i + 1) * n],
                    w.data[(o + k) * w.outputs_stride + i * w.inputs_stride],
                );
            }
        }
        o += rows;
    }
}

/// Gradient of a 1x1 convolution's weight: `dw [outputs, inputs] += dy x^T`, `dy [outputs, n]`, `x [inputs, n]`.
#[inline(always)]
pub(super) fn point_conv_weight_gradient(
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    outputs: usize,
    inputs: usize,
    n: usize,
) {
    let tiled = n / LANES * LANES;
    for o in (0..outputs).step_by(4) {
        let rows = (outputs - o).min(4);
        for i in (0..inputs).step_by(4) {
            let columns = (inputs - i).min(4);
            if rows == 4 && columns == 4 {
                let mut tile = [[[0f32; LANES]; 4]; 4];
                for p in (0..tiled).step_by(LANES) {
                    for (k, tile) in tile.iter_mut().enumerate() {
                        let d: &[f32; LANES] = dy[(o + k) * n + p..][..LANES]
                            .try_into()
                            .expect("slice of LANES values");
                        for (j, tile) in tile.iter_mut().enumerate() {
                            let x: &[f32; LANES] = x[(i + j) * n + p..][..LANES]
                                .try_into()
                                .expect("slice of LANES values");
                            for l in 0..LANES {
                                tile[l] = d[l].mul_add(x[l], tile[l]);
                            }
                        }
                    }
                }
                for k in 0..4 {
                    for j in 0..4 {
                        let mut total: f32 = tile[k][j].iter().sum();
                        for p in tiled..n {
                            total += dy[(o + k) * n + p] * x[(i + j) * n + p];
                        }
                        dw[(o + k) * inputs + i + j] += total;
                    }
                }
            } else {
                for k in o..o + rows {
                    for j in i..i + columns {
                        dw[k * inputs + j] += dot(&dy[k * n..][..n], &x[j * n..][..n]);
                    }
                }
            }
        }
    }
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
    let (to, from) = (left.saturating_sub(ahead), ahead.saturating_sub(left));
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
        assert_eq!(tap_range(0, 8, 16, 10), (16, 0, 0));
    }
}
