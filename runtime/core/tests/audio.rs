//! The claims of audio decoding: the samples other programs find, every sort of refusal, and no panic on any bytes.
#![cfg(feature = "std")]

use std::f64::consts::PI;
use std::io::Cursor;

use proptest::prelude::*;
use swr_core::audio::{Audio, AudioError, Format, decode, decode_16k_mono, to_16k_mono};
use swr_core::package::Digest;

/// The files and audio.json are made by golden/audio.py.
const FLAC: &[u8] = include_bytes!("../golden/word.flac");
const OPUS: &[u8] = include_bytes!("../golden/word.opus");
const STEREO_OPUS: &[u8] = include_bytes!("../golden/stereo.opus");

fn golden() -> serde_json::Value {
    serde_json::from_str(include_str!("../golden/audio.json")).expect("audio.json is JSON")
}

/// A WAV file of interleaved integers.
fn wav(channels: u16, rate_hz: u32, bits: u16, values: &[i32]) -> Vec<u8> {
    let spec = hound::WavSpec {
        channels,
        sample_rate: rate_hz,
        bits_per_sample: bits,
        sample_format: hound::SampleFormat::Int,
    };
    let mut file = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut file, spec).expect("a valid header");
    for value in values {
        writer.write_sample(*value).expect("a value in range");
    }
    writer.finalize().expect("whole frames");
    file.into_inner()
}

/// A mono WAV file of 32-bit floats at 16 kHz.
fn float_wav(values: &[f32]) -> Vec<u8> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut file = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut file, spec).expect("a valid header");
    for value in values {
        writer.write_sample(*value).expect("any float");
    }
    writer.finalize().expect("whole frames");
    file.into_inner()
}

/// The packets of `file`, changed by `change`, in an Ogg file with correct checksums.
fn with_packets(file: &[u8], change: impl Fn(usize, &mut Vec<u8>)) -> Vec<u8> {
    use ogg::{PacketReader, PacketWriteEndInfo, PacketWriter};
    let mut reader = PacketReader::new(Cursor::new(file));
    let mut writer = PacketWriter::new(Vec::new());
    let mut index = 0;
    while let Some(packet) = reader.read_packet().expect("a sound file") {
        let (position, serial) = (packet.absgp_page(), packet.stream_serial());
        let end = if packet.last_in_stream() {
            PacketWriteEndInfo::EndStream
        } else if packet.last_in_page() {
            PacketWriteEndInfo::EndPage
        } else {
            PacketWriteEndInfo::NormalPacket
        };
        let mut data = packet.data;
        change(index, &mut data);
        writer
            .write_packet(data, serial, end, position)
            .expect("memory takes every packet");
        index += 1;
    }
    writer.into_inner()
}

fn sine(rate_hz: u32, frequency_hz: f64) -> Audio {
    let step = 2.0 * PI * frequency_hz / f64::from(rate_hz);
    Audio {
        samples: (0..rate_hz)
            .map(|n| (0.5 * (step * f64::from(n)).sin()) as f32)
            .collect(),
        sample_rate_hz: rate_hz,
        channels: 1,
        notes: Vec::new(),
    }
}

fn assert_damaged(bytes: &[u8], expected_format: Format) {
    match decode(bytes) {
        Err(AudioError::Damaged { format, .. }) => assert_eq!(format, expected_format),
        other => panic!("expected a damaged file, found {other:?}"),
    }
}

#[test]
fn wav_integers_are_divided_by_their_full_scale() {
    for bits in [8, 16, 24, 32] {
        let full_scale = 1i64 << (bits - 1);
        let values = [-full_scale, -1, 0, 1, full_scale / 2, full_scale - 1];
        let file = wav(1, 16_000, bits, &values.map(|value| value as i32));
        let expected = values.map(|value| (value as f64 / full_scale as f64) as f32);
        assert_eq!(
            decode(&file).expect("a sound file").samples,
            expected,
            "{bits} bits"
        );
    }
}

#[test]
fn float_wav_is_taken_as_it_is() {
    let values = [0.0, -1.0, 1.5, 1e-20, 1e6];
    assert_eq!(
        decode(&float_wav(&values)).expect("a sound file").samples,
        values
    );
}

#[test]
fn channels_become_their_mean() {
    let file = wav(3, 16_000, 16, &[3, 6, 0, -30_000, -30_000, -30_000]);
    let audio = decode(&file).expect("a sound file");
    assert_eq!(audio.samples, [3.0 / 32_768.0, -30_000.0 / 32_768.0]);
    assert_eq!(audio.channels, 3);
}

