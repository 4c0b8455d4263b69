//! What happens with detections besides being printed: a program is run, near misses are kept.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use swr_core::SAMPLE_RATE_HZ;

use crate::files::write_atomically;
use crate::spotter::Event;

/// Programs under way beyond which none is started: one that never ends would fill the machine.
const MOST_PROGRAMS: usize = 8;

/// Runs a program for every detection, without a shell.
pub(super) struct Program {
    program: PathBuf,
    running: Vec<Child>,
}

impl Program {
    /// `program` is a path, or a name that is looked for as usual.
    pub(super) fn new(program: &Path) -> Self {
        Self {
            program: program.to_path_buf(),
            running: Vec::new(),
        }
    }

    /// Starts the program with keyword, language, score and time as arguments, and does not wait for it.
    pub(super) fn run(&mut self, event: &Event) -> anyhow::Result<()> {
        self.running
            .retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        anyhow::ensure!(
            self.running.len() < MOST_PROGRAMS,
            "{}: {MOST_PROGRAMS} of it are still running; this one was not started",
            self.program.display()
        );
        let child = Command::new(&self.program)
            .arg(&event.keyword)
            .arg(&event.language)
            .arg(format!("{:.3}", event.score))
            .arg(format!("{:.2}", event.time_s))
            .stdin(Stdio::null())
            // Standard output has the detections.
            .stdout(io::stderr())
            .spawn()
            .with_context(|| format!("{}: could not be started", self.program.display()))?;
        self.running.push(child);
        Ok(())
    }
}

/// Near misses that are kept of a keyword: 5 MB, for forty keywords 200. A device that runs for years must not fill its card.
pub(super) const MOST_NEAR_MISSES: usize = 100;

/// Writes a near miss to `<folder>/<language>/<keyword>/near_<n>.wav`, and gives the file and its number; none where there are as many as are kept.
pub(super) fn record_near_miss(
    folder: &Path,
    near: &Event,
    samples: &[f32],
) -> anyhow::Result<Option<(PathBuf, usize)>> {
    // A keyword may have any character, a file name not.
    let plain = |c: char| {
        if c.is_alphanumeric() || "-' ".contains(c) {
            c
        } else {
            '_'
        }
    };
    let keyword: String = near.keyword.chars().map(plain).collect();
    let folder = folder.join(&near.language).join(keyword);
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let named = |number: usize| (folder.join(format!("near_{number:04}.wav")), number);
    let free = (1..=MOST_NEAR_MISSES)
        .map(named)
        .find(|(path, _)| !path.exists());
    if let Some((path, _)) = &free {
        write_wav(path, samples)?;
    }
    Ok(free)
}

/// Writes 16 kHz mono samples as a WAV file of 16 bits.
pub(in crate::cli) fn write_wav(path: &Path, samples: &[f32]) -> anyhow::Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE_HZ,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let named = || path.display().to_string();
    let mut bytes = io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).with_context(named)?;
    for sample in samples {
        let value = (sample * 32_768.0).round().clamp(-32_768.0, 32_767.0);
        writer.write_sample(value as i16).with_context(named)?;
    }
    writer.finalize().with_context(named)?;
    write_atomically(path, &bytes.into_inner()).with_context(named)
}
