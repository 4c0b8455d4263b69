//! Claims about what is measured, recorded and done while listening, run in process: negatives, costs, recordings, programs and near misses.

use std::fs;

use crate::cli::{fixture, json, speech, swr};
use crate::common::{tones, write_wav};
use swr_runtime::{Models, cli};

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
    assert_eq!(found["false_accepts"], 4, "{found}");
    // Each can be listened to.
    let heard = found["heard"].as_array().unwrap();
    assert_eq!(heard.len(), 4);
    let high = heard.iter().find(|accept| {
        let file = accept["file"].as_str().unwrap();
        file.ends_with("more/b.wav") && accept["keyword"] == "hoch"
    });
    let time_s = high.expect("the tone in b.wav")["time_s"].as_f64().unwrap();
    assert!((2.0..4.0).contains(&time_s), "{time_s}");
    let hours = found["hours"].as_f64().unwrap();
    assert!((hours - 15.0 / 3_600.0).abs() < 1e-9, "{hours}");
    let by_keyword: Vec<(&str, u64)> = line["keywords"]
        .as_array()
        .unwrap()
        .iter()
        .map(|k| {
            (
                k["keyword"].as_str().unwrap(),
                k["false_accepts"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(by_keyword, [("hoch", 2), ("mittel", 0), ("tief", 2)]);
    // The higher the thresholds, the fewer are found and the fewer falsely.
    let points = line["points"].as_array().unwrap();
    assert_eq!(points.len(), 41);
    let falls = |key: &str| {
        let values: Vec<u64> = points.iter().map(|p| p[key].as_u64().unwrap()).collect();
        values.first() >= values.last() && *values.last().unwrap() <= values[20]
    };
    assert!(falls("found") && falls("false_accepts"), "{points:?}");
    let svg = fs::read_to_string(&plot).unwrap();
    assert!(
        svg.contains("false alarms per hour") && svg.ends_with("</svg>\n"),
        "{svg}"
    );
    let (code, out) = swr(directory.path(), &arguments);
    assert!(
        code == 0 && out.contains("4 false alarms in 0.004 h"),
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
            "2",
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
        "waking_cpu_ms_per_s",
        "window_us",
        "load_ms",
        "merge_ms",
        "change_language_ms",
        "catch_up_ms",
        "peak_rss_mib",
    ] {
        assert!(line[part].as_f64().unwrap() > 0.0, "{part}: {line}");
    }
    let (code, out) = swr(
        directory.path(),
        &["bench", "--seconds", "2", "--rounds", "1"],
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

/// Two programs at once, and words of scripts whose letters carry marks.
#[test]
fn recordings_of_several_programs_are_all_kept() {
    let folder = tempfile::tempdir().unwrap();
    let audio = folder.path().join("all.wav");
    let words: Vec<(f32, f32)> = (0..10).map(|n| (1.0 + 1.5 * n as f32, 500.0)).collect();
    write_wav(&audio, &tones(17.0, &words));
    for word in ["नमस्ते", "cafe\u{301}"] {
        let record = || {
            let file = audio.to_str().unwrap();
            let out = folder.path().to_str().unwrap();
            let arguments = [
                "swr", "record", "--word", word, "--file", file, "--out", out,
            ];
            cli::run(arguments, &mut Vec::new())
        };
        let codes = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(record)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect::<Vec<_>>()
        });
        assert_eq!(codes, [0; 4]);
        // One spelling, however it was typed.
        let spelt = word.replace("e\u{301}", "\u{e9}");
        let kept = fs::read_dir(folder.path().join(&spelt)).unwrap();
        let kept: Vec<_> = kept.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(kept.len(), 40, "{spelt}");
        for path in kept {
            assert_eq!(hound::WavReader::open(&path).unwrap().duration(), 16_000);
        }
    }
}

#[test]
fn a_program_that_is_not_there_is_told_at_the_start() {
    let directory = fixture();
    let here = directory.path().join("light.sh");
    fs::write(&here, "#!/bin/sh\n").unwrap();
    let audio = directory.path().join("demo/de.wav");
    for program in [
        "no-such-program-of-anybody",
        "./no/such.sh",
        here.to_str().unwrap(),
    ] {
        let file = audio.to_str().unwrap();
        let listen = ["listen", "--lang", "de", "--file", file, "--exec", program];
        assert_eq!(
            swr(directory.path(), &listen),
            (2, String::new()),
            "{program}"
        );
    }
    let file = audio.to_str().unwrap();
    let listen = ["listen", "--lang", "de", "--file", file, "--exec", "true"];
    assert_eq!(swr(directory.path(), &listen).0, 0);
}

/// An array of microphones of which one hears the words, and the others noise.
#[test]
fn a_channel_can_be_chosen() {
    let directory = fixture();
    let path = directory.path().join("array.wav");
    let heard = tones(6.0, &[(1.5, 500.0), (4.0, 3_000.0)]);
    let spec = hound::WavSpec {
        channels: 3,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    for sample in heard {
        for factor in [0.0, 32_767.0, 0.0] {
            writer.write_sample((sample * factor) as i16).unwrap();
        }
    }
    writer.finalize().unwrap();
    let file = path.to_str().unwrap();
    let mut found = Vec::new();
    for command in ["spot", "listen"] {
        for channel in ["1", "2", "3", "4"] {
            let named = match command {
                "spot" => vec!["spot", file],
                _ => vec!["listen", "--file", file],
            };
            let arguments = [&named[..], &["--lang", "de", "--channel", channel]].concat();
            let (code, out) = swr(directory.path(), &arguments);
            found.push((code, out.lines().count()));
        }
    }
    assert_eq!(found, [(1, 0), (0, 2), (1, 0), (2, 0)].repeat(2));
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
        "de",
        "--file",
        audio.to_str().unwrap(),
        "--json",
        "--exec",
        program.to_str().unwrap(),
    ];
    let (code, out) = swr(directory.path(), &arguments);
    assert_eq!((code, json(&out).len()), (0, 2));
    // The programs are not waited for.
    let mut lines = Vec::new();
    for _ in 0..100 {
        let text = fs::read_to_string(&told).unwrap_or_default();
        lines = text.lines().map(String::from).collect();
        if lines.len() == 2 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    lines.sort();
    assert_eq!(lines, ["4|hoch|de", "4|tief|de"]);

    // The same from a file of settings, where the command line counts more.
    let settings = folder.path().join("swr.toml");
    let text = format!(
        "lang = [\"en\"]\nthreshold = 0.5\nmodels = '{}'\n",
        directory.path().display()
    );
    fs::write(&settings, &text).unwrap();
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
    // Thresholds moved up as far as that goes let nothing pass; so they do from the file.
    assert_eq!(configured(&["--shift", "20"]).0, 1);
    fs::write(&settings, format!("shift = 20\n{text}")).unwrap();
    assert_eq!(configured(&[]).0, 1);
    assert_eq!(configured(&["--shift", "-1"]).0, 0);
    let one = "lang = [\"de\"]\nwords = [\"hoch\"]\nmodels = ";
    fs::write(
        &settings,
        format!("{one}'{}'\n", directory.path().display()),
    )
    .unwrap();
    assert_eq!(configured(&[]), (0, vec!["de".to_string()]));
    for bad in [
        "lang = 3",
        "treshold = 0.5",
        "threshold = 1.5",
        "shift = 21",
        "shift = nan",
    ] {
        fs::write(&settings, bad).unwrap();
        assert_eq!(configured(&[]).0, 2, "{bad}");
    }

    // A program that cannot be started when a keyword is spoken is told; listening goes on.
    fs::write(&program, "#!/nowhere/shell\n").unwrap();
    assert_eq!(swr(directory.path(), &arguments).0, 0);

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
    // Where nothing can be written, as on a full disk, that is told; listening goes on to its end.
    let mut nowhere = arguments;
    nowhere[8] = "/dev/full/misses";
    assert_eq!(swr(directory.path(), &nowhere), (1, String::new()));
    nowhere[6] = "0.5";
    let (code, out) = swr(directory.path(), &nowhere);
    assert_eq!((code, out.lines().count()), (0, 2));
}

#[test]
fn a_folder_of_models_that_changes_while_it_listens_is_no_matter() {
    let directory = fixture();
    let models = Models::open(directory.path()).unwrap();
    let model = models.load("de").unwrap();
    // Half a release, or none at all: what was read stays whole, what is read now is refused.
    fs::write(directory.path().join("base.onnx"), b"something else").unwrap();
    fs::remove_file(directory.path().join("de.swr")).unwrap();
    assert!(model.engine(4).is_ok() && models.load("en").unwrap().engine(4).is_ok());
    assert!(models.load("de").is_err() && Models::open(directory.path()).is_err());
}
