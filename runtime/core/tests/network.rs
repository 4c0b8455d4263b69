//! The fused network computes what the architecture says, written out a second time in f64 from the unfolded tensors, and gives the same bits however
//! the frames come.

use proptest::prelude::*;
use swr_core::MEL_BINS;
use swr_core::network::architecture::{Architecture, SUB_BANDS};
use swr_core::network::{Network, NetworkError};
use swr_core::package::{Tensor, Tensors};

/// Numbers that look random, from -1 to 1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A network whose values neither fade nor grow from block to block.
fn tensors(tau: f64, classes: usize, seed: u64) -> Tensors {
    let architecture = Architecture::causal(tau);
    let mut noise = Noise(seed);
    let shapes = [
        architecture.body_tensors(),
        architecture.classifier_tensors(classes),
    ]
    .concat();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let count: usize = shape.iter().product();
        let fan = (count / shape[0]) as f32;
        let value = |noise: &mut Noise| match name.rsplit('.').next() {
            Some("scale") => 1.0 + 0.5 * noise.next(),
            Some("shift") | Some("bias") => 0.3 * noise.next(),
            _ => noise.next() * (3.0 / fan).sqrt(),
        };
        let data = (0..count).map(|_| value(&mut noise)).collect();
        (name, Tensor::new(shape, data))
    };
    shapes.into_iter().map(tensor).collect()
}

fn log_mel(frames: usize, seed: u64) -> Vec<f32> {
    let mut noise = Noise(seed);
    (0..frames * MEL_BINS)
        .map(|_| 4.0 * noise.next() - 6.0)
        .collect()
}

/// `[channels][bands][frames]`.
type Signal = Vec<Vec<Vec<f64>>>;

fn convolution(
    x: &Signal,
    weight: &Tensor,
    stride: usize,
    padding: usize,
    dilation: usize,
) -> Signal {
    let [outputs, depth, bands, frames] = weight.shape[..] else {
        unreachable!()
    };
    let (groups, length) = (x.len() / depth, x[0][0].len());
    let bands_out = (x[0].len() + 2 * padding - bands) / stride + 1;
    let mut out = vec![vec![vec![0.0; length]; bands_out]; outputs];
    for (channel, out) in out.iter_mut().enumerate() {
        let first = channel / (outputs / groups) * depth;
        for (band, out) in out.iter_mut().enumerate() {
            for (time, out) in out.iter_mut().enumerate() {
                for i in 0..depth {
                    for j in 0..bands {
                        for k in 0..frames {
                            let row = (band * stride + j).checked_sub(padding);
                            let row = row.and_then(|row| x[first + i].get(row));
                            let past = (frames - 1 - k) * dilation;
                            if let (Some(row), Some(at)) = (row, time.checked_sub(past)) {
                                let w =
                                    weight.data[((channel * depth + i) * bands + j) * frames + k];
                                *out += f64::from(w) * row[at];
                            }
                        }
                    }
                }
            }
        }
    }
    out
}

fn each(x: &mut Signal, f: impl Fn(usize, usize, f64) -> f64) {
    for (c, bands) in x.iter_mut().enumerate() {
        for (b, row) in bands.iter_mut().enumerate() {
            row.iter_mut().for_each(|v| *v = f(c, b, *v));
        }
    }
}

fn norm(x: &mut Signal, tensors: &Tensors, name: &str) {
    let (scale, shift) = (
        &tensors[&format!("{name}.scale")],
        &tensors[&format!("{name}.shift")],
    );
    let bands = x[0].len();
    each(x, |c, b, v| {
        let place = if scale.shape.len() == 2 {
            c * SUB_BANDS + b * SUB_BANDS / bands
        } else {
            c
        };
        v * f64::from(scale.data[place]) + f64::from(shift.data[place])
    });
}

/// Logits `[frames][classes]`, by the formulas of arXiv 2106.04140, section 3.
fn by_hand(architecture: &Architecture, tensors: &Tensors, frames: &[f32]) -> Vec<f64> {
    let length = frames.len() / MEL_BINS;
    let band = |band: usize| {
        (0..length)
            .map(|t| f64::from(frames[t * MEL_BINS + band]))
            .collect()
    };
    let relu = |_, _, v: f64| v.max(0.0);
    let mut x: Signal = vec![(0..MEL_BINS).map(band).collect()];
    x = convolution(&x, &tensors["head.conv.weight"], 2, 2, 1);
    norm(&mut x, tensors, "head.norm");
    each(&mut x, relu);
    for block in architecture.blocks() {
        let name = |part: &str| format!("{}.{part}", block.name);
        let input = x.clone();
        if block.has_entry() {
            x = convolution(&x, &tensors[&name("entry.conv.weight")], 1, 0, 1);
            norm(&mut x, tensors, &name("entry.norm"));
            each(&mut x, relu);
        }
        x = convolution(
            &x,
            &tensors[&name("frequency.conv.weight")],
            block.stride,
            1,
            1,
        );
        norm(&mut x, tensors, &name("frequency.norm"));
        let bands = x[0].len() as f64;
        let mean = |c: &Vec<Vec<f64>>| {
            let at = |t: usize| c.iter().map(|row| row[t]).sum::<f64>() / bands;
            vec![(0..length).map(at).collect::<Vec<f64>>()]
        };
        let mut y: Signal = x.iter().map(mean).collect();
        y = convolution(
            &y,
            &tensors[&name("time.conv.weight")],
            1,
            0,
            block.dilation,
        );
        norm(&mut y, tensors, &name("time.norm"));
        each(&mut y, |_, _, v| v / (1.0 + (-v).exp()));
        y = convolution(&y, &tensors[&name("point.conv.weight")], 1, 0, 1);
        for (c, bands) in x.iter_mut().enumerate() {
            for (b, row) in bands.iter_mut().enumerate() {
                for (t, v) in row.iter_mut().enumerate() {
                    let residual = if block.has_entry() {
                        0.0
                    } else {
                        input[c][b][t]
                    };
                    *v = (*v + y[c][0][t] + residual).max(0.0);
                }
            }
        }
    }
    x = convolution(&x, &tensors["tail.depthwise.conv.weight"], 1, 0, 1);
    x = convolution(&x, &tensors["tail.point.conv.weight"], 1, 0, 1);
    norm(&mut x, tensors, "tail.norm");
    each(&mut x, relu);
    x = convolution(&x, &tensors["classifier.weight"], 1, 0, 1);
    let bias = &tensors["classifier.bias"].data;
    let logits = (0..length).flat_map(|t| (0..x.len()).map(move |c| (c, t)));
    logits
        .map(|(c, t)| x[c][0][t] + f64::from(bias[c]))
        .collect()
}

