//! The keyword-spotting task of one language: which words are keywords, what makes up `_unknown_` and `_silence_`, and which clips are TRAIN, DEV
//! and TEST. Data folders in, a [`Task`] out; every choice is deterministic, so that two programs given the same data test on the same clips.
//!
//! **Keywords** are the recorded words with enough TRAIN clips (in plain folders of one's own words, three are); where there are not two, all words of the synthetic data (`synth/<language>`), if there is any.
//! Clips of all data folders are merged by word. A folder of project-made synthetic speech therefore adds clips to keywords, never labels to recordings.
//!
//! **Unknown** takes no word spelled like a keyword (capitals and doubled letters apart). By [`UnknownRule::All`] it is every other word of the language
//! and every clip of the rare-word languages, those without two recorded keywords. By [`UnknownRule::Balanced`] it is twice as many clips as a keyword has
//! on average, half from the rare-word languages and half from keywords of other languages; these are divided 70/10/20 by word, and a word gives
//! only clips of its own split, so that the splits share neither its words nor its speakers. Where both are too few, other words of the language fill up.
//!
//! **Silence** is twice as many crops of background recordings as a keyword has clips, at a gain drawn from U(0, 1).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::crops::{running_speech, running_speech_of, silence};
use crate::error::DatasetError;
use crate::layout::{Corpus, Found, NO_SPEAKER, RoleFile, Split, Wanted, nfc, scan};
use crate::load::Faults;
use crate::noise::{Background, backgrounds};
use crate::unknown::{Candidate, Pools, keywords_by_count, train_counts};

pub use swr_core::labels::{SILENCE, UNKNOWN};

/// How a task is built from data folders.
#[derive(Debug, Clone)]
pub struct TaskOptions {
    /// Further data folders, in any layout, of which only the TRAIN clips are used; their background recordings count only if no earlier folder has any,
    /// but for those that are for TRAIN alone. Default: none.
    pub extra: Vec<PathBuf>,
    /// Of the further folders, the DEV clips are used as well. Default: false.
    pub extra_dev: bool,
    /// TRAIN clips a recorded word needs to be a keyword; at most three in a plain folder, where every word is somebody's own. Default: 20.
    pub min_train_clips: usize,
    /// Keep only so many keywords, those with most TRAIN clips. Default: all.
    pub max_keywords: Option<usize>,
    /// Exactly these keywords, in this order, instead of a choice by count; that some have no clips is told. Default: none.
    pub keywords: Option<Vec<String>>,
    /// What `_unknown_` is made of. Default: [`UnknownRule::All`] for English, the language of the base, else [`UnknownRule::Balanced`].
    pub unknown: Option<UnknownRule>,
    /// By [`UnknownRule::Balanced`], TRAIN holds this many times as many unknown clips as DEV and TEST would, as far as there are:
    /// a pool to draw from anew in every epoch. Default: 1.
    pub unknown_pool: usize,
    /// Languages that `_unknown_` may draw on; fewer make the reading of a large collection faster. Default: all that are there.
    pub unknown_languages: Option<Vec<String>>,
    /// Count table entries whose file is not there instead of failing. Default: false.
    pub skip_missing: bool,
    /// Seed of the silence crops. Default: 0.
    pub seed: u64,
}

impl Default for TaskOptions {
    fn default() -> Self {
        TaskOptions {
            extra: Vec::new(),
            extra_dev: false,
            min_train_clips: 20,
            max_keywords: None,
            keywords: None,
            unknown: None,
            unknown_pool: 1,
            unknown_languages: None,
            skip_missing: false,
            seed: 0,
        }
    }
}

/// What `_unknown_` is made of; the module's description has the details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownRule {
    /// Every other word of the language and every clip of the rare-word languages.
    All,
    /// Twice the clips of one keyword, half rare-word languages, half keywords of other languages.
    Balanced,
}

/// Where the samples of a clip come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// An audio file.
    File(PathBuf),
    /// One second of a longer recording.
    Crop {
        /// The recording.
        recording: Arc<Background>,
        /// First sample, counted from the beginning of the file.
        start_samples: usize,
        /// Factor of the samples, in [0, 1).
        gain: f32,
    },
}

