//! One tensor's change in a delta: a sparse difference, exact steps, or new values; made of two tensors and rounded here. How it stands in a file
//! is in `coding`.

use alloc::{vec, vec::Vec};

use super::{Tensor, coder::Writer, coding::Models};

/// Most bits of a quantised value's magnitude: int8.
pub const MAX_QUANTISED_BITS: u32 = 7;
/// Most dimensions of a replaced tensor.
pub(super) const MAX_RANK: usize = 8;
/// Fraction bits that scales are rounded to: those of bfloat16. A file can hold any number.
const SCALE_FRACTION_BITS: u32 = 7;
/// Fraction bits that rounded values are rounded to: those of f16. A file can hold any number.
const ROUNDED_FRACTION_BITS: u32 = 10;

/// What a delta does to one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Index of the tensor in the base's name order, from 0.
    pub tensor: usize,
    /// What happens to it.
    pub edit: Edit,
}

/// The ways to change a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// `w + v` at each position, an addition in f32, rounded; the shape stays.
    Add {
        /// Where.
        positions: Positions,
        /// Differences, one per position; none is zero.
        values: Values,
    },
    /// The f32 so many steps above or below `w`, in the order of all f32: exact, whatever the difference.
    Step {
        /// Where.
        positions: Positions,
        /// Steps between neighbouring f32, one per position; none is zero.
        steps: Vec<i32>,
    },
    /// The tensor gets another shape and other values.
    Replace {
        /// The new shape; none of its dimensions is zero.
        shape: Vec<usize>,
        /// The new values in row-major order.
        values: Values,
    },
}

/// Which weights of a tensor change.
#[derive(Clone, Debug, PartialEq)]
pub struct Positions {
    /// In the file, weights are named in aligned groups of so many: 1 for single weights, more for output channels or a whole tensor.
    pub unit: u32,
    /// Row-major indexes of the weights, ascending; at least one. Others of their units keep their value.
    pub indexes: Vec<u32>,
}

/// Values as a delta holds them.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// `scale * steps.apply(value)`; the values are divided evenly among the scales, in order: one scale for all, or one per row.
    Quantised {
        /// What a quantised value stands for.
        steps: Steps,
        /// Factors; finite, not negative, their number divides the number of values; of [`Steps::Share`] two, see there.
        scales: Vec<f32>,
        /// Quantised values.
        values: Vec<i8>,
    },
    /// As they are; finite. In the file, they take as many fraction bits as the value that needs most.
    Float(Vec<f32>),
}

impl Values {
    /// The values in f32.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::Float(values) => values.clone(),
            Self::Quantised {
                steps,
                scales,
                values,
            } => values
                .chunks(values.len() / scales.len())
                .zip(scales)
                .flat_map(|(row, scale)| row.iter().map(move |&v| scale * steps.apply(v)))
                .collect(),
        }
    }
}

/// How closely a delta keeps to the tuned network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Precision {
    /// The merged network has the tuned one's bits.
    Lossless,
    /// Differences are rounded to ten fraction bits, as f16 has.
    Rounded,
    /// Differences are quantised to a sign and so many bits, 1 to [`MAX_QUANTISED_BITS`]: 7 is int8, 3 is int4.
    Quantised(u32, Steps),
    /// Differences are rounded to multiples of this, -127 to 127 of them: for a tensor that was trained on such a grid.
    Multiples(f32),
    /// The same for steps that grow with the base's weight: the first number times its size, and the second.
    Shares(f32, f32),
}

impl Precision {
    /// int8 in growing steps: what is used unless something else is asked for.
    pub const DEFAULT: Self = Self::Quantised(MAX_QUANTISED_BITS, Steps::Growing);
}

/// What a quantised value stands for, in units of its scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// `q * |q|`. The small values beside a few large ones keep their precision: a norm whose input hardly varies has a deployed scale a hundred
    /// times larger than its neighbours'. For normally distributed values the error is that of even steps, but coding them takes half a bit more each.
    Growing,
    /// `q`. The fewest bits where no value is far beyond the others.
    Even,
    /// `q`, as well, with one scale for all values of a tensor. Coded for values most of which are small: a zero takes no sign, and what
    /// is likely is learned from the values before, so that a few bits a weight suffice for all weights of a tensor.
    Grid,
    /// As [`Steps::Grid`], with steps that grow with the base's weight: `w + q * (scale * |w| + floor)`, the two being the scales. For scales of norms,
    /// which differ by orders of magnitude while all matter alike. Not in replacements.
    Share,
}

impl Steps {
    /// What `quantised` stands for; exact in f32.
    pub fn apply(self, quantised: i8) -> f32 {
        let value = i16::from(quantised);
        match self {
            Self::Growing => f32::from(value * value.abs()),
            Self::Even | Self::Grid | Self::Share => f32::from(value),
        }
    }

