//! Who makes releases in the simulator: the project's models, signed with a key of the simulator's own, and further versions of them, good and bad.
//! Everything is drawn from numbers, so that a release has the same bytes in every run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use base64ct::{Base64, Encoding};
use blake2::{Blake2b512, Digest as _};
use ed25519_dalek::{Signer, SigningKey};
use swr_core::golden::Golden;
use swr_core::network::graph::streaming_graph;
use swr_core::package::{
    Delta, DeltaHeader, Digest, Entry, IndexedFile, MAX_QUANTISED_BITS, Manifest, Precision,
    PublicKey, Steps, Tensors, digest, embed_signature, merge, onnx::initializers,
};

/// The version of the models as the project ships them.
pub const SHIPPED: u32 = 3;

/// A pair of keys.
pub struct Publisher {
    key: SigningKey,
    id: [u8; 8],
}

impl Publisher {
    /// The keys of this number.
    pub fn new(number: u8) -> Self {
        Self {
            key: SigningKey::from_bytes(&[number; 32]),
            id: [number; 8],
        }
    }

    /// What devices trust.
    pub fn public_key(&self) -> Result<PublicKey> {
        let public = self.key.verifying_key();
        let bytes = [b"Ed".as_slice(), &self.id, public.as_bytes()].concat();
        Ok(Base64::encode_string(&bytes).parse()?)
    }

    /// 64 bytes over the file's BLAKE2b-512.
    fn sign(&self, file: &[u8]) -> [u8; 64] {
        self.key.sign(&Blake2b512::digest(file)).to_bytes()
    }

    /// A `.minisig`.
    fn detached(&self, file: &[u8]) -> Vec<u8> {
        let signature = self.sign(file);
        let comment = "simulated";
        let global = self
            .key
            .sign(&[&signature[..], comment.as_bytes()].concat())
            .to_bytes();
        let line = [b"ED".as_slice(), &self.id, &signature].concat();
        format!(
            "untrusted comment: simulated\n{}\ntrusted comment: {comment}\n{}\n",
            Base64::encode_string(&line),
            Base64::encode_string(&global)
        )
        .into_bytes()
    }
}

/// What is wrong with a release, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flaw {
    /// Nothing.
    None,
    /// Signed and whole, but its classes are in another order than its labels.
    Deaf,
    /// Nothing, but that it is made for a base of which [`Flaw::Deaf`] is true.
    ForDeaf,
    /// Signed and whole, but it stops the device that runs it.
    Crashes,
    /// Without signatures.
    Unsigned,
    /// Signed with a key that the device does not trust.
    OtherKey,
    /// A byte changed after signing; the index names the changed file.
    Altered,
    /// A delta for another base.
    OtherBase,
    /// The index does not name the file's digest.
    OtherContents,
}

/// A language at a version, on a base of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Item<'a> {
    /// BCP-47 code.
    pub language: &'a str,
    /// Its model version; that of the base, if it is the base's language.
    pub version: u32,
    /// Version of the base that it is made for.
    pub base: u32,
    /// What is wrong with it.
    pub flaw: Flaw,
}

impl<'a> Item<'a> {
    /// A language, for the base that is shipped, with nothing wrong.
    pub const fn good(language: &'a str, version: u32) -> Self {
        Self {
            language,
            version,
            base: SHIPPED,
            flaw: Flaw::None,
        }
    }
}

/// An item as it is sent to a device.
#[derive(Clone, Debug)]
pub struct Package {
    /// What the index says.
    pub entry: Entry,
    /// The files, one behind the other.
    pub bytes: Vec<u8>,
    /// Names and contents of the files.
    pub files: Vec<(String, Vec<u8>)>,
    /// Digest of the tensors that a device runs once it has it.
    pub tensors_sha256: Digest,
}

impl Package {
    /// A file's contents.
    ///
    /// # Errors
    /// If there is no file of this name.
    pub fn file(&self, name: &str) -> Result<&[u8]> {
        let mut files = self.files.iter();
        let found = files.find(|(there, _)| there == name);
        let (_, bytes) = found.with_context(|| format!("{name}: not in the package"))?;
        Ok(bytes)
    }
}

/// The project's models, and packages made of them.
pub struct Catalogue {
    models: PathBuf,
    base: Tensors,
    manifest: Manifest,
    manifest_bytes: Vec<u8>,
    onnx: Vec<u8>,
    trusted: Publisher,
    stranger: Publisher,
}

