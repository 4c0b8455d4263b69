//! What can be wrong with a data folder, each with the path, what was found and what to do next.

use std::io;
use std::path::{Path, PathBuf};

use swr_core::audio::AudioError;
use thiserror::Error;

use crate::load::Faults;

/// Everything that can go wrong between a data folder and its samples.
#[derive(Debug, Error)]
pub enum DatasetError {
    /// The data folder does not exist or is a file.
    #[error("{path}: no such folder; give --data the folder that holds the speech data", path = .0.display())]
    NoFolder(PathBuf),
    /// The folder holds nothing that looks like speech data.
    #[error(
        "{path}: no speech data found; expected gsc/, mswc/<language>/ or synth/<language>/, a Speech Commands folder, an MSWC folder \
         (<language>/clips with <language>_splits.csv) or <word>/*.wav",
        path = .0.display()
    )]
    NothingFound(PathBuf),
    /// The data has no clip of the language asked for.
    #[error("{path}: no clips of language \"{language}\"; found: {found}", path = .path.display())]
    NoLanguage {
        /// First data folder.
        path: PathBuf,
        /// Language asked for.
        language: String,
        /// Languages that are there, separated by commas.
        found: String,
    },
    /// A language code that is no BCP-47 code.
    #[error(
        "language \"{0}\": expected a code of letters, digits and hyphens such as \"de\" or \"zh-CN\""
    )]
    BadLanguage(String),
    /// No word of the language has enough training clips.
    #[error(
        "{path}: no word of language \"{language}\" has {min_train_clips} training clips (the most frequent has {most}); lower the minimum or add data",
        path = .path.display()
    )]
    NoKeywords {
        /// First data folder.
        path: PathBuf,
        /// Language asked for.
        language: String,
        /// The demanded number of training clips for each word.
        min_train_clips: usize,
        /// Training clips of the most frequent word.
        most: usize,
    },
    /// A single word of the language has enough training clips, in data that somebody else put together.
    #[error(
        "{path}: \"{word}\" is the only word of language \"{language}\" with {min_train_clips} training clips; add clips of others, or, if one wake \
         word is what you want, give --data a plain folder <word>/*.wav",
        path = .path.display()
    )]
    OneKeyword {
        /// First data folder.
        path: PathBuf,
        /// Language asked for.
        language: String,
        /// The word.
        word: String,
        /// The demanded number of training clips for each word.
        min_train_clips: usize,
    },
    /// Two keywords that are one word to whoever reads them.
    #[error(
        "{path}: keywords \"{first}\" and \"{second}\" of language \"{language}\" differ in case or in how letters are composed only ({first:?}, \
         {second:?}); give both the same name",
        path = .path.display()
    )]
    ClashingKeywords {
        /// First data folder.
        path: PathBuf,
        /// Language asked for.
        language: String,
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A word that is called like a label of its own.
    #[error("{path}: a word of language \"{language}\" is called \"{word}\", which is the name of a label for something else; rename it", path = .path.display())]
    ReservedKeyword {
        /// First data folder.
        path: PathBuf,
        /// Language asked for.
        language: String,
        /// The word.
        word: String,
    },
    /// A language folder in the MSWC layout without any table.
    #[error("{path}: no such table, and none per set either; unpack MSWC's split files there, beside the folder, or into splits/ beside it", path = .0.display())]
    NoTable(PathBuf),
    /// A CSV file or list that cannot be understood.
    #[error("{path}, line {line}: {problem}", path = .path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// A CSV row or list entry whose audio file is not there.
    #[error(
        "{table}, line {line}: {clip} is not there; restore the file, remove the line or skip missing clips",
        table = .table.display(), clip = .clip.display()
    )]
    MissingClip {
        /// The file that names the clip.
        table: PathBuf,
        /// Line, from 1.
        line: u64,
        /// The clip's path.
        clip: PathBuf,
    },
    /// A file or folder that cannot be read.
    #[error("{path}: cannot be read ({source}); check that it exists and that you may read it", path = .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A clip or background recording that is not usable audio: damaged, empty, of an unknown format, or with samples that are no numbers.
    #[error("{path}: {source}; replace the file or remove it from the data", path = .path.display())]
    Audio {
        /// The audio file.
        path: PathBuf,
        /// What the decoder found.
        source: AudioError,
    },
    /// A clip or recording that ends early, or of which a part cannot be decoded.
    #[error("{path}: {problem}; replace the file or remove it from the data", path = .path.display())]
    Incomplete {
        /// The audio file.
        path: PathBuf,
        /// What is missing.
        problem: String,
    },
    /// Files of which none may be missing.
    #[error("{0}; replace them or remove them from the data")]
    Unread(Faults),
    /// The keywords that are to be measured have no clip.
    #[error("{path}: no clips of any keyword in language \"{language}\" (expected: {words}); give the folder that holds recordings of these words", path = .path.display())]
    NoClipsOfKeywords {
        /// First data folder.
        path: PathBuf,
        /// Language asked for.
        language: String,
        /// The keywords.
        words: String,
    },
    /// A stream cannot be made of what was given.
    #[error("test stream: {0}")]
    Stream(String),
}

impl DatasetError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| DatasetError::Io { path, source }
    }
}
