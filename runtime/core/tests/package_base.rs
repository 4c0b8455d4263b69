//! Claims about what belongs to a base: budgets, digests, the initialisers of its ONNX file, and the index.

use proptest::{collection::vec, prelude::*};
use swr_core::package::{
    Budget, Counts, Digest, Entry, Index, IndexedFile, PackageError, Tensor, Tensors, digest,
    onnx::{self, GraphProto, ModelProto, NodeProto, Storage, TensorProto},
};

#[test]
fn budgets_are_read_as_typed() {
    let base = Counts {
        convolution: 6_420,
        norms: 2_416,
        classifier: 1_518,
        other: 0,
    };
    let changed = Counts {
        convolution: 600,
        norms: 10,
        classifier: 30,
        other: 0,
    };
    for (typed, allowed, used) in [
        ("10%", 642, 600),
        ("0.5%", 32, 600),
        ("12.50%", 802, 600),
        ("0%", 0, 600),
        ("100%", 6_420, 600),
        ("10%all", 1_035, 640),
        ("4000B", 4_000, 5_555),
    ] {
        let budget: Budget = typed.parse().unwrap();
        assert_eq!(budget.to_string(), typed);
        assert_eq!(budget.allowed(&base), allowed, "{typed}");
        assert_eq!(budget.used(&changed, 5_555), used, "{typed}");
    }
    for typed in [
        "",
        "10",
        "%",
        "10 %",
        "-1%",
        "1e1%",
        "101%",
        "100.0001%",
        "0.00001%",
        "4kB",
        "B",
        "+1B",
        "99999999999999999999B",
        "1234%",
        ".5%",
        "5.%",
        "10%All",
    ] {
        assert!(typed.parse::<Budget>().is_err(), "{typed}");
    }
}

#[test]
fn shares_are_exact_where_floats_are_not() {
    let hundred = Counts {
        convolution: 100,
        ..Counts::default()
    };
    for percent in 0..=100 {
        let budget: Budget = format!("{percent}%").parse().unwrap();
        assert_eq!(budget.allowed(&hundred), percent);
    }
}

#[test]
fn the_digest_is_the_documented_one() {
    let tensors = Tensors::from([("a".into(), Tensor::new(vec![2], vec![1.0, -0.0]))]);
    let mut bytes = b"swr-tensors-1\0".to_vec();
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(b"a");
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(2u64.to_le_bytes());
    bytes.extend([0, 0, 0x80, 0x3f, 0, 0, 0, 0x80]);
    assert_eq!(digest(&tensors), Digest::of_bytes(&bytes));
    let reshaped = Tensors::from([("a".into(), Tensor::new(vec![1, 2], vec![1.0, -0.0]))]);
    assert_ne!(digest(&tensors), digest(&reshaped));

    // SHA-256 of "abc": FIPS 180-2, appendix B.1.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(Digest::of_bytes(b"abc").to_string(), abc);
    assert_eq!(abc.parse::<Digest>().unwrap(), Digest::of_bytes(b"abc"));
    assert!("ba78".parse::<Digest>().is_err());
    assert!("é".repeat(32).parse::<Digest>().is_err());
}

fn model(initializer: Vec<TensorProto>) -> Vec<u8> {
    ModelProto::new(GraphProto {
        name: "test".into(),
        initializer,
        ..GraphProto::default()
    })
    .to_bytes()
}

/// A model whose weights are `Constant` nodes, as some exporters write them; `shift` is added to every weight.
fn constants(shift: f32) -> (Tensors, Vec<u8>) {
    use prost::Message;
    let tensors: Tensors = [("w", 60), ("bias", 3)]
        .map(|(name, length)| {
            let data = (0..length).map(|n| n as f32 * 0.37 + shift).collect();
            (name.to_string(), Tensor::new(vec![length], data))
        })
        .into();
    let node = |name: &str, value: TensorProto| {
        // Attribute 5 of a node: its name, the tensor, and that it is one (type 4).
        let mut attribute = Vec::new();
        prost::encoding::string::encode(1, &"value".to_owned(), &mut attribute);
        prost::encoding::message::encode(5, &value, &mut attribute);
        prost::encoding::int32::encode(20, &4, &mut attribute);
        let mut node = NodeProto {
            output: vec![name.to_owned()],
            op_type: "Constant".into(),
            ..NodeProto::default()
        }
        .encode_to_vec();
        prost::encoding::bytes::encode(5, &attribute, &mut node);
        node
    };
    let mut nodes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(name, tensor)| node(name, TensorProto::f32("", tensor)))
        .collect();
    nodes.push(node("axes", TensorProto::int64("", &[1, -1])));
    let mut graph = Vec::new();
    for node in &nodes {
        prost::encoding::bytes::encode(1, node, &mut graph);
    }
    let mut model = Vec::new();
    prost::encoding::bytes::encode(7, &graph, &mut model);
    (tensors, model)
}

