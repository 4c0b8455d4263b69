//! Audio from a pipe, as it arrives: a recording of any format, rate and channel count, or raw 16-bit samples at 16 kHz.

use std::io::Read;

use swr_core::audio::Decoder;

use super::resample::Downsampler;
use super::{Notice, Source};
use crate::error::CaptureError;

/// A source that reads a stream to its end.
///
/// A stream is what its first bytes say; without any that are known, and if it is no text, it is raw: signed 16-bit little-endian samples, 16 kHz, mono.
#[derive(Debug)]
pub struct Pipe {
    decoder: Decoder<'static>,
    downsampler: Downsampler,
    interleaved: Vec<f32>,
    ended: bool,
    /// Notes of the decoder that were told.
    told: usize,
}

impl Pipe {
    /// Waits for the first bytes of `input` and recognises the format by them. Of several channels the mean is heard, or the one numbered `channel`, from 1.
    ///
    /// # Errors
    /// [`CaptureError::Pipe`] for a stream that fails, has a header that is not understood, or is text or a recording of a format that is not read;
    /// [`CaptureError::Unconvertible`] for a rate or channel count that makes no sense, [`CaptureError::Channel`] for a channel that is not there.
    pub fn new(
        input: impl Read + Send + Sync + 'static,
        channel: Option<u16>,
    ) -> Result<Pipe, CaptureError> {
        let decoder = Decoder::open_or_raw(input).map_err(failed)?;
        Ok(Pipe {
            downsampler: Downsampler::new(decoder.sample_rate_hz(), decoder.channels(), channel)?,
            decoder,
            interleaved: Vec::new(),
            ended: false,
            told: 0,
        })
    }
}

impl Source for Pipe {
    fn read(&mut self, samples: &mut Vec<f32>) -> Result<bool, CaptureError> {
        self.interleaved.clear();
        let more = self.decoder.read(&mut self.interleaved).map_err(failed)?;
        self.downsampler.push(&self.interleaved, samples);
        self.ended = !more;
        Ok(more)
    }

    fn notice(&mut self) -> Option<Notice> {
        let note = self.decoder.notes().get(self.told);
        let problem = match note {
            Some(note) => {
                self.told += 1;
                note.problem.clone()
            }
            None => self.downsampler.warning(self.ended)?,
        };
        Some(Notice::Recording {
            name: "standard input".to_owned(),
            problem,
        })
    }
}

fn failed(error: impl std::fmt::Display) -> CaptureError {
    CaptureError::Pipe(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use hound::SampleFormat;

    use super::*;

    fn read_all(bytes: Vec<u8>) -> Result<Vec<f32>, CaptureError> {
        let mut pipe = Pipe::new(Cursor::new(bytes), None)?;
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
