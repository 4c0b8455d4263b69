//! The mel filter bank: triangles over the power spectrum, kept sparse. A power spectrum enters, mel powers leave.

use alloc::vec::Vec;

use super::lanes::Lanes;

/// Triangular filters, equally spaced on the mel scale and linear in Hz between their edges, with a peak of 1.
///
/// The scale is HTK's, `mel = 2595 log10(1 + f / 700)` (Young et al., The HTK Book 3.5, section 5.6, equation 5.13).
/// The triangles are linear in Hz and unnormalised, as in librosa (`htk=True, norm=None`) and torchaudio (`mel_scale="htk"`).
#[derive(Clone, Debug)]
pub(super) struct MelBank {
    filters: Vec<Filter>,
}

/// The part of one triangle that is above zero.
#[derive(Clone, Debug)]
struct Filter {
    first_bin: usize,
    weights: Vec<f32>,
}

impl MelBank {
    /// Builds `mel_bins` triangles from `low_hz` to `high_hz` over the bins 0 to `fft_size / 2` of a spectrum.
    ///
    /// Everything is computed in f64 by the `libm` crate and rounded once, so every CPU gets the same weights.
    pub(super) fn new(
        mel_bins: usize,
        low_hz: f64,
        high_hz: f64,
        sample_rate_hz: f64,
        fft_size: usize,
    ) -> Self {
        let low_mel = mel_from_hz(low_hz);
        let step_mel = (mel_from_hz(high_hz) - low_mel) / (mel_bins + 1) as f64;
        let edge_hz = |index: usize| hz_from_mel(low_mel + step_mel * index as f64);
        let bin_hz = sample_rate_hz / fft_size as f64;

        let filters = (0..mel_bins)
            .map(|mel_bin| {
                let (left, peak, right) =
                    (edge_hz(mel_bin), edge_hz(mel_bin + 1), edge_hz(mel_bin + 2));
                let weight = |bin: usize| {
                    let hz = bin_hz * bin as f64;
                    let rising = (hz - left) / (peak - left);
                    let falling = (right - hz) / (right - peak);
                    rising.min(falling) as f32
                };
                let inside = |bin: &usize| weight(*bin) > 0.0;
                let first_bin = (0..=fft_size / 2).find(inside).unwrap_or(0);
                let weights = (first_bin..=fft_size / 2)
                    .take_while(inside)
                    .map(weight)
                    .collect();
                Filter { first_bin, weights }
            })
            .collect();
        Self { filters }
    }

    /// The mel powers of some frames' `power` (`fft_size / 2 + 1` values), lowest bin first.
    ///
    /// Each sum runs from the lowest frequency upwards: a fixed order keeps the bits the same everywhere.
    pub(super) fn apply<'a>(&'a self, power: &'a [Lanes]) -> impl Iterator<Item = Lanes> + 'a {
        self.filters.iter().map(|filter| {
            filter
                .weights
                .iter()
                .zip(&power[filter.first_bin..])
                .fold(Lanes::default(), |sum, (weight, power)| {
                    sum + Lanes::splat(*weight) * *power
                })
        })
    }
}

fn mel_from_hz(hz: f64) -> f64 {
    2595.0 * libm::log10(1.0 + hz / 700.0)
}

fn hz_from_mel(mel: f64) -> f64 {
    700.0 * (libm::pow(10.0, mel / 2595.0) - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kilohertz_is_about_one_thousand_mel() {
        assert!((mel_from_hz(1_000.0) - 999.99).abs() < 0.01);
        assert!((hz_from_mel(mel_from_hz(4_321.0)) - 4_321.0).abs() < 1e-9);
    }

    #[test]
    fn every_filter_sees_the_spectrum_and_neighbours_sum_to_one() {
        let bank = MelBank::new(40, 0.0, 8_000.0, 16_000.0, 512);
        assert!(bank.filters.iter().all(|filter| !filter.weights.is_empty()));
        // Between the first and the last peak, the falling side of one triangle and the rising side of the next add to one.
        let mut total = [0.0f32; 257];
        for filter in &bank.filters {
            for (offset, weight) in filter.weights.iter().enumerate() {
                total[filter.first_bin + offset] += weight;
            }
        }
        assert!(total[3..240].iter().all(|sum| (sum - 1.0).abs() < 1e-6));
        assert!(total[0] == 0.0 && total[256] < 1e-6);
    }
}
