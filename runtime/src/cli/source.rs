//! Where a release comes from: a directory, or a server. Files are resumed where an earlier attempt broke off.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use attohttpc::ProxySettings;
use indicatif::{ProgressBar, ProgressStyle};
use swr_core::package::{Digest, Index, IndexedFile, MAX_INDEX_BYTES};
use url::Url;

const INDEX: &str = "index.json";
/// A server that takes longer for a file has stalled; what came is kept.
const LONGEST_DOWNLOAD: Duration = Duration::from_secs(30 * 60);

/// Where a release lies.
pub(super) enum Source {
    Directory(PathBuf),
    Url(String),
}

impl Source {
    /// What was typed, or copied from somewhere: perhaps in capitals, and up to the index.
    pub(super) fn new(typed: &str) -> Self {
        let typed = typed.trim();
        let above = match typed.strip_suffix(INDEX) {
            Some(above) if above.is_empty() || above.ends_with('/') => above,
            _ => typed,
        };
        let (scheme, rest) = above.split_once("://").unwrap_or_default();
        match scheme.to_ascii_lowercase().as_str() {
            scheme @ ("http" | "https") => {
                Self::Url(format!("{scheme}://{}", rest.trim_end_matches('/')))
            }
            "file" => {
                let path = Url::parse(above)
                    .ok()
                    .and_then(|url| url.to_file_path().ok());
                Self::Directory(path.unwrap_or_else(|| rest.into()))
            }
            // A folder that is called so is one.
            _ if Path::new(typed).is_dir() => Self::Directory(typed.into()),
            _ if above.is_empty() => Self::Directory(".".into()),
            _ => Self::Directory(above.into()),
        }
    }

    /// A name in the release, for messages.
    fn place(&self, name: &str) -> String {
        match self {
            Self::Directory(path) => path.join(name).display().to_string(),
            Self::Url(url) => format!("{url}/{name}"),
        }
    }

    /// The bytes of a file from `from` on, and where they begin: a server may start anew.
    fn open(&self, name: &str, from: u64) -> anyhow::Result<(Box<dyn Read>, u64)> {
        match self {
            Self::Directory(_) => {
                let mut file = File::open(self.place(name))
                    .with_context(|| format!("{}: cannot be read", self.place(name)))?;
                io::Seek::seek(&mut file, io::SeekFrom::Start(from))?;
                Ok((Box::new(file), from))
            }
            Self::Url(url) => {
                ensure!(
                    cfg!(feature = "https") || !url.starts_with("https:"),
                    "{url}: this program was built without TLS; build it with `--features https`, or give an http: address or a directory (whatever comes is verified)"
                );
                if from > 0 {
                    let response = self.get(name, Some(from))?;
                    let header = |name: &str| response.headers().get(name)?.to_str().ok();
                    let goes_on = header("content-range")
                        .is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
                        && header("content-encoding").is_none();
                    if response.status() == 206 && goes_on {
                        return Ok((Box::new(response.split().2), from));
                    }
                    if response.status() == 200 {
                        return Ok((Box::new(response.split().2), 0));
                    }
                    // What is there is more than the server has, or of another file: anew.
                }
                let response = self.get(name, None)?;
                ensure!(
                    response.is_success(),
                    "{}: cannot be fetched: the server answers {}",
                    self.place(name),
                    response.status()
                );
                Ok((Box::new(response.split().2), 0))
            }
        }
    }

