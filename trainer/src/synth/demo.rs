//! The demo's audio: for each language its words in random order, in voices that no training clip has, over light pink noise; sentences without any between them; `<language>.flac`,
//! and `<language>.json` with where each word is.

use anyhow::{Context, Result};
use rand::RngExt;
use rand::seq::SliceRandom;
use serde::Serialize;
use swr_dataset::{CLIP_SAMPLES, stable_hash};

use super::SynthOptions;
use super::config::{LanguageConfig, SynthConfig, read_config, wanted};
use super::espeak::{Manner, Speaker, flac_bytes, set_peak};
use super::under_noise;
use crate::files::write_atomically;
use crate::progress::Progress;
use crate::random::{generator, mix};

/// What is spoken in a demo file.
#[derive(Serialize)]
struct Script {
    language: String,
    keywords: Vec<Spoken>,
    /// What holds none of the keywords.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sentences: Vec<Sentence>,
    command: String,
}

/// One word and where it is, in seconds.
#[derive(Serialize)]
struct Spoken {
    word: String,
    start_s: f64,
    end_s: f64,
}

/// One sentence and where it is, in seconds.
#[derive(Serialize)]
struct Sentence {
    text: String,
    start_s: f64,
    end_s: f64,
}

const LEAD_IN_SAMPLES: usize = CLIP_SAMPLES * 3 / 2;
const LEAD_OUT_SAMPLES: usize = CLIP_SAMPLES * 2;
/// Largest sample of every word and sentence: a person speaking clearly, far from clipping.
const WORD_PEAK: f32 = 0.5;

/// Makes the demo's audio in `options.out`, replacing what is there. It must be in place before a model is trained and stay as it is: audio that is exchanged
/// until every word is found proves nothing.
pub fn demo(options: &SynthOptions, progress: &Progress) -> Result<()> {
    let config = read_config(options)?;
    let speaker = Speaker::find(&config)?;
    for (code, language) in wanted(&config, &options.languages)? {
        let (samples, script) = make(&config, code, language, &speaker, options)
            .with_context(|| format!("demo audio of {code}"))?;
        write_atomically(
            &options.out.join(format!("{code}.flac")),
            &flac_bytes(&samples)?,
        )?;
        let mut text = serde_json::to_string_pretty(&script)?;
        text.push('\n');
        write_atomically(&options.out.join(format!("{code}.json")), text.as_bytes())?;
        let length_s = samples.len() as f64 / CLIP_SAMPLES as f64;
        progress.say(&format!(
            "{}: {} words and {} sentences in {length_s:.1} s",
            options.out.join(format!("{code}.flac")).display(),
            script.keywords.len(),
            script.sentences.len()
        ));
    }
    Ok(())
}

fn make(
    config: &SynthConfig,
    code: &str,
    language: &LanguageConfig,
    speaker: &Speaker,
    options: &SynthOptions,
) -> Result<(Vec<f32>, Script)> {
    let demo = &config.demo;
    let seed = mix(demo.seed, stable_hash(code));
    let mut random = generator(seed, &[0]);
    let mut words = if language.demo_words.is_empty() {
        language.words.clone()
    } else {
        language.demo_words.clone()
    };
    words.shuffle(&mut random);
    let mut said: Vec<(String, bool)> = words.into_iter().map(|word| (word, true)).collect();
    for sentence in language.demo_sentences.iter().filter(|_| demo.sentences) {
        said.insert(
            random.random_range(1..said.len()),
            (sentence.clone(), false),
        );
    }
    let mut samples = vec![0f32; LEAD_IN_SAMPLES];
    let (mut keywords, mut sentences) = (Vec::new(), Vec::new());
    let (mut speech_energy, mut speech_samples) = (0f64, 0usize);
    for (index, (text, is_word)) in said.into_iter().enumerate() {
        if index > 0 {
            let gap_s = random.random_range(demo.gap_s[0]..=demo.gap_s[1]);
            samples.resize(samples.len() + (gap_s * CLIP_SAMPLES as f32) as usize, 0.0);
        }
        let voice = &language.demo_voices[index % language.demo_voices.len()];
        let manner = Manner::draw(&mut random, voice.speed_wpm, demo.pitch);
        let (mut spoken, _) = match is_word {
            true => speaker.speak(&voice.voice, manner, language.text(&text))?,
            false => speaker.say(&voice.voice, manner, &text)?,
        };
        set_peak(&mut spoken, WORD_PEAK);
        speech_energy += spoken
            .iter()
            .map(|sample| f64::from(*sample).powi(2))
            .sum::<f64>();
        speech_samples += spoken.len();
        let start = samples.len();
        samples.extend(spoken);
        let (start_s, end_s) = (seconds(start), seconds(samples.len()));
        match is_word {
            true => keywords.push(Spoken {
                word: text,
                start_s,
                end_s,
            }),
            false => sentences.push(Sentence {
                text,
                start_s,
                end_s,
            }),
        }
    }
    samples.resize(samples.len() + LEAD_OUT_SAMPLES, 0.0);
    let speech_power = speech_energy / speech_samples.max(1) as f64;
    under_noise(&mut samples, speech_power, demo.snr_db, seed);
    let config_file = options.config.as_ref().map_or(String::new(), |file| {
        format!(" --config {}", file.display())
    });
    let changes: String = options
        .changes
        .iter()
        .map(|change| format!(" --set {change}"))
        .collect();
    let voices = language
        .demo_voices
        .iter()
        .map(|voice| voice.voice.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    let command = format!(
        "swr-train synth demo --lang {code}{config_file}{changes}; {}, voices {voices}, seed {}",
        speaker.version, demo.seed
    );
    Ok((
        samples,
        Script {
            language: code.to_owned(),
            keywords,
            sentences,
            command,
        },
    ))
}

fn seconds(samples: usize) -> f64 {
    (1000.0 * samples as f64 / CLIP_SAMPLES as f64).round() / 1000.0
}
