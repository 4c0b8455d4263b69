//! Claims about what a delta says of itself: its rules hold before anything is made, and calibrated thresholds are read as written and take little room.

use proptest::{collection::vec, prelude::*};
use swr_core::package::{
    Calibration, Delta, DeltaHeader, Digest, Label, PackageError, Precision, Tensor, Tensors,
};

fn network(rows: usize) -> Tensors {
    Tensors::from([
        (
            "body.conv.weight".into(),
            Tensor::new(vec![2, 1], vec![rows as f32, 0.5]),
        ),
        (
            "classifier.bias".into(),
            Tensor::new(vec![rows], vec![0.125; rows]),
        ),
    ])
}

fn header(steps: &[u32], calibration: Option<Calibration>) -> DeltaHeader {
    let keywords = (2..steps.len()).map(|n| Label::from(format!("word {n}")));
    DeltaHeader {
        language: "de".into(),
        model_version: 1,
        manifest: Some(Digest([5; 32])),
        labels: keywords
            .chain(["_unknown_", "_silence_"].map(Label::from))
            .collect(),
        thresholds: steps
            .iter()
            .map(|step| Calibration::threshold(*step))
            .collect(),
        calibration,
        budget: None,
        synthetic: true,
        provenance: String::new(),
    }
}

fn delta(header: DeltaHeader) -> Result<Delta, PackageError> {
    let rows = header.labels.len();
    Delta::build(&network(2), &network(rows), header, Precision::Lossless)
}

/// The bytes of a delta that were altered, with a checksum that fits.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - 8;
    let checksum = Digest::of_bytes(&bytes[..body]);
    bytes[body..].copy_from_slice(&checksum.0[..8]);
    bytes
}

fn rate(false_accepts_per_hour: f32) -> Option<Calibration> {
    Some(Calibration {
        false_accepts_per_hour,
        verified: false,
    })
}

