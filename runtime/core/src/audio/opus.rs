//! Ogg Opus: the bytes of a file with one mono or stereo Opus stream enter, mono samples at 16 kHz leave.
//! The container's rules are RFC 7845's: pre-skip, output gain, and the cut at the end by granule position.

use std::io::Cursor;

use ogg::{OggReadError, PacketReader};
use ropus::{Channels, DecodeMode, Decoder};

use super::{Audio, AudioError, Format, push_mean};
use crate::settings::SAMPLE_RATE_HZ;

/// Pre-skip and granule positions count samples of 48 kHz whatever the decoder's rate (RFC 7845, section 4).
const GRANULES_PER_SAMPLE: u64 = 48_000 / SAMPLE_RATE_HZ as u64;
/// Longest packet: 120 ms (RFC 6716, section 3.2.5).
const MAX_PACKET_SAMPLES: usize = SAMPLE_RATE_HZ as usize * 120 / 1_000;
/// The granule position of a page on which no packet ends (RFC 3533, section 6).
const NO_POSITION: u64 = u64::MAX;

pub(super) fn decode(bytes: &[u8]) -> Result<Audio, AudioError> {
    let mut packets = PacketReader::new(Cursor::new(bytes));
    let head_packet = next_packet(&mut packets)?.ok_or_else(|| damaged("it has no packet"))?;
    let serial = head_packet.stream_serial();
    let head = Head::parse(&head_packet.data)?;
    let tags = next_packet(&mut packets)?.ok_or_else(|| damaged("it ends before its tags"))?;
    if !tags.data.starts_with(b"OpusTags") {
        return Err(damaged("its second packet does not hold tags"));
    }

    let channels = usize::from(head.channels);
    let layout = if channels == 1 {
        Channels::Mono
    } else {
        Channels::Stereo
    };
    // At 16 kHz Opus' own resampling is part of its definition: nothing is left to do, and the bits are the same everywhere.
    let mut decoder = Decoder::new(SAMPLE_RATE_HZ, layout)
        .expect("16 kHz with one or two channels is among the decoder's modes");
    let mut interleaved = vec![0.0; MAX_PACKET_SAMPLES * channels];
    let mut samples = Vec::new();
    // Granule position of the first decoded sample, known when the first page with audio is complete.
    let mut first_granule = None;
    let mut end_granule = None;
    while let Some(packet) = next_packet(&mut packets)? {
        if packet.stream_serial() != serial {
            return Err(unsupported("several streams in one file"));
        }
        // The decoder would take an empty packet for a lost one and invent samples.
        let decoded = match packet.data.as_slice() {
            [] => Err("it is empty".to_owned()),
            data => decoder
                .decode_float(data, &mut interleaved, DecodeMode::Normal)
                .map_err(|error| error.to_string()),
        }
        .map_err(|problem| {
            let start_ms = samples.len() as u64 * 1_000 / u64::from(SAMPLE_RATE_HZ);
            damaged(format!("bad packet after {start_ms} ms: {problem}"))
        })?;
        for frame in interleaved.chunks_exact(channels).take(decoded) {
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
    Ok(Audio {
        samples,
        sample_rate_hz: SAMPLE_RATE_HZ,
        channels: head.channels,
    })
}

/// The identification header (RFC 7845, section 5.1), as far as it matters here.
struct Head {
    /// 1 or 2.
    channels: u16,
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
        if family != 0 {
            return Err(unsupported("more than two channels"));
        }
        if !matches!(channels, 1 | 2) {
            return Err(damaged("its number of channels is not 1 or 2"));
        }
        let gain_db = f64::from(i16::from_le_bytes([gain_0, gain_1])) / 256.0;
        Ok(Self {
            channels: u16::from(channels),
            pre_skip: u64::from(u16::from_le_bytes([skip_0, skip_1])),
            gain: libm::pow(10.0, gain_db / 20.0) as f32,
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
