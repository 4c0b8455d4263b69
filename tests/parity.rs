//! Two ways to one answer: the trainer's network in candle against the runtime's in tract, streams against whole clips, merged
//! networks against the base. On project-made audio, so that these run everywhere.

use candle_core::{Device, Tensor};
use swr_core::audio::decode_16k_mono;
use swr_core::frontend::{Frontend, log_mel};
use swr_core::{CONTEXT_FRAMES, FrontendSettings, GainSettings, MEL_BINS, WINDOW_SAMPLES};
use swr_runtime::{ClipRunner, Engine, Model, Models, Operation};
use swr_tests::{models, project};
use swr_trainer::network::{Pass, Path, frame_logits};

const LANGUAGES: [&str; 5] = ["en", "ar", "zh", "de", "pl"];

/// Project-made speech: the demo's audio of a language, English where it has none. Logits must agree on any sound.
fn audio(language: &str) -> Vec<f32> {
    let own = models().join(format!("../demo/{language}.flac"));
    let path = if own.exists() {
        own
    } else {
        models().join("../demo/en.flac")
    };
    decode_16k_mono(&std::fs::read(&path).expect("the demo's audio")).expect("decodable audio")
}

/// `[T, 40]` frames as candle's `[1, 1, 40, T]`.
fn as_tensor(frames: &[f32]) -> Tensor {
    let count = frames.len() / MEL_BINS;
    let tensor = Tensor::from_slice(frames, (count, MEL_BINS), &Device::Cpu).unwrap();
    tensor
        .t()
        .unwrap()
        .reshape((1, 1, MEL_BINS, count))
        .unwrap()
        .contiguous()
        .unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let scale = b.iter().fold(1e-12f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / scale
}

fn stream(engine: &mut Engine, frames: &[f32]) -> Vec<f32> {
    engine.reset();
    let mut logits = Vec::new();
    for chunk in frames.chunks_exact(engine.step_frames() * MEL_BINS) {
        engine.step(chunk, &mut logits).unwrap();
    }
    logits
}

#[test]
fn candle_and_tract_give_the_same_logits() {
    // Released models, and the base of the larger size.
    let large = project().join("models/large");
    let released = LANGUAGES.map(|language| (models(), language));
    for (folder, language) in released.into_iter().chain([(large, "en")]) {
        let (architecture, read, weights) =
            swr_trainer::models::read_language(&folder, language).unwrap();
        let model = Models::open(&folder).unwrap().load(language).unwrap();
        assert_eq!(model.language, read);
        let mut runner = ClipRunner::new(&model).unwrap();
        for second in audio(language).chunks_exact(16_000).take(8) {
            let tract = runner.logits(second).unwrap().to_vec();
            let mut samples = vec![0f32; swr_trainer::augment::CONTEXT_SAMPLES];
            samples.extend(second);
            let x = as_tensor(&log_mel(&model.language.frontend, &samples).unwrap());
            for path in [Path::Fused, Path::Plain] {
                let pass = Pass {
                    path,
                    ..Pass::evaluation()
                };
                let logits = frame_logits(&architecture, &weights, &x, &pass).unwrap();
                let frames = logits.dim(2).unwrap();
                let candle = logits
                    .narrow(2, CONTEXT_FRAMES, frames - CONTEXT_FRAMES)
                    .unwrap()
                    .transpose(1, 2)
                    .unwrap()
                    .contiguous()
                    .unwrap()
                    .flatten_all()
                    .unwrap()
                    .to_vec1()
                    .unwrap();
                let difference = largest_difference(&tract, &candle);
                assert!(
                    difference < 1e-4,
                    "{language}: tract and candle's {path:?} path differ by {difference} of the largest logit"
                );
            }
        }
    }
}

#[test]
fn a_stream_in_tract_equals_the_whole() {
    let opened = Models::open(models()).unwrap();
    for language in ["en", "ar"] {
        let model = opened.load(language).unwrap();
        let frames = log_mel(&model.language.frontend, &audio(language)[..16_000 * 6]).unwrap();
        let count = frames.len() / MEL_BINS / 20 * 20;
        let frames = &frames[..count * MEL_BINS];
        let whole = stream(&mut model.engine(count).unwrap(), frames);
        let (architecture, _, weights) =
            swr_trainer::models::read_language(&models(), language).unwrap();
        let candle = frame_logits(
            &architecture,
            &weights,
            &as_tensor(frames),
            &Pass::evaluation(),
        )
        .unwrap();
        let candle: Vec<f32> = candle
            .squeeze(0)
            .unwrap()
            .t()
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        assert!(largest_difference(&whole, &candle) < 1e-4);
        // Operation by operation as well: the graph is what the package holds, the fused network what runs.
        let onnx = model.to_onnx().unwrap();
        let unfused = stream(&mut Engine::unfused(&onnx, None, count).unwrap(), frames);
        assert!(largest_difference(&unfused, &candle) < 1e-4);
        assert!(largest_difference(&unfused, &whole) < 1e-5);
        for step in [1, 4, 10] {
            let difference =
                largest_difference(&stream(&mut model.engine(step).unwrap(), frames), &whole);
            assert!(
                difference < 1e-5,
                "{language}: steps of {step} frames differ from the whole by {difference}"
            );
        }
    }
}

#[test]
fn merging_adds_no_operation() {
    let opened = Models::open(models()).unwrap();
    let base = opened.load("en").unwrap();
    let operations_of = |model: &Model| {
        let onnx = model.to_onnx().unwrap();
        let unfused = Engine::unfused(&onnx, None, 4).unwrap();
        let fused = model.engine(4).unwrap();
        (unfused.operations().unwrap(), fused.operations().unwrap())
    };
    let (base_operations, base_fused) = operations_of(&base);
    let work = |operations: &[Operation]| operations.iter().map(|o| o.multiply_adds).sum::<usize>();
    assert_eq!(base_fused.len(), 1, "the network is one operation");
    let widths = |count: usize, rows: usize, shape: &[usize]| {
        shape
            .iter()
            .map(|d| if *d == rows { count } else { *d })
            .collect::<Vec<_>>()
    };
    for language in ["ar", "zh", "de", "pl"] {
        let model = opened.load(language).unwrap();
        let (operations, fused) = operations_of(&model);
        // Four frames, and 32 features into every label.
        let more = 4 * 32 * model.language.labels.len() as i64
            - 4 * 32 * base.language.labels.len() as i64;
        assert_eq!(work(&fused) as i64 - work(&base_fused) as i64, more);
        assert_eq!(
            operations.len(),
            base_operations.len(),
            "{language}: number of operations"
        );
        for (base_op, op) in base_operations.iter().zip(&operations) {
            assert_eq!(base_op.name, op.name, "{language}");
            if base_op == op {
                continue;
            }
            // What differs must be the classifier: the same but for the number of labels.
            let (was, now) = (base.language.labels.len(), model.language.labels.len());
            let renamed: Vec<_> = base_op
                .shapes
                .iter()
                .map(|shape| widths(now, was, shape))
                .collect();
            assert_eq!(
                renamed, op.shapes,
                "{language}: {} has other shapes",
                op.name
            );
            assert_eq!(
                base_op.multiply_adds * now,
                op.multiply_adds * was,
                "{language}: {} has other multiply-adds",
                op.name
            );
        }
        let differing = base_operations
            .iter()
            .zip(&operations)
            .filter(|(a, b)| a.multiply_adds != b.multiply_adds)
            .count();
        assert_eq!(
            differing, 1,
            "{language}: exactly the classifier costs what its labels cost"
        );
    }
}

#[test]
fn training_and_device_features_are_the_same_bits() {
    let samples = &audio("en")[..16_000 * 3];
    let settings = FrontendSettings {
        gain: Some(GainSettings::default()),
        ..FrontendSettings::default()
    };
    let whole = log_mel(&settings, samples).unwrap();
    let mut frontend = Frontend::new(&settings).unwrap();
    let mut streamed = Vec::new();
    // Chunks of a microphone's callback: anything.
    for chunk in samples.chunks(213) {
        frontend.push(chunk, &mut streamed).unwrap();
    }
    assert!(samples.len() > WINDOW_SAMPLES);
    let bits = |frames: &[f32]| frames.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&whole), bits(&streamed));
}
