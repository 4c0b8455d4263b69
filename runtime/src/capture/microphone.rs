//! The microphone: cpal's callback copies into a lock-free ring, [`Microphone::read`] takes from it and brings the samples to 16 kHz mono. A device
//! that goes away is waited for and opened again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
use cpal::{
    BufferSize, ErrorKind, FromSample, I24, InputCallbackInfo, Sample, SampleFormat, SizedSample,
    Stream, StreamConfig, U24,
};
use rtrb::{Consumer, Producer, RingBuffer};
use serde::Serialize;
use swr_core::SAMPLE_RATE_HZ;

use super::resample::Downsampler;
use super::watch::Watch;
use super::{Notice, Source};
use crate::error::CaptureError;

/// Frames asked for at a time, 20 ms at 16 kHz. The sound system's default can be more than a second.
const BUFFER_FRAMES: u32 = 320;
/// Seconds of audio the ring holds while nobody reads.
const RING_S: usize = 2;
/// How long [`Microphone::read`] sleeps when the ring is empty.
const POLL: Duration = Duration::from_millis(5);
/// How long a silent device is waited for: no callback for so long means that it is gone.
const PATIENCE: Duration = Duration::from_secs(5);
/// From one attempt to open a device that is gone to the next.
const RETRY: Duration = Duration::from_secs(1);
/// The most that [`Microphone::read`] waits for audio.
const WAIT: Duration = Duration::from_millis(100);
/// Between two notices of lost audio.
const BETWEEN_LOSSES: Duration = Duration::from_secs(10);

/// A device that can be listened to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its name, for people.
    pub name: String,
    /// Its name in the sound system.
    pub id: String,
    /// Whether it is used when none is asked for.
    pub default: bool,
    /// Rate, channels and sample format that it records in by itself, where it tells.
    pub records: Option<String>,
}

/// All input devices.
///
/// # Errors
/// [`CaptureError::NoMicrophone`] when the sound system does not list them.
pub fn devices() -> Result<Vec<Device>, CaptureError> {
    let host = cpal::default_host();
    let default = host.default_input_device().and_then(|d| d.id().ok());
    let described = |device: cpal::Device| {
        let id = device.id().ok()?;
        let config = device.default_input_config().ok();
        Some(Device {
            name: name(&device),
            default: Some(&id) == default.as_ref(),
            id: id.to_string(),
            records: config.map(|config| {
                let (rate, channels) = (config.sample_rate(), config.channels());
                format!("{rate} Hz, {channels} channels, {}", config.sample_format())
            }),
        })
    };
    let devices = host.input_devices().map_err(no_microphone)?;
    Ok(devices.filter_map(described).collect())
}

/// An input device, recording since it was opened.
pub struct Microphone {
    /// The device that was asked for; the default one if none was.
    wanted: Option<String>,
    /// The one of its channels that is heard, from 1; the mean of all if none was asked for.
    channel: Option<u16>,
    name: String,
    rate_hz: u32,
    /// None while the device is gone.
    recording: Option<Recording>,
    /// When to look for it again.
    next_try: Instant,
    notices: VecDeque<Notice>,
    watch: Watch,
}

/// A stream under way.
struct Recording {
    // Recording ends when it is dropped.
    _stream: Stream,
    ring: Consumer<f32>,
    errors: Receiver<cpal::Error>,
    lost_values: Arc<AtomicU64>,
    told_lost: u64,
    /// A machine that is too busy loses audio all the time.
    next_told_lost: Instant,
    downsampler: Downsampler,
    rate_hz: u32,
    channels: u16,
    last_heard: Instant,
}

