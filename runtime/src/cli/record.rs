//! `swr record`: recordings of one's own words, one second each, in a folder that `swr-train adapt` takes.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use clap::Args;
use swr_core::SAMPLE_RATE_HZ;

use super::listen::{default_source, wav};
use super::{ChannelArgs, Outcome, json_line};
use crate::capture::{Recording, Source};
use crate::files::write_new;
use crate::words::{is_letter, nfc};

/// Samples of a recording: a clip's second.
const CLIP_SAMPLES: usize = SAMPLE_RATE_HZ as usize;
/// Samples whose power is looked at together: 10 ms.
const FRAME_SAMPLES: usize = 160;
/// How far above the room a word is, as a ratio of amplitudes.
const ABOVE_ROOM: f32 = 4.0;
/// Frames of the room that are heard before the first word.
const ROOM_FRAMES: usize = 50;
/// Frames of loudness that make a word begin, and of quiet that end it. A stop consonant is quiet for less than that.
const BEGIN_FRAMES: usize = 3;
const END_FRAMES: usize = 30;
/// Frames kept before a word is loud, so that its first sound is not cut off.
const LEAD_FRAMES: usize = 10;
/// Shortest word.
const LEAST_FRAMES: usize = 12;
/// Amplitudes below and above which a word is recorded again.
const TOO_QUIET: f32 = 0.02;
const CLIPPED: f32 = 0.99;

/// Record words for training: <word>/<speaker>_nohash_<n>.wav, one second each
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr record --word lumos -n 20 --speaker anna
  swr record --word lumos -n 20 --review                (Enter keeps a recording, r records it again)
  swr record --word lumos -n 5 --file lumos.wav         (cuts the words out of a recording)

Wait until it asks, then say the word; the pauses around it are cut. What is too quiet, cut off, too short or longer than a second is recorded again.
Then: swr-train adapt --data . --lang xx")]
pub(super) struct Record {
    /// The word to say
    #[arg(long, value_name = "WORD")]
    word: String,
    /// Recordings
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    count: usize,
    /// Who speaks: recordings of one speaker are never divided between training and test
    #[arg(long, value_name = "NAME", default_value = "me")]
    speaker: String,
    /// Folder in which the word's folder is made
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Ask after every recording whether to keep it
    #[arg(long)]
    review: bool,
    /// Audio file to cut the words out of, instead of the microphone
    #[arg(long, value_name = "FILE", conflicts_with = "review")]
    file: Option<PathBuf>,
    /// Microphone, as `swr devices` lists them [default: the system's]
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    device: Option<String>,
    #[command(flatten)]
    channel: ChannelArgs,
    /// One JSON object per recording
    #[arg(long)]
    json: bool,
}

/// A recording that was kept.
#[derive(serde::Serialize)]
struct Kept<'a> {
    file: &'a Path,
    /// Largest amplitude, in dB of full scale.
    peak_db: f32,
    /// Length of the word itself.
    word_ms: usize,
}

impl Record {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        // `_` and `-` end a speaker's name.
        for (what, name, more) in [
            ("--word", &self.word, "-' "),
            ("--speaker", &self.speaker, ""),
        ] {
            let plain = |c: char| is_letter(c) || more.contains(c);
            ensure!(
                name.chars().any(char::is_alphanumeric)
                    && name.trim() == name
                    && name.chars().all(plain),
                "{what} \"{name}\": expected letters and digits of any script, since it becomes a file's name"
            );
        }
        let mut source: Box<dyn Source> = match &self.file {
            Some(path) => Box::new(Recording::open(path, self.channel.channel)?),
            None => {
                let (source, name) = default_source(self.device.as_deref(), self.channel.channel)?;
                eprintln!("recording from {name}; be quiet for half a second");
                source
            }
        };
        // In a folder's name, `_` stands for a space.
        let folder = self.out.join(nfc(&self.word).replace(' ', "_"));
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let mut words = Words::default();
        let mut kept = 0;
        while kept < self.count {
            if self.file.is_none() {
                eprintln!("say \"{}\" ({} of {})", self.word, kept + 1, self.count);
            }
            let Some(spoken) = words.next(source.as_mut())? else {
                if self.file.is_some() {
                    break;
                }
                bail!("the audio ended after {kept} of {} recordings", self.count);
            };
            if let Some(fault) = spoken.fault() {
                eprintln!("swr: {fault}; once more");
                continue;
            }
            if self.review && !keep()? {
                words.forget();
                continue;
            }
            // Recordings are added, never replaced.
            let named = |n: usize| folder.join(format!("{}_nohash_{n}.wav", nfc(&self.speaker)));
            let path = write_new(&mut (0..).map(named), &wav(&spoken.clip())?)?;
            let path = path.context("as many recordings as there are numbers")?;
            kept += 1;
            let written = Kept {
                file: &path,
                peak_db: 20.0 * spoken.peak().log10(),
                word_ms: spoken.samples.len() * 1_000 / SAMPLE_RATE_HZ as usize,
            };
            if self.json {
                json_line(out, &written)?;
            } else {
                let Kept {
                    peak_db, word_ms, ..
                } = written;
                writeln!(out, "{}  {word_ms} ms, {peak_db:.0} dB", path.display())?;
            }
            out.flush()?;
        }
        Ok(match kept {
            0 => Outcome::Negative,
            _ => Outcome::Success,
        })
    }
}

