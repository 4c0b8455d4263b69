//! How a change stands in a file: one function for both directions, and what is learned while changes are coded.
//! FORMAT.md has the layout; how positions are written is decided by size and invisible outside.

mod units;
mod values;

use units::{Gaps, code_unit, code_units, most_weights};
use values::{code_list, code_step, code_values};

use alloc::vec::Vec;

use super::{
    Change, Edit, MAX_QUANTISED_BITS, PackageError, Values,
    change::MAX_RANK,
    coder::{Bit, Coder, Number},
};

/// Highest bits of a magnitude whose frequency is learned; the others are as likely set as not.
const LEARNED_BITS: u32 = 3;
/// Magnitudes on a grid that are counted in unary; what is beyond is a number.
const COUNTED: u32 = 14;
/// Sizes of the two values before, together: 0, 1, 2, and more.
const NEIGHBOURS: usize = 4;
/// Bits that tell the parameter of the gaps' Rice code.
const RICE_BITS: u32 = 5;
/// Largest index of a tensor.
pub(super) const MAX_TENSOR: usize = 65_535;

/// What is learned of changes while they are coded.
#[derive(Clone)]
pub(super) struct Models {
    gap_to_tensor: Number,
    kind: [Bit; 4],
    unit: Number,
    same_unit: Bit,
    last_unit: u32,
    units: Number,
    rice: [Bit; 1 << RICE_BITS],
    same_rice: Bit,
    last_rice: u32,
    /// Per parameter of the Rice code.
    gaps: [Gaps; 1 << RICE_BITS],
    beyond: Number,
    rank: Number,
    dimension: Number,
    form: [Bit; 4],
    bits: [Bit; 8],
    /// Per kind of steps and number of bits.
    magnitudes: [[[Bit; 1 << LEARNED_BITS]; MAX_QUANTISED_BITS as usize + 1]; 2],
    /// Of values on a grid: per size of the two before, whether the magnitude is larger than 0, 1 and more.
    share: Bit,
    larger: [[Bit; COUNTED as usize]; NEIGHBOURS],
    large: Number,
    scales: Number,
    fraction_bits: [Bit; 32],
    scale_exponents: [Bit; 256],
    value_exponents: [Bit; 256],
    step_digits: Number,
}

impl Models {
    pub(super) fn new() -> Self {
        Self {
            gap_to_tensor: Number::NEW,
            kind: [Bit::NEW; 4],
            unit: Number::NEW,
            same_unit: Bit::NEW,
            last_unit: 1,
            units: Number::NEW,
            rice: [Bit::NEW; 1 << RICE_BITS],
            same_rice: Bit::NEW,
            last_rice: 0,
            gaps: [Gaps::NEW; 1 << RICE_BITS],
            beyond: Number::NEW,
            rank: Number::NEW,
            dimension: Number::NEW,
            form: [Bit::NEW; 4],
            bits: [Bit::NEW; 8],
            magnitudes: [[[Bit::NEW; 1 << LEARNED_BITS]; MAX_QUANTISED_BITS as usize + 1]; 2],
            share: Bit::NEW,
            larger: [[Bit::NEW; COUNTED as usize]; NEIGHBOURS],
            large: Number::NEW,
            scales: Number::NEW,
            fraction_bits: [Bit::NEW; 32],
            scale_exponents: [Bit::NEW; 256],
            value_exponents: [Bit::NEW; 256],
            step_digits: Number::NEW,
        }
    }

    /// The number of weights in a unit of the change before, which costs least to name.
    pub(super) fn last_unit(&self) -> u32 {
        self.last_unit
    }
}

/// Kinds of a change in the file; FORMAT.md describes what follows each.
mod kind {
    pub(super) const ADD: u32 = 0;
    pub(super) const STEP: u32 = 1;
    pub(super) const REPLACE: u32 = 2;
}

/// Forms of values in the file.
mod form {
    pub(super) const GROWING: u32 = 0;
    pub(super) const FLOAT: u32 = 1;
    pub(super) const EVEN: u32 = 2;
    pub(super) const GRID: u32 = 3;
}

impl Change {
    /// Codes a change that follows one of tensor `next - 1`, in either direction: a writer is given it, a reader is not.
    /// `part` is called after frame, positions and values with 0, 1 and 2.
    pub(super) fn code<C: Coder>(
        coder: &mut C,
        models: &mut Models,
        next: usize,
        given: Option<&Self>,
        part: &mut dyn FnMut(&C, usize),
    ) -> Result<Self, PackageError> {
        let gap = given.map_or(0, |change| change.tensor - next);
        let gap = coder.number(&mut models.gap_to_tensor, gap as u32)? as usize;
        let tensor = next.saturating_add(gap);
        if tensor > MAX_TENSOR {
            return Err(coder.damaged("tensor index"));
        }
        let edit = code_edit(coder, models, given.map(|change| &change.edit), part)?;
        Ok(Self { tensor, edit })
    }
}

