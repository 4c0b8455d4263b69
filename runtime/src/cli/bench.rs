//! `swr bench`: what listening costs on this machine, as a whole and in its parts.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde::Serialize;
use swr_core::detector::Detector;
use swr_core::frontend::Frontend;
use swr_core::{SAMPLE_RATE_HZ, WINDOW_FRAMES};

use super::script::{sample_audio, samples_of};
use super::soak::soak;
use super::words::WordsArgs;
use super::{ModelsArgs, Outcome, json_line};
use crate::DEFAULT_STEP_FRAMES;
use crate::capture::{Paced, Recording, Source};
use crate::cpu::{CpuClock, peak_rss_mib};
use crate::engine::Engine;
use crate::models::{Model, Models};
use crate::spotter::Spotter;

/// Samples that arrive together: 40 ms.
pub(super) const CHUNK_SAMPLES: usize = 640;

/// Measure what listening costs on this machine: CPU, memory, and the time to load and to change language
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr bench
  swr bench --lang ar --json
  swr bench --paced 20                     (CPU while audio comes at the pace of speech, caches cold)
  swr bench --lang de --soak 24            (a day of models/demo/de.flac: memory, events and their times must stay the same)

CPU is that of the whole process per second of audio, front end, network and detector together, medians of rounds that alternate.
The audio is noise made here: the cost does not depend on what is heard.
Exits with 1 if a soak finds a difference.")]
pub(super) struct Bench {
    /// Language to listen for [default: the base's]
    #[arg(long, value_name = "L")]
    lang: Option<String>,
    #[command(flatten)]
    words: WordsArgs,
    /// Language to change to, for the time that takes [default: another one that is there]
    #[arg(long, value_name = "L")]
    to: Option<String>,
    /// Seconds of audio of a round
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Frames of a step of the network
    #[arg(long, value_name = "N", default_value_t = DEFAULT_STEP_FRAMES)]
    step_frames: usize,
    /// Listen to so many seconds at the pace of speech as well
    #[arg(long, value_name = "S", value_parser = super::duration)]
    paced: Option<f64>,
    /// Instead, listen to so many hours of the demo's audio as fast as it goes
    #[arg(long, value_name = "HOURS", value_parser = super::duration)]
    soak: Option<f64>,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsArgs,
}

/// What was measured. CPU is in milliseconds per second of audio.
#[derive(Debug, Serialize)]
struct Measured {
    language: String,
    step_frames: usize,
    /// Front end, network and detector, fed without pause.
    cpu_ms_per_s: f64,
    frontend_ms_per_s: f64,
    network_ms_per_s: f64,
    detector_ms_per_s: f64,
    /// The network operation by operation in tract, and how much longer that takes.
    unfused_ms_per_s: Option<f64>,
    unfused_ratio: Option<f64>,
    /// As the first, but the audio comes no faster than it is spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    paced_cpu_ms_per_s: Option<f64>,
    /// Of that, what it costs to be woken for every chunk and do nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    waking_cpu_ms_per_s: Option<f64>,
    /// The network on a window of one second in one go, in microseconds.
    window_us: f64,
    /// CPU from nothing to a spotter that listens: base read and checked, delta merged, network built.
    load_ms: f64,
    /// CPU in which a delta is read, decoded and merged.
    merge_ms: f64,
    /// CPU from another language's delta file to a network that could listen, the base being there.
    change_language_ms: f64,
    /// CPU in which that network hears the last seconds again, on the thread that listens.
    catch_up_ms: f64,
    /// The largest memory this process has had, before anything but listening ran.
    peak_rss_mib: f64,
}

impl Bench {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        ensure!(self.rounds > 0, "--rounds 0: expected at least 1");
        if cfg!(all(debug_assertions, feature = "tract")) {
            eprintln!(
                "swr: a development build, whose tract is not optimised; measure with `cargo run --release`"
            );
        }
        if let Some(hours) = self.soak {
            return self.soak(hours, out);
        }
        let directory = self.models.directory()?;
        let clock = CpuClock::start().context(NO_CLOCK)?;
        let models = self.models.open_directory(&directory)?;
        let base = models.manifest().language.clone();
        let language = self.lang.clone().unwrap_or_else(|| base.clone());
        let mut spotter = self
            .words
            .spotter(&models, &[&language], self.step_frames)?;
        let load_ms = milliseconds(clock.elapsed()?);

        // One second, again and again, so that the memory is that of listening.
        let second = noise();
        let listen = |spotter: &mut Spotter| -> anyhow::Result<()> {
            let mut events = Vec::new();
            for chunk in (0..self.seconds).flat_map(|_| second.chunks(CHUNK_SAMPLES)) {
                spotter.push(chunk, &mut events)?;
                events.clear();
            }
            Ok(())
        };
        listen(&mut spotter)?;
        let peak_rss_mib = peak_rss_mib().context(NO_MEMORY)?;

