//! Speech folders in, labelled one-second clips out: which clips make up the task of a language, their samples, seeded test streams, and the
//! confidence intervals of what is counted on them. Features, augmentation and networks live elsewhere.
//!
//! ```no_run
//! use std::path::Path;
//! use swr_dataset::{TaskOptions, load, task};
//!
//! let task = task(Path::new("../shared/speech"), "ar", &TaskOptions::default())?;
//! println!("{}", task.report);
//! let samples = load(&task.test[0])?; // 16,000 samples at 16 kHz
//! # Ok::<(), swr_dataset::DatasetError>(())
//! ```

mod crops;
mod division;
mod error;
mod folders;
mod interval;
mod layout;
mod load;
mod noise;
mod sentences;
mod sounds;
mod stream;
mod subset;
mod task;
mod unknown;

pub use error::DatasetError;
pub use folders::audio_below;
pub use interval::{binomial_interval, poisson_interval, poisson_upper, wilson_interval};
pub use layout::{NO_SPEAKER, Split, nfc, stable_hash};
pub use load::{
    CLIP_SAMPLES, Faults, decode_file, fit_one_second, load, load_all, load_readable,
    load_readable_i16,
};
pub use noise::{Background, pink_noise, white_noise};
pub use sentences::sentences;
pub use sounds::{Made, Sound, household, steady_tones};
pub use stream::{Stream, StreamOptions, active_span, stream};
pub use swr_core::matching::{Detected, Matched, Spoken, match_detections};
pub use task::{
    Clip, Report, SILENCE, Source, SplitReport, Task, TaskOptions, UNKNOWN, UnknownRule, languages,
    task,
};
