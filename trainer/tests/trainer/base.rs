//! `swr-train base --teacher` and `--also`: who taught and what was heard stand in the manifest, what does not fit is refused, and the network differs from
//! the one trained without.

use std::path::Path;
use std::process::{Command, Output};

use swr_core::model::Base;
use swr_trainer::models::read_base;

use crate::tones;

fn base(arguments: &[&str], at: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_swr-train"))
        .args(["--quiet", "base"])
        .args(["--set", "schedule.epochs=1", "--set", "schedule.scenes=32"])
        .args(["--set", "schedule.batch=16"])
        .args(arguments)
        .current_dir(at)
        .output()
        .expect("swr-train runs")
}

fn trained(name: &str, more: &[&str], at: &Path) -> Base {
    let own = ["--data", "speech", "--models", name, "--work", name];
    let output = base(&[&own, more].concat(), at);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    read_base(&at.join(name)).expect("a base")
}

fn refused(arguments: &[&str], expected: &str, at: &Path) {
    let own = ["--models", "refused", "--work", "refused"];
    let output = base(&[arguments, &own].concat(), at);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(expected), "{said}");
    assert!(!at.join("refused/base.json").exists());
}

#[test]
fn a_base_is_taught_by_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let high = ("high", [1_500.0; 2]);
    tones::speech(&at.join("speech"), None, &[("low", [300.0; 2]), high], 12);
    tones::speech(&at.join("others"), None, &[("deep", [200.0; 2]), high], 12);
    let teacher = trained("large", &["--set", "architecture.tau=1.5"], at);
    let alone = trained("alone", &[], at);
    let taught = trained("taught", &["--teacher", "large"], at);
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
        refused(&[&more[..], &["--teacher", "large"]].concat(), expected, at);
    }
}

#[test]
fn a_base_learns_from_further_languages() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let (high, deep) = (("high", [1_500.0; 2]), ("deep", [200.0; 2]));
    let english = at.join("speech/gsc");
    tones::speech(&english, None, &[("low", [300.0; 2]), high], 40);
    tones::speech(&at.join("speech"), Some("xx"), &[deep, high], 40);
    // Six batches, four of them of the other language, whose difference counts from its second one on.
    let train = |name: &str, more: &[&str]| {
        let three = ["--set", "schedule.epochs=3", "--set", "also.share=0.7"];
        trained(name, &[&three, more].concat(), at)
    };
    let alone = train("alone", &[]);
    let also = train("also", &["--also", "xx"]);
    let again = train("again", &["--also", "xx"]);
    let sparser = train("sparser", &["--also", "xx", "--set", "also.change=0.01"]);

    let digest = |base: &Base| base.manifest().tensors_sha256;
    assert_eq!(digest(&also), digest(&again));
    assert_ne!(digest(&also), digest(&alone));
    assert_ne!(digest(&also), digest(&sparser));
    let heard = &also.manifest().training["also"][0];
    assert_eq!(heard["language"], "xx");
    assert_eq!(heard["labels"][0], "deep");
    // What the language had of its own is thrown away.
    assert_eq!(also.manifest().labels, alone.manifest().labels);
    let names = |base: &Base| base.tensors().keys().cloned().collect::<Vec<String>>();
    assert_eq!(names(&also), names(&alone));

    for (more, expected) in [
        (["--also", "en"], "`en` is the base's own language"),
        (["--also", "xx,xx"], "`xx` stands there twice"),
        (["--also", "yy"], "yy"),
        (["--set", "also.share=1"], "also.share = 1"),
        (["--set", "also.change=2"], "also.change = 2"),
    ] {
        refused(&[&["--data", "speech"], &more[..]].concat(), expected, at);
    }
}
