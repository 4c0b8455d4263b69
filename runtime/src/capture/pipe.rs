//! Audio from a pipe, as it arrives: raw 16-bit samples at 16 kHz, or a WAV stream of any rate and channel count.

use std::io::{BufReader, Cursor, Read};

use swr_core::audio::{Wav, foreign, is_wav};

use super::resample::Downsampler;
use super::{CHUNK_SAMPLES, Notice, Source};
use crate::error::CaptureError;

type Input = BufReader<Box<dyn Read + Send>>;

/// Bytes by which a stream is recognised: of raw samples 2 ms, all of which are letters in no sound.
const FIRST_BYTES: u64 = 64;

/// A source that reads a stream to its end.
///
/// A stream that begins as a WAV file does is one, anything else is raw: signed 16-bit little-endian samples, 16 kHz, mono.
pub struct Pipe {
    format: Format,
}

enum Format {
    Raw(Input),
    Wav(Box<Converted>),
}

/// A WAV stream on its way to 16 kHz mono.
struct Converted {
    wav: Wav<Input>,
    interleaved: Vec<f32>,
    downsampler: Downsampler,
    /// Notes of `wav` that were told.
    told: usize,
}

impl Pipe {
    /// Waits for the first bytes of `input` and recognises the format by them.
    ///
    /// # Errors
    /// [`CaptureError::Pipe`] for a stream that fails or has a WAV header that is not understood, or is text or a recording of another format;
    /// [`CaptureError::Unconvertible`] for a rate or channel count that makes no sense.
    pub fn new(mut input: impl Read + Send + 'static) -> Result<Pipe, CaptureError> {
        let mut first = Vec::with_capacity(FIRST_BYTES as usize);
        input
            .by_ref()
            .take(FIRST_BYTES)
            .read_to_end(&mut first)
            .map_err(failed)?;
        if first.starts_with(b"fLaC") || first.starts_with(b"OggS") {
            return Err(CaptureError::Pipe(
                "it is a FLAC or Ogg file; give its path with --file".into(),
            ));
        }
        if let Some(name) = foreign(&first) {
            return Err(CaptureError::Pipe(format!("it is {name}")));
        }
        if is_text(&first) {
            return Err(CaptureError::Pipe("it is text".into()));
        }
        let wav = is_wav(&first) || first.starts_with(b"RIFF");
        let input = rejoined(first, input);
        if wav {
            return Pipe::wav(input);
        }
        Ok(Pipe {
            format: Format::Raw(input),
        })
    }

    fn wav(input: Input) -> Result<Pipe, CaptureError> {
        let wav = Wav::open(input).map_err(failed)?;
        Ok(Pipe {
            format: Format::Wav(Box::new(Converted {
                downsampler: Downsampler::new(wav.sample_rate_hz(), wav.channels())?,
                interleaved: Vec::new(),
                wav,
                told: 0,
            })),
        })
    }
}

impl Source for Pipe {
    fn read(&mut self, samples: &mut Vec<f32>) -> Result<bool, CaptureError> {
        match &mut self.format {
            Format::Raw(input) => {
                let mut bytes = Vec::with_capacity(2 * CHUNK_SAMPLES);
                input
                    .take(2 * CHUNK_SAMPLES as u64)
                    .read_to_end(&mut bytes)
                    .map_err(failed)?;
                let (whole, _) = bytes.as_chunks::<2>();
                samples.extend(
                    whole
                        .iter()
                        .map(|&b| f32::from(i16::from_le_bytes(b)) / 32_768.0),
                );
                Ok(bytes.len() == 2 * CHUNK_SAMPLES)
            }
            Format::Wav(stream) => {
                stream.interleaved.clear();
                let more = stream.wav.read(&mut stream.interleaved).map_err(failed)?;
                stream.downsampler.push(&stream.interleaved, samples);
                Ok(more)
            }
        }
    }

    fn notice(&mut self) -> Option<Notice> {
        let Format::Wav(stream) = &mut self.format else {
            return None;
        };
        let problem = stream.wav.notes().get(stream.told)?.clone();
        stream.told += 1;
        Some(Notice::Repaired {
            name: "standard input".to_owned(),
            problem,
        })
    }
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.format {
            Format::Raw(_) => "Pipe(raw)",
            Format::Wav(_) => "Pipe(wav)",
        })
    }
}

/// Whether the start of a stream, which may be all of it, is text.
fn is_text(first: &[u8]) -> bool {
    let text = match std::str::from_utf8(first) {
        Ok(text) => text,
        // The last character is cut.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&first[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    let is_written = |letter: char| !letter.is_control() || letter.is_ascii_whitespace();
    text.len() >= 8 && text.chars().all(is_written)
}

fn rejoined(first: Vec<u8>, rest: impl Read + Send + 'static) -> Input {
    BufReader::new(Box::new(Cursor::new(first).chain(rest)))
}

fn failed(error: impl std::fmt::Display) -> CaptureError {
    CaptureError::Pipe(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hound::SampleFormat;

    fn read_all(bytes: Vec<u8>) -> Result<Vec<f32>, CaptureError> {
        let mut pipe = Pipe::new(Cursor::new(bytes))?;
        let mut samples = Vec::new();
        while pipe.read(&mut samples)? {}
        Ok(samples)
    }

    fn wav(rate_hz: u32, channels: u16, values: &[i16]) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let spec = hound::WavSpec {
            channels,
            sample_rate: rate_hz,
            bits_per_sample: 16,
            sample_format: SampleFormat::Int,
        };
        let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
        values
            .iter()
            .for_each(|&value| writer.write_sample(value).unwrap());
        writer.finalize().unwrap();
        file.into_inner()
    }

    #[test]
    fn raw_and_wav_give_the_same_samples() {
        let values: Vec<i16> = (0..2_000)
            .map(|i| (i * 37 % 30_000) as i16 - 15_000)
            .collect();
        let raw = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let expected: Vec<f32> = values
            .iter()
            .map(|&value| f32::from(value) / 32_768.0)
            .collect();
        assert_eq!(read_all(raw).unwrap(), expected);
        assert_eq!(read_all(wav(16_000, 1, &values)).unwrap(), expected);
    }

    #[test]
    fn a_wav_stream_ends_where_its_bytes_end() {
        let mut cut = wav(16_000, 2, &[1_000; 4_000]);
        cut.truncate(cut.len() - 4_001);
        assert_eq!(read_all(cut).unwrap().len(), 999);
    }

    #[test]
    fn nothing_is_no_samples_and_other_formats_are_refused() {
        assert_eq!(read_all(Vec::new()).unwrap(), [0f32; 0]);
        assert_eq!(read_all(vec![1, 2, 3]).unwrap().len(), 1);
        for start in [
            &b"fLaC...."[..],
            b"OggS....",
            b"RIFF....",
            b"RIFF\0\0\0\0WAVEfmt ",
            b"ID3\x04\0\0\0\0\0\x23",
            b"\0\0\0\x20ftypM4A ",
            b"{\"text\": \"Stra\xc3\x9fe\"}\n",
            b"\xe0\xa4\xa8\xe0\xa4\xae\xe0\xa4\xb8\xe0",
        ] {
            assert!(matches!(
                read_all(start.to_vec()),
                Err(CaptureError::Pipe(_))
            ));
        }
    }
}
