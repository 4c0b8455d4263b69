//! WAV, FLAC and Opus files through the project's own path: finite samples in range, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swr_core::audio::decode_16k_mono;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(samples) = decode_16k_mono(bytes) {
        assert!(samples.iter().all(|sample| sample.is_finite()));
    }
});
