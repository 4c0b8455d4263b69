//! Ogg Opus: the bytes of a file with one Opus stream, or several one after another, enter, mono samples at 16 kHz leave.
//! The container's rules are RFC 7845's: pre-skip, output gain, and the cut at the end by granule position.

use std::io::Cursor;

use ogg::{OggReadError, PacketReader};
use ropus::{Channels, DecodeMode, Decoder, OpusMSDecoder};

use super::{Audio, AudioError, Format, MAX_SAMPLES, push_mean};
use crate::settings::SAMPLE_RATE_HZ;

/// Pre-skip and granule positions count samples of 48 kHz whatever the decoder's rate (RFC 7845, section 4).
const GRANULES_PER_SAMPLE: u64 = 48_000 / SAMPLE_RATE_HZ as u64;
/// Longest packet: 120 ms (RFC 6716, section 3.2.5).
const MAX_PACKET_SAMPLES: usize = SAMPLE_RATE_HZ as usize * 120 / 1_000;
/// The granule position of a page on which no packet ends (RFC 3533, section 6).
const NO_POSITION: u64 = u64::MAX;

pub(super) fn decode(bytes: &[u8]) -> Result<Audio, AudioError> {
    let mut packets = PacketReader::new(Cursor::new(bytes));
    let mut head_packet = next_packet(&mut packets)?.ok_or_else(|| damaged("it has no packet"))?;
    let (mut samples, mut channels, mut notes) = (Vec::new(), 0, Vec::new());
    // Streams may follow one another (RFC 3533, section 4: chaining), each with headers of its own.
    loop {
        let (link, link_channels) =
            decode_link(&mut packets, &head_packet, MAX_SAMPLES - samples.len())?;
        samples.extend(link);
        channels = link_channels.max(channels);
        // A reader of its own for each: two streams of one number would be one to it.
        let rest = packets.into_inner();
        if rest.position() >= bytes.len() as u64 {
            break;
        }
        packets = PacketReader::new(rest);
        match next_packet(&mut packets) {
            Ok(Some(packet)) => head_packet = packet,
            Ok(None) => break,
            Err(_) => {
                notes.push("what follows its last stream is not Ogg".to_owned());
                break;
            }
        }
    }
    Ok(Audio {
        samples,
        sample_rate_hz: SAMPLE_RATE_HZ,
        channels,
        notes,
    })
}

/// The stream that begins with `head_packet`, to its end: at most `room` samples, and the number of channels.
fn decode_link(
    packets: &mut PacketReader<Cursor<&[u8]>>,
    head_packet: &ogg::Packet,
    room: usize,
) -> Result<(Vec<f32>, u16), AudioError> {
    let serial = head_packet.stream_serial();
    let head = Head::parse(&head_packet.data)?;
    let tags = next_packet(packets)?.ok_or_else(|| damaged("it ends before its tags"))?;
    if !tags.data.starts_with(b"OpusTags") {
        return Err(damaged("its second packet does not hold tags"));
    }

    let channels = usize::from(head.channels);
    let mut decoder = head.decoder()?;
    let mut interleaved = vec![0.0; MAX_PACKET_SAMPLES * channels];
    let mut samples = Vec::new();
    // Granule position of the first decoded sample, known when the first page with audio is complete.
    let mut first_granule = None;
    let mut end_granule = None;
    while let Some(packet) = next_packet(packets)? {
        if packet.stream_serial() != serial {
            return Err(unsupported("several streams in one file"));
        }
        let decoded = decoder
            .decode(&packet.data, &mut interleaved)
            .map_err(|problem| {
                let start_ms = samples.len() as u64 * 1_000 / u64::from(SAMPLE_RATE_HZ);
                damaged(format!("bad packet after {start_ms} ms: {problem}"))
            })?;
        for frame in interleaved.chunks_exact(channels).take(decoded) {
            if samples.len() == room {
                return Err(AudioError::TooLong);
            }
            let scaled = frame.iter().map(|value| value * head.gain);
            push_mean(&mut samples, head.channels, scaled)?;
        }
        if packet.last_in_page() && packet.absgp_page() != NO_POSITION {
            let position = packet.absgp_page();
            let decoded_granules = samples.len() as u64 * GRANULES_PER_SAMPLE;
            if first_granule.is_none() {
                first_granule = match position.checked_sub(decoded_granules) {
                    Some(first) => Some(first),
                    // A position below the number of samples is the cut of a stream that ends with this page.
                    None if packet.last_in_stream() => Some(0),
                    None => return Err(damaged("its first page has a position before its start")),
                };
            }
            end_granule = packet.last_in_stream().then_some(position);
        }
        if packet.last_in_stream() {
            break;
        }
    }

    let skipped = head.pre_skip.div_ceil(GRANULES_PER_SAMPLE) as usize;
    if let (Some(first), Some(end)) = (first_granule, end_granule) {
        let granules = end
            .checked_sub(first)
            .ok_or_else(|| damaged("its last position lies before its first"))?;
        let kept = granules.div_ceil(GRANULES_PER_SAMPLE);
        samples.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
    }
    samples.drain(..skipped.min(samples.len()));
    Ok((samples, head.channels))
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
            return Err(unsupported(
                "an Ogg stream that is not Opus (perhaps Vorbis)",
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

fn next_packet(
    packets: &mut PacketReader<Cursor<&[u8]>>,
) -> Result<Option<ogg::Packet>, AudioError> {
    packets.read_packet().map_err(|error| match error {
        OggReadError::ReadError(_) => damaged("it ends inside a page"),
        OggReadError::HashMismatch(..) => damaged("the checksum of a page is wrong"),
        OggReadError::NoCapturePatternFound => damaged("no page where one was expected"),
        OggReadError::InvalidStreamStructVer(_) => unsupported("a newer version of Ogg"),
        OggReadError::InvalidData => damaged("its pages do not fit together"),
    })
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
