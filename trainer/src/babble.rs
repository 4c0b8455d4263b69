//! Speech that says nothing, in the place of other words: whoever records three words of their own has no others to tell them from.
//!
//! Ten minutes of random syllables in the voices of `configs/synth.toml`, made by this project (`swr-train synth babble`). **Synthetic**: a network that has
//! heard no other real speech reports more of it than one that has, so that recordings of other words (`--extra`, or a folder `_unknown_`) are better.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use swr_core::audio::decode_16k_mono;
use swr_dataset::{Background, CLIP_SAMPLES, Clip, NO_SPEAKER, Source, Task, UNKNOWN};

const BABBLE: &[u8] = include_bytes!("../speech/babble.opus");
/// Training draws anew from so many times the clips that an epoch uses.
const POOL: usize = 16;

/// Adds babble to somebody's own words, and to a task that has no other words at all. Gives how many times more unknown training clips there then are than an epoch should
/// use, or none where that is as configured.
pub fn fill(task: &mut Task) -> Result<Option<usize>> {
    let label = task.unknown_label();
    let unknown = |clips: &[Clip]| clips.iter().filter(|clip| clip.label == label).count();
    if !task.own_words && unknown(&task.train) > 0 {
        return Ok(None);
    }
    let samples = decode_16k_mono(BABBLE).context("the built-in babble")?;
    let recording = Arc::new(Background {
        path: PathBuf::from("<babble>"),
        start_samples: 0,
        samples,
        split: None,
    });
    // TRAIN and DEV hear other voices and syllables.
    let border = recording.samples.len() / 5 * 4;
    let spans = [0..border, border..recording.samples.len()];
    let wanted = [&task.train, &task.dev].map(|clips| task.unknown_wanted(clips));
    let all = match unknown(&task.train) {
        // Recordings are better than babble, if there are enough to vary.
        there if there >= 2 * wanted[0].max(1) => [0, 0],
        _ => [POOL * wanted[0], wanted[1]],
    };
    for ((clips, span), all) in [&mut task.train, &mut task.dev]
        .into_iter()
        .zip(spans)
        .zip(all)
    {
        let added = all.saturating_sub(unknown(clips));
        let room = span.len() - CLIP_SAMPLES;
        clips.extend((0..added).map(|n| Clip {
            source: Source::Crop {
                recording: recording.clone(),
                start_samples: span.start + n * room / added,
                gain: 1.0,
            },
            label,
            word: UNKNOWN.to_owned(),
            speaker: NO_SPEAKER.to_owned(),
            synthetic: true,
        }));
    }
    Ok(Some((unknown(&task.train) / wanted[0].max(1)).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(keywords: usize, clips: usize, unknown: usize, own_words: bool) -> Task {
        let clip = |label: usize| Clip {
            source: Source::File("a.wav".into()),
            label,
            word: String::new(),
            speaker: "me".into(),
            synthetic: false,
        };
        let words = (0..keywords).flat_map(|label| (0..clips).map(move |_| label));
        let train = words
            .chain(std::iter::repeat_n(keywords, unknown))
            .map(clip);
        let names = (0..keywords).map(|n| format!("word {n}"));
        Task {
            language: "xx".into(),
            labels: names
                .chain(["_unknown_", "_silence_"].map(String::from))
                .collect(),
            train: train.collect(),
            dev: vec![clip(0)],
            test: Vec::new(),
            own_words,
            background: Vec::new(),
            negatives: Vec::new(),
            report: Default::default(),
        }
    }

    #[test]
    fn an_epoch_uses_twice_a_keyword_however_many_other_words_there_are() {
        for unknown in [0, 1, 13, 14, 27, 29, 100, 224, 1_000] {
            let mut task = task(2, 7, unknown, true);
            let pool = fill(&mut task).unwrap().expect("own words");
            let all = task.train.iter().filter(|clip| clip.label == 2).count();
            assert!((29..=1_000).contains(&all), "{unknown}: {all}");
            let used = all.div_ceil(pool);
            assert!((14..=15).contains(&used), "{unknown}: {used} of {all}");
        }
    }

    #[test]
    fn babble_of_training_is_not_that_of_development() {
        let mut task = task(2, 7, 0, true);
        fill(&mut task).unwrap();
        let ends = |clips: &[Clip]| -> Vec<usize> {
            let start = |clip: &Clip| match clip.source {
                Source::Crop { start_samples, .. } => Some(start_samples),
                Source::File(_) => None,
            };
            clips.iter().filter_map(start).collect()
        };
        let last = ends(&task.train).into_iter().max().expect("babble");
        let first = ends(&task.dev).into_iter().min().expect("babble");
        assert!(last + CLIP_SAMPLES <= first, "{last} {first}");
    }

    #[test]
    fn a_language_with_other_words_is_left_as_it_is() {
        let mut task = task(2, 30, 5, false);
        assert_eq!(fill(&mut task).unwrap(), None);
        assert_eq!(task.train.len(), 65);
    }
}