    /// A file of a release behind a URL, from a byte on. Proxies are those of the environment; an answer that is compressed unasked is read.
    fn get(&self, name: &str, from: Option<u64>) -> anyhow::Result<attohttpc::Response> {
        let place = self.place(name);
        ensure!(
            !place.contains(['?', '#']),
            "{place}: the files of a release lie below its address, which cannot have a ? or # in it; give the address of the folder"
        );
        let named = || format!("{place}: cannot be fetched");
        let mut request = attohttpc::RequestBuilder::try_new(attohttpc::Method::GET, &place)
            .with_context(named)?
            .connect_timeout(Duration::from_secs(30))
            .read_timeout(Duration::from_secs(60))
            .timeout(LONGEST_DOWNLOAD)
            .proxy_settings(proxies()?)
            .allow_compression(false);
        if let Some(from) = from {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let response = request.send().map_err(|error| {
            let slow = |kind| [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&kind);
            match error.kind() {
                attohttpc::ErrorKind::Io(error) if slow(error.kind()) => {
                    anyhow!(
                        "{}: the server takes longer than a minute to answer",
                        named()
                    )
                }
                _ => anyhow::Error::new(error).context(named()),
            }
        })?;
        if let Some(coding) = response.headers().get("content-encoding") {
            let known = [&b"gzip"[..], b"deflate", b"identity"];
            ensure!(
                known
                    .iter()
                    .any(|known| coding.as_bytes().eq_ignore_ascii_case(known)),
                "{}: the server sends it as {coding:?}, which is not read; let it send files as they are",
                named()
            );
        }
        Ok(response)
    }

    pub(super) fn index(&self) -> anyhow::Result<Index> {
        let mut bytes = Vec::new();
        let (reader, _) = self.open(INDEX, 0)?;
        reader
            .take(MAX_INDEX_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("{}: cannot be read", self.place(INDEX)))?;
        Index::parse(&bytes).with_context(|| self.place(INDEX))
    }

    /// Brings a file of the release into `waiting`, going on with what an earlier attempt left there.
    pub(super) fn fetch(&self, file: &IndexedFile, waiting: &Path) -> anyhow::Result<PathBuf> {
        let place = self.place(&file.name);
        let part = waiting.join(format!("{}.part", file.sha256));
        let mut there = fs::metadata(&part).map_or(0, |meta| meta.len());
        if there > file.bytes {
            there = 0;
        }
        if there < file.bytes {
            let (reader, from) = self.open(&file.name, there)?;
            let mut target = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .open(&part)
                .with_context(|| part.display().to_string())?;
            target.set_len(from)?;
            io::Seek::seek(&mut target, io::SeekFrom::Start(from))?;
            let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {eta}")?;
            let bar = ProgressBar::new(file.bytes).with_style(style);
            bar.set_message(file.name.clone());
            bar.set_position(from);
            // One byte more than expected tells a longer file.
            let mut reader = bar.wrap_read(reader.take(file.bytes - from + 1));
            io::copy(&mut reader, &mut target)
                .and_then(|_| target.sync_all())
                .with_context(|| format!("{place}: broke off; run the command again to go on"))?;
            bar.finish_and_clear();
        }
        let bytes = fs::read(&part).with_context(|| part.display().to_string())?;
        if (bytes.len() as u64) < file.bytes {
            bail!(
                "{place}: broke off after {} of {} bytes; run the command again to go on",
                bytes.len(),
                file.bytes
            );
        }
        if Digest::of_bytes(&bytes) != file.sha256 {
            remove_if_there(&part)?;
            bail!(
                "{place}: damaged file: its SHA-256 is {}, the index promises {}; nothing was changed, run the command again or tell the publisher",
                Digest::of_bytes(&bytes),
                file.sha256
            );
        }
        Ok(part)
    }
}

/// The proxies of the environment, as curl takes them: small letters before capitals, perhaps without a scheme; `no_proxy` a list, in which what is empty means nothing
/// (attohttpc 0.31 takes it for every host).
///
/// # Errors
/// For a variable that names no http proxy.
fn proxies() -> anyhow::Result<ProxySettings> {
    let variable = |name: &str| {
        let given = std::env::var(name).or_else(|_| std::env::var(name.to_uppercase()));
        given.ok().map(|value| value.trim().to_owned())
    };
    let proxy = |name: &str| -> anyhow::Result<Option<Url>> {
        let given = variable(name).or_else(|| variable("all_proxy"));
        let Some(value) = given.filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let address = match value.contains("://") {
            true => value.clone(),
            false => format!("http://{value}"),
        };
        let url = Url::parse(&address).ok();
        let url = url.filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
        let url = url.with_context(|| {
            format!(
                "{name} (or all_proxy) is \"{value}\"; expected an http proxy, such as proxy:3128"
            )
        })?;
        Ok(Some(url))
    };
    let none_for = variable("no_proxy").unwrap_or_default();
    if none_for == "*" {
        return Ok(ProxySettings::builder().build());
    }
    let mut settings = ProxySettings::builder()
        .http_proxy(proxy("http_proxy")?)
        .https_proxy(proxy("https_proxy")?);
    let hosts = none_for.split([',', ' ']);
    for host in hosts.map(|host| host.trim_start_matches(['*', '.'])) {
        if !host.is_empty() {
            settings = settings.add_no_proxy_host(host);
        }
    }
    Ok(settings.build())
}

fn remove_if_there(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}
