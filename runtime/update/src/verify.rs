//! Bundles as the flash holds them become models that run: core's `model` judges signatures, digests, names and versions; here they are cut
//! into files, and the index's claims are held against what was signed. Nothing is written here.

use alloc::{boxed::Box, vec::Vec};

use swr_core::golden::Golden;
use swr_core::model::{self, Language, ModelError, Part, Signed, Trust};
use swr_core::network::Network;
use swr_core::package::Tensors;

use crate::UpdateError;
use crate::state::{Bundle, Kind};

/// A language that is ready to run.
#[derive(Clone, Debug)]
pub struct Model {
    /// What is listened for, and how.
    pub language: Language,
    /// The merged network.
    pub network: Network,
    /// A keyword of the language, and what the network must hear in it.
    pub golden: Golden,
}

/// A base whose files hold together.
pub(crate) struct Base {
    base: model::Base,
    golden: Golden,
}

/// The files of a bundle as they were read.
pub(crate) struct Files<'a> {
    pub(crate) bundle: &'a Bundle,
    pub(crate) contents: Vec<(Kind, Vec<u8>)>,
    pub(crate) trust: Trust<'a>,
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

    fn signed(
        &self,
        kind: Kind,
        file: &'static str,
        signature: Kind,
    ) -> Result<Signed<'_>, UpdateError> {
        Ok(Signed {
            file: self.need(kind, file)?,
            signature: self.find(signature),
        })
    }

    fn golden(&self) -> Result<Golden, UpdateError> {
        let clip = self.signed(Kind::Golden, "golden clip", Kind::GoldenSignature)?;
        let golden = self.trust.golden(&self.bundle.language, clip);
        golden.map_err(|error| self.refused(error))
    }

    fn misnamed(&self, what: &'static str) -> UpdateError {
        UpdateError::BadEntry {
            language: self.bundle.language.clone(),
            what,
        }
    }

    /// What core refused, with the language whose files these are.
    fn refused(&self, error: ModelError) -> UpdateError {
        match error {
            ModelError::Package { source, .. } | ModelError::Signature { source, .. } => {
                UpdateError::Package {
                    language: self.bundle.language.clone(),
                    source,
                }
            }
            ModelError::WrongNetwork { what, .. } => self.misnamed(match what {
                "content" => "the network is not the manifest's",
                _ => "the network's weights are not the manifest's",
            }),
            ModelError::WrongLanguage { part, .. } => self.misnamed(match part {
                Part::Golden => "the golden clip is of another language",
                Part::Delta => "the delta is of another language",
                Part::Manifest | Part::Network => "the manifest is of another language",
            }),
            ModelError::NoLabels => self.misnamed("the delta names no labels"),
        }
    }

    /// Refuses what is not the version that the index named.
    fn check_version(&self, language: &Language) -> Result<(), UpdateError> {
        if language.model_version == self.bundle.model_version {
            return Ok(());
        }
        Err(self.misnamed("the index names another model version than the signed file"))
    }
}

impl Base {
    /// Checks the files of a base.
    pub(crate) fn read(files: &Files<'_>) -> Result<Self, UpdateError> {
        let manifest = files.signed(Kind::Manifest, "base.json", Kind::ManifestSignature)?;
        let network = files.need(Kind::Network, "base.onnx")?;
        let base = model::Base::verify(manifest, network, files.trust);
        let base = base.map_err(|error| files.refused(error))?;
        let language = base.language();
        files.check_version(&language)?;
        if language.code != files.bundle.language {
            return Err(files.misnamed("the manifest is of another language"));
        }
        Ok(Self {
            base,
            golden: files.golden()?,
        })
    }

    /// The base as the model of its own language.
    pub(crate) fn model(&self) -> Result<Model, UpdateError> {
        model(
            self.base.language(),
            self.base.tensors(),
            self.golden.clone(),
        )
    }

    /// Checks the files of a language and merges them with the base.
    pub(crate) fn language(&self, files: &Files<'_>) -> Result<Model, UpdateError> {
        let delta = files.signed(Kind::Delta, "delta", Kind::DeltaSignature)?;
        let merged = self.base.merge(&files.bundle.language, delta, files.trust);
        let (language, tensors) = merged.map_err(|error| files.refused(error))?;
        files.check_version(&language)?;
        model(language, &tensors, files.golden()?)
    }
}

fn model(language: Language, tensors: &Tensors, golden: Golden) -> Result<Model, UpdateError> {
    let network = Network::new(tensors).map_err(|source| UpdateError::Network {
        language: language.code.clone(),
        source: Box::new(source),
    })?;
    Ok(Model {
        language,
        network,
        golden,
    })
}
