//! Base and delta make the network of a language, and the way back: base and tuned network make a delta.
//! Exact: the same f32 multiplication and addition, each rounded, on every machine; the digests on both ends prove it.

use alloc::{format, string::String, vec::Vec};

use super::{
    Change, Delta, DeltaHeader, Edit, Group, MAX_DELTA_BYTES, PackageError, Tensor, Tensors,
    change::MAX_RANK, delta::SIGNATURE_BYTES, digest, square, tensors::pairs,
};

/// Applies `delta` to the weights `base`; neither is altered.
///
/// # Errors
/// [`PackageError::WrongBase`] if the delta was made for other weights, [`PackageError::NoSuchTensor`] and
/// [`PackageError::DoesNotFit`] for a change that does not fit the base, [`PackageError::NotFinite`] for a weight that overflows,
/// [`PackageError::LabelsDoNotFit`] if the classifier has not one row per label,
/// [`PackageError::WrongResult`] if the outcome is not the one promised.
pub fn merge(base: &Tensors, delta: &Delta) -> Result<Tensors, PackageError> {
    let found = digest(base);
    if found != delta.base {
        return Err(PackageError::WrongBase {
            expected: delta.base,
            found,
        });
    }
    let merged = apply(base, &delta.changes)?;
    check_classifier(&merged, delta.header.labels.len())?;
    let found = digest(&merged);
    if found != delta.merged {
        return Err(PackageError::WrongResult {
            expected: delta.merged,
            found,
        });
    }
    Ok(merged)
}

impl Delta {
    /// Makes the delta that turns `base` into a quantised `tuned`: differences in int8, the classifier replaced.
    ///
    /// `tuned` has the tensors of `base` in the same shapes; a classifier's first dimension is the number of labels in `header`.
    /// Weights that are equal in both, or equal after quantisation, cost nothing. The digests come from really merging,
    /// and the weights depend on `base` and `tuned` alone: thresholds calibrated on [`merge`]'s result may go into a second build.
    ///
    /// # Errors
    /// [`PackageError::BadField`] for the header, [`PackageError::DoesNotFit`] for names or shapes,
    /// [`PackageError::LabelsDoNotFit`] for the classifier, [`PackageError::NotFinite`] for a weight or a difference.
    pub fn build(
        base: &Tensors,
        tuned: &Tensors,
        header: DeltaHeader,
    ) -> Result<Self, PackageError> {
        header.check()?;
        check_classifier(tuned, header.labels.len())?;
        let mut changes = Vec::new();
        for (index, (name, old, new)) in pairs(base, tuned)?.into_iter().enumerate() {
            let finite = match Group::of(name) {
                Group::Classifier => new.data.iter().all(|weight| weight.is_finite()),
                _ => old
                    .data
                    .iter()
                    .zip(&new.data)
                    .all(|(o, n)| (n - o).is_finite()),
            };
            if !finite {
                return Err(PackageError::NotFinite {
                    tensor: name.into(),
                });
            }
            if old != new {
                match Group::of(name) {
                    Group::Classifier => changes.push(Change::replacement(index, new)),
                    _ => changes.extend(Change::difference(index, old, new)),
                }
            }
        }
        let delta = Self {
            header,
            base: digest(base),
            merged: digest(&apply(base, &changes)?),
            changes,
            signature: [0; SIGNATURE_BYTES],
        };
        let file_bytes = delta.sizes().total();
        if file_bytes > MAX_DELTA_BYTES {
            return Err(PackageError::TooLarge {
                what: "the delta, in bytes,",
                found: file_bytes,
                limit: MAX_DELTA_BYTES,
            });
        }
        Ok(delta)
    }
}

/// A copy of `base` with `changes` applied.
fn apply(base: &Tensors, changes: &[Change]) -> Result<Tensors, PackageError> {
    let mut merged = base.clone();
    let mut slots: Vec<(&String, &mut Tensor)> = merged.iter_mut().collect();
    let tensors = slots.len();
    for change in changes {
        let (name, tensor) = slots
            .get_mut(change.tensor)
            .ok_or(PackageError::NoSuchTensor {
                index: change.tensor,
                tensors,
            })?;
        edit(name, tensor, &change.edit)?;
        if !tensor.data.iter().all(|weight| weight.is_finite()) {
            return Err(PackageError::NotFinite {
                tensor: String::clone(name),
            });
        }
    }
    Ok(merged)
}

fn edit(name: &str, tensor: &mut Tensor, edit: &Edit) -> Result<(), PackageError> {
    let misfit = |what, expected: String, found: String| PackageError::DoesNotFit {
        tensor: name.into(),
        what,
        expected,
        found,
        advice: "make the delta again",
    };
    match edit {
        Edit::Add {
            scale,
            positions,
            values,
        } => {
            let weights = tensor.data.len();
            if let Some(last) = positions.last().filter(|last| **last as usize >= weights) {
                return Err(misfit(
                    "position",
                    format!("below {weights}"),
                    format!("{last}"),
                ));
            }
            for (&position, &value) in positions.iter().zip(values) {
                // Two roundings, never a fused multiply-add: every machine must get the same bits.
                tensor.data[position as usize] += scale * square(value);
            }
        }
        Edit::Replace { shape, values } => {
            if Group::of(name) != Group::Classifier {
                return Err(misfit(
                    "kind of change",
                    "a difference".into(),
                    "a replacement, which only a classifier may have".into(),
                ));
            }
            if shape.get(1..) != tensor.shape.get(1..) {
                return Err(misfit(
                    "shape but for the first dimension",
                    format!("{:?}", tensor.shape),
                    format!("{shape:?}"),
                ));
            }
            *tensor = Tensor::new(shape.clone(), values.to_f32());
        }
    }
    Ok(())
}

/// Every classifier tensor has one row per label, and a shape that a delta can hold.
fn check_classifier(tensors: &Tensors, labels: usize) -> Result<(), PackageError> {
    let classifier = tensors
        .iter()
        .filter(|(name, _)| Group::of(name) == Group::Classifier);
    for (name, tensor) in classifier {
        if tensor.rows() != labels {
            return Err(PackageError::LabelsDoNotFit {
                tensor: name.clone(),
                labels,
                rows: tensor.rows(),
            });
        }
        if tensor.data.is_empty() || !(1..=MAX_RANK).contains(&tensor.shape.len()) {
            return Err(PackageError::DoesNotFit {
                tensor: name.clone(),
                what: "shape",
                expected: format!("one to {MAX_RANK} dimensions, none of them zero"),
                found: format!("{:?}", tensor.shape),
                advice: "export the base with a classifier that has one row per label",
            });
        }
    }
    Ok(())
}
