//! `swr eval`: how well a language's merged network does on a folder of speech, clip by clip or (with `--stream`) as a person hears it.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use swr_core::detector::clip_answer;
use swr_dataset::{Clip, DatasetError, Faults, Source, Split, StreamOptions, Task, TaskOptions};

use super::hearing::{Ear, Heard, Hearing, plot};
use super::words::{WordsArgs, one_threshold};
use super::{ModelsArgs, Outcome, json_line};
use crate::clip::ClipRunner;
use crate::files::write_atomically;
use crate::models::{Model, Models};
use crate::words::nfc;

/// Measure a language's accuracy on recordings, or what it finds and falsely reports in streams
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr eval --data ../shared/speech --lang ar --split test
  swr eval --data ../shared/speech --lang de --split dev+test --json
  swr eval --data ../shared/speech --lang ar --each | grep '^!'       the clips that were misheard
  swr eval --data ../shared/speech --lang zh --stream --minutes 10 --seed 1
  swr eval --data ../shared/speech --lang de --stream --negatives talk.wav,radio/ --plot det.svg
  swr eval --data ../shared/speech --lang en --stream --words yes,no,stop --negatives talks/
  swr eval --data ../shared/speech --lang all --stream --negatives talks/ --sounds music/ --json

What is there is measured: recordings of a few of the language's words, and without any to train with (--split all takes every one).
Clips: zero state, 46 frames of silence before the clip; its keyword of highest posterior, averaged as in a stream, is the answer where it is likelier than
all else.
Streams: clips of the split in background noise at 10-20 dB SNR with gaps of 2-4 s, a fifth of them unknown words. With negatives, also at lower levels, and in
the pauses of as long a stream of negatives; then 120 steady tones, ten sounds of a household and six times as much noise, all made in code.
Negatives: running speech without keywords; every file is heard once, and copies of one count once. Without any (negatives/dev and negatives/test of the data
are taken for these splits), false alarms are those in the stream.
Shares are from 0 to 1, intervals hold at 95 % (Wilson for shares, exact for words found at a rate and for false alarms) as if clips were independent;
clips of few speakers are not, so the true uncertainty is larger.")]
pub(super) struct Eval {
    /// Folder with speech: Speech Commands or MSWC layout, gsc/ mswc/ synth/, or <word>/*.wav
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Language to evaluate, several with commas between, or `all` that the data has recordings of
    #[arg(
        long = "lang",
        value_name = "L,…",
        value_delimiter = ',',
        required = true
    )]
    languages: Vec<String>,
    /// Clips to use
    #[arg(long, value_enum, default_value = "test")]
    split: SplitArg,
    /// Measure detections and false alarms in a stream instead of accuracy on clips
    #[arg(long)]
    stream: bool,
    /// Length of the stream
    #[arg(long, default_value = "10", value_parser = super::duration, requires = "stream")]
    minutes: f64,
    /// Seed of the stream
    #[arg(long, default_value_t = 0, requires = "stream")]
    seed: u64,
    #[command(flatten)]
    words: WordsArgs,
    /// Running speech without keywords, to count false alarms on: files, and folders with audio below, with commas between
    #[arg(
        long,
        value_name = "PATH,…",
        value_delimiter = ',',
        requires = "stream"
    )]
    negatives: Vec<PathBuf>,
    /// Sound and music, likewise
    #[arg(
        long,
        value_name = "PATH,…",
        value_delimiter = ',',
        requires = "stream"
    )]
    sounds: Vec<PathBuf>,
    /// Plot of keywords missed against false alarms, threshold by threshold, as SVG
    #[arg(long, value_name = "FILE", requires = "stream")]
    plot: Option<PathBuf>,
    /// A line for every clip as well: what it holds and what was heard
    #[arg(long, conflicts_with = "stream")]
    each: bool,
    /// JSON lines; the last one has the figures of the whole
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsArgs,
}

/// Splits that can be evaluated.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum SplitArg {
    /// What settings were chosen on
    Dev,
    /// What nothing was chosen on
    Test,
    /// Both together
    #[value(name = "dev+test")]
    DevTest,
    /// All that is there: honest only where nothing of it was trained on
    All,
}

