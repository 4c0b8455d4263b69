//! One word spoken by espeak-ng: voice, speed, pitch and text in, trimmed 16 kHz samples and the command out.

use std::collections::BTreeSet;
use std::io::{Cursor, ErrorKind};
use std::process::{Command, Output};

use anyhow::{Context, Result, anyhow, bail, ensure};
use flacenc::bitsink::ByteSink;
use flacenc::component::BitRepr;
use flacenc::encode_with_fixed_block_size;
use flacenc::error::Verify;
use flacenc::source::MemSource;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use swr_core::audio::decode_16k_mono;
use swr_dataset::{CLIP_SAMPLES, Split, active_span};

use super::config::{DemoVoice, SynthConfig};

/// How a word is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manner {
    /// Words per minute.
    pub(super) speed_wpm: u32,
    /// 0 to 99.
    pub(super) pitch: u32,
}

impl Manner {
    pub(super) fn draw(random: &mut ChaCha8Rng, speed_wpm: [u32; 2], pitch: [u32; 2]) -> Self {
        Manner {
            speed_wpm: random.random_range(speed_wpm[0]..=speed_wpm[1]),
            pitch: random.random_range(pitch[0]..=pitch[1]),
        }
    }
}

/// The installed espeak-ng.
pub(super) struct Speaker {
    /// Name and version, such as `espeak-ng 1.51`.
    pub(super) version: String,
}

/// Quieter than the loudest 10 ms by more than this is silence around the word: an espeak-ng clip has digital silence there, and final consonants are weak.
const TRIM_DB: f32 = 45.0;
/// Longest word: what remains of a second is the silence around it.
const MAX_WORD_SAMPLES: usize = CLIP_SAMPLES * 95 / 100;
/// Speech shorter than this is no word: espeak-ng has spoken nothing.
const MIN_WORD_SAMPLES: usize = CLIP_SAMPLES / 20;

impl Speaker {
    /// Asks espeak-ng for its version and whether it has the configured variants and puts them on the configured voices: where not, it would speak in the
    /// plain voice and say nothing.
    pub(super) fn find(config: &SynthConfig) -> Result<Self> {
        let version = String::from_utf8_lossy(&espeak(&["--version"])?.stdout).into_owned();
        // "eSpeak NG text-to-speech: 1.51  Data at: ..."
        let number = version
            .split_once(": ")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .unwrap_or("of unknown version");
        let listed = String::from_utf8_lossy(&espeak(&["--voices=variant"])?.stdout).into_owned();
        let known: BTreeSet<&str> = listed
            .lines()
            .filter_map(|line| line.split_once("!v/"))
            .filter_map(|(_, rest)| rest.split("  ").next())
            .map(str::trim)
            .collect();
        let demo = config
            .languages
            .values()
            .flat_map(|language| &language.demo_voices)
            .filter_map(DemoVoice::variant);
        let voices = Split::ALL.into_iter().flat_map(|s| config.variants_of(s));
        for variant in voices.map(String::as_str).chain(demo) {
            ensure!(
                known.contains(variant),
                "espeak-ng {number} has no voice variant {variant}; take it out of the synth config (espeak-ng --voices=variant lists them)"
            );
        }
        let accents: BTreeSet<&String> = config
            .languages
            .values()
            .flat_map(|language| &language.accents)
            .collect();
        for (accent, variant) in accents.into_iter().zip(config.variants.iter().cycle()) {
            let plain = espeak(&["-v", accent, "--stdout", "a"])?.stdout;
            let varied = espeak(&["-v", &format!("{accent}+{variant}"), "--stdout", "a"])?.stdout;
            ensure!(
                plain != varied,
                "espeak-ng {number} ignores variants on the voice {accent}; give another name of the voice in the synth config"
            );
        }
        Ok(Speaker {
            version: format!("espeak-ng {number}"),
        })
    }

