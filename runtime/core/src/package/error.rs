//! What can be wrong with a package: one variant per mistake, each saying what was found, what was expected and what to do.

use alloc::string::String;

use super::{Digest, signature::KeyId};

/// Why a manifest, a delta, an ONNX file or a merge was refused. Nothing is half done when it is returned.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PackageError {
    /// The file does not begin with the delta's magic number.
    #[error(
        "not a delta: the file does not begin with the delta's magic number; give the .swr file of a language"
    )]
    NotADelta,
    /// The file does not begin with a golden clip's magic number.
    #[error(
        "not a golden clip: the file does not begin with its magic number; make it with `swr-train golden`"
    )]
    NotAGolden,
    /// The golden clip was run, and the network did not hear what it must.
    #[error(
        "the golden clip of `{language}` says {expected:?}, expected with a posterior of at least {least:.2}, heard was {heard}; the model does not work here, stay with the one before and tell its publisher"
    )]
    Golden {
        /// The clip's language.
        language: String,
        /// The keyword spoken.
        expected: String,
        /// The posterior asked for.
        least: f32,
        /// What came out instead.
        heard: String,
    },
    /// The file is whole, but of a format version that this program does not read.
    #[error(
        "the {what} has format version {found}, this program reads version {supported}; {}",
        advice(*found, *supported)
    )]
    UnsupportedVersion {
        /// `"delta"`, `"manifest"`, `"index"` or `"golden clip"`.
        what: &'static str,
        /// Version in the file.
        found: u32,
        /// The version that is read.
        supported: u32,
    },
    /// The file is whole and of a known version, but uses something that this program does not know.
    #[error("the delta uses {what} {found}, which this program does not know; update it")]
    UnsupportedFeature {
        /// What the number stands for, such as `"change kind"`.
        what: &'static str,
        /// The number.
        found: u32,
    },
    /// The base needs something that this program does not know.
    #[error("the base needs {feature}, which this program does not know; update it")]
    UnknownNeed {
        /// The name in its manifest, as JSON.
        feature: String,
    },
    /// Bytes are missing, altered or contradict one another.
    #[error("damaged file: {what} at byte {offset}; copy or make the file again")]
    Damaged {
        /// What does not hold.
        what: &'static str,
        /// Where it was noticed, in bytes from the start of the file.
        offset: usize,
    },
    /// Larger than this program is willing to hold in memory.
    #[error(
        "{what} is too large: {found}, at most {limit} are read; check that this is the right file"
    )]
    TooLarge {
        /// What is counted, with its unit.
        what: &'static str,
        /// The number found.
        found: usize,
        /// The largest accepted.
        limit: usize,
    },
    /// The delta was made for other base weights.
    #[error(
        "wrong base: the delta fits the base with tensor digest {expected}, this base has {found}; use the base that the delta was made from, or make the delta again"
    )]
    WrongBase {
        /// Digest of the base that the delta was made from.
        expected: Digest,
        /// Digest of the base given.
        found: Digest,
    },
    /// The delta was made for a base with another manifest.
    #[error(
        "wrong base: the delta fits the manifest with SHA-256 {}, this one has {found}; use base.json and base.onnx of the delta's release",
        expected.map_or_else(|| "none".into(), |digest| alloc::string::ToString::to_string(&digest))
    )]
    WrongManifest {
        /// Digest of the manifest that the delta was made with, if it names any.
        expected: Option<Digest>,
        /// Digest of the manifest given.
        found: Digest,
    },
    /// A signature is required, and there is none.
    #[error(
        "unsigned: {what} carries no signature, and one is required; get a signed file from the publisher, or sign it with `swr-train sign`"
    )]
    Unsigned {
        /// What should be signed.
        what: &'static str,
    },
    /// The signature names another key than the ones that are trusted.
    #[error(
        "wrong key: the signature was made with the key {found}, trusted is {expected}; give the publisher's public key with --key, or get the file from its publisher"
    )]
    WrongKey {
        /// Identifier of the trusted key.
        expected: KeyId,
        /// Identifier in the signature.
        found: KeyId,
    },
    /// The signature does not belong to these contents under this key.
    #[error(
        "bad signature: {what} is not what the key {key} signed; it was altered after signing, or signed with another key; get the file from its publisher again"
    )]
    BadSignature {
        /// What is signed.
        what: &'static str,
        /// Identifier of the key that was tried.
        key: KeyId,
    },
    /// A public key or signature is not in minisign's format.
    #[error("{what} cannot be read: {reason}; give a file made by minisign or `swr-train`")]
    BadKeyFile {
        /// `"the public key"` or `"the signature"`.
        what: &'static str,
        /// Which part does not hold.
        reason: &'static str,
    },
    /// Older than what is installed.
    #[error(
        "too old: model version {found} is older than the installed {installed}; get the newer file, or remove the installed one first"
    )]
    TooOld {
        /// Version in the file.
        found: u32,
        /// Version that is there.
        installed: u32,
    },
    /// The merge ran, but its result is not the one that the delta promises.
    #[error(
        "the merged tensors have digest {found}, the delta promises {expected}; the delta was not made by this project's trainer or was altered, make it again"
    )]
    WrongResult {
        /// Digest that the delta promises.
        expected: Digest,
        /// Digest of what the merge gave.
        found: Digest,
    },
    /// The classifier has another number of rows than there are labels.
    #[error(
        "labels do not fit: {labels} labels, but the classifier tensor {tensor} has {rows} rows; use the label list that the classifier was trained with"
    )]
    LabelsDoNotFit {
        /// Name of the classifier tensor.
        tensor: String,
        /// Number of labels.
        labels: usize,
        /// Number of rows, the tensor's first dimension.
        rows: usize,
    },
    /// A change names a tensor that the base does not have.
    #[error(
        "the delta changes tensor number {index}, the base has {tensors}; make the delta again"
    )]
    NoSuchTensor {
        /// Index in the base's name order, from 0.
        index: usize,
        /// Number of tensors of the base.
        tensors: usize,
    },
    /// A tensor, a change or a pair of tensors that must fit does not.
    #[error("tensor {tensor}: {what}: expected {expected}, found {found}; {advice}")]
    DoesNotFit {
        /// Name of the tensor.
        tensor: String,
        /// What was compared, such as `"shape"`.
        what: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
        /// What to do next.
        advice: &'static str,
    },
    /// A weight is infinite or not a number.
    #[error("tensor {tensor}: a weight is not finite; train again with a lower learning rate")]
    NotFinite {
        /// Name of the tensor.
        tensor: String,
    },
    /// A field of a manifest or of a delta's header breaks its rule.
    #[error("field {field}: {reason}")]
    BadField {
        /// Name of the field.
        field: &'static str,
        /// Which rule was broken, and by what.
        reason: String,
    },
    /// The manifest is not the JSON object that it must be.
    #[error("the manifest cannot be read: {reason}; give the base's .json file")]
    BadManifest {
        /// What the JSON reader says, with line and column.
        reason: String,
    },
    /// The index of a release is not the JSON object that it must be.
    #[error("the index cannot be read: {reason}; give a folder or address that holds index.json")]
    BadIndex {
        /// What the JSON reader says, with line and column.
        reason: String,
    },
    /// The front-end settings are not those that this program reproduces.
    #[error(
        "the base needs other front-end settings than this program has: {reason}; update the program"
    )]
    UnknownFrontend {
        /// Which setting, or both sets of settings.
        reason: String,
    },
    /// The ONNX file cannot be used.
    #[error("the onnx file cannot be used: {reason}")]
    BadOnnx {
        /// What is wrong, with the tensor's name where there is one.
        reason: String,
    },
    /// A budget that cannot be read.
    #[error(
        "budget {typed:?}: {reason}; write 10% (of the convolution weights), 10%all (of all weights) or 4000B (bytes of the whole file)"
    )]
    BadBudget {
        /// The text given.
        typed: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A digest that is not 64 hexadecimal digits.
    #[error("digest {typed:?}: expected 64 hexadecimal digits")]
    BadDigest {
        /// The text given.
        typed: String,
    },
}

fn advice(found: u32, supported: u32) -> &'static str {
    if found > supported {
        "update the program"
    } else {
        "make the file again with the present trainer"
    }
}
