//! WAV: the bytes of a RIFF WAVE file enter, mono samples at the file's rate leave.

use hound::{SampleFormat, WavReader};

use super::{Audio, AudioError, Format, integer_scale, push_mean};

/// Programs that write to a pipe cannot go back to fill in the length; they claim about 2 GiB, or 4 GiB, instead.
/// From this claim on, the end of the file is taken for the end of the samples.
const UNKNOWN_LENGTH_BYTES: u64 = 0x7FFF_0000;

pub(super) fn decode(bytes: &[u8]) -> Result<Audio, AudioError> {
    let mut reader = WavReader::new(bytes).map_err(refusal)?;
    let hound::WavSpec {
        channels,
        sample_rate,
        bits_per_sample,
        sample_format,
    } = reader.spec();
    let claimed = reader.len();
    let samples = match sample_format {
        SampleFormat::Int => {
            let scale = integer_scale(u32::from(bits_per_sample).clamp(1, 32));
            let values = reader
                .samples::<i32>()
                .map(|value| value.map(|value| value as f32 * scale));
            mix(values, channels, bits_per_sample, claimed)?
        }
        SampleFormat::Float => mix(reader.samples::<f32>(), channels, bits_per_sample, claimed)?,
    };
    Ok(Audio {
        samples,
        sample_rate_hz: sample_rate,
        channels,
    })
}

/// Mixes interleaved `values` down to mono.
fn mix(
    mut values: impl Iterator<Item = Result<f32, hound::Error>>,
    channels: u16,
    bits_per_sample: u16,
    claimed: u32,
) -> Result<Vec<f32>, AudioError> {
    let mut samples = Vec::new();
    let mut frame = Vec::with_capacity(usize::from(channels));
    loop {
        frame.clear();
        for value in values.by_ref().take(usize::from(channels)) {
            match value {
                Ok(value) => frame.push(value),
                Err(hound::Error::IoError(_)) => {
                    let claimed_bytes = u64::from(claimed) * u64::from(bits_per_sample) / 8;
                    if claimed_bytes >= UNKNOWN_LENGTH_BYTES {
                        return Ok(samples);
                    }
                    let found = samples.len() * usize::from(channels) + frame.len();
                    return Err(AudioError::Damaged {
                        format: Format::Wav,
                        problem: format!(
                            "it ends after {found} values, expected {claimed} as its header says"
                        ),
                    });
                }
                Err(error) => return Err(refusal(error)),
            }
        }
        if frame.is_empty() {
            return Ok(samples);
        }
        push_mean(&mut samples, channels, frame.iter().copied())?;
    }
}

fn refusal(error: hound::Error) -> AudioError {
    let format = Format::Wav;
    match error {
        hound::Error::Unsupported | hound::Error::TooWide | hound::Error::InvalidSampleFormat => {
            AudioError::Unsupported {
                format,
                problem: "an encoding other than integers of 8, 16, 24, 32 bits or 32-bit float"
                    .to_owned(),
            }
        }
        hound::Error::FormatError(problem) => AudioError::Damaged {
            format,
            problem: problem.to_owned(),
        },
        hound::Error::IoError(_) | hound::Error::UnfinishedSample => AudioError::Damaged {
            format,
            problem: "it ends inside its header".to_owned(),
        },
    }
}