    /// Speaks `text`, a word. The samples (16 kHz mono, full scale 1) are trimmed to it, at most 0.95 s; a longer word is spoken faster, in steps of 10 %, until
    /// it fits.
    pub(super) fn speak(
        &self,
        voice: &str,
        manner: Manner,
        text: &str,
    ) -> Result<(Vec<f32>, String)> {
        let Manner {
            mut speed_wpm,
            pitch,
        } = manner;
        loop {
            let (samples, command) = self.say(voice, Manner { speed_wpm, pitch }, text)?;
            if samples.len() <= MAX_WORD_SAMPLES {
                return Ok((samples, command));
            }
            ensure!(
                speed_wpm < 400,
                "{command} is still longer than 0.95 s; use a shorter word"
            );
            speed_wpm += speed_wpm / 10;
        }
    }

    /// Speaks `text` of any length, trimmed; and the command that does.
    pub(super) fn say(
        &self,
        voice: &str,
        manner: Manner,
        text: &str,
    ) -> Result<(Vec<f32>, String)> {
        let file = tempfile::Builder::new()
            .suffix(".wav")
            .tempfile()
            .context("no temporary file could be made; check the free space")?;
        let path = file.path().to_string_lossy().into_owned();
        let (speed, pitch) = (manner.speed_wpm.to_string(), manner.pitch.to_string());
        espeak(&["-v", voice, "-s", &speed, "-p", &pitch, "-w", &path, text])?;
        let command = format!(
            "espeak-ng -v {voice} -s {speed} -p {pitch} '{}'",
            text.replace('\'', r"'\''")
        );
        let bytes =
            std::fs::read(file.path()).with_context(|| format!("{path}: could not be read"))?;
        let samples =
            decode_16k_mono(&bytes).with_context(|| format!("the output of {command}"))?;
        let (start, end) = active_span(&samples, TRIM_DB).unwrap_or((0, 0));
        ensure!(
            end - start >= MIN_WORD_SAMPLES,
            "{command} gave no audible word; write the text otherwise (`spoken` in the synth config)"
        );
        Ok((samples[start..end].to_vec(), command))
    }
}

fn espeak(arguments: &[&str]) -> Result<Output> {
    match Command::new("espeak-ng").args(arguments).output() {
        Ok(output) if output.status.success() => Ok(output),
        Ok(output) => bail!(
            "espeak-ng {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!(
                "espeak-ng is not installed; install it, on Debian and Ubuntu with: sudo apt-get install espeak-ng"
            )
        }
        Err(error) => Err(error).context("espeak-ng could not be started"),
    }
}

/// Scales the samples so that the largest has this magnitude.
pub(super) fn set_peak(samples: &mut [f32], peak: f32) {
    let largest = samples
        .iter()
        .fold(0f32, |largest, sample| largest.max(sample.abs()));
    if largest > 0.0 {
        samples
            .iter_mut()
            .for_each(|sample| *sample *= peak / largest);
    }
}

/// The samples as 16-bit numbers; those beyond full scale saturate.
fn quantised(samples: &[f32]) -> impl Iterator<Item = i16> {
    samples
        .iter()
        .map(|sample| (32768.0 * sample).round() as i16)
}

/// A 16-bit mono FLAC file at 16 kHz of samples of full scale 1.
pub(super) fn flac_bytes(samples: &[f32]) -> Result<Vec<u8>> {
    let config = flacenc::config::Encoder::default().into_verified();
    let config = config.map_err(|(_, error)| anyhow!("FLAC settings: {error}"))?;
    let samples: Vec<i32> = quantised(samples).map(i32::from).collect();
    let source = MemSource::from_samples(&samples, 1, 16, CLIP_SAMPLES);
    let stream = encode_with_fixed_block_size(&config, source, config.block_size);
    let stream = stream.map_err(|error| anyhow!("FLAC: {error}"))?;
    let mut sink = ByteSink::new();
    let written = stream.write(&mut sink);
    written.map_err(|error| anyhow!("FLAC: {error}"))?;
    Ok(sink.into_inner())
}

/// A 16-bit mono WAV file at 16 kHz of samples of full scale 1.
pub(super) fn wav_bytes(samples: &[f32]) -> Result<Vec<u8>> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: CLIP_SAMPLES as u32,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec)?;
    for sample in quantised(samples) {
        writer.write_sample(sample)?;
    }
    writer.finalize()?;
    Ok(bytes.into_inner())
}
