//! A language's clips in memory, and the batches made of them: decoding, augmentation and features on all cores, ahead of the
//! training step. Which example a batch holds, and how it is varied, depends only on seed, stage and epoch.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Device, Tensor};
use clap::Args;
use rand::RngExt;
use rand::seq::SliceRandom;
use rayon::prelude::*;
use serde_json::{Value, json};
use swr_core::FrontendSettings;
use swr_core::frontend::Frontend;
use swr_core::package::Digest;
use swr_dataset::{
    Clip, Faults, SILENCE, Source, Split, Task, TaskOptions, UNKNOWN, load_readable_i16,
};
use thread_priority::ThreadPriority;

use crate::architecture::MEL_BINS;
use crate::augment::{Augment, Kind, Material, example, plain, speech_power};
use crate::babble;
use crate::progress::Progress;
use crate::random::generator;

/// Batches that are ready before the step needs them, beside the one that is being made.
const BATCHES_AHEAD: usize = 2;

/// Clips of one split, decoded.
pub struct Examples {
    clips: Vec<Vec<i16>>,
    /// Label index of every clip.
    pub labels: Vec<u32>,
    /// Mean power of every clip's speech.
    powers: Vec<f32>,
    /// File of every clip.
    names: Vec<String>,
}

impl Examples {
    /// Decodes clips on all cores. One that cannot be decoded is taken out of `clips` and named among the faults.
    pub fn load(
        clips: &mut Vec<Clip>,
        faults: &mut Faults,
        progress: &Progress,
        what: &str,
    ) -> Self {
        let bar = progress.bar(what, clips.len());
        let decoded = load_readable_i16(clips, faults, |done| bar.set_position(done as u64));
        bar.finish_and_clear();
        Self {
            powers: decoded.par_iter().map(|clip| speech_power(clip)).collect(),
            clips: decoded,
            labels: clips.iter().map(|c| c.label as u32).collect(),
            names: clips
                .iter()
                .map(|clip| match &clip.source {
                    Source::File(path) => path.display().to_string(),
                    Source::Crop {
                        recording,
                        start_samples,
                        ..
                    } => format!("{} from sample {start_samples}", recording.path.display()),
                })
                .collect(),
        }
    }

