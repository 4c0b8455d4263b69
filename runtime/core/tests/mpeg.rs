//! The claims of reading MP3, AAC and M4A: the samples that ffmpeg decodes, where the sound begins, what is left out and told, and no panic on any bytes.
#![cfg(feature = "std")]

use proptest::prelude::*;
use swr_core::audio::{AudioError, Decoder, decode, decode_16k_mono};

/// The files and mpeg.json are made by golden/mpeg.py.
const MP3: &[u8] = include_bytes!("../golden/word.mp3");
const AAC: &[u8] = include_bytes!("../golden/word.aac");
const M4A: &[u8] = include_bytes!("../golden/word.m4a");
const FLAC: &[u8] = include_bytes!("../golden/word.flac");

const FILES: [(&str, &[u8]); 3] = [("word.mp3", MP3), ("word.aac", AAC), ("word.m4a", M4A)];

/// Bytes of a frame of AAC or MP3 at 22,050 Hz.
const FRAME_SAMPLES: usize = 1_024;

#[test]
fn mpeg_audio_has_the_samples_that_ffmpeg_decodes() {
    let golden = include_str!("../golden/mpeg.json");
    let golden: serde_json::Value = serde_json::from_str(golden).expect("mpeg.json is JSON");
    for (name, file) in FILES {
        let audio = decode(file).expect("a sound file");
        assert_eq!((audio.sample_rate_hz, audio.channels), (22_050, 1));
        assert!(audio.notes.is_empty(), "{name}: {:?}", audio.notes);
        let expected = &golden[name];
        // What an encoder fills its last frame with is kept.
        let count = expected["samples"].as_u64().expect("a number") as usize;
        let more = audio.samples.len() - count;
        assert!(more < 2 * FRAME_SAMPLES, "{name}: {more} more than {count}");
        let values = expected["every_200th"].as_array().expect("a list");
        for (index, value) in values.iter().enumerate() {
            let (found, expected) = (
                audio.samples[200 * index],
                value.as_f64().expect("a number"),
            );
            assert!(
                (f64::from(found) - expected).abs() < 2e-4,
                "{name}, sample {}: {found}, {expected}",
                200 * index
            );
        }
    }
}

#[test]
fn a_stream_has_the_samples_of_the_file() {
    /// Hands out a few bytes at a time, as a pipe may.
    struct Dripping<'a>(&'a [u8]);
    impl std::io::Read for Dripping<'_> {
        fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
            let count = bytes.len().min(7);
            self.0.read(&mut bytes[..count])
        }
    }
    for (name, file) in FILES.into_iter().chain([("word.flac", FLAC)]) {
        let mut decoder = Decoder::open_or_raw(Dripping(file)).expect("a sound file");
        let mut samples = Vec::new();
        while decoder.read(&mut samples).expect("samples") {}
        assert!(
            samples == decode(file).expect("a sound file").samples,
            "{name}"
        );
    }
}

/// Both recordings of two that were joined, and tags before and behind.
#[test]
fn joined_and_tagged_mp3_is_heard_whole() {
    let once = decode(MP3).expect("a sound file").samples.len();
    let mut tag = b"TAG".to_vec();
    tag.resize(128, b' ');
    let twice = decode(&[MP3, MP3, &tag].concat())
        .expect("a sound file")
        .samples
        .len();
    assert!(
        twice.abs_diff(2 * once) <= 2 * FRAME_SAMPLES,
        "{twice}, {once} each"
    );
    // Without the tag in front a file is known by its frames; two bytes are not enough.
    let untagged = &MP3[10 + usize::from(MP3[9])..];
    assert_eq!(untagged[0], 0xFF);
    assert!(decode(untagged).expect("a sound file").samples.len() >= once);
    let noise = [&untagged[..4], &[0x12; 3_000]].concat();
    assert_eq!(decode(&noise), Err(AudioError::UnknownFormat));
    let mut raw = Decoder::open_or_raw(&noise[..]).expect("raw samples");
    let mut samples = Vec::new();
    while raw.read(&mut samples).expect("samples") {}
    assert_eq!(samples.len(), noise.len() / 2);
}

