//! Claims about the engine: steps of any size give the logits of the whole, a merge adds no operation, and what does not fit is refused.

use crate::common::{crafted, onnx, random};
use swr_core::network::architecture::Architecture;
use swr_core::network::graph::streaming_graph;
use swr_core::package::onnx::{ModelProto, Storage, store};
use swr_core::package::{Tensor, Tensors};
use swr_runtime::{Engine, EngineError, Operation};

const FRAMES: usize = 120;

/// Log-mel-like values, `[FRAMES, 40]`.
fn frames() -> Vec<f32> {
    (0..FRAMES * 40)
        .map(|i| ((i * 7_919) % 1_000) as f32 / 50.0 - 14.0)
        .collect()
}

fn run(engine: &mut Engine, frames: &[f32]) -> Vec<f32> {
    let mut logits = Vec::new();
    for step in frames.chunks(engine.step_frames() * 40) {
        engine.step(step, &mut logits).unwrap();
    }
    logits
}

/// Largest difference over largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0f32, |m, (x, y)| m.max((x - y).abs())) / largest
}

/// The network of `common` computed plainly in f64: `[T, classes]`.
fn by_hand(tensors: &Tensors, frames: &[f32]) -> Vec<f32> {
    let weight = |name: &str, index: usize| f64::from(tensors[name].data[index]);
    let classes = tensors["classifier.bias"].data.len();
    let length = frames.len() / 40;
    let input = |t: isize, f: isize| {
        if t < 0 || !(0..40).contains(&f) {
            0.0
        } else {
            f64::from(frames[t as usize * 40 + f as usize])
        }
    };
    let mut tail = vec![[0.0; 4]; length];
    for t in 0..length {
        for f in 0..20 {
            for c in 0..2 {
                let mut sum = 0.0;
                for (i, j) in (0..5).flat_map(|i| (0..5).map(move |j| (i, j))) {
                    let value = input(t as isize + j as isize - 4, 2 * f as isize + i as isize - 2);
                    sum += weight("head.conv.weight", c * 25 + i * 5 + j) * value;
                }
                let out =
                    (sum * weight("head.norm.scale", c) + weight("head.norm.shift", c)).max(0.0);
                for (o, tail) in tail[t].iter_mut().enumerate() {
                    *tail += out * weight("tail.conv.weight", o * 40 + c * 20 + f);
                }
            }
        }
    }
    let mut logits = Vec::new();
    for t in 0..length {
        for class in 0..classes {
            let logit = (0..4).map(|c| {
                let past = |k: usize| t.checked_sub(2 * (2 - k)).map_or(0.0, |t| tail[t][c]);
                let time = (0..3).map(|k| weight("block00.time.conv.weight", c * 3 + k) * past(k));
                weight("classifier.weight", class * 4 + c) * time.sum::<f64>()
            });
            let logit = weight("classifier.bias", class) + logit.sum::<f64>();
            logits.push(logit as f32);
        }
    }
    logits
}

#[test]
fn steps_of_any_size_give_the_logits_of_the_whole() {
    let tensors = random(4, 1);
    let bytes = onnx(&tensors);
    let frames = frames();
    let whole = run(&mut Engine::new(&bytes, None, FRAMES).unwrap(), &frames);
    assert!(distance(&whole, &by_hand(&tensors, &frames)) < 1e-5);
    for step_frames in [1, 3, 4, 10] {
        let mut engine = Engine::new(&bytes, None, step_frames).unwrap();
        assert!(
            distance(&run(&mut engine, &frames), &whole) < 1e-5,
            "steps of {step_frames}"
        );
    }
}

#[test]
fn a_reset_engine_is_as_new() {
    for bytes in [onnx(&random(4, 2)), bc_resnet(1.0, 4, 2)] {
        let mut engine = Engine::new(&bytes, None, 4).unwrap();
        let frames = frames();
        let first = run(&mut engine, &frames);
        let continued = run(&mut engine, &frames);
        assert_ne!(first, continued, "the state has no effect");
        engine.reset();
        assert_eq!(run(&mut engine, &frames), first);
    }
}

/// The tensors of a BC-ResNet with values that keep their size from block to block.
fn bc_resnet_tensors(tau: f64, classes: usize, seed: u64) -> Tensors {
    let architecture = Architecture::causal(tau);
    let mut state = seed;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005) ^ 0x5DEE_CE66D;
        state = state.wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let tensors = [
        architecture.body_tensors(),
        architecture.classifier_tensors(classes),
    ]
    .concat();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let count: usize = shape.iter().product();
        let (middle, spread) = match name.rsplit('.').next() {
            Some("scale") => (1.0, 0.5),
            Some("shift" | "bias") => (0.0, 0.3),
            _ => (0.0, (3.0 * shape[0] as f32 / count as f32).sqrt()),
        };
        let data = (0..count).map(|_| middle + spread * noise()).collect();
        (name, Tensor { shape, data })
    };
    tensors.into_iter().map(tensor).collect()
}

