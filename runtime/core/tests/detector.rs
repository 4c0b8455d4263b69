//! Claims about the detector, on synthetic logits: one event per word, any chunking, no drift, refusals.

use proptest::{collection::vec, prelude::*};
use swr_core::detector::{
    Detection, Detector, DetectorError, DetectorSettings, Timing, clip_answer, mean_logits,
};

const CLASSES: usize = 5;
const UNKNOWN: usize = 3;
const SILENCE: usize = 4;

fn labels() -> Vec<String> {
    ["yes", "no", "up", "_unknown_", "_silence_"]
        .map(String::from)
        .to_vec()
}

fn detector() -> Detector {
    Detector::new(&labels(), DetectorSettings::new(vec![0.6; CLASSES])).unwrap()
}

/// Logits of `frames` frames in which `label` stands out by `height`.
fn frames(label: usize, height: f32, frames: usize) -> Vec<f32> {
    let mut logits = vec![0.0; frames * CLASSES];
    for frame in logits.chunks_mut(CLASSES) {
        frame[label] = height;
    }
    logits
}

/// Silence, then words of 60 frames with 150 frames of silence after each.
fn speech(words: &[usize]) -> Vec<f32> {
    let mut logits = frames(SILENCE, 8.0, 150);
    for &word in words {
        logits.extend(frames(word, 16.0, 60));
        logits.extend(frames(SILENCE, 8.0, 150));
    }
    logits
}

fn heard(logits: &[f32]) -> Vec<usize> {
    let mut detector = detector();
    let mut detections = detector.push(logits);
    detections.extend(detector.finish());
    detections.iter().map(|detection| detection.label).collect()
}

#[test]
fn each_spoken_word_is_one_event() {
    assert_eq!(heard(&speech(&[0, 1, 2, 2, 0])), [0, 1, 2, 2, 0]);
    assert!(heard(&speech(&[])).is_empty());
}

#[test]
fn what_is_no_keyword_is_no_event() {
    assert!(heard(&frames(UNKNOWN, 20.0, 500)).is_empty());
    assert!(heard(&frames(SILENCE, 20.0, 500)).is_empty());
    assert_eq!(heard(&speech(&[UNKNOWN, 1, UNKNOWN])), [1]);
}

#[test]
fn a_word_that_goes_on_is_one_event_until_it_has_stopped() {
    let mut logits = speech(&[]);
    logits.extend(frames(0, 16.0, 1_000));
    assert_eq!(heard(&logits), [0]);
    logits.extend(frames(SILENCE, 16.0, 200));
    logits.extend(frames(0, 16.0, 100));
    assert_eq!(heard(&logits), [0, 0]);
}

#[test]
fn a_stronger_keyword_takes_the_place_of_a_weaker_one() {
    let settings = DetectorSettings {
        window_frames: 4,
        timing: Timing {
            smoothing_frames: 1,
            ..Timing::default()
        },
        ..DetectorSettings::new(vec![0.4; CLASSES])
    };
    let mut detector = Detector::new(&labels(), settings).unwrap();
    let mut logits = frames(SILENCE, 8.0, 60);
    logits.extend(frames(0, 2.0, 6));
    logits.extend(frames(1, 8.0, 20));
    logits.extend(frames(SILENCE, 8.0, 60));
    let detections = detector.push(&logits);
    assert_eq!(detections.len(), 1);
    assert_eq!(detections[0].label, 1);
    assert!(detections[0].score > 0.9);
    assert!((66..86).contains(&detections[0].frame));
}

#[test]
fn no_event_begins_in_the_refractory_time() {
    let quick = |refractory_frames| {
        let settings = DetectorSettings {
            window_frames: 2,
            timing: Timing {
                smoothing_frames: 1,
                confirm_frames: 2,
                refractory_frames,
            },
            ..DetectorSettings::new(vec![0.6; CLASSES])
        };
        let mut detector = Detector::new(&labels(), settings).unwrap();
        let mut logits = frames(SILENCE, 8.0, 20);
        for word in [0, 1, 0] {
            logits.extend(frames(word, 8.0, 10));
            logits.extend(frames(SILENCE, 8.0, 10));
        }
        detector.push(&logits).len()
    };
    assert_eq!(quick(10), 3);
    assert_eq!(quick(25), 2);
    assert_eq!(quick(100), 1);
}

#[test]
fn nothing_is_detected_before_a_whole_window() {
    let mut detector = detector();
    assert_eq!(detector.push(&frames(0, 20.0, 98)), []);
    let first = detector.push(&frames(0, 20.0, 40));
    let expected = Detection {
        label: 0,
        score: first[0].score,
        frame: 98,
        given: 98 + 25,
    };
    assert_eq!(first, [expected]);
}

#[test]
fn the_end_of_the_stream_confirms_what_was_waiting() {
    let mut logits = speech(&[]);
    logits.extend(frames(2, 16.0, 70));
    let mut detector = detector();
    let before = detector.push(&logits).len();
    let after = detector.finish().into_iter().count();
    assert_eq!(before + after, 1);
    assert_eq!(detector.finish(), None);
}

#[test]
fn resetting_forgets_everything() {
    let logits = speech(&[0, 1]);
    let mut detector = detector();
    let first = detector.push(&logits);
    detector.reset();
    assert_eq!(detector.frames(), 0);
    assert_eq!(detector.posteriors(), [0.0; CLASSES]);
    assert_eq!(detector.push(&logits), first);
}

