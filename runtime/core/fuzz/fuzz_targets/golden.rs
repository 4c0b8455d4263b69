//! Golden clips from anywhere: refused, or written again as they were read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use swr_core::golden::Golden;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(golden) = Golden::read(bytes) {
        assert_eq!(golden.write(), bytes);
    }
    // Past the checksum.
    let sealed = [bytes, &Sha256::digest(bytes)[..8]].concat();
    if let Ok(golden) = Golden::read(&sealed) {
        assert_eq!(golden.write(), sealed);
    }
});
