//! One tensor's change in a delta: a sparse int8 difference or, for the classifier, new values; with its coding in bytes.
//! Which of three codings of the positions is used is decided here, by size, and invisible outside.

use alloc::vec::Vec;

use super::{
    PackageError, Tensor,
    bytes::{Reader, put_varint, varint_bytes},
};

/// Largest absolute quantised value.
const QUANTISED_MAX: i8 = 127;
/// Most dimensions of a replaced tensor.
pub(super) const MAX_RANK: usize = 8;

/// Kind bytes of the coding; FORMAT.md describes what follows each. Numbers not listed are free for later codings.
mod kind {
    pub(super) const ADD_DENSE: u8 = 0;
    pub(super) const ADD_BITMAP: u8 = 1;
    pub(super) const ADD_GAPS: u8 = 2;
    pub(super) const REPLACE_INT8: u8 = 16;
    pub(super) const REPLACE_F32: u8 = 17;
}

/// What a delta does to one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Index of the tensor in the base's name order, from 0.
    pub tensor: usize,
    /// What happens to it.
    pub edit: Edit,
}

/// The two ways to change a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// `w + scale * square(value)` at each position, a multiplication and an addition in f32, each rounded; the shape stays.
    Add {
        /// Factor of all values; finite and positive.
        scale: f32,
        /// Row-major positions, ascending; at least one.
        positions: Vec<u32>,
        /// Quantised differences, one per position, none zero.
        values: Vec<i8>,
    },
    /// The tensor gets another shape and other values.
    Replace {
        /// The new shape; none of its dimensions is zero.
        shape: Vec<usize>,
        /// The new values in row-major order.
        values: Values,
    },
}

/// New values of a replaced tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// `scale * square(value)`; the values are divided evenly among the scales, in order: one scale for all, or one per row.
    Quantised {
        /// Factors; finite, not negative, their number divides the number of values.
        scales: Vec<f32>,
        /// Quantised values.
        values: Vec<i8>,
    },
    /// As they are; finite.
    Float(Vec<f32>),
}

impl Values {
    /// The values in f32.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::Float(values) => values.clone(),
            Self::Quantised { scales, values } => values
                .chunks(values.len() / scales.len())
                .zip(scales)
                .flat_map(|(row, scale)| row.iter().map(move |&value| scale * square(value)))
                .collect(),
        }
    }
}

/// Bytes that one change takes in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeBytes {
    /// Index of the tensor in the base's name order.
    pub tensor: usize,
    /// Tensor index, kind, counts and shape.
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

/// What a quantised value stands for, in units of its scale: its square, with its sign. Exact in f32.
///
/// Steps that grow with the value keep the small differences beside a few large ones: a norm whose input hardly varies has a
/// deployed scale a hundred times larger than its neighbours. For normally distributed values the error is that of even steps.
pub fn square(quantised: i8) -> f32 {
    let value = i16::from(quantised);
    f32::from(value * value.abs())
}

/// Rounds `values` to int8 with a common scale: `value ≈ scale * square(q)`, the scale being the largest absolute value / 127².
///
/// All values must be finite. Where all are zero, or so small that the scale is, scale and values are zero.
/// Of two equally near the one closer to zero is taken; the result is the same on every machine.
pub fn quantise(values: &[f32]) -> (f32, Vec<i8>) {
    let largest = values
        .iter()
        .fold(0.0f32, |largest, value| largest.max(value.abs()));
    let scale = largest / square(QUANTISED_MAX);
    let quantised = values.iter().map(|value| {
        if scale == 0.0 {
            return 0;
        }
        let units = value.abs() / scale;
        let below = (libm::sqrtf(units) as i8).min(QUANTISED_MAX - 1);
        let nearest = if square(below + 1) - units < units - square(below) {
            below + 1
        } else {
            below
        };
        if *value < 0.0 { -nearest } else { nearest }
    });
    (scale, quantised.collect())
}

impl Change {
    /// The change that turns `old` into `new` of equal shape; none where quantisation leaves no difference.
    pub(super) fn difference(tensor: usize, old: &Tensor, new: &Tensor) -> Option<Self> {
        let differences: Vec<f32> = new.data.iter().zip(&old.data).map(|(n, o)| n - o).collect();
        let (scale, quantised) = quantise(&differences);
        let (positions, values) = nonzero(&quantised);
        if values.is_empty() {
            return None;
        }
        let edit = Edit::Add {
            scale,
            positions,
            values,
        };
        Some(Self { tensor, edit })
    }

