//! `swr listen`: tells keywords as they are spoken, from the microphone (feature `live`), standard input or a file: on a screen, in lines, or as JSON.

mod hooks;
mod level;
mod screen;
mod session;

use std::io::{self, IsTerminal, Write};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::Deserialize;

use super::words::WordsArgs;
use super::{ChannelArgs, ModelsArgs, Outcome, Printed, Size, languages};
use crate::capture::{Paced, Pipe, Recording, Source};
pub(super) use hooks::wav;
use hooks::{MOST_NEAR_MISSES, Program, record_near_miss};
use session::{Heard, Session, Wanted};

/// Print keywords as they are spoken, from the microphone, standard input or a file
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cargo live listen --lang de                               (microphone; needs libasound2-dev to build)
  swr listen --lang ar,zh --json                         (two languages at once)
  swr listen --lang de --words licht,aus                 (nothing else is reported)
  swr listen --lang de --exec ./light.sh                 (runs `./light.sh licht de 0.971 12.40` without a shell)
  swr listen --lang de --record-near-misses misses       (what was nearly heard, to train with)
  arecord -q -f S16_LE -r 16000 -c 1 -t raw | swr listen --lang pl --file -
  ffmpeg -loglevel error -i talk.mp4 -f wav - | swr listen --json --file -
  sox talk.wav -t wav - remix 1 | swr listen --lang de --file -
  swr listen --lang de --file models/demo/de.flac --paced

On a terminal, live audio is shown with level, log-mel and posteriors; keys change language, threshold and device meanwhile (--plain: lines only).
Standard input is recognised by its first bytes: WAV, FLAC, Ogg Opus, MP3, M4A (which is read whole first), any rate; anything else but text is raw signed
16-bit samples at 16 kHz, mono.
Without --file the microphone is used if this program was built with the feature `live`, otherwise standard input.
Exits with 1 if the audio ended and no keyword was found.")]
pub(super) struct Listen {
    /// Languages to listen for at once, with commas between, or `all` [default: the base's]
    #[arg(long = "lang", value_name = "L,…", value_delimiter = ',')]
    languages: Vec<String>,
    #[command(flatten)]
    words: WordsArgs,
    /// Audio file to listen to, `-` for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Microphone to listen to: its name or part of it, as `swr devices` lists them [default: the system's]
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    device: Option<String>,
    #[command(flatten)]
    channel: ChannelArgs,
    /// Take the audio no faster than it was spoken
    #[arg(long)]
    paced: bool,
    /// Stop after so many seconds of audio
    #[arg(long, value_name = "S", value_parser = super::duration)]
    seconds: Option<f64>,
    /// Posterior from 0 to 1 that every keyword must reach [default: the packages' thresholds]
    #[arg(long, value_name = "P", value_parser = super::share)]
    threshold: Option<f32>,
    /// Move the log-odds of all thresholds: 1 for fewer false alarms, -1 for fewer words missed (`swr eval --stream` tells what each step does)
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = shift)]
    shift: Option<f32>,
    /// Program to run for every keyword, with keyword, language, score and time as its arguments
    #[arg(long, value_name = "PROGRAM")]
    exec: Option<PathBuf>,
    /// Folder for the audio of keywords that were nearly heard: DIR/<language>/<keyword>/near_<n>.wav, at most 100 of each
    #[arg(long, value_name = "DIR")]
    record_near_misses: Option<PathBuf>,
    /// How far below its threshold a keyword is a near miss [default: 0.25]
    #[arg(long, value_name = "P", value_parser = super::share)]
    near_margin: Option<f32>,
    /// Settings as TOML, for a service: lang = ["de"], words = ["licht"], device, channel, shift, threshold, exec, record-near-misses, near-margin, models, size, key; what is given here counts more
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Lines, even on a terminal
    #[arg(long)]
    plain: bool,
    /// One JSON object per keyword
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsArgs,
}

/// The settings of a file; names and meaning are the options'.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Settings {
    #[serde(default)]
    lang: Vec<String>,
    #[serde(default)]
    words: Vec<String>,
    device: Option<String>,
    channel: Option<NonZeroU16>,
    threshold: Option<f32>,
    shift: Option<f32>,
    exec: Option<PathBuf>,
    record_near_misses: Option<PathBuf>,
    near_margin: Option<f32>,
    models: Option<PathBuf>,
    size: Option<Size>,
    #[serde(default)]
    key: Vec<String>,
}

