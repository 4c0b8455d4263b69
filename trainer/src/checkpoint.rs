//! A run's folder: the resolved configuration, a checkpoint after every epoch, and a log with one JSON object a line.
//!
//! A run that was interrupted goes on from its last finished epoch and ends in the same bytes as one that was not.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use swr_core::package::Digest;

use crate::files::{read, write_atomically};
use crate::learner::Learner;

/// Layout of the checkpoint's tensors and names.
const CHECKPOINT_FORMAT: usize = 4;
/// Its name in a run's folder.
const CHECKPOINT: &str = "checkpoint.safetensors";

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Index of the stage.
    pub stage: usize,
    /// Epochs of it that are finished.
    pub epochs: usize,
}

/// A run's folder.
pub struct Run {
    folder: PathBuf,
    config: Value,
    /// Held while the run is open.
    _lock: File,
}

impl Run {
    /// Opens the folder of a run with this resolved configuration, new or interrupted. A folder of another configuration is
    /// refused with the difference; `restart` throws it away instead. A folder is open once at a time, whatever the process.
    pub fn open(folder: &Path, config: Value, restart: bool) -> Result<Self> {
        // Through text and back, as the stored one: the parser's last bit then falls alike on both.
        let config: Value =
            serde_json::from_str(&config.to_string()).context("the configuration is not JSON")?;
        let named = || folder.display().to_string();
        std::fs::create_dir_all(folder).with_context(named)?;
        let lock = File::create(folder.join("lock")).with_context(named)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "{}: another process is training there; wait for it, or give --work another folder",
                folder.display()
            ),
            Err(TryLockError::Error(error)) => return Err(error).with_context(named),
        }
        let run = Self {
            folder: folder.to_path_buf(),
            config,
            _lock: lock,
        };
        let file = run.file("config.json");
        if restart {
            for name in ["config.json", CHECKPOINT, "log.jsonl"] {
                let _ = std::fs::remove_file(run.file(name));
            }
        }
        if file.exists() {
            let found: Value = serde_json::from_slice(&read(&file)?)
                .with_context(|| format!("{}: not a configuration", file.display()))?;
            let mut differences = Vec::new();
            difference("", &found, &run.config, &mut differences);
            if !differences.is_empty() {
                bail!(
                    "{}: holds a run of another configuration ({}); give --restart to throw it away or --work another folder",
                    folder.display(),
                    differences.join("; ")
                );
            }
        }
        write_atomically(&file, serde_json::to_string_pretty(&run.config)?.as_bytes())?;
        Ok(run)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where the last checkpoint lies.
    pub fn checkpoint_path(&self) -> PathBuf {
        self.file(CHECKPOINT)
    }

    /// Where the log lies.
    pub fn log_path(&self) -> PathBuf {
        self.file("log.jsonl")
    }

    /// Keeps the learner as it is after `position`.
    pub fn save(&self, learner: &Learner, position: Position) -> Result<()> {
        let metadata = HashMap::from([
            ("format".to_string(), CHECKPOINT_FORMAT.to_string()),
            ("stage".to_string(), position.stage.to_string()),
            ("epochs".to_string(), position.epochs.to_string()),
        ]);
        let state = learner.state()?;
        let bytes = safetensors::serialize(
            state.iter().map(|(name, tensor)| (name.as_str(), tensor)),
            Some(metadata),
        )
        .context("a checkpoint could not be encoded")?;
        write_atomically(&self.checkpoint_path(), &bytes)
    }

    /// How far the last checkpoint has come; the start if there is none.
    pub fn position(&self) -> Result<Position> {
        Ok(self
            .read()?
            .map_or(Position::default(), |(position, _)| position))
    }

    /// Restores the learner from the last checkpoint, if there is one.
    pub fn restore(&self, learner: &mut Learner) -> Result<Option<Position>> {
        let Some((position, state)) = self.read()? else {
            return Ok(None);
        };
        learner.restore(&state).with_context(|| self.damaged())?;
        Ok(Some(position))
    }

    fn damaged(&self) -> String {
        damaged(&self.checkpoint_path())
    }

    fn read(&self) -> Result<Option<(Position, BTreeMap<String, Tensor>)>> {
        let path = self.checkpoint_path();
        match path.exists() {
            true => read_checkpoint(&path).map(Some),
            false => Ok(None),
        }
    }

    /// Adds a line to the log.
    pub fn log(&self, entry: &Value) -> Result<()> {
        let path = self.log_path();
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        writeln!(file, "{entry}").with_context(|| path.display().to_string())
    }
}

/// What another run has learned, by the folder of that run: what a checkpoint keeps, and its digest.
pub fn learned_by(folder: &Path) -> Result<(BTreeMap<String, Tensor>, Digest)> {
    let path = folder.join(CHECKPOINT);
    let (_, state) = read_checkpoint(&path)?;
    Ok((state, Digest::of_bytes(&read(&path)?)))
}

fn damaged(path: &Path) -> String {
    format!(
        "{}: damaged checkpoint; give --restart to begin anew",
        path.display()
    )
}

fn read_checkpoint(path: &Path) -> Result<(Position, BTreeMap<String, Tensor>)> {
    let damaged = || damaged(path);
    let bytes = read(path)?;
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).with_context(damaged)?;
    let text = |key: &str| header.metadata().as_ref().and_then(|m| m.get(key));
    // The first format did not tell its number.
    let format = text("format").map_or("1", String::as_str);
    if format != CHECKPOINT_FORMAT.to_string() {
        bail!(
            "{}: a checkpoint of format {format}, this program reads {CHECKPOINT_FORMAT}; finish the run with the program that began it, \
                 or give --restart to begin anew",
            path.display()
        );
    }
    let number = |key: &str| text(key).and_then(|v| v.parse().ok()).with_context(damaged);
    let position = Position {
        stage: number("stage")?,
        epochs: number("epochs")?,
    };
    let state: BTreeMap<String, Tensor> =
        candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .with_context(damaged)?
            .into_iter()
            .collect();
    Ok((position, state))
}

/// Lists where two configurations differ, as `key: old, now new`.
fn difference(key: &str, found: &Value, wanted: &Value, out: &mut Vec<String>) {
    match (found, wanted) {
        (Value::Object(a), Value::Object(b)) => {
            for name in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let (a, b) = (
                    a.get(name).unwrap_or(&Value::Null),
                    b.get(name).unwrap_or(&Value::Null),
                );
                difference(
                    &if key.is_empty() {
                        name.clone()
                    } else {
                        format!("{key}.{name}")
                    },
                    a,
                    b,
                    out,
                );
            }
        }
        _ if found != wanted => out.push(format!("{key} was {found}, now {wanted}")),
        _ => {}
    }
}

/// A log line of one epoch.
pub fn epoch_entry(stage: &str, epoch: usize, loss: f64, accuracy: f64, seconds: f64) -> Value {
    json!({"stage": stage, "epoch": epoch, "loss": loss, "train_accuracy": accuracy, "seconds": seconds})
}
