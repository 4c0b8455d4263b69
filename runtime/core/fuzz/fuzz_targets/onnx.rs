//! Weights out of an ONNX file, the network that it is, and the file rewritten with its weights stored smaller.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swr_core::network::{Network, graph::recognise};
use swr_core::package::onnx::{Storage, initializers, store};

fuzz_target!(|bytes: &[u8]| {
    let Ok(tensors) = initializers(bytes) else {
        return;
    };
    if let Some((_, known)) = recognise(bytes) {
        Network::new(&known).expect("what is recognised is a network");
    }
    assert_eq!(store(bytes, Storage::F32).as_deref(), Ok(bytes));
    for storage in [Storage::F16, Storage::Int8] {
        if let Ok(stored) = store(bytes, storage) {
            let again = initializers(&stored).expect("what was stored is read");
            assert!(again.keys().eq(tensors.keys()));
            for (name, tensor) in &again {
                assert_eq!(tensor.shape, tensors[name].shape);
            }
        }
    }
});
