//! How the recordings of a plain folder are divided where the hash of their speakers leaves a set without any: entries in, the same with other splits out.

use std::collections::BTreeMap;

use swr_core::labels::UNKNOWN;

use crate::layout::{Entry, Split, stable_hash};
use crate::unknown::OWN_WORD_CLIPS;

/// Gives speakers to the sets that have none, those with the fewest recordings first; false if there are too few, or too few could be given without taking a word from TRAIN.
pub(crate) fn divide_speakers(entries: &mut [Entry]) -> bool {
    let words = || entries.iter().filter(|entry| entry.word != UNKNOWN);
    let mut clips: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
    let mut splits: BTreeMap<&str, Split> = BTreeMap::new();
    for entry in words() {
        let of_speaker = clips.entry(&entry.speaker).or_default();
        *of_speaker.entry(&entry.word).or_default() += 1;
        splits.insert(&entry.speaker, entry.split);
    }
    let has =
        |splits: &BTreeMap<&str, Split>, wanted| splits.values().any(|split| *split == wanted);
    if splits.len() < Split::ALL.len() {
        return [Split::Train, Split::Dev]
            .iter()
            .all(|split| has(&splits, *split));
    }
    let mut order: Vec<&str> = splits.keys().copied().collect();
    order.sort_by_key(|speaker| {
        let all: usize = clips[speaker].values().sum();
        (all, stable_hash(&format!("speaker:{speaker}")))
    });
    // Every word keeps what makes it a keyword, or what it has.
    let mut train: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in words().filter(|entry| entry.split == Split::Train) {
        *train.entry(&entry.word).or_default() += 1;
    }
    let may_leave = |speaker: &str, train: &BTreeMap<&str, usize>| {
        let of_speaker = clips[speaker].iter();
        of_speaker.clone().all(|(word, count)| {
            let left = train.get(word).copied().unwrap_or(0).saturating_sub(*count);
            left >= OWN_WORD_CLIPS
        })
    };
    // About a tenth, as by the hash, from the set that has most.
    let share = (order.len() / 10).max(1);
    for empty in Split::ALL {
        if has(&splits, empty) {
            continue;
        }
        let count = |wanted| splits.values().filter(|split| **split == wanted).count();
        let (most, from) = Split::ALL
            .map(|split| (count(split), split))
            .into_iter()
            .max()
            .unwrap_or((0, empty));
        let mut given = 0;
        for speaker in &order {
            if given == share.min(most - 1) {
                break;
            }
            if splits[speaker] != from || (from == Split::Train && !may_leave(speaker, &train)) {
                continue;
            }
            if from == Split::Train {
                for (word, count) in &clips[speaker] {
                    *train.entry(word).or_default() -= count;
                }
            }
            splits.insert(speaker, empty);
            given += 1;
        }
    }
    let splits: BTreeMap<String, Split> = splits
        .into_iter()
        .map(|(speaker, split)| (speaker.to_owned(), split))
        .collect();
    let divided = [Split::Train, Split::Dev]
        .iter()
        .all(|split| splits.values().any(|found| found == split));
    for entry in entries {
        if let Some(split) = splits.get(&entry.speaker) {
            entry.split = *split;
        }
    }
    divided
}

/// Of every word, one recording in five goes to DEV and one in ten to TEST, in an order that is random but the same everywhere.
pub(crate) fn divide_recordings(entries: &mut [Entry]) {
    let mut of_word: BTreeMap<String, Vec<&mut Entry>> = BTreeMap::new();
    for entry in entries {
        of_word.entry(entry.word.clone()).or_default().push(entry);
    }
    for recordings in of_word.values_mut() {
        recordings.sort_by_key(|entry| stable_hash(&format!("recording:{}", entry.key)));
        let (dev, test) = (recordings.len() / 5, recordings.len() / 10);
        for (place, entry) in recordings.iter_mut().enumerate() {
            entry.split = match place {
                place if place < dev => Split::Dev,
                place if place < dev + test => Split::Test,
                _ => Split::Train,
            };
        }
    }
}
