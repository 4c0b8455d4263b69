//! Between candle's tensors and the package's: the same names, shapes and values.

use anyhow::{Context, Result};
use candle_core::Device;
use swr_core::package::{Tensor, Tensors};

use crate::network::Weights;

/// Candle's tensors as the package stores them.
pub fn to_package(weights: &Weights) -> Result<Tensors> {
    let convert = |(name, tensor): (&String, &candle_core::Tensor)| -> Result<(String, Tensor)> {
        Ok((
            name.clone(),
            Tensor::new(tensor.dims().to_vec(), tensor.flatten_all()?.to_vec1()?),
        ))
    };
    weights.iter().map(convert).collect()
}

/// The package's tensors as candle computes with them.
pub fn from_package(tensors: &Tensors) -> Result<Weights> {
    let convert = |(name, tensor): (&String, &Tensor)| -> Result<(String, candle_core::Tensor)> {
        let values =
            candle_core::Tensor::from_slice(&tensor.data, tensor.shape.as_slice(), &Device::Cpu);
        Ok((
            name.clone(),
            values.with_context(|| format!("tensor `{name}`"))?,
        ))
    };
    tensors.iter().map(convert).collect()
}
