//! Where audio comes from: a file, a pipe or (feature `live`) a microphone, each as a [`Source`] of 16 kHz mono samples.
//! Nothing here knows frames, networks or keywords.

#[cfg(feature = "live")]
mod microphone;
mod notice;
mod pipe;
mod recording;
mod resample;
#[cfg(any(feature = "live", test))]
mod watch;

use std::time::{Duration, Instant};

use swr_core::SAMPLE_RATE_HZ;

use crate::error::CaptureError;

#[cfg(feature = "live")]
pub use microphone::{Device, Microphone, devices};
pub use notice::Notice;
pub use pipe::Pipe;
pub use recording::Recording;

/// Samples that sources without a rhythm of their own hand out at a time: 40 ms.
const CHUNK_SAMPLES: usize = 640;

/// Something that delivers 16 kHz mono samples, full scale ±1.
pub trait Source {
    /// Waits for samples if there are none yet, and appends them to `samples`; `false` when the audio has ended.
    ///
    /// # Errors
    /// [`CaptureError`] when the file, pipe or device fails. The samples appended before stay valid.
    fn read(&mut self, samples: &mut Vec<f32>) -> Result<bool, CaptureError>;

    /// What there is to tell since the last call, one at a time: of a device that comes and goes, of a recording that says something wrongly.
    fn notice(&mut self) -> Option<Notice> {
        None
    }
}

/// Delivers the samples of another source as fast as they would be spoken.
#[derive(Debug)]
pub struct Paced<S> {
    source: S,
    start: Option<Instant>,
    delivered_samples: u64,
}

impl<S: Source> Paced<S> {
    /// Paces `source`; its clock starts with the first [`Source::read`].
    pub fn new(source: S) -> Paced<S> {
        Paced {
            source,
            start: None,
            delivered_samples: 0,
        }
    }
}

impl<S: Source> Source for Paced<S> {
    fn read(&mut self, samples: &mut Vec<f32>) -> Result<bool, CaptureError> {
        let start = *self.start.get_or_insert_with(Instant::now);
        let before = samples.len();
        let more = self.source.read(samples)?;
        self.delivered_samples += (samples.len() - before) as u64;
        let due =
            Duration::from_secs_f64(self.delivered_samples as f64 / f64::from(SAMPLE_RATE_HZ));
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        Ok(more)
    }

    fn notice(&mut self) -> Option<Notice> {
        self.source.notice()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pacing_keeps_the_samples_and_takes_their_time() -> Result<(), CaptureError> {
        let samples: Vec<f32> = (0..1_600).map(|i| i as f32 / 1_600.0).collect();
        let start = Instant::now();
        let mut paced = Paced::new(Recording::new(samples.clone()));
        let mut delivered = Vec::new();
        while paced.read(&mut delivered)? {}
        assert_eq!(delivered, samples);
        assert!(
            start.elapsed() >= Duration::from_millis(100),
            "{:?}",
            start.elapsed()
        );
        Ok(())
    }
}
