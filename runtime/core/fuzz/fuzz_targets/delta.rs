//! A delta's bytes with a right checksum: reading, writing again, applying and merging end in a result or an error, and what merges is as promised.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use swr_core::package::{Delta, Digest, Tensor, Tensors, digest, merge};

/// Tensors of a few shapes for the changes to fall on.
static BASE: LazyLock<Tensors> = LazyLock::new(|| {
    let tensor = |shape: &[usize]| {
        let count = shape.iter().product();
        Tensor::new(shape.to_vec(), (0..count).map(|i| i as f32 * 0.01).collect())
    };
    Tensors::from([
        ("a.conv.weight".into(), tensor(&[8, 5, 3])),
        ("a.norm.scale".into(), tensor(&[8])),
        ("classifier.bias".into(), tensor(&[4])),
        ("classifier.weight".into(), tensor(&[4, 4, 1, 1])),
    ])
});

fuzz_target!(|bytes: &[u8]| {
    // Damaged files are refused at the checksum; behind it is where the parser begins.
    let mut sealed = bytes.to_vec();
    let checksum = Digest::of_bytes(bytes).0;
    sealed.extend_from_slice(&checksum[..8]);
    for file in [bytes, &sealed] {
        let Ok(delta) = Delta::read(file) else {
            continue;
        };
        let written = delta.write();
        let again = Delta::read(&written).expect("what is written is read");
        // Not whole: the first versions are written as today's.
        assert_eq!((again.header(), again.changes()), (delta.header(), delta.changes()));
        assert_eq!(again.write(), written);
        let _ = delta.apply(BASE.clone());
        if let Ok(merged) = merge(&BASE, &delta) {
            assert_eq!(digest(&merged), delta.merged_digest());
        }
    }
});
