//! Project-made synthetic speech: words of a configuration in, training clips in the MSWC layout out (`<out>/synth/<language>`, all TRAIN), spoken by
//! espeak-ng. Seeded: the same configuration and espeak-ng give the same bytes. The demo's audio is made in [`demo`].

mod demo;
mod espeak;

pub use demo::demo;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rand::RngExt;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use swr_dataset::{CLIP_SAMPLES, fit_one_second, stable_hash};

use crate::config::resolve;
use crate::progress::Progress;
use crate::random::{generator, mix};
use espeak::{Manner, Speaker, wav_bytes};

/// The configuration used when no file is given.
pub const SYNTH_DEFAULT: &str = include_str!("../configs/synth.toml");

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
    /// The demo's audio.
    pub demo: DemoConfig,
    /// What is spoken, by language code.
    pub languages: BTreeMap<String, LanguageConfig>,
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
    /// Text given to espeak-ng where it is not the word itself.
    #[serde(default)]
    pub spoken: BTreeMap<String, String>,
    /// Who speaks in the demo, in turn.
    pub demo_voices: Vec<DemoVoice>,
    /// Words of the demo; all keywords when empty.
    #[serde(default)]
    pub demo_words: Vec<String>,
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
    pub(crate) fn variant(&self) -> Option<&str> {
        self.voice.split_once('+').map(|(_, variant)| variant)
    }
}

impl LanguageConfig {
    fn text<'a>(&'a self, word: &'a str) -> &'a str {
        self.spoken.get(word).map_or(word, String::as_str)
    }
}

/// What to synthesise and where to.
#[derive(Clone, Debug, Default)]
pub struct SynthOptions {
    /// Configuration file; the built-in one if absent.
    pub config: Option<PathBuf>,
    /// Changes such as `seed=3`.
    pub changes: Vec<String>,
    /// Languages; all of the configuration if empty.
    pub languages: Vec<String>,
    /// Folder that gets `synth/<language>/` (clips) or `<language>.wav` and `.json` (demo).
    pub out: PathBuf,
    /// Replace clips that are there already.
    pub replace: bool,
}

/// One clip to make.
struct Clip {
    word: String,
    voice: String,
    variant: String,
    manner: Manner,
    /// Largest sample, of full scale 1.
    peak: f32,
}

impl Clip {
    fn link(&self) -> String {
        format!(
            "{}/espeak_{}_{}_{}.wav",
            self.word.replace(' ', "_"),
            self.voice,
            self.manner.speed_wpm,
            self.manner.pitch
        )
    }
}

/// Synthesises training clips. A language's folder appears when all of it is done.
pub fn run(options: &SynthOptions, progress: &Progress) -> Result<()> {
    let config = read_config(options)?;
    let speaker = Speaker::find(&config)?;
    for (code, language) in wanted(&config, &options.languages)? {
        make_language(&config, code, language, &speaker, options, progress)
            .with_context(|| format!("synthetic speech of {code}"))?;
    }
    Ok(())
}

fn read_config(options: &SynthOptions) -> Result<SynthConfig> {
    let config: SynthConfig = resolve(options.config.as_deref(), SYNTH_DEFAULT, &options.changes)?;
    check(&config)?;
    Ok(config)
}