    /// The clips with these indexes.
    fn subset(&self, indexes: &[usize]) -> Self {
        Self {
            clips: indexes.iter().map(|i| self.clips[*i].clone()).collect(),
            labels: indexes.iter().map(|i| self.labels[*i]).collect(),
            powers: indexes.iter().map(|i| self.powers[*i]).collect(),
            names: indexes.iter().map(|i| self.names[*i].clone()).collect(),
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

    /// Files of the clips at these places.
    pub fn files(&self, indexes: &[usize]) -> Vec<&str> {
        let names = indexes.iter().map(|i| &self.names[*i % self.len()]);
        names.map(String::as_str).collect()
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
    /// An epoch draws one of so many unknown clips.
    unknown_pool: usize,
    /// An epoch goes over the clips so many times.
    rounds: usize,
}

/// A batch: log-mel `[B, 1, 40, T]`, labels `[B]`, and which examples these are.
pub struct Batch {
    /// Log-mel, `[B, 1, 40, T]`.
    pub log_mel: Tensor,
    /// Label indexes, `[B]`, u32.
    pub labels: Tensor,
    /// Places in the epoch: indexes into the examples, beyond their number once more.
    pub indexes: Vec<usize>,
}

impl Language {
    /// Reads and decodes the training and development clips of `language`.
    /// There are `unknown_pool` times as many unknown training clips as an epoch uses, at least 1.
    pub fn load(
        data: &Data,
        language: &str,
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
        let mut language = Self::of(task, filled.unwrap_or(unknown_pool), progress)?;
        // Nothing is learned from TEST; what cannot be read of it is told with the rest.
        let Task { test, report, .. } = &mut language.task;
        Examples::load(test, &mut report.faults, progress, "looking at test clips");
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
    pub fn of(mut task: Task, unknown_pool: usize, progress: &Progress) -> Result<Self> {
        let words =
            |clips: &[Clip]| -> BTreeSet<usize> { clips.iter().map(|clip| clip.label).collect() };
        let before = words(&task.train);
        let faults = &mut task.report.faults;
        let train = Examples::load(&mut task.train, faults, progress, "decoding training clips");
        let dev = Examples::load(
            &mut task.dev,
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
            rounds: 1,
            task,
        })
    }

    /// The same with epochs of at least so many clips: few clips are gone over several times, each time varied anew.
    pub fn with_epochs_of(mut self, clips: usize) -> Self {
        self.rounds = 1;
        self.rounds = clips.div_ceil(self.epoch_clips().max(1)).max(1);
        self
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

    /// Clips in an epoch.
    pub fn epoch_clips(&self) -> usize {
        let is_unknown = |label: &&u32| **label as usize == self.task.unknown_label();
        let unknown = self.train.labels.iter().filter(is_unknown).count();
        self.rounds * (self.train.len() - unknown + unknown.div_ceil(self.unknown_pool))
    }

    /// The clips of one epoch in seeded order, for what is done before training.
    pub fn an_epoch(&self, seed: u64) -> Examples {
        self.train.subset(&self.round(seed, &[u64::MAX, 0]))
    }

    /// Number and digest of the training clips: what a run was made from, wherever the folders lie.
    pub fn training_clips(&self) -> Value {
        let mut lines = String::new();
        for clip in &self.task.train {
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
        json!({"count": self.task.train.len(), "sha256": Digest::of_bytes(lines.as_bytes())})
    }

    /// Indexes of the clips in seeded order; of the unknown ones a part, drawn anew each time.
    fn round(&self, seed: u64, place: &[u64]) -> Vec<usize> {
        let unknown = self.task.unknown_label() as u32;
        let (mut pool, mut order): (Vec<usize>, Vec<usize>) =
            (0..self.train.len()).partition(|i| self.train.labels[*i] == unknown);
        pool.shuffle(&mut generator(seed, &[place, &[u64::MAX]].concat()));
        order.extend(&pool[..pool.len().div_ceil(self.unknown_pool)]);
        order.sort_unstable();
        order.shuffle(&mut generator(seed, place));
        order
    }

    /// Places of an epoch's examples in seeded order: the clip, and beyond the number of clips those of further rounds.
    fn epoch(&self, seed: u64, place: [u64; 2]) -> Vec<usize> {
        let later = (1..self.rounds).flat_map(|round| {
            let order = self.round(seed, &[place[0], place[1], round as u64]);
            order.into_iter().map(move |i| i + round * self.train.len())
        });
        self.round(seed, &place).into_iter().chain(later).collect()
    }

    /// Runs `step` on every batch of an epoch, in a seeded order; the next batches are made on threads of their own meanwhile.
    pub fn for_each_batch(
        &self,
        augment: &Augment,
        batch: usize,
        seed: u64,
        place: [u64; 2],
        mut step: impl FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        let order = self.epoch(seed, place);
        let parts: Vec<&[f32]> = self
            .task
            .background
            .iter()
            .map(|b| b.part(Split::Train))
            .filter(|part| !part.is_empty())
            .collect();
        let material = Material {
            clips: &self.train.clips,
            powers: &self.train.powers,
            background: &parts,
        };
        let index_of = |label: &str| {
            self.labels
                .iter()
                .position(|l| l == label)
                .map(|i| i as u32)
        };
        let (unknown, silence) = (index_of(UNKNOWN), index_of(SILENCE));
        let workers = input_workers()?;
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::sync_channel(BATCHES_AHEAD);
            let (order, material, train) = (&order, &material, &self.train);
            scope.spawn(move || {
                for indexes in even_batches(order, batch) {
                    let varied = |at: usize| {
                        let mut rng = generator(seed, &[place[0], place[1], at as u64]);
                        let i = at % train.len();
                        let label = train.labels[i];
                        let fragment = rng.random::<f32>() < augment.fragment_probability;
                        let (kind, label) = match unknown {
                            _ if Some(label) == silence => (Kind::Silence, label),
                            Some(unknown) if fragment => (Kind::Fragment, unknown),
                            _ => (Kind::Word, label),
                        };
                        (example(augment, material, i, kind, &mut rng), label)
                    };
                    let made = workers.install(|| make_batch(train, indexes, varied));
                    // The receiver hangs up when a step failed; the loop then ends here.
                    if sender.send(made).is_err() {
                        return;
                    }
                }
            });
            for batch in receiver {
                step(batch?)?;
            }
            Ok(())
        })
    }
}

/// Threads that make the input, as many as the step has, of the lowest priority: they run whenever a core waits for another one at the
/// end of a sweep, and otherwise leave the cores to the step, which they are batches ahead of.
fn input_workers() -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(rayon::current_num_threads())
        .start_handler(|_| {
            let _ = yield_to_everything();
        })
        .build()
        .context("no threads could be started to make the input")
}

/// Gives this thread the lowest priority. Where it is refused, training is slower, nothing else.
#[cfg(target_os = "linux")]
fn yield_to_everything() -> Result<(), thread_priority::Error> {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id,
    };
    // A thread of the policy for idle times leaves its core in the moment another one wakes; a merely nice one ends its slice.
    set_thread_priority_and_policy(
        thread_native_id(),
        ThreadPriority::Min,
        ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle),
    )
}