impl Microphone {
    /// Opens the device whose name or id is `wanted`, or the only one whose name contains it in any case; the default device if none is asked for. At
    /// 16 kHz mono if it can, otherwise at its own rate. With a `channel`, from 1, it is opened with all that it has, and that one is heard.
    ///
    /// # Errors
    /// [`CaptureError::NoMicrophone`] when there is none or it may not be used, [`CaptureError::Unconvertible`] for a rate that makes no sense,
    /// [`CaptureError::Channel`] for a channel that is not there.
    pub fn open(wanted: Option<&str>, channel: Option<u16>) -> Result<Microphone, CaptureError> {
        let device = find(wanted)?;
        let recording = Recording::start(&device, channel)?;
        Ok(Microphone {
            wanted: wanted.map(String::from),
            channel,
            name: name(&device),
            rate_hz: recording.rate_hz,
            recording: Some(recording),
            next_try: Instant::now(),
            notices: VecDeque::new(),
            watch: Watch::default(),
        })
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rate the device records at, before conversion.
    pub fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// The device is gone.
    fn lose(&mut self, reason: String) {
        self.recording = None;
        self.next_try = Instant::now() + RETRY;
        self.notices.push_back(Notice::Gone {
            device: self.name.clone(),
            reason,
        });
    }

    /// Looks for the device that is gone.
    fn look(&mut self, samples: &mut Vec<f32>) {
        if Instant::now() < self.next_try {
            std::thread::sleep(WAIT);
            return;
        }
        self.next_try = Instant::now() + RETRY;
        let found = find(self.wanted.as_deref());
        let opened =
            found.and_then(|device| Ok((name(&device), Recording::start(&device, self.channel)?)));
        if let Ok((name, recording)) = opened {
            (self.name, self.rate_hz) = (name, recording.rate_hz);
            self.recording = Some(recording);
            self.notices.push_back(Notice::Back {
                device: self.name.clone(),
            });
            // What was heard before the gap and what comes after it are not one word.
            samples.resize(samples.len() + SAMPLE_RATE_HZ as usize, 0.0);
        }
    }
}

impl Source for Microphone {
    fn read(&mut self, samples: &mut Vec<f32>) -> Result<bool, CaptureError> {
        let Some(recording) = &mut self.recording else {
            self.look(samples);
            return Ok(true);
        };
        let start = samples.len();
        match recording.read(samples) {
            Ok(()) => {
                let heard = &samples[start..];
                self.notices.extend(self.watch.hear(heard));
                if let Some(problem) = recording.downsampler.warning(false) {
                    self.notices.push_back(Notice::Recording {
                        name: self.name.clone(),
                        problem,
                    });
                }
                let lost = recording.lost_milliseconds();
                let due = recording.next_told_lost <= Instant::now();
                if lost > recording.told_lost && due {
                    let milliseconds = lost - recording.told_lost;
                    recording.told_lost = lost;
                    recording.next_told_lost = Instant::now() + BETWEEN_LOSSES;
                    self.notices.push_back(Notice::Lost { milliseconds });
                }
            }
            Err(reason) => self.lose(reason),
        }
        Ok(true)
    }

    fn notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }
}

impl Recording {
    fn start(device: &cpal::Device, channel: Option<u16>) -> Result<Recording, CaptureError> {
        if channel.is_some() {
            return Recording::start_as_it_is(device, channel);
        }
        let wanted = StreamConfig {
            channels: 1,
            sample_rate: SAMPLE_RATE_HZ,
            buffer_size: BufferSize::Fixed(BUFFER_FRAMES),
        };
        match Recording::start_as(device, wanted, SampleFormat::F32, None) {
            Ok(recording) => recording,
            Err(error) if error.kind() == ErrorKind::UnsupportedConfig => {
                Recording::start_as_it_is(device, None)
            }
            Err(error) => Err(no_microphone(error)),
        }
    }

    /// At the rate and with the channels that the device records in by itself.
    fn start_as_it_is(
        device: &cpal::Device,
        channel: Option<u16>,
    ) -> Result<Recording, CaptureError> {
        let supported = device.default_input_config().map_err(no_microphone)?;
        let own = StreamConfig {
            buffer_size: BufferSize::Fixed(supported.sample_rate() / 50),
            ..supported.config()
        };
        let format = supported.sample_format();
        Recording::start_as(device, own, format, channel).map_err(no_microphone)?
    }

