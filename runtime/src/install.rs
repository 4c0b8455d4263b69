//! Puts a release of models in the place of another one, in a single step that no power cut can halve.
//!
//! A release waits in `.pull/release` until every file of it is on the disk; renaming that folder to `.pull/ready` is the step. From then on its files stand for those of the
//! same names in the directory, for every reader, while they are moved there one by one; a cut leaves some here and some there, and the next pull moves the rest.
//!
//! The file system is a trait, [`Disk`], so that `swr-sim` can lose what was not synced. Paths are relative to the directory of models, with `/` between.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::models::{DELTA_EXTENSION, GOLDEN_EXTENSION, SIGNATURE_SUFFIX};

/// Folder in the directory of models where downloads and releases wait.
pub const PULL: &str = ".pull";
/// A release that is being put together.
pub const RELEASE: &str = ".pull/release";
/// A release that is complete, and stands for the files of the directory.
pub const READY: &str = ".pull/ready";
/// The highest versions that were ever in use, so that none comes back older once it is removed or damaged.
pub const VERSIONS: &str = ".versions.json";
/// Held by whoever changes the directory.
const LOCK: &str = ".lock";

/// What installing needs of a file system. An operation is on the disk for certain only once what it changed was synced: contents by [`Disk::sync`], names by
/// [`Disk::sync_folder`] on their folder.
pub trait Disk {
    /// A folder of this machine with the directory in it, for as long as it is held.
    type View: AsRef<Path>;

    /// The directory for who reads by paths, as it is now.
    ///
    /// # Errors
    /// If it cannot be made; for all others, whatever the file system says.
    fn view(&mut self) -> io::Result<Self::View>;
    /// Writes a file, whatever was there.
    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// The contents of a file.
    fn read(&mut self, path: &str) -> io::Result<Vec<u8>>;
    /// Waits until a file's contents are on the disk.
    fn sync(&mut self, path: &str) -> io::Result<()>;
    /// Waits until a folder's names are on the disk.
    fn sync_folder(&mut self, path: &str) -> io::Result<()>;
    /// Moves a file or folder, at once; a file in its place is replaced.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file, if it is there.
    fn remove(&mut self, path: &str) -> io::Result<()>;
    /// Makes a folder, if it is not there.
    fn make_folder(&mut self, path: &str) -> io::Result<()>;
    /// Removes a folder and what is in it, if it is there.
    fn remove_folder(&mut self, path: &str) -> io::Result<()>;
    /// Names of the files in a folder, none if it is not there.
    fn names(&mut self, folder: &str) -> io::Result<Vec<String>>;
}

/// Begins a release: an empty folder for its files.
///
/// # Errors
/// Of the file system.
pub fn begin(disk: &mut impl Disk) -> io::Result<()> {
    disk.make_folder(PULL)?;
    disk.remove_folder(RELEASE)?;
    disk.make_folder(RELEASE)
}

/// Makes the release in [`RELEASE`] the one in use, in one step. Where it has no signature for a file that has one beside it in the directory, that one goes.
/// When this returns, the release outlives any power cut.
///
/// # Errors
/// Of the file system; then the models before are in use still.
pub fn commit(disk: &mut impl Disk) -> io::Result<()> {
    settle(disk)?;
    let names = disk.names(RELEASE)?;
    for name in &names {
        // An empty signature stands for none.
        let signature = format!("{name}{SIGNATURE_SUFFIX}");
        if !name.ends_with(SIGNATURE_SUFFIX) && !names.contains(&signature) {
            disk.write(&format!("{RELEASE}/{signature}"), &[])?;
        }
    }
    for name in disk.names(RELEASE)? {
        disk.sync(&format!("{RELEASE}/{name}"))?;
    }
    for folder in [RELEASE, PULL, ""] {
        disk.sync_folder(folder)?;
    }
    disk.rename(RELEASE, READY)?;
    disk.sync_folder(PULL)
}