    /// The change that puts `new` in the tensor's place: int8 with a scale per row, f32 where there is one value per row.
    pub(super) fn replacement(tensor: usize, new: &Tensor) -> Self {
        let row = new.data.len() / new.rows().max(1);
        let values = if row <= 1 {
            Values::Float(new.data.clone())
        } else {
            let rows = new.data.chunks(row).map(quantise);
            let (scales, values): (Vec<_>, Vec<_>) = rows.unzip();
            Values::Quantised {
                scales,
                values: values.concat(),
            }
        };
        let edit = Edit::Replace {
            shape: new.shape.clone(),
            values,
        };
        Self { tensor, edit }
    }

    /// Appends the change to `bytes`; of the codings for positions the shortest, of equal ones the first.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) -> ChangeBytes {
        let start = bytes.len();
        put_varint(bytes, self.tensor as u32);
        let mut positions_bytes = 0;
        let values_start = match &self.edit {
            Edit::Add {
                scale,
                positions,
                values,
            } => {
                let coding = Coding::shortest(positions);
                bytes.push(coding.kind);
                put_varint(bytes, coding.count);
                let positions_start = bytes.len();
                coding.put_positions(positions, bytes);
                positions_bytes = bytes.len() - positions_start;
                bytes.extend(scale.to_le_bytes());
                coding.put_values(positions, values, bytes);
                positions_start + positions_bytes
            }
            Edit::Replace { shape, values } => {
                bytes.push(match values {
                    Values::Quantised { .. } => kind::REPLACE_INT8,
                    Values::Float(_) => kind::REPLACE_F32,
                });
                put_varint(bytes, shape.len() as u32);
                for &dimension in shape {
                    put_varint(bytes, dimension as u32);
                }
                if let Values::Quantised { scales, .. } = values {
                    put_varint(bytes, scales.len() as u32);
                }
                let values_start = bytes.len();
                let floats = match values {
                    Values::Quantised { scales, .. } => scales,
                    Values::Float(values) => values,
                };
                bytes.extend(floats.iter().flat_map(|value| value.to_le_bytes()));
                if let Values::Quantised { values, .. } = values {
                    bytes.extend(values.iter().map(|&value| value as u8));
                }
                values_start
            }
        };
        ChangeBytes {
            tensor: self.tensor,
            frame_bytes: values_start - positions_bytes - start,
            positions_bytes,
            values_bytes: bytes.len() - values_start,
        }
    }

    /// Reads one change; every count is checked against the bytes that are left before anything is allocated for it.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, PackageError> {
        let tensor = reader.varint("tensor index")? as usize;
        let edit = match reader.byte("change kind")? {
            kind::ADD_DENSE => {
                let count = reader.count(1, "number of weights")?;
                let scale = read_scale(reader)?;
                let (positions, values) = nonzero(&read_int8(reader, count)?);
                add(reader, scale, positions, values)?
            }
            kind::ADD_BITMAP => {
                let count = reader.count(1, "length of a bitmap")?;
                let bitmap = reader.take(count, "bitmap")?;
                let set: usize = bitmap.iter().map(|byte| byte.count_ones() as usize).sum();
                if set > reader.remaining() {
                    return Err(reader.damaged("a bitmap with more weights than values"));
                }
                let bits = (0..count as u32 * 8)
                    .filter(|&position| bitmap[position as usize / 8] >> (position % 8) & 1 == 1);
                let mut positions = Vec::with_capacity(set);
                positions.extend(bits);
                let scale = read_scale(reader)?;
                let values = read_int8(reader, set)?;
                add(reader, scale, positions, values)?
            }
            kind::ADD_GAPS => {
                let count = reader.count(2, "number of weights")?;
                let mut positions = Vec::with_capacity(count);
                let mut next = 0u32;
                for _ in 0..count {
                    let gap = reader.varint("gap between weights")?;
                    let position = next
                        .checked_add(gap)
                        .filter(|&position| position < u32::MAX)
                        .ok_or_else(|| reader.damaged("gap between weights"))?;
                    positions.push(position);
                    next = position + 1;
                }
                let scale = read_scale(reader)?;
                let values = read_int8(reader, count)?;
                add(reader, scale, positions, values)?
            }
            kind::REPLACE_INT8 => {
                let (shape, count) = read_shape(reader, 1)?;
                let scales = reader.count(4, "number of scales")?;
                if scales == 0 || !count.is_multiple_of(scales) {
                    return Err(reader.damaged("number of scales"));
                }
                let scales = read_f32(reader, scales)?;
                if scales.iter().any(|&scale| scale < 0.0) {
                    return Err(reader.damaged("a negative scale"));
                }
                let values = read_int8(reader, count)?;
                let values = Values::Quantised { scales, values };
                Edit::Replace { shape, values }
            }
            kind::REPLACE_F32 => {
                let (shape, count) = read_shape(reader, 4)?;
                let values = Values::Float(read_f32(reader, count)?);
                Edit::Replace { shape, values }
            }
            unknown => {
                return Err(PackageError::UnsupportedFeature {
                    what: "change kind",
                    found: unknown.into(),
                });
            }
        };
        Ok(Self { tensor, edit })
    }
}

