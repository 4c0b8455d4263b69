//! The product as its users meet it: the demo, the released deltas against damage, accuracy on recordings where they are present.

use std::path::Path;

use serde_json::Value;
use swr_core::package::{Delta, Edit, PackageError, Values, merge};
use swr_runtime::Models;
use swr_tests::{models, recordings, sizes};

/// Runs `swr` in process; its exit code and its lines of JSON.
fn swr(arguments: &[&str]) -> (u8, Vec<Value>) {
    let mut out = Vec::new();
    let code = swr_runtime::cli::run(
        std::iter::once("swr").chain(arguments.iter().copied()),
        &mut out,
    );
    let text = String::from_utf8(out).expect("text");
    (
        code,
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect(),
    )
}

fn path(path: &Path) -> String {
    path.to_str().expect("a readable path").to_string()
}

#[test]
fn the_demo_finds_the_keywords_and_nothing_else() {
    let (code, lines) = swr(&["demo", "--json", "--models", &path(&models())]);
    let sums = lines.last().expect("a summary");
    let wrong: Vec<_> = lines
        .iter()
        .filter(|l| {
            l.get("expected").is_some_and(|e| !e.is_number()) && l["expected"] != l["detected"]
        })
        .collect();
    assert_eq!(
        (code, &sums["false_alarms"]),
        (0, &Value::from(0)),
        "{wrong:#?}"
    );
    assert!(wrong.len() <= 2, "{wrong:#?}");
    assert!(sums["expected"].as_u64() >= Some(60), "{sums}");
}

#[test]
fn the_larger_models_hear_the_demo_nearly_as_well() {
    let [_, large] = sizes();
    let (_, lines) = swr(&["demo", "--json", "--models", &path(&large)]);
    let sums = lines.last().expect("a summary");
    let count = |name: &str| sums[name].as_u64().expect("a count");
    assert!(
        count("found") >= 57 && count("expected") == 60 && count("false_alarms") == 0,
        "{sums}"
    );
}

#[test]
fn released_deltas_keep_their_budget_and_hear_their_golden_clips() {
    for folder in sizes() {
        let (code, lines) = swr(&["inspect", &path(&folder), "--json"]);
        assert_eq!(code, 0);
        let deltas: Vec<_> = lines
            .iter()
            .filter(|l| l.get("budget").is_some_and(|b| b.is_string()))
            .collect();
        assert_eq!(deltas.len(), 8);
        let models = Models::open(&folder).expect("released models");
        for delta in deltas {
            assert!(
                delta["changed"].as_u64() <= delta["allowed"].as_u64(),
                "{delta}"
            );
            let language = delta["lang"].as_str().expect("a language");
            let file = folder.join(format!("{language}.swr"));
            assert_eq!(
                delta["file_bytes"].as_u64(),
                Some(std::fs::metadata(file).expect("the delta").len())
            );
            let model = models.load(language).expect("a released language");
            let heard = models.try_golden(&model).expect("its golden clip");
            assert!(heard.is_some(), "{language}: no golden clip");
        }
    }
}