fn bc_resnet(tau: f64, classes: usize, seed: u64) -> Vec<u8> {
    streaming_graph(tau, &bc_resnet_tensors(tau, classes, seed)).unwrap()
}

#[test]
fn a_fused_network_is_the_graph_it_replaces() {
    let frames = frames();
    for (tau, classes) in [
        (1.0, 42),
        (1.5, 10),
        (2.0, 7),
        (3.0, 12),
        (6.0, 5),
        (8.0, 3),
    ] {
        let bytes = bc_resnet(tau, classes, classes as u64);
        let merged = bc_resnet_tensors(tau, classes + 2, 99);
        for merged in [None, Some(&merged)] {
            let unfused = run(&mut Engine::unfused(&bytes, merged, 4).unwrap(), &frames);
            let mut fused = Engine::new(&bytes, merged, 4).unwrap();
            assert!(matches!(fused, Engine::Fused(_)));
            let found = run(&mut fused, &frames);
            assert!(distance(&found, &unfused) < 1e-5, "tau {tau}");
            let bits = |logits: &[f32]| logits.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            for step_frames in [1, 2, 3, 5, 10, 24, FRAMES] {
                let mut engine = Engine::new(&bytes, merged, step_frames).unwrap();
                let steps = run(&mut engine, &frames);
                assert_eq!(
                    bits(&steps),
                    bits(&found),
                    "tau {tau}, steps of {step_frames}"
                );
            }
        }
    }
}

#[test]
fn weights_stored_small_are_fused_all_the_same() {
    let bytes = bc_resnet(1.0, 5, 3);
    for storage in [Storage::F16, Storage::Int8] {
        let small = store(&bytes, storage).unwrap();
        let mut fused = Engine::new(&small, None, 4).unwrap();
        assert!(matches!(fused, Engine::Fused(_)));
        let mut unfused = Engine::unfused(&small, None, 4).unwrap();
        let frames = frames();
        let apart = distance(&run(&mut fused, &frames), &run(&mut unfused, &frames));
        assert!(apart < 1e-5, "{apart}");
    }
}

#[test]
fn a_graph_that_is_nearly_known_is_run_as_it_is() {
    let change = |edit: &dyn Fn(&mut ModelProto)| {
        let bytes = bc_resnet(1.0, 4, 11);
        let mut model = <ModelProto as prost::Message>::decode(bytes.as_slice()).unwrap();
        edit(&mut model);
        let bytes = model.to_bytes();
        let mut engine = Engine::new(&bytes, None, 4).unwrap();
        assert!(matches!(engine, Engine::Graph(_)));
        let mut unfused = Engine::unfused(&bytes, None, 4).unwrap();
        assert_eq!(run(&mut engine, &frames()), run(&mut unfused, &frames()));
    };
    let node = |model: &mut ModelProto, output: &str, operator: &str| {
        let nodes = &mut model.graph.as_mut().unwrap().node;
        let node = nodes.iter_mut().find(|node| node.output[0] == output);
        node.unwrap().op_type = operator.into();
    };
    change(&|model| node(model, "head.relu", "Sigmoid"));
    change(&|model| node(model, "block05.relu", "Tanh"));
    // A stride or a sub-band's place is as much part of the network as its operations.
    change(&|model| {
        let initialisers = &mut model.graph.as_mut().unwrap().initializer;
        let bands = initialisers.iter_mut().find(|t| t.name == "sub_band_of_20");
        bands.unwrap().raw_data[8 * 19] = 3;
    });
}

#[test]
fn merged_tensors_take_the_place_of_the_bases() {
    let (base, other) = (random(4, 3), random(6, 4));
    let frames = frames();
    let mut merged = Engine::new(&onnx(&base), Some(&other), 4).unwrap();
    let mut fresh = Engine::new(&onnx(&other), None, 4).unwrap();
    assert_eq!(merged.classes(), 6);
    assert_eq!(run(&mut merged, &frames), run(&mut fresh, &frames));
}

#[test]
fn values_stored_as_floats_are_patched_like_raw_bytes() {
    let (base, other) = (random(4, 5), random(4, 6));
    let frames = frames();
    let mut model = <ModelProto as prost::Message>::decode(onnx(&base).as_slice()).unwrap();
    for tensor in &mut model.graph.as_mut().unwrap().initializer {
        if let Some(values) = base.get(&tensor.name) {
            tensor.raw_data.clear();
            tensor.float_data = values.data.clone();
        }
    }
    let mut unchanged = Engine::new(&model.to_bytes(), None, 4).unwrap();
    assert_eq!(
        run(&mut unchanged, &frames),
        run(&mut Engine::new(&onnx(&base), None, 4).unwrap(), &frames)
    );
    let mut merged = Engine::new(&model.to_bytes(), Some(&other), 4).unwrap();
    assert_eq!(
        run(&mut merged, &frames),
        run(&mut Engine::new(&onnx(&other), None, 4).unwrap(), &frames)
    );
}

