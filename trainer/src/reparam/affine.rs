//! Differences that scale and shift a tensor's output channels: `D = s_c W_c + b_c` with two numbers for channel `c`, in place of one for every weight.

use anyhow::Result;
use candle_core::{Device, Tensor};

use super::Layout;

/// Scale and shift of every output channel (index in the first dimension) of some tensors.
pub struct Affine {
    /// Channel of every weight of the layout, counted over all these tensors; 0 in the others.
    channel: Vec<u32>,
    channels: usize,
    /// Which weights are in these tensors.
    inside: Vec<bool>,
}

impl Affine {
    /// The channels of the tensors that are `scaled`.
    pub fn new(layout: &Layout, scaled: impl Fn(&str) -> bool) -> Self {
        let (mut channel, mut channels) = (vec![0; layout.weights()], 0);
        let inside = layout.by_tensor(&scaled);
        for slot in layout.slots().iter().filter(|slot| scaled(&slot.name)) {
            let rows = slot.shape.first().copied().unwrap_or(1).max(1);
            let width = (slot.range.len() / rows).max(1);
            for (place, channel) in channel[slot.range.clone()].iter_mut().enumerate() {
                *channel = (channels + place / width) as u32;
            }
            channels += rows;
        }
        Self {
            channel,
            channels,
            inside,
        }
    }

    /// Which weights are in these tensors.
    pub fn inside(&self) -> &[bool] {
        &self.inside
    }

    /// The scales and shifts, `[2, channels]`, whose differences are nearest to `delta` in the squares; `weights` are `W`. A channel of equal weights is
    /// shifted only.
    pub fn nearest(&self, delta: &[f32], weights: &[f32]) -> Result<Tensor> {
        let mut sums = vec![[0.0f64; 5]; self.channels];
        let members = (0..self.channel.len()).filter(|weight| self.inside[*weight]);
        for weight in members {
            let (d, w) = (f64::from(delta[weight]), f64::from(weights[weight]));
            let of_channel = &mut sums[self.channel[weight] as usize];
            for (sum, term) in of_channel.iter_mut().zip([1.0, w, d, w * w, w * d]) {
                *sum += term;
            }
        }
        let (mut scales, mut shifts) = (Vec::new(), Vec::new());
        for [n, w, d, ww, wd] in sums {
            let variance = ww - w * w / n;
            let scale = match variance > 1e-9 * ww {
                true => (wd - w * d / n) / variance,
                false => 0.0,
            };
            scales.push(scale as f32);
            shifts.push(((d - scale * w) / n) as f32);
        }
        scales.extend(shifts);
        Ok(Tensor::from_vec(scales, (2, self.channels), &Device::Cpu)?)
    }

    /// Differences of all weights, `[weights]`, from scales and shifts, `[2, channels]`; gradients flow through. In the other tensors they mean nothing.
    pub fn delta(&self, channels: &Tensor, weights: &Tensor) -> Result<Tensor> {
        let of = Tensor::from_slice(&self.channel, self.channel.len(), &Device::Cpu)?;
        let row = |row: usize| channels.get(row)?.index_select(&of, 0);
        Ok(((row(0)? * weights)? + row(1)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;

    #[test]
    fn what_is_scaled_and_shifted_is_found_again() {
        let layout = Layout::new([
            ("norm".to_string(), vec![3]),
            ("a".to_string(), vec![2, 1, 3]),
            ("b".to_string(), vec![1, 4]),
        ]);
        let affine = Affine::new(&layout, |name| name != "norm");
        let weights: Vec<f32> = (0..13).map(|i| ((i * 7) % 5) as f32 - 1.5).collect();
        let weights = Tensor::new(weights, &Device::Cpu).unwrap();
        let channels =
            Tensor::new(&[[0.5f32, -0.25, 2.0], [0.0, 1.0, -3.0]], &Device::Cpu).unwrap();
        let channels = Var::from_tensor(&channels).unwrap();
        let delta = affine.delta(channels.as_tensor(), &weights).unwrap();
        let values: Vec<f32> = delta.to_vec1().unwrap();
        let w: Vec<f32> = weights.to_vec1().unwrap();
        assert_eq!(values[3], 0.5 * w[3]);
        assert_eq!(values[6], -0.25 * w[6] + 1.0);
        assert_eq!(values[12], 2.0 * w[12] - 3.0);
        let found = affine.nearest(&values, &w).unwrap();
        let difference = (found - channels.as_tensor()).unwrap().abs().unwrap();
        let largest: f32 = difference.max_all().unwrap().to_scalar().unwrap();
        assert!(largest < 1e-5, "{largest}");
        let gradients = delta.sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(channels.as_tensor()).unwrap();
        let of_shift: Vec<f32> = gradient.get(1).unwrap().to_vec1().unwrap();
        // The norm's weights are in no channel, but count as the first: the caller does not use them.
        assert_eq!(of_shift, [6.0, 3.0, 4.0]);
    }
}
