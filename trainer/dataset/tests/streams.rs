//! Streams keep what they promise (length, gaps, SNR, seed), and detections are matched to words one to one.

use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use swr_dataset::{
    Background, Clip, Detected, NO_SPEAKER, Report, Source, Spoken, StreamOptions, Task,
    active_span, fit_one_second, household, match_detections, pink_noise, sentences, steady_tones,
    stream, white_noise,
};

/// A file of 16-bit samples at 16 kHz, to be written.
fn wav(path: &std::path::Path) -> hound::WavWriter<std::io::BufWriter<std::fs::File>> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    hound::WavWriter::create(path, spec).unwrap()
}

/// A task with one keyword clip: half a second of a tone in a file.
fn tone_task(folder: &std::path::Path) -> Task {
    let path = folder.join("tone.wav");
    let mut writer = wav(&path);
    for index in 0..16_000 {
        let tone = (std::f32::consts::TAU * 500.0 * index as f32 / 16_000.0).sin();
        writer
            .write_sample(if (4_000..12_000).contains(&index) {
                (10_000.0 * tone) as i16
            } else {
                0
            })
            .unwrap();
    }
    writer.finalize().unwrap();
    let clip = |label| Clip {
        source: Source::File(path.clone()),
        label,
        word: format!("word{label}"),
        speaker: NO_SPEAKER.to_owned(),
        synthetic: true,
    };
    let noise = |seed| {
        Arc::new(Background {
            path: PathBuf::from("<noise>"),
            start_samples: 0,
            samples: white_noise(seed, 160_000),
            split: None,
        })
    };
    Task {
        language: "en".to_owned(),
        labels: ["word0", "_unknown_", "_silence_"]
            .map(str::to_owned)
            .to_vec(),
        train: Vec::new(),
        dev: Vec::new(),
        test: vec![clip(0), clip(1)],
        own_words: false,
        background: vec![noise(1), noise(2)],
        negatives: Vec::new(),
        report: Report::default(),
    }
}

/// A recording in the folder: noise that pauses for a fifth of a second in every half.
fn talk(folder: &std::path::Path, name: &str, seconds: usize) -> PathBuf {
    let path = folder.join(name);
    let mut writer = wav(&path);
    for (index, sample) in white_noise(9, seconds * 16_000).into_iter().enumerate() {
        let loud = if index % 8_000 < 3_200 { 1.0 } else { 3_000.0 };
        writer.write_sample((loud * sample) as i16).unwrap();
    }
    writer.finalize().unwrap();
    path
}

#[test]
fn words_are_set_into_the_pauses_of_sentences() {
    let folder = tempfile::tempdir().unwrap();
    let task = tone_task(folder.path());
    let running = [talk(folder.path(), "talk.wav", 31)];
    let made = sentences(&task, &task.test, &running, 3.0, 5).unwrap();
    assert!(made.hours() >= 3.0 / 60.0 && made.hours() < 4.0 / 60.0);
    assert!(
        (20..80).contains(&made.events.len()),
        "{}",
        made.events.len()
    );
    for event in &made.events {
        assert_eq!(event.end_samples - event.start_samples, 8_000);
        let word = power(&made.samples[event.start_samples..event.end_samples]);
        // Before it lies its own margin and the second half of the pause: nothing that is loud.
        let before = power(&made.samples[event.start_samples - 1_200..event.start_samples]);
        assert!(before < 1e-4 * word, "{before} {word}");
        // As loud as the speech around, within 3 dB and what its pauses make of that.
        let speech = (3_000.0f64 / 32_768.0).powi(2);
        let level_db = 10.0 * (word / speech).log10();
        assert!((-7.0..4.0).contains(&level_db), "{level_db} dB");
    }
    assert_eq!(
        made,
        sentences(&task, &task.test, &running, 3.0, 5).unwrap()
    );
    let other = sentences(&task, &task.test, &running, 3.0, 6).unwrap();
    assert!(made.samples != other.samples);
    assert!(sentences(&task, &task.test, &[], 3.0, 5).is_err());
    assert!(sentences(&task, &[], &running, 3.0, 5).is_err());
}

#[test]
fn sounds_made_in_code_have_their_frequency_and_level() {
    let tones = steady_tones();
    assert_eq!(tones.len(), 120);
    assert_eq!(household().len(), 10);
    for made in tones.iter().step_by(7).chain(&household()) {
        let samples = made.samples(2);
        assert_eq!(samples.len(), 40_000);
        assert!(samples[..8_000].iter().all(|s| *s == 0.0));
        let loudest = samples.iter().fold(0f32, |m, s| m.max(s.abs()));
        let level_db = 20.0 * loudest.log10();
        // Partials add up.
        assert!(
            level_db > made.level_db - 3.0 && level_db < made.level_db + 10.0,
            "{}: {level_db}",
            made.name
        );
        assert!(samples == made.samples(2));
    }
    // A tone of 100 Hz crosses zero 200 times a second.
    let low = tones[0].samples(1);
    let crossings = low[8_000..]
        .windows(2)
        .filter(|pair| (pair[0] < 0.0) != (pair[1] < 0.0));
    assert!(crossings.count().abs_diff(200) <= 2);
}

fn power(samples: &[f32]) -> f64 {
    samples
        .iter()
        .map(|sample| f64::from(*sample).powi(2))
        .sum::<f64>()
        / samples.len() as f64
}