fn code_edit<C: Coder>(
    coder: &mut C,
    models: &mut Models,
    given: Option<&Edit>,
    part: &mut dyn FnMut(&C, usize),
) -> Result<Edit, PackageError> {
    let kind = match given {
        Some(Edit::Add { .. }) | None => kind::ADD,
        Some(Edit::Step { .. }) => kind::STEP,
        Some(Edit::Replace { .. }) => kind::REPLACE,
    };
    let edit = match coder.tree(&mut models.kind, 2, kind)? {
        kind::ADD => {
            let (positions, values) = match given {
                Some(Edit::Add { positions, values }) => (Some(positions), Some(values)),
                _ => (None, None),
            };
            let unit = code_unit(coder, models, positions)?;
            part(coder, 0);
            let units = code_units(coder, models, unit, positions)?;
            part(coder, 1);
            let values = values.map(|values| units.spread(values, positions));
            let values = code_values(coder, models, units.weights(), values.as_ref(), false)?;
            let (positions, values) = match values {
                Values::Quantised {
                    steps,
                    scales,
                    values,
                } => {
                    let (positions, values) = units.changed(values);
                    let values = Values::Quantised {
                        steps,
                        scales,
                        values,
                    };
                    (positions, values)
                }
                Values::Float(values) => {
                    let (positions, values) = units.changed(values);
                    (positions, Values::Float(values))
                }
            };
            if positions.indexes.is_empty() {
                return Err(coder.damaged("a change that changes nothing"));
            }
            Edit::Add { positions, values }
        }
        kind::STEP => {
            let (positions, steps) = match given {
                Some(Edit::Step { positions, steps }) => (Some(positions), steps.as_slice()),
                _ => (None, [].as_slice()),
            };
            let unit = code_unit(coder, models, positions)?;
            part(coder, 0);
            let units = code_units(coder, models, unit, positions)?;
            part(coder, 1);
            let steps = code_list(units.weights(), &units.fill(steps, positions), |step| {
                code_step(coder, models, step)
            })?;
            let (positions, steps) = units.changed(steps);
            if steps.is_empty() {
                return Err(coder.damaged("a change that changes nothing"));
            }
            Edit::Step { positions, steps }
        }
        kind::REPLACE => {
            let (shape, values) = match given {
                Some(Edit::Replace { shape, values }) => (shape.as_slice(), Some(values)),
                _ => ([].as_slice(), None),
            };
            let shape = code_shape(coder, models, shape)?;
            part(coder, 0);
            part(coder, 1);
            let count = shape.iter().product();
            let values = code_values(coder, models, count, values, true)?;
            Edit::Replace { shape, values }
        }
        unknown => {
            return Err(PackageError::UnsupportedFeature {
                what: "change kind",
                found: unknown,
            });
        }
    };
    part(coder, 2);
    Ok(edit)
}

fn code_shape<C: Coder>(
    coder: &mut C,
    models: &mut Models,
    given: &[usize],
) -> Result<Vec<usize>, PackageError> {
    let rank = coder.number(&mut models.rank, given.len() as u32)? as usize;
    if !(1..=MAX_RANK).contains(&rank) {
        return Err(coder.damaged("number of dimensions"));
    }
    let mut shape = Vec::with_capacity(rank);
    for place in 0..rank {
        let dimension = given.get(place).copied().unwrap_or(0) as u32;
        shape.push(coder.number(&mut models.dimension, dimension)? as usize);
    }
    let values = shape
        .iter()
        .try_fold(1usize, |product, &dimension| product.checked_mul(dimension));
    match values {
        Some(values) if values > 0 && values <= most_weights(coder) => Ok(shape),
        _ => Err(coder.damaged("shape")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::{Precision, Tensor, coder::Writer};

    /// log2 of the number of ways to choose `k` of `n`: what no coding of positions alone can beat on average.
    fn log2_choose(n: usize, k: usize) -> f64 {
        (0..k.min(n - k))
            .map(|i| ((n - i) as f64 / (i + 1) as f64).log2())
            .sum()
    }

    #[test]
    fn positions_cost_little_more_than_the_combinatorial_bound() {
        let mut state = 1u64;
        // xorshift64 (Marsaglia 2003), below 1.
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        for case in 0..2_000 {
            let (density, by_row) = (0.01 + 0.94 * random(), case % 2 == 0);
            let (mut writer, mut models, mut next) = (Writer::new(), Models::new(), 0);
            let (mut bound_bits, mut bits, mut tensors) = (0.0, 0, 0);
            for index in 0..1 + (20.0 * random()) as usize {
                let (rows, row) = (
                    1 + (40.0 * random()) as usize,
                    1 + (60.0 * random()) as usize,
                );
                let (n, unit) = (rows * row, if by_row { row } else { 1 });
                let old = Tensor::new(vec![rows, row], vec![1.0; n]);
                let mut new = old.clone();
                let mut chosen = 0;
                for unit in new.data.chunks_mut(unit) {
                    if random() < density {
                        unit.iter_mut().for_each(|w| *w += 0.5);
                        chosen += 1;
                    }
                }
                let mut seen = models.clone();
                let change = Change::difference(index, &old, &new, Precision::DEFAULT, &mut seen);
                let Some(change) = change else {
                    continue;
                };
                bound_bits += log2_choose(n / unit, chosen);
                tensors += 1;
                let mut start = 0;
                let mut measure = |writer: &Writer, part| {
                    if part == 1 {
                        bits += writer.bits() - start;
                    }
                    start = writer.bits();
                };
                Change::code(&mut writer, &mut models, next, Some(&change), &mut measure).unwrap();
                next = index + 1;
            }
            let allowed = 1.05 * bound_bits + 8.0 * f64::from(tensors) + 128.0;
            assert!(
                bits as f64 <= allowed,
                "case {case}: {bits} bits, bound {bound_bits:.0}, allowed {allowed:.0}, {tensors} tensors, density {density:.2}"
            );
        }
    }
}