#[test]
fn flac_has_the_samples_that_were_encoded() {
    let expected = &golden()["flac"];
    let audio = decode(FLAC).expect("a sound file");
    assert_eq!(u64::from(audio.sample_rate_hz), expected["rate_hz"]);
    assert_eq!(audio.samples.len(), expected["samples"]);
    let integers = audio
        .samples
        .iter()
        .map(|sample| (sample * 32_768.0) as i64);
    assert_eq!(integers.clone().sum::<i64>(), expected["sum"]);
    assert_eq!(
        integers.map(|i| i * i).sum::<i64>(),
        expected["sum_of_squares"]
    );
}

#[test]
fn opus_has_the_samples_that_libopus_decodes() {
    // The speech file holds SILK and hybrid packets, exact in any decoder; the stereo one holds CELT packets, where the
    // fixed-point arithmetic used here differs from libopus' floating point.
    for (name, file, channels, tolerance) in
        [("word", OPUS, 1, 1e-7), ("stereo", STEREO_OPUS, 2, 3e-4)]
    {
        let expected = &golden()[name];
        let audio = decode(file).expect("a sound file");
        assert_eq!((audio.sample_rate_hz, audio.channels), (16_000, channels));
        assert_eq!(audio.samples.len(), expected["samples"], "{name}");
        let values = expected["every_200th"].as_array().expect("a list");
        for (found, expected) in audio.samples.iter().step_by(200).zip(values) {
            let expected = expected.as_f64().expect("a number");
            assert!(
                (f64::from(*found) - expected).abs() <= tolerance,
                "{name}: {found}, {expected}"
            );
        }
    }
}

/// To the bit, so that a device hears tomorrow what it heard yesterday: the first eight bytes of SHA-256 of the samples, as the first version that read these files had them.
#[test]
fn decoded_samples_never_change() {
    for (file, expected) in [
        (FLAC, "4ab711dc5c71f1a8"),
        (OPUS, "922922ecfd2b88a1"),
        (STEREO_OPUS, "cd2152c6279e8877"),
    ] {
        let samples = decode(file).expect("a sound file").samples;
        let bytes: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
        assert_eq!(Digest::of_bytes(&bytes).to_string()[..16], *expected);
    }
}

#[test]
fn opus_and_flac_of_one_word_are_aligned_at_16_khz() {
    let flac = decode_16k_mono(FLAC).expect("a sound file");
    let opus = decode_16k_mono(OPUS).expect("a sound file");
    assert!(flac.len().abs_diff(opus.len()) <= 1);
    let correlation = |shift: usize, late: &[f32], early: &[f32]| -> f32 {
        late[shift..].iter().zip(early).map(|(a, b)| a * b).sum()
    };
    let aligned = correlation(0, &flac, &opus);
    let energy = correlation(0, &flac, &flac).max(correlation(0, &opus, &opus));
    assert!(aligned > 0.8 * energy);
    for shift in 3..40 {
        assert!(correlation(shift, &flac, &opus) < aligned);
        assert!(correlation(shift, &opus, &flac) < aligned);
    }
}

#[test]
fn opus_streams_one_after_another_are_all_heard() {
    for files in [[OPUS, STEREO_OPUS, OPUS], [STEREO_OPUS, OPUS, STEREO_OPUS]] {
        let each = files.map(|file| decode(file).expect("a sound file"));
        let expected = each.each_ref().map(|audio| &audio.samples[..]).concat();
        let chained = decode(&files.concat()).expect("a sound file");
        assert_eq!(chained.samples.len(), expected.len());
        assert!(chained.samples == expected && chained.channels == each[0].channels);
        assert!(chained.notes.is_empty());
    }
    // What is no Ogg behind it is told, and no reason to leave out what was heard.
    let tagged = decode(&[OPUS, &[b'x'; 70_000]].concat()).expect("a sound file");
    assert!(tagged.samples == decode(OPUS).expect("a sound file").samples);
    let note = tagged.notes[0].to_string();
    assert!(note.contains("is not Ogg"), "{note}");
}

