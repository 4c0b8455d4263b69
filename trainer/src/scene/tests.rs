//! Scenes: where words are and due, what is asked of those without any, shares of keywords, bangs.

use super::*;
use crate::random::generator;

const WINDOW: usize = 30;

fn settings() -> SceneSettings {
    crate::config::resolve::<crate::config::BaseConfig>(None, crate::config::BASE_DEFAULT, &[])
        .unwrap()
        .scenes
}

fn augment() -> Augment {
    crate::config::resolve::<crate::config::BaseConfig>(None, crate::config::BASE_DEFAULT, &[])
        .unwrap()
        .augment
}

/// A clip with a loud stretch in it.
fn clip(from: usize, to: usize) -> Spoken {
    let mut samples = vec![0i16; 16_000];
    for (k, s) in samples[from..to].iter_mut().enumerate() {
        *s = if k % 20 < 10 { 8_000 } else { -8_000 };
    }
    Spoken {
        samples: samples.into(),
        span: from..to,
        power: (8_000.0f32 / 32_768.0).powi(2),
    }
}

/// Scenes of one keyword's clips and nothing else.
fn one_word<'a>(clips: &'a [Spoken], noise: &'a [f32]) -> Material<'a> {
    Material {
        clips,
        labels: &[0],
        keywords: 1,
        words: vec![((0..clips.len()).collect(), 1.0)],
        others: Vec::new(),
        running: &[],
        background: vec![noise],
    }
}

#[test]
fn words_are_where_they_sound_and_due_when_they_end() {
    let clips = [clip(4_000, 12_000)];
    let noise = vec![0f32; 100_000];
    let material = one_word(&clips, &noise);
    let settings = SceneSettings {
        words: 1.0,
        density: 1.0,
        gap_s: [0.4, 0.5],
        sound_probability: 0.0,
        bang_probability: 0.0,
        beginning: 0.0,
        ..settings()
    };
    let augment = Augment {
        room_probability: 0.0,
        gain_db: [0.0, 0.0],
        ..augment()
    };
    let mut whole = 0;
    for seed in 0..50 {
        let make = || {
            scene(
                &settings,
                &augment,
                &material,
                WINDOW,
                &mut generator(seed, &[]),
            )
        };
        let (samples, target) = make();
        assert_eq!(samples.len(), settings.samples());
        assert_eq!(target.heard.len(), settings.frames);
        let loud = |frame: usize| {
            let from = (frame * HOP_SAMPLES).min(samples.len());
            let part = &samples[from..(from + HOP_SAMPLES).min(samples.len())];
            part.iter().any(|s| s.abs() > 0.05)
        };
        for word in &target.words {
            // The word sounds from the beginning to just before the end of what is allowed, and nothing does around it.
            let [_, until] = settings.due_frames;
            let end = word.allowed.end - until.max((WINDOW + FADING_FRAMES) as isize) as usize;
            assert!(
                (word.allowed.start + 1..end).all(|t| t >= settings.frames || loud(t)),
                "seed {seed}: {word:?}"
            );
            assert!(!loud(end + 2), "seed {seed}: {word:?}");
            if word.due.is_empty() {
                continue;
            }
            whole += 1;
            assert_eq!(word.due.end, end.saturating_add_signed(until));
            assert!(word.due.start >= word.allowed.start && word.due.start < word.due.end);
            if end <= settings.frames {
                assert_eq!(target.heard[end - 1], Heard::Speech);
            }
        }
        assert!(samples == make().0, "seed {seed}");
    }
    assert!(whole > 80, "{whole}");
}

#[test]
fn a_bang_is_where_no_keyword_sounds() {
    let clips = [clip(4_000, 12_000)];
    let noise = vec![0f32; 100_000];
    let material = one_word(&clips, &noise);
    let of = |bang_probability: f32, seed: u64| {
        let settings = SceneSettings {
            words: 1.0,
            bang_probability,
            ..settings()
        };
        let mut rng = generator(seed, &[3]);
        scene(&settings, &augment(), &material, WINDOW, &mut rng)
    };
    let mut bangs = 0;
    for seed in 0..50 {
        // A bang is drawn last: the rest of the scene is the same.
        let ((with, target), (without, _)) = (of(1.0, seed), of(0.0, seed));
        let differ = |at: &usize| with[*at] != without[*at];
        let Some(first) = (0..with.len()).find(differ) else {
            continue;
        };
        let last = (0..with.len()).rfind(differ).unwrap();
        bangs += 1;
        assert!(
            ((last - first) as f32) < BANG_S[1] * 16_000.0,
            "seed {seed}"
        );
        let sounds = |at: usize| {
            let mut words = target.words.iter();
            words.any(|word| word.allowed.contains(&(at / HOP_SAMPLES)))
        };
        assert!(!(first..=last).any(sounds), "seed {seed}");
    }
    assert!(bangs > 5, "{bangs}");
}

#[test]
fn scenes_without_a_keyword_ask_for_none() {
    let clips = [clip(2_000, 14_000), clip(1_000, 9_000)];
    let running = [(vec![1_000i16; 50_000], 0.001f32)];
    let noise = vec![0.01f32; 100_000];
    let material = Material {
        clips: &clips,
        labels: &[0, 1],
        keywords: 1,
        words: vec![(vec![0], 1.0)],
        others: vec![1],
        running: &running,
        background: vec![&noise],
    };
    let settings = SceneSettings {
        words: 0.0,
        ..settings()
    };
    let (mut speaking, mut silent) = (0, 0);
    for seed in 0..200 {
        let mut rng = generator(seed, &[1]);
        let (samples, target) = scene(&settings, &augment(), &material, WINDOW, &mut rng);
        assert!(target.words.is_empty(), "seed {seed}: {:?}", target.words);
        assert!(samples.iter().all(|s| s.abs() <= 1.0));
        let speaks = target.heard.contains(&Heard::Speech);
        *(if speaks { &mut speaking } else { &mut silent }) += 1;
    }
    assert!(speaking > 120 && silent > 20, "{speaking} {silent}");
}

#[test]
fn keywords_are_drawn_by_their_shares() {
    let clips = [clip(4_000, 9_000), clip(4_000, 9_000), clip(4_000, 9_000)];
    let noise = vec![0.01f32; 100_000];
    let material = Material {
        clips: &clips,
        labels: &[0, 1, 1],
        keywords: 2,
        words: vec![(vec![0], 0.25), (vec![1, 2], 1.0)],
        others: Vec::new(),
        running: &[],
        background: vec![&noise],
    };
    let mut said = [0usize; 2];
    for seed in 0..400 {
        let mut rng = generator(seed, &[2]);
        let (_, target) = scene(&settings(), &augment(), &material, WINDOW, &mut rng);
        target.words.iter().for_each(|word| said[word.label] += 1);
    }
    let share = said[0] as f64 / (said[0] + said[1]) as f64;
    assert!((share - 0.25).abs() < 0.06, "{said:?}");
}
