//! The benchmark as a file: which runs there are.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use swr_core::package::Budget;

use super::row::Cell;
use crate::baselines::{Method, Needs};

/// A benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benchmark {
    /// Keywords of a language, by its code, so that the task stays the same on a larger collection; where there are none, the words with at least 20
    /// TRAIN clips.
    #[serde(default)]
    pub keywords: BTreeMap<String, Vec<String>>,
    /// At most so many keywords a language where none are named: those with the most TRAIN clips.
    #[serde(default)]
    pub most_keywords: Option<usize>,
    /// Languages that unknown words are drawn from; all that are there if absent.
    #[serde(default)]
    pub unknown_languages: Option<Vec<String>>,
    /// Groups of runs.
    pub runs: Vec<Runs>,
}

/// All combinations of what is listed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runs {
    /// What these runs are for.
    pub purpose: String,
    /// Languages.
    pub languages: Vec<String>,
    /// Methods.
    pub methods: Vec<Method>,
    /// Budgets.
    pub budgets: Vec<Budget>,
    /// Seeds.
    pub seeds: Vec<u64>,
    /// Width of the base.
    pub tau: f64,
    /// Speaker folds of TRAIN and DEV to judge on instead of TEST; 0: TEST.
    #[serde(default)]
    pub folds: usize,
    /// Training clips a keyword; all if absent.
    #[serde(default)]
    pub clips_per_word: Option<usize>,
}

impl Benchmark {
    /// Reads a benchmark from TOML.
    pub fn parse(text: &str) -> Result<Self> {
        let benchmark: Self = toml::from_str(text).context("not a benchmark")?;
        benchmark.check()?;
        Ok(benchmark)
    }

    /// Refuses runs that cannot be.
    pub fn check(&self) -> Result<()> {
        for (language, words) in &self.keywords {
            ensure!(
                words.len() >= 2,
                "keywords of `{language}`: expected at least two, to tell apart"
            );
        }
        for runs in &self.runs {
            for (what, empty) in [
                ("languages", runs.languages.is_empty()),
                ("methods", runs.methods.is_empty()),
                ("budgets", runs.budgets.is_empty()),
                ("seeds", runs.seeds.is_empty()),
            ] {
                ensure!(
                    !empty,
                    "runs \"{}\": expected at least one of {what}",
                    runs.purpose
                );
            }
            ensure!(
                runs.folds != 1,
                "runs \"{}\": folds = 1 leaves no speaker to train on; expected 2 or more, or 0 for TEST",
                runs.purpose
            );
            ensure!(
                runs.clips_per_word != Some(0),
                "runs \"{}\": clips_per_word = 0: expected at least 1",
                runs.purpose
            );
        }
        Ok(())
    }

    /// The languages that a joint network is trained on, whichever of them is judged.
    pub fn languages_together(&self) -> Vec<String> {
        let joint = self.runs.iter();
        let joint =
            joint.filter(|runs| runs.methods.iter().any(|m| needs(m) == Needs::AllLanguages));
        let mut languages: Vec<String> = joint.flat_map(|runs| runs.languages.clone()).collect();
        languages.sort();
        languages.dedup();
        languages
    }

    /// All runs in order, none twice.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for runs in &self.runs {
            // What needs the result of another method comes after it.
            let mut methods = runs.methods.clone();
            methods.sort_by_key(|method| needs(method) == Needs::ResultOfSwr);
            let splits: Vec<String> = match runs.folds {
                0 => vec!["test".into()],
                folds => (0..folds)
                    .map(|i| format!("fold {}/{folds}", i + 1))
                    .collect(),
            };
            for seed in &runs.seeds {
                for language in &runs.languages {
                    for split in &splits {
                        for budget in &runs.budgets {
                            for method in &methods {
                                let cell = Cell {
                                    language: language.clone(),
                                    method: *method,
                                    budget: budget.clone(),
                                    seed: *seed,
                                    tau: runs.tau.to_string(),
                                    split: split.clone(),
                                    clips_per_word: runs.clips_per_word,
                                };
                                if !cells.contains(&cell) {
                                    cells.push(cell);
                                }
                            }
                        }
                    }
                }
            }
        }
        cells
    }
}

fn needs(method: &Method) -> Needs {
    method.recipe().needs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_names_the_words_of_all_its_languages_and_no_run_twice() {
        let plan = Benchmark::parse(include_str!("../../benchmark/plan.toml")).unwrap();
        let cells = plan.cells();
        let names: std::collections::BTreeSet<String> = cells.iter().map(Cell::name).collect();
        assert_eq!(names.len(), cells.len());
        for cell in &cells {
            let words = plan.keywords.get(&cell.language).expect(&cell.language);
            assert!(words.len() >= 2 && words.is_sorted(), "{}", cell.language);
        }
        assert_eq!(plan.languages_together(), ["ar", "zh"]);
    }

    #[test]
    fn the_plan_for_the_full_collections_takes_words_by_their_number() {
        let plan = Benchmark::parse(include_str!("../../benchmark/mswc.toml")).unwrap();
        assert!(plan.keywords.is_empty() && plan.most_keywords == Some(20));
        assert!(plan.cells().iter().any(|cell| cell.language == "zh-CN"));
    }

    #[test]
    fn runs_that_cannot_be_are_refused() {
        let one = "runs = []\n[keywords]\naa = [\"yes\"]\n";
        let error = Benchmark::parse(one).unwrap_err();
        assert!(error.to_string().contains("at least two"), "{error}");
        let runs = "[[runs]]\npurpose = \"x\"\nlanguages = [\"aa\"]\nmethods = [\"swr\"]\nbudgets = [\"10%\"]\nseeds = [1]\ntau = 1.0\n";
        for (more, says) in [
            ("folds = 1", "no speaker to train on"),
            ("clips_per_word = 0", "at least 1"),
        ] {
            let error = Benchmark::parse(&format!("{runs}{more}\n")).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn what_needs_another_method_comes_after_it() {
        let runs = "[[runs]]\npurpose = \"order\"\nlanguages = [\"aa\"]\nmethods = [\"random-density\", \"swr\"]\nbudgets = [\"10%\"]\nseeds = [1]\ntau = 1.0\n";
        let cells = Benchmark::parse(runs).unwrap().cells();
        let methods: Vec<Method> = cells.iter().map(|cell| cell.method).collect();
        assert_eq!(methods, [Method::Swr, Method::RandomDensity]);
    }
}