fn run(network: &Network, frames: &[f32], step: usize) -> Vec<f32> {
    let (mut state, mut logits) = (network.state(), Vec::new());
    for frames in frames.chunks(step * MEL_BINS) {
        network.step(&mut state, frames, &mut logits).unwrap();
    }
    logits
}

#[test]
fn logits_are_those_of_the_formulas() {
    for (tau, classes, seed) in [
        (1.0, 42, 1),
        (1.5, 12, 2),
        (2.0, 7, 3),
        (3.0, 10, 4),
        (8.0, 3, 5),
    ] {
        let tensors = tensors(tau, classes, seed);
        let frames = log_mel(130, seed);
        let expected = by_hand(&Architecture::causal(tau), &tensors, &frames);
        let found = run(&Network::new(&tensors).unwrap(), &frames, 4);
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
        let apart = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (f64::from(*a) - b).abs());
        let apart = apart.fold(0.0, f64::max) / largest;
        assert!(
            largest > 0.1 && apart < 2e-6,
            "tau {tau}: {apart:e} of {largest}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However long the steps are, even within one stream, no bit differs.
    #[test]
    fn steps_of_any_size_give_the_same_bits(
        tau in prop::sample::select(vec![1.0, 1.5, 2.0, 3.0]),
        classes in 1usize..20,
        seed in any::<u64>(),
        steps in prop::collection::vec(1usize..25, 1..12),
    ) {
        let network = Network::new(&tensors(tau, classes, seed)).unwrap();
        let frames = log_mel(steps.iter().sum(), seed ^ 1);
        let whole = run(&network, &frames, usize::MAX / MEL_BINS);
        let one = run(&network, &frames, 1);
        let (mut state, mut mixed, mut next) = (network.state(), Vec::new(), 0);
        for step in steps {
            network.step(&mut state, &frames[next..next + step * MEL_BINS], &mut mixed).unwrap();
            next += step * MEL_BINS;
        }
        let bits = |logits: &[f32]| logits.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
        prop_assert_eq!(bits(&whole), bits(&one));
        prop_assert_eq!(bits(&whole), bits(&mixed));
    }
}

#[test]
fn a_reset_state_is_a_new_one() {
    let network = Network::new(&tensors(1.0, 5, 9)).unwrap();
    let frames = log_mel(30, 9);
    let mut state = network.state();
    let (mut first, mut again) = (Vec::new(), Vec::new());
    network.step(&mut state, &frames, &mut first).unwrap();
    state.reset();
    network.step(&mut state, &frames, &mut again).unwrap();
    assert_eq!(first, again);
}

#[test]
fn other_tensors_and_odd_frames_are_refused() {
    let good = tensors(1.0, 5, 9);
    let refused = |alter: &dyn Fn(&mut Tensors)| {
        let mut tensors = good.clone();
        alter(&mut tensors);
        Network::new(&tensors).unwrap_err()
    };
    let missing = refused(&|t| drop(t.remove("block03.time.conv.weight")));
    assert!(
        matches!(missing, NetworkError::Missing { name } if name == "block03.time.conv.weight")
    );
    let shape = refused(&|t| t.get_mut("tail.norm.scale").unwrap().shape = vec![32, 1]);
    assert!(matches!(shape, NetworkError::Shape { name, .. } if name == "tail.norm.scale"));
    let more = refused(&|t| drop(t.insert("more".into(), Tensor::new(vec![], vec![0.0]))));
    assert!(matches!(more, NetworkError::Superfluous { name } if name == "more"));
    assert!(Network::new(&Tensors::new()).is_err());

    let network = Network::new(&good).unwrap();
    let (mut state, mut logits) = (network.state(), Vec::new());
    let odd = network.step(&mut state, &[0.0; 41], &mut logits);
    assert_eq!(odd, Err(NetworkError::FrameLength { found: 41 }));
    assert!(logits.is_empty());
}