/// Refuses what would break the promise that no voice of the demo is trained on, or could not be drawn.
fn check(config: &SynthConfig) -> Result<()> {
    let variants: BTreeSet<&str> = config.variants.iter().map(String::as_str).collect();
    ensure!(
        variants.len() == config.variants.len(),
        "synth config: a variant stands twice in `variants`"
    );
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
    let [low, high] = config.demo.gap_s;
    ensure!(
        0.0 <= low && low <= high && high <= 60.0,
        "synth config: gap_s is [{low}, {high}]; expected 0 to 60, the lower first"
    );
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
        if let Some(word) = language
            .demo_words
            .iter()
            .find(|word| !language.words.contains(word))
        {
            bail!("synth config: {word} of languages.{code}.demo_words is none of its words");
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

fn wanted<'a>(
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

/// The clips of a language, in order of their words. A word's draws depend on the seed and the word alone, so that words can be added without changing others.
fn plan(config: &SynthConfig, code: &str, language: &LanguageConfig) -> Vec<Clip> {
    let keywords = language.words.iter().map(|word| (word, language.takes));
    let others = language.others.iter().map(|word| (word, 1));
    let mut clips = Vec::new();
    for (word, takes) in keywords.chain(others) {
        let mut random = generator(mix(config.seed, stable_hash(code)), &[stable_hash(word)]);
        let mut links = BTreeSet::new();
        let mut variants: Vec<&String> = config.variants.iter().collect();
        variants.shuffle(&mut random);
        for variant in variants.into_iter().take(language.voices_per_word) {
            for _ in 0..takes {
                let accent = &language.accents
                    [random.random_range(0..language.accents.len() as u64) as usize];
                let manner = Manner::draw(&mut random, config.speed_wpm, config.pitch);
                let peak = random.random_range(0.3f32..0.95);
                let clip = Clip {
                    word: word.clone(),
                    voice: format!("{accent}+{variant}"),
                    variant: variant.clone(),
                    manner,
                    peak,
                };
                if links.insert(clip.link()) {
                    clips.push(clip);
                }
            }
        }
    }
    clips
}

fn make_language(
    config: &SynthConfig,
    code: &str,
    language: &LanguageConfig,
    speaker: &Speaker,
    options: &SynthOptions,
    progress: &Progress,
) -> Result<()> {
    let synth = options.out.join("synth");
    let folder = synth.join(code);
    if folder.exists() && !options.replace {
        bail!(
            "{}: already there; remove it or ask to replace it",
            folder.display()
        );
    }
    let cannot = |path: &Path| {
        format!(
            "{}: cannot be written; check the free space and the folder's permissions",
            path.display()
        )
    };
    fs::create_dir_all(&synth).with_context(|| cannot(&synth))?;
    let staging = tempfile::Builder::new()
        .prefix(".partial-")
        .tempdir_in(&synth)
        .with_context(|| cannot(&synth))?;
    let made = staging.path().join(code);
    for word in language.words.iter().chain(&language.others) {
        let clips = made.join("clips").join(word.replace(' ', "_"));
        fs::create_dir_all(&clips).with_context(|| cannot(&clips))?;
    }
    let clips = plan(config, code, language);
    let bar = progress.bar(&format!("synthetic speech of {code}"), clips.len());
    let commands = clips
        .par_iter()
        .map(|clip| {
            let (samples, command) =
                speaker.speak(&clip.voice, clip.manner, language.text(&clip.word))?;
            let mut second = fit_one_second(&samples);
            espeak::set_peak(&mut second, clip.peak);
            let path = made.join("clips").join(clip.link());
            fs::write(&path, wav_bytes(&second)?).with_context(|| cannot(&path))?;
            bar.inc(1);
            Ok(command)
        })
        .collect::<Result<Vec<String>>>()?;
    bar.finish_and_clear();
    write_tables(&made, code, speaker, &clips, &commands)?;
    if folder.exists() {
        fs::rename(&folder, staging.path().join("old")).with_context(|| cannot(&folder))?;
    }
    fs::rename(&made, &folder).with_context(|| cannot(&folder))?;
    progress.say(&format!(
        "{}: {} clips of {} words",
        folder.display(),
        clips.len(),
        language.words.len() + language.others.len()
    ));
    Ok(())
}

/// The split files of MSWC, and which command made each clip.
fn write_tables(
    folder: &Path,
    code: &str,
    speaker: &Speaker,
    clips: &[Clip],
    commands: &[String],
) -> Result<()> {
    const COLUMNS: [&str; 6] = ["SET", "LINK", "WORD", "VALID", "SPEAKER", "GENDER"];
    let rows: Vec<[String; 6]> = clips
        .iter()
        .map(|clip| {
            [
                "TRAIN".to_owned(),
                clip.link(),
                clip.word.clone(),
                "True".to_owned(),
                format!("espeak-{}", clip.variant),
                "NA".to_owned(),
            ]
        })
        .collect();
    let mut splits = table(&folder.join(format!("{code}_splits.csv")))?;
    let mut train = table(&folder.join(format!("{code}_train.csv")))?;
    splits.write_record(COLUMNS)?;
    train.write_record(&COLUMNS[1..])?;
    for row in &rows {
        splits.write_record(row)?;
        train.write_record(&row[1..])?;
    }
    for set in ["dev", "test"] {
        let mut empty = table(&folder.join(format!("{code}_{set}.csv")))?;
        empty.write_record(&COLUMNS[1..])?;
        empty.flush()?;
    }
    let mut manifest = table(&folder.join("manifest.csv"))?;
    manifest.write_record(["file", "word", "engine", "command"])?;
    for (clip, command) in clips.iter().zip(commands) {
        manifest.write_record([
            &format!("clips/{}", clip.link()),
            &clip.word,
            &speaker.version,
            command,
        ])?;
    }
    for table in [&mut splits, &mut train, &mut manifest] {
        table.flush()?;
    }
    Ok(())
}

fn table(path: &Path) -> Result<csv::Writer<fs::File>> {
    csv::Writer::from_path(path).with_context(|| {
        format!(
            "{}: cannot be written; check the free space and the folder's permissions",
            path.display()
        )
    })
}

/// Longest word: what remains of a second is the silence around it.
const MAX_WORD_SAMPLES: usize = CLIP_SAMPLES * 95 / 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn built_in() -> SynthConfig {
        read_config(&SynthOptions::default()).unwrap()
    }

    #[test]
    fn the_built_in_configuration_is_drawn_the_same_every_time() {
        let config = built_in();
        let language = &config.languages["en"];
        let links = |clips: Vec<Clip>| clips.iter().map(Clip::link).collect::<Vec<_>>();
        let all = links(plan(&config, "en", language));
        assert_eq!(all.len(), (44 * 2 + 24) * 25);
        assert_eq!(all, links(plan(&config, "en", language)));
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        let mut fewer = language.clone();
        fewer.words.remove(0);
        assert_eq!(links(plan(&config, "en", &fewer)), all[50..]);
    }

    #[test]
    fn demo_voices_are_never_trained_on() {
        let mut config = built_in();
        config.variants.push("Andrea".to_owned());
        let message = check(&config).unwrap_err().to_string();
        assert!(
            message.contains("Andrea") && message.contains("demo"),
            "{message}"
        );
    }

    /// The voices of the DEV and TEST clips of the synthetic languages speak in none of our training clips, those of TRAIN in no demo.
    #[test]
    fn voices_are_disjoint_from_the_shared_test_sets() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/speech/synth");
        if !folder.is_dir() {
            eprintln!(
                "SKIPPED: {} is not there, so the voices were not compared",
                folder.display()
            );
            return;
        }
        let config = built_in();
        for code in ["de", "es", "fr", "it", "pl", "ru"] {
            let mut table =
                csv::Reader::from_path(folder.join(code).join(format!("{code}_splits.csv")))
                    .unwrap();
            for row in table.records().map(Result::unwrap) {
                let variant = row[4].strip_prefix("espeak-").unwrap();
                if &row[0] == "TRAIN" {
                    let mut demo = config
                        .languages
                        .values()
                        .flat_map(|language| &language.demo_voices);
                    assert!(
                        demo.all(|voice| voice.variant() != Some(variant)),
                        "{variant} of {code}"
                    );
                } else {
                    assert!(
                        !config.variants.iter().any(|trained| trained == variant),
                        "{variant} of {code} {}",
                        &row[0]
                    );
                }
            }
        }
    }

    #[test]
    fn wrong_settings_are_refused() {
        for change in [
            "speed_wpm=[10, 20]",
            "pitch=[50, 40]",
            "demo.gap_s=[2.0, 1.0]",
        ] {
            let options = SynthOptions {
                changes: vec![change.to_owned()],
                ..SynthOptions::default()
            };
            assert!(read_config(&options).is_err(), "{change}");
        }
        assert!(
            wanted(&built_in(), &["xx".to_owned()])
                .unwrap_err()
                .to_string()
                .contains("xx")
        );
    }

    #[test]
    fn a_language_is_spoken_into_a_folder_the_loader_reads() {
        let out = tempfile::tempdir().unwrap();
        let mut config = built_in();
        let language = config.languages.get_mut("de").unwrap();
        language.words = vec!["ja".to_owned(), "öffnen".to_owned()];
        language.demo_words = Vec::new();
        language.voices_per_word = 2;
        let file = out.path().join("synth.toml");
        fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
        let options = SynthOptions {
            config: Some(file),
            languages: vec!["de".to_owned()],
            out: out.path().to_path_buf(),
            ..SynthOptions::default()
        };
        let quiet = Progress { quiet: true };
        if let Err(error) = run(&options, &quiet) {
            assert!(
                format!("{error:#}").contains("apt-get install"),
                "{error:#}"
            );
            eprintln!("SKIPPED: {error:#}");
            return;
        }
        let task =
            swr_dataset::task(out.path(), "de", &swr_dataset::TaskOptions::default()).unwrap();
        assert_eq!(task.labels[..2], ["ja", "öffnen"]);
        assert_eq!(
            (task.report.train.keywords, task.report.test.keywords),
            (8, 0)
        );
        for clip in task.train.iter().filter(|clip| clip.label < 2) {
            let samples = swr_dataset::load(clip).unwrap();
            let peak = samples
                .iter()
                .fold(0f32, |peak, sample| peak.max(sample.abs()));
            assert!((0.29..0.96).contains(&peak), "peak of {peak}");
        }
        let refused = run(&options, &quiet).unwrap_err();
        assert!(
            format!("{refused:#}").contains("already there"),
            "{refused:#}"
        );
        let link = fs::read_dir(out.path().join("synth/de/clips/ja"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let before = fs::read(&link).unwrap();
        run(
            &SynthOptions {
                replace: true,
                ..options
            },
            &quiet,
        )
        .unwrap();
        assert_eq!(before, fs::read(&link).unwrap());
        assert_eq!(fs::read_dir(out.path().join("synth")).unwrap().count(), 1);
    }
}
