//! Several languages with one command: which they are, and running them one after another or as processes side by side. Each writes its
//! own result atomically, so a failure or an interruption costs no other language anything.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::{Context, Result, bail, ensure};
use swr_dataset::TaskOptions;

use crate::progress::Progress;

/// The languages that `flag`, such as `--lang`, names: codes with commas between, or `all` that `data` and `extra` hold but the base's own.
pub(super) fn named(
    (flag, lang): (&str, &str),
    (data, extra): (&Path, &[PathBuf]),
    base: &str,
) -> Result<Vec<String>> {
    let codes: Vec<String> = if lang == "all" {
        let options = TaskOptions {
            extra: extra.to_vec(),
            ..TaskOptions::default()
        };
        let mut codes = swr_dataset::languages(data, &options)?;
        codes.retain(|code| code != base);
        codes
    } else {
        lang.split(',')
            .map(|code| code.trim().to_string())
            .collect()
    };
    ensure!(
        !codes.is_empty(),
        "{flag} {lang}: {} holds no language with two keywords but the base's",
        data.display()
    );
    for (i, code) in codes.iter().enumerate() {
        ensure!(
            !code.is_empty(),
            "{flag} {lang}: expected codes with commas between, such as ar,zh"
        );
        ensure!(
            !codes[..i].contains(code),
            "{flag} {lang}: `{code}` stands there twice"
        );
        ensure!(
            code != base,
            "{flag} {lang}: `{code}` is the base's own language; name others"
        );
    }
    Ok(codes)
}

/// Runs `one` for each language, one after another; all are tried before the failures are told.
pub(super) fn one_after_another(
    codes: &[String],
    progress: &Progress,
    mut one: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    if let [code] = codes {
        return one(code);
    }
    let mut failures = Vec::new();
    for (i, code) in codes.iter().enumerate() {
        progress.say(&format!("{code}: language {} of {}", i + 1, codes.len()));
        if let Err(error) = one(code) {
            failures.push(format!("{code}: {error:#}"));
        }
    }
    told(failures, codes.len())
}

/// Runs this program for each language with the same `arguments`, `jobs` at a time, the cores divided between them.
/// Each has its own folder below `work`, if that is given. Their figures go to `out` when each is done; their talk is only told when one fails.
pub(super) fn side_by_side(
    codes: &[String],
    jobs: usize,
    work: Option<&Path>,
    arguments: &[OsString],
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<()> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = jobs.min(codes.len());
    let threads = (cores / jobs).max(1).to_string();
    let run = |code: &str| {
        let folder = work.map(|work| work.join(code)).into_iter();
        Command::new(&program)
            .args(arguments.iter().skip(1))
            // The last of several counts.
            .args(["--quiet", "--jobs", "1", "--lang", code])
            .args(folder.flat_map(|folder| [OsString::from("--work"), folder.into()]))
            .env("RAYON_NUM_THREADS", &threads)
            .stdin(Stdio::null())
            .output()
    };

    let next = AtomicUsize::new(0);
    let (sender, finished) = mpsc::channel();
    let bar = progress.bar("languages", codes.len());
    let mut failures = Vec::new();
    std::thread::scope(|scope| -> Result<()> {
        for _ in 0..jobs {
            let (sender, next, run) = (sender.clone(), &next, &run);
            scope.spawn(move || {
                while let Some(code) = codes.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Nobody listens any more where the results could not be written.
                    let _ = sender.send((code, run(code)));
                }
            });
        }
        drop(sender);
        for (code, ran) in finished {
            match ran {
                Ok(output) => {
                    let said = String::from_utf8_lossy(&output.stdout);
                    bar.suspend(|| {
                        let mut lines = said.lines();
                        lines.try_for_each(|line| writeln!(out, "{code}: {line}"))
                    })?;
                    if !output.status.success() {
                        let said = String::from_utf8_lossy(&output.stderr);
                        failures.push(format!("{code}: {}", said.trim()));
                    }
                }
                Err(error) => failures.push(format!("{code}: could not be started: {error}")),
            }
            bar.inc(1);
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    told(failures, codes.len())
}

fn told(failures: Vec<String>, of: usize) -> Result<()> {
    if !failures.is_empty() {
        bail!(
            "{} of {of} languages failed; the others are done, and skipped when this is run again:\n{}",
            failures.len(),
            failures.join("\n")
        );
    }
    Ok(())
}
