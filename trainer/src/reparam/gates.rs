//! Gates whose expected cost is the budget in every step.
//!
//! Every unit has a score `a`; all share a shift `v`, so that the probabilities `p = sigmoid((a + v) / temperature)` cost together what the budget
//! allows: `sum c p = B`, solved by bisection. The gradient through that constraint is
//! `dL/da = h (q - c Q)` with `q = dL/dp`, `h = p (1 - p) / temperature` and the price `Q = sum(q h) / sum(c h)`: a unit's score rises only if it
//! lowers the loss more for its cost than the average. No penalty is there to be weighed, and none to be satisfied by gates that all stay shut.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor, bail};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Halvings of the bisection: more than an f64 has bits between two shifts.
const HALVINGS: usize = 80;

/// Probabilities of `scores` shifted so that they cost `budget` together; one of everything or more opens all, one of nothing none.
pub fn probabilities(scores: &[f32], costs: &[f64], budget: f64, temperature: f64) -> Vec<f64> {
    let total: f64 = costs.iter().sum();
    if budget >= total {
        return vec![1.0; scores.len()];
    }
    if budget <= 0.0 {
        return vec![0.0; scores.len()];
    }
    let at = |shift: f64| {
        let p = move |score: &f32| 1.0 / (1.0 + (-(f64::from(*score) + shift) / temperature).exp());
        scores.iter().map(p)
    };
    let cost = |shift| at(shift).zip(costs).map(|(p, c)| p * c).sum::<f64>();
    // With every score at the least or at the greatest one, all probabilities would be the budget's share.
    let level = temperature * (budget / (total - budget)).ln();
    let ends = scores
        .iter()
        .fold((f64::MAX, f64::MIN), |(least, most), s| {
            (least.min(f64::from(*s)), most.max(f64::from(*s)))
        });
    let (mut low, mut high) = (level - ends.1, level - ends.0);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        if cost(middle) < budget {
            low = middle;
        } else {
            high = middle;
        }
    }
    at(0.5 * (low + high)).collect()
}

/// The probabilities as an operation on the scores, `[units]` to `[units]`.
pub struct Budgeted {
    /// Cost of every unit.
    pub costs: Vec<f64>,
    /// What the probabilities cost together.
    pub budget: f64,
    /// Width of the sigmoid.
    pub temperature: f64,
}

