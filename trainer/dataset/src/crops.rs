//! Clips that are cut out of longer recordings: silence of rooms, and seconds of running speech without the keywords. Nothing is written; a clip knows its recording.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use swr_core::labels::{SILENCE, UNKNOWN};

use crate::layout::{Found, NO_SPEAKER, RoleFile, Split, stable_hash};
use crate::load::{CLIP_SAMPLES, Faults, decode_file};
use crate::noise::Background;
use crate::task::{Clip, Report, Source};

/// Crops of the part of the recordings that belongs to the split: TEST has the last 20 % to itself.
pub(crate) fn silence(
    background: &[Arc<Background>],
    split: Split,
    language: &str,
    count: usize,
    label: usize,
    seed: u64,
) -> Vec<Clip> {
    let mut rng = ChaCha8Rng::seed_from_u64(stable_hash(&format!(
        "silence:{seed}:{language}:{}",
        split.name()
    )));
    let background: Vec<&Arc<Background>> = background
        .iter()
        .filter(|recording| recording.range(split).len() >= CLIP_SAMPLES)
        .collect();
    let crop = |_| {
        let recording = background[rng.random_range(0..background.len() as u64) as usize];
        let part = recording.range(split);
        let start_samples =
            rng.random_range(part.start as u64..=(part.end - CLIP_SAMPLES) as u64) as usize;
        let gain = rng.random_range(0.0f32..1.0);
        let source = Source::Crop {
            recording: recording.clone(),
            start_samples,
            gain,
        };
        Clip {
            source,
            label,
            word: SILENCE.to_owned(),
            speaker: NO_SPEAKER.to_owned(),
            synthetic: false,
        }
    };
    (0..count).map(crop).collect()
}

/// Seconds of running speech, evenly from all of the split's files: at most half as many as there are other unknown clips, or some where there are none.
pub(crate) fn running_speech(
    negatives: &[&RoleFile],
    split: Split,
    others: usize,
    label: usize,
    faults: &mut Faults,
) -> Vec<Clip> {
    let of_split = |file: &&&RoleFile| file.split == Some(split) && file.gives_clips;
    let mut recordings = Vec::new();
    for file in negatives.iter().filter(of_split) {
        let path = file.path.as_path();
        let samples = faults.decode(path).unwrap_or_default();
        recordings.push((path, samples));
    }
    let seconds = recordings
        .iter()
        .map(|(_, samples)| samples.len() / CLIP_SAMPLES);
    let all: usize = seconds.sum();
    let wanted = all.min(if others == 0 { all } else { others.div_ceil(2) });
    let mut place = 0;
    let mut clips = Vec::with_capacity(wanted);
    for (path, samples) in &recordings {
        for (second, samples) in samples.chunks_exact(CLIP_SAMPLES).enumerate() {
            // So many of all, as evenly as whole numbers can.
            if place * wanted / all != (place + 1) * wanted / all {
                let start_samples = second * CLIP_SAMPLES;
                // That second alone: hours of running speech would stay in memory for some hundred seconds of it.
                let recording = Background {
                    path: path.to_path_buf(),
                    start_samples,
                    samples: samples.to_vec(),
                    split: Some(split),
                };
                clips.push(Clip {
                    source: Source::Crop {
                        recording: Arc::new(recording),
                        start_samples,
                        gain: 1.0,
                    },
                    label,
                    word: UNKNOWN.to_owned(),
                    speaker: NO_SPEAKER.to_owned(),
                    synthetic: false,
                });
            }
            place += 1;
        }
    }
    clips
}

/// Running speech of a set that is shorter is too little to choose or to judge by.
const SHORT_S: usize = 15 * 60;

/// Running speech without the keywords, of each set the language's own, with its synthetic sentences. Where there is no recording of its own, or less than a
/// quarter of an hour, that of other languages joins it, which is told.
pub(crate) fn running_speech_of<'a>(
    found: &'a Found,
    language: &str,
    report: &mut Report,
) -> Vec<&'a RoleFile> {
    let mut files = Vec::new();
    for split in Split::ALL {
        let of_split = |file: &&RoleFile| file.split == Some(split);
        let own: Vec<&RoleFile> = found.negatives.iter().filter(of_split).collect();
        let sentences = found.sentences.iter().filter(of_split);
        let mut foreign = Vec::new();
        let mut codes = BTreeSet::new();
        for (code, of_language) in &found.foreign_negatives {
            let before = foreign.len();
            foreign.extend(of_language.iter().filter(of_split));
            if foreign.len() > before {
                codes.insert(code.as_str());
            }
        }
        let set = split.name();
        let before = files.len() + own.len();
        files.extend(own.iter().copied().chain(sentences));
        if files.len() > before {
            report.notes.push(format!(
                "synthetic sentences are running speech of `{language}` in {set}"
            ));
        }
        if foreign.is_empty() || !is_short(&own) {
            continue;
        }
        files.extend(foreign);
        let codes: Vec<&str> = codes.into_iter().collect();
        report.notes.push(format!(
            "{} recorded running speech of `{language}` in {set}: that of {} is taken for speech without its keywords",
            if own.is_empty() { "no" } else { "little" },
            codes.join(", ")
        ));
    }
    files
}

/// Whether recordings that can be read are together shorter than [`SHORT_S`]; reads no more of them than tell.
fn is_short(files: &[&RoleFile]) -> bool {
    let lengths = files
        .iter()
        .map(|file| decode_file(&file.path).map_or(0, |samples| samples.len()));
    let mut together = 0;
    !lengths.into_iter().any(|samples| {
        together += samples;
        together >= SHORT_S * CLIP_SAMPLES
    })
}
