//! The complex transform of 256 points where there is no `std`, and with it no rustfft: its bits are rustfft's.
//!
//! Sums and products come in rustfft's order (a radix-4 over transforms of 16 points, each a split radix of 8 and twice 4), with twiddles
//! computed in f64 and rounded once. A property test holds the bits equal on every architecture that tests run on.

use alloc::{boxed::Box, vec::Vec};
use core::f64::consts::{FRAC_1_SQRT_2, PI};

use num_complex::Complex;

use super::lanes::Lanes;

/// Points of the transform.
pub(super) const POINTS: usize = 256;
/// Points of the innermost transforms, which lie one after another.
const INNER: usize = 16;

/// Forward transform in place: `X[k] = sum over n of x[n] exp(-2 pi i k n / 256)`, without any scaling.
#[derive(Clone)]
pub(super) struct Fft {
    /// Half a right angle, `1 / sqrt 2`.
    half: Lanes,
    /// `exp(-2 pi i k / 16)` for k of 1 to 3.
    inner: [Complex<Lanes>; 3],
    /// Of each pass, three for a column: those of 64 points, then those of 256.
    passes: [Vec<[Complex<Lanes>; 3]>; 2],
    scratch: Box<[Complex<Lanes>; POINTS]>,
}

impl Fft {
    pub(super) fn new() -> Self {
        let columns = |points: usize| {
            let of = |column| [1, 2, 3].map(|row| twiddle(column * row, points));
            (0..points / 4).map(of).collect()
        };
        Self {
            half: Lanes::splat(FRAC_1_SQRT_2 as f32),
            inner: [1, 2, 3].map(|k| twiddle(k, INNER)),
            passes: [columns(4 * INNER), columns(POINTS)],
            scratch: Box::new([Complex::default(); POINTS]),
        }
    }

    pub(super) fn process(&mut self, signal: &mut [Complex<Lanes>; POINTS]) {
        // Sixteen signals of every sixteenth point, in the order in which the passes join them: digits of base 4 reversed.
        let stride = POINTS / INNER;
        let scratch = &mut self.scratch;
        for (place, points) in scratch.chunks_exact_mut(INNER).enumerate() {
            let first = place % 4 * 4 + place / 4;
            for (index, point) in points.iter_mut().enumerate() {
                *point = signal[first + stride * index];
            }
            sixteen(points, &self.inner, self.half);
        }
        for twiddles in &self.passes {
            let columns = twiddles.len();
            for group in scratch.chunks_exact_mut(4 * columns) {
                for (column, twiddles) in twiddles.iter().enumerate() {
                    let at = |row: usize| row * columns + column;
                    let rotated = |row: usize| group[at(row)] * twiddles[row - 1];
                    let joined = four([group[column], rotated(1), rotated(2), rotated(3)]);
                    for (row, value) in joined.into_iter().enumerate() {
                        group[at(row)] = value;
                    }
                }
            }
        }
        signal.copy_from_slice(&scratch[..]);
    }
}

/// `exp(-2 pi i index / points)`, the same in every lane.
fn twiddle(index: usize, points: usize) -> Complex<Lanes> {
    let angle = -2.0 * PI / points as f64 * index as f64;
    let lanes = |value: f64| Lanes::splat(value as f32);
    Complex::new(lanes(libm::cos(angle)), lanes(libm::sin(angle)))
}

/// `-i x`.
#[inline(always)]
fn quarter_turn(x: Complex<Lanes>) -> Complex<Lanes> {
    Complex::new(x.im, -x.re)
}

/// The transform of four points.
#[inline(always)]
fn four([a, b, c, d]: [Complex<Lanes>; 4]) -> [Complex<Lanes>; 4] {
    let (even, odd) = (a + c, b + d);
    let (even_turned, odd_turned) = (a - c, quarter_turn(b - d));
    [
        even + odd,
        even_turned + odd_turned,
        even - odd,
        even_turned - odd_turned,
    ]
}

/// The transform of eight points, of which `x` gives the n-th.
#[inline(always)]
fn eight(x: impl Fn(usize) -> Complex<Lanes>, half: Lanes) -> [Complex<Lanes>; 8] {
    let even = four([x(0), x(2), x(4), x(6)]);
    let mut odd = four([x(1), x(3), x(5), x(7)]);
    odd[1] = (quarter_turn(odd[1]) + odd[1]) * half;
    odd[2] = quarter_turn(odd[2]);
    odd[3] = (quarter_turn(odd[3]) - odd[3]) * half;
    core::array::from_fn(|k| match k {
        0..4 => even[k] + odd[k],
        _ => even[k - 4] - odd[k - 4],
    })
}

/// The transform of sixteen points, in place.
#[inline(always)]
fn sixteen(x: &mut [Complex<Lanes>], twiddles: &[Complex<Lanes>; 3], half: Lanes) {
    let even = eight(|n| x[2 * n], half);
    // Every fourth point from the first, and from the one before it: their twiddles are conjugate.
    let mut after = four([x[1], x[5], x[9], x[13]]);
    let mut before = four([x[15], x[3], x[7], x[11]]);
    for (k, twiddle) in twiddles.iter().enumerate() {
        after[k + 1] = after[k + 1] * twiddle;
        before[k + 1] = before[k + 1] * twiddle.conj();
    }
    for k in 0..4 {
        let (sum, difference) = (after[k] + before[k], after[k] - before[k]);
        let turned = quarter_turn(difference);
        x[k] = even[k] + sum;
        x[k + 4] = even[k + 4] + turned;
        x[k + 8] = even[k] - sum;
        x[k + 12] = even[k + 4] - turned;
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use proptest::prelude::*;
    use rustfft::{Fft as _, FftDirection, algorithm::Radix4};

    use super::*;

    fn bits(signal: &[Complex<Lanes>]) -> Vec<u32> {
        let of =
            |value: &Complex<Lanes>| [value.re, value.im].map(|lanes| lanes.0.map(f32::to_bits));
        signal.iter().flat_map(of).flatten().collect()
    }

    proptest! {
        #[test]
        fn its_bits_are_rustffts(values in prop::collection::vec(-1e6f32..1e6, 8 * POINTS), quiet in 0..40) {
            // From full scale down to numbers whose products are subnormal.
            let scale = libm::exp2f(-4.0 * quiet as f32);
            let mut numbers = values.chunks_exact(4).map(|v| Lanes([v[0], v[1], v[2], v[3]].map(|v| v * scale)));
            let mut next = || numbers.next().expect("eight values a point");
            let mut ours = [Complex::default(); POINTS].map(|_: Complex<Lanes>| Complex::new(next(), next()));
            let mut theirs = ours;
            Fft::new().process(&mut ours);
            Radix4::new(POINTS, FftDirection::Forward).process(&mut theirs);
            prop_assert_eq!(bits(&ours), bits(&theirs));
        }
    }
}