#[test]
fn weights_in_constant_nodes_are_read() {
    let ((tensors, a), (shifted, b)) = (constants(0.0), constants(1.0));
    assert_eq!(onnx::initializers(&a).unwrap(), tensors);
    assert_eq!(onnx::initializers(&b).unwrap(), shifted);
    onnx::check_same_graph(&a, &b).unwrap();
    // A constant of a model with initialisers is no weight of it.
    let other = TensorProto::f32("other", &Tensor::new(vec![1], vec![2.0]));
    let both = [a.clone(), model(vec![other])].concat();
    assert_eq!(onnx::initializers(&both).unwrap().len(), 1);
    assert!(onnx::check_same_graph(&both, &[b, both.clone()].concat()).is_err());
    let small = onnx::store(&a, Storage::F16).unwrap();
    assert!(small.len() < a.len());
    let read = onnx::initializers(&small).unwrap();
    assert_eq!(
        read.keys().collect::<Vec<_>>(),
        tensors.keys().collect::<Vec<_>>()
    );
    assert_eq!(read["bias"], tensors["bias"]);
}

proptest! {
    #[test]
    fn initialisers_are_read_as_written(
        data in vec(any::<f32>(), 1..40),
        raw in any::<bool>(),
    ) {
        let tensor = Tensor::new(vec![1, data.len(), 1], data);
        let mut proto = TensorProto::f32("w", &tensor);
        if !raw {
            proto.raw_data.clear();
            proto.float_data = tensor.data.clone();
        }
        let read = onnx::initializers(&model(vec![TensorProto::int64("axes", &[3, -1]), proto])).unwrap();
        prop_assert_eq!(read.len(), 1);
        prop_assert_eq!(&read["w"].shape, &tensor.shape);
        let bits = |tensor: &Tensor| tensor.data.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&read["w"]), bits(&tensor));
    }

    #[test]
    fn a_damaged_model_never_panics(place in any::<prop::sample::Index>(), value in any::<u8>(), end in any::<prop::sample::Index>()) {
        let tensor = Tensor::new(vec![2, 3], vec![0.5; 6]);
        let mut bytes = model(vec![TensorProto::f32("w", &tensor)]);
        let place = place.index(bytes.len());
        bytes[place] = value;
        let _ = onnx::initializers(&bytes);
        let _ = onnx::initializers(&bytes[..end.index(bytes.len())]);
    }
}

#[test]
fn initialisers_that_cannot_be_are_refused() {
    let tensor = Tensor::new(vec![2, 3], vec![0.5; 6]);
    let refuse = |alter: &dyn Fn(&mut TensorProto), expected: &str| {
        let mut proto = TensorProto::f32("w", &tensor);
        alter(&mut proto);
        let error = onnx::initializers(&model(vec![proto]))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    };
    refuse(&|proto| proto.dims[0] = 3, "does not fit 6 values");
    refuse(&|proto| proto.dims[0] = -2, "impossible dimension");
    refuse(
        &|proto| proto.dims = vec![i64::MAX, i64::MAX],
        "does not fit",
    );
    refuse(&|proto| proto.raw_data.truncate(23), "no whole number");
    refuse(&|proto| proto.float_data.push(1.0), "twice");
    refuse(&|proto| proto.data_location = 1, "another file");
    refuse(&|proto| proto.data_type = 7, "no f32 weight");
    let twice = vec![TensorProto::f32("w", &tensor); 2];
    assert!(onnx::initializers(&model(twice)).is_err());
    assert!(onnx::initializers(b"").is_err());
    assert!(onnx::initializers(b"RIFF....WAVE").is_err());
}

