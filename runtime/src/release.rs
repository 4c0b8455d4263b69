//! What is installed, and whether a release may take its place.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use swr_core::package::{Manifest, PublicKey};

use crate::error::ModelsError;
use crate::install::{self, Folder, locate};
use crate::models::{BASE_FILES, DELTA_EXTENSION, DeltaFile, Models, deltas, package_error};

/// What lies in a directory of models, whether or not it fits together.
#[derive(Clone, Debug, Default)]
pub struct Installed {
    /// 0 where there is no base.
    pub base_version: u32,
    /// Of the deltas by language, 0 where a delta cannot be read.
    pub versions: BTreeMap<String, u32>,
    /// The same, or those of languages that were removed, if they were higher.
    pub highest: BTreeMap<String, u32>,
}

impl Installed {
    /// Looks at a directory, which need not exist.
    ///
    /// # Errors
    /// If it cannot be listed, or its list of removed languages is damaged.
    pub fn find(directory: &Path) -> io::Result<Self> {
        let manifest = std::fs::read(locate(directory, BASE_FILES[0])).ok();
        let manifest = manifest.and_then(|bytes| Manifest::parse(&bytes).ok());
        let mut versions = BTreeMap::new();
        for language in deltas(directory)? {
            let path = locate(directory, &format!("{language}.{DELTA_EXTENSION}"));
            let delta = DeltaFile::read(&path).ok();
            let version = delta.map_or(0, |file| file.delta.header().model_version);
            versions.insert(language, version);
        }
        let mut highest = versions.clone();
        for (language, version) in install::removed(&mut Folder(directory.into()))? {
            let highest = highest.entry(language).or_default();
            *highest = version.max(*highest);
        }
        Ok(Self {
            base_version: manifest.map_or(0, |manifest| manifest.model_version),
            versions,
            highest,
        })
    }

    /// Refuses an older base than the installed one.
    ///
    /// # Errors
    /// [`ModelsError::Package`].
    pub fn check_base(&self, staged: &Models) -> Result<(), ModelsError> {
        let path = staged.directory().join(BASE_FILES[0]);
        let checked = staged.manifest().check_not_older(self.base_version);
        checked.map_err(package_error(&path))
    }

    /// Checks a release as a whole, as it will be used: graph, base, every merge, every signature, and every golden clip. No model may be older than what is
    /// installed, or was.
    ///
    /// # Errors
    /// [`ModelsError`]: the first thing that is wrong with it.
    pub fn check(&self, release: &Path, keys: &[PublicKey]) -> Result<(), ModelsError> {
        let staged = Models::open_trusting(release, keys)?;
        self.check_base(&staged)?;
        for language in &staged.languages()? {
            let model = staged.load(language)?;
            staged.try_golden(&model)?;
            if *language != staged.manifest().language
                && let Some(version) = self.highest.get(language)
            {
                let file = staged.delta(language)?;
                let checked = file.delta.check_not_older(*version);
                checked.map_err(package_error(&file.path))?;
            }
        }
        Ok(())
    }
}
