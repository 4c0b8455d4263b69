//! A language's delta: what turns a base into the network of that language, in memory and as the bytes of a `.swr` file.
//! Reading checks the whole file before it returns anything; FORMAT.md describes the layout byte by byte.

use alloc::{format, string::String, vec::Vec};
use core::ops::RangeInclusive;

use super::{
    Budget, Change, ChangeBytes, Digest, Label, PackageError,
    bytes::Fields,
    coder::{Bit, Coder, Number, Reader, Text, Writer},
    coding::Models,
    early,
    fields::{
        MAX_LANGUAGE_BYTES, MAX_TEXT_BYTES, check_language, check_model_version, check_text,
        check_thresholds,
    },
    label,
    manifest::{Calibration, THRESHOLD_BITS},
};

/// First bytes of a delta. The first is no ASCII, so that a transfer as text shows.
const MAGIC: [u8; 4] = [0x9d, b'S', b'W', b'R'];
/// The delta format that is written.
pub const DELTA_VERSION: u16 = 4;
/// The one before it, which is read as well, and written again as it was: its flags are one byte, its thresholds hundredths.
const OLD_DELTA_VERSION: u16 = 3;
/// The ones before that, which are read, and written as the newest.
const EARLY_DELTA_VERSIONS: RangeInclusive<u16> = 1..=2;
/// Largest delta that is read.
pub const MAX_DELTA_BYTES: usize = 16 << 20;

/// Most tensors that a delta changes.
pub(super) const MAX_CHANGES: usize = 4_096;

/// Flag: synthetic speech was trained on in place of recordings.
const FLAG_SYNTHETIC: u16 = 1;
/// Flag: the delta fits the base of one manifest, whose digest it holds.
const FLAG_MANIFEST: u16 = 2;
/// Flag: thresholds were chosen for a rate of false accepts, which the file holds; they are steps of [`Calibration::threshold`].
const FLAG_CALIBRATED: u16 = 4;
/// Flag: audio that took no part in the choice has shown that the rate is kept.
const FLAG_VERIFIED: u16 = 8;
/// Flag: labels that the base has as well are written as its numbers.
const FLAG_LABELS_OF_BASE: u16 = 16;
const OLD_FLAGS: u16 = FLAG_SYNTHETIC | FLAG_MANIFEST | FLAG_CALIBRATED | FLAG_VERIFIED;
const FLAGS: u16 = OLD_FLAGS | FLAG_LABELS_OF_BASE;
pub(super) const SIGNATURE_BYTES: usize = 64;
const CHECKSUM_BYTES: usize = 8;

/// What a delta says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct DeltaHeader {
    /// BCP-47 code of the language; `und` where there is none.
    pub language: String,
    /// Version of the model, from 1; it rises with every release, so that a device can refuse to go back.
    pub model_version: u32,
    /// SHA-256 of the base's manifest file, which names graph, front end and base tensors.
    pub manifest: Option<Digest>,
    /// Labels in the order of the merged network's logits; the last two are `_unknown_` and `_silence_`. None at all in a delta between
    /// networks whose classifier keeps its rows.
    pub labels: Vec<Label>,
    /// Detection threshold of each label, a posterior from 0 to 1.
    pub thresholds: Vec<f32>,
    /// The rate of false accepts that the thresholds were chosen for, if they were.
    pub calibration: Option<Calibration>,
    /// The budget that the change was trained under.
    pub budget: Option<Budget>,
    /// Whether synthetic speech was trained on in place of recordings.
    pub synthetic: bool,
    /// Where the change comes from, in at most 4,096 bytes: configuration and seed as JSON, or a sentence.
    pub provenance: String,
}

