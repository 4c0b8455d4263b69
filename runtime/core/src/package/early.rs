//! Deltas of versions 1 and 2, which are read and never written: fields one after another in whole bytes, before there was a range coder.
//! FORMAT.md has their layout, under *Older and newer files*.

use alloc::vec::Vec;

use super::{
    Change, Delta, DeltaHeader, Edit, PackageError, Positions, Steps, Values,
    bytes::Fields,
    change::MAX_RANK,
    coding::MAX_TENSOR,
    delta::{MAX_CHANGES, SIGNATURE_BYTES},
    fields::check_name,
};
use crate::labels::MAX_LABELS;

/// Flag: synthetic speech was trained on in place of recordings.
const FLAG_SYNTHETIC: u8 = 1;

/// What follows a change's tensor.
mod kind {
    pub(super) const ADD_DENSE: u8 = 0;
    pub(super) const ADD_BITMAP: u8 = 1;
    pub(super) const ADD_GAPS: u8 = 2;
    pub(super) const REPLACE_INT8: u8 = 16;
    pub(super) const REPLACE_F32: u8 = 17;
}

/// Reads what stands between a file's version, 1 or 2, and its signature.
pub(super) fn read(
    version: u16,
    mut fields: Fields<'_>,
    signature: [u8; SIGNATURE_BYTES],
) -> Result<Delta, PackageError> {
    let unknown = |what, found| Err(PackageError::UnsupportedFeature { what, found });
    let [flags] = fields.take()?;
    if flags & !FLAG_SYNTHETIC != 0 {
        return unknown("flags", flags.into());
    }
    // There was room for a signature, but no program that made one.
    if signature != [0; SIGNATURE_BYTES] {
        return unknown("a signature in version", version.into());
    }
    let base = fields.digest()?;
    let merged = fields.digest()?;
    let language = fields.text("language")?;
    let model_version = early_model_version(&fields.text("model version")?)?;
    let budget = fields.text("budget")?.parse()?;
    let provenance = fields.text("provenance")?;
    let count = fields.number("number of labels")? as usize;
    if count > MAX_LABELS {
        return Err(fields.damaged("number of labels"));
    }
    let (mut labels, mut thresholds) = (Vec::new(), Vec::new());
    for _ in 0..count {
        labels.push(fields.text("label")?.into());
    }
    for _ in 0..count {
        thresholds.push(fields.f32()?);
    }
    let header = DeltaHeader {
        language,
        model_version,
        manifest: None,
        labels,
        thresholds,
        calibration: None,
        budget: Some(budget),
        synthetic: flags & FLAG_SYNTHETIC != 0,
        provenance,
    };
    header.check()?;

    let steps = match version {
        1 => Steps::Even,
        _ => Steps::Growing,
    };
    let count = fields.number("number of changes")? as usize;
    if count > MAX_CHANGES {
        return Err(fields.damaged("number of changes"));
    }
    let (mut changes, mut next) = (Vec::new(), 0);
    for _ in 0..count {
        let change = change(&mut fields, steps)?;
        if change.tensor < next {
            return Err(fields.damaged("order of tensors"));
        }
        next = change.tensor + 1;
        changes.push(change);
    }
    if !fields.rest.is_empty() {
        return Err(fields.damaged("bytes behind the last change"));
    }
    Ok(Delta {
        version,
        header,
        base,
        merged,
        changes,
        signature,
    })
}

/// The number of a model version that was a text then: what is none, such as `1.0.0`, is the first.
///
/// # Errors
/// [`PackageError::BadField`] for an empty text and one that is too long.
pub(super) fn early_model_version(text: &str) -> Result<u32, PackageError> {
    check_name("model_version", text)?;
    Ok(text.parse().unwrap_or(1).max(1))
}

