//! The labels of a network, in the order of its logits, and the rules that every list of them keeps.
//! Names only; which of them are heard is the detector's.

use alloc::{collections::BTreeSet, format, string::String};

/// The second last label of every network: words that are no keyword.
pub const UNKNOWN: &str = "_unknown_";
/// The last label of every network: no speech.
pub const SILENCE: &str = "_silence_";

/// Labels at the end of every list that are no keyword: [`UNKNOWN`] and [`SILENCE`].
pub const NOT_KEYWORDS: usize = 2;
/// Most labels of one network.
pub(crate) const MAX_LABELS: usize = 4_096;
/// Longest label, in bytes.
pub(crate) const MAX_LABEL_BYTES: usize = 128;

/// A list of labels that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("field labels: {reason}")]
pub struct LabelsError {
    /// Which rule was broken, and by what.
    pub reason: String,
}

/// At least one keyword, then `_unknown_` and `_silence_`; all different, not empty, without control characters.
///
/// # Errors
/// [`LabelsError`] with the first rule broken.
pub fn check_labels(labels: &[String]) -> Result<(), LabelsError> {
    let bad = |reason| Err(LabelsError { reason });
    if !(3..=MAX_LABELS).contains(&labels.len()) {
        return bad(format!(
            "expected 3 to {MAX_LABELS} labels, found {}",
            labels.len()
        ));
    }
    if labels[labels.len() - 2] != UNKNOWN || labels[labels.len() - 1] != SILENCE {
        return bad(format!(
            "the last two labels must be {UNKNOWN} and {SILENCE}"
        ));
    }
    let mut seen = BTreeSet::new();
    for label in labels {
        if label.is_empty() || label.len() > MAX_LABEL_BYTES || label.chars().any(char::is_control)
        {
            return bad(format!(
                "label {:?} is empty, longer than {MAX_LABEL_BYTES} bytes or has control characters",
                label.chars().take(40).collect::<String>()
            ));
        }
        if !seen.insert(label) {
            return bad(format!("label {label:?} occurs twice"));
        }
    }
    Ok(())
}
