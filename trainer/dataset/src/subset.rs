//! Parts of a task, to develop on without its TEST clips and to see what fewer clips would do; and several tasks as one.

use std::collections::{BTreeMap, HashSet};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::layout::stable_hash;
use crate::task::{Clip, Source, Task};

impl Task {
    /// Fold `index` of `folds`: the keyword clips of TRAIN and DEV divided by speaker anew, one part of the speakers being DEV. Speakers take turns
    /// in the order of a stable hash of their names. Unknown and silence clips stay where they are, so that their words stay apart; TEST is left out.
    ///
    /// # Panics
    /// If `index` is not below `folds`.
    pub fn speaker_fold(&self, index: usize, folds: usize) -> Task {
        assert!(index < folds, "fold {index} of {folds}");
        let keywords = self.unknown_label();
        let spoken = |clip: &&Clip| clip.label < keywords;
        let mut speakers: Vec<&str> = self
            .train
            .iter()
            .chain(&self.dev)
            .filter(spoken)
            .map(|clip| clip.speaker.as_str())
            .collect();
        speakers.sort_by_key(|speaker| (stable_hash(speaker), *speaker));
        speakers.dedup();
        let fold_of: BTreeMap<&str, usize> = speakers
            .iter()
            .enumerate()
            .map(|(i, speaker)| (*speaker, i % folds))
            .collect();
        let (mut train, mut dev) = (Vec::new(), Vec::new());
        for (clips, own) in [(&self.train, 0), (&self.dev, 1)] {
            for clip in clips {
                let judged = match fold_of.get(clip.speaker.as_str()) {
                    Some(fold) if clip.label < keywords => *fold == index,
                    _ => own == 1,
                };
                if judged {
                    dev.push(clip.clone())
                } else {
                    train.push(clip.clone())
                }
            }
        }
        train.sort_by_key(|clip| clip.label);
        dev.sort_by_key(|clip| clip.label);
        Task {
            train,
            dev,
            test: Vec::new(),
            ..self.clone()
        }
    }

    /// At most `clips` TRAIN clips a keyword, drawn by `seed`, and of unknown and silence as many less. DEV and TEST stay.
    pub fn few(&self, clips: usize, seed: u64) -> Task {
        let keywords = self.unknown_label();
        let spoken = self
            .train
            .iter()
            .filter(|clip| clip.label < keywords)
            .count();
        let mut by_label: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (place, clip) in self.train.iter().enumerate() {
            by_label.entry(clip.label).or_default().push(place);
        }
        let kept: usize = by_label
            .range(..keywords)
            .map(|(_, all)| all.len().min(clips))
            .sum();
        let mut places = Vec::new();
        for (label, mut all) in by_label {
            let mut rng = ChaCha8Rng::seed_from_u64(stable_hash(&format!("{seed} {label}")));
            all.shuffle(&mut rng);
            let most = if label < keywords {
                clips
            } else {
                (all.len() * kept).div_ceil(spoken.max(1))
            };
            all.truncate(most);
            places.extend(all);
        }
        places.sort_unstable();
        let train = places
            .into_iter()
            .map(|place| self.train[place].clone())
            .collect();
        Task {
            train,
            ..self.clone()
        }
    }