impl CustomOp1 for Budgeted {
    fn name(&self) -> &'static str {
        "budgeted-gates"
    }

    fn cpu_fwd(
        &self,
        scores: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (CpuStorage::F32(values), Some((start, end))) = (scores, layout.contiguous_offsets())
        else {
            bail!("budgeted gates: expected contiguous f32 scores");
        };
        let p = probabilities(
            &values[start..end],
            &self.costs,
            self.budget,
            self.temperature,
        );
        let p: Vec<f32> = p.into_iter().map(|p| p as f32).collect();
        Ok((CpuStorage::F32(p), layout.shape().clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        p: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<Option<Tensor>> {
        let (p, q): (Vec<f32>, Vec<f32>) = (p.to_vec1()?, gradient.to_vec1()?);
        let h = p
            .iter()
            .map(|p| f64::from(p * (1.0 - p)) / self.temperature);
        let h: Vec<f64> = h.collect();
        let sums = h.iter().zip(&q).zip(&self.costs);
        let (gain, cost) = sums.fold((0.0, 0.0), |(gain, cost), ((h, q), c)| {
            (gain + h * f64::from(*q), cost + h * c)
        });
        let price = if cost > 0.0 { gain / cost } else { 0.0 };
        let units = h.iter().zip(&q).zip(&self.costs);
        let da: Vec<f32> = units
            .map(|((h, q), c)| (h * (f64::from(*q) - c * price)) as f32)
            .collect();
        let count = da.len();
        Ok(Some(Tensor::from_vec(da, count, &Device::Cpu)?))
    }
}

/// Gates drawn from probabilities `[units]`: 0 or 1 forward, as if they were the probabilities backward.
pub fn draw(p: &Tensor, rng: &mut ChaCha8Rng) -> Result<Tensor> {
    let chances: Vec<f32> = p.to_vec1()?;
    let drawn = chances
        .iter()
        .map(|p| f32::from(u8::from(rng.random::<f32>() < *p)));
    let drawn = Tensor::from_vec(drawn.collect::<Vec<f32>>(), chances.len(), &Device::Cpu)?;
    Ok(((drawn - p.detach())? + p)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::generator;
    use candle_core::Var;

    fn costly(units: usize, seed: u64) -> (Vec<f32>, Vec<f64>) {
        let mut rng = generator(seed, &[]);
        let scores = (0..units).map(|_| rng.random_range(-3.0..3.0)).collect();
        let costs = (0..units).map(|_| 10f64.powf(rng.random_range(0.0..3.0)));
        (scores, costs.collect())
    }

    #[test]
    fn the_expected_cost_is_the_budget_whatever_the_scores() {
        for seed in 0..50 {
            let (scores, costs) = costly(40, seed);
            let total: f64 = costs.iter().sum();
            for share in [1e-4, 0.01, 0.1, 0.5, 0.99] {
                for temperature in [0.1, 1.0, 5.0] {
                    let p = probabilities(&scores, &costs, share * total, temperature);
                    let cost: f64 = p.iter().zip(&costs).map(|(p, c)| p * c).sum();
                    assert!(
                        (cost / (share * total) - 1.0).abs() < 1e-9,
                        "seed {seed}: {cost} of {}",
                        share * total
                    );
                }
            }
            assert_eq!(probabilities(&scores, &costs, total, 1.0), [1.0; 40]);
            assert_eq!(probabilities(&scores, &costs, 0.0, 1.0), [0.0; 40]);
        }
    }

    /// The gradient of any loss of the probabilities is that of finite differences, and does not move all scores together, which would change nothing.
    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        for seed in 0..20 {
            let (scores, costs) = costly(12, seed);
            let mut rng = generator(seed, &[1]);
            let wanted: Vec<f64> = (0..12).map(|_| rng.random_range(-1.0..1.0)).collect();
            let (budget, temperature) = (0.3 * costs.iter().sum::<f64>(), 1.5);
            let loss = |scores: &[f32]| -> f64 {
                let p = probabilities(scores, &costs, budget, temperature);
                p.iter().zip(&wanted).map(|(p, w)| (p - w) * (p - w)).sum()
            };
            let variable = Var::from_slice(&scores, 12, &Device::Cpu).unwrap();
            let op = Budgeted {
                costs: costs.clone(),
                budget,
                temperature,
            };
            let p = variable.apply_op1(op).unwrap();
            let wanted32: Vec<f32> = wanted.iter().map(|w| *w as f32).collect();
            let target = Tensor::from_slice(&wanted32, 12, &Device::Cpu).unwrap();
            let gradients = (&p - target)
                .unwrap()
                .sqr()
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap();
            let found: Vec<f32> = gradients.get(&variable).unwrap().to_vec1().unwrap();
            let largest = found
                .iter()
                .fold(0f64, |most, g| most.max(f64::from(g.abs())));
            for unit in 0..12 {
                let step = 1.0 / 1024.0;
                let moved = |by: f32| {
                    let mut scores = scores.clone();
                    scores[unit] += by;
                    loss(&scores)
                };
                let expected = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
                assert!(
                    (f64::from(found[unit]) - expected).abs() < 1e-4 * largest.max(1e-3),
                    "seed {seed} unit {unit}: {} for {expected}",
                    found[unit]
                );
            }
            // The shift makes up for what all scores have in common.
            let sum: f64 = found.iter().map(|g| f64::from(*g)).sum();
            assert!(
                sum.abs() < 1e-5 * largest.max(1e-3),
                "seed {seed}: the gradient of all scores together is {sum}"
            );
        }
    }

    #[test]
    fn gates_are_hard_forward_and_their_probabilities_backward() {
        let p = Var::from_vec(vec![0.25f32; 4_000], 4_000, &Device::Cpu).unwrap();
        let gates = draw(p.as_tensor(), &mut generator(7, &[])).unwrap();
        let values: Vec<f32> = gates.to_vec1().unwrap();
        assert!(values.iter().all(|g| (g - g.round()).abs() < 1e-6));
        let share = values.iter().sum::<f32>() / 4_000.0;
        assert!((share - 0.25).abs() < 0.03, "{share} of the gates are open");
        let gradients = gates.sum_all().unwrap().backward().unwrap();
        let gradient: Vec<f32> = gradients.get(&p).unwrap().to_vec1().unwrap();
        assert_eq!(gradient, [1.0; 4_000]);
    }
}
