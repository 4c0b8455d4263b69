//! A directory of models: `base.onnx`, its manifest `base.json` and one `<language>.swr` delta per further language.
//! Files are read, their digests and signatures checked here; merged tensors and labels leave, ready for an engine.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use swr_core::MEL_BINS;
use swr_core::detector::{CONTEXT_FRAMES, WINDOW_FRAMES};
use swr_core::package::{
    Delta, DetachedSignature, Digest, Golden, Manifest, PackageError, PublicKey, Tensors, digest,
    merge, onnx,
};

use crate::engine::{Engine, Recognised, merged_onnx};
use crate::error::{EngineError, ModelsError};
use crate::install::{Disk, Folder, PULL, READY, locate};

/// Largest file that is read. The largest network of the project has some megabytes.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// How often, and after how long, models are opened again while a release takes the place of another.
const RETRIES: usize = 5;
const RETRY: Duration = Duration::from_millis(40);

/// Extension of delta files.
pub(crate) const DELTA_EXTENSION: &str = "swr";
/// Extension of golden clips.
pub(crate) const GOLDEN_EXTENSION: &str = "golden";
/// What is added to a file's name for the signature beside it.
pub(crate) const SIGNATURE_SUFFIX: &str = ".minisig";
/// A base's manifest and network in a directory of models.
pub(crate) const BASE_FILES: [&str; 2] = ["base.json", "base.onnx"];

/// The base of a directory, checked against its manifest, and the languages beside it.
///
/// ```no_run
/// # fn main() -> Result<(), swr_runtime::ModelsError> {
/// use swr_runtime::{DEFAULT_STEP_FRAMES, Models};
///
/// let models = Models::open("models")?;
/// for language in models.languages()? {
///     let model = models.load(&language)?;
///     let engine = model.engine(DEFAULT_STEP_FRAMES)?;
///     println!("{language}: {} labels, {} classes", model.labels.len(), engine.classes());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Models {
    directory: PathBuf,
    manifest: Manifest,
    manifest_sha256: Digest,
    tensors: Tensors,
    /// The base, where it can run fused.
    recognised: Option<Arc<Recognised>>,
    onnx: Arc<[u8]>,
    keys: Vec<PublicKey>,
}

/// A delta as it lies in the directory.
#[derive(Debug)]
pub struct DeltaFile {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size.
    pub file_bytes: usize,
    /// What it holds.
    pub delta: Delta,
    bytes: Vec<u8>,
}

/// One language, merged and checked: what an engine and a detector are made of.
#[derive(Debug, Clone)]
pub struct Model {
    /// BCP-47 code.
    pub language: String,
    /// Labels in the order of the logits; the last two are `_unknown_` and `_silence_`.
    pub labels: Vec<String>,
    /// Detection thresholds in the labels' order, posteriors from 0 to 1.
    pub thresholds: Vec<f32>,
    /// Frames over which logits are averaged.
    pub window_frames: usize,
    /// Frames of context before a clip in evaluation.
    pub context_frames: usize,
    /// The file that holds the language: the delta, or the base's manifest.
    pub path: PathBuf,
    onnx: Arc<[u8]>,
    recognised: Option<Arc<Recognised>>,
    merged: Option<Tensors>,
}

/// Reads again for a while where reading fails: as a release takes the place of another, a file may be neither where it was nor yet where it was looked for.
fn while_pulled<T>(
    directory: &Path,
    read: impl Fn() -> Result<T, ModelsError>,
) -> Result<T, ModelsError> {
    let pull = directory.join(PULL);
    for _ in 0..RETRIES {
        // It may end while it is read.
        let pulled = pull.exists();
        let done = read();
        if done.is_ok() || !(pulled || pull.exists()) {
            return done;
        }
        std::thread::sleep(RETRY);
    }
    read()
}

impl Models {
    /// Reads the base of `directory` and checks it against its manifest. Deltas are read when they are asked for.
    ///
    /// # Errors
    /// [`ModelsError`]: a missing directory or file, a manifest that is damaged or of another version, a network that is not the manifest's.
    pub fn open(directory: impl AsRef<Path>) -> Result<Models, ModelsError> {
        Models::open_trusting(directory, &[])
    }

