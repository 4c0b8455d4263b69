//! Whole runs of `swr-train` on a small folder of tones: a run killed and started again ends in the same bytes as one that was
//! not, a delta keeps its budget, and bad input is refused with one clear sentence and no half-written file.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use swr_core::package::{Delta, changed, merge};
use swr_trainer::base::Beginning;
use swr_trainer::config::{BASE_DEFAULT, BaseConfig, resolve};
use swr_trainer::examples::{Data, Language};
use swr_trainer::files::write_atomically;
use swr_trainer::learner::{Learner, Rule, fold};
use swr_trainer::models::read_base;
use swr_trainer::network::initial_weights;
use swr_trainer::progress::Progress;

use crate::tones;

fn speech(folder: &Path, words: &[(&str, f32)]) -> PathBuf {
    let words: Vec<(&str, [f32; 2])> = words.iter().map(|(word, hz)| (*word, [*hz; 2])).collect();
    tones::speech(folder, None, &words, 30)
}

fn command(arguments: &[&str], work: &Path, models: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swr-train"));
    command
        .arg("--quiet")
        .args(arguments)
        .arg("--work")
        .arg(work)
        .arg("--models")
        .arg(models);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finish(arguments: &[&str], work: &Path, models: &Path) {
    finished(command(arguments, work, models));
}

fn finished(mut command: Command) {
    let output = command.output().expect("swr-train runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Starts the command on one thread, kills it as soon as its log has so many finished epochs, starts it again, and so on to its end.
fn finish_after_kills(arguments: &[&str], work: &Path, models: &Path, epochs: &[usize]) {
    let command = || on_threads(command(arguments, work, models), "1");
    for epochs in epochs {
        let mut child = command().spawn().expect("swr-train runs");
        let started = Instant::now();
        let finished = || {
            let log = std::fs::read_to_string(work.join("log.jsonl")).unwrap_or_default();
            log.lines()
                .filter(|line| line.contains("\"epoch\""))
                .count()
                >= *epochs
        };
        while !finished() {
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none(), "the run ended before it could be killed");
            assert!(
                started.elapsed() < Duration::from_secs(120),
                "no epoch was finished"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().expect("a killed child");
        child.wait().expect("a child");
        assert!(work.join("checkpoint.safetensors").exists());
    }
    finished(command());
}

fn on_threads(mut command: Command, threads: &str) -> Command {
    command.env("RAYON_NUM_THREADS", threads);
    command
}

fn refused(output: Output, words: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert_eq!(
        message.trim_end().lines().count(),
        1,
        "one sentence: {message}"
    );
    for word in words {
        assert!(message.contains(word), "`{word}` is missing in: {message}");
    }
}

#[test]
fn a_killed_run_started_again_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let english = speech(
        &at("en"),
        &[("low", 300.0), ("high", 1_500.0), ("top", 3_500.0)],
    );
    let english = english.to_str().expect("a readable path");
    let base = [
        "base",
        "--data",
        english,
        "--set",
        "schedule.epochs=2",
        "--set",
        "schedule.scenes=64",
        "--set",
        "schedule.batch=16",
        "--set",
        "schedule.warmup_epochs=0.5",
    ];
    finished(on_threads(command(&base, &at("whole"), &at("models")), "3"));
    finish_after_kills(&base, &at("killed"), &at("models-killed"), &[1]);
    let bytes =
        |models: &str, name: &str| std::fs::read(at(models).join(name)).expect("a model file");
    for name in ["base.onnx", "base.json"] {
        assert!(
            bytes("models", name) == bytes("models-killed", name),
            "{name} differs"
        );
    }

    let other = speech(&at("xx"), &[("tief", 450.0), ("hoch", 2_500.0)]);
    let other = other.to_str().expect("a readable path");
    let short = ["dense", "select", "tune", "quantise"]
        .map(|stage| {
            ["epochs=2", "scenes=48", "batch=16", "learning_rate=5e-3"]
                .map(|set| format!("{stage}.{set}"))
        })
        .concat();
    let mut adapt = vec!["adapt", "--data", other, "--lang", "de", "--budget", "10%"];
    adapt.extend(short.iter().flat_map(|set| ["--set", set]));
    finish(&adapt, &at("whole-de"), &at("models"));
    // In the middle of dense, of select, of tune and of quantise.
    finish_after_kills(
        &adapt,
        &at("killed-de"),
        &at("models-killed"),
        &[1, 3, 5, 7],
    );
    assert!(
        bytes("models", "de.swr") == bytes("models-killed", "de.swr"),
        "de.swr differs"
    );

    let base = read_base(&at("models")).expect("the base");
    let delta = Delta::read(&bytes("models", "de.swr")).expect("the delta");
    let counts = changed(
        base.tensors(),
        &merge(base.tensors(), &delta).expect("a fitting delta"),
    )
    .expect("counts");
    assert!(
        counts.convolution > 0 && counts.convolution <= 642,
        "{counts:?}"
    );

    // The other units of budget, and budgets that cannot hold.
    for budget in ["40%all", "1500B"] {
        adapt[6] = budget;
        finish(&adapt, &at(budget), &at("models"));
        let delta = Delta::read(&bytes("models", "de.swr")).expect("the delta");
        let counts = changed(
            base.tensors(),
            &merge(base.tensors(), &delta).expect("a fitting delta"),
        )
        .expect("counts");
        let budget = delta.header().budget.as_ref().expect("a budget");
        let used = budget.used(&counts, bytes("models", "de.swr").len());
        assert!(
            used <= budget.allowed(&swr_core::package::Counts::of(base.tensors())),
            "{budget}: {used}"
        );
    }
    for (budget, words) in [
        ("200B", ["--budget 200B", "give at least"]),
        ("1%all", ["--budget 1%all", "give at least"]),
        ("0%", ["--budget 0%", "give at least 0.02%"]),
    ] {
        adapt[6] = budget;
        refused(
            command(&adapt, &at("refused"), &at("models"))
                .output()
                .expect("swr-train runs"),
            &words,
        );
    }
    // A folder that holds another configuration's run.
    adapt[6] = "10%";
    adapt.extend(["--set", "seed=9"]);
    refused(
        command(&adapt, &at("whole-de"), &at("models"))
            .output()
            .expect("swr-train runs"),
        &["config.seed was 1, now 9", "--restart"],
    );
}

/// Folded again, the weights that a base gives to a beginning are its own; of the classifier, rows keep their labels.
#[test]
fn a_base_begins_with_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let first = speech(&at("first"), &[("low", 300.0), ("top", 3_500.0)]);
    let second = speech(&at("second"), &[("high", 1_500.0), ("low", 300.0)]);
    let sets = [
        "schedule.epochs=1",
        "schedule.scenes=32",
        "schedule.batch=16",
    ];
    let mut base = base_arguments(&first);
    base.extend(sets.iter().flat_map(|set| ["--set", set]));
    finish(&base, &at("work"), &at("models"));

    let config: BaseConfig = resolve(None, BASE_DEFAULT, &sets.map(String::from)).expect("fits");
    let data = Data {
        data: second.clone(),
        ..Data::default()
    };
    let quiet = Progress { quiet: true };
    let language = Language::load(&data, "en", config.pipeline().frontend, 1, &quiet);
    let language = language.expect("a language");
    let beginning = Beginning::read(&at("models"), &config, &language).expect("a base");
    let random = initial_weights(&config.architecture, language.labels.len(), 1).expect("weights");
    let mut learner = Learner::default();
    for (name, value) in &random {
        let anchor = value.zeros_like().expect("a tensor");
        learner
            .add(name, value, Rule::Sgd { anchor })
            .expect("a new name");
    }
    let taken = learner.take_up(&beginning.state).expect("a state");
    assert_eq!(taken, random.len());
    let mut weights = learner.weights();
    fold(&mut weights, &learner.running).expect("norms");

    let base = read_base(&at("models")).expect("the base");
    let near = |a: &[f32], b: &[f32]| {
        let pairs = a.iter().zip(b);
        a.len() == b.len()
            && pairs.fold(true, |near, (a, b)| {
                near && (a - b).abs() <= 1e-4 * (1.0 + b.abs())
            })
    };
    for (name, tensor) in base.tensors().iter() {
        let found: Vec<f32> = weights[name]
            .flatten_all()
            .and_then(|t| t.to_vec1())
            .expect("f32");
        if !name.starts_with("classifier") {
            assert!(near(&found, &tensor.data), "{name}");
            continue;
        }
        let row = |values: &[f32], labels: &[String], label: &str| {
            let row = labels.iter().position(|l| l == label).expect("a label");
            let width = values.len() / labels.len();
            values[row * width..][..width].to_vec()
        };
        for label in ["low", "_unknown_", "_silence_"] {
            let (a, b) = (
                row(&found, &language.labels, label),
                row(&tensor.data, &base.manifest().labels, label),
            );
            assert!(near(&a, &b), "{name}, {label}");
        }
    }
    let mut nowhere = base_arguments(&second);
    let folder = at("nothing");
    nowhere.extend(["--from", folder.to_str().expect("a readable path")]);
    let output = command(&nowhere, &at("work-2"), &at("models-2")).output();
    refused(
        output.expect("swr-train runs"),
        &["neither a folder of models"],
    );
}

fn base_arguments(data: &Path) -> Vec<&str> {
    vec!["base", "--data", data.to_str().expect("a readable path")]
}

#[test]
fn several_languages_are_each_done_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let text = |path: PathBuf| path.to_str().expect("a readable path").to_string();
    let english = text(speech(&at("en"), &[("low", 300.0), ("high", 1_500.0)]));
    let once = [
        "--set",
        "schedule.epochs=1",
        "--set",
        "schedule.scenes=64",
        "--set",
        "schedule.batch=16",
    ];
    finish(
        &[&["base", "--data", &english][..], &once].concat(),
        &at("base"),
        &at("models"),
    );
    for (language, words, clips) in [
        ("aa", vec![("one", [450.0; 2]), ("two", [2_500.0; 2])], 26),
        (
            "bb",
            vec![("three", [700.0; 2]), ("four", [1_900.0; 2])],
            26,
        ),
        ("rare", vec![("once", [800.0; 2])], 5),
    ] {
        tones::speech(&at("many"), Some(language), &words, clips);
    }
    let many = text(at("many"));
    let run = |lang: &str, jobs: &str| {
        let mut arguments = vec!["adapt", "--data", &many, "--lang", lang, "--jobs", jobs];
        arguments.extend([
            "--set",
            "dense.scenes=100",
            "--set",
            "select.scenes=100",
            "--set",
            "tune.scenes=100",
            "--set",
            "quantise.scenes=100",
            "--set",
            "dense.epochs=1",
            "--set",
            "select.epochs=1",
            "--set",
            "tune.epochs=1",
            "--set",
            "quantise.epochs=1",
        ]);
        command(&arguments, &at("runs"), &at("models"))
            .output()
            .expect("swr-train runs")
    };
    let said = |output: &Output| {
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let delta = |language: &str| std::fs::read(at("models").join(format!("{language}.swr")));

    // One fails: there is no such language. The other is done.
    let failed = run("aa,xx", "1");
    assert_eq!(failed.status.code(), Some(2));
    let message = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(
        message.contains("1 of 2 languages failed") && message.contains("xx"),
        "{message}"
    );
    let first = delta("aa").expect("the delta of aa");
    // All, side by side: aa is skipped, bb made; `rare` has no two keywords.
    let output = said(&run("all", "2"));
    assert!(
        output.contains("aa: ") && output.contains("skipped"),
        "{output}"
    );
    assert_eq!(delta("aa").expect("the delta of aa"), first);
    delta("bb").expect("the delta of bb");
    delta("rare").expect_err("no delta of rare");
    // Again, one after another: nothing is left to do.
    assert_eq!(said(&run("aa,bb", "1")).matches("skipped").count(), 2);
}

#[test]
fn a_loss_that_is_not_finite_stops_with_step_and_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let data = speech(&at("en"), &[("low", 300.0), ("high", 1_500.0)]);
    let arguments = [
        "base",
        "--data",
        data.to_str().expect("a readable path"),
        "--set",
        "schedule.learning_rate=1e30",
        "--set",
        "schedule.epochs=2",
        "--set",
        "schedule.scenes=64",
    ];
    let run = || {
        command(&arguments, &at("work"), &at("models"))
            .output()
            .expect("swr-train runs")
    };
    refused(run(), &["step ", "batch ", "lower the learning rate"]);
    let log = std::fs::read_to_string(at("work").join("log.jsonl")).expect("a log");
    assert!(
        log.lines()
            .any(|line| line.contains("\"step\":") && line.contains("\"loss\":\"NaN\"")),
        "{log}"
    );
    assert!(!at("models").exists(), "nothing was written");

    std::fs::write(at("work").join("checkpoint.safetensors"), b"no checkpoint")
        .expect("a spoilt file");
    refused(run(), &["checkpoint.safetensors", "damaged", "--restart"]);
    let of_format = |format: &str| {
        let metadata =
            std::collections::HashMap::from([("format".to_string(), format.to_string())]);
        let none: [(&str, candle_core::Tensor); 0] = [];
        safetensors::serialize(none, Some(metadata)).expect("a checkpoint")
    };
    std::fs::write(at("work").join("checkpoint.safetensors"), of_format("9"))
        .expect("a spoilt file");
    refused(run(), &["format 9", "reads 4", "--restart"]);
}

#[test]
fn bad_input_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let run = |data: &Path| {
        let data = data.to_str().expect("a readable path");
        command(
            &[
                "base",
                "--data",
                data,
                "--strict",
                "--set",
                "schedule.epochs=1",
                "--set",
                "schedule.scenes=64",
            ],
            &at("work"),
            &at("models"),
        )
        .output()
        .expect("swr-train runs")
    };
    refused(run(&at("missing")), &["missing"]);
    std::fs::create_dir(at("empty")).expect("a new folder");
    refused(run(&at("empty")), &["empty"]);
    let broken = speech(&at("broken"), &[("low", 300.0), ("high", 1_500.0)]);
    let clip = broken
        .join("low")
        .join(format!("{:08x}_nohash_0.wav", 77_778));
    std::fs::write(&clip, b"RIFF").expect("a spoilt file");
    refused(run(&broken), &[clip.to_str().expect("a readable path")]);
    std::fs::write(&clip, b"").expect("an empty file");
    refused(run(&broken), &[clip.to_str().expect("a readable path")]);
    assert!(!at("models").exists(), "nothing was written");
}

