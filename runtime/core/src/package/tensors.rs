//! Named weights as they are digested, differenced and merged: a map from tensor name to shape and f32 values.
//! Names say what a tensor counts as in a budget; no shape or name of a particular network is known here.

use alloc::{collections::BTreeMap, format, string::String, vec::Vec};
use core::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::PackageError;

/// One weight tensor, row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tensor {
    /// Dimensions, outermost first; their product is the number of values.
    pub shape: Vec<usize>,
    /// Values in row-major order.
    pub data: Vec<f32>,
}

impl Tensor {
    /// A tensor of `shape` with `data` in row-major order.
    ///
    /// # Panics
    /// If the product of `shape` is not the number of values: the caller made both.
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            data.len(),
            "shape {shape:?}"
        );
        Self { shape, data }
    }

    /// The first dimension; 1 for a scalar. For a classifier tensor it is the number of labels.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }
}

/// The weights of a network by name; its order is the one in which a delta numbers them.
pub type Tensors = BTreeMap<String, Tensor>;

/// What a tensor counts as in a budget, told by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// `*.conv.weight`: what a per cent budget counts.
    Convolution,
    /// `*.scale` and `*.shift`: the folded normalisations.
    Norm,
    /// `classifier.*`: replaced by a delta, its rows are the language's labels.
    Classifier,
    /// Anything else, in networks that are not this project's.
    Other,
}

impl Group {
    /// The group of the tensor called `name`.
    pub fn of(name: &str) -> Self {
        if name.starts_with("classifier.") {
            Self::Classifier
        } else if name.ends_with(".conv.weight") {
            Self::Convolution
        } else if name.ends_with(".scale") || name.ends_with(".shift") {
            Self::Norm
        } else {
            Self::Other
        }
    }
}

/// Numbers of weights by group: of a network, or of what a delta changes in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Convolution weights.
    pub convolution: usize,
    /// Scales and shifts of normalisations.
    pub norms: usize,
    /// Weights and biases of the classifier.
    pub classifier: usize,
    /// Weights of no known group.
    pub other: usize,
}

impl Counts {
    /// The weights of a network.
    pub fn of(tensors: &Tensors) -> Self {
        let mut counts = Self::default();
        for (name, tensor) in tensors {
            counts.add(Group::of(name), tensor.data.len());
        }
        counts
    }

    /// Weights of all groups together.
    pub fn all(&self) -> usize {
        self.convolution + self.norms + self.classifier + self.other
    }

    fn add(&mut self, group: Group, weights: usize) {
        match group {
            Group::Convolution => self.convolution += weights,
            Group::Norm => self.norms += weights,
            Group::Classifier => self.classifier += weights,
            Group::Other => self.other += weights,
        }
    }
}

/// Counts the weights whose values in `merged` differ from those in `base`.
///
/// A classifier tensor that differs at all counts with every value it has in `merged`, since a delta stores it whole.
///
/// # Errors
/// [`PackageError::DoesNotFit`] if names differ, or shapes other than a classifier's.
pub fn changed(base: &Tensors, merged: &Tensors) -> Result<Counts, PackageError> {
    let mut counts = Counts::default();
    for (name, old, new) in pairs(base, merged)? {
        let group = Group::of(name);
        let differing = if group != Group::Classifier {
            old.data
                .iter()
                .zip(&new.data)
                .filter(|(a, b)| a != b)
                .count()
        } else if old != new {
            new.data.len()
        } else {
            0
        };
        counts.add(group, differing);
    }
    Ok(counts)
}

/// `base` and `other` side by side in name order, after checking that only a classifier's first dimension differs.
pub(super) fn pairs<'a>(
    base: &'a Tensors,
    other: &'a Tensors,
) -> Result<Vec<(&'a str, &'a Tensor, &'a Tensor)>, PackageError> {
    const ADVICE: &str = "compare a base only with networks that were tuned from it";
    let misfit = |tensor: &str, what, expected: String, found: String| PackageError::DoesNotFit {
        tensor: tensor.into(),
        what,
        expected,
        found,
        advice: ADVICE,
    };
    if let Some(name) = other.keys().find(|name| !base.contains_key(*name)) {
        return Err(misfit(
            name,
            "presence",
            "no such tensor".into(),
            "one".into(),
        ));
    }
    base.iter()
        .map(|(name, old)| {
            let new = other
                .get(name)
                .ok_or_else(|| misfit(name, "presence", "one".into(), "no such tensor".into()))?;
            let fits = match Group::of(name) {
                Group::Classifier => old.shape.get(1..) == new.shape.get(1..),
                _ => old.shape == new.shape,
            };
            if !fits {
                return Err(misfit(
                    name,
                    "shape",
                    format!("{:?}", old.shape),
                    format!("{:?}", new.shape),
                ));
            }
            Ok((name.as_str(), old, new))
        })
        .collect()
}

/// A SHA-256 digest; text form: 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of a file's bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = PackageError;

    fn from_str(typed: &str) -> Result<Self, PackageError> {
        let bad = || PackageError::BadDigest {
            typed: typed.chars().take(80).collect(),
        };
        if typed.len() != 64 {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(typed.as_bytes().chunks(2)) {
            for &digit in pair {
                let value = char::from(digit).to_digit(16).ok_or_else(bad)?;
                *byte = *byte << 4 | value as u8;
            }
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = PackageError;

    fn try_from(typed: String) -> Result<Self, PackageError> {
        typed.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        format!("{digest}")
    }
}

/// The digest of named tensors: SHA-256 over the canonical bytes that `FORMAT.md` lays down.
///
/// The bytes are `swr-tensors-1` and a zero byte, the number of tensors (u32), and for each tensor in name order
/// the length of its name (u32), the name, its rank (u32), its dimensions (u64 each) and its values (f32 bits),
/// all little endian. Shapes are part of it: equal values in another shape have another digest.
pub fn digest(tensors: &Tensors) -> Digest {
    let mut hash = Sha256::new();
    hash.update(b"swr-tensors-1\0");
    hash.update((tensors.len() as u32).to_le_bytes());
    for (name, tensor) in tensors {
        hash.update((name.len() as u32).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update((tensor.shape.len() as u32).to_le_bytes());
        for &dimension in &tensor.shape {
            hash.update((dimension as u64).to_le_bytes());
        }
        // In blocks, because the hash takes a few bytes at a time slowly.
        for values in tensor.data.chunks(256) {
            let mut bytes = [0; 4 * 256];
            for (bytes, value) in bytes.chunks_exact_mut(4).zip(values) {
                bytes.copy_from_slice(&value.to_bits().to_le_bytes());
            }
            hash.update(&bytes[..4 * values.len()]);
        }
    }
    Digest(hash.finalize().into())
}
