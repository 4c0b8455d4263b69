//! `swr spot`: finds keywords in audio files and prints when each was spoken.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::words::WordsArgs;
use super::{ChannelArgs, ModelsArgs, Outcome, Printed, languages, sentence};
use crate::DEFAULT_STEP_FRAMES;
use crate::capture::{Recording, Source};
use crate::spotter::{Event, Spotter};

/// Find keywords in audio files (WAV and its kin, FLAC, Ogg Opus, MP3, M4A; any rate)
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr spot recording.wav
  swr spot --lang de,pl --json interview.flac lecture.opus
  swr spot --lang all models/demo/de.flac
  swr spot --lang de --words licht,aus models/demo/de.flac
  swr spot --lang de --channel 2 array.wav

Prints time, language, score (posterior) and keyword. Exits with 1 if no keyword was found.")]
pub(super) struct Spot {
    /// Languages to listen for, with commas between, or `all` [default: the base's]
    #[arg(long = "lang", value_name = "L,…", value_delimiter = ',')]
    languages: Vec<String>,
    #[command(flatten)]
    words: WordsArgs,
    /// One JSON object per keyword found
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    channel: ChannelArgs,
    #[command(flatten)]
    models: ModelsArgs,
    /// Audio files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl Spot {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let models = self.models.open()?;
        let languages = languages(&models, &self.languages)?;
        let mut spotter = self
            .words
            .spotter(&models, &languages, DEFAULT_STEP_FRAMES)?;
        let (mut outcome, mut unheard) = (Outcome::Negative, Vec::new());
        for file in &self.files {
            let found = match hear(&mut spotter, file, self.channel.channel) {
                Ok(found) => found,
                Err(error) => {
                    // Nothing of it is heard in the next.
                    spotter.reset();
                    unheard.push(error);
                    continue;
                }
            };
            for event in found {
                let several = self.json || self.files.len() > 1;
                Printed {
                    file: several.then_some(file),
                    event: &event,
                }
                .write(out, self.json)?;
                outcome = Outcome::Success;
            }
        }
        // Every file has its turn; the last that could not be heard is what the command ends with.
        let Some(last) = unheard.pop() else {
            return Ok(outcome);
        };
        for error in &unheard {
            eprintln!("swr: {}", sentence(error));
        }
        Err(last)
    }
}

/// What `spotter` finds in a file, whose faults are told.
fn hear(spotter: &mut Spotter, file: &Path, channel: Option<u16>) -> anyhow::Result<Vec<Event>> {
    let mut recording = Recording::open(file, channel)?;
    while let Some(notice) = recording.notice() {
        eprintln!("swr: {notice}");
    }
    events(spotter, recording.samples(), file)
}

/// What `spotter` finds in the whole of `samples`, in order of time; `file` is for messages.
pub(super) fn events(
    spotter: &mut Spotter,
    samples: &[f32],
    file: &Path,
) -> anyhow::Result<Vec<Event>> {
    let mut events = Vec::new();
    spotter
        .push(samples, &mut events)
        .and_then(|()| spotter.finish(&mut events))
        .map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
    events.sort_by(|a, b| a.time_s.total_cmp(&b.time_s));
    Ok(events)
}
