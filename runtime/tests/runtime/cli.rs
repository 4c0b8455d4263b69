//! Claims about the program `swr`, run in process: what it prints, and that it exits with 0, 1 or 2 as it says.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::common::{delta, models, tones, write_wav};
use serde_json::Value;
use swr_runtime::cli;
use tempfile::TempDir;

/// A directory of models with sample audio, in which the base knows `low` and `high`, German `tief` and `hoch`.
fn fixture() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    models(directory.path());
    let demo = directory.path().join("demo");
    fs::create_dir(&demo).unwrap();
    for (language, low, high) in [("en", "low", "high"), ("de", "tief", "hoch")] {
        write_wav(
            &demo.join(format!("{language}.wav")),
            &tones(6.0, &[(1.5, 500.0), (4.0, 3_000.0)]),
        );
        let script = serde_json::json!({
            "language": language,
            "keywords": [
                {"word": low, "start_s": 1.5, "end_s": 2.1},
                {"word": high, "start_s": 4.0, "end_s": 4.6},
            ],
            "command": "made by a test",
        });
        fs::write(demo.join(format!("{language}.json")), script.to_string()).unwrap();
    }
    directory
}

/// Exit code and standard output.
fn swr(models: &Path, arguments: &[&str]) -> (u8, String) {
    let models = models.to_str().unwrap();
    let mut all = vec!["swr"];
    all.extend(arguments);
    all.extend(["--models", models]);
    let mut out = Vec::new();
    let code = cli::run(all, &mut out);
    (code, String::from_utf8(out).unwrap())
}

