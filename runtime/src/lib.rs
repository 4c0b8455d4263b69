//! On-device keyword spotting: a base network and a language's small delta are merged when they are loaded, and the result listens.
//!
//! [`Models`] reads a directory, [`Engine`] runs a network step by step with tract, [`Spotter`] turns samples into [`Event`]s,
//! [`capture`] brings the samples, [`cli`] is the program `swr`.

pub mod capture;
pub mod cli;
mod clip;
mod cpu;
mod engine;
mod error;
mod files;
pub mod install;
mod models;
mod release;
mod spotter;

pub use clip::{CLIP_SAMPLES, ClipRunner};
pub use engine::{DEFAULT_STEP_FRAMES, Engine, Operation};
pub use error::{CaptureError, EngineError, ModelsError, SpotError};
pub use models::{DeltaFile, Model, Models};
pub use release::Installed;
pub use spotter::{Event, Listener, Spotter};
