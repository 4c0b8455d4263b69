//! A language's delta: what turns a base into the network of that language, in memory and as the bytes of a `.swr` file.
//! Reading checks the whole file before it returns anything; FORMAT.md describes the layout byte by byte.

use alloc::{string::String, vec::Vec};

use super::{
    Budget, Change, ChangeBytes, Digest, PackageError,
    bytes::{Reader, put_text, put_varint},
    fields::{check_labels, check_language, check_name, check_text, check_thresholds},
};

/// First bytes of a delta. The first is no ASCII, so that a transfer as text shows.
const MAGIC: [u8; 4] = [0x9d, b'S', b'W', b'R'];
/// The delta format that is written and read.
pub const DELTA_VERSION: u16 = 2;
/// Largest delta that is read.
pub const MAX_DELTA_BYTES: usize = 16 << 20;

/// Flag: synthetic speech was trained on in place of recordings.
const FLAG_SYNTHETIC: u8 = 1;
pub(super) const SIGNATURE_BYTES: usize = 64;
const CHECKSUM_BYTES: usize = 8;

/// What a delta says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaHeader {
    /// BCP-47 code of the language.
    pub language: String,
    /// Version of the model, free text such as `1.0.0`.
    pub model_version: String,
    /// Labels in the order of the merged network's logits; the last two are `_unknown_` and `_silence_`.
    pub labels: Vec<String>,
    /// Detection threshold of each label, a posterior from 0 to 1.
    pub thresholds: Vec<f32>,
    /// The budget that the change was trained under.
    pub budget: Budget,
    /// Whether synthetic speech was trained on in place of recordings.
    pub synthetic: bool,
    /// Where the change comes from, in at most 4,096 bytes: configuration and seed as JSON, or a sentence.
    pub provenance: String,
}

impl DeltaHeader {
    /// Checks every field against its rule.
    pub(super) fn check(&self) -> Result<(), PackageError> {
        check_language(&self.language)?;
        check_name("model_version", &self.model_version)?;
        check_labels(&self.labels)?;
        check_thresholds(&self.thresholds, self.labels.len())?;
        check_text("provenance", &self.provenance)
    }
}

/// What turns a base into the network of one language; made by [`Delta::build`] or [`Delta::read`] and valid from then on.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    pub(super) header: DeltaHeader,
    pub(super) base: Digest,
    pub(super) merged: Digest,
    pub(super) changes: Vec<Change>,
    pub(super) signature: [u8; SIGNATURE_BYTES],
}

/// Bytes of each part of a delta file; together they are the whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Magic number, version, flags, language, model version, budget and number of changes.
    pub header_bytes: usize,
    /// Where the change comes from.
    pub provenance_bytes: usize,
    /// Labels with their number and lengths.
    pub labels_bytes: usize,
    /// Detection thresholds.
    pub thresholds_bytes: usize,
    /// Digests of base and merged tensors.
    pub digests_bytes: usize,
    /// One entry per changed tensor, the classifier among them.
    pub changes: Vec<ChangeBytes>,
    /// Room for a signature.
    pub signature_bytes: usize,
    /// Checksum over all bytes before it.
    pub checksum_bytes: usize,
}

impl Sizes {
    /// The file's length in bytes.
    pub fn total(&self) -> usize {
        self.header_bytes
            + self.provenance_bytes
            + self.labels_bytes
            + self.thresholds_bytes
            + self.digests_bytes
            + self.changes.iter().map(ChangeBytes::total).sum::<usize>()
            + self.signature_bytes
            + self.checksum_bytes
    }
}

impl Delta {
    /// What the delta says about itself.
    pub fn header(&self) -> &DeltaHeader {
        &self.header
    }

    /// The same change under another header, such as one with calibrated thresholds. The signature is dropped.
    ///
    /// # Errors
    /// [`PackageError::BadField`] for the header, [`PackageError::LabelsDoNotFit`] if it has another number of labels.
    pub fn with_header(self, header: DeltaHeader) -> Result<Self, PackageError> {
        header.check()?;
        if header.labels.len() != self.header.labels.len() {
            return Err(PackageError::LabelsDoNotFit {
                tensor: "classifier".into(),
                labels: header.labels.len(),
                rows: self.header.labels.len(),
            });
        }
        Ok(Self {
            header,
            signature: [0; SIGNATURE_BYTES],
            ..self
        })
    }

    /// Digest of the base's tensors that the delta fits.
    pub fn base_digest(&self) -> Digest {
        self.base
    }

    /// Digest of the tensors that the merge gives.
    pub fn merged_digest(&self) -> Digest {
        self.merged
    }

