//! WAV and its kin (RIFX, RF64, BW64, Wave64): bytes enter as they come, interleaved samples leave.
//!
//! No library at hand reads what people's programs write: lengths that a pipe could not fill in, files beyond 4 GiB, padded chunks, headers that are longer than they
//! need be, 24 bits in containers of 32 (hound 3.5.1 and symphonia 0.6.1 refuse most of these). The layout is that of "Multimedia Programming Interface and Data
//! Specifications 1.0" (1991), EBU Tech 3306 (RF64) and Sony's Wave64.

use std::io::{ErrorKind, Read};

use super::{AudioError, Format, Note, Samples, integer_scale, unreadable};
use crate::settings::SAMPLE_RATE_HZ;

/// From this claim on, a 32-bit length is that of a program which could not go back to fill it in: about 2 GiB (sox, arecord) or 4 GiB (ffmpeg).
const UNKNOWN_BYTES: u32 = 0x7FFF_0000;
/// Bytes of a `fmt ` chunk that are looked at.
const FORMAT_BYTES: usize = 40;
/// Bytes behind the samples that a header claims which are samples too, unless they are fewer: then they are what some program has left there.
const TAIL_BYTES: u64 = 1 << 16;
/// What is missing at the end is audio that is lost from here on, and else what programs get wrong by a sample or two.
const LOST_MS: u64 = 10;
/// Bytes that are read at once.
const BLOCK_BYTES: usize = 1 << 14;
/// How sub-formats of the extensible form end behind their tag: Microsoft's, and ambisonic ones.
const SUBFORMATS: [[u8; 14]; 2] = [
    *b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71",
    *b"\x00\x00\x21\x07\xd3\x11\x86\x44\xc8\xc1\xca\x00\x00\x00",
];

/// How a sample is coded; the lowest byte is the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// Unsigned.
    Int8,
    Int16,
    Int24,
    Int32,
    Float32,
    Float64,
    ALaw,
    MuLaw,
}

impl Coding {
    /// By tag of the format and bits of a sample; `bytes` are those of its container.
    fn new(tag: u16, bits: u16, bytes: usize) -> Result<Self, AudioError> {
        Ok(match (tag, bits, bytes) {
            (1, 1.., 1) => Self::Int8,
            (1, _, 2) => Self::Int16,
            (1, _, 3) => Self::Int24,
            (1, _, 4) => Self::Int32,
            (3, 32, _) => Self::Float32,
            (3, 64, _) => Self::Float64,
            (6, 8, _) => Self::ALaw,
            (7, 8, _) => Self::MuLaw,
            (1 | 3 | 6 | 7, ..) => return Err(unsupported(&format!("samples of {bits} bits"))),
            (2, ..) => return Err(unsupported("Microsoft ADPCM")),
            (0x11, ..) => return Err(unsupported("IMA ADPCM")),
            (0x31, ..) => return Err(unsupported("GSM 6.10")),
            (0x50 | 0x55, ..) => return Err(unsupported("MPEG audio in a WAV file")),
            _ => return Err(unsupported(&format!("the encoding with tag {tag:#06x}"))),
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::Int8 | Self::ALaw | Self::MuLaw => 1,
            Self::Int16 => 2,
            Self::Int24 => 3,
            Self::Int32 | Self::Float32 => 4,
            Self::Float64 => 8,
        }
    }

    /// Appends the samples that `bytes` are, integers in [-1, 1).
    fn append(self, bytes: &[u8], samples: &mut Vec<f32>) {
        fn each<const N: usize>(
            bytes: &[u8],
            samples: &mut Vec<f32>,
            sample: impl Fn([u8; N]) -> f32,
        ) {
            samples.extend(bytes.as_chunks().0.iter().map(|bytes| sample(*bytes)));
        }
        let scale = |bits| integer_scale(bits);
        match self {
            Self::Int8 => each(bytes, samples, |[byte]| {
                (f32::from(byte) - 128.0) * scale(8)
            }),
            Self::Int16 => each(bytes, samples, |bytes| {
                f32::from(i16::from_le_bytes(bytes)) * scale(16)
            }),
            Self::Int24 => each(bytes, samples, |[low, middle, high]| {
                (i32::from_le_bytes([0, low, middle, high]) >> 8) as f32 * scale(24)
            }),
            Self::Int32 => each(bytes, samples, |bytes| {
                i32::from_le_bytes(bytes) as f32 * scale(32)
            }),
            Self::Float32 => each(bytes, samples, f32::from_le_bytes),
            Self::Float64 => each(bytes, samples, |bytes| f64::from_le_bytes(bytes) as f32),
            Self::ALaw => each(bytes, samples, |[code]| f32::from(a_law(code)) * scale(16)),
            Self::MuLaw => each(bytes, samples, |[code]| f32::from(mu_law(code)) * scale(16)),
        }
    }
}

/// ITU-T G.711, table 1: 13 bits, to the full scale of 16.
fn a_law(code: u8) -> i16 {
    let code = code ^ 0x55;
    let (exponent, mantissa) = (code >> 4 & 7, i16::from(code & 15));
    let size = match exponent {
        0 => (mantissa << 4) + 8,
        _ => ((mantissa << 4) + 0x108) << (exponent - 1),
    };
    if code & 0x80 == 0 { -size } else { size }
}

/// ITU-T G.711, table 2: 14 bits, to the full scale of 16.
fn mu_law(code: u8) -> i16 {
    let code = !code;
    let (exponent, mantissa) = (code >> 4 & 7, i16::from(code & 15));
    let size = (((mantissa << 3) + 0x84) << exponent) - 0x84;
    if code & 0x80 == 0 { size } else { -size }
}

/// The order of bytes, and the sizes of chunks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Riff,
    /// The highest byte first.
    Rifx,
    /// Lengths of 64 bits stand in a chunk of their own.
    Rf64,
    /// Lengths are of 64 bits, names of 16 bytes.
    Wave64,
}

