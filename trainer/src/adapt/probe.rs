//! The classifier's start: softmax regression on the base's features, which stay as they are.

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use candle_nn::{VarBuilder, VarMap};
use rand::seq::SliceRandom;

use crate::config::Probe;
use crate::examples::{Examples, for_each_plain_batch};
use crate::network::{Network, Pass, cross_entropy, pooled};
use crate::progress::Progress;
use crate::random::generator;

/// Weights `[classes * width]` and biases `[classes]` of the classifier, trained on plain clips under the deployed weights of the base.
pub(super) fn probe(
    settings: &Probe,
    seed: u64,
    (network, window_frames): (&dyn Network, usize),
    deployed: &[f32],
    sample: &Examples,
    classes: usize,
    progress: &Progress,
) -> Result<[Vec<f32>; 2]> {
    let width = network.width();
    let weights = Tensor::from_slice(deployed, deployed.len(), &Device::Cpu)?;
    let mut features = Vec::new();
    let bar = progress.bar("linear probe", sample.len());
    for_each_plain_batch(sample, 100, |batch| {
        features.push(pooled(
            network,
            &weights,
            &batch,
            window_frames,
            &Pass::evaluation(),
        )?);
        bar.inc(batch.ends.len() as u64);
        Ok(())
    })?;
    bar.finish_and_clear();
    let features = Tensor::cat(&features, 0)?;
    let mean = features.mean_keepdim(0)?;
    let centred = features.broadcast_sub(&mean)?;
    let deviation = (centred.sqr()?.mean_keepdim(0)?.sqrt()? + 1e-5)?;
    let standard = centred.broadcast_div(&deviation)?;

    let variables = VarMap::new();
    let builder = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let weight = builder.get_with_hints((classes, width), "weight", candle_nn::init::ZERO)?;
    let bias = builder.get_with_hints(classes, "bias", candle_nn::init::ZERO)?;
    let parameters = ParamsAdamW {
        lr: settings.learning_rate,
        weight_decay: 0.0,
        ..ParamsAdamW::default()
    };
    let mut optimiser = AdamW::new(variables.all_vars(), parameters)?;
    let mut order: Vec<u32> = (0..sample.len() as u32).collect();
    for epoch in 0..settings.epochs {
        order.shuffle(&mut generator(seed, &[u64::MAX, epoch as u64]));
        for indexes in order.chunks(settings.batch) {
            let labels: Vec<u32> = indexes.iter().map(|i| sample.labels[*i as usize]).collect();
            let (indexes, labels) = (
                Tensor::new(indexes, &Device::Cpu)?,
                Tensor::new(labels, &Device::Cpu)?,
            );
            let logits = standard
                .index_select(&indexes, 0)?
                .matmul(&weight.t()?)?
                .broadcast_add(&bias)?;
            optimiser.backward_step(&cross_entropy(&logits, &labels)?)?;
        }
    }
    // The standardisation becomes part of the classifier.
    let weight = weight.detach().broadcast_div(&deviation)?;
    let bias = (bias.detach() - weight.matmul(&mean.t()?)?.squeeze(1)?)?;
    Ok([weight.flatten_all()?.to_vec1()?, bias.to_vec1()?])
}
