//! Manifests and indexes: what is accepted is written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swr_core::package::{Index, Manifest};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes) {
        let json = manifest.to_json().expect("what was read can be written");
        assert_eq!(Manifest::parse(json.as_bytes()), Ok(manifest));
    }
    if let Ok(index) = Index::parse(bytes) {
        let json = index.to_json().expect("what was read can be written");
        assert_eq!(Index::parse(json.as_bytes()), Ok(index));
    }
});
