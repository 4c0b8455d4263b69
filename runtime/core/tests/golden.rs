//! Files of every version of the format, kept for ever, and the same bits of merged weights on every machine: this test runs on other processors too
//! (`.ci/run` runs it on aarch64 and armv7 under qemu).
//!
//! `cargo test -p swr-core --test golden -- --ignored` writes the files of a new version; those that are there are never written again.

use std::path::{Path, PathBuf};

use swr_core::package::{
    Calibration, Delta, DeltaHeader, Digest, Edit, Label, Precision, Steps, Tensor, Tensors,
    digest, merge, merge_into, onnx::initializers,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(name)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Numbers that look like weights, the same on every machine (a linear congruential generator, Numerical Recipes).
fn weights(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    // The sum of four is nearly normal.
    (0..count)
        .map(|_| next() + next() + next() + next())
        .collect()
}

/// A network of every kind of tensor; `rows` are the classifier's.
fn network(seed: u32, rows: usize) -> Tensors {
    let tensor =
        |shape: &[usize], seed| Tensor::new(shape.to_vec(), weights(shape.iter().product(), seed));
    Tensors::from([
        ("a.conv.weight".into(), tensor(&[16, 12, 3], seed)),
        ("a.norm.scale".into(), tensor(&[16], seed + 1)),
        ("b.conv.weight".into(), tensor(&[12, 20], seed + 2)),
        ("classifier.bias".into(), tensor(&[rows], seed + 3)),
        ("classifier.weight".into(), tensor(&[rows, 12], seed + 4)),
    ])
}

/// `network(1, 4)` tuned: single weights, rows, a whole tensor, another classifier.
fn tuned(rows: usize) -> Tensors {
    let (mut tuned, other) = (network(1, 4), network(100, rows));
    let difference = |index: usize| 0.1 * other["a.conv.weight"].data[index];
    for (index, weight) in tuned
        .get_mut("a.conv.weight")
        .unwrap()
        .data
        .iter_mut()
        .enumerate()
    {
        if index % 7 == 3 {
            *weight += difference(index);
        }
    }
    for (index, weight) in tuned
        .get_mut("a.norm.scale")
        .unwrap()
        .data
        .iter_mut()
        .enumerate()
    {
        *weight += difference(index);
    }
    for row in [2, 3, 9] {
        for index in row * 20..(row + 1) * 20 {
            tuned.get_mut("b.conv.weight").unwrap().data[index] += difference(index);
        }
    }
    for name in ["classifier.bias", "classifier.weight"] {
        tuned.insert(name.into(), other[name].clone());
    }
    tuned
}

fn header(labels: &[&str]) -> DeltaHeader {
    DeltaHeader {
        language: if labels.is_empty() { "und" } else { "pt-BR" }.into(),
        model_version: 7,
        manifest: (!labels.is_empty()).then_some(Digest([0xa5; 32])),
        labels: labels.iter().map(|label| Label::from(*label)).collect(),
        thresholds: vec![0.75; labels.len()],
        calibration: None,
        budget: (!labels.is_empty()).then(|| "12.5%".parse().unwrap()),
        synthetic: !labels.is_empty(),
        provenance: "golden".into(),
    }
}

const LABELS: [&str; 6] = ["sim", "não", "четыре", "四", "_unknown_", "_silence_"];

/// The golden files without the version in their names: kind, delta, digest of the merged tensors.
fn cases() -> [(&'static str, Delta, &'static str); 6] {
    let base = network(1, 4);
    let build = |rows, labels: &[&str], precision| {
        Delta::build(&base, &tuned(rows), header(labels), precision).unwrap()
    };
    [
        (
            "int8",
            build(6, &LABELS, Precision::DEFAULT),
            "49cb37f5a7cd0f7dc14e535417b2928738740895f39906ae42e5906ee35269bb",
        ),
        (
            "int4",
            build(6, &LABELS, Precision::Quantised(3, Steps::Growing)),
            "0800a5743354181e13e4e82d66f14f69bb5449d024aaa48a58dbb7473ff831ef",
        ),
        (
            "even",
            build(6, &LABELS, Precision::Quantised(7, Steps::Even)),
            "6b1403452b5f461d0f7f967c1a0f86988236b2d6426e3d3e49b6be786bd00f61",
        ),
        (
            "grid",
            Delta::build_by(&base, &tuned(6), header(&LABELS), &|name| match name
                .ends_with(".scale")
            {
                true => Precision::Shares(0.0625, 0.015625),
                false => Precision::Multiples(0.03125),
            })
            .unwrap(),
            "22bde42f512c3d378641e4338119439abe11dba266bad19b034284e2e4961ded",
        ),
        (
            "rounded",
            build(6, &LABELS, Precision::Rounded),
            "4aa215aab51d0949aaf6cda635e9065364a8bfaf71b2e5722be1a4e70b9ee03f",
        ),
        (
            "lossless",
            build(4, &[], Precision::Lossless),
            "d4cb0c7cc58854267693ee66644c9a97e275ea5d22ccf9e199c825c865c6e866",
        ),
    ]
}

/// One with a threshold of its own for every keyword, from the lowest step to one above the last hundredth.
fn calibrated() -> Delta {
    let delta = Delta::build(
        &network(1, 4),
        &tuned(6),
        DeltaHeader {
            calibration: Some(Calibration {
                false_accepts_per_hour: 5.0,
                verified: true,
            }),
            thresholds: [0, 58, 99, 127, 100, 100]
                .map(Calibration::threshold)
                .to_vec(),
            ..header(&LABELS)
        },
        Precision::DEFAULT,
    );
    delta.unwrap()
}

/// One over a base that has two of its keywords.
fn over_a_base() -> Delta {
    let base = ["yes", "não", "no", "sim"].map(String::from);
    let base = [
        base.as_slice(),
        &LABELS[4..]
            .iter()
            .map(|l| l.to_string())
            .collect::<Vec<_>>(),
    ]
    .concat();
    let labels = LABELS.map(String::from);
    let header = DeltaHeader {
        labels: Label::over(&labels, &base),
        ..header(&LABELS)
    };
    Delta::build(&network(1, 4), &tuned(6), header, Precision::DEFAULT).unwrap()
}

/// The golden file of a version.
fn named(version: u32, kind: &str) -> PathBuf {
    golden(&format!("delta-v{version}-{kind}.swr"))
}

#[test]
fn golden_files_are_read_written_and_merged_to_the_bit() {
    for (kind, built, merged) in cases() {
        for version in [3, 4] {
            let bytes = read(&named(version, kind));
            let delta = Delta::read(&bytes).unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert_eq!(delta.header(), built.header(), "version {version}, {kind}");
            assert_eq!(
                delta.changes(),
                built.changes(),
                "version {version}, {kind}"
            );
            assert_eq!(delta == built, version == 4, "version {version}, {kind}");
            assert_eq!(
                delta.write(),
                bytes,
                "version {version}, {kind}: other bytes are written"
            );
            let found = merge(&network(1, 4), &delta).unwrap();
            assert_eq!(digest(&found).to_string(), merged, "{kind}");
        }
    }
    let lossless = Delta::read(&read(&named(4, "lossless"))).unwrap();
    let merged = merge(&network(1, 4), &lossless).unwrap();
    assert_eq!(digest(&merged), digest(&tuned(4)));
    for (kind, built) in [("calibrated", calibrated()), ("over-a-base", over_a_base())] {
        let bytes = read(&named(4, kind));
        assert_eq!(Delta::read(&bytes).unwrap(), built, "{kind}");
        assert_eq!(built.write(), bytes, "{kind}");
    }
}

/// With another header, a delta is one of this version: thresholds may be finer than the old one holds.
#[test]
fn a_new_header_makes_an_old_file_a_new_one() {
    let old = Delta::read(&read(&named(3, "int8"))).unwrap();
    let header = calibrated().header().clone();
    let new = old.with_header(header).unwrap();
    assert_eq!(new.write(), read(&named(4, "calibrated")));
}

/// Written by the programs of versions 1 and 2 (commits ab714d9 and 6603c29), with the digest that their merge gave:
/// `Delta::build(&network(1, 4), &tuned(6), header)`; of the sparse ones, of the convolution `a` every 77th weight from the third on alone. Together they have every kind of change.
const EARLY: [(u16, &str, &str); 4] = [
    (
        1,
        "int8",
        "122fca87131bed9b2b9371fe3c2c21fb9ebcf63fccaaeb2e6c4668401f79eab5",
    ),
    (
        1,
        "sparse",
        "6543435d9aff7deaffccbbf2b9b81ab1e159b8523e20f46e058afb3be4328765",
    ),
    (
        2,
        "int8",
        "5a26cb2c19a431cb296d776f17e4909ec9806d3ca4e2953159d9eafe54c6542a",
    ),
    (
        2,
        "sparse",
        "4e7077ec73daf8f770161fea876f96828422b20c7e0d9726d6100372b0825d7b",
    ),
];

#[test]
fn files_of_the_first_versions_merge_to_the_bits_of_their_time() {
    for (version, kind, merged) in EARLY {
        let bytes = read(&named(version.into(), kind));
        let delta = Delta::read(&bytes).unwrap_or_else(|error| panic!("{version} {kind}: {error}"));
        assert_eq!(delta.format(), version);
        let expected = DeltaHeader {
            // "1.0.0-rc2" is no number.
            model_version: if kind == "int8" { 7 } else { 1 },
            synthetic: kind == "int8",
            manifest: None,
            ..header(&LABELS)
        };
        assert_eq!(delta.header(), &expected, "{version} {kind}");
        let found = merge(&network(1, 4), &delta).unwrap();
        assert_eq!(digest(&found).to_string(), merged, "{version} {kind}");
        // Written again, it is a file of today with the same contents.
        let written = delta.write();
        let again = Delta::read(&written).unwrap();
        assert_eq!(
            (again.format(), again.write()),
            (4, written),
            "{version} {kind}"
        );
        assert_eq!(
            (again.header(), again.changes()),
            (delta.header(), delta.changes())
        );
        assert_eq!(again.merged_digest(), delta.merged_digest());
    }
    // A released one.
    let polish = Delta::read(&read(&golden("delta-v2.swr"))).unwrap();
    let header = polish.header();
    assert_eq!((header.language.as_str(), header.labels.len()), ("pl", 22));
}

/// A merge is refused unless its result has the digest that was found when the delta was made, on x86_64.
#[test]
fn released_deltas_merge_to_the_same_bits_on_this_machine() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/small");
    let base = initializers(&read(&models.join("base.onnx"))).unwrap();
    let files = std::fs::read_dir(&models).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let deltas: Vec<PathBuf> = files
        .filter(|p| p.extension() == Some("swr".as_ref()))
        .collect();
    assert!(deltas.len() >= 4, "{deltas:?}");
    for path in deltas {
        let delta = Delta::read(&read(&path)).unwrap();
        let merged = merge_into(base.clone(), &delta).unwrap();
        assert_eq!(digest(&merged), delta.merged_digest(), "{}", path.display());
    }
}

