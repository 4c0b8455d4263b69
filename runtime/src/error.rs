//! What can go wrong between the files of a model directory or a source of audio and the first event, each with what to do about it.

use std::io;
use std::path::PathBuf;

use swr_core::audio::{AudioError, MAX_RATE_HZ, MIN_RATE_HZ};
use swr_core::detector::DetectorError;
use swr_core::network::NetworkError;
use swr_core::package::PackageError;
use swr_core::spotter;

/// Why a network could not be built or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The bytes are no ONNX model.
    #[error("not an onnx model: {0}")]
    NotOnnx(String),
    /// The graph has not the form this runtime feeds.
    #[error(
        "the graph does not stream: {0}; expected inputs `frames [1,1,F,N]` and `state.*`, outputs `logits [1,C,1,N]` and `next_state.*`"
    )]
    Graph(String),
    /// A tensor does not fit the graph.
    #[error("tensor `{name}`: {what}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A merged tensor has no initialiser of its name.
    #[error(
        "the graph has no initialiser `{name}`; base and merged tensors do not belong together"
    )]
    UnknownTensor {
        /// The name looked for.
        name: String,
    },
    /// A step of no frames was asked for.
    #[error("a step must have at least one frame, found 0")]
    NoFrames,
    /// A step was given another number of values than it takes.
    #[error("a step takes {expected} values (step frames x mel bins), found {found}")]
    StepLength {
        /// Values given.
        found: usize,
        /// Values a step takes.
        expected: usize,
    },
    /// tract refused the graph or failed while running it.
    #[error("tract: {0}")]
    Tract(String),
    /// The fused pass refused its tensors or frames.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A graph that only tract runs or writes, in a program without it.
    #[error(
        "this program was built without tract, which this needs: its own pass runs causal BC-ResNet alone, and writes no ONNX; build it with `--features tract`"
    )]
    NeedsTract,
}

impl EngineError {
    #[cfg(feature = "tract")]
    pub(crate) fn tract(error: impl std::fmt::Display) -> EngineError {
        EngineError::Tract(format!("{error:#}"))
    }
}

/// Why a directory of models or one of its files could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelsError {
    /// There is no such directory.
    #[error(
        "{path}: no such directory; give the directory that holds base.onnx and base.json with --models or SWR_MODELS",
        path = path.display()
    )]
    NoDirectory {
        /// The directory looked for.
        path: PathBuf,
    },
    /// A file could not be read.
    #[error("{path}: cannot be read: {source}; {advice}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
        /// What to do next.
        advice: &'static str,
    },
    /// A file is larger than any model.
    #[error("{path}: more than {limit_bytes} bytes; check that this is the right file", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The largest accepted size.
        limit_bytes: u64,
    },
    /// A manifest or delta is damaged, of another version, or for another base.
    #[error("{path}: {source}", path = path.display())]
    Package {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<PackageError>,
    },
    /// The network is not the one that the manifest describes.
    #[error(
        "{path}: its {what} has digest {found}, {manifest} promises {expected}; copy both files from the same release",
        path = path.display(), manifest = manifest.display()
    )]
    WrongNetwork {
        /// The ONNX file.
        path: PathBuf,
        /// The manifest.
        manifest: PathBuf,
        /// What was digested.
        what: &'static str,
        /// Digest in the manifest.
        expected: String,
        /// Digest of the file.
        found: String,
    },
    /// The network cannot be built with these tensors.
    #[error("{path}: {source}", path = path.display())]
    Engine {
        /// The file whose tensors were to run.
        path: PathBuf,
        /// What is wrong.
        source: EngineError,
    },
    /// The delta changes weights, but names no labels.
    #[error(
        "{path}: it names no labels, so that nothing can be spotted with it; `swr export --delta` makes a network of it",
        path = path.display()
    )]
    NoLabels {
        /// The delta.
        path: PathBuf,
    },
    /// The network has another number of classes than there are labels.
    #[error(
        "{path}: the network has {classes} classes, but {labels} labels are listed; export network and labels together",
        path = path.display()
    )]
    Labels {
        /// The file that lists the labels.
        path: PathBuf,
        /// Number of labels.
        labels: usize,
        /// Number of classes of the network.
        classes: usize,
    },
    /// Front-end settings that are not reproduced, or languages whose front ends differ.
    #[error("{path}: {source}", path = path.display())]
    Spotter {
        /// The file or folder that asks for them.
        path: PathBuf,
        /// What does not fit.
        source: Box<SpotError>,
    },
    /// Labels, thresholds or settings of the detector that do not fit together.
    #[error("{path}: {source}", path = path.display())]
    Detector {
        /// The file that holds labels and thresholds.
        path: PathBuf,
        /// What is wrong.
        source: Box<DetectorError>,
    },
    /// A language that is not there.
    #[error("{directory}: no model for language \"{language}\"; there are: {there}", directory = directory.display())]
    NoLanguage {
        /// The directory.
        directory: PathBuf,
        /// The language asked for.
        language: String,
        /// The languages that are there.
        there: String,
    },
    /// A delta whose file name is not its language.
    #[error(
        "{path}: the file holds language \"{found}\", expected \"{expected}\" as its name says; rename it",
        path = path.display()
    )]
    WrongName {
        /// The file.
        path: PathBuf,
        /// Language of the file's name.
        expected: String,
        /// Language in the file.
        found: String,
    },
}

/// Why audio could not be spotted in.
pub type SpotError = spotter::SpotError<EngineError>;

/// Why audio could not be captured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// A file could not be read.
    #[error("{path}: cannot be read: {source}; check the path", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file that is not usable audio.
    #[error("{path}: {source}", path = path.display())]
    Audio {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: AudioError,
    },
    /// A pipe failed, or what comes through it is not understood.
    #[error("standard input: {0}")]
    Pipe(String),
    /// The channel that was asked for is not there.
    #[error("--channel: {0}")]
    Channel(String),
    /// A rate or channel count that is not converted.
    #[error(
        "the audio has {channels} channels at {rate_hz} Hz; expected at least 1 channel at {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz"
    )]
    Unconvertible {
        /// The rate.
        rate_hz: u32,
        /// The number of channels.
        channels: u16,
    },
    /// There is no microphone to open.
    #[error("no microphone: {0}; plug one in, see `swr devices`, or give a file with --file")]
    NoMicrophone(String),
}
