//! `swr-train compare` on a small folder of tones: every method runs, keeps its budget and leaves a row; what has a row is not run again; the report is whole.

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;
use swr_trainer::baselines::{Gated, Method};
use swr_trainer::compare::row::{Results, Row, read_results};
use tempfile::TempDir;

use crate::tones;

fn swr_train(arguments: &[&str], folder: &Path) -> (String, String, Option<i32>) {
    let output = Command::new(env!("CARGO_BIN_EXE_swr-train"))
        .arg("--quiet")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("swr-train runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (
        text(output.stdout),
        text(output.stderr),
        output.status.code(),
    )
}

/// A folder of three languages of tones with a base of the first, in `models`.
fn trained() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    for (language, words) in [
        ("en", [("low", [300.0; 2]), ("high", [1_500.0; 2])]),
        ("aa", [("one", [450.0; 2]), ("two", [2_500.0; 2])]),
        ("bb", [("three", [700.0; 2]), ("four", [1_900.0; 2])]),
    ] {
        tones::speech(at, Some(language), &words, 36);
    }
    let base = [
        "base", "--data", ".", "--models", "models", "--work", "base",
    ];
    let sets = [
        "schedule.epochs=2",
        "schedule.scenes=64",
        "schedule.batch=16",
    ];
    let sets = sets.iter().flat_map(|set| ["--set", set]);
    let base: Vec<&str> = base.into_iter().chain(sets).collect();
    let (_, said, code) = swr_train(&base, at);
    assert_eq!(code, Some(0), "{said}");
    folder
}

/// Of `compare` in that folder: an epoch of 32 scenes in each stage, one seed.
const COMMON: [&str; 37] = [
    "compare",
    "--data",
    ".",
    "--models",
    "models",
    "--work",
    "work",
    "--seeds",
    "1",
    "--set",
    "dense.scenes=32",
    "--set",
    "select.scenes=32",
    "--set",
    "tune.scenes=32",
    "--set",
    "quantise.scenes=32",
    "--set",
    "dense.epochs=1",
    "--set",
    "select.epochs=1",
    "--set",
    "tune.epochs=1",
    "--set",
    "quantise.epochs=1",
    "--set",
    "dense.batch=16",
    "--set",
    "select.batch=16",
    "--set",
    "tune.batch=16",
    "--set",
    "quantise.batch=16",
    "--set",
    "probe.epochs=5",
    "--set",
    "grids.settle_epochs=1",
];

/// A joint network of both languages.
const JOINT: &str = "[keywords]\naa = [\"one\", \"two\"]\n[[runs]]\npurpose = \"joint\"\nlanguages = [\"aa\", \"bb\"]\nmethods = [\"joint\"]\nbudgets = [\"30%all\"]\nseeds = [1]\ntau = 1.0\n";

