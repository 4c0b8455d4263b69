//! Ogg Opus: the bytes of a file with one Opus stream, or several one after another, enter as they come, interleaved samples at 16 kHz leave.
//! The container's rules are RFC 7845's: pre-skip, output gain, and the cut at the end by granule position.

use std::io::{ErrorKind, Read};
use std::mem::take;

use ogg::reading::{BasePacketReader, PageParser};
use ogg::{OggReadError, Packet};
use ropus::{Channels, DecodeMode, Decoder, OpusMSDecoder};

use super::input::Input;
use super::{AudioError, Format, Note, Samples, mean, unreadable};
use crate::settings::SAMPLE_RATE_HZ;

/// Pre-skip and granule positions count samples of 48 kHz whatever the decoder's rate (RFC 7845, section 4).
const GRANULES_PER_SAMPLE: u64 = 48_000 / SAMPLE_RATE_HZ as u64;
/// Longest packet: 120 ms (RFC 6716, section 3.2.5).
const MAX_PACKET_SAMPLES: usize = SAMPLE_RATE_HZ as usize * 120 / 1_000;
/// The granule position of a page on which no packet ends (RFC 3533, section 6).
const NO_POSITION: u64 = u64::MAX;
/// Bytes of a page's header before the lengths of its segments (RFC 3533, section 6).
const PAGE_HEADER_BYTES: usize = 27;
/// Bytes among which the next page is looked for.
const MAX_SKIPPED_BYTES: usize = 150 * 1_024;
/// Samples of all channels that a page may become before some are handed on: many channels in long packets.
const MAX_PAGE_VALUES: usize = 1 << 22;
/// Most bytes of one packet: tags may hold pictures.
const MAX_PACKET_BYTES: usize = 16 << 20;

/// An Ogg Opus file or stream, from which samples are read.
pub(super) struct OggOpus<'a> {
    pages: Pages<'a>,
    link: Link,
    /// Of the first stream; others are brought to as many.
    channels: u16,
    ended: bool,
    notes: Vec<Note>,
}

impl<'a> OggOpus<'a> {
    /// Reads the headers of the first stream.
    pub(super) fn open(input: Input<'a>) -> Result<Self, AudioError> {
        let mut pages = Pages {
            input,
            packets: BasePacketReader::new(),
            skipped_bytes: 0,
        };
        let head_packet = pages
            .next_packet()?
            .ok_or_else(|| damaged("it has no packet"))?;
        let link = Link::open(&mut pages, &head_packet)?;
        Ok(Self {
            channels: link.head.channels,
            pages,
            link,
            ended: false,
            notes: Vec::new(),
        })
    }

    /// Goes on to the stream that follows one that has ended (RFC 3533, section 4: chaining), each with headers of its own.
    fn next_link(&mut self) -> Result<(), AudioError> {
        // A reader of its own for each: two streams of one number would be one to it.
        self.pages.packets = BasePacketReader::new();
        match self.pages.next_packet() {
            Ok(Some(head_packet)) => self.link = Link::open(&mut self.pages, &head_packet)?,
            Ok(None) => self.ended = true,
            Err(AudioError::Unreadable(reason)) => return Err(AudioError::Unreadable(reason)),
            Err(_) => {
                self.ended = true;
                // However few bytes they were.
                self.pages.skipped_bytes = MAX_SKIPPED_BYTES;
            }
        }
        if self.ended && self.pages.skipped_bytes > 0 {
            let problem = "what follows its last stream is not Ogg";
            self.notes.push(Note::repaired(problem));
        }
        Ok(())
    }
}

