//! What a training step costs, alone and with the input made beside it. `benches/pytorch.py` measures PyTorch on the same step.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use clap::Args;
use nix::sys::resource::{UsageWho, getrusage};
use rand::RngExt;
use serde::Serialize;
use serde_json::json;

use crate::architecture::MEL_BINS;
use crate::base::{base_learner, base_loss};
use crate::batches::{Batch, Scenes, Turns};
use crate::config::{BASE_DEFAULT, BaseConfig, resolve};
use crate::examples::{Data, Language};
use crate::fused::{NormMode, Statistics};
use crate::learner::{Learner, Update};
use crate::loss::{Heard, Target, Word};
use crate::network::initial_weights;
use crate::progress::Progress;
use crate::random::generator;

/// Classes of the step without data, as in Speech Commands' task of ten words.
const CLASSES: usize = 12;

/// Scenes of a round in which training is measured with its input.
const BENCH_SCENES: usize = 2_000;
/// Epochs that are measured with their input, and as many steps without it.
const INPUT_ROUNDS: u64 = 5;

#[derive(Args)]
#[command(
    after_help = "Without --data, the steps run on one random batch. With it, an epoch of real training is measured as well, augmentation and \
features made beside the steps, and compared with the steps alone.

Examples:
  swr-train bench --tau 3 --threads 2 --json
  swr-train bench --data ../shared/speech --lang ar"
)]
pub(super) struct Bench {
    /// Width of the network
    #[arg(long, default_value_t = 1.0)]
    tau: f64,
    /// Threads; all cores if absent
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Clips a step
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..))]
    batch: u32,
    /// Frames of a random clip
    #[arg(long, default_value_t = 101, value_parser = clap::value_parser!(u32).range(1..))]
    frames: u32,
    /// Steps that are measured
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    steps: u32,
    /// Steps before measuring begins
    #[arg(long, default_value_t = 3)]
    warmup: u32,
    /// Channel dropout
    #[arg(long, default_value_t = 0.1)]
    dropout: f32,
    /// Folder with speech, to measure training with its input
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Language of the speech
    #[arg(long, value_name = "L", default_value = "en")]
    lang: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What to measure.
#[derive(Clone, Copy, Debug)]
struct BenchOptions {
    /// Clips a step.
    batch: usize,
    /// Frames a clip.
    frames: usize,
    /// Steps measured, after [`BenchOptions::warmup`] others.
    steps: usize,
    /// Steps before measuring begins.
    warmup: usize,
}

/// Cost of a training step: forward, loss, backward and update.
#[derive(Clone, Copy, Debug, Serialize)]
struct StepCost {
    /// Median wall time of a step, in milliseconds.
    step_ms_wall: f64,
    /// CPU time of all threads per step, mean, in milliseconds.
    step_ms_cpu: f64,
    /// Clips a second at the median step.
    clips_per_s: f64,
    /// Highest resident memory of the process so far, in MiB.
    peak_rss_mib: f64,
}

/// Throughput of training with decoding behind it, and augmentation and features made beside the step.
#[derive(Clone, Copy, Debug, Serialize)]
struct InputCost {
    /// Clips a second, from the first step of an epoch to its last; median of rounds.
    clips_per_s: f64,
    /// Clips a second of the steps alone, on one batch of the same size over and over; median of rounds by turns with the others.
    step_only_clips_per_s: f64,
    /// The first over the second, median of rounds.
    share_of_step_only: f64,
    /// CPU time that making the input takes, in milliseconds per batch, alone on all threads.
    input_ms_cpu: f64,
    /// Share of the time of all threads that the process was computing, 1 if no core ever waited.
    cores_busy: f64,
}

/// CPU time of all threads of this process, and its highest resident memory in MiB.
fn usage() -> Result<(Duration, f64)> {
    let usage =
        getrusage(UsageWho::RUSAGE_SELF).context("the system does not tell resource usage")?;
    let time =
        |t: nix::sys::time::TimeVal| Duration::new(t.tv_sec() as u64, t.tv_usec() as u32 * 1_000);
    // In KiB, but on macOS in bytes.
    let unit = if cfg!(target_os = "macos") {
        1024.0 * 1024.0
    } else {
        1024.0
    };
    Ok((
        time(usage.user_time()) + time(usage.system_time()),
        usage.max_rss() as f64 / unit,
    ))
}

