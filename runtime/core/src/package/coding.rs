//! How a change stands in a file: one function for both directions, and what is learned while changes are coded.
//! FORMAT.md has the layout; how positions are written is decided by size and invisible outside.

use alloc::{vec, vec::Vec};

use super::{
    Change, Edit, MAX_QUANTISED_BITS, PackageError, Positions, Steps, Values,
    change::MAX_RANK,
    coder::{Bit, Coder, Number, Writer},
};

/// Highest bits of a magnitude whose frequency is learned; the others are as likely set as not.
const LEARNED_BITS: u32 = 3;
/// Magnitudes on a grid that are counted in unary; what is beyond is a number.
const COUNTED: u32 = 14;
/// Sizes of the two values before, together: 0, 1, 2, and more.
const NEIGHBOURS: usize = 4;
/// Weights that a change may name beyond eight for every bit that is left.
const FREE_WEIGHTS: usize = 65_536;
/// Bits that tell the parameter of the gaps' Rice code.
const RICE_BITS: u32 = 5;
/// About what it costs to tell another parameter than the change before had, and to learn its statistics.
const OTHER_RICE_BITS: usize = 8;
/// Largest index of a tensor.
pub(super) const MAX_TENSOR: usize = 65_535;
/// Multiples of the Rice code's parameter that are counted in unary; more are a number.
const LONG_GAP: u32 = 24;

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
    /// Per parameter of the Rice code: whether a gap is longer than 1, 2 and more multiples; and the highest bit of what is left.
    longer: Vec<[Bit; 3]>,
    rest: Vec<[Bit; 4]>,
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
            longer: vec![[Bit::NEW; 3]; 1 << RICE_BITS],
            rest: vec![[Bit::NEW; 4]; 1 << RICE_BITS],
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

/// The groups of weights that a change names, as they stand in the file.
struct Units {
    /// Weights in each.
    unit: u32,
    /// First weight of each, ascending.
    firsts: Vec<u32>,
}

impl Units {
    fn weights(&self) -> usize {
        self.firsts.len() * self.unit as usize
    }

    fn indexes(&self) -> impl Iterator<Item = u32> {
        self.firsts
            .iter()
            .flat_map(|first| *first..first + self.unit)
    }

    /// The values of all weights of the units, zero where the weight stays; `values` are those at `positions`.
    fn fill<T: Copy + Default>(&self, values: &[T], positions: Option<&Positions>) -> Vec<T> {
        let Some(positions) = positions else {
            return Vec::new();
        };
        let mut given = positions.indexes.iter().zip(values).peekable();
        let value = |index: u32| {
            given
                .next_if(|(next, _)| **next == index)
                .map_or_else(T::default, |(_, value)| *value)
        };
        self.indexes().map(value).collect()
    }

    fn spread(&self, values: &Values, positions: Option<&Positions>) -> Values {
        match values {
            Values::Quantised {
                steps,
                scales,
                values,
            } => Values::Quantised {
                steps: *steps,
                scales: scales.clone(),
                values: self.fill(values, positions),
            },
            Values::Float(values) => Values::Float(self.fill(values, positions)),
        }
    }

    /// Positions and values of the weights whose value, of all, is not zero.
    fn changed<T: Copy + Default + PartialEq>(&self, mut all: Vec<T>) -> (Positions, Vec<T>) {
        let changed = self
            .indexes()
            .zip(&all)
            .filter(|(_, v)| **v != T::default());
        let indexes = changed.map(|(index, _)| index).collect();
        all.retain(|value| *value != T::default());
        let unit = self.unit;
        (Positions { unit, indexes }, all)
    }
}

/// The number of weights in a unit, often that of the change before.
fn code_unit<C: Coder>(
    coder: &mut C,
    models: &mut Models,
    given: Option<&Positions>,
) -> Result<u32, PackageError> {
    let unit = given.map_or(1, |positions| positions.unit);
    if !coder.bit(&mut models.same_unit, unit == models.last_unit)? {
        models.last_unit = coder.number(&mut models.unit, unit - 1)? + 1;
    }
    Ok(models.last_unit)
}

