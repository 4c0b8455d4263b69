//! MP3, AAC-LC and M4A: bytes enter as they come, interleaved samples at the file's rate leave. Decoding is symphonia's; what it leaves to others (where the sound begins,
//! what to do with frames that are damaged) is here.

use std::io::{Cursor, ErrorKind, Read};

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known as codecs;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::errors::Error;
use symphonia::core::formats::{FormatOptions, FormatReader};
use symphonia::core::io::{MediaSource, MediaSourceStream, ReadBytes, ReadOnlySource};
use symphonia::core::packet::Packet;
use symphonia::default::codecs::{AacDecoder, MpaDecoder};
use symphonia::default::formats::{AdtsReader, IsoMp4Reader, MpaReader};

use super::input::Input;
use super::{AudioError, Format, Note, Samples, unreadable};

/// Most bytes of an M4A file, which is read whole: its index may stand at the end.
const MAX_M4A_BYTES: u64 = 1 << 30;

/// A file or stream of MPEG audio, from which samples are read.
pub(super) struct Mpeg<'a> {
    format: Format,
    reader: Box<dyn FormatReader + 'a>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    /// Read before its turn.
    ahead: Option<Packet>,
    sample_rate_hz: u32,
    channels: u16,
    /// Samples of each channel that the encoder put in front and are yet to be dropped.
    skip: u64,
    /// Samples of each channel that were decoded, and of the last frame.
    decoded: u64,
    frame: usize,
    interleaved: Vec<f32>,
    /// Some frame was left silent.
    silent: bool,
    /// Samples of each channel that an index counts, with what the encoder put around them.
    expected: Option<u64>,
    notes: Vec<Note>,
}

impl<'a> Mpeg<'a> {
    /// MPEG 1 to 2.5, layer III.
    pub(super) fn mp3(input: Input<'a>) -> Result<Self, AudioError> {
        // As a stream: of a file, symphonia would estimate the length by the first frames and leave out what goes beyond.
        let reader = MpaReader::try_new(stream(ReadOnlySource::new(input)), options());
        let reader = reader.map_err(|error| refusal(Format::Mp3, error))?;
        let track = reader.tracks().first().cloned();
        let mut mp3 = Self::new(Format::Mp3, Box::new(reader))?;
        if let Some(track) = track {
            let around = [track.delay, track.padding].map(|count| u64::from(count.unwrap_or(0)));
            mp3.skip = around[0];
            let frames = track.num_frames;
            mp3.expected = frames.map(|frames| frames.saturating_add(around.iter().sum()));
        }
        Ok(mp3)
    }

    /// AAC with a header for every frame (ADTS).
    pub(super) fn aac(input: Input<'a>) -> Result<Self, AudioError> {
        let reader = AdtsReader::try_new(stream(ReadOnlySource::new(input)), options());
        let reader = reader.map_err(|error| refusal(Format::Aac, error))?;
        Self::new(Format::Aac, Box::new(reader))
    }

    /// AAC in MP4.
    pub(super) fn m4a(input: Input<'a>) -> Result<Self, AudioError> {
        let mut bytes = Vec::new();
        let read = input.take(MAX_M4A_BYTES + 1).read_to_end(&mut bytes);
        if read.map_err(unreadable)? as u64 > MAX_M4A_BYTES {
            return Err(AudioError::TooLong);
        }
        shorten_last_box(&mut bytes);
        let (starts, coding) = (starts(&bytes), coding(&bytes));
        if find(&bytes, b"moov").is_none() {
            return Err(damaged(Format::M4a, "it is cut off before its index"));
        }
        let mut file = stream(Cursor::new(bytes));
        // The reader expects to stand behind the length of the first box.
        let reader = file.read_quad_bytes().map_err(Error::IoError);
        let reader = reader.and_then(|_| IsoMp4Reader::try_new(file, options()));
        let reader = reader.map_err(|error| refusal(Format::M4a, error))?;
        let mut m4a = match Self::new(Format::M4a, Box::new(reader)) {
            // symphonia does not tell what it does not know.
            Err(AudioError::Unsupported { problem, .. }) if problem == UNKNOWN => {
                let coding = coding.unwrap_or_else(|| "a movie without sound".to_owned());
                return Err(unsupported(Format::M4a, &coding));
            }
            m4a => m4a?,
        };
        if let Some(start) = starts.iter().find(|start| start.track == m4a.track) {
            let samples = u128::from(start.ticks) * u128::from(m4a.sample_rate_hz);
            m4a.skip = (samples / u128::from(start.ticks_per_second.max(1))) as u64;
        }
        Ok(m4a)
    }