/// The worked example of FORMAT.md is what is written, byte for byte.
#[test]
fn the_example_of_the_format_is_a_delta() {
    let format = include_str!("../FORMAT.md");
    let block = format.split("```text\n").nth(1).unwrap();
    let block = block.split("```").next().unwrap();
    let digits = block.lines().flat_map(|line| {
        let hex = line.split("  ").next().unwrap();
        hex.split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
    });
    let bytes: Vec<u8> = digits.collect();
    let (base, delta) = example();
    let Edit::Step { positions, steps } = &delta.changes()[0].edit else {
        panic!("no steps");
    };
    assert_eq!((positions.unit, &positions.indexes[..]), (1, &[4, 7][..]));
    assert_eq!(steps, &[1 << 22, -(1 << 22)]);
    assert_eq!(
        Delta::read(&bytes).unwrap(),
        delta,
        "{}",
        example_text(&delta)
    );
    assert_eq!(delta.write(), bytes);
    let merged = merge(&base, &delta).unwrap();
    assert_eq!(
        merged["head.conv.weight"].data,
        [1.0, 1.0, 1.0, 1.0, 1.5, 1.0, 1.0, 0.75]
    );
}

fn example() -> (Tensors, Delta) {
    let network = |row: [f32; 4]| {
        let weights = [[1.0; 4], row].concat();
        Tensors::from([(
            "head.conv.weight".to_string(),
            Tensor::new(vec![2, 4], weights),
        )])
    };
    let base = network([1.0; 4]);
    let header = DeltaHeader {
        provenance: String::new(),
        ..header(&[])
    };
    let tuned = network([1.5, 1.0, 1.0, 0.75]);
    let delta = Delta::build(&base, &tuned, header, Precision::Lossless).unwrap();
    (base, delta)
}