        let model = models.load(&language)?;
        let samples = second.repeat(self.seconds as usize);
        let mut parts = Parts::new(&models, model, &samples, self.step_frames)?;
        let audio_s = f64::from(self.seconds);
        let mut rounds: [Vec<f64>; 6] = Default::default();
        for _ in 0..self.rounds {
            let costs = [
                cpu_ms(|| listen(&mut spotter))?,
                cpu_ms(|| parts.frontend(&samples))?,
                cpu_ms(|| parts.network())?,
                cpu_ms(|| parts.detector())?,
                cpu_ms(|| parts.unfused())?,
                cpu_ms(|| parts.window())?,
            ];
            for (all, cost) in rounds.iter_mut().zip(costs) {
                all.push(cost);
            }
        }
        let [whole, frontend, network, detector, unfused, window] = rounds.map(median);

        let (mut paced_cpu_ms_per_s, mut waking_cpu_ms_per_s) = (None, None);
        if let Some(seconds) = self.paced {
            paced_cpu_ms_per_s = Some(paced(Some(&mut spotter), seconds)? / seconds);
            waking_cpu_ms_per_s = Some(paced(None, seconds)? / seconds);
        }
        let other = models
            .languages()?
            .into_iter()
            .find(|other| *other != language && *other != base);
        let to = self.to.clone().or(other).unwrap_or(base);
        let (mut changes, mut catch_ups, mut merges) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds.max(LEAST_CHANGES) {
            let mut listener = None;
            changes.push(cpu_ms(|| {
                listener = Some(models.listener(&to, self.step_frames)?);
                Ok(())
            })?);
            catch_ups.push(cpu_ms(|| {
                Ok(spotter.change(listener.take().into_iter().collect())?)
            })?);
            merges.push(cpu_ms(|| Ok(models.load(&to).map(|_| ())?))?);
        }
        let measured = Measured {
            language,
            step_frames: self.step_frames,
            cpu_ms_per_s: whole / audio_s,
            frontend_ms_per_s: frontend / audio_s,
            network_ms_per_s: network / audio_s,
            detector_ms_per_s: detector / audio_s,
            unfused_ms_per_s: parts.unfused.as_ref().map(|_| unfused / audio_s),
            unfused_ratio: parts.unfused.as_ref().map(|_| unfused / network),
            paced_cpu_ms_per_s,
            waking_cpu_ms_per_s,
            window_us: 1e3 * window / WINDOWS as f64,
            load_ms,
            merge_ms: median(merges),
            change_language_ms: median(changes),
            catch_up_ms: median(catch_ups),
            peak_rss_mib,
        };
        if self.json {
            json_line(out, &measured)?;
        } else {
            print(out, &measured)?;
        }
        Ok(Outcome::Success)
    }
}

impl Bench {
    fn soak(&self, hours: f64, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let models = self.models.open()?;
        let language = self.lang.as_ref().unwrap_or(&models.manifest().language);
        let audio = sample_audio(&samples_of(models.directory()).join(format!("{language}.json")));
        let audio = Recording::open(&audio, None)
            .context("--soak listens to the demo's audio; give a --lang that has some")?;
        let mut spotter = self.words.spotter(&models, &[language], self.step_frames)?;
        let soaked = soak(&mut spotter, audio.samples(), hours)?;
        if self.json {
            json_line(out, &soaked)?;
        } else {
            writeln!(out, "{soaked}")?;
        }
        Ok(match soaked.passed() {
            true => Outcome::Success,
            false => Outcome::Negative,
        })
    }
}

/// Windows that are timed together.
const WINDOWS: usize = 20;
/// Changes of language, each a matter of a millisecond.
const LEAST_CHANGES: usize = 20;

/// What a spotter is made of, each run by itself on what the one before gives.
struct Parts {
    frontend: Frontend,
    engine: Engine,
    /// The same operation by operation, where tract is there to do it.
    unfused: Option<Engine>,
    window: Engine,
    detector: Detector,
    frames: Vec<f32>,
    logits: Vec<f32>,
}

impl Parts {
    fn new(
        models: &Models,
        model: Model,
        samples: &[f32],
        step_frames: usize,
    ) -> anyhow::Result<Self> {
        let mut frontend = Frontend::new(&model.language.frontend)?;
        let mut frames = Vec::new();
        frontend.push(samples, &mut frames)?;
        let engine = model.engine(step_frames)?;
        #[cfg(feature = "tract")]
        let unfused = Some(Engine::unfused(&model.to_onnx()?, None, step_frames)?);
        #[cfg(not(feature = "tract"))]
        let unfused = None;
        let settings = model.language.detector.clone();
        let mut parts = Self {
            frontend,
            engine,
            unfused,
            window: model.engine(WINDOW_FRAMES)?,
            detector: Detector::new(&model.language.labels, settings)?,
            frames,
            logits: Vec::new(),
        };
        parts
            .network()
            .with_context(|| models.directory().display().to_string())?;
        Ok(parts)
    }

