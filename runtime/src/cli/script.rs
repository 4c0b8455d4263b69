//! What is spoken in a sample's audio and when: the JSON file that lies beside it, and the events that are matched with it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;
use swr_core::matching::{Detected, Spoken};
use swr_core::{HOP_SAMPLES, SAMPLE_RATE_HZ};

use crate::spotter::Event;
use crate::words::nfc;

/// How long after a word's end its detection still counts: the posterior peaks when the word fills the average over one second.
pub(super) const TOLERANCE_SAMPLES: usize = SAMPLE_RATE_HZ as usize;

/// What lies beside a sample's audio; other fields, such as the command that made it, are for people.
#[derive(Debug, Deserialize)]
pub(super) struct Script {
    pub(super) language: String,
    pub(super) keywords: Vec<Keyword>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Keyword {
    pub(super) word: String,
    pub(super) start_s: f64,
    pub(super) end_s: f64,
}

/// The folder of sample audio of some models: their own, or the one that all sizes share, beside their folders.
pub(super) fn samples_of(models: &Path) -> PathBuf {
    let own = models.join("demo");
    match models.parent() {
        Some(parent) if !own.is_dir() && parent.join("demo").is_dir() => parent.join("demo"),
        _ => own,
    }
}

/// The audio that a sample's script is about: FLAC, or WAV as in releases up to version 2.
pub(super) fn sample_audio(script: &Path) -> PathBuf {
    let (flac, wav) = (script.with_extension("flac"), script.with_extension("wav"));
    if wav.is_file() && !flac.is_file() {
        wav
    } else {
        flac
    }
}

/// `events` as the matching takes them, with labels as indexes into `labels`.
pub(super) fn detected(events: &[Event], labels: &[String]) -> Vec<Detected> {
    let detected = |event: &Event| {
        let label = labels.iter().position(|label| *label == event.keyword)?;
        let hops = (event.time_s * f64::from(SAMPLE_RATE_HZ) / HOP_SAMPLES as f64).round();
        Some(Detected {
            label,
            at_samples: hops as usize * HOP_SAMPLES,
        })
    };
    events.iter().filter_map(detected).collect()
}

impl Script {
    pub(super) fn read(path: &Path, language: &str) -> anyhow::Result<Script> {
        let bytes =
            fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        let script: Script = serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{}: damaged; expected language and keywords with word, start_s, end_s",
                path.display()
            )
        })?;
        if script.language != language {
            bail!(
                "{}: its language is \"{}\", expected \"{language}\" as its name says",
                path.display(),
                script.language
            );
        }
        Ok(script)
    }

    /// The keywords as the matching takes them, in samples and label indexes.
    pub(super) fn spoken(&self, labels: &[String], path: &Path) -> anyhow::Result<Vec<Spoken>> {
        let samples = |seconds: f64| (seconds * f64::from(SAMPLE_RATE_HZ)) as usize;
        let spoken = |keyword: &Keyword| {
            let word = nfc(&keyword.word);
            let label = labels.iter().position(|label| nfc(label) == word);
            Ok(Spoken {
                label: label.with_context(|| {
                    format!(
                        "{}: \"{}\" is no keyword of the model",
                        path.display(),
                        keyword.word
                    )
                })?,
                word: keyword.word.clone(),
                start_samples: samples(keyword.start_s),
                end_samples: samples(keyword.end_s),
            })
        };
        self.keywords.iter().map(spoken).collect()
    }
}