/// Every unit takes at least a bit of a value behind, and of eight weights one does, so that a claim beyond that is refused before anything is made of it.
fn code_units<C: Coder>(
    coder: &mut C,
    models: &mut Models,
    unit: u32,
    given: Option<&Positions>,
) -> Result<Units, PackageError> {
    let mut units: Vec<u32> = given.map_or_else(Vec::new, |positions| {
        positions.indexes.iter().map(|i| i / unit).collect()
    });
    units.dedup();
    let count =
        coder.number(&mut models.units, (units.len() as u32).saturating_sub(1))? as usize + 1;
    let weights = count.checked_mul(unit as usize);
    let fits = |weights| weights <= most_weights(coder) && count <= coder.bits_left();
    if !weights.is_some_and(fits) {
        return Err(coder.damaged("number of changed weights"));
    }
    let gaps: Vec<u32> = gaps(&units).collect();
    let best = match given {
        Some(_) => best_rice(&gaps, models.last_rice),
        None => 0,
    };
    let rice = if coder.bit(&mut models.same_rice, best == models.last_rice)? {
        models.last_rice
    } else {
        coder.tree(&mut models.rice, RICE_BITS, best)?
    };
    models.last_rice = rice;
    let (mut firsts, mut next) = (Vec::with_capacity(count), 0u32);
    for place in 0..count {
        let gap = code_gap(coder, models, rice, gaps.get(place).copied().unwrap_or(0))?;
        let at = next.checked_add(gap).filter(|at| *at < u32::MAX);
        let first = at.and_then(|at| at.checked_mul(unit));
        match (at, first.filter(|first| first.checked_add(unit).is_some())) {
            (Some(at), Some(first)) => {
                firsts.push(first);
                next = at + 1;
            }
            _ => return Err(coder.damaged("gap between weights")),
        }
    }
    Ok(Units { unit, firsts })
}

/// The most weights that a change may name: a weight that changes takes a bit at least, and a writer leaves no more than seven of eight as they are.
fn most_weights<C: Coder>(coder: &C) -> usize {
    coder
        .bits_left()
        .saturating_mul(8)
        .saturating_add(FREE_WEIGHTS)
}

/// The first position, then how many units stay unchanged between one changed unit and the next.
fn gaps(units: &[u32]) -> impl Iterator<Item = u32> {
    let mut next = 0;
    units.iter().map(move |&unit| {
        let gap = unit - next;
        next = unit + 1;
        gap
    })
}

/// The parameter of the Rice code with the fewest bits, by measure, of those near the gaps' mean and the one before, which costs least to tell.
fn best_rice(gaps: &[u32], before: u32) -> u32 {
    let sum: u64 = gaps.iter().copied().map(u64::from).sum();
    let mean = (sum * 7 / 10 / (gaps.len() as u64).max(1)).max(1).ilog2();
    let cost = |rice: &u32| {
        let (mut writer, mut models) = (Writer::new(), Models::new());
        for gap in gaps {
            code_gap(&mut writer, &mut models, *rice, *gap).expect("a writer refuses nothing");
        }
        writer.bits() + if *rice == before { 0 } else { OTHER_RICE_BITS }
    };
    [before, mean.saturating_sub(1), mean, mean + 1]
        .into_iter()
        .min_by_key(cost)
        .unwrap_or(before)
}