/// One labelled second.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    /// Where the samples come from.
    pub source: Source,
    /// Index in the task's labels.
    pub label: usize,
    /// The word that is spoken, also in clips labelled `_unknown_`; `_silence_` for noise.
    pub word: String,
    /// Who speaks; [`NO_SPEAKER`] where the data does not tell.
    pub speaker: String,
    /// Made by a speech synthesiser.
    pub synthetic: bool,
}

/// The keyword-spotting task of one language.
#[derive(Debug, Clone)]
pub struct Task {
    /// BCP-47 code.
    pub language: String,
    /// Keywords in order of their code points, then `_unknown_` and `_silence_`.
    pub labels: Vec<String>,
    /// Clips to train on.
    pub train: Vec<Clip>,
    /// Clips to choose settings on.
    pub dev: Vec<Clip>,
    /// Clips to report on.
    pub test: Vec<Clip>,
    /// The data is a plain folder of somebody's own words.
    pub own_words: bool,
    /// Recordings without speech; every split has some.
    pub background: Vec<Arc<Background>>,
    /// Running speech without the keywords, in files, each for one split.
    pub negatives: Vec<(Split, PathBuf)>,
    /// What was found.
    pub report: Report,
}

impl Task {
    /// Clips of one split.
    pub fn clips(&self, split: Split) -> &[Clip] {
        match split {
            Split::Train => &self.train,
            Split::Dev => &self.dev,
            Split::Test => &self.test,
        }
    }

    /// Clips of `_unknown_` that go with these clips of keywords: twice those of a keyword.
    pub fn unknown_wanted(&self, clips: &[Clip]) -> usize {
        let keywords = self.unknown_label();
        let spoken = clips.iter().filter(|clip| clip.label < keywords).count();
        twice_a_keyword(spoken, keywords)
    }

    /// Files of running speech without the keywords that are for one split.
    pub fn negatives_of(&self, split: Split) -> Vec<PathBuf> {
        let of_split = self.negatives.iter().filter(|(found, _)| *found == split);
        of_split.map(|(_, path)| path.clone()).collect()
    }

    /// Index of `_unknown_` in the labels; `_silence_` is the next.
    pub fn unknown_label(&self) -> usize {
        self.labels.len() - 2
    }
}

/// Counts of one split.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SplitReport {
    /// Clips of keywords.
    pub keywords: usize,
    /// Clips labelled `_unknown_`.
    pub unknown: usize,
    /// Clips labelled `_silence_`.
    pub silence: usize,
    /// Synthetic ones among all these.
    pub synthetic: usize,
    /// Known speakers of keyword clips; synthetic voices count.
    pub speakers: usize,
}

/// What was found in the data folders; `Display` gives it as a few lines.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// TRAIN.
    pub train: SplitReport,
    /// DEV.
    pub dev: SplitReport,
    /// TEST.
    pub test: SplitReport,
    /// Entries of tables whose file is not there (counted only if missing clips are skipped).
    pub missing_clips: usize,
    /// Clips of the language that are in no split: words that are neither keywords nor needed for `_unknown_`.
    pub unused_clips: usize,
    /// What was done instead of the obvious.
    pub notes: Vec<String>,
    /// Files that could not be read, as far as they were opened: backgrounds at first, clips when they are loaded.
    pub faults: Faults,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, split) in [
            ("train", &self.train),
            ("dev", &self.dev),
            ("test", &self.test),
        ] {
            let SplitReport {
                keywords,
                unknown,
                silence,
                synthetic,
                speakers,
            } = split;
            let clips = keywords + unknown + silence;
            writeln!(
                out,
                "{name}: {clips} clips ({keywords} keywords, {unknown} unknown, {silence} silence; {synthetic} synthetic), {speakers} known speakers"
            )?;
        }
        write!(
            out,
            "left out: {} clips without use, {} missing",
            self.unused_clips, self.missing_clips
        )?;
        self.notes
            .iter()
            .try_for_each(|note| write!(out, "\nnote: {note}"))?;
        match self.faults.is_empty() {
            true => Ok(()),
            false => write!(out, "\nnote: {}", self.faults),
        }
    }
}

