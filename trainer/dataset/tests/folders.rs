//! What people's folders hold besides clean clips: files that are no data, files that cannot be read, words spelt in two ways, short noise, few speakers, and folders
//! by role.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use swr_dataset::{
    CLIP_SAMPLES, DatasetError, Faults, Source, Split, Task, TaskOptions, decode_file, load,
    load_all, load_readable, task,
};

/// A clip of a tone, 16 kHz.
fn write_wav(path: &Path, seconds: f32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for index in 0..(16_000.0 * seconds) as usize {
        let tone = (0.17 * index as f32).sin();
        writer.write_sample((8_000.0 * tone) as i16).unwrap();
    }
    writer.finalize().unwrap();
}

/// A plain folder of words, each said by these many speakers three times.
fn words(root: &Path, words: &[&str], speakers: usize) {
    for word in words {
        for speaker in 0..speakers {
            for take in 0..3 {
                write_wav(
                    &root
                        .join(word)
                        .join(format!("s{speaker}_nohash_{take}.wav")),
                    0.5,
                );
            }
        }
    }
}

fn read(root: &Path) -> Task {
    task(root, "xx", &TaskOptions::default()).unwrap()
}

fn files(task: &Task) -> BTreeSet<String> {
    let clips = Split::ALL.into_iter().flat_map(|split| task.clips(split));
    let name = |source: &Source| match source {
        Source::File(path) => Some(path.file_name()?.to_str()?.to_owned()),
        Source::Crop { .. } => None,
    };
    clips.filter_map(|clip| name(&clip.source)).collect()
}

#[test]
fn hidden_files_and_what_apple_adds_are_no_data() {
    let root = tempfile::tempdir().unwrap();
    words(root.path(), &["an", "aus"], 4);
    let clean = read(root.path());
    for hidden in [
        "an/._s0_nohash_0.wav",
        ".Trash/s0_nohash_9.wav",
        "__MACOSX/an/s0_nohash_8.wav",
    ] {
        let path = root.path().join(hidden);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"\0\x05\x16\x07").unwrap();
    }
    let found = read(root.path());
    assert_eq!(found.labels, clean.labels);
    assert_eq!(files(&found), files(&clean));
}

#[test]
fn files_that_cannot_be_read_are_counted_and_named_at_once() {
    let root = tempfile::tempdir().unwrap();
    words(root.path(), &["an", "aus"], 4);
    for (name, bytes) in [
        ("an/s0_nohash_7.wav", &b""[..]),
        ("an/s1_nohash_7.flac", b"no audio at all"),
        ("aus/s2_nohash_7.aiff", b"FORM\0\0\0\x20AIFFCOMM"),
    ] {
        fs::write(root.path().join(name), bytes).unwrap();
    }
    // The last quarter is missing.
    let cut = root.path().join("aus/s0_nohash_0.wav");
    let bytes = fs::read(&cut).unwrap();
    fs::write(&cut, &bytes[..bytes.len() * 3 / 4]).unwrap();

    let found = read(root.path());
    let mut clips: Vec<_> = Split::ALL
        .into_iter()
        .flat_map(|split| found.clips(split).to_vec())
        .collect();
    let all = clips.len();
    let Err(DatasetError::Unread(strict)) = load_all(&clips, |_| ()) else {
        panic!("four clips are bad");
    };
    let mut faults = Faults::default();
    let samples = load_readable(&mut clips, &mut faults, |_| ());
    assert_eq!((samples.len(), clips.len()), (all - 4, all - 4));
    assert_eq!((&strict, faults.unread.len()), (&faults, 4));
    let told = faults.to_string();
    for part in [
        "4 files cannot be read",
        "zero samples",
        "AIFF",
        "not a WAV",
        "before its header says",
    ] {
        assert!(told.contains(part), "\"{part}\" is not in: {told}");
    }
}

#[test]
fn short_background_recordings_are_joined() {
    let root = tempfile::tempdir().unwrap();
    words(root.path(), &["an", "aus"], 4);
    for number in 0..30 {
        write_wav(
            &root
                .path()
                .join(format!("_background_noise_/hum{number}.wav")),
            1.5,
        );
    }
    fs::write(root.path().join("_background_noise_/bad.wav"), b"RIFF").unwrap();
    let found = read(root.path());
    assert_eq!(found.background.len(), 1);
    assert_eq!(found.background[0].samples.len(), 30 * 24_000);
    let notes = &found.report.notes;
    assert!(
        notes.len() == 1 && notes[0].starts_with("30 background recordings"),
        "{notes:?}"
    );
    assert_eq!(found.report.faults.unread.len(), 1);
}

