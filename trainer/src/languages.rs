//! Several languages with one command: which they are, and running them one after another or as processes side by side. Each writes its
//! own result atomically, so a failure or an interruption costs no other language anything.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};
use swr_dataset::TaskOptions;

use crate::progress::Progress;

/// The languages that `--lang` names: codes with commas between, or `all` that `data` and `extra` hold but the base's own.
pub fn named(lang: &str, data: &Path, extra: &[PathBuf], base: &str) -> Result<Vec<String>> {
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
        "--lang {lang}: {} holds no language with two keywords but the base's",
        data.display()
    );
    for (i, code) in codes.iter().enumerate() {
        ensure!(
            !code.is_empty(),
            "--lang {lang}: expected codes with commas between, such as ar,zh"
        );
        ensure!(
            !codes[..i].contains(code),
            "--lang {lang}: `{code}` stands there twice"
        );
        ensure!(
            code != base,
            "--lang {lang}: `{code}` is the base's own language; a delta adds another"
        );
    }
    Ok(codes)
}

/// Runs `one` for each language, one after another; all are tried before the failures are told.
pub fn one_after_another(
    codes: &[String],
    progress: &Progress,
    mut one: impl FnMut(&str) -> Result<()>,
) -> Result<()> {
    let mut failures = Vec::new();
    for (i, code) in codes.iter().enumerate() {
        progress.say(&format!("{code}: language {} of {}", i + 1, codes.len()));
        if let Err(error) = one(code) {
            failures.push(format!("{code}: {error:#}"));
        }
    }
    told(failures, codes.len())
}

/// Runs this program for each language with the process's own arguments, `jobs` at a time, the cores divided between them.
/// Each has its own folder below `work`, if that is given. Their figures go to standard output when each is done; their talk is only told when one fails.
pub fn side_by_side(
    codes: &[String],
    jobs: usize,
    work: Option<&Path>,
    progress: &Progress,
) -> Result<()> {
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / jobs.min(codes.len())).max(1).to_string();
    let waiting = Mutex::new(codes.iter().collect::<VecDeque<_>>());
    let failures = Mutex::new(Vec::new());
    let next = || {
        waiting
            .lock()
            .expect("no holder of the list panics")
            .pop_front()
    };
    let bar = progress.bar("languages", codes.len());
    std::thread::scope(|scope| {
        for _ in 0..jobs.min(codes.len()) {
            scope.spawn(|| {
                while let Some(code) = next() {
                    let ran = Command::new(&program)
                        .args(std::env::args_os().skip(1))
                        // The last of several counts.
                        .args(["--quiet", "--jobs", "1", "--lang", code])
                        .args(
                            work.map(|work| work.join(code))
                                .into_iter()
                                .flat_map(|folder| [OsString::from("--work"), folder.into()]),
                        )
                        .env("RAYON_NUM_THREADS", &threads)
                        .stdin(Stdio::null())
                        .output();
                    match ran {
                        Ok(output) => {
                            let said = String::from_utf8_lossy(&output.stdout);
                            bar.suspend(|| {
                                said.lines().for_each(|line| println!("{code}: {line}"))
                            });
                            if !output.status.success() {
                                let said = String::from_utf8_lossy(&output.stderr);
                                failures
                                    .lock()
                                    .expect("no holder of the failures panics")
                                    .push(format!("{code}: {}", said.trim()));
                            }
                        }
                        Err(error) => failures
                            .lock()
                            .expect("no holder of the failures panics")
                            .push(format!("{code}: could not be started: {error}")),
                    }
                    bar.inc(1);
                }
            });
        }
    });
    bar.finish_and_clear();
    told(failures.into_inner().unwrap_or_default(), codes.len())
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