    fn new(format: Format, mut reader: Box<dyn FormatReader + 'a>) -> Result<Self, AudioError> {
        let audio = reader
            .tracks()
            .iter()
            .find_map(|track| match &track.codec_params {
                Some(CodecParameters::Audio(codec)) => Some((track.id, codec.clone())),
                _ => None,
            });
        let (track, codec) = audio.ok_or_else(|| unsupported(format, UNKNOWN))?;
        // What the encoder put in front is dropped here, and what stands behind is kept: lengths in headers are wrong where files were joined.
        let options = AudioDecoderOptions::default().gapless(false);
        let decoder: Result<Box<dyn AudioDecoder>, Error> = match codec.codec {
            codecs::CODEC_ID_AAC => {
                AacDecoder::try_new(&codec, &options).map(|decoder| Box::new(decoder) as _)
            }
            codecs::CODEC_ID_MP3 => {
                MpaDecoder::try_new(&codec, &options).map(|decoder| Box::new(decoder) as _)
            }
            other => return Err(unsupported(format, name(other))),
        };
        let mut decoder = decoder.map_err(|error| match profile(&codec) {
            Some(name) => unsupported(format, name),
            None => refusal(format, error),
        })?;
        let codec = decoder.codec_params();
        let count = codec.channels.as_ref().map_or(0, |all| all.count());
        let (mut channels, mut sample_rate_hz) = (count, codec.sample_rate.unwrap_or(0));
        let mut ahead = None;
        if channels == 0 || sample_rate_hz == 0 {
            // Only the frames say it: MP3 in MP4.
            let packet = first_of(&mut *reader, track).map_err(|error| refusal(format, error))?;
            if let Ok(frame) = decoder.decode(&packet) {
                (channels, sample_rate_hz) = (frame.num_planes(), frame.spec().rate());
            }
            decoder.reset();
            ahead = Some(packet);
        }
        if channels == 0 || sample_rate_hz == 0 {
            return Err(damaged(format, "it tells no rate or number of channels"));
        }
        let channels = channels as u16;
        Ok(Self {
            ahead,
            format,
            reader,
            decoder,
            track,
            sample_rate_hz,
            channels,
            skip: 0,
            decoded: 0,
            frame: 0,
            interleaved: Vec::new(),
            silent: false,
            expected: None,
            notes: Vec::new(),
        })
    }

    fn end(&mut self) -> Result<bool, AudioError> {
        if self.decoded == 0 {
            return Err(damaged(self.format, "no frame of it can be decoded"));
        }
        let missing = self
            .expected
            .take()
            .and_then(|all| all.checked_sub(self.decoded));
        if missing.is_some_and(|missing| missing > 2 * self.frame as u64) && self.notes.is_empty() {
            let problem = format!("it ends early, after {} ms", self.ms());
            self.notes.push(Note::lost(problem));
        }
        Ok(false)
    }

    /// How much was decoded.
    fn ms(&self) -> u64 {
        self.decoded * 1_000 / u64::from(self.sample_rate_hz)
    }
}

