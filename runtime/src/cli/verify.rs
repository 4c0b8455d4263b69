//! `swr verify`: whether files of a release are whole, belong together and come from whom they should. Nothing is run or changed.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use swr_core::package::PackageError;

use super::{ModelsArgs, Outcome, json_line};
use crate::engine::DEFAULT_STEP_FRAMES;
use crate::error::ModelsError;
use crate::models::{DELTA_EXTENSION, DeltaFile};

/// Check deltas, or all of a directory: digests, base, merged result, and with --key the signatures
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr verify                                  all models of the usual directory
  swr verify ar.swr --models models
  swr verify --key publisher.pub --json

Every delta is merged; of a directory, every network is built as well, so that what passes will load. With --key, base and deltas must be signed with that key: in a .minisig file beside
them, or, a delta, inside. Exits with 0 if all are good, 1 if one is not, with the reason, 2 if one could not be read.")]
pub(super) struct Verify {
    /// Deltas to check [default: the base and all deltas of the directory of models]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// One JSON object per file
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsArgs,
}

/// What was found out about one file; the line of `--json`.
#[derive(Serialize)]
struct Verdict<'a> {
    file: &'a Path,
    good: bool,
    /// In one word, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    /// In a sentence, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Verify {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let directory = self.models.directory()?;
        let base = directory.join("base.json");
        let models = match self.models.open() {
            Ok(models) => models,
            Err(error) => {
                let error = error.downcast::<ModelsError>()?;
                return self.write(out, &base, Err(error));
            }
        };
        let mut outcome = Outcome::Success;
        if self.files.is_empty() {
            self.write(out, &base, Ok(()))?;
            for language in &models.languages()?[1..] {
                let file = directory.join(format!("{language}.{DELTA_EXTENSION}"));
                let model = models.load(language);
                let checked = model.and_then(|model| model.engine(DEFAULT_STEP_FRAMES).map(|_| ()));
                if self.write(out, &file, checked)? == Outcome::Negative {
                    outcome = Outcome::Negative;
                }
            }
        }
        for file in &self.files {
            let checked = DeltaFile::read(file).and_then(|read| models.merge(&read).map(|_| ()));
            if self.write(out, file, checked)? == Outcome::Negative {
                outcome = Outcome::Negative;
            }
        }
        Ok(outcome)
    }

    /// Writes what was found; a file that could not be read at all is an error.
    fn write(
        &self,
        out: &mut dyn Write,
        file: &Path,
        checked: Result<(), ModelsError>,
    ) -> anyhow::Result<Outcome> {
        let refused = match checked {
            Ok(()) => None,
            Err(error @ (ModelsError::Read { .. } | ModelsError::NoDirectory { .. })) => {
                return Err(error.into());
            }
            Err(error) => Some(error),
        };
        let verdict = Verdict {
            file,
            good: refused.is_none(),
            kind: refused.as_ref().map(kind),
            reason: refused.as_ref().map(ToString::to_string),
        };
        if self.json {
            json_line(out, &verdict)?;
        } else if let Some(reason) = &verdict.reason {
            writeln!(out, "REFUSED  {reason}")?;
        } else {
            writeln!(out, "good     {}", file.display())?;
        }
        Ok(match refused {
            None => Outcome::Success,
            Some(_) => Outcome::Negative,
        })
    }
}

/// The kind of refusal in one word.
fn kind(error: &ModelsError) -> &'static str {
    match error {
        ModelsError::WrongNetwork { .. } => "wrong base",
        ModelsError::TooLarge { .. } => "too large",
        ModelsError::Package { source, .. } => match source.as_ref() {
            PackageError::WrongBase { .. } | PackageError::WrongManifest { .. } => "wrong base",
            PackageError::NotADelta
            | PackageError::Damaged { .. }
            | PackageError::BadManifest { .. }
            | PackageError::BadOnnx { .. } => "damaged",
            PackageError::Unsigned { .. } => "unsigned",
            PackageError::WrongKey { .. } => "wrong key",
            PackageError::BadSignature { .. } | PackageError::BadKeyFile { .. } => "bad signature",
            PackageError::UnsupportedVersion {
                found, supported, ..
            } if found < supported => "too old a format",
            PackageError::UnsupportedVersion { .. }
            | PackageError::UnsupportedFeature { .. }
            | PackageError::UnknownNeed { .. }
            | PackageError::UnknownFrontend { .. } => "too new a format",
            PackageError::TooOld { .. } => "too old",
            PackageError::TooLarge { .. } => "too large",
            _ => "does not fit",
        },
        _ => "does not fit",
    }
}