/// Moves a release that is in use to its place in the directory; nothing, if there is none. Whatever is cut here is done by the next call.
///
/// # Errors
/// Of the file system; what is in use stays the same.
pub fn settle(disk: &mut impl Disk) -> io::Result<()> {
    let names = disk.names(READY)?;
    let mut gone = Vec::new();
    for name in &names {
        if name.ends_with(SIGNATURE_SUFFIX) && disk.read(&format!("{READY}/{name}"))?.is_empty() {
            disk.remove(name)?;
            gone.push(name);
        }
    }
    // Before what stands for their absence goes.
    disk.sync_folder("")?;
    for name in names.iter().filter(|name| !gone.contains(name)) {
        disk.rename(&format!("{READY}/{name}"), name)?;
    }
    disk.sync_folder("")?;
    disk.remove_folder(READY)?;
    disk.sync_folder(PULL)
}

/// Removes a language, in one step.
///
/// # Errors
/// Of the file system.
pub(crate) fn remove(disk: &mut impl Disk, language: &str) -> io::Result<()> {
    settle(disk)?;
    let delta = format!("{language}.{DELTA_EXTENSION}");
    disk.remove(&delta)?;
    disk.sync_folder("")?;
    let golden = format!("{language}.{GOLDEN_EXTENSION}");
    for name in [
        format!("{delta}{SIGNATURE_SUFFIX}"),
        format!("{golden}{SIGNATURE_SUFFIX}"),
        golden,
    ] {
        disk.remove(&name)?;
    }
    disk.sync_folder("")
}

/// Highest versions that were ever in use, by language.
pub type Versions = BTreeMap<String, u32>;

/// Notes versions that are in use; one that was higher stays.
///
/// # Errors
/// Of the file system, and for a list that cannot be read.
pub fn remember(disk: &mut impl Disk, versions: &Versions) -> io::Result<()> {
    let mut highest = remembered(disk)?;
    for (language, version) in versions {
        let highest = highest.entry(language.clone()).or_default();
        *highest = *version.max(highest);
    }
    let json = serde_json::to_vec_pretty(&highest).map_err(io::Error::other)?;
    if disk.read(VERSIONS).is_ok_and(|there| there == json) {
        return Ok(());
    }
    let new = format!("{VERSIONS}.new");
    disk.write(&new, &json)?;
    disk.sync(&new)?;
    disk.rename(&new, VERSIONS)?;
    disk.sync_folder("")
}

/// What [`remember`] has noted.
///
/// # Errors
/// If the list is there and cannot be read.
pub fn remembered(disk: &mut impl Disk) -> io::Result<Versions> {
    match disk.read(VERSIONS) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            io::Error::other(format!(
                "{VERSIONS} cannot be read ({error}); delete it if older models may come back"
            ))
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Versions::new()),
        Err(error) => Err(error),
    }
}

/// Where a file of the models is: in a release that is ready, or in the directory itself.
pub(crate) fn locate(directory: &Path, name: &str) -> PathBuf {
    let ready = directory.join(READY).join(name);
    // Moved from there to here, never back: what is not there any more is here.
    if ready.exists() {
        ready
    } else {
        directory.join(name)
    }
}

/// A directory of models on this machine.
pub struct Folder(pub PathBuf);

impl Folder {
    /// Keeps others from changing the directory for as long as the result is held. Makes the directory, if need be.
    ///
    /// # Errors
    /// If another program holds it, or of the file system.
    pub fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(&self.0)?;
        let file = File::create(self.at(LOCK))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::other(
                "another program changes these models at this moment; try again when it has ended",
            )),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }
}

/// What is not there is as good as removed.
fn unless_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Disk for Folder {
    type View = PathBuf;

    fn view(&mut self) -> io::Result<PathBuf> {
        Ok(self.0.clone())
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        File::create(self.at(path))?.write_all(bytes)
    }

    fn read(&mut self, path: &str) -> io::Result<Vec<u8>> {
        fs::read(self.at(path))
    }

    fn sync(&mut self, path: &str) -> io::Result<()> {
        File::open(self.at(path))?.sync_all()
    }

    fn sync_folder(&mut self, path: &str) -> io::Result<()> {
        if !cfg!(unix) {
            return Ok(());
        }
        unless_missing(File::open(self.at(path)).and_then(|folder| folder.sync_all()))
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        unless_missing(fs::remove_file(self.at(path)))
    }

    fn make_folder(&mut self, path: &str) -> io::Result<()> {
        fs::create_dir_all(self.at(path))
    }

    fn remove_folder(&mut self, path: &str) -> io::Result<()> {
        unless_missing(fs::remove_dir_all(self.at(path)))
    }

    fn names(&mut self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.at(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.path().is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}
