//! FLAC: the bytes of a native FLAC file enter, mono samples at the file's rate leave.

use super::{Audio, AudioError, Format, MAX_SAMPLES, integer_scale, push_mean};

pub(super) fn decode(bytes: &[u8]) -> Result<Audio, AudioError> {
    let mut reader = claxon::FlacReader::new(bytes).map_err(refusal)?;
    let info = reader.streaminfo();
    if info.samples.is_some_and(|count| count > MAX_SAMPLES as u64) {
        return Err(AudioError::TooLong);
    }
    if !(4..=24).contains(&info.bits_per_sample) {
        return Err(AudioError::Unsupported {
            format: Format::Flac,
            problem: format!("samples of {} bits, expected 4 to 24", info.bits_per_sample),
        });
    }
    let channels = info.channels as u16;
    let scale = integer_scale(info.bits_per_sample);
    let range = -(1i32 << (info.bits_per_sample - 1))..1i32 << (info.bits_per_sample - 1);

    let mut samples = Vec::new();
    let mut buffer = Vec::new();
    let mut blocks = reader.blocks();
    loop {
        let next = blocks.read_next_or_eof(buffer);
        // Behind the last sample stand tags that other programs have put there.
        let is_whole = info.samples == Some(samples.len() as u64);
        let block = match next {
            Ok(Some(block)) => block,
            Ok(None) => break,
            Err(claxon::Error::FormatError(_)) if is_whole => break,
            Err(error) => return Err(refusal(error)),
        };
        if block.channels() != info.channels {
            return Err(damaged(format!(
                "a block of {} channels after sample {}, expected {} as the header says",
                block.channels(),
                samples.len(),
                info.channels,
            )));
        }
        for index in 0..block.duration() {
            let frame = (0..block.channels()).map(|channel| block.sample(channel, index));
            // A block may state another sample size than the header, which would break the scale.
            if let Some(value) = frame.clone().find(|value| !range.contains(value)) {
                return Err(damaged(format!(
                    "value {value} at sample {} exceeds its {} bits",
                    samples.len(),
                    info.bits_per_sample
                )));
            }
            push_mean(
                &mut samples,
                channels,
                frame.map(|value| value as f32 * scale),
            )?;
        }
        buffer = block.into_buffer();
    }
    match info.samples {
        Some(expected) if expected != samples.len() as u64 => Err(damaged(format!(
            "it holds {} samples, expected {expected} as its header says",
            samples.len()
        ))),
        _ => Ok(Audio {
            samples,
            sample_rate_hz: info.sample_rate,
            channels,
            notes: Vec::new(),
        }),
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
        claxon::Error::IoError(_) => damaged("it ends too early".to_owned()),
        claxon::Error::Unsupported(problem) => AudioError::Unsupported {
            format: Format::Flac,
            problem: problem.to_owned(),
        },
    }
}