impl Catalogue {
    /// Reads the base of a folder of models, which must have golden clips.
    pub fn open(models: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = models.join(name);
            std::fs::read(&path).with_context(|| {
                format!(
                    "{}: cannot be read; give a folder with base, deltas and golden clips by --models",
                    path.display()
                )
            })
        };
        let (manifest_bytes, onnx) = (read("base.json")?, read("base.onnx")?);
        Ok(Self {
            models: models.into(),
            base: initializers(&onnx)?,
            manifest: Manifest::parse(&manifest_bytes)?,
            manifest_bytes,
            onnx,
            trusted: Publisher::new(1),
            stranger: Publisher::new(2),
        })
    }

    /// The key that devices trust.
    pub fn public_key(&self) -> Result<PublicKey> {
        self.trusted.public_key()
    }

    /// The folder.
    pub fn models(&self) -> &Path {
        &self.models
    }

    /// Language of the base.
    pub fn base_language(&self) -> &str {
        &self.manifest.language
    }

    /// Every language of the folder, the base's first.
    pub fn languages(&self) -> Result<Vec<String>> {
        let mut languages = Vec::new();
        for entry in std::fs::read_dir(&self.models)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "swr") {
                let stem = path.file_stem().unwrap_or_default();
                languages.push(stem.to_string_lossy().into_owned());
            }
        }
        languages.sort();
        languages.insert(0, self.manifest.language.clone());
        Ok(languages)
    }

    /// An item, signed.
    pub fn package(&self, item: Item<'_>) -> Result<Package> {
        let named = || format!("{} {} on base {}", item.language, item.version, item.base);
        if item.language == self.manifest.language {
            self.base_package(item).with_context(named)
        } else {
            self.delta_package(item).with_context(named)
        }
    }

    /// Tensors of the base at a version: beyond the one that is shipped, a weight differs by little.
    fn base_tensors(&self, version: u32, deaf: bool) -> Tensors {
        let mut tensors = self.base.clone();
        if version != SHIPPED
            && let Some(tensor) = tensors.get_mut("head.conv.weight")
        {
            tensor.data[0] += 1e-4 * version as f32;
        }
        if deaf {
            deafen(&mut tensors);
        }
        tensors
    }

    /// Manifest and network of the base at a version.
    fn base_files(&self, version: u32, deaf: bool) -> Result<(Vec<u8>, Vec<u8>)> {
        if version == SHIPPED && !deaf {
            return Ok((self.manifest_bytes.clone(), self.onnx.clone()));
        }
        let tensors = self.base_tensors(version, deaf);
        let onnx = streaming_graph(1.0, &tensors)?;
        let manifest = Manifest {
            model_version: version,
            tensors_sha256: digest(&tensors),
            onnx_sha256: Digest::of_bytes(&onnx),
            ..self.manifest.clone()
        };
        Ok((manifest.to_json()?.into_bytes(), onnx))
    }

    fn base_package(&self, item: Item<'_>) -> Result<Package> {
        let (manifest, onnx) = self.base_files(item.version, item.flaw == Flaw::Deaf)?;
        let tensors_sha256 = Manifest::parse(&manifest)?.tensors_sha256;
        let files = vec![
            ("base.json".to_owned(), manifest),
            ("base.onnx".to_owned(), onnx),
            ("base.golden".to_owned(), self.golden("base", item)?),
        ];
        self.signed(item, files, tensors_sha256)
    }

    fn golden(&self, name: &str, item: Item<'_>) -> Result<Vec<u8>> {
        let path = self.models.join(format!("{name}.golden"));
        let bytes = std::fs::read(&path).with_context(|| {
            format!(
                "{}: cannot be read; make it with `swr-train golden`",
                path.display()
            )
        })?;
        let golden = Golden::read(&bytes)?;
        ensure!(
            golden.language == item.language,
            "{}: of another language",
            path.display()
        );
        Ok(bytes)
    }

    fn delta_package(&self, item: Item<'_>) -> Result<Package> {
        let path = self.models.join(format!("{}.swr", item.language));
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        let shipped = Delta::read(&bytes)?;
        let made_for = match item.flaw {
            Flaw::OtherBase => item.base + 100,
            _ => item.base,
        };
        let for_deaf = item.flaw == Flaw::ForDeaf;
        let plain = item.version == SHIPPED && made_for == SHIPPED && item.flaw != Flaw::Deaf;
        let delta = if plain {
            shipped
        } else {
            let mut tuned = merge(&self.base, &shipped)?;
            if let Some(tensor) = tuned.get_mut("classifier.bias") {
                tensor.data[0] += 4e-3 * item.version as f32;
            }
            if item.flaw == Flaw::Deaf {
                deafen(&mut tuned);
            }
            let header = DeltaHeader {
                model_version: item.version,
                manifest: Some(Digest::of_bytes(&self.base_files(made_for, for_deaf)?.0)),
                ..shipped.header().clone()
            };
            // Finer where versions differ, so that each has tensors of its own.
            let precision = |name: &str| match name {
                "classifier.bias" => Precision::Rounded,
                _ => Precision::Quantised(MAX_QUANTISED_BITS, Steps::Even),
            };
            Delta::build_by(
                &self.base_tensors(made_for, for_deaf),
                &tuned,
                header,
                &precision,
            )?
        };
        let tensors_sha256 = delta.merged_digest();
        let files = vec![
            (format!("{}.swr", item.language), delta.write_unsigned()),
            (
                format!("{}.golden", item.language),
                self.golden(item.language, item)?,
            ),
        ];
        self.signed(item, files, tensors_sha256)
    }

    /// Adds signatures: into deltas, beside manifests and golden clips.
    fn signed(
        &self,
        item: Item<'_>,
        files: Vec<(String, Vec<u8>)>,
        tensors_sha256: Digest,
    ) -> Result<Package> {
        let publisher = match item.flaw {
            Flaw::OtherKey => &self.stranger,
            _ => &self.trusted,
        };
        let mut signed = Vec::new();
        for (name, bytes) in files {
            if item.flaw == Flaw::Unsigned || name.ends_with(".onnx") {
                signed.push((name, bytes));
            } else if name.ends_with(".swr") {
                let signature = publisher.sign(&bytes);
                signed.push((name, embed_signature(&bytes, signature)?));
            } else {
                let signature = publisher.detached(&bytes);
                signed.push((format!("{name}.minisig"), signature));
                signed.push((name, bytes));
            }
        }
        if item.flaw == Flaw::Altered
            && let Some((_, bytes)) = signed
                .iter_mut()
                .find(|(name, _)| name.ends_with(".swr") || name.ends_with(".onnx"))
        {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        }
        let indexed = |(name, bytes): &(String, Vec<u8>)| IndexedFile {
            name: name.clone(),
            bytes: bytes.len() as u64,
            sha256: match item.flaw {
                Flaw::OtherContents => Digest::of_bytes(name.as_bytes()),
                _ => Digest::of_bytes(bytes),
            },
        };
        Ok(Package {
            entry: Entry {
                language: item.language.into(),
                model_version: item.version,
                files: signed.iter().map(indexed).collect(),
            },
            bytes: signed.iter().flat_map(|(_, bytes)| bytes.clone()).collect(),
            files: signed,
            tensors_sha256,
        })
    }
}