impl Samples for Mpeg<'_> {
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
        let next = match self.ahead.take() {
            Some(packet) => Ok(Some(packet)),
            None => self.reader.next_packet(),
        };
        let packet = match next {
            Ok(Some(packet)) => packet,
            Ok(None) => return self.end(),
            Err(Error::IoError(error)) if error.kind() != ErrorKind::UnexpectedEof => {
                return Err(unreadable(error));
            }
            // It ends before its index says, or what follows is none of its frames.
            Err(error) if self.decoded == 0 => return Err(refusal(self.format, error)),
            Err(_) => {
                let problem = format!("it ends early, or is damaged, after {} ms", self.ms());
                self.notes.push(Note::lost(problem));
                return self.end();
            }
        };
        if packet.track_id != self.track {
            return Ok(true);
        }
        let channels = usize::from(self.channels);
        let changed = match self.decoder.decode(&packet) {
            Ok(frame) if frame.num_planes() == channels => {
                frame.copy_to_vec_interleaved(&mut self.interleaved);
                self.frame = frame.frames();
                self.decoded += self.frame as u64;
                None
            }
            Ok(_) => Some(true),
            Err(Error::DecodeError(problem)) => Some(problem.contains("signal spec")),
            Err(_) => Some(false),
        };
        if let Some(changed) = changed {
            // Before the first that can be decoded there are frames that refer to what was cut off.
            if self.decoded > 0 && !self.silent {
                self.silent = true;
                let what = match changed {
                    true => {
                        "its rate or number of channels changes, and what follows is left silent,"
                    }
                    false => "frames that cannot be decoded are left silent, the first",
                };
                let problem = format!("{what} after {} ms", self.ms());
                self.notes.push(Note::lost(problem));
            }
            // Its place in time is kept.
            self.interleaved.clear();
            self.interleaved.resize(self.frame * channels, 0.0);
        }
        let frames = (self.interleaved.len() / channels) as u64;
        let skipped = self.skip.min(frames);
        self.skip -= skipped;
        samples.extend_from_slice(&self.interleaved[skipped as usize * channels..]);
        Ok(true)
    }
}

fn first_of(reader: &mut dyn FormatReader, track: u32) -> Result<Packet, Error> {
    loop {
        match reader.next_packet()? {
            Some(packet) if packet.track_id == track => return Ok(packet),
            Some(_) => {}
            None => return Err(Error::DecodeError("there is no frame")),
        }
    }
}

fn stream<'a>(source: impl MediaSource + 'a) -> MediaSourceStream<'a> {
    MediaSourceStream::new(Box::new(source), Default::default())
}

fn options() -> FormatOptions {
    FormatOptions::default()
}