/// A model of one large and one small weight, and something that is no weight.
fn two_weights() -> (Tensors, ModelProto) {
    let tensor = |shape: &[usize]| {
        let count = shape.iter().product();
        let data = (0..count).map(|i| ((i * 37) % 101) as f32 / 100.0 - 0.5);
        Tensor::new(shape.to_vec(), data.collect())
    };
    let tensors = Tensors::from([
        ("a.conv.weight".to_string(), tensor(&[30, 20])),
        ("a.norm.scale".to_string(), tensor(&[30])),
    ]);
    let mut graph = GraphProto {
        initializer: tensors
            .iter()
            .map(|(n, t)| TensorProto::f32(n, t))
            .collect(),
        node: vec![NodeProto {
            op_type: "Mul".into(),
            input: vec!["a.conv.weight".into(), "a.norm.scale".into()],
            output: vec!["y".into()],
            ..NodeProto::default()
        }],
        ..GraphProto::default()
    };
    graph.initializer.push(TensorProto::int64("axes", &[1, 2]));
    (tensors, ModelProto::new(graph))
}

#[test]
fn weights_stored_smaller_are_read_as_what_they_stand_for() {
    let (tensors, model) = two_weights();
    let bytes = model.to_bytes();
    assert_eq!(onnx::store(&bytes, Storage::F32).unwrap(), bytes);
    for (storage, error, share) in [
        (Storage::F16, 3e-4, 0.6),
        (Storage::Int8, 0.51 / 127.0, 0.5),
    ] {
        let stored = onnx::store(&bytes, storage).unwrap();
        assert!(
            (stored.len() as f64) < share * bytes.len() as f64,
            "{} of {}",
            stored.len(),
            bytes.len()
        );
        let read = onnx::initializers(&stored).unwrap();
        assert!(read.keys().eq(tensors.keys()));
        for (name, tensor) in &read {
            assert_eq!(tensor.shape, tensors[name].shape);
            let pairs = tensor.data.iter().zip(&tensors[name].data);
            let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(largest <= error, "{storage:?} {name}: {largest}");
        }
        // Stored once, it stays so.
        assert_eq!(onnx::store(&stored, storage).unwrap().len(), stored.len());
    }
}

#[test]
fn what_cannot_be_stored_smaller_is_refused() {
    let mut large = two_weights().1;
    let graph = large.graph.as_mut().unwrap();
    graph.initializer[0] =
        TensorProto::f32("a.conv.weight", &Tensor::new(vec![30, 20], vec![1e30; 600]));
    let error = onnx::store(&large.to_bytes(), Storage::F16).unwrap_err();
    assert!(matches!(error, PackageError::NotFinite { .. }), "{error}");

    // A node that is no message: nobody looks at it while all weights are f32, but nothing is made with it.
    let bytes = two_weights().1.to_bytes();
    let place = bytes.windows(3).position(|w| w == b"Mul").unwrap();
    let mut damaged = bytes.clone();
    damaged[place] = 0xff;
    assert!(onnx::initializers(&damaged).is_ok());
    assert!(onnx::store(&damaged, Storage::Int8).is_err());
}

/// Operator, inputs, integer attributes.
type Node<'a> = (&'a str, &'a [&'a str], &'a [(&'a str, i64)]);

/// A model whose one node makes `w` of an int8 matrix of two rows, with the operator and attributes given.
fn stored_matrix(nodes: &[Node]) -> Vec<u8> {
    let mut values = TensorProto::int64("q", &[]);
    values.dims = vec![2, 2];
    values.data_type = 3;
    values.raw_data = vec![1, 2, 3, 4];
    let scale = TensorProto::f32("s", &Tensor::new(vec![2], vec![10.0, 100.0]));
    let node = |(place, (operator, input, attributes)): (usize, &Node)| NodeProto {
        op_type: operator.to_string(),
        input: input.iter().map(|name| name.to_string()).collect(),
        output: vec![if place == 0 {
            "w".into()
        } else {
            format!("w{place}")
        }],
        attribute: attributes
            .iter()
            .map(|(name, value)| onnx::AttributeProto::int(name, *value))
            .collect(),
        ..NodeProto::default()
    };
    let graph = GraphProto {
        node: nodes.iter().enumerate().map(node).collect(),
        initializer: vec![values, scale],
        ..GraphProto::default()
    };
    ModelProto::new(graph).to_bytes()
}