impl Samples for OggOpus<'_> {
    fn sample_rate_hz(&self) -> u32 {
        SAMPLE_RATE_HZ
    }

    fn channels(&self) -> u16 {
        self.channels
    }

    fn notes(&self) -> &[Note] {
        &self.notes
    }

    fn read(&mut self, samples: &mut Vec<f32>) -> Result<bool, AudioError> {
        if self.ended {
            return Ok(false);
        }
        let packet = match self.pages.next_packet() {
            Ok(Some(packet)) => packet,
            end => {
                match end {
                    Err(AudioError::Damaged { problem, .. }) if problem == INSIDE_A_PAGE => {
                        let problem = format!("{problem}, which is left out");
                        self.notes.push(Note::lost(problem));
                    }
                    Err(error) => return Err(error),
                    Ok(_) => {}
                }
                self.ended = true;
                self.link.take_page(None, self.channels, samples)?;
                return Ok(false);
            }
        };
        if packet.stream_serial() != self.link.serial {
            // The one before was cut off, as those of a radio station are.
            if packet.first_in_stream() {
                self.link.take_page(None, self.channels, samples)?;
                self.link = Link::open(&mut self.pages, &packet)?;
                return Ok(true);
            }
            return Err(unsupported("several streams in one file"));
        }
        self.link.decode(&packet)?;
        if self.link.page.len() > MAX_PAGE_VALUES {
            self.link.take_page(None, self.channels, samples)?;
        }
        if packet.last_in_page() {
            let position = packet.absgp_page();
            let position = (position != NO_POSITION).then_some((position, packet.last_in_stream()));
            self.link.take_page(position, self.channels, samples)?;
        }
        if packet.last_in_stream() {
            self.next_link()?;
        }
        Ok(!self.ended)
    }
}

/// Packets, from the pages of a file.
struct Pages<'a> {
    input: Input<'a>,
    packets: BasePacketReader,
    /// That stand where a page should.
    skipped_bytes: usize,
}

impl Pages<'_> {
    fn next_packet(&mut self) -> Result<Option<Packet>, AudioError> {
        let mut packet_bytes = 0;
        loop {
            if let Some(packet) = self.packets.read_packet() {
                return Ok(Some(packet));
            }
            if packet_bytes > MAX_PACKET_BYTES {
                return Err(damaged("a packet takes more than 16 MiB"));
            }
            if !self.find_page()? {
                return Ok(None);
            }
            let mut header = [0; PAGE_HEADER_BYTES];
            self.fill(&mut header)?;
            let (mut page, segments) = PageParser::new(header).map_err(refusal)?;
            let mut lengths = vec![0; segments];
            self.fill(&mut lengths)?;
            let mut packets = vec![0; page.parse_segments(lengths)];
            self.fill(&mut packets)?;
            packet_bytes += packets.len();
            let page = page.parse_packet_data(packets).map_err(refusal)?;
            self.packets.push_page(page).map_err(refusal)?;
        }
    }

    /// Whether a page follows, perhaps behind other bytes.
    fn find_page(&mut self) -> Result<bool, AudioError> {
        let mut left = MAX_SKIPPED_BYTES;
        loop {
            match self.input.peek(4).map_err(unreadable)? {
                b"OggS" => return Ok(true),
                [] => return Ok(false),
                _ if left == 0 => return Err(damaged("no page where one was expected")),
                _ => self.fill(&mut [0])?,
            }
            left -= 1;
            self.skipped_bytes += 1;
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), AudioError> {
        let read = self.input.read_exact(bytes);
        read.map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => damaged(INSIDE_A_PAGE),
            _ => unreadable(error),
        })
    }
}

const INSIDE_A_PAGE: &str = "it ends inside a page";

/// One stream of a file.
struct Link {
    serial: u32,
    head: Head,
    decoder: Decoding,
    /// Samples of each channel that were decoded.
    decoded: u64,
    /// Granule position of the first of them, known when the first page with audio is complete.
    first_granule: Option<u64>,
    /// Samples of each channel that the encoder put in front and are yet to be dropped.
    skip: u64,
    /// What one packet becomes, interleaved.
    packet: Vec<f32>,
    /// What the page became so far, interleaved: where it ends is known with its last packet.
    page: Vec<f32>,
}

impl Link {
    /// Reads the headers, of which `head_packet` is the first.
    fn open(pages: &mut Pages<'_>, head_packet: &Packet) -> Result<Self, AudioError> {
        let head = Head::parse(&head_packet.data)?;
        let tags = pages
            .next_packet()?
            .ok_or_else(|| damaged("it ends before its tags"))?;
        if !tags.data.starts_with(b"OpusTags") {
            return Err(damaged("its second packet does not hold tags"));
        }
        Ok(Self {
            serial: head_packet.stream_serial(),
            decoder: head.decoder()?,
            decoded: 0,
            first_granule: None,
            skip: head.pre_skip.div_ceil(GRANULES_PER_SAMPLE),
            packet: vec![0.0; MAX_PACKET_SAMPLES * usize::from(head.channels)],
            page: Vec::new(),
            head,
        })
    }

