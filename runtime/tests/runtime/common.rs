//! A small streaming network and directories of models for the tests: no trained weights, no recordings.
//!
//! Its tensors carry the project's names. [`crafted`] weights tell a low tone from a high one, so that whole commands can be tested;
//! [`random`] weights serve comparisons of numbers.

use std::f32::consts::TAU;
use std::path::Path;

use swr_core::FrontendSettings;
use swr_core::package::onnx::{
    AttributeProto, Dimension, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};
use swr_core::package::{
    Delta, DeltaHeader, Digest, Label, MANIFEST_VERSION, Manifest, Precision, Tensor, Tensors,
    Thresholds, digest,
};

pub(crate) const BASE_LABELS: [&str; 4] = ["low", "high", "_unknown_", "_silence_"];
pub(crate) const DELTA_LABELS: [&str; 5] = ["hoch", "mittel", "tief", "_unknown_", "_silence_"];

/// Channels of the network: 2 after the head, 4 after the tail.
fn shapes(classes: usize) -> Vec<(&'static str, Vec<usize>)> {
    vec![
        ("head.conv.weight", vec![2, 1, 5, 5]),
        ("head.norm.scale", vec![1, 2, 1, 1]),
        ("head.norm.shift", vec![1, 2, 1, 1]),
        ("tail.conv.weight", vec![4, 2, 20, 1]),
        ("block00.time.conv.weight", vec![4, 1, 1, 3]),
        ("classifier.weight", vec![classes, 4, 1, 1]),
        ("classifier.bias", vec![classes]),
    ]
}

/// Weights in [-0.5, 0.5] by a linear congruential generator.
pub(crate) fn random(classes: usize, seed: u32) -> Tensors {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let tensor = |(name, shape): (&str, Vec<usize>)| {
        let data = (0..shape.iter().product()).map(|_| next()).collect();
        (name.to_owned(), Tensor { shape, data })
    };
    shapes(classes).into_iter().map(tensor).collect()
}

/// Weights with which class `low` answers to tones below about 1.5 kHz, class `high` to those above, and the last class to quiet.
pub(crate) fn crafted(classes: usize, low: usize, high: usize) -> Tensors {
    let mut tensors: Tensors = shapes(classes)
        .into_iter()
        .map(|(name, shape)| {
            let data = vec![0.0; shape.iter().product()];
            (name.to_owned(), Tensor { shape, data })
        })
        .collect();
    let mut set = |name: &str, values: &mut dyn FnMut(usize) -> f32| {
        for (index, value) in tensors.get_mut(name).unwrap().data.iter_mut().enumerate() {
            *value = values(index);
        }
    };
    // Channel 0 of the head: every other band of the newest frame. Channel 1 stays zero.
    set("head.conv.weight", &mut |i| f32::from(u8::from(i == 14)));
    set("head.norm.scale", &mut |_| 1.0);
    // Log-mels of quiet are about -13.8, those of a tone about 7; only the latter pass the ReLU.
    set("head.norm.shift", &mut |i| if i == 0 { 4.0 } else { 0.0 });
    // Channel 0 of the tail sums the lower ten bands, channel 1 the upper ten.
    set("tail.conv.weight", &mut |i| match i {
        0..10 => 0.2,
        50..60 => 0.2,
        _ => 0.0,
    });
    set("block00.time.conv.weight", &mut |i| {
        [0.25, 0.25, 0.5][i % 3]
    });
    set("classifier.weight", &mut |i| {
        f32::from(u8::from(i == 4 * low || i == 4 * high + 1)) * 6.0
    });
    set("classifier.bias", &mut |i| {
        if i + 1 == classes { 4.0 } else { 0.0 }
    });
    tensors
}

/// The graph being built: nodes whose names are their outputs', and the states met so far.
#[derive(Default)]
struct Builder {
    graph: GraphProto,
}

