//! Claims about the program `swr-sim`: what its commands print, and their exit codes.
#![cfg(feature = "card")]

use std::path::Path;

use serde_json::Value;
use swr_firmware_sim::cli::run;

fn sim(arguments: &[&str]) -> (u8, String) {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/small");
    let models = models.to_str().expect("a readable path");
    let mut out = Vec::new();
    let code = run(
        [&["swr-sim"], arguments, &["--models", models]].concat(),
        &mut out,
    );
    (code, String::from_utf8(out).expect("text"))
}

fn json(arguments: &[&str]) -> (u8, Vec<Value>) {
    let (code, text) = sim(&[arguments, &["--json"]].concat());
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"));
    (code, lines.collect())
}

#[test]
fn update_ends_with_a_sum() {
    let (code, lines) = json(&[
        "update",
        "--device",
        "pico2,pi-4",
        "--cut",
        "40",
        "--torn",
        "2",
    ]);
    let sum = lines.last().expect("a sum");
    assert_eq!(code, 0);
    for broken in ["bricked", "lost", "wrong_model"] {
        assert_eq!(sum[broken], 0, "{sum}");
    }
    let total = |field: &str| -> u64 {
        let each = lines[..lines.len() - 1].iter();
        each.map(|line| line[field].as_u64().expect("a count"))
            .sum()
    };
    for field in ["cuts", "torn", "recoveries_run", "trials_run"] {
        assert_eq!(sum[field].as_u64(), Some(total(field)), "{field}");
        assert!(total(field) > 0);
    }
    assert_eq!(sum["torn"].as_u64(), Some(2 * total("cuts")));
}

#[test]
fn what_is_not_there_is_named() {
    for arguments in [
        &["run", "no-such"][..],
        &["run", "crash", "--device", "pi-9"],
    ] {
        assert_eq!(sim(arguments).0, 2, "{arguments:?}");
    }
    let mut out = Vec::new();
    assert_eq!(
        run(["swr-sim", "update", "--models", "/nowhere"], &mut out),
        2
    );
    assert_eq!(run(["swr-sim", "update", "--cut", "0"], &mut out), 2);
    assert_eq!(run(["swr-sim", "scenarios"], &mut out), 0);
    assert_eq!(run(["swr-sim", "devices"], &mut out), 0);
}

#[test]
fn a_fleet_takes_the_good_release_and_halts_the_bad_one() {
    let (code, lines) = json(&["fleet", "--devices", "400", "--loss", "20%"]);
    let [good, bad] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!(code, 0);
    assert_eq!(
        (&good["new"], &good["bricked"]),
        (&Value::from(400), &Value::from(0))
    );
    assert!(good["interrupted"].as_u64() > Some(40), "{good}");
    // A device that was cut comes back in the next hour and goes on: one stays behind for four hours in 600.
    assert!(good["hours"].as_u64() < Some(15), "{good}");
    assert_eq!(
        (&bad["halted"], &bad["new"]),
        (&Value::from(true), &Value::from(0))
    );
    assert!(bad["reverted"].as_u64() < Some(60), "{bad}");
}

#[test]
fn fleets_of_any_size_are_drawn() {
    let folder = tempfile::tempdir().expect("a folder");
    let plot = folder.path().join("fleet.svg");
    let path = plot.to_str().expect("a readable path");
    let (code, _) = json(&["fleet", "--devices", "100", "--loss", "0%", "--plot", path]);
    assert_eq!(code, 0);
    let drawn = std::fs::read_to_string(plot).expect("the plot");
    assert!(drawn.contains("10000000 devices"));
}
