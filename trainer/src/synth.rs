//! Project-made synthetic speech: words of a configuration in, training clips in the MSWC layout out (`<out>/synth/<language>`, all TRAIN), spoken by
//! espeak-ng; beside them sentences without these words (`sentences`). Seeded: the same configuration and espeak-ng give the same bytes. The demo's audio is made in [`demo`], speech of no words in [`babble`].

mod babble;
mod config;
mod demo;
mod espeak;
mod sentences;

pub use babble::babble;
pub use config::{
    DemoConfig, DemoVoice, LanguageConfig, SYNTH_DEFAULT, SentencesConfig, SynthConfig,
};
pub use demo::demo;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rand::RngExt;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use swr_dataset::{fit_one_second, pink_noise, stable_hash};

use crate::progress::Progress;
use crate::random::{generator, mix};
use config::{read_config, wanted};
use espeak::{Manner, Speaker, wav_bytes};

/// What to synthesise and where to.
#[derive(Clone, Debug, Default)]
pub struct SynthOptions {
    /// Configuration file; the built-in one if absent.
    pub config: Option<PathBuf>,
    /// Changes such as `seed=3`.
    pub changes: Vec<String>,
    /// Languages; all of the configuration if empty.
    pub languages: Vec<String>,
    /// Folder that gets `synth/<language>/` (clips) or `<language>.flac` and `.json` (demo).
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
    sentences::speak(
        config,
        code,
        language,
        speaker,
        &made.join("sentences"),
        progress,
    )?;
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

/// Adds pink noise to speech of this mean power, so many dB below it.
fn under_noise(samples: &mut [f32], speech_power: f64, snr_db: f32, seed: u64) {
    let gain = (speech_power / 10f64.powf(f64::from(snr_db) / 10.0)).sqrt() as f32;
    let noise = pink_noise(seed, samples.len());
    samples
        .iter_mut()
        .zip(noise)
        .for_each(|(sample, noise)| *sample += gain * noise);
}

fn table(path: &Path) -> Result<csv::Writer<fs::File>> {
    csv::Writer::from_path(path).with_context(|| {
        format!(
            "{}: cannot be written; check the free space and the folder's permissions",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use swr_dataset::Split;

    use super::config::check;
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
        assert_eq!(all.len(), (47 * 2 + 21) * 25);
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
    fn sentences_of_the_demo_hold_no_keyword() {
        for sentence in [
            "Mein LICHT brennt.",
            "Licht",
            "Die Mu\u{308}hle wird öffnen",
        ] {
            let mut config = built_in();
            let german = config.languages.get_mut("de").unwrap();
            german.demo_sentences = vec![sentence.to_owned()];
            let message = check(&config).unwrap_err().to_string();
            assert!(message.contains(sentence), "{message}");
        }
        let mut config = built_in();
        let english = config.languages.get_mut("en").unwrap();
        english.demo_sentences = vec!["Please say hey, savant!".to_owned()];
        assert!(check(&config).is_err(), "a keyword of two words");
        // Parts of words are none.
        let english = config.languages.get_mut("en").unwrap();
        english.demo_sentences = vec!["Nobody ever knows.".to_owned()];
        check(&config).unwrap();
        english_demo_of(&mut config, &["yes"]);
        let message = check(&config).unwrap_err().to_string();
        assert!(message.contains("there must be two"), "{message}");
    }

    fn english_demo_of(config: &mut SynthConfig, words: &[&str]) {
        let english = config.languages.get_mut("en").unwrap();
        english.demo_words = words.iter().map(|word| (*word).to_owned()).collect();
    }

    #[test]
    fn flac_keeps_every_sample_of_16_bits() {
        let samples: Vec<f32> = (0..40_000)
            .map(|n| ((n * n / 7) % 65_536 - 32_768) as f32 / 32_768.0)
            .collect();
        let read =
            swr_core::audio::decode_16k_mono(&espeak::flac_bytes(&samples).unwrap()).unwrap();
        assert_eq!(read, samples);
    }

    #[test]
    fn wrong_settings_are_refused() {
        for change in [
            "speed_wpm=[10, 20]",
            "pitch=[50, 40]",
            "demo.gap_s=[2.0, 1.0]",
            "sentences.gap_s=[2.0, 1.0]",
            "sentences.minutes=[30, 0, 15]",
            "sentences.test_variants=['zac']",
            "languages.de.sentence_parts=[['Mein Bruder']]",
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
        config.sentences.minutes = [1; 3];
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
        for split in Split::ALL {
            let voices = config.variants_of(split).len();
            assert_eq!(task.negatives_of(split).len(), voices, "{}", split.name());
        }
        let table =
            fs::read_to_string(out.path().join("synth/de/sentences/sentences.tsv")).unwrap();
        let said = |set: &str| -> BTreeSet<String> {
            let lines = table.lines().filter(|line| line.starts_with(set));
            lines
                .map(|line| line.rsplit('\t').next().unwrap().to_owned())
                .collect()
        };
        // No phrase is in two sets.
        let parts = &config.languages["de"].sentence_parts;
        for (place, phrase) in parts.iter().flat_map(|list| list.iter().enumerate()) {
            let set = ["train", "train", "train", "dev", "test"][place % 5];
            let in_set = |other: &&str| said(other).iter().any(|text| text.contains(phrase));
            for other in ["train", "dev", "test"]
                .iter()
                .filter(|other| **other != set)
            {
                assert!(!in_set(other), "{phrase} in {other}");
            }
        }
        assert!(said("train").len() > 10 && !said("dev").is_empty() && !said("test").is_empty());
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
