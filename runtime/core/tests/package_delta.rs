//! Claims about deltas: what is written is read, the merge is exact, and no damaged, foreign or hostile file is half accepted.

use proptest::{collection::vec, prelude::*};
use swr_core::package::{
    Change, Counts, Delta, DeltaHeader, Digest, Edit, Label, PackageError, Precision, Steps,
    Tensor, Tensors, Values, changed, digest, merge, merge_into, quantise,
};

const INT8: Precision = Precision::DEFAULT;

fn labels(count: usize) -> Vec<Label> {
    let keywords = (2..count).map(|number| format!("wort {number}").into());
    let others = ["_unknown_", "_silence_"].map(Label::from);
    keywords.chain(others).collect()
}

fn header(labels_count: usize) -> DeltaHeader {
    DeltaHeader {
        language: "de".into(),
        model_version: 1,
        manifest: Some(Digest([5; 32])),
        labels: labels(labels_count),
        thresholds: (0..labels_count)
            .map(|label| 0.5 + label as f32 / 100.0)
            .collect(),
        calibration: None,
        budget: Some("10%".parse().unwrap()),
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
    let delta = Delta::build(&base, &tuned, header(6), INT8).unwrap();
    (base, delta)
}

/// Puts a right checksum on altered contents, as a hostile writer would.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let body = bytes.len() - 8;
    let digest = Digest::of_bytes(&bytes[..body]);
    bytes[body..].copy_from_slice(&digest.0[..8]);
    bytes
}

/// Bytes of a delta's file before the coded part: magic number, version, flags, model version, three digests.
const PREFIX_BYTES: usize = 4 + 2 + 1 + 4 + 3 * 32;

