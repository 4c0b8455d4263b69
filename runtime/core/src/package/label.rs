//! Labels as a delta holds them: those that its base has as well by their number, which takes a byte where a text takes one for each of its own.

use alloc::{collections::BTreeSet, format, string::String, vec::Vec};
use core::fmt;

use super::{
    PackageError,
    coder::{Bit, Coder, Number, Text},
    fields::check_labels,
};
use crate::labels::{MAX_LABEL_BYTES, MAX_LABELS, NOT_KEYWORDS, SILENCE, UNKNOWN};

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
        if labels.len() > MAX_LABELS {
            return Err(PackageError::BadField {
                field: "labels",
                reason: format!(
                    "expected at most {MAX_LABELS} labels, found {}",
                    labels.len()
                ),
            });
        }
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

/// Codes labels in either direction, those of the base by number if the flags say that there are any. The last two are always `_unknown_` and `_silence_`, and
/// not written.
pub(super) fn code<C: Coder>(
    coder: &mut C,
    text: &mut Text,
    counts: &mut Number,
    of_base: bool,
    given: &[Label],
) -> Result<Vec<Label>, PackageError> {
    let keywords = given.len().saturating_sub(NOT_KEYWORDS);
    let keywords = coder.number(counts, keywords as u32)? as usize;
    if keywords > MAX_LABELS {
        return Err(coder.damaged("number of labels"));
    }
    let mut labels = Vec::new();
    let (mut is_number, mut numbers) = (Bit::NEW, Number::NEW);
    for place in 0..keywords {
        let (number, own) = match given.get(place) {
            Some(Label::OfBase(number)) => (Some(*number), ""),
            Some(Label::Own(own)) => (None, own.as_str()),
            None => (None, ""),
        };
        if of_base && coder.bit(&mut is_number, number.is_some())? {
            let number = coder.number(&mut numbers, number.unwrap_or_default().into())?;
            let number = u16::try_from(number).map_err(|_| coder.damaged("label of the base"))?;
            labels.push(Label::OfBase(number));
        } else {
            let own = coder.text(text, MAX_LABEL_BYTES, "label", own)?;
            labels.push(Label::Own(own));
        }
    }
    if keywords > 0 {
        labels.extend([UNKNOWN, SILENCE].map(Label::from));
    }
    Ok(labels)
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