impl DeltaHeader {
    /// Checks every field against its rule.
    pub(super) fn check(&self) -> Result<(), PackageError> {
        check_language(&self.language)?;
        check_model_version(self.model_version)?;
        if !self.labels.is_empty() {
            Label::check(&self.labels)?;
        }
        if self.has_labels_of_base() && self.manifest.is_none() {
            return Err(PackageError::BadField {
                field: "labels",
                reason: "keywords of a base, and no digest of its manifest".into(),
            });
        }
        check_thresholds(&self.thresholds, self.labels.len())?;
        if let Some(calibration) = &self.calibration {
            calibration.check(&self.thresholds)?;
        }
        check_text("provenance", &self.provenance)
    }

    /// The labels as texts, over the base with these labels, which is the one that the delta was made for.
    ///
    /// # Errors
    /// [`PackageError::BadField`] for a number that the base does not have, or a text that it has as well.
    pub fn labels_over(&self, base: &[String]) -> Result<Vec<String>, PackageError> {
        Label::texts(&self.labels, base)
    }

    fn has_labels_of_base(&self) -> bool {
        let of_base = |label: &Label| matches!(label, Label::OfBase(_));
        self.labels.iter().any(of_base)
    }
}

/// What turns a base into the network of one language; made by [`Delta::build`] or [`Delta::read`] and valid from then on.
#[derive(Clone, Debug, PartialEq)]
pub struct Delta {
    /// Of the format, the one that it was read in.
    pub(super) version: u16,
    pub(super) header: DeltaHeader,
    pub(super) base: Digest,
    pub(super) merged: Digest,
    pub(super) changes: Vec<Change>,
    pub(super) signature: [u8; SIGNATURE_BYTES],
}

