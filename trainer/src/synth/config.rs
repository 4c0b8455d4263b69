//! What is synthesised: the words, voices and ranges of `configs/synth.toml`, read and checked.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use swr_dataset::{Split, nfc};

use super::SynthOptions;
use super::sentences::LEAST_PHRASES;
use crate::config::resolve;

/// The configuration used when no file is given.
pub const SYNTH_DEFAULT: &str = include_str!("../../configs/synth.toml");

/// What is synthesised; see the comments of `configs/synth.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SynthConfig {
    /// Seed of voices, speeds, pitches and levels.
    pub seed: u64,
    /// Lowest and highest speed, words per minute.
    pub speed_wpm: [u32; 2],
    /// Lowest and highest pitch, 0 to 99.
    pub pitch: [u32; 2],
    /// espeak-ng voice variants of the training clips.
    pub variants: Vec<String>,
    /// Sentences without keywords.
    pub sentences: SentencesConfig,
    /// The demo's audio.
    pub demo: DemoConfig,
    /// What is spoken, by language code.
    pub languages: BTreeMap<String, LanguageConfig>,
}

/// How sentences without keywords are spoken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SentencesConfig {
    /// Minutes of TRAIN, DEV and TEST.
    pub minutes: [u32; 3],
    /// espeak-ng voice variants of DEV; TRAIN has those of the clips.
    pub dev_variants: Vec<String>,
    /// espeak-ng voice variants of TEST.
    pub test_variants: Vec<String>,
    /// Shortest and longest time between two sentences, in seconds.
    pub gap_s: [f32; 2],
    /// Mean speech power over the power of the pink noise, in dB.
    pub snr_db: f32,
}

/// How the demo's audio is put together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemoConfig {
    /// Seed of order, speeds, pitches, gaps and noise.
    pub seed: u64,
    /// Lowest and highest pitch, 0 to 99.
    pub pitch: [u32; 2],
    /// Shortest and longest time between two words, in seconds.
    pub gap_s: [f32; 2],
    /// Mean speech power over the power of the pink noise, in dB.
    pub snr_db: f32,
    /// Whether sentences without keywords stand between the words.
    pub sentences: bool,
}

/// What is spoken in one language.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanguageConfig {
    /// espeak-ng voices that the variants are put on.
    pub accents: Vec<String>,
    /// Variants drawn for each word.
    pub voices_per_word: usize,
    /// Clips of each of them.
    pub takes: usize,
    /// Keywords: the labels of the clips.
    pub words: Vec<String>,
    /// Words that are no keywords, one clip of each voice.
    #[serde(default)]
    pub others: Vec<String>,
    /// Lists of phrases; one of each list, in this order, makes a sentence without keywords. Of five phrases three are for TRAIN, one for DEV, one for TEST.
    #[serde(default)]
    pub sentence_parts: Vec<Vec<String>>,
    /// Text given to espeak-ng where it is not the word itself.
    #[serde(default)]
    pub spoken: BTreeMap<String, String>,
    /// Who speaks in the demo, in turn.
    pub demo_voices: Vec<DemoVoice>,
    /// Words of the demo; all keywords when empty.
    #[serde(default)]
    pub demo_words: Vec<String>,
    /// Sentences of the demo that hold no keyword.
    #[serde(default)]
    pub demo_sentences: Vec<String>,
}

/// A speaker of the demo.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemoVoice {
    /// espeak-ng voice, with or without a variant: `de+Andrea`.
    pub voice: String,
    /// Lowest and highest speed, words per minute.
    pub speed_wpm: [u32; 2],
}

impl DemoVoice {
    /// What follows the `+`.
    pub(super) fn variant(&self) -> Option<&str> {
        self.voice.split_once('+').map(|(_, variant)| variant)
    }
}

impl SynthConfig {
    /// The voices of a set's sentences.
    pub(super) fn variants_of(&self, split: Split) -> &[String] {
        match split {
            Split::Train => &self.variants,
            Split::Dev => &self.sentences.dev_variants,
            Split::Test => &self.sentences.test_variants,
        }
    }
}

impl LanguageConfig {
    /// What espeak-ng is given for `word`.
    pub(super) fn text<'a>(&'a self, word: &'a str) -> &'a str {
        self.spoken.get(word).map_or(word, String::as_str)
    }
}

/// The configuration of these options, checked.
pub(super) fn read_config(options: &SynthOptions) -> Result<SynthConfig> {
    let config: SynthConfig = resolve(options.config.as_deref(), SYNTH_DEFAULT, &options.changes)?;
    check(&config)?;
    Ok(config)
}