/// Bytes of the frame of MPEG audio of a layer, 2 or 3, whose header this is (ISO 11172-3, section 2.4.1.3), if it is one.
pub(super) fn frame_bytes(layer: u8, header: &[u8]) -> Option<usize> {
    const LAYER_2: [usize; 14] = [
        32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384,
    ];
    const LAYER_3: [usize; 14] = [
        32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320,
    ];
    const LATER: [usize; 14] = [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
    let &[0xFF, version_and_layer, rates, _] = header.first_chunk()? else {
        return None;
    };
    // MPEG 1, 2 and 2.5, each with half the rates of the one before.
    let version = match version_and_layer >> 3 {
        0b11111 => 0,
        0b11110 => 1,
        0b11100 => 2,
        _ => return None,
    };
    // Counted backwards.
    if version_and_layer >> 1 & 3 != 4 - layer {
        return None;
    }
    let (kbit_per_s, samples) = match (version, layer) {
        (0, 2) => (LAYER_2, 1_152),
        (_, 2) => (LATER, 1_152),
        (0, _) => (LAYER_3, 1_152),
        _ => (LATER, 576),
    };
    let kbit_per_s = kbit_per_s.get(usize::from(rates >> 4).checked_sub(1)?)?;
    let rate_hz = [44_100, 48_000, 32_000].get(usize::from(rates >> 2 & 3))? >> version;
    let padding = usize::from(rates >> 1 & 1);
    Some(samples / 8 * 1_000 * kbit_per_s / rate_hz + padding)
}

/// Bytes of the ADTS frame whose header this is (ISO 13818-7, section 6.2), if it is one.
pub(super) fn adts_frame_bytes(header: &[u8]) -> Option<usize> {
    let &[0xFF, sync, _, high, middle, low, _] = header.first_chunk()? else {
        return None;
    };
    let bytes = usize::from(high & 3) << 11 | usize::from(middle) << 3 | usize::from(low >> 5);
    (sync & 0xF6 == 0xF0 && bytes > 7).then_some(bytes)
}

const UNKNOWN: &str = "a coding that is not known";

/// What the first sound track of an MP4 file says that it is coded in (ISO 14496-12, section 8.5.2), in words where they are usual.
fn coding(file: &[u8]) -> Option<String> {
    let of_track = |track: &[u8]| {
        let media = find(track, b"mdia")?;
        let is_sound = find(media, b"hdlr")?.get(8..12)? == b"soun";
        let table = find(find(media, b"minf")?, b"stbl")?;
        let name: &[u8; 4] = find(table, b"stsd")?.get(12..)?.first_chunk()?;
        is_sound.then(|| match name {
            b"samr" => "AMR".to_owned(),
            b"sawb" => "AMR-WB".to_owned(),
            b"sowt" | b"twos" | b"lpcm" | b"ipcm" | b"fpcm" | b"in24" | b"in32" | b"fl32" => {
                "uncompressed sound in MP4".to_owned()
            }
            name => format!("the coding \"{}\"", name.escape_ascii()),
        })
    };
    let movie = find(file, b"moov")?;
    let mut tracks = boxes(movie).filter(|(name, _)| name == b"trak");
    tracks.find_map(|(_, track)| of_track(track))
}

/// Where the sound of a track of an MP4 file begins.
struct Start {
    track: u32,
    ticks: u64,
    ticks_per_second: u32,
}

/// What the edit lists of an MP4 file say (ISO 14496-12, section 8.6.6), which symphonia 0.6.1 does not follow: without them an encoder's delay would be heard, 64 ms of
/// silence at 16 kHz.
fn starts(file: &[u8]) -> Vec<Start> {
    let of_track = |track: &[u8]| {
        let head = find(track, b"tkhd")?;
        let media = find(find(track, b"mdia")?, b"mdhd")?;
        let edits = find(find(track, b"edts")?, b"elst")?;
        // Times take 64 bits instead of 32 from version 1 on.
        let wide = |body: &[u8]| body.first().map(|version| *version > 0);
        let entries = edits.get(8..)?;
        let start = if wide(edits)? {
            let mut entries = entries.as_chunks::<20>().0.iter();
            entries.find_map(|entry| {
                let ticks = u64::from_be_bytes(*entry.get(8..)?.first_chunk()?);
                (ticks != u64::MAX).then_some(ticks)
            })
        } else {
            // All ones stand for silence in front.
            let mut entries = entries.as_chunks::<12>().0.iter();
            entries.find_map(|entry| {
                u32_at(entry, 4)
                    .filter(|ticks| *ticks != u32::MAX)
                    .map(u64::from)
            })
        };
        Some(Start {
            track: u32_at(head, if wide(head)? { 20 } else { 12 })?,
            ticks: start.filter(|ticks| *ticks < u64::MAX >> 1)?,
            ticks_per_second: u32_at(media, if wide(media)? { 20 } else { 12 })?,
        })
    };
    let movie = find(file, b"moov").unwrap_or_default();
    let tracks = boxes(movie).filter(|(name, _)| name == b"trak");
    tracks.filter_map(|(_, track)| of_track(track)).collect()
}

/// The boxes that `bytes` hold one after another, as far as they are whole: name and body.
fn boxes(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (length, name) = (u32_at(bytes, 0)?, *bytes.get(4..)?.first_chunk()?);
        let (header, length) = match length {
            // To the end.
            0 => (8, bytes.len()),
            1 => {
                let length = u64::from_be_bytes(*bytes.get(8..)?.first_chunk()?);
                (16, usize::try_from(length).ok()?)
            }
            length => (8, length as usize),
        };
        let body = bytes.get(header..length)?;
        bytes = &bytes[length..];
        Some((name, body))
    })
}