/// Bytes of each part of a delta file; together they are the whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Magic number, version, flags, model version, language, budget and number of changes.
    pub header_bytes: usize,
    /// Where the change comes from.
    pub provenance_bytes: usize,
    /// Labels with their number and lengths.
    pub labels_bytes: usize,
    /// Detection thresholds.
    pub thresholds_bytes: usize,
    /// Digests of base tensors, manifest and merged tensors.
    pub digests_bytes: usize,
    /// One entry per changed tensor, the classifier among them.
    pub changes: Vec<ChangeBytes>,
    /// Embedded signature, or the room for one.
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

    /// Version of the format that the delta was read in, or else [`DELTA_VERSION`].
    pub fn format(&self) -> u16 {
        self.version
    }

    /// The version of the format that it is written in.
    fn written_version(&self) -> u16 {
        match EARLY_DELTA_VERSIONS.contains(&self.version) {
            true => DELTA_VERSION,
            false => self.version,
        }
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
            version: DELTA_VERSION,
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

    /// Refuses the manifest of another base than the one that the delta was made for.
    ///
    /// # Errors
    /// [`PackageError::WrongManifest`] unless `found`, the SHA-256 of the manifest's file, is the digest that the delta names.
    pub fn check_manifest(&self, found: Digest) -> Result<(), PackageError> {
        if self.header.manifest == Some(found) {
            return Ok(());
        }
        Err(PackageError::WrongManifest {
            expected: self.header.manifest,
            found,
        })
    }

    /// Whether an embedded signature is there; whose, only a key can tell ([`PublicKey::check_embedded`](super::PublicKey::check_embedded)).
    pub fn has_signature(&self) -> bool {
        self.signature != [0; SIGNATURE_BYTES]
    }

    /// The delta with an embedded signature, 64 bytes of Ed25519 over [`Delta::write_unsigned`].
    pub fn with_signature(self, signature: [u8; SIGNATURE_BYTES]) -> Self {
        Self {
            version: self.written_version(),
            signature,
            ..self
        }
    }

    /// Reads a delta from the bytes of its file. Reading n bytes takes at most 128 n + 1 MiB of memory, whatever they claim.
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
        let (rest, signature) = split_end(unsealed(bytes)?)?;
        let mut fields = Fields::new(rest);
        let version = version(&mut fields)?;
        if EARLY_DELTA_VERSIONS.contains(&version) {
            return early::read(version, fields, signature);
        }
        if ![OLD_DELTA_VERSION, DELTA_VERSION].contains(&version) {
            return Err(PackageError::UnsupportedVersion {
                what: "delta",
                found: version.into(),
                supported: DELTA_VERSION.into(),
            });
        }
        let flags = match version {
            OLD_DELTA_VERSION => u16::from(fields.take::<1>()?[0]),
            _ => u16::from_le_bytes(fields.take()?),
        };
        let verified = flags & FLAG_VERIFIED != 0;
        let known = match version {
            OLD_DELTA_VERSION => OLD_FLAGS,
            _ => FLAGS,
        };
        if flags & !known != 0 || (verified && flags & FLAG_CALIBRATED == 0) {
            return Err(PackageError::UnsupportedFeature {
                what: "flags",
                found: flags.into(),
            });
        }
        let model_version = u32::from_le_bytes(fields.take()?);
        let calibration = match flags & FLAG_CALIBRATED {
            0 => None,
            _ => Some(Calibration {
                false_accepts_per_hour: f32::from_le_bytes(fields.take()?),
                verified,
            }),
        };
        let base = fields.digest()?;
        let manifest = match flags & FLAG_MANIFEST {
            0 => None,
            _ => Some(fields.digest()?),
        };
        let merged = fields.digest()?;
        let mut reader = Reader::new(fields.rest, fields.offset);
        let labels_of_base = flags & FLAG_LABELS_OF_BASE != 0;
        let said = (calibration, labels_of_base);
        let (header, changes) = code(&mut reader, None, said, &mut |_, _| {})?;
        if header.has_labels_of_base() != labels_of_base {
            return Err(reader.damaged("labels of the base, of which there is none"));
        }
        reader.finish()?;
        let header = DeltaHeader {
            model_version,
            manifest,
            synthetic: flags & FLAG_SYNTHETIC != 0,
            ..header
        };
        header.check()?;
        Ok(Self {
            version,
            header,
            base,
            merged,
            changes,
            signature,
        })
    }

    /// The bytes of the delta's file; equal deltas give equal bytes. One that was read in version 3 is written in it, any other in [`DELTA_VERSION`].
    pub fn write(&self) -> Vec<u8> {
        self.encode().0
    }

    /// The bytes of the file without an embedded signature: what is signed.
    pub fn write_unsigned(&self) -> Vec<u8> {
        sealed(self.encode_body().0, [0; SIGNATURE_BYTES])
    }

    /// What each part of the file costs, as [`Delta::write`] writes it.
    pub fn sizes(&self) -> Sizes {
        self.encode().1
    }

    fn encode(&self) -> (Vec<u8>, Sizes) {
        let (body, sizes) = self.encode_body();
        (sealed(body, self.signature), sizes)
    }

    /// All but signature and checksum.
    fn encode_body(&self) -> (Vec<u8>, Sizes) {
        let header = &self.header;
        let mut bytes = Vec::new();
        bytes.extend(MAGIC);
        let version = self.written_version();
        bytes.extend(version.to_le_bytes());
        let verified = header.calibration.is_some_and(|c| c.verified);
        let flags = [
            (FLAG_SYNTHETIC, header.synthetic),
            (FLAG_MANIFEST, header.manifest.is_some()),
            (FLAG_CALIBRATED, header.calibration.is_some()),
            (FLAG_VERIFIED, verified),
            (FLAG_LABELS_OF_BASE, header.has_labels_of_base()),
        ];
        let set = flags.iter().filter(|(_, set)| *set);
        let flags: u16 = set.map(|(flag, _)| flag).sum();
        let flag_bytes = match version {
            OLD_DELTA_VERSION => 1,
            _ => 2,
        };
        bytes.extend(&flags.to_le_bytes()[..flag_bytes]);
        bytes.extend(header.model_version.to_le_bytes());
        if let Some(calibration) = &header.calibration {
            bytes.extend(calibration.false_accepts_per_hour.to_le_bytes());
        }
        let plain_header_bytes = bytes.len();
        bytes.extend(self.base.0);
        if let Some(manifest) = header.manifest {
            bytes.extend(manifest.0);
        }
        bytes.extend(self.merged.0);
        let digests_bytes = bytes.len() - plain_header_bytes;

        let mut writer = Writer::new();
        let mut ends = Vec::new();
        let given = Some((header, self.changes.as_slice()));
        code(
            &mut writer,
            given,
            (header.calibration, header.has_labels_of_base()),
            &mut |writer: &Writer, part| {
                ends.push((part, writer.bits()));
            },
        )
        .expect("a writer refuses nothing");
        let coded = writer.finish();
        let mut sizes = Sizes {
            header_bytes: plain_header_bytes,
            provenance_bytes: 0,
            labels_bytes: 0,
            thresholds_bytes: 0,
            digests_bytes,
            changes: self
                .changes
                .iter()
                .map(|change| ChangeBytes {
                    tensor: change.tensor,
                    frame_bytes: 0,
                    positions_bytes: 0,
                    values_bytes: 0,
                })
                .collect(),
            signature_bytes: SIGNATURE_BYTES,
            checksum_bytes: CHECKSUM_BYTES,
        };
        // The coder's output has no borders at bytes: a part ends at the byte that its last bit is in.
        let (mut start, last) = (0, ends.len() - 1);
        for (place, (part, bits)) in ends.into_iter().enumerate() {
            let end = if place == last {
                coded.len()
            } else {
                (bits / 8).min(coded.len())
            };
            let part = match part {
                Part::Header => &mut sizes.header_bytes,
                Part::Provenance => &mut sizes.provenance_bytes,
                Part::Labels => &mut sizes.labels_bytes,
                Part::Thresholds => &mut sizes.thresholds_bytes,
                Part::Frame(change) => &mut sizes.changes[change].frame_bytes,
                Part::Positions(change) => &mut sizes.changes[change].positions_bytes,
                Part::Values(change) => &mut sizes.changes[change].values_bytes,
            };
            *part += end.saturating_sub(start);
            start = start.max(end);
        }
        bytes.extend(coded);
        (bytes, sizes)
    }
}

