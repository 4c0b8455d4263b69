//! From trained weights to a delta that keeps its budget: how coarse the grids are, what is open, and the last bytes.

use anyhow::{Result, ensure};
use swr_core::package::{Delta, DeltaHeader, Precision, Tensors};

use super::frame::{Fold, Frame, is_scale};
use crate::reparam::quantise::Grids;
use crate::reparam::{Units, choose::ranking};

/// Halvings of a search over the coarseness of grids.
const HALVINGS: usize = 16;
/// Finest and coarsest grids, as logarithms to base 2 of the median difference in steps: int8 holds hardly any finer ones.
const FINEST: f64 = 4.5;
const COARSEST: f64 = -8.0;
/// Differences that are no more than what conversions between coordinates leave.
const NOTHING: f32 = 1e-6;

/// Trained weights, to be packed.
pub(super) struct Packer<'a> {
    pub(super) frame: &'a Frame,
    /// The base, as the package stores it.
    pub(super) base: &'a Tensors,
    /// Everything that the delta says beside the weights.
    pub(super) header: &'a DeltaHeader,
    /// The coordinates of the weights.
    pub(super) fold: &'a Fold,
    /// All weights, in standard coordinates.
    pub(super) standard: &'a [f32],
    /// The loss's curvature in every weight, as stored; see [`Fold::gradient`].
    pub(super) curvature: &'a [f32],
}