/// Name, and length in bytes.
type Chunk = ([u8; 4], u64);

/// A WAV file or stream, from which samples are read.
pub(super) struct Wav<R> {
    input: R,
    kind: Kind,
    channels: u16,
    sample_rate_hz: u32,
    coding: Coding,
    /// Bytes of samples that the header claims and that were not read; none if it does not know.
    claimed: Option<u64>,
    /// Read, but not yet taken.
    buffer: Vec<u8>,
    /// Its claim is odd, so that a byte of padding may follow.
    odd: bool,
    /// The length of the whole file covers more than the samples.
    covered: bool,
    ended: bool,
    notes: Vec<Note>,
}

impl<R: Read> Wav<R> {
    /// Reads the header, to the first sample.
    ///
    /// # Errors
    /// [`AudioError::Damaged`] for what is no header, [`AudioError::Unsupported`] for codings that are not read, [`AudioError::Unreadable`].
    pub(super) fn open(mut input: R) -> Result<Self, AudioError> {
        let mut name = [0; 4];
        header(&mut input, &mut name)?;
        let kind = match &name {
            b"RIFF" => Kind::Riff,
            b"RIFX" => Kind::Rifx,
            b"RF64" | b"BW64" => Kind::Rf64,
            b"riff" => Kind::Wave64,
            _ => return Err(damaged("it begins with no name of a WAV file")),
        };
        // Bytes from the start of the file.
        let mut position: u64 = match kind {
            Kind::Wave64 => 40,
            _ => 12,
        };
        let mut rest = vec![0; position as usize - 4];
        header(&mut input, &mut rest)?;
        let (length, form) = match kind {
            Kind::Wave64 => (0, &rest[20..24]),
            _ => (kind.u32(&rest[..4]), &rest[4..8]),
        };
        if form != b"WAVE" && form != b"wave" {
            return Err(damaged("it is a RIFF file, but holds no sound"));
        }

        let mut wav = Self::new(input, kind);
        let (mut real_length, mut has_format, mut left_over) = (None, false, Vec::new());
        loop {
            let (name, bytes) = wav.chunk(std::mem::take(&mut left_over))?;
            position += kind.chunk_header_bytes();
            if &name == b"data" {
                if !has_format {
                    return Err(damaged("its samples stand before their format"));
                }
                wav.claimed = match kind {
                    Kind::Rf64 if bytes == u64::from(u32::MAX) => {
                        real_length.filter(|length| *length > 0 && *length < u64::MAX >> 1)
                    }
                    // ffmpeg's claim on a pipe is a little less than the largest number.
                    Kind::Wave64 => Some(bytes).filter(|bytes| *bytes < u64::MAX >> 2),
                    // Where the file's length leaves room for nothing, nobody came back to fill it in.
                    _ if bytes == 0 && u64::from(length) + 8 <= position => None,
                    _ => Some(bytes).filter(|bytes| *bytes < u64::from(UNKNOWN_BYTES)),
                };
                let end = position.saturating_add(wav.claimed.unwrap_or(0));
                wav.odd = wav.claimed.is_some_and(|bytes| bytes % 2 == 1);
                wav.covered = kind == Kind::Riff
                    && length < UNKNOWN_BYTES
                    && u64::from(length) + 8 > end.saturating_add(1);
                return Ok(wav);
            }
            let kept = match &name {
                // The first counts.
                b"fmt " if !has_format => bytes.min(FORMAT_BYTES as u64) as usize,
                b"ds64" => bytes.min(16) as usize,
                _ => 0,
            };
            let mut fields = vec![0; kept];
            header(&mut wav.input, &mut fields)?;
            if &name == b"fmt " && !has_format {
                wav.format(&fields)?;
                has_format = true;
            } else if let (b"ds64", Some(length)) = (&name, fields.get(8..16)) {
                real_length = length.try_into().ok().map(u64::from_le_bytes);
            }
            wav.skip(bytes - kept as u64)?;
            position = position.saturating_add(bytes);
            // Chunks are padded, but for those of some careless programs.
            match kind {
                Kind::Wave64 => wav.skip(bytes.wrapping_neg() % 8)?,
                _ if bytes % 2 == 1 => {
                    let mut five = [0; 5];
                    header(&mut wav.input, &mut five)?;
                    // Padding should be zero; another byte is one if no chunk begins with it.
                    let unpadded = five[0] != 0 && (is_known(&five[..4]) || !is_name(&five[1..]));
                    left_over = if unpadded {
                        five.to_vec()
                    } else {
                        five[1..].to_vec()
                    };
                    if unpadded {
                        wav.note("a chunk of odd length has no padding behind it");
                    }
                    position += u64::from(!unpadded);
                }
                _ => {}
            }
        }
    }

