//! What the trainer, the runtime and devices share: reading audio, the log-mel front end, the package format with its merge, and the detector.
//!
//! Bytes and samples come in, features, named tensors and detections go out; nothing here opens a file, a thread or a device.
//! Audio decoding and the front end need the feature `std` (on by default); the rest is `no_std` + `alloc`.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

#[cfg(feature = "std")]
pub mod audio;
pub mod detector;
#[cfg(feature = "std")]
pub mod frontend;
pub mod network;
pub mod package;
mod settings;

pub use settings::{
    FFT_SIZE, FrontendSettings, HOP_SAMPLES, MEL_BINS, SAMPLE_RATE_HZ, WINDOW_SAMPLES,
};