/// Builds the task of `language` from the data folder `data` and the further ones of the options. Opens tables and background recordings, no clips.
///
/// Errors: folders and tables that are missing, empty or damaged, table entries without their file, a language without clips or without keywords,
/// one keyword alone in data with tables, keywords that clash or are called like another label.
pub fn task(data: &Path, language: &str, options: &TaskOptions) -> Result<Task, DatasetError> {
    if language.is_empty()
        || !language
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '-')
    {
        return Err(DatasetError::BadLanguage(language.to_owned()));
    }
    let found = scan_all(data, language, options)?;
    let labels = keywords(data, language, options, &found)?;
    check_names(data, language, &labels)?;
    let keyword_labels: BTreeMap<String, usize> = labels
        .iter()
        .enumerate()
        .map(|(label, word)| (nfc(word), label))
        .collect();
    let pools = Pools::new(&found.corpora, language, &labels, options.min_train_clips);
    let rule = options.unknown.unwrap_or(if language == "en" {
        UnknownRule::All
    } else {
        UnknownRule::Balanced
    });
    let mut report = Report {
        missing_clips: found.missing_clips,
        notes: found.notes.clone(),
        ..Report::default()
    };
    let background = backgrounds(&found.noise, &mut report);
    let negatives = running_speech_of(&found, language, &mut report);
    let in_language = || {
        found
            .corpora
            .iter()
            .filter(|corpus| corpus.language == language)
    };

    for corpus in in_language().filter(|corpus| corpus.by_recording && !corpus.adds_only) {
        report.notes.push(few_speakers(corpus, &labels));
    }
    let own_words = in_language().any(|corpus| corpus.own_words);
    let judging: BTreeSet<&str> = in_language()
        .filter(|corpus| !corpus.by_recording)
        .flat_map(|corpus| &corpus.entries)
        .filter(|entry| {
            entry.split != Split::Train && keyword_labels.contains_key(entry.word.as_str())
        })
        .map(|entry| entry.speaker.as_str())
        .filter(|speaker| *speaker != NO_SPEAKER)
        .collect();
    let mut splits = Split::ALL.map(|split| {
        let mut clips = Vec::new();
        for corpus in in_language() {
            for entry in corpus.entries.iter().filter(|entry| entry.split == split) {
                if let Some(label) = keyword_labels.get(entry.word.as_str()) {
                    clips.push(clip((corpus, entry), *label));
                }
            }
        }
        clips.sort_by_key(|clip| clip.label);
        let spoken = clips.len();
        let twice_a_keyword = twice_a_keyword(spoken, labels.len());
        let mut unknown = match rule {
            UnknownRule::All => pools.all(split),
            UnknownRule::Balanced if split == Split::Train => {
                pools.balanced(split, twice_a_keyword * options.unknown_pool)
            }
            UnknownRule::Balanced => pools.balanced(split, twice_a_keyword),
        };
        if split == Split::Train {
            // A voice that speaks the language's DEV or TEST clips may speak TRAIN clips of another language.
            unknown.retain(|(_, entry)| !judging.contains(entry.speaker.as_str()));
        }
        clips.extend(
            unknown
                .into_iter()
                .map(|candidate| clip(candidate, labels.len())),
        );
        clips.extend(running_speech(
            &negatives,
            split,
            clips.len() - spoken,
            labels.len(),
            &mut report.faults,
        ));
        clips.extend(silence(
            &background,
            split,
            language,
            twice_a_keyword,
            labels.len() + 1,
            options.seed,
        ));
        clips
    });
    let [train, dev, test] = &mut splits;
    (report.train, report.dev, report.test) = (
        count(train, labels.len()),
        count(dev, labels.len()),
        count(test, labels.len()),
    );
    let of_language: BTreeSet<&Path> = in_language()
        .flat_map(|corpus| &corpus.entries)
        .map(|entry| entry.path.as_path())
        .collect();
    let used = [&*train, dev, test].into_iter().flatten().filter(
        |clip| matches!(&clip.source, Source::File(path) if of_language.contains(path.as_path())),
    );
    report.unused_clips = of_language.len() - used.count();
    let speaks = |label: usize| {
        let mut clips = [&*train, dev, test].into_iter().flatten();
        clips.any(|clip| clip.label == label)
    };
    let silent: Vec<&str> = (0..labels.len())
        .filter(|label| !speaks(*label))
        .map(|label| labels[label].as_str())
        .collect();
    if silent.len() == labels.len() {
        return Err(DatasetError::NoClipsOfKeywords {
            path: data.to_path_buf(),
            language: language.to_owned(),
            words: silent.join(", "),
        });
    }
    if !silent.is_empty() {
        let silent = silent.join(", ");
        report.notes.push(format!("no clips of: {silent}"));
    }
    let [train, dev, test] = splits;
    let labels = labels
        .into_iter()
        .chain([UNKNOWN.to_owned(), SILENCE.to_owned()])
        .collect();
    Ok(Task {
        language: language.to_owned(),
        labels,
        train,
        dev,
        test,
        own_words,
        background,
        negatives: negatives.iter().filter_map(|file| file.of_set()).collect(),
        report,
    })
}

