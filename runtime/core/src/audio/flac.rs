//! FLAC: the bytes of a native FLAC file enter as they come, interleaved samples at the file's rate leave.

use std::io::{ErrorKind, Read};
use std::mem::take;

use super::input::Input;
use super::{AudioError, Format, Note, Samples, integer_scale};

/// Bytes that are read ahead of what is decoded, at most.
const AHEAD_BYTES: usize = 4_096;

/// A FLAC file or stream, from which samples are read.
pub(super) struct Flac<'a> {
    /// None when all is read.
    reader: Option<claxon::FlacReader<Recent<'a>>>,
    info: claxon::metadata::StreamInfo,
    /// Samples of each channel that were read.
    read: u64,
    /// What the reader works in.
    buffer: Vec<i32>,
    notes: Vec<Note>,
}

impl<'a> Flac<'a> {
    /// Reads the header, to the first block.
    pub(super) fn open(input: Input<'a>) -> Result<Self, AudioError> {
        let recent = Recent {
            input,
            last: Vec::new(),
            read: 0,
        };
        let reader = claxon::FlacReader::new(recent).map_err(refusal)?;
        let info = reader.streaminfo();
        let bits = info.bits_per_sample;
        if !(4..=24).contains(&bits) {
            return Err(AudioError::Unsupported {
                format: Format::Flac,
                problem: format!("samples of {bits} bits, expected 4 to 24"),
            });
        }
        Ok(Self {
            reader: Some(reader),
            info,
            read: 0,
            buffer: Vec::new(),
            notes: Vec::new(),
        })
    }

    /// No block follows; `cut` inside one.
    fn end(&mut self, cut: bool) {
        self.reader = None;
        let problem = match self.info.samples {
            Some(expected) if expected > self.read => format!(
                "it ends {} samples before its header says",
                expected - self.read
            ),
            _ if cut => "it ends inside a block, which is left out".to_owned(),
            _ => return,
        };
        self.notes.push(Note::lost(problem));
    }
}

/// The bytes of a file, and what was read of them last.
struct Recent<'a> {
    input: Input<'a>,
    last: Vec<u8>,
    read: u64,
}

impl Recent<'_> {
    /// Whether a stream begins among the last bytes, other than the file's first.
    fn begins_again(&self) -> bool {
        let first = self.read - self.last.len() as u64;
        let mut starts = (first..).zip(self.last.windows(4));
        starts.any(|(at, bytes)| at > 0 && bytes == b"fLaC")
    }
}

impl Read for Recent<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.input.read(bytes)?;
        self.read += read as u64;
        self.last.extend_from_slice(&bytes[..read]);
        let old = self.last.len().saturating_sub(AHEAD_BYTES);
        self.last.drain(..old);
        Ok(read)
    }
}

impl Samples for Flac<'_> {
    fn sample_rate_hz(&self) -> u32 {
        self.info.sample_rate
    }

    fn channels(&self) -> u16 {
        self.info.channels as u16
    }

    fn length(&self) -> Option<u64> {
        self.info.samples
    }

    fn notes(&self) -> &[Note] {
        &self.notes
    }

    fn read(&mut self, samples: &mut Vec<f32>) -> Result<bool, AudioError> {
        let Some(reader) = &mut self.reader else {
            return Ok(false);
        };
        let info = self.info;
        // Behind the last sample stand tags that other programs have put there.
        let is_whole = info.samples == Some(self.read);
        let block = match reader.blocks().read_next_or_eof(take(&mut self.buffer)) {
            Ok(Some(block)) => block,
            Ok(None) => {
                self.end(false);
                return Ok(false);
            }
            Err(claxon::Error::FormatError(_)) if is_whole => {
                if self
                    .reader
                    .take()
                    .is_some_and(|reader| reader.into_inner().begins_again())
                {
                    let problem = "another FLAC stream follows its last sample, and is not heard";
                    self.notes.push(Note::lost(problem));
                }
                return Ok(false);
            }
            // The length is not known: tags, or damage.
            Err(claxon::Error::FormatError(_)) if info.samples.is_none() && self.read > 0 => {
                self.reader = None;
                let problem = format!(
                    "what follows sample {} is no block of FLAC and left out",
                    self.read
                );
                self.notes.push(Note::lost(problem));
                return Ok(false);
            }
            Err(claxon::Error::IoError(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                self.end(!is_whole);
                return Ok(false);
            }
            Err(error) => return Err(refusal(error)),
        };
        if block.channels() != info.channels {
            return Err(damaged(format!(
                "a block of {} channels after sample {}, expected {} as the header says",
                block.channels(),
                self.read,
                info.channels,
            )));
        }
        let scale = integer_scale(info.bits_per_sample);
        let range = -(1i32 << (info.bits_per_sample - 1))..1i32 << (info.bits_per_sample - 1);
        let (start, channels) = (samples.len(), info.channels as usize);
        samples.resize(start + block.duration() as usize * channels, 0.0);
        for channel in 0..block.channels() {
            let of_channel = samples[start + channel as usize..].iter_mut();
            let values = block.channel(channel).iter().enumerate();
            for (sample, (index, value)) in of_channel.step_by(channels).zip(values) {
                // A block may state another sample size than the header, which would break the scale.
                if !range.contains(value) {
                    return Err(damaged(format!(
                        "value {value} at sample {} exceeds its {} bits",
                        self.read + index as u64,
                        info.bits_per_sample
                    )));
                }
                *sample = *value as f32 * scale;
            }
        }
        self.read += u64::from(block.duration());
        self.buffer = block.into_buffer();
        Ok(true)
    }
}

fn damaged(problem: String) -> AudioError {
    AudioError::Damaged {
        format: Format::Flac,
        problem,
    }
}

fn refusal(error: claxon::Error) -> AudioError {
    match error {
        claxon::Error::FormatError(problem) => damaged(problem.to_owned()),
        claxon::Error::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            damaged("it ends inside its header".to_owned())
        }
        claxon::Error::IoError(error) => super::unreadable(error),
        claxon::Error::Unsupported(problem) => AudioError::Unsupported {
            format: Format::Flac,
            problem: problem.to_owned(),
        },
    }
}