    /// What one step is worth for the base's `weight`.
    pub(super) fn size(self, scales: &[f32], weight: f32) -> f32 {
        match (self, scales) {
            (Self::Share, [scale, floor]) => scale * weight.abs() + floor,
            _ => scales[0],
        }
    }

    /// The largest value that stands for at most `units`, which are not negative.
    fn below(self, units: f32) -> f32 {
        match self {
            Self::Growing => libm::sqrtf(units),
            Self::Even | Self::Grid | Self::Share => units,
        }
    }
}

/// Bytes that one change takes in the file. What lies between two parts counts to the second, so that all parts add up to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeBytes {
    /// Index of the tensor in the base's name order.
    pub tensor: usize,
    /// Tensor index, kind and shape.
    pub frame_bytes: usize,
    /// Which weights change.
    pub positions_bytes: usize,
    /// Values and scales.
    pub values_bytes: usize,
}

impl ChangeBytes {
    /// All bytes of the change.
    pub fn total(&self) -> usize {
        self.frame_bytes + self.positions_bytes + self.values_bytes
    }
}

/// Rounds `values` to a sign and `bits` bits with a common scale: `value ≈ scale * steps.apply(q)`, the scale being the largest absolute
/// value over what 2^bits - 1 stands for, rounded to bfloat16.
///
/// All values must be finite, `bits` 1 to [`MAX_QUANTISED_BITS`]. Where all are zero, or so small that the scale is, scale and values are zero.
/// Of two equally near the one closer to zero is taken; the result is the same on every machine.
pub fn quantise(values: &[f32], bits: u32, steps: Steps) -> (f32, Vec<i8>) {
    let largest = values
        .iter()
        .fold(0.0f32, |largest, value| largest.max(value.abs()));
    let most = ((1u32 << bits) - 1) as i8;
    let scale = round(largest / steps.apply(most), SCALE_FRACTION_BITS);
    let quantised = values.iter().map(|value| {
        if scale == 0.0 {
            return 0;
        }
        let units = value.abs() / scale;
        let below = (steps.below(units) as i8).min(most - 1);
        let (up, down) = (steps.apply(below + 1) - units, units - steps.apply(below));
        let nearest = if up < down { below + 1 } else { below };
        if *value < 0.0 { -nearest } else { nearest }
    });
    (scale, quantised.collect())
}

/// The nearest multiple of `step`, in steps, of two equally near the one with an even last bit, from -127 to 127; zero where the step is.
pub fn multiple(value: f32, step: f32) -> i8 {
    if step == 0.0 {
        return 0;
    }
    let most = f32::from(i8::MAX);
    libm::rintf(value / step).clamp(-most, most) as i8
}

/// The nearest f32 with so many fraction bits, of two equally near the one with an even last bit; where that is infinite, the largest finite.
fn round(value: f32, fraction_bits: u32) -> f32 {
    let dropped = 23 - fraction_bits;
    let bits = value.to_bits();
    let half = (1u32 << (dropped - 1)) - 1 + (bits >> dropped & 1);
    let rounded = f32::from_bits((bits + half) >> dropped << dropped);
    if rounded.is_finite() {
        rounded
    } else {
        f32::from_bits(bits >> dropped << dropped)
    }
}

/// Place of an f32 in the order of all f32, from the most negative to the most positive; its own inverse on the bits.
fn place(bits: i32) -> i32 {
    if bits < 0 { bits ^ i32::MAX } else { bits }
}

/// The f32 that lies `steps` above `value` in the order of all f32, around its ends if need be.
pub(super) fn step(value: f32, steps: i32) -> f32 {
    let there = place(value.to_bits() as i32).wrapping_add(steps);
    f32::from_bits(place(there) as u32)
}

/// The steps from `old` to `new`; see [`step`].
fn steps(old: f32, new: f32) -> i32 {
    place(new.to_bits() as i32).wrapping_sub(place(old.to_bits() as i32))
}

