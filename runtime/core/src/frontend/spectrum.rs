//! The power spectrum of some frames: window, zeros up to the transform length, squared magnitude. Buffers are made once.

use alloc::boxed::Box;
#[cfg(feature = "std")]
use alloc::{vec, vec::Vec};
use core::f64::consts::PI;

use num_complex::Complex;
#[cfg(feature = "std")]
use rustfft::{Fft, FftDirection, algorithm::Radix4};

#[cfg(not(feature = "std"))]
use super::fft::Fft;
use super::lanes::Lanes;
use crate::settings::{FFT_SIZE, WINDOW_SAMPLES};

/// Bins of the power spectrum, from 0 Hz to half the sample rate.
pub(super) const POWER_BINS: usize = FFT_SIZE / 2 + 1;
/// The real signal is packed two samples to a complex number, so the transform has half the length.
const PACKED_SIZE: usize = FFT_SIZE / 2;

/// Computes `|FFT|^2` of [`LANES`](super::lanes::LANES) windowed frames.
///
/// The window and this file's own rotations come from the `libm` crate. With `std` the transform is rustfft's, which computes its rotations
/// with the standard library's f64 `sin` and `cos` and rounds to f32, which leaves a platform's last-bit differences behind; the
/// pinned bits in the front end's golden test hold that on each platform. It is named rather than planned: plans hold every
/// algorithm there is, and the SIMD ones add in another order on each CPU. Without `std` it is [`fft`](super::fft)'s, of the same bits.
#[derive(Clone)]
pub(super) struct Spectrum {
    /// Behind a pointer: compiled into this file it takes a third longer.
    #[cfg(feature = "std")]
    fft: alloc::sync::Arc<dyn Fft<Lanes>>,
    #[cfg(not(feature = "std"))]
    fft: Fft,
    /// Periodic Hann window, `0.5 - 0.5 cos(2 pi n / 480)`.
    window: [f32; WINDOW_SAMPLES],
    /// `exp(-2 pi i k / 512)` for each power bin k.
    rotations: [Complex<f32>; POWER_BINS],
    /// Two neighbouring samples to a complex number, a frame to a lane.
    packed: Box<[Complex<Lanes>; PACKED_SIZE]>,
    #[cfg(feature = "std")]
    scratch: Vec<Complex<Lanes>>,
    power: Box<[Lanes; POWER_BINS]>,
}

impl Spectrum {
    pub(super) fn new() -> Self {
        #[cfg(feature = "std")]
        let fft = Radix4::new(PACKED_SIZE, FftDirection::Forward);
        Self {
            window: core::array::from_fn(|n| {
                let angle = 2.0 * PI * n as f64 / WINDOW_SAMPLES as f64;
                (0.5 - 0.5 * libm::cos(angle)) as f32
            }),
            rotations: core::array::from_fn(|k| {
                let angle = -2.0 * PI * k as f64 / FFT_SIZE as f64;
                Complex::new(libm::cos(angle) as f32, libm::sin(angle) as f32)
            }),
            #[cfg(feature = "std")]
            scratch: vec![Complex::default(); fft.get_inplace_scratch_len()],
            #[cfg(feature = "std")]
            fft: alloc::sync::Arc::new(fft),
            #[cfg(not(feature = "std"))]
            fft: Fft::new(),
            packed: Box::new([Complex::default(); PACKED_SIZE]),
            power: Box::new([Lanes::default(); POWER_BINS]),
        }
    }

    /// Takes `frame` as the one in `lane`, below [`LANES`](super::lanes::LANES), of the next transform.
    pub(super) fn set(&mut self, lane: usize, frame: &[f32; WINDOW_SAMPLES]) {
        for (index, slot) in self.packed[..WINDOW_SAMPLES / 2].iter_mut().enumerate() {
            let (even, odd) = (2 * index, 2 * index + 1);
            slot.re.0[lane] = frame[even] * self.window[even];
            slot.im.0[lane] = frame[odd] * self.window[odd];
        }
    }

    /// The power of each bin of the frames set, without any scaling by the length of window or transform. Lanes that were not
    /// set hold finite numbers of no meaning.
    pub(super) fn power(&mut self) -> &[Lanes; POWER_BINS] {
        self.packed[WINDOW_SAMPLES / 2..].fill(Complex::default());
        #[cfg(feature = "std")]
        self.fft
            .process_with_scratch(&mut self.packed[..], &mut self.scratch);
        #[cfg(not(feature = "std"))]
        self.fft.process(&mut self.packed);

        // With Z the transform of even + i odd: X[k] = E[k] + exp(-2 pi i k / 512) O[k],
        // where 2 E[k] = Z[k] + conj Z[-k] and 2 i O[k] = Z[k] - conj Z[-k] (indices modulo 256).
        let half = Lanes::splat(0.5);
        for (bin, power) in self.power.iter_mut().enumerate() {
            let here = self.packed[bin % PACKED_SIZE];
            let mirrored = self.packed[(PACKED_SIZE - bin) % PACKED_SIZE].conj();
            let even = (here + mirrored) * half;
            let difference = (here - mirrored) * half;
            let odd = Complex::new(difference.im, -difference.re);
            let rotation = self.rotations[bin];
            let rotation = Complex::new(Lanes::splat(rotation.re), Lanes::splat(rotation.im));
            *power = (even + rotation * odd).norm_sqr();
        }
        // What is left of the transform would grow from one to the next in lanes that nobody sets.
        self.packed[..WINDOW_SAMPLES / 2].fill(Complex::default());
        &self.power
    }
}
