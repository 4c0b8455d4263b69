//! What happens with detections besides being printed: a program is run, near misses are kept.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use swr_core::SAMPLE_RATE_HZ;

use crate::files::write_new;
use crate::spotter::Event;
use crate::words::is_letter;

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(path: &Path) -> bool {
    path.is_file() || path.with_extension("exe").is_file()
}

/// Programs under way beyond which none is started: one that never ends would fill the machine.
const MOST_PROGRAMS: usize = 8;

/// Runs a program for every detection, without a shell.
pub(super) struct Program {
    program: PathBuf,
    running: Vec<Child>,
}

impl Program {
    /// `program` is a path, or a name that is looked for as usual. Looked for now: the first keyword may be spoken tomorrow.
    ///
    /// # Errors
    /// If there is no such program, or it may not be run.
    pub(super) fn find(program: &Path) -> anyhow::Result<Self> {
        let shown = program.display();
        let is_path = program.components().count() > 1 || program.is_absolute();
        let found = if is_path {
            program.is_file().then(|| program.to_path_buf())
        } else {
            let folders = std::env::var_os("PATH").unwrap_or_default();
            let mut places = std::env::split_paths(&folders).map(|folder| folder.join(program));
            places.find(|place| is_executable(place))
        };
        let Some(found) = found else {
            let beside = Path::new(".").join(program);
            anyhow::ensure!(
                is_path || !beside.is_file(),
                "--exec {shown}: not in the folders of PATH; give {} for the one that is here",
                beside.display()
            );
            anyhow::bail!("--exec {shown}: there is no such program");
        };
        anyhow::ensure!(
            is_executable(&found),
            "--exec {shown}: it may not be run; try `chmod +x {shown}`"
        );
        Ok(Self {
            program: program.to_path_buf(),
            running: Vec::new(),
        })
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
        if is_letter(c) || "-' ".contains(c) {
            c
        } else {
            '_'
        }
    };
    let keyword: String = near.keyword.chars().map(plain).collect();
    let folder = folder.join(&near.language).join(keyword);
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut number = 0;
    let mut names = (1..=MOST_NEAR_MISSES).map(|next| {
        number = next;
        folder.join(format!("near_{next:04}.wav"))
    });
    let written = write_new(&mut names, &wav(samples)?)?;
    Ok(written.map(|path| (path, number)))
}

/// 16 kHz mono samples as a WAV file of 16 bits.
pub(in crate::cli) fn wav(samples: &[f32]) -> anyhow::Result<Vec<u8>> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE_HZ,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec)?;
    for sample in samples {
        let value = (sample * 32_768.0).round().clamp(-32_768.0, 32_767.0);
        writer.write_sample(value as i16)?;
    }
    writer.finalize()?;
    Ok(bytes.into_inner())
}