impl Change {
    /// The change that turns `old` into `new` of equal shape, and follows those that `models` has seen; none where nothing differs, or nothing after rounding.
    pub(super) fn difference(
        tensor: usize,
        old: &Tensor,
        new: &Tensor,
        precision: Precision,
        models: &mut Models,
    ) -> Option<Self> {
        let pairs = || new.data.iter().zip(&old.data);
        let mut edit = |values: Vec<_>, edit: &dyn Fn(Positions, Vec<i32>) -> Edit| {
            let (indexes, values): (Vec<u32>, Vec<i32>) = (0u32..)
                .zip(values)
                .filter(|(_, value)| *value != 0)
                .unzip();
            if values.is_empty() {
                return None;
            }
            let row = (old.data.len() / old.rows().max(1)) as u32;
            let last = indexes[indexes.len() - 1];
            let mut candidates = Vec::with_capacity(4);
            for unit in [last + 1, row, 1, models.last_unit()] {
                if !candidates.contains(&unit) {
                    candidates.push(unit);
                }
            }
            // So many that a reader takes them for a claim.
            let fits = |unit: &u32| {
                let mut units: Vec<u32> = indexes.iter().map(|index| index / unit).collect();
                units.dedup();
                units.len() * *unit as usize <= 8 * indexes.len()
            };
            // The cheapest by measure, of equal ones the first.
            let measured = candidates
                .into_iter()
                .filter(|unit| *unit > 0 && (*unit == 1 || fits(unit)))
                .map(|unit| {
                    let indexes = indexes.clone();
                    let edit = edit(Positions { unit, indexes }, values.clone());
                    let change = Self { tensor, edit };
                    let (bits, models) = change.bits_after(models);
                    (bits, change, models)
                });
            let (_, change, learned) = measured.min_by_key(|(bits, ..)| *bits)?;
            *models = learned;
            Some(change)
        };
        match precision {
            Precision::Lossless => {
                let steps = pairs().map(|(n, o)| steps(*o, *n)).collect();
                edit(steps, &|positions, steps| Edit::Step { positions, steps })
            }
            Precision::Rounded => {
                let rounded = pairs().map(|(n, o)| round(n - o, ROUNDED_FRACTION_BITS));
                // As bits, of which both zeros are none.
                let bits = rounded.map(|value| {
                    if value == 0.0 {
                        0
                    } else {
                        value.to_bits() as i32
                    }
                });
                edit(bits.collect(), &|positions, bits| Edit::Add {
                    positions,
                    values: Values::Float(
                        bits.iter()
                            .map(|bits| f32::from_bits(*bits as u32))
                            .collect(),
                    ),
                })
            }
            Precision::Quantised(bits, steps) => {
                let differences: Vec<f32> = pairs().map(|(n, o)| n - o).collect();
                let (scale, quantised) = quantise(&differences, bits, steps);
                let quantised = quantised.into_iter().map(i32::from).collect();
                edit(quantised, &|positions, values| Edit::Add {
                    positions,
                    values: Values::Quantised {
                        steps,
                        scales: vec![scale],
                        values: values.iter().map(|value| *value as i8).collect(),
                    },
                })
            }
            Precision::Multiples(_) | Precision::Shares(..) => {
                let (steps, scales) = match precision {
                    Precision::Shares(scale, floor) => (Steps::Share, vec![scale, floor]),
                    Precision::Multiples(step) => (Steps::Grid, vec![step]),
                    _ => (Steps::Grid, Vec::new()),
                };
                let quantised = pairs().map(|(n, o)| {
                    let step = steps.size(&scales, *o);
                    i32::from(multiple(n - o, step))
                });
                edit(quantised.collect(), &|positions, values| Edit::Add {
                    positions,
                    values: Values::Quantised {
                        steps,
                        scales: scales.clone(),
                        values: values.iter().map(|value| *value as i8).collect(),
                    },
                })
            }
        }
    }

    /// The change that puts `new` in the tensor's place: quantised with a scale per row, rounded where there is one value per row.
    pub(super) fn replacement(tensor: usize, new: &Tensor, precision: Precision) -> Self {
        let row = new.data.len() / new.rows().max(1);
        let values = match precision {
            Precision::Lossless => Values::Float(new.data.clone()),
            Precision::Multiples(step) | Precision::Shares(_, step) => Values::Quantised {
                steps: Steps::Grid,
                scales: vec![step],
                values: new.data.iter().map(|v| multiple(*v, step)).collect(),
            },
            Precision::Quantised(bits, steps) if row > 1 => {
                let rows = new.data.chunks(row).map(|row| quantise(row, bits, steps));
                let (scales, values): (Vec<_>, Vec<_>) = rows.unzip();
                Values::Quantised {
                    steps,
                    scales,
                    values: values.concat(),
                }
            }
            _ => Values::Float(
                new.data
                    .iter()
                    .map(|value| round(*value, ROUNDED_FRACTION_BITS))
                    .collect(),
            ),
        };
        let edit = Edit::Replace {
            shape: new.shape.clone(),
            values,
        };
        Self { tensor, edit }
    }

    /// Bits of the change behind those that `models` has seen, and what they are then.
    fn bits_after(&self, models: &Models) -> (usize, Models) {
        let (mut writer, mut models) = (Writer::new(), models.clone());
        Self::code(&mut writer, &mut models, 0, Some(self), &mut |_, _| {})
            .expect("a writer refuses nothing");
        (writer.bits(), models)
    }
}