/// A base under training, and its settings.
struct Training<'a> {
    config: &'a BaseConfig,
    learner: Learner,
    statistics: Statistics,
    step: usize,
}

impl<'a> Training<'a> {
    fn new(config: &'a BaseConfig, classes: usize) -> Result<Self> {
        Ok(Self {
            config,
            learner: base_learner(&initial_weights(
                &config.architecture,
                classes,
                config.seed,
            )?)?,
            statistics: Statistics::default(),
            step: 0,
        })
    }

    fn step(&mut self, batch: &Batch) -> Result<f32> {
        let schedule = &self.config.schedule;
        let mode = NormMode::batch_into(&self.statistics);
        let (loss, _) = base_loss(
            self.config,
            &self.learner.weights(),
            batch,
            &mode,
            (self.step, 1.0),
            None,
        )?;
        self.step += 1;
        let update = Update {
            longest: f64::MAX,
            rate: 0.01,
            momentum: schedule.momentum,
            decay: schedule.weight_decay,
            step: self.step,
        };
        self.learner.learn(&loss, &self.statistics, update)?;
        Ok(loss.to_scalar()?)
    }
}

/// Log-mel and labels drawn from a seed.
fn random_batch(batch: usize, frames: usize, seed: u64) -> Result<Batch> {
    let mut rng = generator(seed, &[u64::MAX]);
    let log_mel: Vec<f32> = (0..batch * MEL_BINS * frames)
        .map(|_| rng.random_range(-2.0..2.0))
        .collect();
    let target = |_| {
        let end = frames * 3 / 4;
        Target {
            first: frames / 4,
            words: vec![Word {
                label: rng.random_range(0..CLASSES - 2),
                allowed: frames / 2..frames,
                due: end..frames,
            }],
            heard: vec![Heard::Speech; frames],
        }
    };
    let targets: Vec<Target> = (0..batch).map(target).collect();
    Ok(Batch {
        language: 0,
        log_mel: Tensor::from_vec(log_mel, (batch, 1, MEL_BINS, frames), &Device::Cpu)?,
        targets,
    })
}

/// Measures steps on a random batch.
fn measure_step(config: &BaseConfig, options: &BenchOptions) -> Result<StepCost> {
    let batch = random_batch(options.batch, options.frames, config.seed)?;
    measure_on(&mut Training::new(config, CLASSES)?, &batch, options)
}

