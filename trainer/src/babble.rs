//! Speech that says nothing, in the place of other words: whoever records three words of their own has no others to tell them from.
//!
//! Ten minutes of random syllables in the voices of `configs/synth.toml`, made by this project (`swr-train synth babble`). **Synthetic**: a network that has
//! heard no other real speech reports more of it than one that has, so that recordings of other words (`--extra`, or a folder `_unknown_`) are better.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use swr_core::audio::decode_16k_mono;
use swr_dataset::{Background, CLIP_SAMPLES, Clip, Source, Task, UNKNOWN};

const BABBLE: &[u8] = include_bytes!("../speech/babble.opus");
/// Training draws anew from so many times the clips that an epoch uses.
const POOL: usize = 16;

/// Adds babble to a task with fewer unknown training clips than twice those of a keyword. Gives the number of times that the unknown training clips are more
/// than an epoch should use, or none if nothing was added.
pub fn fill(task: &mut Task) -> Result<Option<usize>> {
    let keywords = task.unknown_label();
    let count = |clips: &[Clip], unknown: bool| {
        clips
            .iter()
            .filter(|clip| match unknown {
                true => clip.label == keywords,
                false => clip.label < keywords,
            })
            .count()
    };
    let wanted = |clips: &[Clip]| (2 * count(clips, false)).div_ceil(keywords.max(1));
    if count(&task.train, true) >= wanted(&task.train) {
        return Ok(None);
    }
    let samples = decode_16k_mono(BABBLE).context("the built-in babble")?;
    let recording = Arc::new(Background {
        path: PathBuf::from("<babble>"),
        samples,
    });
    let tenth = recording.samples.len() / 10;
    let spans = [0..8 * tenth, 8 * tenth..9 * tenth, 9 * tenth..10 * tenth];
    let mut pool = 1;
    for (clips, span) in [&mut task.train, &mut task.dev, &mut task.test]
        .into_iter()
        .zip(spans)
    {
        let (wanted, there) = (wanted(clips), count(clips, true));
        let all = if span.start == 0 {
            POOL * wanted
        } else {
            wanted
        };
        let added = all.saturating_sub(there);
        if span.start == 0 {
            pool = (there + added).div_ceil(wanted.max(1));
        }
        let room = span.len() - CLIP_SAMPLES;
        clips.extend((0..added).map(|n| Clip {
            source: Source::Crop {
                recording: recording.clone(),
                start_samples: span.start + n * room / added.max(1),
                gain: 1.0,
            },
            label: keywords,
            word: UNKNOWN.to_owned(),
            speaker: "NA".to_owned(),
            synthetic: true,
        }));
    }
    Ok(Some(pool))
}
