//! Claims about a directory of models: a whole one is merged and listens; every damaged, foreign or missing part is refused and told apart.

use std::fs;
use std::path::Path;

use crate::common::{
    BASE_LABELS, DELTA_LABELS, crafted, delta, labels, manifest, models, onnx, random, tones,
};
use proptest::prelude::*;
use swr_core::detector::clip_answer;
use swr_core::frontend::log_mel;
use swr_core::package::{Delta, PackageError};
use swr_core::{GainSettings, HOP_SAMPLES, MEL_BINS};
use swr_runtime::{ClipRunner, Event, Models, ModelsError, SpotError, Spotter};

fn package_error(result: Result<impl Sized, ModelsError>) -> PackageError {
    match result {
        Err(ModelsError::Package { source, .. }) => *source,
        Err(other) => panic!("expected a package error, found: {other}"),
        Ok(_) => panic!("expected a package error, found success"),
    }
}

fn spot(directory: &Path, language: &str, samples: &[f32], chunk: usize) -> Vec<Event> {
    let models = Models::open(directory).unwrap();
    let mut spotter = models.spotter(&[language], 4).unwrap();
    let mut events = Vec::new();
    for chunk in samples.chunks(chunk) {
        spotter.push(chunk, &mut events).unwrap();
    }
    spotter.finish(&mut events).unwrap();
    events
}

#[test]
fn languages_of_other_front_ends_are_not_heard_together() {
    let directory = tempfile::tempdir().unwrap();
    models(directory.path());
    let models = Models::open(directory.path()).unwrap();
    let listener = |language, gain| {
        let mut model = models.load(language).unwrap();
        model.language.frontend.gain = gain;
        model.listener(4).unwrap()
    };
    let gain = Some(GainSettings::default());
    let refused = |result: Result<(), SpotError>| match result {
        Err(SpotError::OtherFrontend { language }) => language,
        other => panic!("expected another front end to be refused, found {other:?}"),
    };
    let both = vec![listener("en", None), listener("de", gain)];
    assert_eq!(refused(Spotter::new(both).map(|_| ())), "de");

    // What listened before goes on.
    let mut spotter = Spotter::new(vec![listener("en", None)]).unwrap();
    assert_eq!(refused(spotter.change(vec![listener("de", gain)])), "de");
    let mut events = Vec::new();
    spotter
        .push(&tones(4.0, &[(1.5, 500.0)]), &mut events)
        .unwrap();
    spotter.finish(&mut events).unwrap();
    assert_eq!(events.len(), 1, "{events:?}");

    // Who listened for nothing had no front end yet.
    let mut spotter = Spotter::new(Vec::new()).unwrap();
    spotter.change(vec![listener("de", gain)]).unwrap();
    assert_eq!(spotter.frontend_settings().gain, gain);
}

/// A stream in pieces and a clip have the gain that the language asks for: a network that is given its features by hand says the same.
#[test]
fn a_stream_and_a_clip_have_the_front_end_of_their_language() {
    let directory = tempfile::tempdir().unwrap();
    models(directory.path());
    let samples = tones(1.0, &[(0.3, 500.0)]);
    let gain = Some(GainSettings::default());
    let logits = |gain| {
        let mut model = Models::open(directory.path()).unwrap().load("de").unwrap();
        model.language.frontend.gain = gain;
        let mut by_hand = vec![0.0; model.language.context_frames * HOP_SAMPLES];
        by_hand.extend(&samples);
        let frames = log_mel(&model.language.frontend, &by_hand).unwrap();
        let mut engine = model.engine(frames.len() / MEL_BINS).unwrap();
        let mut expected = Vec::new();
        engine.step(&frames, &mut expected).unwrap();
        let skipped = model.language.context_frames * engine.classes();
        let mut runner = ClipRunner::new(&model).unwrap();
        let found = runner.logits(&samples).unwrap().to_vec();
        assert_eq!(found, expected[skipped..]);
        let mut spotter = Spotter::new(vec![model.listener(4).unwrap()]).unwrap();
        for piece in samples.chunks(333) {
            spotter.push(piece, &mut Vec::new()).unwrap();
        }
        let heard = spotter.recent_frames();
        assert_eq!(heard, &frames[..heard.len()]);
        found
    };
    assert_ne!(logits(gain), logits(None));
}

#[test]
fn a_word_that_several_languages_hear_is_one_event() {
    let directory = tempfile::tempdir().unwrap();
    models(directory.path());
    let audio = tones(8.0, &[(1.5, 500.0), (4.0, 3_000.0), (6.5, 500.0)]);
    let models = Models::open(directory.path()).unwrap();
    let mut spotter = models.spotter(&["de", "en"], 4).unwrap();
    let mut together = Vec::new();
    for chunk in audio.chunks(777) {
        spotter.push(chunk, &mut together).unwrap();
    }
    spotter.finish(&mut together).unwrap();
    // The tones are words of both; each is told once, as one of the two would tell it alone, and not depending on how the audio is cut.
    let alone = ["en", "de"].map(|language| spot(directory.path(), language, &audio, 1_000));
    assert_eq!((together.len(), alone[0].len(), alone[1].len()), (3, 3, 3));
    for (place, event) in together.iter().enumerate() {
        assert!(
            alone.iter().any(|alone| alone[place] == *event),
            "{event:?}"
        );
    }
    let mut again = Vec::new();
    let mut spotter = models.spotter(&["en", "de"], 10).unwrap();
    spotter.push(&audio, &mut again).unwrap();
    spotter.finish(&mut again).unwrap();
    assert_eq!(again, together);
}

