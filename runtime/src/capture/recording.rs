//! A whole recording as a source: the samples of a file, handed out in chunks of 40 ms.

use std::fs;
use std::path::Path;

use swr_core::audio::{AudioError, decode_channel, to_16k_mono};

use super::{CHUNK_SAMPLES, Notice, Source};
use crate::error::CaptureError;

/// Samples in memory, delivered one chunk after another.
#[derive(Debug, Clone)]
pub struct Recording {
    samples: Vec<f32>,
    next: usize,
    notices: Vec<Notice>,
}

impl Recording {
    /// A source of `samples`: 16 kHz mono, full scale ±1.
    pub fn new(samples: Vec<f32>) -> Recording {
        Recording {
            samples,
            next: 0,
            notices: Vec::new(),
        }
    }

    /// Decodes a file of any format, rate and channel count: the mean of its channels, or the one numbered `channel`, from 1.
    ///
    /// # Errors
    /// [`CaptureError::Read`] and [`CaptureError::Audio`], with the path.
    pub fn open(path: impl AsRef<Path>, channel: Option<u16>) -> Result<Recording, CaptureError> {
        let path = path.as_ref();
        let bytes = fs::read(path).map_err(|source| CaptureError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        let unusable = |source: AudioError| CaptureError::Audio {
            path: path.to_path_buf(),
            source,
        };
        let mut audio = decode_channel(&bytes, channel).map_err(unusable)?;
        let notices = std::mem::take(&mut audio.notes)
            .into_iter()
            .rev()
            .map(|note| Notice::Recording {
                name: path.display().to_string(),
                problem: note.problem,
            })
            .collect();
        Ok(Recording {
            notices,
            ..Recording::new(to_16k_mono(audio).map_err(unusable)?)
        })
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

    fn notice(&mut self) -> Option<Notice> {
        self.notices.pop()
    }
}
