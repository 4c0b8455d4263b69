//! Every folder layout is read with its own splits, and what is wrong with a folder is said in one sentence with the path.

use std::fs;
use std::path::Path;

use swr_dataset::{
    DatasetError, Faults, Source, Split, TaskOptions, UnknownRule, load, load_all,
    load_readable_i16, task,
};
use tempfile::TempDir;

/// A clip with a tone of `hz` between 0.3 and 0.7 of its length.
fn write_wav(path: &Path, rate_hz: u32, samples: usize, hz: f32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: rate_hz,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for index in 0..samples {
        let inside = (0.3..0.7).contains(&(index as f32 / samples as f32));
        let tone = (std::f32::consts::TAU * hz * index as f32 / rate_hz as f32).sin();
        writer
            .write_sample(if inside { (8000.0 * tone) as i16 } else { 0 })
            .unwrap();
    }
    writer.finalize().unwrap();
}

fn clip(path: &Path) {
    write_wav(path, 16_000, 1600, 440.0);
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn few() -> TaskOptions {
    TaskOptions {
        min_train_clips: 3,
        ..TaskOptions::default()
    }
}

/// Speech Commands as it comes: 5 clips a word, of which the lists take one each.
fn speech_commands(root: &Path) {
    let (mut validation, mut testing) = (String::new(), String::new());
    for word in ["yes", "no"] {
        for number in 0..5 {
            clip(&root.join(word).join(format!("a{number}_nohash_0.wav")));
        }
        validation += &format!("{word}/a3_nohash_0.wav\n");
        testing += &format!("{word}/a4_nohash_0.wav\n");
    }
    clip(&root.join("bird").join("a4_nohash_1.wav"));
    testing += "bird/a4_nohash_1.wav\n";
    fs::write(root.join("validation_list.txt"), validation).unwrap();
    fs::write(root.join("testing_list.txt"), testing).unwrap();
    write_wav(
        &root.join("_background_noise_/hum.wav"),
        16_000,
        16_000 * 10,
        100.0,
    );
}

/// MSWC as it comes, but for the audio format: the tables name .opus, the files are .wav.
fn mswc(root: &Path, language: &str, words: &[&str]) {
    let mut table = "SET,LINK,WORD,VALID,SPEAKER,GENDER\n".to_owned();
    for word in words {
        for (number, set) in ["TRAIN", "TRAIN", "TRAIN", "DEV", "TEST"]
            .iter()
            .enumerate()
        {
            clip(
                &root
                    .join(language)
                    .join("clips")
                    .join(word)
                    .join(format!("common_voice_{number}.wav")),
            );
            table += &format!(
                "{set},{word}/common_voice_{number}.opus,{word},True,speaker{number},NA\n"
            );
        }
    }
    fs::write(
        root.join(language).join(format!("{language}_splits.csv")),
        table,
    )
    .unwrap();
}

#[test]
fn speech_commands_are_split_by_their_lists() {
    let root = folder();
    speech_commands(root.path());
    let task = task(root.path(), "en", &few()).unwrap();
    assert_eq!(task.labels, ["no", "yes", "_unknown_", "_silence_"]);
    assert_eq!(
        Split::ALL.map(|split| task
            .clips(split)
            .iter()
            .filter(|clip| clip.label < 2)
            .count()),
        [6, 2, 2]
    );
    let unknown: Vec<&str> = task
        .test
        .iter()
        .filter(|clip| clip.label == 2)
        .map(|clip| clip.word.as_str())
        .collect();
    assert_eq!(unknown, ["bird"]);
    assert_eq!(task.test[0].speaker, "a4");
    assert_eq!(task.background.len(), 1);
    // Silence: twice a keyword's count; TEST from the last 20 % of the recording only.
    for (split, count, span) in [
        (Split::Train, 6, 0..128_000),
        (Split::Dev, 2, 0..128_000),
        (Split::Test, 2, 128_000..160_000),
    ] {
        let starts: Vec<usize> = task
            .clips(split)
            .iter()
            .filter_map(|clip| match &clip.source {
                Source::Crop { start_samples, .. } => Some(*start_samples),
                Source::File(_) => None,
            })
            .collect();
        assert_eq!(starts.len(), count);
        assert!(
            starts
                .iter()
                .all(|start| *start >= span.start && start + 16_000 <= span.end),
            "{starts:?}"
        );
    }
}

#[test]
fn mswc_is_read_from_one_table_or_one_per_set() {
    let root = folder();
    mswc(root.path(), "xx", &["eins", "zwei", "drei"]);
    let expected = task(root.path(), "xx", &few()).unwrap();
    assert_eq!(
        expected.labels,
        ["drei", "eins", "zwei", "_unknown_", "_silence_"]
    );
    assert_eq!(expected.report.train.keywords, 9);
    assert_eq!(expected.report.test.speakers, 1);
    assert!(
        expected
            .report
            .notes
            .iter()
            .any(|note| note.contains("no background recordings"))
    );
    let inside = task(&root.path().join("xx"), "xx", &few()).unwrap();
    assert_eq!(inside.test, expected.test);

    let language = root.path().join("xx");
    let table = fs::read_to_string(language.join("xx_splits.csv")).unwrap();
    for set in ["TRAIN", "DEV", "TEST"] {
        let rows = table
            .lines()
            .filter_map(|row| row.strip_prefix(&format!("{set},")))
            .map(|row| format!("{row}\n"));
        let text = "LINK,WORD,VALID,SPEAKER,GENDER\n".to_owned() + &rows.collect::<String>();
        fs::write(
            language.join(format!("xx_{}.csv", set.to_lowercase())),
            text,
        )
        .unwrap();
    }
    fs::remove_file(language.join("xx_splits.csv")).unwrap();
    let parts = task(root.path(), "xx", &few()).unwrap();
    assert_eq!(
        (parts.train, parts.dev, parts.test),
        (expected.train, expected.dev, expected.test)
    );
}

/// The full corpora, unpacked with `tar` and nothing moved. `speech_commands_v0.02.tar.gz` holds words, lists and noise without a folder around them, and
/// a licence and a readme; MSWC's `audio/xx.tar.gz` holds `xx/clips/`, its `splits/xx.tar.gz` four tables, which say the same twice.
#[test]
fn archives_are_read_as_they_unpack() {
    let root = folder();
    let (gsc, words) = (root.path().join("gsc"), root.path().join("mswc"));
    speech_commands(&gsc);
    fs::write(gsc.join("LICENSE"), "CC BY 4.0").unwrap();
    fs::write(gsc.join("README.md"), "# Speech Commands").unwrap();
    mswc(&words, "xx", &["eins", "zwei", "drei"]);
    mswc(&words, "yy", &["uno", "due", "tre"]);
    let expected = task(root.path(), "xx", &few()).unwrap();
    assert!(expected.labels.contains(&"eins".to_owned()));
    for place in [words.clone(), words.join("splits")] {
        fs::create_dir_all(&place).unwrap();
        for language in ["xx", "yy"] {
            let name = format!("{language}_splits.csv");
            let found = [words.join(language), words.clone()]
                .map(|folder| folder.join(&name))
                .into_iter()
                .find(|table| table.is_file())
                .unwrap();
            let table = fs::read_to_string(&found).unwrap();
            fs::rename(found, place.join(&name)).unwrap();
            for set in ["TRAIN", "DEV", "TEST"] {
                let rows = table.lines().filter_map(|row| row.strip_prefix(set));
                let rows: String = rows.map(|row| format!("{}\n", &row[1..])).collect();
                let set = place.join(format!("{language}_{}.csv", set.to_lowercase()));
                fs::write(set, "LINK,WORD,VALID,SPEAKER,GENDER\n".to_owned() + &rows).unwrap();
            }
        }
        let found = task(root.path(), "xx", &few()).unwrap();
        assert_eq!(
            (found.labels, found.train, found.dev, found.test),
            (
                expected.labels.clone(),
                expected.train.clone(),
                expected.dev.clone(),
                expected.test.clone()
            )
        );
    }
    // Tables are looked for in the folder of the language, beside it, and in `splits` there: one of another place is not one.
    fs::rename(words.join("splits"), root.path().join("splits")).unwrap();
    for set in ["train", "dev", "test"] {
        fs::remove_file(words.join(format!("xx_{set}.csv"))).unwrap();
    }
    says(
        task(root.path(), "xx", &few()),
        &["xx_splits.csv", "none per set", "splits/"],
    );
}

#[test]
fn plain_folders_are_split_by_speaker() {
    let root = folder();
    for word in ["lamp_on", "lamp_off"] {
        for speaker in 0..40 {
            for take in 0..2 {
                clip(
                    &root
                        .path()
                        .join(word)
                        .join(format!("person{speaker}_{take}.wav")),
                );
            }
        }
    }
    let found = task(root.path(), "en", &few()).unwrap();
    assert_eq!(found.labels[..2], ["lamp off", "lamp on"]);
    assert_eq!(
        found.report.train.keywords + found.report.dev.keywords + found.report.test.keywords,
        160
    );
    assert!(found.report.train.keywords > 100 && found.report.test.keywords > 0);
    let speakers = Split::ALL.map(|split| {
        found
            .clips(split)
            .iter()
            .filter(|clip| clip.label < 2)
            .map(|clip| clip.speaker.clone())
            .collect::<std::collections::BTreeSet<_>>()
    });
    assert!(
        speakers[0].is_disjoint(&speakers[1])
            && speakers[0].is_disjoint(&speakers[2])
            && speakers[1].is_disjoint(&speakers[2])
    );
    let extra = TaskOptions {
        extra: vec![root.path().to_path_buf()],
        ..few()
    };
    let commands = folder();
    speech_commands(commands.path());
    let merged = task(commands.path(), "en", &extra).unwrap();
    // The TRAIN part of 160 clips, as other words, and nothing of the rest.
    assert_eq!(merged.report.train.keywords, 6);
    assert_eq!(merged.report.train.unknown, found.report.train.keywords);
    assert_eq!(merged.report.test.keywords, 2);
}

#[test]
fn recordings_of_one_speaker_are_divided_and_other_words_are_unknown() {
    let root = folder();
    for (word, takes) in [("lumos", 10), ("nox", 5), ("rare", 2), ("_unknown_", 10)] {
        for take in 0..takes {
            clip(&root.path().join(word).join(format!("me_nohash_{take}.wav")));
        }
    }
    let found = task(root.path(), "xx", &TaskOptions::default()).unwrap();
    assert_eq!(found.labels, ["lumos", "nox", "_unknown_", "_silence_"]);
    let count = |split: Split, label: usize| {
        let clips = found.clips(split).iter();
        clips.filter(|clip| clip.label == label).count()
    };
    assert_eq!(Split::ALL.map(|split| count(split, 0)), [7, 2, 1]);
    assert_eq!(Split::ALL.map(|split| count(split, 1)), [4, 1, 0]);
    // The speaker's other words train what is no keyword, although the same voice judges; a word said twice is one of them.
    let unknown = found.train.iter().filter(|clip| clip.label == 2);
    let words: std::collections::BTreeSet<&str> =
        unknown.clone().map(|clip| clip.word.as_str()).collect();
    assert_eq!(words, ["_unknown_", "rare"].into());
    assert_eq!(unknown.count(), 9);
    let note = found.report.notes.join("; ");
    assert!(
        note.contains("too few speakers (1)") && note.contains("rare"),
        "{note}"
    );
}

#[test]
fn words_of_an_extra_folder_are_no_keywords() {
    let (root, extra) = (folder(), folder());
    for take in 0..30 {
        for (place, word) in [(&root, "lumos"), (&extra, "lumos"), (&extra, "window")] {
            clip(
                &place
                    .path()
                    .join(word)
                    .join(format!("me_nohash_{take}.wav")),
            );
        }
    }
    let options = TaskOptions {
        extra: vec![extra.path().to_path_buf()],
        ..TaskOptions::default()
    };
    let found = task(root.path(), "xx", &options).unwrap();
    assert_eq!(found.labels, ["lumos", "_unknown_", "_silence_"]);
    // 21 of 30 here, and as many there.
    assert_eq!(found.report.train.keywords, 42);
    assert!(
        found
            .train
            .iter()
            .any(|clip| clip.label == 1 && clip.word == "window")
    );
}

#[test]
fn synthetic_folders_define_keywords_only_where_nothing_is_recorded() {
    let root = folder();
    mswc(&root.path().join("mswc"), "aa", &["one", "two"]);
    mswc(&root.path().join("mswc"), "cc", &["rare"]);
    mswc(&root.path().join("synth"), "aa", &["two", "three"]);
    mswc(&root.path().join("synth"), "bb", &["vier", "fünf"]);
    let recorded = task(root.path(), "aa", &few()).unwrap();
    assert_eq!(recorded.labels[..2], ["one", "two"]);
    assert_eq!(recorded.report.train.keywords, 9);
    assert_eq!(
        recorded.report.train.synthetic,
        3 + recorded
            .train
            .iter()
            .filter(|clip| clip.label == 2 && clip.synthetic)
            .count()
    );
    let synthetic = task(root.path(), "bb", &few()).unwrap();
    assert_eq!(synthetic.labels[..2], ["fünf", "vier"]);
    // Twice a keyword's 3 clips, half of them from cc, whose one word makes no keyword set. Half from words of aa where these fall into the split, else from none:
    // cc has no more than 3.
    let rare = synthetic
        .train
        .iter()
        .filter(|clip| clip.word == "rare")
        .count();
    assert_eq!(rare, 3);
    assert!(synthetic.report.train.unknown <= 6);
}

#[test]
fn options_choose_the_keywords() {
    let root = folder();
    mswc(root.path(), "xx", &["eins", "zwei", "drei"]);
    let chosen = TaskOptions {
        keywords: Some(vec!["zwei".to_owned()]),
        unknown: Some(UnknownRule::All),
        ..few()
    };
    let chosen = task(root.path(), "xx", &chosen).unwrap();
    assert_eq!(chosen.labels, ["zwei", "_unknown_", "_silence_"]);
    assert_eq!(chosen.report.train.unknown, 6);
    let most = task(
        root.path(),
        "xx",
        &TaskOptions {
            max_keywords: Some(2),
            ..few()
        },
    )
    .unwrap();
    assert_eq!(most.labels, ["drei", "eins", "_unknown_", "_silence_"]);
    let wrong = TaskOptions {
        keywords: Some(vec!["neun".to_owned()]),
        ..few()
    };
    says(
        task(root.path(), "xx", &wrong),
        &["neun", "no clips of any keyword"],
    );
}

#[test]
fn clips_are_one_second_at_16_khz() {
    let root = folder();
    for (speaker, (rate_hz, samples)) in [(8_000, 4_000), (48_000, 48_000), (16_000, 40_000)]
        .into_iter()
        .enumerate()
    {
        write_wav(
            &root.path().join("word").join(format!("{speaker}.wav")),
            rate_hz,
            samples,
            440.0,
        );
    }
    let options = TaskOptions {
        keywords: Some(vec!["word".to_owned()]),
        ..TaskOptions::default()
    };
    let task = task(root.path(), "en", &options).unwrap();
    let clips: Vec<_> = Split::ALL
        .iter()
        .flat_map(|split| task.clips(*split))
        .filter(|clip| clip.label == 0)
        .cloned()
        .collect();
    let samples = load_all(&clips, |_| ()).unwrap();
    assert_eq!(samples.len(), 3);
    for (clip, samples) in clips.iter().zip(&samples) {
        assert_eq!(samples.len(), 16_000, "{clip:?}");
        let energy: f32 = samples.iter().map(|sample| sample * sample).sum();
        let tone_samples = match &clip.source {
            Source::File(path) if path.ends_with("0.wav") => 0.2 * 16_000.0,
            Source::File(path) if path.ends_with("1.wav") => 0.4 * 16_000.0,
            _ => 16_000.0,
        };
        let expected = tone_samples * (8000.0f32 / 32768.0).powi(2) / 2.0;
        assert!(
            (energy / expected - 1.0).abs() < 0.05,
            "{clip:?}: {energy}, expected {expected}"
        );
    }
    let mut faults = Faults::default();
    let small = load_readable_i16(&mut clips.clone(), &mut faults, |_| ());
    assert_eq!((small.len(), small[0].len()), (3, 16_000));
    assert!(faults.is_empty());
}

/// The message is one sentence with all of these parts.
fn says<T>(result: Result<T, DatasetError>, parts: &[&str]) {
    let Err(error) = result else {
        panic!("expected an error with {parts:?}")
    };
    let message = error.to_string();
    assert!(
        !message.contains('\n') && !message.ends_with('.'),
        "{message}"
    );
    for part in parts {
        assert!(message.contains(part), "\"{part}\" is not in: {message}");
    }
}

#[test]
fn bad_folders_are_named() {
    let root = folder();
    says(
        task(&root.path().join("nothing"), "en", &few()),
        &["nothing: no such folder", "--data"],
    );
    says(
        task(root.path(), "en", &few()),
        &[root.path().to_str().unwrap(), "no speech data found"],
    );
    says(task(root.path(), "../en", &few()), &["../en"]);
    mswc(root.path(), "xx", &["eins", "zwei"]);
    says(task(root.path(), "yy", &few()), &["yy", "found: xx"]);
    says(
        task(root.path(), "xx", &TaskOptions::default()),
        &["no word", "20 training clips", "has 3"],
    );

    let table = root.path().join("xx/xx_splits.csv");
    let good = fs::read_to_string(&table).unwrap();
    fs::write(&table, good.replacen("TRAIN,", "TRIAN,", 1)).unwrap();
    says(
        task(root.path(), "xx", &few()),
        &["xx_splits.csv, line 2", "TRIAN"],
    );
    fs::write(&table, good.replacen("SET,LINK", "SET,FILE", 1)).unwrap();
    says(
        task(root.path(), "xx", &few()),
        &["line 1", "no column LINK"],
    );
    fs::write(&table, good.replacen("eins/common", "../../common", 1)).unwrap();
    says(task(root.path(), "xx", &few()), &["inside clips/"]);
    fs::write(&table, &good).unwrap();

    fs::remove_file(root.path().join("xx/clips/eins/common_voice_2.wav")).unwrap();
    says(
        task(root.path(), "xx", &few()),
        &[
            "xx_splits.csv, line 4",
            "eins/common_voice_2.opus is not there",
            "skip",
        ],
    );
    let skipped = task(
        root.path(),
        "xx",
        &TaskOptions {
            skip_missing: true,
            min_train_clips: 2,
            ..few()
        },
    )
    .unwrap();
    assert_eq!(skipped.report.missing_clips, 1);
}

#[test]
fn bad_clips_are_named() {
    let root = folder();
    mswc(root.path(), "xx", &["eins", "zwei"]);
    let file = root.path().join("xx/clips/eins/common_voice_0.wav");
    let task = task(root.path(), "xx", &few()).unwrap();
    let bad = task
        .train
        .iter()
        .find(|clip| clip.source == Source::File(file.clone()))
        .unwrap();
    for bytes in [&b""[..], b"RIFF", b"no audio at all", b"fLaC\0\0\0\x22"] {
        fs::write(&file, bytes).unwrap();
        says(load(bad), &[file.to_str().unwrap(), "replace the file"]);
    }
    write_wav(&file, 16_000, 0, 440.0);
    says(load(bad), &[file.to_str().unwrap()]);
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut writer = hound::WavWriter::create(&file, spec).unwrap();
    writer.write_sample(f32::NAN).unwrap();
    writer.write_sample(0.0f32).unwrap();
    writer.finalize().unwrap();
    says(load(bad), &[file.to_str().unwrap()]);
    fs::remove_file(&file).unwrap();
    says(
        load_all(&task.train, |_| ()),
        &[file.to_str().unwrap(), "cannot be read"],
    );
}

#[test]
fn words_that_would_be_taken_for_another_label_are_refused() {
    let of = |words: &[&str]| {
        let root = folder();
        mswc(root.path(), "xx", words);
        task(root.path(), "xx", &few())
    };
    says(
        of(&["eins", "_silence_"]),
        &["_silence_", "name of a label", "rename"],
    );
    says(
        of(&["Ja", "ja", "nein"]),
        &["\"Ja\" and \"ja\"", "same name"],
    );
    // Composed and decomposed are one word.
    let cafe = of(&["caf\u{e9}", "cafe\u{301}", "tee"]).unwrap();
    assert_eq!(cafe.labels[..2], ["caf\u{e9}", "tee"]);
    assert_eq!(cafe.report.train.keywords, 9);
    says(
        of(&["eins"]),
        &["only word", "eins", "clips of others", "plain folder"],
    );
    assert!(of(&["eins", "zwei"]).is_ok());
}
