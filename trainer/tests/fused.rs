//! The fused passes against the same network in candle's own operations: outputs, statistics and every tensor's gradient.

use candle_core::{DType, Device, Tensor, Var};
use swr_trainer::architecture::{Architecture, TimePadding};
use swr_trainer::fused::{NormMode, NormStatistics};
use swr_trainer::network::{Pass, Path, Weights, clip_logits, cross_entropy, initial_weights};

struct Outcome {
    loss: f32,
    gradients: Vec<(String, Vec<f32>)>,
    statistics: NormStatistics,
}

fn run(
    architecture: &Architecture,
    weights: &Weights,
    x: &Tensor,
    labels: &Tensor,
    path: Path,
    batch_norm: bool,
) -> Outcome {
    // The oracle computes in f64, so that a difference is the fused passes' own.
    let precision = match path {
        Path::Plain => DType::F64,
        Path::Fused => DType::F32,
    };
    let cast = |t: &Tensor| t.to_dtype(precision).unwrap();
    let vars: Vec<(String, Var)> = weights
        .iter()
        .map(|(n, t)| (n.clone(), Var::from_tensor(&cast(t)).unwrap()))
        .collect();
    let weights = vars
        .iter()
        .map(|(n, v)| (n.clone(), v.as_tensor().clone()))
        .collect();
    let mode = if batch_norm {
        NormMode::batch()
    } else {
        NormMode::Affine
    };
    let pass = Pass {
        path,
        mode: mode.clone(),
        dropout: None,
    };
    let loss = cross_entropy(
        &clip_logits(architecture, &weights, &cast(x), &pass).unwrap(),
        labels,
    )
    .unwrap();
    let store = loss.backward().unwrap();
    let gradient = |v: &Var| {
        store
            .get(v.as_tensor())
            .expect("every weight has a gradient")
            .flatten_all()
            .and_then(|g| g.to_dtype(DType::F32))
            .unwrap()
            .to_vec1()
            .unwrap()
    };
    Outcome {
        loss: loss.to_dtype(DType::F32).unwrap().to_scalar().unwrap(),
        gradients: vars.iter().map(|(n, v)| (n.clone(), gradient(v))).collect(),
        statistics: match mode {
            NormMode::Batch { statistics, .. } => statistics.take(),
            _ => NormStatistics::new(),
        },
    }
}

fn relative_difference(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(1e-12f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

fn compare(architecture: Architecture, batch: usize, frames: usize, batch_norm: bool) {
    let classes = 7;
    let mut weights = initial_weights(&architecture, classes, 3).unwrap();
    // Norms off the identity, so that a swapped scale or shift would show.
    for (i, (name, tensor)) in weights.iter_mut().enumerate() {
        if name.ends_with(".scale") || name.ends_with(".shift") {
            let wiggle = |k: usize| 0.3 * ((k * 7 + i * 13) as f32).sin();
            let values: Vec<f32> = (0..tensor.elem_count()).map(wiggle).collect();
            *tensor = (&*tensor + Tensor::from_vec(values, tensor.shape(), &Device::Cpu).unwrap())
                .unwrap();
        }
    }
    let values: Vec<f32> = (0..batch * 40 * frames)
        .map(|i| ((i as f32 * 0.37).sin() + (i as f32 * 0.011).cos()) * 1.5)
        .collect();
    let x = Tensor::from_vec(values, (batch, 1, 40, frames), &Device::Cpu).unwrap();
    let labels = Tensor::from_vec(
        (0..batch).map(|i| (i * 3 % classes) as u32).collect(),
        batch,
        &Device::Cpu,
    )
    .unwrap();
    let plain = run(
        &architecture,
        &weights,
        &x,
        &labels,
        Path::Plain,
        batch_norm,
    );
    let fused = run(
        &architecture,
        &weights,
        &x,
        &labels,
        Path::Fused,
        batch_norm,
    );
    assert!(
        (plain.loss - fused.loss).abs() < 1e-4 * plain.loss.abs(),
        "loss {} against {}",
        fused.loss,
        plain.loss
    );
    for ((name, fused), (_, plain)) in fused.gradients.iter().zip(&plain.gradients) {
        let difference = relative_difference(fused, plain);
        assert!(
            difference < 1e-3,
            "gradient of {name} differs by {difference}"
        );
    }
    assert_eq!(fused.statistics.len(), plain.statistics.len());
    for ((name, fused), (_, plain)) in fused.statistics.iter().zip(&plain.statistics) {
        assert!(
            relative_difference(&fused.0, &plain.0) < 1e-3,
            "mean of {name}"
        );
        assert!(
            relative_difference(&fused.1, &plain.1) < 1e-3,
            "variance of {name}"
        );
    }
}

#[test]
fn gradients_equal_the_plain_network_causal() {
    compare(Architecture::causal(1.0), 5, 144, true);
}

#[test]
fn gradients_equal_the_plain_network_symmetric_and_odd_length() {
    compare(
        Architecture {
            tau: 1.0,
            padding: TimePadding::Symmetric,
        },
        3,
        101,
        true,
    );
}

#[test]
fn gradients_equal_the_plain_network_in_deployed_form() {
    compare(Architecture::causal(1.0), 3, 37, false);
}

#[test]
fn gradients_equal_the_plain_network_at_other_widths() {
    compare(Architecture::causal(1.5), 2, 23, true);
    compare(Architecture::causal(3.0), 2, 50, true);
}