    /// As [`Models::open`]; where there are `keys`, manifest and deltas must be signed with one of them.
    ///
    /// # Errors
    /// Those of [`Models::open`], and [`ModelsError::Package`] for what is unsigned, signed with another key, or altered since.
    pub fn open_trusting(
        directory: impl AsRef<Path>,
        keys: &[PublicKey],
    ) -> Result<Models, ModelsError> {
        let directory = directory.as_ref();
        while_pulled(directory, || Models::open_at_once(directory, keys))
    }

    fn open_at_once(directory: &Path, keys: &[PublicKey]) -> Result<Models, ModelsError> {
        const ADVICE: &str = "a model directory holds base.onnx and base.json; make them with `swr-train base` or copy them from a release";
        let directory = directory.to_path_buf();
        if !directory.is_dir() {
            return Err(ModelsError::NoDirectory { path: directory });
        }
        let [manifest_path, onnx_path] = BASE_FILES.map(|name| locate(&directory, name));
        let manifest_bytes = read(&manifest_path, ADVICE)?;
        let manifest = Manifest::parse(&manifest_bytes).map_err(package_error(&manifest_path))?;
        check_signature(&manifest_path, &manifest_bytes, keys)?;
        let bytes = read(&onnx_path, ADVICE)?;
        let expect = |what, expected: Digest, found: Digest| {
            if expected == found {
                return Ok(());
            }
            Err(ModelsError::WrongNetwork {
                path: onnx_path.clone(),
                manifest: manifest_path.clone(),
                what,
                expected: expected.to_string(),
                found: found.to_string(),
            })
        };
        expect("content", manifest.onnx_sha256, Digest::of_bytes(&bytes))?;
        let tensors = onnx::initializers(&bytes).map_err(package_error(&onnx_path))?;
        expect("tensors", manifest.tensors_sha256, digest(&tensors))?;
        Ok(Models {
            directory,
            manifest,
            manifest_sha256: Digest::of_bytes(&manifest_bytes),
            tensors,
            recognised: Recognised::of(&bytes).map(Arc::new),
            onnx: bytes.into(),
            keys: keys.to_vec(),
        })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The base's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the manifest's file, by which deltas name their base.
    pub fn manifest_sha256(&self) -> Digest {
        self.manifest_sha256
    }

    /// The base's ONNX file.
    pub fn onnx(&self) -> &[u8] {
        &self.onnx
    }

    /// The base's tensors.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// The languages that are there: the base's, then those of the deltas in alphabetic order.
    ///
    /// # Errors
    /// [`ModelsError::Read`] when the directory cannot be listed.
    pub fn languages(&self) -> Result<Vec<String>, ModelsError> {
        let failed = |source| ModelsError::Read {
            path: self.directory.clone(),
            source,
            advice: "check that you may read it",
        };
        let mut languages = deltas(&self.directory).map_err(failed)?;
        languages.insert(0, self.manifest.language.clone());
        Ok(languages)
    }

    /// Reads the delta of `language`, without merging it.
    ///
    /// # Errors
    /// [`ModelsError`]: no such language, a file that is damaged or of another version, a file of another language.
    pub fn delta(&self, language: &str) -> Result<DeltaFile, ModelsError> {
        // Compared with the names that are there, so that a language is never a path to elsewhere.
        let languages = self.languages()?;
        if !languages[1..].iter().any(|there| there == language) {
            return Err(ModelsError::NoLanguage {
                directory: self.directory.clone(),
                language: language.to_owned(),
                there: languages.join(", "),
            });
        }
        let name = format!("{language}.{DELTA_EXTENSION}");
        let path = locate(&self.directory, &name);
        let file = DeltaFile::read(&path)?;
        if file.delta.header().language != language {
            return Err(ModelsError::WrongName {
                path,
                expected: language.to_owned(),
                found: file.delta.header().language.clone(),
            });
        }
        Ok(file)
    }

    /// The base's tensors with the changes of `file`.
    ///
    /// # Errors
    /// [`ModelsError::Package`] when the delta is not signed as it must be, is for another base, or does not give what it promises.
    pub fn merge(&self, file: &DeltaFile) -> Result<Tensors, ModelsError> {
        file.check_signature(&self.keys)?;
        // The tensors' digest first: a base that was trained anew differs in both, and weights are what people know it by.
        let merged = merge(&self.tensors, &file.delta).map_err(package_error(&file.path))?;
        if file.delta.header().manifest.is_some() {
            let checked = file.delta.check_manifest(self.manifest_sha256);
            checked.map_err(package_error(&file.path))?;
        }
        Ok(merged)
    }

    /// A language ready for [`Model::engine`]: the base as it is for the base's own, base and delta merged for any other.
    ///
    /// # Errors
    /// [`ModelsError`], as [`Models::delta`] and [`Models::merge`].
    pub fn load(&self, language: &str) -> Result<Model, ModelsError> {
        let manifest = &self.manifest;
        let base = Model {
            language: manifest.language.clone(),
            labels: manifest.labels.clone(),
            thresholds: manifest.thresholds.per_label(manifest.labels.len()),
            window_frames: manifest.window_frames,
            context_frames: manifest.context_frames,
            path: locate(&self.directory, BASE_FILES[0]),
            onnx: Arc::clone(&self.onnx),
            recognised: self.recognised.clone(),
            merged: None,
        };
        if language == base.language {
            return Ok(base);
        }
        let (file, merged) = while_pulled(&self.directory, || {
            let file = self.delta(language)?;
            let merged = self.merge(&file)?;
            Ok((file, merged))
        })?;
        let header = file.delta.header().clone();
        if header.labels.is_empty() {
            return Err(ModelsError::NoLabels { path: file.path });
        }
        Ok(Model {
            language: header.language,
            labels: header.labels,
            thresholds: header.thresholds,
            path: file.path,
            merged: Some(merged),
            ..base
        })
    }
}

impl Models {
    /// Runs a language's golden clip on it, as a trial before it is trusted; the posterior of the clip's keyword. `None` where the models have no golden clip.
    ///
    /// # Errors
    /// [`ModelsError::Package`] for a clip that is damaged, not signed as it must be or of another language, and for a model that does not hear it.
    pub fn try_golden(&self, model: &Model) -> Result<Option<f32>, ModelsError> {
        let name = match model.language == self.manifest.language {
            true => "base",
            false => &model.language,
        };
        let path = locate(&self.directory, &format!("{name}.{GOLDEN_EXTENSION}"));
        if !path.exists() {
            return Ok(None);
        }
        let bytes = read(&path, "copy the golden clip again")?;
        check_signature(&path, &bytes, &self.keys)?;
        let golden = Golden::read(&bytes).map_err(package_error(&path))?;
        if golden.language != model.language {
            return Err(ModelsError::WrongName {
                path,
                expected: model.language.clone(),
                found: golden.language,
            });
        }
        let mut engine = model.engine(CONTEXT_FRAMES + WINDOW_FRAMES)?;
        let mut logits = Vec::new();
        let run = engine.step(&golden.frames_in_context(), &mut logits);
        run.map_err(|source| ModelsError::Engine {
            path: model.path.clone(),
            source,
        })?;
        let posterior = golden.judge(&logits, &model.labels);
        posterior.map(Some).map_err(package_error(&path))
    }
}

impl DeltaFile {
    /// Refuses a delta that none of `keys` signed, beside it or in it. Without keys everything passes.
    ///
    /// # Errors
    /// [`ModelsError::Package`] for what is unsigned, signed with another key, or altered since.
    pub fn check_signature(&self, keys: &[PublicKey]) -> Result<(), ModelsError> {
        check_signature(&self.path, &self.bytes, keys)
    }