#[test]
fn every_method_runs_once_and_keeps_its_budget() {
    let folder = trained();
    let at = folder.path();
    let files = ["--results", "results.jsonl", "--report", "report.html"];
    let arguments = [&COMMON[..], &files].concat();
    let run = |more: &[&str]| -> Results {
        let (_, said, code) = swr_train(&[&arguments, more].concat(), at);
        assert_eq!(code, Some(0), "{said}");
        read_results(&at.join("results.jsonl")).expect("results")
    };
    let all = Method::value_variants();
    let results = run(&["--langs", "aa", "--budgets", "10%"]);
    assert_eq!(results.rows.len(), all.len());
    for row in &results.rows {
        let name = row.cell.name();
        assert!(
            !row.cell.method.recipe().is_budgeted() || row.used <= row.allowed,
            "{name}: {} of {}",
            row.used,
            row.allowed
        );
        assert_eq!(row.predictions.len(), row.clips, "{name}");
        if row.cell.method == Method::Swr {
            let held = |cost: &[f64; 2]| (cost[0] - 1.0).abs() < 1e-3;
            assert!(
                !row.gates.is_empty() && row.gates.iter().all(held),
                "{name}: {:?}",
                row.gates
            );
        }
        // Single weights fill a budget; of layers and channels, none may fit into what is left.
        if row.cell.method.recipe().gated == Gated::AsConfigured {
            assert_eq!(row.used, row.allowed, "{name}: not filled");
        }
    }
    let changed = |method: Method| {
        let row = results.rows.iter().find(|row| row.cell.method == method);
        row.expect("a row").changed
    };
    assert_eq!(
        (
            changed(Method::Head).convolution,
            changed(Method::Head).norms
        ),
        (0, 0)
    );
    assert_eq!(changed(Method::HeadNorm).convolution, 0);
    let statistics = changed(Method::HeadStatistics);
    assert!(
        statistics.norms > 1_000 && statistics.convolution == 0,
        "{statistics:?}"
    );
    assert!(changed(Method::Full).convolution > 1_000);

    // Bytes: no file is larger, and none leaves more than four: calibrated thresholds may take one or give one back, and into one or two nothing fits.
    let swr = ["--langs", "aa,bb", "--budgets", "1200B", "--methods", "swr"];
    run(&swr);
    let bytes = run(&[
        "--langs",
        "aa",
        "--budgets",
        "1200B",
        "--methods",
        "magnitude,full,random-density,joint",
    ]);
    for row in &bytes.rows[all.len()..] {
        assert!(row.used <= 1_200, "{}: {} bytes", row.cell.name(), row.used);
        if row.cell.method != Method::Joint {
            assert_eq!(row.used, row.file_bytes);
            assert!(row.used >= 1_196, "{}: {} bytes", row.cell.name(), row.used);
        }
    }
    // A word of one language is not another's.
    assert_eq!(bytes.clips.len(), 2);
    let joint = [
        "--langs",
        "aa,bb",
        "--budgets",
        "30%all",
        "--methods",
        "joint",
    ];
    let both = run(&joint);

    // What has a row is not run again, and a row that was cut off is.
    let count = both.rows.len();
    assert_eq!(
        run(&["--langs", "aa", "--budgets", "10%", "--methods", "head"])
            .rows
            .len(),
        count
    );
    let file = at.join("results.jsonl");
    let text = std::fs::read_to_string(&file).expect("results");
    std::fs::write(&file, &text[..text.len() - 40]).expect("cut results");
    let again = run(&joint);
    assert_eq!(again.rows.len(), count);
    assert_eq!(
        again.rows[count - 1].predictions,
        both.rows[count - 1].predictions
    );

    // A joint network is of all languages of the benchmark, though one alone is asked for; keywords that are named are the same as those that are found.
    std::fs::write(at.join("joint.toml"), JOINT).expect("a benchmark");
    let alone = ["--benchmark", "joint.toml", "--langs", "aa"];
    let alone = [&COMMON[..], &alone, &["--results", "joint.jsonl"]].concat();
    let (_, said, code) = swr_train(&alone, at);
    assert_eq!(code, Some(0), "{said}");
    let alone = read_results(&at.join("joint.jsonl")).expect("results").rows;
    let joint = |row: &&Row| row.cell == alone[0].cell;
    let both = both.rows.iter().find(joint).expect("a joint row");
    assert_eq!(alone.len(), 1);
    assert_eq!(alone[0].run, both.run);

    // Rows of other settings are not mixed in.
    let (_, said, code) = swr_train(
        &[
            &arguments[..],
            &[
                "--langs",
                "aa",
                "--budgets",
                "20%",
                "--methods",
                "head",
                "--set",
                "dense.epochs=2",
            ],
        ]
        .concat(),
        at,
    );
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("other settings"), "{said}");

    let report = std::fs::read_to_string(at.join("report.html")).expect("a report");
    for part in [
        "aa, tau 1, test",
        "bb, tau 1, test",
        "Budget 10%",
        "Budget 1200B",
        "Accuracy against bytes",
        "Cost of the gates",
        "Detection errors",
        "Confusions of swr",
        "languages have in common",
    ] {
        assert!(report.contains(part), "the report lacks {part}");
    }
    assert!(
        report.matches("<svg").count() >= 8
            && !report.contains("src=")
            && report.matches("href=").count() == report.matches("href=\"#").count(),
        "the report is not self-contained"
    );
}

