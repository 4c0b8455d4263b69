//! Claims about deltas: what is written is read, the merge is exact, and no damaged, foreign or hostile file is half accepted.

use proptest::{collection::vec, prelude::*};
use swr_core::package::{
    Change, Counts, Delta, DeltaHeader, Digest, Edit, PackageError, Tensor, Tensors, Values,
    changed, digest, merge, quantise, square,
};

fn labels(count: usize) -> Vec<String> {
    let keywords = (2..count).map(|number| format!("wort {number}"));
    let others = ["_unknown_", "_silence_"].map(String::from);
    keywords.chain(others).collect()
}

fn header(labels_count: usize) -> DeltaHeader {
    DeltaHeader {
        language: "de".into(),
        model_version: "1.0.0".into(),
        labels: labels(labels_count),
        thresholds: (0..labels_count)
            .map(|label| 0.5 + label as f32 / 100.0)
            .collect(),
        budget: "10%".parse().unwrap(),
        synthetic: true,
        provenance: r#"{"seed":1}"#.into(),
    }
}

/// A network of four tensors; `weights` fills the first two, in turn.
fn network(weights: &[f32], rows: usize) -> Tensors {
    let filled =
        |count: usize| -> Vec<f32> { weights.iter().copied().cycle().take(count).collect() };
    Tensors::from([
        (
            "body.conv.weight".into(),
            Tensor::new(vec![8, 5, 3], filled(120)),
        ),
        ("body.norm.scale".into(), Tensor::new(vec![8], filled(8))),
        (
            "classifier.bias".into(),
            Tensor::new(vec![rows], vec![0.125; rows]),
        ),
        (
            "classifier.weight".into(),
            Tensor::new(vec![rows, 4, 1, 1], filled(rows * 4)),
        ),
    ])
}

/// Base and tuned network with differences at the given positions of the convolution.
fn pair(differences: &[(usize, f32)]) -> (Tensors, Tensors) {
    let base = network(&[0.5, -0.25, 0.75, 1.0, -0.625], 4);
    let mut tuned = network(&[0.5, -0.25, 0.75, 1.0, -0.625], 6);
    let weights = &mut tuned.get_mut("body.conv.weight").unwrap().data;
    for &(position, difference) in differences {
        weights[position] += difference;
    }
    (base, tuned)
}

fn small() -> (Tensors, Delta) {
    let (base, tuned) = pair(&[(3, 0.5), (4, -0.25), (100, 0.125)]);
    let delta = Delta::build(&base, &tuned, header(6)).unwrap();
    (base, delta)
}

/// Puts a right checksum on altered contents, as a hostile writer would.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - 8;
    let digest = Digest::of_bytes(&bytes[..body]);
    bytes[body..].copy_from_slice(&digest.0[..8]);
    bytes
}

/// The small delta with the bytes of its changes replaced.
fn with_changes(changes: &[u8]) -> Vec<u8> {
    let (_, delta) = small();
    let bytes = delta.write();
    let sizes = delta.sizes();
    let after: usize = sizes.signature_bytes + sizes.checksum_bytes;
    let old: usize = sizes.changes.iter().map(|change| change.total()).sum();
    let start = bytes.len() - after - old - 1;
    resealed([&bytes[..start], changes, &[0; 72]].concat())
}

/// Distance from the value that `q` stands for to that of the next larger one, in units of the scale.
fn width(q: i8) -> f32 {
    2.0 * f32::from(q).abs() + 1.0
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_merges_exactly(
        differences in vec((0usize..120, -2.0f32..2.0), 0..120),
        norms in vec(-1.0f32..1.0, 8),
    ) {
        let (base, mut tuned) = pair(&differences);
        tuned.get_mut("body.norm.scale").unwrap().data = norms;
        let delta = Delta::build(&base, &tuned, header(6)).unwrap();
        let bytes = delta.write();
        prop_assert_eq!(delta.sizes().total(), bytes.len());
        let read = Delta::read(&bytes).unwrap();
        prop_assert_eq!(&read, &delta);
        prop_assert_eq!(read.write(), bytes);
        let merged = merge(&base, &read).unwrap();
        prop_assert_eq!(digest(&merged), delta.merged_digest());

        // The arithmetic once more, written differently: quantise the difference, multiply, add.
        for name in ["body.conv.weight", "body.norm.scale"] {
            let (old, new) = (&base[name].data, &tuned[name].data);
            let difference: Vec<f32> = new.iter().zip(old).map(|(n, o)| n - o).collect();
            let (scale, values) = quantise(&difference);
            for (position, &value) in values.iter().enumerate() {
                let step = scale * (f32::from(value) * f32::from(value).abs());
                prop_assert_eq!(merged[name].data[position].to_bits(), (old[position] + step).to_bits());
                prop_assert!((merged[name].data[position] - new[position]).abs() <= 0.51 * scale * width(value) + 1e-6);
            }
        }
        prop_assert_eq!(&merged["classifier.bias"], &tuned["classifier.bias"]);
        prop_assert_eq!(&merged["classifier.weight"].shape, &tuned["classifier.weight"].shape);
        // Building again from the merged network finds the same weights changed.
        let counts = changed(&base, &merged).unwrap();
        prop_assert_eq!(counts.classifier, 30);
        prop_assert!(counts.convolution <= differences.len());
    }

    #[test]
    fn altered_contents_with_a_right_checksum_never_panic(
        alterations in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let (base, delta) = small();
        let mut bytes = delta.write();
        for (place, value) in alterations {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            let removed = 7 + cut.index(bytes.len() - 150);
            bytes.remove(removed);
        }
        if let Ok(read) = Delta::read(&resealed(bytes))
            && let Ok(merged) = merge(&base, &read)
        {
            prop_assert_eq!(digest(&merged), read.merged_digest());
        }
    }

    #[test]
    fn bytes_at_random_never_panic(changes in vec(any::<u8>(), 0..64)) {
        let _ = Delta::read(&with_changes(&changes));
    }

    #[test]
    fn quantising_is_within_half_a_step(values in vec(-1e3f32..1e3, 0..50)) {
        let (scale, quantised) = quantise(&values);
        for (value, quantised) in values.iter().zip(&quantised) {
            prop_assert!((value - scale * square(*quantised)).abs() <= 0.5001 * scale * width(*quantised));
        }
    }
}