#[test]
fn what_could_not_be_adapted_is_refused_before_training() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let words = [("low", [300.0; 2]), ("high", [1_500.0; 2])];
    let train = |arguments: &[&str], models: &Path| {
        let data = folder.path().to_str().expect("a readable path");
        let all = [arguments, &["--data", data]].concat();
        let output = command(&all, &at("work"), models).output();
        output.expect("swr-train runs")
    };
    tones::speech(folder.path(), Some("en"), &words, 50);
    // Nobody for DEV: all are in TRAIN.
    tones::speech(folder.path(), Some("aa"), &words, 22);
    let table = folder.path().join("mswc/aa/aa_splits.csv");
    let all = std::fs::read_to_string(&table).expect("a table");
    let base = [
        "base",
        "--set",
        "schedule.epochs=1",
        "--set",
        "schedule.scenes=64",
    ];
    assert!(train(&base, &at("models")).status.success());
    let adapt = |more: &[&str]| {
        let adapt = [
            "adapt",
            "--lang",
            "aa",
            "--set",
            "dense.epochs=1",
            "--set",
            "dense.scenes=64",
        ];
        train(&[&adapt[..], more].concat(), &at("models"))
    };
    refused(
        adapt(&["--budget", "10%"]),
        &["its 22 speakers are all in TRAIN", "--no-dev"],
    );
    let one: String = (0..22)
        .rev()
        .fold(all, |all, n| all.replace(&format!("speaker{n},"), "she,"));
    std::fs::write(&table, one).expect("a table");
    refused(
        adapt(&["--budget", "10%"]),
        &["of one speaker", "recordings of other speakers"],
    );
    for (budget, words) in [
        ("0%", "give at least"),
        ("1%all", "give at least"),
        ("100B", "give at least"),
    ] {
        refused(adapt(&["--no-dev", "--budget", budget]), &[budget, words]);
    }
    let above = adapt(&["--budget", "101%"]);
    assert_eq!(above.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&above.stderr).contains("more than 100 per cent; write 10%"));
    for (method, words) in [
        ("full", "give one in bytes"),
        ("head-statistics", "swr-train compare"),
    ] {
        let method = format!("method={method}");
        refused(
            adapt(&["--no-dev", "--budget", "10%", "--set", &method]),
            &[words],
        );
    }
}