    /// Samples without a header: signed, 16 bits, the lowest byte first, 16 kHz, one channel.
    pub(super) fn raw(input: R) -> Self {
        Self {
            channels: 1,
            sample_rate_hz: SAMPLE_RATE_HZ,
            coding: Coding::Int16,
            ..Self::new(input, Kind::Riff)
        }
    }

    fn new(input: R, kind: Kind) -> Self {
        Self {
            input,
            kind,
            channels: 0,
            sample_rate_hz: 0,
            coding: Coding::Int8,
            claimed: None,
            buffer: Vec::new(),
            odd: false,
            covered: false,
            ended: false,
            notes: Vec::new(),
        }
    }

    /// Reads what is there, and waits only for the first byte.
    fn fill(&mut self, most: usize) -> Result<(), AudioError> {
        let most = self
            .claimed
            .map_or(most, |left| left.min(most as u64) as usize);
        if most == 0 {
            return self.beyond();
        }
        let before = self.buffer.len();
        self.buffer.resize(before + most, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[before..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let read = read
            .inspect_err(|_| self.buffer.truncate(before))
            .map_err(unreadable)?;
        self.buffer.truncate(before + read);
        if let Some(left) = &mut self.claimed {
            *left -= read as u64;
        }
        if read == 0 {
            self.ended = true;
            if let Some(left) = self.claimed.filter(|left| *left > 0) {
                let lost = left > self.bytes_per_second() * LOST_MS / 1_000;
                self.notes.push(Note {
                    problem: format!("it ends {left} bytes before its header says"),
                    lost,
                });
            }
        }
        Ok(())
    }

    /// Looks at what follows the claimed samples: other chunks, samples again among them; tags and filling; or the samples of a file that is too long for its header.
    fn beyond(&mut self) -> Result<(), AudioError> {
        self.ended = true;
        if self.kind == Kind::Wave64 {
            return Ok(());
        }
        let mut padded = self.odd;
        loop {
            let mut next = Vec::with_capacity(9);
            let most = if padded { 9 } else { 8 };
            let mut input = (&mut self.input).take(most);
            input.read_to_end(&mut next).map_err(unreadable)?;
            if padded && !is_name(next.get(..4).unwrap_or_default()) {
                next.drain(..next.len().min(1));
            } else if padded && next.len() == 9 {
                // No padding: the ninth byte belongs to the chunk, which is not looked at but for its samples.
                return self.go_on(next);
            }
            let Some((name, length)) = next.split_at_checked(4).filter(|_| next.len() == 8) else {
                return Ok(());
            };
            if !is_name(name)
                || [&b"TAG"[..], b"ID3", b"APET"]
                    .iter()
                    .any(|tag| name.starts_with(tag))
            {
                return self.go_on(next);
            }
            let length = self.kind.u32(length);
            if name == b"data" {
                self.ended = false;
                self.claimed = Some(length.into()).filter(|_| length < UNKNOWN_BYTES);
                self.odd = length % 2 == 1;
                return Ok(());
            }
            let wanted = u64::from(length);
            let skipped = std::io::copy(&mut (&mut self.input).take(wanted), &mut std::io::sink());
            if skipped.map_err(unreadable)? < wanted {
                return Ok(());
            }
            padded = length % 2 == 1;
        }
    }

    /// Takes bytes that are no chunk, and what follows them, for samples where there are many: the length of a file beyond 4 GiB has lost its highest bits.
    fn go_on(&mut self, mut next: Vec<u8>) -> Result<(), AudioError> {
        let tag = [&b"TAG"[..], b"ID3", b"APETAGEX"];
        if tag.iter().any(|tag| next.starts_with(tag)) {
            return Ok(());
        }
        let missing = TAIL_BYTES.saturating_sub(next.len() as u64);
        let mut input = (&mut self.input).take(missing);
        input.read_to_end(&mut next).map_err(unreadable)?;
        if (next.len() as u64) < TAIL_BYTES && !self.covered {
            if next.iter().any(|byte| *byte != 0) {
                self.note(format!(
                    "{} bytes behind its samples are left out",
                    next.len()
                ));
            }
            return Ok(());
        }
        self.note("its samples go on beyond what its header says");
        (self.ended, self.claimed) = (false, None);
        self.buffer.extend(next);
        Ok(())
    }

    /// The next chunk's name and length; `first` are its first bytes, as far as they are read already.
    fn chunk(&mut self, first: Vec<u8>) -> Result<Chunk, AudioError> {
        let known = first.len();
        let mut bytes = first;
        bytes.resize(self.kind.chunk_header_bytes() as usize, 0);
        header(&mut self.input, &mut bytes[known..])?;
        let name = [bytes[0], bytes[1], bytes[2], bytes[3]];
        let length = match self.kind {
            Kind::Wave64 => {
                let length: [u8; 8] = bytes[16..].try_into().unwrap_or_default();
                let header = self.kind.chunk_header_bytes();
                u64::from_le_bytes(length)
                    .checked_sub(header)
                    .ok_or_else(|| damaged("a chunk is shorter than its own name"))?
            }
            kind => kind.u32(&bytes[4..8]).into(),
        };
        Ok((name, length))
    }

    fn bytes_per_second(&self) -> u64 {
        u64::from(self.sample_rate_hz) * u64::from(self.channels) * self.coding.bytes() as u64
    }

    /// Once: a file may have the same fault a million times.
    fn note(&mut self, problem: impl Into<String>) {
        let note = Note::repaired(problem);
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    fn skip(&mut self, bytes: u64) -> Result<(), AudioError> {
        let skipped = std::io::copy(&mut (&mut self.input).take(bytes), &mut std::io::sink());
        match skipped.map_err(unreadable)? {
            skipped if skipped < bytes => Err(damaged("it ends before its samples")),
            _ => Ok(()),
        }
    }

    /// Takes the fields of a `fmt ` chunk.
    fn format(&mut self, fields: &[u8]) -> Result<(), AudioError> {
        if fields.len() < 16 {
            return Err(damaged("its format takes less than 16 bytes"));
        }
        let u16_at = |at: usize| self.kind.u16(&fields[at..at + 2]);
        let u32_at = |at: usize| self.kind.u32(&fields[at..at + 4]);
        let (mut tag, channels, rate_hz) = (u16_at(0), u16_at(2), u32_at(4));
        let (byte_rate, frame_bytes, bits) = (u32_at(8), u16_at(12), u16_at(14));
        let extensible = tag == 0xFFFE;
        if extensible {
            let known = fields
                .get(26..40)
                .is_some_and(|end| SUBFORMATS.iter().any(|of| of == end));
            if !known {
                return Err(unsupported("an extensible form whose coding is not told"));
            }
            tag = u16_at(24);
        }
        if channels == 0 {
            return Err(damaged("it has no channel"));
        }
        // Containers that are larger than their samples are told by the length of a frame, which else repeats what is known; the samples stand in the top bits.
        let least = usize::from(bits.div_ceil(8));
        let container = usize::from(frame_bytes / channels);
        let agreed = u32::from(frame_bytes).wrapping_mul(rate_hz) == byte_rate
            && frame_bytes % channels == 0;
        let bytes = match (least, container) {
            (3, 4) => 4,
            (1.., _) if tag == 1 && agreed && container > least => container,
            _ => least,
        };
        let coding = Coding::new(tag, bits, bytes)?;
        let frame = u32::from(channels) * coding.bytes() as u32;
        if u32::from(frame_bytes) != frame {
            self.note(format!(
                "its header says {frame_bytes} bytes for a sample of all channels, they are {frame}"
            ));
        }
        if byte_rate != rate_hz.wrapping_mul(frame) {
            self.note(format!(
                "its header says {byte_rate} bytes a second, they are {}",
                u64::from(rate_hz) * u64::from(frame)
            ));
        }
        (self.channels, self.sample_rate_hz, self.coding) = (channels, rate_hz, coding);
        Ok(())
    }
}

impl<R: Read + Send> Samples for Wav<R> {
    fn sample_rate_hz(&self) -> u32 {
        self.sample_rate_hz
    }

    fn channels(&self) -> u16 {
        self.channels
    }

    fn notes(&self) -> &[Note] {
        &self.notes
    }

    fn read(&mut self, samples: &mut Vec<f32>) -> Result<bool, AudioError> {
        let sample_bytes = self.coding.bytes();
        let frame_bytes = usize::from(self.channels) * sample_bytes;
        while !self.ended && self.buffer.len() < frame_bytes {
            self.fill(frame_bytes.max(BLOCK_BYTES))?;
        }
        let whole = self.buffer.len() / frame_bytes * frame_bytes;
        if self.kind == Kind::Rifx {
            let values = self.buffer[..whole].chunks_exact_mut(sample_bytes);
            values.for_each(<[u8]>::reverse);
        }
        self.coding.append(&self.buffer[..whole], samples);
        self.buffer.drain(..whole);
        if whole > 0 {
            return Ok(true);
        }
        if !self.buffer.is_empty() && self.claimed.is_none_or(|left| left == 0) {
            self.note(format!(
                "it ends inside a sample, of which {} bytes are left out",
                self.buffer.len()
            ));
            self.buffer.clear();
        }
        Ok(false)
    }
}

impl Kind {
    fn chunk_header_bytes(self) -> u64 {
        match self {
            Self::Wave64 => 24,
            _ => 8,
        }
    }

    /// Of exactly two bytes.
    fn u16(self, bytes: &[u8]) -> u16 {
        let bytes = bytes.try_into().unwrap_or_default();
        match self {
            Self::Rifx => u16::from_be_bytes(bytes),
            _ => u16::from_le_bytes(bytes),
        }
    }

    /// Of exactly four bytes.
    fn u32(self, bytes: &[u8]) -> u32 {
        let bytes = bytes.try_into().unwrap_or_default();
        match self {
            Self::Rifx => u32::from_be_bytes(bytes),
            _ => u32::from_le_bytes(bytes),
        }
    }
}

/// Whether four bytes may be the name of a chunk.
fn is_name(bytes: &[u8]) -> bool {
    bytes.len() == 4 && bytes.iter().all(|byte| (b' '..=b'~').contains(byte))
}

/// Whether four bytes are the name of a chunk that stands before samples.
fn is_known(bytes: &[u8]) -> bool {
    let names = [
        b"fmt ", b"data", b"fact", b"LIST", b"JUNK", b"junk", b"bext", b"PEAK", b"cue ", b"PAD ",
    ];
    names.iter().any(|name| bytes == *name)
}

/// Fills `bytes` with what must be there before the first sample.
fn header(input: &mut impl Read, bytes: &mut [u8]) -> Result<(), AudioError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => damaged("it ends inside its header"),
        _ => unreadable(error),
    })
}

fn damaged(problem: &str) -> AudioError {
    AudioError::Damaged {
        format: Format::Wav,
        problem: problem.to_owned(),
    }
}

fn unsupported(problem: &str) -> AudioError {
    AudioError::Unsupported {
        format: Format::Wav,
        problem: problem.to_owned(),
    }
}