    /// The changed tensors in the base's name order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Reads a delta from the bytes of its file.
    ///
    /// # Errors
    /// In this order: [`PackageError::TooLarge`], [`PackageError::NotADelta`], [`PackageError::Damaged`] for a wrong checksum,
    /// [`PackageError::UnsupportedVersion`], [`PackageError::UnsupportedFeature`], then
    /// [`PackageError::Damaged`] and [`PackageError::BadField`] for contents that break a rule.
    pub fn read(bytes: &[u8]) -> Result<Self, PackageError> {
        if bytes.len() > MAX_DELTA_BYTES {
            return Err(PackageError::TooLarge {
                what: "the delta, in bytes,",
                found: bytes.len(),
                limit: MAX_DELTA_BYTES,
            });
        }
        if !bytes.starts_with(&MAGIC) {
            return Err(PackageError::NotADelta);
        }
        // Checked before the version: every version ends with this checksum, so that a damaged file is never called a new one.
        let body = unsealed(bytes)?;
        let mut reader = Reader::new(body);
        reader.take(MAGIC.len(), "magic number")?;
        let version = u16::from_le_bytes(reader.array("version")?);
        if version != DELTA_VERSION {
            return Err(PackageError::UnsupportedVersion {
                what: "delta",
                found: version.into(),
                supported: DELTA_VERSION.into(),
            });
        }
        let flags = reader.byte("flags")?;
        if flags & !FLAG_SYNTHETIC != 0 {
            return Err(PackageError::UnsupportedFeature {
                what: "flags",
                found: flags.into(),
            });
        }
        let base = Digest(reader.array("base digest")?);
        let merged = Digest(reader.array("merged digest")?);
        let language = reader.text("language")?;
        let model_version = reader.text("model version")?;
        let budget = reader.text("budget")?.parse()?;
        let provenance = reader.text("provenance")?;
        // A label takes a length byte and a threshold of four bytes.
        let count = reader.count(5, "number of labels")?;
        let mut labels = Vec::with_capacity(count);
        for _ in 0..count {
            labels.push(reader.text("label")?);
        }
        let mut thresholds = Vec::with_capacity(count);
        for _ in 0..count {
            thresholds.push(reader.f32("threshold")?);
        }
        let header = DeltaHeader {
            language,
            model_version,
            labels,
            thresholds,
            budget,
            synthetic: flags & FLAG_SYNTHETIC != 0,
            provenance,
        };
        header.check()?;
        let changes = read_changes(&mut reader)?;
        let signature = reader.array("signature")?;
        if reader.remaining() > 0 {
            return Err(reader.damaged("bytes after the signature"));
        }
        Ok(Self {
            header,
            base,
            merged,
            changes,
            signature,
        })
    }

    /// The bytes of the delta's file; equal deltas give equal bytes.
    pub fn write(&self) -> Vec<u8> {
        self.encode().0
    }

    /// What each part of the file costs.
    pub fn sizes(&self) -> Sizes {
        self.encode().1
    }

    fn encode(&self) -> (Vec<u8>, Sizes) {
        let header = &self.header;
        let mut bytes = Vec::new();
        let mut start = 0;
        let mut written = |bytes: &[u8]| bytes.len() - core::mem::replace(&mut start, bytes.len());

        bytes.extend(MAGIC);
        bytes.extend(DELTA_VERSION.to_le_bytes());
        bytes.push(if header.synthetic { FLAG_SYNTHETIC } else { 0 });
        let mut header_bytes = written(&bytes);
        bytes.extend(self.base.0);
        bytes.extend(self.merged.0);
        let digests_bytes = written(&bytes);
        put_text(&mut bytes, &header.language);
        put_text(&mut bytes, &header.model_version);
        put_text(&mut bytes, &String::from(header.budget.clone()));
        header_bytes += written(&bytes);
        put_text(&mut bytes, &header.provenance);
        let provenance_bytes = written(&bytes);
        put_varint(&mut bytes, header.labels.len() as u32);
        for label in &header.labels {
            put_text(&mut bytes, label);
        }
        let labels_bytes = written(&bytes);
        for threshold in &header.thresholds {
            bytes.extend(threshold.to_le_bytes());
        }
        let thresholds_bytes = written(&bytes);
        put_varint(&mut bytes, self.changes.len() as u32);
        header_bytes += written(&bytes);
        let changes = self
            .changes
            .iter()
            .map(|change| change.write(&mut bytes))
            .collect();
        written(&bytes);
        bytes.extend(self.signature);
        let signature_bytes = written(&bytes);
        let checksum = checksum(&bytes);
        bytes.extend(checksum);
        let checksum_bytes = written(&bytes);
        let sizes = Sizes {
            header_bytes,
            provenance_bytes,
            labels_bytes,
            thresholds_bytes,
            digests_bytes,
            changes,
            signature_bytes,
            checksum_bytes,
        };
        (bytes, sizes)
    }
}

/// The changes with their number in front; tensor indexes ascend.
fn read_changes(reader: &mut Reader<'_>) -> Result<Vec<Change>, PackageError> {
    // Not reserved by the claimed number: a change is larger in memory than its shortest coding in the file.
    let mut changes: Vec<Change> = Vec::new();
    for _ in 0..reader.count(8, "number of changes")? {
        let change = Change::read(reader)?;
        if changes
            .last()
            .is_some_and(|last| last.tensor >= change.tensor)
        {
            return Err(reader.damaged("order of tensors"));
        }
        changes.push(change);
    }
    Ok(changes)
}

/// The first eight bytes of the SHA-256 of `bytes`: against damage, not against forgery.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut first = [0; CHECKSUM_BYTES];
    first.copy_from_slice(&Digest::of_bytes(bytes).0[..CHECKSUM_BYTES]);
    first
}

/// The bytes before the checksum, if it is right.
fn unsealed(bytes: &[u8]) -> Result<&[u8], PackageError> {
    bytes
        .split_last_chunk::<CHECKSUM_BYTES>()
        .filter(|(body, found)| checksum(body) == **found)
        .map(|(body, _)| body)
        .ok_or(PackageError::Damaged {
            what: "checksum",
            offset: bytes.len().saturating_sub(CHECKSUM_BYTES),
        })
}