#[test]
fn every_set_has_speakers_while_there_are_three() {
    for count in 3..40 {
        let root = tempfile::tempdir().unwrap();
        words(root.path(), &["an"], count);
        let found = read(root.path());
        let speakers = Split::ALL.map(|split| {
            let clips = found.clips(split).iter().filter(|clip| clip.label == 0);
            clips
                .map(|clip| clip.speaker.clone())
                .collect::<BTreeSet<_>>()
        });
        let sizes = speakers.each_ref().map(BTreeSet::len);
        assert!(sizes.iter().all(|size| *size > 0), "{count}: {sizes:?}");
        assert_eq!(sizes.iter().sum::<usize>(), count, "{count}: {sizes:?}");
    }
}

/// A folder of a Mac spells \u{e9} in two code points, a table or another folder in one.
#[test]
fn a_word_is_one_however_its_letters_are_composed() {
    let (root, extra) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    words(root.path(), &["cafe\u{301}", "tee"], 4);
    words(extra.path(), &["caf\u{e9}"], 30);
    let options = TaskOptions {
        extra: vec![extra.path().to_path_buf()],
        ..TaskOptions::default()
    };
    let found = task(root.path(), "xx", &options).unwrap();
    assert_eq!(found.labels[..2], ["caf\u{e9}", "tee"]);
    let unknown = found.train.iter().filter(|clip| clip.label == 2);
    assert_eq!(
        unknown.count(),
        0,
        "a keyword's recordings are taught as no keyword"
    );
    // A model that was made before still finds its words.
    let options = TaskOptions {
        keywords: Some(vec!["tee".into(), "cafe\u{301}".into()]),
        ..TaskOptions::default()
    };
    let found = task(root.path(), "xx", &options).unwrap();
    assert_eq!(found.labels[..2], ["tee", "cafe\u{301}"]);
    assert!(found.train.iter().any(|clip| clip.label == 1));
}

#[test]
fn what_is_there_is_measured() {
    let root = tempfile::tempdir().unwrap();
    words(root.path(), &["an", "aus"], 4);
    let of = |keywords: &[&str]| {
        let keywords = keywords.iter().map(ToString::to_string).collect();
        let options = TaskOptions {
            keywords: Some(keywords),
            ..TaskOptions::default()
        };
        task(root.path(), "xx", &options)
    };
    let found = of(&["an", "aus", "hoch"]).unwrap();
    assert!(
        found
            .report
            .notes
            .iter()
            .any(|note| note == "no clips of: hoch")
    );
    let error = of(&["hoch", "licht"]).unwrap_err().to_string();
    assert!(
        error.contains("no clips of any keyword") && error.contains("hoch, licht"),
        "{error}"
    );
}

#[test]
fn noise_and_negatives_are_read_by_role() {
    let (root, extra) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    words(root.path(), &["an", "aus"], 12);
    for (name, seconds) in [
        ("noise/train/rain.wav", 3.0),
        ("noise/dev/sea.wav", 3.0),
        ("noise/test/wind.wav", 3.0),
        ("negatives/xx/train/talk.wav", 40.0),
        ("negatives/dev/talk.wav", 40.0),
        ("negatives/test/talk.wav", 40.0),
    ] {
        write_wav(&extra.path().join(name), seconds);
    }
    let of_language = |language, extra_dev| {
        let options = TaskOptions {
            extra: vec![extra.path().to_path_buf()],
            extra_dev,
            ..TaskOptions::default()
        };
        task(root.path(), language, &options).unwrap()
    };
    let of = |extra_dev| of_language("xx", extra_dev);
    let found = of(false);
    assert!(!found.report.to_string().contains("running speech of"));
    for split in Split::ALL {
        let silence = found.clips(split).iter().filter(|clip| clip.label == 3);
        for clip in silence {
            let Source::Crop { recording, .. } = &clip.source else {
                panic!("silence is cut out of recordings");
            };
            assert_eq!(recording.split, Some(split), "{}", recording.path.display());
        }
    }
    let talk = |task: &Task, split: Split| {
        let clips = task.clips(split).iter().filter(|clip| clip.label == 2);
        clips.count()
    };
    // What is added to a task does not judge it, unless that is asked for.
    assert_eq!(talk(&found, Split::Train), 40);
    assert_eq!(
        (talk(&found, Split::Dev), talk(&found, Split::Test)),
        (0, 0)
    );
    // A second of it is all that a clip keeps in memory, and is that second.
    let whole = decode_file(&extra.path().join("negatives/xx/train/talk.wav")).unwrap();
    for clip in found.train.iter().filter(|clip| clip.label == 2) {
        let Source::Crop {
            recording,
            start_samples,
            ..
        } = &clip.source
        else {
            panic!("running speech is cut out of recordings");
        };
        let end = start_samples + CLIP_SAMPLES;
        assert_eq!(recording.samples.len(), CLIP_SAMPLES);
        assert_eq!(load(clip).unwrap(), whole[*start_samples..end]);
    }
    // But thresholds may be chosen by all of the running speech there is.
    for split in Split::ALL {
        assert_eq!(found.negatives_of(split).len(), 1);
    }
    let found = of(true);
    assert_eq!(
        (talk(&found, Split::Dev), talk(&found, Split::Test)),
        (40, 0)
    );
    // The folder's own judge it.
    for (from, to) in [("noise", "noise"), ("negatives", "negatives")] {
        fs::rename(extra.path().join(from), root.path().join(to)).unwrap();
    }
    let found = read(root.path());
    assert_eq!(found.negatives_of(Split::Test).len(), 1);
    assert_eq!(talk(&found, Split::Test), 40);
}

