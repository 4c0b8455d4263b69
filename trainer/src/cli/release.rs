//! The commands of `swr-train` that make a release of packages: keys, signatures, and the index.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use minisign::{KeyPair, SecretKey, SecretKeyBox};
use swr_core::package::{
    Delta, DetachedSignature, Digest, Entry, INDEX_VERSION, Index, IndexedFile, PublicKey,
    embed_signature,
};

use crate::files::{read, write_atomically};
use crate::models::{deltas, read_base};

/// What is added to a file's name for the signature beside it.
const SIGNATURE_SUFFIX: &str = ".minisig";

#[derive(Args)]
#[command(after_help = "Example:
  swr-train key --out publisher        writes publisher.pub and publisher.key

The files are minisign's. The secret key is encrypted with a password, which is asked for, or taken from SWR_PASSWORD.")]
pub(super) struct Key {
    /// Path of the two files, without .pub and .key
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
    /// Do not encrypt the secret key
    #[arg(long)]
    no_password: bool,
}

#[derive(Args)]
#[command(after_help = "Examples:
  swr-train sign models/small/base.json models/small/*.swr models/small/*.golden --key publisher.key
  swr-train sign models/small/ar.swr --key publisher.key --embed
  minisign -Sm models/small/ar.swr -s publisher.key && swr-train embed models/small/ar.swr

A signature lies beside its file as .minisig, which `minisign -V` checks as well. Embedded, the same 64 bytes stand inside a delta for devices
that hold one file per language; the .minisig then still fits for `swr`, but minisign sees a file with other bytes.")]
pub(super) struct Sign {
    /// Manifests, deltas and golden clips
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Write the signature into the deltas as well
    #[arg(long)]
    embed: bool,
}

#[derive(Args)]
#[command(after_help = "Example:\n  swr-train embed models/small/ar.swr models/small/zh.swr")]
pub(super) struct Embed {
    /// Deltas with a .minisig beside them
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

#[derive(Args)]
#[command(after_help = "Example:
  swr-train index --models models      then put the folder on any file server, and
  swr models pull https://example.org/models --lang ar")]
pub(super) struct MakeIndex {
    /// Public key that base and deltas must be signed with, beside them
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Folder of models
    #[arg(long, value_name = "DIR", default_value = "models/small")]
    models: PathBuf,
}

/// `path` with `suffix` after its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

impl Key {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<()> {
        let (public, secret) = (beside(&self.out, ".pub"), beside(&self.out, ".key"));
        for path in [&public, &secret] {
            ensure!(
                !path.exists(),
                "{}: is there already; a key that is lost cannot be made again, so remove it yourself if you mean it",
                path.display()
            );
        }
        let pair = if self.no_password {
            KeyPair::generate_unencrypted_keypair()
        } else {
            KeyPair::generate_encrypted_keypair(std::env::var("SWR_PASSWORD").ok())
        };
        let pair = pair.context("no key could be made")?;
        let secret_text = pair.sk.to_box(None)?.into_string();
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
            .open(&secret)
            .and_then(|mut file| {
                file.write_all(secret_text.as_bytes())?;
                file.sync_all()
            })
            .with_context(|| format!("{}: could not be written", secret.display()))?;
        write_atomically(&public, pair.pk.to_box()?.into_string().as_bytes())?;
        writeln!(
            out,
            "{}: give it to devices with `swr --key`",
            public.display()
        )?;
        writeln!(out, "{}: keep it secret", secret.display())?;
        Ok(())
    }
}

fn read_secret_key(path: &Path) -> Result<SecretKey> {
    let text = String::from_utf8(read(path)?).with_context(|| path.display().to_string())?;
    let unreadable = || {
        format!(
            "{}: not minisign's secret key, or another password",
            path.display()
        )
    };
    let boxed = || SecretKeyBox::from_string(&text).with_context(unreadable);
    match boxed()?.into_unencrypted_secret_key() {
        Ok(key) => Ok(key),
        Err(_) => boxed()?
            .into_secret_key(std::env::var("SWR_PASSWORD").ok())
            .with_context(unreadable),
    }
}

impl Sign {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<()> {
        let key = read_secret_key(&self.key)?;
        for path in &self.files {
            let bytes = read(path)?;
            let delta = match path.extension().is_some_and(|e| e == "swr") {
                true => Some(Delta::read(&bytes).with_context(|| path.display().to_string())?),
                false => None,
            };
            // Of a delta the form without an embedded signature is signed.
            let signed = delta.as_ref().map_or(bytes, Delta::write_unsigned);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let comment = format!("file:{name}\thashed");
            let signature = minisign::sign(None, &key, signed.as_slice(), Some(&comment), None)
                .with_context(|| path.display().to_string())?
                .into_string();
            let beside = beside(path, SIGNATURE_SUFFIX);
            write_atomically(&beside, signature.as_bytes())?;
            writeln!(out, "{}", beside.display())?;
            match delta {
                Some(_) if self.embed => embed_text(path, &signature, out)?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Embed {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<()> {
        for path in &self.files {
            let beside = beside(path, SIGNATURE_SUFFIX);
            let text =
                String::from_utf8(read(&beside)?).with_context(|| beside.display().to_string())?;
            embed_text(path, &text, out)?;
        }
        Ok(())
    }
}

fn embed_text(path: &Path, text: &str, out: &mut dyn Write) -> Result<()> {
    let signature: DetachedSignature = text.parse().with_context(|| path.display().to_string())?;
    let file = embed_signature(&read(path)?, signature.signature)
        .with_context(|| path.display().to_string())?;
    write_atomically(path, &file)?;
    writeln!(
        out,
        "{}: signature of key {} embedded",
        path.display(),
        signature.key
    )?;
    Ok(())
}

impl MakeIndex {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<()> {
        let base = read_base(&self.models)?;
        let key: Option<PublicKey> = match &self.key {
            Some(path) => {
                let text = String::from_utf8_lossy(&read(path)?).into_owned();
                Some(text.parse().with_context(|| path.display().to_string())?)
            }
            None => None,
        };
        let entry = |language: &str, model_version, names: Vec<String>| -> Result<Entry> {
            let mut files = Vec::new();
            for name in names {
                // A release may do without a golden clip; a device with flash does not.
                if name.ends_with(".golden") && !self.models.join(&name).exists() {
                    continue;
                }
                for name in [name.clone(), format!("{name}{SIGNATURE_SUFFIX}")] {
                    let path = self.models.join(&name);
                    if name.ends_with(SIGNATURE_SUFFIX) && !path.exists() {
                        continue;
                    }
                    let bytes = read(&path)?;
                    // The network has no signature: the manifest names its digest.
                    if let Some(key) = &key
                        && !name.ends_with(SIGNATURE_SUFFIX)
                        && !name.ends_with(".onnx")
                    {
                        let beside = beside(&path, SIGNATURE_SUFFIX);
                        let text = String::from_utf8_lossy(&read(&beside)?).into_owned();
                        key.check(&bytes, &text.parse()?)
                            .with_context(|| path.display().to_string())?;
                    }
                    files.push(IndexedFile {
                        name,
                        bytes: bytes.len() as u64,
                        sha256: Digest::of_bytes(&bytes),
                    });
                }
            }
            Ok(Entry {
                language: language.into(),
                model_version,
                files,
            })
        };
        let names = ["base.json", "base.onnx", "base.golden"]
            .map(String::from)
            .to_vec();
        let mut index = Index {
            format: INDEX_VERSION,
            base: entry(
                &base.manifest().language,
                base.manifest().model_version,
                names,
            )?,
            languages: Vec::new(),
        };
        for path in deltas(&self.models)? {
            let named = || path.display().to_string();
            let delta = Delta::read(&read(&path)?).with_context(named)?;
            base.merged_tensors(&delta).with_context(named)?;
            let header = delta.header();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            ensure!(
                name == format!("{}.swr", header.language) && !header.labels.is_empty(),
                "{}: it holds language {:?} with {} labels; a release names files after their language",
                path.display(),
                header.language,
                header.labels.len()
            );
            let names = vec![name.into_owned(), format!("{}.golden", header.language)];
            index
                .languages
                .push(entry(&header.language, header.model_version, names)?);
        }
        let path = self.models.join("index.json");
        write_atomically(&path, index.to_json()?.as_bytes())?;
        writeln!(
            out,
            "{}: base and {} languages",
            path.display(),
            index.languages.len()
        )?;
        Ok(())
    }
}