/// The example as FORMAT.md shows it.
fn example_text(delta: &Delta) -> String {
    let bytes = delta.write();
    let coded = bytes.len() - 72;
    let parts = [
        (0..4, "magic"),
        (4..6, "version 4"),
        (6..8, "flags: neither synthetic nor with a manifest"),
        (8..12, "model version 7"),
        (12..44, "base digest"),
        (44..76, "merged digest"),
        (
            76..coded,
            "coded: `und`, no budget, no provenance, 0 labels, 1 change; tensor 0, step, units of 1, gaps 4 and 2, steps 2^22 and -2^22",
        ),
        (coded..coded + 64, "signature: none"),
        (coded + 64..bytes.len(), "checksum"),
    ];
    let mut text = String::new();
    for (range, meaning) in parts {
        let chunks: Vec<&[u8]> = bytes[range].chunks(32).collect();
        for (line, chunk) in chunks.iter().enumerate() {
            let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
            let meaning = if line == 0 { meaning } else { "" };
            text += format!("{}  {meaning}", hex.join(" ")).trim_end();
            text += if line == 0 { "\n" } else { "  \n" };
        }
    }
    text
}

#[test]
#[ignore = "writes the golden files of a new version, and prints their digests and the example"]
fn write_golden_files() {
    let others = [
        ("calibrated", calibrated(), ""),
        ("over-a-base", over_a_base(), ""),
    ];
    for (kind, delta, _) in cases().into_iter().chain(others) {
        let path = named(4, kind);
        if !path.exists() {
            std::fs::write(&path, delta.write()).unwrap();
        }
        println!("{kind}: {}", delta.merged_digest());
    }
    println!("{}", example_text(&example().1));
}