fn change(fields: &mut Fields<'_>, steps: Steps) -> Result<Change, PackageError> {
    let tensor = fields.number("tensor index")? as usize;
    if tensor > MAX_TENSOR {
        return Err(fields.damaged("tensor index"));
    }
    let [kind] = fields.take()?;
    let edit = match kind {
        kind::ADD_DENSE => {
            let count = fields.number("number of weights")?;
            let scale = scale(fields)?;
            let all = int8(fields, count as usize)?;
            let changed = (0..count).zip(all).filter(|(_, value)| *value != 0);
            let (indexes, values) = changed.unzip();
            add(fields, steps, scale, indexes, values)?
        }
        kind::ADD_BITMAP => {
            let count = fields.number("length of a bitmap")?;
            let bitmap = fields.bytes(count as usize)?;
            let bytes = (0u32..).step_by(8).zip(bitmap);
            let set = bytes.flat_map(|(first, byte)| {
                let bits = (0..8).filter(move |bit| byte >> bit & 1 == 1);
                bits.map(move |bit| first + bit)
            });
            let indexes: Vec<u32> = set.collect();
            let scale = scale(fields)?;
            let values = int8(fields, indexes.len())?;
            add(fields, steps, scale, indexes, values)?
        }
        kind::ADD_GAPS => {
            let count = fields.number("number of weights")?;
            let (mut indexes, mut next) = (Vec::new(), 0u32);
            for _ in 0..count {
                let gap = fields.number("gap between weights")?;
                let index = next.checked_add(gap).filter(|index| *index < u32::MAX);
                let index = index.ok_or_else(|| fields.damaged("gap between weights"))?;
                indexes.push(index);
                next = index + 1;
            }
            let scale = scale(fields)?;
            let values = int8(fields, indexes.len())?;
            add(fields, steps, scale, indexes, values)?
        }
        kind::REPLACE_INT8 => {
            let (shape, count) = shape(fields)?;
            let scales = fields.number("number of scales")? as usize;
            if scales == 0 || !count.is_multiple_of(scales) {
                return Err(fields.damaged("number of scales"));
            }
            let scales = fields.floats(scales)?;
            if scales.iter().any(|scale| *scale < 0.0) {
                return Err(fields.damaged("a negative scale"));
            }
            let values = int8(fields, count)?;
            let values = Values::Quantised {
                steps,
                scales,
                values,
            };
            Edit::Replace { shape, values }
        }
        kind::REPLACE_F32 => {
            let (shape, count) = shape(fields)?;
            let values = Values::Float(fields.floats(count)?);
            Edit::Replace { shape, values }
        }
        found => {
            return Err(PackageError::UnsupportedFeature {
                what: "change kind",
                found: found.into(),
            });
        }
    };
    Ok(Change { tensor, edit })
}

fn add(
    fields: &Fields<'_>,
    steps: Steps,
    scale: f32,
    indexes: Vec<u32>,
    values: Vec<i8>,
) -> Result<Edit, PackageError> {
    if indexes.is_empty() || values.contains(&0) {
        return Err(fields.damaged("a change that changes nothing"));
    }
    Ok(Edit::Add {
        positions: Positions { unit: 1, indexes },
        values: Values::Quantised {
            steps,
            scales: [scale].into(),
            values,
        },
    })
}

/// A shape and the number of its values, which are no more than bytes are left.
fn shape(fields: &mut Fields<'_>) -> Result<(Vec<usize>, usize), PackageError> {
    let rank = fields.number("number of dimensions")? as usize;
    if !(1..=MAX_RANK).contains(&rank) {
        return Err(fields.damaged("number of dimensions"));
    }
    let (mut shape, mut values) = (Vec::new(), 1usize);
    for _ in 0..rank {
        let dimension = fields.number("dimension")? as usize;
        let more = values.checked_mul(dimension);
        let fitting = more.filter(|values| (1..=fields.rest.len()).contains(values));
        values = fitting.ok_or_else(|| fields.damaged("shape"))?;
        shape.push(dimension);
    }
    Ok((shape, values))
}

fn scale(fields: &mut Fields<'_>) -> Result<f32, PackageError> {
    let scale = fields.f32()?;
    match scale.is_finite() && scale > 0.0 {
        true => Ok(scale),
        false => Err(fields.damaged("a scale that is not a positive number")),
    }
}

/// Quantised values; -128, which has no magnitude in later versions, was never written.
fn int8(fields: &mut Fields<'_>, count: usize) -> Result<Vec<i8>, PackageError> {
    let values = fields.bytes(count)?.iter().map(|byte| *byte as i8);
    let values: Vec<i8> = values.collect();
    match values.contains(&i8::MIN) {
        true => Err(fields.damaged("a value of -128")),
        false => Ok(values),
    }
}
