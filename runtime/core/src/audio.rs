//! Reading audio: the bytes of a WAV, FLAC or Ogg Opus file enter, mono samples leave, at the file's rate or at 16 kHz.
//! Opens no file; who does adds the path to the error.

mod flac;
mod opus;
mod resample;
mod wav;

use std::fmt;

pub use resample::{MAX_RATE_HZ, MIN_RATE_HZ, to_16k_mono};

use crate::frontend::MAX_SAMPLE_MAGNITUDE;

/// Most samples that [`decode`] returns: two hours at 48 kHz, six at 16 kHz (1.4 GB).
///
/// A few bytes of FLAC or Opus can stand for a second of silence, so the size of a file does not bound what it decodes to.
pub const MAX_SAMPLES: usize = 2 * 3_600 * 48_000;

/// Decoded audio, mixed down to one channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Audio {
    /// Mono samples, full scale ±1.
    ///
    /// Integers of b bits are divided by 2^(b-1), so they lie in [-1, 1). Float WAV is taken as it is and may exceed full scale, up to
    /// [`MAX_SAMPLE_MAGNITUDE`]; nothing is clamped. Several channels become their mean.
    pub samples: Vec<f32>,
    /// Samples per second. Opus, which knows no other rate than its decoder's, is decoded at 16000.
    pub sample_rate_hz: u32,
    /// Number of channels the file had.
    pub channels: u16,
}

/// A file format that [`decode`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RIFF WAVE: integers of 8, 16, 24 or 32 bits, or 32-bit float.
    Wav,
    /// FLAC, 4 to 24 bits.
    Flac,
    /// Opus in an Ogg container (RFC 7845), mono or stereo.
    OggOpus,
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Format::Wav => "WAV",
            Format::Flac => "FLAC",
            Format::OggOpus => "Ogg Opus",
        })
    }
}

/// Why audio could not be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AudioError {
    /// The first bytes are those of no format that is read here.
    #[error("not a WAV, FLAC or Ogg file; convert it to one of these")]
    UnknownFormat,
    /// The file breaks the rules of its format, or ends too early.
    #[error("damaged {format} file: {problem}; fetch or record it again")]
    Damaged {
        /// The format that was recognised.
        format: Format,
        /// What is wrong, and where.
        problem: String,
    },
    /// The file may be sound, but uses what is not read here.
    #[error("{format} file with an unsupported feature: {problem}; convert it to 16-bit WAV")]
    Unsupported {
        /// The format that was recognised.
        format: Format,
        /// The feature that is missing.
        problem: String,
    },
    /// There are no bytes or no samples.
    #[error("no audio: the file holds zero samples; record it again")]
    Empty,
    /// A sample is NaN, infinite or beyond [`MAX_SAMPLE_MAGNITUDE`].
    #[error(
        "sample {index} is {value}, expected a finite number in [-1, 1] (at most {MAX_SAMPLE_MAGNITUDE:e} in magnitude); convert the file again"
    )]
    BadSample {
        /// Position in the mono signal.
        index: usize,
        /// The value found there.
        value: f32,
    },
    /// The file decodes to more than [`MAX_SAMPLES`].
    #[error("more than {MAX_SAMPLES} samples (2 hours at 48 kHz); cut the file into parts")]
    TooLong,
    /// A sample rate from which [`to_16k_mono`] does not convert.
    #[error(
        "sample rate is {rate_hz} Hz, expected {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz; convert the file to 16000 Hz"
    )]
    UnsupportedRate {
        /// The rate found.
        rate_hz: u32,
    },
}

/// Decodes a whole file, whose format is recognised by its first bytes, to mono at the rate of the file.
///
/// Whatever a header claims, the samples take at most four times the file's size for WAV, and four bytes times
/// [`MAX_SAMPLES`] for FLAC and Opus; a growing buffer may take three times that for a moment, and tags of FLAC up to 10 MiB.
///
/// # Errors
/// Every variant of [`AudioError`] but `UnsupportedRate`.
pub fn decode(bytes: &[u8]) -> Result<Audio, AudioError> {
    let audio = if bytes.is_empty() {
        return Err(AudioError::Empty);
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WAVE") {
        wav::decode(bytes)?
    } else if bytes.starts_with(b"fLaC") {
        flac::decode(bytes)?
    } else if bytes.starts_with(b"OggS") {
        opus::decode(bytes)?
    } else {
        return Err(AudioError::UnknownFormat);
    };
    check_samples(&audio.samples)?;
    Ok(audio)
}

/// [`decode`] followed by [`to_16k_mono`].
///
/// # Errors
/// Every variant of [`AudioError`].
pub fn decode_16k_mono(bytes: &[u8]) -> Result<Vec<f32>, AudioError> {
    to_16k_mono(decode(bytes)?)
}

/// Refuses a signal without samples and samples that are no finite, sensible number.
fn check_samples(samples: &[f32]) -> Result<(), AudioError> {
    if samples.is_empty() {
        return Err(AudioError::Empty);
    }
    // Written so that NaN, which is in no range, is refused as well.
    let is_bad = |sample: &f32| !(-MAX_SAMPLE_MAGNITUDE..=MAX_SAMPLE_MAGNITUDE).contains(sample);
    match samples.iter().position(is_bad) {
        Some(index) => Err(AudioError::BadSample {
            index,
            value: samples[index],
        }),
        None => Ok(()),
    }
}

/// Appends the mean of one sample per channel, unless [`MAX_SAMPLES`] is reached.
fn push_mean(
    samples: &mut Vec<f32>,
    channels: u16,
    values: impl Iterator<Item = f32>,
) -> Result<(), AudioError> {
    if samples.len() == MAX_SAMPLES {
        return Err(AudioError::TooLong);
    }
    samples.push(values.sum::<f32>() / f32::from(channels));
    Ok(())
}

/// The factor that brings integers of `bits` bits (1 to 32) to [-1, 1): 2^-(bits-1).
fn integer_scale(bits: u32) -> f32 {
    1.0 / (1u32 << (bits - 1)) as f32
}
