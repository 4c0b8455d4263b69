//! Reading audio: the bytes of a recording enter, whole or as they come, samples leave, at its own rate or at 16 kHz. Formats are recognised by how a file begins.
//! Opens no file; who does adds the path to the error.

mod flac;
mod input;
mod mixer;
mod mpeg;
mod opus;
mod resample;
mod wav;

use std::fmt;
use std::io::Read;

pub use mixer::Mixer;
pub use resample::{MAX_RATE_HZ, MIN_RATE_HZ, to_16k_mono};

use crate::frontend::MAX_SAMPLE_MAGNITUDE;
use input::Input;
use mixer::mean;

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
    /// What is to be told of the file.
    pub notes: Vec<Note>,
}

/// What is to be told of a recording that is used nevertheless: what it says wrongly and was not believed, what is missing, what may not be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// A sentence.
    pub problem: String,
    /// Sound is missing: the recording ends early, or a part cannot be decoded.
    pub lost: bool,
}

impl Note {
    fn repaired(problem: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            lost: false,
        }
    }

    fn lost(problem: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            lost: true,
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.problem)
    }
}

/// A file format that [`decode`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RIFF WAVE, RIFX, RF64, BW64 or Wave64: integers of up to 32 bits, floats of 32 or 64, A-law, mu-law.
    Wav,
    /// FLAC, 4 to 24 bits.
    Flac,
    /// Opus in an Ogg container (RFC 7845), mapping families 0, 1 and 255, one stream or several one after another.
    OggOpus,
    /// MPEG 1, 2 and 2.5, layer III.
    Mp3,
    /// AAC-LC, mono or stereo, with a header for every frame (ADTS).
    Aac,
    /// AAC-LC or MP3 in MP4, mono or stereo.
    M4a,
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Format::Wav => "WAV",
            Format::Flac => "FLAC",
            Format::OggOpus => "Ogg",
            Format::Mp3 => "MP3",
            Format::Aac => "AAC",
            Format::M4a => "M4A",
        })
    }
}

/// Why audio could not be read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AudioError {
    /// The first bytes are those of no format that is read here.
    #[error("not a WAV, FLAC, Ogg, MP3 or M4A file; convert it to one of these")]
    UnknownFormat,
    /// The first bytes are those of something else, which is named.
    #[error("this is {0}, which is not read; convert it to WAV, FLAC, Ogg Opus, MP3 or M4A")]
    Foreign(&'static str),
    /// There is no channel of that number.
    #[error("there is no channel {wanted}, expected 1 to {found}")]
    NoChannel {
        /// The channel that was asked for, from 1.
        wanted: u16,
        /// How many there are.
        found: u16,
    },
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

/// A recording of one format on its way to samples.
trait Samples: Send {
    /// Samples per second of each channel.
    fn sample_rate_hz(&self) -> u32;
    /// At least one.
    fn channels(&self) -> u16;
    /// Samples of each channel, if the header claims to know.
    fn length(&self) -> Option<u64> {
        None
    }
    /// Complete when all is read.
    fn notes(&self) -> &[Note];
    /// Appends some interleaved samples, whole frames; false if there are no more.
    fn read(&mut self, samples: &mut Vec<f32>) -> Result<bool, AudioError>;
}

/// A recording of any format, from a file or a pipe, whose samples come as its bytes do.
pub struct Decoder<'a>(Box<dyn Samples + 'a>);

impl<'a> Decoder<'a> {
    /// Reads the header of a recording, whose format is recognised by its first bytes.
    ///
    /// # Errors
    /// [`AudioError::Empty`], [`AudioError::UnknownFormat`], [`AudioError::Foreign`], [`AudioError::Damaged`], [`AudioError::Unsupported`],
    /// [`AudioError::Unreadable`]; for M4A, which is read whole, [`AudioError::TooLong`].
    pub fn open(bytes: impl Read + Send + Sync + 'a) -> Result<Self, AudioError> {
        let mut input = Input::new(bytes);
        if input.peek(1).map_err(unreadable)?.is_empty() {
            return Err(AudioError::Empty);
        }
        let format = match recognise(&mut input)? {
            Some(format) => format,
            None => find_frames(&mut input)?.ok_or(AudioError::UnknownFormat)?,
        };
        Self::of(format, input)
    }