    fn frontend(&mut self, samples: &[f32]) -> anyhow::Result<()> {
        let mut frames = Vec::new();
        for chunk in samples.chunks(CHUNK_SAMPLES) {
            self.frontend.push(chunk, &mut frames)?;
            frames.clear();
        }
        Ok(())
    }

    fn network(&mut self) -> anyhow::Result<()> {
        self.logits.clear();
        steps(&mut self.engine, &self.frames, &mut self.logits)
    }

    fn unfused(&mut self) -> anyhow::Result<()> {
        match &mut self.unfused {
            Some(unfused) => steps(unfused, &self.frames, &mut Vec::new()),
            None => Ok(()),
        }
    }

    fn detector(&mut self) -> anyhow::Result<()> {
        let step = self.engine.step_frames() * self.engine.classes();
        for logits in self.logits.chunks_exact(step) {
            self.detector.push(logits);
        }
        Ok(())
    }

    fn window(&mut self) -> anyhow::Result<()> {
        let frames = &self.frames[..WINDOW_FRAMES * self.window.mel_bins()];
        let mut logits = Vec::new();
        for _ in 0..WINDOWS {
            logits.clear();
            self.window.step(frames, &mut logits)?;
        }
        Ok(())
    }
}

fn steps(engine: &mut Engine, frames: &[f32], logits: &mut Vec<f32>) -> anyhow::Result<()> {
    for step in frames.chunks_exact(engine.step_frames() * engine.mel_bins()) {
        engine.step(step, logits)?;
    }
    Ok(())
}

/// CPU milliseconds of listening to noise that comes at the pace of speech; without a spotter, of being woken for it.
fn paced(mut spotter: Option<&mut Spotter>, seconds: f64) -> anyhow::Result<f64> {
    let mut samples = noise().repeat(seconds.ceil() as usize);
    samples.truncate((seconds * f64::from(SAMPLE_RATE_HZ)) as usize);
    let mut source = Paced::new(Recording::new(samples));
    cpu_ms(|| {
        let (mut samples, mut events, mut more) = (Vec::new(), Vec::new(), true);
        while more {
            samples.clear();
            more = source.read(&mut samples)?;
            if let Some(spotter) = &mut spotter {
                spotter.push(&samples, &mut events)?;
            }
            events.clear();
        }
        Ok(())
    })
}

/// A second of quiet noise, the same in every run (a linear congruential generator of Knuth's).
fn noise() -> Vec<f32> {
    let mut state = 1u64;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.1
    };
    (0..SAMPLE_RATE_HZ).map(next).collect()
}

fn milliseconds(duration: Duration) -> f64 {
    1e3 * duration.as_secs_f64()
}

const NO_CLOCK: &str = "the system does not tell CPU time";
pub(super) const NO_MEMORY: &str = "the system does not tell memory use";

/// CPU milliseconds of the whole process while `work` runs.
fn cpu_ms(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let clock = CpuClock::start().context(NO_CLOCK)?;
    work()?;
    Ok(milliseconds(clock.elapsed()?))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print(out: &mut dyn Write, measured: &Measured) -> anyhow::Result<()> {
    let Measured {
        language,
        step_frames,
        cpu_ms_per_s,
        frontend_ms_per_s,
        network_ms_per_s,
        detector_ms_per_s,
        unfused_ms_per_s,
        unfused_ratio,
        paced_cpu_ms_per_s,
        waking_cpu_ms_per_s,
        window_us,
        load_ms,
        merge_ms,
        change_language_ms,
        catch_up_ms,
        peak_rss_mib,
    } = measured;
    writeln!(out, "{language}, steps of {} ms", 10 * step_frames)?;
    writeln!(
        out,
        "  listening          {cpu_ms_per_s:7.3} ms of CPU per second of audio"
    )?;
    writeln!(out, "    front end        {frontend_ms_per_s:7.3}")?;
    write!(out, "    network          {network_ms_per_s:7.3}")?;
    match unfused_ms_per_s.zip(*unfused_ratio) {
        Some((unfused, ratio)) => writeln!(
            out,
            "   ({unfused:.2} operation by operation, {ratio:.1} times as long)"
        )?,
        None => writeln!(out, "   (operation by operation: not without tract)")?,
    }
    writeln!(out, "    detector         {detector_ms_per_s:7.3}")?;
    if let (Some(paced), Some(waking)) = (paced_cpu_ms_per_s, waking_cpu_ms_per_s) {
        writeln!(
            out,
            "  at speech's pace   {paced:7.3}   ({waking:.3} for being woken alone)"
        )?;
    }
    writeln!(out, "  window of 1 s      {window_us:7.0} us in one go")?;
    writeln!(out, "  load               {load_ms:7.1} ms")?;
    writeln!(out, "  merge              {merge_ms:7.1} ms")?;
    writeln!(
        out,
        "  change of language {change_language_ms:7.2} ms of CPU, and {catch_up_ms:.2} to hear the last seconds again"
    )?;
    writeln!(out, "  peak memory        {peak_rss_mib:7.1} MiB")?;
    Ok(())
}