/// What of the coded part has just been coded.
enum Part {
    Header,
    Provenance,
    Labels,
    Thresholds,
    Frame(usize),
    Positions(usize),
    Values(usize),
}

/// The coded part of a delta in either direction: a writer is given header and changes, a reader nothing, and both what the flags say of calibration and of
/// labels of the base. `part` is called after each part.
fn code<C: Coder>(
    coder: &mut C,
    given: Option<(&DeltaHeader, &[Change])>,
    (calibration, labels_of_base): (Option<Calibration>, bool),
    part: &mut dyn FnMut(&C, Part),
) -> Result<(DeltaHeader, Vec<Change>), PackageError> {
    let (header, given_changes) = given.unzip();
    let given_changes = given_changes.unwrap_or_default();
    let (mut text, mut counts) = (Text::new(), Number::NEW);

    let language = header.map_or("", |header| &header.language);
    let language = coder.text(&mut text, MAX_LANGUAGE_BYTES, "language", language)?;
    let budget = header.and_then(|header| header.budget.clone());
    let budget = budget.map_or_else(String::new, String::from);
    let budget = coder.text(&mut text, MAX_TEXT_BYTES, "budget", &budget)?;
    let budget = if budget.is_empty() {
        None
    } else {
        Some(budget.parse()?)
    };
    part(coder, Part::Header);
    let provenance = header.map_or("", |header| &header.provenance);
    let provenance = coder.text(&mut text, MAX_TEXT_BYTES, "provenance", provenance)?;
    part(coder, Part::Provenance);

    let given_labels = header.map_or([].as_slice(), |header| &header.labels);
    let labels = label::code(coder, &mut text, &mut counts, labels_of_base, given_labels)?;
    part(coder, Part::Labels);

    let given_thresholds = header.map_or([].as_slice(), |header| &header.thresholds);
    let (mut as_before, mut before, mut thresholds) = (Bit::NEW, 0f32, Vec::new());
    let mut steps = [Bit::NEW; 1 << THRESHOLD_BITS];
    for place in 0..labels.len() {
        let threshold = given_thresholds.get(place).copied().unwrap_or_default();
        if calibration.is_some() {
            let step = coder.tree(&mut steps, THRESHOLD_BITS, Calibration::step(threshold))?;
            before = Calibration::threshold(step);
        } else if !coder.bit(&mut as_before, threshold.to_bits() == before.to_bits())? {
            before = f32::from_bits(coder.raw(32, threshold.to_bits())?);
        }
        thresholds.push(before);
    }
    part(coder, Part::Thresholds);

    let count = coder.number(&mut counts, given_changes.len() as u32)? as usize;
    if count > MAX_CHANGES {
        return Err(coder.damaged("number of changes"));
    }
    part(coder, Part::Header);
    let (mut changes, mut models, mut next) = (Vec::new(), Models::new(), 0);
    for place in 0..count {
        let given = given_changes.get(place);
        let change = Change::code(coder, &mut models, next, given, &mut |coder, ended| {
            let ended = [Part::Frame, Part::Positions, Part::Values][ended](place);
            part(coder, ended);
        })?;
        next = change.tensor + 1;
        changes.push(change);
    }
    let header = DeltaHeader {
        language,
        model_version: 0,
        manifest: None,
        labels,
        thresholds,
        calibration,
        budget,
        synthetic: false,
        provenance,
    };
    Ok((header, changes))
}

