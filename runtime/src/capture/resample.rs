//! Brings a stream of interleaved samples of any rate and channel count to 16 kHz mono, a few milliseconds late.
//! Whole files are converted by `swr_core::audio`, which also removes the delay.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{
    Async, FixedAsync, Resampler, SincInterpolationParameters, WindowFunction, calculate_cutoff,
};
use swr_core::SAMPLE_RATE_HZ;
use swr_core::audio::{MAX_RATE_HZ, MIN_RATE_HZ, Mixer};

use crate::error::CaptureError;

/// Length of the interpolation filter in samples of the lower of the two rates; half of it is the delay, 4 ms when that is 16 kHz.
const FILTER_SAMPLES: usize = 128;
const WINDOW: WindowFunction = WindowFunction::BlackmanHarris;

/// Seconds after which it is told that channels are of very different loudness.
const LEVELS_S: u64 = 10;

/// Mixes to mono and resamples, chunk by chunk of 10 ms.
pub(super) struct Downsampler {
    mixer: Mixer,
    channels: usize,
    /// Frames until the channels' loudness is looked at; none when that is done.
    until_levels: Option<u64>,
    /// `None` at 16 kHz, where samples pass as they are.
    converter: Option<Async<f32>>,
    /// Mono samples at the input's rate that do not fill a chunk yet.
    pending: Vec<f32>,
    output: Vec<f32>,
}

impl Downsampler {
    /// For input of `rate_hz` and `channels` interleaved channels, of which the mean is heard or the one numbered `channel`, from 1.
    pub(super) fn new(
        rate_hz: u32,
        channels: u16,
        channel: Option<u16>,
    ) -> Result<Downsampler, CaptureError> {
        if channels == 0 || !(MIN_RATE_HZ..=MAX_RATE_HZ).contains(&rate_hz) {
            return Err(CaptureError::Unconvertible { rate_hz, channels });
        }
        let converter = (rate_hz != SAMPLE_RATE_HZ).then(|| {
            let ratio = f64::from(SAMPLE_RATE_HZ) / f64::from(rate_hz);
            let filter_samples = FILTER_SAMPLES * rate_hz.div_ceil(SAMPLE_RATE_HZ) as usize;
            let parameters = SincInterpolationParameters::new(filter_samples, WINDOW)
                .f_cutoff(calculate_cutoff(FILTER_SAMPLES, WINDOW));
            let chunk = rate_hz as usize / 100;
            Async::new_sinc(ratio, 1.0, &parameters, chunk, 1, FixedAsync::Input).expect(
                "a ratio between checked rates and a chunk of at least 40 samples are valid",
            )
        });
        let output_frames = converter.as_ref().map_or(0, Resampler::output_frames_max);
        let mixer = Mixer::new(channels, channel);
        Ok(Downsampler {
            mixer: mixer.map_err(|error| CaptureError::Channel(error.to_string()))?,
            channels: channels.into(),
            until_levels: Some(LEVELS_S * u64::from(rate_hz)),
            converter,
            pending: Vec::new(),
            output: vec![0.0; output_frames],
        })
    }

    /// Takes whole interleaved frames and appends what they make at 16 kHz to `samples`.
    pub(super) fn push(&mut self, interleaved: &[f32], samples: &mut Vec<f32>) {
        let frames = (interleaved.len() / self.channels) as u64;
        self.until_levels = self.until_levels.map(|left| left.saturating_sub(frames));
        let Some(converter) = &mut self.converter else {
            return self.mixer.push(interleaved, samples);
        };
        self.mixer.push(interleaved, &mut self.pending);
        loop {
            let needed = converter.input_frames_next();
            if self.pending.len() < needed {
                return;
            }
            let room = self.output.len();
            let (used, made) = converter
                .process_into_buffer(
                    &InterleavedSlice::new(&self.pending, 1, self.pending.len())
                        .expect("one channel has as many frames as samples"),
                    &mut InterleavedSlice::new_mut(&mut self.output, 1, room)
                        .expect("one channel has as many frames as samples"),
                    None,
                )
                .expect("input and output have the lengths that the resampler asked for");
            samples.extend_from_slice(&self.output[..made]);
            self.pending.drain(..used);
        }
    }
}

impl Downsampler {
    /// What to tell of the channels, once: after ten seconds or when all is heard.
    pub(super) fn warning(&mut self, ended: bool) -> Option<String> {
        if self.until_levels? > 0 && !ended {
            return None;
        }
        self.until_levels = None;
        self.mixer.warning()
    }
}

impl std::fmt::Debug for Downsampler {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Downsampler")
            .field("channels", &self.channels)
            .field("resamples", &self.converter.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::TAU;

    #[test]
    fn a_tone_keeps_its_level_and_length_at_usual_rates() -> Result<(), CaptureError> {
        for rate_hz in [8_000, 11_025, 16_000, 44_100, 48_000, 96_000] {
            // One second of 440 Hz on the left, silence on the right: half the level in mono.
            let stereo: Vec<f32> = (0..rate_hz)
                .flat_map(|i| [(TAU * 440.0 * i as f32 / rate_hz as f32).sin(), 0.0])
                .collect();
            let mut downsampler = Downsampler::new(rate_hz, 2, None)?;
            let mut samples = Vec::new();
            for chunk in stereo.chunks(2 * 213) {
                downsampler.push(chunk, &mut samples);
            }
            let warning = downsampler.warning(true).expect("one channel is silent");
            assert!(warning.contains("channel 2 is silent"), "{warning}");
            assert_eq!(downsampler.warning(true), None);
            assert!(
                (15_600..=16_000).contains(&samples.len()),
                "{rate_hz} Hz: {}",
                samples.len()
            );
            let middle = &samples[4_000..12_000];
            let rms = (middle.iter().map(|x| x * x).sum::<f32>() / middle.len() as f32).sqrt();
            assert!(
                (rms - 0.25 * 2f32.sqrt()).abs() < 1e-3,
                "{rate_hz} Hz: rms {rms}"
            );
            let crossings = middle
                .windows(2)
                .filter(|w| w[0] < 0.0 && w[1] >= 0.0)
                .count();
            assert!(
                (219..=221).contains(&crossings),
                "{rate_hz} Hz: {crossings} periods in half a second"
            );
        }
        Ok(())
    }

    #[test]
    fn impossible_formats_are_refused() {
        for (rate_hz, channels) in [(0, 1), (1_000, 1), (1_000_000, 1), (16_000, 0)] {
            assert!(matches!(
                Downsampler::new(rate_hz, channels, None),
                Err(CaptureError::Unconvertible { .. })
            ));
        }
    }
}
