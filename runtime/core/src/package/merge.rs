//! Base and delta make the network of a language, and the way back: base and tuned network make a delta.
//! Exact: the same f32 multiplication and addition, each rounded, on every machine; the digests on both ends prove it.

use alloc::{format, string::String, vec::Vec};

use super::{
    Change, Delta, DeltaHeader, Digest, Edit, Group, MAX_DELTA_BYTES, PackageError, Precision,
    Tensor, Tensors, Values,
    change::{MAX_RANK, step},
    coding::{MAX_TENSOR, Models},
    delta::{MAX_CHANGES, SIGNATURE_BYTES},
    digest,
    tensors::pairs,
};

/// Applies `delta` to a copy of the weights `base`.
///
/// # Errors
/// [`PackageError::WrongBase`] if the delta was made for other weights, [`PackageError::NoSuchTensor`] and
/// [`PackageError::DoesNotFit`] for a change that does not fit the base, [`PackageError::NotFinite`] for a weight that overflows,
/// [`PackageError::LabelsDoNotFit`] if the classifier has not one row per label,
/// [`PackageError::WrongResult`] if the outcome is not the one promised.
pub fn merge(base: &Tensors, delta: &Delta) -> Result<Tensors, PackageError> {
    merge_into(base.clone(), delta)
}

