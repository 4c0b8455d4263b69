//! `swr models`: releases of models in a directory or behind a URL, as `index.json` describes them, and what of them is installed.
//! Files are fetched beside the installed ones ([`Source`]), verified together, and only then put in place.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, anyhow, bail, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use swr_core::package::{Digest, Entry, Index, IndexedFile};

use super::source::Source;
use super::{ModelsArgs, Outcome, json_line};
use crate::install::{Disk, Folder, PULL, RELEASE, locate};
use crate::models::{BASE_FILES, Models, read};
use crate::release::{self, ChangeError, Installed};

/// List, fetch and check releases of models
#[derive(Debug, Subcommand)]
pub(super) enum Releases {
    /// What a release holds, and what of it is installed
    List(List),
    /// Fetch base and languages of a release, verify them, put them in place
    Pull(Pull),
    /// Remove languages; an older version of one is not taken again
    Remove(Remove),
    /// Check that what is installed is what a release holds
    Verify(List),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr models list https://example.org/swr/
  swr models verify /media/usb/models --key publisher.pub

`list` exits with 0; `verify` with 1 if an installed file is not the release's, or is refused.")]
pub(super) struct List {
    /// Directory or URL that holds index.json
    #[arg(value_name = "SOURCE")]
    source: String,
    /// One JSON object per file
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr models pull https://example.org/swr/ --lang ar,zh --models models
  swr models pull /media/usb/models --key publisher.pub

Languages that are installed already are updated along with the base, since a delta fits one base only. Languages of your own, which the release does not
know, stay; they need the base that they were made for, so that another one is taken with --force only. An older model than the installed one is refused. An interrupted pull goes on where it stopped when it is run again.")]
pub(super) struct Pull {
    /// Directory or URL that holds index.json
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Languages to fetch, with commas between [default: all]
    #[arg(long, value_name = "L", value_delimiter = ',')]
    lang: Vec<String>,
    /// Take another base although languages of your own stop working with it
    #[arg(long)]
    force: bool,
    /// One JSON object per file put in place
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  swr models remove ar,zh --models models")]
pub(super) struct Remove {
    /// Languages to remove, with commas between
    #[arg(value_name = "L", required = true, value_delimiter = ',')]
    lang: Vec<String>,
    #[command(flatten)]
    models: ModelsArgs,
}

/// A file of a release; the line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    lang: &'a str,
    model_version: u32,
    file: &'a str,
    bytes: u64,
    sha256: Digest,
    /// `"no"`, `"yes"`, or `"other"` if the installed file has other contents.
    installed: &'static str,
}

impl Releases {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        match self {
            Releases::List(list) => list.list(out),
            Releases::Pull(pull) => pull.run(out),
            Releases::Remove(remove) => remove.run(out),
            Releases::Verify(list) => list.verify(out),
        }
    }
}

impl List {
    fn list(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        self.write(out)?;
        Ok(Outcome::Success)
    }

    fn verify(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let mut good = self.write(out)?;
        match self.models.open() {
            Ok(models) => {
                for language in &models.languages()?[1..] {
                    if let Err(refused) = models.load(language) {
                        eprintln!("swr: {refused}");
                        good = false;
                    }
                }
            }
            Err(refused) => {
                eprintln!("swr: {}", super::sentence(&refused));
                good = false;
            }
        }
        Ok(if good {
            Outcome::Success
        } else {
            Outcome::Negative
        })
    }

    /// Writes a line per file; whether the base and every language that is installed are installed whole, as the release has them.
    fn write(&self, out: &mut dyn Write) -> anyhow::Result<bool> {
        let index = Source::new(&self.source).index()?;
        let directory = self.models.directory()?;
        let mut good = true;
        for entry in index.entries() {
            let mut states = BTreeSet::new();
            for file in &entry.files {
                let line = line(entry, file, &directory)?;
                states.insert(line.installed);
                if self.json {
                    json_line(out, &line)?;
                } else {
                    writeln!(
                        out,
                        "{:<6} version {:<4} {:<20} {:>9} B  installed: {}",
                        line.lang, line.model_version, line.file, line.bytes, line.installed
                    )?;
                }
            }
            let absent = states == BTreeSet::from(["no"]) && entry.language != index.base.language;
            good &= absent || states == BTreeSet::from(["yes"]);
        }
        Ok(good)
    }
}

fn line<'a>(entry: &'a Entry, file: &'a IndexedFile, directory: &Path) -> anyhow::Result<Line<'a>> {
    Ok(Line {
        lang: &entry.language,
        model_version: entry.model_version,
        file: &file.name,
        bytes: file.bytes,
        sha256: file.sha256,
        installed: match digest_of(&locate(directory, &file.name))? {
            None => "no",
            Some(found) if found == file.sha256 => "yes",
            Some(_) => "other",
        },
    })
}

/// SHA-256 of a file, if it is there.
fn digest_of(path: &Path) -> anyhow::Result<Option<Digest>> {
    if !path.exists() {
        return Ok(None);
    }
    Ok(Some(Digest::of_bytes(&read(
        path,
        "check that you may read it",
    )?)))
}

impl Pull {
    fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let source = Source::new(&self.source);
        let index = source.index()?;
        let directory = self.models.destination()?;
        let keys = self.models.keys()?;
        let mut disk = Folder(directory.clone());
        let shown = || directory.display().to_string();
        let _lock = disk.lock().with_context(shown)?;
        let waiting = directory.join(PULL);
        let pulled = release::pull(
            &mut disk,
            &keys,
            |installed| self.wanted(&index, installed, &directory),
            |disk, installed, entries| -> anyhow::Result<_> {
                let mut new = Vec::new();
                for entry in &entries {
                    for file in &entry.files {
                        let there = directory.join(&file.name);
                        let from = if digest_of(&there)? == Some(file.sha256) {
                            there
                        } else {
                            new.push((*entry, file));
                            source.fetch(file, &waiting)?
                        };
                        let bytes = read(&from, "check that you may read it")?;
                        let staged = format!("{RELEASE}/{}", file.name);
                        disk.write(&staged, &bytes).with_context(shown)?;
                    }
                    // The base alone first: what nobody trusted signed is not worth fetching more of.
                    if entry.language == index.base.language {
                        let staged = Models::open_trusting(directory.join(RELEASE), &keys)?;
                        installed.check_base(&staged)?;
                    }
                }
                Ok((entries, new))
            },
            |_| (),
        );
        let (entries, new) = pulled.map_err(|error| in_words(error, &shown))?;

