//! The claims of reading WAV and its kin: what people's programs write is used, what its header says wrongly is told, and a stream is read for as long as bytes come.
#![cfg(feature = "std")]

use std::io::Cursor;

use swr_core::audio::{AudioError, Decoder, decode};

/// A WAV file of one channel at 16 kHz: the fields of its format behind tag and channels, the chunks in between, the length that it claims, the bytes of its samples.
fn made(tag: u16, bits: u16, more: &[u8], between: &[u8], claimed: u32, samples: &[u8]) -> Vec<u8> {
    let bytes = bits.div_ceil(8);
    let mut format = [tag, 1].map(u16::to_le_bytes).concat();
    format.extend(16_000u32.to_le_bytes());
    format.extend((16_000 * u32::from(bytes)).to_le_bytes());
    format.extend([bytes, bits].map(u16::to_le_bytes).concat());
    format.extend(more);
    let length = (4 + 8 + format.len() + between.len() + 8 + samples.len()) as u32;
    [
        b"RIFF",
        &length.to_le_bytes()[..],
        b"WAVEfmt ",
        &(format.len() as u32).to_le_bytes(),
        &format,
        between,
        b"data",
        &claimed.to_le_bytes(),
        samples,
    ]
    .concat()
}

/// Little-endian 16-bit samples.
fn bytes_of(values: &[i16]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// Samples in 16 bits, and the notes.
fn heard(file: &[u8]) -> (Vec<i16>, Vec<String>) {
    let audio = decode(file).unwrap_or_else(|error| panic!("{error}"));
    let values = audio
        .samples
        .iter()
        .map(|sample| (sample * 32_768.0) as i16);
    let notes = audio.notes.iter().map(ToString::to_string);
    (values.collect(), notes.collect())
}

const VALUES: [i16; 5] = [1, -2, 300, -32_768, 32_767];

#[test]
fn wav_of_unknown_length_ends_where_its_bytes_end() {
    for claimed in [
        0x7FFF_0000,
        0x7FFF_F000,
        0x8000_0000,
        u32::MAX - 36,
        u32::MAX,
    ] {
        let file = made(1, 16, &[], &[], claimed, &bytes_of(&VALUES));
        assert_eq!(heard(&file), (VALUES.to_vec(), vec![]), "{claimed:#x}");
    }
    // Nobody came back to the header: both lengths are zero, or the file's is its header's.
    for length in [0u32, 36] {
        let mut file = made(1, 16, &[], &[], 0, &bytes_of(&VALUES));
        file[4..8].copy_from_slice(&length.to_le_bytes());
        assert_eq!(heard(&file), (VALUES.to_vec(), vec![]), "{length}");
    }
    // No sample at all, and a chunk behind.
    let list = b"LIST\x04\0\0\0INFO";
    assert_eq!(
        decode(&made(1, 16, &[], &[], 0, list)),
        Err(AudioError::Empty)
    );
}

#[test]
fn a_wav_with_a_wrong_length_is_used_with_a_note() {
    let bytes = bytes_of(&VALUES);
    for (claimed, samples, values, note) in [
        (
            0x1_0000,
            bytes.clone(),
            &VALUES[..],
            "it ends 65526 bytes before its header says",
        ),
        (
            10,
            bytes[..9].to_vec(),
            &VALUES[..4],
            "it ends 1 bytes before its header says",
        ),
        (
            4,
            [&bytes[..], &bytes].concat(),
            &[VALUES, VALUES].concat(),
            "its samples go on beyond what its header says",
        ),
        (
            11,
            [&bytes[..], &[7]].concat(),
            &VALUES[..],
            "inside a sample, of which 1 bytes are left out",
        ),
    ] {
        let (found, notes) = heard(&made(1, 16, &[], &[], claimed, &samples));
        assert_eq!(found, values, "{claimed}");
        assert!(
            notes.iter().any(|found| found.contains(note)),
            "{claimed}: {notes:?}"
        );
    }
    // What follows is another chunk, or nothing to speak of.
    for tail in [&b"LIST\x04\0\0\0INFO"[..], &[0], &[1, 2, 3]] {
        let file = made(1, 16, &[], &[], 10, &[&bytes[..], tail].concat());
        assert_eq!(heard(&file), (VALUES.to_vec(), vec![]), "{tail:?}");
    }
}

#[test]
fn chunks_and_long_headers_of_wav_are_skipped() {
    let samples = bytes_of(&VALUES);
    for more in [&[][..], &[0, 0], &[2, 0, 9, 9], &[7; 60]] {
        for between in [
            &[][..],
            b"LIST\x04\0\0\0INFO",
            b"note\x03\0\0\0abc\0",
            b"a\0\0\0\x01\0\0\0x\0fact\x04\0\0\0\x05\0\0\0",
        ] {
            let file = made(1, 16, more, between, 10, &samples);
            assert_eq!(
                heard(&file),
                (VALUES.to_vec(), vec![]),
                "{more:?} {between:?}"
            );
        }
    }
    let unpadded = made(1, 16, &[], b"note\x03\0\0\0abc", 10, &samples);
    let (found, notes) = heard(&unpadded);
    assert_eq!(found, VALUES);
    assert!(notes[0].contains("no padding"), "{notes:?}");
}

/// Padding should be zero; other bytes were written all the same.
#[test]
fn padding_may_be_any_byte() {
    for byte in [0, b' ', b'X', 0xFF] {
        let between = [&b"LIST\x05\0\0\0INFOx"[..], &[byte]].concat();
        let file = made(1, 16, &[], &between, 10, &bytes_of(&VALUES));
        assert_eq!(heard(&file), (VALUES.to_vec(), vec![]), "{byte:#x}");
    }
}

/// What other programs leave behind the samples is no sound; samples of a second chunk are.
#[test]
fn what_follows_the_samples_is_told_apart() {
    let bytes = bytes_of(&VALUES);
    let behind = |tail: &[u8]| {
        // The length of the whole file is that of its header, as it was before the tail was added.
        let mut file = made(1, 16, &[], &[], 10, &bytes);
        file.extend(tail);
        heard(&file)
    };
    let tag = |name: &[u8]| [name, &[0; 200]].concat();
    for tail in [
        tag(b"TAG"),
        tag(b"ID3\x04"),
        tag(b"APETAGEX"),
        vec![0; 5_000],
    ] {
        assert_eq!(behind(&tail), (VALUES.to_vec(), vec![]), "{:?}", &tail[..4]);
    }
    let (values, notes) = behind(&[0x81; 999]);
    assert_eq!((values, notes.len()), (VALUES.to_vec(), 1));
    assert!(notes[0].contains("999 bytes"), "{notes:?}");
    // So many are samples of a file whose length has lost its highest bits.
    assert_eq!(behind(&[0x81; 80_000]).0.len(), VALUES.len() + 40_000);
    let second = [&b"LIST\x04\0\0\0INFOdata\x0a\0\0\0"[..], &bytes].concat();
    assert_eq!(behind(&second), ([VALUES, VALUES].concat(), vec![]));
}

#[test]
fn wav_headers_that_contradict_themselves_are_used_with_a_note() {
    let file = made(1, 16, &[], &[], 10, &bytes_of(&VALUES));
    for (place, what) in [(28, "a second"), (32, "of all channels")] {
        let mut wrong = file.clone();
        wrong[place] ^= 1;
        let (found, notes) = heard(&wrong);
        assert_eq!(found, VALUES);
        assert!(notes.len() == 1 && notes[0].contains(what), "{notes:?}");
    }
}

#[test]
fn every_coding_of_wav_has_its_samples() {
    let guid = |tag: u8, valid: u8| {
        let mut more = vec![22, 0, valid, 0, 4, 0, 0, 0, tag, 0];
        more.extend(*b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71");
        more
    };
    let wide = |shift: u32| -> Vec<u8> {
        let values = VALUES.iter().map(|value| i32::from(*value) << shift);
        values.flat_map(i32::to_le_bytes).collect()
    };
    let floats: Vec<u8> = VALUES
        .iter()
        .flat_map(|value| (f64::from(*value) / 32_768.0).to_le_bytes())
        .collect();
    for (tag, bits, more, samples) in [
        (0xFFFE, 16, guid(1, 16), bytes_of(&VALUES)),
        (0xFFFE, 32, guid(1, 24), wide(16)),
        (1, 32, vec![], wide(16)),
        (3, 64, vec![], floats.clone()),
        (0xFFFE, 64, guid(3, 64), floats),
    ] {
        let file = made(tag, bits, &more, &[], samples.len() as u32, &samples);
        assert_eq!(heard(&file), (VALUES.to_vec(), vec![]), "{tag:#x} {bits}");
    }
    // 16 bits in four bytes, which length of a frame and bytes a second tell.
    let mut file = made(1, 16, &[], &[], 20, &wide(16));
    file[28..34].copy_from_slice(&[0, 0xFA, 0, 0, 4, 0]);
    assert_eq!(heard(&file), (VALUES.to_vec(), vec![]));
    // 24 bits in four bytes, which the length of a frame tells.
    let mut file = made(1, 24, &[], &[], 20, &wide(16));
    file[32..34].copy_from_slice(&4u16.to_le_bytes());
    assert_eq!(heard(&file).0, VALUES);
    // ITU-T G.711: silence, the least and the largest magnitudes, of both signs.
    for (tag, codes, values) in [
        (6, [0xD5, 0x55, 0xAA, 0x2A], [8, -8, 32_256, -32_256]),
        (7, [0xFF, 0x7F, 0x80, 0x00], [0, 0, 32_124, -32_124]),
    ] {
        let file = made(tag, 8, &[], &[], 4, &codes);
        assert_eq!(heard(&file), (values.to_vec(), vec![]), "{tag}");
    }
    for (tag, name) in [
        (2, "Microsoft ADPCM"),
        (0x11, "IMA ADPCM"),
        (0x55, "MPEG"),
        (99, "tag 0x0063"),
    ] {
        let refused = decode(&made(tag, 16, &[], &[], 10, &bytes_of(&VALUES)));
        assert!(
            matches!(&refused, Err(AudioError::Unsupported { problem, .. }) if problem.contains(name)),
            "{refused:?}"
        );
    }
}

#[test]
fn the_kin_of_wav_have_its_samples() {
    let bytes = bytes_of(&VALUES);
    let format = &made(1, 16, &[], &[], 10, &bytes)[20..36];

    let ds64 = [
        &b"ds64\x1c\0\0\0"[..],
        &[0; 8],
        &10u64.to_le_bytes(),
        &[0; 12],
    ]
    .concat();
    let tail = b"LIST\x04\0\0\0INFO";
    for name in [b"RF64", b"BW64"] {
        let file = [
            &name[..],
            &[0xff; 4],
            b"WAVE",
            &ds64,
            b"fmt \x10\0\0\0",
            format,
            b"data\xff\xff\xff\xff",
            &bytes,
            tail,
        ];
        assert_eq!(heard(&file.concat()), (VALUES.to_vec(), vec![]));
    }

    let name = |name: &[u8; 4]| {
        [
            &name[..],
            b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a",
        ]
        .concat()
    };
    let file = [
        b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00".to_vec(),
        0u64.to_le_bytes().to_vec(),
        name(b"wave"),
        name(b"junk"),
        27u64.to_le_bytes().to_vec(),
        vec![0; 8],
        name(b"fmt "),
        40u64.to_le_bytes().to_vec(),
        format.to_vec(),
        name(b"data"),
        34u64.to_le_bytes().to_vec(),
        bytes.clone(),
        vec![0; 6],
    ];
    assert_eq!(heard(&file.concat()), (VALUES.to_vec(), vec![]));

    let mut turned = format.to_vec();
    for (from, to) in [(0, 2), (2, 4), (4, 8), (8, 12), (12, 14), (14, 16)] {
        turned[from..to].reverse();
    }
    let samples: Vec<u8> = VALUES
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect();
    let file = [
        &b"RIFX\0\0\0\x2eWAVEfmt \0\0\0\x10"[..],
        &turned,
        b"data\0\0\0\x0a",
        &samples,
    ];
    assert_eq!(heard(&file.concat()), (VALUES.to_vec(), vec![]));
}

/// More than 4 GiB come through a pipe that claims 4 GiB less one byte, and are read, in little memory.
#[test]
fn a_wav_stream_is_read_beyond_4_gib() {
    const BLOCK: usize = 1 << 20;
    struct Long {
        header: Cursor<Vec<u8>>,
        blocks: usize,
    }
    impl std::io::Read for Long {
        fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
            match self.header.read(bytes)? {
                0 if self.blocks > 0 => {
                    let count = bytes.len().min(BLOCK);
                    self.blocks -= 1;
                    Ok(count)
                }
                read => Ok(read),
            }
        }
    }
    let header = Cursor::new(made(1, 16, &[], &[], u32::MAX, &[]));
    // The reader asks for 16 KiB at a time.
    let blocks = (4 << 30) / (1 << 14) + 7;
    let mut wav = Decoder::open(Long { header, blocks }).expect("a header");
    let (mut samples, mut count) = (Vec::new(), 0u64);
    while wav.read(&mut samples).expect("samples") {
        count += samples.len() as u64;
        samples.clear();
    }
    assert_eq!(2 * count, blocks as u64 * (1 << 14));
    assert!(samples.capacity() <= 1 << 14 && wav.notes().is_empty());
}