#[test]
fn a_merge_adds_no_operation() {
    let base = crafted(4, 0, 1);
    let bytes = onnx(&base);
    let operations = |merged: Option<&Tensors>| {
        Engine::new(&bytes, merged, 4)
            .unwrap()
            .operations()
            .unwrap()
    };
    let same_rows = random(4, 7);
    assert_eq!(operations(Some(&same_rows)), operations(None));

    // With another number of labels only the shapes and multiply-adds of the classifier differ.
    let more_rows = random(5, 8);
    let (merged, plain) = (operations(Some(&more_rows)), operations(None));
    let names = |operations: &[Operation]| {
        operations
            .iter()
            .map(|o| o.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&merged), names(&plain));
    let work = |operations: &[Operation]| operations.iter().map(|o| o.multiply_adds).sum::<usize>();
    // Four frames, four channels into every row; a convolution's bias counts in neither.
    assert_eq!(work(&merged), work(&plain) + 4 * 4);
    assert!(work(&plain) > 0);
}

#[test]
fn a_step_of_another_length_is_refused_and_changes_nothing() {
    let bytes = onnx(&random(4, 9));
    let frames = frames();
    let mut engine = Engine::new(&bytes, None, 4).unwrap();
    let expected = run(&mut engine, &frames);
    engine.reset();
    let mut logits = Vec::new();
    engine.step(&frames[..160], &mut logits).unwrap();
    for length in [0, 40, 159, 161, 320] {
        assert!(matches!(
            engine.step(&frames[..length], &mut logits),
            Err(EngineError::StepLength { expected: 160, .. })
        ));
    }
    logits.extend(run(&mut engine, &frames[160..]));
    assert_eq!(logits, expected);
    assert!(matches!(
        Engine::new(&bytes, None, 0),
        Err(EngineError::NoFrames)
    ));
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let bytes = onnx(&random(4, 10));
    let with = |name: &str, shape: &[usize], values: usize| {
        let tensor = Tensor {
            shape: shape.to_vec(),
            data: vec![0.0; values],
        };
        Engine::new(&bytes, Some(&Tensors::from([(name.into(), tensor)])), 4)
    };
    assert!(matches!(
        with("block99.conv.weight", &[1], 1),
        Err(EngineError::UnknownTensor { .. })
    ));
    // The number of values decides; only the classifier may have other rows.
    for (name, shape, values) in [
        ("tail.conv.weight", &[5, 2, 20, 1][..], 200),
        ("tail.conv.weight", &[4, 2, 20, 1], 159),
        ("classifier.weight", &[5, 5, 1, 1], 25),
        ("classifier.weight", &[5, 4], 20),
        ("classifier.bias", &[4], 3),
        ("axis", &[1], 1),
    ] {
        assert!(
            matches!(with(name, shape, values), Err(EngineError::Tensor { .. })),
            "{name} {shape:?}"
        );
    }
    assert!(
        with("head.norm.scale", &[2], 2).is_ok(),
        "a norm written without its unit dimensions"
    );
    // Rows in one classifier tensor only.
    assert!(with("classifier.bias", &[5], 5).is_err());
}

#[test]
fn graphs_that_do_not_stream_are_refused() {
    let change = |edit: &dyn Fn(&mut ModelProto)| {
        let mut model =
            <ModelProto as prost::Message>::decode(onnx(&random(4, 11)).as_slice()).unwrap();
        edit(&mut model);
        Engine::new(&model.to_bytes(), None, 4).unwrap_err()
    };
    assert!(matches!(
        Engine::new(b"no onnx", None, 4),
        Err(EngineError::NotOnnx(_))
    ));
    assert!(matches!(
        Engine::new(b"", None, 4),
        Err(EngineError::NotOnnx(_))
    ));
    for (what, error) in [
        (
            "input name",
            change(&|m| m.graph.as_mut().unwrap().input[0].name = "mel".into()),
        ),
        (
            "no outputs",
            change(&|m| m.graph.as_mut().unwrap().output.clear()),
        ),
        (
            "unmade output",
            change(&|m| m.graph.as_mut().unwrap().output[0].name = "posteriors".into()),
        ),
        (
            "unsaved state",
            change(&|m| drop(m.graph.as_mut().unwrap().output.pop())),
        ),
    ] {
        assert!(matches!(error, EngineError::Graph(_)), "{what}: {error}");
    }
    let short = change(&|m| {
        m.graph.as_mut().unwrap().initializer[0]
            .raw_data
            .truncate(5)
    });
    assert!(matches!(short, EngineError::Tensor { .. }), "{short}");
    let huge =
        change(&|m| m.graph.as_mut().unwrap().initializer[0].dims = vec![i64::MAX, i64::MAX]);
    assert!(matches!(huge, EngineError::Tensor { .. }), "{huge}");
    let outside = change(&|m| m.graph.as_mut().unwrap().initializer[0].data_location = 1);
    assert!(matches!(outside, EngineError::Tensor { .. }), "{outside}");
    let unknown = change(&|m| m.graph.as_mut().unwrap().node[2].op_type = "Frobnicate".into());
    assert!(matches!(unknown, EngineError::Tract(_)), "{unknown}");
}
