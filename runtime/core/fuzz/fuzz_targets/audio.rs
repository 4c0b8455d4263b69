//! Recordings of every format through the project's own path: finite samples in range, or an error; and the same samples where the bytes come in pieces.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;
use swr_core::audio::{AudioError, Decoder, Mixer, decode, to_16k_mono};

/// Bytes as a pipe brings them.
struct Pieces<'a> {
    rest: &'a [u8],
    most: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let count = bytes.len().min(self.most);
        self.rest.read(&mut bytes[..count])
    }
}

fn pieces(bytes: &[u8]) -> Pieces<'_> {
    let most = 1 + usize::from(bytes.last().copied().unwrap_or(0)) * 8;
    Pieces { rest: bytes, most }
}

fn all(decoder: Result<Decoder<'_>, AudioError>) -> Result<Vec<f32>, AudioError> {
    let mut decoder = decoder?;
    let mut mixer = Mixer::new(decoder.channels(), None)?;
    let (mut interleaved, mut samples) = (Vec::new(), Vec::new());
    while decoder.read(&mut interleaved)? {
        mixer.push(&interleaved, &mut samples);
        interleaved.clear();
    }
    mixer.push(&interleaved, &mut samples);
    Ok(samples)
}

fuzz_target!(|bytes: &[u8]| {
    // What has no first bytes of its own is raw on a pipe.
    let _ = all(Decoder::open_or_raw(pieces(bytes)));
    let streamed = all(Decoder::open(pieces(bytes)));
    if let Ok(audio) = decode(bytes) {
        assert!(streamed.as_ref() == Ok(&audio.samples));
        if let Ok(samples) = to_16k_mono(audio) {
            assert!(samples.iter().all(|sample| sample.is_finite()));
        }
    }
});