/// The first eight bytes of the SHA-256 of `bytes`: against damage, not against forgery.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut first = [0; CHECKSUM_BYTES];
    first.copy_from_slice(&Digest::of_bytes(bytes).0[..CHECKSUM_BYTES]);
    first
}

/// `body` with signature and checksum.
fn sealed(mut body: Vec<u8>, signature: [u8; SIGNATURE_BYTES]) -> Vec<u8> {
    body.extend(signature);
    let checksum = checksum(&body);
    body.extend(checksum);
    body
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

/// The magic number, which the caller has looked at, and the version behind it.
fn version(fields: &mut Fields<'_>) -> Result<u16, PackageError> {
    fields.take::<{ MAGIC.len() }>()?;
    Ok(u16::from_le_bytes(fields.take()?))
}

/// The bytes before the signature, and the signature.
fn split_end(body: &[u8]) -> Result<(&[u8], [u8; SIGNATURE_BYTES]), PackageError> {
    body.split_last_chunk::<SIGNATURE_BYTES>()
        .map(|(body, signature)| (body, *signature))
        .ok_or(PackageError::Damaged {
            what: "the end of the file",
            offset: body.len(),
        })
}

/// A delta's file with another embedded signature: 64 bytes of Ed25519 over its form without one. All else stays byte for byte.
///
/// # Errors
/// [`PackageError::NotADelta`] and [`PackageError::Damaged`] for other bytes, [`PackageError::BadField`] for a delta of versions 1 and 2.
pub fn embed_signature(
    file: &[u8],
    signature: [u8; SIGNATURE_BYTES],
) -> Result<Vec<u8>, PackageError> {
    if !file.starts_with(&MAGIC) {
        return Err(PackageError::NotADelta);
    }
    let (body, _) = split_end(unsealed(file)?)?;
    let version = version(&mut Fields::new(body))?;
    if EARLY_DELTA_VERSIONS.contains(&version) {
        return Err(PackageError::BadField {
            field: "signature",
            reason: format!(
                "a delta of version {version} has none in it; keep the .minisig beside the file"
            ),
        });
    }
    Ok(sealed(body.to_vec(), signature))
}

/// A delta file's signature, and the same file without it: what was signed. Only ends and lengths are looked at.
pub(super) fn without_signature(
    bytes: &[u8],
) -> Result<(Vec<u8>, [u8; SIGNATURE_BYTES]), PackageError> {
    if !bytes.starts_with(&MAGIC) {
        return Err(PackageError::NotADelta);
    }
    let (body, signature) = split_end(unsealed(bytes)?)?;
    Ok((sealed(body.to_vec(), [0; SIGNATURE_BYTES]), signature))
}