#[test]
fn only_what_a_node_really_makes_is_a_weight() {
    let weights = |nodes: &[Node]| onnx::initializers(&stored_matrix(nodes));
    let rows = weights(&[("DequantizeLinear", &["q", "s"], &[("axis", 0)])]).unwrap();
    assert_eq!(rows["w"].data, [10.0, 20.0, 300.0, 400.0]);
    assert!(!rows.contains_key("s"), "a scale is no weight");
    let cast = weights(&[("Cast", &["q"], &[("to", 1)])]).unwrap();
    assert_eq!(cast["w"].data, [1.0, 2.0, 3.0, 4.0]);
    // Columns, the operator's default; another type; a zero point: not ours, and not misread.
    for other in [
        ("DequantizeLinear", &["q", "s"][..], &[][..]),
        ("DequantizeLinear", &["q", "s"], &[("axis", 1)]),
        ("Cast", &["q"], &[("to", 7)]),
        ("DequantizeLinear", &["q", "s", "z"], &[("axis", 0)]),
    ] {
        let read = weights(&[other]).unwrap();
        assert!(
            !read.contains_key("w") && read.contains_key("s"),
            "{other:?}"
        );
    }
    // A shared scale serves both; a shared matrix would make two weights of one, as many as a file has nodes.
    let twice = [("Cast", &["q"][..], &[("to", 1)][..]); 2];
    assert!(
        weights(&twice)
            .unwrap_err()
            .to_string()
            .contains("two nodes")
    );
}

#[test]
fn networks_that_differ_in_more_than_weights_are_told() {
    let a = stored_matrix(&[("DequantizeLinear", &["q", "s"], &[("axis", 0)])]);
    let b = stored_matrix(&[("DequantizeLinear", &["q", "s"], &[("axis", 1)])]);
    assert!(onnx::check_same_graph(&a, &a).is_ok());
    assert!(onnx::check_same_graph(&a, &b).is_err());
    let mut other_values = a.clone();
    let place = other_values
        .windows(4)
        .position(|w| w == [1, 2, 3, 4])
        .unwrap();
    other_values[place] = 9;
    assert!(onnx::check_same_graph(&a, &other_values).is_err());
    let mut other_scale = a.clone();
    let place = other_scale
        .windows(4)
        .position(|w| w == 10f32.to_le_bytes())
        .unwrap();
    other_scale[place] = 1;
    assert!(onnx::check_same_graph(&a, &other_scale).is_ok());
}

fn index() -> Index {
    let file = |name: &str| IndexedFile {
        name: name.into(),
        bytes: 1_000,
        sha256: Digest([1; 32]),
    };
    let entry = |language: &str, names: &[&str]| Entry {
        language: language.into(),
        model_version: 2,
        files: names.iter().map(|name| file(name)).collect(),
    };
    Index {
        format: 1,
        base: entry("en", &["base.json", "base.onnx"]),
        languages: vec![entry("de", &["de.swr", "de.swr.minisig"])],
    }
}

#[test]
fn an_index_is_read_as_written_and_names_no_paths() {
    let json = index().to_json().unwrap();
    assert_eq!(Index::parse(json.as_bytes()).unwrap(), index());
    let refused = |from: &str, to: &str| {
        assert!(json.contains(from));
        Index::parse(json.replacen(from, to, 1).as_bytes()).unwrap_err()
    };
    for name in [
        "../de.swr",
        "/etc/passwd",
        "a/b",
        "C:\\\\x",
        "",
        ".hidden",
        "base.onnx",
    ] {
        let error = refused("de.swr\"", &format!("{name}\""));
        assert!(
            matches!(error, PackageError::BadField { field: "name", .. }),
            "{name}: {error}"
        );
    }
    assert!(matches!(
        refused("\"de\"", "\"en\""),
        PackageError::BadField {
            field: "language",
            ..
        }
    ));
    assert!(matches!(
        refused("1000", "999999999999"),
        PackageError::BadField { field: "bytes", .. }
    ));
    assert!(matches!(
        refused("\"sha256\"", "\"md5\""),
        PackageError::BadIndex { .. }
    ));
    let version = PackageError::UnsupportedVersion {
        what: "index",
        found: 2,
        supported: 1,
    };
    assert_eq!(refused("\"format\": 1", "\"format\": 2"), version);
    let large = Index::parse(&vec![b' '; 2 << 20]).unwrap_err();
    assert!(matches!(large, PackageError::TooLarge { .. }));
}