#[test]
fn days_of_audio_and_broken_logits_leave_no_trace() {
    // Large values of changing sign would leave rounding errors in sums that are only added to and subtracted from.
    let mut old = detector();
    for step in 0..2_000 {
        let height = if step % 2 == 0 { 3e7 } else { -1.1e-3 };
        old.push(&frames(step % CLASSES, height, 61));
    }
    old.push(&frames(0, f32::NAN, 3));
    old.push(&frames(1, f32::INFINITY, 3));
    old.push(&frames(SILENCE, 8.0, 300));
    let mut young = detector();
    young.push(&frames(SILENCE, 8.0, 300));
    assert_eq!(old.posteriors(), young.posteriors());
    let word = speech(&[1]);
    assert_eq!(old.push(&word).len(), young.push(&word).len());
}

proptest! {
    #[test]
    fn events_do_not_depend_on_the_chunks(
        words in vec((0usize..CLASSES, 4.0f32..20.0, 1usize..90), 1..12),
        chunks in vec(1usize..200, 1..8),
    ) {
        let mut logits = Vec::new();
        for (label, height, length) in words {
            logits.extend(frames(label, height, length));
        }
        let mut whole = detector();
        let expected = whole.push(&logits);
        let mut cut = detector();
        let mut found = Vec::new();
        let mut rest = logits.as_slice();
        for frames in chunks.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (chunk, after) = rest.split_at((frames * CLASSES).min(rest.len()));
            found.extend(cut.push(chunk));
            rest = after;
        }
        prop_assert_eq!(found, expected);
        prop_assert_eq!(cut.posteriors(), whole.posteriors());
    }

    #[test]
    fn thresholds_move_in_log_odds(thresholds in vec(0.01f32..0.9999, CLASSES), shift in -3.0f32..3.0) {
        let mut settings = DetectorSettings::new(thresholds.clone());
        settings.move_thresholds(shift);
        let odds = |t: &f32| (f64::from(*t) / (1.0 - f64::from(*t))).ln();
        for (before, after) in thresholds.iter().zip(&settings.thresholds) {
            prop_assert!((odds(after) - odds(before) - f64::from(shift)).abs() < 0.01, "{before} {after}");
        }
        // What nothing passes, and what everything does, stays so.
        let mut ends = DetectorSettings::new(vec![0.0, 1.0]);
        ends.move_thresholds(shift);
        prop_assert_eq!(ends.thresholds, [0.0, 1.0]);
        let mut still = DetectorSettings::new(thresholds.clone());
        still.move_thresholds(0.0);
        prop_assert_eq!(still.thresholds, thresholds);
    }

    #[test]
    fn posteriors_are_the_softmax_of_the_mean(logits in vec(-9.0f32..9.0, CLASSES * 150)) {
        let timing = Timing { smoothing_frames: 1, ..Timing::default() };
        let settings = DetectorSettings { timing, ..DetectorSettings::new(vec![0.6; CLASSES]) };
        let mut detector = Detector::new(&labels(), settings).unwrap();
        detector.push(&logits);
        let mean = mean_logits(&logits, CLASSES, 52..150).unwrap();
        let powers: Vec<f64> = mean.iter().map(|&logit| f64::from(logit).exp()).collect();
        let sum: f64 = powers.iter().sum();
        for (posterior, power) in detector.posteriors().iter().zip(&powers) {
            prop_assert!((f64::from(*posterior) - power / sum).abs() < 1e-5);
        }
    }
}

#[test]
fn means_of_clips_need_all_their_frames() {
    let logits: Vec<f32> = (0..12).map(|value| value as f32).collect();
    assert_eq!(mean_logits(&logits, 3, 1..3).unwrap(), [4.5, 5.5, 6.5]);
    for frames in [3..5, 2..2, 0..usize::MAX] {
        assert!(mean_logits(&logits, 3, frames).is_err());
    }
}

#[test]
fn settings_against_their_rules_are_refused() {
    let refused = |alter: &dyn Fn(&mut DetectorSettings)| {
        let mut settings = DetectorSettings::new(vec![0.6; CLASSES]);
        alter(&mut settings);
        Detector::new(&labels(), settings).unwrap_err()
    };
    let error = refused(&|settings| settings.thresholds.truncate(4));
    assert_eq!(
        error,
        DetectorError::Thresholds {
            labels: 5,
            found: 4
        }
    );
    let error = refused(&|settings| settings.thresholds[1] = 1.5);
    assert!(matches!(error, DetectorError::Threshold { .. }));
    let error = refused(&|settings| settings.window_frames = 0);
    assert!(matches!(error, DetectorError::Frames { .. }));
    let error = Detector::new(&labels()[1..4], DetectorSettings::new(vec![0.6; 3])).unwrap_err();
    assert!(matches!(error, DetectorError::Labels(_)));
}

#[test]
fn a_clip_is_the_keyword_that_is_once_the_likeliest() {
    let mut clip = frames(SILENCE, 8.0, 40);
    clip.extend(frames(1, 8.0, 30));
    clip.extend(frames(SILENCE, 8.0, 30));
    let (label, posterior) = clip_answer(&clip, CLASSES, 20).unwrap();
    assert!(label == 1 && posterior > 0.99);
    // Averaged over all of it, it is mostly silence; and a keyword that is never the likeliest is no answer.
    let (label, posterior) = clip_answer(&clip, CLASSES, 98).unwrap();
    assert!(label == SILENCE && posterior < 0.5, "{label} {posterior}");
    let mut unknown = frames(UNKNOWN, 8.0, 60);
    unknown.extend(frames(SILENCE, 8.0, 40));
    assert_eq!(clip_answer(&unknown, CLASSES, 20).unwrap().0, UNKNOWN);
    assert!(clip_answer(&[], CLASSES, 20).is_err());
}
