//! The index of a release: which files it has, how long they are, their digests and versions. A JSON file that any static file server,
//! object store or registry can hold beside the files; bytes come in and are checked, deterministic JSON goes out.

use alloc::{collections::BTreeSet, format, string::String, vec::Vec};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Digest, PackageError,
    fields::{check_language, check_model_version},
};

/// The index format that is written and read.
pub const INDEX_VERSION: u32 = 1;
/// Largest index that is read.
pub const MAX_INDEX_BYTES: usize = 1 << 20;
/// Most bytes that the files of an index may have together.
pub const MAX_INDEXED_BYTES: u64 = 256 << 20;

/// So much of a name that should not be there is shown.
const MAX_SHOWN_CHARACTERS: usize = 100;

/// What a release holds: its `index.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// Format of the index, [`INDEX_VERSION`].
    pub format: u32,
    /// Manifest, network, and the manifest's signature if there is one.
    pub base: Entry,
    /// A delta per further language, each with its signature if there is one.
    pub languages: Vec<Entry>,
}

/// The files of a base or of a language.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// BCP-47 code.
    pub language: String,
    /// Version of the model; it rises with every release.
    pub model_version: u32,
    /// The files, the one that names the others first.
    pub files: Vec<IndexedFile>,
}

/// A file of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexedFile {
    /// Its name beside the index: `base.json`, `base.onnx`, `base.golden`, `<language>.swr`, `<language>.golden`, or one of these with `.minisig`.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub sha256: Digest,
}

impl Index {
    /// Reads and checks an index.
    ///
    /// # Errors
    /// [`PackageError::TooLarge`], [`PackageError::BadIndex`] for what is no such JSON object, [`PackageError::UnsupportedVersion`],
    /// [`PackageError::BadField`] for a value against its rule, such as a name that leads elsewhere.
    pub fn parse(bytes: &[u8]) -> Result<Self, PackageError> {
        if bytes.len() > MAX_INDEX_BYTES {
            return Err(PackageError::TooLarge {
                what: "the index, in bytes,",
                found: bytes.len(),
                limit: MAX_INDEX_BYTES,
            });
        }
        let value: Value = serde_json::from_slice(bytes).map_err(bad_index)?;
        let format = value
            .get("format")
            .and_then(Value::as_u64)
            .and_then(|format| u32::try_from(format).ok())
            .ok_or_else(|| PackageError::BadIndex {
                reason: "it has no field \"format\" with the number of its format".into(),
            })?;
        if format != INDEX_VERSION {
            return Err(PackageError::UnsupportedVersion {
                what: "index",
                found: format,
                supported: INDEX_VERSION,
            });
        }
        let index: Self = serde_json::from_value(value).map_err(bad_index)?;
        index.check()?;
        Ok(index)
    }

    /// The index as JSON, indented by two spaces and ended by a line break; equal indexes give equal bytes.
    ///
    /// # Errors
    /// As [`Index::parse`]: what would not be read is not written.
    pub fn to_json(&self) -> Result<String, PackageError> {
        self.check()?;
        let mut json = serde_json::to_string_pretty(self).map_err(bad_index)?;
        json.push('\n');
        Ok(json)
    }

    /// Base and languages.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        core::iter::once(&self.base).chain(&self.languages)
    }

    fn check(&self) -> Result<(), PackageError> {
        let (mut languages, mut names) = (BTreeSet::new(), BTreeSet::new());
        for entry in self.entries() {
            check_language(&entry.language)?;
            check_model_version(entry.model_version)?;
            if !languages.insert(&entry.language) {
                return Err(bad(
                    "language",
                    format!("{:?} occurs twice", entry.language),
                ));
            }
            if entry.files.is_empty() {
                return Err(bad("files", format!("{:?} has none", entry.language)));
            }
            for file in &entry.files {
                self.check_file(entry, file)?;
                if !names.insert(&file.name) {
                    return Err(bad("name", format!("{:?} occurs twice", file.name)));
                }
            }
        }
        let files = self.entries().flat_map(|entry| &entry.files);
        let bytes = files.fold(0u64, |sum, file| sum.saturating_add(file.bytes));
        if bytes > MAX_INDEXED_BYTES {
            return Err(bad(
                "bytes",
                format!("expected at most {MAX_INDEXED_BYTES} together, found {bytes}"),
            ));
        }
        Ok(())
    }

    /// Only what a directory of models holds has a place in a release: nothing else is ever written by one.
    fn check_file(&self, entry: &Entry, file: &IndexedFile) -> Result<(), PackageError> {
        let name = file.name.strip_suffix(".minisig").unwrap_or(&file.name);
        let fits = if core::ptr::eq(entry, &self.base) {
            ["base.json", "base.golden"].contains(&name) || file.name == "base.onnx"
        } else {
            let language = name.strip_suffix(".swr").or(name.strip_suffix(".golden"));
            language == Some(&entry.language)
        };
        if fits {
            return Ok(());
        }
        let shown: String = file.name.chars().take(MAX_SHOWN_CHARACTERS).collect();
        Err(bad(
            "name",
            format!(
                "{shown:?} is no file of a base or of the delta {}.swr",
                entry.language
            ),
        ))
    }
}

fn bad(field: &'static str, reason: String) -> PackageError {
    PackageError::BadField { field, reason }
}

fn bad_index(error: serde_json::Error) -> PackageError {
    PackageError::BadIndex {
        reason: format!("{error}"),
    }
}
