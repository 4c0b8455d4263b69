//! Resampling: mono audio at any usual rate enters, the same audio at 16 kHz leaves, aligned and of the matching length.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{
    Async, FixedAsync, Resampler, SincInterpolationParameters, WindowFunction, calculate_cutoff,
};

use super::{Audio, AudioError, check_samples};
use crate::settings::SAMPLE_RATE_HZ;

/// Lowest rate that [`to_16k_mono`] converts.
pub const MIN_RATE_HZ: u32 = 4_000;
/// Highest rate that [`to_16k_mono`] converts.
pub const MAX_RATE_HZ: u32 = 384_000;

/// Length of the interpolation filter in samples of the lower of the two rates.
///
/// With the window below, frequencies up to 0.87 times half the lower rate pass, and what would alias is 90 dB down.
const FILTER_SAMPLES: usize = 128;
const WINDOW: WindowFunction = WindowFunction::BlackmanHarris;
/// Samples handed to the resampler at a time; only speed depends on it.
const CHUNK_SAMPLES: usize = 1_024;

/// Converts `audio` to 16 kHz.
///
/// n samples become `round(n * 16000 / rate)`, aligned with the input to about one sample (63 us). Audio at 16 kHz already is
/// returned as it is, to the bit. For other rates the last bits depend on the CPU, whose vector instructions rubato uses.
///
/// # Errors
/// [`AudioError::UnsupportedRate`] outside [`MIN_RATE_HZ`] to [`MAX_RATE_HZ`], [`AudioError::Empty`] if there is no sample or
/// not enough of them for one sample at 16 kHz, and [`AudioError::BadSample`] as in [`decode`](super::decode).
pub fn to_16k_mono(audio: Audio) -> Result<Vec<f32>, AudioError> {
    let rate_hz = audio.sample_rate_hz;
    if !(MIN_RATE_HZ..=MAX_RATE_HZ).contains(&rate_hz) {
        return Err(AudioError::UnsupportedRate { rate_hz });
    }
    check_samples(&audio.samples)?;
    if rate_hz == SAMPLE_RATE_HZ {
        return Ok(audio.samples);
    }

    let ratio = f64::from(SAMPLE_RATE_HZ) / f64::from(rate_hz);
    // The filter lives at the input's rate: when that is the higher one, the same length in time takes more samples.
    let filter_samples = FILTER_SAMPLES * rate_hz.div_ceil(SAMPLE_RATE_HZ) as usize;
    let parameters = SincInterpolationParameters::new(filter_samples, WINDOW)
        .f_cutoff(calculate_cutoff(FILTER_SAMPLES, WINDOW));
    let length = audio.samples.len();
    let mut resampled =
        Async::new_sinc(ratio, 1.0, &parameters, CHUNK_SAMPLES, 1, FixedAsync::Input)
            .expect("a ratio between checked rates and a constant chunk are valid")
            .process_all(
                &InterleavedSlice::new(&audio.samples, 1, length)
                    .expect("one channel has as many frames as samples"),
                length,
                None,
            )
            .expect("one channel goes into a resampler of one channel")
            .take_data();

    let (input, rate, output_rate) = (length as u64, u64::from(rate_hz), u64::from(SAMPLE_RATE_HZ));
    let expected = (input * output_rate + rate / 2) / rate;
    resampled.resize(expected as usize, 0.0);
    if resampled.is_empty() {
        return Err(AudioError::Empty);
    }
    Ok(resampled)
}
