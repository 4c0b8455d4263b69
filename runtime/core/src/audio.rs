//! Reading audio: the bytes of a WAV, FLAC or Ogg Opus file enter, mono samples leave, at the file's rate or at 16 kHz.
//! Opens no file; who does adds the path to the error.

mod flac;
mod opus;
mod resample;
mod wav;

use std::fmt;

pub use resample::{MAX_RATE_HZ, MIN_RATE_HZ, to_16k_mono};
pub use wav::Wav;

use crate::frontend::MAX_SAMPLE_MAGNITUDE;

/// Most samples that [`decode`] returns: two hours at 48 kHz, six at 16 kHz (1.4 GB).
///
/// A few bytes of FLAC or Opus can stand for a second of silence, so the size of a file does not bound what it decodes to.
pub const MAX_SAMPLES: usize = 2 * 3_600 * 48_000;

/// Decoded audio, mixed down to one channel.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// What the file says wrongly and was not believed, and what is missing: a sentence each.
    pub notes: Vec<String>,
}

/// A file format that [`decode`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RIFF WAVE, RIFX, RF64, BW64 or Wave64: integers of up to 32 bits, floats of 32 or 64, A-law, mu-law.
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
    /// Reading failed; the reason is the system's.
    #[error("reading failed: {0}")]
    Unreadable(String),
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
    let untagged = without_tag(bytes);
    let audio = if bytes.is_empty() {
        return Err(AudioError::Empty);
    } else if is_wav(bytes) {
        mixed(Wav::open(bytes)?)?
    } else if untagged.starts_with(b"fLaC") {
        flac::decode(untagged)?
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

/// Whether bytes, at least the first twelve of a recording, begin as [`Wav`] does.
pub fn is_wav(bytes: &[u8]) -> bool {
    let riff = [b"RIFF", b"RIFX", b"RF64", b"BW64"];
    let is_riff = riff.iter().any(|name| bytes.starts_with(*name));
    (is_riff && bytes.get(8..12) == Some(b"WAVE")) || bytes.starts_with(b"riff\x2e\x91\xcf\x11")
}

/// What follows the ID3v2 tag at the start of a file (id3.org, "ID3 tag version 2.4.0", section 3.1), if there is one and it is not all.
fn without_tag(bytes: &[u8]) -> &[u8] {
    let [b'I', b'D', b'3', _, _, flags, size @ ..] = bytes else {
        return bytes;
    };
    let Some(size) = size.first_chunk::<4>() else {
        return bytes;
    };
    // Seven bits in each byte.
    let size = size
        .iter()
        .fold(0, |size, byte| size << 7 | usize::from(byte & 0x7f));
    let footer = if flags & 0x10 == 0 { 0 } else { 10 };
    bytes.get(10 + size + footer..).unwrap_or(bytes)
}

/// What begins like `bytes` and is not read here: recordings of other formats, by their names.
pub fn foreign(bytes: &[u8]) -> Option<&'static str> {
    let names: [(&[u8], &str); 9] = [
        (b"ID3", "MP3"),
        (b"FORM", "AIFF"),
        (b"caff", "CAF"),
        (b".snd", "AU"),
        (b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
        (b"#!AMR", "AMR"),
        (b"wvpk", "WavPack"),
        (b"MAC ", "Monkey's Audio"),
        (b"\x30\x26\xb2\x75", "WMA"),
    ];
    let named = names.iter().find(|(magic, _)| bytes.starts_with(magic));
    let mp4 = (bytes.get(4..8) == Some(b"ftyp")).then_some("MP4 or M4A");
    named.map(|(_, name)| *name).or(mp4)
}

/// All of a WAV file, as the mean of its channels.
fn mixed(mut wav: Wav<&[u8]>) -> Result<Audio, AudioError> {
    let channels = wav.channels();
    let (mut samples, mut block) = (Vec::new(), Vec::new());
    while wav.read(&mut block)? {
        for frame in block.chunks_exact(channels.into()) {
            push_mean(&mut samples, channels, frame.iter().copied())?;
        }
        block.clear();
    }
    Ok(Audio {
        samples,
        sample_rate_hz: wav.sample_rate_hz(),
        channels,
        notes: wav.notes().to_vec(),
    })
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