#[test]
fn another_language_goes_on_where_the_first_stopped() {
    let directory = tempfile::tempdir().unwrap();
    models(directory.path());
    let models = Models::open(directory.path()).unwrap();
    let audio = tones(8.0, &[(1.5, 500.0), (4.0, 3_000.0), (6.5, 500.0)]);
    let german = spot(directory.path(), "de", &audio, 640);
    let english = spot(directory.path(), "en", &audio, 640);
    for (change_at, heard) in [
        (0, ["tief", "hoch", "tief"]),
        // Silence between two words, then in the middle of one: it is heard once, by the one that is there at its end.
        (52_000, ["low", "hoch", "tief"]),
        (68_000, ["low", "hoch", "tief"]),
        (96_000, ["low", "high", "tief"]),
    ] {
        for chunk in [160, 640, 5_000] {
            let mut spotter = models.spotter(&["en"], 4).unwrap();
            let mut events = Vec::new();
            for chunk in audio[..change_at].chunks(chunk) {
                spotter.push(chunk, &mut events).unwrap();
            }
            let listener = models.listener("de", 4).unwrap();
            spotter.change(vec![listener]).unwrap();
            assert_eq!(spotter.listeners()[0].language(), "de");
            for chunk in audio[change_at..].chunks(chunk) {
                spotter.push(chunk, &mut events).unwrap();
            }
            spotter.finish(&mut events).unwrap();
            let words: Vec<&str> = events.iter().map(|event| event.keyword.as_str()).collect();
            assert_eq!(words, heard, "change at {change_at}, chunks of {chunk}");
            for event in &events {
                let expected = if event.language == "de" {
                    &german
                } else {
                    &english
                };
                let same = expected.iter().find(|other| other.time_s == event.time_s);
                let same = same.unwrap_or_else(|| panic!("{event:?} is not in {expected:?}"));
                assert!(
                    (same.score - event.score).abs() < 1e-3,
                    "{event:?}, {same:?}"
                );
            }
        }
    }
    // Nothing of the stream before is left after its end.
    let mut spotter = models.spotter(&["en"], 4).unwrap();
    let mut events = Vec::new();
    spotter.push(&audio[..40_000], &mut events).unwrap();
    let listener = models.listener("de", 4).unwrap();
    spotter.change(vec![listener]).unwrap();
    spotter.finish(&mut events).unwrap();
    events.clear();
    spotter.push(&audio, &mut events).unwrap();
    spotter.finish(&mut events).unwrap();
    assert_eq!(events, german);
}

#[test]
fn base_and_merged_network_hear_their_own_words() {
    let directory = tempfile::tempdir().unwrap();
    models(directory.path());
    assert_eq!(
        Models::open(directory.path()).unwrap().languages().unwrap(),
        ["en", "de"]
    );
    let audio = tones(8.0, &[(1.5, 500.0), (4.0, 3_000.0), (6.5, 500.0)]);
    for (language, words) in [
        ("en", ["low", "high", "low"]),
        ("de", ["tief", "hoch", "tief"]),
    ] {
        let events = spot(directory.path(), language, &audio, 1_000);
        let heard: Vec<&str> = events.iter().map(|event| event.keyword.as_str()).collect();
        assert_eq!(heard, words, "{events:?}");
        for (event, start_s) in events.iter().zip([1.5, 4.0, 6.5]) {
            assert!(
                (start_s..start_s + 1.6).contains(&event.time_s),
                "{event:?}"
            );
            assert!(
                event.score >= 0.8 && event.language == language,
                "{event:?}"
            );
        }
    }
}

#[test]
fn clips_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    models(directory.path());
    let models = Models::open(directory.path()).unwrap();
    let model = models.load("de").unwrap();
    assert_eq!(model.language.labels, labels(&DELTA_LABELS));
    let mut runner = ClipRunner::new(&model).unwrap();
    for (hz, word) in [(500.0, "tief"), (3_000.0, "hoch")] {
        let clip = tones(1.0, &[(0.2, hz)]);
        let logits = runner.logits(&clip).unwrap().to_vec();
        let (best, posterior) = clip_answer(&logits, 5, 98).unwrap();
        assert_eq!(model.language.labels[best], word, "{posterior}");
        // A clip leaves nothing behind for the next.
        assert!(runner.logits(&clip).unwrap() == logits);
    }
    assert!(runner.logits(&[f32::NAN; 16_000]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(8) })]
    #[test]
    fn events_do_not_depend_on_the_chunks(chunk in 1usize..5_000) {
        let directory = tempfile::tempdir().unwrap();
        models(directory.path());
        let audio = tones(3.0, &[(1.0, 600.0)]);
        let whole = spot(directory.path(), "de", &audio, audio.len());
        prop_assert_eq!(whole.len(), 1);
        prop_assert_eq!(spot(directory.path(), "de", &audio, chunk), whole);
    }
}