#[test]
fn running_speech_of_other_languages_joins_what_is_short() {
    let (root, extra) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    words(root.path(), &["an", "aus"], 12);
    let negatives = root.path().join("negatives");
    write_wav(&negatives.join("xx/train/talk.wav"), 40.0);
    write_wav(&negatives.join("yy/train/other.wav"), 40.0);
    let of = |language, extra: &[PathBuf]| {
        let options = TaskOptions {
            extra: extra.to_vec(),
            ..TaskOptions::default()
        };
        let found = task(root.path(), language, &options).unwrap();
        let files = found.negatives_of(Split::Train).len();
        (files, found.report.to_string())
    };
    for (language, files, told) in [
        (
            "xx",
            2,
            "little recorded running speech of `xx` in TRAIN: that of yy is",
        ),
        (
            "zz",
            2,
            "no recorded running speech of `zz` in TRAIN: that of xx, yy is",
        ),
    ] {
        let (found, report) = of(language, &[]);
        assert_eq!(found, files, "{language}");
        assert!(report.contains(told), "{report}");
    }
    // Synthetic sentences are for their own language, and make up for no recordings.
    let extra = [extra.path().to_path_buf()];
    write_wav(&extra[0].join("synth/xx/sentences/train/one.wav"), 40.0);
    let (found, report) = of("xx", &extra);
    assert_eq!(found, 3);
    assert!(
        report.contains("synthetic sentences are running speech of `xx` in TRAIN\n"),
        "{report}"
    );
    write_wav(&extra[0].join("synth/zz/sentences/dev/one.wav"), 40.0);
    assert_eq!(of("zz", &extra).0, 2);
    // A quarter of an hour of its own is enough.
    write_wav(&negatives.join("xx/train/more.wav"), 860.0);
    let (found, report) = of("xx", &extra);
    assert_eq!(found, 3);
    assert!(!report.contains("recorded running speech of"), "{report}");
}

/// Two folders of one's own words share their speakers, and their sets.
#[test]
fn a_speaker_is_in_one_set_whichever_folder_the_recordings_lie_in() {
    let (root, extra) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    words(root.path(), &["an"], 3);
    words(extra.path(), &["an"], 9);
    let options = TaskOptions {
        extra: vec![extra.path().to_path_buf()],
        ..TaskOptions::default()
    };
    let found = task(root.path(), "xx", &options).unwrap();
    let speakers = |split: Split| -> BTreeSet<String> {
        let clips = found.clips(split).iter().filter(|clip| clip.label == 0);
        clips.map(|clip| clip.speaker.clone()).collect()
    };
    let [train, dev, test] = Split::ALL.map(speakers);
    assert!(train.len() > 3, "{train:?}");
    assert!(train.is_disjoint(&dev) && train.is_disjoint(&test) && dev.is_disjoint(&test));
}

/// Who says nearly everything stays in TRAIN.
#[test]
fn the_speaker_of_most_recordings_is_not_taken_from_training() {
    let root = tempfile::tempdir().unwrap();
    for word in ["an", "aus"] {
        for take in 0..20 {
            write_wav(
                &root.path().join(word).join(format!("me_nohash_{take}.wav")),
                0.5,
            );
        }
        for guest in ["x", "y", "z"] {
            write_wav(
                &root.path().join(word).join(format!("{guest}_nohash_0.wav")),
                0.5,
            );
        }
    }
    let found = read(root.path());
    assert!(found.report.train.keywords >= 40, "{}", found.report);
    assert!(found.report.dev.keywords > 0 && found.report.test.keywords > 0);
}

#[test]
fn recordings_that_lie_deeper_and_links_to_nowhere_are_told() {
    let root = tempfile::tempdir().unwrap();
    words(root.path(), &["an", "aus"], 4);
    write_wav(&root.path().join("an/anna/1.wav"), 0.5);
    write_wav(&root.path().join("noise/rain_1.wav"), 0.5);
    std::os::unix::fs::symlink("/nowhere/x.wav", root.path().join("an/s0_nohash_9.wav")).unwrap();
    let found = read(root.path());
    let notes = found.report.notes.join("; ");
    assert!(
        notes.contains("1 audio files lie deeper") && notes.contains("noise/train/"),
        "{notes}"
    );
    let mut faults = Faults::default();
    for split in Split::ALL {
        load_readable(&mut found.clips(split).to_vec(), &mut faults, |_| ());
    }
    assert!(faults.to_string().contains("s0_nohash_9.wav"), "{faults}");
}
