//! A directory of models: `base.onnx`, its manifest `base.json` and one `<language>.swr` delta per further language.
//! Files are found and read here, whichever release is being put to use; core's `model` judges what is in them.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use swr_core::model::{Base, Language, ModelError, Part, Signed, Trust};
use swr_core::network::graph::recognise;
use swr_core::package::{Delta, Digest, Manifest, PackageError, PublicKey, Tensors};
use swr_core::{CONTEXT_FRAMES, MEL_BINS, WINDOW_FRAMES};

use crate::engine::{Engine, merged_onnx};
use crate::error::{EngineError, ModelsError};
use crate::install::{Disk, Folder, PULL, READY, locate};
use crate::spotter::{Listener, Spotter};
use crate::words::nfc;

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
/// let models = Models::open("models/small")?;
/// for language in models.languages()? {
///     let model = models.load(&language)?;
///     let engine = model.engine(DEFAULT_STEP_FRAMES)?;
///     println!("{language}: {} labels, {} classes", model.language.labels.len(), engine.classes());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Models {
    directory: PathBuf,
    base: Base,
    graph: Graph,
    keys: Vec<PublicKey>,
}

/// The base's graph.
#[derive(Debug, Clone)]
struct Graph {
    onnx: Arc<[u8]>,
    /// Whether it is that of a causal BC-ResNet, which needs no graph to run.
    fused: bool,
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
    /// What is listened for, and how.
    pub language: Language,
    /// The file that holds the language: the delta, or the base's manifest.
    pub path: PathBuf,
    graph: Graph,
    tensors: Arc<Tensors>,
    /// Whether they are other than the graph's own.
    merged: bool,
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
        if !directory.is_dir() {
            return Err(ModelsError::NoDirectory {
                path: directory.to_path_buf(),
            });
        }
        let [manifest_path, onnx_path] = BASE_FILES.map(|name| locate(directory, name));
        let manifest = SignedFile::read(&manifest_path, keys, ADVICE)?;
        // Before the network is looked for: what nobody trusted signed says nothing of it.
        trust(keys)
            .manifest(manifest.signed())
            .map_err(models_error(&manifest_path, &manifest_path))?;
        let onnx = read(&onnx_path, ADVICE)?;
        let base = Base::verify(manifest.signed(), &onnx, trust(keys)).map_err(|error| {
            let path = match error.part() {
                Part::Network => onnx_path,
                _ => manifest_path.clone(),
            };
            models_error(&path, &manifest_path)(error)
        })?;
        Ok(Models {
            directory: directory.to_path_buf(),
            base,
            graph: Graph {
                fused: recognise(&onnx).is_some(),
                onnx: onnx.into(),
            },
            keys: keys.to_vec(),
        })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The base's manifest.
    pub fn manifest(&self) -> &Manifest {
        self.base.manifest()
    }

    /// SHA-256 of the manifest's file, by which deltas name their base.
    pub fn manifest_sha256(&self) -> Digest {
        self.base.manifest_sha256()
    }

    /// The base's ONNX file.
    pub fn onnx(&self) -> &[u8] {
        &self.graph.onnx
    }

    /// The base's tensors.
    pub fn tensors(&self) -> &Tensors {
        self.base.tensors()
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
        languages.insert(0, self.manifest().language.clone());
        Ok(languages)
    }

    /// Where the delta of `language` is.
    fn find(&self, language: &str) -> Result<PathBuf, ModelsError> {
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
        Ok(locate(&self.directory, &name))
    }

