//! Sentences without keywords: the running speech of a language that has no recordings of it. Phrases of a configuration, one of each of a language's lists in
//! their order, spoken one sentence after another; each set has phrases and voices of its own. `<folder>/{train,dev,test}/*.wav`, and `sentences.tsv` with what
//! is said when.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rand::RngExt;
use rayon::prelude::*;
use swr_dataset::{CLIP_SAMPLES, Split, stable_hash};

use super::config::{LanguageConfig, SynthConfig};
use super::espeak::{Manner, Speaker, set_peak, wav_bytes};
use super::under_noise;
use crate::progress::Progress;
use crate::random::{generator, mix};

/// Of five phrases of a list, three are for TRAIN, one for DEV and one for TEST.
const SHARES: [std::ops::Range<usize>; 3] = [0..3, 3..4, 4..5];
/// Phrases that a list must have: one for each set.
pub(super) const LEAST_PHRASES: usize = 5;

/// One voice's sentences, in one file.
struct Recording<'a> {
    split: Split,
    variant: &'a str,
    place: u64,
    samples: usize,
}

impl Recording<'_> {
    fn name(&self) -> String {
        let set = self.split.name().to_lowercase();
        format!("{set}/espeak_{}.wav", self.variant)
    }
}

/// Speaks the sentences of a language into `folder`, which is there; nothing if it has none.
pub(super) fn speak(
    config: &SynthConfig,
    code: &str,
    language: &LanguageConfig,
    speaker: &Speaker,
    folder: &Path,
    progress: &Progress,
) -> Result<()> {
    if language.sentence_parts.is_empty() {
        return Ok(());
    }
    let cannot = |path: &Path| {
        format!(
            "{}: cannot be written; check the free space and the folder's permissions",
            path.display()
        )
    };
    let mut recordings = Vec::new();
    for (split, minutes) in Split::ALL.into_iter().zip(config.sentences.minutes) {
        let set = folder.join(split.name().to_lowercase());
        fs::create_dir_all(&set).with_context(|| cannot(&set))?;
        let variants = config.variants_of(split);
        recordings.extend((0..).zip(variants).map(|(place, variant)| Recording {
            split,
            variant,
            place,
            samples: minutes as usize * 60 * CLIP_SAMPLES / variants.len(),
        }));
    }
    let bar = progress.bar(&format!("sentences of {code}"), recordings.len());
    let tables = recordings
        .par_iter()
        .map(|recording| {
            let (samples, table) = record(config, code, language, speaker, recording)?;
            let path = folder.join(recording.name());
            fs::write(&path, wav_bytes(&samples)?).with_context(|| cannot(&path))?;
            bar.inc(1);
            Ok(table)
        })
        .collect::<Result<Vec<String>>>()?;
    bar.finish_and_clear();
    let path = folder.join("sentences.tsv");
    let table = format!("file\tstart_s\tend_s\ttext\n{}", tables.concat());
    fs::write(&path, table).with_context(|| cannot(&path))
}

/// The sentences of one voice in one accent, and their lines of the table.
fn record(
    config: &SynthConfig,
    code: &str,
    language: &LanguageConfig,
    speaker: &Speaker,
    recording: &Recording,
) -> Result<(Vec<f32>, String)> {
    let options = &config.sentences;
    let place = [
        stable_hash("sentences"),
        recording.split as u64,
        recording.place,
    ];
    let seed = mix(config.seed, stable_hash(code));
    let mut random = generator(seed, &place);
    let accent = &language.accents[recording.place as usize % language.accents.len()];
    let voice = format!("{accent}+{}", recording.variant);
    let share = &SHARES[recording.split as usize];
    let (mut samples, mut table) = (Vec::new(), String::new());
    let (mut energy, mut spoken_samples) = (0f64, 0usize);
    while samples.len() < recording.samples {
        let gap_s = random.random_range(options.gap_s[0]..=options.gap_s[1]);
        samples.resize(samples.len() + (gap_s * CLIP_SAMPLES as f32) as usize, 0.0);
        let phrases = language.sentence_parts.iter().map(|list| {
            let of_set: Vec<&String> = (0..)
                .zip(list)
                .filter_map(|(at, phrase)| share.contains(&(at % LEAST_PHRASES)).then_some(phrase))
                .collect();
            of_set[random.random_range(0..of_set.len() as u64) as usize].as_str()
        });
        let text = format!("{}.", phrases.collect::<Vec<_>>().join(" "));
        let manner = Manner::draw(&mut random, config.speed_wpm, config.pitch);
        let (mut spoken, _) = speaker.say(&voice, manner, &text)?;
        set_peak(&mut spoken, 0.5);
        energy += spoken.iter().map(|s| f64::from(*s).powi(2)).sum::<f64>();
        spoken_samples += spoken.len();
        let start = samples.len();
        samples.extend(spoken);
        let seconds = |samples: usize| samples as f64 / CLIP_SAMPLES as f64;
        let (start_s, end_s) = (seconds(start), seconds(samples.len()));
        writeln!(
            table,
            "{}\t{start_s:.2}\t{end_s:.2}\t{text}",
            recording.name()
        )
        .context("a line of text")?;
    }
    let power = energy / spoken_samples as f64;
    under_noise(
        &mut samples,
        power,
        options.snr_db,
        mix(seed, recording.place),
    );
    set_peak(&mut samples, random.random_range(0.3f32..0.95));
    Ok((samples, table))
}
