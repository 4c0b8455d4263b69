//! The microphone: cpal's callback copies into a lock-free ring, [`Microphone::read`] takes from it and brings the samples to 16 kHz mono.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use cpal::{
    BufferSize, ErrorKind, FromSample, InputCallbackInfo, Sample, SampleFormat, SizedSample,
    Stream, StreamConfig,
};
use rtrb::{Consumer, Producer, RingBuffer};
use swr_core::SAMPLE_RATE_HZ;

use super::Source;
use super::resample::Downsampler;
use crate::error::CaptureError;

/// Frames asked for at a time, 20 ms at 16 kHz. The sound system's default can be more than a second.
const BUFFER_FRAMES: u32 = 320;
/// Seconds of audio the ring holds while nobody reads.
const RING_S: usize = 2;
/// How long [`Microphone::read`] sleeps when the ring is empty.
const POLL: Duration = Duration::from_millis(5);
/// How long a silent device is waited for: no callback for so long means that it is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// The default input device, recording since it was opened.
pub struct Microphone {
    // Recording ends when it is dropped.
    _stream: Stream,
    ring: Consumer<f32>,
    errors: Receiver<cpal::Error>,
    lost_values: Arc<AtomicU64>,
    downsampler: Downsampler,
    name: String,
    rate_hz: u32,
    channels: u16,
}

impl Microphone {
    /// Opens the default input device, at 16 kHz mono if it can, otherwise at its own rate.
    ///
    /// # Errors
    /// [`CaptureError::NoMicrophone`] when there is none or it may not be used, [`CaptureError::Unconvertible`] for a rate that makes no sense.
    pub fn open() -> Result<Microphone, CaptureError> {
        let device = cpal::default_host()
            .default_input_device()
            .ok_or_else(|| CaptureError::NoMicrophone("no input device found".into()))?;
        let wanted = StreamConfig {
            channels: 1,
            sample_rate: SAMPLE_RATE_HZ,
            buffer_size: BufferSize::Fixed(BUFFER_FRAMES),
        };
        match Microphone::start(&device, wanted, SampleFormat::F32) {
            Ok(microphone) => microphone,
            Err(error) if error.kind() == ErrorKind::UnsupportedConfig => {
                let supported = device.default_input_config().map_err(no_microphone)?;
                let own = StreamConfig {
                    buffer_size: BufferSize::Fixed(supported.sample_rate() / 50),
                    ..supported.config()
                };
                Microphone::start(&device, own, supported.sample_format()).map_err(no_microphone)?
            }
            Err(error) => Err(no_microphone(error)),
        }
    }

    /// The outer error is cpal's, the inner one ours, so that the caller can try another configuration.
    fn start(
        device: &cpal::Device,
        config: StreamConfig,
        format: SampleFormat,
    ) -> Result<Result<Microphone, CaptureError>, cpal::Error> {
        let (rate_hz, channels) = (config.sample_rate, config.channels);
        let downsampler = match Downsampler::new(rate_hz, channels) {
            Ok(downsampler) => downsampler,
            Err(error) => return Ok(Err(error)),
        };
        let (producer, ring) = RingBuffer::new(RING_S * rate_hz as usize * usize::from(channels));
        let (report, errors) = channel();
        let lost_values = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&lost_values);
        let stream = match format {
            SampleFormat::F32 => build::<f32>(device, config, producer, lost, report),
            SampleFormat::I16 => build::<i16>(device, config, producer, lost, report),
            SampleFormat::I32 => build::<i32>(device, config, producer, lost, report),
            SampleFormat::U8 => build::<u8>(device, config, producer, lost, report),
            other => {
                return Ok(Err(CaptureError::NoMicrophone(format!(
                    "it delivers samples as {other}, which is not converted"
                ))));
            }
        }?;
        stream.play()?;
        let name = device
            .description()
            .map_or_else(|_| "default".to_owned(), |d| d.name().to_owned());
        Ok(Ok(Microphone {
            _stream: stream,
            ring,
            errors,
            lost_values,
            downsampler,
            name,
            rate_hz,
            channels,
        }))
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rate the device records at, before conversion.
    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }
}

impl Source for Microphone {
    fn read(&mut self, samples: &mut Vec<f32>) -> Result<bool, CaptureError> {
        let mut waited = Duration::ZERO;
        loop {
            for error in self.errors.try_iter() {
                if !is_harmless(error.kind()) {
                    return Err(CaptureError::MicrophoneFailed(
                        error.to_string().trim_end_matches('.').to_owned(),
                    ));
                }
            }
            let channels = usize::from(self.channels);
            let values = self.ring.slots() / channels * channels;
            if values > 0 {
                let mut interleaved = vec![0.0; values];
                let (interleaved, _) = self.ring.pop_partial_slice(&mut interleaved);
                self.downsampler.push(interleaved, samples);
                return Ok(true);
            }
            if waited >= PATIENCE {
                return Err(CaptureError::MicrophoneFailed(format!(
                    "no audio for {} s",
                    PATIENCE.as_secs()
                )));
            }
            std::thread::sleep(POLL);
            waited += POLL;
        }
    }

    fn lost_samples(&self) -> u64 {
        let frames = self.lost_values.load(Ordering::Relaxed) / u64::from(self.channels);
        frames * u64::from(SAMPLE_RATE_HZ) / u64::from(self.rate_hz)
    }
}

impl std::fmt::Debug for Microphone {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Microphone")
            .field("name", &self.name)
            .field("rate_hz", &self.rate_hz)
            .field("channels", &self.channels)
            .finish_non_exhaustive()
    }
}

/// Builds the stream. The callback neither allocates, locks, logs nor fails: what does not fit into the ring is counted and dropped by whole frames.
fn build<T>(
    device: &cpal::Device,
    config: StreamConfig,
    mut ring: Producer<f32>,
    lost: Arc<AtomicU64>,
    report: Sender<cpal::Error>,
) -> Result<Stream, cpal::Error>
where
    T: SizedSample,
    f32: FromSample<T>,
{
    let channels = usize::from(config.channels);
    device.build_input_stream(
        config,
        move |values: &[T], _: &InputCallbackInfo| {
            let room = ring.slots().min(values.len()) / channels * channels;
            if let Ok(chunk) = ring.write_chunk_uninit(room) {
                chunk.fill_from_iter(values[..room].iter().map(|&value| f32::from_sample(value)));
            }
            lost.fetch_add((values.len() - room) as u64, Ordering::Relaxed);
        },
        move |error| {
            // The receiver is gone only while the stream is being dropped.
            let _ = report.send(error);
        },
        Some(Duration::from_secs(2)),
    )
}

/// Errors after which the stream goes on.
fn is_harmless(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Xrun | ErrorKind::RealtimeDenied | ErrorKind::DeviceChanged
    )
}

fn no_microphone(error: cpal::Error) -> CaptureError {
    CaptureError::NoMicrophone(error.to_string().trim_end_matches('.').to_owned())
}
