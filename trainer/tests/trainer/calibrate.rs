//! Thresholds for a wanted rate of false accepts: chosen on one half of the negatives, judged by the other, stored in the package, and never called
//! proven by less audio than a proof takes.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use swr_core::package::{Calibration, Delta, merge};
use swr_trainer::models::{Base, read_base};

use crate::tones;

fn train(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_swr-train"))
        .arg("--quiet")
        .args(arguments)
        .output()
        .expect("swr-train runs")
}

fn succeeds(arguments: &[&str]) -> String {
    let output = train(arguments);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {talk}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What it says when it refuses.
fn refuses(arguments: &[&str]) -> String {
    let output = train(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// Eight seconds of clips of a word, one after another, and noise: audio in which a keyword spotter should hear nothing, but will.
fn negatives(folder: &Path, data: &Path, words: &[&str]) {
    std::fs::create_dir_all(folder).expect("a new folder");
    for word in words {
        let clips = std::fs::read_dir(data.join(word)).expect("clips");
        let mut clips: Vec<_> = clips.map(|entry| entry.expect("a clip").path()).collect();
        clips.sort();
        let spec = hound::WavReader::open(&clips[0]).expect("a clip").spec();
        let path = folder.join(format!("{word}.wav"));
        let mut writer = hound::WavWriter::create(path, spec).expect("a new file");
        for clip in &clips[..8] {
            for sample in hound::WavReader::open(clip)
                .expect("a clip")
                .samples::<i16>()
            {
                writer
                    .write_sample(sample.expect("a sample"))
                    .expect("written");
            }
        }
        writer.finalize().expect("a whole file");
    }
}

#[test]
fn a_rate_is_kept_where_it_was_chosen_and_proven_only_by_hours() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let words = [
        ("low", [300.0; 2]),
        ("high", [1_500.0; 2]),
        ("top", [3_500.0; 2]),
    ];
    tones::speech(folder.path().join("en").as_path(), None, &words, 30);
    // Words that are no keywords, and not very like them.
    let others = [
        ("a", [750.0; 2]),
        ("b", [1_000.0; 2]),
        ("c", [2_300.0; 2]),
        ("d", [6_000.0; 2]),
    ];
    let spoken = tones::speech(folder.path().join("others").as_path(), None, &others, 8);
    negatives(&folder.path().join("radio"), &spoken, &["a", "b", "c", "d"]);
    // Some of them are taught as no keyword: a network trained for seconds is sure of any tone otherwise.
    let unknown = folder.path().join("en/_unknown_");
    std::fs::create_dir_all(&unknown).expect("a new folder");
    for word in ["a", "b", "c", "d"] {
        for clip in std::fs::read_dir(spoken.join(word)).expect("clips") {
            let clip = clip.expect("a clip");
            let name = format!("{word}{}", clip.file_name().to_string_lossy());
            std::fs::copy(clip.path(), unknown.join(name)).expect("a copy");
        }
    }
    let (data, models, radio) = (at("en"), at("models"), at("radio"));
    let short = [
        "schedule.epochs=4",
        "schedule.scenes=300",
        "schedule.batch=16",
        "schedule.warmup_epochs=0.5",
        "schedule.learning_rate=0.05",
        "loss.rise=0.5",
        // A word that is one high tone is silent through a narrow microphone.
        "augment.narrow_probability=0",
        // Long averages: posteriors then differ between what is a keyword and what is nearly one.
        "window_frames=98",
        "timing.smoothing_frames=30",
        "timing.confirm_frames=25",
    ];
    let set: Vec<&str> = short.iter().flat_map(|s| ["--set", s]).collect();
    let work = at("work");
    let base = [
        "base", "--data", &data, "--models", &models, "--work", &work,
    ];
    succeeds(&[&base[..], &set[..]].concat());
    // Any delta: it names the base's manifest, which calibrating the base changes.
    let read = || read_base(Path::new(&models)).expect("a base");
    let delta = |base: &Base| {
        let file = std::fs::read(at("models/sv.swr")).expect("a delta");
        let delta = Delta::read(&file).expect("a delta");
        delta
            .check_manifest(base.manifest_sha256())
            .expect("this base");
        merge(base.tensors(), &delta).expect("the merged network")
    };
    let before = read();
    let tuned = at("tuned.safetensors");
    succeeds(&[
        "unpack", "--lang", "en", "--models", &models, "--out", &tuned,
    ]);
    let three = at("three.txt");
    std::fs::write(&three, "high\nlow\ntop").expect("labels");
    let pack = [
        "pack", "--lang", "sv", "--tuned", &tuned, "--labels", &three, "--models", &models,
    ];
    succeeds(&pack);
    let merged = delta(&before);

    let calibrate = |rate: &str, more: &[&str]| -> Vec<String> {
        let command = [
            "calibrate",
            "--data",
            &data,
            "--lang",
            "en",
            "--models",
            &models,
            "--per-hour",
            rate,
            "--json",
        ];
        [&command[..], more]
            .concat()
            .iter()
            .map(|s| s.to_string())
            .collect()
    };
    let run = |rate: &str, more: &[&str]| -> Value {
        let command = calibrate(rate, more);
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        serde_json::from_str(&succeeds(&command)).expect("one JSON object")
    };
    let strict = run("1", &["--negatives", &radio]);
    assert_eq!(strict["verified"], false, "seconds prove nothing: {strict}");
    assert_eq!(
        strict["chosen_on"]["false_accepts"], 0,
        "one an hour in 16 s is none: {strict}"
    );
    assert_eq!(strict["chosen_on"]["sources"], 2);
    assert_eq!(strict["judged_on"]["sources"], 2);
    let hours = strict["chosen_on"]["hours"].as_f64().expect("hours");
    assert!((hours - 16.0 / 3_600.0).abs() < 1e-9, "{hours}");
    let after = read();
    let wanted = Calibration {
        false_accepts_per_hour: 1.0,
        verified: false,
    };
    assert_eq!(after.manifest().calibration, Some(wanted));
    let stored = after.manifest().thresholds.per_label(5);
    for (label, threshold) in after.manifest().labels.iter().zip(&stored).take(3) {
        let told = strict["thresholds"][label].as_f64().expect("a threshold");
        assert_eq!(told as f32, *threshold, "{label}");
    }
    assert_eq!(
        delta(&after),
        merged,
        "deltas follow the base's manifest and stay what they are"
    );

    // A rate that seconds can prove: a false accept every second would still keep it.
    let lax = run("100000", &["--negatives", &radio]);
    assert_eq!(lax["verified"], true, "{lax}");
    assert!(
        lax["found"].as_u64().expect("a count") >= strict["found"].as_u64().expect("a count"),
        "{lax} {strict}"
    );
    assert!(read().manifest().calibration.expect("calibrated").verified);

    // The same audio under another name is not more audio; nothing is written when it is only asked.
    let file = |name: &str| folder.path().join("radio").join(name);
    std::fs::copy(file("a.wav"), file("copy of a.wav")).expect("a copy");
    let manifest = std::fs::read(at("models/base.json")).expect("a manifest");
    let copied = run("1", &["--negatives", &radio, "--dry-run"]);
    let all = |report: &Value| {
        report["chosen_on"]["hours"].as_f64().unwrap()
            + report["judged_on"]["hours"].as_f64().unwrap()
    };
    assert!((all(&copied) - all(&strict)).abs() < 1e-9, "{copied}");
    assert_eq!(
        std::fs::read(at("models/base.json")).expect("a manifest"),
        manifest
    );

    // What seconds let nobody expect is told.
    let quietest = run("0.000001", &["--negatives", &radio, "--dry-run"]);
    let expected = quietest["expected_per_hour"].as_f64().expect("a rate");
    assert!(expected > 1e-6, "{quietest}");

    // One source cannot choose and judge.
    let one = run(
        "1",
        &[
            "--negatives",
            file("d.wav").to_str().expect("UTF-8"),
            "--dry-run",
        ],
    );
    assert_eq!(one["judged_on"]["hours"], 0.0);
    assert_eq!(one["verified"], false);

    let command = calibrate("0", &["--negatives", &radio]);
    let refused = refuses(&command.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(refused.contains("--per-hour 0"), "{refused}");

    // Of a language, in its delta; and where the budget has no room, said before anything is heard.
    let swedish = [
        "calibrate",
        "--data",
        &data,
        "--lang",
        "sv",
        "--models",
        &models,
        "--negatives",
        &radio,
        "--per-hour",
        "100000",
    ];
    succeeds(&swedish);
    let read = || Delta::read(&std::fs::read(at("models/sv.swr")).expect("a delta"));
    let header = read().expect("a delta").header().clone();
    assert!(header.calibration.expect("calibrated").verified);
    let base = read_base(Path::new(&models)).expect("a base");
    assert_eq!(delta(&base), merged);
    succeeds(&pack);
    let bytes = read().expect("a delta").write().len();
    // A budget that the file, which names it, fills but for a byte.
    let roomy = format!("{}B", bytes + 40);
    succeeds(&[&pack[..], &["--budget", &roomy]].concat());
    let full = format!("{}B", read().expect("a delta").write().len() + 1);
    succeeds(&[&pack[..], &["--budget", &full]].concat());
    let before = read().expect("a delta");
    let refused = refuses(&swedish);
    assert!(refused.contains("--set calibration_bytes="), "{refused}");
    assert_eq!(read().expect("a delta"), before);
}

/// A delta whose thresholds are its own, one a keyword, keeps its budget in bytes: they are not known before it is packed.
#[test]
fn thresholds_by_keyword_fit_into_a_budget_in_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let hz = |n: usize| [300.0 + 90.0 * n as f32, 2_500.0 - 80.0 * n as f32];
    let names: Vec<String> = (0..20)
        .map(|n| format!("word{}", char::from(b'a' + n)))
        .collect();
    let words: Vec<(&str, [f32; 2])> = names
        .iter()
        .enumerate()
        .map(|(n, name)| (&name[..], hz(n)))
        .collect();
    tones::speech(folder.path().join("en").as_path(), None, &words[..3], 30);
    tones::speech(folder.path().join("sv").as_path(), None, &words, 30);
    // A quarter of an hour: enough to choose thresholds by.
    let spoken = tones::speech(
        folder.path().join("others").as_path(),
        None,
        &[("a", [750.0; 2])],
        8,
    );
    let radio = folder.path().join("more/negatives/sv/dev");
    negatives(&radio, &spoken, &["a"]);
    for copy in 1..113 {
        std::fs::copy(radio.join("a.wav"), radio.join(format!("a{copy}.wav"))).expect("a copy");
    }
    let stages = ["dense", "select", "tune", "quantise"];
    let short = stages.iter().flat_map(|stage| {
        ["epochs=1", "scenes=32", "batch=16"].map(|set| format!("{stage}.{set}"))
    });
    let short: Vec<String> = short
        .chain([
            "probe.epochs=5".to_owned(),
            "grids.settle_epochs=0".to_owned(),
        ])
        .collect();
    let set: Vec<&str> = short.iter().flat_map(|set| ["--set", set]).collect();
    let (models, english, swedish, more) = (at("models"), at("en"), at("sv"), at("more"));
    succeeds(&[
        "base",
        "--data",
        &english,
        "--models",
        &models,
        "--work",
        &at("base"),
        "--set",
        "schedule.epochs=1",
        "--set",
        "schedule.scenes=32",
        "--set",
        "schedule.batch=16",
    ]);
    let adapt = [
        "adapt",
        "--data",
        &swedish,
        "--extra",
        &more,
        "--lang",
        "sv",
        "--models",
        &models,
        "--work",
        &at("work"),
        "--budget",
        "900B",
    ];
    succeeds(&[&adapt[..], &set[..]].concat());
    let file = std::fs::read(at("models/sv.swr")).expect("a delta");
    let header = Delta::read(&file).expect("a delta").header().clone();
    assert!(header.calibration.is_some(), "{header:?}");
    assert!((850..=900).contains(&file.len()), "{} bytes", file.len());
}