/// Moves every class's weights to the label after it.
fn deafen(tensors: &mut Tensors) {
    for (name, tensor) in tensors.iter_mut() {
        if name.starts_with("classifier.") {
            let row = tensor.data.len() / tensor.rows();
            tensor.data.rotate_right(row);
        }
    }
}

/// Packages by item, each made once.
pub struct Packages {
    made: BTreeMap<Item<'static>, Package>,
}

impl Packages {
    /// Makes every item of `items`.
    pub fn new(catalogue: &Catalogue, items: impl Iterator<Item = Item<'static>>) -> Result<Self> {
        let mut made = BTreeMap::new();
        for item in items.collect::<BTreeSet<_>>() {
            made.insert(item, catalogue.package(item)?);
        }
        // What runs is told by its digest.
        for (item, package) in &made {
            let twin = made.iter().find(|(other, there)| {
                other.language == item.language
                    && (other.version, other.base) != (item.version, item.base)
                    && there.tensors_sha256 == package.tensors_sha256
            });
            if let Some((twin, _)) = twin {
                bail!("{item:?} and {twin:?} cannot be told apart: their tensors are equal");
            }
        }
        Ok(Self { made })
    }

    /// One of the items that these were made of.
    ///
    /// # Panics
    /// For another item: scenarios name all that they use.
    pub fn get(&self, item: &Item<'static>) -> &Package {
        &self.made[item]
    }

    /// All packages of a language.
    pub fn of(&self, language: &str) -> impl Iterator<Item = &Package> {
        let made = self.made.iter();
        made.filter(move |(item, _)| item.language == language)
            .map(|(_, package)| package)
    }

    /// Digests of models that stop a device which runs them.
    pub fn crashing(&self) -> Vec<Digest> {
        let crashing = self
            .made
            .iter()
            .filter(|(item, _)| item.flaw == Flaw::Crashes);
        crashing
            .map(|(_, package)| package.tensors_sha256)
            .collect()
    }
}
