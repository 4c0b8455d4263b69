//! Audio from a pipe, as it arrives: raw 16-bit samples at 16 kHz, or a WAV stream of any rate and channel count.

use std::io::{BufReader, Cursor, Read};

use hound::{SampleFormat, WavReader};

use super::resample::Downsampler;
use super::{CHUNK_SAMPLES, Source};
use crate::error::CaptureError;

type Input = BufReader<Box<dyn Read + Send>>;

/// A source that reads a stream to its end.
///
/// A stream that begins with `RIFF` is WAV, anything else is raw: signed 16-bit little-endian samples, 16 kHz, mono.
pub struct Pipe {
    format: Format,
}

enum Format {
    Raw(Input),
    Wav {
        values: Box<dyn Iterator<Item = Result<f32, hound::Error>> + Send>,
        channels: usize,
        downsampler: Downsampler,
    },
}

impl Pipe {
    /// Waits for the first bytes of `input` and recognises the format by them.
    ///
    /// # Errors
    /// [`CaptureError::Pipe`] for a stream that fails or has a WAV header that is not understood, or is FLAC or Ogg;
    /// [`CaptureError::Unconvertible`] for a rate or channel count that makes no sense.
    pub fn new(mut input: impl Read + Send + 'static) -> Result<Pipe, CaptureError> {
        let mut first = Vec::with_capacity(4);
        input
            .by_ref()
            .take(4)
            .read_to_end(&mut first)
            .map_err(failed)?;
        match first.as_slice() {
            b"fLaC" | b"OggS" => Err(CaptureError::Pipe(
                "it is a FLAC or Ogg file; give its path with --file".into(),
            )),
            b"RIFF" => Pipe::wav(rejoined(first, input)),
            _ => Ok(Pipe {
                format: Format::Raw(rejoined(first, input)),
            }),
        }
    }

    fn wav(input: Input) -> Result<Pipe, CaptureError> {
        let reader = WavReader::new(input).map_err(failed)?;
        let hound::WavSpec {
            channels,
            sample_rate,
            bits_per_sample,
            sample_format,
        } = reader.spec();
        let downsampler = Downsampler::new(sample_rate, channels)?;
        let values: Box<dyn Iterator<Item = _> + Send> = match sample_format {
            SampleFormat::Float => Box::new(reader.into_samples::<f32>()),
            SampleFormat::Int => {
                let full_scale = 2f32.powi(i32::from(bits_per_sample) - 1);
                let integers = reader.into_samples::<i32>();
                Box::new(integers.map(move |value| value.map(|value| value as f32 / full_scale)))
            }
        };
        Ok(Pipe {
            format: Format::Wav {
                values,
                channels: channels.into(),
                downsampler,
            },
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
            Format::Wav {
                values,
                channels,
                downsampler,
            } => {
                let mut chunk = Vec::with_capacity(CHUNK_SAMPLES * *channels);
                let mut more = true;
                while more && chunk.len() < CHUNK_SAMPLES * *channels {
                    match values.next() {
                        Some(Ok(value)) => chunk.push(value),
                        // The length in the header of a stream is a guess, so its end is where the bytes end.
                        None | Some(Err(hound::Error::IoError(_))) => more = false,
                        Some(Err(error)) => return Err(failed(error)),
                    }
                }
                downsampler.push(&chunk, samples);
                Ok(more)
            }
        }
    }
}

impl std::fmt::Debug for Pipe {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self.format {
            Format::Raw(_) => "Pipe(raw)",
            Format::Wav { .. } => "Pipe(wav)",
        })
    }
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
        ] {
            assert!(matches!(
                read_all(start.to_vec()),
                Err(CaptureError::Pipe(_))
            ));
        }
    }
}