    /// Reads a delta from anywhere.
    ///
    /// # Errors
    /// [`ModelsError::Read`], [`ModelsError::TooLarge`] or [`ModelsError::Package`].
    pub fn read(path: impl AsRef<Path>) -> Result<DeltaFile, ModelsError> {
        let path = path.as_ref();
        let bytes = read(path, "give the .swr file of a language")?;
        Ok(DeltaFile {
            path: path.to_path_buf(),
            file_bytes: bytes.len(),
            delta: Delta::read(&bytes).map_err(package_error(path))?,
            bytes,
        })
    }
}

impl Model {
    /// The network as the bytes of a plain ONNX file.
    ///
    /// # Errors
    /// [`ModelsError::Engine`] when the merged tensors do not fit the graph.
    pub fn to_onnx(&self) -> Result<Vec<u8>, ModelsError> {
        match &self.merged {
            None => Ok(self.onnx.to_vec()),
            Some(merged) => merged_onnx(&self.onnx, merged).map_err(|source| ModelsError::Engine {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// Builds the network for steps of `step_frames` frames.
    ///
    /// # Errors
    /// [`ModelsError::Engine`] when it cannot be built, [`ModelsError::Labels`] when it has not one class per label.
    pub fn engine(&self, step_frames: usize) -> Result<Engine, ModelsError> {
        let failed = |source| ModelsError::Engine {
            path: self.path.clone(),
            source,
        };
        let recognised = self.recognised.as_deref();
        let engine = Engine::of(recognised, &self.onnx, self.merged.as_ref(), step_frames);
        let engine = engine.map_err(failed)?;
        if engine.mel_bins() != MEL_BINS {
            let what = format!(
                "`frames` has {} mel bins, the front end makes {MEL_BINS}",
                engine.mel_bins()
            );
            return Err(failed(EngineError::Graph(what)));
        }
        if engine.classes() != self.labels.len() {
            return Err(ModelsError::Labels {
                path: self.path.clone(),
                labels: self.labels.len(),
                classes: engine.classes(),
            });
        }
        Ok(engine)
    }
}

/// Refuses a manifest or delta that none of `keys` signed, beside it or, a delta, in it. Without keys everything passes.
fn check_signature(path: &Path, bytes: &[u8], keys: &[PublicKey]) -> Result<(), ModelsError> {
    let Some(first) = keys.first() else {
        return Ok(());
    };
    let beside = signature_of(path);
    let text = match beside.exists() {
        true => read(&beside, "copy the signature again")?,
        false => Vec::new(),
    };
    // In a release that is ready, an empty one stands for none.
    if !text.is_empty() {
        let signature: DetachedSignature = String::from_utf8_lossy(&text)
            .parse()
            .map_err(package_error(&beside))?;
        let key = keys.iter().find(|key| key.id() == signature.key);
        let checked = key.unwrap_or(first).check(bytes, &signature);
        return checked.map_err(package_error(path));
    }
    let mut refused = PackageError::Unsigned { what: "the file" };
    for key in keys {
        match key.check_embedded(bytes) {
            Ok(()) => return Ok(()),
            Err(PackageError::NotADelta) => {}
            Err(error) => refused = error,
        }
    }
    Err(package_error(path)(refused))
}

/// Where the signature of a file is: while a release is moved from where it was ready to the directory, either of them may be there already.
fn signature_of(path: &Path) -> PathBuf {
    let beside = beside(path, SIGNATURE_SUFFIX);
    let (Some(folder), Some(name)) = (path.parent(), beside.file_name()) else {
        return beside;
    };
    let depth = Path::new(READY).components().count();
    let directory = match folder.ends_with(READY) {
        true => folder.ancestors().nth(depth).unwrap_or(folder),
        false => folder,
    };
    locate(directory, &name.to_string_lossy())
}

/// Languages of the deltas in a directory or in its release that is ready, in alphabetic order.
pub(crate) fn deltas(directory: &Path) -> std::io::Result<Vec<String>> {
    let mut disk = Folder(directory.into());
    // In this order: files move from there to here.
    let names = [disk.names(READY)?, disk.names("")?].concat();
    let suffix = format!(".{DELTA_EXTENSION}");
    let languages = names.iter().filter_map(|name| name.strip_suffix(&suffix));
    let languages: BTreeSet<String> = languages.map(str::to_owned).collect();
    Ok(languages.into_iter().collect())
}

/// The path with `suffix` after its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Reads a whole file, unless it is larger than any model.
pub(crate) fn read(path: &Path, advice: &'static str) -> Result<Vec<u8>, ModelsError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|source| ModelsError::Read {
            path: path.to_path_buf(),
            source,
            advice,
        })?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(ModelsError::TooLarge {
            path: path.to_path_buf(),
            limit_bytes: MAX_FILE_BYTES,
        });
    }
    Ok(bytes)
}

pub(crate) fn package_error(path: &Path) -> impl FnOnce(PackageError) -> ModelsError + use<> {
    let path = path.to_path_buf();
    move |source| ModelsError::Package {
        path,
        source: Box::new(source),
    }
}
