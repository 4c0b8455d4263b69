//! Keywords set into sentences: running speech that holds none, with clips in its pauses. What a stream in noise does not ask: that a word be found while
//! somebody goes on speaking, and nothing but it.

use std::path::PathBuf;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use swr_core::matching::Spoken;

use crate::error::DatasetError;
use crate::load::{CLIP_SAMPLES, Faults};
use crate::stream::{
    ACTIVE_RANGE_DB, Audible, Deck, NO_KEYWORD, Stream, active_span, audible, fade, mean_power,
    ratio,
};
use crate::task::{Clip, Task};

/// How often a word is said, in samples of running speech before it: 2 to 5 s.
const BETWEEN_SAMPLES: (usize, usize) = (2 * CLIP_SAMPLES, 5 * CLIP_SAMPLES);
/// A pause is the quietest tenth of a second in the half second where a word is to be.
const PAUSE_SAMPLES: usize = CLIP_SAMPLES / 10;
const SEARCH_SAMPLES: usize = CLIP_SAMPLES / 2;
/// Of a clip, this much stays before and after its word.
const MARGIN_SAMPLES: usize = CLIP_SAMPLES / 20;
/// Word over speech, in dB: as loud, or nearly.
const LEVEL_DB: (f32, f32) = (-3.0, 3.0);
/// Recordings that are named where none can be heard.
const NAMED: usize = 3;
/// What is joined is faded over 10 ms.
const FADE_SAMPLES: usize = 160;

/// Running speech of the files `running`, in seeded order and over again if need be, with words of `clips` in its pauses; about `minutes` long.
///
/// A word takes the level of the speech around it, within 3 dB. What is detected at no word is a false accept, and the running speech should hold no
/// keyword. The same call gives the same samples.
///
/// # Errors
/// [`DatasetError::Stream`] when there is no keyword clip that speaks, or no running speech.
pub fn sentences(
    task: &Task,
    clips: &[Clip],
    running: &[PathBuf],
    minutes: f64,
    seed: u64,
) -> Result<Stream, DatasetError> {
    let mut faults = Faults::default();
    let keywords: Vec<Audible> = audible(task, clips, &mut faults)
        .into_iter()
        .filter(|clip| clip.label != task.unknown_label())
        .collect();
    let recordings: Vec<Vec<f32>> = running
        .iter()
        .filter_map(|path| faults.decode(path))
        .filter(|samples| active_span(samples, ACTIVE_RANGE_DB).is_some())
        .collect();
    if keywords.is_empty() {
        return Err(DatasetError::Stream(NO_KEYWORD.to_owned()));
    }
    if recordings.is_empty() {
        let named = running.iter().map(|path| path.display().to_string());
        let named: Vec<String> = named.take(NAMED).collect();
        return Err(DatasetError::Stream(format!(
            "{}{}: no running speech that can be read and heard",
            named.join(", "),
            if running.len() > NAMED { ", …" } else { "" }
        )));
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut words = Deck::new(keywords);
    let mut order: Vec<usize> = Vec::new();
    let mut stream = Stream {
        samples: Vec::new(),
        events: Vec::new(),
        unknown: Vec::new(),
        faults,
    };
    let wanted = (minutes * 60.0 * CLIP_SAMPLES as f64) as usize;
    while stream.samples.len() < wanted {
        if order.is_empty() {
            order = (0..recordings.len()).collect();
            order.shuffle(&mut rng);
        }
        let recording = &recordings[order.pop().unwrap_or(0)];
        let mut said = 0;
        loop {
            let next = said + rng.random_range(BETWEEN_SAMPLES.0..=BETWEEN_SAMPLES.1);
            if next + SEARCH_SAMPLES > recording.len() {
                append(&mut stream.samples, &recording[said..]);
                break;
            }
            let pause = quietest(&recording[next..next + SEARCH_SAMPLES]) + next;
            append(&mut stream.samples, &recording[said..pause]);
            say(
                &mut stream,
                words.draw(&mut rng),
                &recording[said..pause],
                &mut rng,
            );
            said = pause;
        }
    }
    Ok(stream)
}

/// The middle of the quietest tenth of a second.
fn quietest(samples: &[f32]) -> usize {
    let starts = (0..=samples.len() - PAUSE_SAMPLES).step_by(FADE_SAMPLES);
    let power = |start: &usize| mean_power(&samples[*start..*start + PAUSE_SAMPLES]);
    let start = starts.min_by(|a, b| power(a).total_cmp(&power(b)));
    start.unwrap_or(0) + PAUSE_SAMPLES / 2
}

/// Appends the word of a clip, as loud as `around` speaks.
fn say(stream: &mut Stream, word: &Audible, around: &[f32], rng: &mut ChaCha8Rng) {
    let (from, to) = word.span;
    let part = from.saturating_sub(MARGIN_SAMPLES)..(to + MARGIN_SAMPLES).min(word.samples.len());
    let speech = match active_span(around, ACTIVE_RANGE_DB) {
        Some((from, to)) => mean_power(&around[from..to]),
        None => word.power,
    };
    let level_db = rng.random_range(LEVEL_DB.0..=LEVEL_DB.1);
    let gain = (speech * ratio(level_db) / word.power).sqrt() as f32;
    let start = stream.samples.len();
    stream.events.push(Spoken {
        label: word.label,
        word: word.word.clone(),
        start_samples: start + from - part.start,
        end_samples: start + to - part.start,
    });
    let samples: Vec<f32> = word.samples[part]
        .iter()
        .map(|sample| (gain * sample).clamp(-1.0, 1.0))
        .collect();
    append(&mut stream.samples, &samples);
}

/// Appends with both ends faded.
fn append(samples: &mut Vec<f32>, part: &[f32]) {
    let faded = part
        .iter()
        .enumerate()
        .map(|(index, sample)| fade(index, part.len(), FADE_SAMPLES) * sample);
    samples.extend(faded);
}