#[test]
fn every_bit_flip_and_every_truncation_is_refused() {
    let (_, delta) = small();
    let bytes = delta.write();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let error = Delta::read(&flipped).unwrap_err();
        let in_magic = bit / 8 < 4;
        assert_eq!(in_magic, error == PackageError::NotADelta, "bit {bit}");
        assert_eq!(!in_magic, matches!(error, PackageError::Damaged { .. }));
    }
    for length in 0..bytes.len() {
        assert!(Delta::read(&bytes[..length]).is_err(), "{length} bytes");
    }
    let longer = [bytes, vec![0]].concat();
    assert!(Delta::read(&longer).is_err());
}

#[test]
fn another_base_is_refused() {
    let (mut base, delta) = small();
    let fits = digest(&base);
    base.get_mut("body.norm.scale").unwrap().data[0] += 1e-6;
    let found = digest(&base);
    let expected = PackageError::WrongBase {
        expected: fits,
        found,
    };
    assert_eq!(merge(&base, &delta).unwrap_err(), expected);
}

#[test]
fn labels_that_do_not_fit_are_refused() {
    let (base, tuned) = pair(&[]);
    let refused = PackageError::LabelsDoNotFit {
        tensor: "classifier.bias".into(),
        labels: 5,
        rows: 6,
    };
    assert_eq!(Delta::build(&base, &tuned, header(5)).unwrap_err(), refused);
}

#[test]
fn a_delta_whose_classifier_is_not_the_labels_is_refused() {
    // The labels lose one entry in the file; the classifier keeps its six rows.
    let (base, delta) = small();
    let fewer = Delta::build(
        &base,
        &network(&[0.5, -0.25, 0.75, 1.0, -0.625], 5),
        header(5),
    );
    let donor = fewer.unwrap();
    let head = donor.write().len()
        - donor
            .sizes()
            .changes
            .iter()
            .map(|c| c.total())
            .sum::<usize>()
        - 72;
    let tail: usize = delta.sizes().changes.iter().map(|c| c.total()).sum();
    let bytes = delta.write();
    let mut mixed = donor.write()[..head].to_vec();
    let changes_count = delta.changes().len() as u8;
    mixed[head - 1] = changes_count;
    mixed.extend(&bytes[bytes.len() - 72 - tail..]);
    let mixed = Delta::read(&resealed(mixed)).unwrap();
    assert!(matches!(
        merge(&base, &mixed).unwrap_err(),
        PackageError::LabelsDoNotFit {
            labels: 5,
            rows: 6,
            ..
        }
    ));
}

#[test]
fn a_result_other_than_promised_is_refused() {
    let (base, delta) = small();
    let mut bytes = delta.write();
    bytes[39] ^= 1;
    let altered = Delta::read(&resealed(bytes)).unwrap();
    assert!(matches!(
        merge(&base, &altered).unwrap_err(),
        PackageError::WrongResult { .. }
    ));
}

#[test]
fn files_of_other_versions_are_told_from_damaged_ones() {
    let (_, delta) = small();
    let alter = |place: usize, value: u8| {
        let mut bytes = delta.write();
        bytes[place] = value;
        Delta::read(&resealed(bytes)).unwrap_err()
    };
    // The first version had even quantisation steps; merged by this one it would give other weights.
    for found in [1, 3] {
        let error = PackageError::UnsupportedVersion {
            what: "delta",
            found: found.into(),
            supported: 2,
        };
        assert_eq!(alter(4, found), error);
    }
    let feature = |what, found| PackageError::UnsupportedFeature { what, found };
    assert_eq!(alter(6, 0x81), feature("flags", 0x81));
    let error = Delta::read(&with_changes(&[1, 0, 200, 0, 0, 0, 0, 0, 0])).unwrap_err();
    assert_eq!(error, feature("change kind", 200));
}

