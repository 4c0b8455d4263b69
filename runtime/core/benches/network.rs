//! What the live path costs: the fused network for steps of 10, 40 and 100 ms and for a window of a second, and the front end, per step.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use swr_core::frontend::Frontend;
use swr_core::network::Network;
use swr_core::network::architecture::Architecture;
use swr_core::package::{Tensor, Tensors};
use swr_core::{HOP_SAMPLES, MEL_BINS};

/// Weights of no meaning: the time does not depend on them.
fn tensors(tau: f64, classes: usize) -> Tensors {
    let architecture = Architecture::causal(tau);
    let body = architecture.body_tensors();
    let all = body
        .into_iter()
        .chain(architecture.classifier_tensors(classes));
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let values = (0..shape.iter().product()).map(|i: usize| ((i * 37) % 101) as f32 / 404.0);
        (name, Tensor::new(shape, values.collect()))
    };
    all.map(tensor).collect()
}

fn network(c: &mut Criterion) {
    for tau in [1.0, 3.0] {
        let network = Network::new(&tensors(tau, 42)).expect("a network");
        let mut group = c.benchmark_group(format!("network tau={tau}"));
        for frames in [1, 4, 10, 98] {
            let (mut state, mut logits) = (network.state(), Vec::new());
            let log_mel = vec![-6.0; frames * MEL_BINS];
            group.bench_function(format!("{frames} frames"), |b| {
                b.iter(|| {
                    logits.clear();
                    network
                        .step(&mut state, black_box(&log_mel), &mut logits)
                        .expect("whole frames");
                });
            });
        }
    }
    let tensors = tensors(1.0, 42);
    c.bench_function("network from tensors", |b| {
        b.iter(|| Network::new(black_box(&tensors)).expect("a network"));
    });
}

fn frontend(c: &mut Criterion) {
    let mut frontend = Frontend::new(&Default::default()).expect("the default settings");
    let mut frames = Vec::new();
    let samples: Vec<f32> = (0..4 * HOP_SAMPLES)
        .map(|i| (i as f32 * 0.3).sin() * 0.1)
        .collect();
    c.bench_function("front end, 4 frames", |b| {
        b.iter(|| {
            frames.clear();
            frontend
                .push(black_box(&samples), &mut frames)
                .expect("finite samples");
        });
    });
}

criterion_group!(benches, network, frontend);
criterion_main!(benches);
