//! Test streams and what was detected in them: clips and background recordings in, minutes of audio with the spans of the spoken words out; and the
//! matching of detections to these spans. Everything is seeded; the same call gives the same samples.

use std::sync::Arc;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use swr_core::matching::Spoken;

use crate::error::DatasetError;
use crate::layout::Split;
use crate::load::{CLIP_SAMPLES, Faults, load_readable};
use crate::noise::Background;
use crate::task::{Clip, Task};

/// What is wrong with clips that no stream can be made of.
pub(crate) const NO_KEYWORD: &str =
    "no keyword clip with audible speech; give it the clips of a split that has some";

/// How a stream is put together.
#[derive(Debug, Clone, Copy)]
pub struct StreamOptions {
    /// Length in minutes. Default: 10.
    pub minutes: f64,
    /// Lowest and highest ratio of speech power to noise power, in dB, uniformly drawn for each clip. Default: 10 to 20.
    pub snr_db: (f32, f32),
    /// Shortest and longest noise between two clips, in seconds, uniformly drawn. Default: 2 to 4.
    pub gap_s: (f32, f32),
    /// Share of the clips that are unknown words: spoken, but no event. Default: 0.2.
    pub unknown_share: f64,
    /// Seed of every draw. Default: 0.
    pub seed: u64,
}

impl Default for StreamOptions {
    fn default() -> Self {
        StreamOptions {
            minutes: 10.0,
            snr_db: (10.0, 20.0),
            gap_s: (2.0, 4.0),
            unknown_share: 0.2,
            seed: 0,
        }
    }
}

/// Minutes of audio with known content.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// 16 kHz mono, [-1, 1].
    pub samples: Vec<f32>,
    /// The keywords, in order of time.
    pub events: Vec<Spoken>,
    /// Unknown words, in order of time: whatever is detected there is a false alarm.
    pub unknown: Vec<Spoken>,
    /// Clips that could not be loaded, and are not in it.
    pub faults: Faults,
}

impl Stream {
    /// Length in hours.
    pub fn hours(&self) -> f64 {
        self.samples.len() as f64 / CLIP_SAMPLES as f64 / 3600.0
    }
}

/// A stream of the clips given, mostly `task.test`, in the last 20 % of the task's background recordings.
///
/// Noise runs without a pause at one mean power; its recording changes every 20 s with a fade of 50 ms. Every clip is scaled to its signal-to-noise
/// ratio: **mean power of the clip's active span** (see [`active_span`]) **over the mean power of the noise** of the whole scene of 20 s. The noise
/// lies so low that a clip of median power keeps its level at the middle of the ratio's range. Clips are drawn without repetition until none is left.
/// What exceeds full scale is clipped.
///
/// Errors: no keyword clip that can be loaded, options out of range.
pub fn stream(
    task: &Task,
    clips: &[Clip],
    options: &StreamOptions,
) -> Result<Stream, DatasetError> {
    check(options)?;
    let mut faults = Faults::default();
    let (keywords, unknown): (Vec<_>, Vec<_>) = audible(task, clips, &mut faults)
        .into_iter()
        .partition(|clip| clip.label != task.unknown_label());
    let mut powers: Vec<f64> = keywords.iter().map(|clip| clip.power).collect();
    powers.sort_by(f64::total_cmp);
    let Some(median_power) = powers.get(powers.len() / 2).copied() else {
        return Err(DatasetError::Stream(NO_KEYWORD.to_owned()));
    };
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let noise_power = median_power / ratio(0.5 * (options.snr_db.0 + options.snr_db.1));
    let total_samples = (options.minutes * 60.0 * CLIP_SAMPLES as f64) as usize;
    let samples = noise(&task.background, total_samples, noise_power, &mut rng);
    let mut result = Stream {
        samples,
        events: Vec::new(),
        unknown: Vec::new(),
        faults,
    };
    let (mut keywords, mut unknown) = (Deck::new(keywords), Deck::new(unknown));
    let gap = |rng: &mut ChaCha8Rng| {
        (rng.random_range(options.gap_s.0..=options.gap_s.1) * CLIP_SAMPLES as f32) as usize
    };
    let mut at = gap(&mut rng);
    while at + CLIP_SAMPLES <= total_samples {
        let is_unknown = !unknown.cards.is_empty() && rng.random_bool(options.unknown_share);
        let clip = if is_unknown {
            unknown.draw(&mut rng)
        } else {
            keywords.draw(&mut rng)
        };
        let snr_db = rng.random_range(options.snr_db.0..=options.snr_db.1);
        let gain = (noise_power * ratio(snr_db) / clip.power).sqrt() as f32;
        for (index, (sample, speech)) in result.samples[at..]
            .iter_mut()
            .zip(&clip.samples)
            .enumerate()
        {
            *sample += gain * fade(index, CLIP_SAMPLES, FADE_SAMPLES) * speech;
        }
        let event = Spoken {
            label: clip.label,
            word: clip.word.clone(),
            start_samples: at + clip.span.0,
            end_samples: at + clip.span.1,
        };
        if is_unknown {
            result.unknown.push(event)
        } else {
            result.events.push(event)
        }
        at += CLIP_SAMPLES + gap(&mut rng);
    }
    result
        .samples
        .iter_mut()
        .for_each(|sample| *sample = sample.clamp(-1.0, 1.0));
    Ok(result)
}

/// What belongs to a word, below its loudest 10 ms.
pub(crate) const ACTIVE_RANGE_DB: f32 = 30.0;
/// A clip's edges are faded over 10 ms, so that its own noise does not begin with a click.
const FADE_SAMPLES: usize = 160;
const SCENE_SAMPLES: usize = 20 * CLIP_SAMPLES;
const SCENE_FADE_SAMPLES: usize = 800;