fn json(lines: &str) -> Vec<Value> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn spot_prints_what_was_spoken() {
    let directory = fixture();
    let audio = directory.path().join("demo/de.wav");
    let audio = audio.to_str().unwrap();
    let (code, out) = swr(
        directory.path(),
        &["spot", "--lang", "all", "--json", audio],
    );
    assert_eq!(code, 0);
    let events = json(&out);
    let heard: Vec<(&str, &str)> = events
        .iter()
        .map(|event| {
            (
                event["language"].as_str().unwrap(),
                event["keyword"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        heard,
        [
            ("en", "low"),
            ("de", "tief"),
            ("en", "high"),
            ("de", "hoch")
        ]
    );
    assert!(
        events
            .iter()
            .all(|event| event["file"] == audio && event["time_s"].is_number())
    );
    let (code, out) = swr(directory.path(), &["spot", audio]);
    assert_eq!((code, out.lines().count()), (0, 2));
    assert!(out.lines().next().unwrap().ends_with("low"), "{out}");

    let quiet = directory.path().join("quiet.wav");
    write_wav(&quiet, &[0.0; 32_000]);
    assert_eq!(
        swr(directory.path(), &["spot", quiet.to_str().unwrap()]),
        (1, String::new())
    );
}

#[test]
fn listen_hears_a_file_as_it_comes() {
    let directory = fixture();
    let audio = directory.path().join("demo/en.wav");
    let audio = audio.to_str().unwrap();
    let (code, out) = swr(
        directory.path(),
        &["listen", "--lang", "de", "--json", "--file", audio],
    );
    assert_eq!(code, 0);
    let heard: Vec<Value> = json(&out)
        .iter()
        .map(|event| event["keyword"].clone())
        .collect();
    assert_eq!(heard, ["tief", "hoch"]);
    let (code, out) = swr(
        directory.path(),
        &["listen", "--seconds", "3", "--file", audio],
    );
    assert_eq!((code, out.lines().count()), (0, 1));
    let (code, _) = swr(
        directory.path(),
        &["listen", "--seconds", "1", "--paced", "--file", audio],
    );
    assert_eq!(code, 1);
}

#[test]
fn demo_succeeds_only_if_all_was_found_and_nothing_else() {
    let directory = fixture();
    let (code, out) = swr(directory.path(), &["demo", "--json"]);
    let lines = json(&out);
    assert_eq!(code, 0, "{out}");
    assert_eq!(
        lines.last().unwrap(),
        &serde_json::json!({"expected": 4, "found": 4, "false_alarms": 0})
    );
    let (code, out) = swr(directory.path(), &["demo"]);
    assert_eq!(code, 0);
    assert!(out.contains("2 of 2 found, 0 false alarms"), "{out}");

    // A word that is not spoken, and a spoken one that is not expected.
    let script = directory.path().join("demo/de.json");
    let edited = fs::read_to_string(&script)
        .unwrap()
        .replace("tief", "mittel");
    fs::write(&script, edited).unwrap();
    let (code, out) = swr(directory.path(), &["demo", "--json"]);
    assert_eq!(code, 1);
    assert_eq!(
        json(&out).last().unwrap(),
        &serde_json::json!({"expected": 4, "found": 3, "false_alarms": 1})
    );

    // Mistakes are errors, not misses.
    for text in [
        "{",
        r#"{"language":"pl","keywords":[]}"#,
        r#"{"language":"de","keywords":[{"word":"nie","start_s":1,"end_s":2}]}"#,
    ] {
        fs::write(&script, text).unwrap();
        assert_eq!(swr(directory.path(), &["demo"]).0, 2, "{text}");
    }
    fs::remove_dir_all(directory.path().join("demo")).unwrap();
    assert_eq!(swr(directory.path(), &["demo"]).0, 2);
}

#[test]
fn inspect_recounts_the_changes() {
    let directory = fixture();
    let file_bytes = fs::metadata(directory.path().join("de.swr")).unwrap().len();
    let (code, out) = swr(directory.path(), &["inspect", "--json"]);
    assert_eq!(code, 0);
    let [line] = &json(&out)[..] else {
        panic!("{out}")
    };
    assert_eq!(line["lang"], "de");
    assert_eq!(line["budget"], "10%");
    // 50 + 160 + 12 convolution weights; 16 were changed.
    assert_eq!(
        (&line["changed"], &line["allowed"]),
        (&16.into(), &22.into())
    );
    assert_eq!(line["file_bytes"], file_bytes);
    let parts = line["parts"].as_array().unwrap();
    assert_eq!(
        parts
            .iter()
            .map(|part| part["bytes"].as_u64().unwrap())
            .sum::<u64>(),
        file_bytes
    );

    // A directory or a file as the argument, tables for people.
    let path = directory.path().join("de.swr");
    for arguments in [
        vec!["inspect", directory.path().to_str().unwrap()],
        vec!["inspect", path.to_str().unwrap()],
    ] {
        let mut out = Vec::new();
        assert_eq!(
            cli::run([&["swr"], arguments.as_slice()].concat(), &mut out),
            0
        );
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("tail.conv.weight (positions"), "{out}");
    }

    // More than was allowed is a negative result, bytes are counted as bytes.
    let base = models(directory.path());
    fs::write(&path, delta(&base, "5%").write()).unwrap();
    assert_eq!(swr(directory.path(), &["inspect"]).0, 1);
    fs::write(&path, delta(&base, "4000B").write()).unwrap();
    let (code, out) = swr(directory.path(), &["inspect", "--json"]);
    assert_eq!((code, &json(&out)[0]["allowed"]), (0, &4_000.into()));
    assert_eq!(json(&out)[0]["changed"], json(&out)[0]["file_bytes"]);
}

/// A folder `<word>/*.wav` of tones by ten speakers, so that every split has some; language `de` by the MSWC layout.
fn speech(directory: &Path) {
    let clips = directory.join("mswc/de/clips");
    let mut table = String::from("SET,LINK,WORD,VALID,SPEAKER,GENDER\n");
    for (word, hz) in [("tief", 500.0), ("mittel", 1_700.0), ("hoch", 3_000.0)] {
        fs::create_dir_all(clips.join(word)).unwrap();
        for speaker in 0..40 {
            let name = format!("{word}/s{speaker}.wav");
            write_wav(
                &clips.join(&name),
                &tones(1.0, &[(0.2, hz + 5.0 * speaker as f32)]),
            );
            let set = ["TRAIN", "TRAIN", "DEV", "TEST"][speaker % 4];
            table += &format!("{set},{name},{word},TRUE,s{speaker},NA\n");
        }
    }
    fs::write(directory.join("mswc/de/de_splits.csv"), table).unwrap();
}

#[test]
fn eval_measures_clips_and_streams() {
    let directory = fixture();
    let data = tempfile::tempdir().unwrap();
    speech(data.path());
    let data = data.path().to_str().unwrap();
    let (code, out) = swr(
        directory.path(),
        &["eval", "--data", data, "--lang", "de", "--json"],
    );
    assert_eq!(code, 0, "{out}");
    let lines = json(&out);
    let of = |label: &str| lines.iter().find(|line| line["label"] == label).unwrap();
    for word in ["tief", "hoch"] {
        assert_eq!(
            (&of(word)["clips"], &of(word)["accuracy"]),
            (&10.into(), &1.0.into()),
            "{out}"
        );
    }
    let summary = lines.last().unwrap();
    assert_eq!(
        (&summary["lang"], &summary["split"]),
        (&"de".into(), &"test".into())
    );
    assert_eq!(summary["keywords"]["clips"], 30);
    let (accuracy, interval) = (summary["accuracy"].as_f64().unwrap(), &summary["interval"]);
    assert!(
        interval[0].as_f64().unwrap() < accuracy && accuracy < interval[1].as_f64().unwrap(),
        "{summary}"
    );

    let arguments = [
        "eval",
        "--stream",
        "--minutes",
        "0.5",
        "--data",
        data,
        "--lang",
        "de",
        "--json",
    ];
    let (code, out) = swr(directory.path(), &arguments);
    assert_eq!(code, 0);
    let line = json(&out).pop().unwrap();
    assert!(line["expected"].as_u64().unwrap() > 3, "{line}");
    assert!((line["hours"].as_f64().unwrap() - 0.5 / 60.0).abs() < 1e-6);
    assert!(
        line["false_alarms_interval"][1].as_f64().unwrap() > 400.0,
        "half a minute proves little: {line}"
    );
    assert_eq!(
        swr(directory.path(), &arguments).1,
        out,
        "the same seed gives the same stream"
    );

    let (code, out) = swr(
        directory.path(),
        &["demo", "--data", data, "--minutes", "0.5", "--json"],
    );
    assert_eq!(code, 0, "a completed run");
    assert!(
        json(&out).last().unwrap()["expected"].as_u64().unwrap() > 3,
        "{out}"
    );
}

#[test]
fn eval_counts_false_alarms_on_negatives_once() {
    let directory = fixture();
    let data = tempfile::tempdir().unwrap();
    speech(data.path());
    // Every keyword in a negative is a false alarm; the copy's are not counted again.
    let negatives = data.path().join("negatives");
    fs::create_dir_all(negatives.join("more")).unwrap();
    let audio = tones(9.0, &[(1.5, 500.0), (4.0, 3_000.0), (6.5, 500.0)]);
    write_wav(&negatives.join("a.wav"), &audio);
    write_wav(
        &negatives.join("more/b.wav"),
        &tones(6.0, &[(2.0, 3_000.0)]),
    );
    fs::copy(negatives.join("a.wav"), negatives.join("copy.wav")).unwrap();
    fs::write(negatives.join("notes.txt"), "no audio").unwrap();
    let plot = data.path().join("det.svg");
    let arguments = [
        "eval",
        "--stream",
        "--minutes",
        "0.5",
        "--data",
        data.path().to_str().unwrap(),
        "--lang",
        "de",
        "--negatives",
        negatives.to_str().unwrap(),
        "--plot",
        plot.to_str().unwrap(),
    ];
    let (code, out) = swr(directory.path(), &[&arguments[..], &["--json"]].concat());
    assert_eq!(code, 0);
    let line = json(&out).pop().unwrap();
    let found = &line["negatives"];
    assert_eq!((&found["files"], &found["copies"]), (&3.into(), &1.into()));
    assert_eq!(found["false_alarms"], 4, "{found}");
    let hours = found["hours"].as_f64().unwrap();
    assert!((hours - 15.0 / 3_600.0).abs() < 1e-9, "{hours}");
    let by_keyword: Vec<(&str, u64)> = line["keywords"]
        .as_array()
        .unwrap()
        .iter()
        .map(|k| {
            (
                k["keyword"].as_str().unwrap(),
                k["false_alarms"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(by_keyword, [("hoch", 2), ("mittel", 0), ("tief", 2)]);
    // The higher the threshold, the fewer are found and the fewer falsely.
    let points = line["points"].as_array().unwrap();
    assert_eq!(points.len(), 19);
    let falls = |key: &str| {
        let values: Vec<u64> = points.iter().map(|p| p[key].as_u64().unwrap()).collect();
        values.first() >= values.last() && *values.last().unwrap() <= values[9]
    };
    assert!(falls("found") && falls("false_alarms"), "{points:?}");
    let svg = fs::read_to_string(&plot).unwrap();
    assert!(
        svg.contains("false alarms per hour") && svg.ends_with("</svg>\n"),
        "{svg}"
    );
    let (code, out) = swr(directory.path(), &arguments);
    assert!(
        code == 0 && out.contains("negatives: 4 in 0.004 h"),
        "{out}"
    );
    let mut missing = arguments;
    missing[9] = "/nowhere";
    assert_eq!(swr(directory.path(), &missing).0, 2);
}

#[test]
fn bench_measures_every_part() {
    let directory = fixture();
    let (code, out) = swr(
        directory.path(),
        &[
            "bench",
            "--seconds",
            "1.5",
            "--rounds",
            "1",
            "--paced",
            "0.2",
            "--lang",
            "de",
            "--json",
        ],
    );
    assert_eq!(code, 0);
    let line = json(&out).pop().unwrap();
    assert_eq!(line["language"], "de");
    for part in [
        "cpu_ms_per_s",
        "frontend_ms_per_s",
        "network_ms_per_s",
        "detector_ms_per_s",
        "unfused_ms_per_s",
        "paced_cpu_ms_per_s",
        "window_us",
        "load_ms",
        "merge_ms",
        "change_language_ms",
        "peak_rss_mib",
    ] {
        assert!(line[part].as_f64().unwrap() > 0.0, "{part}: {line}");
    }
    let (code, out) = swr(
        directory.path(),
        &["bench", "--seconds", "1.5", "--rounds", "1"],
    );
    assert!(code == 0 && out.contains("peak memory"), "{out}");
}

#[test]
fn recorded_words_are_a_folder_to_train_on() {
    let folder = tempfile::tempdir().unwrap();
    let audio = folder.path().join("all.wav");
    let words = [(1.0, 500.0), (3.0, 700.0), (5.0, 900.0)];
    write_wav(&audio, &tones(7.0, &words));
    let record = |count: &str| {
        let mut out = Vec::new();
        let out_folder = folder.path().join("words");
        let arguments = [
            "swr",
            "record",
            "--word",
            "lumos",
            "--speaker",
            "anna",
            "-n",
            count,
            "--file",
            audio.to_str().unwrap(),
            "--out",
            out_folder.to_str().unwrap(),
            "--json",
        ];
        (
            cli::run(arguments, &mut out),
            json(&String::from_utf8(out).unwrap()),
        )
    };
    let (code, kept) = record("20");
    assert_eq!((code, kept.len()), (0, 3));
    // More are added to those that are there.
    assert_eq!(record("2").1.len(), 2);
    for number in 0..5 {
        let path = folder
            .path()
            .join(format!("words/lumos/anna_nohash_{number}.wav"));
        let reader = hound::WavReader::open(&path).unwrap();
        assert_eq!(
            (reader.duration(), reader.spec().sample_rate),
            (16_000, 16_000)
        );
    }
    let silence = folder.path().join("silence.wav");
    write_wav(&silence, &[0.0; 32_000]);
    let mut out = Vec::new();
    let arguments = [
        "swr",
        "record",
        "--word",
        "x",
        "--file",
        silence.to_str().unwrap(),
        "--out",
        folder.path().to_str().unwrap(),
    ];
    assert_eq!(cli::run(arguments, &mut out), 1);
    let bad = [
        "swr",
        "record",
        "--word",
        "../x",
        "--file",
        silence.to_str().unwrap(),
    ];
    assert_eq!(cli::run(bad, &mut out), 2);
}

#[test]
fn listen_runs_a_program_for_every_keyword_and_keeps_what_was_nearly_heard() {
    use std::os::unix::fs::PermissionsExt;
    let directory = fixture();
    let folder = tempfile::tempdir().unwrap();
    let (program, told) = (folder.path().join("tell.sh"), folder.path().join("told"));
    let script = format!(
        "#!/bin/sh\nprintf '%s|%s|%s\\n' \"$#\" \"$1\" \"$2\" >> '{}'\n",
        told.display()
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let audio = directory.path().join("demo/de.wav");
    let arguments = [
        "listen",
        "--lang",
        "de,en",
        "--file",
        audio.to_str().unwrap(),
        "--json",
        "--exec",
        program.to_str().unwrap(),
    ];
    let (code, out) = swr(directory.path(), &arguments);
    assert_eq!((code, json(&out).len()), (0, 4));
    // The programs are not waited for.
    let mut lines = Vec::new();
    for _ in 0..100 {
        let text = fs::read_to_string(&told).unwrap_or_default();
        lines = text.lines().map(String::from).collect();
        if lines.len() == 4 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    lines.sort();
    assert_eq!(lines, ["4|high|en", "4|hoch|de", "4|low|en", "4|tief|de"]);

    // The same from a file of settings, where the command line counts more.
    let settings = folder.path().join("swr.toml");
    let text = format!(
        "lang = [\"en\"]\nthreshold = 0.5\nmodels = '{}'\n",
        directory.path().display()
    );
    fs::write(&settings, text).unwrap();
    let configured = |more: &[&str]| {
        let mut arguments = vec!["swr", "listen", "--json", "--file", audio.to_str().unwrap()];
        arguments.extend(["--config", settings.to_str().unwrap()]);
        arguments.extend(more);
        let mut out = Vec::new();
        let code = cli::run(arguments, &mut out);
        let events = json(&String::from_utf8(out).unwrap());
        let languages = events
            .iter()
            .map(|event| event["language"].as_str().unwrap().to_string());
        (code, languages.collect::<Vec<_>>())
    };
    assert_eq!(configured(&[]), (0, vec!["en".to_string(); 2]));
    assert_eq!(
        configured(&["--lang", "de"]),
        (0, vec!["de".to_string(); 2])
    );
    assert_eq!(configured(&["--threshold", "1"]).0, 1);
    for bad in ["lang = 3", "treshold = 0.5", "threshold = 1.5"] {
        fs::write(&settings, bad).unwrap();
        assert_eq!(configured(&[]).0, 2, "{bad}");
    }

    // A program that is not there is told; listening goes on.
    let mut missing = arguments;
    missing[7] = "/nowhere/program";
    assert_eq!(swr(directory.path(), &missing).0, 0);

    // No word reaches 1, and all come near it.
    let misses = folder.path().join("misses");
    let arguments = [
        "listen",
        "--lang",
        "de",
        "--file",
        audio.to_str().unwrap(),
        "--threshold",
        "1",
        "--record-near-misses",
        misses.to_str().unwrap(),
        "--near-margin",
        "0.5",
    ];
    let (code, out) = swr(directory.path(), &arguments);
    assert_eq!((code, out.as_str()), (1, ""));
    for word in ["tief", "hoch"] {
        let path = misses.join(format!("de/{word}/near_0001.wav"));
        assert!(
            hound::WavReader::open(&path).unwrap().duration() > 8_000,
            "{word}"
        );
    }
}

#[test]
fn errors_exit_with_2() {
    let directory = fixture();
    let cases: [&[&str]; 6] = [
        &["spot", "nowhere.wav"],
        &["spot", "--lang", "xx", "nowhere.wav"],
        &["spot"],
        &["frobnicate"],
        &["eval", "--data", "/nowhere", "--lang", "de"],
        &["inspect", "nowhere.swr"],
    ];
    for arguments in cases {
        assert_eq!(
            swr(directory.path(), arguments),
            (2, String::new()),
            "{arguments:?}"
        );
    }
    assert_eq!(swr(Path::new("/nowhere"), &["demo"]).0, 2);
    let text = directory.path().join("text.wav");
    fs::write(&text, "no audio").unwrap();
    assert_eq!(
        swr(directory.path(), &["spot", text.to_str().unwrap()]).0,
        2
    );
}

#[test]
fn every_command_explains_itself_with_examples() {
    for command in [
        "spot", "listen", "demo", "inspect", "eval", "bench", "record",
    ] {
        let mut out = Vec::new();
        assert_eq!(cli::run(["swr", command, "--help"], &mut out), 0);
        let out = String::from_utf8(out).unwrap();
        assert!(
            out.contains("Examples:") && out.contains(&format!("swr {command}")),
            "{out}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let directory = fixture();
    let models = directory.path().to_str().unwrap();
    for json in [&["--json"][..], &[]] {
        let arguments = [&["swr", "inspect", "--models", models], json].concat();
        assert_eq!(cli::run(arguments, &mut Closed), 0);
    }
}
