//! Adapting knows no particular network: a DS-CNN takes the same way as BC-ResNet, from random weights to a base and on to deltas on it.

use swr_core::package::{Budget, Delta, DeltaHeader, Label, Tensors, changed, merge};
use swr_trainer::adapt::{Adaptation, Adapted, adapt};
use swr_trainer::baselines::Method;
use swr_trainer::checkpoint::Run;
use swr_trainer::config::{ADAPT_DEFAULT, AdaptConfig, resolve};
use swr_trainer::examples::{Data, Language};
use swr_trainer::network::{Network, initial_weights};
use swr_trainer::progress::Progress;
use swr_trainer::weights::to_package;

use crate::ds_cnn::DsCnn;
use crate::tones;

fn header(language: &Language) -> DeltaHeader {
    DeltaHeader {
        language: "und".into(),
        model_version: 1,
        manifest: None,
        labels: Label::over(&language.labels, &[]),
        thresholds: vec![0.5; language.labels.len()],
        calibration: None,
        budget: None,
        synthetic: true,
        provenance: "test".into(),
    }
}

/// Frames over which logits are averaged.
const WINDOW_FRAMES: usize = 40;

fn accuracy(network: &DsCnn, tensors: &Tensors, language: &Language) -> f64 {
    use swr_trainer::examples::for_each_plain_batch;
    use swr_trainer::network::{Pass, flat_clip_logits};
    use swr_trainer::reparam::Layout;
    let classes = language.labels.len();
    let weights = swr_trainer::weights::from_package(tensors).expect("weights");
    let flat = Layout::new(network.tensors(classes))
        .pack(&weights)
        .expect("all weights");
    let flat = candle_core::Tensor::from_slice(&flat, flat.len(), &candle_core::Device::Cpu)
        .expect("a tensor");
    let (mut right, mut clips) = (0, 0);
    for_each_plain_batch(&language.dev, 50, |batch| {
        let pass = Pass::evaluation();
        let logits = flat_clip_logits(network, &flat, classes, &batch, WINDOW_FRAMES, &pass)?;
        let truth: Vec<u32> = batch.labels.to_vec1()?;
        let predictions: Vec<u32> = logits.argmax(1)?.to_vec1()?;
        right += predictions
            .iter()
            .zip(&truth)
            .filter(|(a, b)| a == b)
            .count();
        clips += truth.len();
        Ok(())
    })
    .expect("an evaluation");
    right as f64 / clips as f64
}

/// Of a matrix with so many columns, by power iteration.
fn largest_singular_value(matrix: &[f64], columns: usize) -> f64 {
    let mut v: Vec<f64> = (0..columns).map(|i| 1.0 + 0.1 * i as f64).collect();
    let mut size = 0.0;
    for _ in 0..200 {
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        v.iter_mut().for_each(|x| *x /= norm);
        let rows = matrix.chunks(columns);
        let u: Vec<f64> = rows
            .map(|row| row.iter().zip(&v).map(|(a, b)| a * b).sum())
            .collect();
        size = u.iter().map(|x| x * x).sum::<f64>().sqrt();
        let column = |c: usize| {
            matrix
                .chunks(columns)
                .zip(&u)
                .map(|(row, u)| row[c] * u)
                .sum()
        };
        v = (0..columns).map(column).collect();
    }
    size
}

