//! One run's row in the results file, a JSON object a line.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use swr_core::package::{Budget, Counts};

use crate::baselines::{Method, Needs};
use crate::calibrate::Heard;

/// What one run is: equal cells are the same run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// BCP-47 code of the language.
    pub language: String,
    /// Method.
    pub method: Method,
    /// Budget.
    pub budget: Budget,
    /// Seed.
    pub seed: u64,
    /// Width of the base.
    pub tau: String,
    /// Clips that it is judged on: `test`, or the speakers of one fold of TRAIN and DEV, such as `fold 1/4`.
    pub split: String,
    /// Training clips a keyword, if not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clips_per_word: Option<usize>,
}

impl Cell {
    /// Whether one network is trained for all languages, of which the cell's judges it.
    pub fn is_for_all(&self) -> bool {
        self.method.recipe().needs == Needs::AllLanguages
    }

    /// A name for people and folders.
    pub fn name(&self) -> String {
        let few = self
            .clips_per_word
            .map_or(String::new(), |clips| format!("-{clips}clips"));
        let split = self.split.replace([' ', '/'], "");
        format!(
            "tau{}-{}-{split}{few}-{}-{}-seed{}",
            self.tau,
            self.language,
            self.method.name(),
            self.budget,
            self.seed
        )
    }
}

/// A run and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Which run.
    #[serde(flatten)]
    pub cell: Cell,
    /// SHA-256 of configuration, training clips and base.
    pub run: String,
    /// SHA-256 of the settings that all rows of a file share, and of the base.
    pub settings: String,
    /// What the budget allows, and what is used of it, in its own unit.
    pub allowed: usize,
    /// What is used.
    pub used: usize,
    /// Bytes of the whole file.
    pub file_bytes: usize,
    /// Weights that differ from the base's, by group.
    pub changed: Counts,
    /// Changed weights of every tensor.
    pub changed_by_tensor: BTreeMap<String, usize>,
    /// Right clips.
    pub correct: usize,
    /// Clips.
    pub clips: usize,
    /// Predicted label of every clip, in the order of the clips' record.
    pub predictions: Vec<u32>,
    /// Posterior of the likeliest keyword, per mille.
    pub keyword_posteriors: Vec<u16>,
    /// What is heard of a stream of TEST words and of running speech, with thresholds chosen on DEV for 5 false accepts an hour; for cells of TEST with a network of
    /// one language, where there are development words to choose by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Heard>,
    /// Seconds of training, the shared dense stage not counted.
    pub seconds: f64,
    /// Which weights of the base differ, the classifier's left out: a bit each in the order of tensors' names, the first the highest of a digit, in
    /// hexadecimal.
    pub changed_bits: String,
    /// Stage, loss and accuracy on varied training clips, epoch by epoch; of a shared dense stage too.
    pub curve: Vec<Epoch>,
    /// Cost of the gates over the select stage, as a share of the budget: expected, and of those that are more open than shut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<[f64; 2]>,
}

/// One epoch of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Its stage.
    pub stage: String,
    /// Mean loss.
    pub loss: f64,
    /// Share of varied training clips that were right.
    pub accuracy: f64,
}

/// The clips that rows of one language and split are judged on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClipRecord {
    /// BCP-47 code of the language.
    pub language: String,
    /// The split, as in [`Cell::split`].
    pub clips_of: String,
    /// Labels; the last two are `_unknown_` and `_silence_`.
    pub labels: Vec<String>,
    /// Label of every clip.
    pub truth: Vec<u32>,
    /// Speaker of every clip.
    pub speakers: Vec<String>,
    /// Whether its recordings are synthetic speech.
    pub synthetic: bool,
}

/// A results file.
#[derive(Clone, Debug, Default)]
pub struct Results {
    /// Rows, in the order of the file.
    pub rows: Vec<Row>,
    /// The clips that they are judged on.
    pub clips: Vec<ClipRecord>,
}

/// A line of a results file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant)]
pub enum Line {
    /// Clips, before the first row that is judged on them.
    Clips(ClipRecord),
    /// A row.
    Row(Row),
}

impl Results {
    /// The clips of a language and split.
    pub fn clips_of(&self, language: &str, split: &str) -> Option<&ClipRecord> {
        let mut clips = self.clips.iter();
        clips.find(|clips| clips.language == language && clips.clips_of == split)
    }
}

/// Reads a results file; empty if it is not there. A last line that was cut off is left out: its run is done again.
pub fn read_results(path: &Path) -> Result<Results> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse(path, &text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Results::default()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

fn parse(path: &Path, text: &str) -> Result<Results> {
    let mut results = Results::default();
    for (number, line) in text[..whole(text)].lines().enumerate() {
        let line = serde_json::from_str(line);
        match line
            .with_context(|| format!("{}:{}: not a line of results", path.display(), number + 1))?
        {
            Line::Clips(clips) => results.clips.push(clips),
            Line::Row(row) => results.rows.push(row),
        }
    }
    Ok(results)
}

/// Length of the lines that were not cut off.
fn whole(text: &str) -> usize {
    text.rfind('\n').map_or(0, |end| end + 1)
}

/// Adds a row, and the clips that it is judged on if they are not there. A last line that was cut off is replaced. Several processes may add to one file.
///
/// # Errors
/// If the file's rows of this language and split are judged on other clips, or it cannot be written.
pub fn append(path: &Path, clips: ClipRecord, row: &Row) -> Result<()> {
    let named = || path.display().to_string();
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(named)?;
    }
    let mut options = std::fs::OpenOptions::new();
    let file = options.create(true).read(true).append(true).open(path);
    let mut file = file.with_context(named)?;
    // Until it is closed.
    file.lock().with_context(named)?;
    let mut text = String::new();
    file.read_to_string(&mut text).with_context(named)?;
    let results = parse(path, &text)?;
    let mut lines = Vec::new();
    match results.clips_of(&clips.language, &clips.clips_of) {
        None => lines.push(Line::Clips(clips)),
        Some(found) => ensure!(
            *found == clips,
            "{}: its rows of {} ({}) are judged on other clips than there are now; give another --results file",
            path.display(),
            clips.language,
            clips.clips_of
        ),
    }
    lines.push(Line::Row(row.clone()));
    let mut added = String::new();
    for line in lines {
        added += &serde_json::to_string(&line)?;
        added.push('\n');
    }
    file.set_len(whole(&text) as u64)
        .and_then(|()| file.write_all(added.as_bytes()))
        .and_then(|()| file.sync_all())
        .with_context(named)
}