impl Builder {
    fn node(&mut self, op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|input| input.to_string()).collect(),
            output: vec![output.into()],
            name: output.into(),
            op_type: op.into(),
            attribute,
        });
    }

    fn conv(&mut self, inputs: &[&str], output: &str, settings: &[(&str, &[i64])], group: i64) {
        let ints = settings
            .iter()
            .map(|(name, values)| AttributeProto::ints(name, values));
        self.node(
            "Conv",
            inputs,
            output,
            ints.chain([AttributeProto::int("group", group)]).collect(),
        );
    }

    /// `x` with the state `name` of `past` frames before it; the last frames become the next state.
    fn carry(&mut self, x: &str, name: &str, [channels, bands, past]: [i64; 3]) -> String {
        let (state, next) = (format!("state.{name}"), format!("next_state.{name}"));
        let (joined, start) = (format!("{name}.joined"), format!("{name}.start"));
        self.graph
            .initializer
            .push(TensorProto::int64(&start, &[-past]));
        self.node(
            "Concat",
            &[&state, x],
            &joined,
            vec![AttributeProto::int("axis", 3)],
        );
        self.node("Slice", &[&joined, &start, "end", "axis"], &next, vec![]);
        let shape = [1, channels, bands, past].map(Dimension::Value).to_vec();
        self.graph
            .input
            .push(ValueInfoProto::f32(&state, shape.clone()));
        self.graph.output.push(ValueInfoProto::f32(&next, shape));
        joined
    }
}

/// The network as ONNX bytes, with explicit state and symbolic numbers of frames and classes.
pub(crate) fn onnx(tensors: &Tensors) -> Vec<u8> {
    let symbol = |name: &str| Dimension::Symbol(name.into());
    let mut builder = Builder::default();
    let frames = vec![
        Dimension::Value(1),
        Dimension::Value(1),
        Dimension::Value(40),
        symbol("N"),
    ];
    builder
        .graph
        .input
        .push(ValueInfoProto::f32("frames", frames));
    let logits = vec![
        Dimension::Value(1),
        symbol("classes"),
        Dimension::Value(1),
        symbol("N"),
    ];
    builder
        .graph
        .output
        .push(ValueInfoProto::f32("logits", logits));
    let weights = tensors
        .iter()
        .map(|(name, tensor)| TensorProto::f32(name, tensor));
    builder.graph.initializer.extend(weights);
    builder
        .graph
        .initializer
        .push(TensorProto::int64("axis", &[3]));
    builder
        .graph
        .initializer
        .push(TensorProto::int64("end", &[i64::MAX]));

    let x = builder.carry("frames", "head.conv", [1, 40, 4]);
    let head: &[(&str, &[i64])] = &[
        ("kernel_shape", &[5, 5]),
        ("strides", &[2, 1]),
        ("pads", &[2, 0, 2, 0]),
    ];
    builder.conv(&[&x, "head.conv.weight"], "head", head, 1);
    builder.node("Mul", &["head", "head.norm.scale"], "head.scaled", vec![]);
    builder.node(
        "Add",
        &["head.scaled", "head.norm.shift"],
        "head.shifted",
        vec![],
    );
    builder.node("Relu", &["head.shifted"], "head.out", vec![]);
    builder.conv(
        &["head.out", "tail.conv.weight"],
        "tail",
        &[("kernel_shape", &[20, 1])],
        1,
    );
    let x = builder.carry("tail", "block00.time.conv", [4, 1, 4]);
    let time: &[(&str, &[i64])] = &[("kernel_shape", &[1, 3]), ("dilations", &[1, 2])];
    builder.conv(&[&x, "block00.time.conv.weight"], "time", time, 4);
    let classifier = ["time", "classifier.weight", "classifier.bias"];
    builder.conv(&classifier, "logits", &[("kernel_shape", &[1, 1])], 1);
    ModelProto::new(builder.graph).to_bytes()
}