/// As [`merge`], in the memory of `base`, which an error leaves no part of.
///
/// # Errors
/// Those of [`merge`].
pub fn merge_into(base: Tensors, delta: &Delta) -> Result<Tensors, PackageError> {
    let found = digest(&base);
    if found != delta.base {
        return Err(PackageError::WrongBase {
            expected: delta.base,
            found,
        });
    }
    let merged = delta.apply(base)?;
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
    /// Makes the delta that turns `base` into `tuned`, as closely as `precision` says. Where `header` has labels, the classifier is
    /// replaced, otherwise it is a tensor like any other.
    ///
    /// `tuned` has the tensors of `base` in the same shapes; a replaced classifier's first dimension is the number of labels in `header`.
    /// Weights that are equal in both, or equal after rounding, cost nothing. The digests come from really merging,
    /// and the weights depend on `base` and `tuned` alone: thresholds calibrated on [`merge`]'s result may go into a second build.
    ///
    /// # Errors
    /// [`PackageError::BadField`] for the header, [`PackageError::DoesNotFit`] for names or shapes,
    /// [`PackageError::LabelsDoNotFit`] for the classifier, [`PackageError::NotFinite`] for a weight or a difference.
    pub fn build(
        base: &Tensors,
        tuned: &Tensors,
        header: DeltaHeader,
        precision: Precision,
    ) -> Result<Self, PackageError> {
        Self::build_by(base, tuned, header, &|_| precision)
    }

    /// As [`Delta::build`], with a precision for each tensor by its name.
    ///
    /// # Errors
    /// Those of [`Delta::build`].
    pub fn build_by(
        base: &Tensors,
        tuned: &Tensors,
        header: DeltaHeader,
        precision: &dyn Fn(&str) -> Precision,
    ) -> Result<Self, PackageError> {
        header.check()?;
        let replaced =
            |name: &str| !header.labels.is_empty() && Group::of(name) == Group::Classifier;
        if !header.labels.is_empty() {
            check_classifier(tuned, header.labels.len())?;
        }
        let (mut changes, mut models) = (Vec::new(), Models::new());
        for (index, (name, old, new)) in pairs(base, tuned)?.into_iter().enumerate() {
            let precision = precision(name);
            if !replaced(name) && old.shape != new.shape {
                return Err(PackageError::DoesNotFit {
                    tensor: name.into(),
                    what: "shape",
                    expected: format!("{:?}", old.shape),
                    found: format!("{:?}", new.shape),
                    advice: "give the labels of a classifier that has other rows than the base's",
                });
            }
            let finite = if replaced(name) {
                new.data.iter().all(|weight| weight.is_finite())
            } else {
                let mut pairs = old.data.iter().zip(&new.data);
                // Steps between f32 are there whatever the difference.
                let exact = precision == Precision::Lossless;
                pairs.all(|(o, n)| n.is_finite() && (exact || (n - o).is_finite()))
            };
            if !finite {
                return Err(PackageError::NotFinite {
                    tensor: name.into(),
                });
            }
            if old.shape == new.shape && equal_bits(&old.data, &new.data) {
                continue;
            }
            if replaced(name) {
                changes.push(Change::replacement(index, new, precision));
            } else {
                changes.extend(Change::difference(index, old, new, precision, &mut models));
            }
        }
        let last = changes.last().map_or(0, |change: &Change| change.tensor);
        for (what, found, limit) in [
            ("the number of changed tensors", changes.len(), MAX_CHANGES),
            ("the index of a changed tensor", last, MAX_TENSOR),
        ] {
            if found > limit {
                return Err(PackageError::TooLarge { what, found, limit });
            }
        }
        let mut delta = Self {
            version: super::DELTA_VERSION,
            header,
            base: digest(base),
            merged: Digest([0; 32]),
            changes,
            signature: [0; SIGNATURE_BYTES],
        };
        delta.merged = digest(&delta.apply(base.clone())?);
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

    /// The weights `base` with the changes, without a look at digests: [`merge`] is what makes sure that they belong together.
    ///
    /// # Errors
    /// Those of [`merge`] but for the digests'.
    pub fn apply(&self, mut base: Tensors) -> Result<Tensors, PackageError> {
        let mut slots: Vec<(&String, &mut Tensor)> = base.iter_mut().collect();
        let tensors = slots.len();
        for change in &self.changes {
            let (name, tensor) =
                slots
                    .get_mut(change.tensor)
                    .ok_or(PackageError::NoSuchTensor {
                        index: change.tensor,
                        tensors,
                    })?;
            edit(name, tensor, &change.edit)?;
        }
        if !self.header.labels.is_empty() {
            check_classifier(&base, self.header.labels.len())?;
        }
        Ok(base)
    }
}

fn equal_bits(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

fn edit(name: &str, tensor: &mut Tensor, edit: &Edit) -> Result<(), PackageError> {
    let misfit = |what, expected: String, found: String| PackageError::DoesNotFit {
        tensor: name.into(),
        what,
        expected,
        found,
        advice: "make the delta again",
    };
    let mut finite = true;
    let positions = match edit {
        Edit::Add { positions, .. } | Edit::Step { positions, .. } => positions.indexes.as_slice(),
        Edit::Replace { .. } => &[],
    };
    if let Some(last) = positions.last()
        && *last as usize >= tensor.data.len()
    {
        let expected = format!("below {}", tensor.data.len());
        return Err(misfit("position", expected, format!("{last}")));
    }
    let weights = tensor.data.as_mut_slice();
    // Two roundings, a multiplication's and an addition's, never a fused one: every machine must get the same bits.
    match edit {
        Edit::Add { values, .. } => match values {
            Values::Quantised {
                steps,
                scales,
                values,
            } => {
                for (&position, &value) in positions.iter().zip(values) {
                    let weight = &mut weights[position as usize];
                    *weight += steps.size(scales, *weight) * steps.apply(value);
                    finite &= weight.is_finite();
                }
            }
            Values::Float(values) => {
                for (&position, value) in positions.iter().zip(values) {
                    let weight = &mut weights[position as usize];
                    *weight += value;
                    finite &= weight.is_finite();
                }
            }
        },
        Edit::Step { steps, .. } => {
            for (&position, steps) in positions.iter().zip(steps) {
                let weight = &mut weights[position as usize];
                *weight = step(*weight, *steps);
                finite &= weight.is_finite();
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
            finite = tensor.data.iter().all(|weight| weight.is_finite());
        }
    }
    if finite {
        Ok(())
    } else {
        Err(PackageError::NotFinite {
            tensor: name.into(),
        })
    }
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