        for (entry, file) in new {
            let line = line(entry, file, &directory)?;
            if self.json {
                json_line(out, &line)?;
            } else {
                let path = directory.join(&file.name);
                writeln!(out, "{}: {} bytes", path.display(), line.bytes)?;
            }
        }
        let languages: Vec<&str> = entries.iter().map(|e| e.language.as_str()).collect();
        eprintln!("{}: {} of {}", shown(), languages.join(", "), self.source);
        Ok(Outcome::Success)
    }

    /// The base, the languages asked for, and those that are installed, which need new deltas when the base is new.
    fn wanted<'a>(
        &self,
        index: &'a Index,
        installed: &Installed,
        directory: &Path,
    ) -> anyhow::Result<Vec<&'a Entry>> {
        let mut asked: Vec<String> = if self.lang.is_empty() {
            index.languages.iter().map(|e| e.language.clone()).collect()
        } else {
            self.lang.clone()
        };
        let (known, own): (Vec<&String>, Vec<&String>) = installed
            .versions
            .keys()
            .filter(|language| !asked.contains(language))
            .partition(|language| index.languages.iter().any(|e| e.language == **language));
        asked.extend(known.into_iter().cloned());
        let mut changed = false;
        for file in &index.base.files {
            let there = digest_of(&locate(directory, &file.name))?;
            changed |= there.is_some_and(|digest| digest != file.sha256)
                && BASE_FILES.contains(&file.name.as_str());
        }
        if changed && !own.is_empty() {
            let own: Vec<&str> = own.iter().map(|language| language.as_str()).collect();
            let own = own.join(", ");
            ensure!(
                self.force,
                "{}: its base is another one than is installed, and {own} (which it does not have) would stop working; nothing was changed: train them anew for the new base, and give --force to take it",
                self.source
            );
            eprintln!(
                "swr: {own}: no longer working with the new base; train anew, or remove with `swr models remove`"
            );
        }
        let mut entries = vec![&index.base];
        for language in asked {
            let entry = index.languages.iter().find(|e| e.language == language);
            match entry {
                Some(entry) if entries.contains(&entry) => {}
                Some(entry) => entries.push(entry),
                None if language == index.base.language => {}
                None => bail!(
                    "{}: the release has no language `{language}` (it has {}); leave it out",
                    self.source,
                    index
                        .entries()
                        .map(|e| e.language.as_str())
                        .collect::<Vec<_>>()
                        .join(", ")
                ),
            }
        }
        Ok(entries)
    }
}

impl Remove {
    fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let directory = self.models.directory()?;
        let mut disk = Folder(directory.clone());
        let shown = || directory.display().to_string();
        let _lock = disk.lock().with_context(shown)?;
        let languages: BTreeSet<&String> = self.lang.iter().collect();
        for language in languages {
            let version = release::remove(&mut disk, language).map_err(|error| match error {
                ChangeError::NoLanguage(there) => anyhow!(
                    "{}: has no language `{language}` beside its base (it has {})",
                    directory.display(),
                    there.join(", ")
                ),
                error => in_words(error, &shown),
            })?;
            writeln!(out, "{language}: removed, version {version}")?;
        }
        Ok(Outcome::Success)
    }
}

/// An error of the file system with the directory that it is about; all others name their file.
fn in_words<E: Into<anyhow::Error>>(
    error: ChangeError<E>,
    directory: &dyn Fn() -> String,
) -> anyhow::Error {
    match error {
        ChangeError::Disk(error) => anyhow::Error::new(error).context(directory()),
        ChangeError::Refused(error) => error.into(),
        ChangeError::Fetch(error) => error.into(),
        ChangeError::NoLanguage(there) => anyhow!("{}: it has {}", directory(), there.join(", ")),
    }
}
