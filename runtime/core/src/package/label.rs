//! Labels as a delta holds them: those that its base has as well by their number, which takes a byte where a text takes one for each of its own.

use alloc::{collections::BTreeSet, format, string::String, vec::Vec};
use core::fmt;

use super::{PackageError, fields::check_labels};
use crate::labels::NOT_KEYWORDS;

/// A label of a delta's language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// Its text.
    Own(String),
    /// The base's keyword of this number, from 0.
    OfBase(u16),
}

impl Label {
    /// Labels of a language over a base with `base` labels: those that both have by number, but for `_unknown_` and `_silence_`, which need none.
    pub fn over(labels: &[String], base: &[String]) -> Vec<Self> {
        let (keywords, base) = (keywords(labels), keywords(base));
        let of_base = |label: &String| {
            let number = base.iter().position(|other| other == label)?;
            u16::try_from(number).ok().map(Self::OfBase)
        };
        let texts = labels.iter().enumerate().map(|(place, label)| {
            let number = (place < keywords.len()).then(|| of_base(label)).flatten();
            number.unwrap_or_else(|| Self::Own(label.clone()))
        });
        texts.collect()
    }

    /// The texts of labels over a base with `base` labels, all different.
    pub(super) fn texts(labels: &[Self], base: &[String]) -> Result<Vec<String>, PackageError> {
        let known = keywords(base);
        let text = |label: &Self| match label {
            Self::Own(text) => Ok(text.clone()),
            Self::OfBase(number) => {
                known
                    .get(usize::from(*number))
                    .cloned()
                    .ok_or_else(|| PackageError::BadField {
                        field: "labels",
                        reason: format!("{label}, which has {} keywords", known.len()),
                    })
            }
        };
        let texts = labels
            .iter()
            .map(text)
            .collect::<Result<Vec<String>, _>>()?;
        check_labels(&texts)?;
        Ok(texts)
    }

    /// What can be said of labels without their base: texts keep their rules, and none occurs twice.
    pub(super) fn check(labels: &[Self]) -> Result<(), PackageError> {
        let (mut texts, mut numbers) = (Vec::new(), BTreeSet::new());
        for label in labels {
            match label {
                Self::Own(text) => texts.push(text.clone()),
                Self::OfBase(number) if numbers.insert(number) => {}
                Self::OfBase(_) => {
                    return Err(PackageError::BadField {
                        field: "labels",
                        reason: format!("{label} occurs twice"),
                    });
                }
            }
        }
        // `_unknown_` and `_silence_` alone are no labels, but they are if the base names the rest.
        if let (Some(Self::OfBase(_)), 0..=NOT_KEYWORDS) = (labels.first(), texts.len()) {
            texts.insert(0, "of the base".into());
        }
        check_labels(&texts)
    }
}

/// Those before `_unknown_` and `_silence_`.
fn keywords(labels: &[String]) -> &[String] {
    &labels[..labels.len().saturating_sub(NOT_KEYWORDS)]
}

impl fmt::Display for Label {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(text) => out.write_str(text),
            Self::OfBase(number) => write!(out, "keyword {number} of the base"),
        }
    }
}

impl From<&str> for Label {
    fn from(text: &str) -> Self {
        Self::Own(text.into())
    }
}

impl From<String> for Label {
    fn from(text: String) -> Self {
        Self::Own(text)
    }
}
