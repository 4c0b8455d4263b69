//! A language's clips in memory, as training and evaluation take them, and their features.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use clap::Args;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde_json::{Value, json};
use swr_core::frontend::Frontend;
use swr_core::package::Digest;
use swr_core::{FrontendSettings, HOP_SAMPLES};
use swr_dataset::{
    CLIP_SAMPLES, Clip, Faults, Source, Split, Task, TaskOptions, load_readable_i16,
};

use crate::architecture::{CONTEXT_FRAMES, MEL_BINS};
use crate::augment::{FLAT, mean_power, plain, speech};
use crate::babble;
use crate::progress::Progress;
use crate::random::generator;
use crate::scene::{Material, Spoken};

/// Frames after the end of its word at which a clip is judged: as in a stream, where a word is known soon after.
const AFTER_WORD_FRAMES: usize = 15;

/// Clips of one split, decoded.
pub struct Examples {
    clips: Vec<Spoken>,
    /// Label index of every clip.
    pub labels: Vec<u32>,
    /// How their features are made.
    pub(crate) frontend: FrontendSettings,
}

impl Examples {
    /// Decodes clips on all cores, for features by `frontend`. One that cannot be decoded is taken out of `clips` and named among the faults.
    pub fn load(
        clips: &mut Vec<Clip>,
        frontend: FrontendSettings,
        faults: &mut Faults,
        progress: &Progress,
        what: &str,
    ) -> Self {
        let bar = progress.bar(what, clips.len());
        let decoded = load_readable_i16(clips, faults, |done| bar.set_position(done as u64));
        bar.finish_and_clear();
        Self {
            clips: decoded
                .into_par_iter()
                .map(|samples| {
                    let ((from, to), power) = speech(&samples);
                    Spoken {
                        samples: samples.into(),
                        span: from..to,
                        power,
                    }
                })
                .collect(),
            labels: clips.iter().map(|c| c.label as u32).collect(),
            frontend,
        }
    }

    /// The clips with these indexes.
    fn subset(&self, indexes: &[usize]) -> Self {
        Self {
            clips: indexes.iter().map(|i| self.clips[*i].clone()).collect(),
            labels: indexes.iter().map(|i| self.labels[*i]).collect(),
            frontend: self.frontend,
        }
    }

    /// Number of clips.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }
}

/// Where speech comes from.
#[derive(Args, Default)]
pub struct Data {
    /// Folder with speech: gsc/ mswc/ synth/, a Speech Commands or MSWC folder, or a folder of recordings for each word
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Further folder whose TRAIN clips are added; may be repeated
    #[arg(long, value_name = "DIR")]
    pub extra: Vec<PathBuf>,
    /// Add the DEV clips of the further folders as well
    #[arg(long)]
    pub extra_dev: bool,
    /// Stop if a clip cannot be read, instead of leaving it out
    #[arg(long)]
    pub strict: bool,
}

/// Everything a language is trained and judged on.
pub struct Language {
    /// BCP-47 code.
    pub code: String,
    /// Keywords, then `_unknown_` and `_silence_`.
    pub labels: Vec<String>,
    /// Clips to learn from.
    pub train: Examples,
    /// Clips that choices may be made on.
    pub dev: Examples,
    /// Whether its recordings are synthetic speech.
    pub synthetic: bool,
    /// Which clips these are.
    pub task: Task,
    /// There are so many times as many unknown clips as go with the keywords.
    unknown_pool: usize,
    /// Running speech without keywords, each recording with the mean power of its speech.
    running: Vec<(Vec<i16>, f32)>,
}

/// A batch of clips as evaluation hears them.
pub struct Clips {
    /// Log-mel, `[B, 1, 40, T]`.
    pub log_mel: Tensor,
    /// Label indexes, `[B]`, u32.
    pub labels: Tensor,
    /// The frame before which every clip is judged: soon after its word.
    pub ends: Vec<usize>,
}

impl Language {
    /// Reads and decodes the training and development clips of `language`, whose features `frontend` makes.
    /// There are `unknown_pool` times as many unknown training clips as an epoch uses, at least 1.
    pub fn load(
        data: &Data,
        language: &str,
        frontend: FrontendSettings,
        unknown_pool: usize,
        progress: &Progress,
    ) -> Result<Self> {
        let options = TaskOptions {
            extra: data.extra.clone(),
            extra_dev: data.extra_dev,
            unknown_pool: unknown_pool.max(1),
            ..TaskOptions::default()
        };
        let mut task = swr_dataset::task(&data.data, language, &options)?;
        if task.train.is_empty() {
            bail!(
                "{}: no training clips for `{language}`; point --data at a folder that holds them",
                data.data.display()
            );
        }
        let clips = task.train.len();
        let filled = babble::fill(&mut task)?;
        if task.train.len() > clips {
            progress.say("synthetic speech without words is added to `_unknown_`; recordings of other words, in a folder `_unknown_` or with --extra, make it better");
        }
        let mut language = Self::of(task, frontend, filled.unwrap_or(unknown_pool), progress)?;
        // Nothing is learned from TEST; what cannot be read of it is told with the rest.
        let Task { test, report, .. } = &mut language.task;
        Examples::load(
            test,
            frontend,
            &mut report.faults,
            progress,
            "looking at test clips",
        );
        progress.say(&language.task.report.to_string());
        let faults = &language.task.report.faults;
        ensure!(
            !data.strict || faults.unread.is_empty(),
            "{faults}; replace them, or leave out --strict"
        );
        Ok(language)
    }