/// Whether the user keeps the recording.
fn keep() -> anyhow::Result<bool> {
    eprint!("Enter to keep, r to record it again: ");
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(!answer.trim().eq_ignore_ascii_case("r"))
}

/// Cuts words out of a stream.
#[derive(Default)]
struct Words {
    /// Samples that are not cut yet.
    samples: Vec<f32>,
    /// Amplitude of the room, root mean square.
    room: Option<f32>,
    ended: bool,
}

/// A word with the quiet around it cut off.
struct Spoken {
    samples: Vec<f32>,
}

impl Words {
    /// The next word; none when the audio has ended.
    fn next(&mut self, source: &mut dyn Source) -> anyhow::Result<Option<Spoken>> {
        loop {
            if let Some(spoken) = self.cut() {
                return Ok(Some(spoken));
            }
            if self.ended {
                return Ok(None);
            }
            self.ended = !source.read(&mut self.samples)?;
            if self.ended {
                // What follows the end is quiet.
                let quiet = (END_FRAMES + 1) * FRAME_SAMPLES;
                self.samples.resize(self.samples.len() + quiet, 0.0);
            }
            while let Some(notice) = source.notice() {
                eprintln!("swr: {notice}");
            }
        }
    }

    /// Forgets what was said while the user decided.
    fn forget(&mut self) {
        self.samples.clear();
    }

    /// Cuts the first word that is complete.
    fn cut(&mut self) -> Option<Spoken> {
        let power =
            |frame: &[f32]| (frame.iter().map(|s| s * s).sum::<f32>() / frame.len() as f32).sqrt();
        let levels: Vec<f32> = self
            .samples
            .chunks_exact(FRAME_SAMPLES)
            .map(power)
            .collect();
        let room = match self.room {
            Some(room) => room,
            None if levels.len() < ROOM_FRAMES && !self.ended => return None,
            // The quieter half: somebody may speak at once.
            None => {
                let mut sorted = levels[..levels.len().min(ROOM_FRAMES)].to_vec();
                sorted.sort_by(f32::total_cmp);
                *self
                    .room
                    .insert(sorted.get(sorted.len() / 4).copied().unwrap_or(0.0))
            }
        };
        let loud = |level: &f32| *level > (ABOVE_ROOM * room).max(TOO_QUIET / 4.0);
        let begins = levels
            .windows(BEGIN_FRAMES)
            .position(|w| w.iter().all(loud));
        let Some(first) = begins else {
            // Nothing but the room; its last frames may be a word's first.
            let spare = levels.len().saturating_sub(LEAD_FRAMES + BEGIN_FRAMES);
            if self.room.is_some() {
                self.samples.drain(..spare * FRAME_SAMPLES);
            }
            return None;
        };
        let quiet = levels[first..]
            .windows(END_FRAMES)
            .position(|window| !window.iter().any(loud))?;
        let start = first.saturating_sub(LEAD_FRAMES) * FRAME_SAMPLES;
        // A little of the quiet: a word's last sound fades.
        let end = ((first + quiet + LEAD_FRAMES) * FRAME_SAMPLES).min(self.samples.len());
        let samples = self.samples[start..end].to_vec();
        self.samples.drain(..end);
        Some(Spoken { samples })
    }
}