    fn decode(&mut self, packet: &Packet) -> Result<(), AudioError> {
        let decoded = self
            .decoder
            .decode(&packet.data, &mut self.packet)
            .map_err(|problem| {
                let start_ms = self.decoded * 1_000 / u64::from(SAMPLE_RATE_HZ);
                damaged(format!("bad packet after {start_ms} ms: {problem}"))
            })?;
        let values = self.packet[..decoded * usize::from(self.head.channels)].iter();
        self.page.extend(values.map(|value| value * self.head.gain));
        self.decoded += decoded as u64;
        Ok(())
    }

    /// Appends the page's samples, interleaved for so many channels. `position` is where the page ends, if it says so, and whether the stream ends with it.
    fn take_page(
        &mut self,
        position: Option<(u64, bool)>,
        channels: u16,
        samples: &mut Vec<f32>,
    ) -> Result<(), AudioError> {
        let own_channels = usize::from(self.head.channels);
        let mut page = take(&mut self.page);
        let before = self.decoded - (page.len() / own_channels) as u64;
        if let Some((end, is_last)) = position {
            let first = match self.first_granule {
                Some(first) => first,
                None => match end.checked_sub(self.decoded * GRANULES_PER_SAMPLE) {
                    Some(first) => first,
                    // A position below the number of samples is the cut of a stream that ends with this page.
                    None if is_last => 0,
                    None => return Err(damaged("its first page has a position before its start")),
                },
            };
            self.first_granule = Some(first);
            if is_last {
                let granules = end
                    .checked_sub(first)
                    .ok_or_else(|| damaged("its last position lies before its first"))?;
                let kept = granules
                    .div_ceil(GRANULES_PER_SAMPLE)
                    .saturating_sub(before);
                let kept = usize::try_from(kept).unwrap_or(usize::MAX);
                page.truncate(kept.saturating_mul(own_channels));
            }
        }
        let skipped = self.skip.min((page.len() / own_channels) as u64);
        self.skip -= skipped;
        let heard = &page[skipped as usize * own_channels..];
        if self.head.channels == channels {
            samples.extend_from_slice(heard);
        } else {
            for frame in heard.chunks_exact(own_channels) {
                samples.extend(std::iter::repeat_n(mean(frame), channels.into()));
            }
        }
        // The room is used again.
        page.clear();
        self.page = page;
        Ok(())
    }
}

/// What makes samples of packets.
enum Decoding {
    /// One or two channels in one stream.
    Single(Box<Decoder>),
    /// Several streams, whose packets stand one behind the other in each of the file's.
    Several {
        decoder: Box<OpusMSDecoder>,
        pcm: Vec<i16>,
    },
}

impl Decoding {
    /// Puts the samples of a packet in front of `interleaved`; how many there are of each channel.
    fn decode(&mut self, packet: &[u8], interleaved: &mut [f32]) -> Result<usize, String> {
        // The decoder would take an empty packet for a lost one and invent samples.
        if packet.is_empty() {
            return Err("it is empty".to_owned());
        }
        match self {
            Self::Single(decoder) => decoder
                .decode_float(packet, interleaved, DecodeMode::Normal)
                .map_err(|error| error.to_string()),
            Self::Several { decoder, pcm } => {
                let length = i32::try_from(packet.len()).map_err(|error| error.to_string())?;
                let decoded = decoder
                    .decode(Some(packet), length, pcm, MAX_PACKET_SAMPLES as i32, false)
                    .map_err(|code| format!("the decoder says {code}"))?;
                for (sample, value) in interleaved.iter_mut().zip(&*pcm) {
                    *sample = f32::from(*value) / 32_768.0;
                }
                Ok(decoded as usize)
            }
        }
    }
}

/// The identification header (RFC 7845, section 5.1), as far as it matters here.
struct Head {
    /// 1 to 255.
    channels: u16,
    /// Streams, those of them that are stereo, and which of their channels each of the file's is; none for one stream of one or two channels.
    mapping: Option<(u8, u8, Vec<u8>)>,
    /// Samples of 48 kHz to drop from the start.
    pre_skip: u64,
    /// Factor for every sample.
    gain: f32,
}

