//! What is installed, whether a release may take its place, and how it does: [`pull`] and [`remove`] change a directory of models.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use swr_core::package::{Manifest, PublicKey};

use crate::DEFAULT_STEP_FRAMES;
use crate::error::ModelsError;
use crate::install::{self, Disk, Folder, PULL, RELEASE, Versions, locate};
use crate::models::{BASE_FILES, DELTA_EXTENSION, DeltaFile, Model, Models, deltas, package_error};

/// Why a release did not take the place of what is installed, or a language was not removed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError<E> {
    /// The file system failed.
    #[error(transparent)]
    Disk(#[from] io::Error),
    /// The release as a whole is not one to be used.
    #[error(transparent)]
    Refused(ModelsError),
    /// Its files could not be brought.
    #[error("{0}")]
    Fetch(E),
    /// No delta of the language is installed; those that are.
    #[error("it has {}", .0.join(", "))]
    NoLanguage(Vec<String>),
}

/// Puts a release in the place of what is installed, in a single step that no power cut can halve; what `swr models pull` does, and `swr-sim` cuts everywhere.
///
/// `choose` says what is wanted, by what is installed; `fetch` writes its files into [`RELEASE`]; they are checked as a whole, against `keys` and what is or
/// was installed. `acknowledge` is called when the release outlives any power cut; what is left is to move it to its place. What an earlier call was cut in is
/// settled first. The caller keeps others away meanwhile ([`Folder::lock`]).
///
/// # Errors
/// [`ChangeError`]; the models before are in use still, unless `acknowledge` was called.
pub fn pull<D: Disk, C, T, E>(
    disk: &mut D,
    keys: &[PublicKey],
    choose: impl FnOnce(&Installed) -> Result<C, E>,
    fetch: impl FnOnce(&mut D, &Installed, C) -> Result<T, E>,
    acknowledge: impl FnOnce(&mut D),
) -> Result<T, ChangeError<E>> {
    install::settle(disk)?;
    let installed = Installed::find(disk.view()?.as_ref())?;
    let chosen = choose(&installed).map_err(ChangeError::Fetch)?;
    install::begin(disk)?;
    let fetched = fetch(disk, &installed, chosen).map_err(ChangeError::Fetch)?;
    let release = disk.view()?;
    let checked = installed.check(&release.as_ref().join(RELEASE), keys);
    checked.map_err(ChangeError::Refused)?;
    install::commit(disk)?;
    acknowledge(disk);
    install::settle(disk)?;
    // What the files say: nobody has signed the index.
    let now = Installed::find(disk.view()?.as_ref())?;
    install::remember(disk, &now.highest)?;
    disk.remove_folder(PULL)?;
    Ok(fetched)
}

/// Removes a language, in one step, and gives its version, below which none comes back. The caller keeps others away meanwhile ([`Folder::lock`]).
///
/// # Errors
/// [`ChangeError::NoLanguage`] and [`ChangeError::Disk`].
pub fn remove(disk: &mut impl Disk, language: &str) -> Result<u32, ChangeError<ModelsError>> {
    let installed = Installed::find(disk.view()?.as_ref())?;
    let version = *installed.versions.get(language).ok_or_else(|| {
        let there = installed.versions.keys().cloned();
        ChangeError::NoLanguage(there.collect())
    })?;
    // Before it goes, so that it does not come back older.
    install::remember(disk, &installed.highest)?;
    install::remove(disk, language)?;
    Ok(version)
}

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
