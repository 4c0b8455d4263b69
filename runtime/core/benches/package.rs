//! What a device does with a delta, part by part, on a network of BC-ResNet-8's size: 321 k weights, a tenth of them changed.
//!
//! `cargo bench -p swr-core --profile dev`. Copying the base's tensors is the yardstick: applying a decoded delta should take at most twice
//! as long.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use swr_core::package::{
    Delta, DeltaHeader, DetachedSignature, Precision, PublicKey, Tensor, Tensors, digest,
    merge_into,
};

/// A key of minisign's, and its signature of a small delta: checking costs the same whatever it says, but for hashing the file.
const KEY: &str = include_str!("../golden/signed.pub");
const SIGNATURE: &str = include_str!("../golden/delta-v3-int8.swr.minisig");

/// Numbers below 1, the same in every run (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// Tensors of the sizes that BC-ResNet-8 has: many small ones, some of tens of thousands of weights.
fn network() -> Tensors {
    let mut random = Random(1);
    let (mut tensors, mut weights) = (Tensors::new(), 0);
    for layer in 0.. {
        let width = [64, 96, 128, 160][layer / 3 % 4];
        for (part, shape) in [
            ("point.conv.weight", vec![width, width, 1, 1]),
            ("time.conv.weight", vec![width, 1, 1, 3]),
            ("frequency.norm.scale", vec![1, width, 5, 1]),
            ("time.norm.shift", vec![1, width, 1, 1]),
        ] {
            let data: Vec<f32> = (0..shape.iter().product())
                .map(|_| random.next() - 0.5)
                .collect();
            weights += data.len();
            tensors.insert(format!("block{layer:02}.{part}"), Tensor::new(shape, data));
        }
        if weights >= 321_000 {
            return tensors;
        }
    }
    unreachable!()
}

/// A tenth of the weights changed, wherever they lie (`unit` 1), or in whole rows.
fn delta(base: &Tensors, by_row: bool) -> Delta {
    let mut random = Random(2);
    let mut tuned = base.clone();
    for tensor in tuned.values_mut() {
        let unit = if by_row {
            tensor.data.len() / tensor.rows()
        } else {
            1
        };
        for unit in tensor.data.chunks_mut(unit) {
            if random.next() < 0.1 {
                for weight in unit {
                    // The sum of four is nearly normal.
                    *weight += 0.05 * (0..4).map(|_| random.next() - 0.5).sum::<f32>();
                }
            }
        }
    }
    let header = DeltaHeader {
        language: "und".into(),
        model_version: 1,
        manifest: None,
        labels: Vec::new(),
        thresholds: Vec::new(),
        calibration: None,
        budget: None,
        synthetic: false,
        provenance: String::new(),
    };
    Delta::build(base, &tuned, header, Precision::DEFAULT).expect("a delta")
}

fn package(criterion: &mut Criterion) {
    let base = network();
    let weights: usize = base.values().map(|tensor| tensor.data.len()).sum();
    criterion.bench_function(&format!("copy/{weights} weights"), |bench| {
        bench.iter(|| base.clone())
    });
    criterion.bench_function("digest/all tensors", |bench| bench.iter(|| digest(&base)));
    for (name, by_row) in [("scattered", false), ("rows", true)] {
        let delta = delta(&base, by_row);
        let file = delta.write();
        criterion.bench_function(&format!("decode/{name}, {} bytes", file.len()), |bench| {
            bench.iter(|| Delta::read(&file).expect("it is whole"));
        });
        criterion.bench_function(&format!("apply/{name}"), |bench| {
            bench.iter_batched(
                || base.clone(),
                |base| delta.apply(base).expect("it fits"),
                BatchSize::LargeInput,
            );
        });
        criterion.bench_function(&format!("merge with both digests/{name}"), |bench| {
            bench.iter_batched(
                || base.clone(),
                |base| merge_into(base, &delta).expect("it fits"),
                BatchSize::LargeInput,
            );
        });
        let key: PublicKey = KEY.parse().expect("a key");
        let signature: DetachedSignature = SIGNATURE.parse().expect("a signature");
        criterion.bench_function(&format!("signature/{name}"), |bench| {
            bench.iter(|| {
                key.check(&file, &signature)
                    .expect_err("it is another file's")
            });
        });
    }
}

criterion_group!(benches, package);
criterion_main!(benches);