/// How far below its threshold a keyword is a near miss.
const NEAR_MARGIN: f32 = 0.25;

/// Farthest that thresholds can be moved, in log-odds: beyond, all or nothing is heard.
const MOST_SHIFT: f32 = 20.0;

/// A shift as it is written.
fn shift(text: &str) -> Result<f32, String> {
    let shift = text.parse().map_err(|_| "expected a number".to_owned())?;
    checked(shift)
}

fn checked(shift: f32) -> Result<f32, String> {
    match (-MOST_SHIFT..=MOST_SHIFT).contains(&shift) {
        true => Ok(shift),
        false => Err(format!("expected -{MOST_SHIFT} to {MOST_SHIFT}")),
    }
}

impl Listen {
    /// Takes what is not given on the command line from the settings of a file.
    fn configure(&mut self, path: &Path) -> anyhow::Result<()> {
        let named = || path.display().to_string();
        let text = std::fs::read_to_string(path).with_context(named)?;
        let settings: Settings = toml::from_str(&text).with_context(named)?;
        for (name, value) in [
            ("threshold", settings.threshold),
            ("near-margin", settings.near_margin),
        ] {
            ensure!(
                value.is_none_or(|value| (0.0..=1.0).contains(&value)),
                "{}: {name}: expected a number from 0 to 1",
                path.display()
            );
        }
        if let Some(Err(error)) = settings.shift.map(checked) {
            bail!("{}: shift: {error}", path.display());
        }
        fn or<T>(given: &mut Option<T>, setting: Option<T>) {
            *given = given.take().or(setting);
        }
        if self.languages.is_empty() {
            self.languages = settings.lang;
        }
        if self.words.words.is_empty() {
            self.words.words = settings.words;
        }
        if self.models.keys.is_empty() {
            self.models.keys = settings.key;
        }
        if self.file.is_none() {
            or(&mut self.device, settings.device);
        }
        or(
            &mut self.channel.channel,
            settings.channel.map(NonZeroU16::get),
        );
        or(&mut self.threshold, settings.threshold);
        or(&mut self.shift, settings.shift);
        or(&mut self.exec, settings.exec);
        or(&mut self.record_near_misses, settings.record_near_misses);
        or(&mut self.near_margin, settings.near_margin);
        or(&mut self.models.directory, settings.models);
        or(&mut self.models.size, settings.size);
        Ok(())
    }

    /// `terminal` tells whether results go to one.
    pub(super) fn run(mut self, out: &mut dyn Write, terminal: bool) -> anyhow::Result<Outcome> {
        if let Some(path) = self.config.take() {
            self.configure(&path)?;
        }
        self.listen(out, terminal)
    }

    fn listen(&self, out: &mut dyn Write, terminal: bool) -> anyhow::Result<Outcome> {
        let models = self.models.open()?;
        let wanted = Wanted {
            languages: languages(&models, &self.languages)?,
            words: self.words.clone(),
            threshold: self.threshold,
            shift: self.shift.unwrap_or_default(),
            near: self
                .record_near_misses
                .as_ref()
                .map(|_| self.near_margin.unwrap_or(NEAR_MARGIN)),
        };
        // Before audio is waited for.
        let program = self.exec.as_deref().map(Program::find).transpose()?;
        let (source, name) = self.source()?;
        let mut session = Session::new(models, wanted, source, name.clone(), self.seconds)?;
        let mut after = After {
            listen: self,
            program,
            found: false,
        };
        // What is not read at the pace of speech is over before it could be seen.
        let live = self.paced
            || self
                .file
                .as_ref()
                .is_none_or(|file| file.as_os_str() == "-");
        if terminal && live && !self.plain && !self.json {
            screen::run(&mut session, &name, |heard| after.act(heard))?;
            return Ok(after.outcome());
        }
        if self.file.is_none() {
            eprintln!("listening to {name}; stop with Ctrl-C");
        }
        loop {
            let mut heard = session.advance()?;
            for event in &heard.events {
                Printed { file: None, event }.write(out, self.json)?;
                // A reader at the other end of a pipe wants the keyword now.
                out.flush()?;
            }
            after.act(&mut heard);
            for told in &heard.told {
                eprintln!("swr: {told}");
            }
            if heard.ended {
                return Ok(after.outcome());
            }
        }
    }