/// The small delta with other bytes in place of the coded part.
fn with_coded(coded: &[u8]) -> Vec<u8> {
    let (_, delta) = small();
    resealed([&delta.write()[..PREFIX_BYTES], coded, &[0; 72]].concat())
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
        let delta = Delta::build(&base, &tuned, header(6), INT8).unwrap();
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
            let (scale, values) = quantise(&difference, 7, Steps::Growing);
            for (position, &value) in values.iter().enumerate() {
                let step = scale * (f32::from(value) * f32::from(value).abs());
                prop_assert_eq!(merged[name].data[position].to_bits(), (old[position] + step).to_bits());
                prop_assert!((merged[name].data[position] - new[position]).abs() <= 0.51 * scale * width(value) + 1e-6);
            }
        }
        // A bias of 0.125 is a TF32.
        prop_assert_eq!(&merged["classifier.bias"], &tuned["classifier.bias"]);
        prop_assert_eq!(merge_into(base.clone(), &read).unwrap(), merged.clone());
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
    fn bytes_at_random_never_panic(coded in vec(any::<u8>(), 0..64)) {
        let _ = Delta::read(&with_coded(&coded));
    }

    #[test]
    fn quantising_is_within_half_a_step(values in vec(-1e3f32..1e3, 0..50), bits in 1u32..=7, even in any::<bool>()) {
        let steps = if even { Steps::Even } else { Steps::Growing };
        let (scale, quantised) = quantise(&values, bits, steps);
        prop_assert_eq!(scale.to_bits() & 0xffff, 0, "no bfloat16");
        let most = (1 << bits) - 1;
        for (value, quantised) in values.iter().zip(&quantised) {
            prop_assert!(i32::from(*quantised).abs() <= most);
            let width = if even { 1.0 } else { width(*quantised) };
            // The largest value may lie above the last step, by what the scale was rounded down.
            let width = width.max(steps.apply(most as i8) / 128.0);
            prop_assert!((value - scale * steps.apply(*quantised)).abs() <= 0.5001 * scale * width);
        }
    }

    #[test]
    fn even_steps_take_fewer_bytes_for_the_same_error(seed in 1u32..1_000) {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        };
        let normal: Vec<f32> = (0..2_000).map(|_| next() + next() + next() + next()).collect();
        let network = |weights: Vec<f32>| Tensors::from([("any".to_string(), Tensor::new(vec![50, 40], weights))]);
        let (base, tuned) = (network(vec![0.0; 2_000]), network(normal));
        let made = [Steps::Growing, Steps::Even].map(|steps| {
            let delta = Delta::build(&base, &tuned, raw(), Precision::Quantised(7, steps)).unwrap();
            let read = Delta::read(&delta.write()).unwrap();
            assert_eq!(read, delta);
            let merged = merge(&base, &read).unwrap();
            let pairs = merged["any"].data.iter().zip(&tuned["any"].data);
            let error = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            (delta.write().len(), error)
        });
        prop_assert!(made[1].0 < made[0].0, "{made:?}");
        prop_assert!(made[1].1 < 1.2 * made[0].1, "{made:?}");
    }

    #[test]
    fn lossless_deltas_give_every_bit_back(
        old in vec(any::<f32>().prop_filter("finite", |w| w.is_finite()), 40),
        new in vec(any::<f32>().prop_filter("finite", |w| w.is_finite()), 40),
        same in vec(any::<bool>(), 40),
    ) {
        let new: Vec<f32> = old.iter().zip(&new).zip(&same).map(|((o, n), same)| if *same { *o } else { *n }).collect();
        let network = |weights: Vec<f32>| Tensors::from([("any.name".to_string(), Tensor::new(vec![8, 5], weights))]);
        let (base, tuned) = (network(old), network(new));
        let delta = Delta::build(&base, &tuned, raw(), Precision::Lossless).unwrap();
        let read = Delta::read(&delta.write()).unwrap();
        prop_assert_eq!(&read, &delta);
        let merged = merge(&base, &read).unwrap();
        prop_assert_eq!(digest(&merged), digest(&tuned));
    }

    #[test]
    fn grids_are_kept_to_the_step_and_never_exceeded(
        weights in vec((-2.0f32..2.0, -9.0f32..9.0, 0u8..4), 120),
        step in 0usize..3,
        grows in any::<bool>(),
    ) {
        let step = [0.125f32, 0.0625, 0.5][step];
        let floor = step / 4.0;
        let network = |data: Vec<f32>| Tensors::from([("any.name".to_string(), Tensor::new(vec![8, 15], data))]);
        let base = network(weights.iter().map(|(w, ..)| *w).collect());
        // Three of four weights stay.
        let tuned = network(weights.iter().map(|(w, d, changes)| if *changes == 0 { w + d } else { *w }).collect());
        let precision = if grows { Precision::Shares(step, floor) } else { Precision::Multiples(step) };
        let delta = Delta::build(&base, &tuned, raw(), precision).unwrap();
        let read = Delta::read(&delta.write()).unwrap();
        prop_assert_eq!(&read, &delta);
        let merged = merge(&base, &read).unwrap();
        for ((merged, tuned), base) in merged["any.name"].data.iter().zip(&tuned["any.name"].data).zip(&base["any.name"].data) {
            let step = if grows { step * base.abs() + floor } else { step };
            let reachable = (tuned - base).clamp(-127.0 * step, 127.0 * step);
            prop_assert!((merged - base - reachable).abs() <= 0.5001 * step + 1e-5, "{base} to {tuned}: {merged}");
        }
        // What is on the grid already stays as it is.
        let again = Delta::build(&base, &merged, raw(), precision).unwrap();
        prop_assert_eq!(merge(&base, &again).unwrap(), merged);
    }

    #[test]
    fn rounded_deltas_are_as_close_as_f16(differences in vec(-2.0f32..2.0, 40)) {
        let network = |weights: Vec<f32>| Tensors::from([("any.name".to_string(), Tensor::new(vec![8, 5], weights))]);
        let (base, tuned) = (network(vec![1.0; 40]), network(differences.iter().map(|d| 1.0 + d).collect()));
        let delta = Delta::build(&base, &tuned, raw(), Precision::Rounded).unwrap();
        let merged = merge(&base, &Delta::read(&delta.write()).unwrap()).unwrap();
        for (merged, tuned) in merged["any.name"].data.iter().zip(&tuned["any.name"].data) {
            prop_assert!((merged - tuned).abs() <= (tuned - 1.0).abs() / 2048.0 + 1e-6);
        }
    }
}