    /// Decodes the training and development clips of a task, which was read with this pool of unknown clips. What cannot be decoded is left out and in the task's
    /// report; a word that is lost by it is an error.
    pub fn of(
        mut task: Task,
        frontend: FrontendSettings,
        unknown_pool: usize,
        progress: &Progress,
    ) -> Result<Self> {
        let words =
            |clips: &[Clip]| -> BTreeSet<usize> { clips.iter().map(|clip| clip.label).collect() };
        let before = words(&task.train);
        let faults = &mut task.report.faults;
        let train = Examples::load(
            &mut task.train,
            frontend,
            faults,
            progress,
            "decoding training clips",
        );
        let dev = Examples::load(
            &mut task.dev,
            frontend,
            faults,
            progress,
            "decoding development clips",
        );
        let left = words(&task.train);
        let lost = before.difference(&left);
        let lost: Vec<String> = lost
            .map(|label| format!("\"{}\"", task.labels[*label]))
            .collect();
        if !lost.is_empty() {
            bail!(
                "none of the training clips of {} can be used: {}; convert them to WAV, or remove the words",
                lost.join(", "),
                task.report.faults
            );
        }
        Ok(Self {
            code: task.language.clone(),
            labels: task.labels.clone(),
            train,
            dev,
            synthetic: task
                .test
                .iter()
                .chain(&task.dev)
                .any(|clip| clip.synthetic && clip.label < task.unknown_label()),
            unknown_pool: unknown_pool.max(1),
            running: running_speech(&mut task, progress),
            task,
        })
    }

    /// Refuses a language that nothing can be judged on: no keyword clips in DEV, because nobody else speaks or the data has no such split.
    pub fn check_development(&self) -> Result<()> {
        let keywords = self.task.unknown_label();
        if self.task.dev.iter().any(|clip| clip.label < keywords) {
            return Ok(());
        }
        let words = self.task.train.iter().filter(|clip| clip.label < keywords);
        let speakers: BTreeSet<&str> = words.map(|clip| clip.speaker.as_str()).collect();
        let found = match speakers.len() {
            1 => "all training clips are of one speaker, who cannot be the one to judge by as well"
                .to_string(),
            many => format!("its {many} speakers are all in TRAIN"),
        };
        bail!(
            "`{}` has no development clips of its keywords ({found}); add recordings of other speakers, about one in ten goes to DEV, or give --no-dev \
             to train without: threshold and accuracy are then a guess",
            self.code
        )
    }

    /// The clips with such labels.
    fn clips_where(&self, is_wanted: impl Fn(usize) -> bool) -> Vec<usize> {
        let labels = self.train.labels.iter().enumerate();
        let wanted = labels.filter(|(_, label)| is_wanted(**label as usize));
        wanted.map(|(clip, _)| clip).collect()
    }

    /// Clips of all labels in seeded order, of the unknown ones as many as go with the others: for what is done before training.
    pub fn a_sample(&self, seed: u64) -> Examples {
        let unknown = self.task.unknown_label();
        let mut order = self.clips_where(|label| label != unknown);
        let mut pool = self.clips_where(|label| label == unknown);
        pool.shuffle(&mut generator(seed, &[u64::MAX, 1]));
        order.extend(&pool[..pool.len().div_ceil(self.unknown_pool)]);
        order.sort_unstable();
        order.shuffle(&mut generator(seed, &[u64::MAX, 0]));
        self.train.subset(&order)
    }