    /// The audio, and what to call it.
    fn source(&self) -> anyhow::Result<(Box<dyn Source>, String)> {
        match &self.file {
            Some(path) if path.as_os_str() != "-" => {
                let recording = Recording::open(path, self.channel.channel)?;
                Ok((self.at_pace(recording), path.display().to_string()))
            }
            Some(_) => self.standard_input(),
            None if cfg!(feature = "live") => {
                default_source(self.device.as_deref(), self.channel.channel)
            }
            None => self.standard_input(),
        }
    }

    fn at_pace(&self, source: impl Source + 'static) -> Box<dyn Source> {
        if self.paced {
            Box::new(Paced::new(source))
        } else {
            Box::new(source)
        }
    }

    fn standard_input(&self) -> anyhow::Result<(Box<dyn Source>, String)> {
        let input = io::stdin();
        if input.is_terminal() {
            bail!(
                "standard input is a terminal, expected audio; pipe WAV or raw 16-bit samples (16 kHz, mono) into it, \
                 give a file with --file, or use the microphone with `cargo live listen`"
            );
        }
        Ok((
            self.at_pace(Pipe::new(input, self.channel.channel)?),
            "standard input".into(),
        ))
    }
}

/// A microphone, and what to call it.
#[cfg(not(feature = "live"))]
pub(super) fn default_source(
    _: Option<&str>,
    _: Option<u16>,
) -> anyhow::Result<(Box<dyn Source>, String)> {
    bail!(
        "this program was built without microphones; give --file, or build it with the feature `live`"
    )
}

/// A microphone, and what to call it.
#[cfg(feature = "live")]
pub(super) fn default_source(
    device: Option<&str>,
    channel: Option<u16>,
) -> anyhow::Result<(Box<dyn Source>, String)> {
    let microphone = crate::capture::Microphone::open(device, channel)?;
    let name = format!("{} at {} Hz", microphone.name(), microphone.rate_hz());
    Ok((Box::new(microphone), name))
}

/// What is done with what was heard, besides showing it.
struct After<'a> {
    listen: &'a Listen,
    program: Option<Program>,
    found: bool,
}

impl After<'_> {
    /// Runs the program and keeps near misses. What goes wrong is told; listening goes on.
    fn act(&mut self, heard: &mut Heard) {
        self.found |= !heard.events.is_empty();
        if let Some(program) = &mut self.program {
            for event in &heard.events {
                if let Err(error) = program.run(event) {
                    heard.told.push(format!("{error:#}"));
                }
            }
        }
        if let Some(folder) = &self.listen.record_near_misses {
            for (near, samples) in &heard.near_misses {
                let told = match record_near_miss(folder, near, samples) {
                    Ok(None) => continue,
                    Ok(Some((path, number))) => {
                        let full = match number {
                            MOST_NEAR_MISSES => {
                                "; no more are kept of this keyword until some are taken away"
                            }
                            _ => "",
                        };
                        let (keyword, score) = (&near.keyword, near.score);
                        format!("nearly {keyword} ({score:.2}): {}{full}", path.display())
                    }
                    Err(error) => format!("{error:#}"),
                };
                heard.told.push(told);
            }
        }
    }

    fn outcome(&self) -> Outcome {
        match self.found {
            true => Outcome::Success,
            false => Outcome::Negative,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn the_packaged_settings_are_read_with_every_line_switched_on() {
        let packaged = include_str!("../../../packaging/listen.toml");
        let all: Vec<&str> = packaged
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if !setting.starts_with(' ') => setting,
                _ => line,
            })
            .collect();
        let settings: Settings = toml::from_str(&all.join("\n")).expect("all settings");
        assert_eq!(settings.near_margin, Some(super::NEAR_MARGIN));
        assert!(settings.exec.is_some() && settings.record_near_misses.is_some());
        assert!(!settings.words.is_empty());
        assert!(settings.device.is_some() && settings.shift.is_some());
        assert!(settings.threshold.is_some());
        assert!(!settings.key.is_empty());
        toml::from_str::<Settings>(packaged).expect("the settings as they are installed");
    }
}
