//! What lies in folders: audio files by the endings of their names, sorted, since the system's order differs between machines. Hidden files are no data, and neither is
//! what archivers of Apple add (`._clip.opus`, `__MACOSX/`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::DatasetError;

/// Endings of audio files. What is behind the last of them is not read; such a file is not passed over in silence, but counted with those that cannot be read.
pub(crate) const AUDIO_EXTENSIONS: [&str; 42] = [
    "wav", "flac", "opus", "ogg", "oga", "mp3", "m4a", "aac", "mp4", "3gp", "wave", "w64", "rf64",
    "bwf", "aif", "aiff", "aifc", "caf", "au", "snd", "wma", "amr", "webm", "mka", "wv", "ape",
    "ac3", "mp2", "mpga", "m4b", "m4r", "mov", "mkv", "spx", "ogx", "tta", "voc", "sph", "dts",
    "ra", "gsm", "oma",
];

/// Audio files of the word folders of `root`, with the folder's name. Folders whose name begins with `_` or `.` are no words.
pub(crate) fn word_files(root: &Path) -> Result<Vec<(String, PathBuf)>, DatasetError> {
    let mut files = Vec::new();
    for folder in folders(root)? {
        let word = name(&folder);
        if !word.starts_with('_') {
            let of_word = audio_files(&folder)?.into_iter();
            files.extend(of_word.map(|file| (word.clone(), file)));
        }
    }
    Ok(files)
}

/// Audio files below the word folders of `root`, deeper than these, but for folders of noise and negatives by set.
pub(crate) fn nested(root: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let mut files = Vec::new();
    for folder in folders(root)? {
        let word = name(&folder);
        if word.starts_with('_') || ["noise", "negatives"].contains(&word.as_str()) {
            continue;
        }
        for inside in folders(&folder)? {
            files.extend(audio_below(&inside)?);
        }
    }
    Ok(files)
}

/// Folders in `root`.
pub(crate) fn folders(root: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let mut found = listing(root)?;
    found.retain(|path| path.is_dir());
    Ok(found)
}

/// Audio files in `folder`.
pub(crate) fn audio_files(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let mut found = listing(folder)?;
    found.retain(|path| {
        let extension = path.extension().unwrap_or_default();
        let extension = extension.to_string_lossy().to_lowercase();
        // A link to nowhere is a file that cannot be read.
        AUDIO_EXTENSIONS.contains(&extension.as_str()) && !path.is_dir()
    });
    Ok(found)
}

/// Audio files at `path`, or anywhere below it, sorted by name.
///
/// # Errors
/// For a folder that cannot be read. A file is taken as it is named.
pub fn audio_below(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = audio_files(path)?;
    for folder in folders(path)? {
        files.extend(audio_below(&folder)?);
    }
    Ok(files)
}

/// The last part of a path.
pub(crate) fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn listing(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let entries = fs::read_dir(folder).map_err(DatasetError::io(folder))?;
    let sorted: BTreeSet<PathBuf> = entries
        .map(|entry| Ok(entry.map_err(DatasetError::io(folder))?.path()))
        .collect::<Result<_, DatasetError>>()?;
    let is_data = |path: &PathBuf| {
        let name = name(path);
        !name.starts_with('.') && name != "__MACOSX"
    };
    Ok(sorted.into_iter().filter(is_data).collect())
}
