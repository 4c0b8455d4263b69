//! Claims about whole devices: a flash image starts, merges, and hears in a recording what `swr` hears, to the bit on every processor.
//!
//! Runs on aarch64 and armv7 under qemu as well (`.ci/run`), where `tests/logits.json` has the bits of that processor. After a training:
//! `SWR_REWRITE=1 cargo test -p swr-firmware-sim --no-default-features --test whole`, and the same with `--target`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use swr_core::audio::decode_16k_mono;
use swr_firmware_sim::flash::Nor;
use swr_firmware_sim::listen::{Heard, listen};
use swr_firmware_sim::publisher::{Catalogue, Item, SHIPPED};
use swr_update::Device;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/small")
}

const DEMOS: [&str; 3] = ["en", "de", "pl"];

fn recording(language: &str) -> Vec<f32> {
    let bytes = std::fs::read(models().join(format!("../demo/{language}.flac"))).expect("the demo");
    decode_16k_mono(&bytes).expect("audio")
}

/// What a device with words of `W` bytes and sectors of `E` hears in the demos, by language.
fn heard<const W: usize, const E: usize>(sectors: usize, ecc: bool) -> BTreeMap<String, Heard> {
    let catalogue = Catalogue::open(&models()).expect("the released models");
    let keys = [catalogue.public_key().expect("a key")];
    let package = |language| {
        catalogue
            .package(Item::good(language, SHIPPED))
            .expect("a package")
    };
    let mut flash = Nor::<W, E>::new(sectors, ecc);
    let factory = [package("en"), package("de")].map(|p| (p.entry, p.bytes));
    Device::provision(&mut flash, &keys, &factory).expect("room");
    // The third comes over the air.
    let mut device = Device::open(&mut flash, &keys).expect("a record");
    let polish = package("pl");
    device.stage(&polish.entry).expect("room");
    device.write(&polish.bytes).expect("a write");
    device.finish().expect("a download");
    device.commit(&[]).expect("a good package");
    let mut device = Device::open(&mut flash, &keys).expect("a record");
    assert!(device.start().expect("a start").confirmed);
    let hears = |language: &str| {
        let model = device.load(language).expect("a model");
        let heard = listen(&model, &recording(language)).expect("a model that listens");
        (language.to_owned(), heard)
    };
    DEMOS.map(hears).into()
}

/// What decides about the bits of logits: the processor, and on x86-64 whether products are fused with sums.
fn processor() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
        return "x86_64 with AVX2 and FMA";
    }
    std::env::consts::ARCH
}

#[test]
fn an_image_hears_the_demos_to_the_bit() {
    let all = heard::<1, 4_096>(512, false);
    assert_eq!(all, heard::<16, 8_192>(256, true), "the same on any flash");
    for (language, heard) in &all {
        let script =
            std::fs::read(models().join(format!("../demo/{language}.json"))).expect("a script");
        let script: Value = serde_json::from_slice(&script).expect("JSON");
        let words = script["keywords"].as_array().expect("keywords").iter();
        let words: Vec<&str> = words
            .map(|word| word["word"].as_str().expect("a word"))
            .collect();
        let found: Vec<&str> = heard
            .detections
            .iter()
            .map(|(word, _, _)| word.as_str())
            .collect();
        // In this order, and nothing else; `swr demo` says which one is missed.
        let mut spoken = words.iter();
        assert!(
            found.iter().all(|word| spoken.any(|s| s == word)),
            "{language}: {found:?}"
        );
        assert!(found.len() + 1 >= words.len(), "{language}: {found:?}");
    }
    let digests: BTreeMap<&String, String> = all
        .iter()
        .map(|(language, heard)| (language, heard.logits_sha256.to_string()))
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logits.json");
    let stored = std::fs::read(&path).unwrap_or_else(|_| b"{}".to_vec());
    let mut stored: Value = serde_json::from_slice(&stored).expect("JSON");
    let now = serde_json::to_value(&digests).expect("JSON");
    if std::env::var_os("SWR_REWRITE").is_some() {
        stored[processor()] = now;
        let json = serde_json::to_string_pretty(&stored).expect("JSON");
        std::fs::write(&path, json + "\n").expect("a file that can be written");
        return;
    }
    match stored.get(processor()) {
        Some(expected) => assert_eq!(*expected, now, "on {}", processor()),
        None => eprintln!(
            "SKIPPED the bits of logits: {} has none for {}",
            path.display(),
            processor()
        ),
    }
}

/// The same models, and Raspberry Pis, which run all of `swr`.
#[cfg(feature = "card")]
#[test]
fn devices_hear_what_swr_hears() {
    use swr_core::{HOP_SAMPLES, SAMPLE_RATE_HZ};
    use swr_runtime::{DEFAULT_STEP_FRAMES, Models};
    let opened = Models::open(models()).expect("the released models");
    for (language, heard) in heard::<1, 4_096>(512, false) {
        let mut spotter = opened
            .spotter(&[&language], DEFAULT_STEP_FRAMES)
            .expect("a spotter");
        let mut events = Vec::new();
        spotter
            .push(&recording(&language), &mut events)
            .expect("finite samples");
        spotter.finish(&mut events).expect("finite samples");
        let seconds = |frame: u64| (frame * HOP_SAMPLES as u64) as f64 / f64::from(SAMPLE_RATE_HZ);
        let device: Vec<_> = heard
            .detections
            .iter()
            .map(|(word, frame, score)| (word.clone(), seconds(*frame), score.to_bits()))
            .collect();
        let desktop: Vec<_> = events
            .into_iter()
            .map(|event| (event.keyword, event.time_s, event.score.to_bits()))
            .collect();
        assert_eq!(device, desktop, "{language}");
    }
}