    /// The outer error is cpal's, the inner one ours, so that the caller can try another configuration.
    fn start_as(
        device: &cpal::Device,
        config: StreamConfig,
        format: SampleFormat,
        channel: Option<u16>,
    ) -> Result<Result<Recording, CaptureError>, cpal::Error> {
        let (rate_hz, channels) = (config.sample_rate, config.channels);
        let downsampler = match Downsampler::new(rate_hz, channels, channel) {
            Ok(downsampler) => downsampler,
            Err(error) => return Ok(Err(error)),
        };
        let (producer, ring) = RingBuffer::new(RING_S * rate_hz as usize * usize::from(channels));
        let (report, errors) = mpsc::channel();
        let lost_values = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&lost_values);
        let stream = match format {
            SampleFormat::I8 => build::<i8>(device, config, producer, lost, report),
            SampleFormat::I16 => build::<i16>(device, config, producer, lost, report),
            SampleFormat::I24 => build::<I24>(device, config, producer, lost, report),
            SampleFormat::I32 => build::<i32>(device, config, producer, lost, report),
            SampleFormat::I64 => build::<i64>(device, config, producer, lost, report),
            SampleFormat::U8 => build::<u8>(device, config, producer, lost, report),
            SampleFormat::U16 => build::<u16>(device, config, producer, lost, report),
            SampleFormat::U24 => build::<U24>(device, config, producer, lost, report),
            SampleFormat::U32 => build::<u32>(device, config, producer, lost, report),
            SampleFormat::U64 => build::<u64>(device, config, producer, lost, report),
            SampleFormat::F32 => build::<f32>(device, config, producer, lost, report),
            SampleFormat::F64 => build::<f64>(device, config, producer, lost, report),
            other => {
                return Ok(Err(CaptureError::NoMicrophone(format!(
                    "it delivers samples as {other}, which is not converted"
                ))));
            }
        }?;
        stream.play()?;
        Ok(Ok(Recording {
            _stream: stream,
            ring,
            errors,
            lost_values,
            told_lost: 0,
            next_told_lost: Instant::now(),
            downsampler,
            rate_hz,
            channels,
            last_heard: Instant::now(),
        }))
    }

    /// Waits for samples, a little while; the error is why none will come.
    fn read(&mut self, samples: &mut Vec<f32>) -> Result<(), String> {
        let start = Instant::now();
        while start.elapsed() < WAIT {
            for error in self.errors.try_iter() {
                if !is_harmless(error.kind()) {
                    return Err(reason(&error));
                }
            }
            let channels = usize::from(self.channels);
            let values = self.ring.slots() / channels * channels;
            if values > 0 {
                let mut interleaved = vec![0.0; values];
                let (interleaved, _) = self.ring.pop_partial_slice(&mut interleaved);
                self.downsampler.push(interleaved, samples);
                self.last_heard = Instant::now();
                return Ok(());
            }
            if self.last_heard.elapsed() >= PATIENCE {
                return Err(format!("no audio for {} s", PATIENCE.as_secs()));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    fn lost_milliseconds(&self) -> u64 {
        let frames = self.lost_values.load(Ordering::Relaxed) / u64::from(self.channels);
        frames * 1_000 / u64::from(self.rate_hz)
    }
}

impl std::fmt::Debug for Microphone {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Microphone")
            .field("name", &self.name)
            .field("rate_hz", &self.rate_hz)
            .field("there", &self.recording.is_some())
            .finish_non_exhaustive()
    }
}

/// The device that is asked for. Devices are listed only for a name: listing wakes every one of them.
fn find(wanted: Option<&str>) -> Result<cpal::Device, CaptureError> {
    let host = cpal::default_host();
    let Some(wanted) = wanted else {
        let device = host.default_input_device();
        return device.ok_or_else(|| CaptureError::NoMicrophone("no input device found".into()));
    };
    let devices: Vec<cpal::Device> = host.input_devices().map_err(no_microphone)?.collect();
    let names: Vec<String> = devices.iter().map(name).collect();
    let is = |device: &cpal::Device, name: &String| {
        name == wanted || device.id().is_ok_and(|id| id.to_string() == wanted)
    };
    let exact = devices.iter().zip(&names).position(|(d, n)| is(d, n));
    let part = wanted.to_lowercase();
    let mut containing = (0..names.len()).filter(|i| names[*i].to_lowercase().contains(&part));
    let place = exact.or_else(|| containing.next().filter(|_| containing.next().is_none()));
    match place.and_then(|place| devices.into_iter().nth(place)) {
        Some(device) => Ok(device),
        None => Err(CaptureError::NoMicrophone(format!(
            "no device, or more than one, has \"{wanted}\" in its name; there are: {}",
            names.join(", ")
        ))),
    }
}

fn name(device: &cpal::Device) -> String {
    device
        .description()
        .map_or_else(|_| "default".to_owned(), |d| d.name().to_owned())
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

fn reason(error: &cpal::Error) -> String {
    error.to_string().trim_end_matches('.').to_owned()
}

fn no_microphone(error: cpal::Error) -> CaptureError {
    CaptureError::NoMicrophone(reason(&error))
}