impl SplitArg {
    fn name(self) -> &'static str {
        match self {
            SplitArg::Dev => "dev",
            SplitArg::Test => "test",
            SplitArg::DevTest => "dev+test",
            SplitArg::All => "all",
        }
    }

    fn splits(self) -> &'static [Split] {
        match self {
            SplitArg::Dev => &[Split::Dev],
            SplitArg::Test => &[Split::Test],
            SplitArg::DevTest => &[Split::Dev, Split::Test],
            SplitArg::All => &Split::ALL,
        }
    }

    fn clips(self, task: &Task) -> Vec<Clip> {
        self.splits()
            .iter()
            .flat_map(|&split| task.clips(split))
            .cloned()
            .collect()
    }

    /// Running speech that the data brings for these splits.
    fn negatives(self, task: &Task) -> Vec<PathBuf> {
        let splits = self.splits().iter();
        splits.flat_map(|&split| task.negatives_of(split)).collect()
    }
}

/// Right answers of a group of clips.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Tally {
    clips: usize,
    correct: usize,
    accuracy: Option<f64>,
    interval: (f64, f64),
}

/// A clip's line with `--each`.
#[derive(Serialize)]
struct ClipLine<'a> {
    file: &'a Path,
    expected: &'a str,
    heard: &'a str,
}

impl ClipLine<'_> {
    fn write(&self, out: &mut dyn Write, json: bool) -> anyhow::Result<()> {
        if json {
            return json_line(out, self);
        }
        let mark = if self.heard == self.expected {
            " "
        } else {
            "!"
        };
        let Self {
            file,
            expected,
            heard,
        } = self;
        writeln!(out, "{mark} {}  {expected}  heard {heard}", file.display())?;
        Ok(())
    }
}

/// The last line of `--json`.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    lang: &'a str,
    split: &'a str,
    #[serde(flatten)]
    all: Tally,
    keywords: Tally,
    unknown: Tally,
    silence: Tally,
    /// Clips made by a speech synthesiser.
    synthetic: usize,
}

#[derive(Serialize)]
struct LabelLine<'a> {
    label: &'a str,
    #[serde(flatten)]
    tally: Tally,
}

#[derive(Serialize)]
struct StreamLine<'a> {
    lang: &'a str,
    split: &'a str,
    seed: u64,
    #[serde(flatten)]
    hearing: &'a Hearing,
}