#[test]
fn opus_of_other_mapping_families_has_the_same_samples() {
    // Mono as the one channel of the one stream; stereo as the two of a coupled one, the first file's way of naming them and the other way round.
    for (file, table) in [
        (OPUS, &[1, 0, 0][..]),
        (STEREO_OPUS, &[1, 1, 0, 1]),
        (STEREO_OPUS, &[1, 1, 1, 0]),
    ] {
        let plain = decode(file).expect("a sound file");
        for family in [1, 255] {
            let mapped = with_packets(file, |index, packet| {
                if index == 0 {
                    packet[18] = family;
                    packet.extend(table);
                }
            });
            let mapped = decode(&mapped).expect("a sound file");
            assert_eq!(mapped.samples.len(), plain.samples.len());
            for (found, expected) in mapped.samples.iter().zip(&plain.samples) {
                assert!(
                    (found - expected).abs() <= 1.0 / 32_768.0,
                    "{found}, {expected}"
                );
            }
        }
    }
    for table in [&[][..], &[1, 0], &[1, 1, 7], &[0, 0, 0], &[1, 2, 0]] {
        let mapped = with_packets(OPUS, |index, packet| {
            if index == 0 {
                packet[18] = 1;
                packet.extend(table);
            }
        });
        assert_damaged(&mapped, Format::OggOpus);
    }
}

#[test]
fn tags_around_flac_are_skipped() {
    let expected = decode(FLAC).expect("a sound file");
    let tag = |flags: u8, size: usize, bytes: usize| {
        let mut tag = vec![
            b'I',
            b'D',
            b'3',
            4,
            0,
            flags,
            0,
            0,
            (size >> 7) as u8,
            (size & 0x7f) as u8,
        ];
        tag.extend(vec![b'f'; bytes]);
        tag
    };
    let mut behind = b"TAG".to_vec();
    behind.resize(128, b' ');
    for (front, back) in [
        (tag(0, 300, 300), vec![]),
        (tag(0x10, 300, 310), vec![]),
        (vec![], behind.clone()),
        (tag(0, 0, 0), behind),
    ] {
        let file = [&front[..], FLAC, &back].concat();
        assert!(decode(&file).expect("a sound file") == expected);
    }
    // As a pipe was written, whose length nobody knew: what follows may be damage as well.
    let mut unknown = FLAC.to_vec();
    unknown[21] &= 0xF0;
    unknown[22..26].fill(0);
    assert!(decode(&unknown).expect("a sound file") == expected);
    unknown.extend([b'T', b'A', b'G', b' ', b' ', b' ', b' ', b' ']);
    unknown.resize(unknown.len() + 120, b' ');
    let tagged = decode(&unknown).expect("a sound file");
    assert!(tagged.samples == expected.samples && tagged.notes.len() == 1);
    // A whole recording is no tag.
    let twice = decode(&[FLAC, FLAC].concat()).expect("a sound file");
    assert!(twice.samples == expected.samples);
    assert!(
        twice.notes.len() == 1 && twice.notes[0].lost,
        "{:?}",
        twice.notes
    );
    // A tag that claims more than there is.
    let lost = [&tag(0, 16_000, 0)[..], &FLAC[..100]].concat();
    assert_eq!(decode(&lost), Err(AudioError::UnknownFormat));
}

#[test]
fn opus_output_gain_is_applied() {
    let plain = decode(OPUS).expect("a sound file").samples;
    // The gain stands in 256ths of a decibel at byte 16 of the first packet.
    let louder = with_packets(OPUS, |index, packet| {
        if index == 0 {
            packet[16..18].copy_from_slice(&(-6 * 256i16).to_le_bytes());
        }
    });
    let scaled = decode(&louder).expect("a sound file").samples;
    let factor = 10f32.powf(-6.0 / 20.0);
    assert_eq!(plain.len(), scaled.len());
    assert!(
        plain
            .iter()
            .zip(&scaled)
            .all(|(a, b)| (a * factor - b).abs() < 1e-6)
    );
}