/// Of a file that was cut off, the box at the end is given the length that it has: symphonia would read nothing of one that claims more than there is.
fn shorten_last_box(file: &mut [u8]) {
    let mut at = 0;
    while let (Some(length), true) = (u32_at(file, at), at + 8 <= file.len()) {
        let wide = (length == 1).then(|| file.get(at + 8..)?.first_chunk().copied());
        let claimed = match wide.flatten() {
            Some(length) => u64::from_be_bytes(length),
            None => length.into(),
        };
        let left = file.len() - at;
        if claimed > left as u64 {
            match (length, u32::try_from(left)) {
                (1, _) => file[at + 8..at + 16].copy_from_slice(&(left as u64).to_be_bytes()),
                (_, Ok(left)) => file[at..at + 4].copy_from_slice(&left.to_be_bytes()),
                _ => {}
            }
            return;
        }
        // Zero stands for all that is left.
        if claimed < 8 {
            return;
        }
        at += claimed as usize;
    }
}

fn find<'a>(bytes: &'a [u8], name: &[u8; 4]) -> Option<&'a [u8]> {
    boxes(bytes)
        .find(|(found, _)| found == name)
        .map(|(_, body)| body)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What is not decoded here, by its name.
fn name(codec: symphonia::core::codecs::audio::AudioCodecId) -> &'static str {
    match codec {
        codecs::CODEC_ID_ALAC => "ALAC",
        codecs::CODEC_ID_AC3 => "AC-3",
        codecs::CODEC_ID_EAC3 => "E-AC-3",
        codecs::CODEC_ID_OPUS => "Opus in MP4",
        codecs::CODEC_ID_FLAC => "FLAC in MP4",
        codecs::CODEC_ID_MP1 => "MPEG audio of layer I",
        codecs::CODEC_ID_MP2 => "MPEG audio of layer II",
        _ => UNKNOWN,
    }
}

/// The form of AAC, by the first bits of its configuration (ISO 14496-3, section 1.6.2.1).
fn profile(codec: &AudioCodecParameters) -> Option<&'static str> {
    let Some(extra) = &codec.extra_data else {
        let several = codec.channels.as_ref().is_some_and(|all| all.count() > 2);
        return several.then_some("AAC-LC of more than two channels");
    };
    let &[first, second, ..] = &**extra else {
        return None;
    };
    let kind = match first >> 3 {
        31 => 32 + ((first & 7) << 3 | second >> 5),
        kind => kind,
    };
    Some(match kind {
        1 => "AAC Main",
        2 => "AAC-LC of more than two channels",
        3 => "AAC SSR",
        4 => "AAC LTP",
        5 => "HE-AAC",
        23 => "AAC-LD",
        29 => "HE-AAC v2",
        39 => "AAC-ELD",
        42 => "xHE-AAC",
        _ => "a form of AAC that is not known",
    })
}

fn refusal(format: Format, error: Error) -> AudioError {
    match error {
        Error::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            damaged(format, "it ends inside its header")
        }
        Error::IoError(error) => unreadable(error),
        Error::Unsupported(problem) => unsupported(format, problem),
        error => damaged(format, &error.to_string()),
    }
}

fn damaged(format: Format, problem: &str) -> AudioError {
    AudioError::Damaged {
        format,
        problem: problem.to_owned(),
    }
}

fn unsupported(format: Format, problem: &str) -> AudioError {
    AudioError::Unsupported {
        format,
        problem: problem.to_owned(),
    }
}
