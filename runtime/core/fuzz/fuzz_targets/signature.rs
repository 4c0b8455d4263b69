//! Public keys and signatures in minisign's text form: none of those made up here signs anything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use swr_core::package::{DetachedSignature, PublicKey};

/// A key of which nobody has the secret part.
const KEY: &str = include_str!("../seeds/signature/key.pub");

fuzz_target!(|text: &str| {
    let _ = text.parse::<PublicKey>();
    let key: PublicKey = KEY.parse().expect("a public key");
    if let Ok(signature) = text.parse::<DetachedSignature>() {
        assert!(key.check(text.as_bytes(), &signature).is_err());
    }
    assert!(key.check_embedded(text.as_bytes()).is_err());
});
