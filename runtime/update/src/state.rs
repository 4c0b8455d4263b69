//! What a device knows of its models, as the record in its flash: which are confirmed, which are on trial, what is being downloaded, how far
//! it must never go back. Bytes in, checked values out; no flash here.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use swr_core::package::{Digest, Entry};

use crate::UpdateError;

/// First byte of a record: the format that is written and read.
const RECORD_FORMAT: u8 = 1;
/// Most languages of a device, the base's among them.
pub const MAX_LANGUAGES: usize = 24;
/// Longest sentence that is kept of why an update was refused.
const MAX_REASON_BYTES: usize = 240;

/// Which file of a base or a language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Manifest,
    ManifestSignature,
    Network,
    Delta,
    DeltaSignature,
    Golden,
    GoldenSignature,
}

impl Kind {
    /// By the file's name in a release.
    fn of(name: &str) -> Option<Self> {
        let (name, signature) = match name.strip_suffix(".minisig") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let (_, extension) = name.rsplit_once('.')?;
        match (extension, signature) {
            ("json", false) => Some(Self::Manifest),
            ("json", true) => Some(Self::ManifestSignature),
            ("onnx", false) => Some(Self::Network),
            ("swr", false) => Some(Self::Delta),
            ("swr", true) => Some(Self::DeltaSignature),
            ("golden", false) => Some(Self::Golden),
            ("golden", true) => Some(Self::GoldenSignature),
            _ => None,
        }
    }

    /// Longest file of the kind: nobody has signed an index, so that what it says of lengths must not fill the memory.
    fn most_bytes(self) -> u32 {
        match self {
            Self::ManifestSignature | Self::DeltaSignature | Self::GoldenSignature => 4 << 10,
            Self::Golden => 16 << 10,
            Self::Manifest | Self::Delta => 256 << 10,
            Self::Network => 16 << 20,
        }
    }
}

/// The files of a base or a language, one behind the other in the flash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bundle {
    pub(crate) language: String,
    pub(crate) model_version: u32,
    /// Where the first file begins, a multiple of the sector.
    pub(crate) address: u32,
    /// Each file's kind and length.
    pub(crate) files: Vec<(Kind, u32)>,
    /// SHA-256 of the files' SHA-256, so that it is known from an index before the files are.
    pub(crate) digest: [u8; 32],
}

impl Bundle {
    /// What an index says of a base or a language, to be stored at `address`.
    pub(crate) fn of(entry: &Entry, address: u32) -> Result<Self, UpdateError> {
        let bad = |what| UpdateError::BadEntry {
            language: entry.language.clone(),
            what,
        };
        let mut files = Vec::new();
        for file in &entry.files {
            let kind = Kind::of(&file.name).ok_or(bad("a file has an unknown name"))?;
            let bytes = u32::try_from(file.bytes).map_err(|_| bad("a file is too long"))?;
            if files.iter().any(|(there, _)| *there == kind) {
                return Err(bad("a kind of file is there twice"));
            }
            if bytes > kind.most_bytes() {
                return Err(bad("a file is longer than any of its kind"));
            }
            files.push((kind, bytes));
        }
        let bundle = Self {
            language: entry.language.clone(),
            model_version: entry.model_version,
            address,
            files,
            digest: digest_of(entry.files.iter().map(|file| file.sha256)),
        };
        bundle
            .checked_bytes()
            .ok_or(bad("the files are too long"))?;
        Ok(bundle)
    }

    fn checked_bytes(&self) -> Option<u32> {
        let mut lengths = self.files.iter().map(|(_, bytes)| *bytes);
        lengths.try_fold(0u32, u32::checked_add)
    }

    /// Length of all files together; of a record's bundle it was checked when the record was read.
    pub(crate) fn bytes(&self) -> u32 {
        self.checked_bytes().unwrap_or(u32::MAX)
    }

