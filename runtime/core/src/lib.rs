//! What the trainer, the runtime and devices share: reading audio, the log-mel front end, the package format with its merge, the network,
//! the detector, and the two rooms that put these together: a verified [`model`] and the [`spotter`] that listens with it.
//!
//! Bytes and samples come in, features, named tensors and events go out; nothing here opens a file, a thread or a device.
//! The decoding of audio files needs the feature `std` (on by default), which also lets the front end use rustfft and the network SIMD; the
//! rest is `no_std` + `alloc`. Each module uses only those listed above it.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

// Numbers and names.
mod settings;

// Arithmetic.
mod softmax;

pub mod labels;

// Samples to frames.
pub mod frontend;

#[cfg(feature = "std")]
pub mod audio;

// Files to tensors, and what runs them.
pub mod package;

pub mod network;

// Logits to detections.
pub mod detector;

pub mod golden;

pub mod matching;

// Files to a verified model, and samples to events.
pub mod model;

pub mod spotter;

pub use settings::{
    CONTEXT_FRAMES, FFT_SIZE, FrontendSettings, GainSettings, HOP_SAMPLES, MEL_BINS,
    SAMPLE_RATE_HZ, WINDOW_FRAMES, WINDOW_SAMPLES,
};