#[test]
fn no_flipped_bit_and_no_cut_of_a_released_delta_gets_through() {
    let bytes = std::fs::read(models().join("ar.swr")).expect("the Arabic delta");
    for length in 0..bytes.len() {
        assert!(
            Delta::read(&bytes[..length]).is_err(),
            "cut to {length} bytes"
        );
    }
    let mut flipped = bytes.clone();
    for bit in 0..bytes.len() * 8 {
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Delta::read(&flipped).is_err(), "bit {bit} flipped");
        flipped[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(Delta::read(&bytes).is_ok());
}

/// Bits of symbols at the entropy of their own frequencies.
fn entropy_bits<T: Ord>(symbols: impl Iterator<Item = T>) -> f64 {
    let mut counts = std::collections::BTreeMap::new();
    symbols.for_each(|symbol| *counts.entry(symbol).or_insert(0u32) += 1);
    let total: u32 = counts.values().sum();
    let bits = |count: &u32| f64::from(*count) * (f64::from(total) / f64::from(*count)).log2();
    counts.values().map(bits).sum()
}

/// log2 of the number of ways to choose `k` of `n`.
fn choice_bits(n: usize, k: usize) -> f64 {
    (0..k.min(n - k))
        .map(|i| ((n - i) as f64 / (i + 1) as f64).log2())
        .sum()
}

#[test]
fn released_deltas_are_near_the_entropy_of_what_they_hold() {
    let base = Models::open(models()).expect("the released models");
    let sizes: Vec<usize> = base
        .tensors()
        .values()
        .map(|tensor| tensor.data.len())
        .collect();
    for language in ["ar", "zh", "de", "pl", "es", "fr", "it", "ru"] {
        let file = base.delta(language).expect("a delta");
        let header = file.delta.header();
        // Digests, signature, checksum, versions and flags are as random as they are long.
        let mut bits = 8.0 * (3.0 * 32.0 + 64.0 + 8.0 + 11.0) + 32.0;
        let labels = header.labels_over(&base.manifest().labels).expect("labels");
        let texts = [header.language.clone(), header.provenance.clone()]
            .into_iter()
            .chain(labels[..labels.len() - 2].iter().cloned());
        bits += entropy_bits(texts.flat_map(|text| text.into_bytes().into_iter().chain([0])));
        let (mut values, mut exponents) = (Vec::new(), Vec::new());
        let mut float = |value: f32| {
            let fraction = value.to_bits() & 0x7f_ffff;
            exponents.push(value.to_bits() >> 23);
            23.0 - f64::from(fraction.trailing_zeros().min(23))
        };
        for change in file.delta.changes() {
            let held = match &change.edit {
                Edit::Add { positions, values } => {
                    bits += choice_bits(sizes[change.tensor], positions.indexes.len());
                    values
                }
                Edit::Replace { values, .. } => values,
                Edit::Step { .. } => panic!("{language}: released deltas are quantised"),
            };
            match held {
                Values::Quantised {
                    scales,
                    values: quantised,
                    ..
                } => {
                    bits += scales.iter().map(|scale| float(*scale)).sum::<f64>();
                    values.extend(quantised.iter().copied());
                }
                Values::Float(floats) => {
                    bits += floats.iter().map(|value| float(*value)).sum::<f64>()
                }
            }
        }
        bits += entropy_bits(values.into_iter()) + entropy_bits(exponents.into_iter());
        let (found, entropy) = (file.file_bytes as f64, bits / 8.0);
        assert!(
            found <= 1.1 * entropy,
            "{language}: {found} bytes hold {entropy:.0}"
        );
        eprintln!(
            "{language}: {found} bytes, {:.1} % above the entropy of what they hold",
            100.0 * (found / entropy - 1.0)
        );
    }
}

#[test]
fn a_delta_for_another_base_is_refused_as_such() {
    let opened = Models::open(models()).expect("the released models");
    let mut other = opened.tensors().clone();
    other
        .get_mut("head.conv.weight")
        .expect("a known tensor")
        .data[0] += 1.0;
    let delta = Delta::read(&std::fs::read(models().join("zh.swr")).expect("the Mandarin delta"))
        .expect("a good delta");
    assert!(matches!(
        merge(&other, &delta),
        Err(PackageError::WrongBase { .. })
    ));
    assert!(merge(opened.tensors(), &delta).is_ok());
}

/// Floors that tell a broken pipeline from a working one; the cards have what was measured.
#[test]
fn accuracy_on_recordings() {
    let Some(speech) = recordings("accuracy_on_recordings") else {
        return;
    };
    for (language, split, clips, floor) in [
        ("en", "test", 1_093, 0.81),
        ("ar", "test", 1_056, 0.87),
        ("zh", "test", 384, 0.92),
        ("de", "dev+test", 144, 0.95),
        ("pl", "dev+test", 144, 0.92),
        ("es", "dev+test", 144, 0.91),
        ("fr", "dev+test", 144, 0.94),
        ("it", "dev+test", 144, 0.95),
        ("ru", "dev+test", 144, 0.96),
    ] {
        let (code, lines) = swr(&[
            "eval",
            "--data",
            &path(&speech),
            "--lang",
            language,
            "--split",
            split,
            "--json",
            "--models",
            &path(&models()),
        ]);
        let summary = lines.last().expect("a summary");
        assert_eq!(
            (code, &summary["lang"], &summary["clips"]),
            (0, &Value::from(language), &Value::from(clips))
        );
        let accuracy = summary["accuracy"].as_f64().expect("a share");
        assert!(
            accuracy >= floor,
            "{language}: {accuracy} on {clips} clips, at least {floor} expected"
        );
    }
}

#[test]
fn streams_of_recordings_are_measured() {
    let Some(speech) = recordings("streams_of_recordings_are_measured") else {
        return;
    };
    let (code, lines) = swr(&[
        "eval",
        "--stream",
        "--minutes",
        "2",
        "--data",
        &path(&speech),
        "--lang",
        "zh",
        "--json",
        "--models",
        &path(&models()),
    ]);
    let summary = lines.last().expect("a summary");
    assert_eq!(code, 0);
    assert!(summary["expected"].as_u64() > Some(10), "{summary}");
    assert!(summary["found"].as_u64() > Some(0), "{summary}");
    let interval = summary["false_alarms_interval"]
        .as_array()
        .expect("an interval");
    assert!(interval[1].as_f64() > interval[0].as_f64());
    let (code, _) = swr(&[
        "demo",
        "--data",
        &path(&speech),
        "--minutes",
        "1",
        "--json",
        "--models",
        &path(&models()),
    ]);
    assert_eq!(code, 0, "a demo on recordings ends well when it has run");
}
