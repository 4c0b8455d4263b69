//! Which words of a language are frequent enough to be keywords, and what other speech there is for `_unknown_`: corpora in, choices of entries out.
//! The rules are told in the description of the task module.

use std::collections::{BTreeMap, BTreeSet};

use swr_core::labels::UNKNOWN;

use crate::layout::{Corpus, Entry, Split, by_share, nfc, stable_hash};

/// TRAIN clips of each word.
pub(crate) fn train_counts<'a>(
    corpora: impl Iterator<Item = &'a Corpus>,
) -> BTreeMap<&'a str, usize> {
    let mut counts = BTreeMap::new();
    for entry in corpora
        .flat_map(|corpus| &corpus.entries)
        .filter(|entry| entry.split == Split::Train)
    {
        *counts.entry(entry.word.as_str()).or_default() += 1;
    }
    counts
}

/// Recorded words with enough TRAIN clips. Where they are not two, which makes no task, all words of the synthetic data, if there is any.
pub(crate) fn keywords_by_count<'a>(
    corpora: &'a [Corpus],
    language: &str,
    min_train_clips: usize,
) -> BTreeSet<&'a str> {
    let recorded = recorded_keywords(corpora, language, min_train_clips);
    let synthetic = corpora
        .iter()
        .filter(|corpus| corpus.language == language && corpus.synthetic);
    let synthetic: BTreeSet<&str> = synthetic
        .flat_map(|corpus| &corpus.entries)
        .map(|entry| entry.word.as_str())
        .collect();
    if recorded.len() >= 2 || synthetic.is_empty() {
        recorded
    } else {
        synthetic
    }
}

/// TRAIN clips that make a word of a plain folder a keyword: who gives it a folder wants it, and the fifth of five recordings is for DEV.
pub(crate) const OWN_WORD_CLIPS: usize = 3;

fn recorded_keywords<'a>(
    corpora: &'a [Corpus],
    language: &str,
    min_train_clips: usize,
) -> BTreeSet<&'a str> {
    let recorded = |own_only: bool| {
        let of_language = move |corpus: &&Corpus| {
            let counts = !corpus.synthetic && !corpus.adds_only;
            corpus.language == language && counts && (corpus.own_words || !own_only)
        };
        train_counts(corpora.iter().filter(of_language)).into_iter()
    };
    let own = recorded(true).filter(|(_, count)| *count >= OWN_WORD_CLIPS.min(min_train_clips));
    recorded(false)
        .filter(|(_, count)| *count >= min_train_clips)
        .chain(own)
        .map(|(word, _)| word)
        .filter(|word| *word != UNKNOWN)
        .collect()
}

/// An entry and the corpus it stands in.
pub(crate) type Candidate<'a> = (&'a Corpus, &'a Entry);

/// What `_unknown_` can be made of; no word of it is spelled like a keyword, no clip is in two pools.
#[derive(Default)]
pub(crate) struct Pools<'a> {
    /// Recordings in languages without two recorded keywords, the task's own included.
    rare: Vec<Candidate<'a>>,
    /// Keywords of other languages.
    other: Vec<Candidate<'a>>,
    /// Other words of the language.
    own: Vec<Candidate<'a>>,
}

impl<'a> Pools<'a> {
    /// Sorts the clips of all languages into pools, for a task of `language` with these keywords.
    pub(crate) fn new(
        corpora: &'a [Corpus],
        language: &str,
        labels: &[String],
        min_train_clips: usize,
    ) -> Self {
        let taken: BTreeSet<String> = labels.iter().map(|word| spelling(word)).collect();
        let codes: BTreeSet<&str> = corpora
            .iter()
            .map(|corpus| corpus.language.as_str())
            .collect();
        let mut pools = Pools::default();
        for code in codes {
            let keywords = keywords_by_count(corpora, code, min_train_clips);
            let is_rare = recorded_keywords(corpora, code, min_train_clips).len() < 2;
            for corpus in corpora.iter().filter(|corpus| corpus.language == code) {
                for entry in corpus
                    .entries
                    .iter()
                    .filter(|entry| !taken.contains(&spelling(&entry.word)))
                {
                    if is_rare && !corpus.synthetic {
                        pools.rare.push((corpus, entry));
                    } else if code == language {
                        pools.own.push((corpus, entry));
                    } else if keywords.contains(entry.word.as_str()) {
                        pools.other.push((corpus, entry));
                    }
                }
            }
        }
        pools
    }

    /// Other words of the language and of the rare-word languages.
    pub(crate) fn all(&self, split: Split) -> Vec<Candidate<'a>> {
        self.own
            .iter()
            .chain(&self.rare)
            .filter(|(_, entry)| entry.split == split)
            .copied()
            .collect()
    }

    /// At most `count` clips: half rare-word languages, half other languages' keywords, then whatever is left.
    pub(crate) fn balanced(&self, split: Split, count: usize) -> Vec<Candidate<'a>> {
        let in_split = |pool: &[Candidate<'a>]| {
            pool.iter()
                .filter(|(_, entry)| entry.split == split)
                .copied()
                .collect::<Vec<_>>()
        };
        let mut rare = spread(in_split(&self.rare));
        let mut other = in_split(&self.other);
        other.retain(|(_, entry)| {
            by_share(
                stable_hash(&format!("word:{}", spelling(&entry.word))),
                70,
                10,
            ) == split
        });
        let mut other = spread(other);
        let rest_of_rare = rare.split_off(rare.len().min(count / 2));
        let rest_of_other = other.split_off(other.len().min(count - count / 2));
        let own = spread(in_split(&self.own));
        rare.into_iter()
            .chain(other)
            .chain(rest_of_rare)
            .chain(rest_of_other)
            .chain(own)
            .take(count)
            .collect()
    }
}

/// The candidates in an order that is random but the same everywhere, one of each word before the second of any.
fn spread(candidates: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    let mut hashed: Vec<_> = candidates
        .into_iter()
        .map(|(corpus, entry)| {
            (
                stable_hash(&format!("{}:{}", corpus.language, entry.key)),
                corpus,
                entry,
            )
        })
        .collect();
    hashed.sort_by_key(|(hash, _, entry)| (*hash, &entry.path));
    let mut seen: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, Candidate<'_>)> = hashed
        .into_iter()
        .map(|(_, corpus, entry)| {
            let rank = seen.entry((&corpus.language, &entry.word)).or_default();
            *rank += 1;
            (*rank, (corpus, entry))
        })
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, candidate)| candidate).collect()
}

/// A word as it is compared between languages: "Stopp" and "stop" are spoken alike.
fn spelling(word: &str) -> String {
    let mut letters: Vec<char> = nfc(word).to_lowercase().chars().collect();
    letters.dedup();
    letters.into_iter().collect()
}