#[test]
fn a_ds_cnn_is_adapted_as_bc_resnet_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let quiet = Progress { quiet: true };
    let at = |name: &str| folder.path().join(name);
    tones::speech(
        &at("first"),
        None,
        &[
            ("low", [400.0; 2]),
            ("middle", [1_600.0; 2]),
            ("high", [3_000.0; 2]),
        ],
        30,
    );
    tones::speech(
        &at("second"),
        None,
        &[
            ("up", [700.0; 2]),
            ("down", [2_400.0; 2]),
            ("deep", [300.0; 2]),
            ("jump", [4_500.0; 2]),
        ],
        30,
    );
    let load = |name: &str| {
        let data = Data {
            data: at(name),
            ..Data::default()
        };
        Language::load(
            &data,
            "und",
            swr_core::FrontendSettings::default(),
            1,
            &quiet,
        )
        .expect("a language")
    };
    let network = DsCnn {
        channels: 8,
        blocks: 2,
    };
    let run = |language: &Language,
               base: &Tensors,
               method: Method,
               budget: &str|
     -> anyhow::Result<Adapted> {
        let [dense, tune, quantise] = match method {
            Method::Scratch => ["dense.epochs=30", "tune.epochs=1", "quantise.epochs=2"],
            _ => ["dense.epochs=4", "tune.epochs=2", "quantise.epochs=5"],
        };
        let changes = [
            dense,
            "select.epochs=1",
            tune,
            quantise,
            "dense.scenes=320",
            "select.scenes=160",
            "tune.scenes=160",
            "quantise.scenes=160",
            "dense.batch=16",
            "select.batch=16",
            "tune.batch=16",
            "quantise.batch=16",
            "dense.learning_rate=0.1",
            "dense.longest_gradient=10",
            "grids.settle_epochs=1",
            "dense.warmup_epochs=0.5",
            "tune.warmup_epochs=0.5",
            // Tones are soon told apart where little varies.
            "scenes.frames=216",
            "scenes.sound_probability=0",
            "scenes.bang_probability=0",
            "augment.gain_db=[-6.0,6.0]",
            "augment.room_probability=0",
            "loss.kind=1",
            "augment.channel_db=0",
            "augment.narrow_probability=0",
        ];
        let changes: Vec<String> = changes.iter().map(|change| change.to_string()).collect();
        let config: AdaptConfig = resolve(None, ADAPT_DEFAULT, &changes).expect("a configuration");
        let run = Run::open(
            &at(&format!("{}-{budget}", method.name())),
            serde_json::Value::Null,
            false,
        )
        .expect("a run");
        let header = header(language);
        let budget = budget.parse().expect("a budget");
        adapt(&Adaptation {
            config: &config,
            method,
            window_frames: WINDOW_FRAMES,
            network: &network,
            base,
            language,
            budget: &budget,
            header: &header,
            kept_free: 0,
            run: &run,
            dense: None,
            source: None,
            density: None,
            progress: &quiet,
        })
    };

    // A base: trained from random weights, all of them.
    let first = load("first");
    let random = initial_weights(&network, first.labels.len(), 1).expect("weights");
    let random = to_package(&random).expect("tensors");
    let base = run(&first, &random, Method::Scratch, "100%").expect("a base");
    let base = merge(&random, &base.delta).expect("a base");
    let learned = accuracy(&network, &base, &first);
    assert!(learned > 0.65, "the base learned nothing: {learned}");

    let second = load("second");
    let head = run(&second, &base, Method::Head, "10%").expect("a delta");
    let head = merge(&base, &head.delta).expect("a merge");
    let head = accuracy(&network, &head, &second);
    for (method, budget) in [
        (Method::Swr, "10%"),
        (Method::Swr, "450B"),
        (Method::SwrLayers, "40%"),
    ] {
        let adapted = run(&second, &base, method, budget).expect("a delta");
        let bytes = adapted.delta.write();
        let merged = merge(&base, &Delta::read(&bytes).expect("a delta")).expect("a merge");
        // Weights are all that it holds: of gates and policy nothing is left.
        assert!(merged.keys().eq(base.keys()));
        for name in ["policy", "gates", "scores"] {
            let found = bytes
                .windows(name.len())
                .any(|part| part == name.as_bytes());
            assert!(!found, "{method:?}: the file speaks of {name}");
        }
        let budget_of: Budget = budget.parse().expect("a budget");
        let used = budget_of.used(&changed(&base, &merged).expect("counts"), bytes.len());
        assert_eq!(used, adapted.used);
        assert!(
            used <= adapted.allowed,
            "{method:?} {budget}: {used} of {}",
            adapted.allowed
        );
        let least = match method {
            Method::Swr => adapted.allowed - 2,
            _ => 1,
        };
        assert!(
            used >= least,
            "{method:?} {budget}: {used} of {}",
            adapted.allowed
        );
        let found = accuracy(&network, &merged, &second);
        // 450 bytes are less than the classifier alone takes otherwise; twice as good as chance (1 of 6) is what so short a training gives.
        let least = if budget == "450B" {
            0.33
        } else {
            head.max(0.5)
        };
        assert!(
            found >= least,
            "{method:?} {budget}: {found}, the classifier alone {head}"
        );
    }
    // What is of low rank in training is so in the file, but for rounding.
    let adapted = run(&second, &base, Method::LowRank, "100%").expect("a delta");
    let merged = merge(&base, &adapted.delta).expect("a merge");
    let pointwise = base
        .keys()
        .filter(|name| name.ends_with("pointwise.conv.weight"));
    for name in pointwise {
        let pairs = merged[name].data.iter().zip(&base[name].data);
        let change: Vec<f64> = pairs.map(|(a, b)| f64::from(a - b)).collect();
        let sizes = change.iter().map(|d| d.abs()).filter(|d| *d > 1e-7);
        let step = sizes.fold(f64::INFINITY, f64::min);
        let whole: f64 = change.iter().map(|d| d * d).sum();
        let rounding = 0.25 * step * step * change.len() as f64;
        assert!(whole > 20.0 * rounding, "{name} changes too little to tell");
        let left = whole - largest_singular_value(&change, network.channels).powi(2);
        assert!(
            left <= rounding,
            "{name}: {left} is not of rank 1, rounding explains {rounding}"
        );
    }
    for lacking in ["classifier.weight", "block1.pointwise.conv.weight"] {
        let mut cut = base.clone();
        assert!(cut.remove(lacking).is_some(), "{lacking}");
        for budget in ["10%", "450B"] {
            let Err(error) = run(&second, &cut, Method::Swr, budget) else {
                panic!("{lacking} is not missed");
            };
            let said = format!("{error:#}");
            assert!(
                said.contains(lacking) && said.contains("train it anew"),
                "{said}"
            );
        }
    }
}
