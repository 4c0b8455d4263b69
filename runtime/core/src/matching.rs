//! Which detections belong to which spoken words: what every count of misses and false alarms rests on.

use alloc::{string::String, vec, vec::Vec};

use crate::detector::Detection;
use crate::settings::HOP_SAMPLES;

/// A spoken word in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoken {
    /// Index in the task's labels.
    pub label: usize,
    /// The word.
    pub word: String,
    /// First sample of the speech.
    pub start_samples: usize,
    /// Sample after the last of the speech.
    pub end_samples: usize,
}

/// What a detector reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detected {
    /// Index in the task's labels.
    pub label: usize,
    /// When, in samples from the start of the stream.
    pub at_samples: usize,
}

impl From<Detection> for Detected {
    fn from(detection: Detection) -> Self {
        Self {
            label: detection.label,
            at_samples: detection.frame as usize * HOP_SAMPLES,
        }
    }
}

/// Which detections belong to which words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    /// Index of the word and of the detection that found it.
    pub hits: Vec<(usize, usize)>,
    /// Words nobody found.
    pub misses: Vec<usize>,
    /// Detections without a word: at no word, of another label, or the second of one word.
    pub false_alarms: Vec<usize>,
}

/// Matches detections to spoken words. A word is found by the first detection of its label from the word's start to `tolerance_samples` after its end; both
/// lists in order of time. Each detection finds at most one word and each word is found once.
pub fn match_detections(
    truth: &[Spoken],
    detections: &[Detected],
    tolerance_samples: usize,
) -> Matched {
    let mut finder = vec![None; truth.len()];
    let mut matched = Matched::default();
    for (index, detection) in detections.iter().enumerate() {
        let found = truth.iter().zip(&finder).position(|(event, finder)| {
            let window = event.start_samples..=event.end_samples.saturating_add(tolerance_samples);
            finder.is_none()
                && event.label == detection.label
                && window.contains(&detection.at_samples)
        });
        match found {
            Some(event) => finder[event] = Some(index),
            None => matched.false_alarms.push(index),
        }
    }
    for (event, finder) in finder.into_iter().enumerate() {
        match finder {
            Some(detection) => matched.hits.push((event, detection)),
            None => matched.misses.push(event),
        }
    }
    matched
}