#[test]
fn what_shares_a_gate_and_what_the_published_policy_does_are_settings() {
    let folder = trained();
    let at = folder.path();
    for (number, (method, budget, sets)) in [
        ("swr", "10%", &["units.convolutions=channel"][..]),
        ("swr", "10%", &["units.convolutions=layer"]),
        (
            "swr",
            "1200B",
            &["units.norms=channel", "units.classifier=channel"],
        ),
        ("swr", "30%all", &["units.norms=open"]),
        ("random", "10%", &["units.convolutions=channel"]),
        (
            "swr-layers",
            "10%",
            &["policy.form=affine", "policy.input=vector"],
        ),
        (
            "swr-layers",
            "10%",
            &["policy.form=lowrank", "policy.penalty=squared"],
        ),
        (
            "swr-layers",
            "10%",
            &["policy.form=actions", "policy.penalty=dual"],
        ),
        (
            "swr-layers",
            "30%all",
            &[
                "policy.form=actions",
                "policy.input=features",
                "policy.draws=3",
            ],
        ),
        (
            "swr-layers",
            "10%",
            &[
                "policy.by_block=true",
                "policy.train_deltas=false",
                "policy.penalty=absolute",
                "policy.input=description",
            ],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let results = format!("settings-{number}.jsonl");
        let mut more = vec!["--langs", "aa", "--methods", method, "--budgets", budget];
        more.extend(["--results", &results, "--report", "settings.html"]);
        more.extend(sets.iter().flat_map(|set| ["--set", set]));
        let (_, said, code) = swr_train(&[&COMMON[..], &more].concat(), at);
        assert_eq!(code, Some(0), "{sets:?}: {said}");
        let rows = read_results(&at.join(&results)).expect("results").rows;
        let [row] = &rows[..] else {
            panic!("{sets:?}: {} rows", rows.len())
        };
        assert!(row.used <= row.allowed, "{sets:?}");
        assert!(row.used > 0, "{sets:?}: nothing changed");
        if sets.contains(&"units.convolutions=channel") {
            // A depthwise channel has three weights.
            for (name, count) in &row.changed_by_tensor {
                if name.contains("frequency.conv") || name.contains("time.conv") {
                    assert_eq!(count % 3, 0, "{name}: {count} weights");
                }
            }
        }
    }

    let open = [
        "--langs",
        "bb",
        "--methods",
        "swr",
        "--budgets",
        "25%all",
        "--set",
        "units.norms=open",
        "--results",
        "open.jsonl",
    ];
    let (_, said, code) = swr_train(&[&COMMON[..], &open].concat(), at);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("whatever is chosen"), "{said}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let folder = trained();
    let at = folder.path();
    std::fs::write(at.join("joint.toml"), JOINT).expect("a benchmark");
    for (arguments, words) in [
        (["--langs", "xx", "--budgets", "10%"], "xx"),
        (["--langs", "aa", "--budgets", "100B"], "give at least"),
        (["--langs", "aa", "--methods", "best"], "best"),
        (["--langs", "aa", "--folds", "1"], "no speaker to train on"),
        (["--langs", "aa", "--folds", "90"], "give fewer --folds"),
        (
            ["--langs", "aa", "--clips-per-word", "0"],
            "expected at least 1",
        ),
        (
            ["--benchmark", "joint.toml", "--langs", "cc"],
            "none of the runs",
        ),
    ] {
        let (_, said, code) = swr_train(
            &[
                &["compare", "--data", ".", "--models", "models"][..],
                &arguments,
            ]
            .concat(),
            at,
        );
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

/// `swr-train compare --report-only --models trainer/benchmark/base --results trainer/benchmark/results.jsonl --report trainer/benchmark/report.html`
/// writes it anew.
#[test]
fn the_committed_report_is_that_of_the_committed_rows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().expect("a folder");
    let made = folder.path().join("report.html");
    let results = [
        "--models",
        "trainer/benchmark/base",
        "--results",
        "trainer/benchmark/results.jsonl",
    ];
    let report = ["--report", made.to_str().expect("a path")];
    let command = [&["compare", "--report-only"][..], &results, &report].concat();
    let (_, said, code) = swr_train(&command, &root);
    assert_eq!(code, Some(0), "{said}");
    let read = |path: &Path| std::fs::read(path).expect("a report");
    assert!(
        read(&made) == read(&root.join("trainer/benchmark/report.html")),
        "trainer/benchmark/report.html is not made of trainer/benchmark/results.jsonl by this program"
    );
}
