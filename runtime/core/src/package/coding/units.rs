//! Which weights a change names: units, and the gaps between them in a Rice code.

use alloc::vec::Vec;

use super::{Models, RICE_BITS};
use crate::package::{
    PackageError, Positions, Values,
    coder::{Bit, Coder, Number, Writer},
};

/// Weights that a change may name beyond eight for every bit that is left.
const FREE_WEIGHTS: usize = 65_536;
/// About what it costs to tell another parameter than the change before had, and to learn its statistics.
const OTHER_RICE_BITS: usize = 8;
/// Multiples of the Rice code's parameter that are counted in unary; more are a number.
const LONG_GAP: u32 = 24;

/// What is learned of gaps under one parameter of the Rice code.
#[derive(Clone, Copy)]
pub(super) struct Gaps {
    /// Whether a gap is longer than 1, 2 and more multiples.
    longer: [Bit; 3],
    /// The highest bits of what is left.
    rest: [Bit; 4],
}

impl Gaps {
    pub(super) const NEW: Self = Self {
        longer: [Bit::NEW; 3],
        rest: [Bit::NEW; 4],
    };
}

/// The groups of weights that a change names, as they stand in the file.
pub(super) struct Units {
    /// Weights in each.
    unit: u32,
    /// First weight of each, ascending.
    firsts: Vec<u32>,
}

impl Units {
    pub(super) fn weights(&self) -> usize {
        self.firsts.len() * self.unit as usize
    }

    fn indexes(&self) -> impl Iterator<Item = u32> {
        self.firsts
            .iter()
            .flat_map(|first| *first..first + self.unit)
    }

    /// The values of all weights of the units, zero where the weight stays; `values` are those at `positions`.
    pub(super) fn fill<T: Copy + Default>(
        &self,
        values: &[T],
        positions: Option<&Positions>,
    ) -> Vec<T> {
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

    pub(super) fn spread(&self, values: &Values, positions: Option<&Positions>) -> Values {
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
    pub(super) fn changed<T: Copy + Default + PartialEq>(
        &self,
        mut all: Vec<T>,
    ) -> (Positions, Vec<T>) {
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
pub(super) fn code_unit<C: Coder>(
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
pub(super) fn code_units<C: Coder>(
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
        let gap = gaps.get(place).copied().unwrap_or(0);
        let learned = &mut models.gaps[rice as usize];
        let gap = code_gap(coder, learned, &mut models.beyond, rice, gap)?;
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
pub(super) fn most_weights<C: Coder>(coder: &C) -> usize {
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
        let (mut writer, mut learned, mut beyond) = (Writer::new(), Gaps::NEW, Number::NEW);
        for gap in gaps {
            code_gap(&mut writer, &mut learned, &mut beyond, *rice, *gap)
                .expect("a writer refuses nothing");
        }
        writer.bits() + if *rice == before { 0 } else { OTHER_RICE_BITS }
    };
    let nearest = mean.saturating_sub(1)..=mean + 1;
    let others = nearest.filter(|rice| *rice != before);
    core::iter::once(before)
        .chain(others)
        .min_by_key(cost)
        .unwrap_or(before)
}

/// A gap in the Rice code of parameter `rice` (R. F. Rice, 1979), its unary part and the highest bit of its rest learned.
fn code_gap<C: Coder>(
    coder: &mut C,
    learned: &mut Gaps,
    beyond: &mut Number,
    rice: u32,
    gap: u32,
) -> Result<u32, PackageError> {
    let multiples = gap >> rice;
    let mut quotient = 0u32;
    while quotient < LONG_GAP
        && coder.bit(
            &mut learned.longer[quotient.min(2) as usize],
            quotient < multiples,
        )?
    {
        quotient += 1;
    }
    if quotient == LONG_GAP {
        quotient = coder
            .number(beyond, multiples.saturating_sub(LONG_GAP))?
            .checked_add(LONG_GAP)
            .ok_or_else(|| coder.damaged("gap between weights"))?;
    }
    let high_bits = rice.min(2);
    let low_bits = rice - high_bits;
    let rest = gap & ((1u64 << rice) - 1) as u32;
    let high = coder.tree(&mut learned.rest, high_bits, rest >> low_bits)?;
    let low = coder.raw(low_bits, rest & ((1 << low_bits) - 1))?;
    quotient
        .checked_shl(rice)
        .filter(|shifted| shifted >> rice == quotient)
        .and_then(|shifted| shifted.checked_add(high << low_bits | low))
        .ok_or_else(|| coder.damaged("gap between weights"))
}
