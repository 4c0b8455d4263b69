//! What is installed, and whether a release may take its place.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use swr_core::package::{Manifest, PublicKey};

use crate::DEFAULT_STEP_FRAMES;
use crate::error::ModelsError;
use crate::install::{self, Folder, Versions, locate};
use crate::models::{BASE_FILES, DELTA_EXTENSION, DeltaFile, Model, Models, deltas, package_error};

/// What lies in a directory of models, whether or not it fits together.
#[derive(Clone, Debug, Default)]
pub struct Installed {
    /// Of the deltas by language, 0 where a delta cannot be read.
    pub versions: BTreeMap<String, u32>,
    /// The highest versions that are or were in use, the base's language among them.
    pub highest: Versions,
}

impl Installed {
    /// Looks at a directory, which need not exist.
    ///
    /// # Errors
    /// If it cannot be listed, or its list of versions is damaged.
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
        let mut highest = install::remembered(&mut Folder(directory.into()))?;
        if let Some(manifest) = manifest {
            let highest = highest.entry(manifest.language).or_default();
            *highest = manifest.model_version.max(*highest);
        }
        for (language, version) in &versions {
            let highest = highest.entry(language.clone()).or_default();
            *highest = *version.max(highest);
        }
        Ok(Self { versions, highest })
    }

    /// Refuses an older base than the installed one.
    ///
    /// # Errors
    /// [`ModelsError::Package`].
    pub fn check_base(&self, staged: &Models) -> Result<(), ModelsError> {
        self.check_not_older(&staged.load(&staged.manifest().language)?)
    }

    fn check_not_older(&self, model: &Model) -> Result<(), ModelsError> {
        let installed = self.highest.get(&model.language.code);
        let checked = model
            .language
            .check_not_older(installed.copied().unwrap_or(0));
        checked.map_err(package_error(&model.path))
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
            // As it will run, and with a class for every label.
            model.engine(DEFAULT_STEP_FRAMES)?;
            staged.try_golden(&model)?;
            self.check_not_older(&model)?;
        }
        Ok(())
    }
}