impl Head {
    fn parse(packet: &[u8]) -> Result<Self, AudioError> {
        let Some(fields) = packet.strip_prefix(b"OpusHead") else {
            let names: [(&[u8], &str); 6] = [
                (b"\x01vorbis", "Vorbis"),
                (b"\x7fFLAC", "FLAC in Ogg"),
                (b"fLaC", "FLAC in Ogg"),
                (b"Speex", "Speex"),
                (b"\x80theora", "video"),
                (b"PCM     ", "PCM in Ogg"),
            ];
            let named = names.iter().find(|(magic, _)| packet.starts_with(magic));
            return Err(unsupported(
                named.map_or("a coding that is not Opus", |(_, name)| *name),
            ));
        };
        let &[
            version,
            channels,
            skip_0,
            skip_1,
            _,
            _,
            _,
            _,
            gain_0,
            gain_1,
            family,
            ..,
        ] = fields
        else {
            return Err(damaged("its identification header is too short"));
        };
        // Versions up to 15 are compatible by definition.
        if version > 15 {
            return Err(unsupported("a newer version of the Opus container"));
        }
        let mapping = match (family, channels) {
            (0, 1 | 2) => None,
            (0, _) => return Err(damaged("its number of channels is not 1 or 2")),
            // Surround sound, and channels that stand for nothing in particular: the table is the same.
            (1 | 255, 1..) => {
                let table = fields.get(11..13 + usize::from(channels));
                let [streams, coupled, mapping @ ..] = table.unwrap_or_default() else {
                    return Err(damaged("its table of channels is too short"));
                };
                Some((*streams, *coupled, mapping.to_vec()))
            }
            (1 | 255, 0) => return Err(damaged("it has no channel")),
            _ => return Err(unsupported(&format!("channel mapping family {family}"))),
        };
        let gain_db = f64::from(i16::from_le_bytes([gain_0, gain_1])) / 256.0;
        Ok(Self {
            channels: u16::from(channels),
            mapping,
            pre_skip: u64::from(u16::from_le_bytes([skip_0, skip_1])),
            gain: libm::pow(10.0, gain_db / 20.0) as f32,
        })
    }

    /// At 16 kHz Opus' own resampling is part of its definition: nothing is left to do, and the bits are the same everywhere.
    fn decoder(&self) -> Result<Decoding, AudioError> {
        let Some((streams, coupled, mapping)) = &self.mapping else {
            let layout = if self.channels == 1 {
                Channels::Mono
            } else {
                Channels::Stereo
            };
            let decoder = Decoder::new(SAMPLE_RATE_HZ, layout)
                .expect("16 kHz with one or two channels is among the decoder's modes");
            return Ok(Decoding::Single(Box::new(decoder)));
        };
        let channels = self.channels.into();
        let decoder = OpusMSDecoder::new(
            SAMPLE_RATE_HZ as i32,
            channels,
            i32::from(*streams),
            i32::from(*coupled),
            mapping,
        );
        Ok(Decoding::Several {
            decoder: decoder
                .map(Box::new)
                .map_err(|_| damaged("its table of channels makes no sense"))?,
            pcm: vec![0; MAX_PACKET_SAMPLES * usize::from(self.channels)],
        })
    }
}

fn refusal(error: OggReadError) -> AudioError {
    match error {
        OggReadError::ReadError(_) => damaged(INSIDE_A_PAGE),
        OggReadError::HashMismatch(..) => damaged("the checksum of a page is wrong"),
        OggReadError::NoCapturePatternFound => damaged("no page where one was expected"),
        OggReadError::InvalidStreamStructVer(_) => unsupported("a newer version of Ogg"),
        OggReadError::InvalidData => damaged("its pages do not fit together"),
    }
}

fn damaged(problem: impl Into<String>) -> AudioError {
    AudioError::Damaged {
        format: Format::OggOpus,
        problem: problem.into(),
    }
}

fn unsupported(problem: &str) -> AudioError {
    AudioError::Unsupported {
        format: Format::OggOpus,
        problem: problem.to_owned(),
    }
}