impl Packer<'_> {
    /// The delta of base and so many steps of its grid for every weight.
    fn delta(&self, counts: &[i8], grids: &Grids) -> Result<Delta> {
        let layout = &self.frame.layout;
        let moved = self
            .frame
            .base
            .iter()
            .zip(counts)
            .zip(self.frame.steps(grids));
        let moved: Vec<f32> = moved
            .map(|((base, count), step)| base + step * f32::from(*count))
            .collect();
        let precision = |name: &str| {
            let place = layout.slots().iter().position(|slot| slot.name == name);
            let (step, floor) =
                place.map_or((0.0, 0.0), |at| (grids.steps[at], self.frame.floors[at]));
            match is_scale(name) {
                true => Precision::Shares(step, step * floor),
                false => Precision::Multiples(step),
            }
        };
        Ok(Delta::build_by(
            self.base,
            &self.frame.tensors(&moved),
            self.header.clone(),
            &precision,
        )?)
    }

    fn counts(&self, open: &[bool], grids: &Grids) -> Vec<i8> {
        self.counts_from(open, grids, &vec![0.5; open.len()])
    }

    fn counts_from(&self, open: &[bool], grids: &Grids, least: &[f32]) -> Vec<i8> {
        let steps = self.frame.steps(grids);
        self.fold
            .round(self.standard, &self.frame.base, open, &steps, least)
    }

    /// How much the loss would rise if a weight were the base's, to second order.
    pub(super) fn importance(&self) -> Vec<f32> {
        let differences = self.fold.differences(self.standard, &self.frame.base);
        let pairs = differences.iter().zip(self.curvature);
        pairs.map(|(d, c)| d * d * c).collect()
    }

    /// Grids on which the difference of an open weight is `levels` steps, in the median.
    pub(super) fn grids(&self, open: &[bool], levels: f64) -> Grids {
        let by = |coarseness| {
            let Frame { layout, units, .. } = self.frame;
            Grids::by_curvature(layout, self.curvature, units, open, coarseness)
        };
        let fine = self.frame.steps(&by(1.0));
        let differences = self.fold.differences(self.standard, &self.frame.base);
        let weights = (0..open.len()).filter(|weight| {
            open[*weight] && fine[*weight] > 0.0 && differences[*weight].abs() > NOTHING
        });
        let mut sizes: Vec<f32> = weights
            .map(|weight| (differences[weight] / fine[weight]).abs())
            .collect();
        sizes.sort_by(f32::total_cmp);
        let median = sizes.get(sizes.len() / 2).copied().unwrap_or(0.0);
        let mut grids = by(f64::from(median.max(f32::MIN_POSITIVE)) / levels);
        // No difference is cut off: a shift's is that to the stored one.
        for (step, finest) in grids.steps.iter_mut().zip(self.finest(open)) {
            while *step > 0.0 && *step < finest {
                *step *= 2.0;
            }
        }
        grids
    }

    /// Opens units in the order of their scores, those of no finite score never, and sets grids, such that the file has at most `budget` bytes: on grids on which an open weight's
    /// difference is `levels` steps in the median, as many units as fit. Where all fit, on finer grids, and where what is always open does not, on
    /// coarser ones.
    pub(super) fn open(
        &self,
        units: &Units,
        scores: &[f32],
        budget: usize,
        levels: f64,
    ) -> Result<(Vec<bool>, Grids)> {
        let mut order = ranking(scores);
        order.retain(|unit| scores[*unit] > f32::NEG_INFINITY);
        let try_out = |count: usize, levels: f64| -> Result<(bool, (Vec<bool>, Grids))> {
            let mut open = vec![false; units.len()];
            order[..count].iter().for_each(|unit| open[*unit] = true);
            let mask = units.mask(&open);
            let grids = self.grids(&mask, levels);
            let bytes = self
                .delta(&self.counts(&mask, &grids), &grids)?
                .sizes()
                .total();
            Ok((bytes <= budget, (open, grids)))
        };
        let finest = |count: usize, from: f64, to: f64| -> Result<(Vec<bool>, Grids)> {
            let (mut low, mut high) = (from, to);
            let (_, mut best) = try_out(count, low.exp2())?;
            for _ in 0..HALVINGS {
                let middle = 0.5 * (low + high);
                let (fits, found) = try_out(count, middle.exp2())?;
                if fits {
                    (low, best) = (middle, found);
                } else {
                    high = middle;
                }
            }
            Ok(best)
        };
        if try_out(order.len(), levels)?.0 {
            return finest(order.len(), levels.log2(), FINEST);
        }
        let (fits, mut best) = try_out(0, levels)?;
        if !fits {
            return finest(0, COARSEST, levels.log2());
        }
        let (mut low, mut high) = (0, order.len());
        while high - low > 1 {
            let middle = (low + high) / 2;
            let (fits, found) = try_out(middle, levels)?;
            if fits {
                (low, best) = (middle, found);
            } else {
                high = middle;
            }
        }
        Ok(best)
    }

    /// The delta on grids, rounded to the nearest; with a budget in bytes, on grids that [`Self::refine`] fits to it, and with the last bytes filled. Else
    /// every weight whose gate is open changes.
    pub(super) fn finish(
        &self,
        units: &Units,
        open: &[bool],
        grids: &Grids,
        budget: Option<usize>,
    ) -> Result<Delta> {
        let Some(budget) = budget else {
            let least = |weight| if units.of(weight).is_some() { 0.0 } else { 0.5 };
            let least: Vec<f32> = (0..open.len()).map(least).collect();
            return self.delta(&self.counts_from(open, grids, &least), grids);
        };
        self.fill(open, &self.refine(open, grids, budget)?, budget)
    }

    /// Makes grids coarser, tensor by tensor, where that costs least, until the delta fits; then finer where that gains most for its bytes, while it does.
    pub(super) fn refine(&self, open: &[bool], grids: &Grids, budget: usize) -> Result<Grids> {
        let mut now = self.packed(open, grids.clone())?;
        while now.bytes > budget {
            let coarser = |_, step: f32| step * 2.0;
            let shorter = |next: &Packed| next.bytes < now.bytes;
            let rate = |next: &Packed| (next.loss - now.loss) / (now.bytes - next.bytes) as f64;
            let next = self.changes(open, &now.grids, coarser, shorter)?;
            let best = next.into_iter().min_by(|a, b| rate(a).total_cmp(&rate(b)));
            now = match best {
                Some(best) => best,
                None => {
                    let steps: Vec<f32> = now.grids.steps.iter().map(|step| step * 2.0).collect();
                    ensure!(
                        steps.iter().all(|step| step.is_finite()),
                        "not even the labels fit into {budget} bytes"
                    );
                    self.packed(open, Grids { steps })?
                }
            };
        }
        let finest = self.finest(open);
        let finer = |place: usize, step: f32| match 0.5 * step >= finest[place] {
            true => 0.5 * step,
            false => step,
        };
        loop {
            let gains = |next: &Packed| next.bytes <= budget && next.loss < now.loss;
            let rate = |next: &Packed| {
                (now.loss - next.loss) / next.bytes.saturating_sub(now.bytes).max(1) as f64
            };
            let mut next = self.changes(open, &now.grids, finer, gains)?;
            next.sort_by(|a, b| rate(b).total_cmp(&rate(a)));
            let before = now.bytes;
            // What gains most comes first, and of the others what still fits.
            for candidate in next {
                let mut grids = now.grids.clone();
                for (step, finer) in grids.steps.iter_mut().zip(&candidate.grids.steps) {
                    *step = step.min(*finer);
                }
                let together = self.packed(open, grids)?;
                if together.bytes <= budget && together.loss < now.loss {
                    now = together;
                }
            }
            if now.bytes == before {
                return Ok(now.grids);
            }
        }
    }

    /// A delta rounded to the nearest on grids, measured.
    fn packed(&self, open: &[bool], grids: Grids) -> Result<Packed> {
        let counts = self.counts(open, &grids);
        let bytes = self.delta(&counts, &grids)?.sizes().total();
        let steps = self.frame.steps(&grids);
        let errors = self
            .fold
            .errors(self.standard, &self.frame.base, &steps, &counts);
        let loss = errors.iter().zip(self.curvature).zip(open);
        let loss = loss.map(|((error, curvature), open)| match open {
            true => f64::from(*error).powi(2) * f64::from(*curvature),
            false => 0.0,
        });
        Ok(Packed {
            loss: loss.sum(),
            bytes,
            grids,
        })
    }

    /// What comes of changing the step of any one tensor, where it pleases.
    fn changes(
        &self,
        open: &[bool],
        grids: &Grids,
        change: impl Fn(usize, f32) -> f32,
        pleases: impl Fn(&Packed) -> bool,
    ) -> Result<Vec<Packed>> {
        let mut all = Vec::new();
        for (place, step) in grids.steps.iter().enumerate() {
            let changed = change(place, *step);
            if changed == *step || !changed.is_finite() {
                continue;
            }
            let mut grids = grids.clone();
            grids.steps[place] = changed;
            let next = self.packed(open, grids)?;
            if pleases(&next) {
                all.push(next);
            }
        }
        Ok(all)
    }

    /// For every tensor, the step below which its largest difference would be cut off.
    fn finest(&self, open: &[bool]) -> Vec<f32> {
        let stored = self
            .fold
            .stored_differences(self.standard, &self.frame.base);
        let slots = self.frame.layout.slots().iter();
        let finest = slots.map(|slot| {
            let open = slot.range.clone().filter(|weight| open[*weight]);
            let sizes = open.map(|weight| (stored[weight] / self.frame.units[weight]).abs());
            sizes.fold(0.0, f32::max) / f32::from(i8::MAX)
        });
        finest.collect()
    }

    /// The delta on grids, rounded to the nearest but for those of the weights below half a step that are nearest to it: as many as fit are rounded up.
    fn fill(&self, open: &[bool], grids: &Grids, budget: usize) -> Result<Delta> {
        let steps = self.frame.steps(grids);
        let differences = self
            .fold
            .stored_differences(self.standard, &self.frame.base);
        let size = |weight: usize| differences[weight].abs() / steps[weight];
        let small = |weight: &usize| open[*weight] && steps[*weight] > 0.0 && size(*weight) < 0.5;
        let mut small: Vec<usize> = (0..open.len()).filter(small).collect();
        small.sort_by(|a, b| size(*b).total_cmp(&size(*a)));
        let with = |count: usize| -> Result<Delta> {
            let mut least = vec![0.5; open.len()];
            small[..count]
                .iter()
                .for_each(|weight| least[*weight] = 0.0);
            self.delta(&self.counts_from(open, grids, &least), grids)
        };
        let (mut low, mut high) = (0, small.len() + 1);
        let mut best = with(0)?;
        while high - low > 1 {
            let middle = (low + high) / 2;
            let delta = with(middle)?;
            if delta.sizes().total() <= budget {
                (low, best) = (middle, delta);
            } else {
                high = middle;
            }
        }
        Ok(best)
    }
}

/// A delta on grids: its bytes, and what rounding costs in loss, to second order.
struct Packed {
    grids: Grids,
    bytes: usize,
    loss: f64,
}