/// Refuses what would break the promise that no voice of the demo is trained on, or could not be drawn.
pub(super) fn check(config: &SynthConfig) -> Result<()> {
    let variants: BTreeSet<&str> = config.variants.iter().map(String::as_str).collect();
    let voices = || Split::ALL.into_iter().flat_map(|s| config.variants_of(s));
    ensure!(
        voices().collect::<BTreeSet<_>>().len() == voices().count(),
        "synth config: a variant stands twice in `variants`, `dev_variants` and `test_variants`"
    );
    for split in Split::ALL {
        let minutes = config.sentences.minutes[split as usize];
        ensure!(
            (1..=600).contains(&minutes) && !config.variants_of(split).is_empty(),
            "synth config: {minutes} minutes of sentences for {} by {} voices; expected 1 to 600 by one at least",
            split.name(),
            config.variants_of(split).len()
        );
    }
    let demo_speeds = config
        .languages
        .values()
        .flat_map(|language| &language.demo_voices)
        .map(|voice| voice.speed_wpm);
    for [low, high] in demo_speeds.chain([config.speed_wpm]) {
        ensure!(
            (80..=450).contains(&low) && low <= high && high <= 450,
            "synth config: speed_wpm is [{low}, {high}]; expected 80 to 450, the lower first"
        );
    }
    for [low, high] in [config.pitch, config.demo.pitch] {
        ensure!(
            low <= high && high <= 99,
            "synth config: pitch is [{low}, {high}]; expected 0 to 99, the lower first"
        );
    }
    for [low, high] in [config.demo.gap_s, config.sentences.gap_s] {
        ensure!(
            0.0 <= low && low <= high && high <= 60.0,
            "synth config: gap_s is [{low}, {high}]; expected 0 to 60, the lower first"
        );
    }
    for (code, language) in &config.languages {
        ensure!(
            (1..=variants.len()).contains(&language.voices_per_word),
            "synth config: languages.{code}.voices_per_word is {}; expected 1 to {}, the number of variants",
            language.voices_per_word,
            variants.len()
        );
        ensure!(
            !language.accents.is_empty() && !language.demo_voices.is_empty(),
            "synth config: languages.{code} lacks accents or demo_voices"
        );
        // A voice without a variant is none of the training voices, which all have one.
        if let Some(voice) = language.demo_voices.iter().find(|voice| {
            voice
                .variant()
                .is_some_and(|variant| variants.contains(variant))
        }) {
            bail!(
                "synth config: {} speaks in the demo of {code} and its variant in the training clips; choose another demo voice",
                voice.voice
            );
        }
        let demo_words = match language.demo_words.len() {
            0 => language.words.len(),
            count => count,
        };
        ensure!(
            demo_words >= 2 || language.demo_sentences.is_empty(),
            "synth config: languages.{code} has {demo_words} words in its demo; sentences stand between words, of which there must be two"
        );
        if let Some(word) = language
            .demo_words
            .iter()
            .find(|word| !language.words.contains(word))
        {
            bail!("synth config: {word} of languages.{code}.demo_words is none of its words");
        }
        for list in &language.sentence_parts {
            ensure!(
                list.len() >= LEAST_PHRASES,
                "synth config: a list of languages.{code}.sentence_parts has {} phrases; expected {LEAST_PHRASES} or more",
                list.len()
            );
        }
        let phrases = language.sentence_parts.iter().flatten();
        for text in language.demo_sentences.iter().chain(phrases) {
            let said = plain_words(text);
            let is_said = |word: &&String| said.contains(&plain_words(word));
            if let Some(word) = language.words.iter().find(is_said) {
                bail!(
                    "synth config: a sentence of languages.{code} has the keyword \"{word}\": {text}"
                );
            }
        }
        if let Some(word) = language
            .words
            .iter()
            .chain(&language.others)
            .find(|word| word.contains(['/', '\\', '.']) || word.is_empty())
        {
            bail!(
                "synth config: languages.{code} has the word \"{word}\", which cannot name a folder"
            );
        }
    }
    Ok(())
}

/// Lower-case words in one form of Unicode, a space before and behind each: so that one text is looked for in another by whole words.
fn plain_words(text: &str) -> String {
    let text = nfc(text).to_lowercase();
    let words = text.split(|c: char| !c.is_alphabetic());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    format!(" {} ", words.join(" "))
}

/// The languages with these codes; all if there are none.
pub(super) fn wanted<'a>(
    config: &'a SynthConfig,
    codes: &[String],
) -> Result<Vec<(&'a String, &'a LanguageConfig)>> {
    if codes.is_empty() {
        return Ok(config.languages.iter().collect());
    }
    let known = || {
        config
            .languages
            .keys()
            .cloned()
            .collect::<Vec<_>>()
            .join(", ")
    };
    codes
        .iter()
        .map(|code| {
            config.languages.get_key_value(code).with_context(|| {
                format!(
                    "language {code} is not in the synth config; it has {}",
                    known()
                )
            })
        })
        .collect()
}