impl Eval {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        ensure!(
            self.stream || self.words.words.is_empty(),
            "--words {}: what is reported is measured in a stream; give --stream as well",
            self.words.words.join(",")
        );
        let models = self.models.open()?;
        let all = self.languages == ["all"];
        let mut curves = Vec::new();
        let languages = self.named(&models)?;
        let loaded = languages.iter().map(|language| models.load(language));
        let loaded = loaded.collect::<Result<Vec<Model>, _>>()?;
        let labels = |model: &Model| (model.language.code.clone(), model.language.labels.clone());
        let labels: Vec<(String, Vec<String>)> = loaded.iter().map(labels).collect();
        let labels: Vec<_> = labels
            .iter()
            .map(|(l, labels)| (&l[..], &labels[..]))
            .collect();
        let reported = self.words.among(&labels)?;
        for ((language, model), reported) in languages.into_iter().zip(loaded).zip(reported) {
            if !reported.contains(&true) {
                eprintln!("swr: {language} left out, none of the words wanted is one of its own");
                continue;
            }
            let task = match task_of(&self.data, &model) {
                Err(error) if all && has_none(&error) => {
                    eprintln!(
                        "swr: {language} left out, {} has no recordings of it",
                        self.data.display()
                    );
                    continue;
                }
                task => task?,
            };
            if self.stream {
                let hearing = self.stream((&model, reported), &task, out)?;
                curves.push((language, hearing.points));
            } else {
                self.clips(&model, &task, out)?;
            }
        }
        if let Some(path) = &self.plot {
            let curves: Vec<_> = curves.iter().map(|(l, p)| (l.as_str(), &p[..])).collect();
            let title = format!("{} stream", self.split.name());
            write_atomically(path, plot(&curves, &title)?.as_bytes())?;
        }
        Ok(Outcome::Success)
    }

    /// The languages that are asked for.
    fn named(&self, models: &Models) -> anyhow::Result<Vec<String>> {
        match &self.languages[..] {
            [all] if all == "all" => Ok(models.languages()?),
            named => Ok(named.to_vec()),
        }
    }

    fn clips(&self, model: &Model, task: &Task, out: &mut dyn Write) -> anyhow::Result<()> {
        let mut clips = self.split.clips(task);
        let mut faults = task.report.faults.clone();
        let samples = load(&mut clips, &mut faults)?;
        if !faults.is_empty() {
            eprintln!("swr: {faults}");
        }
        self.check(&clips, task)?;
        let labels: Vec<String> = model.language.labels.iter().map(|l| nfc(l)).collect();
        let mut tallies = vec![Tally::default(); model.language.labels.len()];
        let window_frames = model.language.detector.window_frames;
        let mut runner = ClipRunner::new(model)?;
        for (clip, samples) in clips.iter().zip(samples) {
            let logits = runner
                .logits(&samples)
                .with_context(|| file_of(clip).display().to_string())?;
            let (heard, _) = clip_answer(logits, labels.len(), window_frames)?;
            tallies[clip.label].add(heard == clip.label);
            if self.each {
                let line = ClipLine {
                    file: file_of(clip),
                    expected: &labels[clip.label],
                    heard: &labels[heard],
                };
                line.write(out, self.json)?;
            }
        }
        tallies.iter_mut().for_each(Tally::finish);

        let (keywords, rest) = tallies.split_at(task.unknown_label());
        let summary = Summary {
            lang: &model.language.code,
            split: self.split.name(),
            all: Tally::sum(&tallies),
            keywords: Tally::sum(keywords),
            unknown: rest[0],
            silence: rest[1],
            synthetic: clips.iter().filter(|clip| clip.synthetic).count(),
        };
        let by_label = labels.iter().zip(&tallies);
        if self.json {
            for (label, &tally) in by_label {
                json_line(out, &LabelLine { label, tally })?;
            }
            json_line(out, &summary)?;
        } else {
            for (label, tally) in by_label {
                writeln!(out, "{tally}  {label}")?;
            }
            writeln!(
                out,
                "\n{} {}, {} clips, {} of them synthetic",
                summary.lang,
                summary.split,
                clips.len(),
                summary.synthetic
            )?;
            for (name, tally) in [
                ("all", summary.all),
                ("keywords", summary.keywords),
                ("unknown", summary.unknown),
                ("silence", summary.silence),
            ] {
                writeln!(out, "{tally}  {name}")?;
            }
        }
        Ok(())
    }

    /// Refuses clips without keywords, which nothing can be measured on.
    fn check(&self, clips: &[Clip], task: &Task) -> anyhow::Result<()> {
        let keywords = task.unknown_label();
        ensure!(
            clips.iter().any(|clip| clip.label < keywords),
            "{}: no {} clips of keywords of `{}`; give --split all for all that is there (if nothing of it was trained on), or add recordings of more speakers (about one in ten goes to DEV, one to TEST)",
            self.data.display(),
            self.split.name(),
            task.language
        );
        Ok(())
    }

    /// Measures a model of whose labels those marked are reported.
    fn stream(
        &self,
        (model, reported): (&Model, Vec<bool>),
        task: &Task,
        out: &mut dyn Write,
    ) -> anyhow::Result<Hearing> {
        let (clips, language) = (self.split.clips(task), &model.language.code);
        self.check(&clips, task)?;
        if !self.words.words.is_empty()
            && let Some(told) = one_threshold(language, &model.language.detector.thresholds)
        {
            eprintln!("swr: {told}");
        }
        let options = StreamOptions {
            minutes: self.minutes,
            seed: self.seed,
            ..StreamOptions::default()
        };
        let mut stream = swr_dataset::stream(task, &clips, &options)?;
        let negatives = match self.negatives.is_empty() {
            true => self.split.negatives(task),
            false => self.negatives.clone(),
        };
        let mut running = Vec::new();
        for path in &negatives {
            running.extend(swr_dataset::audio_below(path)?);
        }
        let mut sentences = match running.is_empty() {
            true => None,
            false => Some(swr_dataset::sentences(
                task,
                &clips,
                &running,
                self.minutes,
                self.seed,
            )?),
        };
        for stream in [Some(&mut stream), sentences.as_mut()]
            .into_iter()
            .flatten()
        {
            // What is not wanted is still spoken, and no event.
            stream.events.retain(|event| reported[event.label]);
        }
        let mut faults = task.report.faults.clone();
        faults.add(stream.faults.clone());
        if !faults.is_empty() {
            eprintln!("swr: {faults}");
        }
        let heard = Heard {
            stream: &stream,
            sentences: sentences.as_ref(),
            negatives: &negatives,
            sounds: &self.sounds,
        };
        let style =
            ProgressStyle::with_template("{prefix}: {msg} {bar:40} {pos}/{len}, {eta} left")?;
        let bar = ProgressBar::new(0).with_style(style);
        bar.set_prefix(language.clone());
        let hearing = Ear::new(model, reported)?.measure(&heard, |what, done, all| {
            bar.set_message(what);
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        })?;
        bar.finish_and_clear();
        let split = self.split.name();
        if self.json {
            let line = StreamLine {
                lang: language,
                split,
                seed: self.seed,
                hearing: &hearing,
            };
            json_line(out, &line)?;
        } else {
            writeln!(
                out,
                "{language} {split} stream, seed {}\n{hearing}",
                self.seed
            )?;
        }
        Ok(hearing)
    }
}

