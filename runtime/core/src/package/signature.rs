//! Ed25519 signatures of packages in minisign's format: who published a file, told by a public key that a device trusts.
//!
//! A manifest or delta is signed beside it, in a `.minisig` file that the common `minisign` tool makes and checks; a delta can carry the same 64
//! bytes inside, for devices that hold one file per language. What is signed is the BLAKE2b-512 digest of the file's bytes (minisign's
//! pre-hashed form, `ED`), for a delta always of its form without an embedded signature.
//! Formats: <https://jedisct1.github.io/minisign/>. Signing needs a secret key, which only the trainer has.

use alloc::{string::String, vec::Vec};
use core::{fmt, str::FromStr};

use base64ct::{Base64, Encoding};
use blake2::{Blake2b512, Digest as _};
use ed25519_dalek::{Signature, VerifyingKey};

use super::{PackageError, delta::without_signature};

const PUBLIC_KEY: &str = "the public key";
const SIGNATURE: &str = "the signature";
/// Longest key or signature file; a trusted comment of minisign's has at most 8 KiB.
const MAX_TEXT_BYTES: usize = 16 << 10;

/// Tells keys apart; printed as minisign does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

/// A key that signatures are checked with; read from the text of minisign's `.pub` file, or its last line alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    id: KeyId,
    key: VerifyingKey,
}

/// A signature beside a file, as in minisign's `.minisig`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetachedSignature {
    /// The key that made it, by its own account.
    pub key: KeyId,
    /// Ed25519 over the BLAKE2b-512 digest of the file.
    pub signature: [u8; 64],
    /// A comment that is signed too.
    pub trusted_comment: String,
    /// Ed25519 over signature and trusted comment.
    comment_signature: [u8; 64],
}

fn unreadable(what: &'static str, reason: &'static str) -> PackageError {
    PackageError::BadKeyFile { what, reason }
}

/// A line of base64 as exactly `N` bytes.
fn base64<const N: usize>(what: &'static str, line: &str) -> Result<[u8; N], PackageError> {
    let mut bytes = [0; N];
    match Base64::decode(line.trim(), &mut bytes) {
        Ok(read) if read.len() == N => Ok(bytes),
        _ => Err(unreadable(what, "a line is not the base64 it should be")),
    }
}

fn lines(what: &'static str, text: &str) -> Result<Vec<String>, PackageError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(unreadable(what, "it is too long"));
    }
    // Editors leave a mark at the front, other ends of lines, and lines that are blank. What a line holds besides is signed, blanks included.
    let text = text.trim_start_matches('\u{feff}');
    let lines = text.split(['\n', '\r']);
    let written = lines.filter(|line| !line.trim().is_empty());
    Ok(written.map(String::from).collect())
}

impl FromStr for PublicKey {
    type Err = PackageError;

    fn from_str(text: &str) -> Result<Self, PackageError> {
        let lines = lines(PUBLIC_KEY, text)?;
        let line = match lines.as_slice() {
            [key] => key,
            // What stands behind the key is nobody's.
            [comment, key, ..] if comment.starts_with("untrusted comment:") => key,
            _ => {
                return Err(unreadable(
                    PUBLIC_KEY,
                    "expected a comment and a line of base64",
                ));
            }
        };
        let bytes: [u8; 42] = base64(PUBLIC_KEY, line)?;
        let (algorithm, id, key) = split_key(&bytes);
        if algorithm != *b"Ed" {
            return Err(unreadable(PUBLIC_KEY, "it is not for Ed25519"));
        }
        Ok(Self {
            id,
            key: VerifyingKey::from_bytes(&key)
                .map_err(|_| unreadable(PUBLIC_KEY, "it is no point of the curve"))?,
        })
    }
}

fn split_key<const N: usize>(bytes: &[u8]) -> ([u8; 2], KeyId, [u8; N]) {
    let (mut algorithm, mut id, mut rest) = ([0; 2], [0; 8], [0; N]);
    algorithm.copy_from_slice(&bytes[..2]);
    id.copy_from_slice(&bytes[2..10]);
    rest.copy_from_slice(&bytes[10..10 + N]);
    (algorithm, KeyId(id), rest)
}

impl FromStr for DetachedSignature {
    type Err = PackageError;

    fn from_str(text: &str) -> Result<Self, PackageError> {
        let lines = lines(SIGNATURE, text)?;
        let [comment, signature, trusted, comment_signature] = lines.as_slice() else {
            return Err(unreadable(SIGNATURE, "expected four lines"));
        };
        let Some(trusted_comment) = trusted.strip_prefix("trusted comment: ") else {
            return Err(unreadable(SIGNATURE, "it has no trusted comment"));
        };
        if !comment.starts_with("untrusted comment:") {
            return Err(unreadable(SIGNATURE, "it has no untrusted comment"));
        }
        let bytes: [u8; 74] = base64(SIGNATURE, signature)?;
        let (algorithm, key, signature) = split_key(&bytes);
        if algorithm != *b"ED" {
            return Err(unreadable(
                SIGNATURE,
                "it is of the older form, over the file itself; sign without `-l` (minisign), or with `prehash=True` (py-minisign)",
            ));
        }
        Ok(Self {
            key,
            signature,
            trusted_comment: trusted_comment.into(),
            comment_signature: base64(SIGNATURE, comment_signature)?,
        })
    }
}

impl PublicKey {
    /// Tells this key from others.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Checks a signature beside a file: over its bytes, of a delta over those of its form without an embedded signature.
    ///
    /// # Errors
    /// [`PackageError::WrongKey`] if it names another key, [`PackageError::BadSignature`] if this key did not sign these bytes or the comment,
    /// [`PackageError::Damaged`] for a delta whose checksum is wrong.
    pub fn check(&self, file: &[u8], detached: &DetachedSignature) -> Result<(), PackageError> {
        if detached.key != self.id {
            return Err(PackageError::WrongKey {
                expected: self.id,
                found: detached.key,
            });
        }
        match without_signature(file) {
            Ok((delta, _)) => self.check_bytes("the delta", &delta, &detached.signature)?,
            Err(PackageError::NotADelta) => {
                self.check_bytes("the file", file, &detached.signature)?;
            }
            Err(damaged) => return Err(damaged),
        }
        let comment = [&detached.signature, detached.trusted_comment.as_bytes()].concat();
        let signature = Signature::from_bytes(&detached.comment_signature);
        self.key
            .verify_strict(&comment, &signature)
            .map_err(|_| PackageError::BadSignature {
                what: "the trusted comment",
                key: self.id,
            })
    }

    /// Checks the signature embedded in a delta's file.
    ///
    /// # Errors
    /// [`PackageError::NotADelta`] and [`PackageError::Damaged`] for other bytes, [`PackageError::Unsigned`] if there is no signature,
    /// [`PackageError::BadSignature`] if it is not this key's over these contents.
    pub fn check_embedded(&self, delta_file: &[u8]) -> Result<(), PackageError> {
        let (signed, signature) = without_signature(delta_file)?;
        if signature == [0; 64] {
            return Err(PackageError::Unsigned { what: "the delta" });
        }
        self.check_bytes("the delta", &signed, &signature)
    }

    fn check_bytes(
        &self,
        what: &'static str,
        file: &[u8],
        signature: &[u8; 64],
    ) -> Result<(), PackageError> {
        let digest = Blake2b512::digest(file);
        self.key
            .verify_strict(&digest, &Signature::from_bytes(signature))
            .map_err(|_| PackageError::BadSignature { what, key: self.id })
    }
}
