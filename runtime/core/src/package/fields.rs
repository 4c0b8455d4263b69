//! Rules for the fields that a manifest and a delta's header share: language, labels, thresholds, short texts.
//! Each function accepts a valid value silently and names the field and the broken rule otherwise.

use alloc::{format, string::String};

use super::PackageError;
use crate::labels::{self, LabelsError};

/// Longest language code, in bytes (RFC 5646, section 4.4.1, asks for room for 35 characters).
pub(super) const MAX_LANGUAGE_BYTES: usize = 35;
/// Longest other text, in bytes.
pub(super) const MAX_TEXT_BYTES: usize = 4_096;

fn bad(field: &'static str, reason: String) -> PackageError {
    PackageError::BadField { field, reason }
}

/// A BCP-47 code such as `de` or `pt-BR`: subtags of one to eight ASCII letters or digits, the first one two to eight letters.
pub(crate) fn check_language(language: &str) -> Result<(), PackageError> {
    let well_formed = language.len() <= MAX_LANGUAGE_BYTES
        && language.split('-').enumerate().all(|(position, subtag)| {
            let length = if position == 0 { 2..=8 } else { 1..=8 };
            length.contains(&subtag.len())
                && subtag
                    .bytes()
                    .all(|byte| byte.is_ascii_alphabetic() || position > 0 && byte.is_ascii_digit())
        });
    if well_formed {
        Ok(())
    } else {
        Err(bad(
            "language",
            format!("{language:?} is no BCP-47 language code such as de or pt-BR"),
        ))
    }
}

/// As [`labels::check_labels`], which knows no fields.
pub(super) fn check_labels(labels: &[String]) -> Result<(), PackageError> {
    labels::check_labels(labels).map_err(|LabelsError { reason }| bad("labels", reason))
}

/// One posterior from 0 to 1 per label.
pub(super) fn check_thresholds(thresholds: &[f32], labels: usize) -> Result<(), PackageError> {
    const FIELD: &str = "thresholds";
    if thresholds.len() != labels {
        return Err(bad(
            FIELD,
            format!(
                "expected one threshold for each of {labels} labels, found {}",
                thresholds.len()
            ),
        ));
    }
    match thresholds
        .iter()
        .find(|threshold| !(0.0..=1.0).contains(*threshold))
    {
        Some(threshold) => Err(bad(
            FIELD,
            format!("expected a posterior from 0 to 1, found {threshold}"),
        )),
        None => Ok(()),
    }
}

/// Not too long, and without control characters other than line breaks and tabs.
pub(super) fn check_text(field: &'static str, text: &str) -> Result<(), PackageError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(bad(
            field,
            format!(
                "expected at most {MAX_TEXT_BYTES} bytes, found {}",
                text.len()
            ),
        ));
    }
    if text
        .chars()
        .any(|character| character.is_control() && character != '\n' && character != '\t')
    {
        return Err(bad(field, "a control character".into()));
    }
    Ok(())
}

/// As [`check_text`], and not empty.
pub(super) fn check_name(field: &'static str, text: &str) -> Result<(), PackageError> {
    if text.is_empty() {
        return Err(bad(field, "must not be empty".into()));
    }
    check_text(field, text)
}

/// Versions are counted from 1.
pub(super) fn check_model_version(version: u32) -> Result<(), PackageError> {
    if version > 0 {
        return Ok(());
    }
    Err(bad("model_version", "expected at least 1, found 0".into()))
}
