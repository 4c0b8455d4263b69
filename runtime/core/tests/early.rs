//! Claims about deltas of versions 1 and 2, put together here byte by byte as FORMAT.md says: they are read as written and merged by the rules of
//! their time, what breaks a rule is refused by its name, and no bytes make the reader panic.

use proptest::{collection::vec, prelude::*};
use sha2::{Digest as _, Sha256};
use swr_core::package::{
    Delta, Digest, Edit, PackageError, Tensor, Tensors, digest, embed_signature, merge,
};

const GOLDEN: &[u8] = include_bytes!("../golden/delta-v1-int8.swr");
const LABELS: [&str; 4] = ["ja", "nein", "_unknown_", "_silence_"];

fn number(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [number(text.len() as u32), text.as_bytes().to_vec()].concat()
}

fn sealed(body: &[u8]) -> Vec<u8> {
    [body, &Sha256::digest(body)[..8]].concat()
}

/// A file with these changes, which `merged` is promised of.
fn file(version: u8, merged: Digest, changes: &[Vec<u8>]) -> Vec<u8> {
    // The magic number of a file of then; its version, and that speech was synthetic.
    let mut body = GOLDEN[..4].to_vec();
    body.extend([version, 0, 1]);
    body.extend(digest(&base()).0);
    body.extend(merged.0);
    for field in ["de", "12", "10%", "made by a test"] {
        body.extend(text(field));
    }
    body.extend(number(4));
    body.extend(LABELS.iter().flat_map(|label| text(label)));
    body.extend(
        [0.5f32; 4]
            .iter()
            .flat_map(|threshold| threshold.to_le_bytes()),
    );
    body.extend(number(changes.len() as u32));
    body.extend(changes.concat());
    body.extend([0; 64]);
    sealed(&body)
}

/// Of the tensors, by index: 0 a convolution of 200 weights, 1 the classifier.
fn base() -> Tensors {
    let weights = |count: usize| (0..count).map(|i| 1.0 + i as f32 * 0.01).collect();
    Tensors::from([
        (
            "a.conv.weight".into(),
            Tensor::new(vec![20, 10], weights(200)),
        ),
        (
            "classifier.weight".into(),
            Tensor::new(vec![3, 5], weights(15)),
        ),
    ])
}

/// Bytes of a change in one of the three codings of an add.
fn add(kind: u8, scale: f32, changed: &[(u32, i8)]) -> Vec<u8> {
    let values: Vec<u8> = changed.iter().map(|(_, value)| *value as u8).collect();
    let last = changed.last().expect("one at least").0 as usize;
    let (count, positions, values) = match kind {
        0 => {
            let mut all = vec![0; last + 1];
            for (index, value) in changed {
                all[*index as usize] = *value as u8;
            }
            (all.len(), Vec::new(), all)
        }
        1 => {
            let mut bitmap = vec![0u8; last / 8 + 1];
            for (index, _) in changed {
                bitmap[*index as usize / 8] |= 1 << (index % 8);
            }
            (bitmap.len(), bitmap, values)
        }
        _ => {
            let before = std::iter::once(0).chain(changed.iter().map(|(index, _)| index + 1));
            let gaps = changed
                .iter()
                .zip(before)
                .map(|((index, _), from)| index - from);
            (changed.len(), gaps.flat_map(number).collect(), values)
        }
    };
    let scale = scale.to_le_bytes().to_vec();
    [
        vec![0, kind],
        number(count as u32),
        positions,
        scale,
        values,
    ]
    .concat()
}

/// The classifier replaced by int8 values with a scale for each of its four rows.
fn replaced(scales: [f32; 4], values: &[i8]) -> Vec<u8> {
    let mut bytes = vec![1, 16, 2, 4, 5, 4];
    bytes.extend(scales.iter().flat_map(|scale| scale.to_le_bytes()));
    bytes.extend(values.iter().map(|value| *value as u8));
    bytes
}

