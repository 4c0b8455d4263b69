//! A whole recording as a source: the samples of a WAV, FLAC or Ogg Opus file, handed out in chunks of 40 ms.

use std::fs;
use std::path::Path;

use swr_core::audio::decode_16k_mono;

use super::{CHUNK_SAMPLES, Source};
use crate::error::CaptureError;

/// Samples in memory, delivered one chunk after another.
#[derive(Debug, Clone)]
pub struct Recording {
    samples: Vec<f32>,
    next: usize,
}

impl Recording {
    /// A source of `samples`: 16 kHz mono, full scale ±1.
    pub fn new(samples: Vec<f32>) -> Recording {
        Recording { samples, next: 0 }
    }

    /// Decodes a file of any rate and channel count.
    ///
    /// # Errors
    /// [`CaptureError::Read`] and [`CaptureError::Audio`], with the path.
    pub fn open(path: impl AsRef<Path>) -> Result<Recording, CaptureError> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| CaptureError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        let samples = decode_16k_mono(&bytes).map_err(|source| CaptureError::Audio {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(Recording::new(samples))
    }

    /// All samples, delivered or not.
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }
}

impl Source for Recording {
    fn read(&mut self, samples: &mut Vec<f32>) -> Result<bool, CaptureError> {
        let end = self.samples.len().min(self.next + CHUNK_SAMPLES);
        samples.extend_from_slice(&self.samples[self.next..end]);
        self.next = end;
        Ok(end < self.samples.len())
    }
}