/// Languages below `data` and the further folders of the options that have at least two keywords, sorted. Opens tables only.
///
/// Errors: folders and tables that are missing, empty or damaged, table entries without their file.
pub fn languages(data: &Path, options: &TaskOptions) -> Result<Vec<String>, DatasetError> {
    // No code is empty: a folder of plain words, whose language nobody tells, counts for none.
    let corpora = scan_all(data, "", options)?.corpora;
    let codes: BTreeSet<&str> = corpora
        .iter()
        .map(|corpus| corpus.language.as_str())
        .filter(|code| !code.is_empty())
        .collect();
    let has_keywords =
        |code: &&str| keywords_by_count(&corpora, code, options.min_train_clips).len() >= 2;
    Ok(codes
        .into_iter()
        .filter(has_keywords)
        .map(str::to_owned)
        .collect())
}

fn scan_all(data: &Path, language: &str, options: &TaskOptions) -> Result<Found, DatasetError> {
    let wanted = Wanted {
        language,
        others: options.unknown_languages.as_deref(),
        skip_missing: options.skip_missing,
    };
    let mut all = scan(data, &wanted)?;
    let known: BTreeMap<String, Split> = all
        .corpora
        .iter()
        .filter(|corpus| corpus.own_words && !corpus.by_recording)
        .flat_map(|corpus| &corpus.entries)
        .map(|entry| (entry.speaker.clone(), entry.split))
        .collect();
    for root in &options.extra {
        let mut found = scan(root, &wanted)?;
        // What judges a task must not depend on what is added to it.
        let is_added =
            |split: Split| split == Split::Train || (split == Split::Dev && options.extra_dev);
        for corpus in &mut found.corpora {
            // A speaker of somebody's own words is in one set, whichever folder the recordings lie in.
            if corpus.own_words {
                for entry in &mut corpus.entries {
                    entry.split = known.get(&entry.speaker).copied().unwrap_or(entry.split);
                }
            }
            corpus.entries.retain(|entry| is_added(entry.split));
            // Words in plain folders have no language of their own.
            corpus.adds_only = std::mem::take(&mut corpus.own_words);
        }
        all.corpora.extend(found.corpora);
        // Another choice of noise would change the silence clips of TEST.
        let first = all.noise.is_empty();
        let is_added = |file: &RoleFile| file.split.is_some_and(is_added);
        found.noise.retain(|file| first || is_added(file));
        // Thresholds are chosen by what is said in all of the running speech; clips that judge are cut out of none that is added.
        let foreign = found.foreign_negatives.iter_mut().flat_map(|(_, f)| f);
        let running = foreign
            .chain(&mut found.negatives)
            .chain(&mut found.sentences);
        running.for_each(|file| file.gives_clips = is_added(file));
        all.foreign_negatives.extend(found.foreign_negatives);
        all.noise.extend(found.noise);
        all.negatives.extend(found.negatives);
        all.sentences.extend(found.sentences);
        all.missing_clips += found.missing_clips;
        all.notes.extend(found.notes);
    }
    Ok(all)
}

/// Refuses keywords of which one would be taken for another label.
fn check_names(path: &Path, language: &str, words: &[String]) -> Result<(), DatasetError> {
    let mut seen = BTreeMap::new();
    for word in words {
        let (path, language) = (path.to_path_buf(), language.to_owned());
        if word == UNKNOWN || word == SILENCE {
            let word = word.clone();
            return Err(DatasetError::ReservedKeyword {
                path,
                language,
                word,
            });
        }
        let read: String = nfc(word).to_lowercase();
        if let Some(first) = seen.insert(read, word) {
            return Err(DatasetError::ClashingKeywords {
                path,
                language,
                first: first.clone(),
                second: word.clone(),
            });
        }
    }
    Ok(())
}

