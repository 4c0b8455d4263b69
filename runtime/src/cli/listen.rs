//! `swr listen`: prints keywords as they are spoken, from the microphone (feature `live`), standard input or a file.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use swr_core::SAMPLE_RATE_HZ;

use super::{ModelsArgs, Outcome, Printed, languages};
use crate::DEFAULT_STEP_FRAMES;
use crate::capture::{Paced, Pipe, Recording, Source};
use crate::spotter::Spotter;

/// Print keywords as they are spoken, from the microphone, standard input or a file
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo live --lang de                                   (microphone; needs libasound2-dev to build)
  arecord -q -f S16_LE -r 16000 -c 1 -t raw | swr listen --lang pl --file -
  ffmpeg -loglevel error -i talk.mp4 -f wav - | swr listen --json --file -
  swr listen --lang de --file models/demo/de.wav --paced

Standard input is WAV of any rate, or raw signed 16-bit samples at 16 kHz, mono.
Without --file the microphone is used if this program was built with the feature `live`, otherwise standard input.
Exits with 1 if the audio ended and no keyword was found.")]
pub(super) struct Listen {
    /// Languages to listen for at once, with commas between, or `all` [default: the base's]
    #[arg(long = "lang", value_name = "L,…", value_delimiter = ',')]
    languages: Vec<String>,
    /// Audio file to listen to, `-` for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Microphone to listen to: its name or part of it, as `swr devices` lists them [default: the system's]
    #[cfg(feature = "live")]
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    device: Option<String>,
    /// Take the audio no faster than it was spoken
    #[arg(long)]
    paced: bool,
    /// Stop after so many seconds of audio
    #[arg(long, value_name = "S", value_parser = super::duration)]
    seconds: Option<f64>,
    /// One JSON object per keyword
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsArgs,
}

impl Listen {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let models = self.models.open()?;
        let languages = languages(&models, &self.languages)?;
        let mut spotter = Spotter::new(&models, &languages, DEFAULT_STEP_FRAMES)?;
        let mut source = self.source()?;
        let limit_samples = self
            .seconds
            .map_or(u64::MAX, |s| (s * f64::from(SAMPLE_RATE_HZ)) as u64);

        let (mut samples, mut events) = (Vec::new(), Vec::new());
        let mut heard_samples = 0;
        let mut outcome = Outcome::Negative;
        let mut more = true;
        while more && heard_samples < limit_samples {
            samples.clear();
            more = source.read(&mut samples)?;
            heard_samples += samples.len() as u64;
            let ended = !more || heard_samples >= limit_samples;
            let pushed = spotter.push(&samples, &mut events);
            pushed
                .and_then(|()| match ended {
                    true => spotter.finish(&mut events),
                    false => Ok(()),
                })
                .with_context(|| self.source_name())?;
            for event in events.drain(..) {
                outcome = Outcome::Success;
                Printed {
                    file: None,
                    event: &event,
                }
                .write(out, self.json)?;
                // A reader at the other end of a pipe wants the keyword now.
                out.flush()?;
            }
            while let Some(notice) = source.notice() {
                eprintln!("swr: {notice}");
            }
        }
        Ok(outcome)
    }

    fn source(&self) -> anyhow::Result<Box<dyn Source>> {
        match &self.file {
            Some(path) if path.as_os_str() != "-" => {
                let recording = Recording::open(path)?;
                Ok(self.at_pace(recording))
            }
            Some(_) => self.standard_input(),
            None => self.default_source(),
        }
    }

    /// For messages.
    fn source_name(&self) -> String {
        match &self.file {
            Some(path) if path.as_os_str() != "-" => path.display().to_string(),
            _ => "audio".into(),
        }
    }

    fn at_pace(&self, source: impl Source + 'static) -> Box<dyn Source> {
        if self.paced {
            Box::new(Paced::new(source))
        } else {
            Box::new(source)
        }
    }

    fn standard_input(&self) -> anyhow::Result<Box<dyn Source>> {
        let input = io::stdin();
        if input.is_terminal() {
            bail!(
                "standard input is a terminal, expected audio; pipe WAV or raw 16-bit samples (16 kHz, mono) into it, \
                 give a file with --file, or use the microphone with `cargo live`"
            );
        }
        Ok(self.at_pace(Pipe::new(input)?))
    }

    #[cfg(feature = "live")]
    fn default_source(&self) -> anyhow::Result<Box<dyn Source>> {
        let microphone = crate::capture::Microphone::open(self.device.as_deref())?;
        eprintln!(
            "listening to {} at {} Hz; stop with Ctrl-C",
            microphone.name(),
            microphone.rate_hz()
        );
        Ok(Box::new(microphone))
    }

    #[cfg(not(feature = "live"))]
    fn default_source(&self) -> anyhow::Result<Box<dyn Source>> {
        self.standard_input()
    }
}