    /// As [`Decoder::open`]; what has no first bytes of its own, and is no text, are signed 16-bit samples (the lowest byte first) of one channel at 16 kHz.
    ///
    /// # Errors
    /// As [`Decoder::open`], without `Empty` and `UnknownFormat`.
    pub fn open_or_raw(bytes: impl Read + Send + Sync + 'a) -> Result<Self, AudioError> {
        let mut input = Input::new(bytes);
        let first = input.peek(TEXT_BYTES).map_err(unreadable)?;
        let text = is_text(first) || is_wide_text(first);
        match recognise(&mut input)? {
            Some(format) => Self::of(format, input),
            None if text => Err(AudioError::Foreign("text")),
            None => Ok(Self(Box::new(wav::Wav::raw(input)))),
        }
    }

    fn of(format: Format, input: Input<'a>) -> Result<Self, AudioError> {
        Ok(Self(match format {
            Format::Wav => Box::new(wav::Wav::open(input)?),
            Format::Flac => Box::new(flac::Flac::open(input)?),
            Format::OggOpus => Box::new(opus::OggOpus::open(input)?),
            Format::Mp3 => Box::new(mpeg::Mpeg::mp3(input)?),
            Format::Aac => Box::new(mpeg::Mpeg::aac(input)?),
            Format::M4a => Box::new(mpeg::Mpeg::m4a(input)?),
        }))
    }

    /// Samples per second of each channel, as the recording claims: perhaps 0.
    pub fn sample_rate_hz(&self) -> u32 {
        self.0.sample_rate_hz()
    }

    /// Channels, at least one.
    pub fn channels(&self) -> u16 {
        self.0.channels()
    }

    /// What is to be told of the recording; complete when all is read.
    pub fn notes(&self) -> &[Note] {
        self.0.notes()
    }

    /// Appends some interleaved samples, whole frames in full scale ±1, as soon as there are any; false if there are no more.
    ///
    /// What is appended at once lasts a tenth of a second to a few seconds, by the format; memory does not grow with the length of the recording.
    ///
    /// # Errors
    /// [`AudioError::Damaged`], [`AudioError::Unsupported`], [`AudioError::Unreadable`]; the samples before stay valid.
    pub fn read(&mut self, samples: &mut Vec<f32>) -> Result<bool, AudioError> {
        self.0.read(samples)
    }

    /// All that is left, as one channel: the mean of all, or the one of this number (from 1).
    fn whole(mut self, channel: Option<u16>) -> Result<Audio, AudioError> {
        if self
            .0
            .length()
            .is_some_and(|length| length > MAX_SAMPLES as u64)
        {
            return Err(AudioError::TooLong);
        }
        let mut mixer = Mixer::new(self.channels(), channel)?;
        let (mut samples, mut interleaved) = (Vec::new(), Vec::new());
        loop {
            let more = self.read(&mut interleaved)?;
            mixer.push(&interleaved, &mut samples);
            interleaved.clear();
            if samples.len() > MAX_SAMPLES {
                return Err(AudioError::TooLong);
            }
            if !more {
                break;
            }
        }
        check_samples(&samples)?;
        let mut notes = self.notes().to_vec();
        notes.extend(mixer.warning().map(Note::repaired));
        Ok(Audio {
            samples,
            sample_rate_hz: self.sample_rate_hz(),
            channels: self.channels(),
            notes,
        })
    }
}

impl fmt::Debug for Decoder<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Decoder")
            .field("sample_rate_hz", &self.sample_rate_hz())
            .field("channels", &self.channels())
            .finish_non_exhaustive()
    }
}

/// Decodes a whole file, whose format is recognised by its first bytes, to mono at the rate of the file: the mean of its channels.
///
/// Whatever a header claims, the samples take at most four times the file's size for WAV, and four bytes times [`MAX_SAMPLES`] for
/// others; a growing buffer may take three times that for a moment, and tags of FLAC and Opus 10 and 16 MiB.
///
/// # Errors
/// Every variant of [`AudioError`] but `UnsupportedRate` and `NoChannel`.
pub fn decode(bytes: &[u8]) -> Result<Audio, AudioError> {
    decode_channel(bytes, None)
}

/// As [`decode`], of one channel alone if there is a number, which counts from 1.
///
/// # Errors
/// Every variant of [`AudioError`] but `UnsupportedRate`.
pub fn decode_channel(bytes: &[u8], channel: Option<u16>) -> Result<Audio, AudioError> {
    Decoder::open(bytes)?.whole(channel)
}

/// [`decode`] followed by [`to_16k_mono`].
///
/// # Errors
/// Every variant of [`AudioError`].
pub fn decode_16k_mono(bytes: &[u8]) -> Result<Vec<f32>, AudioError> {
    to_16k_mono(decode(bytes)?)
}

