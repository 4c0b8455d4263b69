//! The command `swr-train compare`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use swr_core::package::Budget;

use super::Settings;
use crate::baselines::Method;
use crate::compare::benchmark::{Benchmark, Runs};
use crate::compare::clips::Clips;
use crate::compare::place::Place;
use crate::compare::report::report;
use crate::compare::row::read_results;
use crate::compare::run::run_cell;
use crate::config::{ADAPT_DEFAULT, AdaptConfig};
use crate::files::write_atomically;
use crate::models::{architecture_of, read_base};
use crate::progress::Progress;

#[derive(Args)]
#[command(after_help = "Examples:
  swr-train compare --data ../shared/speech --langs ar,zh --budgets 10%,4000B --seeds 1,2,3
  swr-train compare --data ../shared/speech --langs ar --methods swr,magnitude,random --budgets 10% --folds 4
  swr-train compare --data ../shared/speech --benchmark trainer/benchmark/plan.toml --minutes 30
  swr-train compare --report-only

Every finished run is a row of the results file; started again, the command goes on with the runs that have none.
With --langs and others beside --benchmark, only those of its runs are done. Several processes, each with other seeds or languages, may add to one file.")]
pub(super) struct Compare {
    /// Folder with speech
    #[arg(long, value_name = "DIR", required_unless_present = "report_only")]
    data: Option<PathBuf>,
    /// Further folder whose TRAIN clips are added; may be repeated
    #[arg(long, value_name = "DIR")]
    extra: Vec<PathBuf>,
    /// The benchmark file: which runs there are
    #[arg(long, value_name = "FILE")]
    benchmark: Option<PathBuf>,
    /// Languages, with commas between
    #[arg(long, value_name = "L,…", value_delimiter = ',')]
    langs: Vec<String>,
    /// Methods, with commas between; all if absent
    #[arg(long, value_name = "M,…", value_delimiter = ',', value_enum)]
    methods: Vec<Method>,
    /// Budgets, with commas between [default: 10%]
    #[arg(long, value_name = "B,…", value_delimiter = ',')]
    budgets: Vec<Budget>,
    /// Seeds, with commas between [default: 1,2,3]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    seeds: Vec<u64>,
    /// Judge on folds of the speakers of TRAIN and DEV instead of TEST
    #[arg(long, value_name = "N", conflicts_with = "benchmark")]
    folds: Option<usize>,
    /// Training clips a keyword instead of all
    #[arg(long, value_name = "N", conflicts_with = "benchmark")]
    clips_per_word: Option<usize>,
    /// The results file; it is added to
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/compare/results.jsonl"
    )]
    results: PathBuf,
    /// The report made of it
    #[arg(
        long,
        value_name = "HTML",
        default_value = "target/compare/report.html"
    )]
    report: PathBuf,
    /// Make the report only
    #[arg(long)]
    report_only: bool,
    /// Folder of models, whose base is adapted; for a benchmark's other widths, `tau3` and the like beside it
    #[arg(long, value_name = "DIR", default_value = "models/small")]
    models: PathBuf,
    /// Folder of checkpoints
    #[arg(long, value_name = "DIR", default_value = "target/compare")]
    work: PathBuf,
    #[command(flatten)]
    settings: Settings,
    /// Begin no run after so many minutes
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<f64>,
}

impl Compare {
    /// The benchmark of the file or of the command line; `tau` is the base's width.
    fn benchmark(&self, tau: f64) -> Result<Benchmark> {
        let Some(path) = &self.benchmark else {
            ensure!(
                !self.langs.is_empty(),
                "give --langs, such as ar,zh, or a --benchmark file"
            );
            let or = |given: &[Method], default: &[Method]| {
                if given.is_empty() {
                    default.to_vec()
                } else {
                    given.to_vec()
                }
            };
            let all: Vec<Method> = Method::value_variants().to_vec();
            let ten = "10%".parse::<Budget>()?;
            let benchmark = Benchmark {
                keywords: BTreeMap::new(),
                most_keywords: None,
                unknown_languages: None,
                runs: vec![Runs {
                    purpose: "command line".into(),
                    languages: self.langs.clone(),
                    methods: or(&self.methods, &all),
                    budgets: if self.budgets.is_empty() {
                        vec![ten]
                    } else {
                        self.budgets.clone()
                    },
                    seeds: if self.seeds.is_empty() {
                        vec![1, 2, 3]
                    } else {
                        self.seeds.clone()
                    },
                    tau,
                    folds: self.folds.unwrap_or(0),
                    clips_per_word: self.clips_per_word,
                }],
            };
            benchmark.check()?;
            return Ok(benchmark);
        };
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Benchmark::parse(&text).with_context(|| path.display().to_string())
    }

    /// Leaves of a benchmark what the command line asks for.
    fn keep(&self, benchmark: &mut Benchmark) {
        for runs in &mut benchmark.runs {
            fn keep<T: PartialEq>(all: &mut Vec<T>, wanted: &[T]) {
                all.retain(|one| wanted.is_empty() || wanted.contains(one));
            }
            keep(&mut runs.languages, &self.langs);
            keep(&mut runs.methods, &self.methods);
            keep(&mut runs.budgets, &self.budgets);
            keep(&mut runs.seeds, &self.seeds);
        }
    }
}

impl Compare {
    pub(super) fn run(&self, out: &mut dyn Write, progress: &Progress) -> Result<()> {
        let base = read_base(&self.models)?;
        if let (Some(data), false) = (&self.data, self.report_only) {
            let config: AdaptConfig = self.settings.resolve(ADAPT_DEFAULT)?;
            config.check()?;
            let tau = architecture_of(&base)?.tau;
            let mut benchmark = self.benchmark(tau)?;
            let together = benchmark.languages_together();
            self.keep(&mut benchmark);
            let cells = benchmark.cells();
            ensure!(
                !cells.is_empty(),
                "the benchmark has none of the runs that are asked for: compare --langs, --methods, --budgets and --seeds with it"
            );
            let (started, mut clips) = (Instant::now(), Clips::default());
            for (number, cell) in cells.iter().enumerate() {
                if self
                    .minutes
                    .is_some_and(|minutes| started.elapsed().as_secs_f64() > 60.0 * minutes)
                {
                    writeln!(
                        out,
                        "the time is over before run {} of {}; the same command goes on",
                        number + 1,
                        cells.len()
                    )?;
                    break;
                }
                progress.say(&format!(
                    "run {} of {}: {}",
                    number + 1,
                    cells.len(),
                    cell.name()
                ));
                let other = self.models.join(format!("tau{}", cell.tau));
                let models = if cell.tau == tau.to_string() {
                    &self.models
                } else {
                    &other
                };
                let place = Place {
                    data,
                    extra: &self.extra,
                    models,
                    work: &self.work,
                    results: &self.results,
                    together: &together,
                    benchmark: &benchmark,
                    config: &config,
                    progress,
                };
                run_cell(cell, &place, &mut clips, out).with_context(|| cell.name())?;
            }
        }
        let results = read_results(&self.results)?;
        ensure!(
            !results.rows.is_empty(),
            "{}: no results there",
            self.results.display()
        );
        write_atomically(&self.report, report(&results, base.tensors())?.as_bytes())?;
        writeln!(
            out,
            "{}: {} runs in {}",
            self.report.display(),
            results.rows.len(),
            self.results.display()
        )?;
        Ok(())
    }
}