/// How the positions of a difference are written.
struct Coding {
    kind: u8,
    /// Dense: weights up to the last changed one; bitmap: its bytes; gaps: changed weights.
    count: u32,
}

impl Coding {
    fn shortest(positions: &[u32]) -> Self {
        let changed = positions.len();
        let last = positions.last().map_or(0, |&last| last as usize);
        let dense = last + 1;
        let bitmap = last / 8 + 1;
        let gap_bytes: usize = gaps(positions).map(varint_bytes).sum();
        [
            (kind::ADD_DENSE, dense, dense),
            (kind::ADD_BITMAP, bitmap, bitmap + changed),
            (kind::ADD_GAPS, changed, gap_bytes + changed),
        ]
        .into_iter()
        .map(|(kind, count, bytes)| (bytes + varint_bytes(count as u32), kind, count as u32))
        .min()
        .map(|(_, kind, count)| Self { kind, count })
        .expect("three codings to choose from")
    }

    fn put_positions(&self, positions: &[u32], bytes: &mut Vec<u8>) {
        match self.kind {
            kind::ADD_BITMAP => {
                let start = bytes.len();
                bytes.resize(start + self.count as usize, 0);
                for &position in positions {
                    bytes[start + position as usize / 8] |= 1 << (position % 8);
                }
            }
            kind::ADD_GAPS => gaps(positions).for_each(|gap| put_varint(bytes, gap)),
            _ => {}
        }
    }

    fn put_values(&self, positions: &[u32], values: &[i8], bytes: &mut Vec<u8>) {
        if self.kind != kind::ADD_DENSE {
            bytes.extend(values.iter().map(|&value| value as u8));
            return;
        }
        let start = bytes.len();
        bytes.resize(start + self.count as usize, 0);
        for (&position, &value) in positions.iter().zip(values) {
            bytes[start + position as usize] = value as u8;
        }
    }
}

/// The first position, then how many weights stay unchanged between one changed weight and the next.
fn gaps(positions: &[u32]) -> impl Iterator<Item = u32> {
    let mut next = 0;
    positions.iter().map(move |&position| {
        let gap = position - next;
        next = position + 1;
        gap
    })
}

/// Positions and values of the entries that are not zero.
fn nonzero(values: &[i8]) -> (Vec<u32>, Vec<i8>) {
    (0u32..)
        .zip(values)
        .filter(|(_, value)| **value != 0)
        .map(|(position, value)| (position, *value))
        .unzip()
}

fn add(
    reader: &Reader<'_>,
    scale: f32,
    positions: Vec<u32>,
    values: Vec<i8>,
) -> Result<Edit, PackageError> {
    if positions.is_empty() || values.contains(&0) {
        return Err(reader.damaged("a change that changes nothing"));
    }
    Ok(Edit::Add {
        scale,
        positions,
        values,
    })
}

fn read_scale(reader: &mut Reader<'_>) -> Result<f32, PackageError> {
    let scale = reader.f32("scale")?;
    if scale.is_finite() && scale > 0.0 {
        Ok(scale)
    } else {
        Err(reader.damaged("a scale that is not a positive number"))
    }
}

fn read_int8(reader: &mut Reader<'_>, count: usize) -> Result<Vec<i8>, PackageError> {
    let bytes = reader.take(count, "int8 values")?;
    Ok(bytes.iter().map(|&byte| byte as i8).collect())
}

fn read_f32(reader: &mut Reader<'_>, count: usize) -> Result<Vec<f32>, PackageError> {
    let bytes = count
        .checked_mul(4)
        .ok_or_else(|| reader.damaged("number of values"))
        .and_then(|count| reader.take(count, "f32 values"))?;
    let (words, _) = bytes.as_chunks::<4>();
    let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err(reader.damaged("a value that is not finite"))
    }
}

/// A shape and the number of its values, of which each takes at least `value_bytes` of what is left.
fn read_shape(
    reader: &mut Reader<'_>,
    value_bytes: usize,
) -> Result<(Vec<usize>, usize), PackageError> {
    let rank = reader.count(1, "number of dimensions")?;
    if !(1..=MAX_RANK).contains(&rank) {
        return Err(reader.damaged("number of dimensions"));
    }
    let mut shape = Vec::with_capacity(rank);
    for _ in 0..rank {
        shape.push(reader.varint("dimension")? as usize);
    }
    let values = shape
        .iter()
        .try_fold(1usize, |product, &dimension| product.checked_mul(dimension))
        .filter(|&values| values > 0 && values <= reader.remaining() / value_bytes)
        .ok_or_else(|| reader.damaged("shape"))?;
    Ok((shape, values))
}