/// The format of a recording by its first bytes; tags in front are taken away.
fn recognise(input: &mut Input<'_>) -> Result<Option<Format>, AudioError> {
    let mut tagged = false;
    while let Some(length) = tag_bytes(input.peek(16).map_err(unreadable)?) {
        let skipped = std::io::copy(&mut input.take(length), &mut std::io::sink());
        skipped.map_err(unreadable)?;
        tagged = true;
    }
    let first = input.peek(12).map_err(unreadable)?;
    let known = if is_wav(first) {
        Some(Format::Wav)
    } else if first.starts_with(b"fLaC") {
        Some(Format::Flac)
    } else if first.starts_with(b"OggS") {
        Some(Format::OggOpus)
    } else if first.get(4..8) == Some(b"ftyp") {
        Some(Format::M4a)
    } else if let Some(name) = foreign(first) {
        return Err(AudioError::Foreign(name));
    } else if repeats(input, mpeg::adts_frame_bytes)? {
        Some(Format::Aac)
    } else if repeats(input, |header| mpeg::frame_bytes(3, header))? {
        Some(Format::Mp3)
    } else if repeats(input, |header| mpeg::frame_bytes(2, header))? {
        return Err(AudioError::Foreign("MPEG audio of layer II"));
    } else {
        // The first frame may stand further behind.
        match (tagged, input.peek(1).map_err(unreadable)?) {
            (true, []) => return Err(AudioError::UnknownFormat),
            (tagged, _) => tagged.then_some(Format::Mp3),
        }
    };
    Ok(known)
}

/// Bytes in which the first frame of a file is looked for that was cut out of a stream, or has something in front.
const FIND_BYTES: usize = 1 << 16;

/// The format of a file in which four frames of MP3 or AAC follow one another, though not from its start.
fn find_frames(input: &mut Input<'_>) -> Result<Option<Format>, AudioError> {
    let first = input.peek(FIND_BYTES).map_err(unreadable)?;
    let chain = |start: usize, frame_bytes: &dyn Fn(&[u8]) -> Option<usize>| {
        let mut at = start;
        for _ in 0..4 {
            let same = first.get(at..at + 2) == first.get(start..start + 2);
            match first.get(at..).and_then(frame_bytes).filter(|_| same) {
                Some(length) => at += length,
                None => return false,
            }
        }
        true
    };
    let starts = first.iter().enumerate().filter(|(_, byte)| **byte == 0xFF);
    for (start, _) in starts {
        for (format, frame_bytes) in [
            (
                Format::Mp3,
                &(|header: &[u8]| mpeg::frame_bytes(3, header)) as &dyn Fn(&[u8]) -> _,
            ),
            (Format::Aac, &mpeg::adts_frame_bytes),
        ] {
            if chain(start, frame_bytes) {
                let skipped = std::io::copy(&mut input.take(start as u64), &mut std::io::sink());
                skipped.map_err(unreadable)?;
                return Ok(Some(format));
            }
        }
    }
    Ok(None)
}

/// Whether a frame begins here, and behind it another of the same kind: two bytes alone may be samples as well.
fn repeats(
    input: &mut Input<'_>,
    frame_bytes: impl Fn(&[u8]) -> Option<usize>,
) -> Result<bool, AudioError> {
    const HEADER_BYTES: usize = 7;
    let Some(length) = frame_bytes(input.peek(HEADER_BYTES).map_err(unreadable)?) else {
        return Ok(false);
    };
    let frames = input.peek(length + HEADER_BYTES).map_err(unreadable)?;
    let next = frames.get(length..).unwrap_or_default();
    Ok(match next {
        // A single one.
        [] => frames.len() == length,
        _ => next.get(..2) == frames.get(..2) && frame_bytes(next).is_some(),
    })
}

/// Whether bytes, the first twelve of a recording, begin as a WAV file or one of its kin does.
fn is_wav(bytes: &[u8]) -> bool {
    let riff = [b"RIFF", b"RIFX", b"RF64", b"BW64"];
    let is_riff = riff.iter().any(|name| bytes.starts_with(*name));
    (is_riff && bytes.get(8..12) == Some(b"WAVE")) || bytes.starts_with(b"riff\x2e\x91\xcf\x11")
}