    /// One task of several languages: the keywords of each as `language:word`, then unknown and silence, which they share. A keyword of one language
    /// that another has among its unknown words is a keyword.
    ///
    /// # Panics
    /// Without tasks.
    pub fn union(tasks: &[Task]) -> Task {
        let first = tasks.first().expect("at least one task");
        let mut union = Task {
            language: "mul".into(),
            labels: Vec::new(),
            train: Vec::new(),
            dev: Vec::new(),
            test: Vec::new(),
            ..first.clone()
        };
        for task in tasks {
            let words = &task.labels[..task.unknown_label()];
            let named = words.iter().map(|word| format!("{}:{word}", task.language));
            union.labels.extend(named);
        }
        let unknown = union.labels.len();
        let mut keywords = HashSet::new();
        for task in tasks {
            for clip in task.train.iter().chain(&task.dev).chain(&task.test) {
                if let (true, Source::File(path)) =
                    (clip.label < task.unknown_label(), &clip.source)
                {
                    keywords.insert(path.clone());
                }
            }
        }
        let apart = |task: &Task, clip: &Clip| {
            clip.label < task.unknown_label()
                || !matches!(&clip.source, Source::File(path) if keywords.contains(path))
        };
        let mut before = 0;
        for task in tasks {
            let moved = |clips: &[Clip]| -> Vec<Clip> {
                let label = |label: usize| match label.checked_sub(task.unknown_label()) {
                    Some(special) => unknown + special,
                    None => before + label,
                };
                clips
                    .iter()
                    .filter(|clip| apart(task, clip))
                    .map(|clip| Clip {
                        label: label(clip.label),
                        ..clip.clone()
                    })
                    .collect()
            };
            union.train.extend(moved(&task.train));
            union.dev.extend(moved(&task.dev));
            union.test.extend(moved(&task.test));
            before += task.unknown_label();
        }
        union
            .labels
            .extend(first.labels[first.unknown_label()..].iter().cloned());
        for clips in [&mut union.train, &mut union.dev, &mut union.test] {
            clips.sort_by_key(|clip| clip.label);
        }
        union
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::NO_SPEAKER;
    use crate::task::{Report, SILENCE, UNKNOWN};
    use std::collections::BTreeSet;

    /// Keywords `a` and `b` by speakers `s0` to `s9` in TRAIN and `s10`, `s11` in DEV, and clips of neither.
    fn task(language: &str) -> Task {
        let clip = |label: usize, speaker: String| Clip {
            source: Source::File(format!("{language}/{label}/{speaker}").into()),
            label,
            word: label.to_string(),
            speaker,
            synthetic: false,
        };
        let said = |speakers: std::ops::Range<usize>| {
            let mut clips = Vec::new();
            for label in 0..2 {
                clips.extend(speakers.clone().map(|s| clip(label, format!("s{s}"))));
            }
            clips.extend((0..6).map(|s| clip(2, format!("u{s}{}", speakers.start))));
            clips.extend((0..4).map(|_| clip(3, NO_SPEAKER.into())));
            clips
        };
        Task {
            language: language.into(),
            labels: ["a", "b", UNKNOWN, SILENCE].map(String::from).into(),
            train: said(0..10),
            dev: said(10..12),
            test: said(12..14),
            background: Vec::new(),
            negatives: Vec::new(),
            own_words: false,
            report: Report::default(),
        }
    }

    fn speakers(clips: &[Clip]) -> BTreeSet<&str> {
        let words = clips.iter().filter(|clip| clip.label < 2);
        words.map(|clip| clip.speaker.as_str()).collect()
    }

    #[test]
    fn folds_divide_the_speakers_and_never_hold_test_clips() {
        let whole = task("xx");
        let mut judged = BTreeSet::new();
        for index in 0..4 {
            let fold = whole.speaker_fold(index, 4);
            assert!(fold.test.is_empty());
            assert!(speakers(&fold.train).is_disjoint(&speakers(&fold.dev)));
            assert_eq!(
                fold.train.len() + fold.dev.len(),
                whole.train.len() + whole.dev.len()
            );
            let unknown = |clips: &[Clip]| {
                clips
                    .iter()
                    .filter(|clip| clip.label == 2)
                    .cloned()
                    .collect::<Vec<_>>()
            };
            assert_eq!(unknown(&fold.train), unknown(&whole.train));
            for speaker in speakers(&fold.dev) {
                assert!(
                    judged.insert(speaker.to_string()),
                    "{speaker} is judged twice"
                );
            }
        }
        assert_eq!(judged.len(), 12);
        assert!(!judged.contains("s12"), "a speaker of TEST");
    }

    #[test]
    fn few_clips_are_few_of_every_word_and_others_in_proportion() {
        let few = task("xx").few(5, 1);
        let count = |label| few.train.iter().filter(|clip| clip.label == label).count();
        assert_eq!((count(0), count(1), count(2), count(3)), (5, 5, 3, 2));
        assert_eq!(few.train, task("xx").few(5, 1).train);
        assert_ne!(few.train, task("xx").few(5, 2).train);
        assert_eq!(task("xx").few(100, 1).train, task("xx").train);
        assert_eq!(few.test, task("xx").test);
    }

    #[test]
    fn a_union_keeps_words_of_the_same_spelling_apart() {
        let union = Task::union(&[task("xx"), task("yy")]);
        assert_eq!(
            union.labels,
            ["xx:a", "xx:b", "yy:a", "yy:b", UNKNOWN, SILENCE]
        );
        let count = |label| {
            union
                .train
                .iter()
                .filter(|clip| clip.label == label)
                .count()
        };
        assert_eq!([0, 1, 2, 3, 4, 5].map(count), [10, 10, 10, 10, 12, 8]);
        let of_yy = union.train.iter().filter(|clip| clip.label == 2);
        assert!(
            of_yy
                .clone()
                .all(|clip| matches!(&clip.source, Source::File(path) if path.starts_with("yy/0")))
        );
    }

    #[test]
    fn a_keyword_of_one_language_is_no_unknown_word_of_the_union() {
        let (first, mut second) = (task("xx"), task("yy"));
        let keyword = &first.train[0];
        second.train.push(Clip {
            label: second.unknown_label(),
            ..keyword.clone()
        });
        let union = Task::union(&[first.clone(), second.clone()]);
        let of_it = union
            .train
            .iter()
            .filter(|clip| clip.source == keyword.source);
        let labels: Vec<usize> = of_it.map(|clip| clip.label).collect();
        assert_eq!(labels, [0]);
        let all = first.train.len() + second.train.len() - 1;
        assert_eq!(union.train.len(), all);
    }
}