/// Cut out of a stream: no frame at the start, or too few at the end.
#[test]
fn cut_files_are_used_and_told() {
    let whole = decode(MP3).expect("a sound file").samples.len();
    let cut = decode(&MP3[..MP3.len() / 2]).expect("a sound file");
    assert!(cut.samples.len() < whole && cut.notes.len() == 1 && cut.notes[0].lost);
    let frames = &MP3[10 + usize::from(MP3[9])..];
    for (name, file) in [("word.mp3", frames), ("word.aac", AAC)] {
        let from_inside = decode(&file[150..]).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(from_inside.samples.len() > whole / 2, "{name}");
        let behind = [&[0x55; 3_000][..], file].concat();
        let found = decode(&behind).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found.samples.len() + 2 * FRAME_SAMPLES > whole, "{name}");
    }
    let index = |bytes: &[u8]| bytes.windows(4).position(|name| name == b"moov");
    let front = include_bytes!("../fuzz/seeds/audio/front.m4a");
    assert!(index(front) < front.windows(4).position(|name| name == b"mdat"));
    let cut = decode(&front[..front.len() - 400]).expect("a sound file");
    assert!(cut.notes.iter().any(|note| note.lost), "{:?}", cut.notes);
    let at_end = index(M4A).expect("an index");
    let refused = decode(&M4A[..at_end - 4]).unwrap_err().to_string();
    assert!(refused.contains("cut off before its index"), "{refused}");
}

#[test]
fn what_is_no_sound_is_named_on_a_pipe() {
    for bytes in [
        &b"\x1f\x8b\x08\0\0\0\0\0\0\x03abcdefgh"[..],
        b"PK\x03\x04\x14\0\0\0\x08\0abcdefgh",
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
        b"Creative Voice File\x1a\x1a\0\x0a\x01",
        b"NIST_1A\n   1024\n",
        b"\xff\xfeh\0e\0l\0l\0o\0 \0w\0o\0r\0l\0d\0",
        b"\0h\0e\0l\0l\0o\0 \0w\0o\0r\0l\0d",
        b"hello\n",
        b"{}",
    ] {
        let refused = Decoder::open_or_raw(bytes);
        assert!(
            matches!(refused, Err(AudioError::Foreign(_))),
            "{bytes:?}: {refused:?}"
        );
    }
    // Quiet sound in one channel of 16 bits: small numbers, of both signs.
    let quiet: Vec<u8> = (0..64i16).flat_map(|n| (n % 7 - 3).to_le_bytes()).collect();
    assert!(Decoder::open_or_raw(&quiet[..]).is_ok());
}

#[test]
fn damaged_frames_are_left_silent_and_told() {
    let whole = decode(AAC).expect("a sound file");
    let mut damaged = AAC.to_vec();
    let middle = damaged.len() / 2;
    // Inside a frame, so that its header and the next stay.
    let start = (middle..)
        .find(|at| damaged[*at..].starts_with(b"\xff\xf1"))
        .expect("a frame");
    damaged[start + 8..start + 40].fill(0xFF);
    let found = decode(&damaged).expect("a sound file");
    assert_eq!(found.samples.len(), whole.samples.len());
    assert!(
        found.notes.len() == 1 && found.notes[0].lost,
        "{:?}",
        found.notes
    );
    // An index that says more than the file holds.
    let index = M4A
        .windows(4)
        .position(|name| name == b"mdat")
        .expect("a box");
    let moved = [&M4A[..index - 4]].concat();
    assert!(matches!(
        decode(&moved),
        Err(AudioError::Damaged { .. } | AudioError::Unsupported { .. })
    ));
}

#[test]
fn other_forms_of_aac_are_named() {
    // The first five bits of the configuration, behind the tag 5 and its length of 2, say which.
    let at = M4A
        .windows(6)
        .position(|bytes| {
            bytes[0] == 5 && bytes[1..5] == [0x80, 0x80, 0x80, bytes[4]] && bytes[4] <= 5
        })
        .map(|at| at + 5)
        .expect("a configuration");
    assert_eq!(M4A[at] >> 3, 2);
    for (kind, name) in [(1, "AAC Main"), (4, "AAC LTP"), (23, "AAC-LD")] {
        let mut other = M4A.to_vec();
        other[at] = kind << 3 | other[at] & 7;
        let refused = decode(&other);
        assert!(
            matches!(&refused, Err(AudioError::Unsupported { problem, .. }) if problem == name),
            "{name}: {refused:?}"
        );
    }
}

proptest! {
    #[test]
    fn spoilt_mpeg_never_panics(
        which in 0usize..3,
        changes in prop::collection::vec((0.0f64..1.0, any::<u8>()), 0..8),
        front in prop::collection::vec((0usize..600, any::<u8>()), 0..3),
        length_share in prop_oneof![Just(1.0), 0.0f64..1.0],
    ) {
        let mut file = FILES[which].1.to_vec();
        file.truncate((file.len() as f64 * length_share) as usize);
        let length = file.len();
        let places = changes.into_iter().map(|(place, value)| ((length as f64 * place) as usize, value));
        for (place, value) in places.chain(front) {
            if let Some(byte) = file.get_mut(place) {
                *byte = value;
            }
        }
        if let Ok(samples) = decode_16k_mono(&file) {
            prop_assert!(samples.iter().all(|sample| sample.is_finite()));
        }
    }
}