/// Whether the data has no recordings of the language.
pub(super) fn has_none(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(DatasetError::NoLanguage { .. }))
}

impl Tally {
    fn add(&mut self, correct: bool) {
        self.clips += 1;
        self.correct += usize::from(correct);
    }

    fn finish(&mut self) {
        self.accuracy = (self.clips > 0).then(|| self.correct as f64 / self.clips as f64);
        self.interval = swr_dataset::wilson_interval(self.correct, self.clips);
    }

    fn sum(tallies: &[Tally]) -> Tally {
        let mut sum = Tally {
            clips: tallies.iter().map(|tally| tally.clips).sum(),
            correct: tallies.iter().map(|tally| tally.correct).sum(),
            ..Tally::default()
        };
        sum.finish();
        sum
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(accuracy) = self.accuracy else {
            return write!(formatter, "{:>5} of {:<5}  no clips              ", 0, 0);
        };
        write!(
            formatter,
            "{:>5} of {:<5} {:6.1} %  ({:5.1} - {:5.1})",
            self.correct,
            self.clips,
            100.0 * accuracy,
            100.0 * self.interval.0,
            100.0 * self.interval.1
        )
    }
}

/// The task that `model` was made for, on the data of `folder`: the model's keywords decide.
pub(super) fn task_of(folder: &Path, model: &Model) -> anyhow::Result<Task> {
    let keywords = model.language.labels.len() - 2;
    let options = TaskOptions {
        keywords: Some(model.language.labels[..keywords].to_vec()),
        ..TaskOptions::default()
    };
    Ok(swr_dataset::task(folder, &model.language.code, &options)?)
}

/// The file that a clip's samples come from.
fn file_of(clip: &Clip) -> &Path {
    match &clip.source {
        Source::File(path) => path,
        Source::Crop { recording, .. } => &recording.path,
    }
}

/// Loads clips on all cores, with a bar on standard error if that is a terminal.
fn load(clips: &mut Vec<Clip>, faults: &mut Faults) -> anyhow::Result<Vec<Vec<f32>>> {
    let style = ProgressStyle::with_template("loading clips {bar:40} {pos}/{len}, {eta} left")?;
    let bar = ProgressBar::new(clips.len() as u64).with_style(style);
    let samples = swr_dataset::load_readable(clips, faults, |done| bar.set_position(done as u64));
    bar.finish_and_clear();
    Ok(samples)
}