/// The keywords of the task, sorted; at least one.
fn keywords(
    data: &Path,
    language: &str,
    options: &TaskOptions,
    found: &Found,
) -> Result<Vec<String>, DatasetError> {
    let path = || data.to_path_buf();
    if !found
        .corpora
        .iter()
        .any(|corpus| corpus.language == language && !corpus.entries.is_empty())
    {
        let languages: BTreeSet<&str> = found
            .corpora
            .iter()
            .filter(|corpus| !corpus.entries.is_empty())
            .map(|corpus| corpus.language.as_str())
            .collect();
        let found = if languages.is_empty() {
            "none".to_owned()
        } else {
            languages.into_iter().collect::<Vec<_>>().join(", ")
        };
        return Err(DatasetError::NoLanguage {
            path: path(),
            language: language.to_owned(),
            found,
        });
    }
    let counts = train_counts(
        found
            .corpora
            .iter()
            .filter(|corpus| corpus.language == language),
    );
    if let Some(list) = &options.keywords {
        return Ok(list.clone());
    }
    let mut words: Vec<&str> = keywords_by_count(&found.corpora, language, options.min_train_clips)
        .into_iter()
        .collect();
    if words.is_empty() {
        let most = counts.values().copied().max().unwrap_or(0);
        return Err(DatasetError::NoKeywords {
            path: path(),
            language: language.to_owned(),
            min_train_clips: options.min_train_clips,
            most,
        });
    }
    let own = |corpus: &Corpus| corpus.language == language && corpus.own_words;
    if let ([word], false) = (&words[..], found.corpora.iter().any(own)) {
        return Err(DatasetError::OneKeyword {
            path: path(),
            language: language.to_owned(),
            word: (*word).to_owned(),
            min_train_clips: options.min_train_clips,
        });
    }
    if let Some(limit) = options.max_keywords {
        words.sort_by_key(|word| {
            (
                std::cmp::Reverse(counts.get(word).copied().unwrap_or(0)),
                *word,
            )
        });
        words.truncate(limit.max(1));
        words.sort_unstable();
    }
    Ok(words.into_iter().map(str::to_owned).collect())
}

/// What is to be known about a folder whose recordings, not its speakers, are divided.
fn few_speakers(corpus: &Corpus, labels: &[String]) -> String {
    let entries = || corpus.entries.iter().filter(|entry| entry.word != UNKNOWN);
    let speakers: BTreeSet<&str> = entries().map(|entry| entry.speaker.as_str()).collect();
    let words: BTreeSet<&str> = entries().map(|entry| entry.word.as_str()).collect();
    let rare: Vec<&str> = words
        .into_iter()
        .filter(|word| !labels.iter().any(|label| label == word))
        .collect();
    let left_out = match rare.is_empty() {
        true => String::new(),
        false => format!("; too few recordings to be keywords: {}", rare.join(", ")),
    };
    format!(
        "too few speakers ({}) to keep some for DEV: recordings are divided instead, and accuracy holds for these voices only{left_out}",
        speakers.len()
    )
}

fn twice_a_keyword(spoken: usize, keywords: usize) -> usize {
    (2.0 * spoken as f64 / keywords as f64).round() as usize
}

fn clip((corpus, entry): Candidate<'_>, label: usize) -> Clip {
    Clip {
        source: Source::File(entry.path.clone()),
        label,
        word: entry.word.clone(),
        speaker: entry.speaker.clone(),
        synthetic: corpus.synthetic,
    }
}

fn count(clips: &[Clip], keywords: usize) -> SplitReport {
    let labelled = |wanted: usize| clips.iter().filter(|clip| clip.label == wanted).count();
    let (unknown, silence) = (labelled(keywords), labelled(keywords + 1));
    let speakers: BTreeSet<&str> = clips
        .iter()
        .filter(|clip| clip.label < keywords && clip.speaker != NO_SPEAKER)
        .map(|clip| clip.speaker.as_str())
        .collect();
    SplitReport {
        keywords: clips.len() - unknown - silence,
        unknown,
        silence,
        synthetic: clips.iter().filter(|clip| clip.synthetic).count(),
        speakers: speakers.len(),
    }
}
