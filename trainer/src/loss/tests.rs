//! The loss: its gradient, what it asks, and what a teacher changes.

use candle_core::{Device, Var};
use rand::RngExt;

use super::*;
use crate::random::generator;

const CLASSES: usize = 5;
const FRAMES: usize = 90;
const WINDOW: usize = 12;
const SETTINGS: LossSettings = LossSettings {
    sharpness: 2.0,
    hard: 0.4,
    even: 0.3,
    kind: 0.2,
    teach: 1.5,
    rise: 0.0,
};

fn targets() -> Vec<Target> {
    let word = |label, from: usize, to: usize| Word {
        label,
        allowed: from..to + 20,
        // One frame, in which nothing is weighed against another.
        due: to..to + 1,
    };
    let heard = |t: usize| match t / 20 {
        0 | 3 => Heard::Rest,
        1 => Heard::Either,
        _ => Heard::Speech,
    };
    let heard: Vec<Heard> = (0..FRAMES).map(heard).collect();
    // One scene without words, one with two of them that overlap, of which the first is due before anything is judged; and one with a word said twice.
    [
        vec![],
        vec![word(1, 2, 12), word(0, 10, 50)],
        vec![word(2, 30, 45), word(2, 50, 70)],
    ]
    .map(|words| Target {
        first: 10,
        words,
        heard: heard.clone(),
    })
    .to_vec()
}

fn loss_of(logits: &Tensor, teacher: Option<&Tensor>) -> Tensor {
    let loss = stream_loss(logits, &targets(), WINDOW, SETTINGS, teacher);
    loss.unwrap().0
}

#[test]
fn the_gradient_is_that_of_the_loss() {
    let mut rng = generator(3, &[]);
    let mut drawn = || -> Vec<f32> {
        let count = 3 * CLASSES * FRAMES;
        (0..count).map(|_| rng.random_range(-2.0..2.0)).collect()
    };
    let (values, taught) = (drawn(), drawn());
    let taught = Tensor::from_vec(taught, (3, CLASSES, FRAMES), &Device::Cpu).unwrap();
    for teacher in [None, Some(&taught)] {
        check_gradient(&values, teacher);
    }
}

fn check_gradient(values: &[f32], teacher: Option<&Tensor>) {
    let mut rng = generator(4, &[]);
    let count = values.len();
    let shape = (3, CLASSES, FRAMES);
    let logits = Var::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap();
    let gradients = loss_of(&logits, teacher).backward().unwrap();
    let gradient: Vec<f32> = gradients
        .get(&logits)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    // Along directions in which the best frames stay the best.
    for _ in 0..8 {
        let direction: Vec<f32> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
        let at = |step: f32| -> f64 {
            let moved: Vec<f32> = values
                .iter()
                .zip(&direction)
                .map(|(v, d)| v + step * d)
                .collect();
            let moved = Tensor::from_vec(moved, shape, &Device::Cpu).unwrap();
            f64::from(loss_of(&moved, teacher).to_scalar::<f32>().unwrap())
        };
        let step = 3e-3f32;
        let found = (at(step) - at(-step)) / f64::from(2.0 * step);
        let expected: f64 = gradient
            .iter()
            .zip(&direction)
            .map(|(g, d)| f64::from(g * d))
            .sum();
        assert!(
            (found - expected).abs() < 0.01 * expected.abs().max(0.1),
            "{found} {expected}"
        );
    }
}

/// Logits in which one class stands out in each frame.
fn standing_out(class: impl Fn(usize) -> usize) -> Tensor {
    let mut values = vec![0f32; CLASSES * FRAMES];
    for t in 0..FRAMES {
        values[class(t) * FRAMES + t] = 20.0;
    }
    Tensor::from_vec(values, (1, CLASSES, FRAMES), &Device::Cpu).unwrap()
}

#[test]
fn what_is_asked_costs_little_and_everything_else_much() {
    let target = |words| Target {
        first: 10,
        words,
        heard: vec![Heard::Speech; FRAMES],
    };
    let word = Word {
        label: 1,
        allowed: 30..70,
        due: 45..65,
    };
    let loss = |logits: &Tensor, target: Target| {
        let (loss, score) = stream_loss(logits, &[target], WINDOW, SETTINGS, None).unwrap();
        (loss.to_scalar::<f32>().unwrap(), score)
    };
    let (speech, said) = (
        standing_out(|_| 3),
        standing_out(|t| if (40..58).contains(&t) { 1 } else { 3 }),
    );
    // Nothing said, and nothing reported; the word said, and reported.
    assert!(loss(&speech, target(vec![])).0 < 0.01);
    let (found, score) = loss(&said, target(vec![word.clone()]));
    assert!(
        found < 0.1 && score == Score { known: 1, words: 1 },
        "{found}"
    );
    // A false accept; a word missed; a word in place of another.
    assert!(loss(&said, target(vec![])).0 > 1.0);
    let (missed, score) = loss(&speech, target(vec![word.clone()]));
    assert!(missed > 10.0 && score.known == 0);
    let other = standing_out(|t| if (40..58).contains(&t) { 0 } else { 3 });
    assert!(loss(&other, target(vec![word])).0 > 10.0);
}

#[test]
fn a_teacher_is_followed() {
    let target = Target {
        first: 10,
        words: vec![],
        heard: vec![Heard::Either; FRAMES],
    };
    let none = LossSettings {
        hard: 0.0,
        even: 0.0,
        kind: 0.0,
        ..SETTINGS
    };
    let loss = |logits: &Tensor, teacher: &Tensor| {
        let targets = [target.clone()];
        let loss = stream_loss(logits, &targets, WINDOW, none, Some(teacher));
        loss.unwrap().0.to_scalar::<f32>().unwrap()
    };
    let teacher = standing_out(|t| t / 30);
    assert!(loss(&teacher, &teacher) < 0.1 * loss(&standing_out(|t| 2 - t / 30), &teacher));
    let other = Tensor::zeros(
        (1, CLASSES + 1, FRAMES),
        candle_core::DType::F32,
        &Device::Cpu,
    );
    let refused = stream_loss(
        &teacher,
        std::slice::from_ref(&target),
        WINDOW,
        none,
        Some(&other.unwrap()),
    );
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("a teacher's logits of shape")
    );
}

#[test]
fn weights_rise_to_what_they_are() {
    let settings = LossSettings {
        rise: 0.5,
        ..SETTINGS
    };
    assert!((settings.at(0.0).hard - LEAST_SHARE * 0.4).abs() < 1e-6);
    assert_eq!(settings.at(0.5), settings);
    assert_eq!(settings.at(1.0), settings);
    assert_eq!(SETTINGS.at(0.0), SETTINGS);
    assert_eq!(settings.at(0.0).kind, settings.kind);
}