/// Length of the tag that begins with these sixteen bytes, if they are one's: ID3v2 (id3.org, "ID3 tag version 2.4.0", section 3.1), or APEv2.
fn tag_bytes(bytes: &[u8]) -> Option<u64> {
    if bytes.starts_with(b"APETAGEX") {
        // Its header and what is behind it (wiki.hydrogenaudio.org, "APEv2 specification").
        return Some(32 + u64::from(u32::from_le_bytes(*bytes.get(12..)?.first_chunk()?)));
    }
    let [b'I', b'D', b'3', _, _, flags, size @ ..] = bytes.first_chunk::<10>()? else {
        return None;
    };
    // Seven bits in each byte.
    let size = size
        .iter()
        .fold(0, |size, byte| size << 7 | u64::from(byte & 0x7f));
    let footer = if flags & 0x10 == 0 { 0 } else { 10 };
    Some(10 + size + footer)
}

/// What begins like `bytes` and is not read here, by its name.
fn foreign(bytes: &[u8]) -> Option<&'static str> {
    let names: [(&[u8], &str); 27] = [
        (b"RIFF", "a RIFF file, but no WAVE"),
        (b"Creative Voi", "VOC"),
        (b".SoX", "SoX's own format"),
        (b"NIST_1A", "NIST SPHERE"),
        (b"\x0b\x77", "AC-3"),
        (b"\x7f\xfe\x80\x01", "DTS"),
        (b"FLV\x01", "Flash video"),
        (b"\x00\x00\x01\xba", "MPEG video"),
        (b"\x1f\x8b\x08", "a gzip archive"),
        (b"PK\x03\x04", "a zip archive"),
        (b"BZh", "a bzip2 archive"),
        (b"\xfd7zXZ\x00", "an xz archive"),
        (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
        (b"%PDF", "PDF"),
        (b"\x89PNG", "a picture"),
        (b"\xff\xd8\xff", "a picture"),
        (b"GIF8", "a picture"),
        (b"\x7fELF", "a program"),
        (b"FORM", "AIFF"),
        (b"caff", "CAF"),
        (b".snd", "AU"),
        (b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
        (b"#!AMR", "AMR"),
        (b"wvpk", "WavPack"),
        (b"MAC ", "Monkey's Audio"),
        (b"\x30\x26\xb2\x75", "WMA"),
        (b"TTA1", "True Audio"),
    ];
    let named = names.iter().find(|(magic, _)| bytes.starts_with(magic));
    // Before 2001 there was no box at the front that said so.
    let boxes: [&[u8]; 4] = [b"moov", b"mdat", b"wide", b"pnot"];
    let quick_time = bytes.get(4..8).filter(|name| boxes.contains(name));
    named
        .map(|(_, name)| *name)
        .or(quick_time.map(|_| "an old QuickTime movie"))
}

/// Bytes by which text is recognised: of raw samples 2 ms, all of which are letters in no sound.
const TEXT_BYTES: usize = 64;

/// Whether the start of a stream, which may be all of it, is text.
fn is_text(first: &[u8]) -> bool {
    let text = match std::str::from_utf8(first) {
        Ok(text) => text,
        // The last character is cut.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&first[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    let is_written = |letter: char| !letter.is_control() || letter.is_ascii_whitespace();
    // Of a few bytes, only what anybody would call text.
    text.len() >= 8 && text.chars().all(is_written)
        || first.len() < 8
            && first.len() > 1
            && first
                .iter()
                .all(|byte| (b' '..=b'~').contains(byte) || b"\r\n\t".contains(byte))
}

/// Whether the start of a stream is text of 16 bits a letter (UTF-16): a mark at the front, or every second byte zero and the others letters.
fn is_wide_text(first: &[u8]) -> bool {
    let marked = first.starts_with(b"\xff\xfe") || first.starts_with(b"\xfe\xff");
    let rest = if marked { &first[2..] } else { first };
    let (pairs, _) = rest.as_chunks::<2>();
    let letters = |zero: usize| {
        let written = |pair: &&[u8; 2]| {
            let other = pair[1 - zero];
            pair[zero] == 0 && ((b' '..=b'~').contains(&other) || b"\r\n\t".contains(&other))
        };
        pairs.iter().filter(written).count()
    };
    let most = letters(0).max(letters(1));
    pairs.len() >= 8 && 8 * most >= 7 * pairs.len()
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

fn unreadable(error: std::io::Error) -> AudioError {
    AudioError::Unreadable(error.to_string())
}

/// The factor that brings integers of `bits` bits (1 to 32) to [-1, 1): 2^-(bits-1).
fn integer_scale(bits: u32) -> f32 {
    1.0 / (1u32 << (bits - 1)) as f32
}