#[test]
fn a_stream_has_its_length_gaps_and_ratio() {
    let folder = tempfile::tempdir().unwrap();
    let task = tone_task(folder.path());
    let options = StreamOptions {
        minutes: 3.0,
        snr_db: (15.0, 15.0),
        ..StreamOptions::default()
    };
    let made = stream(&task, &task.test, &options).unwrap();
    assert_eq!(made.samples.len(), 180 * 16_000);
    assert!((made.hours() - 0.05).abs() < 1e-12);
    assert!(!made.unknown.is_empty() && made.events.len() > made.unknown.len());
    assert!(
        made.events.iter().all(|event| event.label == 0)
            && made.unknown.iter().all(|event| event.label == 1)
    );
    let mut all: Vec<&Spoken> = made.events.iter().chain(&made.unknown).collect();
    all.sort_by_key(|event| event.start_samples);
    for pair in all.windows(2) {
        // The tone lies 0.25 s inside its clip on both sides.
        let gap_s = (pair[1].start_samples - pair[0].end_samples) as f64 / 16_000.0 - 0.5;
        assert!(
            (2.0 - 1e-3..=4.0 + 1e-3).contains(&gap_s),
            "gap of {gap_s} s"
        );
    }
    for event in &made.events {
        assert_eq!(event.end_samples - event.start_samples, 8_000);
        let noise = power(&made.samples[event.start_samples - 24_000..event.start_samples - 8_000]);
        let speech = power(&made.samples[event.start_samples..event.end_samples]) - noise;
        let ratio_db = 10.0 * (speech / noise).log10();
        assert!((ratio_db - 15.0).abs() < 0.5, "{ratio_db} dB");
    }
    assert_eq!(made, stream(&task, &task.test, &options).unwrap());
    assert_ne!(
        made,
        stream(&task, &task.test, &StreamOptions { seed: 1, ..options }).unwrap()
    );
}

#[test]
fn impossible_streams_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let task = tone_task(folder.path());
    let usual = StreamOptions::default();
    for options in [
        StreamOptions {
            minutes: f64::NAN,
            ..usual
        },
        StreamOptions {
            minutes: 1e9,
            ..usual
        },
        StreamOptions {
            snr_db: (20.0, 10.0),
            ..usual
        },
        StreamOptions {
            gap_s: (-1.0, 2.0),
            ..usual
        },
        StreamOptions {
            unknown_share: 2.0,
            ..usual
        },
    ] {
        assert!(stream(&task, &task.test, &options).is_err(), "{options:?}");
    }
    assert!(
        stream(&task, &[], &usual)
            .unwrap_err()
            .to_string()
            .contains("no keyword clip")
    );
}

#[test]
fn detections_are_matched_one_to_one() {
    let event = |label, start_samples, end_samples| Spoken {
        label,
        word: String::new(),
        start_samples,
        end_samples,
    };
    let detected = |label, at_samples| Detected { label, at_samples };
    let truth = [event(0, 100, 200), event(1, 300, 400), event(0, 1000, 1100)];
    let heard = [
        detected(0, 90),
        detected(0, 150),
        detected(0, 180),
        detected(0, 350),
        detected(1, 450),
        detected(0, 1151),
    ];
    let matched = match_detections(&truth, &heard, 50);
    assert_eq!(matched.hits, [(0, 1), (1, 4)]);
    assert_eq!(matched.misses, [2]);
    assert_eq!(matched.false_alarms, [0, 2, 3, 5]);
}

#[test]
fn made_noise_has_power_one_and_pink_falls() {
    for noise in [white_noise(3, 160_000), pink_noise(3, 160_000)] {
        assert!((power(&noise) - 1.0).abs() < 0.02);
    }
    // The difference of neighbours stresses high frequencies: for white noise its power is 2, for pink noise far less.
    let differences: Vec<f32> = pink_noise(3, 160_000)
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .collect();
    assert!(power(&differences) < 1.0);
}

proptest! {
    #[test]
    fn matching_accounts_for_everything(starts in prop::collection::vec((0usize..3, 0usize..5000), 0..20), heard in prop::collection::vec((0usize..3, 0usize..6000), 0..30), tolerance in 0usize..500) {
        let mut truth: Vec<Spoken> = starts.iter().map(|(label, start)| Spoken { label: *label, word: String::new(), start_samples: *start, end_samples: start + 300 }).collect();
        truth.sort_by_key(|event| event.start_samples);
        let mut heard: Vec<Detected> = heard.iter().map(|(label, at)| Detected { label: *label, at_samples: *at }).collect();
        heard.sort_by_key(|detection| detection.at_samples);
        let matched = match_detections(&truth, &heard, tolerance);
        prop_assert_eq!(matched.hits.len() + matched.misses.len(), truth.len());
        prop_assert_eq!(matched.hits.len() + matched.false_alarms.len(), heard.len());
        for (event, detection) in matched.hits {
            prop_assert_eq!(truth[event].label, heard[detection].label);
            prop_assert!(heard[detection].at_samples >= truth[event].start_samples);
            prop_assert!(heard[detection].at_samples <= truth[event].end_samples + tolerance);
        }
    }

    #[test]
    fn one_second_holds_the_loudest_part(length in 0usize..50_000, at in 0usize..50_000) {
        let mut samples = vec![0.0f32; length];
        if let Some(sample) = samples.get_mut(at) {
            *sample = 1.0;
        }
        let second = fit_one_second(&samples);
        prop_assert_eq!(second.len(), 16_000);
        prop_assert_eq!(second.contains(&1.0), at < length);
        prop_assert_eq!(active_span(&samples, 30.0).is_some(), at < length);
    }
}
