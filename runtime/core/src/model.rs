//! A verified model: the bytes of a base become a [`Base`], those of a delta a [`Language`] with its merged tensors.
//!
//! The only place where signatures, digests, versions and names are judged, for every program: who reads files or flash gives bytes, and
//! tells by [`ModelError::part`] which of them was refused. Nothing is run here.

use alloc::{borrow::Cow, boxed::Box, string::String, sync::Arc, vec::Vec};

use crate::detector::DetectorSettings;
use crate::golden::Golden;
use crate::package::{
    Delta, DetachedSignature, Digest, Manifest, PackageError, PublicKey, Tensors, digest, merge,
    onnx::initializers,
};
use crate::settings::FrontendSettings;

/// A file of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The base's manifest, `base.json`.
    Manifest,
    /// The base's network, `base.onnx`; the manifest's digests vouch for it.
    Network,
    /// A language's delta, `<language>.swr`.
    Delta,
    /// A language's golden clip.
    Golden,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Manifest => "the manifest",
            Part::Network => "the network",
            Part::Delta => "the delta",
            Part::Golden => "the golden clip",
        }
    }
}

/// A file's bytes, and those of the minisign signature beside it. No bytes are as good as no signature; a delta may carry its own.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The file.
    pub file: &'a [u8],
    /// The text of its `.minisig`.
    pub signature: Option<&'a [u8]>,
}

/// Whose files are taken.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Anyone's: signatures are not looked at.
    Anyone,
    /// Those that the owner of one of these keys signed.
    Only(&'a [PublicKey]),
}

/// Why a model was refused. Nothing is half done when it is returned.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ModelError {
    /// A file that its reader refuses, or that is not signed as it must be.
    #[error("{source}")]
    Package {
        /// Which file.
        part: Part,
        /// Why.
        source: Box<PackageError>,
    },
    /// The signature beside a file is none.
    #[error("{source}")]
    Signature {
        /// The file that it lies beside.
        part: Part,
        /// Why.
        source: Box<PackageError>,
    },
    /// The network is not the one that the manifest describes.
    #[error(
        "the network's {what} has digest {found}, the manifest promises {expected}; copy both files from the same release"
    )]
    WrongNetwork {
        /// What was digested: `"content"` or `"tensors"`.
        what: &'static str,
        /// Digest in the manifest.
        expected: Digest,
        /// Digest of the file.
        found: Digest,
    },
    /// A file of another language than the one asked for.
    #[error(
        "{} is of the language \"{found}\", expected \"{expected}\"; get the language's own file",
        part.name()
    )]
    WrongLanguage {
        /// Which file.
        part: Part,
        /// The language asked for.
        expected: String,
        /// The file's.
        found: String,
    },
    /// The delta changes weights, but names no labels.
    #[error("the delta names no labels, so that nothing can be spotted with it")]
    NoLabels,
}

impl ModelError {
    /// The file that was refused.
    pub fn part(&self) -> Part {
        match self {
            Self::Package { part, .. }
            | Self::Signature { part, .. }
            | Self::WrongLanguage { part, .. } => *part,
            Self::WrongNetwork { .. } => Part::Network,
            Self::NoLabels => Part::Delta,
        }
    }
}

fn refused(part: Part) -> impl Fn(PackageError) -> ModelError {
    move |source| ModelError::Package {
        part,
        source: Box::new(source),
    }
}

impl Trust<'_> {
    /// Refuses a file that none of the trusted keys signed, beside it or, a delta, in it.
    ///
    /// # Errors
    /// [`ModelError::Signature`] for a signature that cannot be read; [`ModelError::Package`] for what is unsigned, signed with another key, or
    /// altered since.
    pub fn check(&self, part: Part, signed: Signed<'_>) -> Result<(), ModelError> {
        let Trust::Only(keys) = self else {
            return Ok(());
        };
        let unsigned = PackageError::Unsigned { what: part.name() };
        if let Some(text) = signed.signature.filter(|text| !text.is_empty()) {
            let text: Cow<'_, str> = String::from_utf8_lossy(text);
            let signature: DetachedSignature =
                text.parse().map_err(|source| ModelError::Signature {
                    part,
                    source: Box::new(source),
                })?;
            let key = keys.iter().find(|key| key.id() == signature.key);
            let checked = match key.or(keys.first()) {
                Some(key) => key.check(signed.file, &signature),
                None => Err(unsigned),
            };
            return checked.map_err(refused(part));
        }
        let mut refusal = unsigned;
        // Only a delta has room for a signature of its own.
        for key in keys.iter().filter(|_| part == Part::Delta) {
            match key.check_embedded(signed.file) {
                Ok(()) => return Ok(()),
                Err(error) => refusal = error,
            }
        }
        Err(refused(part)(refusal))
    }

    /// Reads a base's manifest: what can be told before there is a network.
    ///
    /// # Errors
    /// Those of [`Trust::check`], and [`ModelError::Package`] for a manifest that its reader refuses.
    pub fn manifest(&self, manifest: Signed<'_>) -> Result<Manifest, ModelError> {
        self.check(Part::Manifest, manifest)?;
        Manifest::parse(manifest.file).map_err(refused(Part::Manifest))
    }

    /// Reads the golden clip of `language`.
    ///
    /// # Errors
    /// Those of [`Trust::check`], [`ModelError::Package`] for a clip that is damaged, [`ModelError::WrongLanguage`].
    pub fn golden(&self, language: &str, clip: Signed<'_>) -> Result<Golden, ModelError> {
        self.check(Part::Golden, clip)?;
        let golden = Golden::read(clip.file).map_err(refused(Part::Golden))?;
        check_language(Part::Golden, language, &golden.language)?;
        Ok(golden)
    }
}