pub(crate) fn labels(of: &[&str]) -> Vec<String> {
    of.iter().map(|label| label.to_string()).collect()
}

pub(crate) fn manifest(tensors: &Tensors, onnx: &[u8], of: &[&str]) -> Manifest {
    Manifest {
        format: MANIFEST_VERSION,
        model_version: 3,
        architecture: "two tones".into(),
        language: "en".into(),
        labels: labels(of),
        thresholds: Thresholds::ForAll(0.8),
        calibration: None,
        frontend: FrontendSettings::default(),
        window_frames: 98,
        timing: Some(swr_core::detector::Timing::default()),
        context_frames: 46,
        licence: "MIT OR Apache-2.0".into(),
        tensors_sha256: digest(tensors),
        onnx_sha256: Digest::of_bytes(onnx),
        needs: Vec::new(),
        training: serde_json::Map::new(),
    }
}

/// SHA-256 of the manifest of the base `base`, as [`models`] writes it.
fn manifest_sha256(base: &Tensors) -> Digest {
    let json = manifest(base, &onnx(base), &BASE_LABELS).to_json().unwrap();
    Digest::of_bytes(json.as_bytes())
}

/// A delta in German, in which the low tone is `tief` and the high one `hoch`; one convolution weight in ten changes.
pub(crate) fn delta(base: &Tensors, budget: &str) -> Delta {
    let mut tuned = crafted(DELTA_LABELS.len(), 2, 0);
    for weight in tuned
        .get_mut("tail.conv.weight")
        .unwrap()
        .data
        .iter_mut()
        .take(16)
    {
        *weight += 0.01;
    }
    let header = DeltaHeader {
        language: "de".into(),
        model_version: 3,
        manifest: Some(manifest_sha256(base)),
        labels: labels(&DELTA_LABELS).into_iter().map(Label::from).collect(),
        thresholds: vec![0.8; DELTA_LABELS.len()],
        calibration: None,
        budget: Some(budget.parse().unwrap()),
        synthetic: true,
        provenance: "made by a test".into(),
    };
    Delta::build(base, &tuned, header, Precision::DEFAULT).unwrap()
}

/// Writes `base.onnx`, `base.json` and `de.swr` into `directory`; gives the base's tensors.
pub(crate) fn models(directory: &Path) -> Tensors {
    let base = crafted(BASE_LABELS.len(), 0, 1);
    let network = onnx(&base);
    let manifest = manifest(&base, &network, &BASE_LABELS).to_json().unwrap();
    std::fs::write(directory.join("base.onnx"), network).unwrap();
    std::fs::write(directory.join("base.json"), manifest).unwrap();
    std::fs::write(directory.join("de.swr"), delta(&base, "10%").write()).unwrap();
    base
}

/// A tone of `length_samples` that rises and falls softly, so that it has no click.
pub(crate) fn tone(hz: f32, length_samples: usize) -> Vec<f32> {
    (0..length_samples)
        .map(|i| {
            let edge = i.min(length_samples - i) as f32 / 800.0;
            0.3 * edge.min(1.0) * (TAU * hz * i as f32 / 16_000.0).sin()
        })
        .collect()
}

/// Quiet with tones: `(start in seconds, frequency in Hz)`, each 0.6 s long.
pub(crate) fn tones(seconds: f32, what: &[(f32, f32)]) -> Vec<f32> {
    let mut samples = vec![0.0; (seconds * 16_000.0) as usize];
    for &(start_s, hz) in what {
        let start = (start_s * 16_000.0) as usize;
        samples[start..start + 9_600].copy_from_slice(&tone(hz, 9_600));
    }
    samples
}

/// Writes 16-bit mono WAV at 16 kHz.
pub(crate) fn write_wav(path: &Path, samples: &[f32]) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    samples
        .iter()
        .for_each(|s| writer.write_sample((s * 32_767.0) as i16).unwrap());
    writer.finalize().unwrap();
}
