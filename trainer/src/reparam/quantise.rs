//! Grids: the differences of every tensor are multiples of a step, a power of two, in training as in the file.

use candle_core::{CpuStorage, CustomOp1, Layout as TensorLayout, Shape, Tensor, bail};
use swr_core::package::multiple;

use super::Layout;

/// A step per tensor, powers of two: a delta then needs no fraction bits for them.
#[derive(Clone, Debug, PartialEq)]
pub struct Grids {
    /// Step of every tensor, in the layout's order.
    pub steps: Vec<f32>,
}

impl Grids {
    /// Steps by the rule of reverse water-filling: at an equal slope of loss against bits, a tensor's step goes with the reciprocal root of the mean
    /// curvature of the loss in its changed weights (T. Berger, Rate Distortion Theory, 1971). `curvature` is any estimate of it, such as the Fisher
    /// information; a tensor without changed weights gets the step 0. Steps count in `units`, one for every weight: 1, or the size of the base's weight
    /// where differences are shares of it.
    pub fn by_curvature(
        layout: &Layout,
        curvature: &[f32],
        units: &[f32],
        open: &[bool],
        coarseness: f64,
    ) -> Self {
        let steps = layout.slots().iter().map(|slot| {
            let weights = slot
                .range
                .clone()
                .filter(|weight| open[*weight] && units[*weight] > 0.0);
            let (sum, count) = weights.fold((0.0, 0usize), |(sum, count), weight| {
                (
                    sum + f64::from(curvature[weight]) * f64::from(units[weight]).powi(2),
                    count + 1,
                )
            });
            if count == 0 {
                return 0.0;
            }
            power_of_two(coarseness / (sum / count as f64).max(f64::MIN_POSITIVE).sqrt())
        });
        Self {
            steps: steps.collect(),
        }
    }

    /// The step of every weight, in its units.
    pub fn spread(&self, layout: &Layout, units: &[f32]) -> Vec<f32> {
        let slots = layout.slots().iter().zip(&self.steps);
        slots
            .flat_map(|(slot, step)| {
                units[slot.range.clone()]
                    .iter()
                    .map(move |unit| step * unit)
            })
            .collect()
    }
}

/// The nearest power of two in the logarithm, within what f32 holds without denormals.
pub fn power_of_two(value: f64) -> f32 {
    (value.log2().round().clamp(-100.0, 100.0)).exp2() as f32
}

/// Rounds to multiples of a step per weight forward, and does nothing backward (straight-through, arXiv 1308.3432). Where the step is 0, so is the result.
pub struct Rounded {
    /// Step of every weight.
    pub steps: Vec<f32>,
}

impl CustomOp1 for Rounded {
    fn name(&self) -> &'static str {
        "rounded-to-grids"
    }

    fn cpu_fwd(
        &self,
        values: &CpuStorage,
        layout: &TensorLayout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (CpuStorage::F32(all), Some((start, end))) = (values, layout.contiguous_offsets())
        else {
            bail!("rounding to grids: expected contiguous f32 values");
        };
        let rounded = all[start..end].iter().zip(&self.steps);
        let rounded = rounded.map(|(value, step)| f32::from(multiple(*value, *step)) * step);
        Ok((CpuStorage::F32(rounded.collect()), layout.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        Ok(Some(gradient.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn values_are_multiples_forward_and_pass_backward() {
        let values = Var::new(&[0.3f32, -0.8, 5.0, 0.1, 1e9], &Device::Cpu).unwrap();
        let steps = vec![0.25, 0.5, 0.0, 1.0, 0.5];
        let rounded = values.apply_op1(Rounded { steps }).unwrap();
        let found: Vec<f32> = rounded.to_vec1().unwrap();
        assert_eq!(found, [0.25, -1.0, 0.0, 0.0, 63.5]);
        let gradients = rounded.sum_all().unwrap().backward().unwrap();
        let gradient: Vec<f32> = gradients.get(&values).unwrap().to_vec1().unwrap();
        assert_eq!(gradient, [1.0; 5]);
    }

    #[test]
    fn steps_are_powers_of_two_and_finer_where_the_loss_curves_more() {
        let layout = Layout::new([
            ("a".into(), vec![2]),
            ("b".into(), vec![3]),
            ("c".into(), vec![1]),
        ]);
        let curvature = [4.0, 4.0, 64.0, 64.0, 0.0, 1.0];
        let open = [true, true, true, true, false, false];
        let units = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        let grids = Grids::by_curvature(&layout, &curvature, &units, &open, 1.0);
        assert_eq!(grids.steps, [0.5, 0.125, 0.0]);
        assert_eq!(
            grids.spread(&layout, &units),
            [0.5, 0.5, 0.125, 0.125, 0.125, 0.0]
        );
    }
}
