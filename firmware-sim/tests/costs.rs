//! Claims about what models cost on each device. Alone in its program: memory is counted of the whole process.
#![cfg(feature = "card")]

use std::path::Path;

use serde_json::Value;
use swr_firmware_sim::cli::run;

#[test]
fn models_fit_in_every_device() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/small");
    let models = models.to_str().expect("a readable path");
    let mut out = Vec::new();
    let arguments = [
        "swr-sim",
        "costs",
        "--languages",
        "20",
        "--json",
        "--models",
        models,
    ];
    assert_eq!(run(arguments, &mut out), 0);
    let text = String::from_utf8(out).expect("text");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"));
    let lines: Vec<Value> = lines.collect();
    assert_eq!(lines.len(), 6);
    for costs in lines {
        let bytes = |field: &str| costs[field].as_u64().expect("bytes");
        assert!(bytes("load_peak_bytes") < bytes("ram_bytes"), "{costs}");
        let times = |field: &str| costs["times"][field].as_f64().expect("a time");
        let parts = times("verify_ms") + times("merge_ms");
        assert!(0.0 < parts && parts < times("load_ms"), "{costs}");
        assert!(times("load_ms") < times("boot_ms"), "{costs}");
        assert!(times("load_ms") < times("trial_ms"), "{costs}");
        let factor = times("real_time_factor");
        assert!(0.0 < factor && factor < 1.0, "{costs}");
        assert!(bytes("trial_peak_bytes") < bytes("ram_bytes"), "{costs}");
        assert!(bytes("loaded_bytes") < bytes("load_peak_bytes"), "{costs}");
        if let Some(room) = costs["storage_bytes"].as_u64() {
            // Twice: all of it may be replaced in one update.
            assert!(2 * bytes("occupied_bytes") < room, "{costs}");
            assert!(costs["wear"]["years"].as_f64() > Some(10.0), "{costs}");
        }
        assert!(
            3 * bytes("occupied_bytes") < bytes("whole_models_bytes"),
            "{costs}"
        );
    }
}
