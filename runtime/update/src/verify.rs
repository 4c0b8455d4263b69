//! From the files of a base and of languages to networks that run: every signature, version, digest and merge is checked on the way.

use alloc::{boxed::Box, string::String, vec::Vec};

use swr_core::network::Network;
use swr_core::package::{
    Delta, DetachedSignature, Digest, Golden, Manifest, PackageError, PublicKey, Tensors, digest,
    merge, onnx::initializers,
};

use crate::UpdateError;
use crate::state::{Bundle, Kind};

/// A language that is ready to run.
#[derive(Clone, Debug)]
pub struct Model {
    /// BCP-47 code.
    pub language: String,
    /// Version of the base's manifest or of the delta.
    pub model_version: u32,
    /// Labels in the order of the logits.
    pub labels: Vec<String>,
    /// Detection thresholds in the labels' order, posteriors from 0 to 1.
    pub thresholds: Vec<f32>,
    /// Frames over which logits are averaged.
    pub window_frames: usize,
    /// Frames of silence that the network hears before a stream.
    pub context_frames: usize,
    /// The merged network.
    pub network: Network,
    /// Digest of its tensors.
    pub tensors_sha256: Digest,
    /// A keyword of the language, and what the network must hear in it.
    pub golden: Golden,
}

/// A base whose files hold together.
pub(crate) struct Base {
    manifest: Manifest,
    manifest_sha256: Digest,
    tensors: Tensors,
    golden: Golden,
}

/// The files of a bundle as they were read.
pub(crate) struct Files<'a> {
    pub(crate) bundle: &'a Bundle,
    pub(crate) contents: Vec<(Kind, Vec<u8>)>,
    /// Keys of the publishers that are trusted; `None`: signatures are not looked at, which only sabotage does.
    pub(crate) keys: Option<&'a [PublicKey]>,
}

impl Files<'_> {
    fn find(&self, kind: Kind) -> Option<&[u8]> {
        let found = self.contents.iter().find(|(there, _)| *there == kind);
        found.map(|(_, bytes)| bytes.as_slice())
    }

    fn need(&self, kind: Kind, file: &'static str) -> Result<&[u8], UpdateError> {
        self.find(kind).ok_or_else(|| UpdateError::Missing {
            language: self.bundle.language.clone(),
            file,
        })
    }

    fn refused(&self) -> impl Fn(PackageError) -> UpdateError + use<> {
        let language = self.bundle.language.clone();
        move |source| UpdateError::Package {
            language: language.clone(),
            source: Box::new(source),
        }
    }

    /// Checks the signature beside a file against the key that it names.
    fn check_signature(
        &self,
        what: &'static str,
        file: &[u8],
        signature: Option<&[u8]>,
    ) -> Result<(), PackageError> {
        let Some(keys) = self.keys else {
            return Ok(());
        };
        let signature = signature.ok_or(PackageError::Unsigned { what })?;
        let signature: DetachedSignature = String::from_utf8_lossy(signature).parse()?;
        let key = keys.iter().find(|key| key.id() == signature.key);
        match key.or(keys.first()) {
            Some(key) => key.check(file, &signature),
            None => Err(PackageError::Unsigned { what }),
        }
    }

    fn golden(&self) -> Result<Golden, UpdateError> {
        let bytes = self.need(Kind::Golden, "golden clip")?;
        let signature = self.find(Kind::GoldenSignature);
        self.check_signature("the golden clip", bytes, signature)
            .map_err(self.refused())?;
        let golden = Golden::read(bytes).map_err(self.refused())?;
        if golden.language != self.bundle.language {
            return Err(self.misnamed("the golden clip is of another language"));
        }
        Ok(golden)
    }

    fn misnamed(&self, what: &'static str) -> UpdateError {
        UpdateError::BadEntry {
            language: self.bundle.language.clone(),
            what,
        }
    }

    fn check_version(&self, found: u32) -> Result<(), UpdateError> {
        if found == self.bundle.model_version {
            return Ok(());
        }
        Err(self.misnamed("the index names another model version than the signed file"))
    }
}