    /// Number and digest of the training clips, and how many recordings of each keyword are among them: what a run was made from, wherever the folders lie.
    pub fn training_clips(&self) -> Value {
        let mut lines = String::new();
        let keywords = &self.labels[..self.task.unknown_label()];
        let mut recorded: BTreeMap<&str, usize> =
            keywords.iter().map(|label| (label.as_str(), 0)).collect();
        for clip in &self.task.train {
            if let Some(count) = recorded.get_mut(self.labels[clip.label].as_str()) {
                *count += usize::from(!clip.synthetic);
            }
            let origin = match &clip.source {
                Source::File(path) => path
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned()),
                Source::Crop { start_samples, .. } => Some(start_samples.to_string()),
            };
            lines += &format!(
                "{} {} {} {}\n",
                clip.label,
                clip.word,
                clip.speaker,
                origin.unwrap_or_default()
            );
        }
        json!({"count": self.task.train.len(), "sha256": Digest::of_bytes(lines.as_bytes()), "recorded": recorded})
    }

    /// The clips of every keyword that has some, with the sum of the shares in which keywords are drawn.
    fn words(&self, balance: f64) -> Vec<(Vec<usize>, f64)> {
        let keywords = 0..self.task.unknown_label();
        let mut words: Vec<(Vec<usize>, f64)> = keywords
            .map(|keyword| (self.clips_where(|label| label == keyword), 0.0))
            .filter(|(clips, _)| !clips.is_empty())
            .collect();
        let mut sum = 0.0;
        for (clips, until) in &mut words {
            sum += (clips.len() as f64).powf(balance);
            *until = sum;
        }
        words.iter_mut().for_each(|(_, until)| *until /= sum);
        words
    }

    /// What scenes of this language are made of, keywords drawn as `balance` says.
    pub(crate) fn material(&self, balance: f64) -> Material<'_> {
        let keywords = self.task.unknown_label();
        let background = self.task.background.iter();
        let background = background.map(|recording| recording.part(Split::Train));
        Material {
            clips: &self.train.clips,
            labels: &self.train.labels,
            keywords,
            words: self.words(balance),
            others: self.clips_where(|label| label == keywords),
            running: &self.running,
            background: background.filter(|part| !part.is_empty()).collect(),
        }
    }
}

/// Decodes the running speech of TRAIN, which is in no clip's form; what cannot be read is in the task's report.
fn running_speech(task: &mut Task, progress: &Progress) -> Vec<(Vec<i16>, f32)> {
    let files = task.negatives_of(Split::Train);
    let bar = progress.bar("decoding running speech", files.len());
    let mut recordings = Vec::new();
    for file in files {
        bar.inc(1);
        let Some(samples) = task.report.faults.decode(&file) else {
            continue;
        };
        // Of the louder half of its seconds: what is speech, and not the pauses.
        let mut powers: Vec<f32> = samples.chunks(CLIP_SAMPLES).map(mean_power).collect();
        powers.sort_by(f32::total_cmp);
        let loud = &powers[powers.len() / 2..];
        let power = loud.iter().sum::<f32>() / loud.len().max(1) as f32;
        if samples.len() >= CLIP_SAMPLES && power > 0.0 {
            let samples = samples.iter().map(|s| (s * 32_768.0) as i16).collect();
            recordings.push((samples, power));
        }
    }
    bar.finish_and_clear();
    recordings
}

/// Runs `step` on all examples as evaluation sees them, in their order.
pub fn for_each_plain_batch(
    examples: &Examples,
    batch: usize,
    mut step: impl FnMut(Clips) -> Result<()>,
) -> Result<()> {
    let order: Vec<usize> = (0..examples.len()).collect();
    for indexes in order.chunks(batch) {
        let (log_mel, labels) = features(&examples.frontend, indexes, |i| {
            (
                plain(&examples.clips[*i].samples),
                FLAT,
                examples.labels[*i],
            )
        })?;
        let frames = log_mel.dim(3)?;
        let end = |i: &usize| {
            let word = CONTEXT_FRAMES + examples.clips[*i].span.end / HOP_SAMPLES;
            (word + AFTER_WORD_FRAMES).min(frames)
        };
        step(Clips {
            log_mel,
            labels: Tensor::from_vec(labels, indexes.len(), &Device::Cpu)?,
            ends: indexes.iter().map(end).collect(),
        })?;
    }
    Ok(())
}

/// Log-mel `[B, 1, 40, T]` of what `sound` makes of each index: samples, a microphone's response, and what is to be known of them.
pub(crate) fn features<T: Send>(
    frontend: &FrontendSettings,
    indexes: &[usize],
    sound: impl Fn(&usize) -> (Vec<f32>, [f32; MEL_BINS], T) + Sync,
) -> Result<(Tensor, Vec<T>)> {
    let (features, known): (Vec<Vec<f32>>, Vec<T>) = indexes
        .par_iter()
        .map_init(
            || Frontend::new(frontend),
            |frontend, i| {
                let frontend = frontend
                    .as_mut()
                    .map_err(|error| anyhow::anyhow!("front end: {error}"))?;
                frontend.reset();
                let mut frames = Vec::new();
                let (samples, response, known) = sound(i);
                frontend.hear_through(&response);
                frontend
                    .push(&samples, &mut frames)
                    .context("front end of a training example")?;
                Ok((transpose(&frames), known))
            },
        )
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    let frames = features.first().map_or(0, |f| f.len() / MEL_BINS);
    let shape = (indexes.len(), 1, MEL_BINS, frames);
    Ok((
        Tensor::from_vec(features.concat(), shape, &Device::Cpu)?,
        known,
    ))
}

/// `[T, 40]` to `[40, T]`.
fn transpose(frames: &[f32]) -> Vec<f32> {
    let count = frames.len() / MEL_BINS;
    (0..MEL_BINS)
        .flat_map(|bin| (0..count).map(move |t| frames[t * MEL_BINS + bin]))
        .collect()
}
