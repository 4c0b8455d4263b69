//! `swr-train base --teacher`: who taught stands in the manifest, other labels are refused, and the network taught differs from the one that was not.

mod tones;

use std::path::Path;
use std::process::{Command, Output};

use swr_trainer::models::read_base;

fn base(arguments: &[&str], at: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_swr-train"))
        .args(["--quiet", "base"])
        .args(arguments)
        .args(["--set", "schedule.epochs=1", "--set", "schedule.scenes=32"])
        .args(["--set", "schedule.batch=16"])
        .current_dir(at)
        .output()
        .expect("swr-train runs")
}

#[test]
fn a_base_is_taught_by_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let high = ("high", [1_500.0; 2]);
    tones::speech(&at.join("speech"), None, &[("low", [300.0; 2]), high], 12);
    tones::speech(&at.join("others"), None, &[("deep", [200.0; 2]), high], 12);
    let trained = |name: &str, more: &[&str]| {
        let own = ["--data", "speech", "--models", name, "--work", name];
        let output = base(&[&own, more].concat(), at);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        read_base(&at.join(name)).expect("a base")
    };
    let teacher = trained("large", &["--set", "architecture.tau=1.5"]);
    let alone = trained("alone", &[]);
    let taught = trained("taught", &["--teacher", "large"]);
    let record = &taught.manifest().training["teacher"];
    let digest = teacher.manifest().tensors_sha256.to_string();
    assert_eq!(record.as_str(), Some(digest.as_str()));
    assert!(alone.manifest().training["teacher"].is_null());
    assert_ne!(
        taught.manifest().tensors_sha256,
        alone.manifest().tensors_sha256
    );

    for (more, expected) in [
        (vec!["--data", "others"], "expected the deep, high"),
        (
            vec!["--data", "speech", "--set", "loss.teach=0"],
            "loss.teach = 0",
        ),
        (
            vec!["--data", "speech", "--set", "gain=none"],
            "its front end is",
        ),
    ] {
        let own = [
            "--teacher",
            "large",
            "--models",
            "refused",
            "--work",
            "refused",
        ];
        let output = base(&[&more, &own[..]].concat(), at);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(!at.join("refused/base.json").exists());
    }
}
