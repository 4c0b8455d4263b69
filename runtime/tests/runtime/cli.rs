//! Claims about the program `swr`, run in process: what it prints, and that it exits with 0, 1 or 2 as it says.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::common::{delta, models, tones, write_wav};
use serde_json::Value;
use swr_runtime::cli;
use tempfile::TempDir;

/// A directory of models with sample audio, in which the base knows `low` and `high`, German `tief` and `hoch`.
pub(crate) fn fixture() -> TempDir {
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
pub(crate) fn swr(models: &Path, arguments: &[&str]) -> (u8, String) {
    let models = models.to_str().unwrap();
    let mut all = vec!["swr"];
    all.extend(arguments);
    all.extend(["--models", models]);
    let mut out = Vec::new();
    let code = cli::run(all, &mut out);
    (code, String::from_utf8(out).unwrap())
}

pub(crate) fn json(lines: &str) -> Vec<Value> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn spot_goes_on_after_a_file_that_it_cannot_hear() {
    let directory = fixture();
    let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (good, empty) = (at("demo/de.wav"), at("empty.wav"));
    std::fs::write(&empty, []).unwrap();
    let spot = |files: &[&str]| {
        let arguments = [&["spot", "--lang", "de"], files].concat();
        swr(directory.path(), &arguments)
    };
    let (code, alone) = spot(&[&good, &good]);
    assert_eq!(code, 0);
    assert_eq!(spot(&[&good, &empty, &at("none.wav"), &good]), (2, alone));
}

#[test]
fn only_the_words_that_are_wanted_are_told() {
    let directory = fixture();
    let audio = directory.path().join("demo/de.wav");
    let audio = audio.to_str().unwrap();
    let heard = |arguments: &[&str]| {
        let (code, out) = swr(directory.path(), &[arguments, &["--json", audio]].concat());
        let words = json(&out)
            .iter()
            .map(|event| event["keyword"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>();
        (code, words)
    };
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| word.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        heard(&["spot", "--lang", "de"]),
        (0, words(&["tief", "hoch"]))
    );
    assert_eq!(
        heard(&["spot", "--lang", "de", "--words", "hoch"]),
        (0, words(&["hoch"]))
    );
    // Of two languages, one without a wanted word is silent.
    assert_eq!(
        heard(&["spot", "--lang", "de,en", "--words", "high"]),
        (0, words(&["high"]))
    );
    // A word that is no keyword is an error, whatever else is wanted.
    assert_eq!(
        heard(&["spot", "--lang", "de", "--words", "hoch,tiif"]),
        (2, words(&[]))
    );
    let listen = [
        "listen", "--lang", "de", "--words", "tief", "--file", audio, "--json",
    ];
    let (code, out) = swr(directory.path(), &listen);
    assert!(code == 0 && json(&out).len() == 1, "{out}");
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
    // Both languages know both tones; each is one word of one of them.
    assert_eq!(heard.len(), 2, "{heard:?}");
    assert!([("en", "low"), ("de", "tief")].contains(&heard[0]));
    assert!([("en", "high"), ("de", "hoch")].contains(&heard[1]));
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
        &serde_json::json!({"expected": 4, "found": 4, "false_alarms": 0, "other_languages": 0})
    );
    // Together: a word that both languages have is one event, in one of them.
    let (_, out) = swr(directory.path(), &["demo", "--together", "--json"]);
    let lines = json(&out);
    let (sums, events) = lines.split_last().unwrap();
    let told = |line: &&Value| !line["time_s"].is_null();
    assert_eq!(events.iter().filter(told).count(), 4, "{out}");
    assert_eq!(sums["false_alarms"], sums["other_languages"], "{out}");
    let others = sums["other_languages"].as_u64().unwrap();
    assert!(others > 0, "{out}");
    assert_eq!(sums["found"].as_u64().unwrap() + others, 4, "{out}");
    let (code, out) = swr(directory.path(), &["demo", "--lang", "de", "--json"]);
    assert!(code == 0 && json(&out).len() == 3, "{out}");
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
        &serde_json::json!({"expected": 4, "found": 3, "false_alarms": 1, "other_languages": 0})
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

/// A folder of sizes, a release that lies in the folder itself, and what `--size` says of both.
#[test]
fn a_size_is_chosen_where_there_are_several() {
    let folder = tempfile::tempdir().unwrap();
    for size in ["small", "large"] {
        let at = folder.path().join(size);
        fs::create_dir(&at).unwrap();
        models(&at);
    }
    fs::remove_file(folder.path().join("small/de.swr")).unwrap();
    let flat = fixture();
    fs::rename(flat.path().join("demo"), folder.path().join("demo")).unwrap();
    let languages = |folder: &Path, size: &[&str]| {
        let (code, out) = swr(folder, &[&["inspect", "--json"], size].concat());
        (code, out.lines().count())
    };
    // Small unless told, and the demo's audio is everyone's.
    assert_eq!(languages(folder.path(), &[]), (0, 0));
    assert_eq!(languages(folder.path(), &["--size", "small"]), (0, 0));
    assert_eq!(languages(folder.path(), &["--size", "large"]), (0, 1));
    let (code, out) = swr(folder.path(), &["demo", "--size", "large"]);
    assert!(code == 0 && out.contains("2 languages: 4 of 4"), "{out}");
    // One size by its own folder, or by the folder that `inspect` is given.
    assert_eq!(languages(&folder.path().join("large"), &[]), (0, 1));
    let at = folder.path().to_str().unwrap();
    assert_eq!(swr(folder.path(), &["inspect", at, "--size", "large"]).0, 0);
    // A release in the folder itself stays what is used, whatever lies beside it.
    assert_eq!(languages(flat.path(), &[]), (0, 1));
    assert_eq!(languages(flat.path(), &["--size", "small"]).0, 2);
    fs::create_dir(flat.path().join("small")).unwrap();
    assert_eq!(languages(flat.path(), &[]), (0, 1));
    assert_eq!(swr(folder.path(), &["inspect", "--size", "tiny"]).0, 2);
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
pub(crate) fn speech(directory: &Path) {
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

    // With running speech: here noise that pauses, in which nothing is said.
    let mut talk = swr_dataset::white_noise(3, 16_000 * 20);
    for (index, sample) in talk.iter_mut().enumerate() {
        *sample *= if index % 16_000 < 3_000 { 1e-4 } else { 0.05 };
    }
    let talk_file = directory.path().join("talk.wav");
    write_wav(&talk_file, &talk);
    let talk_file = talk_file.to_str().unwrap();
    let measured = |further: &[&str]| {
        let sounds = ["--negatives", talk_file, "--sounds", talk_file];
        let (code, out) = swr(
            directory.path(),
            &[&arguments[..], &sounds, further].concat(),
        );
        assert_eq!(code, 0);
        json(&out).pop().unwrap()
    };
    let line = measured(&[]);
    assert_eq!(line["negatives"]["files"], 1);
    assert!((line["negatives"]["hours"].as_f64().unwrap() - 20.0 / 3_600.0).abs() < 1e-6);
    assert_eq!(
        line["sounds"]["false_accepts"],
        line["negatives"]["false_accepts"]
    );
    assert!(
        line["sentences"]["expected"].as_u64().unwrap() > 2,
        "{line}"
    );
    let levels = line["levels"].as_array().unwrap();
    assert!(
        levels.len() == 7 && levels[0]["found"] == line["found"],
        "{line}"
    );
    assert_eq!(line["made"].as_array().unwrap().len(), 3);
    // Thresholds moved up find and report no more.
    let points = line["points"].as_array().unwrap();
    let at = |point: usize, name: &str| points[point][name].as_u64().unwrap();
    assert!(points.len() == 41 && at(40, "found") <= at(0, "found"));
    assert!(at(40, "false_accepts") <= at(0, "false_accepts"));
    assert_eq!(
        points[20]["found"], line["found"],
        "the thresholds as they are"
    );
    let rates = line["at_rates"].as_array().unwrap();
    assert_eq!(rates[1]["false_accepts_per_hour"], 5.0);
    // Of one word alone, half is expected.
    let one = measured(&["--words", "tief"]);
    assert_eq!(one["keywords"].as_array().unwrap().len(), 1);
    assert!(one["expected"].as_u64() < line["expected"].as_u64());
    // Keywords make up the whole, and each has what it finds at every rate that all together have.
    let keywords = line["keywords"].as_array().unwrap();
    for name in ["found", "expected"] {
        let sum: u64 = keywords.iter().map(|k| k[name].as_u64().unwrap()).sum();
        assert_eq!(Some(sum), line[name].as_u64(), "{name}: {line}");
    }
    for keyword in keywords {
        let own = keyword["at_rates"].as_array().unwrap();
        let rate = |at: &serde_json::Value| at["false_accepts_per_hour"].as_f64();
        assert!(own.iter().map(rate).eq(rates.iter().map(rate)), "{keyword}");
        let found = own.iter().map(|at| at["found"].as_u64());
        assert!(
            found.is_sorted(),
            "more may be found at higher rates: {keyword}"
        );
    }
    // A word of one of several languages leaves the others out; one of none is refused, and so are words where there is no stream.
    let eval = |languages: &str, further: &[&str]| {
        let start = ["eval", "--data", data, "--lang", languages, "--json"];
        swr(directory.path(), &[&start, further].concat())
    };
    let short = ["--stream", "--minutes", "0.5", "--words"];
    let (code, out) = eval("en,de", &[&short[..], &["tief"]].concat());
    assert!(code == 0 && json(&out).len() == 1, "{out}");
    assert_eq!(eval("de", &[&short[..], &["tiff"]].concat()).0, 2);
    assert_eq!(eval("de", &["--words", "tief"]).0, 2);

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