/// Gives this thread the lowest priority. Where it is refused, training is slower, nothing else.
#[cfg(not(target_os = "linux"))]
fn yield_to_everything() -> Result<(), thread_priority::Error> {
    thread_priority::set_current_thread_priority(ThreadPriority::Min)
}

/// As few batches of at most `largest` as hold everything, their sizes equal but for one: batch statistics of a small rest, such as a
/// single clip, would throw training off.
fn even_batches(order: &[usize], largest: usize) -> impl Iterator<Item = &[usize]> {
    let (count, all) = (order.len().div_ceil(largest), order.len());
    (0..count).map(move |i| &order[i * all / count..(i + 1) * all / count])
}

/// Runs `step` on all examples as evaluation sees them, in their order.
pub fn for_each_plain_batch(
    examples: &Examples,
    batch: usize,
    mut step: impl FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let order: Vec<usize> = (0..examples.len()).collect();
    for indexes in order.chunks(batch) {
        step(make_batch(examples, indexes, |i| {
            (plain(&examples.clips[i]), examples.labels[i])
        })?)?;
    }
    Ok(())
}

/// `varied` gives samples and label of an example.
fn make_batch(
    examples: &Examples,
    indexes: &[usize],
    varied: impl Fn(usize) -> (Vec<f32>, u32) + Sync,
) -> Result<Batch> {
    let (features, labels): (Vec<Vec<f32>>, Vec<u32>) = indexes
        .par_iter()
        .map_init(
            || Frontend::new(&FrontendSettings::default()),
            |frontend, i| {
                let frontend = frontend
                    .as_mut()
                    .map_err(|error| anyhow::anyhow!("front end: {error}"))?;
                frontend.reset();
                let mut frames = Vec::new();
                let (samples, label) = varied(*i);
                frontend
                    .push(&samples, &mut frames)
                    .with_context(|| format!("clip {}", examples.names[*i % examples.len()]))?;
                Ok((transpose(&frames), label))
            },
        )
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    let frames = features.first().map_or(0, |f| f.len() / MEL_BINS);
    Ok(Batch {
        log_mel: Tensor::from_vec(
            features.concat(),
            (indexes.len(), 1, MEL_BINS, frames),
            &Device::Cpu,
        )?,
        labels: Tensor::from_vec(labels, indexes.len(), &Device::Cpu)?,
        indexes: indexes.to_vec(),
    })
}

/// `[T, 40]` to `[40, T]`.
fn transpose(frames: &[f32]) -> Vec<f32> {
    let count = frames.len() / MEL_BINS;
    (0..MEL_BINS)
        .flat_map(|bin| (0..count).map(move |t| frames[t * MEL_BINS + bin]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::even_batches;

    #[test]
    fn no_batch_is_a_small_rest() {
        for (clips, largest) in [
            (3_201, 100),
            (1, 100),
            (100, 100),
            (101, 50),
            (100_003, 100),
        ] {
            let order: Vec<usize> = (0..clips).collect();
            let batches: Vec<&[usize]> = even_batches(&order, largest).collect();
            assert_eq!(batches.concat(), order);
            assert_eq!(batches.len(), clips.div_ceil(largest));
            let sizes = batches.iter().map(|batch| batch.len());
            let (least, most) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
            assert!(
                most <= largest && most - least <= 1,
                "{clips}: {least} to {most}"
            );
        }
    }
}