impl Spoken {
    fn peak(&self) -> f32 {
        self.samples.iter().fold(0.0, |m, s| m.max(s.abs()))
    }

    /// Why it has to be said again.
    fn fault(&self) -> Option<String> {
        let frames = self.samples.len() / FRAME_SAMPLES;
        let ms = self.samples.len() * 1_000 / SAMPLE_RATE_HZ as usize;
        if self.peak() >= CLIPPED {
            Some(
                "too loud, it is cut off; speak from further away or turn the microphone down"
                    .into(),
            )
        } else if self.peak() < TOO_QUIET {
            Some("too quiet; come closer or turn the microphone up".into())
        } else if self.samples.len() > CLIP_SAMPLES {
            Some(format!(
                "{ms} ms long, a clip has 1000; say the word alone, a little faster"
            ))
        } else if frames < LEAST_FRAMES + 2 * LEAD_FRAMES {
            Some("too short to be a word".into())
        } else {
            None
        }
    }

    /// The word in the middle of a second of silence.
    fn clip(&self) -> Vec<f32> {
        let mut clip = vec![0.0; CLIP_SAMPLES];
        let start = (CLIP_SAMPLES - self.samples.len()) / 2;
        clip[start..start + self.samples.len()].copy_from_slice(&self.samples);
        clip
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of a tone, with the noise of a room between them: start, length and amplitude of each.
    fn recording(seconds: f64, words: &[(f64, f64, f32)]) -> Recording {
        let mut state = 1u32;
        let mut samples: Vec<f32> = (0..(seconds * 16_000.0) as usize)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                ((state >> 8) as f32 / (1u32 << 24) as f32 - 0.5) * 0.004
            })
            .collect();
        for (start_s, length_s, amplitude) in words {
            let start = (start_s * 16_000.0) as usize;
            let length = (length_s * 16_000.0) as usize;
            for (i, sample) in samples[start..start + length].iter_mut().enumerate() {
                *sample += amplitude * (i as f32 * 0.3).sin();
            }
        }
        Recording::new(samples)
    }

    fn cut(mut source: Recording) -> Vec<Spoken> {
        let (mut words, mut all) = (Words::default(), Vec::new());
        while let Some(word) = words.next(&mut source).expect("audio in memory") {
            all.push(word);
        }
        all
    }

    #[test]
    fn words_are_cut_out_and_centred() {
        let words = [(1.0, 0.4, 0.3), (2.5, 0.6, 0.2), (4.0, 0.3, 0.5)];
        let all = cut(recording(5.0, &words));
        assert_eq!(all.len(), 3);
        for (spoken, (_, length_s, amplitude)) in all.iter().zip(words) {
            assert_eq!(spoken.fault(), None);
            let found_s = spoken.samples.len() as f64 / 16_000.0;
            assert!(
                (found_s - length_s - 0.2).abs() < 0.05,
                "{found_s} of {length_s}"
            );
            let clip = spoken.clip();
            assert_eq!(clip.len(), CLIP_SAMPLES);
            let loud: Vec<usize> = (0..clip.len())
                .filter(|i| clip[*i].abs() > amplitude / 2.0)
                .collect();
            let middle = (loud[0] + loud[loud.len() - 1]) / 2;
            assert!(middle.abs_diff(CLIP_SAMPLES / 2) < 1_600, "{middle}");
        }
    }

    #[test]
    fn what_is_no_good_recording_is_told_why() {
        for (word, fault) in [
            ((1.0, 0.4, 1.2), "too loud"),
            ((1.0, 0.4, 0.015), "too quiet"),
            ((1.0, 1.4, 0.3), "1600 ms"),
            ((1.0, 0.06, 0.3), "too short"),
        ] {
            let all = cut(recording(4.0, &[word]));
            assert_eq!(all.len(), 1, "{fault}");
            let found = all[0].fault().unwrap_or_default();
            assert!(found.contains(fault), "{found} instead of {fault}");
        }
        assert!(cut(recording(2.0, &[])).is_empty());
    }
}
