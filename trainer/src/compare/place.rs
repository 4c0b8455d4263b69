//! What all cells of a comparison share: where everything lies, and the settings.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::json;
use swr_core::package::Digest;
use swr_dataset::{Task, TaskOptions};

use super::benchmark::Benchmark;
use crate::adapt::TRAINING_VERSION;
use crate::config::AdaptConfig;
use crate::models::Base;
use crate::progress::Progress;

/// Where everything lies that cells are run with.
pub struct Place<'a> {
    /// Folder with speech.
    pub data: &'a Path,
    /// Further training clips.
    pub extra: &'a [PathBuf],
    /// Folder with the base of a width.
    pub models: &'a Path,
    /// Folder for checkpoints.
    pub work: &'a Path,
    /// The results file.
    pub results: &'a Path,
    /// The languages that one joint network is trained for.
    pub together: &'a [String],
    /// Which words the tasks have.
    pub benchmark: &'a Benchmark,
    /// Settings; method and seed are the cell's.
    pub config: &'a AdaptConfig,
    /// Talk to people.
    pub progress: &'a Progress,
}

impl Place<'_> {
    /// Digest of what all rows of one results file share.
    pub(super) fn settings(&self, base: &Base) -> String {
        let mut given = json!({
            "config": self.config, "base": base.manifest().tensors_sha256, "training": TRAINING_VERSION,
        });
        if !self.extra.is_empty() {
            given["extra"] = json!(self.extra);
        }
        Digest::of_bytes(given.to_string().as_bytes()).to_string()
    }

    pub(super) fn task(&self, language: &str) -> Result<Task> {
        let mut keywords = self.benchmark.keywords.get(language).cloned();
        keywords.iter_mut().for_each(|words| words.sort());
        let options = TaskOptions {
            extra: self.extra.to_vec(),
            unknown_pool: self.config.unknown_pool,
            keywords,
            max_keywords: self.benchmark.most_keywords,
            unknown_languages: self.benchmark.unknown_languages.clone(),
            ..TaskOptions::default()
        };
        let task = swr_dataset::task(self.data, language, &options)?;
        Ok(task)
    }
}