#[test]
fn every_mistake_has_its_own_message() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let open = || Models::open(directory.path());

    assert!(matches!(
        Models::open(at("nowhere")),
        Err(ModelsError::NoDirectory { .. })
    ));
    assert!(matches!(open(), Err(ModelsError::Read { path, .. }) if path.ends_with("base.json")));
    let base = models(directory.path());
    let good = fs::read(at("de.swr")).unwrap();
    assert!(open().unwrap().load("de").is_ok());

    // Deltas: another base, another version, damaged, no delta at all, another name, none.
    fs::write(at("fr.swr"), &good).unwrap();
    assert!(matches!(
        open().unwrap().load("fr"),
        Err(ModelsError::WrongName { .. })
    ));
    for language in ["pl", "../de", "", "base"] {
        let result = open().unwrap().load(language);
        assert!(
            matches!(result, Err(ModelsError::NoLanguage { .. })),
            "{language}"
        );
    }
    let foreign = delta(&random(4, 1), "10%").write();
    fs::write(at("de.swr"), foreign).unwrap();
    assert!(matches!(
        package_error(open().unwrap().load("de")),
        PackageError::WrongBase { .. }
    ));
    fs::write(at("de.swr"), b"PK\x03\x04").unwrap();
    assert_eq!(
        package_error(open().unwrap().load("de")),
        PackageError::NotADelta
    );
    fs::write(at("de.swr"), &good).unwrap();

    // The base: another network, another version, labels that do not fit.
    let json = fs::read_to_string(at("base.json")).unwrap();
    fs::write(
        at("base.json"),
        json.replacen("\"format\": 4", "\"format\": 9", 1),
    )
    .unwrap();
    assert!(matches!(
        package_error(open()),
        PackageError::UnsupportedVersion { found: 9, .. }
    ));
    fs::write(
        at("base.json"),
        json.replacen("\"hop_samples\": 160", "\"hop_samples\": 161", 1),
    )
    .unwrap();
    assert!(matches!(
        package_error(open()),
        PackageError::UnknownFrontend { .. }
    ));
    fs::write(at("base.json"), "{").unwrap();
    assert!(matches!(
        package_error(open()),
        PackageError::BadManifest { .. }
    ));
    let network = onnx(&base);
    let more = manifest(
        &base,
        &network,
        &["low", "middle", "high", "_unknown_", "_silence_"],
    );
    fs::write(at("base.json"), more.to_json().unwrap()).unwrap();
    let result = open().unwrap().load("en").unwrap().engine(4);
    assert!(matches!(
        result,
        Err(ModelsError::Labels {
            labels: 5,
            classes: 4,
            ..
        })
    ));
    fs::write(at("base.json"), &json).unwrap();
    fs::write(at("base.onnx"), onnx(&crafted(4, 1, 0))).unwrap();
    assert!(matches!(open(), Err(ModelsError::WrongNetwork { .. })));
    fs::remove_file(at("base.onnx")).unwrap();
    assert!(matches!(open(), Err(ModelsError::Read { path, .. }) if path.ends_with("base.onnx")));

    // Bytes and tensors are both checked: a manifest for other tensors is refused though the file is the one it names.
    fs::write(at("base.onnx"), &network).unwrap();
    let mixed = manifest(&random(4, 2), &network, &BASE_LABELS);
    fs::write(at("base.json"), mixed.to_json().unwrap()).unwrap();
    assert!(matches!(
        open(),
        Err(ModelsError::WrongNetwork {
            what: "tensors",
            ..
        })
    ));
}

#[test]
fn every_cut_and_flipped_bit_of_a_delta_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    models(directory.path());
    let path = directory.path().join("de.swr");
    let good = fs::read(&path).unwrap();
    assert!(Delta::read(&good).is_ok());
    let models = Models::open(directory.path()).unwrap();
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        package_error(models.load("de"));
    }
    for bit in (0..good.len() * 8).step_by(3) {
        let mut damaged = good.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, damaged).unwrap();
        package_error(models.load("de"));
    }
}

#[test]
fn a_damaged_network_never_reaches_tract() {
    let directory = tempfile::tempdir().unwrap();
    models(directory.path());
    let path = directory.path().join("base.onnx");
    let good = fs::read(&path).unwrap();
    for bit in (0..good.len() * 8).step_by(101) {
        let mut damaged = good.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, damaged).unwrap();
        assert!(matches!(
            Models::open(directory.path()),
            Err(ModelsError::WrongNetwork { .. })
        ));
    }
}