    /// Reads the delta of `language`, without merging it.
    ///
    /// # Errors
    /// [`ModelsError`]: no such language, a file that is damaged or of another version, a file of another language.
    pub fn delta(&self, language: &str) -> Result<DeltaFile, ModelsError> {
        let file = DeltaFile::read(self.find(language)?)?;
        if file.delta.header().language != language {
            return Err(ModelsError::WrongName {
                path: file.path,
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
        let merged = self.base.merged_tensors(&file.delta);
        merged.map_err(models_error(&file.path, &file.path))
    }

    /// A language ready for [`Model::engine`]: the base as it is for the base's own, base and delta merged for any other.
    ///
    /// # Errors
    /// [`ModelsError`]: no such language, a file that is damaged, not signed as it must be, of another language or for another base.
    pub fn load(&self, language: &str) -> Result<Model, ModelsError> {
        let model = |language, path, tensors, merged| Model {
            language,
            path,
            graph: self.graph.clone(),
            tensors,
            merged,
        };
        if language == self.manifest().language {
            let path = locate(&self.directory, BASE_FILES[0]);
            let tensors = Arc::clone(self.base.tensors());
            return Ok(model(self.base.language(), path, tensors, false));
        }
        while_pulled(&self.directory, || {
            let path = self.find(language)?;
            let delta = SignedFile::read(&path, &self.keys, DELTA_ADVICE)?;
            let merged = self
                .base
                .merge(language, delta.signed(), trust(&self.keys))
                .map_err(models_error(&path, &path))?;
            Ok(model(merged.0, path, Arc::new(merged.1), true))
        })
    }

    /// A listener for `language`, with network steps of `step_frames` frames and the settings of its package.
    ///
    /// # Errors
    /// [`ModelsError`] when the language is not there or cannot be merged or built.
    pub fn listener(&self, language: &str, step_frames: usize) -> Result<Listener, ModelsError> {
        self.load(language)?.listener(step_frames)
    }

    /// A spotter for `languages`, with network steps of `step_frames` frames.
    ///
    /// # Errors
    /// As [`Models::listener`].
    pub fn spotter<L: AsRef<str>>(
        &self,
        languages: &[L],
        step_frames: usize,
    ) -> Result<Spotter, ModelsError> {
        let listener = |language: &L| self.listener(language.as_ref(), step_frames);
        let listeners = languages.iter().map(listener).collect::<Result<_, _>>()?;
        Spotter::new(listeners).map_err(|source| ModelsError::Spotter {
            path: self.directory().to_path_buf(),
            source: Box::new(source),
        })
    }

    /// Runs a language's golden clip on it, as a trial before it is trusted; the posterior of the clip's keyword. `None` where the models have no golden clip.
    ///
    /// # Errors
    /// [`ModelsError::Package`] for a clip that is damaged, not signed as it must be or of another language, and for a model that does not hear it.
    pub fn try_golden(&self, model: &Model) -> Result<Option<f32>, ModelsError> {
        let code = &model.language.code;
        let name = match *code == self.manifest().language {
            true => "base",
            false => code,
        };
        let path = locate(&self.directory, &format!("{name}.{GOLDEN_EXTENSION}"));
        if !path.exists() {
            return Ok(None);
        }
        let clip = SignedFile::read(&path, &self.keys, "copy the golden clip again")?;
        let golden = trust(&self.keys)
            .golden(code, clip.signed())
            .map_err(models_error(&path, &path))?;
        let mut engine = model.engine(CONTEXT_FRAMES + WINDOW_FRAMES)?;
        let mut logits = Vec::new();
        let run = engine.step(&golden.frames_in_context(), &mut logits);
        run.map_err(|source| ModelsError::Engine {
            path: model.path.clone(),
            source,
        })?;
        let posterior = golden.judge(&logits, &model.language.labels);
        posterior.map(Some).map_err(package_error(&path))
    }
}

const DELTA_ADVICE: &str = "give the .swr file of a language";

impl DeltaFile {
    /// Refuses a delta that none of `keys` signed, beside it or in it. Without keys everything passes.
    ///
    /// # Errors
    /// [`ModelsError::Package`] for what is unsigned, signed with another key, or altered since.
    pub fn check_signature(&self, keys: &[PublicKey]) -> Result<(), ModelsError> {
        let signature = read_signature(&self.path, keys)?;
        let signed = Signed {
            file: &self.bytes,
            signature: signature.as_deref(),
        };
        let checked = trust(keys).check(Part::Delta, signed);
        checked.map_err(models_error(&self.path, &self.path))
    }

    /// Reads a delta from anywhere.
    ///
    /// # Errors
    /// [`ModelsError::Read`], [`ModelsError::TooLarge`] or [`ModelsError::Package`].
    pub fn read(path: impl AsRef<Path>) -> Result<DeltaFile, ModelsError> {
        let path = path.as_ref();
        let bytes = read(path, DELTA_ADVICE)?;
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
    /// [`ModelsError::Engine`] when the merged tensors do not fit the graph, and in a program without tract, which writes it.
    pub fn to_onnx(&self) -> Result<Vec<u8>, ModelsError> {
        if !self.merged {
            return Ok(self.graph.onnx.to_vec());
        }
        merged_onnx(&self.graph.onnx, &self.tensors).map_err(|source| ModelsError::Engine {
            path: self.path.clone(),
            source,
        })
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
        let tensors = &*self.tensors;
        let fused = self.graph.fused.then_some(tensors);
        let merged = self.merged.then_some(tensors);
        let engine = Engine::of(fused, &self.graph.onnx, merged, step_frames).map_err(failed)?;
        if engine.mel_bins() != MEL_BINS {
            let what = format!(
                "`frames` has {} mel bins, the front end makes {MEL_BINS}",
                engine.mel_bins()
            );
            return Err(failed(EngineError::Graph(what)));
        }
        if engine.classes() != self.language.labels.len() {
            return Err(ModelsError::Labels {
                path: self.path.clone(),
                labels: self.language.labels.len(),
                classes: engine.classes(),
            });
        }
        Ok(engine)
    }

    /// A listener with the language's settings, which may have been changed.
    ///
    /// # Errors
    /// As [`Model::engine`], and [`ModelsError::Detector`] when the settings do not fit it.
    pub fn listener(&self, step_frames: usize) -> Result<Listener, ModelsError> {
        let engine = self.engine(step_frames)?;
        let mut language = self.language.clone();
        let labels: Vec<String> = language.labels.iter().map(|label| nfc(label)).collect();
        // Keywords are told in NFC, however a model that was made elsewhere spells them; one that has a word in both ways keeps them apart.
        if labels.iter().collect::<BTreeSet<_>>().len() == labels.len() {
            language.labels = labels;
        }
        Listener::new(&language, engine).map_err(|source| ModelsError::Detector {
            path: self.path.clone(),
            source: Box::new(source),
        })
    }
}

/// Without keys, anyone's files are taken.
fn trust(keys: &[PublicKey]) -> Trust<'_> {
    match keys {
        [] => Trust::Anyone,
        keys => Trust::Only(keys),
    }
}

/// A file and the signature beside it.
struct SignedFile {
    file: Vec<u8>,
    signature: Option<Vec<u8>>,
}

impl SignedFile {
    fn read(path: &Path, keys: &[PublicKey], advice: &'static str) -> Result<Self, ModelsError> {
        Ok(Self {
            file: read(path, advice)?,
            signature: read_signature(path, keys)?,
        })
    }

    fn signed(&self) -> Signed<'_> {
        Signed {
            file: &self.file,
            signature: self.signature.as_deref(),
        }
    }
}

/// The signature beside a file, if there is one and any is looked at.
fn read_signature(path: &Path, keys: &[PublicKey]) -> Result<Option<Vec<u8>>, ModelsError> {
    let beside = signature_of(path);
    match !keys.is_empty() && beside.exists() {
        true => read(&beside, "copy the signature again").map(Some),
        false => Ok(None),
    }
}

/// What core refused of the file at `path`, with its place.
fn models_error(path: &Path, manifest: &Path) -> impl FnOnce(ModelError) -> ModelsError {
    move |error| match error {
        ModelError::Package { part, source } => {
            // The path says which.
            let source = match (part, *source) {
                (Part::Manifest | Part::Golden, PackageError::Unsigned { .. }) => {
                    Box::new(PackageError::Unsigned { what: "the file" })
                }
                (_, source) => Box::new(source),
            };
            let path = path.to_path_buf();
            ModelsError::Package { path, source }
        }
        ModelError::Signature { source, .. } => ModelsError::Package {
            path: signature_of(path),
            source,
        },
        ModelError::WrongNetwork {
            what,
            expected,
            found,
        } => ModelsError::WrongNetwork {
            path: path.to_path_buf(),
            manifest: manifest.to_path_buf(),
            what,
            expected: expected.to_string(),
            found: found.to_string(),
        },
        ModelError::WrongLanguage {
            expected, found, ..
        } => ModelsError::WrongName {
            path: path.to_path_buf(),
            expected,
            found,
        },
        ModelError::NoLabels => ModelsError::NoLabels {
            path: path.to_path_buf(),
        },
    }
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