#[test]
fn refusals_are_told_apart() {
    assert_eq!(decode(b""), Err(AudioError::Empty));
    assert_eq!(decode(&wav(1, 16_000, 16, &[])), Err(AudioError::Empty));
    assert_eq!(
        decode(b"\xff\xfb\x90\x00 an mp3 file"),
        Err(AudioError::UnknownFormat)
    );
    for (start, name) in [
        (&b"RIFF\x04\0\0\0AVI "[..], "RIFF"),
        (b"FORM\0\0\0\x20AIFF", "AIFF"),
        (b"\x1a\x45\xdf\xa3 webm", "Matroska"),
    ] {
        let refused = decode(start);
        assert!(
            matches!(refused, Err(AudioError::Foreign(found)) if found.contains(name)),
            "{refused:?}"
        );
    }

    assert_damaged(b"RIFF\x04\0\0\0WAVE", Format::Wav);
    assert_damaged(b"fLaC", Format::Flac);
    assert_damaged(b"OggS", Format::OggOpus);
    let mut flipped = OPUS.to_vec();
    flipped[200] ^= 1;
    assert_damaged(&flipped, Format::OggOpus);
    let mut flipped = FLAC.to_vec();
    flipped[5_000] ^= 1;
    assert_damaged(&flipped, Format::Flac);
    assert_damaged(
        &with_packets(OPUS, |index, packet| {
            if index == 5 {
                packet.clear()
            }
        }),
        Format::OggOpus,
    );

    let vorbis = with_packets(OPUS, |index, packet| {
        if index == 0 {
            packet[..7].copy_from_slice(b"\x01vorbis");
        }
    });
    let ambisonic = with_packets(OPUS, |index, packet| {
        if index == 0 {
            packet[18] = 2
        }
    });
    let mut mu_law = wav(1, 8_000, 16, &[1, 2]);
    mu_law[20] = 7;
    for file in [vorbis, ambisonic, mu_law] {
        let result = decode(&file);
        assert!(
            matches!(result, Err(AudioError::Unsupported { .. })),
            "found {result:?}"
        );
    }

    for bad in [f32::NAN, f32::INFINITY, -2e6] {
        let result = decode(&float_wav(&[0.0, 0.5, bad]));
        assert!(
            matches!(result, Err(AudioError::BadSample { index: 2, .. })),
            "found {result:?}"
        );
    }
    for rate_hz in [0, 3_999, 384_001] {
        let audio = Audio {
            samples: vec![0.0; 100],
            sample_rate_hz: rate_hz,
            channels: 1,
            notes: Vec::new(),
        };
        assert_eq!(
            to_16k_mono(audio),
            Err(AudioError::UnsupportedRate { rate_hz })
        );
    }
}

#[test]
fn a_file_that_claims_hours_is_refused_before_decoding() {
    // The number of samples, 36 bits, ends at byte 26 of the file.
    let mut file = FLAC.to_vec();
    file[22..26].copy_from_slice(&[0xFF; 4]);
    assert_eq!(decode(&file), Err(AudioError::TooLong));
}

#[test]
fn sixteen_kilohertz_passes_to_the_bit() {
    let audio = sine(16_000, 440.0);
    assert_eq!(to_16k_mono(audio.clone()).expect("a sine"), audio.samples);
}

#[test]
fn resampling_keeps_length_amplitude_frequency_and_time() {
    for rate_hz in [
        4_000, 8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 384_000,
    ] {
        let resampled = to_16k_mono(sine(rate_hz, 1_000.0)).expect("a sine");
        assert_eq!(resampled.len(), 16_000, "{rate_hz} Hz");
        // Away from the ends, the best fitting sine of the same frequency has the same amplitude and nothing is left of it.
        let middle = 2_000..14_000;
        let (mut sines, mut cosines) = (0.0, 0.0);
        for n in middle.clone() {
            let (sin, cos) = (2.0 * PI * n as f64 / 16.0).sin_cos();
            sines += f64::from(resampled[n]) * sin / 6_000.0;
            cosines += f64::from(resampled[n]) * cos / 6_000.0;
        }
        let amplitude = sines.hypot(cosines);
        assert!(
            (amplitude - 0.5).abs() < 1e-3,
            "{rate_hz} Hz: amplitude {amplitude}"
        );
        let delay_samples = -cosines.atan2(sines) * 16.0 / (2.0 * PI);
        assert!(
            delay_samples.abs() < 1.1,
            "{rate_hz} Hz: delay {delay_samples}"
        );
        for n in middle {
            let (sin, cos) = (2.0 * PI * n as f64 / 16.0).sin_cos();
            let rest = f64::from(resampled[n]) - sines * sin - cosines * cos;
            assert!(
                rest.abs() < 1e-3,
                "{rate_hz} Hz: sample {n} is off by {rest}"
            );
        }
    }
}