impl Base {
    /// Checks the files of a base.
    pub(crate) fn read(files: &Files<'_>) -> Result<Self, UpdateError> {
        let refused = files.refused();
        let manifest_bytes = files.need(Kind::Manifest, "base.json")?;
        let signature = files.find(Kind::ManifestSignature);
        files
            .check_signature("the manifest", manifest_bytes, signature)
            .map_err(&refused)?;
        let manifest = Manifest::parse(manifest_bytes).map_err(&refused)?;
        files.check_version(manifest.model_version)?;
        if manifest.language != files.bundle.language {
            return Err(files.misnamed("the manifest is of another language"));
        }
        let network = files.need(Kind::Network, "base.onnx")?;
        if Digest::of_bytes(network) != manifest.onnx_sha256 {
            return Err(files.misnamed("the network is not the manifest's"));
        }
        let tensors = initializers(network).map_err(&refused)?;
        if digest(&tensors) != manifest.tensors_sha256 {
            return Err(files.misnamed("the network's weights are not the manifest's"));
        }
        Ok(Self {
            golden: files.golden()?,
            manifest_sha256: Digest::of_bytes(manifest_bytes),
            manifest,
            tensors,
        })
    }

    /// The base as the model of its own language.
    pub(crate) fn model(&self) -> Result<Model, UpdateError> {
        let Manifest {
            language, labels, ..
        } = &self.manifest;
        Ok(Model {
            language: language.clone(),
            model_version: self.manifest.model_version,
            labels: labels.clone(),
            thresholds: self.manifest.thresholds.per_label(labels.len()),
            window_frames: self.manifest.window_frames,
            context_frames: self.manifest.context_frames,
            network: network(language, &self.tensors)?,
            tensors_sha256: self.manifest.tensors_sha256,
            golden: self.golden.clone(),
        })
    }

    /// Checks the files of a language and merges them with the base.
    pub(crate) fn language(&self, files: &Files<'_>) -> Result<Model, UpdateError> {
        let refused = files.refused();
        let bytes = files.need(Kind::Delta, "delta")?;
        match (files.find(Kind::DeltaSignature), files.keys) {
            (Some(signature), _) => files.check_signature("the delta", bytes, Some(signature)),
            (None, Some(keys)) => check_embedded(bytes, keys),
            (None, None) => Ok(()),
        }
        .map_err(&refused)?;
        let delta = Delta::read(bytes).map_err(&refused)?;
        let header = delta.header();
        files.check_version(header.model_version)?;
        if header.language != files.bundle.language {
            return Err(files.misnamed("the delta is of another language"));
        }
        // Tensors first, as `swr` does: weights are what people know a base by.
        let merged = merge(&self.tensors, &delta).map_err(&refused)?;
        delta
            .check_manifest(self.manifest_sha256)
            .map_err(&refused)?;
        Ok(Model {
            language: header.language.clone(),
            model_version: header.model_version,
            labels: header.labels.clone(),
            thresholds: header.thresholds.clone(),
            window_frames: self.manifest.window_frames,
            context_frames: self.manifest.context_frames,
            network: network(&header.language, &merged)?,
            tensors_sha256: delta.merged_digest(),
            golden: files.golden()?,
        })
    }
}

fn network(language: &str, tensors: &Tensors) -> Result<Network, UpdateError> {
    Network::new(tensors).map_err(|source| UpdateError::Network {
        language: language.into(),
        source: Box::new(source),
    })
}

/// As with `swr --key`: one of the keys must have signed the delta.
fn check_embedded(delta: &[u8], keys: &[PublicKey]) -> Result<(), PackageError> {
    let mut refused = PackageError::Unsigned { what: "the delta" };
    for key in keys {
        match key.check_embedded(delta) {
            Ok(()) => return Ok(()),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}