#[test]
fn a_full_disk_leaves_no_half_written_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let mount = |arguments: &[&str]| {
        Command::new(arguments[0])
            .args(&arguments[1..])
            .output()
            .is_ok_and(|o| o.status.success())
    };
    let disk = folder.path().to_str().expect("a readable path");
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", disk]) {
        eprintln!(
            "SKIPPED a_full_disk_leaves_no_half_written_file: no right to mount a small disk"
        );
        return;
    }
    let file = folder.path().join("model.bin");
    write_atomically(&file, &[1; 1_000]).expect("room for a small file");
    let error = write_atomically(&file, &[2; 1_000_000]).expect_err("no room for a large one");
    let kept = std::fs::read(&file).expect("the file of before");
    let names = std::fs::read_dir(folder.path())
        .expect("the folder")
        .count();
    assert!(mount(&["umount", disk]));
    assert!(
        format!("{error:#}").contains("model.bin: could not be written; check the free space"),
        "{error:#}"
    );
    assert!(
        kept == [1; 1_000] && names == 1,
        "the old file is whole, and nothing else is there"
    );
}

/// A bad clip is left out and named, unless it must not be; a word without any clip left is an error. Told before anything is trained.
#[test]
fn clips_that_cannot_be_read_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let data = speech(&at("data"), &[("low", 400.0), ("high", 2_000.0)]);
    let clips = |word: &str| -> Vec<PathBuf> {
        let listed = std::fs::read_dir(data.join(word)).expect("a word's folder");
        listed.map(|entry| entry.expect("a clip").path()).collect()
    };
    let spoil =
        |path: &PathBuf| std::fs::write(path, b"FORM\0\0\0\x20AIFF").expect("a spoilt clip");
    let run = |more: &[&str]| {
        let data = data.to_str().expect("a readable path");
        let all = [
            "base",
            "--data",
            data,
            "--set",
            "schedule.epochs=1",
            "--set",
            "schedule.scenes=64",
        ];
        let command = command(&[&all, more].concat(), &at("work"), &at("models")).output();
        command.expect("swr-train runs")
    };
    for path in clips("low").iter().take(3) {
        spoil(path);
    }
    refused(
        run(&["--strict"]),
        &["3 files cannot be read", "AIFF", "--strict"],
    );
    for path in &clips("low") {
        spoil(path);
    }
    refused(run(&[]), &["none of the training clips of \"low\"", "AIFF"]);
    assert!(!at("models").exists() && !at("work").exists());
}
