//! On-device keyword spotting: a base network and a language's small delta are merged when they are loaded, and the result listens.
//!
//! [`Models`] reads a directory, [`Engine`] runs a network step by step, [`Spotter`] turns samples into [`Event`]s, [`capture`] brings the
//! samples. The feature `cli` (default) adds the program `swr`, `eval` (default) its measurements on recordings, `tract` (default) networks
//! other than a causal BC-ResNet, `live` the microphone, `https` downloads over TLS.

pub mod capture;
#[cfg(feature = "cli")]
pub mod cli;
mod clip;
#[cfg(feature = "cli")]
mod cpu;
mod engine;
mod error;
#[cfg(feature = "cli")]
mod files;
pub mod install;
mod models;
mod release;
mod spotter;
mod words;

pub use clip::{CLIP_SAMPLES, ClipRunner};
#[cfg(feature = "tract")]
pub use engine::Plan;
pub use engine::{DEFAULT_STEP_FRAMES, Engine, Operation};
pub use error::{CaptureError, EngineError, ModelsError, SpotError};
pub use models::{DeltaFile, Model, Models};
pub use release::{ChangeError, Installed, pull, remove};
pub use spotter::{Event, Listener, Spotter};