/// What a value stands for.
fn stands_for(version: u8, scale: f32, value: i8) -> f32 {
    let value = f32::from(value);
    match version {
        1 => scale * value,
        _ => scale * (value * value.abs()),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_merged(
        version in 1u8..=2,
        kind in 0u8..=2,
        scale in 1e-6f32..1e-2,
        changed in proptest::collection::btree_map(0u32..200, (1i8..=127, any::<bool>()), 1..80),
        scales in proptest::array::uniform4(0f32..1e-3),
        classifier in vec(-127i8..=127, 20),
    ) {
        let changed: Vec<(u32, i8)> = changed
            .into_iter()
            .map(|(index, (size, down))| (index, if down { -size } else { size }))
            .collect();
        let mut expected = base();
        let conv = &mut expected.get_mut("a.conv.weight").unwrap().data;
        for (index, value) in &changed {
            conv[*index as usize] += stands_for(version, scale, *value);
        }
        let rows = classifier.chunks(5).zip(scales);
        let weights = rows.flat_map(|(row, scale)| {
            row.iter().map(move |value| stands_for(version, scale, *value))
        });
        expected.insert("classifier.weight".into(), Tensor::new(vec![4, 5], weights.collect()));
        let bytes = file(
            version,
            digest(&expected),
            &[add(kind, scale, &changed), replaced(scales, &classifier)],
        );

        let delta = Delta::read(&bytes).unwrap();
        prop_assert_eq!(delta.format(), u16::from(version));
        prop_assert_eq!(&delta.header().labels_over(&[]).unwrap(), &LABELS);
        prop_assert_eq!(delta.header().model_version, 12);
        prop_assert!(delta.header().synthetic);
        let Edit::Add { positions, .. } = &delta.changes()[0].edit else {
            panic!("no add");
        };
        let indexes: Vec<u32> = changed.iter().map(|(index, _)| *index).collect();
        prop_assert_eq!(&positions.indexes, &indexes);
        prop_assert_eq!(merge(&base(), &delta).unwrap(), expected);
        let again = Delta::read(&delta.write()).unwrap();
        prop_assert_eq!(merge(&base(), &again).unwrap(), merge(&base(), &delta).unwrap());
        prop_assert_eq!(delta.sizes().total(), delta.write().len());
    }

    #[test]
    fn altered_bytes_end_in_a_result_or_an_error(
        version in 1u8..=2,
        kind in 0u8..=2,
        at in 6usize..250,
        byte in any::<u8>(),
    ) {
        let changes = [add(kind, 0.5, &[(0, 1), (9, -4), (77, 127)]), replaced([0.5; 4], &[3; 20])];
        let mut body = file(version, digest(&base()), &changes);
        body.truncate(body.len() - 8);
        let at = at % body.len();
        body[at] = byte;
        if let Ok(delta) = Delta::read(&sealed(&body)) {
            let _ = merge(&base(), &delta);
            let again = Delta::read(&delta.write()).unwrap();
            prop_assert_eq!(again.changes(), delta.changes());
        }
    }
}

#[test]
fn what_breaks_a_rule_is_refused_by_its_name() {
    let refused = |changes: &[Vec<u8>]| match Delta::read(&file(2, Digest([0; 32]), changes)) {
        Err(PackageError::Damaged { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let good = || add(2, 0.5, &[(3, 1)]);
    for (changes, what) in [
        (vec![good(), good()], "order of tensors"),
        (
            vec![add(0, 0.5, &[(3, 0)])],
            "a change that changes nothing",
        ),
        (
            vec![add(1, 0.5, &[(3, 0)])],
            "a change that changes nothing",
        ),
        (vec![add(2, 0.5, &[(3, i8::MIN)])], "a value of -128"),
        (
            vec![add(2, 0.0, &[(3, 1)])],
            "a scale that is not a positive number",
        ),
        (
            vec![add(2, f32::NAN, &[(3, 1)])],
            "a scale that is not a positive number",
        ),
        (vec![replaced([-0.5; 4], &[1; 20])], "a negative scale"),
        (
            vec![replaced([f32::INFINITY; 4], &[1; 20])],
            "a value that is not finite",
        ),
        (vec![replaced([0.5; 4], &[1; 19])], "the end of the file"),
        (
            vec![[replaced([0.5; 4], &[1; 20]), vec![0]].concat()],
            "bytes behind the last change",
        ),
        (vec![[vec![1, 16, 2, 4, 0], vec![0; 30]].concat()], "shape"),
        (
            vec![[vec![1, 16, 9], vec![1; 30]].concat()],
            "number of dimensions",
        ),
        (
            vec![[vec![1, 16, 1, 4, 3], vec![0; 30]].concat()],
            "number of scales",
        ),
        // A number that is longer than it must be, and one beyond 32 bits.
        (vec![[vec![0x80, 0], vec![0; 30]].concat()], "tensor index"),
        (vec![[vec![0xff; 5], vec![0; 30]].concat()], "tensor index"),
        // Gaps beyond the last index there can be.
        (
            vec![[vec![0, 2, 2, 0xff, 0xff, 0xff, 0xff, 0x0f, 0], vec![1; 30]].concat()],
            "gap between weights",
        ),
        // Claims that the file does not fill.
        (
            vec![[vec![0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f], vec![1; 30]].concat()],
            "the end of the file",
        ),
        (
            vec![[vec![0, 1, 0xff, 0xff, 0xff, 0xff, 0x0f], vec![1; 30]].concat()],
            "the end of the file",
        ),
    ] {
        assert_eq!(refused(&changes), what);
    }
    let unknown = file(1, Digest([0; 32]), &[vec![0, 3, 1, 1]]);
    let feature = PackageError::UnsupportedFeature {
        what: "change kind",
        found: 3,
    };
    assert_eq!(Delta::read(&unknown).unwrap_err(), feature);
}

/// A signature in such a file would be read by no program that knew them; beside it, one is as good as any.
#[test]
fn there_is_no_signature_inside() {
    let bytes = file(2, digest(&base()), &[add(2, 0.5, &[(3, 1)])]);
    let error = embed_signature(&bytes, [7; 64]).unwrap_err();
    assert!(error.to_string().contains(".minisig"), "{error}");
    let end = bytes.len() - 8;
    let signed = sealed(&[&bytes[..end - 64], &[7; 64]].concat());
    let error = Delta::read(&signed).unwrap_err();
    let feature = PackageError::UnsupportedFeature {
        what: "a signature in version",
        found: 2,
    };
    assert_eq!(error, feature);
    // Signed as a file of today, it is one.
    let delta = Delta::read(&bytes).unwrap().with_signature([7; 64]);
    assert_eq!(Delta::read(&delta.write()).unwrap(), delta);
    assert!(delta.has_signature());
}