fn measure_on(training: &mut Training, batch: &Batch, options: &BenchOptions) -> Result<StepCost> {
    for _ in 0..options.warmup {
        training.step(batch)?;
    }
    let (cpu, _) = usage()?;
    let mut walls = Vec::with_capacity(options.steps);
    for _ in 0..options.steps {
        let started = Instant::now();
        training.step(batch)?;
        walls.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let (cpu_after, peak_rss_mib) = usage()?;
    let step_ms_wall = median(walls);
    Ok(StepCost {
        step_ms_wall,
        step_ms_cpu: (cpu_after - cpu).as_secs_f64() * 1e3 / options.steps as f64,
        clips_per_s: batch.targets.len() as f64 / step_ms_wall * 1e3,
        peak_rss_mib,
    })
}

/// Measures epochs of real training on `language` against steps alone. The clips are decoded already, as in training.
fn measure_input(
    config: &BaseConfig,
    language: &Language,
    options: &BenchOptions,
) -> Result<InputCost> {
    let mut training = Training::new(config, language.labels.len())?;
    let scenes = Scenes {
        settings: &config.scenes,
        augment: &config.augment,
        window_frames: config.window_frames,
    };
    let epoch = |place, step: &mut dyn FnMut(Batch) -> Result<()>| {
        Turns::of(language).for_each_batch(
            &scenes,
            (BENCH_SCENES, options.batch),
            config.seed,
            place,
            step,
        )
    };
    let threads = rayon::current_num_threads() as f64;

    let mut first = None;
    let mut batches = 0usize;
    let (cpu, _) = usage()?;
    epoch([0, 0], &mut |batch| {
        batches += 1;
        first.get_or_insert(batch);
        Ok(())
    })?;
    let input_ms_cpu = (usage()?.0 - cpu).as_secs_f64() * 1e3 / batches as f64;
    let first = first.context("there are no clips")?;

    // By turns, because a machine's speed drifts by more than the two differ.
    let (mut alone, mut together, mut busy) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=INPUT_ROUNDS {
        let steps = BenchOptions {
            steps: batches,
            ..*options
        };
        alone.push(measure_on(&mut training, &first, &steps)?.clips_per_s);
        let mut clips = 0usize;
        let (mut started, mut cpu) = (Instant::now(), Duration::ZERO);
        epoch([0, round], &mut |batch| {
            // The clock starts when the first step does: what lies before is once an epoch.
            if clips == 0 {
                (started, cpu) = (Instant::now(), usage()?.0);
            }
            clips += batch.targets.len();
            training.step(&batch)?;
            Ok(())
        })?;
        let wall = started.elapsed().as_secs_f64();
        together.push(clips as f64 / wall);
        busy.push((usage()?.0 - cpu).as_secs_f64() / (wall * threads));
    }
    let shares = together
        .iter()
        .zip(&alone)
        .map(|(with, without)| with / without);
    Ok(InputCost {
        share_of_step_only: median(shares.collect()),
        clips_per_s: median(together),
        step_only_clips_per_s: median(alone),
        input_ms_cpu,
        cores_busy: median(busy),
    })
}

/// The middle one of an odd number of values.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Bench {
    pub(super) fn run(&self, out: &mut dyn Write, progress: &Progress) -> Result<()> {
        if let Some(threads) = self.threads {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads.into())
                .build_global()
                .context("--threads")?;
        }
        let changes = [
            format!("architecture.tau={}", self.tau),
            format!("schedule.dropout={}", self.dropout),
        ];
        let config: BaseConfig = resolve(None, BASE_DEFAULT, &changes)?;
        config.check()?;
        let options = BenchOptions {
            batch: self.batch as usize,
            frames: self.frames as usize,
            steps: self.steps as usize,
            warmup: self.warmup as usize,
        };
        let step = measure_step(&config, &options)?;
        let input = match &self.data {
            Some(data) => Some(measure_input(
                &config,
                &Language::load(
                    &Data {
                        data: data.clone(),
                        ..Data::default()
                    },
                    &self.lang,
                    config.pipeline().frontend,
                    1,
                    progress,
                )?,
                &options,
            )?),
            None => None,
        };
        let threads = rayon::current_num_threads();
        if self.json {
            let mut line = serde_json::to_value(step)?;
            line["tau"] = json!(self.tau);
            line["threads"] = json!(threads);
            line["batch"] = json!(self.batch);
            line["frames"] = json!(self.frames);
            line["dropout"] = json!(self.dropout);
            line["with_input"] = json!(input);
            writeln!(out, "{line}")?;
            return Ok(());
        }
        writeln!(
            out,
            "{}, batch {}, {} frames, {threads} threads",
            config.architecture.name(),
            self.batch,
            self.frames
        )?;
        writeln!(
            out,
            "step: {:.1} ms wall, {:.1} ms CPU, {:.0} clips/s; peak memory {:.0} MiB",
            step.step_ms_wall, step.step_ms_cpu, step.clips_per_s, step.peak_rss_mib
        )?;
        if let Some(input) = input {
            writeln!(
                out,
                "with input: {:.0} clips/s, {:.1} % of {:.0} for steps alone; input {:.1} ms CPU a batch; cores busy {:.1} % of the time",
                input.clips_per_s,
                100.0 * input.share_of_step_only,
                input.step_only_clips_per_s,
                input.input_ms_cpu,
                100.0 * input.cores_busy
            )?;
        }
        Ok(())
    }
}