#[test]
fn resampling_lets_no_higher_frequency_fold_back() {
    for (rate_hz, frequency_hz) in [
        (22_050, 8_600.0),
        (44_100, 8_000.0),
        (48_000, 9_000.0),
        (48_000, 15_000.0),
        (384_000, 100_000.0),
    ] {
        let resampled = to_16k_mono(sine(rate_hz, frequency_hz)).expect("a sine");
        // The middle only: at its start and end the sine itself has lower frequencies.
        let loudest = resampled[1_000..15_000]
            .iter()
            .fold(0.0f32, |max, s| max.max(s.abs()));
        assert!(
            loudest < 0.5 * 1e-4,
            "{frequency_hz} Hz at {rate_hz} Hz leaves {loudest}"
        );
    }
}

#[test]
fn truncation_anywhere_is_refused_or_shortens() {
    let wav_file = wav(2, 48_000, 24, &[5; 200]);
    for file in [wav_file.as_slice(), OPUS, STEREO_OPUS, FLAC] {
        let whole = decode(file).expect("a sound file").samples;
        // Each length for the headers, one in seven for the rest.
        for length in (0..file.len()).filter(|length| *length < 200 || length % 7 == 0) {
            if let Ok(audio) = decode(&file[..length]) {
                assert!(audio.samples.len() < whole.len(), "cut at {length}");
            }
        }
    }
}

/// Applies changes, each a place (as a share of the length) and a byte.
fn spoil(bytes: &mut Vec<u8>, changes: &[(f64, u8)], length_share: f64) {
    bytes.truncate((bytes.len() as f64 * length_share) as usize);
    for (place, value) in changes {
        let index = (bytes.len() as f64 * place) as usize;
        if let Some(byte) = bytes.get_mut(index) {
            *byte = *value;
        }
    }
}

proptest! {
    #[test]
    fn resampled_length_follows_the_rates(rate_hz in 4_000u32..=384_000, length in 1usize..3_000) {
        let audio = Audio { samples: vec![0.25; length], sample_rate_hz: rate_hz, channels: 1, notes: Vec::new() };
        let expected = (length as f64 * 16_000.0 / f64::from(rate_hz)).round() as usize;
        match to_16k_mono(audio) {
            Ok(samples) => prop_assert_eq!(samples.len(), expected),
            Err(error) => prop_assert_eq!((error, expected), (AudioError::Empty, 0)),
        }
    }

    #[test]
    fn spoilt_files_never_panic(
        which in 0usize..5,
        changes in prop::collection::vec((0.0f64..1.0, any::<u8>()), 0..8),
        header_changes in prop::collection::vec((0.0f64..0.02, any::<u8>()), 0..3),
        length_share in prop_oneof![Just(1.0), 0.0f64..1.0],
    ) {
        let mut file = match which {
            0 => wav(1, 8_000, 8, &[3; 500]),
            1 => wav(2, 44_100, 24, &[-7; 500]),
            2 => float_wav(&[0.1; 500]),
            3 => FLAC.to_vec(),
            _ => OPUS.to_vec(),
        };
        spoil(&mut file, &changes, length_share);
        spoil(&mut file, &header_changes, 1.0);
        let _ = decode_16k_mono(&file);
    }

    #[test]
    fn random_bytes_never_panic(
        magic in prop::sample::select(vec![&b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0"[..], b"fLaC\0\0\0\x22", b"OggS\0\x02", b""]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = decode_16k_mono(&[magic, &bytes].concat());
    }

    // Checksums keep most damage away from the Opus decoder itself; here they are right and the packets are not.
    #[test]
    fn spoilt_opus_packets_never_panic(
        stereo: bool,
        first_bytes in prop::collection::vec(any::<u8>(), 1..8),
        changes in prop::collection::vec((0.0f64..1.0, any::<u8>()), 0..8),
        length_share in prop_oneof![Just(1.0), 0.0f64..1.0],
    ) {
        let file = with_packets(if stereo { STEREO_OPUS } else { OPUS }, |index, packet| {
            if index >= 2 && index % 2 == 0 {
                spoil(packet, &changes, length_share);
                if let Some(first) = packet.first_mut() {
                    *first = first_bytes[index % first_bytes.len()];
                }
            }
        });
        if let Ok(audio) = decode(&file) {
            prop_assert!(audio.samples.iter().all(|sample| sample.is_finite()));
        }
    }

    #[test]
    fn spoilt_opus_headers_never_panic(changes in prop::collection::vec((8usize..19, any::<u8>()), 0..4)) {
        let file = with_packets(OPUS, |index, packet| {
            if index == 0 {
                for (place, value) in &changes {
                    packet[*place] = *value;
                }
            }
        });
        let _ = decode_16k_mono(&file);
    }
}