fn check(options: &StreamOptions) -> Result<(), DatasetError> {
    let ordered = |(low, high): (f32, f32)| low.is_finite() && high.is_finite() && low <= high;
    let problem = if !(options.minutes > 0.0 && options.minutes <= 24.0 * 60.0) {
        format!(
            "{} minutes; expected more than 0 and at most 1440",
            options.minutes
        )
    } else if !ordered(options.snr_db) {
        format!(
            "SNR from {} to {} dB; expected a low and a high value",
            options.snr_db.0, options.snr_db.1
        )
    } else if !ordered(options.gap_s) || options.gap_s.0 < 0.0 || options.gap_s.1 > 3600.0 {
        format!(
            "gaps from {} to {} s; expected 0 to 3600, the lower first",
            options.gap_s.0, options.gap_s.1
        )
    } else if !(0.0..=1.0).contains(&options.unknown_share) {
        format!(
            "a share of {} unknown words; expected 0 to 1",
            options.unknown_share
        )
    } else {
        return Ok(());
    };
    Err(DatasetError::Stream(problem))
}

/// A loaded clip with where and how loud it speaks.
pub(crate) struct Audible {
    pub(crate) label: usize,
    pub(crate) word: String,
    pub(crate) samples: Vec<f32>,
    pub(crate) span: (usize, usize),
    pub(crate) power: f64,
}

/// The clips that speak, loaded: no silence crops and no files of digital silence.
pub(crate) fn audible(task: &Task, clips: &[Clip], faults: &mut Faults) -> Vec<Audible> {
    let mut clips: Vec<Clip> = clips
        .iter()
        .filter(|clip| clip.label <= task.unknown_label())
        .cloned()
        .collect();
    let loaded = load_readable(&mut clips, faults, |_| ());
    let spoken = clips.into_iter().zip(loaded).filter_map(|(clip, samples)| {
        let span = active_span(&samples, ACTIVE_RANGE_DB)?;
        let power = mean_power(&samples[span.0..span.1]);
        Some(Audible {
            label: clip.label,
            word: clip.word,
            samples,
            span,
            power,
        })
    });
    spoken.collect()
}

/// Draws without repetition, then shuffles anew.
pub(crate) struct Deck {
    cards: Vec<Audible>,
    order: Vec<usize>,
}

impl Deck {
    pub(crate) fn new(cards: Vec<Audible>) -> Self {
        Deck {
            cards,
            order: Vec::new(),
        }
    }

    pub(crate) fn draw(&mut self, rng: &mut ChaCha8Rng) -> &Audible {
        if self.order.is_empty() {
            self.order = (0..self.cards.len()).collect();
            self.order.shuffle(rng);
        }
        let card = self.order.pop().unwrap_or(0);
        &self.cards[card]
    }
}

/// Continuous noise of mean power `power` from the last parts of the recordings, looped where they are shorter than a scene.
fn noise(
    background: &[Arc<Background>],
    total_samples: usize,
    power: f64,
    rng: &mut ChaCha8Rng,
) -> Vec<f32> {
    let mut samples = vec![0.0; total_samples];
    let parts: Vec<&[f32]> = background
        .iter()
        .map(|recording| recording.part(Split::Test))
        .filter(|part| !part.is_empty())
        .collect();
    for start in (0..total_samples).step_by(SCENE_SAMPLES) {
        let part = parts[rng.random_range(0..parts.len() as u64) as usize];
        let offset = rng.random_range(0..part.len() as u64) as usize;
        let looped: Vec<f32> = part
            .iter()
            .cycle()
            .skip(offset)
            .take(SCENE_SAMPLES)
            .copied()
            .collect();
        let scale = (power / mean_power(&looped).max(f64::MIN_POSITIVE)).sqrt() as f32;
        for (index, (sample, noise)) in samples[start..].iter_mut().zip(&looped).enumerate() {
            *sample = scale * fade(index, SCENE_SAMPLES, SCENE_FADE_SAMPLES) * noise;
        }
    }
    samples
}

/// Factor that rises over the first `fade_samples` of `length` and falls over the last.
pub(crate) fn fade(index: usize, length: usize, fade_samples: usize) -> f32 {
    let to_edge = (index + 1).min(length - index) as f32;
    (to_edge / fade_samples as f32).min(1.0)
}

/// Where something is spoken: the span [start, end) in samples from the first to the last frame of 10 ms whose power is at most `range_db` below that
/// of the loudest. Nothing for digital silence. Streams use 30 dB.
pub fn active_span(samples: &[f32], range_db: f32) -> Option<(usize, usize)> {
    const FRAME_SAMPLES: usize = 160;
    let powers: Vec<f64> = samples.chunks(FRAME_SAMPLES).map(mean_power).collect();
    let loudest = powers.iter().copied().fold(0.0, f64::max);
    let is_active = |power: &f64| loudest > 0.0 && *power * ratio(range_db) >= loudest;
    let first = powers.iter().position(is_active)?;
    let last = powers.iter().rposition(is_active)?;
    Some((
        first * FRAME_SAMPLES,
        ((last + 1) * FRAME_SAMPLES).min(samples.len()),
    ))
}

pub(crate) fn mean_power(samples: &[f32]) -> f64 {
    samples
        .iter()
        .map(|sample| f64::from(*sample).powi(2))
        .sum::<f64>()
        / samples.len().max(1) as f64
}

pub(crate) fn ratio(decibels: f32) -> f64 {
    10f64.powf(f64::from(decibels) / 10.0)
}