fn check_language(part: Part, expected: &str, found: &str) -> Result<(), ModelError> {
    if expected == found {
        return Ok(());
    }
    Err(ModelError::WrongLanguage {
        part,
        expected: expected.into(),
        found: found.into(),
    })
}

/// A language as it is listened for, besides its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Language {
    /// BCP-47 code.
    pub code: String,
    /// Version of the base's manifest or of the delta, from 1.
    pub model_version: u32,
    /// Labels in the order of the logits; the last two are `_unknown_` and `_silence_`.
    pub labels: Vec<String>,
    /// Detection thresholds in the labels' order, posteriors from 0 to 1, and how logits are averaged.
    pub detector: DetectorSettings,
    /// How its features are made.
    pub frontend: FrontendSettings,
    /// Frames of silence that the network hears before a stream; their logits are nobody's.
    pub context_frames: usize,
    /// Digest of the merged tensors.
    pub tensors_sha256: Digest,
}

/// A base whose files hold together.
#[derive(Clone, Debug)]
pub struct Base {
    manifest: Manifest,
    manifest_sha256: Digest,
    tensors: Arc<Tensors>,
}

impl Base {
    /// Checks the files of a base: signature, manifest, and that the network is the manifest's.
    ///
    /// # Errors
    /// [`ModelError`], the first thing that is wrong.
    pub fn verify(
        manifest: Signed<'_>,
        network: &[u8],
        trust: Trust<'_>,
    ) -> Result<Self, ModelError> {
        let manifest_sha256 = Digest::of_bytes(manifest.file);
        let manifest = trust.manifest(manifest)?;
        let expect = |what, expected: Digest, found: Digest| match expected == found {
            true => Ok(()),
            false => Err(ModelError::WrongNetwork {
                what,
                expected,
                found,
            }),
        };
        expect("content", manifest.onnx_sha256, Digest::of_bytes(network))?;
        let tensors = initializers(network).map_err(refused(Part::Network))?;
        expect("tensors", manifest.tensors_sha256, digest(&tensors))?;
        Ok(Self {
            manifest,
            manifest_sha256,
            tensors: Arc::new(tensors),
        })
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the manifest's file, by which deltas name their base.
    pub fn manifest_sha256(&self) -> Digest {
        self.manifest_sha256
    }

    /// Its tensors.
    pub fn tensors(&self) -> &Arc<Tensors> {
        &self.tensors
    }

    /// The base's own language.
    pub fn language(&self) -> Language {
        let manifest = &self.manifest;
        let thresholds = manifest.thresholds.per_label(manifest.labels.len());
        Language {
            code: manifest.language.clone(),
            model_version: manifest.model_version,
            labels: manifest.labels.clone(),
            detector: self.detector(thresholds),
            frontend: manifest.frontend,
            context_frames: manifest.context_frames,
            tensors_sha256: manifest.tensors_sha256,
        }
    }

    /// Checks the delta of the language `code` and merges it: signature, contents, language, and that base and result are the delta's.
    ///
    /// # Errors
    /// [`ModelError`], the first thing that is wrong.
    pub fn merge(
        &self,
        code: &str,
        delta: Signed<'_>,
        trust: Trust<'_>,
    ) -> Result<(Language, Tensors), ModelError> {
        trust.check(Part::Delta, delta)?;
        let delta = Delta::read(delta.file).map_err(refused(Part::Delta))?;
        let header = delta.header();
        check_language(Part::Delta, code, &header.language)?;
        let tensors = self.merged_tensors(&delta)?;
        if header.labels.is_empty() {
            return Err(ModelError::NoLabels);
        }
        let language = Language {
            code: header.language.clone(),
            model_version: header.model_version,
            labels: header
                .labels_over(&self.manifest.labels)
                .map_err(refused(Part::Delta))?,
            detector: self.detector(header.thresholds.clone()),
            frontend: self.manifest.frontend,
            context_frames: self.manifest.context_frames,
            tensors_sha256: delta.merged_digest(),
        };
        Ok((language, tensors))
    }

    /// The tensors that a delta makes of the base's. Of one without labels, which is no language, there is nothing else, and it need not name a manifest;
    /// nor need one for a base whose manifest is from before deltas named any.
    ///
    /// # Errors
    /// [`ModelError::Package`] for a delta of another base, or one that does not give what it promises.
    pub fn merged_tensors(&self, delta: &Delta) -> Result<Tensors, ModelError> {
        // The tensors' digest first: a base that was trained anew differs in both, and weights are what people know it by.
        let merged = merge(&self.tensors, delta).map_err(refused(Part::Delta))?;
        let is_language = !delta.header().labels.is_empty();
        if delta.header().manifest.is_some() || is_language && self.manifest.deltas_name_it() {
            delta
                .check_manifest(self.manifest_sha256)
                .map_err(refused(Part::Delta))?;
        }
        Ok(merged)
    }

    fn detector(&self, thresholds: Vec<f32>) -> DetectorSettings {
        DetectorSettings {
            window_frames: self.manifest.window_frames,
            timing: self.manifest.timing.unwrap_or_default(),
            ..DetectorSettings::new(thresholds)
        }
    }
}

impl Language {
    /// Refuses an older model than the one that a device already has, or had.
    ///
    /// # Errors
    /// [`PackageError::TooOld`] if the model version is below `installed`.
    pub fn check_not_older(&self, installed: u32) -> Result<(), PackageError> {
        if self.model_version >= installed {
            return Ok(());
        }
        Err(PackageError::TooOld {
            found: self.model_version,
            installed,
        })
    }
}