/// The field for which a header is refused.
fn refused(header: DeltaHeader) -> &'static str {
    match delta(header) {
        Err(PackageError::BadField { field, .. }) => field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn header_rules_hold_before_anything_is_made() {
    let refused = |alter: &dyn Fn(&mut DeltaHeader)| {
        let mut header = header(&[50; 6], None);
        alter(&mut header);
        refused(header)
    };
    type Breaking<'a> = &'a dyn Fn(&mut DeltaHeader);
    let rules: [(&str, Breaking); 10] = [
        ("language", &|header| header.language = "d e".into()),
        ("labels", &|header| header.labels[0] = "".into()),
        ("labels", &|header| header.labels.swap(4, 5)),
        ("labels", &|header| {
            header.labels[1] = header.labels[0].clone();
        }),
        ("labels", &|header| {
            header.labels[..2].fill(Label::OfBase(7));
        }),
        ("labels", &|header| {
            header.labels[0] = Label::OfBase(7);
            header.manifest = None;
        }),
        ("labels", &|header| {
            let last = header.labels.split_off(4);
            header.labels = (0..5_000).map(Label::OfBase).chain(last).collect();
        }),
        ("thresholds", &|header| header.thresholds[2] = f32::NAN),
        ("thresholds", &|header| header.thresholds.truncate(5)),
        ("provenance", &|header| {
            header.provenance = "x".repeat(5_000);
        }),
    ];
    for (field, alter) in rules {
        assert_eq!(refused(alter), field);
    }
}

proptest! {
    #[test]
    fn calibrated_thresholds_are_read_as_written(
        steps in vec(0..=Calibration::STEPS, 3..50),
        false_accepts_per_hour in 1e-6f32..1e6,
        verified: bool,
    ) {
        let calibration = Some(Calibration { false_accepts_per_hour, verified });
        let written = delta(header(&steps, calibration)).unwrap();
        let bytes = written.write();
        prop_assert_eq!(written.sizes().total(), bytes.len());
        let read = Delta::read(&bytes).unwrap();
        prop_assert_eq!(&read, &written);
        // Seven bits each, and what adapting costs.
        prop_assert!(written.sizes().thresholds_bytes <= 12 + steps.len());
    }
}

/// A base with the keywords `word 0` to `word 59`.
fn base_labels() -> Vec<String> {
    let keywords = (0..60).map(|n| format!("word {n}"));
    let others = ["_unknown_", "_silence_"].map(String::from);
    keywords.chain(others).collect()
}

proptest! {
    #[test]
    fn labels_of_the_base_are_its_numbers_and_come_back_as_its_texts(
        named in proptest::collection::btree_set(0usize..100, 1..60),
    ) {
        let others = ["_unknown_", "_silence_"].map(String::from);
        let texts: Vec<String> = named.iter().map(|n| format!("word {n}")).chain(others).collect();
        let labels = Label::over(&texts, &base_labels());
        let numbers = labels.iter().filter(|label| matches!(label, Label::OfBase(_))).count();
        prop_assert_eq!(numbers, named.iter().filter(|n| **n < 60).count());

        let steps = vec![50; labels.len()];
        let written = delta(DeltaHeader { labels, ..header(&steps, None) }).unwrap();
        let bytes = written.write();
        prop_assert_eq!(written.sizes().total(), bytes.len());
        let read = Delta::read(&bytes).unwrap();
        prop_assert_eq!(&read, &written);
        prop_assert_eq!(read.header().labels_over(&base_labels()).unwrap(), texts);
    }
}

#[test]
fn a_number_takes_about_a_byte_where_a_text_takes_its_length() {
    let texts = base_labels();
    let bytes = |base: &[String]| {
        let labels = Label::over(&texts, base);
        let steps = vec![50; labels.len()];
        let written = delta(DeltaHeader {
            labels,
            ..header(&steps, None)
        });
        written.unwrap().sizes().labels_bytes
    };
    let (numbers, own) = (bytes(&texts), bytes(&[]));
    assert!(
        numbers <= 60 && own > 3 * numbers,
        "{numbers} and {own} bytes"
    );
}

#[test]
fn labels_that_the_base_does_not_have_or_has_already_are_refused() {
    let over = |label: Label| {
        let mut header = header(&[50; 4], None);
        header.labels[0] = label;
        header.labels[1] = Label::OfBase(3);
        let written = delta(header).unwrap().write();
        let read = Delta::read(&written).unwrap();
        read.header().labels_over(&base_labels())
    };
    assert_eq!(over(Label::OfBase(59)).unwrap()[..2], ["word 59", "word 3"]);
    // `_unknown_` is no keyword of the base; the second keyword is named twice.
    for wrong in [Label::OfBase(60), Label::OfBase(u16::MAX), "word 3".into()] {
        match over(wrong.clone()) {
            Err(PackageError::BadField {
                field: "labels", ..
            }) => {}
            other => panic!("{wrong}: {other:?}"),
        }
    }
}

/// The flag without such a label, and in a version that did not know it.
#[test]
fn a_flag_that_says_what_is_not_there_is_refused() {
    let raw = DeltaHeader {
        labels: Vec::new(),
        thresholds: Vec::new(),
        ..header(&[50; 4], None)
    };
    let mut tuned = network(2);
    tuned.get_mut("body.conv.weight").unwrap().data[0] += 1.0;
    let raw = Delta::build(&network(2), &tuned, raw, Precision::Lossless).unwrap();
    let mut bytes = raw.write();
    assert_eq!(Delta::read(&bytes).unwrap(), raw);
    bytes[6] |= 16;
    match Delta::read(&resealed(bytes)) {
        Err(PackageError::Damaged { what, .. }) => assert!(what.contains("labels of the base")),
        other => panic!("{other:?}"),
    }
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/delta-v3-int8.swr");
    let mut bytes = std::fs::read(old).unwrap();
    bytes[6] |= 16;
    match Delta::read(&resealed(bytes)) {
        Err(PackageError::UnsupportedFeature { what: "flags", .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn thresholds_of_forty_keywords_take_less_than_a_float_each() {
    let steps: Vec<u32> = (0..42).map(|n| 40 + 5 * (n * 7 % 12)).collect();
    let calibrated = delta(header(&steps, rate(1.0))).unwrap();
    let plain = delta(header(&steps, None)).unwrap();
    assert!(
        calibrated.sizes().thresholds_bytes <= 36,
        "{:?}",
        calibrated.sizes()
    );
    assert!(plain.sizes().thresholds_bytes > 150, "{:?}", plain.sizes());
}

#[test]
fn rules_of_calibration() {
    for wrong in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert_eq!(refused(header(&[50; 4], rate(wrong))), "calibration");
    }
    let mut between = header(&[50; 4], rate(1.0));
    between.thresholds[1] = 0.512;
    assert_eq!(refused(between), "calibration");
    let mut above = header(&[50; 4], rate(1.0));
    above.thresholds[1] = 1.01;
    assert_eq!(refused(above), "thresholds");
}

#[test]
fn steps_are_the_numbers_that_people_write_and_finer_ones_close_to_1() {
    for (hundredths, written) in [(5, 0.05), (30, 0.3), (58, 0.58), (85, 0.85), (99, 0.99)] {
        assert_eq!(Calibration::threshold(hundredths), written);
    }
    // Above 0.99, nine steps take a tenth off what is missing to 1.
    for (step, missing) in [(109, 1e-3), (118, 1e-4), (127, 1e-5)] {
        let threshold = f64::from(Calibration::threshold(step));
        assert!((1.0 - threshold - missing).abs() < 4e-8, "{threshold}");
    }
    let rising: Vec<f32> = Calibration::steps_from(0).collect();
    assert_eq!(rising.len(), 127, "all but 1 itself");
    assert!(rising.is_sorted_by(|a, b| a < b), "{rising:?}");
    let mut written = header(&[50; 4], rate(1.0));
    written.thresholds = vec![0.85, Calibration::threshold(101), 0.1, 1.0];
    let read = Delta::read(&delta(written.clone()).unwrap().write()).unwrap();
    assert_eq!(read.header().thresholds, written.thresholds);
}

#[test]
fn a_proof_without_a_rate_is_refused() {
    let mut bytes = delta(header(&[50; 4], None)).unwrap().write();
    bytes[6] |= 8;
    match Delta::read(&resealed(bytes)) {
        Err(PackageError::UnsupportedFeature { what: "flags", .. }) => {}
        other => panic!("{other:?}"),
    }
}