    /// The same files, wherever they lie.
    pub(crate) fn same_files(&self, other: &Self) -> bool {
        self.digest == other.digest
            && self.files == other.files
            && self.language == other.language
            && self.model_version == other.model_version
    }
}

/// The digest of a bundle whose files have these digests.
pub(crate) fn digest_of(files: impl Iterator<Item = Digest>) -> [u8; 32] {
    let mut hash = Sha256::new();
    files.for_each(|file| hash.update(file.0));
    hash.finalize().into()
}

/// A download, finished or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Staged {
    pub(crate) bundle: Bundle,
    /// Whether all bytes came and were read back.
    pub(crate) complete: bool,
}

/// Models that are to be tried at the next start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// All models as they will be, the base first.
    pub(crate) bundles: Vec<Bundle>,
    /// Starts so far.
    pub(crate) tries: u8,
}

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Models in use, the base first.
    pub(crate) confirmed: Vec<Bundle>,
    pub(crate) trial: Option<Trial>,
    pub(crate) staged: Vec<Staged>,
    /// Highest version confirmed of each language, those removed since among them.
    pub(crate) floors: Vec<(String, u32)>,
    /// Where the next search for room begins, so that sectors wear alike.
    pub(crate) next_address: u32,
    /// Why the last update was not taken.
    pub(crate) refused: Option<String>,
}

impl State {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = alloc::vec![RECORD_FORMAT];
        // A vector grows as it must, and nothing in here refuses to be written.
        bytes.extend(postcard::to_allocvec(self).unwrap_or_default());
        bytes
    }

    /// Reads a record and checks that all it names lies in whole sectors within `room`.
    pub(crate) fn read(
        bytes: &[u8],
        room: core::ops::Range<u32>,
        sector_bytes: u32,
    ) -> Result<Self, UpdateError> {
        let (&format, body) = bytes.split_first().ok_or(UpdateError::NotProvisioned)?;
        if format != RECORD_FORMAT {
            return Err(UpdateError::UnsupportedRecord {
                found: format,
                supported: RECORD_FORMAT,
            });
        }
        let state: Self = postcard::from_bytes(body).map_err(|_| UpdateError::NotProvisioned)?;
        let lies_well = |bundle: &Bundle| {
            bundle.address.is_multiple_of(sector_bytes)
                && room.start <= bundle.address
                && bundle
                    .checked_bytes()
                    .and_then(|bytes| bytes.checked_next_multiple_of(sector_bytes))
                    .and_then(|bytes| bytes.checked_add(bundle.address))
                    .is_some_and(|end| end <= room.end)
        };
        if state.confirmed.is_empty() || !state.bundles().all(lies_well) {
            return Err(UpdateError::NotProvisioned);
        }
        Ok(state)
    }

    /// Everything in the flash that must not be overwritten.
    pub(crate) fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        let trial = self.trial.iter().flat_map(|trial| &trial.bundles);
        let staged = self.staged.iter().map(|staged| &staged.bundle);
        self.confirmed.iter().chain(trial).chain(staged)
    }

    /// Highest version confirmed of a language; 0 if there was none.
    pub(crate) fn floor(&self, language: &str) -> u32 {
        let floor = self.floors.iter().find(|(of, _)| of == language);
        floor.map_or(0, |(_, version)| *version)
    }

    /// Raises every floor to what is confirmed.
    pub(crate) fn raise_floors(&mut self) {
        for bundle in &self.confirmed {
            match self
                .floors
                .iter_mut()
                .find(|(of, _)| *of == bundle.language)
            {
                Some((_, version)) => *version = (*version).max(bundle.model_version),
                None => self
                    .floors
                    .push((bundle.language.clone(), bundle.model_version)),
            }
        }
    }

    pub(crate) fn refuse(&mut self, reason: &UpdateError) {
        let mut text = alloc::format!("{reason}");
        let end = text.floor_char_boundary(MAX_REASON_BYTES.min(text.len()));
        text.truncate(end);
        self.refused = Some(text);
    }
}