/// On a grid, all weights of a tensor take less than two bits each, where most are zero and the others small.
#[test]
fn few_bits_suffice_on_a_grid() {
    let network = |weights: Vec<f32>| {
        let tensor = Tensor::new(vec![64, 64], weights);
        Tensors::from([("any.name".to_string(), tensor)])
    };
    let base = network(vec![0.0; 4_096]);
    // 1 of 2 is zero, 1 of 4 each of the others: 1.5 bits a weight.
    let value = |i: u32| match i.wrapping_mul(2_654_435_761) >> 30 {
        0 => 1.0,
        1 => -1.0,
        _ => 0.0,
    };
    let tuned = network((0..4_096).map(value).collect());
    let build = |precision| Delta::build(&base, &tuned, raw(), precision).unwrap();
    let bytes = |precision| build(precision).write().len() - 200;
    let entropy = 4_096.0 * 1.5 / 8.0;
    assert!((bytes(Precision::Multiples(1.0)) as f64) < 1.02 * entropy);
    // A step that is none changes nothing.
    for step in [0.0, f32::NAN, f32::INFINITY] {
        assert!(build(Precision::Multiples(step)).changes().is_empty());
    }
}

/// The header of a delta that keeps the labels.
fn raw() -> DeltaHeader {
    DeltaHeader {
        language: "und".into(),
        model_version: 1,
        manifest: None,
        labels: Vec::new(),
        thresholds: Vec::new(),
        calibration: None,
        budget: None,
        synthetic: false,
        provenance: String::new(),
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
    assert_eq!(
        Delta::build(&base, &tuned, header(5), INT8).unwrap_err(),
        refused
    );
}

#[test]
fn a_delta_whose_classifier_is_not_the_labels_is_refused() {
    let (base, delta) = small();
    let mut fewer = delta.header().clone();
    fewer.labels.remove(0);
    fewer.thresholds.remove(0);
    assert!(matches!(
        delta.with_header(fewer).unwrap_err(),
        PackageError::LabelsDoNotFit {
            labels: 5,
            rows: 6,
            ..
        }
    ));
    // A delta of six labels that replaces nothing, on a classifier of four rows.
    let six = network(&[0.5], 6);
    let labelled = Delta::build(&six, &six, header(6), INT8).unwrap();
    assert!(matches!(
        labelled.apply(base).unwrap_err(),
        PackageError::LabelsDoNotFit {
            labels: 6,
            rows: 4,
            ..
        }
    ));
}

#[test]
fn a_result_other_than_promised_is_refused() {
    let (base, delta) = small();
    let mut bytes = delta.write();
    bytes[PREFIX_BYTES - 1] ^= 1;
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
    for found in [0, 5] {
        let error = PackageError::UnsupportedVersion {
            what: "delta",
            found: found.into(),
            supported: 4,
        };
        assert_eq!(alter(4, found), error);
    }
    let feature = |what, found| PackageError::UnsupportedFeature { what, found };
    assert_eq!(alter(6, 0x83), feature("flags", 0x83));
    assert_eq!(
        alter(7, 1),
        feature("flags", 0x101 & !1 | u32::from(delta.write()[6]))
    );
}

/// A global allocator that notes the highest number of bytes held by a thread.
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        static HELD: Cell<isize> = const { Cell::new(0) };
        static PEAK: Cell<isize> = const { Cell::new(0) };
    }

    pub(crate) struct Counting;

    fn add(bytes: isize) {
        let _ = HELD.try_with(|held| {
            held.set(held.get() + bytes);
            let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
        });
    }

    #[allow(unsafe_code, reason = "an allocator cannot be written without")]
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            add(layout.size() as isize);
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
            add(-(layout.size() as isize));
            unsafe { System.dealloc(pointer, layout) }
        }
    }

    /// The most bytes that `f` held at once beyond those held before.
    pub(crate) fn peak_of<T>(f: impl FnOnce() -> T) -> (T, usize) {
        let before = HELD.get();
        PEAK.set(before);
        let result = f();
        (result, (PEAK.get() - before) as usize)
    }
}

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