/// A gap in the Rice code of parameter `rice` (R. F. Rice, 1979), its unary part and the highest bit of its rest learned.
fn code_gap<C: Coder>(
    coder: &mut C,
    models: &mut Models,
    rice: u32,
    gap: u32,
) -> Result<u32, PackageError> {
    let multiples = gap >> rice;
    let mut quotient = 0u32;
    while quotient < LONG_GAP
        && coder.bit(
            &mut models.longer[rice as usize][quotient.min(2) as usize],
            quotient < multiples,
        )?
    {
        quotient += 1;
    }
    if quotient == LONG_GAP {
        let beyond = multiples.saturating_sub(LONG_GAP);
        quotient = coder
            .number(&mut models.beyond, beyond)?
            .checked_add(LONG_GAP)
            .ok_or_else(|| coder.damaged("gap between weights"))?;
    }
    let learned = rice.min(2);
    let rest = gap & ((1u64 << rice) - 1) as u32;
    let high = coder.tree(
        &mut models.rest[rice as usize],
        learned,
        rest >> (rice - learned),
    )?;
    let low = coder.raw(rice - learned, rest & ((1 << (rice - learned)) - 1))?;
    quotient
        .checked_shl(rice)
        .filter(|shifted| shifted >> rice == quotient)
        .and_then(|shifted| shifted.checked_add(high << (rice - learned) | low))
        .ok_or_else(|| coder.damaged("gap between weights"))
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

/// `count` values, `scaled_by_row` or all alike.
fn code_values<C: Coder>(
    coder: &mut C,
    models: &mut Models,
    count: usize,
    given: Option<&Values>,
    scaled_by_row: bool,
) -> Result<Values, PackageError> {
    let form = match given {
        Some(Values::Quantised {
            steps: Steps::Even, ..
        }) => form::EVEN,
        Some(Values::Quantised {
            steps: Steps::Grid | Steps::Share,
            ..
        }) => form::GRID,
        Some(Values::Quantised { .. }) | None => form::GROWING,
        Some(Values::Float(_)) => form::FLOAT,
    };
    match coder.tree(&mut models.form, 2, form)? {
        form @ (form::GROWING | form::EVEN) => {
            let (scales, values) = match given {
                Some(Values::Quantised { scales, values, .. }) => {
                    (scales.as_slice(), values.as_slice())
                }
                _ => ([].as_slice(), [].as_slice()),
            };
            let largest = values.iter().map(|value| value.unsigned_abs()).max();
            let bits = 8 - largest.unwrap_or(1).max(1).leading_zeros();
            let bits = coder.tree(&mut models.bits, 3, bits)?;
            if bits == 0 {
                return Err(coder.damaged("bits of quantised values"));
            }
            let mut number = 1;
            if scaled_by_row {
                let scales = (scales.len() as u32).saturating_sub(1);
                number += coder.number(&mut models.scales, scales)? as usize;
            }
            if !count.is_multiple_of(number) {
                return Err(coder.damaged("number of scales"));
            }
            let fraction_bits = code_fraction_bits(coder, models, scales)?;
            let scales = code_list(number, scales, |scale: f32| {
                coder.float(&mut models.scale_exponents, fraction_bits, scale)
            })?;
            let (learned, unlearned) = (bits.min(LEARNED_BITS), bits.saturating_sub(LEARNED_BITS));
            let values = code_list(count, values, |value: i8| {
                let magnitude = u32::from(value.unsigned_abs());
                let models = &mut models.magnitudes[form as usize / 2][bits as usize];
                let high = coder.tree(models, learned, magnitude >> unlearned)?;
                let low = magnitude & ((1 << unlearned) - 1);
                // The sign goes with the lowest bits.
                let low = coder.raw(unlearned + 1, low << 1 | u32::from(value < 0))?;
                let magnitude = (high << unlearned | low >> 1) as i8;
                Ok(if low & 1 == 1 { -magnitude } else { magnitude })
            })?;
            let steps = if form == form::EVEN {
                Steps::Even
            } else {
                Steps::Growing
            };
            Ok(Values::Quantised {
                steps,
                scales,
                values,
            })
        }
        form::GRID => {
            let (scales, values) = match given {
                Some(Values::Quantised { scales, values, .. }) => {
                    (scales.as_slice(), values.as_slice())
                }
                _ => ([].as_slice(), [].as_slice()),
            };
            let share = matches!(
                given,
                Some(Values::Quantised {
                    steps: Steps::Share,
                    ..
                })
            );
            let share = coder.bit(&mut models.share, share)?;
            if share && scaled_by_row {
                return Err(coder.damaged("shares of weights that are replaced"));
            }
            let fraction_bits = code_fraction_bits(coder, models, scales)?;
            let scales = code_list(1 + usize::from(share), scales, |scale: f32| {
                coder.float(&mut models.scale_exponents, fraction_bits, scale)
            })?;
            let mut before = [0u32; 2];
            let values = code_list(count, values, |value: i8| {
                let size = u32::from(value.unsigned_abs());
                let neighbours = (before[0] + before[1]).min(NEIGHBOURS as u32 - 1);
                let size = code_size(coder, models, neighbours as usize, size)?;
                before = [before[1], size];
                Ok(match size {
                    0 => 0,
                    _ if coder.raw(1, u32::from(value < 0))? == 1 => -(size as i8),
                    _ => size as i8,
                })
            })?;
            Ok(Values::Quantised {
                steps: if share { Steps::Share } else { Steps::Grid },
                scales,
                values,
            })
        }
        form::FLOAT => {
            let given = match given {
                Some(Values::Float(values)) => values.as_slice(),
                _ => &[],
            };
            let fraction_bits = code_fraction_bits(coder, models, given)?;
            let values = code_list(count, given, |value: f32| {
                let negative = coder.raw(1, value.is_sign_negative().into())? == 1;
                let exponents = &mut models.value_exponents;
                let size = coder.float(exponents, fraction_bits, value.abs())?;
                Ok(if negative { -size } else { size })
            })?;
            Ok(Values::Float(values))
        }
        unknown => Err(PackageError::UnsupportedFeature {
            what: "form of values",
            found: unknown,
        }),
    }
}

/// The magnitude of a value on a grid, 0 to 127.
fn code_size<C: Coder>(
    coder: &mut C,
    models: &mut Models,
    neighbours: usize,
    given: u32,
) -> Result<u32, PackageError> {
    let mut size = 0;
    while size < COUNTED
        && coder.bit(&mut models.larger[neighbours][size as usize], size < given)?
    {
        size += 1;
    }
    if size == COUNTED {
        size += coder.number(&mut models.large, given.saturating_sub(COUNTED))?;
    }
    if size > i8::MAX as u32 {
        return Err(coder.damaged("a value beyond its grid"));
    }
    Ok(size)
}

/// The fraction bits of the value that needs most.
fn code_fraction_bits<C: Coder>(
    coder: &mut C,
    models: &mut Models,
    values: &[f32],
) -> Result<u32, PackageError> {
    let needed = values
        .iter()
        .map(|value| 23 - value.to_bits().trailing_zeros().min(23));
    let bits = coder.tree(&mut models.fraction_bits, 5, needed.max().unwrap_or(0))?;
    if bits > 23 {
        return Err(coder.damaged("number of fraction bits"));
    }
    Ok(bits)
}

/// A step between f32: its sign, and how many steps: a number that adapts.
fn code_step<C: Coder>(coder: &mut C, models: &mut Models, step: i32) -> Result<i32, PackageError> {
    let negative = coder.raw(1, (step < 0).into())? == 1;
    let size = coder.number(&mut models.step_digits, step.unsigned_abs())?;
    if size > 1 << 31 {
        return Err(coder.damaged("a step that is too far"));
    }
    let size = size as i32;
    Ok(if negative { size.wrapping_neg() } else { size })
}

/// `count` values, of which a writer is given all and a reader none.
fn code_list<T: Copy + Default>(
    count: usize,
    given: &[T],
    mut code: impl FnMut(T) -> Result<T, PackageError>,
) -> Result<Vec<T>, PackageError> {
    let mut values = Vec::with_capacity(count);
    for place in 0..count {
        values.push(code(given.get(place).copied().unwrap_or_default())?);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::{Precision, Tensor};

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
