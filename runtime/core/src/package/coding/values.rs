//! The values of a change: as f32, as int8 on even or growing steps, or on a grid.

use alloc::vec::Vec;

use super::{COUNTED, LEARNED_BITS, Models, NEIGHBOURS, form};
use crate::package::{PackageError, Steps, Values, coder::Coder};

/// `count` values, `scaled_by_row` or all alike.
pub(super) fn code_values<C: Coder>(
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
pub(super) fn code_step<C: Coder>(
    coder: &mut C,
    models: &mut Models,
    step: i32,
) -> Result<i32, PackageError> {
    let negative = coder.raw(1, (step < 0).into())? == 1;
    let size = coder.number(&mut models.step_digits, step.unsigned_abs())?;
    if size > 1 << 31 {
        return Err(coder.damaged("a step that is too far"));
    }
    let size = size as i32;
    Ok(if negative { size.wrapping_neg() } else { size })
}

/// `count` values, of which a writer is given all and a reader none.
pub(super) fn code_list<T: Copy + Default>(
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