#[test]
fn reading_takes_no_more_memory_than_stated() {
    let limit = |bytes: &[u8]| 128 * bytes.len() + (1 << 20);
    let (_, delta) = small();
    let bytes = delta.write();
    // A file that claims as much as it can: every coded byte alike.
    for byte in 0..=255u8 {
        for length in [16, 200, 5_000] {
            let hostile = with_coded(&vec![byte; length]);
            let (_, peak) = counting::peak_of(|| Delta::read(&hostile).is_ok());
            assert!(
                peak <= limit(&hostile),
                "{length} times {byte}: {peak} bytes"
            );
        }
    }
    // As many changes as there may be, of one weight each: they cost hardly more than a bit.
    let many = |count: usize, weight: f32| -> Tensors {
        let tensor = || Tensor::new(vec![1], vec![weight]);
        (0..count).map(|i| (format!("t{i:04}"), tensor())).collect()
    };
    let delta = Delta::build(&many(4_096, 1.0), &many(4_096, 2.0), raw(), INT8).unwrap();
    let file = delta.write();
    let (read, peak) = counting::peak_of(|| Delta::read(&file).unwrap());
    assert_eq!(read, delta);
    assert!(peak <= limit(&file), "{} bytes: {peak}", file.len());
    let too_many = Delta::build(&many(4_097, 1.0), &many(4_097, 2.0), raw(), INT8).unwrap_err();
    assert!(
        matches!(too_many, PackageError::TooLarge { found: 4_097, .. }),
        "{too_many}"
    );
    for place in PREFIX_BYTES..bytes.len() - 72 {
        for value in 0..=255 {
            let mut altered = bytes.clone();
            altered[place] = value;
            let altered = resealed(altered);
            let (_, peak) = counting::peak_of(|| Delta::read(&altered).is_ok());
            assert!(
                peak <= limit(&altered),
                "byte {place} = {value}: {peak} bytes"
            );
        }
    }
}

#[test]
fn merging_takes_one_base_and_no_more_than_a_tensor() {
    let big = |weight: f32| -> Tensors {
        let tensor = || Tensor::new(vec![100, 100], vec![weight; 10_000]);
        (0..20).map(|i| (format!("t{i:02}"), tensor())).collect()
    };
    let (base, tuned) = (big(1.0), big(1.5));
    let delta = Delta::build(&base, &tuned, raw(), INT8).unwrap();
    let (merged, peak) = counting::peak_of(|| merge_into(base, &delta).unwrap());
    assert_eq!(digest(&merged), delta.merged_digest());
    assert!(peak <= 40_000, "merging held {peak} bytes");
}

#[test]
fn units_are_chosen_by_size() {
    let bytes_of = |positions: &[usize]| {
        let differences: Vec<_> = positions.iter().map(|&position| (position, 0.5)).collect();
        let (base, tuned) = pair(&differences);
        let delta = Delta::build(&base, &tuned, header(6), INT8).unwrap();
        let read = Delta::read(&delta.write()).unwrap();
        assert_eq!(read, delta);
        let Edit::Add { positions, .. } = &delta.changes()[0].edit else {
            panic!("no difference");
        };
        (positions.unit, delta.sizes().changes[0].positions_bytes)
    };
    // All weights, some of its eight rows of fifteen, two single ones.
    let all: Vec<usize> = (0..120).collect();
    assert!(bytes_of(&all).1 <= 3);
    let rows: Vec<usize> = (15..30).chain(60..75).collect();
    assert_eq!(bytes_of(&rows).0, 15);
    let (unit, bytes) = bytes_of(&[7, 90]);
    assert_eq!(unit, 1);
    assert!(bytes <= 5, "{bytes} bytes for two positions");
}

#[test]
fn other_manifests_are_refused() {
    let (_, delta) = small();
    assert!(delta.check_manifest(Digest([5; 32])).is_ok());
    let wrong = PackageError::WrongManifest {
        expected: Some(Digest([5; 32])),
        found: Digest([6; 32]),
    };
    assert_eq!(delta.check_manifest(Digest([6; 32])).unwrap_err(), wrong);
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
        Delta::build(&base, &tuned, header(6), INT8).unwrap_err()
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