#[test]
fn claims_beyond_the_file_are_refused_at_the_claim() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
    let claims: [(&[u8], &str); 6] = [
        (&[], "number of changes"),
        (&[1, 0, 0], "number of weights"),
        (&[1, 0, 1], "length of a bitmap"),
        (&[1, 0, 2], "number of weights"),
        (&[1, 2, 17, 1], "shape"),
        (&[1, 2, 16], "number of dimensions"),
    ];
    for (before, expected) in claims {
        let changes = [before, &huge, &[0; 12]].concat();
        match Delta::read(&with_changes(&changes)).unwrap_err() {
            PackageError::Damaged { what, .. } => assert_eq!(what, expected),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn positions_take_the_shortest_coding() {
    let bytes_of = |positions: &[usize]| {
        let differences: Vec<_> = positions.iter().map(|&position| (position, 0.5)).collect();
        let (base, tuned) = pair(&differences);
        let delta = Delta::build(&base, &tuned, header(6)).unwrap();
        let read = Delta::read(&delta.write()).unwrap();
        assert_eq!(read, delta);
        delta.sizes().changes[0]
    };
    let dense = bytes_of(&(0..120).collect::<Vec<_>>());
    assert_eq!((dense.positions_bytes, dense.values_bytes), (0, 124));
    let gaps = bytes_of(&[7, 90]);
    assert_eq!((gaps.positions_bytes, gaps.values_bytes), (2, 6));
    let bitmap = bytes_of(&(0..120).step_by(3).collect::<Vec<_>>());
    assert_eq!((bitmap.positions_bytes, bitmap.values_bytes), (15, 44));
}

#[test]
fn unchanged_tensors_cost_nothing_and_the_classifier_is_replaced() {
    let (_, delta) = small();
    let tensors: Vec<usize> = delta.changes().iter().map(|change| change.tensor).collect();
    assert_eq!(tensors, [0, 2, 3]);
    let Change {
        edit: Edit::Replace { shape, values },
        ..
    } = &delta.changes()[2]
    else {
        panic!("the classifier's weight is not replaced");
    };
    assert_eq!(shape, &[6, 4, 1, 1]);
    assert!(matches!(values, Values::Quantised { scales, .. } if scales.len() == 6));
}

#[test]
fn changes_are_counted_by_group() {
    let (base, delta) = small();
    let counts = changed(&base, &merge(&base, &delta).unwrap()).unwrap();
    let expected = Counts {
        convolution: 3,
        norms: 0,
        classifier: 30,
        other: 0,
    };
    assert_eq!(counts, expected);
    assert_eq!(changed(&base, &base).unwrap(), Counts::default());
    assert_eq!(Counts::of(&base).all(), 148);
}

#[test]
fn networks_that_do_not_fit_are_refused() {
    let (base, tuned) = pair(&[]);
    let build = |alter: &dyn Fn(&mut Tensors)| {
        let mut tuned = tuned.clone();
        alter(&mut tuned);
        Delta::build(&base, &tuned, header(6)).unwrap_err()
    };
    let shape = build(&|tuned| tuned.get_mut("body.norm.scale").unwrap().shape = vec![2, 4]);
    assert!(matches!(
        shape,
        PackageError::DoesNotFit { what: "shape", .. }
    ));
    let missing = build(&|tuned| drop(tuned.remove("body.norm.scale")));
    assert!(matches!(
        missing,
        PackageError::DoesNotFit {
            what: "presence",
            ..
        }
    ));
    let nan = build(&|tuned| tuned.get_mut("body.norm.scale").unwrap().data[1] = f32::NAN);
    assert!(matches!(nan, PackageError::NotFinite { .. }));
}

#[test]
fn header_rules_hold_before_anything_is_made() {
    let (base, tuned) = pair(&[]);
    let refused = |alter: &dyn Fn(&mut DeltaHeader)| {
        let mut header = header(6);
        alter(&mut header);
        match Delta::build(&base, &tuned, header).unwrap_err() {
            PackageError::BadField { field, .. } => field,
            other => panic!("{other}"),
        }
    };
    assert_eq!(
        refused(&|header| header.language = "d e".into()),
        "language"
    );
    assert_eq!(
        refused(&|header| header.labels[0] = String::new()),
        "labels"
    );
    assert_eq!(refused(&|header| header.labels.swap(4, 5)), "labels");
    assert_eq!(
        refused(&|header| header.labels[1] = header.labels[0].clone()),
        "labels"
    );
    assert_eq!(
        refused(&|header| header.thresholds[2] = f32::NAN),
        "thresholds"
    );
    assert_eq!(
        refused(&|header| header.thresholds.truncate(5)),
        "thresholds"
    );
    assert_eq!(
        refused(&|header| header.provenance = "x".repeat(5_000)),
        "provenance"
    );
}
